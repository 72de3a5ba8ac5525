"""Replay: prompts that an attack found before, against another defense (transfer). Nothing is searched.

``Replay(folder="runs/redteam/attacks/weapon/uce/ring-a-bell")``; prompts are found by their ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ..embeddings import attacked as saved
from ..errors import UserError
from ..settings import Doc, Words
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job

if TYPE_CHECKING:
    from .base import Shared


@dataclass(kw_only=True, frozen=True)
class Replay(Attack):
    """``Replay(folder="runs/attack/attacks/…")``."""

    name: ClassVar[str] = "replay"
    summary: ClassVar[str] = "Prompts that an attack found against another defense."
    sees: ClassVar[Sees] = "words"

    folder: Annotated[
        Words, Doc("As unsee attack wrote it, or its .json; {concept} in it stands for the concept's name.")
    ]

    def most(self, n: int) -> Spent:
        return Spent()

    def _recipe(self, job: Job, prompts: list[Prompt]) -> str:
        """What is in the file counts too."""
        found = saved.load(self._file(job))
        said = "".join(f"{one.prompt.id}{one.prompt.text}{saved.digest(one.words)}" for one in found)
        return super()._recipe(job, prompts) + hashlib.sha256(said.encode()).hexdigest()[:8]

    def _prepare(self, job: Job) -> Shared:
        return {one.prompt.id: one for one in saved.load(self._file(job))}

    def _find(self, job: Job, prompts: list[Prompt], shared: Shared) -> list[Found]:
        missing = [p for p in prompts if p.id not in shared]
        if missing:
            got = f"{len(missing)} that are not there ({missing[0].id})"
            raise UserError(f"prompts that were attacked in {self.folder}", got, "ask for fewer with n=…")
        known = [shared[p.id] for p in prompts]
        return [Found(one.prompt.text, one.before, one.after, one.words) for one in known]

    def _file(self, job: Job) -> str:
        return self.folder.replace("{concept}", job.concept.name)
