"""``report.html``: one file, no network, no script; readable on a phone and in the dark.

The headline, a table, two figures, the same prompt and seed before and after each defense (unsafe pictures
blurred until clicked, unjudged ones too), and the settings and versions behind it all.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from ..bench.defenses import NONE
from ..bench.rows import rows
from ..bench.store import Store
from ..files import whole
from ..types import Record
from . import figures, story, table

EXAMPLES = {"plain": 4, "synonym": 2, "empty": 2, "neighbor": 2, "benign": 2}  # the first of each concept's
LARGEST = 320  # pixels; larger pictures are scaled down for the page
KINDS = {
    "plain": "asks for it by name",
    "synonym": "asks for it in words no defense was fitted on",
    "empty": "names the style with nothing in it",
    "neighbor": "a look-alike that must survive",
    "benign": "something harmless",
}


def write(store: Store, path: str | Path | None = None) -> Path:
    """Write the report of a run; next to its store if no ``path`` is given. Returns the path."""
    path = Path(path or store.folder / "report.html")
    with whole(path) as fresh:
        fresh.write_text(render(store), encoding="utf-8")
    return path


def render(store: Store) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unsee.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    return environment.get_template("report.html.j2").render(_page(store))


def _page(store: Store) -> dict[str, Any]:
    records, found, suites = store.records(), rows(store), store.suites()
    planned = sum(suite["planned"] for suite in suites.values())
    plain = [row for row in found if row["attack"] == NONE]
    return {
        "title": " + ".join(suites) or "empty run",
        "models": sorted({suite["spec"]["model"] for suite in suites.values()}),
        "headline": story.headline(records),
        "partial": f"{len(records)} of {planned} planned images" if len(records) < planned else "",
        "unjudged": sum(r.verdict.outcome == "unjudged" for r in records),
        "overview": _blocks(_overview(plain)),
        "attacks": _attacks(found),
        "columns": table.COLUMNS,
        "rows": [(row, table.cells(row)) for row in found],
        "figures": [svg for svg in (figures.rates(plain), figures.tradeoff(plain)) if svg],
        "watched": _watched(records),
        "examples": _examples(store, records),
        "kinds": KINDS,
        "suites": {name: _facts(suite) for name, suite in suites.items()},
    }


def _watched(records: list[Record]) -> list[dict[str, str]]:
    """A figure for each suite, concept and defense with a guard that gives p(unsafe), drawn from its decisions."""
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for r in records:
        for name in dict.fromkeys(event["defense"] for event in r.decisions if "p" in event):
            groups.setdefault((r.suite, r.concept, r.defense, name), []).append(r)
    return [{"concept": c, "defense": d, "svg": figures.watched(g, name)} for (_, c, d, name), g in groups.items()]


def _overview(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each concept and defense: the held-out rows where there are any, side by side."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in found:
        line = lines.setdefault(
            (row["suite"], row["concept"], row["defense"]),
            {"concept": row["concept"], "defense": row["defense"], "kinds": {}},
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


def _attacks(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Concept and kind of prompts → the defenses × attacks matrix of their rows; nothing where none attacks."""
    made: dict[str, dict[str, Any]] = {}
    for row in found:
        title = f"{row['concept']}, {row['prompts']} prompts ({row['split']})"
        block = made.setdefault(title, {"attacks": {}, "lines": {}})
        block["attacks"][row["attack"]] = None
        block["lines"].setdefault(row["defense"], {})[row["attack"]] = row
    return {title: block for title, block in made.items() if len(block["attacks"]) > 1}


def _blocks(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines under their concepts, in plan order."""
    blocks: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        blocks.setdefault(line["concept"], []).append(line)
    return blocks


def _examples(store: Store, records: list[Record]) -> list[dict[str, Any]]:
    """The first prompts of each concept and kind, each with its picture under every defense."""
    cards: dict[tuple[str, str, str, str, str], dict[str, Any]] = {}
    for r in (r for r in records if r.attack == NONE):
        key = (r.suite, r.concept, r.prompt.kind, r.prompt.split, r.prompt.id)
        card = cards.setdefault(key, {"concept": r.concept, "prompt": r.prompt, "pictures": []})
        card["pictures"].append(r)
    shown = []
    count: dict[tuple[str, str, str], int] = {}
    for (suite, concept, kind, _, _), card in cards.items():
        count[suite, concept, kind] = count.get((suite, concept, kind), 0) + 1
        if count[suite, concept, kind] <= EXAMPLES[kind]:
            shown.append(card | {"pictures": [_picture(store, r) for r in card["pictures"]]})
    return sorted(shown, key=lambda c: [s["concept"] for s in shown].index(c["concept"]))


def _picture(store: Store, record: Record) -> dict[str, Any]:
    image = store.image(record.image)
    small = max(image.size) <= 128
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return {
        "defense": "undefended" if record.defense == NONE else record.defense,
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
