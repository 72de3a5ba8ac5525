"""The thresholds, one for each part of the way: few enough harmless validation texts are triggered at any step."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .batch import HARMLESS
from .net import Redirector

if TYPE_CHECKING:
    from ..base import Fit
    from .data import Data
    from .train import Training

CHUNK = 256


def calibrate(net: nn.Module, data: Data, training: Training, fit: Fit, most: Tensor | None = None) -> dict[str, Any]:
    """Sets the network's ``bias`` so that p = 0.5 is the threshold; returns what it does on the validation part.

    A harmless text counts with its margins (logit of unsafe minus safe) at the steps of a harmless trajectory, its
    own where it has one. An unsafe one counts with noise, as at the first step. The reference network
    keeps its 0.5 (the release has no threshold); its numbers are reported alike. ``most`` is a bias that no knot may
    exceed: a refit has fewer harmless pictures left to calibrate on, too few for the late steps, where they count.
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
        limits = _limits(steps, training.false_positives)
        net.bias.sub_(_at_knots(limits, times, len(net.bias)))
        if most is not None:
            net.bias.copy_(torch.minimum(net.bias, most))
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


def _limits(harmless: Tensor, share: float) -> Tensor:
    """A limit for each step, so that at most ``share`` of the harmless texts reach one. ``harmless`` (steps, n).

    Each is just above the k-th largest margin of its step, with the largest k that keeps to the share. So an odd
    picture, or pictures that differ more than texts do, raise the limit of their own step alone.
    """
    falling = harmless.sort(dim=1, descending=True)[0]
    allowed = share * harmless.shape[1]
    k = 0
    while k + 1 < harmless.shape[1] and (harmless > falling[:, k + 1, None]).any(0).sum() <= allowed:
        k += 1
    return falling[:, k] + 1e-3


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
