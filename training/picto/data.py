"""Icons as arrays: npm packages → SVG → (N, 96, 96, 3) uint8, once, cached and checksummed.

    python -m training.picto.data --work runs/picto

Needs ``npm`` (it fetches the packages) and ``resvg-py``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from . import catalog

PIXELS = 96  # stored size; training resamples to 64 so that small shifts and scales stay sharp
LOCK = Path(__file__).with_name("packages.lock.json")
EMOJIBASE = ("emojibase-data", "17.0.0")
NO_BENIGN = {"water-pistol", "no-smoking", "firecracker", "boomerang", "trident-emblem", "x-ray", "oncoming-fist"}


def fetch(package: str, version: str, cache: Path) -> Path:
    """The package's tarball, from the cache or by ``npm pack``; its sha256 must be the locked one."""
    target = cache / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=cache, check=True, capture_output=True)
    lock = json.loads(LOCK.read_text()) if LOCK.exists() else {}
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    if lock.setdefault(target.name, digest) != digest:
        raise ValueError(f"{target.name}: expected sha256 {lock[target.name]}, got {digest}; delete the file and retry")
    LOCK.write_text(json.dumps(dict(sorted(lock.items())), indent=1) + "\n")
    return target


def read_json(tarball: Path, member: str) -> dict:
    with tarfile.open(tarball) as tar:
        return json.load(tar.extractfile(member))  # type: ignore[arg-type]


def slug_of(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


def render(icons: dict, slug: str) -> np.ndarray | None:
    """One icon on white, ``(96, 96, 3)`` uint8, or None if the family lacks it."""
    import resvg_py

    while slug in icons.get("aliases", {}):
        slug = icons["aliases"][slug]["parent"]
    icon = icons["icons"].get(slug)
    if icon is None:
        return None
    w, h = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{PIXELS}" height="{PIXELS}" viewBox="{left} {top} {w} {h}">'
        f"{icon['body'].replace('currentColor', '#222')}</svg>"
    )
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB").resize((PIXELS, PIXELS)))


# fxemoji squashes its slugs; these are its names for things that have another name elsewhere
FX = {
    "skull-and-crossbones": "blackskullcrossbones", "dagger": "daggerknife", "kitchen-knife": "hocho",
    "sake": "sakebottleandcup", "cigarette": "smokingsymbol", "scissors": "blackscissors",
    "fork-and-knife-with-plate": "forkknife", "headphone": "headphone",
}  # fmt: skip


def build(work: Path, npm_cache: Path | None = None) -> Path:
    """Render every family once into ``work/icons.npz``: images, family, slug, label (one row an icon)."""
    out = work / "icons.npz"
    if out.exists():
        return out
    cache = npm_cache or work / "npm"
    emoji = read_json(fetch(*EMOJIBASE, cache), "package/en/data.json")
    known = [slug_of(e["label"]) for e in emoji if e.get("group") not in (2, 9, None) and "subgroup" in e]
    known += ["pistol"]
    images, families, labels = [], [], []
    for family, version in catalog.FAMILIES.items():
        icons = read_json(fetch(f"@iconify-json/{family}", version, cache), "package/icons.json")
        for slug in tqdm(known, desc=family):
            if "skin-tone" in slug or "oclock" in slug or "thirty" in slug:
                continue
            if slug == "pistol" and family in ("noto", "twemoji"):
                continue  # a toy water gun there
            there = slug if family != "fxemoji" else FX.get(slug, slug.replace("-", ""))
            image = render(icons, there)
            if image is not None:
                images.append(image), families.append(family), labels.append(slug)
    work.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial.npz")
    np.savez(partial, images=np.stack(images), family=np.array(families), slug=np.array(labels))
    partial.rename(out)
    return out


def build_drawings(work: Path, others: int = 250) -> Path:
    """The one-color drawings of ``catalog.DRAWINGS``, with harmless ones of the same hands, into ``drawings.npz``."""
    out = work / "drawings.npz"
    if out.exists():
        return out
    ours, images, families, labels = set(catalog.slugs()), [], [], []
    for family, (version, named) in catalog.DRAWINGS.items():
        icons = read_json(fetch(f"@iconify-json/{family}", version, work / "npm"), "package/icons.json")
        calm = [s for s in sorted(icons["icons"]) if s not in named and not re.search(catalog.DOUBTFUL, s)]
        same = {s: s for s in calm if s in ours and catalog.group_of(s) == "none"}
        rest = {s: s for s in calm[:: max(1, len(calm) // others)] if s not in same}
        for there, slug in tqdm([*named.items(), *same.items(), *rest.items()], desc=family):
            image = render(icons, there)
            if image is not None:
                images.append(image), families.append(family), labels.append(slug)
    partial = out.with_suffix(".partial.npz")
    np.savez(partial, images=np.stack(images), family=np.array(families), slug=np.array(labels))
    partial.rename(out)
    return out


class Icons:
    """The rendered icons in memory. ``images`` (N, 3, 96, 96) uint8, ``family`` and ``slug`` lists of N."""

    def __init__(self, work: Path, families: tuple[str, ...] | None = None, slugs: list[str] | None = None):
        self._read(build(work), families, slugs)

    @classmethod
    def drawings(cls, work: Path) -> Icons:
        """Everything in ``drawings.npz`` instead."""
        icons = cls.__new__(cls)
        icons._read(build_drawings(work), None, None)
        return icons

    def _read(self, path: Path, families: tuple[str, ...] | None, slugs: list[str] | None) -> None:
        data = np.load(path)
        keep = np.ones(len(data["slug"]), bool)
        if families is not None:
            keep &= np.isin(data["family"], list(families))
        if slugs is not None:
            keep &= np.isin(data["slug"], list(slugs))
        self.images = torch.from_numpy(data["images"][keep]).permute(0, 3, 1, 2).contiguous()
        self.family = [str(f) for f in data["family"][keep]]
        self.slug = [str(s) for s in data["slug"][keep]]

    def __len__(self) -> int:
        return len(self.slug)


def place(images: torch.Tensor, generator: torch.Generator, *, shift: float, scale: tuple[float, float],
          turn: float = 0.0, flip: bool = False, size: int = 64, fine: int = 2) -> torch.Tensor:  # fmt: skip
    """uint8 ``(B, 3, 96, 96)`` → float ``(B, 3, size, size)`` in [-1, 1], moved on a white ground.

    ``shift`` in pixels of the result, ``scale`` a range, ``turn`` in degrees, ``flip`` left-right with p = ½; sampled
    ``fine`` times finer and averaged.
    """
    b = len(images)

    def u(a: float, z: float) -> torch.Tensor:
        return torch.rand(b, generator=generator) * (z - a) + a

    s, angle = 1 / u(*scale), u(-turn, turn) * torch.pi / 180
    mirror = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(b)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = s * angle.cos() * mirror, -s * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = s * angle.sin() * mirror, s * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = u(-shift, shift) * 2 / size, u(-shift, shift) * 2 / size
    x = 1 - images.to(torch.float32) / 255  # so that padding with zeros is white
    grid = F.affine_grid(theta, [b, 3, fine * size, fine * size], align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    return 1 - 2 * (F.avg_pool2d(x, fine) if fine > 1 else x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--npm-cache", type=Path)
    a = parser.parse_args()
    print(build(a.work, a.npm_cache))
