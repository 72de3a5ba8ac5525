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
from typing import Any

from ..bench.claims import VERDICTS
from ..bench.defenses import NONE
from ..bench.store import Store
from ..types import Record
from . import audit, figures, heat, table, traces
from .gather import Run, gather

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
        "literal": table.literal,
        "short": short,
    }
    return environment.get_template("report.html.j2").render(_page(run, store))


def named(defense: str) -> str:
    return "undefended" if defense == NONE else table.literal(defense)


def stacked(defense: str) -> Any:
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


def claim_number(check: dict[str, Any]) -> str:
    """``+.21 [.10, .31]``, a difference with its sign; ``no data``."""
    if check["value"] is None:
        return table.EMPTY
    signed = _signed(check)
    digits = 1 if check["metric"] == "clip_score" and not check["relative"] else 3 if check["relative"] else 2

    def text(value: float) -> str:
        made = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
        made = made.replace("0.", ".", 1) if abs(value) < 1 else made
        return made.replace("-", table.MINUS)

    return f"{text(check['value'])} [{text(check['low'])}, {text(check['high'])}]"


def scale(check: dict[str, Any]) -> dict[str, Any] | None:
    """Where value, interval and bars lie between the ends of the metric, in percent; None for one without ends."""
    if check["value"] is None or (check["metric"] == "clip_score" and not check["relative"]):
        return None
    most = 0.2 if check["relative"] else 1.0
    least = -most if _signed(check) else 0.0

    def at(value: float) -> float:
        return 100 * min(max((value - least) / (most - least), 0.0), 1.0)

    return {key: at(check[key]) for key in ("value", "low", "high")} | {"marks": [at(bar) for bar in check["bars"]]}


def _signed(check: dict[str, Any]) -> bool:
    """Whether it is a difference."""
    return " minus " in check["what"] or "→" in check["what"]


def _page(run: Run, store: Store) -> dict[str, Any]:
    plain = [row for row in run.rows if row["attack"] == NONE]
    cards, more = _examples(run.records)
    examples = [card | {"pictures": [picture(store, r) for r in card["pictures"]]} for card in cards]

    def place(line: dict[str, Any]) -> str:
        return table.literal(line["concept"]) + (f" · {line['suite']}" if len(run.suites) > 1 else "")

    return {
        "place": place,
        "run": run,
        "partial": f"{len(run.records)} of {run.planned} planned images" if len(run.records) < run.planned else "",
        "tally": {v: sum(c["verdict"] == v for c in run.claims) for v in VERDICTS},
        "papers": _by([c | {"checks": [k | {"scale": scale(k)} for k in c["checks"]]} for c in run.claims], "paper"),
        "metrics": METRICS,
        "overview": _by([line | {"place": place(line)} for line in _overview(plain)], "place"),
        "maps": heat.maps(run.rows),
        "columns": table.COLUMNS,
        "rows": [(row, list(zip(table.cells(row), table.sorting(row), strict=True))) for row in run.rows],
        "rates": figures.rates(plain),
        "more": more,
        "tradeoffs": [t | {"svg": figures.tradeoff(t["points"], t["under"])} for t in heat.points(run.rows)],
        "sweeps": [s | {"svg": figures.sweep(s["points"])} for s in run.sweeps],
        "costs": _by([line | {"place": place(line)} for line in run.costs], "place"),
        "strikes": _by([line | {"place": line["suite"]} for line in run.strikes], "place"),
        "traces": _traces(store),
        "most_traces": MOST_TRACES,
        "examples": examples,
        "widest": max((len(card["pictures"]) for card in examples), default=3),
        "kinds": KINDS,
        "audit": [picture(store, r) | {"record": r} for r in audit.sample(run.records)],
        "suites": {name: _facts(suite) for name, suite in run.suites.items()},
    }


