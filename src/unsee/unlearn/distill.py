"""What ESD, CA and SPM share: latents of the frozen model, a target for each, and a student that learns to give it.

Everything that only the frozen model is asked is asked once and stored (``samples/``): whole sampling trajectories are
kept, not one latent each, and the targets with them. So training is one pass per step, with no second denoiser in
memory, and it resumes. ``x_t`` is thereby sampled from the frozen model, as the 2025 ESD code does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from ..backbones import adapter
from ..backbones.weights import unwrap
from ..concepts.prompts import image_seed
from ..defenses.presets import Settled, settled
from ..defenses.protection import edits_attached
from ..errors import Unsupported
from ..sampling.denoiser import DenoiserCall
from ..sampling.sampler import Sampler
from ..settings import Among, Checked, Count, Decay, Doc, FreeText, Guidance, Images, Rate, Settings, Steps, Whole
from .adapters import Adapters
from .base import Layer, WeightEdit, layer_of
from .descent import PRECISIONS, Clip, Loss, Rank, descend, identity_of, main_first, plan_of, stored
from .token_vectors import concepts_of
from .validation import JudgedOrNone, Validation

if TYPE_CHECKING:
    from ..backbones import Backbone, Encoding
    from ..defenses.base import Fit

E = TypeVar("E", bound=WeightEdit)
SCOPES = ("x", "x-strict", "u", "self", "all")
Target = Callable[[Tensor, Tensor, "Encoding", "Encoding"], Tensor]  # (x_t, t, asked, other) → (B, …)


@dataclass(frozen=True)
class Distilling(Checked):
    """Settings that all of them have; None is the preset's value."""

    scope: Annotated[
        str,
        Among(*SCOPES),
        Doc("Which layers learn: cross-attention (x), its keys and values (x-strict), everything else (u), self, all."),
    ] = "x"
    steps: Annotated[Count | None, Doc("Steps of training; None is the preset's.")] = None
    lr: Annotated[Rate | None, Doc("Learning rate; None is the preset's.")] = None
    batch: Annotated[Count, Doc("Latents of a step.")] = 4
    rank: Annotated[Rank, Doc("Of the LoRA that is trained; 0 trains whole deltas.")] = 0
    svd_rank: Annotated[Rank, Doc("Above 0, whole deltas are saved as LoRA of at most this rank.")] = 0
    biases: Annotated[bool, Doc("Whether the layers' biases are trained too.")] = False
    trajectories: Annotated[Count, Doc("Samplings of the frozen model that are learned from.")] = 64
    draw_steps: Annotated[Steps, Doc("Denoising steps of these.")] = 25
    guidance: Annotated[Guidance, Doc("Guidance of these.")] = 3.0
    also: Annotated[FreeText, Doc("Further concepts, comma-separated.")] = ""
    judge: Annotated[JudgedOrNone, Doc("Who judges validation's images; empty is the concept's own.")] = ""
    weight_decay: Annotated[Decay, Doc("Of AdamW.")] = 0.0
    clip: Annotated[Clip, Doc("Largest norm of the gradient; 0 clips none.")] = 1.0
    mixed_precision: Annotated[str, Among(*PRECISIONS), Doc("Of the passes with gradients.")] = "no"
    gradient_checkpointing: Annotated[bool, Doc("Less memory, more time.")] = False
    checkpoint_every: Annotated[Count, Doc("Steps from checkpoint to checkpoint.")] = 100
    validate_every: Annotated[Whole, Doc("Steps from validation to validation; 0: none.")] = 0
    validate_images: Annotated[Images, Doc("Images of a validation.")] = 16
    tensorboard: Annotated[bool, Doc("Whether training is logged for TensorBoard.")] = False


