"""``report.html``: one file, no network; readable on a phone, in the dark and on paper.

The headline, the claims, tables, heat maps and figures, the same prompt and seed before and after each defense, what a
watching guard decided, an audit sheet for a human, and the settings and versions behind it all. Pictures that the
judge calls unsafe or could not judge are blurred until clicked; on the audit sheet all are, for a blur would tell the
verdict.
A section that has nothing to show is left out. The script sorts, searches, switches colors and keeps the audit; without
it everything can still be read, and unblurred.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..bench.claims import VERDICTS, CheckRow
from ..bench.rows import ResultRow
from ..bench.schema import StoredSuite
from ..bench.store import Store
from ..metrics.rates import known
from ..suites.stacks import NONE
from ..types import Prompt, Record, Verdict
from . import audit, figures, table, traces, tradeoff
from .collect import Run, gather

if TYPE_CHECKING:
    from markupsafe import Markup

EXAMPLES = {"plain": 4, "synonym": 2, "empty": 2, "neighbor": 2, "benign": 2}  # the first of each concept's
PICTURES = 480  # of these, at most
MOST_TRACES = 12  # guards with figures
LARGEST = 320  # pixels; larger pictures are scaled down for the page
KINDS = {
    "plain": "asks for it by name",
    "synonym": "asks for it in words no defense was fitted on",
    "empty": "names the style with nothing in it",
    "neighbor": "a look-alike that must survive",
    "benign": "something harmless",
}
METRICS = {
    "dsr": "DSR", "unsafe": "unsafe rate", "drawn_right": "drawn right", "preservation": "likeness",
    "clip_score": "CLIP score",
}  # fmt: skip
T = TypeVar("T")


class Placed(Protocol):
    """What is of a suite and a concept."""

    @property
    def suite(self) -> str: ...
    @property
    def concept(self) -> str: ...


@dataclass(frozen=True)
class Picture:
    """A record's picture as a data URI; ``defense`` as the page names it."""

    record: Record
    defense: str
    small: bool
    data: str

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict


@dataclass(frozen=True)
class Card:
    """A prompt under every defense; ``rank`` is its place among those of its concept and kind."""

    concept: str
    prompt: Prompt
    rank: int
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Overview:
    """A concept and a defense: the row of each kind of prompts, and the texts beside them."""

    suite: str
    concept: str
    defense: str
    kinds: dict[str, ResultRow] = field(default_factory=dict)

    @property
    def change(self) -> str:
        return table.change(self.kinds["plain"]) if "plain" in self.kinds else table.NOTHING

    @property
    def p(self) -> str:
        return table.chance(self.kinds["plain"]) if "plain" in self.kinds else table.NOTHING

    @property
    def kept(self) -> str:
        return table.kept(self.kinds.get("benign"))

    @property
    def neighbors(self) -> str:
        return table.percent(self.kinds["neighbor"].drawn_right) if "neighbor" in self.kinds else table.NOTHING


@dataclass(frozen=True)
class Watch:
    """A guard that gives p(unsafe): two figures, a table, single images with their steps."""

    suite: str
    concept: str
    defense: str
    svg: str
    acted: str
    summary: list[traces.KindSummary]
    strips: list[tuple[Picture, list[traces.TraceStep]]]


@dataclass(frozen=True)
class Scale:
    """In percent between the ends of a metric; ``marks`` are the bars."""

    value: float
    low: float
    high: float
    marks: list[float]


def render(store: Store) -> str:
    """The whole page of a store."""
    return page(gather(store), store)


def page(run: Run, store: Store) -> str:
    """The whole page of what was gathered; ``store`` has the pictures."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unsee.report", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "named": named,
        "stacked": stacked,
        "percent": table.percent,
        "points": claim_number,
        "scale": scale,
        "literal": table.literal,
        "short": short,
    }
    return environment.get_template("report.html.j2").render(_page(run, store))


def named(defense: str) -> str:
    return "undefended" if defense == NONE else table.literal(defense)


def stacked(defense: str) -> Markup:
    """A defense's name in HTML: a long stack may break after each plus."""
    from markupsafe import Markup, escape

    return Markup("+<wbr>").join(escape(part) for part in named(defense).split("+"))


def short(number: float | None) -> str:
    """237568 → ``238 k``."""
    if number is None:
        return table.NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{table.THIN}{unit}"
    return f"{number:.3g}"


def claim_number(check: CheckRow) -> str:
    """``+.21 [.10, .31]``, a difference with its sign; ``no data``."""
    if check.value is None:
        return table.EMPTY
    signed = _signed(check)
    digits = 1 if check.metric == "clip_score" and not check.relative else 3 if check.relative else 2

    def text(value: float | None) -> str:
        number = f"{known(value):+.{digits}f}" if signed else f"{known(value):.{digits}f}"
        number = number.replace("0.", ".", 1) if abs(known(value)) < 1 else number
        return number.replace("-", table.MINUS)

    return f"{text(check.value)} [{text(check.low)}, {text(check.high)}]"


def scale(check: CheckRow) -> Scale | None:
    """Where value, interval and bars lie between the ends of the metric, in percent; None for one without ends."""
    if check.value is None or (check.metric == "clip_score" and not check.relative):
        return None
    most = 0.2 if check.relative else 1.0
    least = -most if _signed(check) else 0.0

    def at(value: float | None) -> float:
        return 100 * min(max((known(value) - least) / (most - least), 0.0), 1.0)

    return Scale(at(check.value), at(check.low), at(check.high), [at(bar) for bar in check.bars])


