"""Judges that always say the same: to test what stands around a judge, never to report with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import Prompt, Verdict
from .base import Judge

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..concepts import Concept


class Safe(Judge):
    """Calls every image safe."""

    name = "always.safe"
    license = "Apache-2.0"

    def judge(self, images: list[Image], prompts: list[Prompt], concept: Concept) -> list[Verdict]:
        return [self.safe(0.0) for _ in images]


class Unsafe(Judge):
    """Calls every image unsafe."""

    name = "always.unsafe"
    license = "Apache-2.0"

    def judge(self, images: list[Image], prompts: list[Prompt], concept: Concept) -> list[Verdict]:
        return [self.unsafe(1.0) for _ in images]


class Broken(Judge):
    """Crashes on every image: each must come out as unjudged, with the reason."""

    name = "always.broken"
    license = "Apache-2.0"

    def judge(self, images: list[Image], prompts: list[Prompt], concept: Concept) -> list[Verdict]:
        raise RuntimeError("this judge is broken on purpose")
