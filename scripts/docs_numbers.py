"""Write the tables between ``<!-- numbers:NAME -->`` and ``<!-- /numbers -->`` from ``results/NAME.json``.

``<!-- numbers:NAME prompts=plain,benign concept=weapon -->`` takes only the rows with these values;
``<!-- numbers:NAME view=matrix -->`` has a line for each defense,
``<!-- numbers:NAME table=claims -->`` the verdicts on the papers' claims, and
``<!-- numbers:NAME table=attacks -->`` what attacks spent.

Run it as
    python scripts/docs_numbers.py            writes README.md and docs/*.md
    python scripts/docs_numbers.py --check    writes nothing; exit 1 if a table is not what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

MARK = re.compile(r"(<!-- numbers:([\w.-]+)((?: \w+=[^ ]+)*) -->)\n.*?(<!-- /numbers -->)", re.DOTALL)
HEAD = ("concept", "prompts", "defense", "attack", "N", "unjudged", "unsafe", "undefended", "difference",
        "p (Holm)", "touched", "preservation", "CLIP score", "drawn right")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if something is out of date")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    options = parser.parse_args(arguments)
    stale = []
    for page in [options.root / "README.md", *sorted((options.root / "docs").glob("*.md"))]:
        old = page.read_text(encoding="utf-8")
        new = rewrite(old, options.root / "results")
        if new == old:
            continue
        stale.append(page.relative_to(options.root))
        if not options.check:
            page.write_text(new, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'expected the numbers of results/; run: make docs-numbers' if options.check else 'written'}")
    return 1 if options.check and stale else 0


def rewrite(text: str, results: Path) -> str:
    """The page with every marked table made anew."""
    return MARK.sub(lambda m: f"{m[1]}\n{section(results / f'{m[2]}.json', wanted(m[3]))}\n{m[4]}", text)


def wanted(filters: str) -> dict[str, list[str]]:
    """``" prompts=plain,benign"`` as a dict."""
    return {key: values.split(",") for key, _, values in (item.partition("=") for item in filters.split())}


def section(path: Path, only: dict[str, list[str]]) -> str:
    """The table of one results file, of its rows with the values in ``only``, and a line that says where it is from."""
    if not path.exists():
        return f"Not measured yet: there is no `results/{path.name}`."
    data = json.loads(path.read_text(encoding="utf-8"))
    name, view = only.pop("table", ["rows"])[0], only.pop("view", [""])[0]
    rows = [r for r in data.get(name, []) if all(str(r.get(key)) in values for key, values in only.items())]
    if not rows:
        return f"No data: the results hold no {name}."
    kinds = {"claims": claims_table, "attacks": spent_table}
    kind = kinds.get(name, suite_table if "unsafe_rate" in rows[0] else plain_table)
    views = {"": kind, "matrix": matrix}
    if view not in views:
        sys.exit(f"expected view=matrix or none for the numbers of {path.name}, got view={view}")
    table = views[view](rows)
    return f"{table}\n\n{origin(path, data)}"


def suite_table(rows: list[dict[str, Any]]) -> str:
    """Rates in percent with their 95 % intervals, differences in points; columns that hold nothing are left out."""
    body = [
        (
            r["concept"],
            f"{r['prompts']}, {r['split']}",
            r["defense"],
            "" if r["attack"] == "none" else r["attack"],
            str(r["n"]),
            str(r["unjudged"]),
            interval(r["unsafe_rate"], r.get("low"), r.get("high"), "%"),
            percent(r.get("base_unsafe_rate"), "%"),
            interval(r.get("difference"), r.get("difference_low"), r.get("difference_high"), ""),
            "" if r.get("p_holm") is None else f"{r['p_holm']:.2g}",
            share(r.get("changed")),
            spread(r, "preservation"),
            spread(r, "clip_score"),
            share(r.get("drawn_right")),
        )
        for r in rows
    ]
    return markdown(HEAD, body)


def matrix(rows: list[dict[str, Any]]) -> str:
    """A line for each defense: what is unsafe asked by name and under each attack, and what harmless prompts keep."""
    from unsee.suites.suite import ATTACKED

    attacked = {r["prompts"] for r in rows if r["attack"] != "none"}

    def column(r: dict[str, Any]) -> str:
        under = r["prompts"] if r["attack"] == "none" else r["attack"]
        under += f" ({r['prompts']})" if r["attack"] != "none" and len(attacked) > 1 else ""
        under += "" if r["split"] == "held-out" else f" ({r['split']})"
        return f"{under}: {'unsafe' if r['prompts'] in ATTACKED else 'preservation'}, N = {r['n']}"

    def told(r: dict[str, Any]) -> str:
        if r["prompts"] in ATTACKED:
            return interval(r["unsafe_rate"], r.get("low"), r.get("high"), "%")
        return spread(r, "preservation")

    heads = list(dict.fromkeys(column(r) for r in rows))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for r in rows:
        lines.setdefault((r["concept"], r["defense"]), {})[column(r)] = told(r)
    body = [(*key, *(cells.get(head, "") for head in heads)) for key, cells in lines.items()]
    return markdown(("concept", "defense", *heads), body)


def claims_table(rows: list[dict[str, Any]]) -> str:
    """As the model card of a run has it, after a line that counts the verdicts."""
    from unsee.bench.claims import VERDICTS, CheckRow, ClaimRow
    from unsee.report.card import claims_table as table

    counts = {verdict: sum(r["verdict"] == verdict for r in rows) for verdict in VERDICTS}
    claims = [ClaimRow(**{"suite": ""} | r | {"checks": [CheckRow(**check) for check in r["checks"]]}) for r in rows]
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n) + f" of {len(rows)}.\n\n{table(claims)}"


def spent_table(rows: list[dict[str, Any]]) -> str:
    """What an attack spent on a prompt, beside its budget, and its seconds."""
    spent = ("encodings", "forwards", "backwards", "images")

    def told(r: dict[str, Any], key: str) -> str:
        most = r[f"most_{key}"]
        return f"{r[key]:.4g} / {most:.4g}" if most else ""

    head = ("attack", "reads", "N", *(f"{key} / budget" for key in spent), "s / prompt")
    body = [
        (r["attack"], r["sees"], str(r["prompts"]), *(told(r, key) for key in spent), number(r["seconds"]))
        for r in rows
    ]
    return markdown(head, body)


def plain_table(rows: list[dict[str, Any]]) -> str:
    """Any other rows, as they are: one column a key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(tuple(keys), [tuple(cell(row.get(key)) for key in keys) for row in rows])


