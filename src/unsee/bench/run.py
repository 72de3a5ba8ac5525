"""Run a suite: fit what is missing, attack, generate, judge, measure. Resumes wherever it was stopped.

The cells of a group (concept × defense × kind of prompts) are cut into batches in plan order, and a batch is stored in
one transaction, drawn or judged or measured. Pictures, verdicts and measures are made under :func:`.exact.fixed`, so
none of them depends on the batch it was made in: neither ``batch_size`` nor a kill, a shard or an engine changes a bit
on one kind of processor. An attack's prompts are found once for each concept, defense and kind of prompts, and kept in
``R/attacks``; they are cells like all others, addressed by what they say. Fits and attacks are made by the caller
alone, with the threads that torch has there, whatever the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import concepts, judges
from ..metrics import measures
from ..pictures import fault
from ..sampling import machine as models
from ..sampling.invariance import THREADS, fixed
from ..suites.attacks import UNATTACKED
from ..suites.stacks import NONE, digest, distinct
from ..suites.suite import Group, Row, SuiteSpec
from ..types import Prompt
from .attacks import Target, run_attack, words_digest
from .engine import Batch, Crew, Engine
from .engine import engine as engine_of
from .generate import batches
from .plan import Asked, Cell, Cells
from .rows import ResultRow, rows
from .schema import Mark
from .shard import Shard, pictures
from .store import Store

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from ..concepts import Concept
    from ..defenses import Defense
    from ..judges import Judge

Extractor = Callable[..., list[float | None]]
Progress = Callable[[str, int, int], None]  # stage, images done, images in all


WHOLE = Shard()


@dataclass(frozen=True)
class PlannedGroup:
    """A group with its guards fitted and its cells addressed; ``ordinal`` is its place among the suite's groups."""

    group: Group
    ordinal: int
    concept: Concept
    guards: tuple[Defense, ...]
    digests: list[str]
    cells: Cells

    def of(self, share: set[str] | None) -> PlannedGroup:
        """The same group with the cells of a shard alone, whose twins are ``share``; None is all of them."""
        return self if share is None else replace(self, cells=self.cells.of(share))


def run(
    suite: SuiteSpec,
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
) -> list[ResultRow]:
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
    for (concept, _), stack in {(g.concept, g.stack.name): g.stack for g in groups}.items():
        stack.check(known[concept])
    for attack in {g.attack.name: g.attack for g in groups}.values():
        attack.check()
    judge: Judge = judges.load(suite.judge)
    extractors = measures.opened(suite.model, suite.metrics)
    crew = Crew(suite.model, device, workers, threads, address)
    with engine_of(engine, crew) as at_work:
        pipe = models.open_model(suite.model, device)
        model = models.fingerprint(pipe)
        asked = Asked(suite, known, model)
        share = shard.part(pictures(suite, asked)) if shard.of > 1 else None
        with Store(out, write=True) as store:
            store.check_shard(suite.name, str(shard))
            fitted = _fit(groups, known, Path(out) / "defenses", pipe, progress)
            plan = plan_groups(suite, groups, asked, fitted, pipe, Path(out), progress)
            store.put_suite(suite, judge.version, models.versions(), models.machine(device, workers, threads, engine))
            mark = _mark(plan, shard, model)
            store.put_mark(suite.name, mark)
            plan = [part.of(share) for part in plan]
            put(store, suite, plan)
            size = batch_size or suite.batch_size
            _make(store, at_work, lacking(store, suite, plan, size), suite, pipe, plan, size, threads, progress)
            with fixed(threads):
                _judge(store, judge, suite, plan, size, progress)
                _measure(store, extractors, suite, plan, size, progress)
            store.put_mark(suite.name, {**mark, "finished": True})
            store.export(store.folder / "records.parquet")
            return rows(store)


def _fit(
    groups: list[Group], known: dict[str, Concept], keep: Path, pipe: DiffusionPipeline, progress: Progress
) -> dict[tuple[str, str], tuple[Defense, ...]]:
    """(concept, stack) → guards. A stack is fitted once for all its groups."""
    fitted: dict[tuple[str, str], tuple[Defense, ...]] = {}
    for group in groups:
        key = (group.concept, group.stack.name)
        if key not in fitted:
            fitted[key] = tuple(group.stack.fit(known[group.concept], keep, lambda: pipe, progress))
    return fitted


def plan_groups(suite: SuiteSpec, groups: Iterable[Group], asked: Asked,
                fitted: Mapping[tuple[str, str], tuple[Defense, ...]], pipe: DiffusionPipeline, out: Path,
                progress: Progress) -> list[PlannedGroup]:  # fmt: skip
    """The groups with their cells; ``fitted`` are the guards of (concept, stack). Attacks are run, or read."""
    order: dict[Row, int] = {}
    for i, group in enumerate(suite.groups()):
        order.setdefault(group.row, i)
    digests = {key: digest(guards) for key, guards in fitted.items()}
    plan = []
    for group in groups:
        concept, key = asked.known[group.concept], (group.concept, group.stack.name)
        words: list[tuple[Tensor, ...]] = []
        prompts = asked(group)[0]
        if group.attack != UNATTACKED:
            target = Target(pipe, fitted[key], group.stack.name, concept)
            found = run_attack(group.attack, target, list(prompts), suite, out / "attacks", progress)
            prompts, words = [one.prompt for one in found], [one.words for one in found]
        cells = _cells(group, asked, digests[key], prompts, words)
        plan.append(PlannedGroup(group, order[group.row], concept, fitted[key], digests[key], cells))
    return plan


