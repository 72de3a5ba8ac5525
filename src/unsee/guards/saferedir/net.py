"""The network of SafeRedir, our design: reads a text embedding, noisy latents and the time; says how to move the text.

Paper       Liu, Chen, Qiu, Zhang, Lam, Zhang, Ng 2026 (arXiv 2601.08623); the released network is ``reference.py``
Reads       the user's tokens and pooled embedding, the denoiser's latents, t on 0-999 (noise is 999)
Gives       logits (safe, unsafe), and a shift for every token i and for the pooled embedding:
                E_i <- E_i + s m_i a_i |E_i| d_i / |d_i|        P <- P + s a |P| d / |d|
            with mask m in (0, 1), scale a in (0, 2), direction d, strength s (1 as trained); d and a start from
            a linear regression of safe on unsafe texts, one per place, of low rank, and the network corrects it
Cost        about 1 M parameters and some tens of millions of multiplications at 77 x 768; no pass of the denoiser
Differs from the release, and why
            * directions differ from token to token. There one direction serves all of them: the trunk sees no token.
            * the mask acts after the direction is normalized. There it is a positive factor before the
              normalization, which cancels it, so it has no effect on the image.
            * latents are pooled to at most 16 x 16 first, so the cost does not grow with the resolution. There the
              convolutions run at full size and are nearly all of the cost.
            * GroupNorm and LayerNorm instead of BatchNorm: small batches, half precision, no state from training.
            * tokens are standardized per dimension first: text encoders have a few dimensions of huge size.
            * most of the shift is linear in the text, so a regression finds that part at once and exactly.
            * pooled embeddings (SDXL, SD3, FLUX) are read and moved too; otherwise they are a way around the guard.
            * every dimension comes from the pipeline's adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ridge import RidgeMap

MOST_SCALE = 2.0  # of a token's own length: two vectors of one length are at most that far apart
EPS = 1e-6
LEAST = 1e-2  # share of MOST_SCALE that is taken for a shift of zero
CORRECTION = 0.05  # of the network's own direction where there is a regression: it starts as a small change
KNOTS = 12  # times at which a threshold is kept


@dataclass(frozen=True)
class Shape:
    """Everything that the sizes of a network depend on; kept in a saved defense's config."""

    tokens: int  # L
    text: int  # D
    channels: int  # of the latents; packed ones (FLUX) have four times as many
    pooled: int = 0  # P; 0 where the family has no pooled embedding
    grid: int = 16  # side to which latents are averaged
    width: int = 128
    layers: int = 2
    heads: int = 4
    rank: int = 0  # of the regression; 0: none
    mask: bool = True  # False: every token moves (ablation)
    scale: bool = True  # False: the direction's own length is the size of the shift (ablation)
    divisor: int = 0  # reference: whose root divides its attention; 0: ``text``, as folders have it that do not say


class Shift(NamedTuple):
    """What a network says of ``B`` images. Nothing here is applied yet."""

    logits: Tensor  # (B, 2): safe, unsafe
    direction: Tensor  # (B, L, D)
    mask: Tensor  # (B, L), logits
    scale: Tensor  # (B, L), in units of each token's length
    pooled: Tensor | None = None  # (B, P), in units of the pooled embedding's length

    def float(self) -> Shift:
        """The same in float32."""
        pooled = None if self.pooled is None else self.pooled.float()
        return Shift(self.logits.float(), self.direction.float(), self.mask.float(), self.scale.float(), pooled)

    @property
    def unsafe(self) -> Tensor:
        """p(unsafe), ``(B,)`` in [0, 1]."""
        return self.logits.softmax(-1)[:, 1]


def unit(x: Tensor) -> Tensor:
    """Along the last dimension; zero stays zero."""
    return F.normalize(x, dim=-1, eps=1e-12)


def moves(shift: Shift, tokens: Tensor, pooled: Tensor | None, shape: Shape) -> tuple[Tensor, Tensor | None]:
    """What is added to ``tokens`` ``(B, L, D)`` and ``pooled`` ``(B, P)`` at strength 1."""
    step = shift.scale[..., None] * unit(shift.direction) if shape.scale else shift.direction
    if shape.mask:
        step = shift.mask.sigmoid()[..., None] * step
    whole = None
    if pooled is not None and shift.pooled is not None:
        whole = shift.pooled * pooled.norm(dim=-1, keepdim=True)
    return step * tokens.norm(dim=-1, keepdim=True), whole


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """``(B,)`` → ``(B, dim)``: sines in the first half, cosines in the second, longest period 10,000 · 2 pi."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(dim // 2, device=t.device, dtype=torch.float32) / (dim // 2))
    angles = t.float()[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def image_like(latents: Tensor, aspect: float = 1.0) -> Tensor:
    """Packed latents ``(B, N, C)`` → ``(B, C, h, w)`` with h / w nearest to ``aspect``; others as they are."""
    if latents.ndim == 4:
        return latents
    n = latents.shape[1]
    h = min((h for h in range(1, n + 1) if n % h == 0), key=lambda h: abs(math.log(h * h / n / aspect)))
    return latents.transpose(1, 2).reshape(len(latents), -1, h, n // h)


class Trunk(nn.Module):
    """Latents and time → one feature ``(B, width)``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.grid, half = shape.grid, shape.width // 2
        self.a, self.na = nn.Conv2d(shape.channels, half, 3, padding=1), nn.GroupNorm(4, half)
        self.b, self.nb = nn.Conv2d(half, shape.width, 3, 2, padding=1), nn.GroupNorm(4, shape.width)
        self.c, self.nc = nn.Conv2d(shape.width, shape.width, 3, padding=1), nn.GroupNorm(4, shape.width)
        self.time = nn.Sequential(nn.Linear(64, shape.width), nn.SiLU(), nn.Linear(shape.width, shape.width))
        self.out = nn.Linear(2 * shape.width, shape.width)

    def forward(self, latents: Tensor, t: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(latents, self.grid)
        x = F.silu(self.na(self.a(x)))
        x = F.silu(self.nb(self.b(x)))
        x = x + F.silu(self.nc(self.c(x)))
        seen = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=-1)
        return self.out(seen) + self.time(sinusoid(t, 64))


