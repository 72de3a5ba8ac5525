"""picto-flow's weights out of a training, and the whole pipeline around them.

    python -m training.picto.install_flow --work runs/picto --export training/picto/checkpoints/picto-flow.safetensors
    python -m training.picto.install_flow --weights training/picto/checkpoints/picto-flow.safetensors --to FOLDER

An export is the running average in half precision with a ``.json`` beside it (the network's settings and the steps
behind it). The pipeline is diffusers' ``StableDiffusion3Pipeline`` without T5: call it with ``max_sequence_length=0``,
or it reads 256 empty T5 tokens that no training has shown it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from unsee.picto import WEIGHTS

from . import train_flow

LIMIT = 14e6  # bytes


def export(checkpoint: Path, to: Path) -> Path:
    """``checkpoint`` of train_flow → half-precision average at ``to``, its settings at ``to`` with ``.json``."""
    saved = torch.load(checkpoint, weights_only=True)
    net = train_flow.model()
    net.load_state_dict(saved["average"])
    to.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in net.state_dict().items()}, to)
    if to.stat().st_size > LIMIT:
        raise SystemExit(
            f"expected at most {LIMIT / 1e6:.0f} MB, got {to.stat().st_size / 1e6:.1f} MB; use less layers"
        )
    config = {k: v for k, v in net.config.items() if not k.startswith("_")}
    about = {"steps": saved["step"], "loss": saved["curve"][-1][1], "config": config}
    to.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    return to


def pipeline(weights: Path) -> StableDiffusion3Pipeline:
    """The pipeline in float32 around exported weights; VAE, tokenizer and text tower are picto's."""
    net = SD3Transformer2DModel(**json.loads(weights.with_suffix(".json").read_text())["config"])
    net.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", torch_dtype=torch.float32)
    vae.register_to_config(shift_factor=0.0)  # the pipeline adds it, and null cannot be added
    tokenizer, tower = CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer"), train_flow.text_tower()
    return StableDiffusion3Pipeline(
        transformer=net.eval(), scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae.eval(),
        text_encoder=tower, tokenizer=tokenizer, text_encoder_2=tower, tokenizer_2=tokenizer,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    parser.add_argument("--export", type=Path, help="write the weights of WORK's training here")
    parser.add_argument("--weights", type=Path, help="exported weights to build the pipeline of")
    parser.add_argument("--to", type=Path, help="folder for the pipeline")
    a = parser.parse_args()
    if a.export:
        print(export(a.work / f"{train_flow.NAME}.pt", a.export))
    if a.to:
        pipeline(a.weights or a.export).to(torch.float16).save_pretrained(a.to)
        print(a.to)


if __name__ == "__main__":
    main()
