"""The command line: ``unsee demo | fit | generate | attack | erase | bench | merge | report | list | selftest``.

Exit codes: 0 done, 1 failed, 2 misused; ended by a signal, 128 and its number (130 for Ctrl-C, 143 for SIGTERM). What
the user can mend is one line on stderr, ``error: expected …, got …; do …``; a fault of ours keeps its traceback. With
``--json`` stdout holds one JSON object and nothing else.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import UserError

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT
QUIET = {  # libraries that would write beside our one line
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from .stopping import Stopped, message, stoppable

    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    told = message(arguments)
    with stoppable(told, whole_program=argv is None) as came:
        try:
            code = _run(arguments)
        except Stopped as stop:
            code = _fail(told, stop.code)
        except BaseException:
            if not came:
                raise
            code = _fail(told, 128 + came[0])  # what a stop leads to elsewhere, in workers for one
        else:
            code = _fail(told, code) if code == INTERRUPTED else code
        return _flushed(code)


def _run(arguments: list[str]) -> int:
    import typer

    from ..errors import UnseeError, UserError
    from ..writing import refusal
    from .commands import app

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
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
        return INTERRUPTED  # of typer before 0.29; since then the code is its own
    except Exception as error:
        # typer keeps its usage errors private; BadParameter is public and their child.
        usage_error = typer.BadParameter.__bases__[0]
        if isinstance(error, usage_error):
            return _fail(_usage(error), 2)
        told = refusal(error) if isinstance(error, OSError) else _out_of_memory(error)
        if told is None:
            raise
        return _fail(str(told), 1)


def _out_of_memory(error: Exception) -> UserError | None:
    """The line for it, of the processor or of an accelerator; None for another error."""
    from ..errors import UserError

    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not named and "DefaultCPUAllocator" not in str(error):
        return None
    got = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError("enough memory", got, "draw fewer images at once, with fewer workers, or on a larger device")


def _flushed(code: int) -> int:
    """``code``, once all of stdout is out; a pipe that nobody reads any more is no error of ours."""
    from ..writing import refusal

    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush as Python ends
        told = None if code else refusal(error, "standard output")
        return _fail(str(told), 1) if told else code or 1


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
