"""One writer and one checksum for everything that keeps tensors or settings; see also :mod:`unsee.writing`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..writing import whole
from .door import WEIGHTS, reading, regular

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """One safetensors file, whole or not at all. Returns ``path``. Raises :class:`Unwritable`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with whole(path) as fresh:
        try:
            save_file(plain, fresh, metadata)
        except SafetensorError as error:  # an OSError in words: "… (os error 28)"
            code = re.search(r"\(os error (\d+)\)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    return path


compact_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # of a value, always the same text


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON (what JSON does not know, as text), whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def contents(path: Path) -> dict[str, str]:
    """Name and SHA-256 of each file that a fit could read: ``path``, or all under it; no databases, logs or pages."""
    kept = (".json", ".safetensors", ".png", ".jpg", ".jpeg", ".webp")
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in kept)
    return {str(file.relative_to(path)): sha256(file) for file in found}


def sha256(path: str | Path, what: str = "a file to read", do: str = "check the path") -> str:
    """Of a file's bytes. Raises :class:`BadFile` for what cannot be read to its end."""
    regular(path, what, do, WEIGHTS)
    with reading(what, path, do), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
