"""What a text may say: as it is, as it looks, and as it is meant where it hides.

Letters of other alphabets that pass for Latin ones (by the Unicode consortium's list), accents, invisible characters,
leet digits, letters spaced out, drawn out or starred, words run together or cut in two.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

from . import terms

WORD = re.compile(r"[^\W_]+")
PARTS = re.compile(r"[a-z]+|\d+")
DRAWN_OUT = re.compile(r"([a-z])\1{2,}")
INNER = re.compile(r"[^\W_][^\w\s]+[^\W_]|[^\W_]_+[^\W_]|[@$!|+€]")  # within a word
LEET = [str.maketrans("@43€1!|0$57+896", f"aaee{one}{one}lossttbgb") for one in "il"]
EDGE, ENDS = ".,;:?()[]{}\"'<>-_/", "!|+.,;:?)"
STARS = frozenset("*#%•·")

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


def words_of(plain: str) -> tuple[list[str], set[str]]:
    """(its words in order, what else they may be) of a folded text."""
    words, other = WORD.findall(plain), set[str]()
    said: list[str] = []
    for word in words:
        parts = joined(word) if len(word) > 5 else ()
        if parts:
            said += parts
        elif word.isalpha() or word.isdigit():
            said.append(word)
        else:
            said += PARTS.findall(word) or [word]
            other.add(word)
            other.update(word.translate(leet) for leet in LEET)
    other.update(_spell(words))
    if INNER.search(plain):
        other.update(_squeeze(plain))
    for word in filter(DRAWN_OUT.search, words):
        other.update((DRAWN_OUT.sub(r"\1", word), DRAWN_OUT.sub(r"\1\1", word)))
    if not STARS.isdisjoint(plain):
        other.update(_unstar(plain))
    for word in [w for w in other if len(w) > 5]:
        other.update(joined(word))
    other.update(a + b for a, b in zip(words, words[1:], strict=False) if a not in APART and b not in APART)
    return said, other


def joined(word: str) -> tuple[str, ...]:
    """The words that a word is made of, where it is made of known ones alone: *twelveyearold*."""
    if (word[:3] not in STARTS and word[1:4] not in STARTS) or word in WHOLE:
        return ()
    return _cut(word) if len(word) > 20 * LONGEST or JOINED.fullmatch(word) else ()


def _cut(word: str) -> tuple[str, ...]:
    """``word`` as known words and digits, the longest first; empty where it cannot be cut so."""
    if len(word) > 20 * LONGEST:
        return tuple(PIECE.findall(word))
    rest: list[tuple[str, ...] | None] = [*[None] * len(word), ()]
    for start in range(len(word) - 1, -1, -1):
        for end in range(min(len(word), start + LONGEST), start, -1):
            behind, piece = rest[end], word[start:end]
            if behind is not None and (piece in PIECES or piece.isdigit()):
                rest[start] = (piece, *behind)
                break
    return rest[0] or ()


def _spell(words: list[str]) -> Iterator[str]:
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
                yield from _cut(reading) or PIECE.findall(reading)
        run = []


def _squeeze(plain: str) -> Iterator[str]:
    for chunk in plain.split():
        if not chunk.isalnum():
            yield from unmasked(chunk)


def unmasked(chunk: str) -> list[str]:
    """The letters of a chunk, and what they are where signs and digits stand for letters."""
    bare = chunk.rstrip(ENDS)
    meant = [text.translate(leet) for leet in LEET for text in dict.fromkeys((bare, chunk))]
    return ["".join(WORD.findall(text)) for text in (chunk, *meant)]


def meant(plain: str) -> list[str]:
    """The words in order with every disguise taken off: for what is said in several words, as ages are."""
    said: list[str] = []
    chunks = plain.split()
    for spelled, run in itertools.groupby(chunks, key=lambda chunk: len(chunk.strip(EDGE)) == 1):
        parts = list(run)
        if spelled and len(parts) > 2:
            text = "".join(part.strip(EDGE).translate(LEET[0]) for part in parts)
            said += _cut(text) or PIECE.findall(text)
            continue
        for part in parts:
            hidden = list(_unstar(part))[:1] or ([part] if part.strip(EDGE).isdigit() else unmasked(part)[1:2])
            word = DRAWN_OUT.sub(r"\1", "".join(WORD.findall(hidden[0])))
            said += joined(word) or (word,)
    return said


def _unstar(plain: str) -> Iterator[str]:
    """Every known word that a starred one may be: *n\\*de*."""
    for chunk in (c.strip(EDGE) for c in plain.split() if not STARS.isdisjoint(c)):
        letters = sum(c.isalpha() for c in chunk)
        if letters > 1 and len(chunk) <= LONGEST and all(c in STARS or c.isalpha() for c in chunk):
            pattern = "".join(c if c.isalpha() else "[a-z]" for c in chunk)
            yield from re.findall(rf"^{pattern}$", KNOWN, re.MULTILINE)


def any_of(words: Iterable[str]) -> str:
    """A pattern of any of these words, the longest first, that branches by letter: as fast as one word."""
    heads: dict[str, list[str]] = {}
    for word in words:
        heads.setdefault(word[:1], []).append(word[1:])
    rests = [re.escape(head) + any_of(tails) for head, tails in sorted(heads.items()) if head]
    if not rests:
        return ""
    body = f"(?:{'|'.join(rests)})"
    return f"{body}?" if "" in heads else body


WHOLE = frozenset(terms.WHOLE.split())
APART = frozenset(terms.APART.split())
_LISTED = " ".join([*terms.MINOR.values(), *terms.SEXUAL.values(), terms.ALWAYS]).replace("-", "").split()
KNOWN = "\n".join(sorted({*_LISTED, *f"{terms.SMALL} year years old aged".split()}))
PIECES = {word for word in _LISTED if len(word) > 2} | set(f"{terms.SMALL} {terms.TENS} {terms.FILLERS}".split())
LONGEST = max(map(len, PIECES))
STARTS = frozenset(word[:3] for word in PIECES if len(word) > 2)
PIECE = re.compile(any_of(PIECES))
JOINED = re.compile(rf"(?:{any_of(PIECES)}|\d){{2,}}")
