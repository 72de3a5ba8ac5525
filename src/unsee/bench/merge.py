"""Bring the folders of all shards together: one run folder, with the rows that the suite in one piece would have.

    unsee merge R1 R2 --out R

Nothing is drawn, judged or fitted. Every shard must be there, once, finished, with all its pictures as they were
stored, and of the same suite, model, judge, defenses, versions and threads; anything else is told in one line, before
anything is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..writing import whole
from .shard import Shard
from .store import Store


@dataclass(frozen=True)
class Part:
    """A folder, the shard that it holds, and what must be the same in all of them, in the order of asking."""

    folder: Path
    shard: Shard
    same: dict[str, object]


def merge(folders: Sequence[str | Path], out: str | Path) -> int:
    """Everything of the shards in ``folders`` into ``out``; how many records that are.

    Killed and called again it goes on. Raises :class:`UserError` for shards that do not belong together.
    """
    if os.path.realpath(out) in {os.path.realpath(folder) for folder in folders}:
        raise UserError("--out as a folder of its own", f"{out}, a shard", "choose another --out")
    with ExitStack() as stack:
        shards = [stack.enter_context(Store(folder)) for folder in folders]
        _check([_facts(shard) for shard in shards])
        Store.check(out)
        for shard in shards:
            shard.check_pictures()
        with Store(out, write=True) as store:
            for shard in shards:
                store.take_over(shard)
            for kept in ("defenses", "attacks"):
                for shard in shards:
                    _copy(shard.folder / kept, store.folder / kept)
            store.export(store.folder / "records.parquet")
            return store.count()


def _facts(store: Store) -> Part:
    """What decides whether a shard belongs to the others."""
    suites = store.suites()
    mark = store.mark(*suites) if len(suites) == 1 else None
    if mark is None:
        raise UserError("the folder of one suite's shard", str(store.folder), "make it with unsee bench --shard I/N")
    (suite,) = suites.values()
    if not mark.get("finished"):
        raise UserError("finished shards", f"{store.folder}, which was stopped", "run its command again; it goes on")
    shard = Shard.parse(mark["shard"])
    same = {
        "suite": {key: value for key, value in suite.spec.items() if key != "batch_size"},
        "model": mark.get("model"),
        "judge": f"{suite.spec['judge']} {suite.judge_version}",
        "defenses": mark["defenses"],
        "versions": suite.versions,
        "threads": suite.machine.get("threads"),
        "device": str(suite.machine.get("device")).partition(":")[0],
        "plan": mark["planned"],
        "number of shards": shard.of,
    }
    return Part(store.folder, shard, same)


def _check(parts: list[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for key, value in first.same.items():
            if part.same[key] != value:
                got = f"another {key} in {part.folder} than in {first.folder}" + _apart(value, part.same[key])
                raise UserError("shards of one suite, model and judge", got, "merge those that belong together")
    numbers, of = [part.shard.number for part in parts], first.shard.of
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        raise UserError("every shard once", f"{twice[0]}/{of} twice", "name each folder once")
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    if missing:
        left = ", ".join(f"{n}/{of}" for n in missing[:5])
        raise UserError(f"all {of} shards", f"none for {left}", "run what is missing, and name its folder too")


def _apart(one: object, other: object) -> str:
    """Where two tables differ first, in words."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f" ({str(other)[:60]}, not {str(one)[:60]})"
    key = next(k for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k))
    return f" ({key}: {str(other.get(key))[:60]}, not {str(one.get(key))[:60]})"


def _scratch(path: Path) -> bool:
    """Of a fit that is done: its data and checkpoints."""
    return any(part.endswith(".work") for part in path.parts)


def _copy(source: Path, target: Path) -> None:
    """What was fitted or found, so that the run can go on from here; equal in all shards, so the first serves."""
    for file in sorted(path for path in source.rglob("*") if path.is_file() and not _scratch(path)):
        place = target / file.relative_to(source)
        if not place.exists():
            with whole(place) as fresh:
                shutil.copyfile(file, fresh)
