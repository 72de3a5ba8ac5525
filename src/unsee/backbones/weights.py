"""What is asked of a denoiser's weights: attention projections by role, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Unsupported

TENSORS_SAMPLED, VALUES_SAMPLED = 256, 1024
IMAGE_SIDE = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "out"))
TEXT_SIDE = (("add_q_proj", "q"), ("add_k_proj", "k"), ("add_v_proj", "v"), ("to_add_out", "out"))


@dataclass(frozen=True)
class Projection:
    """One linear layer of an attention. ``cross`` reads text, ``self`` reads the image."""

    module: nn.Linear
    attention: Literal["self", "cross"]
    part: Literal["q", "k", "v", "out", "context"]  # context: embeds all text tokens (SD3, FLUX)


def unwrap(module: nn.Module) -> Any:
    """The module itself, also where ``torch.compile`` has wrapped it."""
    return getattr(module, "_orig_mod", module)


def projections(denoiser: nn.Module) -> dict[str, Projection]:
    """Every attention projection by module name.

    In the joint attention of SD3 and FLUX the added projections read text, so they are ``cross``,
    and so is ``context_embedder``; ``to_q, to_k, to_v`` are ``self`` (in FLUX's single blocks they
    read image and text together). A layer that carries a LoRA is given without it.
    """
    return dict(_projections(denoiser))


def _projections(denoiser: nn.Module) -> Iterator[tuple[str, Projection]]:
    for name, module in denoiser.named_modules():
        if isinstance(layer := _linear(module, "context_embedder"), nn.Linear):
            yield _join(name, "context_embedder"), Projection(layer, "cross", "context")
        if not hasattr(module, "to_q"):
            continue
        reads_text = bool(getattr(module, "is_cross_attention", False))
        sides: list[Any] = [("cross" if reads_text else "self", *pair) for pair in IMAGE_SIDE]
        for attention, path, part in sides + [("cross", *pair) for pair in TEXT_SIDE]:
            if isinstance(layer := _linear(module, path), nn.Linear):
                yield _join(name, path), Projection(layer, attention, part)


def _join(name: str, path: str) -> str:
    return f"{name}.{path}" if name else path


def _linear(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        if value is None:
            return None
        value = value[int(part)] if part.isdigit() else getattr(value, part, None)
    return getattr(value, "base_layer", value)  # PEFT wraps a layer that carries a LoRA


def fingerprint(modules: Sequence[nn.Module]) -> str:
    """SHA-256 over class, parameter names and shapes, and the signs of evenly spaced weights.

    Signs, not values, because they are the same in float32, float16 and bfloat16; an edit of the
    weights flips some of them. LoRA weights are left out, and configurations too, which grow with
    the library's version. A pure rescaling of weights is not seen.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update(type(module).__name__.encode())
        weights = [(n.replace(".base_layer", ""), p) for n, p in module.named_parameters() if "lora_" not in n]
        weights.sort(key=lambda pair: pair[0])
        for name, parameter in weights:
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for _, parameter in weights[:: max(1, -(-len(weights) // TENSORS_SAMPLED))]:
            digest.update(_signs(parameter))
    return digest.hexdigest()


def _signs(parameter: Tensor) -> bytes:
    if parameter.is_meta:
        advice = "protect the pipeline before enabling sequential offload"
        raise Unsupported("weights in memory", "sequentially offloaded ones", advice)
    flat = parameter.detach().flatten()
    return torch.signbit(flat[:: max(1, flat.numel() // VALUES_SAMPLED)]).cpu().numpy().tobytes()
