"""Whether a run bears out the claims of papers that its suite declares. Only intervals decide.

A check takes the records of ``left``, or the difference ``left`` − ``right`` over the prompts that both have, with its
95 % interval: Wilson's for a share, Newcombe's for a paired difference of shares, the bootstrap's for a mean. It holds
where the whole interval is ``above`` the bar (or ``below`` it, or ``within`` plus and minus it), fails where the whole
interval lies on the other side, and is *inconclusive* where the interval holds the bar. ``rises`` and ``falls`` name
defenses in order, read at ``left``: the last differs from the first as it says, and no neighbors differ the other way.

A claim is *reproduced* where all its checks hold and *not reproduced* where one fails. It has *no data* until all of
its rows have been run. One without checks is *not testable here* and says ``why``. Each interval is at 95 %: over many
claims, one in twenty true ones may still look otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..metrics.rates import mean, paired_difference, unsafe_rate
from ..metrics.significance import mean_interval
from ..suites.claims import MEANS, Check, Claim, Row, row_of
from ..types import Outcome, Record

REPRODUCED, FAILED, UNDECIDED = "reproduced", "not reproduced", "inconclusive"
NO_DATA, UNTESTABLE = "no data", "not testable here"
VERDICTS = (REPRODUCED, FAILED, UNDECIDED, NO_DATA, UNTESTABLE)

READ: dict[str, Callable[[Record], bool | float | None]] = {
    "dsr": lambda r: None if r.verdict.outcome == "unjudged" else r.verdict.outcome == "safe",
    "unsafe": lambda r: None if r.verdict.outcome == "unjudged" else r.verdict.outcome == "unsafe",
    "drawn_right": lambda r: r.verdict.labels.get("subject_right"),
    "preservation": lambda r: r.metrics.get("preservation"),
    "clip_score": lambda r: r.metrics.get("clip_score"),
}


Rows = dict[tuple[Row, str], list[Record]]  # and concept, or "" for all of them


@dataclass(frozen=True)
class Estimate:
    """A share, a mean or a difference with its 95 % interval, over ``n`` prompts."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class CheckRow:
    """One check: what it takes, what it wants (``bars`` are the numbers of that), what was found, and its verdict."""

    metric: str
    what: str
    relative: bool
    want: str
    bars: list[float]
    value: float | None
    low: float | None
    high: float | None
    n: int
    verdict: str


@dataclass(frozen=True)
class ClaimRow:
    """One claim of a suite: what the paper says, the verdict on it, and the checks behind that."""

    suite: str
    id: str
    paper: str
    text: str
    paper_value: str
    verdict: str
    why: str
    checks: list[CheckRow]


def verdicts(suite: str, claims: Iterable[Claim], records: Iterable[Record]) -> list[ClaimRow]:
    """One row for each claim of ``suite``, whose ``records`` these are."""
    found: Rows = {}
    for r in records:
        for concept in ("", r.concept):
            found.setdefault((row_of(r), concept), []).append(r)
    return [_row(suite, claim, [_decide(check, found) for check in claim.compare]) for claim in claims]


def estimate(metric: str, left: list[Record], right: list[Record] | None, *, relative: bool = False) -> Estimate | None:
    """Of ``left``, or of ``left`` − ``right`` over the prompts in both; None without data (or with one mean only)."""
    read = READ[metric]
    first = {_key(r): read(r) for r in left}
    second = first if right is None else {_key(r): read(r) for r in right}
    pairs = [(a, second[k]) for k, a in first.items() if a is not None and second.get(k) is not None]
    if not pairs:
        return None
    if metric in MEANS:
        return _of_means([(float(a), float(b or 0.0)) for a, b in pairs], right is None, relative)
    ours, theirs = ([_outcome(pair[side]) for pair in pairs] for side in (0, 1))
    if right is None:
        rate = unsafe_rate(ours)
        return _known(rate.rate, rate.low, rate.high, len(pairs))
    change = paired_difference(theirs, ours)
    return _known(change.difference, change.low, change.high, len(pairs))


