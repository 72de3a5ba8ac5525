"""How a suite or a command line names an attack.

    attacks = ["ring-a-bell", "mma:steps=20", { name = "p4d-k", method = "p4d", variant = "K", n = 50 }]

``"standard"`` is the fixed set, as ``unsee.attacks.standard`` has it. ``n`` attacks the first n prompts only;
``defenses`` and ``prompts`` (kinds) name what alone is attacked.
What a suite fixes for its images (steps, guidance, judge) is what an attack draws and judges by, unless it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from ..attacks.standard import STANDARD as METHODS
from ..errors import UnknownName, UserError
from ..registry import ATTACKS, resolve
from ..settings import Whole, sound, spec
from .stacks import NONE, distinct, label

if TYPE_CHECKING:
    from ..attacks import Attack
    from ..settings import Settings
    from ..types import Sees, Spent

STANDARD = "standard"


@dataclass(frozen=True)
class AttackSpec:
    """An attack of a suite. Its ``name`` is what rows show; ``n`` = 0 is all prompts."""

    name: str
    method: str = ""
    n: int = 0
    settings: Settings = field(default_factory=dict)
    defenses: tuple[str, ...] = ()  # empty: all
    prompts: tuple[str, ...] = ()  # kinds; empty: all that ask for the concept

    @classmethod
    def parse(cls, value: object) -> AttackSpec:
        """From a string or a TOML table. Raises :class:`UserError` with what to write instead."""
        usual = ""
        if isinstance(value, str):
            usual, read = value, spec(value)
            value = {"method": read.name, **read.settings}
        if not isinstance(value, dict):
            raise UserError("an attack as text or table", repr(value), 'write "p4d" or { method = "p4d", n = 50 }')
        table = dict(value)
        method, n = str(table.pop("method", "")), table.pop("n", 0)
        if method not in ATTACKS:
            raise UnknownName("attack", method, [*ATTACKS, STANDARD, NONE])
        sound(Whole, "n", n, f"the attack {method}")  # 0: all of them
        met = [_names(key, table.pop(key, [])) for key in ("defenses", "prompts")]
        name, told = label("an attack", table.pop("name", "")), ",".join(f"{k}={v}" for k, v in table.items())
        return cls(name or usual or (f"{method}:{told}" if told else method), method, n, table, *met)

    @classmethod
    def all(cls, values: Sequence[object]) -> list[AttackSpec]:
        """Of one file's list: ``"none"`` is there anyway, ``"standard"`` is several; no name twice."""
        listed: list[object] = []
        for value in values:
            listed += METHODS if value == STANDARD else [value] * (value != NONE)
        made = [cls.parse(value) for value in listed]
        distinct("attacks", [attack.name for attack in made])
        return made

    def meets(self, defense: str, kind: str) -> bool:
        """Whether it attacks this stack's prompts of this kind."""
        return (not self.defenses or defense in self.defenses) and (not self.prompts or kind in self.prompts)

    def check(self) -> None:
        """Raises :class:`UserError` for a setting or a value that cannot be."""
        if self.method:
            self.attack({})

    def most(self, n: int) -> tuple[Sees, Spent]:
        """What the attack sees of the model, and the most that it may spend on ``n`` prompts (fewer if it says so)."""
        attack = self.attack({})
        return attack.sees, attack.most(min(n, self.n or n))

    def attack(self, usual: Settings) -> Attack:
        """The attack itself. ``usual`` are a suite's settings, for what its own table does not say."""
        kind = resolve("attack", ATTACKS, self.method)
        known = {f.name for f in fields(kind)}
        return kind.of({k: v for k, v in usual.items() if k in known} | self.settings)


UNATTACKED = AttackSpec(NONE)


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} of an attack as a list of names", repr(value), f'write {key} = ["…"]')
    return tuple(value)
