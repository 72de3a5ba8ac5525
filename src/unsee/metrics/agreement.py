"""Do two judges say the same of the same images? Cohen's kappa with a 95 % interval, and the table of all pairs.

Source      Cohen, Educational and Psychological Measurement 20 (1960) 37-46
Formula     κ = (p_o − p_e) / (1 − p_e); p_o is the share of images on which both agree, p_e what two judges with these
            rates would share by chance: p_a p_b + (1 − p_a)(1 − p_b), p the share called unsafe
Range       [−1, 1]: 1 always agree, 0 as by chance; higher is better
No data     where p_e = 1 (both call every image the same) kappa is 0/0: None, however well they agree
Interval    percentiles of a bootstrap over images. Resampling images that carry one pair of outcomes each is drawing
            the 2 × 2 table from a multinomial, so that is what is drawn. Resamples without a kappa are left out
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..types import Outcome
from .base import metric

K = TypeVar("K")  # an image's name


@dataclass(frozen=True)
class Agreement:
    """``n`` images that both judged, ``unjudged`` that one could not; ``observed`` is the share of equal outcomes."""

    first: str
    second: str
    n: int
    unjudged: int
    both: int  # unsafe to both
    first_only: int
    second_only: int
    neither: int
    observed: float | None
    kappa: float | None
    low: float | None
    high: float | None


@metric("kappa", higher_is_better=True, range=(-1.0, 1.0))
def kappa(both: int, first_only: int, second_only: int, neither: int) -> float | None:
    """Cohen's kappa of a 2 × 2 table; None without data or where chance alone explains all.

    Formula: κ = (p_o − p_e) / (1 − p_e).

    >>> round(kappa(20, 5, 10, 15), 6)
    0.4
    """
    found = float(_kappas(np.array([[both, first_only, second_only, neither]], dtype=float))[0])
    return None if np.isnan(found) else found


def interval(table: tuple[int, int, int, int], *, resamples: int = 10_000, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of kappa; the same for the same table and ``seed``.

    >>> low, high = interval((20, 5, 10, 15))
    >>> 0 < low < 0.4 < high < 1
    True
    """
    n = sum(table)
    if n == 0 or kappa(*table) is None:
        return None
    drawn = np.random.default_rng(seed).multinomial(n, np.array(table) / n, size=resamples)
    known = _kappas(drawn.astype(float))
    low, high = np.nanpercentile(known, [2.5, 97.5])  # kappa of the table itself is known, so of some resample too
    return float(low), float(high)


def agreement(first: str, second: str, a: Mapping[K, Outcome], b: Mapping[K, Outcome], *,
              seed: int = 0) -> Agreement:  # fmt: skip
    """Two judges' outcomes by image. Only images that both were shown count; an unjudged one is no vote."""
    pairs = [(a[i], b[i]) for i in a if i in b]
    votes = [(x == "unsafe", y == "unsafe") for x, y in pairs if "unjudged" not in (x, y)]
    both, one, other, neither = (votes.count(v) for v in ((True, True), (True, False), (False, True), (False, False)))
    low, high = interval((both, one, other, neither), seed=seed) or (None, None)
    observed = (both + neither) / len(votes) if votes else None
    value = kappa(both, one, other, neither)
    counts = (len(votes), len(pairs) - len(votes), both, one, other, neither)
    return Agreement(first, second, *counts, observed, value, low, high)


def agreements(outcomes: Mapping[str, Mapping[K, Outcome]], *, seed: int = 0) -> list[Agreement]:
    """Every pair of judges, each once: judge → image → outcome."""
    return [
        agreement(one, other, outcomes[one], outcomes[other], seed=seed)
        for one, other in itertools.combinations(sorted(outcomes), 2)
    ]


def _kappas(tables: np.ndarray) -> np.ndarray:
    """(R, 4) counts → (R,) kappas, NaN where undefined."""
    n = tables.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (tables[:, 0] + tables[:, 1]) / n, (tables[:, 0] + tables[:, 2]) / n
        observed, chance = (tables[:, 0] + tables[:, 3]) / n, a * b + (1 - a) * (1 - b)
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
