"""UCE of many concepts at once, SD 1.4-size projections: one factorization against the published way.

    python benchmarks/uce.py [--concepts 1000] [--threads 2] [--size sd1.4]

The published way: for each layer, concept by concept, both matrices are accumulated, and one is inverted. Both ways
solve the same problem in the same precision; the difference of their results is printed. ``--plain-layers`` times the
published way on some layers and scales up by their share of the weights (0: all of them).
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor

from unsee.unlearn.token_vectors import Vectors
from unsee.unlearn.uce import Closed, scales, solved

SIZES = {  # (text width, output widths of keys and values)
    "sd1.4": (768, [320] * 10 + [640] * 10 + [1280] * 12),
    "small": (128, [96] * 10 + [160] * 14),
}


def problem(concepts: int, kept: int, width: int, outputs: list[int]) -> tuple[dict[str, Tensor], Vectors, Vectors]:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    weights = {str(i): draw(out, width) / width**0.5 for i, out in enumerate(outputs)}
    one = torch.ones(concepts, dtype=torch.float64), torch.ones(kept, dtype=torch.float64)
    stay = draw(kept, width)
    return weights, Vectors(draw(concepts, width), draw(concepts, width), one[0]), Vectors(stay, stay, one[1])


def plain(weights: dict[str, Tensor], erase: Vectors, keep: Vectors, training: Closed) -> dict[str, Tensor]:
    """Layer by layer, concept by concept, an inverse for each layer."""
    e, p, lamb = scales(erase, keep, training)
    found = {}
    for name, w in weights.items():
        left, right = lamb * w, lamb * torch.eye(w.shape[1], dtype=w.dtype)
        for part, scale in ((erase, e), (keep, p)):
            for c, guide, by in zip(part.source, part.guide, scale, strict=True):
                left = left + by * torch.outer(w @ guide, c)
                right = right + by * torch.outer(c, c)
        found[name] = left @ torch.linalg.inv(right) - w
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--concepts", type=int, default=1000)
    options.add_argument("--kept", type=int, default=1000)
    options.add_argument("--size", choices=SIZES, default="sd1.4")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--plain-layers", type=int, default=0)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    weights, erase, keep = problem(asked.concepts, asked.kept, *SIZES[asked.size])
    started = time.perf_counter()
    ours = solved(weights, erase, keep, Closed())
    seconds = time.perf_counter() - started
    some = dict(list(weights.items())[:: max(1, len(weights) // (asked.plain_layers or len(weights)))])
    started = time.perf_counter()
    theirs = plain(some, erase, keep, Closed())
    share = sum(w.numel() for w in some.values()) / sum(w.numel() for w in weights.values())
    plainly = (time.perf_counter() - started) / share
    difference = max(float((ours[n] - d).abs().max() / d.abs().max()) for n, d in theirs.items())
    print(json.dumps({
        "concepts": asked.concepts, "kept": asked.kept, "layers": len(weights), "threads": asked.threads,
        "seconds": round(seconds, 3), "plain_seconds": round(plainly, 2), "plain_layers_timed": len(some),
        "times_faster": round(plainly / seconds, 1), "largest_relative_difference": difference,
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
