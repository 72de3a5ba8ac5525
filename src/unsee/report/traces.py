"""What a watching guard decided, step by step: p(unsafe) of single images, and when they were first redirected."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..suites.stacks import NONE
from ..types import Record

SHOWN = {"plain": 4, "synonym": 2, "empty": 1, "neighbor": 3, "benign": 3}  # images of each kind
ACTED = "redirected"

Group = tuple[str, str, str, str]  # suite, concept, defense, guard


@dataclass(frozen=True)
class KindSummary:
    """``images`` of a kind, how many were redirected, at the first step, and the median and the latest of the steps."""

    kind: str
    images: int
    acted: int
    at_once: int
    median: int | None
    latest: int | None


@dataclass(frozen=True)
class TraceStep:
    """p(unsafe) at a step, and whether the guard acted."""

    step: int
    p: float
    acted: bool


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

    def summary(self) -> list[KindSummary]:
        """For each kind of prompts."""
        lines = []
        for name in (name for name in SHOWN if name in self.kinds):
            firsts = self.kinds[name].firsts
            acted = sorted(step for step in firsts if step is not None)
            middle = acted[len(acted) // 2] if acted else None
            at_once, latest = sum(step == 0 for step in acted), acted[-1] if acted else None
            lines.append(KindSummary(name, len(firsts), len(acted), at_once, middle, latest))
        return lines

    def strips(self) -> list[tuple[Record, list[TraceStep]]]:
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


def _steps(record: Record, guard: str) -> list[TraceStep]:
    """Step, p(unsafe) and whether it acted, in order; several concepts' networks at one step: the highest p."""
    steps: dict[int, TraceStep] = {}
    for event in record.decisions:
        if event["defense"] == guard and "p" in event:
            step, acted = event["step"], event.get("done") == ACTED
            known = steps.get(step, TraceStep(step, 0.0, False))
            steps[step] = TraceStep(step, max(known.p, event["p"]), known.acted or acted)
    return [steps[k] for k in sorted(steps)]
