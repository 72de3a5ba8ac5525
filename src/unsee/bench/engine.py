"""Where batches are drawn: here, or in several processes that each hold the model. Only the caller writes.

A batch is drawn whole by one process, and an image depends on nothing but its own prompt and seed, so the images
are the same either way (bit for bit where the processes have as many threads, else but for a float's last bits) and may
come back in any order.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from ..types import Sample
from . import models
from .attacks import named
from .generate import draw
from .plan import Cell


@dataclass(frozen=True)
class Batch:
    """Cells that are drawn together, and the guards they are drawn under."""

    cells: tuple[Cell, ...]
    guards: tuple[Any, ...]
    defense: str
    settings: dict[str, Any]

    def draw(self, pipe: Any) -> dict[str, Sample]:
        """Content address → sample. Cells that name the same learned words share a call."""
        made: dict[str, Sample] = {}
        for _, same in itertools.groupby(self.cells, key=lambda cell: named(cell.words)):
            cells = list(same)
            prompts, words = [cell.prompt for cell in cells], cells[0].words
            samples = draw(pipe, prompts, self.guards, defense=self.defense, words=words, **self.settings)
            made |= {cell.cell: sample for cell, sample in zip(cells, samples, strict=True)}
        return made


def drawn(batches: Iterable[Batch], pipe: Any, model: str, device: str, workers: int) -> Iterator[dict[str, Sample]]:
    """The samples of each batch as it is ready, from ``workers`` processes; 1 draws on ``pipe``, in order.

    An error of a batch is raised here, once, as it came; what was drawn before has been yielded.
    """
    if workers == 1:
        yield from (batch.draw(pipe) for batch in batches)
        return
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, start, initializer=_open, initargs=(model, device, models.share(workers))
    ) as pool:
        try:
            yield from _ahead(pool.submit, batches, 2 * workers)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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


def _open(model: str, device: str, threads: int) -> None:
    import torch

    global _PIPE
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _PIPE = models.open_model(model, device)


def _work(batch: Batch) -> dict[str, Sample]:
    return batch.draw(_PIPE)


def _end_with_parent() -> None:
    """A worker whose driver was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
