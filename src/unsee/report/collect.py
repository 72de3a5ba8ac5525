"""All that the reports tell, worked out once from a store: rows, claims, costs, sweeps and what is missing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from ..bench import claims
from ..bench.claims import ClaimRow
from ..bench.rows import ResultRow, rows_of
from ..bench.schema import StoredSuite
from ..bench.shard import Shard
from ..bench.store import Store
from ..suites.claims import Claim
from ..types import Record, as_json
from .costs import AttackCost, Cost, attack_costs, costs, fits
from .headline import Headline, headline
from .sweep import Sweep, sweeps
from .table import literal

FORMAT = 1  # of report.json


@dataclass(frozen=True)
class Run:
    """What a run holds.

    ``records`` are :meth:`Store.brief`. ``shards`` is suite → (I/N, pictures planned in all) of those that are a part.
    """

    records: list[Record]
    rows: list[ResultRow]
    suites: dict[str, StoredSuite]
    claims: list[ClaimRow]
    costs: list[Cost]
    attack_costs: list[AttackCost]
    sweeps: list[Sweep]
    headline: Headline
    shards: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return " + ".join(self.suites) or "empty run"

    @property
    def models(self) -> list[str]:
        return sorted({suite.spec["model"] for suite in self.suites.values()})

    @property
    def planned(self) -> int:
        return sum(suite.planned for suite in self.suites.values())

    @property
    def part(self) -> str:
        """Which shard of what this is; empty for a whole run."""
        return "; ".join(
            f"shard {shard} of the suite {literal(name)}: {self.suites[name].planned:,} of {whole:,} images"
            for name, (shard, whole) in self.shards.items()
        )

    @property
    def unjudged(self) -> int:
        return sum(r.verdict.outcome == "unjudged" for r in self.records)

    def as_json(self) -> str:
        """``report.json``: everything but the pictures. No time of writing: the same run gives the same bytes."""
        parts = {name: {"shard": shard, "of_images": n} for name, (shard, n) in self.shards.items()}
        table = {
            "format": FORMAT,
            "title": self.title,
            "headline": self.headline,
            "images": len(self.records),
            "planned": self.planned,
            **({"shards": parts} if parts else {}),
            "unjudged": self.unjudged,
            "claims": self.claims,
            "rows": self.rows,
            "costs": self.costs,
            "attacks": self.attack_costs,
            "sweeps": self.sweeps,
            "suites": self.suites,
        }
        return json.dumps(table, indent=2, default=as_json) + "\n"


def gather(store: Store) -> Run:
    """Read a run. Costs one bootstrap for each row and each claim about means."""
    records, suites = list(store.brief()), store.suites()
    found = rows_of(records)
    fitted = fits(store.folder, suites)
    return Run(
        records, found, suites, decided_claims(records, suites), costs(records, fitted),
        attack_costs(store.folder, found), sweeps(found, fitted), headline(records, found),
        _shards(store, suites),
    )  # fmt: skip


def _shards(store: Store, suites: dict[str, StoredSuite]) -> dict[str, tuple[str, int]]:
    marks = {name: store.mark(name) for name in suites}
    return {
        name: (mark["shard"], sum(mark["planned"].values()))
        for name, mark in marks.items()
        if mark and mark["shard"] != str(Shard())
    }


def decided_claims(records: list[Record], suites: dict[str, StoredSuite]) -> list[ClaimRow]:
    """The verdicts on every suite's claims."""
    by: dict[str, list[Record]] = {}
    for r in records:
        by.setdefault(r.suite, []).append(r)
    found = []
    for name, suite in suites.items():
        listed = [Claim.model_validate(claim) for claim in suite.spec.get("claims", [])]
        if listed:
            found += claims.verdicts(name, listed, by.get(name, []))
    return found
