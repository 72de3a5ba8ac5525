"""The denoiser by itself, for fitting and attacking: any latents, times and texts, the same for every family.

What else a family's denoiser wants (time ids, guidance, positions) is read from the pipeline's own call, which is begun
and stopped before anything is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Unsupported
from .sampler import Sampler, generate

if TYPE_CHECKING:
    from torch import nn

    from ..backbones import Encoding
    from ..backbones.base import Values


class DenoiserCall:
    """``predict(latents, t, text)``: what the denoiser predicts, in its own kind."""

    def __init__(self, sampler: Sampler) -> None:
        self.backbone = sampler.backbone
        self.values = _capture(sampler)
        given = self.values[self.backbone.names["t"]]
        self._time = torch.as_tensor(given).flatten()[:1]
        self._scale = float(self._time[0]) / self.backbone.time(self.values)
        self.latents = self.backbone.latents(self.values)  # (1, …): the shape of one image
        self.empty = self.backbone.text(self.values)  # the pipeline's own encoding of ""

    def __call__(self, latents: Tensor, t: Tensor, text: Encoding | None = None) -> Tensor:
        """``latents`` (B, …), ``t`` (B,) on the scheduler's scale, ``text`` of 1 or B rows (the empty text if None)."""
        return self.backbone.prediction(self.backbone.denoiser.forward(**self.arguments(latents, t, text)))

    def arguments(self, latents: Tensor, t: Tensor, text: Encoding | None = None) -> Values:
        """What the denoiser is called with for these, by name."""
        n, names, backbone = len(latents), self.backbone.names, self.backbone
        values = {k: _repeat(v, n) if k in backbone.batched else v for k, v in self.values.items()}
        values[names["latents"]] = latents.to(self.latents)
        scaled = t.to(self.latents.device, torch.float64) * self._scale
        values[names["t"]] = scaled.to(self._time.dtype)
        return backbone.with_text(values, backbone.match(text or self.empty, backbone.text(values)))


class _Caught(Exception):
    def __init__(self, values: Values) -> None:
        self.values = values


def _capture(sampler: Sampler) -> Values:
    """The arguments of the denoiser's first call for one image of the empty text, without guidance.

    The hook comes before those of guards, which would refuse this call. Two steps: a single one may be at t = 0.
    """
    backbone = sampler.backbone

    def catch(module: nn.Module, args: tuple[object, ...], kwargs: Values) -> None:
        raise _Caught(backbone.bind(args, kwargs))

    handle = backbone.denoiser.register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
    try:
        generate(sampler.from_text, [""], [0], steps=2, guidance=1.0, **backbone.own_arguments)
    except _Caught as caught:
        return caught.values
    finally:
        handle.remove()
    raise Unsupported("a pipeline that calls its denoiser", "one that did not", "use its text-to-image form")


def _repeat(value: Any, n: int) -> Any:
    if isinstance(value, Tensor):
        return value.expand(n, *value.shape[1:]) if value.ndim else value
    if isinstance(value, dict):
        return {name: _repeat(part, n) for name, part in value.items()}
    return value
