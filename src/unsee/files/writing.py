"""Files, whole or not there; one writer and one checksum for everything that keeps tensors or settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .door import WEIGHTS, reading, regular

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to, renamed to ``path`` if the block ends well: no part is taken for a whole."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    yield fresh
    os.replace(fresh, path)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """One safetensors file, whole or not at all. Returns ``path``."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as fresh:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, fresh, metadata)
    return path


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
