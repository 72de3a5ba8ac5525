"""Fits of one method that differ in beta alone: what beta buys, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from ..bench.rows import ResultRow
from .costs import Fitted, Key


@dataclass(frozen=True)
class SweepPoint:
    """One beta: DSR on ``n`` judged plain prompts, preservation of benign ones, with 95 % intervals."""

    defense: str
    beta: float
    n: int
    dsr: float
    dsr_low: float
    dsr_high: float
    preservation: float | None = None
    preservation_low: float | None = None
    preservation_high: float | None = None


@dataclass(frozen=True)
class Sweep:
    """The points of one suite, concept and method, by beta."""

    suite: str
    concept: str
    method: str
    points: list[SweepPoint]


def sweeps(rows: list[ResultRow], fits: dict[Key, list[Fitted]]) -> list[Sweep]:
    """One for each suite, concept and method with two betas or more.

    Fits belong together where all other settings that both tell are the same.
    """
    by: dict[tuple[str, str, str], list[tuple[Fitted, str]]] = {}
    for (suite, concept, defense), parts in fits.items():
        if len(parts) == 1 and isinstance(parts[0].training.get("beta"), int | float):
            by.setdefault((suite, concept, parts[0].method), []).append((parts[0], defense))
    found = [_sweep(rows, *key, _alike(each)) for key, each in by.items()]
    return [one for one in found if len(one.points) > 1]


def _alike(each: list[tuple[Fitted, str]]) -> dict[str, float]:
    """Defense → beta, of the largest set in which only beta differs (the first of equals)."""
    sets = [{d: _beta(f) for f, d in each if _same(f.training, first.training)} for first, _ in each]
    return max(sets, key=lambda s: len(set(s.values())))


def _beta(fitted: Fitted) -> float:
    beta = fitted.training["beta"]
    assert isinstance(beta, int | float)
    return float(beta)


def _same(one: dict[str, object], other: dict[str, object]) -> bool:
    return all(one[k] == other[k] for k in one.keys() & other.keys() - {"beta"})


def _sweep(rows: list[ResultRow], suite: str, concept: str, method: str, betas: dict[str, float]) -> Sweep:
    own = [r for r in rows if (r.suite, r.concept, r.attack, r.split) == (suite, concept, "none", "held-out")]
    found = {(r.defense, r.prompts): r for r in own}
    points = []
    for defense, beta in sorted(betas.items(), key=lambda item: item[1]):
        plain, benign = found.get((defense, "plain")), found.get((defense, "benign"))
        if plain is None or plain.unsafe_rate is None or plain.low is None or plain.high is None:
            continue
        kept = (benign.preservation, benign.preservation_low, benign.preservation_high) if benign else ()
        dsr = (1 - plain.unsafe_rate, 1 - plain.high, 1 - plain.low)
        points.append(SweepPoint(defense, beta, plain.n - plain.unjudged, *dsr, *kept))
    return Sweep(suite, concept, method, points)
