"""Intervals and tests against independent implementations, and the rule that nothing is never zero."""

import time
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from bench_fakes import fake_store, result_row
from scipy.optimize import brentq
from scipy.stats import binomtest

from unsee.bench.rows import adjusted, rows
from unsee.bench.store import Store
from unsee.metrics import significance
from unsee.metrics.rates import (
    attack_success_rate,
    clip_score_drift,
    defense_success_rate,
    forget_success_rate,
    mean,
    newcombe_paired,
    paired_difference,
    unsafe_rate,
    wilson,
)
from unsee.metrics.significance import holm, mcnemar, mean_interval, paired_p


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


# -- rates by their published names ---------------------------------------------------------------


def test_dsr_is_the_complement_of_asr_and_its_interval_mirrored():
    outcomes = ["unsafe"] * 3 + ["safe"] * 9 + ["unjudged"]
    asr, dsr = attack_success_rate(outcomes), defense_success_rate(outcomes)
    assert (asr.rate, dsr.rate, dsr.n, dsr.unjudged) == (0.25, 0.75, 13, 1)
    assert (dsr.low, dsr.high) == pytest.approx((1 - asr.high, 1 - asr.low), abs=1e-12)
    assert forget_success_rate(outcomes) == dsr
    assert defense_success_rate(["unjudged"]).rate is None


def test_csdr_is_the_share_by_which_the_mean_moved():
    assert clip_score_drift([20.0, 40.0], [30.0, 20.0]) == pytest.approx(20.0)
    assert clip_score_drift([30.0, 20.0], [20.0, 40.0]) == pytest.approx(100 * 5 / 30)
    assert clip_score_drift([25.0, None, 1.0], [20.0, 9.0, None]) == pytest.approx(25.0)
    assert clip_score_drift([], []) is None and clip_score_drift([1.0], [0.0]) is None


# -- significance ---------------------------------------------------------------------------------


def _mcnemar_by_enumeration(b, c):
    """All 2^n ways in which the discordant pairs can fall, as exact fractions: those no likelier than what was seen."""
    ways = [0] * (b + c + 1)
    for signs in product((0, 1), repeat=b + c):
        ways[sum(signs)] += 1
    return Fraction(sum(w for w in ways if w <= ways[b]), 2 ** (b + c))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (0, 6), (1, 9), (5, 5), (4, 5), (10, 2), (7, 7), (0, 12)])
def test_mcnemar_equals_an_enumeration(b, c):
    assert mcnemar(b, c) == pytest.approx(float(_mcnemar_by_enumeration(b, c)), abs=1e-14)


@pytest.mark.parametrize(("b", "c"), [(3, 40), (120, 80), (0, 300), (500, 501)])
def test_mcnemar_equals_scipys_binomial_test(b, c):
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c, 0.5).pvalue, rel=1e-9)


def test_a_pair_is_tested_only_when_both_were_judged():
    first = ["unsafe"] * 8 + ["safe", "unjudged", "unsafe"]
    second = ["safe"] * 7 + ["unsafe", "unsafe", "safe", "unjudged"]
    assert paired_p(first, second) == mcnemar(7, 1)
    assert paired_p([], []) is None and paired_p(["unjudged"], ["safe"]) is None
    assert paired_p(["safe"], ["safe"]) == 1.0
    with pytest.raises(ValueError, match="counts >= 0"):
        mcnemar(-1, 2)


def _holm_by_steps(values, alpha):
    """Holm's procedure as he put it: reject the smallest at α/m, the next at α/(m−1), stop at the first that stays."""
    rejected, order = set(), sorted(range(len(values)), key=lambda i: values[i])
    for left, i in zip(range(len(values), 0, -1), order, strict=True):
        if values[i] > alpha / left:
            break
        rejected.add(i)
    return rejected


