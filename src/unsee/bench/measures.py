"""Which extractors a suite measures its images with: those of the model's family, or those that it names.

    metrics = { preservation = "lpips:size=64", clip_score = "clip:model=openai/clip-vit-base-patch16" }

``preservation`` takes ``lpips`` (``size=64`` as in the published tables, native without) or ``picto``; ``clip_score``
takes ``clip`` (``model=``: a folder or a hub id) or ``picto``. Without ``metrics`` it is picto's own for picto, and for
other models nothing: their columns stay empty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from ..errors import UnknownName, UserError
from ..settings import NONE, Setting, Words, parse
from ..settings import check as check_settings
from . import models

KNOWN = {"preservation": ("lpips", "picto"), "clip_score": ("clip", "picto")}
Size = Annotated[int, Field(ge=16, le=4096)]
TAKES: dict[str, dict[str, Setting]] = {
    "lpips": {"size": Setting("size", Size | None, None, "Side to which images are brought; none is their own.")},
    "clip": {"model": Setting("model", Words, NONE, "A folder or a hub id.")},
    "picto": {},
}


def check(metrics: dict[str, str]) -> None:
    """Raise :class:`UserError` for a metric, an extractor or a setting that is not there, or one metric of the two."""
    for metric, text in metrics.items():
        if metric not in KNOWN:
            raise UnknownName("metric of a suite", metric, KNOWN)
        name, given = _parsed(text)
        if name not in KNOWN[metric]:
            raise UnknownName(f"extractor for {metric}", name, KNOWN[metric])
        check_settings(given, TAKES[name], f"the extractor {name}")
    if metrics and metrics.keys() != KNOWN.keys():
        raise UserError("both metrics, or none", ", ".join(metrics), f"name {' and '.join(KNOWN)}")


def extractors(model: str, metrics: dict[str, str]) -> dict[str, Callable[..., list[float | None]]]:
    """Metric → extractor, ready. Raises :class:`UserError` where an extra or weights are missing."""
    if not metrics:
        return models.extractors(model)
    return {metric: _opened(metric, *_parsed(text)) for metric, text in metrics.items()}


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(text, str):
        raise UserError("an extractor as text", repr(text), 'write for example preservation = "lpips:size=64"')
    name, _, rest = text.partition(":")
    return name, parse(rest.split(","))


def _opened(metric: str, name: str, given: dict[str, Any]) -> Callable[..., list[float | None]]:
    if name == "picto":
        return models.extractors("picto")[metric]
    if name == "lpips":
        from ..metrics.lpips import LPIPS, PriorPreservation

        return PriorPreservation(LPIPS(**given))
    from ..metrics.clip_score import ClipScore

    return ClipScore(**given)
