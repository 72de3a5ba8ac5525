"""SAFREE's mathematics: subspaces, the distance of a prompt's tokens from them, and which rows are projected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...defenses.generation import turning
from ...embeddings import encode_ids, pairs

if TYPE_CHECKING:
    from ...backbones import Backbone, Encoding, TextPart

RCOND = 1e-3  # of the largest singular value; what float32 texts have below it is noise
AT_ONCE = 64  # prompts with a token left out that are encoded together

Columns = dict[str, Tensor]  # part of a text → (K, D) float64, one row per phrase


def read(part: TextPart, text: Encoding) -> Tensor:
    """``(B, L, D)`` of one part of a text; the pooled embedding as one row."""
    if part.rows is not None:
        return text.tokens[:, part.rows]
    assert text.pooled is not None
    return text.pooled[:, None]


def summary(part: TextPart, text: Encoding, ends: Tensor) -> Tensor:
    """``(B, D)`` in float64 on the CPU, of texts whose last places are ``ends`` ``(B,)``."""
    rows = read(part, text)
    if part.rows is None:
        return rows[:, 0].cpu().double()
    if not part.whole:
        return rows[torch.arange(len(rows)), ends.to(rows.device)].cpu().double()
    seen = (torch.arange(rows.shape[1])[None] <= ends[:, None]).to(rows.device)
    return ((rows.float() * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)).cpu().double()


@dataclass(frozen=True)
class Part:
    """The projection of one view of one prompt."""

    view: TextPart
    concept: Tensor  # (D, k) orthonormal
    prompt: Tensor  # (D, n) orthonormal
    triggers: Tensor  # (N,) bool

    def project(self, rows: Tensor, order: str) -> Tensor:
        """``(L, D)`` → (I - P_C) P_I p, or in the paper's order."""
        c, i = self.concept.to(rows), self.prompt.to(rows)
        if order == "released":
            inside = rows @ i @ i.T
            return inside - inside @ c @ c.T
        outside = rows - rows @ c @ c.T
        return outside @ i @ i.T

    def merge(self, rows: Tensor, order: str, margin: Tensor | None = None) -> Tensor:
        """``(L, D)`` with the triggers' rows projected; in the pooled embedding any trigger counts.

        ``margin`` (:func:`margins`, with slopes) changes no value: whoever takes slopes sees how to turn it.
        """
        where, wide = self._place(self.triggers, rows), rows.float()
        projected = self.project(wide, order)
        merged = torch.where(where[:, None], projected, wide)
        if margin is not None:
            merged = merged + self._place(turning(margin), wide)[:, None].to(wide) * (projected - wide)
        return merged.to(rows)

    def _place(self, values: Tensor, rows: Tensor) -> Tensor:
        """A value for each token ``(N,)`` → for each row ``(L,)``, else 0; the pooled embedding has the largest."""
        placed = values.new_zeros(len(rows))
        if self.view.rows is not None:
            placed[self.view.start : self.view.start + len(values)] = values
        elif len(values):
            placed[:] = values.amax()
        return placed.to(rows.device)


def basis(rows: Tensor, cutoff: float = RCOND) -> Tensor:
    """``(K, D)`` rows → an orthonormal basis ``(D, rank)`` of their span: P = Q Q' = X (X'X)^+ X' with X = rows'.

    Directions whose singular value is at most ``cutoff`` times the largest are left out; 0: those that float64 cannot
    tell from none.
    """
    if not len(rows):
        return torch.zeros(rows.shape[1], 0, dtype=torch.float64)
    _, s, vt = torch.linalg.svd(rows.double(), full_matrices=False)
    least = max(cutoff, max(rows.shape) * torch.finfo(torch.float64).eps)
    return vt[s > least * s[0]].T


def projector(rows: Tensor, cutoff: float = RCOND) -> Tensor:
    """P of the span of ``(K, D)`` rows: ``(D, D)``, symmetric, idempotent, its trace is its rank."""
    q = basis(rows, cutoff)
    return q @ q.T


def residuals(m: Tensor, concept: Tensor) -> Tensor:
    """d_i = ||(I - P_C) m_i|| of ``(N, D)`` rows, with an orthonormal basis ``(D, k)`` of C."""
    m = m.to(concept)
    return (m - m @ concept @ concept.T).norm(dim=1)


def triggers(d: Tensor, alpha: float) -> Tensor:
    """``(N,)`` distances → which tokens are triggers. One alone is: the mean of no others compares with nothing."""
    return ~(d < _bar(d, alpha))


def margins(d: Tensor, alpha: float) -> Tensor:
    """``(N,)`` distances → how far each token is above the bar of :func:`triggers`, in the distances' own spread."""
    if len(d) < 2:
        return torch.zeros_like(d)
    return (d - _bar(d, alpha)) / d.detach().std().clamp(min=RCOND)


def _bar(d: Tensor, alpha: float) -> Tensor:
    """(1 + alpha) times the mean of the others' distances; NaN for one alone."""
    return (1.0 + alpha) * ((d.sum() - d) / (len(d) - 1) if len(d) > 1 else torch.full_like(d, math.nan))


def summaries(
    backbone: Backbone, ids: Sequence[Tensor], rows: Sequence[Tensor] = (), length: int | None = None
) -> Columns:
    """The summary of each text (``ids`` of ``spell``) by view: ``(B, D)``."""
    text, ends = encode_ids(backbone, ids, rows, length), backbone.text_ends(ids)
    return {part.name: summary(part, text, ends[part.encoder]) for part in backbone.text_parts(ids)}


def trigger_words(backbone: Backbone, ids: Sequence[Tensor], part: Part) -> list[str]:
    """The triggers of a part as text."""
    _, tokenizer = pairs(backbone)[part.view.encoder]
    places = torch.nonzero(part.triggers).flatten() + part.view.start
    return [tokenizer.decode([int(ids[part.view.encoder][0, place])]).strip() for place in places]


def counts(backbone: Backbone, ids: Sequence[Tensor]) -> list[int]:
    """Tokens of the content of one text, per encoder."""
    ends = zip(backbone.text_ends(ids), pairs(backbone), strict=True)
    return [int(end) + (not backbone.closed) - len(backbone.frame(tokenizer)[0]) for end, (_, tokenizer) in ends]


def left_out(backbone: Backbone, ids: Sequence[Tensor], length: int | None, rows: Sequence[Tensor] = ()) -> Columns:
    """Summaries of the text with token i overwritten by id 0, for each i, in all encoders; empty without tokens."""
    starts, found = [len(backbone.frame(tokenizer)[0]) for _, tokenizer in pairs(backbone)], counts(backbone, ids)
    copies = [own.repeat(max(found), 1) for own in ids]
    for own, start, n in zip(copies, starts, found, strict=True):
        own[torch.arange(n), start + torch.arange(n)] = 0
    made = [
        summaries(backbone, [own[i : i + AT_ONCE] for own in copies], rows, length)
        for i in range(0, max(found), AT_ONCE)
    ]
    return {name: torch.cat([part[name] for part in made]) for name in made[0]} if made else {}
