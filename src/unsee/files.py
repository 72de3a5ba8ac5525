"""One writer, one reader and one checksum for everything that keeps tensors or settings; see also :mod:`.writing`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadFile
from .writing import whole

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


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file that :func:`save_tensors` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_toml(path: Path, file: str, what: str, do: str) -> dict[str, Any]:
    """The table of a TOML file. Raises :class:`BadFile`: ``file`` or ``what`` as TOML was expected."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BadFile(file, f"{path} ({why})", do) from None
    except ValueError as error:  # broken TOML, or not UTF-8
        why = str(error).splitlines()[0]
        raise BadFile(f"{what} as TOML", f"{path} ({why})", "mend the file at that place") from None


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON (what JSON does not know, as text), whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def contents(path: Path) -> dict[str, str]:
    """Name and SHA-256 of each file that a fit could read: ``path``, or all under it; no databases, logs or pages."""
    kept = (".json", ".safetensors", ".png", ".jpg", ".jpeg", ".webp")
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in kept)
    return {str(file.relative_to(path)): sha256(file) for file in found}


def sha256(path: str | Path) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
