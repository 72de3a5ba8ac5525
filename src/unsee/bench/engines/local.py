"""Here, or in several processes of this machine that each hold the model, one for each GPU where there are several."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, Self

from ...types import Sample
from .. import models
from ..engine import Batch, Crew


class Local:
    """One worker draws on the caller's own model, in order; several are processes, and come in any order."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held between two calls."""

    def drawn(self, batches: Iterable[Batch], pipe: Any) -> Iterator[dict[str, Sample]]:
        if self.crew.workers == 1:
            yield from (batch.draw(pipe) for batch in batches)
            return
        start = multiprocessing.get_context("spawn")
        devices = start.SimpleQueue()
        for number in range(self.crew.workers):
            devices.put(device_of(number, self.crew.device))
        opened = (self.crew.model, devices)
        with ProcessPoolExecutor(self.crew.workers, start, initializer=_open, initargs=opened) as pool:
            try:
                yield from _ahead(pool.submit, batches, 2 * self.crew.workers)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


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


def _ahead(submit: Callable[..., Future[Any]], batches: Iterable[Batch], most: int) -> Iterator[dict[str, Sample]]:
    """Keeps at most ``most`` batches under way, so that a long plan is not pickled at once."""
    waiting: set[Future[Any]] = set()
    for batch in batches:
        waiting.add(submit(_work, batch))
        if len(waiting) == most:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    for future in waiting:
        yield future.result()


_PIPE: Any = None  # of a worker process


def _open(model: str, devices: Any) -> None:
    global _PIPE
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _PIPE = models.open_model(model, devices.get())


def _work(batch: Batch) -> dict[str, Sample]:
    return batch.draw(_PIPE)


def _end_with_parent() -> None:
    """A worker whose driver was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
