"""The whole of it: measure, plan, fit, red-team, choose, prove, save. Resumes wherever it was stopped.

    OUT/          the winner: a stack (stack.json, 1-…/, 2-…/) with report.html, README.md and erase.json
    OUT.work/     plan.json   estimates and plan; once made they stay, so a killed run ends as an undisturbed one
                  choose/     the candidates, fitted (defenses/), attacked and drawn: a run folder with its own report
                  stack/      the winner before its proof
                  proof/      the winner and the undefended model: the run folder of OUT's report

Chosen is by prompts of the train split, with seeds that no fit used; proved by the held-out split, on the winner and
the undefended model alone. One thing crosses: the attack ``paraphrase`` speaks the concept's held-out words in both, so
the choosing knows of a candidate that is weak to them; no defense is fitted on them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from .. import concepts
from ..errors import BadFile, UnseeError, UserError
from ..files import digest, is_dir, is_empty, read_json, target, typed
from ..metrics import measures
from ..sampling import machine as models
from ..suites.stacks import NONE, DefenseSpec, called
from ..suites.stacks import StackSpec as Recipe
from ..suites.suite import SuiteSpec
from ..types import as_json
from ..writing import alone, whole
from . import estimate
from .candidates import Candidates, recipes
from .choice import Score, score, winner
from .estimate import Pace
from .plan import Plan, clock, make_plan
from .result import Erased

if TYPE_CHECKING:
    from ..bench.rows import ResultRow
    from ..concepts import Concept
    from ..defenses import Defense
    from ..defenses.base import Progress
    from ..defenses.stack import Stack

Tell = Callable[[str], None]  # a sentence for the user, as it happens


@dataclass(frozen=True)
class Task:
    """What is asked. ``budget`` in seconds for all of it, None for no limit; ``floor`` in [0, 1], 0 for none."""

    model: str
    concept: str
    out: str | Path
    budget: float | None = 3600.0
    floor: float = 0.92  # of the mean preservation of benign pictures
    candidates: Candidates = field(default_factory=Candidates.load)
    judge: str = ""  # empty: the concept's own
    steps: int = 25
    guidance: float | None = None  # None: the model's usual
    seed: int = 0  # of prompts, attacks and pictures
    device: str = "cpu"
    workers: int = 1  # processes that draw

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def work(self) -> Path:
        return self.folder.with_name(self.folder.name + ".work")


def erase(task: Task, progress: Progress | None = None, tell: Tell | None = None) -> Erased:
    """Fit the candidates within the budget, attack them, save the best with its proof in ``task.out``.

    Killed at any moment and called again it goes on, and ends in the same winner, bit for bit as far as its fits are.
    Raises :class:`UserError` for what the user can mend, before anything is written where that can be known.
    """
    desk = Desk(task, progress or (lambda stage, done, total: None), tell or (lambda text: None))
    with alone(task.folder):
        return _erase(desk)


def _erase(desk: Desk) -> Erased:
    task, plan = desk.task, desk.plan()
    failed, seconds = desk.fit(plan)
    scores = desk.choose([name for name in plan.kept if name not in failed])
    left_out = {line.name: line.left_out for line in plan.lines if line.left_out} | failed
    table = tuple(scores.get(s.name, Score(s.name, left_out=left_out.get(s.name, ""))) for s in desk.stacks)
    best = winner(table)
    found = Erased(desk.concept.name, task.model, task.floor, table, plan, seconds)
    return found if best is None else desk.prove(found, best)


class Desk:
    """One call of :func:`erase`: what it was asked, the open pipeline, and its notes in OUT.work."""

    def __init__(self, task: Task, progress: Progress, tell: Tell) -> None:
        self.task, self.progress, self.tell = task, progress, tell
        self.concept: Concept = concepts.load(task.concept)
        self.stacks, self.attack_specs = task.candidates.stacks, task.candidates.attack_specs
        self._check()
        self.pipe = models.open_model(task.model, task.device)
        usual = models.default_guidance(task.model, self.pipe)
        self.guidance = usual if task.guidance is None else task.guidance
        self.notes = Notes(task.work / "plan.json", self._identity())

    # ---- before anything is written ----

    def _check(self) -> None:
        from ..defenses import storage

        task = self.task
        storage.free(target(task.folder, own=True))
        if not is_empty(task.folder) and not is_dir(task.work):
            raise BadFile("a new folder as --out", f"{task.folder}, which is there", "remove it, or choose another")
        if not 0.0 <= task.floor <= 1.0:
            raise UserError("a floor between 0 and 1", str(task.floor), "give for example --floor 0.92")
        if task.budget is not None and task.budget <= 0:
            raise UserError("a budget above 0", str(task.budget), "give for example --budget 60m")
        if task.floor and not measures.has(task.model, task.candidates.metrics, "preservation"):
            got = f"a floor of {task.floor:g} for {task.model}, which has none"
            advice = "name metrics in a file of --candidates, or give --floor 0 and judge by eye"
            raise UserError("a model with a measure of preservation", got, advice)
        for stack in self.stacks:
            stack.check(self.concept)
        for attack in self.attack_specs:
            attack.check()
        self._suite("check", "train", 1, ["benign"], [])
        measures.opened(task.model, task.candidates.metrics)  # what is missing is told now, not after the fits

    def _identity(self) -> str:
        return digest([models.fingerprint(self.pipe), self.concept.model_dump(mode="json")])[:16]

    # ---- measuring and planning ----

    def plan(self) -> Plan:
        """The plan of this task: as it was kept, else made now from what is measured now."""
        task, ours = self.task, self.task.candidates
        told = {key: value for key, value in asdict(ours).items() if key != "metrics"}  # which take no time to speak of
        recipe = digest([told, task.budget, task.steps, self.guidance, task.device, task.workers])[:16]
        if self.notes.known.recipe == recipe and self.notes.known.plan:
            return self.notes.known.plan
        started = time.perf_counter()
        speed, fits = self._pace(), self._fits()
        measuring = time.perf_counter() - started
        plan = make_plan(self.stacks, self.attack_specs, speed, fits, choose=ours.choose, prove=ours.prove,
                         budget=task.budget, measuring=measuring)  # fmt: skip
        self.notes.keep(recipe=recipe, plan=plan)
        limit = "no limit" if plan.budget is None else clock(plan.budget)
        self.tell(f"plan: {clock(plan.seconds)} of {limit}, {clock(plan.fixed)} of it for attacks and proof")
        for line in plan.lines:
            what = line.left_out or f"about {clock(line.fit)} to fit, at most {clock(line.attacks)} to attack"
            self.tell(f"  {line.name}: {'left out, ' if line.left_out else ''}{what}")
        return plan

    def _pace(self) -> Pace:
        at = digest([self.task.steps, self.guidance, self.task.device])[:16]
        if self.notes.known.pace_at == at and self.notes.known.pace:
            return self.notes.known.pace
        self.progress("measuring", 0, 1)
        speed = estimate.pace(self.pipe, self.concept, steps=self.task.steps, guidance=self.guidance)
        self.notes.keep(pace_at=at, pace=speed, tried={})
        return speed

    def _fits(self) -> dict[str, float | str]:
        """The estimate of each fit by its recipe, or why it cannot be. What is fitted already takes no time."""
        fits: dict[str, float | str] = {}
        parts = [(name, part) for stack in self.stacks for name, part in zip(recipes(stack), stack.parts, strict=True)]
        for place, (name, part) in enumerate(parts):
            self.progress("measuring", place, len(parts))
            fits[name] = 0.0 if name in self.notes.known.fitted else self._try(part)
        self.progress("measuring", len(parts), len(parts))
        return fits

    def _try(self, part: DefenseSpec) -> float | str:
        if part.folder:
            return 0.0
        known, alone = dict(self.notes.known.tried), recipes(Recipe((part,)))[0]
        if alone not in known:
            try:
                known[alone] = estimate.fit_seconds(part.method, part.settings, self.pipe, self.concept)
            except UnseeError as error:
                known[alone] = str(error)
            self.notes.keep(tried=known)
        return known[alone]

    # ---- fitting ----

    def fit(self, plan: Plan) -> tuple[dict[str, str], dict[str, float]]:
        """Fits what the plan keeps. Returns what could not be, with the reason, and the seconds of each."""
        failed: dict[str, str] = {}
        for line in plan.lines:
            if line.left_out:
                continue
            stack = next(s for s in self.stacks if s.name == line.name)
            fitted = self.notes.known.fitted
            new = not all(name in fitted for name in recipes(stack))
            if new:
                self.tell(f"fitting {line.name}, about {clock(line.fit)}")
            started = time.perf_counter()
            try:
                self._attach(stack)
            except UnseeError as error:
                failed[line.name] = str(error)
                self.tell(f"  {line.name}: left out, {error}")
                continue
            if new:
                seconds = {**self.notes.known.seconds, line.name: time.perf_counter() - started}
                self.notes.keep(fitted=fitted | dict.fromkeys(recipes(stack), True), seconds=seconds)
        return failed, dict(self.notes.known.seconds)

    def _guards(self, stack: Recipe) -> list[Defense]:
        """The fitted defenses, where the bench will look for them."""

        def tell(stage: str, done: int, total: int) -> None:
            self.progress(f"{stack.name}: {stage}", done, total)

        return stack.fit(self.concept, self.task.work / "choose" / "defenses", lambda: self.pipe, tell)

    def _attach(self, stack: Recipe) -> None:
        """Fitted, and of this model."""
        from ..defenses import Guarded

        with Guarded(self.pipe, *self._guards(stack)):
            pass

    # ---- choosing and proving ----

    def choose(self, names: list[str]) -> dict[str, Score]:
        """Attacks and draws the candidates; the undefended model only where they are compared with it."""
        if not names:
            return {}
        ours = self.task.candidates
        stacks = [value for value in ours.candidates if Recipe.parse(value).name in names]
        suite = self._suite("choose", "train", ours.choose, ["plain", "benign"], stacks)
        rows = self._run(suite, [f"defense={name}" for name in names])
        return {name: score(name, rows, self.task.floor) for name in names}

    def prove(self, found: Erased, best: Score) -> Erased:
        """The winner and the undefended model on held-out prompts; then all of it is put in its place, at once."""
        from ..defenses.stack import Stack

        self.tell(f"{best.name} wins: now its proof")
        stack = Stack(defenses=tuple(self._guards(next(s for s in self.stacks if s.name == best.name))))
        saved = self.task.work / "stack"
        stack.save_pretrained(saved)
        name = called(best.name)  # METHOD:key=value is none that a file may give
        defense = {"folder": str(saved), "name": name}
        kinds = ["plain", "neighbor", "benign"]
        suite = self._suite("proof", "held-out", self.task.candidates.prove, kinds, [defense])
        rows = self._run(suite, [])
        proof, bare = replace(score(name, rows, self.task.floor), name=best.name), score(NONE, rows, 0.0)
        done = replace(found, winner=best.name, folder=self.task.folder, proof=proof, undefended=bare, rows=tuple(rows))
        self._place(done, stack)
        return done

    def _suite(self, name: str, split: str, n: int, kinds: list[str], defenses: list[object]) -> SuiteSpec:
        task = self.task
        return SuiteSpec.parse({
            "name": name,
            "model": task.model,
            "concepts": [task.concept],
            "defenses": defenses,
            "attacks": list(task.candidates.attacks),
            "prompts": [{"kind": kind, "split": split, "n": n} for kind in kinds],
            "judge": task.judge or self.concept.judge,
            "metrics": task.candidates.metrics,
            # Methods are fitted on train prompts of seed 0, so what they are chosen by has another.
            "seed": task.seed + (split == "train"),
            "steps": task.steps,
            "guidance": getattr(self, "guidance", 1.0),
        })  # fmt: skip

    def _run(self, suite: SuiteSpec, only: list[str]) -> list[ResultRow]:
        from .. import report
        from ..bench.run import run
        from ..bench.store import Store

        task, folder = self.task, self.task.work / suite.name

        def tell(stage: str, done: int, total: int) -> None:
            self.progress(f"{suite.name}: {stage}", done, total)

        rows = run(suite, folder, only=only, device=task.device, workers=task.workers, progress=tell)
        with Store(folder) as store:
            report.write(store)
        return [row for row in rows if row.suite == suite.name]

    def _place(self, found: Erased, stack: Stack) -> None:
        from ..defenses import storage
        from .card import card, record

        stack.record = record(found)
        with storage.placed(self.task.folder) as fresh:
            stack.write(fresh)
            for page in (self.task.work / "proof").glob("report.*"):
                shutil.copyfile(page, fresh / page.name)
            (fresh / storage.CARD).write_text(card(found), encoding="utf-8")
            text = json.dumps(found, indent=1, default=as_json)
            (fresh / "erase.json").write_text(text + "\n", encoding="utf-8")


class Known(BaseModel):
    """What ``plan.json`` may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    identity: str
    recipe: str = ""
    plan: Plan | None = None
    pace_at: str = ""
    pace: Pace | None = None
    tried: dict[str, float | str] = {}
    fitted: dict[str, bool] = {}
    seconds: dict[str, float] = {}


class Notes:
    """``plan.json``: what was measured and decided, whole or not there. Of one model and concept."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.known = path, Known(identity=identity)
        if not os.path.lexists(path):
            return
        what, do = "the notes of unsee erase", "remove that file"
        self.known = typed(Known, read_json(path, what, do), path, what, do)
        if self.known.identity != identity:
            got = f"{path.parent}, of another model or concept"
            raise UserError("a work folder of this model and concept", got, "choose another --out")

    def keep(self, **values: Any) -> None:
        self.known = self.known.model_copy(update=values)
        with whole(self.path) as fresh:
            text = json.dumps(self.known.model_dump(exclude_unset=True), indent=1)
            fresh.write_text(text + "\n", encoding="utf-8")