class Distilled(WeightEdit):
    """A weight edit whose student is given a target for each latent. A method writes ``target``."""

    quick: ClassVar[Settings] = {
        "trajectories": 2, "draw_steps": 2, "steps": 2, "batch": 2, "lr": 1e-2, "checkpoint_every": 2,
    }  # fmt: skip

    @classmethod
    def drawn_from(cls, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The prompts whose trajectories are used, one per (unsafe, safe) pair of texts: the unsafe ones."""
        return [unsafe for unsafe, _ in pairs]

    @classmethod
    def target(cls, predict: DenoiserCall, x: Tensor, t: Tensor, concept: Encoding, anchor: Encoding,
               training: Settled) -> Tensor:  # fmt: skip
        """What the student shall predict at ``x`` (B, …) and ``t`` (B,) when it is asked for the concept."""
        raise NotImplementedError

    @classmethod
    def loss(
        cls, predict: DenoiserCall, adapters: Adapters, samples: Samples, asked: Encoding, training: Settled
    ) -> Loss:
        """``(step, generator)`` → (loss, what to log)."""
        return student_loss(predict, samples, asked, training.batch)

    @classmethod
    def _fit(cls, fit: Fit, training: Settled, arguments: Settings) -> Self:
        backbone = adapter(fit.pipe)
        training = settled(training, fit.concept, cls.presets, backbone.family)
        made = cls(**arguments).fitted_for(backbone)
        plan, identity = plan_of(training, training.lr), identity_of(cls.name, fit, training, backbone)
        layers = layers_in(backbone, training.scope)
        concepts = concepts_of(fit.concept, training.also)
        pairs = [pair for c in concepts for pair in c.pairs("train", training.trajectories, fit.seed)]
        with edits_attached(fit):
            sampler = Sampler(backbone)
            predict = DenoiserCall(sampler)
            asked, safe = (backbone.encode(list(texts)) for texts in zip(*pairs, strict=True))

            def target(x: Tensor, t: Tensor, concept: Encoding, anchor: Encoding) -> Tensor:
                return cls.target(predict, x, t, concept, anchor, training)

            with main_first():
                samples = gather(fit, sampler, predict, cls.drawn_from(pairs), asked, safe, target, identity=identity,
                                 steps=training.draw_steps, guidance=training.guidance, batch=16)  # fmt: skip
            start = torch.Generator().manual_seed(fit.seed)
            adapters = Adapters(layers, training.rank, start, biases=training.biases)
            validation = Validation(sampler, fit.concept, training, fit) if training.validate_every else None
            loss = cls.loss(predict, adapters, samples, asked, training)
            record = descend(fit, backbone, adapters, loss, plan, identity, validation)
        made.load_tensors({f"{backbone.denoiser_name}.{k}": v for k, v in adapters.tensors().items()})
        common = {"concepts": [c.name for c in concepts], "seed": fit.seed, "training": asdict(training)}
        made.record = {**common, "layers": len(layers), **record}
        return made if not training.svd_rank else low_rank(made, training.svd_rank)


def low_rank(edit: E, rank: int) -> E:
    """``edit`` as LoRA of at most ``rank``, the error of that in its record."""
    made, error = edit.as_lora(rank)
    made.record = {**edit.record, "rank": rank, "relative error of the low rank": round(error, 4)}
    return made


@dataclass(frozen=True)
class Samples:
    """N latents on their way, ``(N, …)``, their times ``(N,)``, which text each was drawn with, and what to predict."""

    latents: Tensor
    t: Tensor
    text: Tensor  # (N,) rows of the asked texts
    target: Tensor


def layers_in(backbone: Backbone, scope: str) -> dict[str, Layer]:
    """Layers by role. ``x``: all of cross-attention; ``x-strict``: its keys and values; ``u``: every linear layer and
    convolution outside it; ``self``: self-attention; ``all``. In SD3 and FLUX, ``x`` is what reads text alone."""
    roles = backbone.projections()
    cross: dict[str, Layer] = {name: p.module for name, p in roles.items() if p.attention == "cross"}
    scopes: dict[str, dict[str, Layer]] = {
        "x": cross,
        "x-strict": {n: m for n, m in cross.items() if roles[n].part in ("k", "v", "context")},
        "self": {name: p.module for name, p in roles.items() if p.attention == "self"},
    }
    chosen = scopes.get(scope) or _everything(unwrap(backbone.denoiser), set(cross) if scope == "u" else set())
    if not chosen:
        raise Unsupported(f"a denoiser with layers of scope {scope}", "none", "choose another scope")
    return chosen


def gather(fit: Fit, sampler: Sampler, predict: DenoiserCall, prompts: Sequence[str], texts: Encoding, other: Encoding,
           target: Target, *, identity: str, steps: int, guidance: float, batch: int) -> Samples:  # fmt: skip
    """One trajectory per prompt from the frozen model, its targets beside it. ``texts`` and ``other`` have a row per
    prompt: what the student will be asked, and what the target is made of. Stored in chunks; goes on where it was."""
    chunks = []

    def made(rows: list[int]) -> tuple[dict[str, Tensor], dict[str, str]]:
        seeds = [image_seed(fit.seed, f"trajectory/{i}") for i in rows]
        drawn = sampler.generate([prompts[i] for i in rows], seeds, steps=steps, guidance=guidance)
        parts = [_at(predict, t, x, texts, other, rows, target) for t, x in drawn.path]
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}, {}

    for start in range(0, len(prompts), batch):
        fit.progress("trajectories", start, len(prompts))
        rows = list(range(start, min(start + batch, len(prompts))))
        path = fit.work / "samples" / f"{start:05d}.safetensors"
        chunks.append(stored(path, identity, functools.partial(made, rows))[0])
    fit.progress("trajectories", len(prompts), len(prompts))
    return Samples(
        **{name: torch.cat([chunk[name] for chunk in chunks]) for name in ("latents", "t", "text", "target")}
    )


def student_loss(predict: DenoiserCall, samples: Samples, texts: Encoding, batch: int) -> Loss:
    """``(step, generator)`` → (mean square between the student's prediction and the target, nothing more to log)."""
    device = predict.latents.device

    def at(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(samples.t), (batch,), generator=generator)
        text = texts.rows(samples.text[rows].tolist())
        predicted = predict(samples.latents[rows].to(device), samples.t[rows], text)
        return (predicted.float() - samples.target[rows].to(device).float()).square().mean(), {}

    return at


@torch.no_grad()
def _at(predict: DenoiserCall, t: float, latents: Tensor, texts: Encoding, other: Encoding, rows: list[int],
        target: Target) -> dict[str, Tensor]:  # fmt: skip
    times = torch.full((len(rows),), t, dtype=torch.float64)
    value = target(latents, times, texts.rows(rows), other.rows(rows))
    return {"latents": latents, "t": times, "text": torch.tensor(rows), "target": value}


def _everything(denoiser: nn.Module, without: set[str]) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for name, _ in denoiser.named_modules():
        plain = name.replace(".base_layer", "")
        layer = layer_of(denoiser, plain) if "lora_" not in name else None
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and plain not in without and getattr(layer, "groups", 1) == 1:
            found[plain] = layer  # a convolution in groups has no low-rank pair
    return found
