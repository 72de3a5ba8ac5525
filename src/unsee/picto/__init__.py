"""picto: the embedded text-to-image model. ``load()`` gives an ordinary ``StableDiffusionPipeline``."""

from __future__ import annotations

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

    from ..backbones import quiet

    with quiet():
        pipe = StableDiffusionPipeline.from_pretrained(str(WEIGHTS / "pipeline"), local_files_only=True, **kwargs)
        pipe.set_progress_bar_config(disable=True)
        return pipe if kwargs else pipe.to(torch.float32)  # stored in half precision
