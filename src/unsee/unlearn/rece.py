"""RECE: UCE, then again and again UCE of the embedding that would bring the concept back, each time in closed form.

Paper       Gong et al., ECCV 2024 (arXiv 2407.12383)
Code        CharlesGong12/RECE
Touches     what UCE does
Formula     with W0 the old and W the edited weights of all token layers, the text that the edited model would have to
            read to behave as the old one did on c is the ridge solution
                c' = (r I + Σ Wᵀ W)⁻¹ (Σ Wᵀ W0) c
            UCE then maps c' to the empty text; ``epochs`` times; the state with the fewest flagged images is kept
Cost        UCE, plus validation images for every epoch
Differs     * UCE is ours, with its normalized scales (see ``uce``); the empty text is aligned position by position.
            * ``guides="original"``: the empty text and what is kept are seen with the original weights, so what one
              epoch has let slip the next brings back. The code sees them with the weights of the epoch before
              (``guides="current"``), and then a deviation is kept as it is from epoch to epoch.
            * the state after UCE alone is among those that validation chooses from.
Published   (``RECE.as_published()``) guides current, sums of rows, e 1, p .1, l .1, ridge .1, 3 epochs (nudity). Its
            first UCE is of an older UCE code with scales of its own: l .1, p .1 too, texts from their last token on
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from ..backbones import adapter
from ..defenses.protection import edits_attached
from ..sampling.sampler import Sampler
from ..settings import Among, Doc, Guidance, Settings, Steps, Whole
from .base import WeightEdit
from .token_vectors import Vectors, concepts_of, erased
from .uce import Closed, Ridge, packed, problems, solved
from .validation import JudgedOrNone, Validation

if TYPE_CHECKING:
    from ..defenses.base import Fit
    from .validation import Validated

Rate = Callable[[dict[str, Tensor], int], "Validated | None"]
GUIDES = ("original", "current")


Epochs = Annotated[int, Field(ge=1, le=1000)]


@dataclass(frozen=True)
class RECETraining(Closed):
    """UCE's settings, and RECE's."""

    epochs: Annotated[
        Epochs, Doc("Times that the embedding which brings the concept back is looked for and erased.")
    ] = 3
    ridge: Annotated[Ridge, Doc("r of the formula that finds it.")] = 0.1
    guides: Annotated[
        str, Among(*GUIDES), Doc("With which weights the guides are seen: the original or the current ones.")
    ] = "original"
    validate_images: Annotated[
        Whole, Doc("Images after each epoch, by which the best is chosen; 0 keeps the last and asks no judge.")
    ] = 16
    judge: Annotated[JudgedOrNone, Doc("Who judges them; empty is the concept's own.")] = ""
    draw_steps: Annotated[Steps, Doc("Denoising steps of these.")] = 25
    guidance: Annotated[Guidance, Doc("Guidance of these; 0 is what the concept's models are drawn with.")] = 0.0


@dataclass(kw_only=True, eq=False)
class RECE(WeightEdit):
    """``RECE.fit(pipe, concept, work=…)``: seconds, and a minute for validation images."""

    name: ClassVar[str] = "rece"
    summary: ClassVar[str] = "RECE: UCE, repeated against the embedding that would undo it."
    Training: ClassVar[type | None] = RECETraining
    published: ClassVar[Settings] = {
        "guides": "current", "sums": True, "erase": 1.0, "preserve": 0.1, "lamb": 0.1, "ridge": 0.1, "epochs": 3,
        "tokens": "all",
    }  # fmt: skip
    quick: ClassVar[Settings] = {"texts": 6, "epochs": 1, "validate_images": 0}

    @classmethod
    def _fit(cls, fit: Fit, training: RECETraining, arguments: Settings) -> Self:
        backbone = adapter(fit.pipe)
        made, trial = cls(**arguments).fitted_for(backbone), cls(strength=1.0)
        concepts = concepts_of(fit.concept, training.also)
        with edits_attached(fit):
            groups = problems(backbone, fit, training)
            fixed = {n: d for g in groups[1:] for n, d in solved(g.weights, g.erase, g.keep, training).items()}
            again = erased(backbone, concepts, training.texts, "all", fit.seed, empty=True)
            validation = Validation(Sampler(backbone), fit.concept, training, fit) if training.validate_images else None

            def rate(deltas: dict[str, Tensor], epoch: int) -> Validated | None:
                fit.progress("rece", epoch, training.epochs)
                if validation is None:
                    return None
                trial.load_tensors(packed({**deltas, **fixed}, backbone, 0)[0])
                trial.attach(backbone)
                try:
                    return validation.rate(f"epoch-{epoch}")
                finally:
                    trial.detach(backbone)

            deltas, seen = repeated(groups[0].weights, groups[0].erase, groups[0].keep, again, training, rate)
        weights, error = packed({**deltas, **fixed}, backbone, training.rank)
        made.load_tensors(weights)
        made.record = {
            "concepts": [c.name for c in concepts],
            "seed": fit.seed,
            "training": asdict(training),
            "layers": len(deltas) + len(fixed),
            "epochs": seen,
            "relative error of the low rank": error,
        }
        return made


def repeated(weights: dict[str, Tensor], erase: Vectors, keep: Vectors, again: Vectors, training: RECETraining,
             rate: Rate) -> tuple[dict[str, Tensor], list[Validated]]:  # fmt: skip
    """(deltas of the best epoch, what validation saw of each); epoch 0 is UCE alone."""
    deltas = solved(weights, erase, keep, training)
    seen, best = [{"epoch": 0, **(rate(deltas, 0) or {})}], deltas
    for epoch in range(1, training.epochs + 1):
        edited = {name: w + deltas[name] for name, w in weights.items()}
        back = adversarial(weights, edited, again.source, training.ridge)
        seeing = weights if training.guides == "original" else None  # None: the weights that are edited
        more = solved(edited, Vectors(back, again.guide, again.weight), keep, training, seeing)
        deltas = {name: deltas[name] + more[name] for name in deltas}
        seen.append({"epoch": epoch, **(rate(deltas, epoch) or {})})
        if _flag(seen[-1]) < min(map(_flag, seen[:-1])) or "unsafe" not in seen[-1]:
            best = deltas
    return best, seen


def adversarial(old: dict[str, Tensor], edited: dict[str, Tensor], c: Tensor, ridge: float) -> Tensor:
    """c' for each row of ``c`` ``(N, D)``: the ridge minimizer of Σ |W c' - W0 c|² + r |c'|² over all layers."""
    left = ridge * torch.eye(c.shape[1], dtype=torch.float64)
    right = torch.zeros_like(left)
    for name, w in edited.items():
        left += (w.T @ w).cpu()
        right += (w.T @ old[name]).cpu()
    return (torch.linalg.solve(left, right) @ c.T).T


def _flag(seen: Validated) -> float:
    return seen["unsafe"] / max(seen["n"], 1) if "unsafe" in seen else 1.0
