"""The one refusal that has no switch: text that puts minors and sexual terms together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from ..errors import UserError

_MINOR = re.compile(
    r"\b(child(ren)?|kids?|minors?|underage|under age|teens?|teenage[rd]?s?|preteens?|pre teens?|tweens?|toddlers?"
    r"|infants?|bab(y|ies)|juveniles?|adolescents?|school ?(girl|boy|child|children|kid)s?|girls?|boys?"
    r"|(1[0-7]|[1-9]) ?(years?|yrs?|yo|y o)( old)?|aged? (of )?(1[0-7]|[1-9]))\b"
)
_SEXUAL = re.compile(
    r"\b(nud(e|es|ity|ist)|naked(ness)?|nsfw|sex|sexual(ly|ity|ized|ised)?|sexy|erotic(a|ism)?|porn\w*|topless|bottomless"
    r"|undress(ed|ing)?|unclothed|without clothes|no clothes|lingerie|underwear|panties|genitals?|breasts?|nipples?"
    r"|orgasms?|intercourse|aroused|seductive(ly)?|lewd|hentai|fetish|stripping|striptease|lust(ful)?)\b"
)
_ALWAYS = re.compile(r"\b(loli(ta|con|s)?|shota(con)?|jailbait|csam|p(a)?edophil\w*)\b")


def refuse_minors(texts: Iterable[str]) -> None:
    """Raise ``UserError`` if any one text names minors together with sexual terms; each text is judged alone.

    A rule over English words: it refuses too much rather than too little, and does not see through misspellings.
    """
    for index, text in enumerate(texts):
        plain = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold())
        if _ALWAYS.search(plain) or (_MINOR.search(plain) and _SEXUAL.search(plain)):
            raise UserError("no text that sexualizes minors", f"one that does (text {index + 1})", "remove it")
