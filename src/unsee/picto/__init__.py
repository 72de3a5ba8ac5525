"""picto: the embedded text-to-image model. ``load()`` gives an ordinary ``StableDiffusionPipeline``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

WEIGHTS = Path(__file__).with_name("weights")
DEFENSES = Path(__file__).with_name("defenses")  # fitted ones that ship: picto/NAME on the command line
STEPS, GUIDANCE = 25, 4.0  # what evaluate.py and the shipped suites use


def load(**kwargs: Any) -> StableDiffusionPipeline:
    """The picto pipeline in float32 on the CPU, 64×64 px, at most 24 tokens; reads the package's own files only.

    ``kwargs`` go to ``from_pretrained``; with any given, the dtype is theirs to set.

    >>> pipe = load()
    >>> image = pipe("a hammer in noto style", num_inference_steps=25, guidance_scale=4.0).images[0]
    """
    import torch
    from diffusers import StableDiffusionPipeline

    with _quiet():
        pipe = StableDiffusionPipeline.from_pretrained(str(WEIGHTS / "pipeline"), local_files_only=True, **kwargs)
        pipe.set_progress_bar_config(disable=True)
        return pipe if kwargs else pipe.to(torch.float32)  # stored in half precision


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice of the two libraries while a second's worth of loading goes on."""
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
