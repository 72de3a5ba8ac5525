"""``unsee erase``: what the command line says, as a task; sentences on the way go to stderr."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..defenses.base import Progress
    from ..erase import Erased, Task

UNITS = {"h": 3600, "m": 60, "s": 1}


def task(concept: str, out: Path, model: str, budget: str, floor: float, attacks: list[str] | None,
         candidates: Path | None, choose: int | None, prove: int | None, judge: str | None, steps: int,
         guidance: float | None, seed: int, device: str, workers: int) -> Task:  # fmt: skip
    """The task; what is given wins over the file of candidates."""
    from ..erase import Task
    from ..erase.candidates import Candidates

    limit = seconds(budget)
    given = {"attacks": tuple(attacks) if attacks else None, "choose": choose, "prove": prove}
    said: dict[str, Any] = {name: value for name, value in given.items() if value}
    tried = replace(Candidates.load(candidates), **said)
    return Task(model, concept, out, limit, floor, tried, judge or "", steps, guidance, seed, device, workers)


def run(asked: Task, progress: Progress) -> Erased:
    from ..erase import erase

    return erase(asked, progress, lambda text: print(text, file=sys.stderr))


def seconds(text: str) -> float | None:
    """A time as people write it; ``none`` is no limit. Raises :class:`UserError`.

    >>> seconds("1h30m"), seconds("90s"), seconds("none")
    (5400.0, 90.0, None)
    """
    if text == "none":
        return None
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    total = sum(float(n) * unit for n, unit in zip(found.groups(), UNITS.values(), strict=True) if n) if found else 0
    if not total:
        raise UserError("a time above 0 with its unit", repr(text), "write for example 90s, 60m, 1h30m or none")
    return float(total)
