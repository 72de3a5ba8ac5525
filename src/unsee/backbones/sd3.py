"""Stable Diffusion 3: two CLIP encoders and T5 in one token sequence, pooled embedding, flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import Unsupported
from .base import Backbone, Encoding

if TYPE_CHECKING:
    from .base import Arguments, Values


class Flow(Backbone):
    """A flow model: velocity = noise - x0."""

    @property
    def prediction_type(self) -> str:
        return "flow"

    def timestep_999(self, t: float) -> float:
        last = int(self.pipe.scheduler.config.get("num_train_timesteps", 1000))
        return min(max(t / last, 0.0) * 1000.0, 999.0)


class TransformerBackbone(Flow):
    """What SD3 and FLUX share: text joined to the image in attention."""

    denoiser_name = "transformer"
    names = {"latents": "hidden_states", "t": "timestep", "tokens": "encoder_hidden_states"}
    batched = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "guidance")
    residuals = ("block_controlnet_hidden_states", "controlnet_block_samples", "controlnet_single_block_samples")

    @property
    def text_dim(self) -> int:
        return int(self.config.joint_attention_dim)

    @property
    def pooled_dim(self) -> int:
        return int(self.config.pooled_projection_dim)

    def text(self, values: Values) -> Encoding:
        return Encoding(values["encoder_hidden_states"], values["pooled_projections"])

    def with_text(self, values: Values, encoding: Encoding) -> Values:
        return {**values, "encoder_hidden_states": encoding.tokens, "pooled_projections": encoding.pooled}


class SD3(TransformerBackbone):
    """``StableDiffusion3Pipeline`` and its img2img and inpaint forms."""

    family = "sd3"
    denoiser_class = "SD3Transformer2DModel"
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")

    @property
    def tokens(self) -> int:
        return int(self.pipe.tokenizer.model_max_length) + self.default_length

    def check(self, arguments: Arguments) -> None:
        super().check(arguments)
        if arguments.get("skip_guidance_layers") is not None:
            raise Unsupported(
                "plain classifier-free guidance",
                "skip_guidance_layers=…",  # a third pass, whose difference would undo part of a correction
                "call without skip_guidance_layers, or detach first",
            )

    def _encode(self, prompts: list[str], length: int | None, *others: list[str]) -> tuple[Tensor, Tensor]:
        second, third = (*others, None, None)[:2]
        tokens, _, pooled, _ = self._encode_prompt(
            prompts, second, third, do_classifier_free_guidance=False, max_sequence_length=length or self.default_length
        )
        return tokens, pooled
