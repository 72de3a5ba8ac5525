"""How a suite or a command line names a defense, and the fitting of what is not fitted yet.

A defense is a folder (``runs/duo-weapon``; ``{concept}`` in it stands for the concept's name; a saved stack is one
too, and counts as what it holds), one of the fitted ones that ship (``picto/duo-weapon``), or a method with its
settings (``sld``, ``sld:preset=strong``, ``{ method = "sld", preset = "strong" }``).
A list of them is a stack, attached in that order and named with ``+``. ``none`` is the empty stack.
In a suite a setting may name the fitted last part of a stack further up: ``embedding = "@uce+ine-sld"``.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .. import files
from ..defenses.storage import shipped
from ..errors import BadFile, UnknownName, UserError
from ..files import exists, inside, is_dir, named
from ..registry import DEFENSES, resolve
from ..settings import named_in, spec

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..concepts import Concept
    from ..defenses.base import Defense, Progress
    from ..settings import Settings

NONE = "none"
OpenPipe = Callable[[], "DiffusionPipeline"]
REFERENCE = "@"
LONGEST = 64  # of a label that is a folder's name


def _no_pipe() -> DiffusionPipeline:
    raise UserError("a defense that needs no model", "one that is trained", "unsee fit it first, and give its folder")


@dataclass(frozen=True)
class DefenseSpec:
    """One defense of a stack: a saved ``folder``, or a ``method`` with the settings to fit it with."""

    name: str
    method: str = ""
    folder: str = ""
    settings: Settings = field(default_factory=dict)
    refers: dict[str, StackSpec] = field(default_factory=dict)  # setting → the stack whose last part it names

    def at(self, concept: Concept | None) -> Path:
        """The ``folder``, with the concept's name filled in."""
        return Path(self.folder.replace("{concept}", concept.name if concept else ""))

    @classmethod
    def parse(cls, value: object) -> DefenseSpec:
        """From a string or a TOML table. Raises :class:`UserError` with what to write instead."""
        if isinstance(value, str):
            return _from_text(value)
        if isinstance(value, dict):
            return _from_table(dict(value))
        raise UserError(
            "a defense as text or table", repr(value), 'write "sld" or { method = "sld", preset = "strong" }'
        )


@dataclass(frozen=True)
class StackSpec:
    """Defenses in the order of attaching; empty for the undefended pipeline."""

    parts: tuple[DefenseSpec, ...] = ()

    @cached_property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts) or NONE

    @classmethod
    def parse(cls, value: object) -> StackSpec:
        """From one defense, a list of them, or ``"none"``.

        >>> StackSpec.parse(["negative-prompt", {"method": "sld", "preset": "strong"}]).name
        'negative-prompt+sld:preset=strong'
        """
        if value == NONE:
            return cls()
        return cls(tuple(DefenseSpec.parse(v) for v in (value if isinstance(value, list) else [value])))

    @classmethod
    def all(cls, values: Iterable[object]) -> list[StackSpec]:
        """The stacks of one file, in which a setting ``"@NAME"`` stands for the last part of a stack further up."""
        made: dict[str, StackSpec] = {}
        for stack in map(cls.parse, values):
            name = stack.name
            if name in made:
                _refuse_twice("defenses", name)
            made[name] = cls(tuple(replace(part, refers=_referred(part.settings, made)) for part in stack.parts))
        return list(made.values())

    def check(self, concept: Concept) -> None:
        """Raise :class:`UserError` for a folder, a setting or a value that cannot be, before anything is written."""
        for part in self.parts:
            kind = None if part.folder else resolve("defense method", DEFENSES, part.method)
            if kind is None or kind.Training is None:
                _guard(part, concept, None, _no_pipe, [], None)
            else:
                kind.check_settings(part.settings)

    def fit(self, concept: Concept | None, keep: Path | None, open_pipe: OpenPipe = _no_pipe,
            progress: Progress | None = None) -> list[Defense]:  # fmt: skip
        """The defenses, loaded from their folders; what is not fitted yet is fitted and kept in ``keep``.

        Each is fitted behind those before it. Only a stack of plain folders can do without a concept.
        """
        made: list[Defense] = []
        for part in self.parts:
            made += _guard(part, concept, keep, open_pipe, made, progress).members()
        return made

    def place(self, concept: Concept, keep: Path, open_pipe: OpenPipe, progress: Progress | None) -> Path:
        """The folder of the last part; what is not fitted yet is fitted first."""
        *before, last = self.parts
        if last.folder:
            return last.at(concept)
        host = StackSpec(tuple(before)).fit(concept, keep, open_pipe, progress)
        return _fitted(last, concept, keep, open_pipe, host, progress)


def digest(guards: Iterable[Defense]) -> list[str]:
    """What each guard is; see :meth:`Defense.digest`."""
    return [guard.digest() for guard in guards]


def distinct(what: str, names: Sequence[str]) -> None:
    """Raises :class:`UserError` for a name that stands twice."""
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        _refuse_twice(what, twice[0])


def _refuse_twice(what: str, name: str) -> NoReturn:
    raise UserError(f"{what} with different names", f"{name!r} twice", "give one a name = …")


def label(what: str, given: object) -> str:
    """The name that a file gives to ``what``; "" where it gives none. Raises :class:`UserError` for what is no name."""
    if given == "":
        return ""
    if given == NONE:
        raise UserError(f"{what} with a name of its own", repr(given), "choose another: that is the bare model's")
    return named(what, given)


