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

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from ..errors import UserError
from . import terms

Tags = frozenset[str]
ANY = "any"  # the tag of a word that means the same in every language here

WORD = re.compile(r"[^\W_]+")
PARTS = re.compile(r"[a-z]+|\d+")
DRAWN_OUT = re.compile(r"([a-z])\1{2,}")
INNER = re.compile(r"[^\W_][^\w\s]+[^\W_]|[^\W_]_+[^\W_]|[@$!|+€]")  # within a word
STOP = frozenset("a an the us in on no so to is it as at be or of by i we he she me my and for her his".split())
LEET = [str.maketrans("@43€1!|0$57+896", f"aaee{one}{one}lossttbgb") for one in "il"]
EDGE, ENDS = ".,;:?()[]{}\"'<>-_/", "!|+.,;:?)"
STARRED = re.compile(r"[a-z]+(?:[*#%•·]{1,2}[a-z]*)+|[*#%•]{1,2}[a-z]{2,}")

# ---- how a text is read ----

MARKS = dict.fromkeys([*range(0x300, 0x370), *range(0x610, 0x61B), *range(0x64B, 0x660), 0x670, 0x640,
                       *range(0x20D0, 0x2100), *range(0xFE00, 0xFE10), *range(0xFE20, 0xFE30),
                       0x115F, 0x1160, 0x3164, 0x2800, 0x180E])  # fmt: skip  # accents, and letters that show nothing
LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ى": "ي", "ة": "ه", "ٱ": "ا"})
SIGNS = {first + i: chr(ord("a") + i) for first in (0x1F1E6, 0x1F150, 0x1F170, 0x1F130) for i in range(26)}  # 🇦 🅐 🅰


def fold(text: str) -> str:
    """Lower case, without accents and what cannot be seen.

    >>> fold("N\\u200bÜDE \\u24d0")
    'nude a'
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text.translate(SIGNS)).casefold())
    text = "".join(c for c in text.translate(MARKS) if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", text).translate(LETTERS)


@functools.cache
def _lookalikes() -> dict[int, str]:
    """Code points that pass for an ASCII letter or digit; from Unicode's confusables, read at the first need."""
    from confusable_homoglyphs.confusables import confusables_data

    found: dict[int, str] = {}
    for letter, others in confusables_data.items():
        plain = [o["c"].lower() for o in others if len(o["c"]) == 1 and o["c"].isascii() and o["c"].isalnum()]
        if len(letter) == 1 and not letter.isascii() and plain:
            found[ord(letter)] = min(plain)
    return found


def readings(text: str) -> list[str]:
    """A text folded as it is and, beyond ASCII, as it looks."""
    plain = fold(text)
    if plain.isascii() and text.isascii():
        return [plain]
    return list(dict.fromkeys((plain, fold(text.translate(_lookalikes())))))


def _words(plain: str) -> tuple[list[str], set[str]]:
    words, other = WORD.findall(plain), set[str]()
    said: list[str] = []
    for word in words:
        parts = _joined(word) if len(word) > 5 else ()
        if parts:
            said += parts
        elif word.isalpha() or word.isdigit():
            said.append(word)
        else:
            said += PARTS.findall(word) or [word]
            other.add(word)
            other.update(word.translate(leet) for leet in LEET)
    other.update(a + b for a, b in zip(words, words[1:], strict=False) if a not in STOP and b not in STOP)
    other.update(_spelled(words))
    if INNER.search(plain):
        other.update(_squeezed(plain))
    for word in filter(DRAWN_OUT.search, words):
        other.update((DRAWN_OUT.sub(r"\1", word), DRAWN_OUT.sub(r"\1\1", word)))
    if STARRED.search(plain):
        other.update(_starred(plain))
    for word in [w for w in other if len(w) > 5]:
        other.update(_joined(word))
    return said, other


def _joined(word: str) -> tuple[str, ...]:
    """The words that a word is made of, where it is made of known ones alone: *twelveyearold*."""
    if word[:3] not in STARTS and word[1:4] not in STARTS:
        return ()
    whole = JOINED.fullmatch(word)
    return tuple(PIECE.findall(word)) if whole else ()


