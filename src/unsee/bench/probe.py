"""The mechanism probe: how much grip a negative has on a model, r = ||e_n - e_u|| / ||e_p - e_u||, by t.

Guidance can only subtract what a negative predicts: where e_n is near e_u, nothing is subtracted. On an unlearned
model the concept's words are said to lose their grip while a learned embedding keeps it (Shin et al., 2025,
arXiv 2511.04834); this measures it, in seconds, on the latents that the sampler itself passes through.

    rows = grip(pipe, concept, host=[duo], negatives={"words": concept.phrase(), "ine": ine.encode(adapter(pipe))})

e_u is the prediction for the empty text, e_p for an unsafe prompt, e_n for the negative; norms over one image's
latents. r is near 1 where the negative moves the prediction as far as the prompt does. Norms, not directions: a
model that answers the words with something else is still moved by them. So beside r stands the cosine of the two
differences (ours): 1 where the negative moves the prediction the way that the prompt does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..backbones import Encoding
from ..defenses import Defense, Generation, Guard, Step, protect
from ..errors import UserError
from ..guards.negative_prompt import words
from ..sampling.sampler import generate

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..concepts import Concept
    from ..types import Prompt

Negative = str | Encoding
BATCH, DRAWS = 8, 2000  # prompts at once; bootstrap samples


@dataclass(frozen=True)
class Grip:
    """r and cosine of one negative: means over prompts with 95 % bootstrap intervals. ``t`` None: each prompt's mean
    over t."""

    where: str  # base: the model alone; host: with the defenses
    negative: str
    t: float | None  # 0 (image) … 1000 (noise)
    r: float
    low: float
    high: float
    n: int  # prompts
    cosine: float = float("nan")
    cosine_low: float = float("nan")
    cosine_high: float = float("nan")


def grip(
    pipe: DiffusionPipeline,
    concept: Concept,
    *,
    host: Sequence[Defense] = (),
    negatives: Mapping[str, Negative] | None = None,
    prompts: Sequence[Prompt] | None = None,
    n: int = 16,
    steps: int = 10,
    guidance: float = 4.0,
    seed: int = 0,
) -> list[Grip]:
    """r of each negative on the model, and then behind ``host``: by t along a sampler of ``steps`` steps, and overall.

    ``negatives``: name → text, or an encoding (1 row) as ``INE.encode`` gives it; by default the concept's words.
    ``prompts`` are unsafe ones; by default ``n`` held-out ones of the concept. Warns for a text whose r behind
    the host lies wholly below its r on the model alone. Needs classifier-free guidance.
    """
    negatives = dict(negatives or {"words": words(concept)})
    prompts = list(prompts or concept.prompts("plain", "held-out", n, seed))
    if guidance <= 1 or steps < 1:
        got = f"guidance={guidance}, steps={steps}"
        raise UserError("guidance above 1 and a step or more", got, "use for example guidance=4.0, steps=10")
    rows: list[Grip] = []
    for where, defenses in [("base", ()), ("host", tuple(host))][: 2 if host else 1]:
        measured = _measured(pipe, defenses, negatives, prompts, steps, guidance)
        rows += [row for name, seen in measured.items() for row in _rows(where, name, *seen, seed)]
    _warn(rows, {name for name, negative in negatives.items() if isinstance(negative, str)})
    return rows


def overall(rows: Sequence[Grip]) -> dict[tuple[str, str], Grip]:
    """(where, negative) → its row over all t."""
    return {(row.where, row.negative): row for row in rows if row.t is None}


def bootstrap(values: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``(n,)`` values, which are drawn again with replacement."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(values), (DRAWS, len(values)), generator=generator)
    low, high = values.double()[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)


@dataclass(kw_only=True, eq=False)
class _Measure(Guard):
    """Looks at every step and changes nothing."""

    name: ClassVar[str] = "grip"
    needs_cfg: ClassVar[bool] = True

    negatives: dict[str, Negative]

    def prepare(self, generation: Generation) -> dict[str, Encoding]:
        return {
            name: generation.encode([negative]) if isinstance(negative, str) else negative
            for name, negative in self.negatives.items()
        }

    def guide(self, step: Step, state: dict[str, Encoding]) -> None:
        p, u = step.positive, step.negative
        assert p is not None and u is not None
        asked, seen = (p - u).float().flatten(1), {}
        for name, text in state.items():
            moved = (step.predict(text) - u).float().flatten(1)
            seen[f"r {name}"] = moved.norm(dim=1) / asked.norm(dim=1).clamp(min=1e-12)
            seen[f"cosine {name}"] = torch.cosine_similarity(moved, asked, dim=1, eps=1e-12)
        step.record(self, "measured", **seen)


def _measured(
    pipe: DiffusionPipeline,
    host: Sequence[Defense],
    negatives: dict[str, Negative],
    prompts: Sequence[Prompt],
    steps: int,
    guidance: float,
) -> dict[str, tuple[list[float], Tensor, Tensor]]:
    """Name → (t of each step, r and cosine ``(prompts, steps)``)."""
    measure, events = _Measure(negatives=negatives), []
    with protect(pipe, *host, measure) as guarded:
        for start in range(0, len(prompts), BATCH):
            batch = list(prompts[start : start + BATCH])
            texts, seeds = [prompt.text for prompt in batch], [prompt.seed for prompt in batch]
            empty = [""] * len(batch)
            generate(pipe, texts, seeds, steps=steps, guidance=guidance, negative=empty, decode=False)
            events += [[event for event in own if event["defense"] == measure.name] for own in guarded.decisions]
    times = [event["t"] for event in events[0]]

    def read(key: str) -> Tensor:
        return torch.tensor([[event[key] for event in own] for own in events])

    return {name: (times, read(f"r {name}"), read(f"cosine {name}")) for name in negatives}


def _rows(where: str, name: str, times: Sequence[float], r: Tensor, cosine: Tensor, seed: int) -> list[Grip]:
    by_time = zip([*times, None], [*r.T, r.mean(1)], [*cosine.T, cosine.mean(1)], strict=True)
    return [
        Grip(where, name, t, float(a.mean()), *bootstrap(a, seed), len(a), float(b.mean()), *bootstrap(b, seed))
        for t, a, b in by_time
    ]


def _warn(rows: Sequence[Grip], texts: set[str]) -> None:
    found = overall(rows)
    for name in sorted(texts):
        base, host = found["base", name], found.get(("host", name))
        if host is not None and host.high < base.low:
            alone, behind = (f"r = {row.r:.2f} ({row.low:.2f}-{row.high:.2f})" for row in (base, host))
            warnings.warn(
                f"the text negative {name!r} has lost grip: {behind} on the host, {alone} on the model alone; "
                "a learned one (INE) may keep it",
                UserWarning,
                stacklevel=3,
            )
