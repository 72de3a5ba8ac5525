"""Stable Diffusion XL: two CLIP text encoders, the second one's pooled embedding beside the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .base import Encoding
from .sd import UNetBackbone

if TYPE_CHECKING:
    from .base import Values


class SDXL(UNetBackbone):
    """``StableDiffusionXLPipeline`` and its img2img and inpaint forms, refiner included."""

    family = "sdxl"
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")

    @property
    def pooled_dim(self) -> int:
        return int(self.pipe.text_encoder_2.config.projection_dim)

    @property
    def tokens(self) -> int:
        return int(self.pipe.tokenizer_2.model_max_length)

    def _encode(self, prompts: list[str], length: int | None, *others: list[str]) -> tuple[Tensor, Tensor]:
        tokens, _, pooled, _ = self._encode_prompt(prompts, *others[:1], do_classifier_free_guidance=False)
        return tokens, pooled

    def text(self, values: Values) -> Encoding:
        return Encoding(values["encoder_hidden_states"], values["added_cond_kwargs"]["text_embeds"])

    def with_text(self, values: Values, encoding: Encoding) -> Values:
        added = {**values["added_cond_kwargs"], "text_embeds": encoding.pooled}
        return {**values, "encoder_hidden_states": encoding.tokens, "added_cond_kwargs": added}
