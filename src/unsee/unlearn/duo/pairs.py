"""Pairs of images that differ in the concept only: an unsafe image and its safe twin, kept as latents.

``sdedit``        the pipeline draws the unsafe text; SDEdit (img2img from ``edit_strength`` of the noise) redraws it
                  with the safe text as prompt and the unsafe one as negative, so composition and colors stay
``substitution``  the safe text is drawn from the same noise (for the ablation: nothing ties the two images together)
a folder          ``unsafe/`` and ``safe/`` with as many images each, paired in order of their names; no judge asked

A judge gates both sides: the unsafe image must be flagged, the safe one must not. What fails is tried again with
another seed, ``tries`` times at most, and then dropped and reported. Latents are written in chunks as they are made;
a killed run goes on at the next chunk.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel
from torch import Tensor

from ... import judges
from ...concepts.prompts import image_seed
from ...errors import BadFile, UserError
from ...files import is_dir, metadata_json, open_image, typed
from ...pictures import fault
from ...types import Prompt
from ..descent import stored

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...concepts import Concept
    from ...defenses.base import Progress
    from ...judges.base import Judge
    from ...sampling.sampler import Drawn, Sampler

MADE = ("sdedit", "substitution")
EITHER = "either"  # no judge was asked
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pairs:
    """Latents of n pairs, ``(n, …)`` each, their texts (empty for a user's folder), and how they came about."""

    unsafe: Tensor
    safe: Tensor
    texts: list[tuple[str, str]]
    report: dict[str, object]


@dataclass(frozen=True)
class Recipe:
    """How pairs are made. ``judge`` "" is the concept's own, "none" asks nobody."""

    n: int
    source: str
    steps: int
    guidance: float
    edit_strength: float
    tries: int
    batch: int
    judge: str = ""
    least: int = 4

    def __post_init__(self) -> None:
        if self.n < 1 or self.tries < 1 or not 0 < self.edit_strength <= 1:
            got = f"n={self.n}, tries={self.tries}, edit_strength={self.edit_strength}"
            raise UserError("pairs and tries of 1 or more, and an edit_strength in (0, 1]", got, "set them so")


def make(sampler: Sampler, concept: Concept, recipe: Recipe, work: Path, seed: int, progress: Progress,
         identity: str = "") -> Pairs:  # fmt: skip
    """The pairs of one concept, from ``work`` as far as they are there and of the same ``identity``.

    Raises :class:`UserError` where the judge flags none of the unsafe images (nothing to unlearn) or too few pairs
    are accepted, and :class:`BadFile` for an unfit folder.
    """
    if recipe.source not in MADE:
        return from_folder(sampler, Path(recipe.source))
    texts = concept.pairs("train", recipe.n, seed)
    judge = None if recipe.judge == "none" else judges.load(recipe.judge or concept.judge)
    maker = _Maker(sampler, concept, recipe, judge, seed)
    chunks = []
    for start in range(0, len(texts), recipe.batch):
        progress(f"pairs of {concept.name}", start, len(texts))
        some = texts[start : start + recipe.batch]
        made = functools.partial(maker.chunk, start, some)
        chunks.append(stored(work / f"{start:05d}.safetensors", identity, made))
        _something_to_unlearn(chunks, judge, concept)
    progress(f"pairs of {concept.name}", len(texts), len(texts))
    return _gather(chunks, recipe, concept)


def from_folder(sampler: Sampler, folder: Path) -> Pairs:
    """A user's own pairs, encoded once. Raises :class:`BadFile` for a missing or unequal folder."""
    files = {side: _images(folder / side) for side in ("unsafe", "safe")}
    counts = {side: len(found) for side, found in files.items()}
    if not counts["unsafe"] or counts["unsafe"] != counts["safe"]:
        got = f"{counts['unsafe']} unsafe and {counts['safe']} safe ones in {folder}"
        raise BadFile(
            "as many images in unsafe/ as in safe/, at least one", got, "pair them by the order of their names"
        )
    latents = {side: _encode(sampler, found) for side, found in files.items()}
    n = counts["unsafe"]
    return Pairs(latents["unsafe"], latents["safe"], [("", "")] * n, {"source": str(folder), "accepted": n})


class _Maker:
    """Draws, edits and judges one chunk of pairs at a time."""

    def __init__(self, sampler: Sampler, concept: Concept, recipe: Recipe, judge: Judge | None, seed: int) -> None:
        self.sampler, self.concept, self.recipe, self.judge, self.seed = sampler, concept, recipe, judge, seed

    def chunk(self, start: int, texts: Sequence[tuple[str, str]]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """(latents of the accepted pairs, what happened) for the texts of numbers ``start`` …"""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        flagged: set[int] = set()
        tried = {"unsafe": 0, "safe": 0}
        pending = list(range(len(texts)))
        for attempt in range(self.recipe.tries):
            seeds = {i: image_seed(self.seed, f"pair/{self.concept.name}/{start + i}/{attempt}") for i in pending}
            drawn = self._draw([texts[i][0] for i in pending], [seeds[i] for i in pending])
            tried["unsafe"] += len(pending)
            hits = [j for j, seen in enumerate(self._judge_images(drawn.images)) if seen in ("unsafe", EITHER)]
            flagged |= {pending[j] for j in hits}
            if hits:
                chosen = [pending[j] for j in hits]
                edited = self._twin(
                    [drawn.images[j] for j in hits], [texts[i] for i in chosen], [seeds[i] for i in chosen]
                )
                tried["safe"] += len(hits)
                for j, i, k, seen in zip(
                    hits, chosen, range(len(hits)), self._judge_images(edited.images), strict=True
                ):
                    if seen in ("safe", EITHER):
                        found[i] = drawn.latents[j], edited.latents[k]
            pending = [i for i in pending if i not in found]
            if not pending:
                break
        order = sorted(found)
        like = drawn.latents[:0]
        latents = {
            side: torch.stack([found[i][k] for i in order]).cpu() if order else like.cpu()
            for k, side in enumerate(("unsafe", "safe"))
        }
        said = {
            "texts": [texts[i] for i in order],
            "dropped": [texts[i] for i in pending],
            "flagged": len(flagged),
            **tried,
        }
        return latents, {"said": json.dumps(said)}

    def _draw(self, texts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        return self.sampler.generate(texts, seeds, steps=self.recipe.steps, guidance=self.recipe.guidance)

    def _twin(self, images: Sequence[Image], texts: Sequence[tuple[str, str]], seeds: Sequence[int]) -> Drawn:
        safe = [text for _, text in texts]
        if self.recipe.source == "substitution":
            return self._draw(safe, seeds)
        return self.sampler.generate(
            safe,
            seeds,
            steps=self.recipe.steps,
            guidance=self.recipe.guidance,
            negative=[text for text, _ in texts],
            images=images,
            strength=self.recipe.edit_strength,
        )

    def _judge_images(self, images: Sequence[Image]) -> list[str]:
        """What the judge says of each, or that nobody is asked. An unjudged image is neither safe nor unsafe."""
        if self.judge is None:
            return ["unjudged" if fault(image) else EITHER for image in images]
        prompts = [Prompt("", f"pair/{i}", 0) for i in range(len(images))]
        verdicts = self.judge(images, prompts, self.concept)
        if all(v.outcome == "unjudged" for v in verdicts):
            raise UserError("a judge that can judge these images", verdicts[0].reason, "choose another judge=…")
        return [v.outcome for v in verdicts]


class Said(BaseModel):
    """What a chunk of pairs tells of itself."""

    texts: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    flagged: int
    unsafe: int
    safe: int


def _describe(chunks: Chunks) -> list[dict[str, Any]]:
    what, do = "chunks of pairs", "remove the work folder and fit again"
    values = [metadata_json(metadata, "said", "the work folder", do) for _, metadata in chunks]
    return [typed(Said, value, "the work folder", what, do).model_dump() for value in values]


Chunks = list[tuple[dict[str, Tensor], dict[str, str]]]


def _something_to_unlearn(chunks: Chunks, judge: Judge | None, concept: Concept) -> None:
    said = _describe(chunks)
    if judge is not None and not sum(s["flagged"] for s in said):
        drawn = sum(s["unsafe"] for s in said)
        wanted = f"images in which the judge {judge.name} sees {concept.target!r}"
        raise UserError(wanted, f"none among {drawn}", "this model has nothing of the concept to unlearn")


def _gather(chunks: Chunks, recipe: Recipe, concept: Concept) -> Pairs:
    said = _describe(chunks)
    unsafe, safe = (torch.cat([tensors[side] for tensors, _ in chunks]) for side in ("unsafe", "safe"))
    texts = [(a, b) for s in said for a, b in s["texts"]]
    dropped = [text for s in said for text, _ in s["dropped"]]
    if len(unsafe) < min(recipe.least, recipe.n):
        got = f"{len(unsafe)} of {recipe.n} (for example {dropped[0]!r} was dropped)"
        do = "raise tries or edit_strength, change the concept's anchors, or bring a folder of pairs"
        raise UserError(f"at least {min(recipe.least, recipe.n)} accepted pairs of {concept.name}", got, do)
    if dropped:
        warnings.warn(f"{len(dropped)} of {recipe.n} pairs of {concept.name} were dropped", UserWarning, stacklevel=2)
    report = {
        "source": recipe.source,
        "accepted": len(unsafe),
        "dropped": len(dropped),
        "images": {side: sum(s[side] for s in said) for side in ("unsafe", "safe")},
    }
    return Pairs(unsafe, safe, texts, report)


def _images(folder: Path) -> list[Path]:
    if not is_dir(folder):
        raise BadFile("a folder of pairs with unsafe/ and safe/ in it", f"no {folder}", "mend the path")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)


def _encode(sampler: Sampler, files: Sequence[Path]) -> Tensor:
    from PIL import ImageOps

    size, opened = sampler.image_size, []
    for path in files:
        opened.append(ImageOps.fit(open_image(path), (size, size)))
    return sampler.encode_images(opened).cpu()
