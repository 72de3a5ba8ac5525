"""Settings that depend on the model: what is not given is the paper's, or picto's own for concepts of picto.

picto is a hundredth of Stable Diffusion's size, predicts v on 8 × 8 latents and reads 24 tokens of width 128; no
learning rate or weight that was published for SD 1.4 means the same there.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UnknownName

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..settings import Settings

T = TypeVar("T")
NAMES = ("paper", "picto")
Settled = Any  # a training in which every None has become the preset's value; its fields are those of the method's
GUIDANCE = 7.5  # Stable Diffusion's


def settled(training: T, concept: Concept, presets: dict[str, Settings], family: str = "") -> T:
    """``training`` with each None replaced by the preset's value: ``picto`` or ``paper``, as its own ``preset`` says or
    else the concept's models. What a preset has of its own for a ``family`` of models (``paper-sd3``) comes first.
    Without presets it stays as it is. Raises :class:`UnknownName` for another preset.

    >>> from unsee import concepts
    >>> from unsee.unlearn.duo.train import DuoTraining, PRESETS
    >>> settled(DuoTraining(), concepts.load("nudity"), PRESETS).base_lr
    0.0003
    """
    if not presets:
        return training
    name = getattr(training, "preset", None) or ("picto" if concept.models == "picto" else "paper")
    if name not in NAMES:
        raise UnknownName("preset", name, NAMES)
    usual = {**presets[name], **presets.get(f"{name}-{family}", {})}
    own = [f.name for f in fields(training) if getattr(training, f.name) is None]  # type: ignore[arg-type]
    return replace(training, **{one: usual[one] for one in own if one != "preset"})  # type: ignore[type-var]


def guidance_for(concept: Concept, given: float) -> float:
    """``given``, or where it is 0 what the concept's models are drawn with: picto's own, else 7.5."""
    from .. import picto

    return given or (picto.GUIDANCE if concept.models == "picto" else GUIDANCE)
