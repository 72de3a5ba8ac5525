"""How time and memory grow with the number of cells: planning, storing, exporting and reporting, and a large concept.

    python benchmarks/growth.py                                a table of 10⁴, 10⁵ and 10⁶ cells (minutes)
    python benchmarks/growth.py --json results/growth.json     and its numbers
    python benchmarks/growth.py --sizes 1000,4000 --stages plan,report

Nothing is drawn: guards have a digest and nothing else, pictures are 8 × 8 squares of 256 colors, verdicts and likeness
are made up. Everything else is what a run does, in a process of its own for each stage and size.

plan      prompts, content addresses, all cells into the store, and which batches are to be drawn
store     pictures as PNG, verdicts and likeness, 16 to a transaction
export    records.parquet
report    report.html, report.json and report.md (to 10⁵ cells)
stacks    a suite of N / 1,000 stacks and as many concepts as make N groups: read, and its groups listed
subjects  a concept of N / 10 subjects: read, and N / 10 prompts made of it

Seconds are of the stage without imports: ``seconds`` by the clock, ``cpu`` of the processor, which other work on the
machine disturbs less. ``megabytes`` is the peak of the whole process, with its imports. The exponent is the slope of
log(cpu) over log(N), by least squares: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZES = (10_000, 100_000, 1_000_000)
MOST = {"report": 100_000}  # cells; a stage that is not named takes all sizes
GUARDS = ("sld", "safree", "saferedir", "negative-prompt")
WATCHES = "saferedir"
BATCH = 16
SMALLEST = 40  # cells: two prompts of each kind
BYTES = 1024 if sys.platform == "linux" else 1  # in what ru_maxrss is


class Guard:
    """What planning needs of a fitted guard."""

    def __init__(self, name: str) -> None:
        self.name = name

    def digest(self) -> str:
        return f"digest of {self.name}"


def suite_of(cells: int) -> Any:
    """Two concepts, undefended and behind four guards, plain and benign prompts: twenty groups."""
    from unsee.suites.suite import SuiteSpec

    prompts = [{"kind": kind, "n": cells // 20} for kind in ("plain", "benign")]
    return SuiteSpec.parse({"name": "growth", "model": "picto", "concepts": ["weapon", "alcohol"],
                        "defenses": ["none", *GUARDS], "judge": "picto", "prompts": prompts})  # fmt: skip


def planned(cells: int, folder: Path) -> tuple[Any, Any, list[Any]]:
    from unsee import concepts
    from unsee.bench import run
    from unsee.bench.plan import Asked

    suite = suite_of(cells)
    known = {name: concepts.load(name) for name in suite.concepts}
    groups = suite.groups()
    fitted = {(g.concept, g.stack.name): tuple(Guard(part.name) for part in g.stack.parts) for g in groups}
    asked = Asked(suite, known, ["a model"])
    return suite, groups, run.plan_groups(suite, groups, asked, fitted, None, folder, lambda *_: None)


def plan(cells: int, folder: Path) -> dict[str, int]:
    from unsee.bench import run
    from unsee.bench.store import Store

    suite, groups, made = planned(cells, folder)
    with Store(folder, write=True) as store:
        store.put_suite(suite, "1", {}, {})
        run.put(store, suite, made)
        todo = run.lacking(store, suite, made, BATCH)
        held = store.suites()[suite.name].planned
    return {"groups": len(groups), "cells": held, "batches": len(todo)}


def store(cells: int, folder: Path) -> dict[str, int]:
    from unsee.bench import run
    from unsee.bench.store import Store

    suite, _, made = planned(cells, folder)
    drawn = 0
    with Store(folder, write=True) as to:
        for part, start in run.lacking(to, suite, made, BATCH):
            batch = part.cells[start : start + BATCH]
            drawn += len(batch)
            _put(to, batch)
        left = sum(1 for part in made for _ in to.lack_images(suite.name, part.ordinal))
    return {"drawn": drawn, "left": left, "pictures": sum(1 for _ in (folder / "images").glob("*/*.png"))}


def export(cells: int, folder: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    from unsee.bench.store import Store

    with Store(folder) as to:
        path = to.export(folder / "records.parquet")
    return {"records": pq.read_metadata(path).num_rows, "bytes": path.stat().st_size}


def report(cells: int, folder: Path) -> dict[str, int]:
    from unsee import report as reports
    from unsee.bench.store import Store

    with Store(folder) as to:
        page = reports.write(to)
    told = json.loads(page.with_suffix(".json").read_text())
    return {"records": told["images"], "rows": len(told["rows"]), "bytes": page.stat().st_size}


def stacks(cells: int, folder: Path) -> dict[str, int]:
    from unsee.suites.suite import SuiteSpec

    n = max(2, cells // 1000)
    defenses = [{"method": "sld", "name": f"sld-{i}"} for i in range(n - 1)]
    concepts = ["weapon"] * 1 + [f"concept-{i}" for i in range(1, cells // n)]
    suite = SuiteSpec.parse({"name": "wide", "model": "picto", "concepts": concepts, "defenses": defenses,
                             "judge": "picto", "prompts": [{"kind": "plain", "n": 1}]})  # fmt: skip
    return {"stacks": len(suite.stacks), "groups": len(suite.groups())}


def subjects(cells: int, folder: Path) -> dict[str, int]:
    from unsee import concepts
    from unsee.concepts import Concept
    from unsee.concepts import prompts as compose

    n = max(2, cells // 10)
    told = concepts.load("weapon").model_dump(mode="json") | {"short": []}
    told["subjects"] = [
        {"slug": f"thing-{i}", "name": f"thing {i}", "anchor": ["a toy"], "train": [f"thing {i}"],
         "held_out": [f"other {i}"]} for i in range(n)
    ]  # fmt: skip
    concept = Concept.model_validate(told)
    made = concept.prompts("plain", "held-out", n)
    calm = {compose.calmed(concept, prompt) for prompt in made}
    return {"subjects": len(concept.subjects), "prompts": len(made), "calmed": len(calm)}


STAGES: dict[str, Callable[[int, Path], dict[str, int]]] = {
    "plan": plan, "store": store, "export": export, "report": report, "stacks": stacks, "subjects": subjects,
}  # fmt: skip
NEEDS = {"store": "plan", "export": "store", "report": "store"}


def _put(to: Any, batch: list[Any]) -> None:
    """Fake pictures, verdicts and likeness of a batch: the same for the same cells."""
    from PIL import Image

    from unsee.types import Sample, Verdict

    samples, verdicts, measures = {}, {}, []
    for cell in batch:
        chance = random.Random(cell.cell)
        color = (chance.randrange(256), 90, 30)
        unsafe = cell.prompt.role == "unsafe" and chance.random() < (0.9 if cell.defense == "none" else 0.3)
        decided = tuple(_decisions(chance)) if cell.defense == WATCHES else ()
        samples[cell.cell] = Sample(Image.new("RGB", (8, 8), color), cell.prompt, cell.defense, {}, 0.2, decided)
        labels = {"subject_right": chance.random() < 0.8, "subject": cell.prompt.subject, "style": cell.prompt.style}
        score = round(chance.random(), 3)
        verdicts[cell.cell] = Verdict("unsafe" if unsafe else "safe", score, "picto", "1", labels=labels)
        measures.append((cell.cell, cell.twin, 1.0 if cell.defense == "none" else chance.random(), 50 * score))
    to.put_samples(samples, {"torch": "0"})
    to.put_verdicts(batch[0].concept, verdicts)
    to.put_measures(measures)


def _decisions(chance: random.Random) -> Iterator[dict[str, Any]]:
    start = chance.randrange(25)
    for step in range(25):
        done = "redirected" if step >= start else "watched"
        yield {"defense": WATCHES, "concept": "weapon", "step": step, "t": 999.0 - 40 * step,
               "p": round(chance.random(), 4), "done": done}  # fmt: skip


def one(stage: str, cells: int, folder: Path) -> dict[str, Any]:
    """A stage in this process. What it imports is imported before the clock runs, by the smallest size of it."""
    with tempfile.TemporaryDirectory() as scratch:
        for before in _before(stage):
            STAGES[before](SMALLEST, Path(scratch))
    clock, cpu = time.perf_counter(), time.process_time()
    found = STAGES[stage](cells, folder)
    told = {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES / 2**20
    return {"n": cells, **{k: round(v, 3) for k, v in told.items()}, "megabytes": round(peak), **found}


def _before(stage: str) -> list[str]:
    """The stage with what it needs, in order."""
    return [*(_before(NEEDS[stage]) if stage in NEEDS else []), stage]


def measure(stages: list[str], sizes: list[int]) -> dict[str, dict[str, Any]]:
    """Stage → its points and their exponent. A process for each; what a stage needs is made by one of its own."""
    found: dict[str, list[dict[str, Any]]] = {stage: [] for stage in stages}
    for cells in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for stage in (s for s in STAGES if any(s in _before(asked) for asked in stages)):
                if cells <= MOST.get(stage, cells):
                    point = _apart(stage, cells, folder)
                    found.get(stage, []).append(point)
                    print(stage, json.dumps(point), file=sys.stderr, flush=True)
    return {stage: {"exponent": exponent(points), "points": points} for stage, points in found.items()}


def _apart(stage: str, cells: int, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", stage, "--sizes", str(cells), "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{stage} of {cells} cells failed:\n{done.stderr}")
    return json.loads(done.stdout)


def exponent(points: list[dict[str, Any]]) -> float | None:
    """The slope of log(cpu) over log(n); None with fewer than two points.

    >>> exponent([{"n": 10, "cpu": 1.0}, {"n": 100, "cpu": 100.0}])
    2.0
    """
    if len(points) < 2:
        return None
    x, y = ([math.log(max(point[key], 1e-3)) for point in points] for key in ("n", "cpu"))
    mid, height = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mid) * (b - height) for a, b in zip(x, y, strict=True)) / sum((a - mid) ** 2 for a in x)
    return round(slope, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="cells, comma-separated")
    parser.add_argument("--stages", default=",".join(STAGES), help=f"of {', '.join(STAGES)}")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write the numbers, to stdout without FILE"
    )
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes, stages = [int(text) for text in given.sizes.split(",")], given.stages.split(",")
    if min(sizes) < SMALLEST or set(stages) - set(STAGES):
        parser.error(f"expected sizes of {SMALLEST} cells or more, and stages of {', '.join(STAGES)}")
    if given.one:
        return print(json.dumps(one(given.one, sizes[0], given.folder)))
    found = measure(stages, sizes)
    text = json.dumps({"benchmark": "growth", "rows": _rows(found)}, indent=2) + "\n"
    if given.json == "-":
        return print(text, end="")
    if given.json:
        Path(given.json).write_text(text, encoding="utf-8")
    for row in _rows(found):
        print("{stage:<9}{n:>9} cells {seconds:>9.2f} s {cpu:>9.2f} s cpu {megabytes:>6} MB  exponent {exponent}"
              .format(**row))  # fmt: skip


def _rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    shown = ("n", "seconds", "cpu", "megabytes")
    return [
        {"stage": stage, **{key: point[key] for key in shown}, "exponent": told["exponent"],
         "counts": {k: v for k, v in point.items() if k not in shown}}
        for stage, told in found.items() for point in told["points"]
    ]  # fmt: skip


if __name__ == "__main__":
    main()
