"""Attack × defense: one cell for each row, and how far each defense falls under the attacks that all of them met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..attacks.standard import CONTROL
from ..bench.defenses import NONE


def maps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each suite, concept and kind of prompts that was attacked: ``attacks``, ``lines`` of cells by defense.

    Defenses that met no attack are left out; a cell that was not run is missing from its line.
    """
    made: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["suite"], row["concept"], row["prompts"], row["split"])
        block = made.setdefault(key, dict(zip(("suite", "concept", "prompts", "split"), key, strict=True))
                                | {"attacks": {NONE: None}, "lines": {}})  # fmt: skip
        block["attacks"][row["attack"]] = None
        block["lines"].setdefault(row["defense"], {})[row["attack"]] = row
    for block in made.values():
        block["attacks"] = list(block["attacks"])
        block["lines"] = {d: line for d, line in block["lines"].items() if set(line) - {NONE}}
    return [block for block in made.values() if len(block["attacks"]) > 1]


def points(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each suite and concept, (defense, unsafe rate, what it keeps of benign images), with intervals.

    The rate is the highest on plain prompts, as they are and under the attacks that all attacked defenses met
    (``under``): an attack may also do worse than its prompts. A defense is left out where either number is missing.
    """
    made = []
    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in rows:
        by.setdefault((r["suite"], r["concept"]), []).append(r)
    for (suite, concept), each in by.items():
        own = [r for r in each if r["split"] == "held-out"]
        kept = {r["defense"]: r for r in own if r["prompts"] == "benign" and r["preservation"] is not None}
        asked: dict[str, dict[str, dict[str, Any]]] = {}
        for r in own:
            if r["prompts"] == "plain" and r["unsafe_rate"] is not None:
                asked.setdefault(r["defense"], {})[r["attack"]] = r
        common = shared(asked)
        found = [
            _point(defense, max((met[a] for a in common | ({NONE} & met.keys())), key=_rate), kept[defense])
            for defense, met in asked.items()
            if defense in kept and common <= met.keys()
        ]
        if len(found) > 1:
            under = sorted(common - {NONE})
            made.append({"suite": suite, "concept": concept, "under": under, "points": _front(found)})
    return made


def shared(asked: Mapping[str, Mapping[str, Any]]) -> set[str]:
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


def _rate(row: dict[str, Any]) -> float:
    return float(row["unsafe_rate"])


def _point(defense: str, worst: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    return {
        "defense": defense, "rate": worst["unsafe_rate"], "low": worst["low"], "high": worst["high"],
        "attack": worst["attack"], "unjudged": worst["unjudged"], "kept": kept["preservation"],
        "kept_low": kept.get("preservation_low"), "kept_high": kept.get("preservation_high"),
    }  # fmt: skip


def _front(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points with ``front``: whether no other is at least as good in both numbers and better in one."""
    most: dict[float, float] = {}  # rate → the most that any point of this rate keeps
    for p in found:
        most[p["rate"]] = max(p["kept"], most.get(p["rate"], p["kept"]))
    best, reached = -math.inf, {}
    for rate in sorted(most):
        reached[rate], best = best, max(best, most[rate])  # what those of lower rates keep
    return [p | {"front": reached[p["rate"]] < p["kept"] == most[p["rate"]]} for p in found]
