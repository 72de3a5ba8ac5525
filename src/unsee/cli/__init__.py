"""The command line: ``unsee demo | fit | generate | attack | erase | bench | merge | report | selftest``.

Exit codes: 0 done, 1 failed, 2 misused. What the user can mend is one line on stderr, ``error: expected …,
got …; do …``; a fault of ours keeps its traceback. With ``--json`` stdout holds one JSON object and nothing else.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

QUIET = {  # libraries that would write beside our one line
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    import typer

    from ..errors import UnseeError, UserError
    from .commands import app

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        _readable(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return int(app(args=arguments, prog_name="unsee", standalone_mode=False) or 0)
    except UserError as error:
        return _fail(str(error), 2)
    except UnseeError as error:
        return _fail(str(error), 1)
    except typer.Abort:
        return _fail("stopped; the same command goes on where it was", 1)
    except Exception as error:
        # typer keeps its usage errors private; BadParameter is public and their child.
        usage_error = typer.BadParameter.__bases__[0]
        if not isinstance(error, usage_error):
            raise
        return _fail(_usage(error), 2)


def _readable(arguments: Sequence[str]) -> None:
    """Raises :class:`UserError` for arguments that are no text: bytes of another encoding, NUL."""
    from ..errors import UserError

    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError("arguments in UTF-8", ascii(argument), "write them so, rename the file") from None
        if "\0" in argument:
            raise UserError("arguments without NUL", ascii(argument)[:80], "leave it out")


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Our own warnings as one line; a library's deprecations are not the user's business."""
    if issubclass(category, UserWarning):
        print("warning: " + " ".join(str(message).split()), file=sys.stderr)


def _fail(message: str, code: int) -> int:
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))  # no colors, no bells
    print("error: " + line, file=sys.stderr)
    return code


def _usage(error: Exception) -> str:
    """typer's usage error in our form."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "unsee"
    got = str(getattr(error, "format_message", lambda: error)()).rstrip(".")
    return f"expected a valid call of `{command}`, got: {got}; see `{command} --help`"
