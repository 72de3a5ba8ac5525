"""AutoencoderKL, f = 8, 16 latent channels: 64×64 icons ↔ 8×8×16 latents of unit scale.

python -m training.picto.train_vae --steps 2200
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import catalog, data, loop


def model() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96), layers_per_block=1, latent_channels=16, norm_num_groups=8,
        sample_size=64, mid_block_add_attention=False,
    )  # fmt: skip


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 at three scales plus L1 of the finite differences (edges are what an icon is)."""
    total = a.new_zeros(())
    for _ in range(3):
        d = a - b
        total = total + d.abs().mean()
        total = total + 0.5 * (d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean())
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def main(work: Path, steps: int, batch: int) -> None:
    torch.manual_seed(loop.SEED)
    families = tuple(catalog.STYLES.values())
    ours, rest = data.Icons(work, families, catalog.slugs()), data.Icons(work, families)
    vae = model().to(loop.device())

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        share = 3 * batch // 4  # a quarter from icons outside the catalog keeps the latent space general
        pick = [s.images[torch.randint(len(s), (n,), generator=g)] for s, n in ((ours, share), (rest, batch - share))]
        x = data.place(torch.cat(pick), g, shift=2, scale=(0.88, 1.0)).to(loop.device())
        with torch.autocast(loop.device().type, torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=g).to(x.device)
            y = vae.decode(posterior.mean + posterior.std * noise).sample
        return distance(y.float(), x) + 1e-4 * posterior.kl().float().mean() / posterior.mean[0].numel()

    state = loop.run("vae", work, vae, loss, steps=steps, lr=2e-3, every=50, ema=0.995)
    vae.load_state_dict(state)
    with torch.no_grad():
        g = torch.Generator().manual_seed(0)
        x = data.place(ours.images[:512], g, shift=0, scale=(0.94, 0.94)).to(loop.device())
        vae.register_to_config(scaling_factor=round(1 / vae.eval().encode(x).latent_dist.mean.std().item(), 5))
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        print("psnr", (-10 * ((x - y) / 2).square().flatten(1).mean(1).log10()).mean().item())
    vae.half().save_pretrained(work / "vae")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=16)
    a = parser.parse_args()
    main(a.work, a.steps, a.batch)
