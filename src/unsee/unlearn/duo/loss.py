"""The preference loss of DUO and its output-preserving term, on any kind of prediction.

Paper       Park et al., NeurIPS 2024 (arXiv 2407.21035), as its code has it
Formula     m = mean over an image's values of |prediction - target|², per image; r is the same with the adapter off;
            + the safe image, - the unsafe one, e the noise that both are given:
                D = (m+ - r+) - (m- - r-)
                L = mean of -log sigmoid(-beta D)  +  lambda mean |f(e, T) - f_ref(e, T)|²
            without Diffusion-DPO's factor 1/2, so its beta_dpo is 2 beta here. At the start D = 0 and L = ln 2.
Target      the model's own: noise, v = alpha e - sigma x0, or velocity e - x0, with unit weight. So for v-prediction
            the errors at a time t are 1/alpha² those of noise: more weight on high noise than SD 1.4 has.
Flow        sigma is drawn directly, in [.001, .75], and the last term has sigma = 1. (The published code indexes a
            descending table: it trains the noisiest three quarters, and its last term is inert.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ..base import widened

if TYPE_CHECKING:
    from ...backbones import Backbone, Encoding
    from ..adapters import Adapters

T_MAX = 750  # the noisiest quarter takes no part in the preference
TIMESTEPS = ("shared", "independent")
Predict = Callable[[Tensor, Tensor, "Encoding | None"], Tensor]


@dataclass(frozen=True)
class Scaled:
    """What beta makes of the base learning rate and the base lambda: lr 100 / beta and lambda beta / 100."""

    lr: float
    lamb: float

    @classmethod
    def by(cls, beta: float, base_lr: float, base_lambda: float) -> Scaled:
        if not beta > 0:
            raise UserError("beta above 0", str(beta), "the paper has 100 (strong) to 2000 (gentle)")
        return cls(base_lr * 100.0 / beta, base_lambda * beta / 100.0)


@dataclass(frozen=True)
class PairBatch:
    """One step's data: latents ``(N, …)`` of both images and the noise they share, times ``(N,)`` on the scheduler's
    scale, the text of safe and unsafe rows (None: the empty text), and latents of look-alikes that must stay."""

    safe: Tensor
    unsafe: Tensor
    noise: Tensor
    t_safe: Tensor
    t_unsafe: Tensor
    text: Encoding | None = None
    keep: Tensor | None = None
    t_keep: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """``total`` = ``preference`` + lambda ``preserve`` (+ neighbor ``keep``); ``margin`` is the mean of D."""

    total: Tensor
    preference: Tensor
    preserve: Tensor
    margin: Tensor


def preference(m_safe: Tensor, m_unsafe: Tensor, r_safe: Tensor, r_unsafe: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta D) of each pair, ``(N,)``; every argument ``(N,)``."""
    return -F.logsigmoid(-beta * ((m_safe - r_safe) - (m_unsafe - r_unsafe)))


def mean_square(difference: Tensor) -> Tensor:
    """Mean of squares per row, ``(B, …)`` → ``(B,)``."""
    return difference.square().flatten(1).mean(1)


