"""Prompts and pairs from a concept: words × styles × templates, dealt in a fixed, balanced order.

A list depends only on (concept, kind, split, seed), and a shorter one is the beginning of a longer one. The seed of
an image depends only on (suite seed, prompt id).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, get_args

from ..errors import UserError
from ..types import Kind, Prompt, Role, Split
from .refusal import refuse_minors

if TYPE_CHECKING:
    from .description import Description, Thing

T = TypeVar("T", bound=Sequence[object])
ROLES: dict[Kind, Role] = {
    "plain": "unsafe", "synonym": "unsafe", "empty": "unsafe", "neighbor": "neighbor", "benign": "benign",
}  # fmt: skip
MASS = (  # words that take no article
    "smoking", "tobacco", "death", "alcohol", "booze", "liquor", "champagne", "prosecco", "whiskey", "bourbon", "sake",
    "merlot", "armament", "rice wine", "red wine", "nudity", "nakedness", "violence", "brutality", "bloodshed",
)  # fmt: skip


@dataclass(frozen=True)
class PromptSource:
    """One thing to draw: the nouns and the style words that a prompt for it may use."""

    slug: str
    nouns: tuple[str, ...]
    styles: tuple[str, ...]


def article(noun: str) -> str:
    """``"an"`` before a vowel, nothing before a plural, a mass word or a toast, else ``"a"``; picto's captions too.

    >>> article("axe"), article("swords"), article("wine glass"), article("sake")
    ('an', '', 'a', '')
    """
    last = noun.split()[-1] if noun else ""
    plural = last.endswith("s") and last not in ("glass", "bus", "octopus", "dress")
    if not noun or plural or noun in MASS or noun.startswith(("two ", "cheers")):
        return ""
    return "an" if noun[0].lower() in "aeiou" else "a"


def fill(template: str, noun: str, style: str = "", *, a: str | None = None) -> str:
    """A template with ``{x}`` (noun), ``{a}`` (its article, or the one that is given) and ``{s}`` (style) filled in."""
    return " ".join(template.format(a=article(noun) if a is None else a, x=noun, s=style).split())


def words_for(concept: Description, prompt: Prompt) -> list[str]:
    """Every word for what a prompt asks for: its subject's, train and held-out; else all of the concept's."""
    subject = concept.by_slug.get(prompt.subject)
    if subject:
        return [*subject.held_out, *subject.train]
    return [*concept.all_words("held-out"), *concept.all_words("train")]


def reworded(concept: Description, prompt: Prompt, name: str) -> str:
    """The prompt with ``name`` for its first word for the concept; before it, where it has none."""
    key = prompt.subject if prompt.subject in concept.by_slug else ""
    if key not in concept.patterns:
        words = sorted(words_for(concept, prompt), key=len, reverse=True)
        concept.patterns[key] = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in words), re.IGNORECASE)
    text, count = concept.patterns[key].subn(lambda _: name, prompt.text, count=1)
    return text if count else f"{name} {prompt.text}"


def thing_asked(concept: Description, prompt: Prompt) -> str:
    """The word for what a prompt asks for: its subject's first, else the concept's."""
    asked = concept.by_slug.get(prompt.subject)
    return asked.train[0] if asked else concept.all_words("train")[0]


def calmed(concept: Description, prompt: Prompt) -> str:
    """The prompt with a safe word for its first word for the concept: its subject's anchor; of a style, another one."""
    if concept.kind == "style":
        return reworded(concept, prompt, next(s for s in concept.styles if s != concept.target))
    subject = concept.by_slug.get(prompt.subject)
    return reworded(concept, prompt, subject.anchor_for(subject.name) if subject else concept.anchor)


def image_seed(suite_seed: int, prompt_id: str) -> int:
    """The seed of an image, in [0, 2**31), from the suite's seed and the prompt's id alone."""
    return int(_digest(f"{suite_seed}:{prompt_id}")[:16], 16) % 2**31


def prompts(concept: Description, kind: Kind, split: Split, n: int, seed: int) -> list[Prompt]:
    """See ``Concept.prompts``."""
    _check(kind, split, n)
    templates = concept.templates.of(split)
    if kind == "empty":
        templates = _not_empty(bare_styles(concept), concept, "a style, and empty texts with {s} in them")
    cells = _cells(concept, kind, split)
    dealt = deal(cells, templates, random.Random(_digest(f"{seed}:{concept.name}:{kind}:{split}")))
    times: dict[str, tuple[str, int]] = {}
    made = []
    for cell, noun, style, template in itertools.islice(dealt, n):
        text = fill(template, noun, style)
        text, count = times.get(text, (text, 0))  # a text that comes again is one object
        times[text] = text, count + 1
        name = f"{concept.name}/{kind}/{split}/{_digest(text)[:12]}/{count + 1}"
        shown = concept.target if concept.kind == "style" and ROLES[kind] == "unsafe" else style
        made.append(Prompt(text, name, image_seed(seed, name), ROLES[kind], kind, split, cell.slug, shown))
    refuse_minors(times)
    return made


def bare_styles(concept: Description) -> tuple[str, ...]:
    """The empty texts that name the style, ``{s}``, of a style concept; none of an object."""
    return tuple(text for text in concept.empty if "{s}" in text) if concept.kind == "style" else ()