def _by(lines: list[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    """The lines under the values of ``key``, in order."""
    blocks: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        blocks.setdefault(line[key], []).append(line)
    return blocks


def _overview(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each concept and defense: the held-out rows where there are any, side by side."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in found:
        line = lines.setdefault(
            (row["suite"], row["concept"], row["defense"]),
            {"suite": row["suite"], "concept": row["concept"], "defense": row["defense"], "kinds": {}},
        )
        if row["prompts"] not in line["kinds"] or row["split"] == "held-out":
            line["kinds"][row["prompts"]] = row
    for line in lines.values():
        kinds = line["kinds"]
        for name, text in (("change", table.change), ("p", table.chance)):
            line[name] = text(kinds["plain"]) if "plain" in kinds else table.NOTHING
        line["kept"] = table.kept(kinds.get("benign", {}))
        line["neighbors"] = table.percent(kinds.get("neighbor", {}).get("drawn_right"))
    return list(lines.values())


def _traces(store: Store) -> list[dict[str, Any]]:
    """For each suite, concept, defense and guard that gives p(unsafe): two figures, a table, single images.

    Of more than ``MOST_TRACES`` the table alone.
    """
    made = []
    for number, ((suite, concept, defense, _), trace) in enumerate(traces.traces(store.decided()).items()):
        shown = number < MOST_TRACES
        made.append({
            "suite": suite, "concept": concept, "defense": defense, "svg": figures.watched(trace) if shown else "",
            "acted": figures.acted(trace) if shown else "", "summary": trace.summary(),
            "strips": [picture(store, r) | {"prompt": r.prompt, "steps": s} for r, s in trace.strips() if shown],
        })  # fmt: skip
    return made


def _examples(records: list[Record]) -> tuple[list[dict[str, Any]], int]:
    """The first prompts of each concept and kind, each with its records under every defense, and how many more
    there would be: ``PICTURES`` at most are shown, the first of every concept and kind before the second of any."""
    cards: dict[tuple[str, str, str, str, str], dict[str, Any]] = {}
    count: dict[tuple[str, str, str], int] = {}
    for r in (r for r in records if r.attack == NONE):
        of = (r.suite, r.concept, r.prompt.kind)
        key = (*of, r.prompt.split, r.prompt.id)
        if key not in cards:
            if count.get(of, 0) == EXAMPLES[r.prompt.kind]:
                continue
            count[of] = count.get(of, 0) + 1
            cards[key] = {"concept": r.concept, "prompt": r.prompt, "pictures": [], "rank": count[of]}
        cards[key]["pictures"].append(r)
    left, shown = PICTURES, list[dict[str, Any]]()
    for card in sorted(cards.values(), key=lambda card: card["rank"]):
        left -= len(card["pictures"])
        if left < 0 and shown:
            break
        shown.append(card)
    place = {concept: i for i, concept in enumerate(dict.fromkeys(card["concept"] for card in cards.values()))}
    kept = {id(card) for card in shown}
    ordered = sorted((c for c in cards.values() if id(c) in kept), key=lambda card: place[card["concept"]])
    return ordered, len(cards) - len(shown)


def picture(store: Store, record: Record) -> dict[str, Any]:
    """The picture as a data URI, with its verdict and the name of its defense."""
    image = store.image(record.image)
    small = max(image.size) <= 128
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return {
        "defense": named(record.defense),
        "verdict": record.verdict,
        "small": small,
        "data": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
    }


def _facts(suite: dict[str, Any]) -> dict[str, Any]:
    """Settings, versions and machine of a suite as plain text, in reading order."""
    spec = suite["spec"]
    settings = {
        "model": spec["model"],
        "judge": f"{spec['judge']} (version {suite['judge_version']})",
        "seed": spec["seed"],
        "steps": spec["steps"],
        "guidance": spec["guidance"],
        "batch": spec["batch_size"],
    }
    prompts = ", ".join(f"{p['n']} {p['kind']} ({p['split']})" for p in spec["prompts"])
    return (
        settings
        | {"prompts per concept": prompts}
        | suite["versions"]
        | {k: v for k, v in suite["machine"].items() if v != ""}
    )
