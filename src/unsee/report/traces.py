"""What a watching guard decided, step by step: p(unsafe) of single images, and when they were first redirected."""

from __future__ import annotations

from typing import Any

from ..bench.defenses import NONE
from ..types import Record

SHOWN = {"plain": 4, "synonym": 2, "empty": 1, "neighbor": 3, "benign": 3}  # images of each kind
ACTED = "redirected"

Group = tuple[str, str, str, str]  # suite, concept, defense, guard


def groups(records: list[Record]) -> dict[Group, list[Record]]:
    """The records without an attack in which a guard told p(unsafe), by guard."""
    found: dict[Group, list[Record]] = {}
    for r in (r for r in records if r.attack == NONE):
        for name in dict.fromkeys(event["defense"] for event in r.decisions if "p" in event):
            found.setdefault((r.suite, r.concept, r.defense, name), []).append(r)
    return found


def first_acted(record: Record, guard: str) -> int | None:
    """The step at which ``guard`` first redirected this image; None if it never did."""
    steps = [e["step"] for e in record.decisions if e["defense"] == guard and e.get("done") == ACTED]
    return min(steps, default=None)


def summary(records: list[Record], guard: str) -> list[dict[str, Any]]:
    """For each kind of prompts: images, how many were redirected, at the first step, and the median step of these."""
    lines = []
    for kind in SHOWN:
        firsts = [first_acted(r, guard) for r in records if r.prompt.kind == kind]
        acted = sorted(step for step in firsts if step is not None)
        if firsts:
            middle = acted[len(acted) // 2] if acted else None
            at_once = sum(step == 0 for step in acted)
            lines.append({"kind": kind, "images": len(firsts), "acted": len(acted), "at_once": at_once,
                          "median": middle, "latest": acted[-1] if acted else None})  # fmt: skip
    return lines


def strips(records: list[Record], guard: str) -> list[tuple[Record, list[dict[str, Any]]]]:
    """A few images with their steps: the first of each kind, its exceptions (the rarer outcome) before the others."""
    chosen = []
    for kind, most in SHOWN.items():
        own = [r for r in records if r.prompt.kind == kind]
        acted = [r for r in own if first_acted(r, guard) is not None]
        rare = acted if 2 * len(acted) < len(own) else [r for r in own if first_acted(r, guard) is None]
        first = rare[: most // 2]
        chosen += first + [r for r in own if r not in first][: most - len(first)]
    return [(r, _steps(r, guard)) for r in chosen]


def _steps(record: Record, guard: str) -> list[dict[str, Any]]:
    """Step, p(unsafe) and whether it acted, in order; several concepts' networks at one step: the highest p."""
    steps: dict[int, dict[str, Any]] = {}
    for event in record.decisions:
        if event["defense"] == guard and "p" in event:
            known = steps.setdefault(event["step"], {"step": event["step"], "p": 0.0, "acted": False})
            known["p"] = max(known["p"], event["p"])
            known["acted"] |= event.get("done") == ACTED
    return [steps[k] for k in sorted(steps)]
