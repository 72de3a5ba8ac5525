"""The headline: what the run found, in plain English with its numbers.

Pooled over concepts: the plain prompts (synonyms where there are none), held-out ones only where there are
any. The defense told of is the one whose worst row shows least, plain or under one of the attacks that all attacked
defenses met; where that is equal, the one with the largest reduction. With many defenses its figures are a
little flattered; the table has them all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from ..bench.defenses import NONE
from ..bench.rows import compared, rows_of, undefended
from ..metrics.rates import Rate, mean, unsafe_rate
from ..metrics.significance import holm
from ..types import Outcome, Prompt, Record
from .heat import shared
from .table import MINUS, THIN, chance_of, literal, percent

SURE = 0.05  # below it a difference is called one


@dataclass(frozen=True)
class Story:
    """``lead`` is one sentence; ``detail`` has the counts and intervals behind it."""

    lead: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.lead} {self.detail}".strip()


def headline(records: list[Record], rows: list[dict[str, Any]] | None = None) -> Story:
    """What to say first. Says so when nothing was judged, no difference could be shown, or nothing attacked.

    ``rows`` are those of the records, where they were made already.
    """
    asked = _asked(records)
    if not asked:
        return Story("Nothing has been drawn for an unsafe prompt yet.")
    pooled = _pooled(asked)
    base = pooled.pop(NONE, None)
    if base is None or base["unsafe_rate"] is None:
        return Story("None of the undefended pictures could be judged, so there is no rate to tell.")
    shown = {name: row for name, row in pooled.items() if row["difference"] is not None}
    what = _either([literal(name) for name in dict.fromkeys(r.concept for r in asked)])
    model = literal(asked[0].model)
    if not shown:
        rate = percent(base["unsafe_rate"])
        return Story(f"Undefended, {model} shows {what} in {rate} of its pictures.", _base(base))
    _tested(shown, asked, rows_of(records) if rows is None else rows)
    met = _attacked(records, asked[0].prompt)
    best = _best(shown, met)
    lead = _lead(model, what, best, base, shown)
    lost, under = _lost(shown[best], best), _under(records, met[best])
    details = [_base(base), lost, _interval(shown[best]), under, _kept(records, best)]
    return Story(lead, " ".join(filter(None, details)))


def _tested(shown: dict[str, dict[str, Any]], asked: list[Record], rows: list[dict[str, Any]]) -> None:
    """Give each defense the ``p`` of its pooled difference, adjusted (Holm) over the defenses that are compared.

    What is pooled of one row of the table has no smaller p than that row has there.
    """
    for row, p in zip(shown.values(), holm([row["p_value"] for row in shown.values()]), strict=True):
        row["p"] = p
    like = asked[0].prompt
    by: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if (row["attack"], row["prompts"], row["split"]) == (NONE, like.kind, like.split) and row.get("p_holm"):
            by[row["defense"]].append(row["p_holm"])
    for name, found in by.items():
        if name in shown and len(found) == 1:
            shown[name]["p"] = max(shown[name]["p"], found[0])


def _asked(records: list[Record]) -> list[Record]:
    """The records of the prompts that ask for the concept by name."""
    unsafe = [r for r in records if r.prompt.role == "unsafe" and r.attack == "none"]
    for kind in ("plain", "synonym"):
        for split in ("held-out", "train"):
            found = [r for r in unsafe if r.prompt.kind == kind and r.prompt.split == split]
            if found:
                return found
    return []


def _attacked(records: list[Record], like: Prompt) -> dict[str, dict[str, Rate]]:
    """Defense → attack → how often it drew the concept from it, on attacked prompts of this kind and split.

    Only of the attacks that all attacked defenses met, and that were judged: what nobody saw withstands nothing.
    """
    outcomes: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        if NONE not in (r.attack, r.defense) and (r.prompt.kind, r.prompt.split) == (like.kind, like.split):
            outcomes[r.defense][r.attack].append(r.verdict.outcome)
    rates = {who: {attack: unsafe_rate(seen) for attack, seen in by.items()} for who, by in outcomes.items()}
    common = shared(rates)
    judged = {who: {a: r for a, r in by.items() if a in common and r.rate is not None} for who, by in rates.items()}
    return defaultdict(dict, judged)


def _best(shown: dict[str, dict[str, Any]], met: dict[str, dict[str, Rate]]) -> str:
    """Who met fewer of the attacks comes last, whatever it shows."""

    def order(name: str) -> tuple[int, float, float]:
        rates = [shown[name]["unsafe_rate"], *(float(rate.rate or 0) for rate in met[name].values())]
        return -len(met[name]), max(rates), shown[name]["difference"]

    return min(shown, key=order)


def _pooled(records: list[Record]) -> dict[str, dict[str, Any]]:
    base = undefended(records)
    by: dict[str, list[Record]] = {}
    for r in records:
        by.setdefault(r.defense, []).append(r)
    return {name: compared(group, base) for name, group in by.items()}


def _lead(model: str, what: str, name: str, base: dict[str, Any], shown: dict[str, dict[str, Any]]) -> str:
    row, called = shown[name], literal(name)
    before, after = percent(base["unsafe_rate"]), percent(row["unsafe_rate"])
    if row["difference_low"] <= 0 <= row["difference_high"]:
        none = all(map(_undecided, shown.values()))
        who = "No defense here was" if none else f"What withstands most, {called}, was not"
        return f"{who} shown to change how often {model} shows {what}: {before} without, {after} with {called}."
    if _undecided(row):
        found = f"{model} shows {what} in {before} of its pictures without a defense and in {after} with {called}"
        return f"Undecided, n is too small: {found} (n = {row['n'] - row['unjudged']}, p = {chance_of(row['p'])})."
    verb = "cut" if row["difference"] < 0 else "raised"
    return f"With {called}, pictures that show {what} were {verb} from {before} to {after}."


def _undecided(row: dict[str, Any]) -> bool:
    """A difference is one where its interval and its p both say so."""
    return bool(row["difference_low"] <= 0 <= row["difference_high"] or row["p"] >= SURE)


def _base(base: dict[str, Any]) -> str:
    lost = base["unjudged"]
    missing = f"; {lost} undefended picture{'s' if lost > 1 else ''} could not be judged" if lost else ""
    return f"{base['n']} prompts ask for it by name, with the same seeds each time{missing}."


def _lost(row: dict[str, Any], name: str) -> str:
    lost = row["unjudged"]
    return f"{lost} picture{'s' if lost > 1 else ''} with {literal(name)} could not be judged." if lost else ""


def _interval(row: dict[str, Any]) -> str:
    points = THIN.join([f"{abs(100 * row['difference']):.0f}", "points"])
    low, high = (f"{100 * row[k]:+.0f}".replace("-", MINUS) for k in ("difference_low", "difference_high"))
    less = "fewer" if row["difference"] < 0 else "more"
    change = f"That is {points} {less}" if row["difference"] else "That is no difference"
    return (
        f"{change} (95{THIN}% interval {low} to {high}); "
        f"the rate with it lies between {percent(row['low'])} and {percent(row['high'])}."
    )


def _under(records: list[Record], met: dict[str, Rate]) -> str:
    if not met:
        attacked = any(r.attack != NONE for r in records)
        return "It met no attack that could be judged." if attacked else "Nothing attacked it: this run has no attacks."
    attack, rate = max(met.items(), key=lambda item: item[1].rate or 0.0)
    which = "" if len(met) == 1 else f", the worst of {len(met)} attacks"
    lost = f", {rate.unjudged} unjudged" if rate.unjudged else ""
    return (
        f"Under {literal(attack)}{which}, it is {percent(rate.rate)} "
        f"({percent(rate.low)} to {percent(rate.high)}, {rate.n} prompts{lost})."
    )


def _kept(records: list[Record], name: str) -> str:
    harmless = [r for r in records if r.defense == name and r.prompt.kind == "benign"]
    kept = mean(r.metrics.get("preservation") for r in harmless)
    if kept is None:
        return ""
    return f"Harmless pictures kept {percent(max(kept, 0.0))} of their likeness to the undefended ones."


def _either(names: list[str]) -> str:
    """
    >>> _either(["weapon", "alcohol", "death"])
    'weapon, alcohol or death'
    """
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
