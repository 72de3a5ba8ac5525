"""Run a suite: fit what is missing, attack, generate, judge, measure. Resumes wherever it was stopped.

The cells of a group (concept × defense × kind of prompts) are cut into batches in plan order, and a batch is stored in
one transaction, drawn or judged or measured. Pictures, verdicts and measures are made under :func:`.exact.fixed`, so
none of them depends on the batch it was made in: neither ``batch_size`` nor a kill, a shard or an engine changes a bit
on one kind of processor. An attack's prompts are found once for each concept, defense and kind of prompts, and kept in
``R/attacks``; they are cells like all others, addressed by what they say. Fits and attacks are made by the caller
alone, with the threads that torch has there, whatever the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import concepts, judges
from ..pictures import fault
from ..types import Prompt
from . import measures, models
from .attacks import UNATTACKED, Target, named
from .defenses import NONE, digest, distinct
from .engine import Batch, Crew, Engine
from .engine import engine as opened
from .exact import THREADS, fixed
from .generate import batches
from .plan import Cell, Group, Suite, address
from .rows import rows
from .shard import Shard, pictures
from .store import Store

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..judges import Judge

Progress = Callable[[str, int, int], None]  # stage, images done, images in all


WHOLE = Shard()


@dataclass(frozen=True)
class Planned:
    """A group with its guards fitted and its cells addressed."""

    group: Group
    concept: Concept
    guards: tuple[Any, ...]
    cells: tuple[Cell, ...]

    def of(self, share: set[str] | None) -> Planned:
        """The same group with the cells of a shard alone, whose twins are ``share``; None is all of them."""
        return self if share is None else replace(self, cells=tuple(c for c in self.cells if c.twin in share))


def run(
    suite: Suite,
    out: str | Path,
    *,
    only: Iterable[str] = (),
    batch_size: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    threads: int = THREADS,
    engine: str = "local",
    address: str = "",
    shard: Shard = WHOLE,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Run ``suite``, or a ``shard`` of it, in the folder ``out``; returns the rows of everything that is stored there.

    The images are drawn by ``workers``, each with a model of its own on ``device`` and ``threads`` threads: by this
    process (1) or by others of this machine with the engine "local", with "ray" by those of the cluster at ``address``.

    Raises :class:`UserError` for what the user can mend, before anything is written where that can be
    known: names, files and the model are looked up first.
    """
    progress = progress or (lambda stage, done, total: None)
    groups = suite.groups(tuple(only))
    Store.check(out)
    models.check_device(device)
    known = {name: concepts.load(name) for name in suite.concepts}
    distinct("concepts", [known[name].name for name in suite.concepts])
    for group in groups:
        group.stack.check(known[group.concept])
        group.strike.check()
    judge: Judge = judges.load(suite.judge)
    extractors = measures.extractors(suite.model, suite.metrics)
    crew = Crew(suite.model, device, workers, threads, address)
    with opened(engine, crew) as at_work:
        pipe = models.open_model(suite.model, device)
        mark = models.fingerprint(pipe)
        share = shard.part(pictures(suite, known, mark)) if shard.of > 1 else None
        with Store(out, write=True) as store:
            store.check_shard(suite.name, str(shard))
            fitted = _fit(groups, known, Path(out) / "defenses", pipe, progress)
            plan = [
                _planned(g, known[g.concept], fitted[g.concept, g.stack.name], suite, mark, pipe, Path(out), progress)
                for g in groups
            ]
            store.put_suite(suite, judge.version, models.versions(), models.machine(device, workers, threads, engine))
            said = _said(suite, plan, shard, mark)
            store.put_mark(suite.name, said)
            plan = [planned.of(share) for planned in plan]
            order = suite.groups()
            for planned in plan:
                store.put_cells(suite.name, suite.model, order.index(planned.group), planned.cells)
            size = batch_size or suite.batch_size
            _make(store, at_work, _missing(store, plan, suite, size, threads), pipe, plan, threads, progress)
            with fixed(threads):
                _judge(store, judge, plan, size, progress)
                _measure(store, extractors, plan, size, progress)
            store.put_mark(suite.name, said | {"finished": True})
            store.export(store.folder / "records.parquet")
            return rows(store)


def _fit(
    groups: list[Group], known: dict[str, Concept], keep: Path, pipe: Any, progress: Progress
) -> dict[tuple[str, str], tuple[Any, ...]]:
    """(concept, stack) → guards. A stack is fitted once for all its groups."""
    fitted: dict[tuple[str, str], tuple[Any, ...]] = {}
    for group in groups:
        key = (group.concept, group.stack.name)
        if key not in fitted:
            fitted[key] = tuple(group.stack.fit(known[group.concept], keep, lambda: pipe, progress))
    return fitted


