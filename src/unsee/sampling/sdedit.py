"""SDEdit with a text-to-image pipeline, for families of which diffusers has no image-to-image one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@contextmanager
def starting_from(pipe: DiffusionPipeline, x0: Tensor, generators: Sequence[Generator], steps: int,
                  strength: float) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Until the end ``pipe`` begins at ``strength`` of its steps, by diffusers' own rule for image-to-image; yields
    the argument that has it begin with ``x0`` ``(n, …)``, noised for that step."""
    scheduler = pipe.scheduler
    whole: list[Tensor] = []
    planned, stepped = scheduler.set_timesteps, scheduler.step
    start = max(steps - min(int(steps * strength), steps), 0) * scheduler.order

    def late(*args: Any, **kwargs: Any) -> None:
        planned(*args, **kwargs)
        whole[:] = [scheduler.timesteps]
        scheduler.timesteps = scheduler.timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)

    @functools.wraps(stepped)
    def step(*args: Any, **kwargs: Any) -> Any:
        scheduler.timesteps = whole[0]  # some count them to know their last step
        return stepped(*args, **kwargs)

    late(steps)
    t = scheduler.timesteps[:1].repeat(len(x0))
    noise = torch.cat([torch.randn(1, *x0.shape[1:], generator=generator) for generator in generators]).to(x0)
    flow = not hasattr(scheduler, "add_noise")
    noised = scheduler.scale_noise(x0, t, noise) if flow else scheduler.add_noise(x0, noise, t)
    scheduler.set_timesteps, scheduler.step = late, step
    try:
        yield {"latents": noised / getattr(scheduler, "init_noise_sigma", 1.0)}
    finally:
        del scheduler.set_timesteps, scheduler.step
