"""A deterministic part of a suite, for one machine of several; :mod:`.merge` brings the parts together.

    unsee bench SUITE --out R1 --shard 1/2      unsee bench SUITE --out R2 --shard 2/2
    unsee merge R1 R2 --out R

What is dealt out are undefended twins, by content address: a picture lies in the shard of its twin, whatever defends
or attacks it, so every pair is whole within its shard. Twins of most pictures are dealt first, in turn; two shards
differ by the pictures of one prompt at most. ``--only`` changes nothing about who has what. Fits and attacks are not
dealt out: each shard makes all it needs, from the same seeds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ..errors import UserError
from ..suites.suite import Group, PromptSet, SuiteSpec
from .plan import SIZE, Asked


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``of``, counted from 1. ``1/1`` is the whole."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``"2/5"``; ``""`` is the whole. Raises :class:`UserError` for what is no such part."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "1/1")
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError("a shard as I/N with 1 <= I <= N", repr(text), "write for example --shard 2/5")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def part(self, pictures: Mapping[str, int]) -> set[str]:
        """Of twins with their numbers of pictures, those of this shard."""
        order = sorted(pictures, key=lambda twin: (-pictures[twin], twin))
        return set(order[self.number - 1 :: self.of])


def pictures(suite: SuiteSpec, asked: Asked) -> Counter[str]:
    """Undefended twin → how many pictures of the whole suite have it as theirs."""
    alike: dict[tuple[str, PromptSet, int], list[Group]] = {}
    for group in suite.groups():
        alike.setdefault((group.concept, group.prompts, group.n), []).append(group)
    counted: Counter[str] = Counter()
    for groups in alike.values():
        _, twins = asked(groups[0])
        for start in range(0, len(twins), SIZE):
            counted[twins[start : start + SIZE].hex()] += len(groups)
    return counted
