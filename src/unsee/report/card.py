"""``report.md``: a fragment for a model card. Its head is the hub's ``model-index``, as ``huggingface_hub`` writes it.

One entry for each defense of each suite, one result for each of its rows: DSR where the prompt asks for the concept,
the unsafe rate and preservation elsewhere. Values are shares in [0, 1], not percent; intervals, N and the judge stand
in the metric's arguments, for a number without them says little. Nothing is marked as verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bench.claims import VERDICTS, CheckRow, ClaimRow
from ..bench.rows import ResultRow
from ..suites.stacks import NONE
from ..suites.suite import ATTACKED
from . import table
from .collect import Run

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

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


def claims_table(claims: list[ClaimRow]) -> str:
    """A Markdown table: verdict, claim, the paper's figure, ours with its interval and what was asked of it."""
    lines = ["| verdict | paper | claim | paper’s figure | ours [95 %] |", "|---|---|---|---|---|"]
    for claim in sorted(claims, key=lambda c: VERDICTS.index(c.verdict)):
        texts = map(_one_line, (claim.paper, claim.text, claim.paper_value))
        ours = "; ".join(map(_check, claim.checks)) or _one_line(claim.why)
        lines.append("| " + " | ".join((f"**{claim.verdict}**", *texts, ours)) + " |")
    return "\n".join(lines)


def model_index(run: Run) -> list[dict[str, Any]]:
    """The hub's ``model-index`` of the defended rows: one model for each suite and stack of defenses."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results: dict[tuple[str, str], list[EvalResult]] = {}
    for row in run.rows:
        if row.defense != NONE:
            results.setdefault((row.suite, row.defense), []).extend(_results(row))
    index: list[dict[str, Any]] = []
    for (_, defense), each in results.items():
        index += eval_results_to_model_index(defense, each) if each else []
    return index


def _results(row: ResultRow) -> list[EvalResult]:
    """Of the prompts that ask for the concept the DSR, of all others the unsafe rate and the preservation."""
    asked, found = row.prompts in ATTACKED, []
    about: dict[str, object] = {"n": row.n}
    if row.unsafe_rate is not None and row.low is not None and row.high is not None:
        judged = about | {"unjudged": row.unjudged, "judge": f"{row.judge} {row.judge_version}"}
        if asked:
            dsr = (1 - row.unsafe_rate, judged, 1 - row.high, 1 - row.low)
            found.append(_result(row, "dsr", "DSR (share judged safe)", *dsr))
        else:
            found.append(_result(row, "unsafe_rate", "unsafe rate", row.unsafe_rate, judged, row.low, row.high))
    if row.preservation is not None and not asked:
        kept = (row.preservation, about, row.preservation_low, row.preservation_high)
        found.append(_result(row, "preservation", "likeness to the undefended image", *kept))
    return found


def _result(row: ResultRow, metric: str, name: str, value: float, about: dict[str, object], low: float | None,
            high: float | None) -> EvalResult:  # fmt: skip
    from huggingface_hub import EvalResult

    attack = "" if row.attack == NONE else f", under {row.attack}"
    return EvalResult(
        task_type=TASK,
        dataset_type=f"unsee/{row.suite}",
        dataset_name=f"{row.concept}, {row.prompts} prompts{attack}",
        dataset_config=f"{row.concept}-{row.prompts}-{row.attack}",
        dataset_split=row.split,
        metric_type=metric,
        metric_name=name,
        metric_value=round(value, 4),
        metric_args=about | {key: round(end, 4) for key, end in (("low", low), ("high", high)) if end is not None},
    )


def _head(run: Run) -> str:
    from huggingface_hub.repocard_data import yaml_dump

    index = model_index(run)
    meta = {"library_name": "unsee", "tags": ["unsee", "diffusers", "safety"], "pipeline_tag": TASK}
    return f"---\n{yaml_dump(meta | ({'model-index': index} if index else {}), sort_keys=False).strip()}\n---"


def _check(check: CheckRow) -> str:
    from .html import METRICS, claim_number

    text = f"{METRICS[check.metric]} {claim_number(check)}, wanted {check.want} ({_one_line(check.what)}"
    return text + (f", N = {check.n})" if check.n else ")")


def _one_line(text: str) -> str:
    """What a suite says, as one cell: line ends in a TOML text are spaces."""
    return table.escaped(" ".join(text.split()))


def _judges(run: Run) -> str:
    judges = dict.fromkeys(f"{r.judge} {r.judge_version}" for r in run.rows)
    return f"Judged by {table.escaped(', '.join(judges))}." if judges else ""
