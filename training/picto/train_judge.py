"""The judge: a small CNN on pixels, trained on icons of eight families; shares nothing with the generator.

    python -m training.picto.train_judge --steps 2000

Two heads: subject (every slug that stands in three families or more, so it knows far more things than the generator
draws) and style (the five styles, and "other"). A group's score is the summed probability of its subjects. Blur,
noise, color shifts and re-sampling keep it from leaning on the crispness of a vector drawing; the families
``fxemoji`` and ``openmoji`` are never seen.
"""

from __future__ import annotations

import argparse
import collections
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

    change(some(0.5), tint)
    change(some(0.08), lambda y: y.mean(1, keepdim=True).expand_as(y))
    change(some(0.4), lambda y: 1 - (0.7 + 0.6 * rand(y)) * (1 - y))
    change(some(0.35), lambda y: torch.lerp(y, F.avg_pool2d(y, 3, 1, 1, count_include_pad=False), rand(y)))
    change(some(0.15), lambda y: F.interpolate(F.avg_pool2d(y, 2), scale_factor=2, mode="bilinear"))
    change(some(0.3), lambda y: y + 0.12 * rand(y) * torch.randn(y.shape, generator=g))
    return x.clamp(-1, 1)


def rows(work: Path) -> tuple[data.Icons, list[str]]:
    """The training icons and the subjects: slugs of three families or more, and every slug of the catalog."""
    icons = data.Icons(work, (*catalog.STYLES.values(), *catalog.JUDGE_ONLY))
    count = collections.Counter(icons.slug)
    known = {s for s, n in count.items() if n >= 3 and s not in data.NO_BENIGN}
    subjects = sorted(known | {*catalog.slugs(), "pistol"})
    keep = [i for i, s in enumerate(icons.slug) if s in set(subjects)]
    icons.images = icons.images[keep]
    icons.slug, icons.family = [icons.slug[i] for i in keep], [icons.family[i] for i in keep]
    return icons, subjects


def main(work: Path, steps: int, batch: int) -> None:
    torch.manual_seed(loop.SEED)
    icons, subjects = rows(work)
    styles = [*catalog.STYLES, "other"]
    word = {family: style for style, family in catalog.STYLES.items()}
    subject = torch.tensor([subjects.index(s) for s in icons.slug])
    style = torch.tensor([styles.index(word.get(f, "other")) for f in icons.family])
    ours = set(catalog.slugs()) | {"pistol"}
    odds = torch.tensor([6.0 if catalog.group_of(s) != "none" or s == "pistol" else 2.0 if s in ours else 1.0
                         for s in icons.slug])  # fmt: skip
    net = JudgeNet(subjects=len(subjects), styles=len(styles)).to(loop.device(), memory_format=torch.channels_last)
    print(f"{len(icons)} icons, {len(subjects)} subjects, {sum(p.numel() for p in net.parameters())} parameters")

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        i = torch.multinomial(odds, batch, generator=g)
        x = data.place(icons.images[i], g, shift=6, scale=(0.7, 1.1), turn=15, flip=True, fine=1)
        x = spoil(x, g).to(loop.device(), memory_format=torch.channels_last)
        with torch.autocast(loop.device().type, torch.bfloat16):
            of, how = net(x)
        a = F.cross_entropy(of.float(), subject[i].to(x.device), label_smoothing=0.05)
        return a + 0.5 * F.cross_entropy(how.float(), style[i].to(x.device), label_smoothing=0.05)

    state = loop.run("judge", work, net, loss, steps=steps, lr=2e-3, every=50, ema=0.998, weight_decay=0.05)
    net.load_state_dict(state)
    out = work / "judge"
    out.mkdir(exist_ok=True)
    groups = {g: [*words, *(["pistol"] if g == "weapon" else [])] for g, words in catalog.GROUPS.items()}
    config = {"version": 1, "subjects": subjects, "styles": styles, "groups": groups}
    (out / "config.json").write_text(json.dumps(config))
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(half, out / "model.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=96)
    a = parser.parse_args()
    main(a.work, a.steps, a.batch)
