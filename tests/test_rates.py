"""Intervals against independent implementations, and the rule that nothing is never zero."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest

from unsee.metrics.rates import mean, newcombe_paired, paired_difference, unsafe_rate, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 60), (1, 60), (30, 60), (59, 60), (60, 60), (7, 9)])
def test_wilson_equals_scipy(hits, n):
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_refuses_more_hits_than_trials():
    with pytest.raises(ValueError, match="hits=3, n=2"):
        wilson(3, 2)


def _newcombe_by_arrays(both, first, second, neither):
    """Method 10 written from the pairs themselves: scipy's Wilson and numpy's correlation."""
    a = np.array([1] * both + [1] * first + [0] * second + [0] * neither, float)
    b = np.array([1] * both + [0] * first + [1] * second + [0] * neither, float)
    n = len(a)
    ci_a = binomtest(int(a.sum()), n).proportion_ci(method="wilson")
    ci_b = binomtest(int(b.sum()), n).proportion_ci(method="wilson")
    if a.std() == 0 or b.std() == 0:
        phi = 0.0
    else:
        scale = n * a.std() * n * b.std()
        covariance = np.corrcoef(a, b)[0, 1] * scale
        phi = (covariance if covariance <= 0 else max(covariance - n / 2, 0)) / scale
    p, q = a.mean(), b.mean()
    down = np.array([q - ci_b.low, ci_a.high - p])
    up = np.array([ci_b.high - q, p - ci_a.low])
    matrix = np.array([[1, -phi], [-phi, 1]])
    return q - p - np.sqrt(down @ matrix @ down), q - p + np.sqrt(up @ matrix @ up)


TABLES = [(20, 2, 12, 16), (5, 40, 1, 14), (0, 60, 0, 0), (30, 0, 0, 30), (1, 1, 1, 1), (8, 20, 20, 2), (0, 3, 9, 50)]


@pytest.mark.parametrize("table", TABLES)
def test_newcombe_equals_an_independent_implementation(table):
    low, high = newcombe_paired(*table)
    assert (low, high) == pytest.approx(_newcombe_by_arrays(*table), abs=1e-7)
    assert -1 <= low <= high <= 1


def _tango(b, c, n):
    """Tango's score interval of (b - c) / n by root finding: another method, so only close."""

    def score(d):
        e = -b - c + (2 * n - b + c) * d
        f = -c * d * (1 - d)
        q = (np.sqrt(e * e - 8 * n * f) - e) / (4 * n)
        return (b - c - n * d) / np.sqrt(max(n * (2 * q + d * (1 - d)), 1e-12))

    middle = (b - c) / n
    return brentq(lambda d: score(d) - 1.96, -0.9999, middle - 1e-9), brentq(
        lambda d: score(d) + 1.96, middle + 1e-9, 0.9999
    )


@pytest.mark.parametrize("table", [(20, 2, 12, 16), (5, 40, 1, 14), (8, 20, 20, 2), (0, 3, 9, 50)])
def test_newcombe_is_close_to_tango(table):
    tango = _tango(table[2], table[1], sum(table))
    assert newcombe_paired(*table) == pytest.approx(tango, abs=0.03)


def test_newcombe_covers_the_truth_about_95_times_in_100():
    random = np.random.default_rng(0)
    cells = np.array([0.1, 0.5, 0.05, 0.35])  # both, first only, second only, neither
    truth, tables = cells[2] - cells[1], random.multinomial(60, cells, size=4000)
    intervals = [newcombe_paired(*map(int, t)) for t in tables]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.935 <= covered <= 0.975


def test_swapping_the_arms_mirrors_the_interval():
    low, high = newcombe_paired(20, 2, 12, 16)
    assert newcombe_paired(20, 12, 2, 16) == pytest.approx((-high, -low))


def test_nothing_is_no_data_and_never_zero():
    assert wilson(0, 0) is None
    assert newcombe_paired(0, 0, 0, 0) is None
    assert unsafe_rate([]).rate is None
    assert paired_difference([], []).difference is None
    assert mean([]) is None and mean([None]) is None and mean([0.0, None]) == 0.0


def test_unjudged_is_counted_and_never_averaged_in():
    rate = unsafe_rate(["unsafe", "unjudged", "safe", "unjudged"])
    assert (rate.n, rate.unjudged, rate.rate) == (4, 2, 0.5)
    assert unsafe_rate(["unjudged"]).rate is None


def test_a_pair_counts_only_when_both_were_judged():
    found = paired_difference(["unsafe", "unsafe", "unjudged"], ["safe", "unjudged", "unsafe"])
    assert (found.pairs, found.difference) == (1, -1.0)