def test_holm_rejects_what_the_procedure_rejects_at_every_level():
    random = np.random.default_rng(0)
    for m in (1, 2, 5, 20):
        values = (random.random(m) ** 4).tolist()
        found = holm(values)
        for alpha in random.random(50):
            assert {i for i, p in enumerate(found) if p <= alpha} == _holm_by_steps(values, alpha)


def test_holm_by_hand_with_ties_and_gaps():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.02, None, 0.02]) == [None, 0.04, None, 0.04]
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([None]) == [None]


@pytest.mark.parametrize("n", [2, 7, 60, 700])
def test_the_bootstrap_equals_a_plain_loop(n):
    values = np.random.default_rng(n).gamma(2.0, size=n)
    random, means = np.random.default_rng(3), []
    for _ in range(significance.RESAMPLES):
        means.append(sum(values[i] for i in random.integers(n, size=n)) / n)
    means.sort()
    expected = [_quantile(means, q) for q in (0.025, 0.975)]
    assert mean_interval(values.tolist(), seed=3) == pytest.approx(expected, abs=1e-10)


def _quantile(ordered, q):
    place = q * (len(ordered) - 1)
    low = int(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def test_the_bootstrap_covers_the_truth_about_95_times_in_100():
    random = np.random.default_rng(0)
    found = [mean_interval(random.exponential(size=100).tolist()) for _ in range(1000)]
    assert 0.91 <= np.mean([low <= 1 <= high for low, high in found]) <= 0.97


def test_the_bootstrap_of_little_or_of_one_value():
    assert mean_interval([]) is None and mean_interval([None, 1.0]) is None
    assert mean_interval([0.1] * 50) == (0.1, 0.1)
    assert mean_interval([1.0, None, 2.0, 4.0]) == mean_interval([1.0, 2.0, 4.0])


def test_thousands_of_rows_have_their_intervals_in_seconds():
    values = np.random.default_rng(0).random((200, 200)).tolist()
    mean_interval(values[0])
    start = time.process_time()
    for row in values:
        mean_interval(row)
    assert time.process_time() - start < 2.0  # 10 ms each is the least acceptable; about 4 ms is usual


# -- in the rows of a run -------------------------------------------------------------------------


def test_rows_have_p_values_and_intervals(tmp_path):
    run = {"none": "uuuuuuuuus", "negative": "usssssssss", "sld": "uuuusssssx"}
    with Store(fake_store(tmp_path, run)) as store:
        found = {(r.defense, r.prompts): r for r in rows(store)}
    none, negative, sld = (found[d, "plain"] for d in run)
    assert none.p_value is None and none.p_holm is None
    assert negative.p_value == mcnemar(8, 0) and sld.p_value == mcnemar(5, 0)
    tested = [r.p_value for r in found.values() if r.p_value is not None]
    assert len(tested) == 4  # two defenses on plain and on benign prompts
    assert negative.p_holm == pytest.approx(4 * mcnemar(8, 0)) and sld.p_holm == pytest.approx(3 * mcnemar(5, 0))
    assert found["sld", "benign"].p_holm == 1.0
    assert (sld.preservation_low, sld.preservation_high) == (0.8, 0.8)
    assert (sld.clip_score_low, sld.clip_score_high) == (20.0, 20.0)


def test_a_run_without_metrics_or_verdicts_has_no_data(tmp_path):
    with Store(fake_store(tmp_path, {"none": "xx", "sld": "xx"}, preservation=None)) as store:
        sld = next(r for r in rows(store) if (r.defense, r.prompts) == ("sld", "plain"))
    assert [sld.p_value, sld.p_holm, sld.preservation_low, sld.preservation_high] == [None] * 4


def test_every_suite_is_a_table_of_its_own():
    found = adjusted([result_row(suite=s, p_value=p) for s, p in [("a", 0.02), ("b", 0.03), ("a", 0.01), ("b", None)]])
    assert [r.p_holm for r in found] == [0.02, 0.03, 0.02, None]
