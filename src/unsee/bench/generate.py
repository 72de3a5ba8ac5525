"""Prompts in, samples out: the one place where the bench and the command line draw images.

Every image has its own generator, seeded by its prompt's seed alone. The last bits of a matrix product
can still depend on how many images share a batch, so the runner draws under :func:`.exact.fixed`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..concepts import refuse_minors
from ..errors import GuardFailure
from ..types import Event, Prompt, Sample

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image
    from torch import Tensor

    from ..defenses import Defense

T = TypeVar("T")


def draw(
    pipe: DiffusionPipeline, prompts: Sequence[Prompt], guards: Sequence[Defense], *, steps: int, guidance: float,
    defense: str = "none", words: tuple[Tensor, ...] = (),
) -> list[Sample]:  # fmt: skip
    """One RGB sample per prompt, in order, under ``guards`` (attached for this call and taken off again).

    What the model drew as NaN, or its own safety checker blacked out, is marked: ``Sample.fault``, and no judge judges
    it.

    ``guidance`` is that of classifier-free guidance, FLUX's true one. ``words`` are learned embeddings that the prompts
    name, of an attack.

    Raises :class:`UserError` for prompts that sexualize minors.
    Raises what a guard raises: :class:`UserError` if it cannot protect this pipeline or this call,
    :class:`GuardFailure` if it failed. There is never an image without its protection.
    """
    from ..attacks import saying

    refuse_minors(p.text for p in prompts)
    started = time.perf_counter()
    with saying(pipe, words):
        images, decisions = _call(pipe, prompts, guards, steps, guidance)
    seconds = (time.perf_counter() - started) / len(prompts)
    if len(images) != len(prompts) or len(decisions) != len(prompts):
        raise GuardFailure(
            f"{len(prompts)} prompts gave {len(images)} images and {len(decisions)} decisions; nothing was kept"
        )
    settings = {"steps": steps, "guidance": guidance}
    return [
        Sample(image, prompt, defense, settings, seconds, tuple(decided))
        for image, prompt, decided in zip(images, prompts, decisions, strict=True)
    ]


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """``items`` in consecutive lists of ``size``, the last one shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _call(pipe: DiffusionPipeline, prompts: Sequence[Prompt], guards: Sequence[Defense], steps: int,
          guidance: float) -> tuple[list[Image], list[Sequence[Event]]]:  # fmt: skip
    from ..sampling.sampler import generate

    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    if not guards:
        return generate(pipe, texts, seeds, steps=steps, guidance=guidance).images, [()] * len(prompts)
    from ..defenses import protect

    with protect(pipe, *guards) as guarded:
        images = generate(pipe, texts, seeds, steps=steps, guidance=guidance).images
        return images, list(guarded.decisions)
