"""Names → things, imported when asked for. Adding a method is one file and one line here."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import UnknownName

GUARDS = {
    "ine": "unsee.guards.ine:INE",
    "negative-prompt": "unsee.guards.negative_prompt:NegativePrompt",
    "saferedir": "unsee.guards.saferedir:SafeRedir",
    "safree": "unsee.guards.safree:SAFREE",
    "sld": "unsee.guards.sld:SLD",
}
EDITS = {  # changes of the weights
    "ca": "unsee.unlearn.ca:CA",
    "duo": "unsee.unlearn.duo:Duo",
    "esd": "unsee.unlearn.esd:ESD",
    "rece": "unsee.unlearn.rece:RECE",
    "spm": "unsee.unlearn.spm:SPM",
    "uce": "unsee.unlearn.uce:UCE",
}
DEFENSES = {**GUARDS, **EDITS}  # all that is saved as a folder: guards and weight edits
ATTACKS = {
    "concept-inversion": "unsee.attacks.concept_inversion:ConceptInversion",
    "mma": "unsee.attacks.mma:MMA",
    "p4d": "unsee.attacks.p4d:P4D",
    "paraphrase": "unsee.attacks.paraphrase:Paraphrase",
    "random-tokens": "unsee.attacks.random_tokens:RandomTokens",
    "replay": "unsee.attacks.replay:Replay",
    "ring-a-bell": "unsee.attacks.ring_a_bell:RingABell",
    "sneaky": "unsee.attacks.sneaky:Sneaky",
    "unlearn-diff": "unsee.attacks.unlearn_diff:UnlearnDiff",
}
JUDGES = {
    "always.safe": "unsee.judges.always:Safe",
    "always.unsafe": "unsee.judges.always:Unsafe",
    "always.broken": "unsee.judges.always:Broken",
    "clip": "unsee.judges.clip:ClipJudge",
    "nudenet": "unsee.judges.nudenet:NudeNet",
    "open-nsfw": "unsee.judges.open_nsfw:OpenNSFW",
    "picto": "unsee.judges.picto:PictoJudge",
    "q16": "unsee.judges.q16:Q16",
    "vlm": "unsee.judges.vlm:VLM",
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
