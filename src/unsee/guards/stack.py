"""Several defenses as one thing: saved, loaded and attached together, in their order.

What it does   ``protect`` attaches what a stack holds, each with its own fingerprints checked; suites and the command
               line take its folder wherever they take that of a saved defense
Touches        what its members touch
Cost           theirs
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import Mismatch, Unsupported, UserError
from .base import Defense, attachable

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
        self.fingerprints = {}  # type: ignore[misc]
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

    def attach(self, backbone: Backbone) -> None:
        """Refused: the members are attached, each by itself."""
        raise Unsupported("protect(pipe, stack)", "attach", "let protect attach what the stack holds")
