"""The linear part of a redirection: ridge regression from an unsafe text to the shift that makes it safe.

Most of what a pair of texts differs in is linear in the unsafe one, place by place; a regression finds that at once, a
network needs thousands of steps. Maps are of low rank and their ends are shared by all places: at 77 x 768 and rank 64
that is half a million numbers instead of 45 million. Only plainly worded pairs are fitted: words among stray words,
which the network is also shown, blur the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

RIDGE = 1e-2  # in units of the mean variance of a place's numbers

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]


class RidgeMap(nn.Module):
    """``(B, L, D)`` → a shift ``(B, L, D)``: per place an affine map between the ``rank`` directions in which texts
    differ most and those in which shifts do. Zero until :meth:`fit`."""

    middle: Tensor  # (L, D), the mean text
    shift: Tensor  # (L, D), the mean shift
    read: Tensor  # (D, r), orthonormal
    core: Tensor  # (L, r, r)
    write: Tensor  # (r, D), orthonormal

    def __init__(self, places: int, dim: int, rank: int) -> None:
        super().__init__()
        sizes = {"middle": (places, dim), "shift": (places, dim), "read": (dim, rank), "core": (places, rank, rank),
                 "write": (rank, dim)}  # fmt: skip
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.einsum("blr,lrs->bls", (x - self.middle) @ self.read, self.core)
        return self.shift + inner @ self.write

    @torch.no_grad()
    def fit(self, chunks: Chunks) -> None:
        """``chunks()`` goes over all (texts, shifts), each ``(n, L, D)``; twice, since they may not fit in memory."""
        rank, (places, dim) = self.read.shape[1], self.middle.shape
        n, means = 0, torch.zeros(2, places, dim, dtype=torch.float64)
        second = torch.zeros(2, dim, dim, dtype=torch.float64)
        for pair in chunks():
            n += len(pair[0])
            for i, rows in enumerate(pair):
                means[i] += rows.double().sum(0)
                second[i] += rows.double().flatten(0, 1).T @ rows.double().flatten(0, 1)
        means /= n
        read, write = torch.linalg.eigh(second - n * means.mT @ means)[1][..., -rank:]
        gram, cross = torch.zeros(2, places, rank, rank, dtype=torch.float64)
        for texts, shifts in chunks():
            seen, wanted = (texts.double() - means[0]) @ read, (shifts.double() - means[1]) @ write
            gram += torch.einsum("nli,nlj->lij", seen, seen)
            cross += torch.einsum("nli,nlj->lij", seen, wanted)
        spread = gram.diagonal(dim1=1, dim2=2).sum(1) / dim
        eye = torch.eye(rank, dtype=torch.float64)
        core = torch.linalg.solve(gram + (RIDGE * spread + 1e-6 * spread.mean() + 1e-12)[:, None, None] * eye, cross)
        fitted = {"middle": means[0], "shift": means[1], "read": read, "core": core, "write": write.T}
        self.load_state_dict({name: value.float() for name, value in fitted.items()})
