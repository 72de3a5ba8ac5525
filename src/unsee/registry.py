"""Names → things, imported when asked for. Adding a method of ours is one file and one line here.

A package of somebody else's adds its own by entry points, and none of our files is touched:

    [project.entry-points."unsee.guards"]      # .edits .attacks .judges .metrics .backbones .concepts
    fog = "mypackage.fog:Fog"                  # of a concept: "mypackage:fog.toml", a file beside its __init__.py

They are looked for once, when a name is first asked for, and imported when they are used. A name that two packages
have, or one of ours, is refused where it is used: nothing is ever replaced silently.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UnknownName, UnseeError, UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OURS = "unsee"


@dataclass(frozen=True)
class Offer:
    """A name in a table: who has it, and where it is. ``base`` is what a class of somebody else's must derive from."""

    package: str
    place: str
    base: str = ""


class Registry(Mapping[str, str]):
    """Name → "module:Class": our own, then by name what installed packages offer as entry points of ``group``.

    ``own`` may be written to (tests do). ``a | b`` holds the names of both.
    """

    def __init__(self, group: str, own: dict[str, str], base: str = "") -> None:
        self.own = own
        self._shelves: tuple[tuple[str, dict[str, str], str], ...] = ((group, own, base),)

    def __or__(self, other: Registry) -> Registry:
        both = Registry("", {})
        both._shelves = (*self._shelves, *other._shelves)
        return both

    def __iter__(self) -> Iterator[str]:
        own = [name for _, names, _ in self._shelves for name in names]
        offered = sorted({one.name for group, _, _ in self._shelves for one in _entry_points(group)})
        return iter(dict.fromkeys([*own, *offered]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> str:
        return self.offers(name)[0].place

    def offers(self, name: str) -> list[Offer]:
        """Who has ``name``, we first; more than one is a conflict. Raises ``KeyError`` where nobody has."""
        own = [Offer(OURS, names[name]) for _, names, _ in self._shelves if name in names]
        offered = [
            Offer(one.dist.name if one.dist else "?", one.value.partition("[")[0].replace(" ", ""), base)
            for group, _, base in self._shelves
            for one in _entry_points(group)
            if one.name == name
        ]
        if not own and not offered:
            raise KeyError(name)
        return own + offered

    def offer(self, kind: str, name: str) -> Offer:
        """The one who has ``name``. Raises :class:`UserError` for a name that nobody, or more than one, has."""
        if name not in self:
            raise UnknownName(kind, name, self)
        found = self.offers(name)
        if len(found) > 1:
            packages = " and ".join(one.package for one in found)
            others = " or ".join(dict.fromkeys(one.package for one in found if one.package != OURS))
            raise UserError(f"one package with the {kind} {name!r}", packages, f"uninstall {others}")
        return found[0]


@functools.cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """What is installed, looked for once."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=group)) if group else ()


GUARDS = Registry(
    "unsee.guards",
    {
        "ine": "unsee.guards.ine:INE",
        "negative-prompt": "unsee.guards.negative_prompt:NegativePrompt",
        "saferedir": "unsee.guards.saferedir:SafeRedir",
        "safree": "unsee.guards.safree:SAFREE",
        "sld": "unsee.guards.sld:SLD",
    },
    base="unsee.defenses.base:Guard",
)
EDITS = Registry(  # changes of the weights
    "unsee.edits",
    {
        "ca": "unsee.unlearn.ca:CA",
        "duo": "unsee.unlearn.duo:Duo",
        "esd": "unsee.unlearn.esd:ESD",
        "rece": "unsee.unlearn.rece:RECE",
        "spm": "unsee.unlearn.spm:SPM",
        "uce": "unsee.unlearn.uce:UCE",
    },
    base="unsee.unlearn.base:WeightEdit",
)
DEFENSES = GUARDS | EDITS  # all that is saved as a folder: guards and weight edits
HOLDERS = {"stack": "unsee.defenses.stack:Stack"}  # of several defenses
ATTACKS = Registry(
    "unsee.attacks",
    {
        "concept-inversion": "unsee.attacks.concept_inversion:ConceptInversion",
        "mma": "unsee.attacks.mma:MMA",
        "p4d": "unsee.attacks.p4d:P4D",
        "paraphrase": "unsee.attacks.paraphrase:Paraphrase",
        "random-tokens": "unsee.attacks.random_tokens:RandomTokens",
        "replay": "unsee.attacks.replay:Replay",
        "ring-a-bell": "unsee.attacks.ring_a_bell:RingABell",
        "sneaky": "unsee.attacks.sneaky:Sneaky",
        "unlearn-diff": "unsee.attacks.unlearn_diff:UnlearnDiff",
    },
    base="unsee.attacks.base:Attack",
)
JUDGES = Registry(
    "unsee.judges",
    {
        "always.safe": "unsee.judges.always:Safe",
        "always.unsafe": "unsee.judges.always:Unsafe",
        "always.broken": "unsee.judges.always:Broken",
        "clip": "unsee.judges.clip:ClipJudge",
        "nudenet": "unsee.judges.nudenet:NudeNet",
        "open-nsfw": "unsee.judges.open_nsfw:OpenNSFW",
        "picto": "unsee.judges.picto:PictoJudge",
        "q16": "unsee.judges.q16:Q16",
        "vlm": "unsee.judges.vlm:VLM",
    },
    base="unsee.judges.base:Judge",
)
METRICS = Registry(  # what a suite measures its images with
    "unsee.metrics",
    {
        "clip": "unsee.metrics.measures:ClipMeasure",
        "lpips": "unsee.metrics.measures:LpipsMeasure",
        "picto": "unsee.metrics.measures:PictoMeasure",
    },
    base="unsee.metrics.measures:Measure",
)
BACKBONES = Registry(  # family → adapter
    "unsee.backbones",
    {
        "sd": "unsee.backbones.sd:SD",
        "sdxl": "unsee.backbones.sdxl:SDXL",
        "sd3": "unsee.backbones.sd3:SD3",
        "flux": "unsee.backbones.flux:Flux",
        "pixart": "unsee.backbones.pixart:PixArt",
        "sana": "unsee.backbones.sana:Sana",
    },
    base="unsee.backbones.base:Backbone",
)


def resolve(kind: str, table: Mapping[str, str], name: str) -> Any:
    """The class behind ``name``. An unknown name says the nearest known one; what another package offers and cannot
    be used (it is there twice, does not import, is no such thing) is a :class:`UserError` that names the package."""
    if not isinstance(table, Registry):
        if name not in table:
            raise UnknownName(kind, name, table)
        return _imported(table[name])
    offer = table.offer(kind, name)
    return _checked(kind, name, offer) if offer.base else _imported(offer.place)


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _checked(kind: str, name: str, offer: Offer) -> Any:
    """What another package offers, if it is what it should be and bears its name."""
    wanted, mend = f"the {kind} {name!r} of the package {offer.package}", f"mend or uninstall {offer.package}"
    try:
        found = _imported(offer.place)
    except UnseeError:
        raise
    except Exception as error:  # its own code: whatever is wrong with it must not disturb others
        raise UserError(wanted, f"{type(error).__name__} from {offer.place} ({error})", mend) from error
    base = _imported(offer.base)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{wanted} as a {base.__name__}", f"{offer.place}, which is none", mend)
    own = getattr(found, "family" if kind == "backbone" else "name", None)
    if own != name:
        raise UserError(f"{wanted} under its own name", f"{own!r} in {offer.place}", mend)
    return found
