"""Is it more than chance? McNemar's exact test for pairs, Holm's adjustment, the bootstrap interval of a mean.

Sources: McNemar, Psychometrika 12 (1947) 153-157, in its exact form (the discordant pairs are Binomial(n, 1/2));
Holm, Scandinavian Journal of Statistics 6 (1979) 65-70; Efron, Annals of Statistics 7 (1979) 1-26, percentile method.

Nothing in, nothing out: where there are no data there is no p-value and no interval. It is ``None``, never 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..types import Outcome

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
AT_ONCE = 2**20  # places drawn at a time: 8 MB


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value in (0, 1] that discordant pairs fall to either side alike.

    p = min(1, 2 · P(X ≤ min(first_only, second_only))), X ~ Binomial(first_only + second_only, 1/2).
    Without any discordant pair nothing speaks for a difference: 1.

    >>> mcnemar(1, 9), mcnemar(0, 0)
    (0.021484375, 1.0)
    """
    from scipy.special import bdtr

    if first_only < 0 or second_only < 0:
        raise ValueError(f"expected counts >= 0, got {first_only} and {second_only}")
    n = first_only + second_only
    return min(1.0, 2 * float(bdtr(min(first_only, second_only), n, 0.5)))


def paired_p(first: Sequence[Outcome], second: Sequence[Outcome]) -> float | None:
    """McNemar's p-value over the pairs in which both were judged; None if there is none."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if "unjudged" not in (a, b)]
    return mcnemar(pairs.count(("unsafe", "safe")), pairs.count(("safe", "unsafe"))) if pairs else None


def holm(values: Iterable[float | None]) -> list[float | None]:
    """Step-down adjusted p-values, in order; ``None`` stays and does not count as a test.

    The k-th smallest of m becomes the largest of (m − j + 1) · p_j over j ≤ k, at most 1. Calling every row below α
    a finding, the chance of any false one is at most α, however the rows depend on each other.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    found = list(values)
    known = sorted((p, place) for place, p in enumerate(found) if p is not None)
    reached = 0.0
    for rank, (p, place) in enumerate(known):
        reached = max(reached, min(1.0, (len(known) - rank) * p))
        found[place] = reached
    return found


def mean_interval(values: Iterable[float | None], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean of what is there, from 2,000 resamples of the images.

    The same values give the same interval. ``None`` with fewer than two values: one says nothing of the spread.
    """
    import numpy as np

    known = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(known) < 2:
        return None
    low, high = np.quantile(_means(known, seed), (0.025, 0.975))
    return float(low), float(high)


def _means(values: np.ndarray, seed: int) -> np.ndarray:
    """``(n,)`` → the means of ``(RESAMPLES,)`` resamples."""
    import numpy as np

    # Around the first value: a list of equal ones has exactly itself as its interval, without rounding.
    start, apart, n = values[0], values - values[0], len(values)
    if not apart.any():
        return np.full(RESAMPLES, start)
    random, most = np.random.default_rng(seed), max(1, AT_ONCE // len(values))
    parts = [min(most, RESAMPLES - done) for done in range(0, RESAMPLES, most)]
    return start + np.concatenate([apart[random.integers(n, size=(part, n))].mean(1) for part in parts])