def _spelled(words: list[str]) -> Iterator[str]:
    """Runs of three single letters and more, and the known words within: *a n a k e d*."""
    run: list[str] = []
    for word in [*words, "  "]:
        if len(word) == 1:
            run.append(word)
            continue
        if len(run) > 2:
            text = "".join(run)
            for reading in (text, *(text.translate(leet) for leet in LEET)):
                yield reading
                yield from PIECE.findall(reading)
        run = []


def _squeezed(plain: str) -> Iterator[str]:
    for chunk in plain.split():
        if not chunk.isalnum():
            yield "".join(WORD.findall(chunk))
            for leet in LEET:
                yield "".join(WORD.findall(chunk.rstrip(ENDS).translate(leet)))


def _starred(plain: str) -> Iterator[str]:
    """Every known word that a starred one may be: *n\\*de*."""
    for chunk in STARRED.findall(plain):
        letters = sum(c.isalpha() for c in chunk)
        if letters > 1:
            pattern = "".join(c if c.isalpha() else "[a-z]" for c in chunk)
            yield from re.findall(rf"^{pattern}$", KNOWN, re.MULTILINE)


# ---- what the words are ----


def _listed(lists: dict[str, str]) -> tuple[dict[str, Tags], dict[str, Tags]]:
    """(words, beginnings of words), each with the languages in which it counts."""
    words: dict[str, set[str]] = {}
    for language, listed in lists.items():
        only_here = set(terms.AMBIGUOUS.get(language, "").split())
        for word in listed.split():
            words.setdefault(word, set()).update({language} if word in only_here else {language, ANY})
    whole = {word: frozenset(tags) for word, tags in words.items() if not word.endswith("-")}
    starts = {word[:-1]: frozenset(tags) for word, tags in words.items() if word.endswith("-")}
    return whole, starts


MINOR, MINOR_STARTS = _listed(terms.MINOR)
SEXUAL, SEXUAL_STARTS = _listed(terms.SEXUAL)
ALWAYS, ALWAYS_STARTS = _listed({"en": terms.ALWAYS})
KNOWN = "\n".join(sorted({*MINOR, *SEXUAL, *ALWAYS, *SEXUAL_STARTS, *MINOR_STARTS}))
HARMLESS = re.compile(rf"\b(?:{terms.HARMLESS})\b", re.VERBOSE)
OTHER_MINOR, OTHER_SEXUAL, OTHER_ALWAYS, OTHER_AGE = (
    re.compile(fold(pattern))
    for pattern in (terms.OTHER_SCRIPTS_MINOR, terms.OTHER_SCRIPTS_SEXUAL, terms.OTHER_SCRIPTS_ALWAYS, terms.OTHER_SCRIPTS_AGE)
)

SMALL = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen".split()
ORDINAL = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
           "fifteenth sixteenth seventeenth").split()  # fmt: skip
TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred".split()
FILLERS = "a the of and with in little young small cute tiny very year years yr yo old olds aged age under real hot".split()
FILLERS += "pic pics photo photos picture pictures image images video videos woman women art".split()

def _any(words: Iterable[str]) -> str:
    """A pattern of any of these words, the longest first, that branches by letter: as fast as one word."""
    heads: dict[str, list[str]] = {}
    for word in words:
        heads.setdefault(word[:1], []).append(word[1:])
    rests = [re.escape(head) + _any(tails) for head, tails in sorted(heads.items()) if head]
    if not rests:
        return ""
    body = f"(?:{'|'.join(rests)})"
    return f"{body}?" if "" in heads else body


