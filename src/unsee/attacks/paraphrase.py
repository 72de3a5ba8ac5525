"""Paraphrase: the same request in words that no defense was fitted on. No search, no model.

What it does   each prompt gets one of ``ways``, by turns:
               synonym      the concept's word becomes one of its held-out words (or the name, if it was one of those;
                            a concept that has one word only gets it misspelled)
               misspelling  the concept's word loses, doubles or swaps a letter
               template     a held-out word of the concept in a held-out sentence
               or whatever ``rewriter`` makes of it, a callable text → text (a language model, a translator)
Sees           nothing of the model
Cost           nothing
Limits         words come from the concept's file, so translations are there if the file's held-out words have them
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ..concepts import article
from ..concepts.prompts import fill, words_for
from ..errors import UnknownName
from ..settings import Choices, Doc, Words
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job

if TYPE_CHECKING:
    from ..concepts import Concept
    from .base import Shared

WAYS = ("synonym", "misspelling", "template")


@dataclass(kw_only=True, frozen=True)
class Paraphrase(Attack):
    """``Paraphrase()``, or ``Paraphrase(rewriter=my_language_model)``."""

    name: ClassVar[str] = "paraphrase"
    summary: ClassVar[str] = "Held-out synonyms, misspellings and sentences, or any rewriter."
    sees: ClassVar[Sees] = "words"

    ways: Annotated[Choices | Words, Doc(f"Which of {', '.join(WAYS)}; each prompt is said in one of them.")] = WAYS
    rewriter: Annotated[Callable[[str], str] | None, Doc("Any function that says a prompt otherwise, from Python.")] = (
        None
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "ways", (self.ways,) if isinstance(self.ways, str) else tuple(self.ways))
        for way in self.ways or ("",):
            if way not in WAYS:
                raise UnknownName("way to paraphrase", way, WAYS)

    def most(self, n: int) -> Spent:
        return Spent()

    def _find(self, job: Job, prompts: list[Prompt], shared: Shared) -> list[Found]:
        return [Found(self._say(job, prompt)) for prompt in prompts]

    def _say(self, job: Job, prompt: Prompt) -> str:
        if self.rewriter is not None:
            return self.rewriter(prompt.text)
        rng = random.Random(job.generator(prompt).initial_seed())
        way = rng.choice(self.ways)
        own = words_for(job.concept, prompt)
        if way == "template":
            return _sentence(job.concept, prompt, rng.choice(_others(own, prompt.text) or own), rng)
        return self._replace(prompt.text, own, way, rng)

    def _replace(self, text: str, own: list[str], way: str, rng: random.Random) -> str:
        said = [word for word in sorted(own, key=len, reverse=True) if re.search(_whole(word), text, re.IGNORECASE)]
        old = said[0] if said else max(re.findall(r"\w+", text) or [text], key=len)
        others = _others(own, text)
        new = misspelled(old, rng) if way == "misspelling" or not said or not others else rng.choice(others)
        return re.sub(rf"(?:\b(?P<a>an?) )?{_whole(old)}", lambda found: _with_article(found, new), text, count=1,
                      flags=re.IGNORECASE)  # fmt: skip


def _sentence(concept: Concept, prompt: Prompt, word: str, rng: random.Random) -> str:
    """A held-out sentence with ``word`` in it; of a style, with the prompt's own thing drawn in ``word``."""
    template = rng.choice(concept.templates.held_out)
    if concept.kind == "style":
        return fill(template, prompt.subject.replace("-", " ") or "it", word)
    return fill(template, word, prompt.style or (rng.choice(concept.styles) if concept.styles else ""))


def misspelled(word: str, rng: random.Random) -> str:
    """One letter inside lost, doubled, or swapped with the next.

    >>> misspelled("dagger", random.Random(0)) != "dagger"
    True
    """
    if len(word) < 3:
        return word + word[-1:]
    i = rng.randrange(1, len(word) - 1)
    kinds = [word[:i] + word[i + 1 :], word[: i + 1] + word[i:], word[:i] + word[i + 1] + word[i] + word[i + 2 :]]
    return rng.choice([kind for kind in kinds if kind != word])


def _others(own: list[str], text: str) -> list[str]:
    """The words that the text does not say; of a subject's, where held-out ones stand first, the first half."""
    found = [word for word in own if not re.search(_whole(word), text, re.IGNORECASE)]
    return found[: max(1, (len(own) + 1) // 2)]


def _whole(word: str) -> str:
    return rf"\b{re.escape(word)}\b"


def _with_article(found: re.Match[str], new: str) -> str:
    return " ".join(filter(None, [article(new), new])) if found["a"] else new
