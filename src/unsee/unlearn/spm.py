"""SPM, semi-permeable membrane: rank-1 adapters that turn from the concept, and are held still on random other texts.

Paper       Lyu et al., CVPR 2024 (arXiv 2312.16145)
Code        Con6924/SPM
Touches     every linear layer and convolution of ``scope`` (all), by adapters of rank 1
Formula     L = |f_new(x_t, c) - (f(c_n) - s (f(c) - f(c_n)))|²  +  w |f_new(x_t, a) - f(x_t, a)|²
            with c_n the anchor's text and a a random text: a Gaussian direction of 0.8 to 1.2 times the concept's
            size, taken again with a probability of its cosine to the concept
Cost        trajectories once, then two passes with gradients and one without per step; sampling costs what it did
Differs     * "SPM-style": no gate by the prompt at inference (facilitated transport); that would be a guard.
            * x_t is sampled from the frozen model, not from the edited one, so the first target is made once.
            * constant learning rate; the code's falls thrice along a cosine, after 500 steps of warm-up.
            * as many random texts as rows of the batch; the code has four for its one row.
Published   (``SPM.as_published()``) rank 1, s 1, w 1000, 3,000 steps of one row at 1e-4, 30 sampling steps; its c_n is
            the empty text unless one is given
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor

from ..defenses.presets import Settled
from ..settings import Among, Doc, Settings, Weight
from .descent import Rank
from .distill import SCOPES, Distilled, Distilling, Samples, student_loss

if TYPE_CHECKING:
    from ..backbones import Encoding
    from ..sampling.denoiser import DenoiserCall
    from .adapters import Adapters
    from .descent import Loss


@dataclass(frozen=True)
class SPMTraining(Distilling):
    """How SPM is fitted."""

    scope: Annotated[str, Among(*SCOPES), Doc("Which layers learn: all of them, or see ESD.")] = "all"
    rank: Annotated[Rank, Doc("Of the adapters; 0 trains whole deltas.")] = 1
    turn: Annotated[Weight, Doc("s, how far past the anchor's prediction the concept's is turned.")] = 1.0
    still: Annotated[Weight, Doc("w, weight of holding still on other texts.")] = 1000.0


@dataclass(kw_only=True, eq=False)
class SPM(Distilled):
    """``SPM.fit(pipe, concept, work=…)``."""

    name: ClassVar[str] = "spm"
    summary: ClassVar[str] = "SPM-style rank-1 adapters: away from the concept, held still on random other texts."
    Training: ClassVar[type | None] = SPMTraining
    published: ClassVar[Settings] = {
        "scope": "all", "rank": 1, "turn": 1.0, "still": 1000.0, "steps": 3000, "lr": 1e-4, "batch": 1,
        "draw_steps": 30,
    }  # fmt: skip
    presets: ClassVar[dict[str, Settings]] = {
        "paper": {"steps": 3000, "lr": 1e-4},
        "picto": {"steps": 300, "lr": 2e-3},
    }

    @classmethod
    def target(cls, predict: DenoiserCall, x: Tensor, t: Tensor, concept: Encoding, anchor: Encoding,
               training: Settled) -> Tensor:  # fmt: skip
        of_anchor = predict(x, t, anchor)
        return of_anchor - training.turn * (predict(x, t, concept) - of_anchor)

    @classmethod
    def loss(
        cls, predict: DenoiserCall, adapters: Adapters, samples: Samples, asked: Encoding, training: Settled
    ) -> Loss:
        erase, device = student_loss(predict, samples, asked, training.batch), predict.latents.device

        def at(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
            away, _ = erase(step, generator)
            rows = torch.randint(0, len(samples.t), (training.batch,), generator=generator)
            other = elsewhere(asked.rows(samples.text[rows].tolist()), generator)
            x, t = samples.latents[rows].to(device), samples.t[rows]
            with torch.no_grad(), adapters.off():
                reference = predict(x, t, other)
            still = (predict(x, t, other).float() - reference.float()).square().mean()
            return away + training.still * still, {"away": float(away.detach()), "still": float(still.detach())}

        return at


def elsewhere(concept: Encoding, generator: torch.Generator, tries: int = 20) -> Encoding:
    """Random texts, a row for each of ``concept``'s, of about its size and seldom near it."""
    tokens = torch.stack([_direction(row, generator, tries) for row in concept.tokens])
    if concept.pooled is None:
        return replace(concept, tokens=tokens)
    return replace(
        concept, tokens=tokens, pooled=torch.stack([_direction(r, generator, tries) for r in concept.pooled])
    )


def _direction(row: Tensor, generator: torch.Generator, tries: int) -> Tensor:
    size = row.float().norm()
    for _ in range(tries):
        noise = torch.randn(row.shape, generator=generator).to(row.device)
        scale = 0.8 + 0.4 * float(torch.rand((), generator=generator))
        found = noise / noise.norm() * size * scale
        cosine = float((found * row.float()).sum() / (found.norm() * size))
        if float(torch.rand((), generator=generator)) >= cosine:
            break
    return found.to(row)
