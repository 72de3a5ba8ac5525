"""How a suite or a command line names a judge: ``picto``, or with settings ``clip:model=picto,threshold=0.6``.

What stands before the colon is the registered name, and the name that verdicts are stored under; the settings are the
constructor's and show in the judge's version. A value has no comma in it; give what has one in Python.
"""

from __future__ import annotations

from ..registry import JUDGES
from ..settings import named
from .base import Judge


def load(text: str) -> Judge:
    """The judge that ``text`` names, ready to judge. Raises ``UserError`` for an unknown name or setting, and for what
    the judge lacks (an extra, weights).

    >>> load("always.safe").name
    'always.safe'
    """
    kind, given = named("judge", JUDGES, text)
    made: Judge = kind(**given)
    return made
