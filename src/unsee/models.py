"""One name → one pipeline: ``picto``, ``tiny:FAMILY``, a diffusers folder, or a hub id."""

from __future__ import annotations

from typing import Any

from .errors import UnknownName
from .files import exists, reading


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
    if not exists(name) and "/" not in name:
        raise UnknownName("model", name, ["picto", "tiny:sd1", "tiny:sd2-v", "tiny:sdxl", "tiny:sd3", "tiny:flux"])
    from diffusers import DiffusionPipeline

    with reading("a diffusers pipeline", repr(name), "check the folder's model_index.json, the hub id, or the network"):
        return DiffusionPipeline.from_pretrained(name, **kwargs)
