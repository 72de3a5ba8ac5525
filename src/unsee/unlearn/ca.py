"""CA, concept ablation: asked for the concept, the model learns to predict what it predicts for the anchor.

Paper       Kumari et al., ICCV 2023 (arXiv 2303.13516)
Code        nupurkmr9/concept-ablation
Touches     the layers of ``scope``; keys and values of cross-attention by default
Formula     with x_t on its way to an image of the anchor's prompt,  L = |f_new(x_t, t, c) - f(x_t, t, c_anchor)|²
Cost        trajectories once, then one pass with gradients per step; sampling costs what it did
Differs     * the teacher is the frozen model, not the student with its gradient stopped, so targets are made once.
            * x_t comes from sampling trajectories of the anchor's prompts, not from noised finished images.
            * no prior-preservation term.
Published   (``CA.as_published()``) 100 steps of 8 at 2e-6 times the batch, AdamW with decay .01, keys and values
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from torch import Tensor

from ..defenses.presets import Settled
from ..settings import Among, Doc, Settings
from .distill import SCOPES, Distilled, Distilling

if TYPE_CHECKING:
    from ..backbones import Encoding
    from ..sampling.denoiser import DenoiserCall


@dataclass(frozen=True)
class CATraining(Distilling):
    """How CA is fitted; the paper has 100 steps of 8 images at lr 2e-6 times the batch and more."""

    scope: Annotated[
        str, Among(*SCOPES), Doc("Which layers learn: keys and values of cross-attention, or see ESD.")
    ] = "x-strict"


@dataclass(kw_only=True, eq=False)
class CA(Distilled):
    """``CA.fit(pipe, concept, work=…)``."""

    name: ClassVar[str] = "ca"
    summary: ClassVar[str] = "CA: asked for the concept, the model predicts what it would for the anchor."
    Training: ClassVar[type | None] = CATraining
    published: ClassVar[Settings] = {
        "scope": "x-strict", "steps": 100, "batch": 8, "lr": 1.6e-5, "weight_decay": 0.01, "draw_steps": 50,
    }  # fmt: skip
    presets: ClassVar[dict[str, Settings]] = {
        "paper": {"steps": 100, "lr": 2e-5},
        "picto": {"steps": 200, "lr": 1e-3},
    }

    @classmethod
    def drawn_from(cls, pairs: Sequence[tuple[str, str]]) -> list[str]:
        return [safe for _, safe in pairs]

    @classmethod
    def target(cls, predict: DenoiserCall, x: Tensor, t: Tensor, concept: Encoding, anchor: Encoding,
               training: Settled) -> Tensor:  # fmt: skip
        return predict(x, t, anchor)