_PIECES = {w for w in (*MINOR, *SEXUAL, *ALWAYS) if len(w) > 2} | {*SMALL, *TENS, *FILLERS}
_PIECE = _any(_PIECES)
PIECE = re.compile(_PIECE)
JOINED = re.compile(rf"(?:{_PIECE}|\d){{2,}}")
_ALL_SEXUAL = {*SEXUAL, *SEXUAL_STARTS, *ALWAYS, *ALWAYS_STARTS, *(p.replace(" ", "") for p in terms.PHRASES_SEXUAL)}
HINT = re.compile(_any(word for word in _ALL_SEXUAL if len(word) > 3))
SHORT = frozenset(word for word in _ALL_SEXUAL if len(word) < 4)
STARTS = {w[:3] for w in _PIECES if len(w) > 2}

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
    | \b(?:she|he|they|i|who|that)\ ?(?:is|was|s|m|am|are|were|looks?|looking)\ (?:only\ |just\ |barely\ |about\ |around\ 
        |almost\ |nearly\ |still\ |like\ )*{NUMBER}\b(?!\ (?:{UNITS}|of|to)\b)
    | (?:\b(?:under|below|beneath|younger\ than|less\ than|not\ yet|not\ even|before|almost|nearly|barely|sub|u)\ ?|<\ ?)
        (?:the\ age\ of\ |age\ |aged\ )?(?:1[0-8]|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh)teen)\b(?!\ (?:{UNITS})\b)
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
    if not any(map(_hints, read)):  # most texts end here
        return False
    sexual, minor = set[str](), set[str]()
    for plain in read:
        said, other = _words(plain)
        if _tags(plain, said, other, ALWAYS, ALWAYS_STARTS, (), OTHER_ALWAYS):
            return True
        words = HARMLESS.sub(" ", " ".join(said)).split()
        if words != said:
            other = other.difference(said, (a + b for a, b in zip(said, said[1:], strict=False)))
        sexual |= _tags(plain, words, other, SEXUAL, SEXUAL_STARTS, terms.PHRASES_SEXUAL, OTHER_SEXUAL)
        minor |= _tags(plain, words, other, MINOR, MINOR_STARTS, terms.PHRASES_MINOR, OTHER_MINOR)
        minor |= {ANY, *terms.SEXUAL} if _young(plain, words) else set()
    return bool(sexual & minor)


def _hints(plain: str) -> bool:
    """Whether a closer look could find a sexual term: never False where it would. Cheap."""
    words = WORD.findall(plain)
    run = "".join(words)
    if HINT.search(run) or not SHORT.isdisjoint(words) or [len(word) for word in words].count(1) > 2:
        return True
    if not plain.isascii() and (OTHER_SEXUAL.search(plain) or OTHER_ALWAYS.search(plain)):
        return True
    if DRAWN_OUT.search(run):
        return True
    odd = [chunk for chunk in (c.strip(EDGE) for c in plain.split()) if not chunk.isalpha() and not chunk.isdigit()]
    return any(map(_hidden, odd))


def _hidden(chunk: str) -> bool:
    """Whether a sexual term may hide in what is not letters alone."""
    if STARRED.search(chunk):
        return True
    letters = "".join(WORD.findall(chunk))
    for reading in (letters, *("".join(WORD.findall(chunk.rstrip(ENDS).translate(leet))) for leet in LEET)):
        if HINT.search(reading) or not SHORT.isdisjoint((reading, *PARTS.findall(reading))):
            return True
    return not SHORT.isdisjoint(PARTS.findall(chunk))


def refuse_minors(texts: Iterable[str]) -> None:
    """Raise ``UserError`` if any one text names minors together with sexual terms; each text is judged alone."""
    for index, text in enumerate(texts):
        if sexualizes_minors(text):
            raise UserError("no text that sexualizes minors", f"one that does (text {index + 1})", "remove it")


def _tags(plain: str, said: list[str], other: set[str], whole: dict[str, Tags], starts: dict[str, Tags],
          phrases: tuple[str, ...], pattern: re.Pattern[str]) -> set[str]:  # fmt: skip
    """The languages in which a listed word is said."""
    found: set[str] = set()
    for word in {*said, *other}:
        if word in whole:
            found |= whole[word]
        for end in range(3, len(word) + 1):
            found |= starts.get(word[:end], frozenset())
    spaced = " ".join(said)
    if any(phrase in spaced for phrase in phrases) or (not plain.isascii() and pattern.search(plain)):
        found.add(ANY)
    return found


def _young(plain: str, words: list[str]) -> bool:
    """Whether an age below 18 is said."""
    for found in AGE.finditer(" ".join(words)):
        if not any(found.group(name) for name in ("tens", "tens2", "span2")):
            return True
    return bool(AGE_BARE.search(plain)) or (not plain.isascii() and bool(OTHER_AGE.search(plain)))
