"""What was attached must still be what runs: a snapshot of the parts, compared at every generation.

Tensors have an identity and a counter of writes, which ``load_state_dict``, an optimizer or ``copy_`` advance. Writes
through ``.data`` (``fuse_lora``) advance nothing, so a few values of each tensor are compared too. Moving a model to
another device or to a dtype of fewer bits is no change. All of it takes some microseconds a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..backbones.weights import base_parameters, sample, unwrap

if TYPE_CHECKING:
    from ..backbones import Backbone
    from .base import Defense

VALUES = 16  # compared of each tensor
OFFLOADING = {"group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker"}
CASTING = {"layerwise_casting", "peft_autocast_disable"}


class Snapshot:
    """The weights of one module as they are now."""

    def __init__(self, module: nn.Module) -> None:
        self.module = unwrap(module)
        self._seen = [(name, p, p._version, p.shape, _values(p)) for name, p in base_parameters(self.module)]
        self._merged = merged(self.module)

    def change(self) -> str | None:
        """What has become of the weights since, in a few words; None if nothing has."""
        if merged(self.module) != self._merged:
            return "an adapter was fused into them, or taken out (fuse_lora, unfuse_lora)"
        held = {id(p) for p in self.module.parameters()}
        now: dict[str, nn.Parameter] = {}
        for name, parameter, version, shape, values in self._seen:
            if id(parameter) not in held:
                now = now or dict(base_parameters(self.module))
                if name in now and now[name].is_meta:
                    continue  # sequentially offloaded: between two calls the weights lie elsewhere
                return f"{name} is another tensor"
            grown = parameter.shape != shape  # a table of words in which a textual inversion has got a row
            if (
                not grown
                and parameter._version != version
                or not _same(parameter[: shape[0]] if grown else parameter, values)
            ):
                return f"{name} was written to"
        return None


class Parts:
    """The denoiser and the text encoders of a pipeline, and the weights of each, as they are now."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._encoders = backbone.text_encoders
        self._weights = {backbone.denoiser_name: Snapshot(backbone.denoiser)}
        self._weights |= {f"text encoder {i}": Snapshot(e) for i, e in enumerate(self._encoders, 1)}

    def change(self) -> str | None:
        """What is not as it was, in a few words; None if all of it is."""
        encoders = self.backbone.text_encoders
        if [*map(id, encoders)] != [*map(id, self._encoders)]:
            return "a text encoder was replaced"
        for name, weights in self._weights.items():
            if change := weights.change():
                return f"the weights of the {name} changed: {change}"
        return None


class Setup:
    """A defense as it is now: its settings and its tensors."""

    def __init__(self, defense: Defense) -> None:
        self.defense, self._settings = defense, _plain(defense.config())
        self._tensors = [(t, t._version) for t in _tensors(vars(defense))]

    def change(self) -> str | None:
        """What has become of it since, in a few words; None if nothing has."""
        now = _plain(self.defense.config())
        for name, value in self._settings.items():
            if repr(now.get(name)) != repr(value):
                return f"{name} of {self.defense.name} changed: {value!r} became {now.get(name)!r}"
        held = [*_tensors(vars(self.defense))]
        same = len(held) == len(self._tensors)
        if not same or any(a is not b or a._version != v for a, (b, v) in zip(held, self._tensors, strict=True)):
            return f"the weights of {self.defense.name} changed"
        return None


def merged(module: nn.Module) -> list[tuple[str, ...]]:
    """The adapters that are fused into the weights, layer by layer."""
    found = (getattr(part, "merged_adapters", None) for part in module.modules())
    return [(*map(str, names),) for names in found if names]


def skipping(denoiser: nn.Module) -> str | None:
    """What lets a denoiser leave out parts of its work, or do it in other processes, in a few words; None if nothing.

    Guards need every step: a cache that keeps what an earlier step computed from another text passes them by, whether
    ``enable_cache`` put it there or a function. Whatever is not known to be harmless counts.
    """
    if getattr(denoiser, "is_cache_enabled", False):
        return "a cache: call disable_cache() first"
    for module in unwrap(denoiser).modules():
        registry = getattr(module, "_diffusers_hook", None)
        names = set(registry.hooks) - OFFLOADING - CASTING if registry is not None else set()
        if names:
            return f"the hook {min(names)!r}: take it off (remove_hook) first"
        if module is not unwrap(denoiser) and _patched(module) and registry is None:
            return f"a {type(module).__name__} whose forward was replaced: put its own back first"
    return None


def _patched(module: nn.Module) -> bool:
    return "forward" in vars(module) and not hasattr(module, "_hf_hook")  # accelerate's offloading replaces it too


def _values(parameter: Tensor) -> Tensor | None:
    return None if parameter.is_meta else sample(parameter, VALUES).clone()


def _same(parameter: Tensor, values: Tensor | None) -> bool:
    """Whether the values are those, in the dtype that the parameter has now; NaN is NaN."""
    if values is None or parameter.is_meta:
        return True
    now = sample(parameter, VALUES)
    before = values.to(now.dtype)
    if now.is_floating_point():
        now, before = now.double().nan_to_num(nan=7e300), before.double().nan_to_num(nan=7e300)
    return torch.equal(now, before)


def _plain(held: dict[str, object]) -> dict[str, object]:
    """The settings among the arguments: what a guard collects while it runs (lists, tensors) is none."""
    return {name: value for name, value in held.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, str | int | float | None)


def _tensors(held: object) -> Iterator[Tensor]:
    """Every tensor in modules, tuples and dictionaries, in order."""
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, nn.Module):
        yield from (*held.parameters(), *held.buffers())
    elif isinstance(held, (dict, tuple)):
        for part in held.values() if isinstance(held, dict) else held:
            yield from _tensors(part)
