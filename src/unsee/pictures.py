"""What a picture must be before anybody may say anything of it, and the one way to draw that notices what is none.

A pipeline hides its failures in black pictures: NaN is cast to 0, and a safety checker blacks out what it flags. So
:func:`drawn` looks at the numbers before they become a picture, and writes on the picture why it is none. The mark
travels with it: through copies, workers and PNG files. :func:`fault` reads it, and finds what is damaged, blank or of
no use by itself. Every judge and every metric asks it first.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

MARK = "unsee-fault"  # of Image.info, and of a PNG's text
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # 8 bits or 1
LEAST = 8  # pixels of a side
LEVELS = 8  # of 255: what is nearer to the commonest brightness of its channel does not differ from it
SHARE = 1 / 2000  # of the pixels that must differ in some channel
BLACKED_OUT = "the pipeline's own safety checker blacked it out"
NOT_FINITE = "not finite: the model drew NaN or infinity"


def fault(image: Any) -> str:
    """Why ``image`` is no picture that can be judged or measured; empty where it is one. Decodes it whole.

    A picture is blank where less than ``SHARE`` of its pixels lie more than ``LEVELS`` from the median of their
    channel, in every channel: a small icon on white is none, one speck on black or noise of a few levels is.

    >>> from PIL import Image
    >>> fault(Image.new("RGB", (64, 64), "white"))
    'blank: all of one color'
    """
    from PIL import Image

    if not isinstance(image, Image.Image):
        return f"no picture but {type(image).__name__}"
    if marked := image.info.get(MARK):
        return str(marked)
    if min(image.size) < LEAST:
        return f"{image.width} × {image.height} pixels, where {LEAST} × {LEAST} are the least"
    if image.mode not in MODES:
        return f"of mode {image.mode}, whose range is not known"
    try:
        rgb = image.convert("RGB")
    except Exception as error:  # of a decoder: Pillow's plug-ins share no base
        why = " ".join(str(error).split()) or type(error).__name__
        mark(image, f"damaged: {why[:120]}")  # Pillow says so once; the next time it shows what it had of the file
        return str(image.info[MARK])
    return _blank(rgb)


def mark(image: Image, reason: str) -> Image:
    """Writes on ``image`` that it is no picture, and why; returns it."""
    image.info[MARK] = reason
    return image


def save_png(image: Image, file: str | Path | IO[bytes]) -> None:
    """As an RGB PNG, with its mark if it has one."""
    from PIL.PngImagePlugin import PngInfo

    more = None
    if MARK in image.info:
        more = PngInfo()
        more.add_text(MARK, str(image.info[MARK]))
    image.convert("RGB").save(file, format="PNG", pnginfo=more)


def _blank(rgb: Image) -> str:
    channels = _channels(rgb.histogram())
    if all(max(counts) == sum(counts) for counts in channels):
        return "blank: all of one color"
    return "" if any(map(_differs, channels)) else "blank: nothing differs from its ground"


def _channels(histogram: list[int]) -> list[list[int]]:
    return [histogram[start : start + 256] for start in range(0, len(histogram), 256)]


def _differs(counts: list[int]) -> bool:
    """Whether enough pixels of a channel, given as its histogram, lie far from their median."""
    total, below, median = sum(counts), 0, 0
    for median, count in enumerate(counts):  # noqa: B007
        below += count
        if 2 * below >= total:
            break
    near = sum(counts[max(0, median - LEVELS) : median + LEVELS + 1])
    return total - near >= SHARE * total
