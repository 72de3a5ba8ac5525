"""LPIPS and prior preservation: how near a defended image stays to its undefended twin (same prompt, same seed).

Zhang et al., CVPR 2018 (arXiv:1801.03924), version 0.1 on AlexNet, computed by the package ``lpips`` of the extra
``[metrics]``. Its AlexNet comes from torchvision, which downloads it once into torch's hub folder.
Cost: two passes of AlexNet for each image, growing with the pixels.
Where we differ: nothing in the distance. Published tables take prior preservation at 64 × 64; we do both that and the
native size, which sees more of the change. Only the network named above is called LPIPS: another one that is injected
gives its own name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadFile, MissingExtra
from .base import of_pictures, stacked

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class LPIPS:
    """``(images, twins)`` → distances, 0 for the same picture, seldom above 1; None where either is no picture.

    Formula: d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lhwc − ŷ_lhwc)², x̂_l being the activations after AlexNet's l-th ReLU
    at unit length over channels, w_l ≥ 0 learned from human judgments.

    ``size=None`` compares at native size, ``size=64`` after making both 64 × 64 (bicubic, antialiased).
    ``network`` replaces the shipped one: any callable ``(B, 3, H, W)`` float32 in [-1, 1], twice → ``B`` numbers, with
    ``name`` for what it measures.
    Raises :class:`UserError` without the extra, or if an image and its twin differ in size.
    """

    higher_is_better = False
    range = (0.0, math.inf)

    def __init__(
        self, *, size: int | None = None, network: Network | None = None, name: str = "", device: str = "cpu"
    ) -> None:
        if (network is None) != (name == ""):
            raise ValueError("expected a name with a network of one's own, and none without")
        self.size, self.device, self.shipped = size, device, network is None
        self.network: Any = network or alexnet().to(device)
        self.name = f"{name or 'LPIPS'}{'' if size is None else f'-{size}px'}"

    def __call__(self, images: Sequence[Image], twins: Sequence[Image]) -> list[float | None]:
        return of_pictures(self._distances, images, twins)

    def _distances(self, images: list[Image], twins: list[Image]) -> list[float]:
        import torch

        found: list[float] = []
        with torch.no_grad():
            for one, other in zip(images, twins, strict=True):  # one by one: images of a list may differ in size
                a, b = torch.from_numpy(stacked([one, other], self.size)).permute(0, 3, 1, 2).float() / 127.5 - 1
                found.append(float(self.network(a[None].to(self.device), b[None].to(self.device))))
        return found


class PriorPreservation:
    """``(images, twins)`` → PP = 1 − LPIPS(image, twin): 1 for the same picture, below 0 only in theory; None where
    either is no picture.

    Compares at native size by default; ``PriorPreservation(LPIPS(size=64))`` is that of the published tables.
    """

    higher_is_better = True
    range = (-math.inf, 1.0)

    def __init__(self, distance: LPIPS | None = None) -> None:
        self.distance = distance or LPIPS()
        name = self.distance.name
        self.name = name.replace("LPIPS", "prior-preservation") if self.distance.shipped else f"1-minus-{name}"

    def __call__(self, images: Sequence[Image], twins: Sequence[Image]) -> list[float | None]:
        return [None if d is None else 1 - d for d in self.distance(images, twins)]


def alexnet() -> torch.nn.Module:
    """LPIPS 0.1 on AlexNet with its published weights, in eval mode."""
    try:
        from lpips import LPIPS as Network
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the second
        raise MissingExtra("lpips", "metrics", error) from error
    try:
        network = Network(net="alex", version="0.1", verbose=False)
    except OSError as error:  # no network: URLError is one
        raise BadFile(
            "AlexNet's weights in torch's hub folder", str(error), "go online once, or copy them there"
        ) from error
    return network.requires_grad_(False)
