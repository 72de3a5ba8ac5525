"""Trainable additions to layers of a frozen denoiser: low-rank (LoRA) or a whole delta, by forward hooks; their biases
too where asked for.

The layers themselves are never touched, so the reference model is this one with the additions off, no second copy;
any dtype of the base, PEFT layers and gradient checkpointing work. Masters are float32 (float64 on a float64 base).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import Unsupported
from .base import Layer
from .lora import BIAS, DELTA, A, B


class Adapters:
    """Additions to ``layers`` (name → module): LoRA of ``rank`` (at most the layer's own), or deltas if it is 0.

    LoRA starts as A ~ N(0, 1/r), B = 0 and has scale 1 (alpha = rank); a delta starts at 0. Both change nothing yet.
    ``biases``: a delta for the bias of every layer that has one, too.
    """

    def __init__(
        self, layers: dict[str, Layer], rank: int, generator: torch.Generator, *, biases: bool = False
    ) -> None:
        if not layers:
            raise Unsupported("a denoiser with layers of the asked kind", "none of them", "choose other layers")
        self.layers, self.enabled = layers, True
        self.parameters: dict[str, nn.Parameter] = {}
        for name, layer in layers.items():
            for key, start in _starts(name, layer, rank, generator).items():
                self.parameters[key] = nn.Parameter(start.to(layer.weight.device))
            if biases and layer.bias is not None:
                self.parameters[name + BIAS] = nn.Parameter(_zeros(layer.bias.shape, layer).to(layer.weight.device))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the block the denoiser runs with the additions."""
        handles = [m.register_forward_hook(functools.partial(self._add, name)) for name, m in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the denoiser is its own reference: bit-identical to one without additions."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the additions, by the names they are saved under."""
        return {name: p.detach().cpu().clone() for name, p in self.parameters.items()}

    def _add(self, name: str, layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not self.enabled:
            return None
        x, bias = inputs[0], self.parameters.get(name + BIAS)
        if bias is not None:
            output = output + (bias if isinstance(layer, nn.Linear) else bias[:, None, None]).to(x.dtype)
        if name + DELTA in self.parameters:
            return output + _apply(layer, x, self.parameters[name + DELTA].to(x.dtype))
        a, b = (self.parameters[name + end].to(x.dtype) for end in (A, B))
        down = _apply(layer, x, a)
        return output + (F.linear(down, b) if b.ndim == 2 else F.conv2d(down, b))


def _apply(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer with another weight and no bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, cast("tuple[int, int]", layer.padding), layer.dilation, layer.groups)


def _starts(name: str, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    shape = layer.weight.shape
    if rank == 0:
        return {name + DELTA: _zeros(shape, layer)}
    r = min(rank, shape[0], shape[1:].numel())
    b = _zeros((shape[0], r, *(1 for _ in shape[2:])), layer)
    return {name + A: torch.randn(r, *shape[1:], generator=generator, dtype=b.dtype) / r, name + B: b}


def _zeros(shape: tuple[int, ...], layer: Layer) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64 if layer.weight.dtype == torch.float64 else torch.float32)
