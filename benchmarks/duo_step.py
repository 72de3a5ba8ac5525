"""One training step of DUO on SD 1.5-size random weights: ours against the published loop's structure.

    python benchmarks/duo_step.py [--size sd1.5] [--device cuda] [--dtype float16] [--batch 1] [--steps 10]

plain   both images through the VAE and the text through its encoder at each step; PEFT LoRA; four denoiser passes
        (pair and noise, with the adapter and without)
ours    latents and text made once; VAE and text encoder put aside; one pass with the adapter, one without
rows    the same with ``by_rows=True``: row by row, the activations of one row in memory

Each runs in a process of its own, in the same precision, on the same batch; what is printed is the median step and
the peak memory: of the allocator on a GPU, of the process (less what it held before building the model) on a CPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

RANK, BETA, LAMBDA = 32, 500.0, 5e6
SIZES: dict[str, dict[str, Any]] = {
    "sd1.5": {"unet": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512), "text": (768, 12, 12), "pixels": 512},
    "tiny": {"unet": (32, 32, 64, 64), "vae": (32, 32, 32, 32), "text": (32, 2, 2), "pixels": 64},
    "small": {"unet": (64, 128, 256, 256), "vae": (32, 64, 128, 128), "text": (128, 4, 4), "pixels": 256},
}


def build(size: str, device: str, dtype: torch.dtype) -> Any:
    """A Stable Diffusion pipeline of random weights."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from unsee.backbones.tiny import _clip_tokenizer, _ddim

    asked = SIZES[size]
    width, layers, heads = asked["text"]
    torch.manual_seed(0)
    tokenizer, side = _clip_tokenizer(), asked["pixels"] // 8
    clip = {"hidden_size": width, "intermediate_size": 4 * width, "eos_token_id": len(tokenizer) - 1}
    config = CLIPTextConfig(vocab_size=49408, num_hidden_layers=layers, num_attention_heads=heads, **clip)
    unet = {"block_out_channels": asked["unet"], "cross_attention_dim": width, "attention_head_dim": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    pipe = StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=side, **unet),
        vae=AutoencoderKL(block_out_channels=asked["vae"], layers_per_block=2, sample_size=asked["pixels"], **blocks),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        scheduler=_ddim("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    return pipe.to(device, dtype)


def plain(pipe: Any, batch: int, device: str, dtype: torch.dtype, pixels: int) -> Callable[[], float]:
    """The published loop: everything each step."""
    from peft import LoraConfig

    targets = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
    pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
    parameters = [p for p in pipe.unet.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=6e-5)
    images = torch.rand(2 * batch, 3, pixels, pixels).to(device, dtype) * 2 - 1
    ids = pipe.tokenizer([""], padding="max_length", return_tensors="pt").input_ids.to(device)
    mean = lambda x: x.float().square().mean((1, 2, 3))  # noqa: E731

    def forward(x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype != torch.float32):
            return pipe.unet(x, t, text.expand(len(x), -1, -1)).sample

    def step() -> float:
        with torch.no_grad():
            latents = pipe.vae.encode(images).latent_dist.sample() * pipe.vae.config.scaling_factor
            text = pipe.text_encoder(ids)[0]
        noise = torch.randn_like(latents[:batch])
        t = torch.randint(0, 750, (2 * batch,), device=device)
        last = torch.full((batch,), 999, device=device)
        x, e = pipe.scheduler.add_noise(latents, noise.repeat(2, 1, 1, 1), t), noise.repeat(2, 1, 1, 1)
        pair, alone = forward(x, t, text), forward(noise, last, text)
        pipe.unet.disable_adapters()
        with torch.no_grad():
            pair_ref, alone_ref = forward(x, t, text), forward(noise, last, text)
        pipe.unet.enable_adapters()
        m, r = mean(pair - e), mean(pair_ref - e)
        d = (m[:batch] - r[:batch]) - (m[batch:] - r[batch:])
        loss = -F.logsigmoid(-BETA * d).mean() + LAMBDA * mean(alone - alone_ref).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def ours(pipe: Any, batch: int, device: str, dtype: torch.dtype, pixels: int, *, rows: bool) -> Callable[[], float]:
    """What ``Duo.fit`` does in a step."""
    from unsee.backbones import adapter
    from unsee.sampling.denoiser import DenoiserCall
    from unsee.sampling.sampler import Sampler
    from unsee.unlearn.adapters import Adapters
    from unsee.unlearn.duo.loss import PairBatch, duo_loss, duo_loss_by_rows, times
    from unsee.unlearn.duo.train import self_attention

    backbone = adapter(pipe)
    predict, formula = DenoiserCall(Sampler(backbone)), duo_loss_by_rows if rows else duo_loss
    adapters = Adapters(self_attention(backbone), RANK, torch.Generator().manual_seed(0))
    parameters = list(adapters.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=6e-5)
    side = pixels // 8
    latents = torch.randn(2 * batch, 4, side, side, device=device)
    generator = torch.Generator().manual_seed(0)
    for part in (pipe.vae, pipe.text_encoder):
        part.to("cpu")

    def step() -> float:
        t_safe, t_unsafe = times(backbone, batch, "independent", generator)
        noise = torch.randn(batch, 4, side, side, generator=generator).to(device)
        data = PairBatch(latents[:batch], latents[batch:], noise, t_safe, t_unsafe)
        with adapters.attached():
            loss = formula(predict, adapters, backbone, data, BETA, LAMBDA).total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


VARIANTS: dict[str, Callable[..., Callable[[], float]]] = {
    "plain": plain,
    "ours": functools.partial(ours, rows=False),
    "rows": functools.partial(ours, rows=True),
}


def measure(asked: argparse.Namespace) -> dict[str, float]:
    """One variant, in this process."""
    dtype, device = getattr(torch, asked.dtype), asked.device
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe = build(asked.size, device, dtype)
    step = VARIANTS[asked.variant](pipe, asked.batch, device, dtype, SIZES[asked.size]["pixels"])
    cuda = torch.device(device).type == "cuda"
    for _ in range(asked.warmup):
        step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(asked.steps):
        started = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    )
    return {"seconds": statistics.median(seconds), "gigabytes": peak / 2**30}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=SIZES, default="sd1.5")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--warmup", type=int, default=1)
    options.add_argument("--variant", choices=[*VARIANTS], help="run this one here (used by the program itself)")
    asked = options.parse_args()
    if asked.variant:
        print(json.dumps(measure(asked)))
        return
    found = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[variant] = json.loads(done.stdout.splitlines()[-1])
    for variant in ("ours", "rows"):
        found[variant] |= {
            f"{key}_ratio": round(found[variant][key] / found["plain"][key], 3) for key in found["plain"]
        }
    print(json.dumps({**vars(asked), **found}, indent=2))


if __name__ == "__main__":
    main()
