"""A finished run of any suite that nothing had to draw: verdicts, likeness, decisions are made up, and repeatable."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from unsee import concepts
from unsee.bench.plan import Cell, address
from unsee.bench.store import Store
from unsee.suites.suite import Group, SuiteSpec
from unsee.types import Prompt, Sample, Verdict

UNSAFE = {"none": 0.98, "saferedir": 0.03, "duo": 0.02, "uce": 0.5, "esd": 0.35, "sld": 0.7, "safree": 0.6, "ine": 0.1}
KEPT = {"none": 1.0, "saferedir": 0.99, "duo": 0.92, "uce": 0.77, "esd": 0.85, "sld": 0.7, "safree": 0.65, "ine": 0.6}
GAIN = {"none": 0.0, "ring-a-bell": 0.2, "concept-inversion": 0.35, "unlearn-diff": 0.25}
WATCHES = "saferedir"
SECTIONS = (  # of a report that has something to say of everything
    "claims", "results", "attacks", "tradeoff", "beta", "cost", "traces", "pictures", "all", "audit", "settings",
)  # fmt: skip

Draw = Callable[[Prompt, str, random.Random], Image.Image]


def square(prompt: Prompt, defense: str, chance: random.Random) -> Image.Image:
    return Image.new("RGB", (8, 8), tuple(chance.randrange(40, 250) for _ in range(3)))


def small(name: str, **changes: Any) -> SuiteSpec:
    """A suite that ships, with few prompts and attacks on few of them."""
    suite = SuiteSpec.load(name)
    prompts = [p.model_copy(update={"n": 6}) for p in suite.prompts]
    attacks = [a | {"n": 4} if isinstance(a, dict) else a for a in suite.attacks]
    return SuiteSpec.parse(
        suite.model_dump() | {"prompts": [p.model_dump() for p in prompts], "attacks": attacks} | changes
    )


def finished(folder: Path, suite: SuiteSpec, draw: Draw = square) -> Path:
    """Fills ``folder`` with every cell of the suite."""
    with Store(folder, write=True) as store:
        store.put_suite(suite, "1", {"torch": "0"}, {"device": "cpu", "name": "a machine", "threads": 1})
        for ordinal, group in enumerate(suite.groups()):
            concept = concepts.load(group.concept)
            cells, samples, verdicts, measures = [], {}, {}, []
            for place, source in group.numbered(concept, suite.seed):
                cell = _cell(group, concept.name, place, source)
                chance = random.Random(cell.cell)
                name = group.stack.name
                rate = _rate(group)
                kept = min(1.0, KEPT[_weakest(name)] + chance.gauss(0, 0.05)) if name != "none" else 1.0
                outcome = "unsafe" if chance.random() < rate else "safe"
                score = round(chance.uniform(0.5, 1) if outcome == "unsafe" else chance.uniform(0, 0.5), 2)
                decisions = _decisions(group, chance) if WATCHES in name else ()
                image, seconds = draw(cell.prompt, name, chance), 0.3 + 0.2 * rate
                samples[cell.cell] = Sample(image, cell.prompt, name, seconds=seconds, decisions=decisions)
                right = {"subject_right": chance.random() < kept}
                verdicts[cell.cell] = Verdict(outcome, score, "picto", "1", labels=right)
                cells.append(cell)
                measures.append((cell.cell, cell.twin, kept, 58 * kept))
            store.put_cells(suite.name, suite.model, ordinal, cells)
            store.put_samples(samples, {})
            store.put_verdicts(concept.name, verdicts)
            store.put_measures(measures)
    return folder


def _cell(group: Group, concept: str, place: int, source: Prompt) -> Cell:
    attack, name = group.attack.name, group.stack.name
    prompt = source if attack == "none" else replace(source, text=f"zq {attack} {source.text}")
    twin = address("m", [], "none", source, {})
    own = twin if (name, attack) == ("none", "none") else address("m", [name], "none", prompt, {})
    return Cell(own, twin, concept, name, attack, place, prompt)


def _weakest(name: str) -> str:
    """The known method that a stack's name ends with: ``duo-b10+ine-sld`` is ine."""
    last = name.split("+")[-1]
    return next((key for key in UNSAFE if last.startswith(key)), "duo")


def _rate(group: Group) -> float:
    if group.prompts.kind not in ("plain", "synonym"):
        return 0.0
    name = group.stack.name
    base = {"duo-b10": 0.4, "duo-b30": 0.85}.get(name, UNSAFE[_weakest(name)])
    return min(1.0, base + GAIN.get(group.attack.name, 0.1) * (0.2 if base < 0.1 else 1.0))


def _decisions(group: Group, chance: random.Random) -> tuple[dict[str, Any], ...]:
    asked = group.prompts.kind in ("plain", "synonym")
    start = 0 if asked and chance.random() < 0.9 else chance.randrange(2, 9) if asked else 99
    if not asked and chance.random() < 0.05:
        start = 14
    told, p = [], 0.7 if asked else 0.1
    for step in range(25):
        p = min(0.99, max(0.01, p + chance.gauss(0, 0.04)))
        acted = step >= start
        told.append({"defense": WATCHES, "concept": "weapon", "step": step, "t": 999.0 - 40 * step,
                     "p": round(max(p, 0.55) if acted else min(p, 0.45), 4),
                     "done": "redirected" if acted else "watched"})  # fmt: skip
    return tuple(told)
