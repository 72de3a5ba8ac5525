"""The guard: what SAFREE does to one generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from ...defenses.base import Guard
from ...embeddings import encode_ids, spell
from ...errors import Unsupported, UserError
from ...settings import Among, Doc, FreeText, Number, Settings, Texts, Words
from ..negative_prompt import NegativePrompt, warn_if_cut, words
from .attention import damped, watched
from .subspace import (
    RCOND,
    Columns,
    Part,
    basis,
    counts,
    left_out,
    margins,
    read,
    residuals,
    summaries,
    trigger_words,
    triggers,
)

if TYPE_CHECKING:
    from ...backbones import Backbone, Encoding
    from ...concepts import Concept
    from ...defenses.generation import Generation, Step

ORDERS, FILTERINGS = ("released", "paper"), ("released", "paper", "off")
DESIGNED_FOR, MOST = 50, 10  # sampling steps; the largest t'
FULL, HALF = 1e-3, 5e-2  # relative distance of two encodings of one text, by rounding: float32, and half precision
Alpha = Annotated[float, Field(gt=-1, le=10)]  # at -1 every token is found, far above 0 none
Slope = Annotated[float, Field(gt=0, le=1000)]
Cutoff = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Filter:
    """What happens to one prompt: its parts, the words that were found, and t' of 50 steps."""

    parts: tuple[Part, ...]
    words: list[str]
    last: int
    text: Encoding  # the prompt as the text encoders read it, one row

    @property
    def acts(self) -> bool:
        return any(bool(part.triggers.any()) for part in self.parts)


@dataclass
class State:
    """Of one generation."""

    filters: list[Filter]  # one per image
    negative: Encoding | None
    original: Encoding | None = None  # this step's text before the filter, for re-attention


