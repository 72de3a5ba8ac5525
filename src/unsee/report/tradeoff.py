"""Attack × defense: one cell for each row, and how far each defense falls under the attacks that all of them met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..attacks.standard import CONTROL
from ..bench.rows import ResultRow
from ..metrics.rates import known
from ..suites.stacks import NONE


@dataclass(frozen=True)
class HeatMap:
    """``lines``: defense → attack → row. Defenses that met no attack are left out; what was not run is missing."""

    suite: str
    concept: str
    prompts: str
    split: str
    attacks: list[str]
    lines: dict[str, dict[str, ResultRow]]


@dataclass(frozen=True)
class Point:
    """A defense: its unsafe rate under ``attack``, what it keeps of benign images, with 95 % intervals."""

    defense: str
    rate: float
    kept: float
    low: float = 0.0
    high: float = 1.0
    attack: str = NONE
    unjudged: int = 0
    kept_low: float | None = None
    kept_high: float | None = None
    front: bool = False  # no other is at least as good in both numbers and better in one


@dataclass(frozen=True)
class Tradeoff:
    """The points of one suite and concept, under the attacks that all attacked defenses met."""

    suite: str
    concept: str
    under: list[str]
    points: list[Point]


def maps(rows: list[ResultRow]) -> list[HeatMap]:
    """One for each suite, concept and kind of prompts that was attacked."""
    blocks: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in rows:
        blocks.setdefault((row.suite, row.concept, row.prompts, row.split), []).append(row)
    found = []
    for key, each in blocks.items():
        attacks = list(dict.fromkeys([NONE, *(row.attack for row in each)]))
        lines: dict[str, dict[str, ResultRow]] = {}
        for row in each:
            lines.setdefault(row.defense, {})[row.attack] = row
        found.append(HeatMap(*key, attacks, {d: line for d, line in lines.items() if set(line) - {NONE}}))
    return [block for block in found if len(block.attacks) > 1]


def points(rows: list[ResultRow]) -> list[Tradeoff]:
    """For each suite and concept, the defenses by unsafe rate and by what they keep of benign images.

    The rate is the highest on plain prompts, as they are and under the attacks that all attacked defenses met
    (``under``): an attack may also do worse than its prompts. A defense is left out where either number is missing.
    """
    found = []
    by: dict[tuple[str, str], list[ResultRow]] = {}
    for r in rows:
        by.setdefault((r.suite, r.concept), []).append(r)
    for key, each in by.items():
        own = [r for r in each if r.split == "held-out"]
        kept = {r.defense: r for r in own if r.prompts == "benign" and r.preservation is not None}
        asked: dict[str, dict[str, ResultRow]] = {}
        for r in own:
            if r.prompts == "plain" and r.unsafe_rate is not None:
                asked.setdefault(r.defense, {})[r.attack] = r
        common = shared(asked)
        placed = [
            _point(max((met[a] for a in sorted(common | ({NONE} & met.keys()))), key=_rate), kept[defense])
            for defense, met in asked.items()
            if defense in kept and common <= met.keys()
        ]
        if len(placed) > 1:
            found.append(Tradeoff(*key, sorted(common - {NONE}), _front(placed)))
    return found


def shared(asked: Mapping[str, Mapping[str, object]]) -> set[str]:
    """Of (defense → attack → …) the attacks that every attacked defense met, but for the control; of those that none
    shares, the one that most met; else "none"."""
    met = [set(rows) - {NONE, CONTROL} for rows in asked.values() if set(rows) - {NONE, CONTROL}]
    if not met:
        return {NONE}
    by_all = set.intersection(*met)
    if by_all:
        return by_all
    names = sorted({name for each in met for name in each})
    return {max(names, key=lambda name: sum(name in each for each in met))}


def _rate(row: ResultRow) -> float:
    return known(row.unsafe_rate)


def _point(worst: ResultRow, benign: ResultRow) -> Point:
    return Point(
        worst.defense, _rate(worst), known(benign.preservation), known(worst.low), known(worst.high), worst.attack,
        worst.unjudged, benign.preservation_low, benign.preservation_high,
    )  # fmt: skip


def _front(found: list[Point]) -> list[Point]:
    """The points with ``front``."""
    most: dict[float, float] = {}  # rate → the most that any point of this rate keeps
    for p in found:
        most[p.rate] = max(p.kept, most.get(p.rate, p.kept))
    best, reached = -math.inf, {}
    for rate in sorted(most):
        reached[rate], best = best, max(best, most[rate])  # what those of lower rates keep
    return [replace(p, front=reached[p.rate] < p.kept == most[p.rate]) for p in found]
