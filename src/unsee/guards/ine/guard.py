"""The guard: an embedding in a carrier."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from ... import embeddings as inversion
from ...backbones import adapter
from ...defenses.base import Guard
from ...defenses.presets import settled
from ...embeddings import Text, encode_ids, spell
from ...errors import BadFile, Mismatch, UserError
from ...settings import Among, Count, Doc, FreeText, Settings, Table, Texts, Told
from ..negative_prompt import NegativePrompt, words
from ..safree import SAFREE, summaries
from ..sld import PRESETS as SLD_PRESETS
from ..sld import SLD, Choice, Motion
from .fitting import NAME, PRESETS, Fitting, trained

if TYPE_CHECKING:
    from ...backbones import Backbone, Encoding
    from ...defenses.base import Fit, State
    from ...defenses.generation import Generation, Step

CARRIERS: dict[str, type[Guard]] = {"negative-prompt": NegativePrompt, "sld": SLD, "safree": SAFREE}
REPLACE = ("both", "subspace", "cfg")


@dataclass(kw_only=True, eq=False)
class INE(Guard):
    """``INE(carrier="sld", preset="strong")``; the embedding comes by fitting or loading.

    Where there is one embedding for every thing (``start="words"``), SLD takes the one that is nearest to what the
    denoiser reads.
    """

    name: ClassVar[str] = "ine"
    needs_weights: ClassVar[bool] = True
    summary: ClassVar[str] = "INE: guidance away from a learned embedding. Its weights are for use as a negative only."
    Training: ClassVar[type] = Fitting
    published: ClassVar[Settings] = {"start": "hypernym", **PRESETS["paper"]}
    presets: ClassVar[dict[str, Settings]] = PRESETS
    quick: ClassVar[Settings] = {
        "preset": "max", "steps": 2, "batch": 1, "images": 2, "judge": "always.unsafe", "draw_steps": 1, "check": 0,
    }  # fmt: skip

    carrier: Annotated[str, Among(*CARRIERS), Doc("The guard that the embedding is put into.")] = "sld"
    preset: Annotated[str, Among(*SLD_PRESETS), Doc("SLD's preset, where that is the carrier.")] = "medium"
    replace: Annotated[
        str, Among(*REPLACE), Doc("What of SAFREE is the embedding's: its subspace, its negative (cfg), or both.")
    ] = "both"
    phrases: Annotated[Texts, Doc("The words of SAFREE's subspace where replace is cfg; fitting fills them in.")] = ()
    negative: Annotated[FreeText, Doc("SAFREE's negative where replace is subspace; fitting fills it in.")] = ""
    options: Annotated[Table, Doc("Other settings of the carrier, as options.warmup=0.")] = field(default_factory=dict)
    lengths: Annotated[
        tuple[Count, ...],
        Told("a list of counts"),
        Doc("Rows of each embedding where there is one for every thing; set by fitting."),
    ] = ()

    def __post_init__(self) -> None:
        self.phrases, self.lengths = tuple(self.phrases), tuple(self.lengths)
        self.rows: tuple[Tensor, ...] = ()  # one (K, vectors, D_i) per text encoder
        self.needs_cfg = CARRIERS[self.carrier].needs_cfg  # type: ignore[misc]
        self.inner = self._carrier()
        self.inner.name = self.name  # type: ignore[misc]  # its decisions are ours

    @property
    def guides(self) -> bool:
        """Whether :meth:`guide` may do anything."""
        return self.carrier == "sld" or (isinstance(self.inner, SAFREE) and self.inner.guides)

    def tensors(self) -> dict[str, Tensor]:
        return {f"rows.{i}": own for i, own in enumerate(self.rows)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        rows = tuple(tensors[name] for name in sorted(tensors))
        sound = all(own.ndim == 3 and own.shape[:2] == rows[0].shape[:2] for own in rows)
        if not rows or not sound or sorted(tensors) != [f"rows.{i}" for i in range(len(rows))]:
            raise BadFile("rows.0, rows.1, … of (K, vectors, D)", ", ".join(sorted(tensors)) or "none", "fit it again")
        if self.lengths and rows[0].shape[:2] != (sum(self.lengths), 1):
            raise BadFile(f"{sum(self.lengths)} rows", f"{tuple(rows[0].shape)}", "fit it again")
        if not all(bool(torch.isfinite(own).all()) for own in rows):
            raise BadFile("a finite embedding", "NaN or infinity", "fit it again")
        self.rows = rows

    def carried_by(self, carrier: str, **more: Any) -> INE:
        """The same embedding in another carrier, or in the same one with other settings."""
        made = INE(**{**self.config(), "options": {}, **more, "carrier": carrier})
        made.load_tensors(self.tensors())
        made.fingerprints, made.record = dict(self.fingerprints), dict(self.record)
        return made

    def encode(
        self,
        backbone: Backbone,
        negatives: Sequence[str | tuple[str, ...] | None] = (None,),
        *,
        length: int | None = None,
    ) -> Encoding:
        """c* as a negative text, one row for each of the user's own ``negatives``, which stands behind it (of a
        tuple, each encoder's own). Raises
        :class:`UserError` where the text encoder would cut some of several embeddings off."""
        different = list(dict.fromkeys(negatives))
        ids = tuple(
            spell(backbone, [self._text(_own(text, i)) for text in different], self._shape()[1], length)[i]
            for i, _ in enumerate(inversion.pairs(backbone))
        )
        if any(int(own.min()) > -len(rows) for own, rows in zip(ids, self._flat(), strict=True)):
            got = f"{len(self._names())} that are too long together"
            raise UserError("embeddings that the text encoder reads", got, "fit fewer, or use carrier=sld, start=words")
        text = encode_ids(backbone, ids, self._flat(), length)
        return text.rows([different.index(own) for own in negatives])

    def attach(self, backbone: Backbone) -> None:
        widths = [own.shape[-1] for own in self.rows]
        wanted = [inversion.input_table(e).shape[1] for e, _ in inversion.pairs(backbone)]
        kept = {"cfg": self.phrases, "subspace": self.negative}
        if self.carrier == "safree" and not kept.get(self.replace, NAME):
            missing = {"cfg": "phrases", "subspace": "a negative"}[self.replace]
            raise UserError(f"{missing} for SAFREE, with replace={self.replace}", "none", "fit it, or give them")
        if not widths:
            raise UserError("a fitted INE", "one without its embedding", "fit it, or load it with from_pretrained")
        if widths != wanted:
            got = f"text encoders of width {wanted}"
            raise Mismatch(f"text encoders of width {widths}", got, "use it on the model it was fitted for")
        if self.carrier == "safree":
            self.inner.attach(backbone)

    def prepare(self, generation: Generation) -> State:
        length, negative = generation.arguments.get("max_sequence_length"), generation.backbone.negative
        with torch.no_grad():
            if isinstance(self.inner, SAFREE):
                return self._prepare_safree(self.inner, generation, length)
            if isinstance(self.inner, NegativePrompt):
                return self.encode(negative, generation.said("negative_"), length=length)
            if self.lengths:
                known = encode_ids(negative, spell(negative, self._names(), 1, length), self._flat(), length)
                return Choice(concept=known, known=known, empty=generation.encode([""]))
            return Motion(self.encode(negative, length=length))

    def on_positive(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        return self.inner.on_positive(step, text, state)

    def on_negative(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        return self.inner.on_negative(step, text, state)

    def guide(self, step: Step, state: State) -> Tensor | None:
        return self.inner.guide(step, state)

    @classmethod
    def _fit(cls, fit: Fit, training: Fitting, arguments: Settings) -> Self:
        training, kept = settled(training, fit.concept, cls.presets), {}
        if arguments.get("carrier") == "safree" and arguments.get("replace", "both") != "both":
            kept = {"phrases": tuple(fit.concept.all_words("train")), "negative": words(fit.concept)}
        rows, lengths, record = _take(fit, training) if training.embedding else trained(fit, training)
        made = cls(**{**kept, **arguments, "lengths": lengths})
        made.load_tensors({f"rows.{i}": own for i, own in enumerate(rows)})
        made.record = {"concept": fit.concept.name, "seed": fit.seed, **record}
        return made.fitted_for(adapter(fit.pipe))

    def _carrier(self) -> NegativePrompt | SLD | SAFREE:
        if self.carrier == "sld":
            return SLD(text=NAME, preset=self.preset, **self.options)
        if self.carrier == "negative-prompt":
            return NegativePrompt(text=NAME, **self.options)
        phrases = (self.phrases or (NAME,)) if self.replace == "cfg" else (NAME,)  # attach wants them
        return SAFREE(phrases=phrases, negative=self.negative if self.replace == "subspace" else NAME, **self.options)

    def _prepare_safree(self, inner: SAFREE, generation: Generation, length: int | None) -> Any:
        backbone, negative = generation.backbone, None
        columns = inner.columns(backbone, length) if self.replace == "cfg" else self._columns(backbone, length)
        if generation.cfg and self.replace != "subspace":
            negative = self.encode(backbone.negative, generation.said("negative_"), length=length)
        elif generation.cfg:
            negative = NegativePrompt(text=self.negative).prepare(generation)
        return inner.start(generation, columns, negative)

    def _columns(self, backbone: Backbone, length: int | None) -> dict[str, Tensor]:
        return summaries(backbone, spell(backbone, self._names(), self._shape()[1], length), self._flat(), length)

    def _names(self) -> list[tuple[int, ...]]:
        """Each embedding as a text of its rows."""
        ends = itertools.accumulate(self.lengths)
        many = [tuple(range(end - n, end)) for end, n in zip(ends, self.lengths, strict=True)]
        return many or [(k,) for k in range(self._shape()[0])]

    def _text(self, own: str | None) -> Text:
        pieces: list[str | int] = []
        for name in self._names():
            pieces += [", ", *name]
        return tuple([*pieces[1:], f", {own}"] if own else pieces[1:])

    def _shape(self) -> tuple[int, int]:
        return self.rows[0].shape[0], self.rows[0].shape[1]

    def _flat(self) -> tuple[Tensor, ...]:
        return tuple(own.flatten(0, 1) for own in self.rows)


def _own(text: str | tuple[str, ...] | None, encoder: int) -> str | None:
    return text[encoder] if isinstance(text, tuple) else text


def _take(fit: Fit, training: Fitting) -> tuple[list[Tensor], tuple[int, ...], dict[str, Any]]:
    folder = training.embedding.replace("{concept}", fit.concept.name)
    source = INE.from_pretrained(folder)
    text = adapter(fit.pipe).text_fingerprint()
    if source.fingerprints.get("text") != text:
        raise Mismatch("an embedding of this text encoder", f"{folder} of another", "fit one for this model")
    return list(source.rows), source.lengths, {**source.record, "embedding": folder}