def called(folder: str) -> str:
    """A folder's own name, or METHOD:key=value, as a label; ``{concept}`` stays."""
    return re.sub(r"[^A-Za-z0-9._{}-]", "_", Path(folder).name)[:LONGEST].lstrip(".") or "folder"


def _from_text(text: str) -> DefenseSpec:
    method = named_in(text)
    if method in DEFENSES:
        return DefenseSpec(name=text, method=method, settings=spec(text).settings)
    if is_dir(text) or "{concept}" in text:
        return DefenseSpec(name=called(text), folder=text)
    if text.startswith("picto/"):
        return DefenseSpec(name=Path(text).name, folder=str(shipped(text)))
    if "/" in text or os.sep in text:
        raise BadFile("the folder of a saved defense", f"no folder {text!r}", "fit it first or mend the path")
    raise UnknownName("defense (a method, or the folder of a saved one)", method, [*DEFENSES, NONE])


def _referred(settings: Settings, known: dict[str, StackSpec]) -> dict[str, StackSpec]:
    named = {k: v[len(REFERENCE) :] for k, v in settings.items() if isinstance(v, str) and v.startswith(REFERENCE)}
    for key, name in named.items():
        if name not in known or not known[name].parts:
            raise UnknownName(f"stack further up that {key} can name", name, [n for n in known if n != NONE])
    return {key: known[name] for key, name in named.items()}


def _from_table(table: Settings) -> DefenseSpec:
    name = label("a defense", table.pop("name", ""))
    if "folder" in table and "method" not in table:
        extra = set(table) - {"folder"}
        if extra:
            raise UserError("only `folder` and `name` for a saved defense", repr(sorted(extra)), "remove the rest")
        if not isinstance(table["folder"], str):
            raise UserError("the folder of a defense as text", repr(table["folder"]), 'write folder = "runs/duo"')
        part = _from_text(table["folder"])
        return DefenseSpec(name=name or part.name, folder=part.folder)
    method = str(table.pop("method", ""))
    if method not in DEFENSES:
        raise UnknownName("defense method", method, DEFENSES)
    usual = method + (":" + ",".join(f"{k}={v}" for k, v in table.items()) if table else "")
    return DefenseSpec(name=name or usual, method=method, settings=table)


def _guard(part: DefenseSpec, concept: Concept | None, keep: Path | None, open_pipe: OpenPipe, host: list[Defense],
           progress: Progress | None) -> Defense:  # fmt: skip
    if concept is None or part.folder:
        return _saved(part.at(concept))
    kind = resolve("defense method", DEFENSES, part.method)
    if keep is None and kind.Training is not None:
        advice = f"unsee fit {part.method} --concept {concept.name} --out FOLDER, and give FOLDER"
        raise UserError("the folder of a fitted defense", f"the method {part.method!r}, which is trained", advice)
    if keep is None:
        return kind.fit(None, concept, work=".", **part.settings)
    return _saved(_fitted(part, concept, keep, open_pipe, host, progress))


def _fitted(part: DefenseSpec, concept: Concept, keep: Path, open_pipe: OpenPipe, host: list[Defense],
            progress: Progress | None) -> Path:  # fmt: skip
    """The folder in ``keep`` of what was fitted, now or before."""
    kind = resolve("defense method", DEFENSES, part.method)
    places = {key: stack.place(concept, keep, open_pipe, progress) for key, stack in part.refers.items()}
    told = {key: REFERENCE + _saved(place).digest() for key, place in places.items()}
    folder = inside(keep, concept.name, f"{part.method}-{fit_address(kind, part.settings | told, concept, host)}")
    if not exists(folder):
        settings = part.settings | {key: str(place) for key, place in places.items()}
        work = folder.with_name(folder.name + ".work")
        anew, started = not exists(work), time.perf_counter()
        made = kind.fit(open_pipe(), concept, work=work, host=host, progress=progress, **settings)
        if anew and kind.Training is not None:  # what a stop cut in two has no time of its own
            made.record = {**made.record, "fit_seconds": round(time.perf_counter() - started, 2)}
        made.save_pretrained(folder)  # beside and renamed: whole, or not there
    return folder


def fit_address(kind: type[Defense], given: Settings, concept: Concept, host: Iterable[Defense]) -> str:
    """Short name of a fit: another for other settings, defaults, concept, hosts, or files in a folder that it names."""
    from ..defenses.presets import settled

    _, training = kind.check_settings(given)
    usual = {} if training is None else asdict(settled(training, concept, kind.presets))
    recipe = [kind.name, given, usual, concept.model_dump(mode="json"), digest(host)]
    named = {key: Path(v.replace("{concept}", concept.name)) for key, v in given.items() if isinstance(v, str) and v}
    read = {key: files.contents(path) for key, path in named.items() if os.path.exists(path)}  # a text can be long
    return files.digest([*recipe, read] if read else recipe)[:8]


def _saved(folder: Path) -> Defense:
    from ..defenses.base import Defense as AnyDefense

    if not is_dir(folder):
        raise BadFile("the folder of a saved defense", f"no folder {str(folder)!r}", "fit it first or mend the path")
    return AnyDefense.from_pretrained(folder)
