"""Names that may become files: of concepts, defenses, attacks, suites and judges; and what leads out of a folder.

A name has letters, digits, ``-``, ``_`` and ``.``, 64 at most, no ``.`` first. It is checked where it is read
(:data:`Name` in models, :func:`named` elsewhere), and again where it is joined to a folder (:func:`inside`).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ..errors import BadFile, UserError
from .door import Place, reading

LONGEST = 64
NAME = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
RULE = f"a name of letters, digits, '-', '_' and '.', at most {LONGEST}, no '.' first"
FILE = 255  # bytes of a file's name, on nearly every system
OUT = FILE - 40  # of the name of --out, beside which we write others: OUT.work, .OUT.1234
PATH = 4000  # bytes of a path


def name_ok(text: object) -> bool:
    """Whether this is a name.

    >>> [name_ok(t) for t in ("weapon", "duo-v1.2", "..", "a/b", "a b", "", ".x", "x" * 65)]
    [True, True, False, False, False, False, False, False]
    """
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def named(what: str, text: object) -> str:
    """``text``, which is a name, else :class:`UserError`; ``what`` is what it names."""
    if not isinstance(text, str) or not name_ok(text):
        raise UserError(f"{what} with {RULE}", short(text), "choose such a name")
    return text


def _name_of(text: str) -> str:
    if not name_ok(text):
        raise ValueError(f"{short(text)}, where {RULE} is needed")
    return text


Name = Annotated[str, AfterValidator(_name_of)]  # for pydantic models


def short(text: object) -> str:
    """What was got, in quotes, in a length that can be read."""
    told = repr(text)
    return told if len(told) <= LONGEST else told[: LONGEST - 4] + "…'"


def plain(label: str, most: int = 120) -> str:
    """A label of ours as the name of a file; what is too long is cut and told apart by a hash.

    >>> plain("sld:preset=strong"), plain("..")
    ('sld_preset=strong', '__')
    """
    text = re.sub(r"[^A-Za-z0-9_.+=,-]", "_", label)
    text = re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), text) or "_"
    if len(text) <= most:
        return text
    return f"{text[: most - 9]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def inside(folder: Place, *parts: str) -> Path:
    """``folder``/part/…, where each part is the name of one file. Raises :class:`BadFile` for one that leads out: by
    its text, or by a link."""
    for part in parts:
        if part in ("", ".", "..") or re.search(r"[/\\\x00]", part) or len(os.fsencode(part)) > FILE:
            raise BadFile(f"the name of a file in {folder}", short(part), "choose another name")
    path = Path(folder).joinpath(*parts)
    with reading(f"a place in {folder}", path, "choose another folder"):
        home, end = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if not end.is_relative_to(home) or end == home:
        raise BadFile(f"a place in {folder}", f"{path}, which leads to {end}", "remove that link")
    return path


def target(path: Place, *, own: bool = False) -> Path:
    """``path`` as something to write, without parts that no system takes; with ``own`` it has a name of its own, so
    that others can stand beside it. Raises :class:`UserError`."""
    text = os.fspath(path)
    parts = text.replace("\\", "/").split("/") if os.name == "nt" else text.split("/")
    sizes = [len(os.fsencode(part)) for part in parts]
    if not text or "\0" in text or max(sizes) > OUT or len(os.fsencode(text)) > PATH:
        raise UserError("a path to write to", short(text), f"choose one with names of at most {OUT} bytes")
    if own and Path(path).name in ("", ".."):
        raise UserError("a new folder with a name", short(text), "write for example runs/new")
    return Path(path)
