"""What the shipped picto reaches, with N and 95 % Wilson intervals.

    python -m training.picto.evaluate --json

Prompts come from the package's concept files (held-out templates and seeds); the judge's own test is on real icons
of families that neither the judge nor the generator has seen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from PIL import Image

from unsee import concepts, picto
from unsee.concepts.prompts import fill
from unsee.judges.clip_model import picto_clip as clip
from unsee.judges.picto import PictoJudge
from unsee.metrics.rates import wilson
from unsee.sampling.machine import machine, versions
from unsee.types import Prompt

from . import catalog, data

SEED = 777_000  # seeds of no training and no suite


def share(hits: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson(sum(hits), len(hits))
    return {"value": sum(hits) / len(hits), "n": len(hits), "low": low, "high": high}


def draw(pipe: Any, prompts: Sequence[Prompt], batch: int = 16) -> list[Image.Image]:
    images: list[Image.Image] = []
    more = {"max_sequence_length": 0} if isinstance(pipe, StableDiffusion3Pipeline) else {}  # no tokens of a T5
    for i in range(0, len(prompts), batch):
        part = prompts[i : i + batch]
        generators = [torch.Generator().manual_seed(p.seed) for p in part]
        images += pipe([p.text for p in part], generator=generators, num_inference_steps=picto.STEPS,
                       guidance_scale=picto.GUIDANCE, **more).images  # fmt: skip
        print(f"\r{len(images)}/{len(prompts)} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return images


def load(model: str) -> Any:
    """``picto``, or a folder with a pipeline as ``save_pretrained`` writes it. In float32."""
    if model == "picto":
        return picto.load()
    index = DiffusionPipeline.load_config(model, local_files_only=True)
    empty = {k: None for k, v in index.items() if v == [None, None]}  # diffusers asks for the parts of T5 otherwise
    pipe = DiffusionPipeline.from_pretrained(model, local_files_only=True, **empty).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator_rows(pipe: Any, n: int, save: Path | None) -> dict[str, Any]:
    """Unsafe, benign and neighbor prompts drawn and judged."""
    judge = PictoJudge()
    out: dict[str, Any] = {}
    by_group, style_hits, neighbor_hits, flagged = {}, [], [], []
    start, count = time.time(), 0

    def look(kind: str, concept: Any) -> tuple[list[Prompt], list[dict[str, Any]]]:
        nonlocal count
        prompts = concept.prompts(kind, "held-out", n, SEED)
        images = draw(pipe, prompts)
        count += len(images)
        if save:
            sheet(images, save / f"{concept.name}-{kind}.png")
        return prompts, judge.look(images)

    for group in catalog.GROUPS:
        concept = concepts.load(group)
        prompts, seen = look("plain", concept)
        by_group[group] = share([s["group"] == group for s in seen])
        style_hits += [s["style"] == p.style for s, p in zip(seen, prompts, strict=True) if p.style]
        prompts, seen = look("neighbor", concept)
        safe = [s["group"] == "none" for s in seen]
        neighbor_hits += [ok and s["subjects"][0] == p.subject for ok, s, p in zip(safe, seen, prompts, strict=True)]
        out[f"neighbors_flagged_{group}"] = share([not ok for ok in safe])
    prompts, seen = look("benign", concepts.load("weapon"))
    flagged += [s["group"] != "none" for s in seen]
    style_hits += [s["style"] == p.style for s, p in zip(seen, prompts, strict=True) if p.style]
    right = [s["subjects"][0] == p.subject for s, p in zip(seen, prompts, strict=True)]
    return {
        "unsafe_drawn": {"value": sum(r["value"] for r in by_group.values()) / 4, "n": 4 * n, "groups": by_group},
        "unsafe_drawn_min": min(by_group.values(), key=lambda r: r["value"]),
        "benign_flagged": share(flagged), "benign_right": share(right), "style_recognized": share(style_hits),
        "neighbors_right": share(neighbor_hits), **out,
        "seconds_per_image": {"value": (time.time() - start) / count, "n": count},
    }  # fmt: skip


def subject_rows(pipe: Any) -> dict[str, Any]:
    """Every subject once in every style, by a train template: what a concept's anchors may be chosen from."""
    templates, prompts = catalog.TEMPLATES["train"], []
    for i, (slug, style) in enumerate(itertools.product(catalog.slugs(), catalog.STYLES)):
        text = fill(templates[i % len(templates)], catalog.name(slug), style)
        prompts.append(Prompt(text, f"{slug}/{style}", SEED + i, subject=slug, style=style))
    seen = list(zip(prompts, PictoJudge().look(draw(pipe, prompts)), strict=True))
    well = {p.id for p, s in seen if s["subjects"][0] == p.subject and s["style"] == p.style}
    both = [all(f"{slug}/{style}" in well for style in catalog.STYLES) for slug in catalog.slugs()]
    return {
        "subjects_right": share([s["subjects"][0] == p.subject for p, s in seen]),
        "subjects_style": share([s["style"] == p.style for p, s in seen]),
        "subjects_in_all_styles": share(both) | {"which": list(itertools.compress(catalog.slugs(), both))},
    }


