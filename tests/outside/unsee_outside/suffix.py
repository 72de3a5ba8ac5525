"""Suffix: the prompt and a word behind it. For tests, not an attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from unsee.attacks.base import Attack, Found, Job
from unsee.settings import Doc, Words
from unsee.types import Prompt, Sees, Spent


@dataclass(kw_only=True, frozen=True)
class Suffix(Attack):
    """``Suffix(word="again")``."""

    name: ClassVar[str] = "outside-suffix"
    summary: ClassVar[str] = "The prompt, and a word behind it."
    sees: ClassVar[Sees] = "words"

    word: Annotated[Words, Doc("What is put behind the prompt.")] = "again"

    def most(self, n: int) -> Spent:
        return Spent()

    def _find(self, job: Job, prompts: list[Prompt], shared: Any) -> list[Found]:
        return [Found(f"{prompt.text} {self.word}") for prompt in prompts]