def _of_means(pairs: list[tuple[float, float]], single: bool, relative: bool) -> Estimate | None:
    values = [a if single else a - b for a, b in pairs]
    low, high = mean_interval(values) or (None, None)
    whole = mean(b for _, b in pairs) if relative else 1.0  # taken as it is: its own spread is left out
    if not whole:
        return None
    value = mean(values)
    return None if value is None or low is None or high is None else Estimate(value / whole, low / whole,
                                                                               high / whole, len(pairs))  # fmt: skip


def _known(value: float | None, low: float | None, high: float | None, n: int) -> Estimate | None:
    return None if value is None or low is None or high is None else Estimate(value, low, high, n)


def _outcome(value: object) -> Outcome:
    """A share is counted as unsafe ones are."""
    return "unsafe" if value else "safe"


def _key(record: Record) -> tuple[str, str]:
    """An attacked prompt keeps the id of its source, so that it pairs with it."""
    return record.concept, record.prompt.id


def _decide(check: Check, records: Rows) -> CheckRow:
    found = [records.get((place.row, place.concept), []) for place in check.places]
    if check.ordered:
        return _decide_order(check, found)
    got = estimate(check.metric, found[0], found[1] if check.right else None, relative=check.relative)
    what = (check.metric, _what(check), check.relative, _want(check), _bars(check))
    return CheckRow(*what, *_numbers(got), _verdict(check, got))


def _what(check: Check) -> str:
    """``duo minus esd on plain prompts``"""
    left, right = check.left, check.right
    if right is None:
        return str(left)
    return f"{left.who} minus {right}" if left.what == right.what else f"{left} minus {right}"


def _verdict(check: Check, got: Estimate | None) -> str:
    if got is None:
        return NO_DATA
    if check.within is not None:
        inside = -check.within < got.low and got.high < check.within
        outside = got.low >= check.within or got.high <= -check.within
    elif check.above is not None:
        inside, outside = got.low > check.above, got.high <= check.above
    else:
        assert check.below is not None
        inside, outside = got.high < check.below, got.low >= check.below
    return REPRODUCED if inside else FAILED if outside else UNDECIDED


def _decide_order(check: Check, found: list[list[Record]]) -> CheckRow:
    """Last minus first is what it shows; a step between neighbors may fail it, and cannot prove it."""
    sign = 1 if check.rises else -1
    whole = estimate(check.metric, found[-1], found[0])
    steps = [estimate(check.metric, b, a) for a, b in zip(found, found[1:], strict=False)]
    names = [place.defense for place in check.places]
    if whole is None or any(step is None for step in steps):
        verdict = NO_DATA
    else:
        against = [s for s in (*steps, whole) if s and (s.high < 0 if sign > 0 else s.low > 0)]
        shown = whole.low > 0 if sign > 0 else whole.high < 0
        verdict = FAILED if against else REPRODUCED if shown else UNDECIDED
    what = f"{' → '.join(names)} on {check.left.what}, last minus first"
    want = "rises" if check.rises else "falls"
    return CheckRow(check.metric, what, False, want, [0.0], *_numbers(whole), verdict)


def _numbers(got: Estimate | None) -> tuple[float | None, float | None, float | None, int]:
    return (None, None, None, 0) if got is None else (got.value, got.low, got.high, got.n)


def _want(check: Check) -> str:
    if check.within is not None:
        return f"within ±{check.within:g}"
    return f"> {check.above:g}" if check.above is not None else f"< {check.below:g}"


def _bars(check: Check) -> list[float]:
    if check.within is not None:
        return [-check.within, check.within]
    return [bar for bar in (check.above, check.below) if bar is not None]


def _row(suite: str, claim: Claim, checks: list[CheckRow]) -> ClaimRow:
    verdict = _overall([check.verdict for check in checks])
    return ClaimRow(suite, claim.id, claim.paper, claim.text, claim.paper_value, verdict, claim.why, checks)


def _overall(each: list[str]) -> str:
    if not each:
        return UNTESTABLE
    for worst in (FAILED, NO_DATA, UNDECIDED):
        if worst in each:
            return worst
    return REPRODUCED
