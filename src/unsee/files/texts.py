"""Text in UTF-8 (with or without its mark): JSON, JSON lines, TOML, CSV; and values of a type.

What is parsed is bounded in depth, has no key twice, no half of a surrogate pair, and no number that is not finite,
unless that is asked for.
"""

from __future__ import annotations

import functools
import json
import math
import tomllib
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar, cast

from ..errors import BadFile
from .door import SETTINGS, Place, read_bytes, reading

T = TypeVar("T")
DEPTH = 64  # nothing of ours is deeper than 8; what walks a value afterwards may recurse
HERE = "mend the file at that place"


def read_text(path: Place, what: str, do: str, most: int = SETTINGS) -> str:
    """The text of a file."""
    data = read_bytes(path, what, do, most)
    with reading(f"{what} in UTF-8", path, "save it as UTF-8"):
        return data.decode("utf-8-sig")


def read_json(path: Place, what: str, do: str, *, most: int = SETTINGS, finite: bool = True) -> Any:
    """The value of a JSON file; ``finite=False`` lets NaN and Infinity pass, as Python writes them."""
    text = read_text(path, what, do, most)
    with reading(f"{what} as JSON", path, HERE):
        return parse_json(text, finite=finite)


def read_toml(path: Place, file: str, what: str, do: str) -> dict[str, Any]:
    """The table of a TOML file. Raises :class:`BadFile`: ``file`` or ``what`` as TOML was expected."""
    data = read_bytes(path, file, do)
    with reading(f"{what} as TOML", path, HERE):
        return parse_toml(data.decode("utf-8-sig"))


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a JSON text. Raises ``ValueError``, and nothing else, for one that is not sound."""
    number = _finite if finite else float
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=number, parse_float=number)
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} deep") from None
    return _sound(value)


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text. Raises ``ValueError``, and nothing else, for one that is not sound."""
    try:
        table: dict[str, Any] = _sound(tomllib.loads(text))
    except RecursionError:
        raise ValueError(f"nested more than {DEPTH} deep") from None
    return table


def typed(kind: type[T], value: Any, where: object, what: str, do: str) -> T:
    """A JSON value as ``kind`` (a pydantic model, a dataclass, ``dict[str, str]``, …), no type bent to another.

    ``where`` is the file. Raises :class:`BadFile` with the first key that is wrong.
    """
    from pydantic import ValidationError

    with reading(what, where, do):
        text = json.dumps(value)
    try:
        made: T = _adapter(cast(Hashable, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        why = str(first["msg"]).removeprefix("Value error, ").splitlines()[0]
        raise BadFile(what, f"{where} ({key + ': ' if key else ''}{why})", do) from None
    return made


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text}, where a number must be finite")
    return value


def _sound(value: Any) -> Any:
    """``value``, not deeper than :data:`DEPTH`, its texts fit to be written. Level by level: nothing recurses."""
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += one
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                one.isascii() or one.encode()  # half of a surrogate pair is a ValueError
        if not below:
            return value
        level = below
    raise ValueError(f"nested more than {DEPTH} deep")
