"""Deltas as low-rank pairs (truncated SVD), and the key names of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import save_tensors
from .scales import METADATA

A, B, DELTA, BIAS = ".lora_A.weight", ".lora_B.weight", ".weight_delta", ".bias_delta"
ENDS = (A, B, DELTA, BIAS)  # of the names in a saved edit


def truncated(deltas: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], float]:
    """(low-rank pairs of at most ``rank``, relative Frobenius error over all layers).

    Singular values go in equal parts to both factors. A layer needs no more than its delta's own rank.
    """
    if rank < 1:
        raise UserError("a rank of 1 or more", str(rank), "pass for example rank=32")
    pairs: dict[str, Tensor] = {}
    lost, whole = 0.0, 0.0
    for layer, delta in deltas.items():
        u, s, vt = torch.linalg.svd(delta.flatten(1).double(), full_matrices=False)
        used = int((s > s.max() * 1e-7).sum()) if len(s) and float(s.max()) > 0 else 1
        r = min(rank, max(used, 1))
        root = s[:r].sqrt()
        b, a = u[:, :r] * root, root[:, None] * vt[:r]
        if delta.ndim == 4:
            b, a = b[:, :, None, None], a.view(r, *delta.shape[1:])
        pairs[layer + A], pairs[layer + B] = a.to(delta.dtype).contiguous(), b.to(delta.dtype).contiguous()
        lost += float(s[r:].square().sum())
        whole += float(s.square().sum())
    return pairs, (lost / whole) ** 0.5 if whole else 0.0


def write_comfy(weights: dict[str, Tensor], strength: float, path: Path) -> Path:
    """An edit's tensors under the names that ComfyUI reads, ``strength`` in them.

    A UNet's layers get kohya's names (``lora_unet_…`` with underscores, down, up, alpha = rank). A transformer's
    keep those of diffusers, which ComfyUI reads as they are (kohya's names there need fused projections). Deltas get
    ``.diff`` (weights) and ``.diff_b`` (biases).
    """
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        end = next(end for end in ENDS if name.endswith(end))
        prefix, _, layer = name.removesuffix(end).partition(".")
        kohya = prefix == "unet"
        stem = "lora_unet_" + layer.replace(".", "_") if kohya else f"{prefix}.{layer}"
        ends = {A: ".lora_down.weight", B: ".lora_up.weight"} if kohya else {A: A, B: B}
        out[stem + {**ends, DELTA: ".diff", BIAS: ".diff_b"}[end]] = tensor if end == A else strength * tensor
        if kohya and end == A:
            out[f"{stem}.alpha"] = torch.tensor(float(len(tensor)))
    return save_tensors(path, out)


def strength_metadata(weights: dict[str, Tensor], strength: float) -> dict[str, str]:
    """The header under which diffusers (0.35 and later) loads low-rank pairs as strong as ``strength`` makes them."""
    ranks = {name.removesuffix(A): len(tensor) for name, tensor in weights.items() if name.endswith(A)}
    if strength == 1 or not ranks:
        return {}
    prefix = next(iter(ranks)).partition(".")[0]
    own = {name.removeprefix(prefix + "."): rank for name, rank in ranks.items()}
    r = max(own.values())
    settings = {
        "r": r,
        "lora_alpha": strength * r,
        "rank_pattern": {name: rank for name, rank in own.items() if rank != r},
        "alpha_pattern": {name: strength * rank for name, rank in own.items() if rank != r},
        "target_modules": sorted(own),
    }
    packed = {f"{prefix}.{name}": value for name, value in settings.items()}
    return {METADATA: json.dumps(packed, sort_keys=True)}
