"""Latent re-attention: the skip features of the filtered prompt, damped where the original's are smaller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn

    from ...backbones import Backbone

SKIP_SCALES = (0.9, 0.2)  # s of the first two up blocks, which have 1280 and 640 channels in SD


@contextmanager
def watched(backbone: Backbone, see: Any) -> Iterator[None]:
    """Passes the skip features of the first two up blocks through ``see(block, features)``, in this thread."""
    owner, handles = threading.get_ident(), []

    def hook(i: int) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if threading.get_ident() != owner:
                return None
            return args, {**kwargs, "res_hidden_states_tuple": see(i, kwargs["res_hidden_states_tuple"])}

        return before

    try:
        for i, block in enumerate(cast("nn.ModuleList", backbone.denoiser.up_blocks)[: len(SKIP_SCALES)]):
            handles.append(block.register_forward_pre_hook(hook(i), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def damped(block: int, filtered: tuple[Tensor, ...], original: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(damp(f, o, SKIP_SCALES[block]) for f, o in zip(filtered, original, strict=True))


def damp(filtered: Tensor, original: Tensor, s: float) -> Tensor:
    """Multiplies ``filtered`` ``(B, C, H, W)`` by ``s`` at the central 2x2 frequencies where its magnitude exceeds
    ``original``'s; phases stay."""
    f, o = (torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1)) for x in (filtered, original))
    low = torch.zeros(f.shape[-2:], dtype=torch.bool, device=f.device)
    row, column = f.shape[-2] // 2, f.shape[-1] // 2
    low[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1] = True
    f = torch.where(low & (f.abs() > o.abs()), s * f, f)
    return torch.fft.ifftn(torch.fft.ifftshift(f, dim=(-2, -1)), dim=(-2, -1)).real.to(filtered)
