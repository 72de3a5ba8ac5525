"""What a concept means to the text encoders: its vectors, the vectors of what takes its place, and what must stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..concepts import load as load_concept
from ..errors import UserError
from ..types import Kind

if TYPE_CHECKING:
    from ..backbones import Backbone, Encoding
    from ..concepts import Concept

TOKENS = ("last", "all")


@dataclass(frozen=True)
class Vectors:
    """Rows that belong together, in float64: ``source`` (N, D) → ``guide`` (N, D), each with its ``weight`` (N,)."""

    source: Tensor
    guide: Tensor
    weight: Tensor

    @classmethod
    def join(cls, parts: Sequence[Vectors]) -> Vectors:
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in ("source", "guide", "weight")))


def concepts_of(concept: Concept, also: str) -> list[Concept]:
    """The concept, and those that ``also`` names (comma-separated names or TOML paths)."""
    return [concept, *(load_concept(name.strip()) for name in also.split(",") if name.strip())]


def erased(
    backbone: Backbone, concepts: Sequence[Concept], n: int, tokens: str, seed: int, *, empty: bool = False
) -> Vectors:
    """Token vectors of ``n`` unsafe texts per concept and of the safe texts in their place, position by position.

    ``last``: the last token of the words that differ, a vector per text. ``all``: every token from those words to the
    end of the window, which is what a causal text encoder has written the concept into. Each text has weight 1 in
    all. With ``empty`` the empty text takes the place of the safe ones.
    """
    pairs = [pair for concept in concepts for pair in dict.fromkeys(concept.pairs("train", n, seed))]
    pairs = [(unsafe, "") for unsafe, _ in pairs] if empty else pairs
    return _align(backbone, pairs, tokens)


def kept(backbone: Backbone, concepts: Sequence[Concept], n: int, tokens: str, seed: int) -> Vectors:
    """Token vectors of what must survive: ``n`` neighbor and ``n`` benign train prompts and the safe texts of pairs."""
    texts = []
    for concept in concepts:
        texts += [p.text for kind in kinds(concept) for p in concept.prompts(kind, "train", n, seed)]
        texts += [safe for _, safe in concept.pairs("train", n, seed)]
    return _align(backbone, [(text, text) for text in dict.fromkeys(texts)], tokens)


def pooled(backbone: Backbone, concepts: Sequence[Concept], n: int, seed: int) -> tuple[Vectors, Vectors] | None:
    """(erased, kept) of the pooled embeddings; None for a family that has none."""
    if not backbone.pooled_dim:
        return None
    pairs = [pair for concept in concepts for pair in dict.fromkeys(concept.pairs("train", n, seed))]
    texts = [p.text for concept in concepts for kind in kinds(concept) for p in concept.prompts(kind, "train", n, seed)]
    u, s, k = (_pool(backbone, t) for t in ([u for u, _ in pairs], [s for _, s in pairs], texts))
    one = torch.ones
    return Vectors(u, s, one(len(u)).double()), Vectors(k, k, one(len(k)).double())


def kinds(concept: Concept) -> tuple[Kind, ...]:
    """The kinds of prompts that must survive."""
    return ("neighbor", "benign") if concept.neighbors or concept.depicts else ("benign",)


def _align(backbone: Backbone, pairs: Sequence[tuple[str, str]], tokens: str) -> Vectors:
    if tokens not in TOKENS:
        raise UserError(f"tokens among {', '.join(TOKENS)}", repr(tokens), "set one of these")
    parts: list[Vectors] = []
    for start in range(0, len(pairs), 64):
        unsafe, safe = zip(*pairs[start : start + 64], strict=True)
        encoded = backbone.encode([*unsafe, *safe])
        parts += _rows(backbone, encoded, len(unsafe), tokens)
    if not parts:
        raise UserError("texts that a text encoder can read", "none", "check the concept's pairs")
    return Vectors.join(parts)


def _rows(backbone: Backbone, encoded: Encoding, n: int, tokens: str) -> Iterator[Vectors]:
    vectors = encoded.tokens.double().cpu()
    for offset, ids, masks in _windows(backbone, encoded):
        lengths = masks.sum(1).tolist()
        for i in range(n):
            ends = (lengths[i], lengths[n + i]) if encoded.mask is not None else (None, None)  # what is read
            own, other = ids[i, : ends[0]].tolist(), ids[n + i, : ends[1]].tolist()
            u, s = _places(own, other, lengths[i], lengths[n + i], tokens, backbone.closed)
            weight = torch.full((len(u),), 1.0 / len(u), dtype=torch.float64)
            yield Vectors(vectors[i, offset:][u], vectors[n + i, offset:][s], weight)


def _windows(backbone: Backbone, encoded: Encoding) -> list[tuple[int, Tensor, Tensor]]:
    """(first position, ids, masks) of each tokenizer's part of the token sequence that the denoiser reads."""
    parts = [(part.rows, part.encoder) for part in backbone.text_parts(encoded.ids)]
    return [(rows.start, encoded.ids[i], encoded.masks[i]) for rows, i in parts if rows is not None]


def _places(
    u: list[int], s: list[int], lu: int, ls: int, tokens: str, closed: bool = True
) -> tuple[list[int], list[int]]:
    """Positions in both texts that stand for each other. ``lu``, ``ls``: number of tokens with begin and end, if it is
    ``closed`` by one."""
    same = u == s
    start = 0
    while not same and start < min(lu, ls) - 1 and u[start] == s[start]:
        start += 1
    after = 0  # tokens behind the difference that both share, the end among them
    while not same and after < min(lu, ls) - start - 1 and u[lu - 1 - after] == s[ls - 1 - after]:
        after += 1
    if same:  # a text that must stay: all of it, or the last token of its content
        places = list(range(1, len(u))) if tokens == "all" else [max(lu - 1 - closed, 0)]
        return places, places
    last_u, last_s = max(lu - after - 1, start), max(ls - after - 1, start)
    if tokens == "last":
        return [last_u], [last_s]
    places = list(range(start, len(u)))
    shift = ls - lu
    other = [min(i, last_s) if i <= last_u else min(i + shift, len(s) - 1) for i in places]
    return places, other


def _pool(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    parts = [backbone.encode(texts[i : i + 64]).pooled for i in range(0, len(texts), 64)]
    return torch.cat([p for p in parts if p is not None]).double().cpu()
