"""The one seam to diffusers: what a method needs to know of a pipeline, asked of one object.

    backbone = adapter(pipe)          # SD 1.x/2.x, SDXL, SD3 or FLUX, any of their three tasks
    backbone.encode(["a dagger"])     # tokens, pooled, ids, masks

Importing this package imports no diffusers pipeline; :mod:`unsee.backbones.tiny` builds random ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import Unsupported, UserError
from ..registry import BACKBONES, resolve
from .base import Backbone, Encoding, Projection, TextPart
from .weights import unwrap

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["Backbone", "Encoding", "Projection", "TextPart", "adapter", "is_known", "quiet", "weights_adapter"]


def adapter(pipe: DiffusionPipeline) -> Backbone:
    """The adapter of ``pipe``, chosen by its pipeline class (subclasses included).

    Raises :class:`Unsupported` for anything else: ControlNet, PAG, Kontext and other pipelines stack
    or condition the denoiser in other ways, and guessing would leave images unprotected.
    """
    found = _family(pipe)
    if found is not None:
        return found(pipe)
    families, broken = _families()
    known = ", ".join(cls.pipelines[0] for cls in families)
    raise Unsupported(
        f"a pipeline of a supported family ({known}, or their img2img and inpaint forms)",
        type(pipe).__name__,
        "load the model with one of these classes" + "".join(f"; also, {error}" for error in broken[:1]),
    )


def is_known(pipe: DiffusionPipeline) -> bool:
    """Whether :func:`adapter` understands the calls of this pipeline."""
    return _family(pipe) is not None


def _family(pipe: DiffusionPipeline) -> type[Backbone] | None:
    """The family that knows the pipeline's class, or else the nearest of the classes that it derives from.

    Raises :class:`UserError` where two families say that they know that class; and where it is no more than a base
    while a package's family, which may know the pipeline itself, cannot be imported.
    """
    families, broken = _families()
    for cls in type(pipe).__mro__:
        found = [family for family in families if cls.__name__ in family.pipelines]
        if len(found) > 1:
            both = " and ".join(family.__module__ for family in found)
            raise UserError(f"one family for {cls.__name__}", both, "uninstall one of the packages")
        if found and broken and cls.__name__ != type(pipe).__name__:
            raise broken[0]
        if found:
            return found[0]
    return None


def _families() -> tuple[list[type[Backbone]], list[UserError]]:
    """All that can be imported, and what is wrong with the others."""
    found, broken = [], []
    for name in BACKBONES:
        try:
            found.append(resolve("backbone", BACKBONES, name))
        except UserError as error:
            broken.append(error)
    return found, broken


def weights_adapter(pipe: DiffusionPipeline) -> Backbone:
    """The adapter for what touches weights alone, whose pipeline may be of any task: ControlNet, PAG, T2I-adapter …

    Of a pipeline that :func:`adapter` refuses, only the denoiser, its projections and the fingerprints may be asked.
    """
    try:
        return adapter(pipe)
    except Unsupported:
        for cls in reversed(_families()[0]):  # SDXL before SD: both have the same class of UNet
            held = getattr(pipe, cls.denoiser_name, None)
            denoiser = None if held is None else unwrap(held)
            second = getattr(pipe, "text_encoder_2", None) is not None
            if type(denoiser).__name__ == cls.denoiser_class and second == cls.second_encoder:
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
