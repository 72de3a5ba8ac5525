"""The one seam to diffusers: what a method needs to know of a pipeline, asked of one object.

    backbone = adapter(pipe)          # SD 1.x/2.x, SDXL, SD3 or FLUX, any of their three tasks
    backbone.encode(["a dagger"])     # tokens, pooled, ids, masks

Importing this package imports no diffusers pipeline; :mod:`unsee.backbones.tiny` builds random ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import Unsupported
from ..registry import BACKBONES, resolve
from .base import Backbone, Encoding, Projection
from .weights import unwrap

__all__ = ["Backbone", "Encoding", "Projection", "adapter", "is_known", "quiet", "weights_adapter"]


def adapter(pipe: Any) -> Backbone:
    """The adapter of ``pipe``, chosen by its pipeline class (subclasses included).

    Raises :class:`Unsupported` for anything else: ControlNet, PAG, Kontext and other pipelines stack
    or condition the denoiser in other ways, and guessing would leave images unprotected.
    """
    found = _family(pipe)
    if found is not None:
        return found(pipe)
    known = [resolve("backbone", BACKBONES, family).pipelines[0] for family in BACKBONES]
    raise Unsupported(
        f"a pipeline of a supported family ({', '.join(known)}, or their img2img and inpaint forms)",
        type(pipe).__name__,
        "load the model with one of these classes",
    )


def is_known(pipe: Any) -> bool:
    """Whether :func:`adapter` understands the calls of this pipeline."""
    return _family(pipe) is not None


def _family(pipe: Any) -> type[Backbone] | None:
    names = {cls.__name__ for cls in type(pipe).__mro__}
    families = (resolve("backbone", BACKBONES, family) for family in BACKBONES)
    return next((cls for cls in families if names & set(cls.pipelines)), None)


def weights_adapter(pipe: Any) -> Backbone:
    """The adapter for what touches weights alone, whose pipeline may be of any task: ControlNet, PAG, T2I-adapter …

    Of a pipeline that :func:`adapter` refuses, only the denoiser, its projections and the fingerprints may be asked.
    """
    try:
        return adapter(pipe)
    except Unsupported:
        for family in reversed(BACKBONES):  # SDXL before SD: both have the same class of UNet
            cls = resolve("backbone", BACKBONES, family)
            held = getattr(pipe, cls.denoiser_name, None)
            denoiser = None if held is None else unwrap(held)
            second = getattr(pipe, "text_encoder_2", None) is not None
            if type(denoiser).__name__ == cls.denoiser_class and second == (cls.family != "sd"):
                return cls(pipe)
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice of diffusers and transformers meanwhile."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = (diffusers_logging, transformers_logging)
    levels = [log.get_verbosity() for log in loggings]
    bars = [log.is_progress_bar_enabled() for log in loggings]
    try:
        for log in loggings:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, level, bar in zip(loggings, levels, bars, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()
