"""Run a suite: fit what is missing, attack, generate, judge, measure. Resumes wherever it was stopped.

How a resumed run comes to the same images, bit for bit: the cells of a group (concept × defense × kind
of prompts) are cut into batches in plan order, a batch is stored in one transaction, and a batch of which
any cell is missing is generated whole. So the composition of every batch is the plan's, whatever was
killed when. ``--only`` chooses whole groups and changes no batch either. Another ``batch_size`` changes
at most the last bits of a float before rounding to 8-bit pixels. An attack's prompts are found once for each concept,
defense and kind of prompts, and kept in ``R/attacks``; they are cells like all others, addressed by what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import concepts, judges
from ..types import Prompt, Sample
from . import measures, models
from .attacks import UNATTACKED, Target, named
from .defenses import NONE, digest
from .engine import Batch, drawn
from .generate import batches
from .plan import Cell, Group, Suite, address
from .rows import rows
from .store import Store

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..judges import Judge

Progress = Callable[[str, int, int], None]  # stage, images done, images in all


@dataclass(frozen=True)
class Planned:
    """A group with its guards fitted and its cells addressed."""

    group: Group
    concept: Concept
    guards: tuple[Any, ...]
    cells: tuple[Cell, ...]


def run(
    suite: Suite,
    out: str | Path,
    *,
    only: Iterable[str] = (),
    batch_size: int | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Run ``suite`` in the folder ``out`` and return the rows of everything that is stored there.

    With several ``workers`` the images are drawn by as many processes, each with a model of its own on ``device``.

    Raises :class:`UserError` for what the user can mend, before anything is written where that can be
    known: names, files and the model are looked up first.
    """
    progress = progress or (lambda stage, done, total: None)
    groups = suite.groups(tuple(only))
    known = {name: concepts.load(name) for name in suite.concepts}
    for group in groups:
        group.stack.check(known[group.concept])
        group.strike.check()
    judge: Judge = judges.load(suite.judge)
    extractors = measures.extractors(suite.model, suite.metrics)
    pipe = models.open_model(suite.model, device)
    mark = models.fingerprint(pipe)
    with Store(out, write=True) as store:
        fitted = _fit(groups, known, Path(out) / "defenses", pipe, progress)
        plan = [
            _planned(g, known[g.concept], fitted[g.concept, g.stack.name], suite, mark, pipe, Path(out), progress)
            for g in groups
        ]
        store.put_suite(suite, judge.version, models.versions(), models.machine(device, workers))
        order = suite.groups()
        for planned in plan:
            store.put_cells(suite.name, suite.model, order.index(planned.group), planned.cells)
        size = batch_size or suite.batch_size
        todo = _missing(store, plan, suite, size)
        total = sum(len(planned.cells) for planned in plan)
        left = sum(len(batch.cells) for batch in todo)
        _generate(store, drawn(todo, pipe, suite.model, device, workers), total - left, total, progress)
        _judge(store, judge, plan, size, progress)
        _measure(store, extractors, plan, size, progress)
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


def _missing(store: Store, plan: list[Planned], suite: Suite, size: int) -> list[Batch]:
    """The batches of which any cell has no image yet; what two groups share is drawn with the first."""
    have, todo = store.have_images(), []
    for planned in plan:
        for cells in batches(planned.cells, size):
            if any(cell.cell not in have for cell in cells):
                have |= {cell.cell for cell in cells}
                todo.append(Batch(tuple(cells), planned.guards, planned.group.stack.name, suite.settings))
    return todo


def _generate(store: Store, ready: Iterable[dict[str, Sample]], done: int, total: int, progress: Progress) -> None:
    versions = models.versions()
    progress("images", done, total)
    for samples in ready:
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
    store: Store, extractors: dict[str, Callable[..., list[float]]], plan: list[Planned], size: int, progress: Progress
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
    images = [store.image_of(cell.cell) for cell in batch]
    twins = [store.image_of(cell.twin) for cell in batch]
    preserved = extractors["preservation"](images, twins)
    scores = extractors["clip_score"](images, [cell.prompt.text for cell in batch])
    return [(cell.cell, cell.twin, float(p), float(s)) for cell, p, s in zip(batch, preserved, scores, strict=True)]
