"""One name → one pipeline: ``picto``, ``tiny:FAMILY``, a diffusers folder, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import UnknownName, UserError


def load(name: str, **kwargs: Any) -> Any:
    """The pipeline called ``name``; ``kwargs`` go to ``DiffusionPipeline.from_pretrained``.

    A name with a slash that is no folder is taken for a hub id. Raises ``UserError`` with one line if there is none.
    """
    if name == "picto":
        from . import picto

        return picto.load(**kwargs)
    if name.startswith("tiny:"):
        from .backbones.tiny import tiny

        return tiny(name.removeprefix("tiny:"))
    if not Path(name).exists() and "/" not in name:
        raise UnknownName("model", name, ["picto", "tiny:sd1", "tiny:sd2-v", "tiny:sdxl", "tiny:sd3", "tiny:flux"])
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        do = "check the folder's model_index.json, the hub id, or the network"
        raise UserError("a diffusers pipeline", f"{name!r} ({reason})", do) from error
