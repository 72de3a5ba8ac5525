"""UNet2DConditionModel on 8×8×16 latents, v-prediction, frozen CLIP text tower; then the pipeline is assembled.

    python -m training.picto.train_unet --steps 8000

Latents (of six placements of every icon) and text states (of many captions of every icon) are computed once. The
weights that ship are those of step 7,500.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tqdm import tqdm
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from . import captions, catalog, data, loop
from .train_clip import weights

PLACEMENTS = 6
CAPTIONS = 24


def model() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, in_channels=16, out_channels=16, block_out_channels=(96, 160), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        prediction_type="v_prediction", timestep_spacing="trailing",
    )  # fmt: skip


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """The text encoder of the pipeline: CLIP's own, same weights."""
    tower = CLIPTextModel(clip.config.text_config)
    own = tower.state_dict()
    source = clip.text_model.state_dict()
    tower.load_state_dict({k: source[k.removeprefix("text_model.")] for k in own})
    return tower.eval()


@torch.no_grad()
def cache(work: Path, icons: data.Icons, style: list[str], vae: AutoencoderKL, tower: CLIPTextModel,
          tokenizer: CLIPTokenizer) -> dict[str, torch.Tensor]:  # fmt: skip
    """``latents`` (icons, PLACEMENTS, 16, 8, 8); ``text`` (icons, CAPTIONS, 24, 128); ``empty`` (24, 128). All fp16."""
    path = work / "unet-cache.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    g, rng, dev = torch.Generator().manual_seed(loop.SEED), random.Random(loop.SEED), loop.device()

    def encode(texts: list[str]) -> torch.Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return tower(tokens.input_ids.to(dev)).last_hidden_state.half().cpu()

    latents, text = [], []
    for first in tqdm(range(0, len(icons), 64), desc="latents and captions"):
        rows = range(first, min(first + 64, len(icons)))
        pick = icons.images[list(rows)]
        views = []
        for k in range(PLACEMENTS):
            shift, scale = (0.0, (0.94, 0.94)) if k == 0 else (1.5, (0.9, 1.0))
            x = data.place(pick, g, shift=shift, scale=scale).to(dev)
            views.append((vae.encode(x).latent_dist.mean * vae.config.scaling_factor).half().cpu())
        latents.append(torch.stack(views, 1))
        said = [captions.caption(icons.slug[i], style[i], rng, work).text for i in rows for _ in range(CAPTIONS)]
        text.append(encode(said).unflatten(0, (-1, CAPTIONS)))
    out = {"latents": torch.cat(latents), "text": torch.cat(text), "empty": encode([""])[0]}
    torch.save(out, path)
    return out


def main(work: Path, steps: int, batch: int, assemble_only: bool) -> None:
    torch.manual_seed(loop.SEED)
    dev = loop.device()
    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    word = {family: style for style, family in catalog.STYLES.items()}
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    vae = AutoencoderKL.from_pretrained(work / "vae", torch_dtype=torch.float32).to(dev).eval()
    tower = text_tower(CLIPModel.from_pretrained(work / "clip", dtype=torch.float32)).to(dev)
    unet, noise_schedule = model().to(dev, memory_format=torch.channels_last), scheduler()
    print(sum(p.numel() for p in unet.parameters()) / 1e6, "M parameters")
    if assemble_only:
        state = torch.load(work / "unet.pt", weights_only=True)["average"]
    else:
        stored = cache(work, icons, [word[f] for f in icons.family], vae, tower, tokenizer)
        odds = weights(icons)
        alpha = noise_schedule.alphas_cumprod.to(dev)
        unet.set_attn_processor(AttnProcessor())  # on a CPU its backward is faster than fused attention's

        def loss(step: int, g: torch.Generator) -> torch.Tensor:
            rows = torch.multinomial(odds, batch, generator=g, replacement=True)
            view = torch.randint(PLACEMENTS, (batch,), generator=g)
            said = torch.randint(CAPTIONS, (batch,), generator=g)
            t = torch.randint(1000, (batch,), generator=g).to(dev)
            x0 = stored["latents"][rows, view].float()
            noise = torch.randn(x0.shape, generator=g).to(dev)
            text = stored["text"][rows, said].float()
            text[torch.rand(batch, generator=g) < 0.1] = stored["empty"].float()
            x0, text = x0.to(dev, memory_format=torch.channels_last), text.to(dev)
            a = alpha[t].view(-1, 1, 1, 1)
            with torch.autocast(dev.type, torch.bfloat16):
                v = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, text).sample
            error = (v.float() - (a.sqrt() * noise - (1 - a).sqrt() * x0)).square().mean((1, 2, 3))
            snr = alpha[t] / (1 - alpha[t])
            return (error * (5 / (snr + 1)).clamp(max=1)).mean()

        state = loop.run("unet", work, unet, loss, steps=steps, lr=1e-3, every=50, ema=0.998, weight_decay=1e-3)
    unet.load_state_dict(state)
    unet = UNet2DConditionModel.from_config(unet.config)
    unet.load_state_dict(state)
    pipe = StableDiffusionPipeline(vae=vae.cpu(), text_encoder=tower.cpu(), tokenizer=tokenizer, unet=unet,
                                   scheduler=noise_schedule, safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)  # fmt: skip
    pipe.to(torch.float16).save_pretrained(work / "pipeline")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--assemble-only", action="store_true", help="write the pipeline from the last checkpoint")
    a = parser.parse_args()
    main(a.work, a.steps, a.batch, a.assemble_only)
