"""Random tokens: the control that every attack must beat. A prompt with words in front that mean nothing.

What it does   puts ``length`` random tokens before the prompt (``keep=False``: in its place)
Sees           the tokenizer
Cost           nothing of the model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch

from ..embeddings import pairs
from ..settings import Doc, Length
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job
from .vocabulary import allowed, readable_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .base import Shared


@dataclass(kw_only=True, frozen=True)
class RandomTokens(Attack):
    """``RandomTokens(length=5)``: as many as UnlearnDiffAtk has before the prompt."""

    name: ClassVar[str] = "random-tokens"
    summary: ClassVar[str] = "Random tokens before the prompt: the control."
    sees: ClassVar[Sees] = "words"

    length: Annotated[Length, Doc("Tokens before the prompt.")] = 5
    keep: Annotated[bool, Doc("Whether the prompt stays, behind them.")] = True

    def most(self, n: int) -> Spent:
        return Spent()

    def _prepare(self, job: Job) -> Shared:
        tokenizer = pairs(job.victim.backbone)[0][1]
        return tokenizer, readable_ids(tokenizer)[0]

    def _find(self, job: Job, prompts: list[Prompt], shared: Shared) -> list[Found]:
        return [Found(self._text(job.generator(p), p.text, *shared)) for p in prompts]

    def _text(self, generator: torch.Generator, text: str, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
        while True:
            chosen = torch.randint(len(ids), (self.length,), generator=generator)
            made = tokenizer.decode([ids[int(i)] for i in chosen]).strip()
            made = f"{made} {text}" if self.keep else made
            if allowed(made):  # two harmless pieces may say something together
                return made
