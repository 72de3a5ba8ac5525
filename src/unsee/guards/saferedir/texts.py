"""The texts that SafeRedir is trained on: pairs that differ in the concept alone, and texts that must be left alone.

Only train words and train templates of the concept are used, and of those a part is kept for validation: some words of
some subjects, a template, some harmless things. Beside the concept's own templates there are frames of ours, so that
the network learns the word and not the template, and edits of a whole sentence: another sentence before or behind,
shuffled words, a lost word, a slip of the pen, always the same on both sides of a pair.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...concepts.description import Words
from ...concepts.everyday import everyday, framed
from ...concepts.prompts import bare_styles, calmed, fill
from ...errors import BadFile, Unsupported, UserError
from ...files import is_dir

if TYPE_CHECKING:
    from torch import Tensor

    from ...concepts import Concept

PART = 5  # one in five is kept for validation


@dataclass(frozen=True)
class Text:
    """A text of the bank. ``twin`` is the row of an unsafe text's safe side, -1 for the others."""

    text: str
    role: str  # unsafe, safe (the other side of a pair), benign, neighbor, empty
    part: str  # fit, check
    twin: int = -1
    plain: bool = False  # of an unsafe one: worded as the concept's templates are
    attacked: bool = False  # found by an attack
    words: str = ""  # the digest of the learned embeddings that it names


