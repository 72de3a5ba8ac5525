"""One sampler: everything that is drawn, anywhere in the package, is drawn here.

:func:`generate` calls a pipeline as it is. :class:`Sampler` has the pipeline's parts with a scheduler of its own, for
fitting: it gives the latents on the way too, and edits images (SDEdit).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbones import quiet, weights_adapter
from ..errors import Unsupported
from ..pictures import BLACKED_OUT, NOT_FINITE, mark
from .sdedit import starting_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from ..backbones import Backbone, Encoding
    from ..backbones.base import Values


@dataclass(frozen=True)
class Generated:
    """What one call of a pipeline gave: RGB ``images``, and the ``tensor`` that they are made of.

    ``tensor`` is ``(B, 3, H, W)`` in [0, 1]; of a call that was not decoded it is the latents, and there are no images.
    """

    images: list[Image]
    tensor: Tensor


def generate(pipe: DiffusionPipeline, prompts: Sequence[str] | Encoding, seeds: Sequence[int | torch.Generator], *,
             steps: int, guidance: float, negative: Sequence[str] | None = None, decode: bool = True,
             **more: Any) -> Generated:  # fmt: skip
    """One image per seed, each with its own generator: the one place where a pipeline is called.

    Args:
        pipe: As it is protected now, or bare.
        prompts: A text per seed, or an encoding with a row per seed.
        seeds: Of the images, or generators that were begun with them.
        steps: Denoising steps.
        guidance: Weight of classifier-free guidance, FLUX's true one; 1 and less is none.
        negative: The texts of its other half; the pipeline's own where there are none.
        decode: False stops at the latents.
        more: Further arguments of the pipeline's call.

    An image that is not finite, or that the pipeline's own safety checker flags, is marked (:mod:`unsee.pictures`).
    """
    backbone = weights_adapter(pipe)
    said = backbone.call_arguments(prompts, len(seeds), guidance, negative)
    generators = [torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed for seed in seeds]
    kind = "pt" if decode else "latent"
    output = pipe(**said, generator=generators, num_inference_steps=steps, output_type=kind, **more)
    if not decode:
        return Generated([], output.images)
    images = as_pictures(pipe, output.images)
    flags = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
    for image, flagged in zip(images, flags, strict=True):
        if flagged:
            mark(image, BLACKED_OUT)
    return Generated(images, output.images)


def as_pictures(pipe: DiffusionPipeline, pixels: Tensor) -> list[Image]:
    """``(B, 3, H, W)`` in [0, 1], as ``output_type="pt"`` gives them → RGB pictures, as the pipeline itself makes them.

    What has NaN or infinity is black where it does, and marked.
    """
    finite = torch.isfinite(pixels).flatten(1).all(1)
    if not finite.all():
        pixels = torch.where(torch.isfinite(pixels), pixels, 0)
    processor = pipe.image_processor
    pictures = [one.convert("RGB") for one in processor.numpy_to_pil(processor.pt_to_numpy(pixels))]
    return [
        picture if sound else mark(picture, NOT_FINITE)
        for picture, sound in zip(pictures, finite.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Drawn:
    """``images`` RGB; ``latents`` as the denoiser takes them (FLUX packed); ``path`` (t, latents) of every step."""

    images: list[Image]
    latents: Tensor
    path: list[tuple[float, Tensor]]


class Sampler:
    """Draws with the pipeline's parts and a scheduler of its own; a safety checker is left out."""

    def __init__(self, backbone: Backbone) -> None:
        _check(backbone)
        self.backbone = backbone
        made = [_assemble(backbone, name) for name in backbone.pipelines[:2]]
        self.from_text, self.from_image = made[0], made[-1]

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float,
                 negative: Sequence[str] | None = None, images: Sequence[Image] | None = None,
                 strength: float = 0.75) -> Drawn:  # fmt: skip
        """One image per prompt, each with its own generator. With ``images`` it is SDEdit of them at ``strength``.

        ``guidance`` ≤ 1 is none. ``negative`` is the text of classifier-free guidance's other half, else empty.
        """
        pipe = self.from_text if images is None else self.from_image
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        start: contextlib.AbstractContextManager[dict[str, Any]] = contextlib.nullcontext({})
        more = self.backbone.own_arguments
        if images is not None and self.backbone.has_image_to_image:
            more |= {"image": list(images), "strength": strength}
        elif images is not None:
            start = starting_from(pipe, self.encode_images(images), generators, steps, strength)
        if guidance > 1 and negative is None:
            negative = [""] * len(prompts)
        path: list[tuple[float, Tensor]] = []
        last: list[Tensor] = []

        def keep(latents: Tensor) -> None:
            last[:] = [latents]

        handle = self.backbone.denoiser.register_forward_pre_hook(self._watch(path, len(prompts)), with_kwargs=True)
        try:
            with start as begun:
                found = generate(
                    pipe, prompts, generators, steps=steps, guidance=guidance, negative=negative,
                    **self.backbone.following(keep), **more, **begun,
                )  # fmt: skip
        finally:
            handle.remove()
        return Drawn(found.images, last[0].detach(), path)

    def _watch(self, path: list[tuple[float, Tensor]], n: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: tuple[object, ...], kwargs: Values) -> None:
            values = self.backbone.bind(args, kwargs)
            t, latents = self.backbone.time(values), self.backbone.latents(values)[-n:]
            if not path or path[-1][0] != t:  # FLUX under guidance calls twice a step
                path.append((t, latents.detach().clone()))

        return hook

    @property
    def image_size(self) -> int:
        """The pipeline's own image size in pixels."""
        pipe = self.from_text
        size = getattr(pipe, "default_sample_size", None) or self.backbone.config.sample_size
        return int(size * pipe.vae_scale_factor)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image], batch: int = 8) -> Tensor:
        """Images, scaled to the pipeline's own size → float32 latents ``(n, …)`` as the denoiser takes them: the
        mode of the VAE's posterior. Raises :class:`Unsupported` where the VAE's precision is too low for them."""
        side, parts = self.image_size, []
        for start in range(0, len(images), batch):
            some = [image.convert("RGB") for image in images[start : start + batch]]
            pixels = self.from_image.image_processor.preprocess(some, height=side, width=side)
            parts.append(self.backbone.encode_pixels(pixels))
        z = torch.cat(parts)
        if not bool(torch.isfinite(z).all()):
            got = f"NaN from a {self.backbone.pipe.vae.dtype} VAE"
            raise Unsupported("finite latents", got, "load the VAE in float32")
        return z


def _check(backbone: Backbone) -> None:
    channels = getattr(backbone.config, "in_channels", backbone.denoiser_channels)
    if channels != backbone.denoiser_channels:
        raise Unsupported(
            "a text-to-image denoiser", f"one of {channels} channels (inpainting)", "fit on the base model"
        )


def _assemble(backbone: Backbone, name: str) -> DiffusionPipeline:
    parts = dict(backbone.pipe.components)
    parts["scheduler"] = copy.deepcopy(parts["scheduler"])
    if "safety_checker" in parts:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    config = backbone.pipe.config
    if config.get("force_zeros_for_empty_prompt") is not None:
        parts |= {"force_zeros_for_empty_prompt": config["force_zeros_for_empty_prompt"]}
    with quiet():  # the safety checker is left out on purpose: its black images would teach nothing
        pipe = backbone.task_class(name)(**parts)
    if hasattr(backbone.pipe, "default_sample_size"):
        pipe.default_sample_size = backbone.pipe.default_sample_size
    pipe.set_progress_bar_config(disable=True)
    return pipe