@dataclass(kw_only=True, eq=False)
class SAFREE(Guard):
    """``SAFREE(phrases=("weapon", "dagger"))``; as one text, with commas between them, phrases are split."""

    name: ClassVar[str] = "safree"
    summary: ClassVar[str] = "SAFREE: projects tokens off the concept's subspace, with its words as negative prompt."
    needs_text: ClassVar[bool] = True  # embeddings instead of prompts are refused
    published: ClassVar[Settings] = {"scale_steps": False, "cutoff": 0.0}

    phrases: Annotated[Texts | Words, Doc("What is to be unseen, thing by thing. Left out, the concept's train words.")]
    negative: Annotated[
        FreeText | None, Doc("The negative prompt; None is the phrases, joined, and the empty text is none.")
    ] = None
    alpha: Annotated[Alpha, Doc("How much further than usual from the concept a token is let through.")] = 0.01
    order: Annotated[str, Among(*ORDERS), Doc("Order of the two projections.")] = "released"
    filtering: Annotated[
        str, Among(*FILTERINGS), Doc("How it is decided how many steps are filtered; off is all of them.")
    ] = "released"
    k: Annotated[Slope, Doc("Slope of that decision; 2.5 for nudity and 3.5 for artists were released.")] = 2.5
    t0: Annotated[Number, Doc("Its middle; 5.333 for nudity and 5.5 for artists were released.")] = 5.333
    scale_steps: Annotated[bool, Doc("Whether it counts 50 steps, and fewer in shorter samplers.")] = True
    re_attention: Annotated[bool, Doc("Whether features are weakened too, as for SD 1.x and 2.x; two more passes.")] = (
        False
    )
    cutoff: Annotated[
        Cutoff, Doc("Singular values below this share of the largest are no direction of a span; 0 takes the whole.")
    ] = RCOND

    def __post_init__(self) -> None:
        if isinstance(self.phrases, str):
            self.phrases = tuple(self.phrases.split(","))
        self.phrases = tuple(phrase.strip() for phrase in self.phrases if phrase.strip())
        if not self.phrases:
            raise UserError("phrases that say what is to be unseen", "none", "give some, or leave them out")

    @classmethod
    def for_concept(cls, concept: Concept, **more: Any) -> Self:
        """All train words span the subspace; the negative prompt is the concept's short text, which fits."""
        return cls(**{"phrases": tuple(concept.all_words("train")), "negative": words(concept), **more})

    @property
    def guides(self) -> bool:
        """Whether :meth:`guide` may do anything."""
        return self.re_attention

    def attach(self, backbone: Backbone) -> None:
        if self.re_attention and backbone.denoiser_name != "unet":
            raise Unsupported("a UNet for latent re-attention", backbone.family, "use re_attention=False")
        own = self._negative()
        if own is not None:
            warn_if_cut(self.name, own.text, backbone)

    def prepare(self, generation: Generation) -> State:
        own = self._negative() if generation.cfg else None
        negative = None if own is None else own.prepare(generation)
        return self.start(generation, self.columns(generation.backbone, _length(generation)), negative)

    @torch.no_grad()
    def columns(self, backbone: Backbone, length: int | None = None) -> Columns:
        """The phrases' summaries, by view."""
        return summaries(backbone, spell(backbone, self.phrases, length=length), length=length)

    def start(self, generation: Generation, columns: Columns, negative: Encoding | None) -> State:
        """The state of a generation whose concept is ``columns``, with ``negative`` as its negative text."""
        texts, length = _texts(generation), _length(generation)
        bases = {name: basis(matrix, self.cutoff) for name, matrix in columns.items()}
        made = {text: self.filter(generation.backbone, text, bases, length) for text in dict.fromkeys(texts)}
        return State([made[text] for text in texts], negative)

    @torch.no_grad()
    def filter(self, backbone: Backbone, text: str, bases: Columns, length: int | None = None) -> Filter:
        """Finds the triggers of ``text``, its projections and t'. ``bases``: view → orthonormal ``(D, k)``."""
        ids = spell(backbone, [text], length=length)
        whole, ends, parts = encode_ids(backbone, ids, length=length), backbone.text_ends(ids), []
        columns, many = left_out(backbone, ids, length), counts(backbone, ids)
        for view in backbone.text_parts(ids):
            n = many[view.encoder]
            concept, m = bases[view.name], columns[view.name][:n] if columns else torch.zeros(0, len(bases[view.name]))
            parts.append(Part(view, concept, basis(m, self.cutoff), triggers(residuals(m, concept), self.alpha)))
        said = [word for part in parts if part.view.rows is not None for word in trigger_words(backbone, ids, part)]
        return Filter(tuple(parts), list(dict.fromkeys(said)), self._last(parts, whole, ends), whole)

    def on_negative(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        return state.negative

    def on_positive(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        if step.generation.reads is None:  # else an attack says itself what it reads
            _same_text(step, state.filters)
        total, slopes = step.generation.total, step.generation.slopes
        early = [step.index <= self.last_step(f.last, total) for f in state.filters]
        acting = [f.acts and soon for f, soon in zip(state.filters, early, strict=True)]
        state.original = text
        changed = text
        for i, found in enumerate(state.filters):
            over = self._margins(step.generation, slopes.rows([i]), found) if slopes and early[i] else {}
            for part in found.parts if acting[i] or over else ():
                rows = part.merge(read(part.view, text)[i], self.order, over.get(part.view.name))
                changed = _put(changed, part, i, rows)
        moved = (changed.tokens.float() - text.tokens.float()).flatten(1).norm(dim=1)
        said = [list(found.words) for found in state.filters]
        step.record(self, "filtered" if any(acting) else "let through", acted=acting, triggers=said, strength=moved)
        return None if changed is text else changed

    def guide(self, step: Step, state: State) -> Tensor | None:
        if not self.re_attention or state.original is None or step.positive is None:
            return None
        filtered = step.backbone.text(step.conditions)
        if torch.equal(filtered.tokens, state.original.tokens):
            return None
        skips: dict[int, tuple[Tensor, ...]] = {}
        with watched(step.backbone, lambda i, features: skips.setdefault(i, features)):
            step.predict(state.original)
        with watched(step.backbone, lambda i, features: damped(i, features, skips[i])):
            weaker = step.evaluate(step.conditions, filtered)
        return step.positive - weaker

    def last_step(self, last: int, steps: int) -> int:
        """The last step that is filtered (0-based), of a sampler of ``steps`` steps."""
        if self.filtering == "off":
            return steps
        return max(round((last + 1) * steps / DESIGNED_FOR) - 1, 0) if self.scale_steps else last

    def _margins(self, generation: Generation, reads: Encoding, found: Filter) -> Columns:
        """By view, how far each token of one prompt is over the bar: for whoever takes slopes by ``reads``."""
        columns = left_out(generation.backbone, reads.ids, _length(generation), reads.named)
        return {
            part.view.name: margins(residuals(columns[part.view.name][: len(part.triggers)], part.concept), self.alpha)
            for part in (found.parts if columns else ())
        }

    def _last(self, parts: Sequence[Part], whole: Encoding, ends: Sequence[Tensor]) -> int:
        """t' from how far the projection turns the rows that are read; 0 for a prompt without tokens."""
        part = parts[0]
        if not len(part.triggers):
            return 0
        rows = read(part.view, whole)[0, : int(ends[part.view.encoder]) + 1].cpu().double()
        turned = 1.0 - torch.cosine_similarity(rows, part.project(rows, self.order), dim=-1)
        return self.early(float(turned.mean()))

    def early(self, turned: float) -> int:
        """t' in [0, 10] from b, the mean of 1 - cos, in [0, 2]."""
        x = turned if self.filtering == "paper" else 2 * self.k * (10 * turned - self.t0)
        return round(MOST * float(torch.tensor(x, dtype=torch.float64).sigmoid()))

    def _negative(self) -> NegativePrompt | None:
        text = ", ".join(self.phrases) if self.negative is None else self.negative
        return NegativePrompt(text=text) if text.strip() else None


def _texts(generation: Generation) -> list[str]:
    arguments = generation.arguments
    if any(arguments.get(name) is not None for name in ("prompt_embeds", "pooled_prompt_embeds")):
        raise Unsupported("prompts as text, whose tokens SAFREE tests", "prompt_embeds=…", "pass prompt=…")
    for name in ("prompt_2", "prompt_3", "clip_skip"):
        given = arguments.get(name)
        if given is not None and given != arguments.get("prompt"):
            raise Unsupported("one prompt, read by all text encoders alike", f"{name}=…", f"call without {name}")
    return [text or "" for text in generation.prompts]


def _same_text(step: Step, filters: Sequence[Filter]) -> None:
    """The tokens that were tested are those of the prompt: what reached the denoiser must be that prompt."""
    assert step.asked is not None
    for i, found in enumerate(filters):
        got, wanted = step.asked.rows([i]), step.backbone.match(found.text, step.asked.rows([i]))
        for a, b in ((got.tokens, wanted.tokens), (got.pooled, wanted.pooled)):
            if a is None or b is None:
                continue
            off = float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-12))
            if off > (HALF if a.dtype.itemsize < 4 else FULL):
                got_text = f"another text at step {step.index} (a callback, a subclass or encode_prompt changed it)"
                raise Unsupported("the prompt's own encoding, whose tokens SAFREE tests", got_text, "leave it as it is")


def _length(generation: Generation) -> int | None:
    return generation.arguments.get("max_sequence_length")


def _put(text: Encoding, part: Part, i: int, rows: Tensor) -> Encoding:
    if part.view.rows is None:
        assert text.pooled is not None
        pooled = text.pooled.clone()
        pooled[i] = rows[0]
        return replace(text, pooled=pooled)
    tokens = text.tokens.clone()
    tokens[i, part.view.rows] = rows
    return replace(text, tokens=tokens)
