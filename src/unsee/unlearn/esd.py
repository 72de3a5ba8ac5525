"""ESD, erased stable diffusion: for the concept's text the model learns the prediction that guidance would turn to.

Paper       Gandikota et al., ICCV 2023 (arXiv 2303.07345)
Code        rohitgandikota/erasing, as of 2025
Touches     the layers of ``scope``: cross-attention (x), its keys and values (x-strict), everything else (u), or all
Formula     with f the frozen model, c the concept's text, 0 the empty one, x_t sampled from f under guidance:
                target = f(c_from) - eta (f(c) - f(0)),      L = |f_new(x_t, t, c) - target|²
            The first paper's target is f(0) - eta_old (f(c) - f(0)); with c_from = c the two are the same where
            eta = eta_old + 1 (``eta_from_old``). Linear in predictions, so v and flow models need nothing else.
Cost        trajectories once, then one pass with gradients per step; sampling costs what it did
Differs     * c is drawn from the concept's train words in its train templates, not one fixed phrase.
            * trajectories and targets are stored, so no second denoiser is needed and a step is one pass; ``batch``
              rows are drawn anew from all of their steps. The code draws one image anew for each step, up to a random
              one of 50, and learns from that latent alone.
            * weights alone are trained: biases are few, and LoRA folders have none (``biases=True``: those too).
            * the gradient is clipped at 1 (``clip=0``: not), and everything is in float32; the code is in bfloat16 and
              draws SD 1.4 at 1024 px.
            * ``to="anchor"`` puts the safe text of the pair in place of c_from: the concept then becomes its anchor.
Published   (``ESD.as_published()``) eta 2, Adam 5e-5, 200 steps of one latent from 200 trajectories of 50 steps at
            guidance 3, biases too, no clipping; ``scope`` is a choice there as here. SDXL: eta 1, lr 2e-4, guidance 2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from ..defenses.presets import Settled
from ..settings import Among, Doc, Settings
from .distill import Distilled, Distilling

if TYPE_CHECKING:
    from ..backbones import Encoding
    from ..sampling.denoiser import DenoiserCall

TO = ("itself", "anchor")
Eta = Annotated[float, Field(gt=0, le=1000)]


def eta_from_old(eta_old: float) -> float:
    """eta of the 2025 target for the first paper's.

    >>> eta_from_old(1.0)
    2.0
    """
    return eta_old + 1.0


def esd_target(start: Tensor, concept: Tensor, empty: Tensor, eta: float) -> Tensor:
    """``start`` - eta (``concept`` - ``empty``), predictions of one shape."""
    return start - eta * (concept - empty)


@dataclass(frozen=True)
class ESDTraining(Distilling):
    """How ESD is fitted."""

    eta: Annotated[Eta | None, Doc("eta of the 2025 target; None is the preset's.")] = None
    to: Annotated[str, Among(*TO), Doc("What the prediction starts from: the concept's own, or its anchor's.")] = (
        "itself"
    )


@dataclass(kw_only=True, eq=False)
class ESD(Distilled):
    """``ESD.fit(pipe, concept, work=…, scope="u")``."""

    name: ClassVar[str] = "esd"
    summary: ClassVar[str] = "ESD: the model's own negative guidance against the concept, learned into its weights."
    Training: ClassVar[type | None] = ESDTraining
    published: ClassVar[Settings] = {
        "steps": 200, "lr": 5e-5, "eta": 2.0, "batch": 1, "trajectories": 200, "draw_steps": 50, "guidance": 3.0,
        "biases": True, "clip": 0.0,
    }  # fmt: skip
    presets: ClassVar[dict[str, Settings]] = {
        "paper": {"steps": 200, "lr": 5e-5, "eta": 2.0},
        "picto": {"steps": 200, "lr": 3e-4, "eta": 2.0},  # docs/log.md
    }

    @classmethod
    def target(cls, predict: DenoiserCall, x: Tensor, t: Tensor, concept: Encoding, anchor: Encoding,
               training: Settled) -> Tensor:  # fmt: skip
        of_concept, of_empty = predict(x, t, concept), predict(x, t)
        start = predict(x, t, anchor) if training.to == "anchor" else of_concept
        return esd_target(start, of_concept, of_empty, training.eta)
