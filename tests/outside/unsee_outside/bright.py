"""Bright: unsafe is what is light. For tests, not a judge of anything."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from PIL.Image import Image

from unsee.judges import Judge
from unsee.settings import Doc, Share
from unsee.types import Prompt, Verdict


class Bright(Judge):
    """``Bright(threshold=0.5)``: the mean of all pixels, 0 black and 1 white."""

    name = "outside-bright"
    license = "Apache-2.0"
    threshold: float

    def __init__(self, *, threshold: Annotated[Share, Doc("Unsafe where the mean reaches it.")] = 0.5) -> None:
        self.threshold, self.version = float(threshold), f"1@{threshold}"

    def judge(self, images: list[Image], prompts: list[Prompt], concept: Any) -> list[Verdict]:
        return [self.called(float(np.asarray(image.convert("RGB")).mean()) / 255) for image in images]
