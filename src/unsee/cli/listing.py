"""``unsee list``: every name that a suite or a command line may say, and which package has it. Nothing is imported."""

from __future__ import annotations

from .. import registry
from ..concepts import CONCEPTS
from ..errors import UnknownName
from ..suites.suite import about, shipped

TABLES = {
    "guards": registry.GUARDS,
    "edits": registry.EDITS,
    "attacks": registry.ATTACKS,
    "judges": registry.JUDGES,
    "metrics": registry.METRICS,
    "backbones": registry.BACKBONES,
    "concepts": CONCEPTS,
}
KINDS = (*TABLES, "suites")


def rows(kind: str = "") -> list[dict[str, str]]:
    """kind, name, package and what is told of it: where it is, or what a suite is for. A name that several packages
    have is there once for each. Raises :class:`UnknownName`."""
    if kind and kind not in KINDS:
        raise UnknownName("kind of names", kind, KINDS)
    found = []
    for one, table in TABLES.items():
        offers = [(name, offer) for name in table for offer in table.offers(name)] if kind in ("", one) else []
        found += [_row(one, name, offer.package, offer.place) for name, offer in offers]
    if kind in ("", "suites"):
        found += [_row("suites", name, registry.OURS, about(path)) for name, path in shipped().items()]
    return found


def _row(kind: str, name: str, package: str, about: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "package": package, "about": about}