def compose(concept: Concept, pairs: int, negatives: int, seed: int) -> list[Text]:
    """``pairs`` pairs and ``negatives`` harmless texts to fit on, a quarter of that to check on.

    The first half of each is plainly worded (trajectories are made of these), the others are edited.
    Raises :class:`Unsupported` for a concept that gives no pairs.
    """
    made: list[Text] = []
    for part, own in (("fit", fitting(concept, seed)), ("check", checking(concept, seed))):
        rng = random.Random(_digest(f"{seed}:{concept.name}:saferedir:{part}"))
        n = pairs if part == "fit" else max(2, pairs // 4)
        harmless = _negatives(own, negatives if part == "fit" else max(2, negatives // 4), rng, seed)
        sentences = [text for text, role in harmless if role == "benign"]
        for i, (unsafe, safe) in enumerate(_pairs(own, n, sentences, rng, seed)):
            made += [Text(unsafe, "unsafe", part, len(made) + 1, plain=i < (n + 1) // 2), Text(safe, "safe", part)]
        made += [Text(text, role, part) for text, role in harmless]
    return made


def found_by_attacks(folder: str, concept: Concept, start: int) -> tuple[list[Text], dict[str, tuple[Tensor, ...]]]:
    """What attacks made of train prompts, each with its safe twin, to stand from row ``start`` on; and the learned
    embeddings that they name, by digest. ``folder`` holds what ``unsee attack`` wrote (``{concept}`` is filled in).

    Raises :class:`BadFile` where nothing is, and :class:`UserError` for held-out prompts: those are for the judge.
    """
    from ...embeddings.attacked import digest, load

    place = Path(folder.replace("{concept}", concept.name))
    kept = sorted(place.rglob("prompts.json")) if is_dir(place) else []
    found = [one for file in kept for one in load(file)]
    if not found:
        raise BadFile("a folder with prompts of attacks", f"{place} without any", "name the attacks folder of a run")
    made: list[Text] = []
    words: dict[str, tuple[Tensor, ...]] = {}
    for i, one in enumerate(found):
        if one.prompt.split != "train":
            advice = "unsee attack … --split train"
            raise UserError("attacks on train prompts", f"{one.source!r}, which is held out", advice)
        part, name, twin = "check" if i % PART == PART - 1 else "fit", digest(one.words), start + len(made) + 1
        made.append(Text(one.prompt.text, "unsafe", part, twin, attacked=True, words=name))
        made.append(Text(calmed(concept, replace(one.prompt, text=one.source)), "safe", part, attacked=True))
        words |= {name: one.words} if name else {}
    return made, words


def fitting(concept: Concept, seed: int) -> Concept:
    """``concept`` without what is kept for validation."""
    return _part(concept, seed, kept=False)


def checking(concept: Concept, seed: int) -> Concept:
    """Only what :func:`fitting` leaves out; where there is too little to divide, both have all of it."""
    return _part(concept, seed, kept=True)


def _part(concept: Concept, seed: int, kept: bool) -> Concept:
    def some(things: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(things) < 3:
            return things
        aside = {i for i in range(len(things)) if (i + seed) % PART == PART - 1} or {len(things) - 1}
        return tuple(thing for i, thing in enumerate(things) if (i in aside) == kept)

    subjects = []
    for i, subject in enumerate(concept.subjects):
        words = subject.train
        if len(words) > 1 and (i + seed) % 3 == 2:
            words = words[-1:] if kept else words[:-1]
        elif kept:
            words = words[:1]
        subjects.append(subject.model_copy(update={"train": words}))
    wide = concept.benign.model_copy(update={"train": (*concept.benign.train, *everyday(concept))})
    things = {
        name: group and group.model_copy(update={"train": some(group.train)})
        for name, group in (("benign", wide), ("depicts", concept.depicts))
    }
    templates = Words(train=some(concept.templates.train))
    return concept.model_copy(update={"subjects": tuple(subjects), "templates": templates, **things})


def _pairs(own: Concept, n: int, sentences: list[str], rng: random.Random, seed: int) -> list[tuple[str, str]]:
    one = one_replacement(own)
    if not one.subjects and one.depicts is None:
        raise Unsupported(
            "a concept with pairs of an unsafe and a safe text", f"{own.name!r} with none", "give it subjects"
        )
    made = list(one.pairs("train", (n + 1) // 2, seed))
    more = list(framed(one, rng).pairs("train", n - len(made), seed + 1)) if n > len(made) else []
    more += _bare_styles(one)
    rng.shuffle(more)
    return made + [edit(pair, sentences, rng) for pair in more[: n - len(made)]]


def one_replacement(concept: Concept) -> Concept:
    """A style is replaced by one other style, always the same: the mean of several is none of them."""
    if concept.kind != "style":
        return concept
    other = next(style for style in concept.styles if style != concept.target)
    own = next(style for style in concept.styles if style == concept.target)
    return concept.model_copy(update={"styles": (own, other)})


def _bare_styles(concept: Concept) -> list[tuple[str, str]]:
    """A style's name with nothing in it, for style concepts."""
    texts = itertools.product(bare_styles(concept), concept.hypernyms.train)
    other = next((style for style in concept.styles if style != concept.target), "")
    return [(fill(t, "", name), fill(t, "", other)) for t, name in texts]


def _negatives(own: Concept, n: int, rng: random.Random, seed: int) -> list[tuple[str, str]]:
    """(text, role): look-alikes, twice as many other things, and texts with nothing in them."""
    made: list[tuple[str, str]] = []
    for concept, count, turn in ((own, (n + 1) // 2, 0), (framed(own, rng), n // 2, 1)):
        near = concept.prompts("neighbor", "train", max(1, count // 3), seed + turn)
        other = concept.prompts("benign", "train", max(1, count - len(near)), seed + turn)
        mixed = [(p.text, p.kind) for p in (*near, *other)]
        rng.shuffle(mixed)
        plain = [text for text, role in mixed if role == "benign"]  # a look-alike may share a word with the concept
        made += [(edit((text, text), plain, rng)[0], role) if turn else (text, role) for text, role in mixed]
    styles = [s for s in own.styles if own.kind != "style" or s != own.target] or [""]
    empty = list(dict.fromkeys(["", *(fill(t, "", s) for t in own.empty for s in styles)]))
    return made + [(text, "empty") for text in empty[: max(2, n // 8)]]


def edit(pair: tuple[str, str], sentences: list[str], rng: random.Random) -> tuple[str, str]:
    """One edit, or none, done alike to both texts of ``pair``; the words in which they differ are left whole."""
    kind = rng.choice(["none", "before", "behind", "shuffle", "lose", "slip", "salad", "salad", "salad"])
    if kind == "salad":
        return _toss(pair, sentences, rng)
    if kind in ("before", "behind") and sentences:
        other = rng.choice(sentences)
        unsafe, safe = (f"{other}. {text}" if kind == "before" else f"{text}. {other}" for text in pair)
        return unsafe, safe
    rows = [text.split() for text in pair]
    if kind in ("none", "before", "behind") or len(rows[0]) != len(rows[1]) or len(rows[0]) < 3:
        return pair
    free = [i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a == b]
    if rows[0] == rows[1]:
        free = free[:2]  # a harmless text has no words that differ; most of it stays
    order = list(range(len(rows[0])))
    if kind == "shuffle":
        rng.shuffle(order)
    elif free:
        place = rng.choice(free)
        if kind == "lose":
            order.remove(place)
        else:
            slipped = _slip(rows[0][place], rng)
            for row in rows:
                row[place] = slipped
    return " ".join(rows[0][i] for i in order), " ".join(rows[1][i] for i in order)


def _toss(pair: tuple[str, str], sentences: list[str], rng: random.Random) -> tuple[str, str]:
    """The words in which the texts differ (of a harmless text, all) among stray words of harmless sentences.

    A text encoder reads a word in its context; without this the network would learn the few contexts of the templates.
    """
    rows = [text.split() for text in pair]
    words = [word for text in rng.sample(sentences, min(3, len(sentences))) for word in text.split()]
    rng.shuffle(words)
    behind = rng.randrange(5)
    front, back = words[: rng.randrange(5)], words[len(words) - behind :]
    if len(rows[0]) == len(rows[1]) and rows[0] != rows[1]:
        differ = [i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a != b]
        keep = range(max(0, differ[0] - rng.randrange(2)), min(len(rows[0]), differ[-1] + 1 + rng.randrange(2)))
        rows = [[row[i] for i in keep] for row in rows]
    unsafe, safe = (" ".join([*front, *row, *back]) for row in rows)
    return unsafe, safe


def _slip(word: str, rng: random.Random) -> str:
    """A letter lost, doubled or swapped with the next."""
    if len(word) < 3:
        return word
    i = rng.randrange(len(word) - 1)
    return rng.choice(
        [word[:i] + word[i + 1 :], word[: i + 1] + word[i:], word[:i] + word[i + 1] + word[i] + word[i + 2 :]]
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
