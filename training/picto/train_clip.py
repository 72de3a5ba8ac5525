"""CLIP from scratch: text 4×128 on 24 tokens, vision 3×128 on 16-px patches, contrastive with known matches.

    python -m training.picto.train_clip --steps 700

A caption may match several images of a batch (a synonym, a hypernym, no style): the targets share the mass.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from unsee import concepts

from . import captions, catalog, data, loop


def model(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
            "num_attention_heads": 4, "max_position_embeddings": captions.POSITIONS, "projection_dim": 128,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.eos_token_id}  # fmt: skip
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
              "image_size": 64, "patch_size": 16, "projection_dim": 128}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128, attn_implementation="eager")
    return CLIPModel(config)  # plain attention: on a CPU its backward is faster


def weights(icons: data.Icons) -> torch.Tensor:
    """How often an icon is drawn: unsafe slugs by group so that no group is rare, and what no concept names less."""
    near = {s for n in catalog.NEIGHBORS.values() for s in n}
    share = {"weapon": 3.0, "alcohol": 3.0, "tobacco": 6.0, "death": 3.0}
    listed = {t.slug for split in ("train", "held_out") for t in getattr(concepts.load("weapon").benign, split)}

    def odds(slug: str) -> float:
        return share.get(catalog.group_of(slug), 2.0 if slug in near else 1.5 if slug in listed else 0.15)

    return torch.tensor([odds(s) for s in icons.slug])


def main(work: Path, steps: int, batch: int) -> None:
    torch.manual_seed(loop.SEED)
    tokenizer = CLIPTokenizer.from_pretrained(captions.train_tokenizer(work))
    icons = data.Icons(work, tuple(catalog.STYLES.values()), catalog.slugs())
    word = {family: style for style, family in catalog.STYLES.items()}
    style = [word[f] for f in icons.family]
    odds = weights(icons)
    clip = model(tokenizer).to(loop.device())
    print(sum(p.numel() for p in clip.parameters()) / 1e6, "M parameters")

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        rng = random.Random(step)
        rows = torch.multinomial(odds, batch, generator=g).tolist()
        said = [captions.caption(icons.slug[i], style[i], rng, work) for i in rows]
        match = torch.tensor([[float(c.matches(icons.slug[i], style[i])) for i in rows] for c in said])
        x = data.place(icons.images[rows], g, shift=4, scale=(0.8, 1.0)).to(loop.device())
        tokens = tokenizer([c.text for c in said], padding="max_length", truncation=True, return_tensors="pt")
        with torch.autocast(loop.device().type, torch.bfloat16):
            out = clip(pixel_values=x, **tokens.to(loop.device()))
        logits = out.logits_per_text.float()
        match = match.to(logits.device)
        by_text = -(match / match.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
        by_image = -(match / match.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
        return (by_text + by_image) / 2

    clip.load_state_dict(loop.run("clip", work, clip, loss, steps=steps, lr=1e-3, every=50, weight_decay=0.1, ema=0.99))
    clip.eval().half().save_pretrained(work / "clip")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=96)
    a = parser.parse_args()
    main(a.work, a.steps, a.batch)
