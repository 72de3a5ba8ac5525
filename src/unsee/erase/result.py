"""What ``erase`` comes to: the candidates as they were scored, the winner and its proof."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..bench.rows import ResultRow
from .choice import Score
from .plan import Plan


@dataclass(frozen=True)
class Erased:
    """What came out. Without a winner ``folder`` is None, and so are ``proof`` and ``undefended``."""

    concept: str
    model: str
    floor: float
    table: tuple[Score, ...]  # every candidate, as the choosing saw it
    plan: Plan
    seconds: dict[str, float]  # of each candidate's fit in the last call that fitted it, beside the plan's estimate
    winner: str = ""
    folder: Path | None = None
    proof: Score | None = None  # of the winner on held-out prompts
    undefended: Score | None = None  # of the bare model on the same
    rows: tuple[ResultRow, ...] = ()  # of the proof

    def as_dict(self) -> dict[str, object]:
        """For :func:`unsee.types.as_json`."""
        return vars(self) | {"folder": str(self.folder or "")}
