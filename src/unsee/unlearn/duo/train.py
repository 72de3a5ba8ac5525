"""DUO, direct unlearning optimization: paired images teach the weights what not to draw, whatever the prompt says.

Paper       Park et al., NeurIPS 2024 (arXiv 2407.21035)
Code        naver-ai/DUO
Touches     self-attention (q, k, v, out) of the denoiser, by LoRA; text plays no part: it trains on the empty prompt
Cost        pairs: two images each; a step: three rows through the denoiser with gradients, three without; sampling
            costs what it did
Differs     * one time t for both images of a pair (``timesteps="independent"`` is the published code's way).
            * latents are made once; the safe, unsafe and regularizing rows are one pass, the reference one more.
            * both sides of every pair are judged, with capped retries; what was dropped is in the record.
            * v-prediction (broken in the published code) and flow (its time axis ran backwards) work, see ``loss``.
            * ``beta``, lr and lambda are tied as published: lr = base_lr 100 / beta, lambda = base_lambda beta / 100.
Published   (``Duo.as_published()``) nudity: beta 500, base_lr 3e-4 (SD3: 3e-5), base_lambda 1e6, 1,000 steps of four
            pairs, rank 32, 64 pairs, times of their own for both images, the empty text
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from ...backbones import adapter
from ...concepts.everyday import everyday, framed
from ...concepts.prompts import image_seed
from ...defenses.presets import NAMES, Settled, guidance_for, settled
from ...defenses.protection import edits_attached
from ...errors import UserError
from ...sampling.denoiser import DenoiserCall
from ...sampling.sampler import Sampler
from ...settings import (
    Among,
    Checked,
    Count,
    Decay,
    Doc,
    FreeText,
    Guidance,
    Images,
    Rate,
    Settings,
    Steps,
    Weight,
    Whole,
    Words,
)
from ..adapters import Adapters
from ..base import WeightEdit
from ..descent import PRECISIONS, Clip, descend, identity_of, main_first, plan_of, stored
from ..token_vectors import concepts_of, kinds
from ..validation import JudgedOrNone, Validation
from .loss import TIMESTEPS, PairBatch, Scaled, all_times, duo_loss, duo_loss_by_rows, times
from .pairs import MADE, Pairs, Recipe, make

if TYPE_CHECKING:
    from ...backbones import Backbone, Encoding
    from ...concepts import Concept
    from ...defenses.base import Fit
    from ...types import Prompt
    from ...unlearn.base import Layer
    from ...unlearn.descent import Loss

TEXTS = ("empty", "pair", "unsafe", "mixed")
# picto's errors are in units of v and its fits are some hundred steps: with the published beta and rate (500, 6e-5) and
# base_lambda 1e4, 150 steps changed no image. A row that is told its own image's text is what moves conditional
# drawing there and leaves the rest alone (docs/log.md).
PRESETS: dict[str, Settings] = {
    "paper": {"beta": 500.0, "base_lr": 3e-4, "base_lambda": 1e6, "neighbor": 0.0, "steps": 1000, "text": "empty"},
    "paper-sd3": {"base_lr": 3e-5},
    "picto": {"beta": 5.0, "base_lr": 1e-4, "base_lambda": 1e4, "neighbor": 5e2, "steps": 300, "text": "pair"},
}


Positive = Annotated[float, Field(gt=0, le=1e9)]
Edit = Annotated[float, Field(gt=0, le=1)]
Rank = Annotated[int, Field(ge=1, le=16384)]


@dataclass(frozen=True)
class DuoTraining(Checked):
    """How DUO is fitted. None is the preset's value: the paper's for the family of models, or picto's for its concepts;
    ``preset`` says which."""

    preset: Annotated[str | None, Among(*NAMES), Doc("Whose values; None is picto's for its concepts, else paper.")] = (
        None
    )

    beta: Annotated[Positive | None, Doc("How far the weights may go from the old ones; None is the preset's.")] = None
    base_lr: Annotated[Rate | None, Doc("Learning rate at beta 100; None is the preset's.")] = None
    base_lambda: Annotated[Weight | None, Doc("Weight of preserving outputs at beta 100; None is the preset's.")] = None
    neighbor: Annotated[
        Weight | None, Doc("Weight at beta 100 of keeping other images; None is the preset's, 0 keeps none.")
    ] = None
    steps: Annotated[Count | None, Doc("Steps of training; None is the preset's.")] = None
    text: Annotated[
        str | None,
        Among(*TEXTS),
        Doc("What the rows are told: nothing, each its own text (pair), unsafe for both, half unsafe (mixed)."),
    ] = None
    batch: Annotated[Count, Doc("Pairs of a step.")] = 4
    rank: Annotated[Rank, Doc("Of the LoRA.")] = 32
    timesteps: Annotated[str, Among(*TIMESTEPS), Doc("One time for both images of a pair, or a time for each.")] = (
        "shared"
    )
    pairs: Annotated[Words, Doc("How pairs are made: sdedit, substitution, or a folder with unsafe/ and safe/.")] = (
        "sdedit"
    )
    n: Annotated[
        Count, Doc("Pairs for each concept; as many look-alikes and as many harmless images of its file are kept.")
    ] = 64
    everyday: Annotated[Whole, Doc("Images of everyday things that are kept besides.")] = 192
    edit_strength: Annotated[
        Edit, Doc("Of SDEdit: the share of the noise from which the safe image is drawn again.")
    ] = 0.75
    tries: Annotated[Count, Doc("Seeds that are tried for a pair, at most.")] = 20
    draw_steps: Annotated[Steps, Doc("Denoising steps of the images.")] = 25
    guidance: Annotated[Guidance, Doc("Guidance of the images; 0 is what the concept's models are drawn with.")] = 0.0
    judge: Annotated[
        JudgedOrNone, Doc("Who judges both sides of a pair; empty is the concept's own, none asks nobody.")
    ] = ""
    also: Annotated[FreeText, Doc("Further concepts, comma-separated.")] = ""
    weight_decay: Annotated[Decay, Doc("Of AdamW.")] = 1e-2
    clip: Annotated[Clip, Doc("Largest norm of the gradient.")] = 1.0
    mixed_precision: Annotated[str, Among(*PRECISIONS), Doc("Of the passes with gradients.")] = "no"
    gradient_checkpointing: Annotated[bool, Doc("Less memory, more time.")] = False
    by_rows: Annotated[bool, Doc("The activations of one row in memory instead of 3 batch, the same gradients.")] = (
        False
    )
    checkpoint_every: Annotated[Count, Doc("Steps from checkpoint to checkpoint.")] = 100
    validate_every: Annotated[Whole, Doc("Steps from validation to validation; 0: none.")] = 0
    validate_images: Annotated[Images, Doc("Images of a validation.")] = 16
    tensorboard: Annotated[bool, Doc("Whether training is logged for TensorBoard.")] = False
    keep_pairs: Annotated[bool, Doc("Whether the pairs' latents stay when the fit is done.")] = True

    def __post_init__(self) -> None:
        if self.by_rows and self.mixed_precision == "fp16":
            raise UserError(
                "mixed_precision of no or bf16 with by_rows", "fp16", "its small gradients would be lost: bf16"
            )


@dataclass(kw_only=True, eq=False)
class Duo(WeightEdit):
    """``Duo.fit(pipe, concept, work=…, beta=250)``: LoRA on self-attention that ``load_lora_weights`` takes too."""

    name: ClassVar[str] = "duo"
    summary: ClassVar[str] = "DUO: self-attention LoRA, optimized to prefer safe images over their unsafe twins."
    Training: ClassVar[type | None] = DuoTraining
    published: ClassVar[Settings] = {
        "preset": "paper", "timesteps": "independent", "batch": 4, "rank": 32, "n": 64, "edit_strength": 0.75,
        "draw_steps": 50,
    }  # fmt: skip
    presets: ClassVar[dict[str, Settings]] = PRESETS
    quick: ClassVar[Settings] = {
        "n": 2, "everyday": 2, "steps": 2, "batch": 2, "rank": 2, "draw_steps": 2, "judge": "none",
        "beta": 500.0, "base_lr": 3e-4, "base_lambda": 1e6, "checkpoint_every": 2,
    }  # fmt: skip

    @classmethod
    def _fit(cls, fit: Fit, training: Settled, arguments: Settings) -> Self:
        backbone = adapter(fit.pipe)
        training = settled(training, fit.concept, cls.presets, backbone.family)
        made = cls(**arguments).fitted_for(backbone)
        scaled = Scaled.by(training.beta, training.base_lr, training.base_lambda)
        plan = plan_of(training, scaled.lr)  # a wrong setting fails before anything is drawn
        _find_known(training)
        identity = identity_of(cls.name, fit, training, backbone)
        concepts = concepts_of(fit.concept, training.also)
        with edits_attached(fit):
            sampler = Sampler(backbone)
            with main_first():
                found = [_pairs(sampler, concept, training, fit) for concept in concepts]
                keep = _keep(sampler, fit, concepts, training) if training.neighbor else None
            data = _Data(DenoiserCall(sampler), _join(found), keep, training)
            adapters = Adapters(self_attention(backbone), training.rank, torch.Generator().manual_seed(fit.seed))
            validation = Validation(sampler, fit.concept, training, fit) if training.validate_every else None
            loss = data.loss(adapters, backbone, scaled.lamb)
            record = descend(fit, backbone, adapters, loss, plan, identity, validation)
        made.load_tensors({f"{backbone.denoiser_name}.{k}": v for k, v in adapters.tensors().items()})
        made.record = {
            "concepts": [c.name for c in concepts],
            "seed": fit.seed,
            "training": asdict(training),
            "lr": scaled.lr,
            "lambda": scaled.lamb,
            "pairs": {c.name: p.report for c, p in zip(concepts, found, strict=True)},
            "parameters": sum(p.numel() for p in adapters.parameters.values()),
            **record,
        }
        _tidy(fit, training)
        return made


def self_attention(backbone: Backbone) -> dict[str, Layer]:
    """The projections that read the image, by role."""
    return {name: p.module for name, p in backbone.projections().items() if p.attention == "self"}


class _Data:
    """Draws the batch of a step from latents that lie in memory."""

    def __init__(self, predict: DenoiserCall, pairs: Pairs, keep: Kept | None, training: Settled) -> None:
        self.predict, self.training, device = predict, training, predict.latents.device
        self.unsafe, self.safe = pairs.unsafe.to(device).float(), pairs.safe.to(device).float()
        self.keep = None if keep is None else keep.latents.to(device).float()
        texts = [safe for _, safe in pairs.texts] + [unsafe for unsafe, _ in pairs.texts]
        self.texts = [*texts, *(keep.texts if keep is not None else ()), ""]
        self.encoded = None if training.text == "empty" else predict.backbone.encode(self.texts)

    def loss(self, adapters: Adapters, backbone: Backbone, lamb: float) -> Loss:
        """``(step, generator)`` → (loss, what to log)."""
        training = self.training
        neighbor = training.neighbor * training.beta / 100.0
        loss = duo_loss_by_rows if training.by_rows else duo_loss

        def at(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
            batch = self.batch(backbone, generator)
            found = loss(self.predict, adapters, backbone, batch, training.beta, lamb, neighbor)
            named = {"preference": found.preference, "preserve": found.preserve, "margin": found.margin}
            return found.total, {name: float(value) for name, value in named.items()}

        return at

    def batch(self, backbone: Backbone, generator: torch.Generator) -> PairBatch:
        n = self.training.batch
        rows = torch.randint(0, len(self.safe), (n,), generator=generator)
        noise = torch.randn(n, *self.safe.shape[1:], generator=generator).to(self.safe)
        t_safe, t_unsafe = times(backbone, n, self.training.timesteps, generator)
        kept = torch.randint(0, len(self.keep), (n,), generator=generator) if self.keep is not None else None
        batch = PairBatch(
            self.safe[rows], self.unsafe[rows], noise, t_safe, t_unsafe, self._text(rows, kept, generator)
        )
        if self.keep is None or kept is None:
            return batch
        return replace(batch, keep=self.keep[kept], t_keep=all_times(backbone, n, generator))

    def _text(self, rows: Tensor, kept: Tensor | None, generator: torch.Generator) -> Encoding | None:
        """The text of every row: safe, unsafe, noise alone (always the empty one), kept."""
        if self.encoded is None:
            return None
        n, how, empty = len(self.safe), self.training.text, len(self.texts) - 1
        told = torch.rand(len(rows), generator=generator) < (0.5 if how == "mixed" else 2.0)
        parts = [rows if how == "pair" else rows + n, rows + n]
        chosen = [torch.where(told, part, empty) for part in parts] + [torch.full_like(rows, empty)]
        chosen += [torch.where(told, kept + 2 * n, empty)] if kept is not None else []
        return self.encoded.rows(torch.cat(chosen).tolist())


def _pairs(sampler: Sampler, concept: Concept, training: Settled, fit: Fit) -> Pairs:
    recipe = Recipe(training.n, training.pairs, training.draw_steps, guidance_for(concept, training.guidance),
                    training.edit_strength, training.tries, 16, training.judge)  # fmt: skip
    identity = identity_of(f"pairs of {concept.name}", fit, recipe, sampler.backbone)  # not of beta: sweeps share them
    return make(sampler, concept, recipe, fit.work / "pairs" / concept.name, fit.seed, fit.progress, identity)


def _join(found: Sequence[Pairs]) -> Pairs:
    texts = [text for pairs in found for text in pairs.texts]
    return Pairs(torch.cat([p.unsafe for p in found]), torch.cat([p.safe for p in found]), texts, {})


@dataclass(frozen=True)
class Keeping:
    """What decides which images are kept."""

    prompts: tuple[str, ...]  # their ids
    draw_steps: int
    guidance: float


@dataclass(frozen=True)
class Kept:
    """Latents of images that must stay, and their prompts."""

    latents: Tensor
    texts: list[str]


def _keep(sampler: Sampler, fit: Fit, concepts: Sequence[Concept], training: Settled) -> Kept:
    """Look-alikes, the file's harmless things and everyday ones, per concept, as the base model draws them."""
    prompts = [p for c in concepts for p in harmless(c, training, fit.seed)]
    guidance = guidance_for(fit.concept, training.guidance)
    recipe = Keeping(tuple(p.id for p in prompts), training.draw_steps, guidance)
    identity, parts = identity_of("keep", fit, recipe, sampler.backbone), []

    def draw(some: Sequence[Prompt]) -> tuple[dict[str, Tensor], dict[str, str]]:
        seeds = [image_seed(fit.seed, f"keep/{p.id}") for p in some]
        texts = [p.text for p in some]
        drawn = sampler.generate(texts, seeds, steps=recipe.draw_steps, guidance=recipe.guidance)
        return {"latents": drawn.latents.cpu()}, {}

    for start in range(0, len(prompts), 16):
        fit.progress("images to keep", start, len(prompts))
        made = functools.partial(draw, prompts[start : start + 16])
        parts.append(stored(fit.work / "keep" / f"{start:05d}.safetensors", identity, made)[0]["latents"])
    return Kept(torch.cat(parts), [p.text for p in prompts])


def harmless(concept: Concept, training: Settled, seed: int) -> list[Prompt]:
    """``n`` look-alikes and ``n`` things of the file, in its templates, and ``everyday`` things in other words."""
    found = [p for kind in kinds(concept) for p in concept.prompts(kind, "train", training.n, seed)]
    if not training.everyday:
        return found
    wide = concept.model_copy(update={"benign": concept.benign.model_copy(update={"train": everyday(concept)})})
    worded = framed(wide, random.Random(f"{seed}:{concept.name}:duo"))
    return found + worded.prompts("benign", "train", training.everyday, seed)


def _tidy(fit: Fit, training: Settled) -> None:
    import shutil

    if not training.keep_pairs:
        shutil.rmtree(Path(fit.work) / "pairs", ignore_errors=True)


def _find_known(training: Settled) -> None:
    if training.text != "empty" and training.pairs not in MADE:
        raise UserError('text="empty" for a folder of pairs', repr(training.text), "a folder says no texts")
