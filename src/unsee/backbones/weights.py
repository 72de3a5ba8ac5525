"""What is asked of a denoiser's weights: attention projections by role, and a fingerprint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Unsupported

TENSORS_SAMPLED, VALUES_SAMPLED = 256, 1024
IMAGE_SIDE = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "out"))
TEXT_SIDE = (("add_q_proj", "q"), ("add_k_proj", "k"), ("add_v_proj", "v"), ("to_add_out", "out"))
CONTEXT = ("context_embedder", "caption_projection.linear_1")  # SD3 and FLUX; PixArt and SANA
FUSED = ("to_qkv", "to_kv", "to_added_qkv")  # copies of other projections, made by fuse_qkv_projections


@dataclass(frozen=True)
class Projection:
    """One linear layer of an attention. ``cross`` reads text, ``self`` reads the image."""

    module: nn.Linear
    attention: Literal["self", "cross"]
    part: Literal["q", "k", "v", "out", "context"]  # context: the first layer that all text tokens pass


def unwrap(module: nn.Module) -> Any:
    """The module itself, also where ``torch.compile`` has wrapped it."""
    return getattr(module, "_orig_mod", module)


def projections(denoiser: nn.Module) -> dict[str, Projection]:
    """Every attention projection by module name.

    In the joint attention of SD3 and FLUX the added projections read text, so they are ``cross``,
    and so is what embeds the text first; ``to_q, to_k, to_v`` are ``self`` (in FLUX's single blocks they
    read image and text together). A layer that carries a LoRA is given without it.

    Raises :class:`Unsupported` where ``fuse_qkv_projections`` has put copies in their place.
    """
    refuse_fused(denoiser)
    return dict(_projections(denoiser))


def refuse_fused(denoiser: nn.Module) -> None:
    """Raises :class:`Unsupported` if fused copies of the projections run: a change of the projections does nothing."""
    if any(map(is_fused, denoiser.modules())):
        advice = "call unfuse_qkv_projections() first"
        raise Unsupported("attention projections that run", "fused copies of them", advice)


def is_fused(module: nn.Module) -> bool:
    """Whether this attention runs fused copies of its projections. UNets tell by the processor, FLUX by a flag."""
    if not getattr(module, "fused_projections", False):
        return False
    named = "Fused" in type(getattr(module, "processor", None)).__name__
    return named or hasattr(module, "unfuse_projections")  # the flag alone stays set on a UNet that is fused no longer


def base_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The model's own parameters by name: without those of adapters (LoRA …) that it carries, or of fused copies."""
    carrying, copies = [], []
    for name, part in module.named_modules():
        if hasattr(part, "base_layer"):
            carrying.append(f"{name}.")
        if hasattr(part, "fused_projections"):
            copies += [f"{_join(name, copy)}." for copy in FUSED if hasattr(part, copy)]
    own = []
    for name, parameter in module.named_parameters():
        adapted = any(name.startswith(c) and not name.startswith(f"{c}base_layer.") for c in carrying)
        if not adapted and "lora_" not in name and not name.startswith(tuple(copies)):
            own.append((name.replace(".base_layer", ""), parameter))
    return own


def sample(parameter: Tensor, n: int) -> Tensor:
    """``n`` evenly spaced values (all, where there are fewer), on the CPU, in the parameter's own dtype."""
    flat = parameter.detach().flatten()
    return flat[:: max(1, math.ceil(flat.numel() / n))][:n].cpu()


def _projections(denoiser: nn.Module) -> Iterator[tuple[str, Projection]]:
    for name, module in denoiser.named_modules():
        for path in CONTEXT:
            if isinstance(layer := _linear(module, path), nn.Linear):
                yield _join(name, path), Projection(layer, "cross", "context")
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


def fingerprint(modules: Sequence[nn.Module], rows: Sequence[int | None] = ()) -> str:
    """SHA-256 over class, parameter names and shapes, and the signs of evenly spaced weights.

    Signs, not values, because they are the same in float32, float16, bfloat16 and float8; an edit of the
    weights flips some of them. LoRA weights and fused copies are left out, and configurations too, which grow
    with the library's version. ``rows``: for each module how many rows of its token embedding count, None for all.
    A pure rescaling of weights is not seen.
    """
    digest = hashlib.sha256()
    for place, module in enumerate(modules):
        digest.update(type(module).__name__.encode())
        known = rows[place] if rows else None
        table = _table(module) if known is not None else None
        weights = [(name, p[:known] if p is table else p) for name, p in base_parameters(module)]
        weights.sort(key=lambda pair: pair[0])
        for name, parameter in weights:
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for _, parameter in weights[:: max(1, -(-len(weights) // TENSORS_SAMPLED))]:
            digest.update(_signs(parameter))
    return digest.hexdigest()


def _table(encoder: Any) -> Tensor | None:
    return encoder.get_input_embeddings().weight if hasattr(encoder, "get_input_embeddings") else None


def _signs(parameter: Tensor) -> bytes:
    if parameter.is_meta:
        advice = "protect the pipeline before enabling sequential offload"
        raise Unsupported("weights in memory", "sequentially offloaded ones", advice)
    flat = parameter.detach().flatten()
    spaced = flat[:: max(1, flat.numel() // VALUES_SAMPLED)]
    return torch.signbit(spaced.float() if spaced.is_floating_point() else spaced).cpu().numpy().tobytes()
