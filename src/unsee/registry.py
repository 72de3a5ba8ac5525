"""Names → things, imported when asked for. Adding a method is one file and one line here."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import UnknownName

GUARDS = {
    "negative-prompt": "unsee.guards.negative_prompt:NegativePrompt",
    "sld": "unsee.guards.sld:SLD",
}
DEFENSES = {**GUARDS}  # all that is saved as a folder: guards and weight edits
JUDGES = {
    "always.safe": "unsee.judges.always:Safe",
    "always.unsafe": "unsee.judges.always:Unsafe",
    "always.broken": "unsee.judges.always:Broken",
    "picto": "unsee.judges.picto:PictoJudge",
}
BACKBONES = {  # family → adapter
    "sd": "unsee.backbones.sd:SD",
    "sdxl": "unsee.backbones.sdxl:SDXL",
    "sd3": "unsee.backbones.sd3:SD3",
    "flux": "unsee.backbones.flux:Flux",
}


def resolve(kind: str, table: dict[str, str], name: str) -> Any:
    """The class behind ``name``; an unknown name says the nearest known one."""
    if name not in table:
        raise UnknownName(kind, name, table)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