def icon_images(images: torch.Tensor, scale: float = 0.94) -> list[Image.Image]:
    x = data.place(images, torch.Generator().manual_seed(0), shift=0, scale=(scale, scale))
    return [Image.fromarray(((i + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()) for i in x]


def judge_rows(work: Path) -> dict[str, Any]:
    """Real icons of unseen families: is the group seen, is nothing seen where there is none."""
    judge, out = PictoJudge(), {}
    for family, prefix in (("fxemoji", "judge"), ("openmoji", "judge_openmoji")):
        icons = data.Icons(work, (family,))
        truth = ["weapon" if s == "pistol" else catalog.group_of(s) for s in icons.slug]
        seen = judge.look(icon_images(icons.images))
        pairs = [(t, s["group"], slug) for t, s, slug in zip(truth, seen, icons.slug, strict=True)]
        pairs = [p for p in pairs if p[2] not in data.NO_BENIGN]
        out[f"{prefix}_accuracy"] = share([t == g for t, g, _ in pairs if t != "none"]) | {
            "missed": [f"{slug}: {g}" for t, g, slug in pairs if t not in ("none", g)]
        }
        out[f"{prefix}_false_alarms"] = share([g != "none" for t, g, _ in pairs if t == "none"]) | {
            "which": [f"{slug}: {g}" for t, g, slug in pairs if t == "none" != g]
        }
    return out  # fmt: skip


def retrieval(work: Path) -> dict[str, Any]:
    """Caption → concept among all concepts of one style, at five, on placements that no training saw."""
    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    model, tokenizer = clip()
    x = data.place(icons.images, torch.Generator().manual_seed(99), shift=3, scale=(0.82, 0.98))
    hits = []
    with torch.inference_mode():
        image = torch.nn.functional.normalize(model.visual_projection(model.vision_model(x).pooler_output), dim=-1)
        for style, family in catalog.STYLES.items():
            rows = [i for i, f in enumerate(icons.family) if f == family]
            texts = [f"{catalog.name(icons.slug[i])}, {style} style" for i in rows]
            tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
            text = model.text_projection(model.text_model(**tokens).pooler_output)
            top = (torch.nn.functional.normalize(text, dim=-1) @ image[rows].T).topk(5).indices
            hits += [k in row for k, row in enumerate(top.tolist())]
    return {"clip_retrieval_at_5": share(hits)}


def psnr(work: Path) -> dict[str, Any]:
    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    vae, rows = picto.load().vae, random.Random(1).sample(range(len(icons)), 400)
    x = data.place(icons.images[rows], torch.Generator().manual_seed(5), shift=2, scale=(0.88, 1.0))
    with torch.inference_mode():
        y = torch.cat([vae.decode(vae.encode(b).latent_dist.mean).sample.clamp(-1, 1) for b in x.split(50)])
    decibel = -10 * ((x - y) / 2).square().flatten(1).mean(1).log10()
    return {"vae_psnr": {"value": float(decibel.mean()), "n": len(rows)}}


def sheet(images: Sequence[Image.Image], path: Path, columns: int = 15) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    page = Image.new("RGB", (66 * columns, 66 * -(-len(images) // columns)), "white")
    for i, image in enumerate(images):
        page.paste(image, (66 * (i % columns), 66 * (i // columns)))
    page.save(path)


def as_rows(out: dict[str, Any]) -> dict[str, Any]:
    """The numbers in the form of every results file: rows, versions, machine, commit."""
    rows = [{"measure": k, **{c: v[c] for c in ("value", "low", "high", "n") if c in v}} for k, v in out.items()]
    here = machine()
    return {"rows": rows, "versions": versions(), "commit": here.pop("commit"), "machine": here}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--model", default="picto", help="picto, or a folder with a pipeline")
    parser.add_argument("--n", type=int, default=150, help="prompts per group and kind")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets of what was drawn")
    parser.add_argument("--results", type=Path, help="file for the numbers as rows, for example results/picto.json")
    parser.add_argument("--only", choices=("generator", "judge", "subjects"))
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    out: dict[str, Any] = {}
    if a.only in (None, "judge"):
        out |= judge_rows(a.work)
    if a.only in (None, "generator"):
        out |= generator_rows(load(a.model), a.n, a.sheets)
        if a.model == "picto":  # CLIP and VAE are the same in every model of the family
            out |= retrieval(a.work) | psnr(a.work)
    if a.only == "subjects":  # nine minutes of a core, so only if asked for
        out |= subject_rows(load(a.model))
    if a.results:
        a.results.write_text(json.dumps(as_rows(out), indent=1) + "\n")
    if a.json:
        print(json.dumps(out, indent=1))
        return
    for name, row in out.items():
        interval = f"  [{row['low']:.3f}, {row['high']:.3f}]" if "low" in row else ""
        print(f"{name:26} {row['value']:.3f}{interval}  n={row['n']}")


if __name__ == "__main__":
    main()
