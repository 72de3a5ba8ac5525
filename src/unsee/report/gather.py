"""All that the reports tell, worked out once from a store: rows, claims, costs, sweeps and what is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..bench import claims
from ..bench.claims import Claim
from ..bench.rows import rows_of
from ..bench.shard import Shard
from ..bench.store import Store
from ..types import Record
from . import costs, story, sweep
from .story import Story
from .table import literal

FORMAT = 1  # of report.json


@dataclass(frozen=True)
class Run:
    """What a run holds. ``rows`` as :func:`unsee.bench.rows.rows` has them, ``suites`` as the store has them.

    ``records`` are :meth:`Store.brief`. ``shards`` is suite → (I/N, pictures planned in all) of those that are a part.
    """

    records: list[Record]
    rows: list[dict[str, Any]]
    suites: dict[str, dict[str, Any]]
    claims: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    strikes: list[dict[str, Any]]
    sweeps: list[dict[str, Any]]
    headline: Story
    shards: dict[str, tuple[str, int]] = field(default_factory=dict)

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
    def part(self) -> str:
        """Which shard of what this is; empty for a whole run."""
        told = [
            f"shard {shard} of the suite {literal(name)}: {self.suites[name]['planned']:,} of {whole:,} images"
            for name, (shard, whole) in self.shards.items()
        ]
        return "; ".join(told)

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
            **(
                {"shards": {name: {"shard": s, "of_images": n} for name, (s, n) in self.shards.items()}}
                if self.shards
                else {}
            ),
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
    records, suites = list(store.brief()), store.suites()
    found = rows_of(records)
    fits = costs.fits(store.folder, suites)
    return Run(
        records, found, suites, claimed(records, suites), costs.costs(records, fits),
        costs.strikes(store.folder, found), sweep.sweeps(found, fits), story.headline(records, found),
        _shards(store, suites),
    )  # fmt: skip


def _shards(store: Store, suites: dict[str, Any]) -> dict[str, tuple[str, int]]:
    marks = {name: store.mark(name) for name in suites}
    return {
        name: (mark["shard"], sum(mark["planned"].values()))
        for name, mark in marks.items()
        if mark and mark["shard"] != str(Shard())
    }


def claimed(records: list[Record], suites: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts on every suite's claims, each with its suite's name."""
    by: dict[str, list[Record]] = {}
    for r in records:
        by.setdefault(r.suite, []).append(r)
    told = []
    for name, suite in suites.items():
        made = [Claim.model_validate(claim) for claim in suite["spec"].get("claims", [])]
        if made:
            told += [{"suite": name} | row for row in claims.verdicts(made, by.get(name, []))]
    return told
