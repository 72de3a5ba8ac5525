"""Which stacks may be tried: a TOML file that a user can copy, ``candidates.toml`` beside this one by default."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import BadFile, UnknownName, UserError
from ..files import read_toml
from ..metrics import measures
from ..suites.attacks import AttackSpec
from ..suites.stacks import NONE, DefenseSpec, StackSpec

USUAL = Path(__file__).with_name("candidates.toml")


@dataclass(frozen=True)
class Candidates:
    """What a candidates' file says; every key but ``candidates`` may be left out, for the usual file's value."""

    candidates: tuple[object, ...]  # as the defenses of a suite
    attacks: tuple[object, ...]  # as the attacks of a suite
    choose: int  # prompts of each kind
    prove: int
    metrics: dict[str, str] = field(default_factory=dict)  # as the metrics of a suite; empty: the model family's own

    @classmethod
    def load(cls, path: str | Path | None = None) -> Candidates:
        """Read and check a file. Raises :class:`UserError` with one line for the first mistake."""
        usual = _read(USUAL)
        given = usual if path is None else _read(Path(path))
        where, known = str(path or USUAL), [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise UnknownName(f"key in {where}", key, known)
        if "candidates" not in given:
            raise BadFile(f"the key 'candidates' in {where}", "no such key", "add it")
        return cls(**{key: _sound(key, value, where) for key, value in (usual | given).items()})

    @property
    def stacks(self) -> list[StackSpec]:
        return StackSpec.all(self.candidates)

    @property
    def attack_specs(self) -> list[AttackSpec]:
        return AttackSpec.all(self.attacks)


def recipes(stack: StackSpec) -> list[str]:
    """One name for each fit of a stack: the defense, and all that it stands behind."""
    names = [_recipe(part) for part in stack.parts]
    return [" behind ".join([names[i], *names[:i]]) for i in range(len(names))]


def _recipe(part: DefenseSpec) -> str:
    return part.folder or ",".join([part.method, *(f"{k}={v}" for k, v in sorted(part.settings.items()))])


def _sound(key: str, value: Any, where: str) -> Any:
    if key in ("choose", "prove"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadFile(f"{key} in {where} as a number of prompts", repr(value), f"write for example {key} = 50")
        return value
    if key == "metrics":
        if not isinstance(value, dict):
            raise BadFile(f"metrics in {where} as a table", repr(value), "write it as the suite sd14 does")
        measures.check(value)
        return value
    if not isinstance(value, list) or not value:
        raise BadFile(f"{key} in {where} as a list with something in it", repr(value), f'write {key} = ["…"]')
    _ = StackSpec.all(value) if key == "candidates" else AttackSpec.all(value)
    if NONE in value:
        raise UserError(f"{key} that do something", repr(NONE), "remove it: the bare model is always there")
    return tuple(value)


def _read(path: Path) -> dict[str, Any]:
    return read_toml(path, "a file of candidates", "candidates", f"check the path, or copy {USUAL}")
