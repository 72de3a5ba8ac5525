"""All that the reports tell, worked out once from a store: rows, claims, costs, sweeps and what is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..bench import claims
from ..bench.claims import Claim
from ..bench.rows import rows_of
from ..bench.store import Store
from ..types import Record
from . import costs, story, sweep
from .story import Story

FORMAT = 1  # of report.json


@dataclass(frozen=True)
class Run:
    """What a run holds. ``rows`` as :func:`unsee.bench.rows.rows` has them, ``suites`` as the store has them."""

    records: list[Record]
    rows: list[dict[str, Any]]
    suites: dict[str, dict[str, Any]]
    claims: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    strikes: list[dict[str, Any]]
    sweeps: list[dict[str, Any]]
    headline: Story

    @property
    def title(self) -> str:
        return " + ".join(self.suites) or "empty run"

    @property
    def models(self) -> list[str]:
        return sorted({suite["spec"]["model"] for suite in self.suites.values()})

    @property
    def planned(self) -> int:
        return sum(suite["planned"] for suite in self.suites.values())

    @property
    def unjudged(self) -> int:
        return sum(r.verdict.outcome == "unjudged" for r in self.records)

    def as_json(self) -> str:
        """``report.json``: everything but the pictures. No time of writing: the same run gives the same bytes."""
        told = {
            "format": FORMAT,
            "title": self.title,
            "headline": {"lead": self.headline.lead, "detail": self.headline.detail},
            "images": len(self.records),
            "planned": self.planned,
            "unjudged": self.unjudged,
            "claims": self.claims,
            "rows": self.rows,
            "costs": self.costs,
            "attacks": self.strikes,
            "sweeps": self.sweeps,
            "suites": self.suites,
        }
        return json.dumps(told, indent=2, default=str) + "\n"


def gather(store: Store) -> Run:
    """Read a run. Costs one bootstrap for each row and each claim about means."""
    records, suites = store.records(), store.suites()
    found = rows_of(records)
    fits = costs.fits(store.folder, suites)
    return Run(
        records, found, suites, claimed(records, suites), costs.costs(records, fits),
        costs.strikes(store.folder, found), sweep.sweeps(found, fits), story.headline(records),
    )  # fmt: skip


def claimed(records: list[Record], suites: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts on every suite's claims, each with its suite's name."""
    told = []
    for name, suite in suites.items():
        made = [Claim.model_validate(claim) for claim in suite["spec"].get("claims", [])]
        if made:
            own = [r for r in records if r.suite == name]
            told += [{"suite": name} | row for row in claims.verdicts(made, own)]
    return told
