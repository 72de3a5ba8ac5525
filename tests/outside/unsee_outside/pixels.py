"""Pixels: preservation as the mean absolute difference. For tests; it sees nothing that a person sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from PIL.Image import Image

from unsee.metrics.base import of_pictures, stacked
from unsee.metrics.measures import Measure, Numbers, Size
from unsee.settings import Doc


class Pixels(Measure):
    """``preservation = "outside-pixels:size=32"``: 1 - mean |x - y| / 255, in [0, 1]."""

    name = "outside-pixels"

    def __init__(self, *, size: Annotated[Size | None, Doc("Side to which images are brought.")] = None) -> None:
        self.size = size

    def preservation(self, images: Sequence[Image], twins: Sequence[Image]) -> Numbers:
        return of_pictures(self._nearness, images, twins)

    def _nearness(self, images: list[Image], twins: list[Image]) -> list[float]:
        pairs = [stacked([one, other], self.size).astype(float) for one, other in zip(images, twins, strict=True)]
        return [1 - float(np.abs(one - other).mean()) / 255 for one, other in pairs]
