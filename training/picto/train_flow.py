"""picto-flow: a multimodal diffusion transformer (SD3's) on picto's latents, rectified flow, picto's text tower twice.

    python -m training.picto.train_flow --steps 20000 --decay 0
    python -m training.picto.train_flow --start training/picto/checkpoints/picto-flow.safetensors --steps 40000

The rate is constant after the warm-up and falls to zero over the last ``--decay`` steps, so that a training can be gone
on with. VAE and text tower are those of the package. Latents and text states are computed once.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.activations import GELU
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from unsee.picto import WEIGHTS

from . import captions, catalog, data, loop
from .train_clip import weights

PLACEMENTS = 7  # the last one is for validation
CAPTIONS = 24
EMPTY = 0.1  # share of images whose caption is dropped, for guidance
CHECKED = 1024  # fixed validation draws
NAME = "flow"  # of the checkpoint in WORK


def model() -> SD3Transformer2DModel:
    """6.5 M parameters, 13 MB in half precision: 8×8×16 latents in 2×2 patches, five layers of four heads."""
    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=5, attention_head_dim=48,
        num_attention_heads=4, joint_attention_dim=256, caption_projection_dim=192, pooled_projection_dim=256,
        pos_embed_max_size=4, qk_norm="rms_norm",
    )  # fmt: skip
    return initialize(net)


def initialize(net: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """As in DiT: Xavier for linear layers, and every block and the output begin as nothing."""
    for part in net.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
    nn.init.xavier_uniform_(net.pos_embed.proj.weight.flatten(1))
    for embedder in (net.time_text_embed.timestep_embedder, net.time_text_embed.text_embedder):
        nn.init.normal_(embedder.linear_1.weight, std=0.02), nn.init.normal_(embedder.linear_2.weight, std=0.02)
    gates = [norm.linear for b in net.transformer_blocks for norm in (b.norm1, b.norm1_context)]
    for layer in (*gates, net.norm_out.linear, net.proj_out):
        nn.init.zeros_(layer.weight)
    return net


def text_tower() -> CLIPTextModelWithProjection:
    """The package's text encoder with CLIP's projection: what both CLIP slots of the pipeline hold. fp32, frozen."""
    config = CLIPTextConfig.from_pretrained(WEIGHTS / "pipeline" / "text_encoder")
    tower = CLIPTextModelWithProjection(config)
    own = load_file(WEIGHTS / "pipeline" / "text_encoder" / "model.safetensors")
    state = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in own.items()}
    state["text_projection.weight"] = load_file(WEIGHTS / "clip" / "model.safetensors")["text_projection.weight"]
    tower.load_state_dict(state)
    return tower.float().eval().requires_grad_(False)


class PlainJointAttention:
    """SD3's joint attention by products and softmax: on a CPU its backward is faster than fused attention's."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor,
                 attention_mask: None = None) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        def heads(x: torch.Tensor, layer: nn.Module, norm: nn.Module | None = None) -> torch.Tensor:
            y = layer(x).unflatten(-1, (attn.heads, -1))
            return norm(y) if norm is not None else y

        x, c = hidden_states, encoder_hidden_states
        q = torch.cat([heads(x, attn.to_q, attn.norm_q), heads(c, attn.add_q_proj, attn.norm_added_q)], 1)
        k = torch.cat([heads(x, attn.to_k, attn.norm_k), heads(c, attn.add_k_proj, attn.norm_added_k)], 1)
        v = torch.cat([heads(x, attn.to_v), heads(c, attn.add_v_proj)], 1)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        odds = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        out = (odds.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        ours, text = attn.to_out[0](out[:, : x.shape[1]]), out[:, x.shape[1] :]
        return ours, text if attn.context_pre_only else attn.to_add_out(text)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """``F.gelu(x, approximate="tanh")`` written with a sigmoid, of which a compiled kernel is faster than of tanh."""
    y = x.float()
    return (y * torch.sigmoid(y * (1.5957691216 + 0.0713548163 * y * y))).to(x.dtype)


def quicken(net: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """The same network, faster to train on a CPU."""
    net.set_attn_processor(PlainJointAttention())
    for part in net.modules():
        if isinstance(part, GELU):
            part.gelu = gelu
    return net


@torch.no_grad()
def encode(tower: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str]) -> list[torch.Tensor]:
    """As StableDiffusion3Pipeline does, one slot: last but one states (B, 24, 128), projected (B, 128). fp16, CPU."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    out = tower(tokens.to(tower.device), output_hidden_states=True)
    return [out.hidden_states[-2].half().cpu(), out.text_embeds.half().cpu()]


@torch.no_grad()
def cache(work: Path, icons: data.Icons, style: list[str]) -> dict[str, torch.Tensor]:
    """``latents`` (icons, PLACEMENTS, 16, 8, 8); ``text`` (icons, CAPTIONS, 24, 128) and ``pooled`` (…, 128) with
    ``empty_text`` and ``empty_pooled``. All fp16. Made once.
    """
    path = work / f"{NAME}-cache.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    g, rng, dev = torch.Generator().manual_seed(loop.SEED), random.Random(loop.SEED), loop.device()
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", torch_dtype=torch.float32).to(dev).eval()
    tokenizer, tower = CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer"), text_tower().to(dev)
    latents, text, pooled = [], [], []
    for first in tqdm(range(0, len(icons), 64), desc="latents and captions"):
        rows = range(first, min(first + 64, len(icons)))
        pick, views = icons.images[list(rows)], []
        for k in range(PLACEMENTS):
            shift, scale = (0.0, (0.94, 0.94)) if k == 0 else (1.5, (0.9, 1.0))
            x = data.place(pick, g, shift=shift, scale=scale).to(dev)
            views.append((vae.encode(x).latent_dist.mean * vae.config.scaling_factor).half().cpu())
        latents.append(torch.stack(views, 1))
        said = [captions.caption(icons.slug[i], style[i], rng, work).text for i in rows for _ in range(CAPTIONS)]
        states, whole = encode(tower, tokenizer, said)
        text.append(states.unflatten(0, (-1, CAPTIONS))), pooled.append(whole.unflatten(0, (-1, CAPTIONS)))
    states, whole = encode(tower, tokenizer, [""])
    out = {"latents": torch.cat(latents), "text": torch.cat(text), "pooled": torch.cat(pooled),
           "empty_text": states[0], "empty_pooled": whole[0]}  # fmt: skip
    torch.save(out, path)
    return out


class Draws:
    """Batches of (x0, noise, t, text, pooled), a function of the generator alone."""

    def __init__(self, stored: dict[str, torch.Tensor], odds: torch.Tensor):
        self.stored, self.odds = stored, odds

    def __call__(self, batch: int, g: torch.Generator, view: int | None = None) -> tuple[torch.Tensor, ...]:
        """``view`` fixes the placement; else one of those for training. t in (0, 1), 1 is noise; all else fp32."""
        s = self.stored
        rows = torch.multinomial(self.odds, batch, generator=g, replacement=True)
        views = torch.randint(PLACEMENTS - 1, (batch,), generator=g)
        said = torch.randint(CAPTIONS, (batch,), generator=g)
        x0 = s["latents"][rows, views if view is None else view].float()
        noise = torch.randn(x0.shape, generator=g)
        t = torch.sigmoid(0.4 + torch.randn(batch, generator=g))  # more of the noisy half, where layout is decided
        t = torch.where(torch.rand(batch, generator=g) < 0.15, torch.rand(batch, generator=g), t)
        text, pooled = s["text"][rows, said], s["pooled"][rows, said]
        dropped = torch.rand(batch, generator=g) < EMPTY
        text[dropped], pooled[dropped] = s["empty_text"], s["empty_pooled"]
        return x0, noise, t, text.float().repeat(1, 1, 2), pooled.float().repeat(1, 2)


def velocity_error(net: Callable[..., Any], drawn: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Mean square of v − (noise − x0), with x_t = (1 − t) x0 + t · noise."""
    x0, noise, t, text, pooled = (x.to(loop.device()) for x in drawn)
    at = t.view(-1, 1, 1, 1)
    with torch.autocast(loop.device().type, torch.bfloat16):
        v = net(hidden_states=(1 - at) * x0 + at * noise, timestep=t * 1000, encoder_hidden_states=text,
                pooled_projections=pooled, return_dict=False)[0]  # fmt: skip
    return (v.float() - (noise - x0)).square().mean()


def constant_then_falling(steps: int, decay: int) -> Callable[[int], float]:
    """The rate's factor at a step: 1, and over the last ``decay`` of ``steps`` linearly to zero."""
    return lambda step: min(1.0, (steps - step) / decay) if decay else 1.0


def main(work: Path, steps: int, batch: int, lr: float, decay: int, every: int, start: Path | None) -> None:
    torch.manual_seed(loop.SEED)
    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    word = {family: style for style, family in catalog.STYLES.items()}
    draws = Draws(cache(work, icons, [word[f] for f in icons.family]), weights(icons))
    net, first = model().to(loop.device()), 0
    if start is not None:
        net.load_state_dict({k: v.float() for k, v in load_file(start).items()})
        first = json.loads(start.with_suffix(".json").read_text())["steps"]
    quicken(net)
    print(sum(p.numel() for p in net.parameters()) / 1e6, "M parameters", flush=True)
    fast, averaged = torch.compile(net, dynamic=False), copy.deepcopy(net)
    check = [draws(128, torch.Generator().manual_seed(i), view=PLACEMENTS - 1) for i in range(CHECKED // 128)]

    @torch.no_grad()
    def validate(average: dict[str, torch.Tensor]) -> str:
        averaged.load_state_dict(average)
        error = [sum(float(velocity_error(n, d)) for d in check) / len(check) for n in (net, averaged)]
        return f"validation {error[0]:.4f}, of the average {error[1]:.4f}"

    loop.run(
        NAME, work, net, lambda step, g: velocity_error(fast, draws(batch, g)), steps=steps, lr=lr, every=every,
        ema=0.999, weight_decay=1e-3, warmup=200, rate=constant_then_falling(steps, decay), first=first,
        report=validate, fused=True,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=int, default=0, help="last steps, in which the rate falls to zero")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--start", type=Path, help="weights to go on from, with their .json beside them")
    a = parser.parse_args()
    main(a.work, a.steps, a.batch, a.lr, a.decay, a.every, a.start)
