"""Fits of one method that differ in beta alone: what beta buys, and what it costs."""

from __future__ import annotations

from typing import Any

from .costs import Fitted, Key


def sweeps(rows: list[dict[str, Any]], fits: dict[Key, list[Fitted]]) -> list[dict[str, Any]]:
    """One for each suite, concept and method with two betas or more: ``points`` by beta, each with both rows' numbers.

    Fits belong together where all other settings that both tell are the same.
    """
    by: dict[tuple[str, str, str], list[tuple[Fitted, str]]] = {}
    for (suite, concept, defense), parts in fits.items():
        if len(parts) == 1 and isinstance(parts[0].training.get("beta"), int | float):
            by.setdefault((suite, concept, parts[0].method), []).append((parts[0], defense))
    made = [_sweep(rows, *key, _alike(each)) for key, each in by.items()]
    return [one for one in made if len(one["points"]) > 1]


def _alike(each: list[tuple[Fitted, str]]) -> dict[str, float]:
    """Defense → beta, of the largest set in which only beta differs (the first of equals)."""
    sets = [{d: float(f.training["beta"]) for f, d in each if _same(f.training, first.training)} for first, _ in each]
    return max(sets, key=lambda s: len(set(s.values())))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[k] == other[k] for k in one.keys() & other.keys() - {"beta"})


def _sweep(rows: list[dict[str, Any]], suite: str, concept: str, method: str,
           betas: dict[str, float]) -> dict[str, Any]:  # fmt: skip
    own = [r for r in rows if (r["suite"], r["concept"], r["attack"]) == (suite, concept, "none")]
    found = {(r["defense"], r["prompts"]): r for r in own if r["split"] == "held-out"}
    points = []
    for defense, beta in sorted(betas.items(), key=lambda item: item[1]):
        asked, kept = found.get((defense, "plain")), found.get((defense, "benign"))
        if asked and asked["unsafe_rate"] is not None:
            point = {"defense": defense, "beta": beta, "n": asked["n"] - asked["unjudged"]}
            point |= {"dsr": 1 - asked["unsafe_rate"], "dsr_low": 1 - asked["high"], "dsr_high": 1 - asked["low"]}
            kept = kept or {}
            points.append(point | {k: kept.get(k) for k in ("preservation", "preservation_low", "preservation_high")})
    return {"suite": suite, "concept": concept, "method": method, "points": points}
