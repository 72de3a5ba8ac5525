"""SANA: Gemma tokens with their mask, read by cross-attention; flow matching; deeply compressed latents.

A prompt is read behind an instruction (``complex_human_instruction``), a negative one is not. Of the instruction's
tokens the denoiser gets the first alone, so what stands in a text's rows is the first token and then the prompt's own;
between them may be the instruction's last one. Gemma closes a text with no token of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from .base import TextPart
from .pixart import MaskedBackbone
from .sd3 import Flow

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

    from .base import Arguments, Values


class Sana(MaskedBackbone, Flow):
    """``SanaPipeline``, which has no img2img form."""

    family = "sana"
    denoiser_class = "SanaTransformer2DModel"
    pipelines = ("SanaPipeline",)
    closed = False

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__(pipe)
        self._instruction: list[str] | None = self.default("complex_human_instruction")

    @property
    def own_arguments(self) -> Arguments:
        return {**super().own_arguments, **self._template}

    @property
    def negative(self) -> Self:
        copied = copy.copy(self)
        copied._instruction = None
        return copied

    def of_call(self, arguments: Arguments) -> Self:
        copied = super().of_call(arguments)
        copied._instruction = arguments.get("complex_human_instruction")
        return copied

    def time(self, values: Values) -> float:
        return super().time(values) / float(self.config.timestep_scale)

    # ---- text ----

    @property
    def _template(self) -> Arguments:
        return {"complex_human_instruction": self._instruction}

    @property
    def _opening(self) -> str:
        return "\n".join(self._instruction or ())

    def _tokenize(self, columns: list[list[str]], length: int | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        tokenizer, (n,) = self.tokenizers[0], self.lengths(length)
        before, _ = self.frame(tokenizer)
        rows = [[*before, *self.content(text, tokenizer, first=True)][:n] for text in columns[0]]
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (n - len(row)) for row in rows])
        return (ids,), (self.mask([ids]),)

    def fits(self, text: str, *, length: int | None = None) -> bool:
        return len(self.content(text, self.tokenizers[0], first=True)) < self.lengths(length)[0]

    def content(self, text: str, tokenizer: PreTrainedTokenizerBase, first: bool = False) -> list[int]:
        if not first:
            return list(tokenizer(self.inside(text, tokenizer), add_special_tokens=False, verbose=False).input_ids)
        if not self._opening:
            return super().content(text, tokenizer)
        known = len(tokenizer(self._opening).input_ids)
        ids = tokenizer(self._opening + self.as_read(text, tokenizer), verbose=False).input_ids
        return list(ids[known - 1 :])

    def inside(self, text: str, tokenizer: PreTrainedTokenizerBase) -> str:
        return f" {super().inside(text, tokenizer)}"  # Gemma has other tokens for the beginning of a text

    def placed(self, whole: Tensor, part: Tensor) -> Tensor:
        n, out = part.shape[1], whole.clone()
        out[:, 0] = part[:, 0]
        out[:, whole.shape[1] - n + 1 :] = part[:, 1:]
        return out

    def text_parts(self, ids: Sequence[Tensor]) -> list[TextPart]:
        return [TextPart("gemma", 0, slice(0, ids[0].shape[1]), 1, whole=True)]

    def text_ends(self, ids: Sequence[Tensor]) -> list[Tensor]:
        places = torch.arange(ids[0].shape[1], device=ids[0].device)
        return [((ids[0] != self.tokenizers[0].pad_token_id) * places).amax(1)]
