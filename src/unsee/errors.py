"""Every error a user can meet.

UnseeError
├── UserError            expected, got, do this: one line, exit code 2
│   ├── UnknownName      a name that is not registered (says the nearest)
│   ├── MissingExtra     a package that only an extra installs
│   ├── BadFile          a file that is missing, broken or of the wrong kind
│   │   └── Unwritable   a place without room, without permission, or read-only
│   ├── Unsupported      a pipeline or a call that a defense cannot protect
│   └── Mismatch         a defense fitted for another model or text encoder
└── GuardFailure         a guard could not do its work (NaN, lost hook): no image is returned
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UnseeError(Exception):
    """Base of everything raised on purpose."""


class UserError(UnseeError):
    """A mistake the user can mend; the command line prints it as one line and exits 2."""

    def __init__(self, expected: str, got: str, do: str) -> None:
        self.expected, self.got, self.do = expected, got, do
        super().__init__(" ".join(f"expected {expected}, got {got}; {do}".split()))  # one line, whatever was got

    def __reduce__(self) -> tuple[Any, ...]:
        """Crosses from a worker process as it is, whatever its class takes."""
        return _again, (type(self), self.expected, self.got, self.do)


def _again(kind: type[UserError], expected: str, got: str, do: str) -> UserError:
    error = kind.__new__(kind)
    UserError.__init__(error, expected, got, do)
    return error


class UnknownName(UserError):
    """``kind`` has no entry called ``name``."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}"
        super().__init__(f"a known {kind}", repr(name if len(name) <= 60 else name[:59] + "…"), hint)


class MissingExtra(UserError):
    """``package`` cannot be imported; ``extra`` of unsee installs it."""

    def __init__(self, package: str, extra: str, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        super().__init__(f"the package {package} with what it needs", reason, f"pip install 'unsee[{extra}]'")


class BadFile(UserError):
    """A file that cannot be read as what it should be."""


class Unwritable(BadFile):
    """A place that cannot be written: no room, no permission, a read-only disk. What was there stays as it was."""


class Unsupported(UserError):
    """A pipeline, or a way of calling it, that cannot be protected: refused, never left unguarded."""


class Mismatch(UserError):
    """A saved defense that belongs to another base model or text encoder."""


class GuardFailure(UnseeError):
    """A guard failed while an image was made. The image is not returned."""
