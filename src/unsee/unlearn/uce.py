"""UCE, unified concept editing: the words of a concept are mapped to those of its anchors, in closed form.

Paper       Gandikota et al., WACV 2024 (arXiv 2308.14761)
Code        rohitgandikota/unified-concept-editing
Touches     every projection that reads text directly: keys and values of cross-attention; for SD3 and FLUX the
            embedder of all text tokens and the first layer of the pooled embedding. With W the old weight, c the
            concept's vectors, c* their guides and k what is kept:
                min over W'   e Σ |W' c - W c*|² + p Σ |W' k - W k|² + l |W' - W|²
                W' - W = e W Σ (c* - c) cᵀ M⁻¹,     M = l I + e Σ c cᵀ + p Σ k kᵀ
Cost        seconds: M is factored once per text width, for all layers together; sampling costs what it did
Differs     * vectors are taken from whole train prompts, the concept's words in their contexts, not from bare words;
              ``tokens="last"`` is the paper's one vector per text, ``"all"`` also all that an encoder wrote behind it.
            * a text has weight 1, however many of its tokens are used, and scales are means over texts (so that a
              longer list does not silently change the balance), times ``size`` = the mean of |c|² so that ``lamb``
              means the same for every text encoder. ``sums=True`` is the paper's: every row has weight 1, e and p
              multiply sums, and l is what it says.
            * a guide is the safe text of the pair; the code's is the empty text, "art", or what is given.
            * debiasing is left out.
Published   (``UCE.as_published()``) one vector per text, sums, e 1, p 1, l .5
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from ..backbones import adapter
from ..backbones.weights import unwrap
from ..defenses.protection import edits_attached
from ..errors import Unsupported
from ..settings import Among, Checked, Count, Doc, FreeText, Settings, Weight
from .base import Layer, WeightEdit, layer_of
from .descent import Rank
from .lora import DELTA, truncated
from .token_vectors import TOKENS, Vectors, concepts_of, erased, kept, pooled

if TYPE_CHECKING:
    from ..backbones import Backbone
    from ..defenses.base import Fit


Scale = Annotated[float, Field(gt=0, le=1e9)]  # at 0 nothing is erased
Ridge = Annotated[float, Field(gt=0, le=1e9)]


@dataclass(frozen=True)
class Closed(Checked):
    """How a closed form is fitted."""

    texts: Annotated[Count, Doc("Pairs of texts, and as many prompts of each kind that must stay.")] = 200
    tokens: Annotated[
        str,
        Among(*TOKENS),
        Doc("One vector for each text (last), or all that an encoder wrote behind the concept's words."),
    ] = "all"
    erase: Annotated[Scale, Doc("e, weight of what is mapped to its anchor.")] = 1.0
    preserve: Annotated[Weight, Doc("p, weight of what must stay.")] = 10.0
    lamb: Annotated[Ridge, Doc("l, weight of the old weights; above 0, for else the solution is not unique.")] = 0.001
    sums: Annotated[bool, Doc("Whether scales multiply sums over rows, as published, not means over texts.")] = False
    rank: Annotated[Rank, Doc("0 saves exact deltas; above 0, their truncated SVD as LoRA.")] = 0
    also: Annotated[FreeText, Doc("Further concepts, comma-separated.")] = ""


@dataclass(kw_only=True, eq=False)
class UCE(WeightEdit):
    """``UCE.fit(pipe, concept, work=…)``: seconds, no images needed."""

    name: ClassVar[str] = "uce"
    summary: ClassVar[str] = (
        "UCE: maps the concept's words to its anchors' in the layers that read text, in closed form."
    )
    Training: ClassVar[type | None] = Closed
    published: ClassVar[Settings] = {"tokens": "last", "sums": True, "erase": 1.0, "preserve": 1.0, "lamb": 0.5}
    quick: ClassVar[Settings] = {"texts": 6}

    @classmethod
    def _fit(cls, fit: Fit, training: Closed, arguments: Settings) -> Self:
        backbone = adapter(fit.pipe)
        made = cls(**arguments).fitted_for(backbone)
        with edits_attached(fit):
            groups = problems(backbone, fit, training)
            edits = {
                name: delta
                for group in groups
                for name, delta in solved(group.weights, group.erase, group.keep, training).items()
            }
        fit.progress("uce", 1, 1)
        weights, error = packed(edits, backbone, training.rank)
        made.load_tensors(weights)
        made.record = {
            "concepts": [c.name for c in concepts_of(fit.concept, training.also)],
            "seed": fit.seed,
            "training": asdict(training),
            "layers": len(edits),
            "vectors": {"erased": len(groups[0].erase.weight), "kept": len(groups[0].keep.weight)},
            "relative error of the low rank": error,
        }
        return made


@dataclass(frozen=True)
class Problem:
    """Layers of one input width, with the vectors that reach them."""

    layers: dict[str, Layer]
    erase: Vectors
    keep: Vectors

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of each layer ``(out, in)``, in float64."""
        return {name: layer.weight.detach().double() for name, layer in self.layers.items()}


