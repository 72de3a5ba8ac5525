"""FID and KID: how far a set of images lies from another set, by their features.

Heusel et al., NeurIPS 2017 (arXiv:1706.08500) and Bińkowski et al., ICLR 2018 (arXiv:1801.01401). The names FID and KID
are kept for the Inception network of the papers, as the package torch-fidelity (extra ``[metrics]``) carries it; any
other extractor that is injected, picto's own among them, gives ``frechet-NAME`` and ``kernel-NAME``.
Cost: one pass of the extractor over both sets (Inception at 299 px), then the roots of two matrices.
Where we differ: the trace of the root is taken from symmetric matrices, which is exact for rank-deficient covariances
too; and below 2,048 images, where the covariance of Inception's 2,048 features cannot have full rank and the bias
outgrows the differences one looks for, a number is given only on request and says so in its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ..errors import BadFile, MissingExtra, UserError
from ..pictures import fault
from .base import stacked

if TYPE_CHECKING:
    from PIL.Image import Image

ENOUGH = 2048
BATCH = 16


@dataclass(frozen=True)
class Distance:
    """A measured distance. ``value`` is None without data; ``few`` marks a number that is not to be quoted.

    ``left_out`` of both sets are no pictures (see :mod:`unsee.pictures`) and in none of the counts.
    """

    name: str
    value: float | None
    images: int
    references: int
    few: bool
    spread: float | None = None  # KID: standard deviation over the subsets
    left_out: int = 0

    def __str__(self) -> str:
        value = "no data" if self.value is None else f"{self.value:.4g}"
        out = f", {self.left_out} left out" if self.left_out else ""
        return f"{self.name} {value} ({self.images} against {self.references} images{out})"


class Extractor(Protocol):
    """``images`` → ``(N, D)`` features; ``name`` says whose."""

    name: str

    def __call__(self, images: Sequence[Image]) -> np.ndarray: ...


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of the features ``(N, D)`` and ``(M, D)``, N, M ≥ 2."""
    a, b = _checked(a, b)
    return gaussian_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def gaussian_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """The squared Wasserstein-2 distance of two Gaussians, at least 0. Means ``(D,)``, covariances ``(D, D)``."""
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    root = _root(cov_a)
    # Σ_a Σ_b has the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½; rounding leaves some a little below 0.
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    apart = np.asarray(mean_a) - np.asarray(mean_b)
    return max(0.0, float(apart @ apart + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy for the kernel (x·y / D + 1)³; can fall below 0.

    Σ_{i≠j} k(a_i, a_j) / N(N−1) + Σ_{i≠j} k(b_i, b_j) / M(M−1) − 2 mean_ij k(a_i, b_j), N, M ≥ 2.
    """
    a, b = _checked(a, b)
    return _within(a) + _within(b) - 2 * float(_kernel(a, b).mean())


def kernel_distance(
    a: np.ndarray, b: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of :func:`squared_mmd` over random subsets of both, drawn without repetition.

    ``size`` is cut to the smaller set. The same features and seed give the same numbers.
    """
    a, b = _checked(a, b)
    random, size = np.random.default_rng(seed), min(size, len(a), len(b))
    found = [
        squared_mmd(*(x[random.choice(len(x), size, replace=False)] for x in (a, b))) for _ in range(subsets)
    ]  # fmt: skip
    return float(np.mean(found)), float(np.std(found))


class _SetDistance:
    """``(images, references)`` → :class:`Distance`; both are sets, in no order."""

    higher_is_better = False
    standard: ClassVar[str]  # its name with the papers' Inception
    other: ClassVar[str]  # its prefix with any other extractor

    def __init__(self, extractor: Extractor | None = None) -> None:
        self.extractor: Extractor = Inception() if extractor is None else extractor
        inception = type(self.extractor) is Inception
        self.name = self.standard if inception else f"{self.other}-{self.extractor.name}"

    def __call__(self, images: Sequence[Image], references: Sequence[Image], *, few: bool = False) -> Distance:
        """Raises :class:`UserError` if either set has fewer than 2,048 images, unless ``few``."""
        given = len(images) + len(references)
        images, references = ([one for one in some if not fault(one)] for some in (images, references))
        least, left_out = min(len(images), len(references)), given - len(images) - len(references)
        if least < ENOUGH and not few:
            raise UserError(f"{ENOUGH} images or more for {self.name}", str(least), "draw more, or ask with few=True")
        name = f"{self.name} (few images)" if least < ENOUGH else self.name
        value, spread = None, None
        if least >= 2:
            value, spread = self.of(self._features(images), self._features(references))
        return Distance(name, value, len(images), len(references), least < ENOUGH, spread, left_out)

    def of(self, a: np.ndarray, b: np.ndarray) -> tuple[float, float | None]:
        """Value and spread from features."""
        raise NotImplementedError

    def _features(self, images: Sequence[Image]) -> np.ndarray:
        parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        return np.concatenate([np.asarray(self.extractor(part)) for part in parts])


class FrechetDistance(_SetDistance):
    """FID: the squared Fréchet distance of two Gaussians fitted to the features, in [0, ∞); 0 for the same set.

    Formula: |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).
    """

    range = (0.0, math.inf)
    standard, other = "FID", "frechet"

    def of(self, a: np.ndarray, b: np.ndarray) -> tuple[float, None]:
        return frechet_distance(a, b), None


class KernelDistance(_SetDistance):
    """KID: unbiased squared MMD of the features, mean over 100 subsets of 1,000; about 0 for sets of one origin.

    Formula: E k(a, a′) + E k(b, b′) − 2 E k(a, b), k(x, y) = (x·y / D + 1)³.
    """

    range = (-math.inf, math.inf)
    standard, other = "KID", "kernel"

    def of(self, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        return kernel_distance(a, b)


class Inception:
    """``images`` of one size → ``(N, 2048)`` float32: the pooled features of the papers' Inception (299 px inside).

    Its weights (95 MB) are downloaded once by torch-fidelity into torch's hub folder.
    """

    name = "inception"

    def __init__(self, *, device: str = "cpu") -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the second
            raise MissingExtra("torch-fidelity", "metrics", error) from error
        try:
            self.network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False).to(device)
        except OSError as error:  # no network: URLError is one
            raise BadFile(
                "Inception's weights in torch's hub folder", str(error), "go online once, or copy them there"
            ) from error
        self.device = device

    def __call__(self, images: Sequence[Image]) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(stacked(images)).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            return self.network(pixels.to(self.device))[0].float().cpu().numpy()


class PictoFeatures:
    """``images`` → ``(N, 192)`` float32: the last map of picto's judge, averaged over positions."""

    name = "picto"

    def __call__(self, images: Sequence[Image]) -> np.ndarray:
        import torch

        from ..judges.picto import network, pixels

        with torch.no_grad():
            return network()[0].features(pixels(images))[-1].mean((2, 3)).numpy()


def _checked(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features (N, D) and (M, D) with N, M >= 2, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite features, got NaN or infinity; look at the extractor")
    return a, b


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _within(a: np.ndarray) -> float:
    kernel = _kernel(a, a)
    return float((kernel.sum() - np.trace(kernel)) / (len(a) * (len(a) - 1)))
