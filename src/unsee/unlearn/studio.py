"""Drawing and evaluating with a pipeline's own parts while a defense is fitted, the same for every family.

``Studio`` draws: images, their latents and the latents on the way. ``Predictor`` evaluates the denoiser on any
latents, times and texts; what else a family's denoiser wants (time ids, guidance, positions) is read from the
pipeline's own call, which is begun and stopped before anything is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbones import quiet
from ..errors import Unsupported
from ..guards import Guard, Guarded
from ..guards.generation import first
from ..pictures import drawn

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..backbones import Backbone, Encoding
    from ..concepts import Concept
    from ..guards.base import Fit

GUIDANCE, STEPS = 7.5, 25


def guidance_for(concept: Concept, given: float) -> float:
    """``given``, or where it is 0 what the concept's models are drawn with: picto's own, else 7.5."""
    from .. import picto

    return given or (picto.GUIDANCE if concept.models == "picto" else GUIDANCE)


def hosted(fit: Fit) -> Any:
    """The weight edits among the hosts, attached. Guards act while an image is made; they change no fit of weights."""
    return Guarded(fit.pipe, *(host for host in fit.host if not isinstance(host, Guard)))


@dataclass(frozen=True)
class Drawn:
    """``images`` RGB; ``latents`` as the denoiser takes them (FLUX packed); ``path`` (t, latents) of every step."""

    images: list[Image]
    latents: Tensor
    path: list[tuple[float, Tensor]]


class Studio:
    """Draws with the pipeline's parts and a scheduler of its own; a safety checker is left out."""

    def __init__(self, backbone: Backbone) -> None:
        _check(backbone)
        self.backbone = backbone
        self.from_text, self.from_image = (_assemble(backbone, name) for name in backbone.pipelines[:2])

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float,
             negative: Sequence[str] | None = None, images: Sequence[Image] | None = None,
             strength: float = 0.75) -> Drawn:  # fmt: skip
        """One image per prompt, each with its own generator. With ``images`` it is SDEdit of them at ``strength``.

        ``guidance`` ≤ 1 is none. ``negative`` is the text of classifier-free guidance's other half, else empty.
        """
        pipe = self.from_text if images is None else self.from_image
        more: dict[str, Any] = {} if images is None else {"image": list(images), "strength": strength}
        if guidance > 1:
            more["negative_prompt"] = list(negative) if negative is not None else [""] * len(prompts)
        path: list[tuple[float, Tensor]] = []
        last: list[Tensor] = []

        def keep(_: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
            last[:] = [values["latents"]]
            return {}

        handle = self.backbone.denoiser.register_forward_pre_hook(self._watch(path, len(prompts)), with_kwargs=True)
        try:
            pictures, _ = drawn(
                pipe,
                list(prompts),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                num_inference_steps=steps,
                callback_on_step_end=keep,
                callback_on_step_end_tensor_inputs=["latents"],
                **{self.backbone.guidance_argument: guidance},
                **more,
            )
        finally:
            handle.remove()
        return Drawn(pictures, last[0].detach(), path)

    def _watch(self, path: list[tuple[float, Tensor]], n: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
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
        vae, side, parts = self.backbone.pipe.vae, self.image_size, []
        for start in range(0, len(images), batch):
            some = [image.convert("RGB") for image in images[start : start + batch]]
            pixels = self.from_image.image_processor.preprocess(some, height=side, width=side)
            parts.append(vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode())
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        z = ((torch.cat(parts) - shift) * vae.config.scaling_factor).float()
        if not bool(torch.isfinite(z).all()):
            raise Unsupported("finite latents", f"NaN from a {vae.dtype} VAE", "load the VAE in float32")
        return self.from_text._pack_latents(z, *z.shape) if self.backbone.family == "flux" else z


class Predictor:
    """``predict(latents, t, text)``: what the denoiser predicts, in its own kind."""

    def __init__(self, studio: Studio) -> None:
        self.backbone = studio.backbone
        self.values = _capture(studio)
        given = self.values[self.backbone.names["t"]]
        self._time = torch.as_tensor(given).flatten()[:1]
        self._scale = float(self._time[0]) / self.backbone.time(self.values)
        self.latents = self.backbone.latents(self.values)  # (1, …): the shape of one image
        self.empty = self.backbone.text(self.values)  # the pipeline's own encoding of ""

    def __call__(self, latents: Tensor, t: Tensor, text: Encoding | None = None) -> Tensor:
        """``latents`` (B, …), ``t`` (B,) on the scheduler's scale, ``text`` of 1 or B rows (the empty text if None)."""
        return first(self.backbone.denoiser.forward(**self.arguments(latents, t, text)))

    def arguments(self, latents: Tensor, t: Tensor, text: Encoding | None = None) -> dict[str, Any]:
        """What the denoiser is called with for these, by name."""
        n, names, backbone = len(latents), self.backbone.names, self.backbone
        values = {k: _repeat(v, n) if k in backbone.batched else v for k, v in self.values.items()}
        values[names["latents"]] = latents.to(self.latents)
        scaled = t.to(self.latents.device, torch.float64) * self._scale
        values[names["t"]] = scaled.to(self._time.dtype)
        return backbone.with_text(values, backbone.match(text or self.empty, backbone.text(values)))


class _Caught(Exception):
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values


def _capture(studio: Studio) -> dict[str, Any]:
    """The arguments of the denoiser's first call for one image of the empty text, without guidance.

    The hook comes before those of guards, which would refuse this call. Two steps: a single one may be at t = 0.
    """
    backbone = studio.backbone

    def catch(module: Any, args: Any, kwargs: Any) -> None:
        raise _Caught(backbone.bind(args, kwargs))

    handle = backbone.denoiser.register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
    try:
        studio.from_text("", num_inference_steps=2, generator=torch.Generator().manual_seed(0),
                         **{backbone.guidance_argument: 1.0})  # fmt: skip
    except _Caught as caught:
        return caught.values
    finally:
        handle.remove()
    raise Unsupported("a pipeline that calls its denoiser", "one that did not", "use its text-to-image form")


def _repeat(value: Any, n: int) -> Any:
    if isinstance(value, Tensor):
        return value.expand(n, *value.shape[1:]) if value.ndim else value
    if isinstance(value, dict):
        return {name: _repeat(part, n) for name, part in value.items()}
    return value


def _check(backbone: Backbone) -> None:
    channels = getattr(backbone.config, "in_channels", backbone.latent_channels)
    if backbone.family != "flux" and channels != backbone.latent_channels:
        raise Unsupported(
            "a text-to-image denoiser", f"one of {channels} channels (inpainting)", "fit on the base model"
        )


def _assemble(backbone: Backbone, name: str) -> Any:
    import diffusers

    parts = dict(backbone.pipe.components)
    parts["scheduler"] = copy.deepcopy(parts["scheduler"])
    if "safety_checker" in parts:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    config = backbone.pipe.config
    if config.get("force_zeros_for_empty_prompt") is not None:
        parts |= {"force_zeros_for_empty_prompt": config["force_zeros_for_empty_prompt"]}
    with quiet():  # the safety checker is left out on purpose: its black images would teach nothing
        pipe = getattr(diffusers, name)(**parts)
    if hasattr(backbone.pipe, "default_sample_size"):
        pipe.default_sample_size = backbone.pipe.default_sample_size
    pipe.set_progress_bar_config(disable=True)
    return pipe
