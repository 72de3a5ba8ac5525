"""FLUX: T5 tokens, CLIP's pooled embedding, packed latents, flow matching.

Guidance is distilled into the model; true classifier-free guidance happens only with
``true_cfg_scale`` above 1 *and* a negative prompt, and is then two calls per step, positive first.
That one is the guidance of suites and of the command line; the distilled one stays the pipeline's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .sd3 import TransformerBackbone

if TYPE_CHECKING:
    from .base import Arguments, Values


class Flux(TransformerBackbone):
    """``FluxPipeline`` and its img2img and inpaint forms."""

    family = "flux"
    denoiser_class = "FluxTransformer2DModel"
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    stacked = False
    refused = (
        "ip_adapter_image",
        "ip_adapter_image_embeds",
        "negative_ip_adapter_image",
        "negative_ip_adapter_image_embeds",
    )
    guidance_argument = "true_cfg_scale"
    least_guidance = 4.0
    guidance_advice = (
        "call the pipeline with true_cfg_scale above 1 and a negative_prompt (it may be ''), or unsee with --guidance 4"
    )
    short_tokens = False

    @property
    def tokens(self) -> int:
        return self.default_length

    @property
    def denoiser_channels(self) -> int:
        return 4 * self.latent_channels  # packed, two pixels by two

    def guided(self, weight: float, prompts: int) -> Arguments:
        more: dict[str, Any] = {"negative_prompt": [""] * prompts} if weight > 1 else {}
        return {self.guidance_argument: weight, **more}

    def cfg(self, arguments: Arguments) -> bool:
        embeds = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
        given = arguments.get("negative_prompt") is not None or all(arguments.get(e) is not None for e in embeds)
        return super().cfg(arguments) and given

    def time(self, values: Values) -> float:
        return super().time(values) * 1000.0  # the pipeline passes sigma

    def latents(self, values: Values) -> Tensor:
        """Packed latents, ``(B, H/2 * W/2, 4 C)``."""
        return values["hidden_states"]

    def pack(self, latents: Tensor) -> Tensor:
        packed: Tensor = self.pipe._pack_latents(latents, *latents.shape)
        return packed

    def _encode(self, prompts: list[str], length: int | None, *others: list[str]) -> tuple[Tensor, Tensor]:
        tokens, pooled, _ = self._encode_prompt(prompts, *others[:1], max_sequence_length=length or self.default_length)
        return tokens, pooled