def _cells(group: Group, asked: Asked, digests: list[str], prompts: list[Prompt],
           words: list[tuple[Tensor, ...]]) -> Cells:  # fmt: skip
    """The cells of ``prompts``, one for each that the group asks; ``words`` are the embeddings that they name."""
    sources, twins = asked(group)
    if len(prompts) != len(sources):
        raise RuntimeError(f"{group.attack.name} made {len(prompts)} prompts of {len(sources)}")
    names = asked.known[group.concept].name, group.stack.name, group.attack.name
    if prompts is sources and not digests:
        return Cells(names, prompts, twins, twins)
    at = asked.addresses(digests)
    named = map(words_digest, words) if any(words) else itertools.repeat(NONE)
    return Cells(names, prompts, b"".join(map(at, named, prompts)), twins, words if any(words) else ())


def put(store: Store, suite: SuiteSpec, plan: Iterable[PlannedGroup]) -> None:
    """Write down what is planned, all of it or nothing."""
    with store.together():
        for part in plan:
            store.put_cells(suite.name, suite.model, part.ordinal, part.cells)


def _mark(plan: list[PlannedGroup], shard: Shard, model: list[object]) -> Mark:
    """What the folder is marked with: which shard, of how many pictures in all, made with what."""
    return {
        "shard": str(shard),
        "model": models.brief(model),
        "defenses": {f"{p.concept.name}/{p.group.stack.name}": p.digests for p in plan},
        "planned": {str(p.ordinal): len(p.cells) for p in plan},
        "finished": False,
    }


def lacking(store: Store, suite: SuiteSpec, plan: Iterable[PlannedGroup], size: int) -> list[tuple[PlannedGroup, int]]:
    """The batches of which any cell has no image yet, each by its start; what groups share is drawn with the first."""
    seen: set[bytes] = set()
    todo = []
    for part in plan:
        missing = _flags(store.lack_images(suite.name, part.ordinal), part.cells)
        for start in range(0, len(part.cells), size):
            places = part.cells.kept[start : start + size]
            if any(missing[place] and part.cells.address(place) not in seen for place in places):
                seen.update(part.cells.address(place) for place in places)
                todo.append((part, start))
    return todo


def _flags(places: Iterable[int], cells: Cells) -> bytearray:
    """1 for each of ``places``, by place."""
    flags = bytearray(len(cells.prompts))
    for place in places:
        flags[place] = 1
    return flags


def _make(store: Store, engine: Engine, todo: list[tuple[PlannedGroup, int]], suite: SuiteSpec, pipe: DiffusionPipeline,
          plan: list[PlannedGroup], size: int, threads: int, progress: Progress) -> None:  # fmt: skip
    """Draw and store ``todo``. What can change a picture is stored with it."""
    versions = models.versions() | {"threads": str(threads)}
    total = sum(len(part.cells) for part in plan)
    done = total - sum(min(size, len(part.cells) - start) for part, start in todo)
    progress("images", done, total)
    waiting = (
        Batch(tuple(part.cells[start : start + size]), part.guards, part.group.stack.name, suite.settings, threads)
        for part, start in todo
    )
    for samples in engine.drawn(waiting, pipe):
        store.put_samples(samples, versions)
        done += len(samples)
        progress("images", done, total)


def _judge(
    store: Store, judge: Judge, suite: SuiteSpec, plan: list[PlannedGroup], size: int, progress: Progress
) -> None:
    done, total = 0, sum(len(part.cells) for part in plan)
    for part in plan:
        missing = _flags(store.lack_verdicts(suite.name, part.ordinal, judge.name, judge.version), part.cells)
        places = [i for i, place in enumerate(part.cells.kept) if missing[place]]
        done += len(part.cells) - len(places)
        for batch in batches(places, size):
            cells = [part.cells[i] for i in batch]
            images = [store.image_of(cell.cell) for cell in cells]
            verdicts = judge(images, [cell.prompt for cell in cells], part.concept)
            store.put_verdicts(part.concept.name, {c.cell: v for c, v in zip(cells, verdicts, strict=True)})
            done += len(cells)
            progress("verdicts", done, total)


def _measure(store: Store, extractors: dict[str, Extractor], suite: SuiteSpec,
             plan: list[PlannedGroup], size: int, progress: Progress) -> None:  # fmt: skip
    """Metrics that need images. A family without extractors has none, and its columns stay empty."""
    if not extractors:
        return
    done, total = 0, sum(len(part.cells) for part in plan)
    for part in plan:
        missing = _flags(store.lack_measures(suite.name, part.ordinal), part.cells)
        places = [i for i, place in enumerate(part.cells.kept) if missing[place]]
        done += len(part.cells) - len(places)
        for batch in batches(places, size):
            store.put_measures(_measured(store, extractors, [part.cells[i] for i in batch]))
            done += len(batch)
            progress("metrics", done, total)


def _measured(
    store: Store, extractors: dict[str, Extractor], batch: list[Cell]
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
