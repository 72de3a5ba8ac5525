"""Concepts: what is to be unseen, loaded from TOML. Some ship with the package, users write their own.

>>> from unsee import concepts
>>> weapon = concepts.load("weapon")  # or a path: concepts.load("my/logo.toml")
>>> len(weapon.prompts("plain", "held-out", n=20, seed=0))
20
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from ..errors import BadFile, UnknownName, UserError
from ..files import inside, named, read_toml
from ..registry import OURS, Offer, Registry
from ..settings import shown
from .concept import Concept
from .description import Subject, Thing
from .prompts import article
from .refusal import refuse_minors

__all__ = ["Concept", "Subject", "Thing", "article", "load", "names", "refuse_minors", "sound_concept"]

SHIPPED = Path(__file__).parent
INCLUDED = "_"  # files that start so are parts which concepts include, not concepts
CONCEPTS = Registry(  # ours are the files of this folder
    "unsee.concepts",
    {p.stem: f"{__name__}:{p.name}" for p in sorted(SHIPPED.glob("*.toml")) if not p.stem.startswith(INCLUDED)},
)


def names() -> list[str]:
    """The concepts that ship, with us or with an installed package, sorted."""
    return sorted(CONCEPTS)


def load(name_or_path: str | Path) -> Concept:
    """A concept that ships by name, or a user's own by the path of its TOML file.

    Raises ``UnknownName`` for a name that does not ship, ``BadFile`` for a file that is missing, broken, or has
    a key too many or too few, ``UserError`` for terms that sexualize minors.

    >>> load("weapon").target
    'weapon'
    """
    with _found(name_or_path) as path:
        return _load(path)


def _load(path: Path) -> Concept:
    data = _read(path)
    parts = data.pop("include", [])
    if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts):
        raise BadFile(f"include = [names] in {path.name}", repr(parts), 'write include = ["picto"] or leave it out')
    merged: dict[str, object] = {}
    for part in parts:
        merged |= _read(_find_part(part, path))
    try:
        return Concept.model_validate(merged | data)
    except ValidationError as error:
        raise _bad_file(path, error) from None


def sound_concept(concept: object) -> Concept:
    """``concept`` itself. Raises :class:`UserError` for a name or a path in its place, which :func:`load` takes."""
    if isinstance(concept, Concept):
        return concept
    named = isinstance(concept, (str, Path))
    do = f"write unsee.load_concept({str(concept)[:60]!r})" if named else "write unsee.load_concept(NAME_OR_FILE)"
    raise UserError("a Concept", shown(str(concept) if named else concept), do)


@contextmanager
def _found(name_or_path: str | Path) -> Iterator[Path]:
    """The file of a concept; of a package that is a zip file it is there for the time of the block."""
    text = str(name_or_path)
    if text in CONCEPTS:
        with _resource(text, CONCEPTS.offer("concept", text)) as path:
            yield path
    elif isinstance(name_or_path, str) and not text.endswith(".toml") and "/" not in text and "\\" not in text:
        raise UnknownName("concept", text, names())
    else:
        yield Path(name_or_path)


@contextmanager
def _resource(name: str, offer: Offer) -> Iterator[Path]:
    """The file that is offered as package:FILE.toml. Raises :class:`UserError` where there is none of that name."""
    module, _, file = offer.place.partition(":")
    if offer.package == OURS:
        yield SHIPPED / file
        return
    wanted, mend = f"the concept {name!r} of the package {offer.package}", f"mend or uninstall {offer.package}"
    try:
        resource = importlib.resources.files(module) / file
        there = file.endswith(".toml") and resource.is_file()
    except Exception as error:  # importing it runs its own code
        raise UserError(wanted, f"{type(error).__name__} from {offer.place} ({error})", mend) from error
    if not there:
        raise UserError(f"{wanted} as package:FILE.toml", f"{offer.place}, which is no such file", mend)
    with importlib.resources.as_file(resource) as path:
        own = _load(path).name
        if own != name:
            raise UserError(f"{wanted} under its own name", f"{own!r} in {offer.place}", mend)
        yield path


def _find_part(part: str, user: Path) -> Path:
    """A part that a concept includes lies beside it or in the package."""
    file = f"{INCLUDED}{named(f'a part that {user} includes', part)}.toml"
    beside = inside(user.parent, file)
    return beside if os.path.lexists(beside) else SHIPPED / file  # a link that leads nowhere is not passed over


def _read(path: Path) -> dict[str, object]:
    return read_toml(path, "a concept file", "a concept", f"check the path or name one of: {', '.join(names())}")


def _bad_file(path: Path, error: ValidationError) -> BadFile:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = [*Concept.model_fields, *Subject.model_fields, "train", "held_out", "include", "anchors"]
        near = difflib.get_close_matches(key, known, n=1)
        do = f"did you mean {near[0]!r}?" if near else "remove it"
        return BadFile(f"known keys in {path}", f"unknown key {where!r}", do)
    if first["type"] == "missing":
        return BadFile(f"the key {where!r} in {path}", "no such key", "add it; CONTRIBUTING.md shows a whole concept")
    why = first["msg"].removeprefix("Value error, ").splitlines()[0]
    place = f"{where!r} in {path}" if where else str(path)
    return BadFile(f"a sound {place}", why, "mend it and try again")
