"""One training loop for all stages: fixed seed, progress, checkpoint, resume, same end.

The state after N steps does not depend on where it was killed: batches are drawn from a generator seeded by the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

torch.set_flush_denormal(True)
SEED = 20260


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run(name: str, work: Path, module: torch.nn.Module, loss: Callable[[int, torch.Generator], torch.Tensor], *,
        steps: int, lr: float, weight_decay: float = 1e-2, warmup: int = 50, every: int = 100,
        ema: float = 0.0, clip: float = 1.0, betas: tuple[float, float] = (0.9, 0.99), first: int = 0,
        rate: Callable[[int], float] | None = None, report: Callable[[dict], str] | None = None,
        fused: bool = False) -> dict:  # fmt: skip
    """Train ``module`` until ``steps``; ``loss(step, generator)`` gives a scalar. Returns the final state dict.

    With ``ema`` > 0 the averaged weights are returned. AdamW (``fused`` is faster for many small weights), linear
    warm-up, then ``lr`` times ``rate(step)``: a cosine to zero unless given. A training that goes on from weights of
    another begins at step ``first``. ``report(average)`` adds to every printed line.
    """
    path = work / f"{name}.pt"
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay, betas=betas,
                                  fused=fused or None)  # fmt: skip
    average = {k: v.detach().clone() for k, v in module.state_dict().items()} if ema else {}
    rate = rate or (lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    start, curve = first, []
    if path.exists():
        saved = torch.load(path, weights_only=True)
        module.load_state_dict(saved["module"]), optimizer.load_state_dict(saved["optimizer"])
        start, average, curve = saved["step"], saved["average"], saved["curve"]
    module.train()
    running, done, clock = 0.0, 0, time.time()
    for step in range(start, steps):
        factor = min(1.0, (step + 1 - first) / warmup) * rate(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        value = loss(step, torch.Generator().manual_seed(SEED * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        if ema:
            decay = min(ema, (step + 10) / (step + 100))
            with torch.no_grad():
                for k, v in module.state_dict().items():
                    average[k].lerp_(v, 1 - decay) if v.is_floating_point() else average[k].copy_(v)
        running, done = running + value.item(), done + 1
        if (step + 1) % every == 0 or step + 1 == steps:
            curve.append((step + 1, running / done))
            pace, more = (time.time() - clock) / done, f" {report(average)}" if report else ""
            now = time.strftime("%H:%M:%S")
            print(f"{now} {name} {step + 1}/{steps} loss {running / done:.4f} {pace:.3f} s/step{more}", flush=True)
            running, done, clock = 0.0, 0, time.time()
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                     "average": average, "curve": curve}  # fmt: skip
            torch.save(state, path.with_suffix(".partial"))
            path.with_suffix(".partial").rename(path)
    return average or module.state_dict()
