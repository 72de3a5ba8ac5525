"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, epsilon or v-prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .base import Backbone

if TYPE_CHECKING:
    from .base import Arguments


class UNetBackbone(Backbone):
    """What SD and SDXL share."""

    denoiser_name = "unet"
    names = {"latents": "sample", "t": "timestep", "tokens": "encoder_hidden_states"}
    batched = (
        "sample",
        "timestep",
        "encoder_hidden_states",
        "timestep_cond",
        "class_labels",
        "added_cond_kwargs",
        "encoder_attention_mask",
    )
    residuals = (
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "down_intrablock_additional_residuals",
    )
    denoiser_class = "UNet2DConditionModel"

    @property
    def text_dim(self) -> int:
        dim = self.config.cross_attention_dim
        return int(dim if isinstance(dim, int) else dim[0])

    def cfg(self, arguments: Arguments) -> bool:
        # a UNet with time_cond_proj_dim is distilled: it gets w as an input and is called once
        return super().cfg(arguments) and self.config.time_cond_proj_dim is None

    def _lengthen(self, tokens: Tensor, length: int) -> Tensor:
        # prompt weighting makes embeddings of several windows of 77 tokens. Softmax attention over
        # the same tokens k times over is attention over them once, so repeating changes nothing.
        if length % tokens.shape[1] == 0:
            return tokens.repeat(1, length // tokens.shape[1], 1)
        return super()._lengthen(tokens, length)


class SD(UNetBackbone):
    """``StableDiffusionPipeline`` and its img2img and inpaint forms."""

    family = "sd"
    second_encoder = False
    pipelines = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")

    def _encode(self, prompts: list[str], length: int | None, *others: list[str]) -> tuple[Tensor, None]:
        tokens, _ = self._encode_prompt(prompts, self.pipe._execution_device, 1, False)
        return tokens, None
