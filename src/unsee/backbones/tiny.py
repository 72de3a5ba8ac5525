"""Random pipelines of every family, built in code: no download, about a second, a few 10,000 weights.

For tests and ``unsee selftest``. They take prompts as text and draw 32 px noise. A package's own family is there too,
under its name, where its adapter has a static method ``tiny`` that builds such a pipeline:

    pipe = tiny("sdxl")
    image = pipe("a dagger", num_inference_steps=2).images[0]
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnknownName, UserError
from ..registry import BACKBONES, resolve
from . import quiet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SIZE = 32  # pixels; the VAE halves it
WIDTH = 16  # of each CLIP encoder


def tiny(family: str, *, seed: int = 0) -> DiffusionPipeline:
    """A random pipeline of ``family``: ``sd1``, ``sd2-v``, ``sdxl``, ``sd3``, ``flux``, ``pixart`` or ``sana``.

    The weights depend on ``seed`` alone; the global random state is left as it was.
    """
    make = FAMILIES.get(family) or _offered(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = make()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def families() -> list[str]:
    """What :func:`tiny` builds: ours, then those of packages."""
    return [*FAMILIES, *(name for name in BACKBONES if name not in BACKBONES.own and _has_tiny(name))]


def _has_tiny(name: str) -> bool:
    try:
        return hasattr(resolve("backbone", BACKBONES, name), "tiny")
    except UserError:
        return True  # whoever asks for it is told what is wrong


def _offered(family: str) -> Callable[[], DiffusionPipeline]:
    """How a package builds its own."""
    if family not in families():
        raise UnknownName("family", family, families())
    make: Callable[[], DiffusionPipeline] = resolve("backbone", BACKBONES, family).tiny
    return make


def _sd1() -> DiffusionPipeline:
    return _sd("epsilon")


def _sd2_v() -> DiffusionPipeline:
    return _sd("v_prediction")


def _sd(prediction_type: str) -> DiffusionPipeline:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip(projection=False),
        tokenizer=_clip_tokenizer(),
        unet=_unet(cross_attention_dim=WIDTH),
        scheduler=_ddim(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> DiffusionPipeline:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=_clip(projection=False),
        text_encoder_2=_clip(projection=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=_unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        scheduler=_ddim("epsilon"),
    )


def _sd3() -> DiffusionPipeline:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    with quiet():  # diffusers warns of a default that it changes itself
        transformer = SD3Transformer2DModel(
            sample_size=SIZE // 2,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            out_channels=16,
            pos_embed_max_size=SIZE // 4,
        )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, shift_factor=0.0),
        text_encoder=_clip(projection=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projection=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux() -> DiffusionPipeline:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, shift_factor=0.0),
        text_encoder=_clip(projection=False),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
    )
    pipe.default_sample_size = SIZE // 2
    return pipe


def _pixart() -> DiffusionPipeline:
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    return _small(PixArtSigmaPipeline)(
        transformer=PixArtTransformer2DModel(
            sample_size=SIZE // 2,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            cross_attention_dim=16,
            caption_channels=2 * WIDTH,
            norm_num_groups=4,
            use_additional_conditions=False,
        ),
        scheduler=_ddim("epsilon"),
        vae=_vae(4),
        text_encoder=_t5(begun=True),
        tokenizer=_t5_tokenizer(begun=True),
    )


def _sana() -> DiffusionPipeline:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    return _small(SanaPipeline, complex_human_instruction=["Say more of it.", "Prompt: "])(
        transformer=SanaTransformer2DModel(
            in_channels=8,
            out_channels=8,
            sample_size=SIZE // 2,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            timestep_scale=0.5,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, beta_schedule="linear"
        ),
        vae=AutoencoderDC(
            latent_channels=8,
            attention_head_dim=4,
            encoder_block_out_channels=(8, 16),
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
        ),
        text_encoder=_gemma(),
        tokenizer=_gemma_tokenizer(),
    )


def _small(cls: Any, **defaults: Any) -> Any:
    """``cls``, which draws SIZE pixels and not the sizes of its training where it is not told otherwise."""
    defaults |= {"height": SIZE, "width": SIZE, "use_resolution_binning": False}
    signature = inspect.signature(cls.__call__)
    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        rest = bound.pop("kwargs", {})  # of PixArt
        return cls.__call__(**{**defaults, **bound, **rest})

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return type(cls.__name__, (cls,), {"__call__": call, "__module__": __name__})


FAMILIES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd1": _sd1,
    "sd2-v": _sd2_v,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
    "sana": _sana,
}


def _ddim(prediction_type: str) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
        steps_offset=1,
    )


def _unet(**more: Any) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        **more,
    )


def _vae(latent_channels: int, **more: Any) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        **more,
    )


def _clip(*, projection: bool) -> PreTrainedModel:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = len(_clip_tokenizer())
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _t5(*, begun: bool = False) -> PreTrainedModel:
    from transformers import T5Config, T5EncoderModel

    vocabulary = len(_t5_tokenizer(begun=begun))
    config = T5Config(
        vocab_size=vocabulary, d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config)


def _gemma() -> PreTrainedModel:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(_gemma_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attn_implementation="eager",
    )
    return Gemma2Model(config)


def _clip_tokenizer() -> PreTrainedTokenizerBase:
    """Every printable character, once inside a word and once at its end: any text has its own ids."""
    from transformers import CLIPTokenizer

    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    names = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=77)


def _t5_tokenizer(*, begun: bool = False) -> PreTrainedTokenizerBase:
    """``begun``: every character once more, at the beginning of a word, so that some words have one token."""
    from transformers import T5Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    words = [(f"▁{x}", -4.0) for x in letters] if begun else []
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((x, -3.0) for x in letters), *words]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _gemma_tokenizer() -> PreTrainedTokenizerBase:
    from transformers import GemmaTokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\n", "▁", *letters, *(f"▁{x}" for x in letters)]
    merges = [("▁", x) for x in letters]
    return GemmaTokenizer(vocab={x: i for i, x in enumerate(pieces)}, merges=merges, add_bos_token=True)
