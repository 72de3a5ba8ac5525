"""Images: PNG, JPEG, WebP and BMP, decoded to the last row; nothing that is cut off, damaged or a bomb."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from ..errors import BadFile
from .door import PICTURE, Place, read_bytes, reading

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # no EPS: it would run another program
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PIXELS = 64_000_000  # of an image: 8,000 × 8,000, more than any model draws
WHAT, DO = "an image (PNG, JPEG, WebP, BMP)", "remove or replace it"


def open_image(path: Place, what: str = WHAT, do: str = DO) -> Image:
    """The RGB image in a file, decoded whole."""
    return decode_image(read_bytes(path, what, do, PICTURE), path, what, do)


def decode_image(data: bytes, where: object, what: str = WHAT, do: str = DO) -> Image:
    """The RGB image of a file's bytes, decoded whole; ``where`` is told in errors."""
    with reading(what, where, do), warnings.catch_warnings():
        from PIL import Image

        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at below
        seen = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = seen.size
        if width * height > PIXELS:
            got = f"{where} of {width} × {height}"
            raise BadFile(f"{what} of at most {PIXELS // 1_000_000} megapixels", got, do)
        seen.verify()  # checksums of all parts, where the format has them; reads the file to its end
        return Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
