"""The same bits whatever the batch: linear layers and convolutions get their rows in tiles.

Which kernel a CPU library picks, and so in which order it adds up, depends on how many rows it is given: torch sends
a convolution of few rows and pixels to another library than one of many, and a product with one row is another
routine than one with sixteen. Inside :func:`fixed` rows go through in tiles, the last one filled up with zeros. How
many make a tile depends on the shape of one row alone. A tile of large maps has always the same number of rows; of
small maps (64 positions or fewer) it has 16 to 32, which costs nothing at the usual batch and, measured, changes no
bit. These and group norms get their input in one layout. Attention, other norms and sums treat their rows one by one.
``tests/test_exact.py`` tells whether all this holds on a machine. The number of threads is fixed too, for it also
decides which kernel is taken.

Equal are then pictures, decisions, verdicts with their scores, preservation and CLIP score, for one kind of processor
and one build of torch. On an accelerator nothing is changed, and the last bits may depend on the batch there.

Cost: none at 8 to 16 pictures at once (under guidance); fewer are computed as if they were 8 where maps are small.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

POSITIONS = 1024  # of a tile (pixels or tokens, of all its rows): enough to keep a core busy
ROWS = 16  # and no more rows than these; of maps so small, up to twice as many go through as they are
THREADS = 1  # of every worker, unless it is told: the one number that any machine can give to any number of them
_LOCK, _OWN, _INSIDE = threading.Lock(), (F.linear, F.conv2d, F.group_norm), [0]


@contextmanager
def fixed(threads: int) -> Iterator[None]:
    """Within: ``threads`` threads for every operation, and bits that do not depend on the batch.

    torch's functions are replaced for that long and put back after the last one leaves; what another thread
    computes meanwhile is computed in tiles too, which is as right.
    """
    before = torch.get_num_threads()
    with _LOCK:
        _INSIDE[0] += 1
        F.linear, F.conv2d, F.group_norm = linear, conv2d, group_norm
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)
        with _LOCK:
            _INSIDE[0] -= 1
            if not _INSIDE[0]:
                F.linear, F.conv2d, F.group_norm = _OWN


def rows_of_tile(positions: int) -> int:
    """How many rows of ``positions`` pixels or tokens each are computed together, at least."""
    return min(max(POSITIONS // max(positions, 1), 1), ROWS)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``torch.nn.functional.linear``: ``(B, …, in)`` → ``(B, …, out)``, in tiles over B."""
    if input.ndim < 2 or input.device.type != "cpu":
        return _OWN[0](input, weight, bias)
    return _tile(lambda tile: _OWN[0](tile, weight, bias), input, input.shape[1:-1].numel())


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """As ``torch.nn.functional.conv2d``: ``(B, C, H, W)``, in tiles over B."""
    if input.ndim < 4 or input.device.type != "cpu":
        return _OWN[1](input, weight, bias, *args, **kwargs)
    return _tile(lambda tile: _OWN[1](tile, weight, bias, *args, **kwargs), input, input.shape[2:].numel())


def group_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As ``torch.nn.functional.group_norm``, of the rows laid out plainly.

    Of a lone picture that comes out of attention torch does not see that its channels lie last, of several it does, and
    takes another kernel.
    """
    return _OWN[2](input.contiguous() if input.device.type == "cpu" else input, *args, **kwargs)


def _tile(call: Callable[[Tensor], Tensor], x: Tensor, positions: int) -> Tensor:
    x = x.contiguous()  # a filled tile would be, whatever its rows were; and the layout decides on the kernel too
    n, size = len(x), rows_of_tile(positions)
    if not n or n == size or size == ROWS < n <= 2 * ROWS:
        return call(x)
    if n < size:
        return call(_fill(x, size))[:n]
    tiles = x.split(size) if size < ROWS else x.tensor_split(-(-n // (2 * ROWS)))
    return torch.cat([call(tile) if len(tile) >= size else call(_fill(tile, size)) for tile in tiles])[:n]


def _fill(x: Tensor, size: int) -> Tensor:
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
