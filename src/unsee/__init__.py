"""unsee: make a text-to-image diffusion pipeline unable to show a concept, and prove it.

Everything heavy is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "CA",
    "Concept",
    "ConceptInversion",
    "Duo",
    "ESD",
    "INE",
    "MMA",
    "NegativePrompt",
    "P4D",
    "Paraphrase",
    "PictoJudge",
    "RECE",
    "RandomTokens",
    "RingABell",
    "SAFREE",
    "SLD",
    "SPM",
    "SafeRedir",
    "Sneaky",
    "Stack",
    "UCE",
    "UnlearnDiff",
    "adapter",
    "load",
    "load_concept",
    "protect",
    "tiny",
]

_HOMES = {
    "CA": ("unsee.unlearn.ca", "CA"),
    "Concept": ("unsee.concepts", "Concept"),
    "ConceptInversion": ("unsee.attacks.concept_inversion", "ConceptInversion"),
    "Duo": ("unsee.unlearn.duo", "Duo"),
    "ESD": ("unsee.unlearn.esd", "ESD"),
    "INE": ("unsee.guards.ine", "INE"),
    "MMA": ("unsee.attacks.mma", "MMA"),
    "NegativePrompt": ("unsee.guards.negative_prompt", "NegativePrompt"),
    "P4D": ("unsee.attacks.p4d", "P4D"),
    "Paraphrase": ("unsee.attacks.paraphrase", "Paraphrase"),
    "PictoJudge": ("unsee.judges.picto", "PictoJudge"),
    "RECE": ("unsee.unlearn.rece", "RECE"),
    "RandomTokens": ("unsee.attacks.random_tokens", "RandomTokens"),
    "RingABell": ("unsee.attacks.ring_a_bell", "RingABell"),
    "SAFREE": ("unsee.guards.safree", "SAFREE"),
    "SLD": ("unsee.guards.sld", "SLD"),
    "SPM": ("unsee.unlearn.spm", "SPM"),
    "SafeRedir": ("unsee.guards.saferedir", "SafeRedir"),
    "Sneaky": ("unsee.attacks.sneaky", "Sneaky"),
    "Stack": ("unsee.guards.stack", "Stack"),
    "UCE": ("unsee.unlearn.uce", "UCE"),
    "UnlearnDiff": ("unsee.attacks.unlearn_diff", "UnlearnDiff"),
    "adapter": ("unsee.backbones", "adapter"),
    "load": ("unsee.models", "load"),
    "load_concept": ("unsee.concepts", "load"),
    "protect": ("unsee.guards", "protect"),
    "tiny": ("unsee.backbones.tiny", "tiny"),
}

if TYPE_CHECKING:
    from .attacks.concept_inversion import ConceptInversion
    from .attacks.mma import MMA
    from .attacks.p4d import P4D
    from .attacks.paraphrase import Paraphrase
    from .attacks.random_tokens import RandomTokens
    from .attacks.ring_a_bell import RingABell
    from .attacks.sneaky import Sneaky
    from .attacks.unlearn_diff import UnlearnDiff
    from .backbones import adapter
    from .backbones.tiny import tiny
    from .concepts import Concept
    from .concepts import load as load_concept
    from .guards import protect
    from .guards.ine import INE
    from .guards.negative_prompt import NegativePrompt
    from .guards.saferedir import SafeRedir
    from .guards.safree import SAFREE
    from .guards.sld import SLD
    from .guards.stack import Stack
    from .judges.picto import PictoJudge
    from .models import load
    from .unlearn.ca import CA
    from .unlearn.duo import Duo
    from .unlearn.esd import ESD
    from .unlearn.rece import RECE
    from .unlearn.spm import SPM
    from .unlearn.uce import UCE


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unsee' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
