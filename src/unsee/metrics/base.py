"""The contract of a metric: a callable that says its name, its range and which way is better.

Classes state the three as attributes; functions are given them by :func:`metric`. The docstring has the formula.
What a metric takes is its own: verdicts, images with twins, images with texts. What is not there is ``None``, and so
is the number of what is no picture (see :mod:`unsee.pictures`): damaged, blank, NaN, blacked out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from ..errors import UserError
from ..pictures import fault

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class Metric(Protocol):
    """``range`` is (lowest, highest) with infinities where there is no bound."""

    name: str
    higher_is_better: bool
    range: tuple[float, float]

    def __call__(self, *args: Any, **kwargs: Any) -> object: ...


def metric(
    name: str, *, higher_is_better: bool, range: tuple[float, float]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a :class:`Metric`; it stays the function that it is."""

    def describe(function: Callable[P, R]) -> Callable[P, R]:
        vars(function).update(name=name, higher_is_better=higher_is_better, range=range)
        return function

    return describe


def of_pictures(
    measure: Callable[[list[Any], list[Any]], list[float]], images: Sequence[Image], others: Sequence[Any]
) -> list[float | None]:
    """``measure`` over the pairs of which both are pictures (or a picture and a text); None for the other pairs.

    Raises ``ValueError`` if the lists differ in length.
    """
    pairs = list(zip(images, others, strict=True))
    sound = [
        i for i, (one, other) in enumerate(pairs) if not (fault(one) or (not isinstance(other, str) and fault(other)))
    ]
    found: list[float | None] = [None] * len(pairs)
    values = measure([pairs[i][0] for i in sound], [pairs[i][1] for i in sound]) if sound else []
    for i, value in zip(sound, values, strict=True):
        found[i] = float(value)
    return found


def stacked(images: Sequence[Image], size: int | None = None) -> np.ndarray:
    """RGB images → ``(B, H, W, 3)`` uint8; with ``size`` every image is made size × size (bicubic, antialiased).

    Raises :class:`UserError` for images of several sizes.
    """
    import numpy as np

    rgb = [image.convert("RGB") for image in images]
    if size is not None:
        rgb = [image if image.size == (size, size) else image.resize((size, size)) for image in rgb]
    sizes = sorted({image.size for image in rgb})
    if len(sizes) > 1:
        raise UserError("images of one size", " and ".join(f"{w}×{h}" for w, h in sizes), "measure them apart")
    return np.stack([np.asarray(image) for image in rgb])
