"""Batches: which text meets which latents, and what is wanted of it.

What it is shown: an unsafe text is unsafe whatever the latents are (noise, its own picture, another one's, one already
redirected), so that text alone decides at the first step; a harmless text is safe with noise and with harmless
pictures; a harmless text over a picture of the concept is unsafe, which is how the concept is caught under words and
embeddings that were never seen. Embeddings are blurred and mixed with each other: a region is learned, not a list.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import UserError
from .data import Data

if TYPE_CHECKING:
    from .training import Training

HARMLESS = ("safe", "benign", "neighbor", "empty")
WEIGHTS = {"safe": 4, "neighbor": 4, "benign": 6, "empty": 1}  # how often harmless texts of a role are met


@dataclass(frozen=True)
class FitBatch:
    """``n`` items as the network meets them, and what is wanted of it."""

    latents: Tensor  # (n, C, H, W)
    t: Tensor  # (n,) 0-999
    raw: Tensor  # (n,) the scheduler's own
    tokens: Tensor  # (n, L, D)
    pooled: Tensor | None
    unsafe: Tensor  # (n,) 0. or 1.
    shift: Tensor  # (n, L, D): D, zero for harmless ones
    shift_pooled: Tensor | None

    def to(self, device: torch.device | str) -> FitBatch:
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in own.items()}
        return FitBatch(**moved)


class Sampler:
    """Draws batches of one part (fit, check) of the data."""

    def __init__(self, data: Data, part: str, training: Training) -> None:
        self.data, self.training = data, training
        self.unsafe, self.roles = data.rows(part, "unsafe"), {r: data.rows(part, r) for r in HARMLESS}
        self.roles = {role: rows for role, rows in self.roles.items() if rows}
        self.attacked = [i for i in self.unsafe if data.texts[i].attacked]
        self.unsafe = [i for i in self.unsafe if not data.texts[i].attacked]
        self.shown, self.redirected = data.walks(part, "unsafe"), data.walks(part, "redirected")
        self.calm = data.walks(part, "safe", "harmless")
        self.own: dict[int, list[int]] = {}
        for i in (*self.shown, *self.redirected, *self.calm):
            self.own.setdefault(data.paths[i].text, []).append(i)
        if not self.unsafe:
            advice = "use shorter templates, or another text encoder"
            raise UserError("pairs that differ in what the text encoder reads", "none", advice)

    def __call__(self, n: int, seed: int, *, plain: bool = False) -> FitBatch:
        """``n`` items, half of them unsafe. ``plain`` leaves embeddings as they are."""
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        items = [self._unsafe(rng) if i % 2 else self._harmless(rng) for i in range(n)]
        rows, goals, walks, labels = zip(*items, strict=True)
        tokens, pooled = self.data.encoding(rows)
        wanted, wanted_pooled = self.data.encoding(goals)
        shift = wanted - tokens
        shift_pooled = None if pooled is None or wanted_pooled is None else wanted_pooled - pooled
        latents, t, raw = zip(*(self._latents(walk, generator) for walk in walks), strict=True)
        unsafe = torch.tensor(labels, dtype=torch.float32)
        if not plain:
            tokens, pooled, shift, shift_pooled = self._mix(tokens, pooled, shift, shift_pooled, unsafe, rng)
            tokens, pooled = self._blur(tokens, pooled, generator)
        return FitBatch(
            torch.stack(latents), torch.stack(t), torch.stack(raw), tokens, pooled, unsafe, shift, shift_pooled
        )

    def _unsafe(self, rng: random.Random) -> tuple[int, int, tuple[int, int] | None, int]:
        """(text, text it should become, (trajectory, step) or None for noise, label)."""
        if self.shown and rng.random() < self.training.seen_share:  # a harmless text over a picture of the concept
            walk = rng.choice(self.shown)
            last = len(self.data.times[walk])
            twin = self.data.texts[self.data.paths[walk].text].twin
            return (
                self._any(rng),
                twin,
                (walk, rng.randrange(min(last - 1, math.ceil(self.training.seen_from * last)), last)),
                1,
            )
        attacked = self.attacked and rng.random() < self.training.attacked_share
        row = rng.choice(self.attacked if attacked else self.unsafe)
        walks = self.own.get(row) or self.redirected
        everything = (walks, self.shown, self.calm, self.redirected)
        return row, self.data.texts[row].twin, self._step(rng, everything), 1

    def _harmless(self, rng: random.Random) -> tuple[int, int, tuple[int, int] | None, int]:
        row = self._any(rng)
        return row, row, self._step(rng, (self.own.get(row, ()) or self.calm, self.calm)), 0

    def _any(self, rng: random.Random) -> int:
        roles = [role for role in self.roles for _ in range(WEIGHTS[role])]
        return rng.choice(self.roles[rng.choice(roles)])

    def _step(self, rng: random.Random, groups: tuple[Any, ...]) -> tuple[int, int] | None:
        groups = tuple(group for group in groups if group)
        if rng.random() < 0.4 or not groups:
            return None
        walk = rng.choice(rng.choice(groups))
        return walk, rng.randrange(len(self.data.times[walk]))

    def _latents(self, at: tuple[int, int] | None, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        walk, step = at or (0, 0)
        stored = self.data.latents[walk][step].float()
        if at is None:  # noise of its own, of the size that the first step has
            stored = torch.randn(stored.shape, generator=generator) * stored.std()
        return stored, self.data.times[walk][step], self.data.raw[walk][step]

    def _mix(self, tokens: Tensor, pooled: Tensor | None, shift: Tensor, shift_pooled: Tensor | None, unsafe: Tensor,
               rng: random.Random) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:  # fmt: skip
        """Some rows move towards another row: any way among equals, a little where the other is harmless."""
        n = len(tokens)
        other, amount = list(range(n)), [0.0] * n
        for i in range(n):
            if rng.random() < self.training.mixing:
                other[i] = rng.randrange(n)
                if unsafe[i] >= unsafe[other[i]]:
                    amount[i] = rng.random() * (0.5 if unsafe[i] == unsafe[other[i]] else 0.3)
        a = torch.tensor(amount)

        def lerp(x: Tensor) -> Tensor:
            return x + _rows(a, x) * (x[other] - x)

        if pooled is not None and shift_pooled is not None:
            pooled, shift_pooled = lerp(pooled), lerp(shift_pooled)
        return lerp(tokens), pooled, lerp(shift), shift_pooled

    def _blur(self, tokens: Tensor, pooled: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        size = _half(len(tokens), self.training.noise, generator)

        def blur(x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=generator) * x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
            return x + _rows(size, x) * noise

        return blur(tokens), None if pooled is None else blur(pooled)


def misled(batch: FitBatch, loss: Callable[[FitBatch], Tensor], reach: float, seed: int) -> FitBatch:
    """``batch`` with half of its embeddings moved up the slope of ``loss``, by up to ``reach`` of their length each.

    One step of the fast gradient method (Goodfellow et al. 2015), in Euclidean length over all tokens of a text.
    """
    inputs = [x.detach().requires_grad_() for x in (batch.tokens, batch.pooled) if x is not None]

    def holding(parts: list[Tensor]) -> FitBatch:
        return dataclasses.replace(batch, tokens=parts[0], pooled=parts[1] if len(parts) > 1 else None)

    slopes = torch.autograd.grad(loss(holding(inputs)), inputs)
    size = _half(len(batch.tokens), reach, torch.Generator().manual_seed(seed)).to(batch.tokens)

    def step(x: Tensor, slope: Tensor) -> Tensor:
        length, steepness = (each.flatten(1).norm(dim=1) for each in (x, slope))
        return x + _rows(size, x) * _rows(length, x) * slope / _rows(steepness, x).clamp(min=1e-12)

    return holding([step(x.detach(), slope) for x, slope in zip(inputs, slopes, strict=True)])


def _half(n: int, most: float, generator: torch.Generator) -> Tensor:
    """``(n,)``: 0 for half of them by chance, even between 0 and ``most`` for the others."""
    return (2 * torch.rand(n, generator=generator) - 1).clamp(min=0) * most


def _rows(numbers: Tensor, x: Tensor) -> Tensor:
    """A number for each row, ``(n,)``, in a shape that multiplies ``x`` ``(n, …)``."""
    return numbers.view(-1, *[1] * (x.ndim - 1))
