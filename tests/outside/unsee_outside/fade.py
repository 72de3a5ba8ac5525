"""Fade: every prompt says less of itself. For tests of what a guard of another package can do, not a defense.

Formula     c' = mean(c) + (1 - strength) (c - mean(c)), the mean over the prompt's tokens
Touches     the positive text
Cost        nothing of the model
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from unsee.backbones import Encoding
from unsee.concepts import Concept
from unsee.defenses import Guard, Step
from unsee.settings import Doc, Rate


@dataclass(kw_only=True, eq=False)
class Fade(Guard):
    """``Fade(strength=0.5)``."""

    name: ClassVar[str] = "outside-fade"
    summary: ClassVar[str] = "Draws every token toward its prompt's mean."

    strength: Annotated[Rate, Doc("How far toward the mean; 1 is all the way.")] = 0.5

    @classmethod
    def for_concept(cls, concept: Concept, **arguments: Any) -> Self:
        return cls(**arguments)

    def on_positive(self, step: Step, text: Encoding, state: Any) -> Encoding:
        mean = text.tokens.mean(1, keepdim=True)
        step.record(self, "faded")
        return replace(text, tokens=mean + (1 - self.strength) * (text.tokens - mean))
