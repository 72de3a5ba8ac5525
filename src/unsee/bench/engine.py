"""What an engine is given and what it gives: batches in, samples out, in any order. Only its caller writes.

A batch is drawn whole by one worker, and a picture depends on nothing but its own prompt and seed; the number of
threads travels with the batch (see :mod:`.exact`), so the pictures are the same bit for bit wherever it is drawn.

    local   here, or in several processes that each hold the model
    ray     on a Ray cluster; see :mod:`.engines.ray`
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UserError
from ..registry import resolve
from ..sampling.invariance import THREADS, fixed
from ..types import Sample
from .attacks import words_digest
from .generate import draw
from .plan import Cell

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..defenses import Defense

ENGINES = {"local": "unsee.bench.engines.local:Local", "ray": "unsee.bench.engines.ray:Ray"}


@dataclass(frozen=True)
class Batch:
    """Cells that are drawn together, and the guards and the number of threads they are drawn under."""

    cells: tuple[Cell, ...]
    guards: tuple[Defense, ...]
    defense: str
    settings: dict[str, Any]
    threads: int = THREADS

    def draw(self, pipe: DiffusionPipeline) -> dict[str, Sample]:
        """Content address → sample. Cells that name the same learned words share a call."""
        drawn: dict[str, Sample] = {}
        for _, same in itertools.groupby(self.cells, key=lambda cell: words_digest(cell.words)):
            cells = list(same)
            prompts, words = [cell.prompt for cell in cells], cells[0].words
            with fixed(self.threads):
                samples = draw(pipe, prompts, self.guards, defense=self.defense, words=words, **self.settings)
            drawn |= {cell.cell: sample for cell, sample in zip(cells, samples, strict=True)}
        return drawn


@dataclass(frozen=True)
class Crew:
    """Who draws: ``workers`` with a model each, on ``device``, with ``threads`` threads; ``address`` is a cluster's."""

    model: str
    device: str = "cpu"
    workers: int = 1
    threads: int = THREADS
    address: str = ""


class Engine(Protocol):
    """Made of a :class:`Crew`, entered before anything is written: what cannot work is told then."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def drawn(self, batches: Iterable[Batch], pipe: DiffusionPipeline) -> Iterator[dict[str, Sample]]:
        """The samples of each batch as it is ready. ``pipe`` is the caller's own model.

        An error of a batch is raised here, once, as it came; what was drawn before has been yielded.
        """
        ...


def engine(name: str, crew: Crew) -> AbstractContextManager[Engine]:
    """The engine called ``name``. Raises :class:`UserError` for an unknown one, or an address that it cannot use."""
    found: AbstractContextManager[Engine] = resolve("engine", ENGINES, name)(crew)
    if crew.address and name != "ray":
        raise UserError("--address with --engine ray", f"it with the engine {name!r}", "drop it, or add --engine ray")
    return found
