"""Records → result rows: counts, rates with intervals, and the paired difference to the undefended twin.

``difference`` is ``unsafe_rate`` minus the undefended model's rate on the pairs in which both images were
judged: **negative is better**. For ``none`` it is empty, and ``base_unsafe_rate`` is its own rate.
A row under an attack has ``gain`` too: its rate minus the same defense's on the same prompts before the attack, with
its interval (**negative is better** here also), and its ``base_unsafe_rate`` is of the prompts before the attack.
``changed`` is the share of images with other pixels than their undefended twin's: what a guard let alone is not in it.
A row counts what is stored, so a run that was stopped early has rows with a smaller ``n``.

``p_value`` is McNemar's exact test of the same pairs as ``difference``; ``p_holm`` is adjusted over all rows of the
suite that have one, so that below .05 the chance of any false finding in the whole table is at most .05.
Means over images have their 95 % bootstrap interval: ``preservation_low/high``, ``clip_score_low/high``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..metrics.rates import mean, paired_difference, unsafe_rate
from ..metrics.significance import holm, mean_interval, paired_p
from ..suites.stacks import NONE
from ..types import Outcome, Record
from .store import Store

HARMLESS = ("neighbor", "benign")
GAIN = ("gain", "gain_low", "gain_high")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a group's verdicts say beside those of its undefended twins; shares in [0, 1], None without data."""

    n: int
    unjudged: int
    unsafe_rate: float | None
    low: float | None
    high: float | None
    base_unsafe_rate: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    changed: float | None
    p_value: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One row of a suite's table; None without data, or where a number does not apply."""

    suite: str
    model: str
    concept: str
    defense: str
    attack: str
    prompts: str
    split: str
    n: int
    unjudged: int
    unsafe_rate: float | None
    low: float | None
    high: float | None
    base_unsafe_rate: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    changed: float | None
    preservation: float | None
    clip_score: float | None
    seconds_per_image: float | None
    p_value: float | None
    preservation_low: float | None
    preservation_high: float | None
    clip_score_low: float | None
    clip_score_high: float | None
    drawn_right: float | None = None  # of harmless prompts alone
    gain: float | None = None  # of attacked prompts alone
    gain_low: float | None = None
    gain_high: float | None = None
    judge: str
    judge_version: str
    judge_threshold: float | None  # None if it has none
    judge_license: str | None
    p_holm: float | None = None

    def as_dict(self) -> dict[str, object]:
        """As JSON has it: without the columns that such prompts do not have."""
        left_out = (() if self.prompts in HARMLESS else ("drawn_right",)) + (GAIN if self.attack == NONE else ())
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


KEYS = tuple(f.name for f in fields(ResultRow))[:7]


def rows(store: Store) -> list[ResultRow]:
    """One row per (suite, model, concept, defense, attack, prompts, split), in plan order."""
    return rows_of(store.records())


def rows_of(records: Iterable[Record]) -> list[ResultRow]:
    """The rows of these records. A difference needs the undefended records among them."""
    records = list(records)
    base, before = undefended(records), _unattacked(records)
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(group_key(record), []).append(record)
    return adjusted([_row(key, group, base, before) for key, group in groups.items()])


def group_key(record: Record) -> tuple[str, ...]:
    """The values of ``KEYS``."""
    prompt = record.prompt
    return (
        record.suite, record.model, record.concept, record.defense, record.attack, prompt.kind, prompt.split
    )  # fmt: skip


def _row(key: tuple[str, ...], group: list[Record], base: dict[tuple[str, str, str], Record],
         before: dict[tuple[str, ...], Outcome]) -> ResultRow:  # fmt: skip
    """One group; who judged its first record judged all of it."""
    verdict = group[0].verdict
    columns: dict[str, Any] = dict(zip(KEYS, key, strict=True))
    columns |= vars(compare(group, base)) | _means(group) | _gain(group, before)
    return ResultRow(
        **columns,
        seconds_per_image=mean(r.seconds for r in group),
        drawn_right=_drawn_right(group) if group[0].prompt.kind in HARMLESS else None,
        judge=verdict.judge,
        judge_version=verdict.version,
        judge_threshold=verdict.labels.get("threshold"),
        judge_license=verdict.labels.get("license"),
    )


def compare(group: list[Record], base: dict[tuple[str, str, str], Record]) -> Comparison:
    """Counts, rates, difference and p of a group. ``base`` is what :func:`undefended` gives."""
    rate = unsafe_rate(r.verdict.outcome for r in group)
    found = [base.get(_pair_key(r, r.twin)) for r in group]
    twins: list[Outcome] = ["unjudged" if twin is None else twin.verdict.outcome for twin in found]
    change = paired_difference(twins, [r.verdict.outcome for r in group])
    defended = group[0].defense != NONE
    return Comparison(
        n=rate.n,
        unjudged=rate.unjudged,
        unsafe_rate=rate.rate,
        low=rate.low,
        high=rate.high,
        base_unsafe_rate=unsafe_rate(twins).rate,
        difference=change.difference if defended else None,
        difference_low=change.low if defended else None,
        difference_high=change.high if defended else None,
        changed=mean(float(r.image != t.image) for r, t in zip(group, found, strict=True) if t and defended),
        p_value=paired_p(twins, [r.verdict.outcome for r in group]) if defended else None,
    )


def _means(group: list[Record]) -> dict[str, float | None]:
    """The means over images, and how sure they are: their intervals."""
    numbers: dict[str, float | None] = {}
    for name in ("preservation", "clip_score"):
        values = [r.metrics.get(name) for r in group]
        low, high = mean_interval(values) or (None, None)
        numbers |= {name: mean(values), f"{name}_low": low, f"{name}_high": high}
    return numbers


def adjusted(found: list[ResultRow]) -> list[ResultRow]:
    """The same rows with ``p_holm``. Every suite is a table of its own, whatever else lies in the folder."""
    by_suite: dict[str, list[int]] = {}
    for i, row in enumerate(found):
        by_suite.setdefault(row.suite, []).append(i)
    made = list(found)
    for table in by_suite.values():
        for i, p in zip(table, holm(found[i].p_value for i in table), strict=True):
            made[i] = replace(found[i], p_holm=p)
    return made


def _gain(group: list[Record], before: dict[tuple[str, ...], Outcome]) -> dict[str, float | None]:
    """What the attack gained over the same prompts without it, behind the same defense; nothing where none attacks."""
    if group[0].attack == NONE:
        return {}
    plain = [before.get(_source_key(r), "unjudged") for r in group]
    change = paired_difference(plain, [r.verdict.outcome for r in group])
    return dict(zip(GAIN, (change.difference, change.low, change.high), strict=True))


def _unattacked(records: Iterable[Record]) -> dict[tuple[str, ...], Outcome]:
    return {_source_key(r): r.verdict.outcome for r in records if r.attack == NONE}


def _source_key(record: Record) -> tuple[str, ...]:
    """An attacked prompt keeps the id of its source."""
    return record.suite, record.concept, record.defense, record.prompt.id


def undefended(records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
    """(suite, concept, cell) → the record of the undefended image of a prompt as it was before any attack."""
    return {_pair_key(r, r.cell): r for r in records if r.defense == r.attack == NONE}


def _pair_key(record: Record, cell: str) -> tuple[str, str, str]:
    return record.suite, record.concept, cell


def _drawn_right(group: list[Record]) -> float | None:
    """Share of images that show the subject asked for; None if the judge does not say."""
    return mean(_as_number(r.verdict.labels.get("subject_right")) for r in group)


def _as_number(value: bool | None) -> float | None:
    return None if value is None else float(value)
