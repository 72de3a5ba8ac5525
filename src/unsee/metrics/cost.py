"""What a call costs: its latency and its peak memory. Measures any callable without arguments; never keeps its result.

Times are wall times of this machine at this moment: compare only what was measured in turn within one run. The interval
of the median is exact whatever the distribution (Conover, Practical Nonparametric Statistics, 3.2): it lies between two
of the times themselves, chosen by the Binomial(n, 1/2) distribution of how many fall below the true median.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import read_text
from .base import metric

if TYPE_CHECKING:
    import torch

    Device = str | torch.device


@dataclass(frozen=True)
class Latency:
    """Median seconds of ``n`` calls; the 95 % interval is None below 6 calls, where there is none."""

    n: int
    seconds: float
    low: float | None
    high: float | None


@metric("latency", higher_is_better=False, range=(0.0, math.inf))
def latency(call: Callable[[], object], *, repeats: int = 10, warmup: int = 1, device: Device = "cpu") -> Latency:
    """Formula: the median of ``repeats`` wall times in seconds, after ``warmup`` calls that do not count.

    Waits for an accelerator (``device`` other than ``cpu``) to finish before every look at the clock.
    """
    if repeats < 1:
        raise ValueError(f"expected repeats >= 1, got {repeats}")
    for _ in range(warmup):
        call()
    times = [seconds(call, device=device) for _ in range(repeats)]
    low, high = median_interval(times) or (None, None)
    return Latency(repeats, statistics.median(times), low, high)


def seconds(call: Callable[[], object], *, device: Device = "cpu") -> float:
    """Wall time of one call."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def pair_ratio(before: Sequence[float], after: Sequence[float]) -> dict[str, float | list[float]]:
    """Of times that were measured in pairs: the median of after / before, and the range of the ratios' middle half."""
    ratios = sorted(b / a for a, b in zip(before, after, strict=True))
    quarter = len(ratios) // 4
    half = [round(ratios[quarter], 4), round(ratios[-1 - quarter], 4)]
    return {"ratio": round(statistics.median(ratios), 4), "middle_half": half}


@metric("peak-memory", higher_is_better=False, range=(0.0, math.inf))
def peak_memory(call: Callable[[], object], *, device: Device = "cpu") -> float | None:
    """Formula: the most memory held at once during one call, in MiB.

    On CUDA what its allocator gave out, else VmHWM of the whole process (Linux), set back before the call.
    What was held before counts, and so do other threads. None, without calling, where the system cannot tell.
    """
    if _cuda(device):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        seconds(call, device=device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: set VmHWM back to what is held now
    except OSError:
        return None
    call()
    found = re.search(r"VmHWM:\s+(\d+) kB", read_text("/proc/self/status", "the state of this process", "report this"))
    return int(found[1]) / 1024 if found else None


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median: the k-th smallest and k-th largest value; None below 6 values.

    k is the largest with P(X < k) ≤ .025, X ~ Binomial(n, 1/2).

    >>> median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    (1.0, 6.0)
    """
    n, below, k = len(values), 1, 0
    while 40 * below <= 2**n:  # P(X <= k) = below / 2^n <= 1/40
        k += 1
        below += math.comb(n, k)
    ordered = sorted(values)
    return (ordered[k - 1], ordered[-k]) if k else None


def _cuda(device: Device) -> bool:
    return str(device).startswith("cuda")


def _wait(device: Device) -> None:
    if str(device) != "cpu":
        import torch

        torch.accelerator.synchronize(device)