def times(backbone: Backbone, n: int, how: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times of the safe and the unsafe images, ``(n,)`` each: t of 0 … 749, or 1000 sigma of a flow model."""
    safe = _times(backbone, n, generator)
    return safe, safe if how == "shared" else _times(backbone, n, generator)


def last_time(backbone: Backbone) -> float:
    """Where there is nothing but noise: the last training timestep, or sigma = 1."""
    last = int(backbone.pipe.scheduler.config.get("num_train_timesteps", 1000))
    return float(last) if backbone.prediction_type == "flow" else float(last - 1)


def duo_loss(predict: Predict, adapters: Adapters, backbone: Backbone, batch: PairBatch, beta: float, lamb: float,
             neighbor: float = 0.0) -> Loss:  # fmt: skip
    """The whole loss in two passes: every row with the adapter, then every row without it and without gradients."""
    rows = _rows(backbone, batch)
    with torch.no_grad(), adapters.off():
        reference = widened(predict(rows.latents, rows.t, batch.text))
    predicted = widened(predict(rows.latents, rows.t, batch.text))
    n = len(batch.safe)
    m, r = mean_square(predicted[: 2 * n] - rows.target), mean_square(reference[: 2 * n] - rows.target)
    return _total(m, r, mean_square(predicted[2 * n :] - reference[2 * n :]), n, beta, lamb, neighbor)


def duo_loss_by_rows(predict: Predict, adapters: Adapters, backbone: Backbone, batch: PairBatch, beta: float,
                     lamb: float, neighbor: float = 0.0) -> Loss:  # fmt: skip
    """The same loss and gradient with the activations of one row in memory, in as many evaluations of a row.

    Each row's squared error is differentiated by itself; the loss is a function of these errors alone, so its gradient
    is theirs, weighted by its derivatives, which are known when all rows have been seen.
    """
    rows, n = _rows(backbone, batch), len(batch.safe)
    parameters = list(adapters.parameters.values())
    errors, references, gradients = [], [], []
    for i in range(len(rows.latents)):
        text = None if batch.text is None else batch.text.rows([i])
        row = (rows.latents[i : i + 1], rows.t[i : i + 1], text)
        with torch.no_grad(), adapters.off():
            reference = widened(predict(*row))
        target = rows.target[i : i + 1] if i < 2 * n else reference
        error = mean_square(widened(predict(*row)) - target)
        gradients.append(torch.autograd.grad(error.sum(), parameters))
        errors.append(error.detach())
        references.append(mean_square(reference - target))
    seen, r = torch.cat(errors).requires_grad_(), torch.cat(references)
    loss = _total(seen[: 2 * n], r[: 2 * n], seen[2 * n :], n, beta, lamb, neighbor)
    weights = torch.autograd.grad(loss.total, seen)[0]
    whole = [sum(w * g[k] for w, g in zip(weights, gradients, strict=True)) for k in range(len(parameters))]
    carrier = sum((p * g.to(p)).sum() for p, g in zip(parameters, whole, strict=True))
    return replace(loss, total=loss.total.detach() + (carrier - carrier.detach()))  # its value, and that gradient


@dataclass(frozen=True)
class _Rows:
    """What the denoiser is given in a step, and what would be right for the pairs."""

    latents: Tensor
    t: Tensor
    target: Tensor  # of the first 2 N rows


def _rows(backbone: Backbone, batch: PairBatch) -> _Rows:
    """Safe, unsafe, noise alone at the last time, and look-alikes where there are any."""
    safe, to_safe = backbone.noised(batch.safe, batch.noise, batch.t_safe)
    unsafe, to_unsafe = backbone.noised(batch.unsafe, batch.noise, batch.t_unsafe)
    last = torch.full((len(batch.safe),), last_time(backbone))
    rows, t = [safe, unsafe, batch.noise], [batch.t_safe, batch.t_unsafe, last]
    if batch.keep is not None and batch.t_keep is not None:
        rows.append(backbone.noised(batch.keep, batch.noise[: len(batch.keep)], batch.t_keep)[0])
        t.append(batch.t_keep)
    return _Rows(torch.cat(rows), torch.cat([x.double() for x in t]), widened(torch.cat([to_safe, to_unsafe])))


def _total(m: Tensor, r: Tensor, moved: Tensor, n: int, beta: float, lamb: float, neighbor: float) -> Loss:
    """From squared errors: ``m`` and ``r`` of 2 N rows, ``moved`` from the reference of the others."""
    dpo = preference(m[:n], m[n:], r[:n], r[n:], beta).mean()
    keep = moved[n:].mean() if len(moved) > n else moved.new_zeros(())
    margin = ((m[:n] - r[:n]) - (m[n:] - r[n:])).mean().detach()
    preserve = moved[:n].mean()
    return Loss(dpo + lamb * preserve + neighbor * keep, dpo.detach(), preserve.detach(), margin)


def all_times(backbone: Backbone, n: int, generator: torch.Generator) -> Tensor:
    """Times of images that must stay, ``(n,)``: of the whole range, the noisiest quarter too, which lays images out."""
    drawn = torch.rand(n, generator=generator, dtype=torch.float64) * last_time(backbone)
    return drawn if backbone.prediction_type == "flow" else drawn.round().long()


def _times(backbone: Backbone, n: int, generator: torch.Generator) -> Tensor:
    if backbone.prediction_type == "flow":
        return 1000.0 * (0.001 + (0.75 - 0.001) * torch.rand(n, generator=generator, dtype=torch.float64))
    return torch.randint(0, T_MAX, (n,), generator=generator)