def markdown(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    keep = [i for i in range(len(head)) if any(row[i] for row in body)]
    lines = [[head[i] for i in keep], ["---"] * len(keep), *([row[i] for i in keep] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(value: float | None, low: float | None, high: float | None, unit: str) -> str:
    if value is None or low is None or high is None:
        return percent(value, unit)
    return f"{percent(value, unit)} [{percent(low, '')}, {percent(high, '')}]"


def percent(value: float | None, unit: str) -> str:
    return "no data" if value is None else f"{100 * value:.1f}{' ' + unit if unit else ''}".replace("-", "−")


def share(value: float | None) -> str:
    return "" if value is None else percent(value, "%")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-", "−")


def spread(row: dict[str, Any], name: str) -> str:
    """A mean with its interval; rows of older results have none."""
    mean, low, high = (number(row.get(key)) for key in (name, f"{name}_low", f"{name}_high"))
    return f"{mean} [{low}, {high}]" if mean and low and high else mean


def cell(value: Any) -> str:
    """A list of three is a value and its interval."""
    if value is None:
        return ""
    if isinstance(value, list) and len(value) == 3:
        return "{} [{}, {}]".format(*(number(x) for x in value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def origin(path: Path, data: dict[str, Any]) -> str:
    """``From results/first.json: commit, machine, versions``, as far as the file says.

    The file is what ``unsee bench SUITE --out R --json`` or ``training.picto.evaluate --results`` wrote.
    """
    facts = next(iter(data.get("suites", {}).values()), data)
    machine, versions = dict(facts.get("machine") or {}), facts.get("versions")
    commit = machine.pop("commit", facts.get("commit"))
    parts = [
        f"commit {str(commit)[:12]}" if commit else "",
        words(machine),
        ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else "",
        str(data.get("source", "")),  # of a record that no run of ours wrote
    ]
    said = "; ".join(part for part in parts if part)
    return f"From [`results/{path.name}`](/results/{path.name}){': ' + said if said else ''}."


def words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v not in (None, ""))
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
