"""The nouns that flow: Concept, Prompt, Sample, Verdict, Record. Light to import (no torch)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Role = Literal["unsafe", "benign", "neighbor"]
Kind = Literal["plain", "synonym", "empty", "neighbor", "benign"]
Split = Literal["train", "held-out"]
Outcome = Literal["unsafe", "safe", "unjudged"]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]  # what a JSON file can hold
Event = dict[str, Any]  # what a guard decided at a step: "defense", "step", "t", "done", and values of its own
Sees = Literal["words", "text", "model", "images"]  # tokenizers, text encoders, all that is protected, its images


@dataclass(frozen=True)
class Prompt:
    """A text with its identity. ``seed`` belongs to the image, not to the list it stands in."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}  # where it is read from a file

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
    """One image as it was made: RGB, and everything needed to make it again.

    ``fault`` says why it is no picture that may be judged (NaN, blacked out by the pipeline), else it is empty. It is
    written on the image itself and stored with it.
    """

    image: Image
    prompt: Prompt
    defense: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    decisions: tuple[Event, ...] = ()

    @property
    def fault(self) -> str:
        from .pictures import fault

        return fault(self.image)


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
    decisions: tuple[Event, ...] = ()
    metrics: dict[str, float | None] = field(default_factory=dict)  # preservation, clip_score
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """What was asked of the model. A prompt's own is its share of what was spent on all that were attacked at once."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}  # read from a file

    encodings: float = 0.0  # texts read by the text encoders
    forwards: float = 0.0  # rows through the denoiser; a guard's own passes are the defense's
    backwards: float = 0.0  # rows of these with gradients
    images: float = 0.0  # drawn

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Spent:
        return Spent(*(factor * a for a in astuple(self)))

    def within(self, most: Spent) -> bool:
        """Whether nothing of this is more than ``most`` allows."""
        return all(a <= b + 1e-6 for a, b in zip(astuple(self), astuple(most), strict=True))


@dataclass(frozen=True)
class AttackedPrompt:
    """A prompt as an attack made it. ``prompt`` has the text to draw, with the id and the seed of the one attacked."""

    prompt: Prompt
    source: str  # the text that was attacked
    attack: str
    before: float | None = None  # the attack's objective, lower is better; None where it has none
    after: float | None = None
    spent: Spent = Spent()
    words: tuple[Tensor, ...] = ()  # embeddings that its text names, one (vectors, D) per text encoder
    seconds: float | None = field(default=None, compare=False)  # its share of the search, on whatever machine that was


def total_spent(found: Iterable[AttackedPrompt]) -> dict[str, float]:
    """What all of them cost together."""
    return asdict(sum((f.spent for f in found), Spent()))


def as_json(value: object) -> object:
    """For ``json.dumps(default=…)``: a row as the table of its fields, or as its ``as_dict`` says; all else as text."""
    if not is_dataclass(value) or isinstance(value, type):
        return str(value)
    own = getattr(value, "as_dict", None)
    return own() if own else {f.name: getattr(value, f.name) for f in fields(value)}
