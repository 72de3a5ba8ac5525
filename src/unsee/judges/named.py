"""How a suite or a command line names a judge: ``picto``, or with settings ``clip:model=picto,threshold=0.6``.

What stands before the colon is the registered name, and the name that verdicts are stored under; the settings are the
constructor's and show in the judge's version.
"""

from __future__ import annotations

import inspect
import tomllib
from typing import Any

from ..errors import UnknownName, UserError
from ..registry import JUDGES, resolve
from .base import Judge

FLAT = ("str", "int", "float", "bool")  # what a text can say


def load(text: str) -> Judge:
    """The judge that ``text`` names, ready to judge. Raises ``UserError`` for an unknown name or setting, and for what
    the judge lacks (an extra, weights).

    >>> load("always.safe").name
    'always.safe'
    """
    name, _, rest = text.partition(":")
    cls = resolve("judge", JUDGES, name)
    given = settings(rest)
    parameters = inspect.signature(cls).parameters.items()
    known = [key for key, p in parameters if str(p.annotation).partition(" ")[0] in FLAT]  # not what is injected
    for key in given:
        if not known:
            raise UserError(f"no settings for the judge {name!r}", repr(key), f"write {name!r}")
        if key not in known:
            raise UnknownName(f"setting of the judge {name!r}", key, known)
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:  # a value that the judge cannot use; what it lacks is a UserError already
        raise UserError(f"settings that the judge {name!r} can use", f"{text!r} ({error})", "mend them") from error


def settings(rest: str) -> dict[str, Any]:
    """``"threshold=0.6,model=a/b"`` as keyword arguments: TOML numbers and booleans as such, anything else as text."""
    found = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError("a setting as key=value", repr(item), "write for example clip:threshold=0.6")
        found[key.strip().replace("-", "_")] = _scalar(value.strip())
    return found


def _scalar(text: str) -> Any:
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, int | float) else text  # a template "{}" is no table