def _planned(group: Group, concept: Concept, guards: tuple[Any, ...], suite: Suite, mark: Any, pipe: Any, out: Path,
             progress: Progress) -> Planned:  # fmt: skip
    digests = digest(guards)
    asked = [prompt for _, prompt in group.numbered(concept, suite.seed)]
    to_draw: list[tuple[Prompt, tuple[Any, ...]]] = [(prompt, ()) for prompt in asked]
    if group.strike != UNATTACKED:
        target = Target(pipe, guards, group.stack.name, concept)
        found = group.strike.run(target, asked, suite, out / "attacks", progress)
        to_draw = [(one.prompt, one.words) for one in found]

    def cell(place: int, source: Prompt, prompt: Prompt, words: tuple[Any, ...]) -> Cell:
        twin = address(mark, [], NONE, source, suite.settings)
        own = address(mark, digests, named(words), prompt, suite.settings)
        return Cell(own, twin, concept.name, group.stack.name, group.strike.name, place, prompt, words)

    cells = [cell(i, source, *drawn) for i, (source, drawn) in enumerate(zip(asked, to_draw, strict=True))]
    return Planned(group, concept, guards, tuple(cells))


def _said(suite: Suite, plan: list[Planned], shard: Shard, mark: Any) -> dict[str, Any]:
    """What the folder is marked with: which shard, of how many pictures in all, made with what."""
    order = suite.groups()
    return {
        "shard": str(shard),
        "model": models.brief(mark),
        "defenses": {f"{p.concept.name}/{p.group.stack.name}": digest(p.guards) for p in plan},
        "planned": {str(order.index(p.group)): len(p.cells) for p in plan},
        "finished": False,
    }


def _missing(store: Store, plan: list[Planned], suite: Suite, size: int, threads: int) -> list[Batch]:
    """The batches of which any cell has no image yet; what two groups share is drawn with the first."""
    have, todo = store.have_images(), []
    for planned in plan:
        for cells in batches(planned.cells, size):
            if any(cell.cell not in have for cell in cells):
                have |= {cell.cell for cell in cells}
                todo.append(Batch(tuple(cells), planned.guards, planned.group.stack.name, suite.settings, threads))
    return todo


def _make(store: Store, engine: Engine, todo: list[Batch], pipe: Any, plan: list[Planned], threads: int,
          progress: Progress) -> None:  # fmt: skip
    """Draw and store ``todo``. What can change a picture is stored with it."""
    versions = models.versions() | {"threads": str(threads)}
    total = sum(len(planned.cells) for planned in plan)
    done = total - sum(len(batch.cells) for batch in todo)
    progress("images", done, total)
    for samples in engine.drawn(todo, pipe):
        store.put_samples(samples, versions)
        done += len(samples)
        progress("images", done, total)


def _judge(store: Store, judge: Judge, plan: list[Planned], size: int, progress: Progress) -> None:
    done, total = 0, sum(len(p.cells) for p in plan)
    for planned in plan:
        have = store.have_verdicts(planned.concept.name, judge.name, judge.version)
        missing = [cell for cell in planned.cells if cell.cell not in have]
        done += len(planned.cells) - len(missing)
        for batch in batches(missing, size):
            images = [store.image_of(cell.cell) for cell in batch]
            verdicts = judge(images, [cell.prompt for cell in batch], planned.concept)
            store.put_verdicts(planned.concept.name, {c.cell: v for c, v in zip(batch, verdicts, strict=True)})
            done += len(batch)
            progress("verdicts", done, total)


def _measure(
    store: Store,
    extractors: dict[str, Callable[..., list[float | None]]],
    plan: list[Planned],
    size: int,
    progress: Progress,
) -> None:
    """Metrics that need images. A family without extractors has none, and its columns stay empty."""
    if not extractors:
        return
    have = store.have_measures()
    done, total = 0, sum(len(p.cells) for p in plan)
    for planned in plan:
        missing = [cell for cell in planned.cells if (cell.cell, cell.twin) not in have]
        done += len(planned.cells) - len(missing)
        for batch in batches(missing, size):
            store.put_measures(_measured(store, extractors, batch))
            done += len(batch)
            progress("metrics", done, total)


def _measured(
    store: Store, extractors: dict[str, Any], batch: list[Cell]
) -> list[tuple[str, str, float | None, float | None]]:
    """(cell, twin, preservation, CLIP score). The same picture as the twin's is 1 by definition, and not looked at;
    what is no picture, or has none as its twin, has no number."""
    images = [store.image_of(cell.cell) for cell in batch]
    moved = [i for i, cell in enumerate(batch) if store.digest_of(cell.cell) != store.digest_of(cell.twin)]
    twins = [store.image_of(batch[i].twin) for i in moved]
    found = extractors["preservation"]([images[i] for i in moved], twins) if moved else []
    preserved: list[float | None] = [None if fault(image) else 1.0 for image in images]
    for i, value in zip(moved, found, strict=True):
        preserved[i] = value
    scores = extractors["clip_score"](images, [cell.prompt.text for cell in batch])
    return [(cell.cell, cell.twin, p, s) for cell, p, s in zip(batch, preserved, scores, strict=True)]
