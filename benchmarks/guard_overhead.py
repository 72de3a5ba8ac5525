"""What a guard costs: time, denoiser passes and memory, with and without it, in pairs within one run.

    python benchmarks/guard_overhead.py                   SafeRedir on a pipeline of SD 1.5's size, random weights
    python benchmarks/guard_overhead.py --model picto --steps 25 --batch 16
    python benchmarks/guard_overhead.py --device cuda --dtype float16 --steps 50 --pairs 10 --json

The time of a network does not depend on its weights, so nothing is downloaded or trained. The VAE is left out: it would
only make the share of the guard smaller. A pair is one call without and one with the guard, in turn first and second;
reported are the median ratio of the pairs with the range of the middle half, and, since machines vary by more than the
guard costs, the share of a guarded call that its watching and redirecting take by themselves (``inside``). The guard's
threshold is 0: it redirects every image at every step, which is its dearest case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import torch

import unsee
from unsee.backbones import tiny
from unsee.guards.saferedir import SafeRedir
from unsee.metrics import cost

PROMPT = "a photo of a person in a garden"


def sd15() -> Any:
    """``StableDiffusionPipeline`` with the dimensions of SD 1.5 and random weights: 860 M parameters in the UNet."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny._clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        eos_token_id=len(tokenizer) - 1, bos_token_id=len(tokenizer) - 2, pad_token_id=len(tokenizer) - 1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=tiny._ddim("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seconds(pipe: Any, steps: int, batch: int) -> float:
    """One call of the pipeline, latents out."""
    asked = {"num_inference_steps": steps, "output_type": "latent"}
    generators = [torch.Generator().manual_seed(i) for i in range(batch)]
    return cost.seconds(lambda: pipe([PROMPT] * batch, generator=generators, **asked), device=pipe.device)


def timed(guard: SafeRedir, spent: list[float], device: Any) -> None:
    """Adds the seconds of each of the guard's turns to ``spent[0]``."""
    act = guard.on_positive

    def on_positive(*given: Any) -> Any:
        made: list[Any] = []
        spent[0] += cost.seconds(lambda: made.append(act(*given)), device=device)
        return made[0]

    guard.on_positive = on_positive  # type: ignore[method-assign]


def measure(pipe: Any, guard: SafeRedir, steps: int, batch: int, pairs: int) -> dict[str, Any]:
    """The numbers of one run."""
    calls, inside = [0], [0.0]
    timed(guard, inside, pipe.device)
    denoiser = pipe.unet
    handle = denoiser.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

    def one(guarded: bool) -> tuple[float, int]:
        calls[0] = 0
        if not guarded:
            return seconds(pipe, steps, batch), calls[0]
        with unsee.protect(pipe, guard):
            return seconds(pipe, steps, batch), calls[0]

    one(False), one(True)  # warm up
    plain, acted, shares, extra = [], [], [], 0
    for i in range(pairs):
        for guarded in (False, True) if i % 2 == 0 else (True, False):
            inside[0] = 0.0
            taken, passes = one(guarded)
            if guarded:
                shares.append(inside[0] / (taken - inside[0]))
            (acted if guarded else plain).append(taken)
            extra += passes if guarded else -passes
        print(f"pair {i + 1}/{pairs}: {plain[-1]:.2f} s, {acted[-1]:.2f} s", file=sys.stderr, flush=True)
    handle.remove()
    before = cost.peak_memory(lambda: seconds(pipe, steps, batch), device=pipe.device)
    with unsee.protect(pipe, guard):
        after = cost.peak_memory(lambda: seconds(pipe, steps, batch), device=pipe.device)
    return {
        **cost.pair_ratio(plain, acted),
        "inside": round(statistics.median(shares), 4),
        "inside_range": [round(min(shares), 4), round(max(shares), 4)],
        "seconds_plain": round(statistics.median(plain), 3),
        "seconds_guarded": round(statistics.median(acted), 3),
        "extra_denoiser_passes": extra,
        "extra_memory_mb": None if before is None or after is None else round(after - before, 1),
        "guard_weights_mb": round(sum(t.numel() * t.element_size() for t in guard.tensors().values()) / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", help="sd15 (random weights), picto, or tiny:sd1")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    pipe = sd15() if asked.model == "sd15" else unsee.load(asked.model)
    pipe.to(asked.device, getattr(torch, asked.dtype))
    guard = SafeRedir.untrained(pipe, threshold=0.0)
    found = {**vars(asked), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if asked.device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    found |= measure(pipe, guard, asked.steps, asked.batch, asked.pairs)
    if asked.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
