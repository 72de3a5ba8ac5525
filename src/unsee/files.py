"""Files, whole or not there; one writer, one reader and one checksum for everything that keeps tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file that :func:`save_tensors` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def sha256(path: str | Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
