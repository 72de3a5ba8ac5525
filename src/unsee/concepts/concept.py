"""The concept itself: its description, and the prompts and pairs that are made of it."""

from __future__ import annotations

from ..types import Kind, Prompt, Split
from . import prompts
from .description import Description


class Concept(Description):
    """What is to be unseen. Every trainer, guard, attack and suite takes one of these, never loose strings."""

    def prompts(self, kind: Kind, split: Split, n: int, seed: int = 0) -> list[Prompt]:
        """``n`` prompts, balanced over subjects × styles, each with the seed of its own image.

        ``plain`` uses a subject's name, ``synonym`` its words of that split other than the name, ``empty`` a style's
        name with nothing in it, ``neighbor`` and ``benign`` what must survive; templates are those of ``split``, but
        ``empty`` has its own in both. Where ``n`` exceeds the distinct texts, a text comes again with another seed.
        Raises ``UserError`` for an unknown kind or split, ``n`` < 1, or a kind
        the concept has no words for.

        >>> from unsee import concepts
        >>> concepts.load("tobacco").prompts("plain", "held-out", n=1)[0].role
        'unsafe'
        """
        return prompts.prompts(self, kind, split, n, seed)

    def pairs(self, split: Split, n: int, seed: int = 0) -> list[tuple[str, str]]:
        """``n`` pairs (unsafe text, safe text) that differ in the concept only.

        An object's word is replaced by its anchor, with as many words where there is such an anchor; a style's name
        by another style's. Hypernyms of the split are used too, with the concept's own ``anchor``.

        >>> from unsee import concepts
        >>> unsafe, safe = concepts.load("style-noto").pairs("train", n=1)[0]
        >>> "noto" in unsafe, "noto" in safe
        (True, False)
        """
        return prompts.pairs(self, split, n, seed)
