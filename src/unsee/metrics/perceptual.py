"""Picto perceptual distance and preservation. It is not LPIPS and never called so: the features are picto's judge's.

For each of the judge's four feature maps: unit-normalize over channels, squared difference, summed over channels,
mean over positions; the distance is the mean over maps. Range [0, 2]; 0 is the same picture. The form is that of
LPIPS (Zhang et al. 2018) without learned channel weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..files import read_json, typed
from ..judges.picto import network, pixels
from ..picto import WEIGHTS
from .base import metric, of_pictures

if TYPE_CHECKING:
    from PIL.Image import Image


@metric("picto-perceptual-distance", higher_is_better=False, range=(0.0, 2.0))
def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``(B, 3, 64, 64)`` in [-1, 1], twice → ``(B,)`` in [0, 2].

    Formula: d(x, y) = mean_l mean_hw Σ_c (x̂_lhwc − ŷ_lhwc)².
    """
    net, _ = network()
    total = torch.zeros(len(a))
    with torch.no_grad():
        for x, y in zip(net.features(a), net.features(b), strict=True):
            d = torch.nn.functional.normalize(x, dim=1) - torch.nn.functional.normalize(y, dim=1)
            total += d.square().sum(1).mean((1, 2))
    return total / 4


def _unrelated() -> float:
    path, what, do = WEIGHTS / "metrics.json", "picto's metrics inside the package", "reinstall unsee"
    return typed(dict[str, float], read_json(path, what, do), path, what, do)["unrelated_distance"]


class PictoPerceptual:
    """``(images, twins)`` → preservation: 1 is the same picture, 0 as far as any other; it can fall below 0. None
    where either is no picture.

    Formula: 1 − d(image, undefended twin) / mean d of unrelated images.
    """

    name = "picto-perceptual"
    higher_is_better = True
    range = (-math.inf, 1.0)

    def __init__(self) -> None:
        self.unrelated: float = _unrelated()

    def distance(self, images: Sequence[Image], twins: Sequence[Image]) -> list[float | None]:
        return of_pictures(lambda a, b: distance(pixels(a), pixels(b)).tolist(), images, twins)

    def preservation(self, images: Sequence[Image], twins: Sequence[Image]) -> list[float | None]:
        return [None if d is None else 1 - d / self.unrelated for d in self.distance(images, twins)]

    __call__ = preservation
