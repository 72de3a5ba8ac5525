"""Several defenses as one thing: saved, loaded and attached together, in their order.

What it does   ``protect`` attaches what a stack holds, each with its own fingerprints checked; suites and the command
               line take its folder wherever they take that of a saved defense
Touches        what its members touch
Cost           theirs
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from ..errors import BadFile, Mismatch, Unsupported, UserError
from ..files import inside, is_file, sha256
from .base import Defense, attachable
from .config import AGAIN, CONFIG, FORMAT, STACK, Listed, read_saved
from .storage import CARD, card, load_one

if TYPE_CHECKING:
    from ..backbones import Backbone


@dataclass(kw_only=True, eq=False)
class Stack(Defense):
    """``Stack(defenses=(duo, redir)).save_pretrained("runs/weapon")``; ``protect(pipe, Stack.from_pretrained(…))``.

    A stack in a stack counts as what it holds. Raises :class:`UserError` for none, and :class:`Mismatch` for defenses
    that were fitted for different models.
    """

    name: ClassVar[str] = "stack"
    summary: ClassVar[str] = "Several defenses, attached in this order."

    defenses: tuple[Defense, ...]

    def __post_init__(self) -> None:
        given = self.defenses if isinstance(self.defenses, (list, tuple)) else (self.defenses,)
        self.defenses = attachable(given)
        if not self.defenses:
            raise UserError("a stack of one defense or more", "none", "give it what it shall hold")
        self.fingerprints = {}
        for member in self.defenses:
            for part, mark in member.fingerprints.items():
                if self.fingerprints.setdefault(part, mark) != mark:
                    wanted = f"defenses fitted for one model ({self.fingerprints[part][:12]})"
                    raise Mismatch(wanted, f"{member.name} for {mark[:12]}", "fit them all on the same pipeline")

    def members(self) -> tuple[Defense, ...]:
        return self.defenses

    def digest(self) -> str:
        """Of its members' digests, in order."""
        return hashlib.sha256(" ".join(member.digest() for member in self.defenses).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> Self:
        path, members = folder / STACK, list[Defense]()
        listed = read_saved(Listed, path, "a stack")
        for line in listed.defenses:
            config = inside(folder, line.folder) / CONFIG
            if not is_file(config) or sha256(config) != line.config:
                got = f"{config} with another checksum" if is_file(config) else f"no {config}"
                raise BadFile("the defenses that were saved", got, "copy or save the stack again")
            member = load_one(Defense, folder / line.folder)
            if member.name != line.defense:
                raise BadFile(f"{line.defense}, as {path} says", f"{member.name} in {config}", AGAIN)
            members.append(member)
        stack = cls(defenses=tuple(members))
        stack.record = listed.record
        return stack

    def write(self, folder: Path) -> None:
        lines = []
        for place, defense in enumerate(self.defenses, 1):
            name = f"{place}-{defense.name}"
            (folder / name).mkdir()
            defense.write(folder / name)
            lines.append({"folder": name, "defense": defense.name, "config": sha256(folder / name / CONFIG)})
        (folder / CARD).write_text(card(self), encoding="utf-8")
        listed = {"format": FORMAT, "defenses": lines, "record": dict(self.record)}
        (folder / STACK).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")

    def attach(self, backbone: Backbone) -> None:
        """Refused: the members are attached, each by itself."""
        raise Unsupported("protect(pipe, stack)", "attach", "let protect attach what the stack holds")
