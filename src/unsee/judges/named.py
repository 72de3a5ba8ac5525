"""How a suite or a command line names a judge: ``picto``, or with settings ``clip:model=picto,threshold=0.6``.

What stands before the colon is the registered name, and the name that verdicts are stored under; the settings are the
constructor's and show in the judge's version. A value has no comma in it; give what has one in Python.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import UnknownName, UserError
from ..registry import JUDGES, resolve
from .base import Judge

READ: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}  # what a text can say


def load(text: str) -> Judge:
    """The judge that ``text`` names, ready to judge. Raises ``UserError`` for an unknown name or setting, and for what
    the judge lacks (an extra, weights).

    >>> load("always.safe").name
    'always.safe'
    """
    name, _, rest = text.partition(":")
    cls = resolve("judge", JUDGES, name)
    kinds = {key: str(p.annotation).partition(" ")[0] for key, p in inspect.signature(cls).parameters.items()}
    known = {key: READ[kind] for key, kind in kinds.items() if kind in READ}  # not what is injected
    given: dict[str, Any] = {}
    for key, value in settings(rest).items():
        if not known:
            raise UserError(f"no settings for the judge {name!r}", repr(key), f"write {name!r}")
        if key not in known:
            raise UnknownName(f"setting of the judge {name!r}", key, known)
        try:
            given[key] = known[key](value)
        except ValueError:
            raise UserError(f"{key} of the judge {name!r} as {kinds[key]}", repr(value), "mend it") from None
    made: Judge = cls(**given)
    return made


def settings(rest: str) -> dict[str, str]:
    """``"threshold=0.6,model=a/b"`` as keys and values."""
    found = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError("a setting as key=value", repr(item), "write for example clip:threshold=0.6")
        found[key.strip().replace("-", "_")] = value.strip()
    return found
