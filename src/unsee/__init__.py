"""unsee: make a text-to-image diffusion pipeline unable to show a concept, and prove it.

Every guard, weight edit, attack, judge and metric of the registry is here under the name of its class; everything heavy
is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import registry

if TYPE_CHECKING:  # for editors; a test holds these to the registry
    from .attacks.concept_inversion import ConceptInversion as ConceptInversion
    from .attacks.mma import MMA as MMA
    from .attacks.p4d import P4D as P4D
    from .attacks.paraphrase import Paraphrase as Paraphrase
    from .attacks.random_tokens import RandomTokens as RandomTokens
    from .attacks.replay import Replay as Replay
    from .attacks.ring_a_bell import RingABell as RingABell
    from .attacks.sneaky import Sneaky as Sneaky
    from .attacks.unlearn_diff import UnlearnDiff as UnlearnDiff
    from .backbones import adapter as adapter
    from .backbones.tiny import tiny as tiny
    from .concepts import Concept as Concept
    from .concepts import load as load_concept  # noqa: F401
    from .defenses import protect as protect
    from .defenses.stack import Stack as Stack
    from .guards.ine import INE as INE
    from .guards.negative_prompt import NegativePrompt as NegativePrompt
    from .guards.saferedir import SafeRedir as SafeRedir
    from .guards.safree import SAFREE as SAFREE
    from .guards.sld import SLD as SLD
    from .judges.clip import ClipJudge as ClipJudge
    from .judges.nudenet import NudeNet as NudeNet
    from .judges.open_nsfw import OpenNSFW as OpenNSFW
    from .judges.picto import PictoJudge as PictoJudge
    from .judges.q16 import Q16 as Q16
    from .judges.vlm import VLM as VLM
    from .metrics.measures import ClipMeasure as ClipMeasure
    from .metrics.measures import LpipsMeasure as LpipsMeasure
    from .metrics.measures import PictoMeasure as PictoMeasure
    from .sampling.loading import load as load
    from .unlearn.ca import CA as CA
    from .unlearn.duo import Duo as Duo
    from .unlearn.esd import ESD as ESD
    from .unlearn.rece import RECE as RECE
    from .unlearn.spm import SPM as SPM
    from .unlearn.uce import UCE as UCE

__version__ = "0.1.0"

_TABLES = (registry.GUARDS, registry.EDITS, registry.ATTACKS, registry.JUDGES, registry.METRICS)
_HOMES = {
    "Concept": "unsee.concepts:Concept",
    "adapter": "unsee.backbones:adapter",
    "load": "unsee.sampling.loading:load",
    "load_concept": "unsee.concepts:load",
    "protect": "unsee.defenses:protect",
    "tiny": "unsee.backbones.tiny:tiny",
    **{place.partition(":")[2]: place for place in registry.HOLDERS.values()},
    # ours alone, whatever is installed; a name with a dot is for tests of what stands around a judge
    **{place.partition(":")[2]: place for t in _TABLES for name, place in t.own.items() if "." not in name},
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unsee' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return ["__version__", *__all__]
