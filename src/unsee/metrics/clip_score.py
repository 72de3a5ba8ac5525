"""CLIP score: how well an image matches a text. By a real CLIP of the user's, or by picto's own under its own name.

Hessel et al., EMNLP 2021 (arXiv:2104.08718). Where we differ: the factor is 100, as in torchmetrics and the tables of
the unlearning papers, not the paper's 2.5. Scores of two CLIPs are on two scales: the name says whose it is.
Cost: one pass of both towers, about .1 s an image on a CPU core with ViT-B/16.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadFile
from ..picto import WEIGHTS

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of RGB in [0, 1]
WEIGHT = 100.0


def matches(model: Any, pixel_values: torch.Tensor, tokens: Any) -> list[float]:
    """100 · max(0, cos(image, text)) of each pair, by a ``CLIPModel`` (whose embeddings have unit length)."""
    import torch

    with torch.inference_mode():
        out = model(pixel_values=pixel_values, **tokens)
    return (WEIGHT * (out.image_embeds * out.text_embeds).sum(-1).clamp(min=0)).float().tolist()


class ClipScore:
    """``(images, texts)`` → scores in [0, 100], higher is a better match; 20 to 35 is usual for what belongs together.

    Formula: 100 · max(0, cos(E_image(x), E_text(c))).

    ``model`` is a folder or a hub id, or a ``transformers.CLIPModel`` together with its ``tokenizer`` and a ``name``.
    Text beyond the model's window (77 tokens) is cut off. Raises :class:`BadFile` if there is no CLIP there.
    """

    higher_is_better = True
    range = (0.0, 100.0)

    def __init__(
        self, model: Any = "openai/clip-vit-base-patch16", *, tokenizer: Any = None, name: str = "",
        device: str = "cpu", batch_size: int = 16,
    ) -> None:  # fmt: skip
        if not isinstance(model, str | Path) and (tokenizer is None or not name):
            raise ValueError("expected a tokenizer and a name with a model that is already open")
        if isinstance(model, str | Path):
            name = name or Path(model).name
            model, tokenizer = opened(model)
        self.model, self.tokenizer = model.to(device).eval(), tokenizer
        self.name, self.device, self.batch_size = f"clip-score-{name}", device, batch_size

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        pairs, found = list(zip(images, texts, strict=True)), []
        vision, text = self.model.config.vision_config, self.model.config.text_config
        for start in range(0, len(pairs), self.batch_size):
            seen, said = zip(*pairs[start : start + self.batch_size], strict=True)
            values = prepared(seen, vision.image_size).to(self.device, self.model.dtype)
            tokens = self.tokenizer(
                list(said), padding=True, truncation=True, max_length=text.max_position_embeddings, return_tensors="pt"
            )
            found += matches(self.model, values, {k: v.to(self.device) for k, v in tokens.items()})
        return found


def opened(place: str | Path) -> tuple[Any, Any]:
    """The CLIP of a folder or hub id in float32, and its tokenizer."""
    from transformers import CLIPModel, CLIPTokenizer

    try:
        return CLIPModel.from_pretrained(place).float().requires_grad_(False), CLIPTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise BadFile(f"a CLIP model at {place}", first, "give a folder, or the hub id while online") from error


def prepared(images: Sequence[Image], size: int) -> torch.Tensor:
    """CLIP's own preparation: shorter side to ``size`` (bicubic), center crop, normalized → ``(B, 3, size, size)``."""
    import torch

    from .base import stacked

    values = torch.from_numpy(stacked([_cropped(image.convert("RGB"), size) for image in images])).float() / 255
    return ((values - torch.tensor(MEAN)) / torch.tensor(SPREAD)).permute(0, 3, 1, 2).contiguous()


def _cropped(image: Image, size: int) -> Image:
    from PIL import Image as pil

    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), pil.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


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
    """``(images, texts)`` → scores in [0, 100], higher is a better match. Not on the scale of OpenAI's CLIP.

    Formula: 100 · max(0, cos(E_image(x), E_text(c))), by picto's CLIP.
    """

    name = "picto-clip-score"
    higher_is_better = True
    range = (0.0, 100.0)

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        from ..judges.picto import pixels

        model, tokenizer = clip()
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        return matches(model, pixels(images), tokens)
