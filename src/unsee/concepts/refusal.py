"""The one refusal that has no switch: text that puts minors and sexual terms together.

A rule by words. It reads a text folded (NFKC, no accents, nothing invisible), and again as it looks (letters of other
alphabets that pass for Latin ones, by the Unicode consortium's list) and as it is meant: leet digits, letters spaced
out, words run together or apart, letters drawn out or starred. Ages are numbers and words below 18, school years and
stages of growth. :mod:`.terms` has the words: English and, for the pair, German, French, Spanish, Italian, Portuguese,
Dutch, Polish, Turkish, Russian, Ukrainian, Chinese, Japanese, Korean, Arabic and Hindi.

It is no guarantee. It knows no other language, no misspelling that is a new word, no allusion, no picture, and two
texts that are harmless apart. Within what it knows it refuses too much rather than too little: *girl* and *boy* are
minors at any age, *nude* is sexual as a color too (a whisky of 12 years in nude colors passes, a person does not), and
a warning against abuse that names both is refused. ``tests/test_refuse.py`` tells the share that it catches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UserError
from . import terms
from .disguise import DRAWN_OUT, EDGE, LONGEST, PARTS, STARS, WORD, any_of, fold, meant, readings, unmasked, words_of

Tags = frozenset[str]
ANY = "any"  # the tag of a word that means the same in every language here


@dataclass(frozen=True)
class Terms:
    """What is looked for: words, beginnings of words and phrases, with the languages in which each counts; and a
    pattern for other scripts. ``hint`` and ``short`` (of less than four letters) are in every text that says one.
    """

    words: dict[str, Tags]
    starts: dict[str, Tags]
    phrases: tuple[str, ...]
    pattern: re.Pattern[str]
    hint: re.Pattern[str]
    short: Tags

    @classmethod
    def of(cls, lists: dict[str, str], phrases: tuple[str, ...], pattern: str, more: Iterable[str] = ()) -> Terms:
        found: dict[str, set[str]] = {}
        for language, listed in lists.items():
            only_here = set(terms.AMBIGUOUS.get(language, "").split())
            for word in listed.split():
                found.setdefault(word, set()).update({language} if word in only_here else {language, ANY})
        tags = {word: frozenset(own) for word, own in found.items()}
        starts = {word[:-1]: own for word, own in tags.items() if word.endswith("-")}
        words = {word: own for word, own in tags.items() if not word.endswith("-")}
        said = {*words, *starts, *more, *(phrase.replace(" ", "") for phrase in phrases)}
        hint = re.compile(any_of(word for word in said if len(word) > 3))
        return cls(words, starts, phrases, re.compile(fold(pattern)), hint, frozenset(w for w in said if len(w) < 4))

    def tags(self, plain: str, said: list[str], other: set[str]) -> set[str]:
        """The languages in which one of them is said."""
        found: set[str] = set()
        for word in {*said, *other}:
            found |= self.words.get(word, frozenset())
            for end in range(3, min(len(word), LONGEST) + 1):
                found |= self.starts.get(word[:end], frozenset())
        spaced = " " + " ".join(said)
        said_so = any(f" {phrase}" in spaced for phrase in self.phrases)
        if said_so or (not plain.isascii() and self.pattern.search(plain)):
            found.add(ANY)
        return found

    def may_say(self, plain: str) -> bool:
        """Whether a closer look could find one of them: never False where it would. Cheap."""
        words = WORD.findall(plain)
        run = "".join(words)
        if self.hint.search(run) or not self.short.isdisjoint(words) or [len(word) for word in words].count(1) > 2:
            return True
        if DRAWN_OUT.search(run) or (not plain.isascii() and self.pattern.search(plain)):
            return True
        odd = [c for c in (chunk.strip(EDGE) for chunk in plain.split()) if not c.isalpha() and not c.isdigit()]
        return any(map(self._may_hide, odd))

    def _may_hide(self, chunk: str) -> bool:
        """Whether one of them may hide in what is not letters alone."""
        if not STARS.isdisjoint(chunk):
            return True
        for reading in unmasked(chunk):
            if self.hint.search(reading) or not self.short.isdisjoint((reading, *PARTS.findall(reading))):
                return True
        return not self.short.isdisjoint(PARTS.findall(chunk))


SMALL, ORDINAL, TENS = (listed.split() for listed in (terms.SMALL, terms.ORDINAL, terms.TENS))
MINOR = Terms.of(terms.MINOR, terms.PHRASES_MINOR, f"{terms.OTHER_SCRIPTS_MINOR}|{terms.OTHER_SCRIPTS_AGE}",
                 (*SMALL, *ORDINAL, *terms.AGES.split()))  # fmt: skip
SEXUAL = Terms.of(  # and its hints are of ALWAYS too
    terms.SEXUAL,
    terms.PHRASES_SEXUAL,
    f"{terms.OTHER_SCRIPTS_SEXUAL}|{terms.OTHER_SCRIPTS_ALWAYS}",
    terms.ALWAYS.replace("-", "").split(),
)
ALWAYS = Terms.of({"en": terms.ALWAYS}, (), terms.OTHER_SCRIPTS_ALWAYS)
HARMLESS = re.compile(rf"\b(?:{terms.HARMLESS})\b", re.VERBOSE)

NUMBER = rf"(?:1[0-7]|[1-9]|{'|'.join(SMALL)})"
NTH = rf"(?:1[0-7]|[1-9]) ?(?:st|nd|rd|th)|{'|'.join(ORDINAL)}"
THINGS = (
    "whisk(?:e)?y|scotch|bourbon|malt|rum|wine|port|cheese|brandy|cognac|tequila|vinegar|car|truck|van|tree|oak|house"
    "|building|castle|bottle|barrel|cask|company|firm|brand|bridge|laptop|computer|phone|sofa|dog|cat|horse|law|tradition"
)
UNITS = (
    "degrees?|times|pages|corners|hours?|minutes?|seconds?|days|feet|foot|ft|meters?|metres?|mm|cm|km|inch(?:es)?|miles?"
    "|kg|pounds?|people|persons?|women|men|others|percent|dollars|euros|am|pm|mm|k|x|d"
)
SPAN_BEFORE = "for|after|in|over|past|last|next|within|every|took|take|during"
SPAN_AFTER = "ago|later|after|before|earlier|since|of experience|of war|in prison|in the making|warranty"
AGE = re.compile(
    rf"""
    \b(?:(?P<span>{SPAN_BEFORE})\ )?(?:(?P<tens>(?:{"|".join(TENS)})(?:\ and)?)\ )?(?:{NUMBER}|an?)\ ?
        (?:(?:years?|yrs?)\ ?olds?\b(?!\ (?:[a-z]+\ ){{0,2}}(?:{THINGS})\b) | yo\b | y\ o\b | y\ old )
    | \b(?:(?P<span2>{SPAN_BEFORE})\ )?(?:(?P<tens2>(?:{"|".join(TENS)})(?:\ and)?)\ )?{NUMBER}\ (?:years?|yrs?)\b
        (?!\ (?:{SPAN_AFTER}|olds?|(?:aged\ )?(?:{THINGS}))\b)
    | \b(?:{NUMBER}|\d\d|an?)\ ?(?:months?|weeks?|days?|mos?)\ olds?\b
    | \b(?:{NUMBER})\ (?:ans|anos|anni|jahren?|jahrig\w*|jaehrig\w*|jarig\w*|jaar|lat|letni\w*|yas(?:inda\w*)?)\b
    | \b(?:aged?|ages)\ (?:of\ |about\ |around\ |only\ |just\ )?{NUMBER}\b(?!\ (?:minutes?|hours?|days?|years?\ ago)\b)
    | \b(?:turn(?:ed|ing|s)?)\ {NUMBER}\b(?!\ (?:{UNITS})\b)
    | \b(?:(?:she|he|they|who|that)\ ?(?:is|was|s|are|were|looks?|looking)|i\ ?(?:m|am)|i\ was)
        \ (?:only\ |just\ |barely\ |about\ |around\ |almost\ |nearly\ |still\ |like\ )*
        {NUMBER}\b(?!\ (?:{UNITS}|of|to)\b)
    | \b(?:under|below|beneath|younger\ than|less\ than|not\ yet|not\ even|before|almost|nearly|barely|sub|u)\ ?
        (?:the\ age\ of\ |age\ |aged\ )?(?:1[0-8]|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh)teen)\b
        (?!\ (?:{UNITS})\b)
    | \b(?:{NTH})\ grade(?:rs?)?\b | \bgrade\ (?:1[0-2]|[1-9]|{"|".join(SMALL[:12])})\b
    | \byear\ (?:1[0-3]|[1-9])\ (?:pupils?|students?|class|school)\b | \bschool\ pupils?\b
    | \b(?:{NTH})\ birthday\b
    """,
    re.VERBOSE,
)
AGE_BARE = re.compile(  # "a woman, 15"
    r"\b(?:wom[ae]n|m[ae]n|person|females?|males?|models?|students?|lady|ladies|guys?)[,:;\s(]{1,3}1[0-7]\)?\s*(?:[,.;!?]|$)"
)


def sexualizes_minors(text: str) -> bool:
    """Whether a text names minors together with sexual terms.

    >>> sexualizes_minors("a 35 year old nude, oil on canvas"), sexualizes_minors("a child with a balloon")
    (False, False)
    """
    read = readings(text)
    if not any(map(SEXUAL.may_say, read)):  # most texts end here
        return False
    if not any(map(_may_be_young, read)):
        return any(ALWAYS.tags(plain, *words_of(plain)) for plain in read)
    sexual, minor = set[str](), set[str]()
    for plain in read:
        said, other = words_of(plain)
        if ALWAYS.tags(plain, said, other):
            return True
        words = HARMLESS.sub(" ", " ".join(said)).split()
        if words != said:
            other = other.difference(said, (a + b for a, b in zip(said, said[1:], strict=False)))
        sexual |= SEXUAL.tags(plain, words, other)
        minor |= MINOR.tags(plain, words, other)
        minor |= {ANY, *terms.SEXUAL} if _young(plain, words) else set()
    return bool(sexual & minor)


def _may_be_young(plain: str) -> bool:
    return any(map(str.isdigit, plain)) or MINOR.may_say(plain)


def refuse_minors(texts: Iterable[str]) -> None:
    """Raise ``UserError`` if any one text names minors together with sexual terms; each text is judged alone."""
    for index, text in enumerate(texts):
        if sexualizes_minors(text):
            raise UserError("no text that sexualizes minors", f"one that does (text {index + 1})", "remove it")


def _young(plain: str, words: list[str]) -> bool:
    """Whether an age below 18 is said."""
    for said in (words, meant(plain)):
        for found in AGE.finditer(" ".join(said)):
            if not any(found.group(name) for name in ("tens", "tens2", "span2")):
                return True
    return bool(AGE_BARE.search(plain))
