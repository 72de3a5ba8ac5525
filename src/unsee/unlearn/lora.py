"""Deltas as low-rank pairs (truncated SVD), and the key names of other programs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..files import save_tensors
from .base import A, B


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


def write_comfy(pairs: dict[str, Tensor], strength: float, path: Path) -> Path:
    """Low-rank pairs under the names that ComfyUI reads.

    A UNet's layers get kohya's names (``lora_unet_…`` with underscores, down, up, alpha = rank). A transformer's
    keep those of diffusers, which ComfyUI reads as they are (kohya's names there need fused projections).
    """
    out: dict[str, Tensor] = {}
    for name, tensor in pairs.items():
        tensor = strength * tensor if name.endswith(B) else tensor
        prefix, _, layer = name.removesuffix(A).removesuffix(B).partition(".")
        if prefix != "unet":
            out[name] = tensor
            continue
        stem = "lora_unet_" + layer.replace(".", "_")
        out[f"{stem}.{'lora_down' if name.endswith(A) else 'lora_up'}.weight"] = tensor
        if name.endswith(A):
            out[f"{stem}.alpha"] = torch.tensor(float(len(tensor)))
    return save_tensors(path, out)
