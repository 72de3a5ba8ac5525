"""What a watching guard decided, step by step: p(unsafe) of single images, and when they were first redirected."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..bench.defenses import NONE
from ..types import Record

SHOWN = {"plain": 4, "synonym": 2, "empty": 1, "neighbor": 3, "benign": 3}  # images of each kind
ACTED = "redirected"

Group = tuple[str, str, str, str]  # suite, concept, defense, guard


@dataclass
class Kind:
    """What is kept of the images of one kind: numbers of all of them, records of the few that may be shown."""

    firsts: list[int | None] = field(default_factory=list)  # the step at which each was first redirected
    seen: dict[int, array[float]] = field(default_factory=dict)  # step → p(unsafe) of all
    acted: list[Record] = field(default_factory=list)  # the first that were redirected, that were not, and of all
    left: list[Record] = field(default_factory=list)
    first: list[Record] = field(default_factory=list)


@dataclass
class Trace:
    """One guard on the images of one defense; they are added one by one, for all of them may not fit in memory."""

    guard: str
    kinds: dict[str, Kind] = field(default_factory=dict)
    steps: int = 0

    def add(self, record: Record) -> None:
        kind, most = self.kinds.setdefault(record.prompt.kind, Kind()), SHOWN[record.prompt.kind]
        own = [event for event in record.decisions if event["defense"] == self.guard]
        for event in own:
            if "p" in event:
                kind.seen.setdefault(event["step"], array("d")).append(event["p"])
        self.steps = max(self.steps, 1 + max(event["step"] for event in record.decisions))
        first = min((event["step"] for event in own if event.get("done") == ACTED), default=None)
        kind.firsts.append(first)
        for kept, wanted in (
            (kind.left if first is None else kind.acted, most),
            (kind.first, 2 * most),
        ):
            if len(kept) < wanted:
                kept.append(record)

    def summary(self) -> list[dict[str, Any]]:
        """For each kind of prompts: images, how many were redirected, at the first step, and these steps' median."""
        lines = []
        for name in (name for name in SHOWN if name in self.kinds):
            firsts = self.kinds[name].firsts
            acted = sorted(step for step in firsts if step is not None)
            middle = acted[len(acted) // 2] if acted else None
            lines.append({"kind": name, "images": len(firsts), "acted": len(acted),
                          "at_once": sum(step == 0 for step in acted), "median": middle,
                          "latest": acted[-1] if acted else None})  # fmt: skip
        return lines

    def strips(self) -> list[tuple[Record, list[dict[str, Any]]]]:
        """A few images with their steps: the first of each kind, its exceptions (the rarer outcome) before others."""
        chosen = []
        for name, most in SHOWN.items():
            kind = self.kinds.get(name, Kind())
            acted = sum(step is not None for step in kind.firsts)
            rare = (kind.acted if 2 * acted < len(kind.firsts) else kind.left)[: most // 2]
            chosen += rare + [r for r in kind.first if r not in rare][: most - len(rare)]
        return [(r, _steps(r, self.guard)) for r in chosen]


def traces(records: Iterable[Record]) -> dict[Group, Trace]:
    """Of the records without an attack in which a guard told p(unsafe), by guard."""
    found: dict[Group, Trace] = {}
    for r in (r for r in records if r.attack == NONE):
        for name in dict.fromkeys(event["defense"] for event in r.decisions if "p" in event):
            found.setdefault((r.suite, r.concept, r.defense, name), Trace(name)).add(r)
    return found


def _steps(record: Record, guard: str) -> list[dict[str, Any]]:
    """Step, p(unsafe) and whether it acted, in order; several concepts' networks at one step: the highest p."""
    steps: dict[int, dict[str, Any]] = {}
    for event in record.decisions:
        if event["defense"] == guard and "p" in event:
            known = steps.setdefault(event["step"], {"step": event["step"], "p": 0.0, "acted": False})
            known["p"] = max(known["p"], event["p"])
            known["acted"] |= event.get("done") == ACTED
    return [steps[k] for k in sorted(steps)]
