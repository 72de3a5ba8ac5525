"""What exists only while images are made: one Generation per pipeline call, one Step per sampler step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from ..errors import GuardFailure

if TYPE_CHECKING:
    from ..backbones import Backbone, Encoding
    from ..backbones.base import Arguments, Said, Values
    from ..types import Event


class Named(Protocol):
    """A defense, as far as a generation knows it."""

    name: ClassVar[str]


@dataclass
class Generation:
    """One call of the pipeline: what was asked, and what the guards did, image by image."""

    backbone: Backbone
    arguments: Arguments  # of the pipeline's call, by name, defaults filled in
    images: int
    cfg: bool
    prompts: list[str | None]  # per image; None where only embeddings were given
    negatives: list[str | None]  # per image; None where there is none
    states: list[object] = field(default_factory=list)  # one per guard
    decisions: list[list[Event]] = field(default_factory=list)  # [image][event]
    step: Step | None = None
    calls: int = 0  # of the denoiser
    drawing: bool = False  # the pipeline itself is running, not code that calls the denoiser
    reads: Encoding | None = None  # of an attack: the prompts as ids, some of which name embeddings that take slopes

    @classmethod
    def of(cls, backbone: Backbone, call: Callable[..., Any], args: Sequence[object], kwargs: Arguments) -> Self:
        """Reads a pipeline call. Raises :class:`Unsupported` if it cannot be protected."""
        arguments = _arguments(backbone, call, args, kwargs)
        backbone.check(arguments)
        backbone = backbone.of_call(arguments)
        each = int(arguments.get("num_images_per_prompt") or 1)
        prompts = backbone.prompts(arguments)
        return cls(
            backbone,
            arguments,
            images=prompts * each,
            cfg=backbone.cfg(arguments),
            prompts=_per_image(backbone.texts(arguments), prompts, each),
            negatives=_per_image(backbone.texts(arguments, "negative_"), prompts, each),
            decisions=[[] for _ in range(prompts * each)],
        )

    @property
    def slopes(self) -> Encoding | None:
        """``reads``, if somebody wants to know how what a guard decides depends on the words."""
        wanted = torch.is_grad_enabled() and self.reads is not None and any(r.requires_grad for r in self.reads.named)
        return self.reads if wanted else None

    @property
    def total(self) -> int:
        """Number of steps of this sampler, as the pipeline counts them (Heun: two evaluations per step)."""
        planned = self.backbone.planned_steps if self.drawing else None
        return int(planned or self.arguments.get("num_inference_steps") or 1)

    def said(self, prefix: str = "") -> list[tuple[str, ...]]:
        """Per image, what each text encoder reads of the prompt (``negative_``: of the negative); empty texts where
        there is none."""
        each = int(self.arguments.get("num_images_per_prompt") or 1)
        found = self.backbone.said(self.arguments, prefix) or [("",) * len(self.backbone.tokenizers)]
        found = found * (self.images // each) if len(found) == 1 else found
        return [texts for texts in found for _ in range(each)]

    def encode(self, texts: Sequence[Said]) -> Encoding:
        """One row per text, each different text encoded once, as this call reads a negative prompt."""
        different = list(dict.fromkeys(texts))
        encoded = self.backbone.negative.encode(different, length=self.arguments.get("max_sequence_length"))
        return encoded.rows([different.index(text) for text in texts])

    def finish(self) -> None:
        """After the pipeline returned: every step must have passed through the guards."""
        turns = 1 if self.backbone.stacked or not self.cfg else 2
        interrupted = bool(getattr(self.backbone.pipe, "interrupt", False))
        if self.calls == 0 or (not interrupted and self.calls != self.total * turns):
            seen = f"{self.calls} of {self.total * turns}"
            raise GuardFailure(f"the guards saw {seen} denoiser calls; no image is returned")


@dataclass
class Step:
    """One evaluation of the denoiser, for all images of the generation."""

    generation: Generation
    index: int  # 0-based
    t: float  # the scheduler's scale
    latents: Tensor  # (n, C, H, W) as the denoiser gets them; FLUX packed, (n, HW/4, 4C)
    conditions: Values = field(default_factory=dict)  # the call's arguments, positive rows
    asked: Encoding | None = None  # the user's half of the text as it arrived, before any guard
    positive: Tensor | None = None  # predictions of the n images, in the model's own kind
    negative: Tensor | None = None
    own: Values | None = None  # the call with the user's own negative, where a guard replaced it

    @property
    def backbone(self) -> Backbone:
        return self.generation.backbone

    @property
    def t_999(self) -> float:
        """t on the 0-999 scale; noise is 999."""
        return self.backbone.timestep_999(self.t)

    def predict(self, text: Encoding) -> Tensor:
        """One more pass of the denoiser on these latents with another text (1 row, or one per image)."""
        return self.evaluate(self.conditions, text)

    def evaluate(self, conditions: Values, text: Encoding) -> Tensor:
        """``.forward``, not the module: hooks, ours first of all, must not run again."""
        values = self.backbone.with_text(conditions, self.backbone.match(text, self.backbone.text(conditions)))
        return self.backbone.prediction(self.backbone.denoiser.forward(**values))

    def record(self, guard: Named, done: str | list[str], **values: object) -> None:
        """Notes for each image what was done. A list or a tensor of n values gives each image its own."""
        columns = {name: _column(value, self.generation.images) for name, value in {"done": done, **values}.items()}
        for i, events in enumerate(self.generation.decisions):
            own = {name: column[i] for name, column in columns.items()}
            events.append({"defense": guard.name, "step": self.index, "t": self.t, **own})


def _arguments(backbone: Backbone, call: Callable[..., Any], args: Sequence[object], kwargs: Arguments,
               ) -> Arguments:  # fmt: skip
    """The call's arguments by name; what a subclass passes on as ``**kwargs`` has diffusers' own defaults."""
    signature = inspect.signature(call)
    bound = signature.bind(backbone.pipe, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])
    rest = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    if not rest:
        return arguments
    own = inspect.signature(backbone.pipeline_class.__call__).parameters.values()
    defaults = {p.name: p.default for p in own if p.default is not p.empty}
    return {**defaults, **arguments, **arguments.pop(rest[0])}


def turning(margin: Tensor) -> Tensor:
    """0, exactly; backward, the slope at 0 of the sigmoid of ``margin``, wherever that is.

    Added to a guard's hard decision it shows whoever differentiates through it (a white-box attack) how to turn it,
    however sure the guard is.
    """
    return (margin - margin.detach()) / 4


def finite(guard: Named, step: Step, tensor: Tensor | None) -> None:
    """Raises :class:`GuardFailure` where a guard's output is NaN or infinite."""
    if tensor is not None and not bool(torch.isfinite(tensor).all()):
        raise GuardFailure(f"{guard.name} gave NaN or infinity at step {step.index}; no image is returned")


def _per_image(texts: list[str] | None, prompts: int, each: int) -> list[str | None]:
    if texts is None:
        return [None] * (prompts * each)
    texts = texts * prompts if len(texts) == 1 else texts
    return [text for text in texts for _ in range(each)]


def _column(value: object, n: int) -> list[object]:
    if isinstance(value, Tensor):
        return [float(x) for x in value.detach().float().flatten()]
    return list(value) if isinstance(value, list) else [value] * n
