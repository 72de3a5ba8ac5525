"""``--help-settings``: what a method, an attack, a judge or a suite can be told, as it is declared and checked."""

from __future__ import annotations

from typing import Any

from ..errors import UnknownName
from ..registry import ATTACKS, DEFENSES, JUDGES, resolve
from ..settings import declared, keys, named_in, table

Line = dict[str, Any]  # one of a command's answer, as --json prints it


def rows(what: str, name: str) -> list[Line]:
    """The settings of a ``defense``, an ``attack`` or a ``judge`` by its name, or the keys of a ``suite``."""
    if what == "suite":
        from ..suites.suite import PromptSet, SuiteSpec

        inner = [row | {"name": f"prompts.{row['name']}"} for row in table(keys(PromptSet))]
        return [*table(keys(SuiteSpec)), *inner]
    if what == "defense":
        if name not in DEFENSES:
            raise UnknownName("defense method", name, DEFENSES)
        kind = resolve("defense method", DEFENSES, name)
        filled = {"required": False, "default": "the concept's"}  # by fitting
        return [row | (filled if row["required"] else {}) for row in table(kind.takes(), kind.presets)]
    known = {"attack": ATTACKS, "judge": JUDGES}[what]
    return table(declared(resolve(what, known, named_in(name))))


def usual(row: Line) -> str:
    """The default, as a terminal shows it."""
    if row["required"]:
        return "must be given"
    if "presets" in row:
        return ", ".join(f"{preset} {value}" for preset, value in row["presets"].items())
    default = row["default"]
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return ", ".join(map(str, default)) or "none"
    return "none" if default in (None, "", {}) else str(default)
