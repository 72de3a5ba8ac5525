"""PixArt-Sigma: T5 tokens with their mask, read by cross-attention; epsilon, and a variance that was learned beside it.

The denoiser reads the tokens that the mask lets through and no others: text without its mask is another text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from .base import Backbone, Encoding, first, put

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

    from .base import Arguments, Values


class MaskedBackbone(Backbone):
    """What PixArt and SANA share: one text encoder, its mask beside its tokens, prompts that may be cleaned."""

    denoiser_name = "transformer"
    names = {"latents": "hidden_states", "t": "timestep", "tokens": "encoder_hidden_states"}
    batched = (
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "added_cond_kwargs",
        "guidance",
    )
    residuals = ("controlnet_block_samples",)
    second_encoder = False

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__(pipe)
        self._clean = bool(self.default("clean_caption"))

    @property
    def text_dim(self) -> int:
        return int(self.config.caption_channels)

    @property
    def tokens(self) -> int:
        return self.default_length

    @property
    def own_arguments(self) -> Arguments:
        side = int(self.config.sample_size * self.pipe.vae_scale_factor)
        size = {"height": side, "width": side, "use_resolution_binning": False}
        return {**size, "clean_caption": self._clean, "max_sequence_length": self.default_length}

    def of_call(self, arguments: Arguments) -> Self:
        copied = copy.copy(self)
        copied._clean = bool(arguments.get("clean_caption"))
        return copied

    # ---- text ----

    def as_read(self, text: str, tokenizer: PreTrainedTokenizerBase) -> str:
        from diffusers.utils import is_bs4_available, is_ftfy_available

        clean = self._clean and is_bs4_available() and is_ftfy_available()  # else the pipeline does not clean it either
        return str(self.pipe._text_preprocessing(super().as_read(text, tokenizer), clean_caption=clean)[0])

    def inside(self, text: str, tokenizer: Any) -> str:
        return self.as_read(text, tokenizer)

    def lengths(self, length: int | None) -> list[int]:
        return [length or self.default_length] * len(self.tokenizers)

    def mask(self, ids: Sequence[Tensor]) -> Tensor:
        places = torch.arange(ids[0].shape[1], device=ids[0].device)
        return (places[None] <= self.text_ends(ids)[0][:, None]).long()

    def _encode(self, prompts: list[str], length: int | None, *others: list[str]) -> tuple[Tensor, None]:
        found = self._encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            clean_caption=self._clean,
            max_sequence_length=length or self.default_length,
            **self._template,
        )
        return found[0], None

    @property
    def _template(self) -> Arguments:
        """What stands around a prompt, as arguments of ``encode_prompt``."""
        return {}

    # ---- a call of the denoiser ----

    def text(self, values: Values) -> Encoding:
        return Encoding(values["encoder_hidden_states"], mask=values["encoder_attention_mask"])

    def with_text(self, values: Values, encoding: Encoding) -> Values:
        return {**values, "encoder_hidden_states": encoding.tokens, "encoder_attention_mask": encoding.mask}

    def prediction(self, output: Any) -> Tensor:
        """Without the variance that some of these models have learned, in as many channels behind it."""
        return first(output)[:, : self.latent_channels]

    def put_prediction(self, output: Any, prediction: Tensor) -> Any:
        behind = first(output)[:, self.latent_channels :]
        return put(output, torch.cat([prediction, behind], 1) if behind.shape[1] else prediction)


class PixArt(MaskedBackbone):
    """``PixArtSigmaPipeline``, which has no img2img form."""

    family = "pixart"
    denoiser_class = "PixArtTransformer2DModel"
    pipelines = ("PixArtSigmaPipeline",)

    def following(self, keep: Callable[[Tensor], Any]) -> Arguments:
        return {"callback": lambda step, t, latents: keep(latents), "callback_steps": 1}

    @property
    def planned_steps(self) -> int:
        return len(self.pipe.scheduler.timesteps)
