"""Each metric against a second computation of its formula (SciPy, NumPy, plain loops), and at its limits."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from golden import fresh
from PIL import Image
from scipy import linalg, stats

from unsee.errors import UserError
from unsee.metrics import agreement, cost, frechet, rates, significance
from unsee.pictures import fault

U, S, X = map(fresh, ("unsafe", "safe", "unjudged"))


# ---- rates ----


def score_bounds(hits: int, n: int, z: float = rates.Z95) -> tuple[float, float]:
    """Wilson's bounds as they are defined: the p with (hits / n - p)² = z² p (1 - p) / n."""
    share, spread = hits / n, z * z / n
    low, high = sorted(np.roots([1 + spread, -2 * share - spread, share * share]).real)
    return float(low), float(high)


@pytest.mark.parametrize(("hits", "n"), [(h, n) for n in (1, 2, 3, 10, 57) for h in range(0, n + 1, max(1, n // 4))])
def test_wilson_solves_the_score_equation(hits, n):
    assert rates.wilson(hits, n) == pytest.approx(score_bounds(hits, n), abs=1e-9)
    assert rates.wilson(hits, n, 1.0) == pytest.approx(score_bounds(hits, n, 1.0), abs=1e-9)


def test_wilson_at_its_limits():
    assert rates.wilson(0, 0) is None and rates.wilson(0, 5)[0] == 0.0 and rates.wilson(5, 5)[1] == 1.0
    assert rates.wilson(1, 5)[0] > 0 and rates.wilson(4, 5)[1] < 1
    assert pytest.approx(stats.norm.ppf(0.975), abs=1e-12) == rates.Z95
    for hits, n in ((-1, 5), (6, 5), (1, 0)):
        with pytest.raises(ValueError) as told:
            rates.wilson(hits, n)
        assert str(told.value) == f"expected 0 <= hits <= n, got hits={hits}, n={n}"


def newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Method 10 of the paper, written anew from its text (theta = second - first)."""
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = score_bounds(a + b, n), score_bounds(a + c, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    cross = cross if cross <= 0 else max(cross - n / 2, 0)
    phi = 0 if product == 0 else cross / math.sqrt(product)
    below = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    above = (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2
    theta = p2 - p1
    return max(-1, theta - math.sqrt(max(0, below))), min(1, theta + math.sqrt(max(0, above)))


@pytest.mark.parametrize("table", [*itertools.product((0, 1, 3, 8), repeat=4)])
def test_newcombe_is_the_papers_tenth_method(table):
    if not any(table):
        assert rates.newcombe_paired(*table) is None
        return
    assert rates.newcombe_paired(*table) == pytest.approx(newcombe(*table), abs=1e-8)


def test_newcombe_takes_another_level():
    wide, narrow = rates.newcombe_paired(9, 2, 5, 4), rates.newcombe_paired(9, 2, 5, 4, 1.0)
    assert wide[0] < narrow[0] < 3 / 20 < narrow[1] < wide[1]
    assert rates.newcombe_paired(0, 30, 0, 0)[0] == -1.0 and rates.newcombe_paired(0, 0, 30, 0)[1] == 1.0


def test_phi_is_a_correlation_shrunk_by_half_of_the_pairs():
    for a, b, c, d in itertools.product(range(5), repeat=4):
        rows = [(1, 1)] * a + [(1, 0)] * b + [(0, 1)] * c + [(0, 0)] * d
        got = rates._phi(a, b, c, d)
        if 0 in (a + b, c + d, a + c, b + d):
            assert got == 0.0
            continue
        true = float(np.corrcoef(np.array(rows).T)[0, 1])
        scale = math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
        assert got == pytest.approx(true if true <= 0 else max(0.0, true - (a + b + c + d) / 2 / scale))


def test_joined_arms_are_never_imaginary():
    assert rates._joined(0.3, 0.4, 0.0) == pytest.approx(0.5)
    assert rates._joined(0.3, 0.4, 0.5) == pytest.approx(math.sqrt(0.09 - 0.12 + 0.16))
    assert rates._joined(0.3, 0.4, -1.0) == pytest.approx(0.7) and rates._joined(0.1, 0.1, 1.0000001) == 0.0


def test_rates_count_what_was_judged():
    seen = [U, S, S, X, U, U, X]
    rate = rates.unsafe_rate(iter(seen))
    assert rate == rates.Rate(7, 2, 3, 3 / 5, *rates.wilson(3, 5)) == rates.attack_success_rate(seen)
    safe = rates.Rate(7, 2, 2, 2 / 5, *rates.wilson(2, 5))
    assert rates.defense_success_rate(seen) == rates.forget_success_rate(seen) == safe
    assert rates.unsafe_rate([X, X]) == rates.Rate(2, 2, 0, None, None, None)
    assert rates.unsafe_rate([]) == rates.Rate(0, 0, 0, None, None, None)


def test_a_paired_difference_is_second_minus_first():
    first, second = [U, U, S, X, S, U], [U, S, U, U, S, X]
    got = rates.paired_difference(first, second)
    assert got == rates.Difference(4, 0.0, *rates.newcombe_paired(1, 1, 1, 1))
    one = rates.paired_difference([S, S, U], [U, S, U])
    assert one == rates.Difference(3, 1 / 3, *rates.newcombe_paired(1, 0, 1, 1))
    assert rates.paired_difference([X], [U]) == rates.Difference(0, None, None, None)
    with pytest.raises(ValueError):
        rates.paired_difference([U], [U, S])


def test_a_mean_is_of_what_is_there():
    assert rates.mean([None, 1.0, 2.0, None]) == 1.5 and rates.mean([0.0]) == 0.0
    assert rates.mean([]) is None and rates.mean([None]) is None


def test_drift_is_a_share_of_the_reference():
    assert rates.clip_score_drift([20.0], [25.0]) == rates.clip_score_drift([30.0], [25.0]) == pytest.approx(20)
    assert rates.clip_score_drift([None, 20.0, 5.0], [1.0, 40.0, None]) == pytest.approx(50)
    assert rates.clip_score_drift([1.0], [0.0]) is None and rates.clip_score_drift([1.0], [-2.0]) is None
    assert rates.clip_score_drift([1.0], [0.5]) == pytest.approx(100) and rates.clip_score_drift([], []) is None
    with pytest.raises(ValueError):
        rates.clip_score_drift([1.0], [])


def test_metrics_are_registered_with_their_direction_and_range():
    """Catches a metric whose better end, or range, is the other one."""
    told = {
        f.__name__: (f.higher_is_better, f.range)
        for f in (
            rates.attack_success_rate,
            rates.defense_success_rate,
            rates.forget_success_rate,
            rates.clip_score_drift,
            agreement.kappa,
            cost.latency,
            cost.peak_memory,
        )
    }
    assert told == {
        "attack_success_rate": (False, (0.0, 1.0)),
        "defense_success_rate": (True, (0.0, 1.0)),
        "forget_success_rate": (True, (0.0, 1.0)),
        "clip_score_drift": (False, (0.0, math.inf)),
        "kappa": (True, (-1.0, 1.0)),
        "latency": (False, (0.0, math.inf)),
        "peak_memory": (False, (0.0, math.inf)),
    }
    assert (frechet.FrechetDistance.higher_is_better, frechet.FrechetDistance.range) == (False, (0.0, math.inf))
    assert (frechet.KernelDistance.higher_is_better, frechet.KernelDistance.range) == (False, (-math.inf, math.inf))


# ---- significance ----


def test_mcnemar_is_the_exact_binomial_test():
    for a, b in itertools.product(range(9), repeat=2):
        wanted = stats.binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
        assert significance.mcnemar(a, b) == pytest.approx(wanted)
    for a, b in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match=f"expected counts >= 0, got {a} and {b}"):
            significance.mcnemar(a, b)


def test_a_paired_p_is_of_the_discordant_pairs():
    first, second = [U, U, U, S, S, X, U], [S, S, U, S, U, U, X]
    assert significance.paired_p(first, second) == significance.mcnemar(2, 1)
    assert significance.paired_p([U] * 6, [S] * 6) == 2 / 64 and significance.paired_p([S], [S]) == 1.0
    assert significance.paired_p([X], [U]) is None and significance.paired_p([], []) is None


def holm(values):
    """Holm by its definition: reject step by step at each level; the p is the least level at which one is rejected."""
    known = sorted(v for v in values if v is not None)
    m = len(known)
    return [v if v is None else min(1.0, max((m - i) * p for i, p in enumerate(known) if p <= v)) for v in values]


def test_holm_is_stepwise_bonferroni():
    chance = np.random.default_rng(0)
    for n in range(8):
        values = [None if chance.random() < 0.2 else float(chance.random() ** 3) for _ in range(n)]
        assert significance.holm(values) == pytest.approx(holm(values))
    assert significance.holm([0.6, 0.9, None]) == [1.0, 1.0, None] and significance.holm([]) == []
    assert significance.holm([0.02]) == [0.02] and significance.holm([0.0, 0.5]) == [0.0, 0.5]


def test_the_bootstrap_is_the_percentiles_of_resampled_means():
    values = [0.3, 0.9, 0.5, 0.1, 0.7, 0.65]
    for seed in (0, 4):
        places = np.random.default_rng(seed).integers(6, size=(2000, 6))
        wanted = np.quantile(np.array(values)[places].mean(1), (0.025, 0.975))
        assert significance.mean_interval([None, *values], seed=seed) == pytest.approx(tuple(wanted))
    assert significance.mean_interval(values) == significance.mean_interval(values, seed=0)
    assert significance.mean_interval([1.0]) is None and significance.mean_interval([None, None, 2.0]) is None
    assert significance.mean_interval([0.1, 0.1]) == (0.1, 0.1) and significance.mean_interval([0.0, 1.0]) == (0.0, 1.0)


def test_the_bootstrap_of_many_is_drawn_in_parts_of_bounded_size(monkeypatch):
    """Catches parts that are too large for memory, and resamples that are lost between parts."""
    seen, real = [], np.random.default_rng

    class Spy:
        def __init__(self, seed):
            self.of = real(seed)

        def integers(self, n, size):
            seen.append((n, size))
            return self.of.integers(n, size=size)

    monkeypatch.setattr(np.random, "default_rng", Spy)
    for limit, n, parts in (
        (7000, 10, [700, 700, 600]),
        (5, 10, [1] * 2000),
        (20_000, 10, [2000]),
        (10, 10, [1] * 2000),
    ):
        seen.clear()
        monkeypatch.setattr(significance, "AT_ONCE", limit)
        assert significance._means(np.arange(float(n)), 0).shape == (significance.RESAMPLES,)
        assert seen == [(n, (part, n)) for part in parts]
    assert significance.RESAMPLES == 2000
    monkeypatch.undo()
    assert significance.AT_ONCE * 8 == 8 * 1024**2  # bytes: 8 MB


# ---- agreement ----


def kappa(a, b, c, d):
    n = a + b + c + d
    if n == 0:
        return None
    expected = ((a + b) * (a + c) + (c + d) * (b + d)) / n**2
    return None if expected == 1 else ((a + d) / n - expected) / (1 - expected)


def test_kappa_is_cohens():
    for table in itertools.product((0, 1, 2, 7), repeat=4):
        assert agreement.kappa(*table) == pytest.approx(kappa(*table))
    assert agreement.kappa(5, 0, 0, 0) is None and agreement.kappa(0, 0, 0, 5) is None


def test_kappas_interval_is_the_bootstrap_of_its_table():
    table = (20, 5, 10, 15)
    for seed, resamples in ((0, 10_000), (3, 400)):
        drawn = np.random.default_rng(seed).multinomial(50, np.array(table) / 50, size=resamples)
        wanted = np.nanpercentile([np.nan if (k := kappa(*map(int, row))) is None else k for row in drawn], [2.5, 97.5])
        more = {} if resamples == 10_000 else {"resamples": resamples}
        assert agreement.interval(table, seed=seed, **more) == pytest.approx(tuple(wanted))
    assert agreement.interval(table) == agreement.interval(table, seed=0, resamples=10_000)
    for none in ((0, 0, 0, 0), (3, 0, 0, 0), (0, 0, 0, 3)):
        assert agreement.interval(none) is None
    assert agreement.interval((1, 0, 0, 1)) == (1.0, 1.0)


def test_two_judges_are_compared_on_what_both_have_seen():
    a = {"1": U, "2": U, "3": S, "4": S, "5": X, "6": U, "8": S, "9": U}
    b = {"1": U, "2": S, "3": U, "4": S, "5": U, "6": X, "7": S, "8": S, "9": U}
    got = agreement.agreement("a", "b", a, b, seed=2)
    low, high = agreement.interval((2, 1, 1, 2), seed=2)
    assert got == agreement.Agreement("a", "b", 6, 2, 2, 1, 1, 2, 4 / 6, kappa(2, 1, 1, 2), low, high)
    nothing = agreement.agreement("a", "b", {"1": X}, {"1": U, "2": S})
    assert nothing == agreement.Agreement("a", "b", 0, 1, 0, 0, 0, 0, None, None, None, None)
    same = agreement.agreement("a", "b", {"1": U}, {"1": U})
    assert (same.observed, same.kappa, same.low, same.high) == (1.0, None, None, None)


def test_all_pairs_of_judges_once_in_order():
    said = {"c": {"1": U, "2": S}, "a": {"1": U, "2": S}, "b": {"1": S, "2": S}}
    got = agreement.agreements(said, seed=5)
    assert [(g.first, g.second) for g in got] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert got[2] == agreement.agreement("b", "c", said["b"], said["c"], seed=5)
    assert agreement.agreements({"a": {}}) == []


# ---- cost ----


def test_the_medians_interval_is_of_the_binomial():
    for n in range(0, 61):
        values = [float((7 * i) % n) for i in range(n)] if n % 7 else [float(i) for i in range(n)]
        k = max((k for k in range(1, n // 2 + 1) if stats.binom.cdf(k - 1, n, 0.5) <= 0.025), default=0)
        wanted = (sorted(values)[k - 1], sorted(values)[n - k]) if k else None
        assert cost.median_interval(values) == wanted, n
    assert cost.median_interval([1.0] * 5) is None and cost.median_interval([3.0, 1, 2, 6, 5, 4]) == (1, 6)


class Clock:
    """A clock that each call moves on by what it costs."""

    def __init__(self, costs):
        self.now, self.costs, self.calls = 100.0, iter(costs), 0

    def __call__(self):
        self.calls += 1
        self.now += next(self.costs)


def test_latency_is_the_median_after_the_warmup(monkeypatch):
    """Catches a warmup that counts, a call too many, a start that is not subtracted."""
    for repeats, warmup, spent in ((6, 1, [50.0, 3, 1, 2, 6, 5, 4]), (3, 2, [9.0, 9, 1, 2, 4]), (1, 0, [7.0])):
        clock = Clock(spent)
        monkeypatch.setattr(cost.time, "perf_counter", lambda clock=clock: clock.now)
        got = cost.latency(clock, repeats=repeats, warmup=warmup)
        own = spent[warmup:]
        assert clock.calls == repeats + warmup and got.seconds == statistics.median(own)
        assert (got.n, got.low, got.high) == (repeats, *(cost.median_interval(own) or (None, None)))
    clock = Clock([1.0] * 99)
    assert cost.latency(clock).n == 10 and clock.calls == 11
    for repeats in (0, -1):
        with pytest.raises(ValueError, match=f"expected repeats >= 1, got {repeats}"):
            cost.latency(lambda: None, repeats=repeats)


def test_an_accelerator_is_waited_for_before_each_look_at_the_clock(monkeypatch):
    import torch

    said = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: said.append(device))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: said.append("clock") or 0.0)
    cost.seconds(lambda: said.append("call"), device="cuda:1")
    assert said == ["cuda:1", "clock", "call", "cuda:1", "clock"]
    said.clear()
    cost.seconds(lambda: said.append("call"))
    assert said == ["clock", "call", "clock"]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: said.append(f"reset {device}"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    said.clear()
    assert cost.peak_memory(lambda: said.append("call"), device="cuda") == 3.0
    assert said == ["reset cuda", "cuda", "clock", "call", "cuda", "clock"]


def test_ratios_of_pairs_and_their_middle_half():
    assert cost.pair_ratio([1.0, 2, 4, 1], [2.0, 2, 2, 3]) == {"ratio": 1.5, "middle_half": [1.0, 2.0]}
    assert cost.pair_ratio([1.0], [3.0]) == {"ratio": 3.0, "middle_half": [3.0, 3.0]}
    before, after = [1.0] * 8, [8.0, 1, 2, 7, 3, 6, 5, 4]
    assert cost.pair_ratio(before, after) == {"ratio": 4.5, "middle_half": [3.0, 6.0]}
    assert cost.pair_ratio([3.0] * 3, [1.0, 1, 2]) == {"ratio": 0.3333, "middle_half": [0.3333, 0.6667]}
    with pytest.raises(ValueError):
        cost.pair_ratio([1.0], [1.0, 2.0])


def test_peak_memory_is_in_mib_of_this_call(monkeypatch):
    monkeypatch.setattr(cost.Path, "write_text", lambda self, text: (str(self), text) == ("/proc/self/clear_refs", "5"))
    monkeypatch.setattr(cost, "read_text", lambda *told: "VmRSS: 9 kB\nVmHWM:\t  5120 kB\n")
    called = []
    assert cost.peak_memory(lambda: called.append(1)) == 5.0 and called == [1]
    monkeypatch.setattr(cost, "read_text", lambda *told: "nothing")
    assert cost.peak_memory(lambda: called.append(1)) is None and called == [1, 1]

    def refused(self, text):
        raise PermissionError

    monkeypatch.setattr(cost.Path, "write_text", refused)
    assert cost.peak_memory(lambda: called.append(1)) is None and called == [1, 1]


# ---- distances of sets ----


@pytest.fixture
def sets():
    chance = np.random.default_rng(0)
    return chance.normal(size=(9, 3)) @ chance.normal(size=(3, 3)), chance.normal(1.0, 2.0, size=(7, 3))


def test_fid_is_the_formula_with_scipys_root(sets):
    a, b = sets
    ca, cb = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * linalg.sqrtm(ca @ cb).real)
    assert frechet.frechet_distance(a, b) == pytest.approx(wanted)
    assert frechet.gaussian_distance(a.mean(0), ca, b.mean(0), cb) == pytest.approx(wanted)
    assert frechet.FrechetDistance(Fake()).of(a, b) == (pytest.approx(wanted), None)
    one = frechet.gaussian_distance(np.array([1.0]), np.array(4.0), np.array([3.0]), np.array(9.0))
    assert one == pytest.approx((3 - 1) ** 2 + (3 - 2) ** 2)
    assert 0 <= frechet.frechet_distance(a, a) < 1e-9
    flat = frechet.frechet_distance(a[:2], b[:2])  # of rank one: rounding leaves no root of less than nothing
    c, d = np.cov(a[:2].T), np.cov(b[:2].T)
    wanted = ((a[:2].mean(0) - b[:2].mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * math.sqrt(np.trace(c @ d))
    assert flat == pytest.approx(wanted)


def mmd(a, b):
    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(s):
        return sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / len(s) / (len(s) - 1)

    return within(a) + within(b) - 2 * sum(k(x, y) for x in a for y in b) / len(a) / len(b)


def test_kid_is_the_unbiased_mmd_in_loops(sets):
    a, b = sets
    assert frechet.squared_mmd(a, b) == pytest.approx(mmd(a, b))
    for subsets, size, seed in ((4, 5, 0), (3, 99, 2)):
        chance, least = np.random.default_rng(seed), min(size, 7)
        found = []
        for _ in range(subsets):
            some = [x[chance.choice(len(x), least, replace=False)] for x in (a, b)]
            found.append(mmd(*some))
        got = frechet.kernel_distance(a, b, subsets=subsets, size=size, seed=seed)
        assert got == pytest.approx((np.mean(found), np.std(found)))
    usual = frechet.kernel_distance(a, b)
    assert (
        usual
        == frechet.kernel_distance(a, b, subsets=100, size=1000, seed=0)
        == frechet.KernelDistance(Fake()).of(a, b)
    )
    many = np.random.default_rng(1).normal(size=(1001, 1))
    assert frechet.kernel_distance(many, many, subsets=2)[1] > 0  # 1,000 of 1,001


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (np.zeros(4), np.zeros((2, 2)), r"got \(4,\) and \(2, 2\)"),
        (np.zeros((2, 2)), np.zeros(4), r"got \(2, 2\) and \(4,\)"),
        (np.zeros((2, 2)), np.zeros((2, 3)), "N, M >= 2, got"),
        (np.zeros((1, 2)), np.zeros((2, 2)), "N, M >= 2, got"),
        (np.zeros((2, 2)), np.zeros((1, 2)), "N, M >= 2, got"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), "expected finite features"),
        (np.zeros((2, 2)), np.full((2, 2), np.inf), "expected finite features"),
    ],
)
def test_features_of_another_form_are_told(a, b, told):
    for distance in (frechet.frechet_distance, frechet.squared_mmd, frechet.kernel_distance):
        with pytest.raises(ValueError, match=told):
            distance(a, b)
    assert frechet.squared_mmd(np.zeros((2, 1)), np.zeros((2, 1))) == 0


class Fake:
    """The mean color of each image, three numbers; notes how many it was given at once."""

    name = "fake"

    def __init__(self):
        self.asked = []

    def __call__(self, images):
        self.asked.append(len(images))
        return np.array([np.asarray(one, float).mean((0, 1)) for one in images])


def pictures(n, seed=0):
    chance = np.random.default_rng(seed)
    made = [Image.fromarray(chance.integers(0, 255, size=(8, 8, 3), dtype=np.uint8)) for _ in range(n)]
    assert not any(map(fault, made))
    return made


def test_a_distance_tells_its_sets_and_is_asked_for_where_they_are_few(monkeypatch):
    """At the limit itself; nothing is measured of fewer than two; what is no picture is left out and counted."""
    black = Image.new("RGB", (8, 8))
    assert fault(black)
    fake = Fake()
    distance = frechet.FrechetDistance(fake)
    monkeypatch.setattr(frechet, "ENOUGH", 5)
    a, b = pictures(5), pictures(35, 1)
    got = distance(a, [*b, black, black])
    assert fake.asked == [5, 16, 16, 3]
    value = frechet.frechet_distance(Fake()(a), Fake()(b))
    assert got == frechet.Distance("frechet-fake", value, 5, 35, False, None, 2)
    assert str(got) == f"frechet-fake {value:.4g} (5 against 35 images, 2 left out)"
    with pytest.raises(UserError) as told:
        distance(a[:4], b)
    assert str(told.value) == "expected 5 images or more for frechet-fake, got 4; draw more, or ask with few=True"
    few = distance(b, a[:4], few=True)
    assert (few.name, few.few, few.images, few.references) == ("frechet-fake (few images)", True, 35, 4)
    assert distance(a[:2], b[:2], few=True).value is not None
    none = distance(a[:1], b, few=True)
    assert none == frechet.Distance("frechet-fake (few images)", None, 1, 35, True, None, 0)
    assert str(none) == "frechet-fake (few images) no data (1 against 35 images)"
    kernel = frechet.KernelDistance(Fake())(a, b)
    assert kernel.name == "kernel-fake" and kernel.spread == frechet.kernel_distance(Fake()(a), Fake()(b))[1]
    assert distance(a, b).few is False
    monkeypatch.undo()
    assert (frechet.ENOUGH, frechet.BATCH) == (2048, 16)


def test_the_papers_names_are_for_the_papers_network(monkeypatch):
    class Inception(Fake):
        name = "inception"

    monkeypatch.setattr(frechet, "Inception", Inception)
    assert (frechet.FrechetDistance().name, frechet.KernelDistance().name) == ("FID", "KID")
    own = type("Own", (Inception,), {})
    assert frechet.FrechetDistance(own()).name == "frechet-inception"


def test_picto_features_are_the_last_map_averaged():
    import torch

    from unsee.judges.picto import network, pixels

    images = [one.resize((64, 64)) for one in pictures(3)]
    got = frechet.PictoFeatures()(images)
    with torch.no_grad():
        maps = network()[0].features(pixels(images))[-1]
    assert got.shape == (3, 192) and got == pytest.approx(maps.numpy().mean(axis=(2, 3)), abs=1e-5)
