"""The released network and its update rule, rebuilt from its description: for comparison, and for official weights.

14,573,574 parameters at 77 x 768 text and 4-channel latents (58.3 MB in float32).

The rule, with its quirks kept on purpose (the guard applies it, see ``guard.py``):
    * step k decides after the denoiser has run, so the shift is felt from step k + 1 on: the first pass always gets
      the user's own text, and a one-step sampler is never acted on
    * E_i <- E0_i + s a_i |E0_i| unit(delta_i): recomputed from the moved text, always added to the original one
    * unit() cancels the gate and the mask, and delta is the same vector for all tokens before the gate: one direction
      for all of them, only a_i differs
    * a later "safe" keeps the last shift; both halves of classifier-free guidance get it, each by its own lengths
    * argmax decides (p >= 0.5); after a shift, ``interval`` - 1 steps pass without a look
Not kept: the countdown that leaked into the next image, and the crash on more than one image.

Attention is divided by the square root of 768, as the release has it at any width of the text (``Shape.divisor``);
folders that were saved before that was known keep the width they were trained with.

Official files: :func:`read_official` pairs a state dict with ours in order, all shapes equal. The order is ours but for
the positional table, which is a parameter of the release's outermost module and so comes first
(:func:`official_order`). Another order needs a mapping of names; anything else is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import BadFile
from ...files import read_torch
from .net import Shape, Shift, sinusoid

TIME, TIME_OUT, LATENT_OUT = 320, 64, 512
JOINT, HEADS, RANK = LATENT_OUT + TIME_OUT, 4, 16
DIVISOR = 768  # whose root divides the release's attention, whatever the width of the text
PLACES = "gate.place"  # our name of the positional table
PARAMETERS = 14_573_574  # at 77 x 768, 4 channels


class Residual(nn.Module):
    """conv-BN-ReLU-conv-BN plus a 1 x 1 shortcut, ReLU after the sum; keeps the size."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout)
        self.skip = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.skip(x)).relu()


class Head(nn.Module):
    """One full-width head of attention: a single query from the joint feature on all tokens."""

    def __init__(self, text: int, divisor: int) -> None:
        super().__init__()
        self.divisor = divisor
        self.q, self.k, self.v = nn.Linear(JOINT, text), nn.Linear(text, text), nn.Linear(text, text)
        self.norm = nn.LayerNorm(text)

    def forward(self, joint: Tensor, tokens: Tensor) -> Tensor:
        q, k, v = self.q(joint)[:, None], self.k(tokens), self.v(tokens)
        weights = (q @ k.transpose(1, 2) / self.divisor**0.5).softmax(-1)
        return self.norm((weights @ v)[:, 0] + v.mean(1))


