"""How a suite or a command line names an attack, and the running of it behind a stack of defenses.

    attacks = ["ring-a-bell", "mma:steps=20", { name = "p4d-k", method = "p4d", variant = "K", n = 50 }]

``"standard"`` is the fixed set, as ``unsee.attacks.standard`` has it. ``n`` attacks the first n prompts only;
``defenses`` and ``prompts`` (kinds) name what alone is attacked.
What a suite fixes for its images (steps, guidance, judge) is what an attack draws and judges by, unless it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attacks.standard import STANDARD as METHODS
from ..errors import UnknownName, UserError
from ..files import inside, plain
from ..registry import ATTACKS, resolve
from ..settings import Whole, parse, sound
from .defenses import NONE, distinct, label

if TYPE_CHECKING:
    from ..attacks import Attack, AttackedPrompt
    from ..attacks.base import Sees, Spent
    from ..concepts import Concept
    from ..types import Prompt
    from .plan import Suite

STANDARD = "standard"


@dataclass(frozen=True)
class Target:
    """What is attacked: a pipeline, with the defenses that are attached for the attack's duration."""

    pipe: Any
    guards: tuple[Any, ...]
    defense: str
    concept: Concept


@dataclass(frozen=True)
class Strike:
    """An attack of a suite. Its ``name`` is what rows show; ``n`` = 0 is all prompts."""

    name: str
    method: str = ""
    n: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    defenses: tuple[str, ...] = ()  # empty: all
    prompts: tuple[str, ...] = ()  # kinds; empty: all that ask for the concept

    @classmethod
    def parse(cls, value: Any) -> Strike:
        """From a string or a TOML table. Raises :class:`UserError` with what to write instead."""
        usual = ""
        if isinstance(value, str):
            method, _, rest = value.partition(":")
            value, usual = {"method": method, **parse(rest.split(","))}, value
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
    def all(cls, values: Sequence[Any]) -> list[Strike]:
        """Of one file's list: ``"none"`` is there anyway, ``"standard"`` is several; no name twice."""
        listed: list[Any] = []
        for value in values:
            listed += METHODS if value == STANDARD else [value] * (value != NONE)
        made = [cls.parse(value) for value in listed]
        distinct("attacks", [strike.name for strike in made])
        return made

    def meets(self, defense: str, kind: str) -> bool:
        """Whether it attacks this stack's prompts of this kind."""
        return (not self.defenses or defense in self.defenses) and (not self.prompts or kind in self.prompts)

    def check(self) -> None:
        """Raises :class:`UserError` for a setting or a value that cannot be."""
        if self.method:
            self._attack({})

    def most(self, n: int) -> tuple[Sees, Spent]:
        """What the attack sees of the model, and the most that it may spend on ``n`` prompts (fewer if it says so)."""
        attack = self._attack({})
        return attack.sees, attack.most(min(n, self.n or n))

    def run(self, target: Target, prompts: list[Prompt], suite: Suite, folder: Path,
            progress: Callable[[str, int, int], None] | None = None) -> list[AttackedPrompt]:  # fmt: skip
        """Attacks ``target``; what was found is kept in ``folder``/concept/defense/attack, to be read and replayed."""
        from ..attacks import save
        from ..guards import Guarded

        attack = self._attack({"guidance": suite.guidance, "draw_steps": suite.steps, "judge": suite.judge})
        with Guarded(target.pipe, *target.guards):
            found = attack(target.pipe, target.concept, prompts, seed=suite.seed, work=folder / "work",
                           progress=progress)  # fmt: skip
        kinds = "-".join(dict.fromkeys(kind_of(p.kind, p.split) for p in prompts))
        place = found_at(folder, target.concept.name, target.defense, self.name, kinds)
        about = {"attack": repr(attack), "model": suite.model, "concept": target.concept.name, "sees": attack.sees}
        save(found, place / "prompts.json", **about, defense=target.defense, seed=suite.seed,
             most=asdict(attack.most(len(prompts))))  # fmt: skip
        return found

    def _attack(self, usual: dict[str, Any]) -> Attack:
        kind = resolve("attack", ATTACKS, self.method)
        known = {f.name for f in fields(kind)}
        return kind.of({k: v for k, v in usual.items() if k in known} | self.settings)


UNATTACKED = Strike(NONE)


def named(words: tuple[Any, ...]) -> str:
    """What an attacked prompt means beside its text: the embeddings that it names, as a hash."""
    if not words:
        return NONE
    from ..attacks.saved import digest

    return digest(words)


def found_at(folder: Path, concept: str, defense: str, attack: str, kind: str) -> Path:
    """Where a run keeps what an attack found; ``kind`` as :func:`kind_of` has it."""
    return inside(folder, plain(concept), plain(defense), plain(attack), plain(kind))


def kind_of(kind: str, split: str) -> str:
    return kind + "-train" * (split == "train")


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} of an attack as a list of names", repr(value), f'write {key} = ["…"]')
    return tuple(value)