def problems(backbone: Backbone, fit: Fit, training: Closed) -> list[Problem]:
    """One problem for the token layers, and one for the pooled layer where the family has it."""
    concepts = concepts_of(fit.concept, training.also)
    how = (training.texts, training.tokens, fit.seed)
    groups = [Problem(token_layers(backbone), erased(backbone, concepts, *how), kept(backbone, concepts, *how))]
    layers, vectors = pooled_layers(backbone), pooled(backbone, concepts, training.texts, fit.seed)
    if layers and vectors is not None:
        groups.append(Problem(layers, *vectors))
    return groups


def token_layers(backbone: Backbone) -> dict[str, Layer]:
    """Every layer whose input is the encoded text itself."""
    found = backbone.projections()
    context = {name: p.module for name, p in found.items() if p.part == "context"}
    layers = context or {n: p.module for n, p in found.items() if p.attention == "cross" and p.part in ("k", "v")}
    if not layers:
        raise Unsupported("a denoiser whose layers read text", "none", "UCE cannot edit this model")
    return dict(layers)


def pooled_layers(backbone: Backbone) -> dict[str, Layer]:
    """The first layer of the pooled embedding's own network (SD3, FLUX)."""
    name = "time_text_embed.text_embedder.linear_1"
    layer = layer_of(unwrap(backbone.denoiser), name)
    return {name: layer} if isinstance(layer, torch.nn.Linear) else {}


def solved(weights: dict[str, Tensor], erase: Vectors, keep: Vectors, training: Closed,
           guides: dict[str, Tensor] | None = None) -> dict[str, Tensor]:  # fmt: skip
    """W' - W of each layer, float64, by one factorization for all. ``guides`` are the weights that see the guides and
    what is kept (RECE's original ones), else ``weights``."""
    e, p, lamb = scales(erase, keep, training)
    c, k = erase.source, keep.source
    cc, kk = c.T @ (e[:, None] * c), k.T @ (p[:, None] * k)
    factor = torch.linalg.cholesky(cc + kk + lamb * torch.eye(len(cc), dtype=torch.float64))

    def over(rows: Tensor, like: Tensor) -> Tensor:  # rows M⁻¹, M symmetric
        return torch.cholesky_solve(rows.T, factor).T.to(like.device)

    some = next(iter(weights.values()))
    if guides is None:
        right = over((erase.guide - c).T @ (e[:, None] * c), some)
        return {name: w @ right for name, w in weights.items()}
    to_guides = over(erase.guide.T @ (e[:, None] * c) + kk, some)
    less = over(cc + kk, some)
    return {name: guides[name] @ to_guides - w @ less for name, w in weights.items()}


def scales(erase: Vectors, keep: Vectors, training: Closed) -> tuple[Tensor, Tensor, float]:
    """(e of each erased row, p of each kept row, lambda): means over texts, lambda in units of the mean of |c|²; with
    ``sums`` the three numbers as they are."""
    if training.sums:
        ones = [torch.ones_like(part.weight) for part in (erase, keep)]
        return training.erase * ones[0], training.preserve * ones[1], training.lamb
    size = float(erase.source.square().sum(1).mean())
    e = training.erase * erase.weight / erase.weight.sum()
    p = training.preserve * keep.weight / keep.weight.sum()
    return e, p, training.lamb * size


def packed(deltas: dict[str, Tensor], backbone: Backbone, rank: int) -> tuple[dict[str, Tensor], float]:
    """Deltas as they are saved: (exact, 0), or (pairs of at most ``rank``, the error of that)."""
    named = {f"{backbone.denoiser_name}.{name}": delta.float().cpu() for name, delta in deltas.items()}
    if rank:
        return truncated(named, rank)
    return {name + DELTA: delta.contiguous() for name, delta in named.items()}, 0.0
