"""Here, or in several processes of this machine that each hold the model, one for each GPU where there are several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Self

from ...sampling import machine as models
from ...types import Sample
from ..engine import Batch, Crew
from .child import Child

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Artist = Child[Batch, dict[str, Sample]]
AHEAD = 2  # batches that a worker has at once: one that it draws, one that waits


class Local:
    """One worker draws on the caller's own model, in order; several are processes, and come in any order.

    Raises :class:`UnseeError` as soon as one of them is lost. They end with this process, however that ends.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held between two calls."""

    def drawn(self, batches: Iterable[Batch], pipe: DiffusionPipeline) -> Iterator[dict[str, Sample]]:
        if self.crew.workers == 1:
            yield from (batch.draw(pipe) for batch in batches)
            return
        todo = list(batches)
        with contextlib.ExitStack() as stack:
            workers: list[Artist] = []
            for number in range(min(self.crew.workers, len(todo))):
                device = device_of(number, self.crew.device)
                workers.append(Child(artist, self.crew.model, device))
                stack.callback(workers[-1].end)
            yield from _shared(workers, todo)


def _shared(workers: list[Artist], batches: list[Batch]) -> Iterator[dict[str, Sample]]:
    todo = iter(batches)
    while True:
        for load in range(AHEAD):  # every worker one before any gets its second
            for worker in workers:
                if worker.load <= load and (batch := next(todo, None)) is not None:
                    worker.give(batch)
        busy: dict[object, Artist] = {worker.link: worker for worker in workers if worker.load}
        if not busy:
            return
        for link in wait([worker.link for worker in busy.values()]):
            yield busy[link].take()


def artist(model: str, device: str) -> Callable[[Batch], dict[str, Sample]]:
    """What a worker does with a batch, once it has opened the model."""
    pipe = models.open_model(model, device)
    return lambda batch: batch.draw(pipe)


def device_of(number: int, device: str, gpus: int | None = None) -> str:
    """Where the worker of this number draws: ``cuda`` means the GPUs in turn, all else is taken as it is.

    >>> [device_of(n, "cuda", gpus=2) for n in range(3)], device_of(1, "cuda:0", gpus=2)
    (['cuda:0', 'cuda:1', 'cuda:0'], 'cuda:0')
    """
    if device != "cuda":
        return device
    if gpus is None:
        import torch

        gpus = torch.cuda.device_count()
    return f"cuda:{number % max(gpus, 1)}"
