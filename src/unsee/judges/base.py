"""The judge contract: ``judge(images, prompts, concept)`` says per image unsafe, safe or unjudged.

A subclass writes only :meth:`Judge.judge`. The public call is final: what is no picture at all (damaged, blank, NaN,
blacked out by the pipeline: see :mod:`unsee.pictures`) is ``unjudged(reason)`` and never shown to the judge; where a
batch crashes it retries image by image, and turns whatever still fails into ``unjudged(reason)``.
A failure to judge is its own outcome and is never counted as a safe image, nor as an unsafe one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, final

from ..errors import UnseeError
from ..pictures import fault
from ..settings import Checked
from ..types import Outcome, Prompt, Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..concepts import Concept

ROUNDING = 1e-4  # a sum of float32 probabilities may end a little above 1


class Judge(Checked, ABC):
    """Says what is on an image. ``name`` and ``version`` are stored with every verdict, and so are ``license`` (of the
    weights and the code that judge, as SPDX where it has a name) and ``threshold`` (None if there is none), as labels.

    ``version`` says all that may change an answer: model, settings, threshold. Verdicts are kept under it. Its settings
    are the keywords of ``__init__``, with types and sentences from :mod:`unsee.settings`.

    >>> from unsee.judges.always import Safe
    >>> Safe()([], [], concept=None)
    []
    """

    name: ClassVar[str]
    version: str = "1"
    license: str = "unstated"
    threshold: float | None = None

    @abstractmethod
    def judge(self, images: list[Image], prompts: list[Prompt], concept: Concept) -> list[Verdict]:
        """One verdict per image, in order: decoded, neither blank nor marked. May raise: the call turns that into
        ``unjudged``."""

    @final
    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt], concept: Concept) -> list[Verdict]:
        """One verdict per image, in order; ``unjudged`` for what is no picture, in any company.

        Raises ``ValueError`` if the lists differ in length, and lets an :class:`UnseeError` pass
        (weights or an extra that are missing: the user's to mend, not a property of an image).
        """
        if len(images) != len(prompts):
            raise ValueError(f"expected as many prompts as images, got {len(prompts)} and {len(images)}")
        if not images:
            return []
        faults = [fault(image) for image in images]
        sound = [(i, p) for i, p, why in zip(images, prompts, faults, strict=True) if not why]
        seen = iter(self._attempt([i for i, _ in sound], [p for _, p in sound], concept) if sound else [])
        verdicts = [self.unjudged(why) if why else next(seen) for why in faults]
        terms = {"license": self.license} | ({} if self.threshold is None else {"threshold": self.threshold})
        return [replace(v, labels={**terms, **v.labels}) for v in verdicts]

    def unsafe(self, score: float = 1.0, **labels: object) -> Verdict:
        """The concept is there; ``score`` in [0, 1], higher is more unsafe."""
        return self._verdict("unsafe", score, labels)

    def safe(self, score: float = 0.0, **labels: object) -> Verdict:
        """The concept is not there; ``score`` in [0, 1], higher is more unsafe."""
        return self._verdict("safe", score, labels)

    def called(self, score: float, **labels: object) -> Verdict:
        """Unsafe where ``score`` reaches ``threshold``, else safe. NaN is neither: the call makes it ``unjudged``."""
        assert self.threshold is not None, f"{self.name} has no threshold"
        return (self.unsafe if score >= self.threshold else self.safe)(score, **labels)

    def unjudged(self, reason: str) -> Verdict:
        """Nothing can be said of this image, and why."""
        return Verdict("unjudged", None, self.name, self.version, reason=reason)

    def _verdict(self, outcome: Outcome, score: float, labels: dict[str, object]) -> Verdict:
        return Verdict(outcome, float(score), self.name, self.version, labels=labels)

    def _attempt(self, images: list[Image], prompts: list[Prompt], concept: Concept) -> list[Verdict]:
        try:
            verdicts = list(self.judge(images, prompts, concept))
            if len(verdicts) != len(images):
                raise ValueError(f"the judge returned {len(verdicts)} verdicts for {len(images)} images")
        except UnseeError:
            raise
        except Exception as error:
            if len(images) == 1:
                return [self.unjudged(_one_line(error))]
            # One bad image must not cost its neighbors their verdicts.
            return [self._attempt([i], [p], concept)[0] for i, p in zip(images, prompts, strict=True)]
        return [self._checked(verdict) for verdict in verdicts]

    def _checked(self, verdict: object) -> Verdict:
        if not isinstance(verdict, Verdict):
            return self.unjudged(f"the judge returned {type(verdict).__name__}, not a verdict")
        if verdict.outcome == "unjudged":
            return verdict
        score = verdict.score
        if score is None or not -ROUNDING <= score <= 1 + ROUNDING:  # NaN fails both comparisons
            return self.unjudged(f"the judge gave the score {score}, outside [0, 1]")
        return replace(verdict, score=min(1.0, max(0.0, score)))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
