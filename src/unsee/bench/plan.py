"""The images of a suite before they are drawn: content addresses, and what they are compared with.

The undefended twin of every image is always made, whether ``defenses`` names ``none`` or not: same
prompt, same seed, same settings. So are the images without an attack; only prompts that ask for the concept
are attacked. The twin of an attacked image is the undefended model's on the prompt as it was before the attack.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from ..files import compact_json
from ..suites.stacks import NONE
from ..suites.suite import Group, SuiteSpec
from ..types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from ..concepts import Concept

SIZE = 32  # bytes of a content address


@dataclass(frozen=True, slots=True)
class Cell:
    """One image to be: its content address, and where it stands in the suite."""

    cell: str
    twin: str
    concept: str
    defense: str
    attack: str
    place: int
    prompt: Prompt
    words: tuple[Tensor, ...] = ()  # embeddings that an attacked prompt names


class Cells(Sequence[Cell]):
    """The cells of one group, in columns: beside its prompt a cell takes 64 bytes, and is made when it is asked for.

    ``own`` and ``twins`` hold 32 bytes each for every place; ``kept`` are the places of a shard, in order (None: all).
    Prompts and twins are the same objects in all groups that have them in common.
    """

    def __init__(self, names: tuple[str, str, str], prompts: Sequence[Prompt], own: bytes, twins: bytes,
                 words: Sequence[tuple[Tensor, ...]] = (), kept: Sequence[int] | None = None) -> None:  # fmt: skip
        self.names, self.prompts, self.own, self.twins, self.words = names, prompts, own, twins, words
        self.kept = range(len(prompts)) if kept is None else kept

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, at: int) -> Cell: ...
    @overload
    def __getitem__(self, at: slice) -> list[Cell]: ...
    def __getitem__(self, at: int | slice) -> Cell | list[Cell]:
        if isinstance(at, slice):
            return [self._cell(place) for place in self.kept[at]]
        return self._cell(self.kept[at])

    def __iter__(self) -> Iterator[Cell]:
        return map(self._cell, self.kept)

    def address(self, place: int) -> bytes:
        """The content address of the cell in this place of the group, as 32 bytes."""
        return self.own[SIZE * place : SIZE * (place + 1)]

    def of(self, share: Container[str]) -> Cells:
        """The same group with those cells alone whose twins are in ``share``."""
        kept = array("q", (place for place in self.kept if self._twin(place) in share))
        return Cells(self.names, self.prompts, self.own, self.twins, self.words, kept)

    def _twin(self, place: int) -> str:
        return self.twins[SIZE * place : SIZE * (place + 1)].hex()

    def _cell(self, place: int) -> Cell:
        words = self.words[place] if self.words else ()
        return Cell(self.address(place).hex(), self._twin(place), *self.names, place, self.prompts[place], words)


class Addresses:
    """The content addresses of one model, stack of defenses and settings: sha256 of all that makes an image.

    The hash of what they begin with is taken once: ``Addresses(fingerprint, defenses, settings)(attack, prompt)`` is
    the digest of ``[fingerprint, defenses, attack, text, seed, settings]`` as JSON.
    """

    def __init__(self, fingerprint: object, defenses: list[str], settings: Mapping[str, object]) -> None:
        self._begun = hashlib.sha256(f"[{compact_json(fingerprint)},{compact_json(defenses)},".encode())
        self._end = f",{compact_json(settings)}]".encode()

    def __call__(self, attack: str, prompt: Prompt) -> bytes:
        """32 bytes. ``attack`` is what the text alone does not say of an attacked prompt: a hash of the embeddings that
        it names, else ``none``. So a text that two attacks find is drawn once."""
        made = self._begun.copy()
        made.update(compact_json([attack, prompt.text, prompt.seed])[1:-1].encode())
        made.update(self._end)
        return made.digest()


def address(
    fingerprint: object, defenses: list[str], attack: str, prompt: Prompt, settings: Mapping[str, object]
) -> str:
    """One of :class:`Addresses`, in hexadecimal digits."""
    return Addresses(fingerprint, defenses, settings)(attack, prompt).hex()


class Asked:
    """The prompts of a suite before any attack, with the addresses of their undefended twins; ``mark`` is the model.

    They are made once for each concept, kind, split and number, and all groups that ask alike share them.
    """

    def __init__(self, suite: SuiteSpec, known: Mapping[str, Concept], mark: object) -> None:
        self.suite, self.known, self.mark = suite, known, mark
        self._made: dict[tuple[str, str, str, int], tuple[list[Prompt], bytes]] = {}

    def addresses(self, defenses: list[str]) -> Addresses:
        return Addresses(self.mark, defenses, self.suite.settings)

    def __call__(self, group: Group) -> tuple[list[Prompt], bytes]:
        """The prompts of the group in order, and 32 bytes for each."""
        key = (group.concept, group.prompts.kind, group.prompts.split, group.n)
        if key not in self._made:
            prompts = [prompt for _, prompt in group.numbered(self.known[group.concept], self.suite.seed)]
            twin = self.addresses([])
            self._made[key] = prompts, b"".join(twin(NONE, prompt) for prompt in prompts)
        return self._made[key]
