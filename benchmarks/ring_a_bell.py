"""Ring-A-Bell's genetic search: individuals per second, a whole population encoded at once against one at a time.

    python benchmarks/ring_a_bell.py                  ten minutes on a CPU: of CLIP-L's size, random weights
    python benchmarks/ring_a_bell.py --size tiny      seconds, for a test
    python benchmarks/ring_a_bell.py --device cuda --population 200 --generations 50

The search is the same object in both cases, with the same seed; only the encoding differs. It must end in the same
best fitness. "one at a time" encodes every individual of every generation by itself, survivors and copies too; "batch"
is what ``unsee attack ring-a-bell`` does: the new texts of a generation in one batch, no text twice. "batch, every
individual" tells how much of that is the batch alone. Copies come with the generations (published 3,000, standard 60),
so a search of a few shows less. An individual is one of a generation's population, whose fitness is known. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from unsee.attacks.ring_a_bell import Genes, Hunt, RingABell
from unsee.backbones.tiny import tiny

SIZES = {  # hidden size, layers, heads, intermediate size
    "tiny": (16, 2, 2, 32),
    "clip-l": (768, 12, 12, 3072),
}
LENGTH = 16


def build(size: str, device: str) -> tuple[Any, Any]:
    """(random text encoder, tokenizer of printable characters)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny("sd1").tokenizer
    width, layers, heads, inner = SIZES[size]
    n = len(tokenizer)
    config = CLIPTextConfig(vocab_size=n, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
                            num_attention_heads=heads, projection_dim=width, max_position_embeddings=77,
                            bos_token_id=n - 2, eos_token_id=n - 1, pad_token_id=n - 1)  # fmt: skip
    torch.manual_seed(0)
    return CLIPTextModel(config).eval().requires_grad_(False).to(device), tokenizer


class Encoder:
    """Texts → ``(n, 77 D)``, ``rows`` at a time; counts what it encodes."""

    def __init__(self, model: Any, tokenizer: Any, device: str, rows: int) -> None:
        self.model, self.tokenizer, self.device, self.rows, self.count = model, tokenizer, device, rows, 0
        self.generation: list[str] = []

    def again(self, individuals: int) -> None:
        """Encodes what this generation did not: its survivors and copies, up to the whole population."""
        missing = individuals - len(self.generation)
        if missing > 0:
            known = self.generation or ["x"]
            self((known * (missing // len(known) + 1))[:missing])
        self.generation = []

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> torch.Tensor:
        self.count += len(texts)
        self.generation += texts
        ids = self.tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        parts = [self.model(part.to(self.device))[0] for part in ids.split(self.rows)]
        return torch.cat(parts).flatten(1).float().cpu()


def search(asked: argparse.Namespace, model: Any, tokenizer: Any, rows: int, every: bool) -> dict[str, Any]:
    attack = RingABell(population=asked.population, generations=asked.generations, length=LENGTH, seeded=0.0)
    encode, genes = Encoder(model, tokenizer, asked.device, rows), Genes.of(tokenizer)
    target = encode(["a target text of some words"])[0]
    hunts = [
        Hunt(target, torch.Generator().manual_seed(asked.seed + i), torch.zeros(LENGTH, dtype=torch.long))
        for i in range(asked.prompts)
    ]
    encode.count, encode.generation, started = 0, [], time.perf_counter()
    for _ in attack.search(hunts, genes, encode):
        if every:
            encode.again(asked.prompts * attack.population)
    seconds = time.perf_counter() - started
    individuals = asked.prompts * attack.population * (attack.generations + 1)
    best = [round(float(hunt.scores[0]), 3) for hunt in hunts]
    return {"individuals_per_second": round(individuals / seconds, 2), "seconds": round(seconds, 2),
            "individuals": individuals, "encoded": encode.count, "best": best}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=SIZES, default="clip-l")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--population", type=int, default=50)
    options.add_argument("--generations", type=int, default=30)
    options.add_argument("--prompts", type=int, default=1, help="searched side by side, in both cases")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    model, tokenizer = build(asked.size, asked.device)
    search(argparse.Namespace(**{**vars(asked), "generations": 1}), model, tokenizer, 256, False)  # warm up
    found = {
        "one at a time": search(asked, model, tokenizer, 1, True),
        "batch, every individual": search(asked, model, tokenizer, 256, True),
        "batch": search(asked, model, tokenizer, 256, False),
    }
    one, many = found["one at a time"], found["batch"]
    ratio = many["individuals_per_second"] / one["individuals_per_second"]
    same = one["best"] == many["best"]
    print(json.dumps({**vars(asked), **found, "ratio": round(ratio, 2), "same_best": same}, indent=2))


if __name__ == "__main__":
    main()
