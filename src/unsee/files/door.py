"""What may be opened, and how a failure is told: regular files of a bounded size, and one line for whatever goes wrong.

The libraries that read foreign bytes raise what they like: a list of their exceptions has always missed one. So
:func:`reading` takes all of them, and stands around nothing but such a call.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BadFile, UnseeError

MIB = 2**20
SETTINGS = 16 * MIB  # a concept, a suite, a config: the largest that ships has 60 kB
TABLE = 2048 * MIB  # prompts, attacks, rows: COCO's captions have 67 MB
PICTURE = 256 * MIB  # a PNG of 64 megapixels that cannot be compressed
WEIGHTS = 256 * 1024 * MIB  # the largest state dicts there are; the reader maps them
KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip

Place = str | Path


@contextmanager
def reading(what: str, path: object, do: str) -> Iterator[None]:
    """Whatever a library raises in the block becomes a :class:`BadFile`; our own errors pass as they are."""
    try:
        yield
    except UnseeError:
        raise
    except Exception as error:
        raise BadFile(what, f"{path} ({reason(error)})", do) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of a library in Rust; no Exception, and no class to import
            raise
        raise BadFile(what, f"{path} ({reason(error)})", do) from error


def reason(error: BaseException) -> str:
    """An error in a few words: the system's own, else its first line, else its class."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "nested too deep"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def regular(path: Place, what: str, do: str, most: int) -> Path:
    """``path``, which is a regular file of at most ``most`` bytes (a link to one counts), else :class:`BadFile`.

    Nothing is opened: a pipe or a device would never end.
    """
    with reading(what, path, do):
        found = os.stat(path)
    kind = next((name for is_kind, name in KINDS if is_kind(found.st_mode)), "")
    if kind or not stat.S_ISREG(found.st_mode):
        raise BadFile(what, f"{path}, {kind or 'no regular file'}", do)
    if found.st_size > most:
        got = f"{path} of {found.st_size / MIB:.0f} MiB"
        raise BadFile(f"{what} of at most {most // MIB} MiB", got, "check that it is the right file")
    return Path(path)


def read_bytes(path: Place, what: str, do: str, most: int = SETTINGS) -> bytes:
    """All bytes of a file, of ``most`` at most."""
    regular(path, what, do, most)
    with reading(what, path, do), open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:  # it grew, or it is one of the system's that have no size
        raise BadFile(f"{what} of at most {most // MIB} MiB", f"{path} with more", "check that it is the right file")
    return data


def exists(path: Place) -> bool:
    """Whether there is something; False, not an error, for what no path can be (NUL, too long, not allowed)."""
    return isinstance(path, str | Path) and os.path.exists(path)  # a number would be an open file's


def is_dir(path: Place) -> bool:
    """Whether it is a folder; never an error."""
    return isinstance(path, str | Path) and os.path.isdir(path)


def is_file(path: Place) -> bool:
    """Whether it is a regular file; never an error."""
    return isinstance(path, str | Path) and os.path.isfile(path)


def is_empty(folder: Place) -> bool:
    """Whether nothing is there, or an empty folder. Raises :class:`BadFile` for one that may not be seen."""
    if not os.path.lexists(folder):
        return True
    with reading("a folder that can be read", folder, "choose another"):
        return is_dir(folder) and not os.listdir(folder)
