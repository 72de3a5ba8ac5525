"""What an embedding costs in the words' place: the same carrier with both, in pairs within one run.

    python benchmarks/ine_cost.py                          picto
    python benchmarks/ine_cost.py --model tiny:sdxl --pairs 20 --json

The time does not depend on what the embedding says, so it is that of the concept's first word. A pair is one
call with words and one with the embedding, in turn first and second; reported for each carrier are the median ratio of
the pairs with the range of the middle half, and how many denoiser passes the embedding adds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

import unsee
from unsee import concepts
from unsee.backbones import adapter
from unsee.defenses.base import Guard
from unsee.embeddings import word_rows
from unsee.metrics import cost

PROMPT = "an icon of a house, noto"
CARRIERS: dict[str, Callable[[str], Guard]] = {
    "negative-prompt": lambda text: unsee.NegativePrompt(text=text),
    "sld": lambda text: unsee.SLD(text=text),
    "safree": lambda text: unsee.SAFREE(phrases=(text,)),
}


def embedded(pipe: Any, carrier: str, text: str) -> unsee.INE:
    """``text``'s own embedding in ``carrier``."""
    made = unsee.INE(carrier=carrier)
    made.load_tensors({f"rows.{i}": row[None] for i, row in enumerate(word_rows(adapter(pipe), text))})
    return made


def measure(pipe: Any, carrier: str, text: str, steps: int, batch: int, pairs: int) -> dict[str, Any]:
    """The numbers of one carrier."""
    calls = [0]
    denoiser = adapter(pipe).denoiser
    handle = denoiser.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

    def one(guard: Guard) -> tuple[float, int]:
        calls[0] = 0
        generators = [torch.Generator().manual_seed(i) for i in range(batch)]
        asked: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent", "generator": generators}
        with unsee.protect(pipe, guard):
            return cost.seconds(lambda: pipe([PROMPT] * batch, **asked), device=pipe.device), calls[0]

    guards = {"words": CARRIERS[carrier](text), "embedding": embedded(pipe, carrier, text)}
    taken: dict[str, list[float]] = {name: [] for name in guards}
    passes = {name: one(guard)[1] for name, guard in guards.items()}  # and a warm-up
    for i in range(pairs):
        for name in list(guards)[:: 1 if i % 2 == 0 else -1]:
            taken[name].append(one(guards[name])[0])
        print(f"{carrier}: pair {i + 1}/{pairs}", file=sys.stderr, flush=True)
    handle.remove()
    return {
        **cost.pair_ratio(taken["words"], taken["embedding"]),
        "seconds_per_image": round(statistics.median(taken["words"]) / batch, 4),
        "extra_denoiser_passes": passes["embedding"] - passes["words"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="picto", help="picto, or tiny:FAMILY")
    parser.add_argument("--concept", default="weapon")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    pipe, text = unsee.load(asked.model), concepts.load(asked.concept).all_words("train")[0]
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, Any] = {**vars(asked), "threads": torch.get_num_threads(), "torch": torch.__version__}
    found["carriers"] = {
        carrier: measure(pipe, carrier, text, asked.steps, asked.batch, asked.pairs) for carrier in CARRIERS
    }
    if asked.json:
        print(json.dumps(found))
        return
    for carrier, row in found.pop("carriers").items():
        print(carrier, *(f"  {name:24} {value}" for name, value in row.items()), sep="\n")
    print(*(f"{name:26} {value}" for name, value in found.items()), sep="\n")


if __name__ == "__main__":
    main()
