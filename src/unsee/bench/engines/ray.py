"""On a Ray cluster: an actor is a worker that holds the model, a batch is a task of it, the driver alone writes.

    ray start --head                                    on one machine; ray start --address=HOST:6379 on the others
    unsee bench SUITE --out R --engine ray --workers 8  on the first of them (or --address HOST:6379)

Needs ``unsee[ray]`` and the same versions on every machine: a worker that finds others, or another model, is
refused. A worker that is lost (its process, its node) is replaced wherever there is room, and its batch is drawn again,
``TRIES`` times at most. Where no cluster answers there is an error and never a run on this machine alone; a cluster of
this machine alone is ``--address local``. Each worker asks for one GPU where the device is one, else for as many CPUs
as it has threads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from ...errors import MissingExtra, UnseeError, UserError
from ...sampling import machine as models
from ...types import Sample
from ..engine import Batch, Crew

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ...defenses import Defense

Actor = Any  # Ray's handle of a :class:`Worker`
Ref = object  # of what will be there once a call is done
TRIES = 4  # of a batch, and of starting a worker, before it is given up
PATIENCE = 15.0  # seconds without news before the cluster is asked whether it has room at all


class Worker:
    """What an actor runs. The model is opened by the first call, so that its errors come back as they are."""

    def __init__(self, model: str, device: str) -> None:
        self.model, self.device = model, device

    def open(self) -> dict[str, str]:
        """Opens the model; what it is, see :func:`facts`."""
        self.pipe = models.open_model(self.model, self.device)
        return facts(self.pipe)

    def draw(self, batch: Batch, guards: tuple[Defense, ...]) -> dict[str, Sample]:
        return replace(batch, guards=guards).draw(self.pipe)


@dataclass(frozen=True)
class _Job:
    batch: Batch
    guards: Ref  # many batches have the same
    tries: int = 0


class Ray:
    """Workers on a cluster. Raises :class:`UserError` on entering where Ray or the cluster is missing."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._connected = False

    def __enter__(self) -> Self:
        self.ray = _ray()
        if not self.ray.is_initialized():
            _connect(self.ray, self.crew.address or os.environ.get("RAY_ADDRESS", "auto"))
            self._connected = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected:
            self.ray.shutdown()
            self._connected = False

    def drawn(self, batches: Iterable[Batch], pipe: DiffusionPipeline) -> Iterator[dict[str, Sample]]:
        batches = list(batches)
        if not batches:
            return
        shift = _Shift(self.ray, self.crew, facts(pipe), self._jobs(batches))
        try:
            yield from shift.work()
        finally:
            shift.end()

    def _jobs(self, batches: list[Batch]) -> deque[_Job]:
        stacks = {id(batch.guards): batch.guards for batch in batches}
        refs = {key: self.ray.put(guards) for key, guards in stacks.items()}
        return deque(_Job(replace(batch, guards=()), refs[id(batch.guards)]) for batch in batches)


class _Shift:
    """One call's workers and jobs. A worker has one job at a time, so none waits behind a worker that is not there."""

    def __init__(self, ray: ModuleType, crew: Crew, expected: dict[str, str], jobs: deque[_Job]) -> None:
        self.ray, self.crew, self.expected, self.jobs = ray, crew, expected, jobs
        needs = {"num_gpus": 1} if crew.device.startswith("cuda") else {"num_cpus": crew.threads}
        self.actor = ray.remote(Worker).options(max_restarts=0, scheduling_strategy="SPREAD", **needs)
        self.idle: list[Actor] = []
        self.starting: dict[Ref, Actor] = {}  # of ``open``
        self.busy: dict[Ref, tuple[Actor, _Job]] = {}
        self.failed = 0  # workers in a row that were lost while they started
        for _ in range(min(crew.workers, len(jobs))):
            self._hire()

    def work(self) -> Iterator[dict[str, Sample]]:
        """Every job's samples; returns when all are done, whether or not every worker has started by then."""
        while self.jobs or self.busy:
            while self.idle and self.jobs:
                worker, job = self.idle.pop(), self.jobs.popleft()
                self.busy[worker.draw.remote(job.batch, job.guards)] = worker, job
            done, _ = self.ray.wait([*self.busy, *self.starting], num_returns=1, timeout=PATIENCE)
            if not done:
                self._room()
            for ref in done:
                yield from self._started(ref) if ref in self.starting else self._drawn(ref)

    def end(self) -> None:
        workers = [*self.idle, *self.starting.values(), *(worker for worker, _ in self.busy.values())]
        for worker in workers:
            self.ray.kill(worker)

    def _hire(self) -> None:
        worker = self.actor.remote(self.crew.model, self.crew.device)
        self.starting[worker.open.remote()] = worker

    def _started(self, ref: Ref) -> Iterator[dict[str, Sample]]:
        worker = self.starting.pop(ref)
        found, lost = self._result(ref, worker)
        if lost:
            self.failed += 1
            if self.failed == TRIES:
                raise UnseeError(f"{TRIES} workers in a row were lost while they started: {lost}")
            self._hire()
        else:
            _same(self.expected, found)
            self.failed = 0
            self.idle.append(worker)
        return iter(())

    def _drawn(self, ref: Ref) -> Iterator[dict[str, Sample]]:
        worker, job = self.busy.pop(ref)
        samples, lost = self._result(ref, worker)
        if not lost:
            self.idle.append(worker)
            return iter([samples])
        if job.tries + 1 == TRIES:
            raise UnseeError(f"{TRIES} workers were lost while they drew the same batch: {lost}")
        self.jobs.appendleft(replace(job, tries=job.tries + 1))
        self._hire()
        return iter(())

    def _result(self, ref: Ref, worker: Actor) -> tuple[dict[str, Any], str]:
        """(what came back, why it was lost). What the batch itself raised is raised here as it was."""
        try:
            return self.ray.get(ref), ""
        except self.ray.exceptions.RayTaskError as error:
            self.idle.append(worker)  # it is well, and ended with the others
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except self.ray.exceptions.RayError as error:
            self.ray.kill(worker)  # where only its result was lost
            return {}, " ".join(str(error).split())[:300] or type(error).__name__

    def _room(self) -> None:
        """Others may use the cluster, then we wait. Without any room for us there would be no end to it."""
        if self.busy:
            return
        name, need = ("GPU", 1) if self.crew.device.startswith("cuda") else ("CPU", self.crew.threads)
        most = max((node["Resources"].get(name, 0) for node in self.ray.nodes() if node["Alive"]), default=0)
        if most < need:
            raise UserError(f"a node with {need} {name} for a worker", f"{most:g} {name} at most", "see: ray status")


def facts(pipe: DiffusionPipeline) -> dict[str, str]:
    """What must be the same wherever a picture is drawn: versions, and the model's fingerprint."""
    return models.versions() | {"model": models.brief(models.fingerprint(pipe))}


def _same(expected: dict[str, str], found: dict[str, str]) -> None:
    for name, value in expected.items():
        if found.get(name) != value:
            raise UserError(
                f"workers with {name} {value}", f"one with {found.get(name)}", "install the same on every node"
            )


def _ray() -> ModuleType:
    _show_token()
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray", error) from None
    return ray


def _show_token() -> None:
    """A cluster started where a token lies asks for it, and Ray shows it to none that is named; an open one ignores it.

    Has no effect where Ray was imported before.
    """
    kept = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or kept.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the caller's, which ends the driver without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)


def _connect(ray: ModuleType, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    do = "start one (ray start --head), or --address HOST:PORT; --address local for one of this machine alone"
    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError("a Ray cluster that answers", f"{address!r} ({why})", do) from None