def pairs(concept: Description, split: Split, n: int, seed: int) -> list[tuple[str, str]]:
    """See ``Concept.pairs``."""
    _check("plain", split, n)
    rng = random.Random(_digest(f"{seed}:{concept.name}:pairs:{split}"))
    cells, templates = _pair_cells(concept, split), concept.templates.of(split)
    others = [s for s in concept.styles if s != concept.target]
    anchors = {s.slug: s.anchor_for for s in concept.subjects}
    whole = re.sub(r"^an? ", "", concept.anchor)
    made = []
    for cell, noun, style, template in itertools.islice(deal(cells, templates, rng), n):
        if concept.kind == "style":
            safe = fill(template, noun, rng.choice(others))
        else:
            anchor = anchors[cell.slug](noun) if cell.slug else whole
            safe = fill(template, anchor, style, a=article(noun) and (article(anchor) or "a"))  # as many words
        made.append((fill(template, noun, style), safe))
    refuse_minors(itertools.chain.from_iterable(made))
    return made


def deal(
    cells: Sequence[PromptSource], templates: Sequence[str], rng: random.Random
) -> Iterator[tuple[PromptSource, str, str, str]]:
    """(cell, noun, style, template) without end. In each round every cell comes once, and the styles take turns so
    that a round shows all of them; a cell uses up its nouns × templates in a style before one comes again."""
    order = list(dict.fromkeys(itertools.chain.from_iterable(c.styles for c in cells)))
    rng.shuffle(order)
    place = {style: i for i, style in enumerate(order)}
    turns: dict[tuple[tuple[str, ...], int], list[str]] = {}
    hands: list[tuple[PromptSource, list[str], list[list[int]]]] = []
    for i, cell in enumerate(cells):
        key = cell.styles, i % len(order)
        if key not in turns:
            turns[key] = sorted(cell.styles, key=lambda s: (place[s] - i) % len(order))
        count = len(cell.nouns) * len(templates)
        hands.append((cell, turns[key], [_shuffle(count, rng) for _ in cell.styles]))
    for turn in itertools.count():
        rng.shuffle(hands)
        for cell, styles, orders in hands:
            round_, style = divmod(turn, len(styles))
            noun, template = divmod(orders[style][round_ % len(orders[style])], len(templates))
            yield cell, cell.nouns[noun], styles[style], templates[template]


def _shuffle(n: int, rng: random.Random) -> list[int]:
    """The places of a hand of ``n``, nouns × templates: what they are is looked up when they are dealt."""
    hand = list(range(n))
    rng.shuffle(hand)
    return hand


def _cells(concept: Description, kind: Kind, split: Split) -> list[PromptSource]:
    if concept.depicts is not None:
        return _style_cells(concept, kind, split)
    if kind == "neighbor":
        return [_cell(concept, t, (t.name,)) for t in concept.neighbors]
    if kind == "benign":
        return [_cell(concept, t, (t.name,)) for t in concept.benign.of(split)]
    if kind == "plain":
        return [_cell(concept, s, (s.name,)) for s in concept.subjects]
    synonyms = [_cell(concept, s, tuple(w for w in s.of(split) if w != s.name)) for s in concept.subjects]
    return _not_empty([c for c in synonyms if c.nouns], concept, f"{split} synonyms")


def _style_cells(concept: Description, kind: Kind, split: Split) -> list[PromptSource]:
    assert concept.depicts is not None
    others = tuple(s for s in concept.styles if s != concept.target)
    if kind == "neighbor":
        return [PromptSource(t.slug, (t.name,), others) for t in concept.depicts.of(split)]
    if kind == "benign":
        return [PromptSource(t.slug, (t.name,), others) for t in concept.benign.of(split)]
    own = concept.hypernyms.train[0]
    if kind == "empty":
        return [PromptSource("", ("",), (own,))]
    names = (own,) if kind == "plain" else tuple(w for w in concept.hypernyms.of(split) if w != own)
    cells = [PromptSource(t.slug, (t.name,), names) for t in concept.depicts.of(split) if names]
    return _not_empty(cells, concept, f"{split} synonyms")


def _pair_cells(concept: Description, split: Split) -> list[PromptSource]:
    """The unsafe side of the pairs; the cell of the hypernyms has no slug."""
    names = concept.hypernyms.of(split)
    if concept.depicts is not None:
        return [
            PromptSource(t.slug, (t.name,), names or concept.hypernyms.train[:1]) for t in concept.depicts.of(split)
        ]
    cells = [_cell(concept, s, s.of(split)) for s in concept.subjects]
    return [*cells, PromptSource("", names, concept.styles or ("",))] if names else cells


def _cell(concept: Description, thing: Thing, nouns: tuple[str, ...]) -> PromptSource:
    return PromptSource(thing.slug, nouns, thing.styles or concept.styles or ("",))


def _not_empty(cells: T, concept: Description, what: str) -> T:
    if not cells:
        raise UserError(f"a concept that has {what}", f"{concept.name!r} with none", "leave them out")
    return cells


def _check(kind: str, split: str, n: int) -> None:
    if kind not in ROLES:
        raise UserError(f"a kind of prompt ({', '.join(ROLES)})", repr(kind), "name one of these")
    if split not in get_args(Split):
        raise UserError("a split (train, held-out)", repr(split), "name one of these")
    if n < 1:
        raise UserError("at least one prompt", str(n), "ask for 1 or more")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
