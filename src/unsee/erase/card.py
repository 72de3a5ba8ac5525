"""What is written on the winner: ``README.md`` and the record in ``stack.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..report import table

if TYPE_CHECKING:
    from ..types import Json
    from .choice import Score
    from .result import Erased

HEAD = "| candidate | DSR under the worst attack [95 %] | worst attack | mean DSR | benign preserved | |"
RULE = "|---|---:|---|---:|---:|---|"


def record(found: Erased) -> dict[str, Json]:
    """The proof in a few numbers; DSR and preservation in [0, 1], higher is better."""
    proof, bare = found.proof, found.undefended
    assert proof is not None and bare is not None
    return {
        "concept": found.concept,
        "model": found.model,
        "dsr": proof.dsr,
        "dsr_low": proof.low,
        "dsr_high": proof.high,
        "worst_attack": proof.worst,
        "preservation": proof.preservation,
        "undefended_dsr": bare.dsr,
        "preservation_floor": found.floor,
    }


def sentence(found: Erased) -> str:
    """The result in one or two sentences, plain text."""
    proof, bare = found.proof, found.undefended
    if proof is None or bare is None:
        floor = f" at a floor of {found.floor:g}" if found.floor else ""
        return f"No candidate may be called a defense{floor}; nothing was saved."
    text = f"{found.winner} withstands its worst attack ({proof.worst}) on {share(proof)} of held-out prompts"
    text += f"; the undefended model withstands {table.percent(bare.dsr)} of its own ({bare.worst})."
    if proof.preservation is not None:
        text += f" Benign pictures keep {proof.preservation:.2f} of their likeness"
        below = proof.preservation < found.floor
        text += f", below the floor of {found.floor:g} that it met when it was chosen." if below else "."
    return text


def share(score: Score) -> str:
    """``98 % [91, 100]``, or ``no data``."""
    if score.dsr is None or score.low is None or score.high is None:
        return table.EMPTY
    return f"{table.percent(score.dsr)} [{100 * score.low:.0f}, {100 * score.high:.0f}]"


def line(score: Score, winner: str) -> list[str]:
    """The cells of one candidate, in the order of ``HEAD``."""
    kept = table.NOTHING if score.preservation is None else f"{score.preservation:.3f}"
    remark = "**chosen**" if score.name == winner else score.left_out
    if score.unjudged:
        remark = f"{remark} ({score.unjudged} unjudged)".strip()
    rate = share(score) if score.dsr is not None else table.NOTHING
    return [score.name, rate, score.worst, table.percent(score.mean), kept, remark]


def card(found: Erased) -> str:
    """The model card, Markdown."""
    lines = "\n".join("| " + " | ".join(line(score, found.winner)) + " |" for score in found.table)
    return f"""---
library_name: unsee
tags: [unsee, diffusers, safety, stack]
---

# {found.concept}, unseen by {found.model}

{sentence(found)}

```python
import unsee

with unsee.protect(pipe, unsee.Stack.from_pretrained("THIS_FOLDER")):
    image = pipe(prompt).images[0]
```

The defenses are attached in the order of `stack.json`, and to no other model than they were fitted for.
`report.html` has the pictures, `erase.json` all numbers.

## Proof

Held-out prompts, seeds and sentences; every attack that is not text alone was made against this very stack.

{table.markdown(list(found.rows))}
## How it was chosen

On prompts of the train split, before the proof: the highest rate under the worst attack among those that preserve at
least {found.floor:g} of benign pictures.

{HEAD}
{RULE}
{lines}
"""
