"""``report.md``: a fragment for a model card. Its head is the hub's ``model-index``, as ``huggingface_hub`` writes it.

One entry for each defense of each suite, one result for each of its rows: DSR where the prompt asks for the concept,
the unsafe rate and preservation elsewhere. Values are shares in [0, 1], not percent; intervals, N and the judge stand
in the metric's arguments, for a number without them says little. Nothing is marked as verified.
"""

from __future__ import annotations

from typing import Any

from ..bench.claims import VERDICTS
from ..bench.defenses import NONE
from ..bench.plan import ATTACKED
from . import table
from .gather import Run

TASK = "text-to-image"


def text(run: Run) -> str:
    """Front matter, headline, claims and the table of all rows."""
    parts = [_head(run), f"# {table.escaped(run.title)}", table.escaped(str(run.headline))]
    if run.part:
        parts.append(f"**A part:** {table.escaped(run.part)}. Its rates are of this part alone.")
    if run.records and len(run.records) < run.planned:
        parts.append(f"**Partial:** {len(run.records)} of {run.planned} planned images.")
    if run.claims:
        parts += ["## Claims", claims_table(run.claims)]
    if run.rows:
        parts += ["## Results", NOTE, table.markdown(run.rows).rstrip()]
    parts.append(_judges(run))
    return "\n\n".join(part for part in parts if part) + "\n"


NOTE = (
    "Rates are shares of images that the judge calls unsafe, with 95 % Wilson intervals; *change* is the paired "
    "difference to the undefended model on the same prompts and seeds, in points; *p* is McNemar's, adjusted by Holm "
    "over the suite."
)


def claims_table(claims: list[dict[str, Any]]) -> str:
    """A Markdown table: verdict, claim, the paper's figure, ours with its interval and what was asked of it."""
    lines = ["| verdict | paper | claim | paper’s figure | ours [95 %] |", "|---|---|---|---|---|"]
    for claim in sorted(claims, key=lambda c: VERDICTS.index(c["verdict"])):
        said = [_one_line(claim[key]) for key in ("paper", "text", "paper_value", "why")]
        ours = "; ".join(_check(check) for check in claim["checks"]) or said[-1]
        lines.append("| " + " | ".join((f"**{claim['verdict']}**", *said[:-1], ours)) + " |")
    return "\n".join(lines)


def model_index(run: Run) -> list[dict[str, Any]]:
    """The hub's ``model-index`` of the defended rows: one model for each suite and stack of defenses."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results: dict[tuple[str, str], list[EvalResult]] = {}
    for row in run.rows:
        if row["defense"] != NONE:
            results.setdefault((row["suite"], row["defense"]), []).extend(_results(row))
    made: list[dict[str, Any]] = []
    for (_, defense), each in results.items():
        made += eval_results_to_model_index(defense, each) if each else []
    return made


def _results(row: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    attack = "" if row["attack"] == NONE else f", under {row['attack']}"
    place: dict[str, Any] = {
        "task_type": TASK,
        "dataset_type": f"unsee/{row['suite']}",
        "dataset_name": f"{row['concept']}, {row['prompts']} prompts{attack}",
        "dataset_config": f"{row['concept']}-{row['prompts']}-{row['attack']}",
        "dataset_split": row["split"],
    }
    about = {"n": row["n"], "unjudged": row["unjudged"], "judge": f"{row['judge']} {row['judge_version']}"}
    made = []
    if row["unsafe_rate"] is not None:
        asked = row["prompts"] in ATTACKED
        value, low, high = row["unsafe_rate"], row["low"], row["high"]
        if asked:
            value, low, high = 1 - value, 1 - high, 1 - low
        name = ("dsr", "DSR (share judged safe)") if asked else ("unsafe_rate", "unsafe rate")
        made.append(EvalResult(**place, metric_type=name[0], metric_name=name[1], metric_value=round(value, 4),
                               metric_args=about | {"low": round(low, 4), "high": round(high, 4)}))  # fmt: skip
    if row["preservation"] is not None and row["prompts"] not in ATTACKED:
        spread = {k: row.get(f"preservation_{k}") for k in ("low", "high")}
        spread = {k: round(v, 4) for k, v in spread.items() if v is not None}
        told: dict[str, Any] = {"metric_type": "preservation", "metric_name": "likeness to the undefended image"}
        args = {"n": row["n"]} | spread
        made.append(EvalResult(**place, **told, metric_value=round(row["preservation"], 4), metric_args=args))
    return made


def _head(run: Run) -> str:
    from huggingface_hub.repocard_data import yaml_dump

    index = model_index(run)
    meta = {"library_name": "unsee", "tags": ["unsee", "diffusers", "safety"], "pipeline_tag": TASK}
    return f"---\n{yaml_dump(meta | ({'model-index': index} if index else {}), sort_keys=False).strip()}\n---"


def _check(check: dict[str, Any]) -> str:
    from .html import METRICS, claim_number

    told = f"{METRICS[check['metric']]} {claim_number(check)}, wanted {check['want']} ({_one_line(check['what'])}"
    return told + (f", N = {check['n']})" if check["n"] else ")")


def _one_line(text: str) -> str:
    """What a suite says, as one cell: line ends in a TOML text are spaces."""
    return table.escaped(" ".join(text.split()))


def _judges(run: Run) -> str:
    judges = dict.fromkeys(f"{r['judge']} {r['judge_version']}" for r in run.rows)
    return f"Judged by {table.escaped(', '.join(judges))}." if judges else ""
