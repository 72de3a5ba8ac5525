"""What the bench tests share: small suites on a random pipeline, and stores that nothing had to draw."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from unsee import concepts
from unsee.bench import engine
from unsee.bench.plan import Cell, address
from unsee.bench.rows import ResultRow
from unsee.bench.store import TIMINGS, Store
from unsee.suites.suite import SuiteSpec
from unsee.types import Record, Sample, Verdict

NEGATIVE = {"name": "negative", "method": "negative-prompt", "text": "dagger, bomb"}
TINY = {
    "name": "tiny",
    "model": "tiny:sd1",
    "concepts": ["weapon"],
    "defenses": ["none", NEGATIVE, {"name": "sld", "method": "sld", "text": "dagger", "warmup": 0}],
    "judge": "always.unsafe",
    "steps": 2,
    "guidance": 4.0,
    "batch_size": 2,
    "prompts": [{"kind": "plain", "n": 3}, {"kind": "benign", "n": 2}],
}


def suite(**changes: Any) -> SuiteSpec:
    return SuiteSpec.parse(TINY | changes)


def result_row(**known: Any) -> ResultRow:
    """A row of a plain, unattacked group; what is not said of it is None."""
    usual = {"suite": "s", "concept": "c", "attack": "none", "prompts": "plain", "split": "held-out", "n": 10}
    return ResultRow(**dict.fromkeys(f.name for f in fields(ResultRow)) | usual | {"unjudged": 0} | known)


def picture(color: tuple[int, int, int], size: int = 8) -> Image.Image:
    """A picture that a judge may judge: ``color``, and its lower half another one."""
    made = Image.new("RGB", (size, size), color)
    made.paste(tuple((part + 128) % 256 for part in color), (0, size // 2, size, size))
    return made


def cut_power(monkeypatch: Any, after: int) -> None:
    """From now on drawing fails once it was asked ``after`` times; ``monkeypatch.undo()`` mends it."""
    left, draw = [after], engine.draw

    def failing(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("power cut")
        return draw(*args, **kwargs)

    monkeypatch.setattr(engine, "draw", failing)


def timeless(records: list[Record]) -> list[Record]:
    """Records without what no two runs share."""
    return [replace(r, seconds=0.0) for r in records]


def stored(folder: Path) -> list[Record]:
    with Store(folder) as store:
        return timeless(store.records())


def comparable(folder: Path) -> list[dict[str, Any]]:
    """The exported Parquet, row by row, without the columns that no two runs share."""
    lines = pq.read_table(folder / "records.parquet").to_pylist()
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines]


def fake_store(folder: Path, unsafe: dict[str, str], *, preservation: float | None = 0.8, size: int = 8) -> Path:
    """A finished run whose verdicts are given as text per defense: u(nsafe), s(afe), x (unjudged) for each prompt."""
    n = len(next(iter(unsafe.values())))
    made = suite(prompts=[{"kind": k, "n": n} for k in ("plain", "benign")])
    outcomes = {"u": "unsafe", "s": "safe", "x": "unjudged"}
    with Store(folder, write=True) as store:
        store.put_suite(made, "1", {"torch": "0"}, {"device": "cpu"})
        for ordinal, group in enumerate(g for g in made.groups() if g.stack.name in unsafe):
            name, cells, samples, verdicts = group.stack.name, [], {}, {}
            for place, prompt in group.numbered(concepts.load(group.concept), 0):
                twin = address("m", [], "none", prompt, {})
                own = twin if name == "none" else address("m", [name], "none", prompt, {})
                cells.append(Cell(own, twin, "weapon", name, "none", place, prompt))
                color = (40 * place % 255, 90, 30 * ordinal)
                samples[own] = Sample(picture(color, size), prompt, name, seconds=0.1)
                outcome = outcomes[unsafe[name][place]] if group.prompts.kind == "plain" else "safe"
                score = {"unsafe": 0.9, "safe": 0.1, "unjudged": None}[outcome]
                verdicts[own] = Verdict(outcome, score, "always.unsafe", "1", labels={"subject_right": place % 2 == 0})
            store.put_cells(made.name, made.model, ordinal, cells)
            store.put_samples(samples, {})
            store.put_verdicts("weapon", verdicts)
            store.put_measures((c.cell, c.twin, 1.0 if name == "none" else preservation, 20.0) for c in cells)
    return folder
