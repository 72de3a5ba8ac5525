"""A CLIP, opened: picto's own, a folder or a hub id; for the judges and the metrics that look through one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import load_tensors
from ..picto import WEIGHTS
from ..sampling.loading import missing

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

BASE, LARGE = "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Clip:
    """A CLIPModel with what prepares its input: ``tokens(texts)`` → ids and mask, ``pixels(images)`` → (B, 3, H, W)."""

    model: Any
    tokens: Callable[[list[str]], Any]
    pixels: Callable[[Sequence[Image]], torch.Tensor]
    name: str
    license: str = "unstated"

    def images(self, images: Sequence[Image]) -> torch.Tensor:
        """(B, D) float32 on the CPU, unit length."""
        import torch

        with torch.no_grad():
            pixels = self.pixels(images).to(self.model.device)
            out = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
            return torch.nn.functional.normalize(out.float(), dim=-1).cpu()

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, D) float32 on the CPU, unit length. What is longer than the model's window is cut off."""
        import torch

        with torch.no_grad():
            tokens = self.tokens(list(texts))
            known = {key: tokens[key].to(self.model.device) for key in ("input_ids", "attention_mask")}
            out = self.model.text_projection(self.model.text_model(**known).pooler_output)
            return torch.nn.functional.normalize(out.float(), dim=-1).cpu()

    @functools.cached_property
    def mark(self) -> str:
        """The model's name with eight digits of all its weights: the same on any machine."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.model.named_parameters()):
            digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
        return f"{self.name}#{digest.hexdigest()[:8]}"


def open_clip(model: str, device: str = "cpu") -> Clip:
    """``picto``, a folder, or a hub id (the local cache first). Only safetensors are read, never a pickle.

    Raises :class:`UserError` for another kind of model (a text encoder alone, SigLIP), and for a CLIP some of whose
    weights are missing: transformers would fill them with random numbers, and they would judge.
    """
    if model == "picto":
        return _picto(device)
    import transformers
    from safetensors import SafetensorError

    # By name where there are two, so that pixels do not hang on whether torchvision is installed.
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    for local in (True, False):
        try:
            _known(model, transformers.CLIPConfig.get_config_dict(model, local_files_only=local)[0])
            net, info = transformers.CLIPModel.from_pretrained(
                model, local_files_only=local, use_safetensors=True, output_loading_info=True
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(model, local_files_only=local)
            processor = kind.from_pretrained(model, local_files_only=local)
            break
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    else:
        do = "give a folder with a CLIPModel in safetensors, or go online once"
        raise UserError("a CLIP model", f"{model!r} ({reason})", do)
    missing(model, info)
    asked = {"padding": True, "truncation": True, "return_tensors": "pt"}
    return Clip(
        net.float().eval().requires_grad_(False).to(device),
        lambda texts: tokenizer(texts, max_length=net.config.text_config.max_position_embeddings, **asked),
        lambda images: processor([i.convert("RGB") for i in images], return_tensors="pt").pixel_values,
        model.rstrip("/").rpartition("/")[2],
        "MIT" if model.startswith("openai/clip-") else "unstated",
    )


def _known(model: str, config: dict[str, Any]) -> None:
    kind = config.get("model_type", "of no stated kind")
    if kind != "clip":
        do = "give a CLIP with both towers, such as openai/clip-vit-large-patch14"
        raise UserError("a CLIP model, text and vision", f"{model!r}, a model of type {kind}", do)


def _picto(device: str) -> Clip:
    from .picto import pixels

    model, tokenizer = picto_clip()
    asked = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    return Clip(model.to(device), lambda texts: tokenizer(texts, **asked), pixels, "picto", "Apache-2.0")


@functools.cache
def picto_clip() -> tuple[Any, Any]:
    """Picto's CLIP (both towers, float32, eval) and its tokenizer. The text tower is the pipeline's: stored once."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    model = CLIPModel(CLIPConfig.from_pretrained(WEIGHTS / "clip", local_files_only=True))
    text = load_tensors(WEIGHTS / "pipeline" / "text_encoder" / "model.safetensors")[0]
    text = {"text_model." + k.removeprefix("text_model."): v for k, v in text.items()}
    model.load_state_dict({**load_tensors(WEIGHTS / "clip" / "model.safetensors")[0], **text})
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    return model.float().eval().requires_grad_(False), tokenizer