class Lora(nn.Module):
    """Two thin layers without bias, times a learned factor."""

    def __init__(self, text: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.low, self.high = nn.Linear(text, RANK, bias=False), nn.Linear(RANK, text, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.high(self.low(x))


class Gate(nn.Module):
    """A positive factor for each token, from the token and its place."""

    def __init__(self, tokens: int, text: int) -> None:
        super().__init__()
        self.place, self.linear = nn.Parameter(0.02 * torch.randn(1, tokens, text)), nn.Linear(text, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(tokens + self.place).sigmoid()


class Reference(nn.Module):
    """The released network, modules in the order of its description. Dropout 0.2 while it trains."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, d = shape, shape.text
        self.blocks = nn.Sequential(Residual(shape.channels, 64), Residual(64, 128), Residual(128, 256))
        self.latent = nn.Sequential(nn.Linear(256, LATENT_OUT), nn.ReLU(), nn.Dropout(0.2))
        self.time = nn.Sequential(nn.Linear(TIME, TIME_OUT), nn.SiLU(), nn.LayerNorm(TIME_OUT))
        self.heads = nn.ModuleList(Head(d, shape.divisor or d) for _ in range(HEADS))
        self.cross, self.cross_norm = nn.Linear(HEADS * d, d), nn.LayerNorm(d)
        self.judge = nn.Sequential(nn.Linear(JOINT + 2 * d, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 2))
        self.delta = nn.Sequential(nn.Linear(JOINT + d, 512), nn.ReLU(), nn.Linear(512, d))
        self.lora, self.gate = Lora(d), Gate(shape.tokens, d)
        self.attend = nn.MultiheadAttention(d, 4, batch_first=True)
        self.mask = nn.Sequential(nn.Linear(d, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 1))
        self.scale = nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, 1))

    def forward(self, latents: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None = None) -> Shift:
        """latents ``(B, C, H, W)`` of the sampling loop, t ``(B,)`` the scheduler's timestep, tokens ``(B, L, D)``.

        ``direction`` is gated and masked, as in the release; the unit length that follows takes both out again.
        """
        latent = self.latent(self.blocks(latents).mean((2, 3)))
        joint = torch.cat([latent, self.time(sinusoid(t, TIME))], dim=-1)
        heads = torch.cat([head(joint, tokens) for head in self.heads], dim=-1)
        cross = self.cross_norm(self.cross(heads))
        logits = self.judge(torch.cat([joint, tokens.mean(1), cross], dim=-1))
        delta = self.lora(self.delta(torch.cat([joint, cross], dim=-1)))
        mask = self.mask(self.attend(tokens, tokens, tokens, need_weights=False)[0])[..., 0]
        direction = delta[:, None] * self.gate(tokens) * mask.sigmoid()[..., None]
        return Shift(logits, direction, mask, self.scale(tokens)[..., 0].sigmoid())


def official_order(shape: Shape) -> list[str]:
    """Our names in the order of an official state dict: the positional table, then as ours."""
    return [PLACES, *(name for name in Reference(shape).state_dict() if name != PLACES)]


def read_official(path: str | Path, names: Mapping[str, str] | None = None) -> tuple[Shape, dict[str, Tensor]]:
    """An official ``.pt`` state dict → (shape, our state dict). Read with ``weights_only``.

    ``names`` maps official names to ours; without it the tensors are paired in the official order, and every shape must
    be equal.
    Raises :class:`BadFile` for anything that is not the released architecture.
    """
    found = read_torch(path, "a state dict as .pt", "check the path and the file")
    for key in ("state_dict", "model_state_dict", "model"):
        found = found[key] if isinstance(found, dict) and isinstance(found.get(key), dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadFile("a state dict as .pt", f"{path} with other things in it", "save model.state_dict()")
    return _rename(dict(found), names, str(path))


def _rename(found: dict[str, Tensor], names: Mapping[str, str] | None, path: str) -> tuple[Shape, dict[str, Tensor]]:
    shape = _shape(
        found if names is None else {ours: found[theirs] for theirs, ours in names.items() if theirs in found}
    )
    wanted = {} if shape is None else Reference(shape).state_dict()
    order = [] if shape is None else official_order(shape)
    pairs = zip(found, order, strict=False) if names is None else names.items()
    known = {ours: found[theirs] for theirs, ours in pairs if theirs in found and ours in wanted}
    odd = [name for name, value in known.items() if value.squeeze().shape != wanted[name].squeeze().shape]
    if shape is None or len(found) != len(wanted) or len(known) != len(wanted) or odd:
        got = f"{path}: {len(found)} tensors, {len(known)} of them in place, {len(odd)} with another shape"
        raise BadFile("the released network's tensors in its order", got, "give names={official name: ours}")
    return shape, {name: value.reshape(wanted[name].shape) for name, value in known.items()}


def _shape(found: dict[str, Tensor]) -> Shape | None:
    """Channels from the first convolution, tokens and width from the positional table; None where there is none."""
    first = [value for name, value in found.items() if value.ndim == 4 and value.shape[2:] == (3, 3)]
    table = [value for value in found.values() if value.ndim == 3 and len(value) == 1]
    if not first or not table:
        return None
    channels = min(value.shape[1] for value in first)
    return Shape(tokens=table[0].shape[1], text=table[0].shape[2], channels=channels)
