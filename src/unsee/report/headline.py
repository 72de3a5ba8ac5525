"""The headline: what the run found, in plain English with its numbers.

Pooled over concepts: the plain prompts (synonyms where there are none), held-out ones only where there are
any. The defense told of is the one whose worst row shows least, plain or under one of the attacks that all attacked
defenses met; where that is equal, the one with the largest reduction. With many defenses its figures are a
little flattered; the table has them all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ..bench.rows import Comparison, ResultRow, compare, rows_of, undefended
from ..metrics.rates import Rate, known, mean, unsafe_rate
from ..metrics.significance import holm
from ..suites.stacks import NONE
from ..types import Outcome, Prompt, Record
from .table import MINUS, THIN, chance_of, literal, percent
from .tradeoff import shared

SURE = 0.05  # below it a difference is called one


@dataclass(frozen=True)
class Headline:
    """``lead`` is one sentence; ``detail`` has the counts and intervals behind it."""

    lead: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.lead} {self.detail}".strip()


def headline(records: list[Record], rows: list[ResultRow] | None = None) -> Headline:
    """What to say first. Says so when nothing was judged, no difference could be shown, or nothing attacked.

    ``rows`` are those of the records, where they were made already.
    """
    asked = _asked(records)
    if not asked:
        return Headline("Nothing has been drawn for an unsafe prompt yet.")
    pooled = _pooled(asked)
    base = pooled.pop(NONE, None)
    if base is None or base.unsafe_rate is None:
        return Headline("None of the undefended pictures could be judged, so there is no rate to tell.")
    shown = {name: row for name, row in pooled.items() if row.difference is not None}
    what = _either([literal(name) for name in dict.fromkeys(r.concept for r in asked)])
    model = literal(asked[0].model)
    if not shown:
        rate = percent(base.unsafe_rate)
        return Headline(f"Undefended, {model} shows {what} in {rate} of its pictures.", _base(base))
    chances = _chances(shown, asked, rows_of(records) if rows is None else rows)
    met = _attacked(records, asked[0].prompt)
    best = _best(shown, met)
    lead = _lead(model, what, best, base, shown, chances)
    lost, under = _lost(shown[best], best), _under(records, met[best])
    details = [_base(base), lost, _interval(shown[best]), under, _kept(records, best)]
    return Headline(lead, " ".join(filter(None, details)))


def _chances(shown: dict[str, Comparison], asked: list[Record], rows: list[ResultRow]) -> dict[str, float]:
    """Defense → p of its pooled difference, adjusted (Holm) over the defenses that are compared.

    What is pooled of one row of the table has no smaller p than that row has there.
    """
    adjusted = holm([row.p_value for row in shown.values()])
    chances = {name: 1.0 if p is None else p for name, p in zip(shown, adjusted, strict=True)}
    like = asked[0].prompt
    by: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if (row.attack, row.prompts, row.split) == (NONE, like.kind, like.split) and row.p_holm:
            by[row.defense].append(row.p_holm)
    return {name: max(p, *by[name]) if len(by[name]) == 1 else p for name, p in chances.items()}


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


def _best(shown: dict[str, Comparison], met: dict[str, dict[str, Rate]]) -> str:
    """Who met fewer of the attacks comes last, whatever it shows."""

    def order(name: str) -> tuple[int, float, float]:
        rates = [known(shown[name].unsafe_rate), *(known(rate.rate) for rate in met[name].values())]
        return -len(met[name]), max(rates), known(shown[name].difference)

    return min(shown, key=order)


def _pooled(records: list[Record]) -> dict[str, Comparison]:
    base = undefended(records)
    by: dict[str, list[Record]] = {}
    for r in records:
        by.setdefault(r.defense, []).append(r)
    return {name: compare(group, base) for name, group in by.items()}


def _lead(model: str, what: str, name: str, base: Comparison, shown: dict[str, Comparison],
          chances: dict[str, float]) -> str:  # fmt: skip
    row, called = shown[name], literal(name)
    before, after = percent(base.unsafe_rate), percent(row.unsafe_rate)
    if _spans_zero(row):
        none = all(_undecided(other, chances[who]) for who, other in shown.items())
        who = "No defense here was" if none else f"What withstands most, {called}, was not"
        return f"{who} shown to change how often {model} shows {what}: {before} without, {after} with {called}."
    if _undecided(row, chances[name]):
        found = f"{model} shows {what} in {before} of its pictures without a defense and in {after} with {called}"
        return f"Undecided, n is too small: {found} (n = {row.n - row.unjudged}, p = {chance_of(chances[name])})."
    verb = "cut" if known(row.difference) < 0 else "raised"
    return f"With {called}, pictures that show {what} were {verb} from {before} to {after}."


def _undecided(row: Comparison, p: float) -> bool:
    """A difference is one where its interval and its p both say so."""
    return _spans_zero(row) or p >= SURE


def _spans_zero(row: Comparison) -> bool:
    return known(row.difference_low) <= 0 <= known(row.difference_high)


def _base(base: Comparison) -> str:
    lost = base.unjudged
    missing = f"; {lost} undefended picture{'s' if lost > 1 else ''} could not be judged" if lost else ""
    return f"{base.n} prompts ask for it by name, with the same seeds each time{missing}."


def _lost(row: Comparison, name: str) -> str:
    lost = row.unjudged
    return f"{lost} picture{'s' if lost > 1 else ''} with {literal(name)} could not be judged." if lost else ""


def _interval(row: Comparison) -> str:
    change, ends = known(row.difference), (known(row.difference_low), known(row.difference_high))
    points = THIN.join([f"{abs(100 * change):.0f}", "points"])
    low, high = (f"{100 * end:+.0f}".replace("-", MINUS) for end in ends)
    less = f"That is {points} {'fewer' if change < 0 else 'more'}" if change else "That is no difference"
    return (
        f"{less} (95{THIN}% interval {low} to {high}); "
        f"the rate with it lies between {percent(row.low)} and {percent(row.high)}."
    )


def _under(records: list[Record], met: dict[str, Rate]) -> str:
    if not met:
        attacked = any(r.attack != NONE for r in records)
        return "It met no attack that could be judged." if attacked else "Nothing attacked it: this run has no attacks."
    attack, rate = max(met.items(), key=lambda item: known(item[1].rate))
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
