"""Negative prompt: the concept's words as the negative half of classifier-free guidance.

Formula     e = e_n + w (e_p - e_n), with e_n the prediction for the concept instead of the empty text
Touches     the negative text: tokens and pooled embedding, in every text encoder
Cost        none: the two passes of classifier-free guidance stay two
Differs     the user's own negative prompt is kept: it is joined behind the concept's words, so a long
            one cannot push them out of the encoder's window; of several encoders each its own
            (``negative_prompt_2``). Negative *embeddings* have no text to
            join, so they are replaced (the decisions say so).
Weakness    It weakens what a prompt implies, hardly what it asks for by name: where e_n = e_p, e is e_p still. And on
            a model that has unlearned the concept e_n is near e_u, and the guard does little.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from ..defenses.base import Guard
from ..settings import Doc, Words

if TYPE_CHECKING:
    from ..backbones import Backbone, Encoding
    from ..concepts import Concept
    from ..defenses.generation import Generation, Step


@dataclass(kw_only=True, eq=False)
class NegativePrompt(Guard):
    """``NegativePrompt(text="weapon, dagger")``."""

    name: ClassVar[str] = "negative-prompt"
    summary: ClassVar[str] = "Uses the concept's words as the negative half of classifier-free guidance."
    needs_cfg: ClassVar[bool] = True

    text: Annotated[Words, Doc("What is to be unseen, in words. Left out, the concept's own.")]

    @classmethod
    def for_concept(cls, concept: Concept, **more: Any) -> Self:
        """From the concept's own short text, which fits a text encoder."""
        return cls(text=words(concept), **more)

    def attach(self, backbone: Backbone) -> None:
        warn_if_cut(self.name, self.text, backbone)

    def prepare(self, generation: Generation) -> Encoding:
        own = generation.said("negative_")
        return generation.encode([tuple(f"{self.text}, {text}" if text else self.text for text in t) for t in own])

    def on_negative(self, step: Step, text: Encoding, state: Encoding) -> Encoding:
        given = step.generation.arguments.get("negative_prompt_embeds") is not None
        moved = (state.tokens.float().mean(1) - text.tokens.float().mean(1)).norm(dim=1)
        step.record(self, "replaced the negative embeddings" if given else "joined the negative prompt", strength=moved)
        return state


def words(concept: Concept) -> str:
    """The concept in one text: its ``phrase()`` where it has one, else all its train words."""
    return str(concept.phrase()) if hasattr(concept, "phrase") else every_word(concept)


def every_word(concept: Concept) -> str:
    """All train words of the concept, between commas."""
    return ", ".join(concept.all_words("train"))


def warn_if_cut(name: str, text: str, backbone: Backbone) -> None:
    """Warns if a text is longer than every encoder reads: its last words would not act."""
    if text and not backbone.fits(text):
        warnings.warn(f"{name}: the text encoder cuts {text[:40]!r}… off; give fewer words", UserWarning, stacklevel=2)
