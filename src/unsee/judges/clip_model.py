"""A CLIPModel of transformers with what prepares its input, for the judges that look through one (CLIP, Q16)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

LARGE = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Clip:
    """A CLIPModel with what prepares its input: ``tokens(texts)`` → ids and mask, ``pixels(images)`` → (B, 3, H, W)."""

    model: Any
    tokens: Callable[[list[str]], Any]
    pixels: Callable[[Sequence[Image]], torch.Tensor]
    name: str

    def images(self, images: Sequence[Image]) -> torch.Tensor:
        """(B, D), unit length."""
        import torch

        with torch.inference_mode():
            out = self.model.vision_model(pixel_values=self.pixels(images)).pooler_output
            return torch.nn.functional.normalize(self.model.visual_projection(out).float(), dim=-1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, D), unit length."""
        import torch

        with torch.inference_mode():
            tokens = self.tokens(list(texts))
            out = self.model.text_model(**{k: tokens[k] for k in ("input_ids", "attention_mask")}).pooler_output
            return torch.nn.functional.normalize(self.model.text_projection(out).float(), dim=-1)

    @property
    def mark(self) -> str:
        """The model's name with eight digits of its weights: the same on any machine."""
        weight = self.model.visual_projection.weight.detach().float().cpu().numpy()
        return f"{self.name}#{hashlib.sha256(weight.tobytes()).hexdigest()[:8]}"


def open_clip(model: str) -> Clip:
    """``picto``, a folder, or a hub id (the local cache first). Only safetensors are read, never a pickle."""
    if model == "picto":
        return _picto()
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    for local in (True, False):
        try:
            net = CLIPModel.from_pretrained(model, local_files_only=local, use_safetensors=True)
            tokenizer = CLIPTokenizer.from_pretrained(model, local_files_only=local)
            processor = CLIPImageProcessor.from_pretrained(model, local_files_only=local)
            break
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
    else:
        do = "give clip:model=FOLDER with a CLIPModel in safetensors, or go online once"
        raise UserError("a CLIP model", f"{model!r} ({reason})", do)
    return Clip(
        net.float().eval().requires_grad_(False),
        lambda texts: tokenizer(texts, padding=True, truncation=True, return_tensors="pt"),
        lambda images: processor([i.convert("RGB") for i in images], return_tensors="pt").pixel_values,
        model.rstrip("/").rpartition("/")[2],
    )


def _picto() -> Clip:
    from ..metrics.clip_score import clip
    from .picto import pixels

    model, tokenizer = clip()
    pad = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return Clip(model, lambda texts: tokenizer(texts, **pad), pixels, "picto")
