"""The judge: a small CNN on pixels, trained on eight emoji families and on drawings. No weights of the generator.

    python -m training.picto.train_judge --steps 5600

Two networks: subject (every slug of the catalog, and "other" for all the rest of Unicode's emoji, so that it has seen
far more than the generator draws) and style (the five styles, and "other"; it sees redrawn icons too). A group's score
is the summed probability of its subjects, and is trained as such. Blur, noise, color shifts and re-sampling keep it
from leaning on the crispness of a vector drawing; the families ``fxemoji`` and ``openmoji`` are never seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
from safetensors.torch import save_file
from tqdm import tqdm

from unsee.picto.nets import JudgeNet

from . import catalog, data, loop


def blur(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Blur, coarse re-sampling and noise, each for some of the images. ``x`` in [-1, 1], (B, 3, 64, 64)."""
    b, rand = len(x), torch.rand(3, len(x), 1, 1, 1, generator=g)
    on = torch.rand(3, b, 1, 1, 1, generator=g) < torch.tensor([0.35, 0.15, 0.3]).view(3, 1, 1, 1, 1)
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), rand[0] * on[0])
    x = torch.where(on[1], F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"), x)
    return (x + 0.12 * rand[2] * on[2] * torch.randn(x.shape, generator=g)).clamp(-1, 1)


def spoil(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Color, blur, noise and coarse re-sampling, each for some of the images. ``x`` in [-1, 1], (B, 3, 64, 64)."""
    b = len(x)

    def some(p: float) -> torch.Tensor:
        return torch.rand(b, generator=g) < p

    def change(which: torch.Tensor, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if which.any():
            x[which] = how(x[which])

    def tint(y: torch.Tensor) -> torch.Tensor:  # white stays white
        mix = torch.eye(3) + 0.12 * torch.randn(len(y), 3, 3, generator=g)
        return 1 - (mix @ (1 - y).flatten(2)).view_as(y)

    def rand(y: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(y), 1, 1, 1, generator=g)

    def repaint(y: torch.Tensor) -> torch.Tensor:  # another palette: channels swapped
        return y[:, torch.randperm(3, generator=g)]

    def darken(y: torch.Tensor) -> torch.Tensor:  # light things drawn dark: lightness inverted inside the shape
        ink = ((1 - y).amax(1, keepdim=True) > 0.08).float()
        return torch.where(F.max_pool2d(ink, 3, 1, 1) > 0, -y, y)

    change(some(0.5), tint)
    change(some(0.12), repaint)
    change(some(0.08), darken)
    change(some(0.08), lambda y: y.mean(1, keepdim=True).expand_as(y))
    change(some(0.4), lambda y: 1 - (0.7 + 0.6 * rand(y)) * (1 - y))
    return blur(x, g)


OTHER = "other"  # of subjects: anything that is not in the catalog


def paint(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """One-color drawings in a random color each. ``x`` in [-1, 1]."""
    color = torch.rand(len(x), 3, 1, 1, generator=g) * 1.5 - 1
    return 1 - (1 - x) / 2 * (1 - color)


def rows(work: Path) -> tuple[data.Icons, list[str]]:
    """The training icons, drawings last, and the subject of each: its slug if the catalog has it, else ``other``."""
    icons, more = data.Icons(work, (*catalog.STYLES.values(), *catalog.JUDGE_ONLY)), data.Icons.drawings(work)
    keep = [i for i, s in enumerate(icons.slug) if s not in data.NO_BENIGN]
    icons.images = torch.cat([icons.images[keep], more.images])
    icons.slug = [icons.slug[i] for i in keep] + more.slug
    icons.family = [icons.family[i] for i in keep] + more.family
    known = {*catalog.slugs(), "pistol"}
    return icons, [s if s in known else OTHER for s in icons.slug]


@torch.no_grad()
def redrawn(work: Path, views: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The generator's icons as its VAE and its UNet redraw them, with their styles: uint8 (N, 3, 64, 64) and (N,).

    A judge of style must not take the softness of a decoder, or the contrast of guidance, for another style. The
    style is the real icon's: the VAE only decodes it (from slightly wrong latents), and the UNet starts from it.
    Computed once; a part of the UNet's at a time is stored, so that it resumes.
    """
    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    style = torch.tensor([list(catalog.STYLES.values()).index(f) for f in icons.family])
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(work / "pipeline", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    parts = [_once(work / f"redrawn-vae-{k}.pt", lambda k=k: _decoded(pipe.vae, icons, k)) for k in range(views)]
    for k, strength in enumerate((0.4, 0.55, 0.7)):
        rows = torch.arange(len(icons))[k::3]
        parts.append(_once(work / f"redrawn-unet-{k}.pt", lambda r=rows, s=strength: _edited(pipe, icons, r, s)))
    names = [style] * views + [style[k::3] for k in range(3)] * 3  # the UNet's are as many as the VAE's
    return torch.cat([*parts[:views], *parts[views:] * 3]), torch.cat(names)


def _once(path: Path, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    if not path.exists():
        torch.save(make(), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return torch.load(path, weights_only=True)


def _decoded(vae: AutoencoderKL, icons: data.Icons, seed: int) -> torch.Tensor:
    g, images = torch.Generator().manual_seed(loop.SEED + seed), []
    for part in tqdm(icons.images.split(64), desc="by the VAE"):
        z = vae.encode(data.place(part, g, shift=2, scale=(0.88, 1.02))).latent_dist.mean
        wrong = 0.3 * torch.rand(len(z), 1, 1, 1, generator=g) / vae.config.scaling_factor
        images.append(vae.decode(z + wrong * torch.randn(z.shape, generator=g)).sample)
    return _bytes(torch.cat(images))


def _edited(
    pipe: StableDiffusionImg2ImgPipeline, icons: data.Icons, rows: torch.Tensor, strength: float
) -> torch.Tensor:
    """SDEdit of real icons with their own caption."""
    word = {family: style for style, family in catalog.STYLES.items()}
    g, images = torch.Generator().manual_seed(loop.SEED + int(100 * strength)), []
    for part in tqdm(rows.split(16), desc=f"by the UNet, strength {strength}"):
        x = data.place(icons.images[part], g, shift=1.5, scale=(0.9, 1.0))
        said = [f"{catalog.name(icons.slug[i])} in {word[icons.family[i]]} style" for i in part.tolist()]
        images.append(pipe(said, (x + 1) / 2, strength=strength, num_inference_steps=25, guidance_scale=4.0,
                           generator=g, output_type="pt").images * 2 - 1)  # fmt: skip
    return _bytes(torch.cat(images))


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def group_loss(of: torch.Tensor, subject: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Negative log of the summed probability of the true group. ``groups`` (subjects,) numbers each one's group."""
    log_p = of.log_softmax(-1)
    number = int(groups.max()) + 1
    summed = torch.stack([log_p[:, groups == k].logsumexp(-1) for k in range(number)], -1)
    return F.nll_loss(summed, groups[subject])


def main(work: Path, steps: int, style_steps: int, batch: int) -> None:
    torch.manual_seed(loop.SEED)
    dev = loop.device()
    icons, said = rows(work)
    subjects, styles = [*sorted({*catalog.slugs(), "pistol"}), OTHER], [*catalog.STYLES, "other"]
    word = {family: style for style, family in catalog.STYLES.items()}
    members = {g: [*words, *(["pistol"] if g == "weapon" else [])] for g, words in catalog.GROUPS.items()}
    number = {s: k for k, slugs in enumerate(members.values(), 1) for s in slugs}
    groups = torch.tensor([number.get(s, 0) for s in subjects]).to(dev)
    subject = torch.tensor([subjects.index(s) for s in said])
    style = torch.tensor([styles.index(word.get(f, "other")) for f in icons.family])
    plain = torch.tensor([f in catalog.DRAWINGS or f == "fluent-emoji-high-contrast" for f in icons.family])
    odds = torch.tensor([8.0 if s in number else 0.35 if s == OTHER else 1.5 for s in said])
    soft, soft_style = redrawn(work)
    style_odds = odds * (~plain) * torch.tensor([1.0 if f in word else 0.4 for f in icons.family])
    net = JudgeNet(subjects=len(subjects), styles=len(styles)).to(dev, memory_format=torch.channels_last)
    print(f"{len(icons)} icons, {len(subjects)} subjects, {sum(p.numel() for p in net.parameters())} parameters")

    def subject_loss(step: int, g: torch.Generator) -> torch.Tensor:
        i = torch.multinomial(odds, batch, generator=g)
        x = data.place(icons.images[i], g, shift=5, scale=(0.75, 1.05), turn=40, flip=True, fine=1)
        x = torch.where(plain[i].view(-1, 1, 1, 1), paint(x, g), x)
        x[batch // 3 :] = spoil(x[batch // 3 :], g)
        with torch.autocast(dev.type, torch.bfloat16):
            of = net.subjects(x.to(dev, memory_format=torch.channels_last))
        truth = subject[i].to(dev)
        return F.cross_entropy(of.float(), truth, label_smoothing=0.05) + group_loss(of.float(), truth, groups)

    def style_loss(step: int, g: torch.Generator) -> torch.Tensor:
        i = torch.multinomial(style_odds, batch, generator=g)
        x = data.place(icons.images[i], g, shift=2.5, scale=(0.86, 1.02))
        truth = style[i].to(dev)
        k = torch.randint(len(soft), (batch // 2,), generator=g)
        x[: batch // 2], truth[: batch // 2] = soft[k].float() / 127.5 - 1, soft_style[k].to(dev)
        x[batch // 3 :] = blur(x[batch // 3 :], g)  # colors are part of a style and stay
        with torch.autocast(dev.type, torch.bfloat16):
            how = net.style(x.to(dev, memory_format=torch.channels_last))
        return F.cross_entropy(how.float(), truth, label_smoothing=0.05)

    net.load_state_dict(loop.run("judge", work, net, subject_loss, steps=steps, lr=3e-3, every=50, ema=0.998,
                                 weight_decay=0.05))  # fmt: skip
    net.style.load_state_dict(loop.run("style", work, net.style, style_loss, steps=style_steps, lr=3e-3, every=50,
                                       ema=0.998, weight_decay=0.05))  # fmt: skip
    out = work / "judge"
    out.mkdir(exist_ok=True)
    config = {"version": 3, "subjects": subjects, "styles": styles, "groups": members}
    (out / "config.json").write_text(json.dumps(config))
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in net.state_dict().items()}
    save_file(half, out / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--style-steps", type=int, default=3800)
    parser.add_argument("--batch", type=int, default=96)
    a = parser.parse_args()
    main(a.work, a.steps, a.style_steps, a.batch)
