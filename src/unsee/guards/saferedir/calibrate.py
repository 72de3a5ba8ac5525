"""The thresholds, one for each part of the way: few enough harmless validation texts are triggered at each."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .batch import HARMLESS
from .net import Redirector

if TYPE_CHECKING:
    from ...defenses.base import Fit
    from .data import Data
    from .training import Training

CHUNK = 256


def calibrate(net: nn.Module, data: Data, training: Training, fit: Fit) -> dict[str, Any]:
    """Sets the network's ``bias`` so that p = 0.5 is the threshold; returns what it does on the validation part.

    A harmless text counts with its margins (logit of unsafe minus safe) at the steps of a harmless trajectory, its
    own where it has one. An unsafe one counts with noise, as at the first step. The reference network
    keeps its 0.5 (the release has no threshold); its numbers are reported alike.
    """
    fit.progress("calibration", 0, 1)
    harmless, unsafe = data.rows("check", *HARMLESS), data.rows("check", "unsafe")
    calm = data.walks("check", "safe", "harmless")
    own = {data.paths[walk].text: walk for walk in calm}
    rng = random.Random(fit.seed)
    walks = [own.get(row, rng.choice(calm)) for row in harmless]
    times = data.times[calm[0]]
    steps = torch.stack([_margins(net, data, harmless, [(w, k) for w in walks]) for k in range(len(times))])
    low = _margins(net, data, unsafe, [(rng.choice(calm), 0) for _ in unsafe])
    limits = torch.zeros(len(times))
    if isinstance(net, Redirector):
        limits = _limits(steps, times, training.false_positives)
        net.bias.sub_(_at_knots(limits, times, len(net.bias)))
        net.bias.copy_(net.bias.half().float())  # as it is saved
        limits = -net.threshold(times)
    over = (steps >= limits[:, None]).any(0)
    fit.progress("calibration", 1, 1)
    return {
        "harmless": len(harmless),
        "false_positives": round(float(over.float().mean()), 4),
        "unsafe": len(unsafe),
        "missed_at_first_step": round(float((low < limits[0]).float().mean()), 4),
        "threshold_logits": [round(float(limit), 2) for limit in limits],
    }


def _limits(harmless: Tensor, times: Tensor, share: float) -> Tensor:
    """A limit for each step, that few of the harmless texts reach. ``harmless`` (steps, n), ``times`` (steps,) 0-999.

    At pure noise, where the text alone decides, it is ``share`` of them; then it falls as t squared: a redirection that
    comes late takes little of the concept away, and still spoils a harmless picture. Each step by itself, so that
    an odd picture raises no other step's limit.
    """
    rows = zip(harmless, times.tolist(), strict=True)
    return torch.stack([m.quantile(1 - share * (t / 999) ** 2, interpolation="higher") + 1e-3 for m, t in rows])


def _at_knots(limits: Tensor, times: Tensor, knots: int) -> Tensor:
    """Limits at the times of the steps → at evenly spaced times 0 … 999, from the nearest step."""
    at = torch.linspace(0.0, 999.0, knots)
    return limits[(at[:, None] - times.float()[None]).abs().argmin(1)]


def _margins(net: nn.Module, data: Data, rows: list[int], at: list[tuple[int, int]]) -> Tensor:
    clock, found = data.times if isinstance(net, Redirector) else data.raw, []
    for start in range(0, len(rows), CHUNK):
        part, places = rows[start : start + CHUNK], at[start : start + CHUNK]
        tokens, pooled = data.encoding(part)
        latents = torch.stack([data.latents[w][k].float() for w, k in places])
        times = torch.stack([clock[w][k] for w, k in places])
        with torch.no_grad():
            logits = net(latents, times, tokens, pooled).logits
        found.append(logits[:, 1] - logits[:, 0])
    return torch.cat(found)
