"""Put the trained stages into the package: ``WORK`` → ``src/unsee/picto/weights``, fp16, with sizes checked.

python -m training.picto.install --work runs/picto
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from unsee.picto import WEIGHTS

from . import catalog, data

LIMIT = 25e6  # bytes, all files together


def unrelated_distance(work: Path, pairs: int = 4000) -> float:
    """Mean picto perceptual distance of icons of different subjects (any styles), the unit of ``preservation``."""
    from unsee.metrics.perceptual import distance

    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    g = torch.Generator().manual_seed(0)
    x = data.place(icons.images, g, shift=0, scale=(0.94, 0.94))
    i, j = torch.randint(len(icons), (2, pairs), generator=g)
    keep = [k for k in range(pairs) if icons.slug[i[k]] != icons.slug[j[k]]]
    return float(torch.cat([distance(x[i[k]], x[j[k]]) for k in torch.tensor(keep).split(200)]).mean())


def main(work: Path) -> None:
    for part in ("pipeline", "clip", "judge"):
        if (work / part).exists():
            shutil.rmtree(WEIGHTS / part, ignore_errors=True)
            shutil.copytree(work / part, WEIGHTS / part)
    vision = WEIGHTS / "clip" / "model.safetensors"  # the text tower is stored with the pipeline
    save_file({k: v for k, v in load_file(vision).items() if not k.startswith("text_model.")}, vision)
    (WEIGHTS / "metrics.json").write_text(json.dumps({"unrelated_distance": round(unrelated_distance(work), 5)}) + "\n")
    size = sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file())
    print(f"{size / 1e6:.1f} MB in {WEIGHTS}")
    if size > LIMIT:
        raise SystemExit(f"expected at most {LIMIT / 1e6:.0f} MB of weights, got {size / 1e6:.1f} MB; shrink a model")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    main(parser.parse_args().work)
