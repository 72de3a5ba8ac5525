"""Picto CLIP score: 100 × max(0, cosine) between an image and a text, by picto's own CLIP. Not OpenAI CLIP's scale."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..picto import WEIGHTS

if TYPE_CHECKING:
    from PIL.Image import Image

higher_is_better = True


@functools.cache
def clip() -> tuple[Any, Any]:
    """picto's CLIP (both towers, float32, eval) and its tokenizer. The text tower is the pipeline's: stored once."""
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    model = CLIPModel(CLIPConfig.from_pretrained(WEIGHTS / "clip", local_files_only=True))
    text = load_file(WEIGHTS / "pipeline" / "text_encoder" / "model.safetensors")
    text = {"text_model." + k.removeprefix("text_model."): v for k, v in text.items()}
    model.load_state_dict({**load_file(WEIGHTS / "clip" / "model.safetensors"), **text})
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    return model.float().eval().requires_grad_(False), tokenizer


class PictoClipScore:
    """``(images, texts)`` → scores in [0, 100], higher is a better match. Formula of CLIPScore with w = 100."""

    name = "picto-clip-score"

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        import torch

        from ..judges.picto import pixels

        model, tokenizer = clip()
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        with torch.inference_mode():
            out = model(pixel_values=pixels(images), **tokens)
        return (100 * (out.image_embeds * out.text_embeds).sum(-1).clamp(min=0)).tolist()