class Layer(nn.Module):
    """Pre-norm transformer layer without dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.n2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, w = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, n, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, w))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Redirector(nn.Module):
    """The network. ``bias`` holds the calibrated thresholds, in logits, at even times from 0 to 999.

    With it, p(unsafe) = 0.5 is where the threshold lies at each time. ``dropout`` acts in training mode only.
    """

    center: Tensor
    spread: Tensor
    bias: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.dropout, w = shape, 0.0, shape.width
        for name, value in (("center", torch.zeros(shape.text)), ("spread", torch.ones(shape.text)),
                            ("bias", torch.zeros(KNOTS))):  # fmt: skip
            self.register_buffer(name, value)
        self.read, self.place = nn.Linear(shape.text, w), nn.Parameter(0.02 * torch.randn(shape.tokens, w))
        self.trunk = Trunk(shape)
        self.layers = nn.ModuleList(Layer(w, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(w)
        self.judge = nn.Sequential(nn.Linear(3 * w, w), nn.SiLU(), nn.Linear(w, 2))
        self.direction, self.amount = nn.Linear(w, shape.text), nn.Linear(w, 2)  # mask, scale
        self.line = RidgeMap(shape.tokens, shape.text, min(shape.rank, shape.text)) if shape.rank else None
        self.line_pooled = None
        if shape.pooled:
            self.read_pooled = nn.Linear(shape.pooled, w)
            self.move_pooled = nn.Linear(w, shape.pooled + 1)  # direction, scale
            self.line_pooled = RidgeMap(1, shape.pooled, min(shape.rank, shape.pooled)) if shape.rank else None

    def standardize(self, tokens: Tensor) -> None:
        """Sets the standardization from the training texts' tokens ``(N, L, D)``."""
        flat = tokens.flatten(0, 1).float()
        self.center.copy_(flat.mean(0))
        self.spread.copy_(flat.std(0).clamp(min=1e-3 * float(flat.std()) + EPS))

    def regress(self, pairs: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]]) -> None:
        """Fits the regressions on all pairs: chunks of texts, their shifts, and both of the pooled embeddings."""
        if self.line is not None:
            self.line.fit(lambda: ((x, shift) for x, shift, _, _ in pairs()))
        if self.line_pooled is not None:
            self.line_pooled.fit(
                lambda: ((x[:, None], s[:, None]) for _, _, x, s in pairs() if x is not None and s is not None)
            )

    def threshold(self, t: Tensor) -> Tensor:
        """``bias`` at t ``(B,)``, linear between its knots."""
        place = (t.float() / 999.0 * (KNOTS - 1)).clamp(0, KNOTS - 1)
        low = place.floor().long().clamp(max=KNOTS - 2)
        return torch.lerp(self.bias[low], self.bias[low + 1], place - low)

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None = None) -> Shift:
        """latents ``(B, C, H, W)``, t ``(B,)`` on 0-999, tokens ``(B, L, D)``, pooled ``(B, P)``; all float32."""
        inner = self.read((tokens - self.center) / self.spread) + self.place
        joint = [self.trunk(latents, t)[:, None]]
        if self.shape.pooled:
            assert pooled is not None
            joint.append(self.read_pooled(math.sqrt(self.shape.pooled) * unit(pooled))[:, None])
        x = self._drop(torch.cat([*joint, inner], dim=1))
        for layer in self.layers:
            x = self._drop(layer(x))
        x = self.norm(x)
        extra, x = x[:, : len(joint)], x[:, len(joint) :]
        logits = self.judge(torch.cat([x.mean(1), x.amax(1), extra[:, 0]], dim=-1))
        logits = torch.stack([logits[:, 0], logits[:, 1] + self.threshold(t)], dim=-1)
        mask, size = self.amount(x).unbind(-1)
        whole = None
        if pooled is not None and self.shape.pooled:
            own, larger = self.move_pooled(extra[:, 1]).split([self.shape.pooled, 1], dim=-1)
            direction, scale = _correct(self.line_pooled, pooled[:, None], own[:, None], larger)
            whole = scale * unit(direction)[:, 0]
        direction, scale = _correct(self.line, tokens, self.direction(x), size)
        return Shift(logits, direction, mask, scale, whole)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _correct(line: RidgeMap | None, x: Tensor, own: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Direction ``(B, L, D)`` and scale ``(B, L)``: the regression's, with what the network adds to each."""
    if line is None:
        return own, MOST_SCALE * size.sigmoid()
    start = line(x) / x.norm(dim=-1, keepdim=True).clamp(min=EPS)
    usual = torch.logit(start.norm(dim=-1) / MOST_SCALE, eps=LEAST)
    return start + CORRECTION * own, MOST_SCALE * (size + usual).sigmoid()
