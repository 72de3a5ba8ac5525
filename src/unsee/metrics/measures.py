"""What a suite measures its images with, by name: the model family's own, or those that it names.

    metrics = { preservation = "lpips:size=64", clip_score = "clip:model=openai/clip-vit-base-patch16" }

``preservation`` takes ``lpips`` (``size=64`` as in the published tables, native without) or ``picto``; ``clip_score``
takes ``clip`` (``model=``: a folder or a hub id) or ``picto``; packages may add theirs. Without ``metrics`` it is
picto's own for picto, and for other models nothing: their columns stay empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from ..errors import UnknownName, UserError
from ..judges.clip_model import BASE
from ..registry import METRICS, resolve
from ..settings import Checked, Doc, Words, declared, spec
from ..settings import check as check_settings

if TYPE_CHECKING:
    from PIL.Image import Image

Numbers = list[float | None]
Size = Annotated[int, Field(ge=16, le=4096)]
COLUMNS = ("preservation", "clip_score")
USUAL = {"picto": {"preservation": "picto", "clip_score": "picto"}}  # model family → column → metric


class Measure(Checked):
    """Fills a column of the results, or both: those whose methods it writes.

    Its settings are the keywords of ``__init__``, with types and sentences from :mod:`unsee.settings`; ``__init__``
    raises :class:`UserError` where an extra or weights are missing. None is the number of what is no picture.
    """

    name: ClassVar[str]  # as registered

    def preservation(self, images: Sequence[Image], twins: Sequence[Image]) -> Numbers:
        """How near each image is to its undefended twin: 1 is the same picture, lower is farther off."""
        raise NotImplementedError

    def clip_score(self, images: Sequence[Image], texts: Sequence[str]) -> Numbers:
        """How well each image matches its prompt, in [0, 100]."""
        raise NotImplementedError

    @classmethod
    def fills(cls) -> tuple[str, ...]:
        """The columns that it has numbers for."""
        return tuple(column for column in COLUMNS if getattr(cls, column) is not getattr(Measure, column))


class LpipsMeasure(Measure):
    """1 - LPIPS on AlexNet, which ``unsee[metrics]`` brings."""

    name = "lpips"

    def __init__(
        self, *, size: Annotated[Size | None, Doc("Side to which images are brought; none is their own.")] = None
    ) -> None:
        from .lpips import LPIPS, PriorPreservation

        self.measure = PriorPreservation(LPIPS(size=size))

    def preservation(self, images: Sequence[Image], twins: Sequence[Image]) -> Numbers:
        return self.measure(images, twins)


class ClipMeasure(Measure):
    """The CLIP score of a CLIP of the user's."""

    name = "clip"

    def __init__(self, *, model: Annotated[Words, Doc("A folder or a hub id.")] = BASE) -> None:
        from .clip_score import ClipScore

        self.measure = ClipScore(model)

    def clip_score(self, images: Sequence[Image], texts: Sequence[str]) -> Numbers:
        return self.measure(images, texts)


class PictoMeasure(Measure):
    """Picto's own of both, of the networks that ship."""

    name = "picto"

    def __init__(self) -> None:
        from .clip_score import PictoClipScore
        from .perceptual import PictoPerceptual

        self.perceptual, self.clip = PictoPerceptual(), PictoClipScore()

    def preservation(self, images: Sequence[Image], twins: Sequence[Image]) -> Numbers:
        return self.perceptual(images, twins)

    def clip_score(self, images: Sequence[Image], texts: Sequence[str]) -> Numbers:
        return self.clip(images, texts)


def check(metrics: dict[str, str]) -> None:
    """Raise :class:`UserError` for a column, a metric or a setting that is not there, or one column of the two."""
    for column, text in metrics.items():
        _read(column, text)
    if metrics and metrics.keys() != set(COLUMNS):
        raise UserError("both metrics, or none", ", ".join(metrics), f"name {' and '.join(COLUMNS)}")


def has(model: str, metrics: dict[str, str], column: str) -> bool:
    """Whether a suite of this ``model`` with these ``metrics`` has numbers in ``column``."""
    return column in (metrics or USUAL.get(model, {}))


def opened(model: str, metrics: dict[str, str]) -> dict[str, Callable[..., Numbers]]:
    """Column → what fills it, ready. Raises :class:`UserError` where an extra or weights are missing."""
    wanted = metrics or USUAL.get(model, {})
    read = {column: _read(column, text) for column, text in wanted.items()}
    made = {text: read[column][0](**read[column][1]) for column, text in wanted.items()}  # one for both, where it can
    return {column: getattr(made[text], column) for column, text in wanted.items()}


def _read(column: str, text: Any) -> tuple[type[Measure], dict[str, Any]]:
    if column not in COLUMNS:
        raise UnknownName("metric of a suite", column, COLUMNS)
    if not isinstance(text, str):
        raise UserError("an extractor as text", repr(text), 'write for example preservation = "lpips:size=64"')
    told = spec(text)
    kind: type[Measure] = resolve(f"extractor for {column}", METRICS, told.name)
    if column not in kind.fills():
        got = f"{told.name}, which measures {' and '.join(kind.fills()) or 'nothing'}"
        raise UserError(f"an extractor for {column}", got, "name another one")
    check_settings(told.settings, declared(kind), f"the extractor {told.name}", complete=True)
    return kind, told.settings