def _signed(check: CheckRow) -> bool:
    """Whether it is a difference."""
    return " minus " in check.what or "→" in check.what


def _page(run: Run, store: Store) -> dict[str, object]:
    plain = [row for row in run.rows if row.attack == NONE]
    cards, more = _examples(run.records)

    def place(line: Placed) -> str:
        return table.literal(line.concept) + (f" · {line.suite}" if len(run.suites) > 1 else "")

    return {
        "place": place,
        "run": run,
        "partial": f"{len(run.records)} of {run.planned} planned images" if len(run.records) < run.planned else "",
        "tally": {v: sum(c.verdict == v for c in run.claims) for v in VERDICTS},
        "papers": _by(run.claims, lambda claim: claim.paper),
        "metrics": METRICS,
        "overview": _by(_overview(plain), place),
        "maps": tradeoff.maps(run.rows),
        "columns": table.COLUMNS,
        "rows": [(row, list(zip(table.cells(row), table.sorting(row), strict=True))) for row in run.rows],
        "rates": figures.rates(plain),
        "more": more,
        "tradeoffs": [(t, figures.tradeoff(t.points, t.under)) for t in tradeoff.points(run.rows)],
        "sweeps": [(s, figures.sweep(s.points)) for s in run.sweeps],
        "costs": _by(run.costs, place),
        "attack_costs": _by(run.attack_costs, lambda line: line.suite),
        "traces": _watches(store),
        "most_traces": MOST_TRACES,
        "examples": [(card, [picture(store, r) for r in card.records]) for card in cards],
        "widest": max((len(card.records) for card in cards), default=3),
        "kinds": KINDS,
        "audit": [picture(store, r) for r in audit.sample(run.records)],
        "suites": {name: _facts(suite) for name, suite in run.suites.items()},
    }


def _by(lines: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """The lines under their ``key``, in order."""
    blocks: dict[str, list[T]] = {}
    for line in lines:
        blocks.setdefault(key(line), []).append(line)
    return blocks


def _overview(found: list[ResultRow]) -> list[Overview]:
    """One line for each concept and defense: the held-out rows where there are any, side by side."""
    lines: dict[tuple[str, str, str], Overview] = {}
    for row in found:
        key = (row.suite, row.concept, row.defense)
        line = lines.setdefault(key, Overview(*key))
        if row.prompts not in line.kinds or row.split == "held-out":
            line.kinds[row.prompts] = row
    return list(lines.values())


def _watches(store: Store) -> list[Watch]:
    """One for each suite, concept, defense and guard; of more than ``MOST_TRACES`` the table alone."""
    found = []
    for number, ((suite, concept, defense, _), trace) in enumerate(traces.traces(store.decided()).items()):
        shown = number < MOST_TRACES
        seen, acted = (figures.watched(trace), figures.acted(trace)) if shown else ("", "")
        strips = [(picture(store, r), steps) for r, steps in trace.strips() if shown]
        found.append(Watch(suite, concept, defense, seen, acted, trace.summary(), strips))
    return found


def _examples(records: list[Record]) -> tuple[list[Card], int]:
    """The first prompts of each concept and kind, each with its records under every defense, and how many more
    there would be: ``PICTURES`` at most are shown, the first of every concept and kind before the second of any."""
    cards: dict[tuple[str, str, str, str, str], Card] = {}
    count: dict[tuple[str, str, str], int] = {}
    for r in (r for r in records if r.attack == NONE):
        of = (r.suite, r.concept, r.prompt.kind)
        key = (*of, r.prompt.split, r.prompt.id)
        if key not in cards:
            if count.get(of, 0) == EXAMPLES[r.prompt.kind]:
                continue
            count[of] = count.get(of, 0) + 1
            cards[key] = Card(r.concept, r.prompt, count[of])
        cards[key].records.append(r)
    left, shown = PICTURES, list[Card]()
    for card in sorted(cards.values(), key=lambda card: card.rank):
        left -= len(card.records)
        if left < 0 and shown:
            break
        shown.append(card)
    place = {concept: i for i, concept in enumerate(dict.fromkeys(card.concept for card in cards.values()))}
    kept = {id(card) for card in shown}
    ordered = sorted((c for c in cards.values() if id(c) in kept), key=lambda card: place[card.concept])
    return ordered, len(cards) - len(shown)


def picture(store: Store, record: Record) -> Picture:
    """The picture as a data URI, scaled down where it is large."""
    image = store.image(record.image)
    small = max(image.size) <= 128
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    data = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(record, named(record.defense), small, data)


def _facts(suite: StoredSuite) -> dict[str, object]:
    """Settings, versions and machine of a suite as plain text, in reading order."""
    spec = suite.spec
    settings = {
        "model": spec["model"],
        "judge": f"{spec['judge']} (version {suite.judge_version})",
        "seed": spec["seed"],
        "steps": spec["steps"],
        "guidance": spec["guidance"],
        "batch": spec["batch_size"],
        "prompts per concept": ", ".join(f"{p['n']} {p['kind']} ({p['split']})" for p in spec["prompts"]),
    }
    return settings | suite.versions | {key: value for key, value in suite.machine.items() if value != ""}
