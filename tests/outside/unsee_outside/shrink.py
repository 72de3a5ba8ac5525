"""Shrink: the values that the denoiser reads of the text, made smaller. For tests, not an unlearning method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Self

from unsee.backbones import adapter
from unsee.defenses.base import Fit
from unsee.settings import Checked, Doc, Rate
from unsee.unlearn.base import WeightEdit


@dataclass(frozen=True)
class Training(Checked):
    """How Shrink is fitted."""

    share: Annotated[Rate, Doc("Share of each weight that is taken off.")] = 0.5


@dataclass(kw_only=True, eq=False)
class Shrink(WeightEdit):
    """``Shrink.fit(pipe, concept, work=…, share=0.3)``."""

    name: ClassVar[str] = "outside-shrink"
    summary: ClassVar[str] = "Makes the value projections of attention smaller."
    Training: ClassVar[type | None] = Training
    quick: ClassVar[dict[str, Any]] = {"share": 0.9}

    @classmethod
    def _fit(cls, fit: Fit, training: Training, arguments: dict[str, Any]) -> Self:
        backbone = adapter(fit.pipe)
        made = cls(**arguments).fitted_for(backbone)
        values = {name: one.module.weight for name, one in backbone.projections().items() if one.part == "v"}
        made.load_tensors({
            f"{backbone.denoiser_name}.{name}.weight_delta": -training.share * weight.detach().float()
            for name, weight in values.items()
        })  # fmt: skip
        made.record = {"concept": fit.concept.name, "training": asdict(training), "layers": len(values)}
        return made
