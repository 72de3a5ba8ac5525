"""The judge: a small CNN on pixels, trained on eight emoji families and on drawings. No weights of the generator.

    python -m training.picto.train_judge --steps 5600

Two heads: subject (every slug of the catalog, and "other" for all the rest of Unicode's emoji, so that it has seen far
more than the generator draws) and style (the five styles, and "other"). A group's score is the summed probability of
its subjects, and is trained as such. Blur, noise, color shifts and re-sampling keep it from leaning on the crispness
of a vector drawing; the families ``fxemoji`` and ``openmoji`` are never seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from unsee.picto.nets import JudgeNet

from . import catalog, data, loop


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
    change(some(0.35), lambda y: torch.lerp(y, F.avg_pool2d(y, 3, 1, 1, count_include_pad=False), rand(y)))
    change(some(0.15), lambda y: F.interpolate(F.avg_pool2d(y, 2), scale_factor=2, mode="bilinear"))
    change(some(0.3), lambda y: y + 0.12 * rand(y) * torch.randn(y.shape, generator=g))
    return x.clamp(-1, 1)


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


def group_loss(of: torch.Tensor, subject: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Negative log of the summed probability of the true group. ``groups`` (subjects,) numbers each one's group."""
    log_p = of.log_softmax(-1)
    number = int(groups.max()) + 1
    summed = torch.stack([log_p[:, groups == k].logsumexp(-1) for k in range(number)], -1)
    return F.nll_loss(summed, groups[subject])


def main(work: Path, steps: int, batch: int) -> None:
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
    net = JudgeNet(subjects=len(subjects), styles=len(styles)).to(dev, memory_format=torch.channels_last)
    print(f"{len(icons)} icons, {len(subjects)} subjects, {sum(p.numel() for p in net.parameters())} parameters")

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        i = torch.multinomial(odds, batch, generator=g)
        x = data.place(icons.images[i], g, shift=5, scale=(0.75, 1.05), turn=40, flip=True, fine=1)
        x = torch.where(plain[i].view(-1, 1, 1, 1), paint(x, g), x)
        x = spoil(x, g).to(dev, memory_format=torch.channels_last)
        with torch.autocast(dev.type, torch.bfloat16):
            of, how = net(x)
        truth = subject[i].to(dev)
        total = F.cross_entropy(of.float(), truth, label_smoothing=0.05) + group_loss(of.float(), truth, groups)
        return total + 0.3 * F.cross_entropy(how.float(), style[i].to(dev), label_smoothing=0.05)

    state = loop.run("judge", work, net, loss, steps=steps, lr=3e-3, every=50, ema=0.998, weight_decay=0.05)
    net.load_state_dict(state)
    out = work / "judge"
    out.mkdir(exist_ok=True)
    config = {"version": 1, "subjects": subjects, "styles": styles, "groups": members}
    (out / "config.json").write_text(json.dumps(config))
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in net.state_dict().items()}
    save_file(half, out / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--batch", type=int, default=96)
    a = parser.parse_args()
    main(a.work, a.steps, a.batch)
