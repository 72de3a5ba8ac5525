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

__all__ = ["Backbone", "Encoding", "Projection", "adapter", "quiet"]


def adapter(pipe: Any) -> Backbone:
    """The adapter of ``pipe``, chosen by its pipeline class (subclasses included).

    Raises :class:`Unsupported` for anything else: ControlNet, PAG, Kontext and other pipelines stack
    or condition the denoiser in other ways, and guessing would leave images unprotected.
    """
    names = {cls.__name__ for cls in type(pipe).__mro__}
    known: list[str] = []
    for family in BACKBONES:
        cls = resolve("backbone", BACKBONES, family)
        if names & set(cls.pipelines):
            return cls(pipe)
        known += cls.pipelines[:1]
    raise Unsupported(
        f"a pipeline of a supported family ({', '.join(known)}, or their img2img and inpaint forms)",
        type(pipe).__name__,
        "load the model with one of these classes",
    )


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
