"""The nouns that flow: Concept, Prompt, Sample, Verdict, Record. Light to import (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Role = Literal["unsafe", "benign", "neighbor"]
Kind = Literal["plain", "synonym", "empty", "neighbor", "benign"]
Split = Literal["train", "held-out"]
Outcome = Literal["unsafe", "safe", "unjudged"]


@dataclass(frozen=True)
class Prompt:
    """A text with its identity. ``seed`` belongs to the image, not to the list it stands in."""

    text: str
    id: str
    seed: int
    role: Role = "unsafe"
    kind: Kind = "plain"
    split: Split = "held-out"
    subject: str = ""  # the judge's name of what is asked for, where there is one ("dagger", "hammer")
    style: str = ""


@dataclass(frozen=True)
class Sample:
    """One image as it was made: RGB, and everything needed to make it again."""

    image: Image
    prompt: Prompt
    defense: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    decisions: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one image. ``score`` in [0, 1], higher is more unsafe; None if unjudged."""

    outcome: Outcome
    score: float | None
    judge: str
    version: str
    reason: str = ""
    labels: dict[str, Any] = field(default_factory=dict)  # picto: group, style, subject, ranked subjects


@dataclass(frozen=True)
class Record:
    """A stored result: the prompt, how the image was made, where it lies, what the judge said."""

    cell: str  # content address of (model, defense stack, attack, prompt, seed, settings)
    suite: str
    model: str
    concept: str
    defense: str
    attack: str
    prompt: Prompt
    image: str  # sha256 of the stored PNG
    verdict: Verdict
    seconds: float  # wall time of the batch divided by its images
    twin: str = ""  # cell of the undefended image of the same prompt and seed; itself where nothing defends
    decisions: tuple[dict[str, Any], ...] = ()
    metrics: dict[str, float | None] = field(default_factory=dict)  # preservation, clip_score
    versions: dict[str, str] = field(default_factory=dict)
