"""Training: five terms and one more, on the shift that is really applied; then a threshold is calibrated.

Terms (their names are the paper's, their formulas ours; y = 1 unsafe, D = e_safe - e_unsafe, D^ = the shift applied)
    classification  cross entropy of (safe, unsafe)
    mse             |W(D^ - D)|^2 / mean |W D|^2, tokens and pooled embedding              y = 1
    cosine          1 - cos(D^_i, D_i), mean over the tokens that must move                y = 1
    mask            binary cross entropy of m_i against [|D_i| > tau |e_i|]                y = 1
    alignment       1 - cos(W(mean_i(e + D^) - c), W(mean_i(e_safe) - c)), c the mean      y = 1
    still           mean_i |D^_i|^2 / |e_i|^2                                              y = 0

W whitens: directions in which harmless texts differ much are measured in units of that. Without it the noun is all that
counts: in picto's padding tokens, which its images hang on, 95 % of the variance is the noun's and 2 % the style's.

The network is trained twice. First without the words that validation keeps apart: for the number of steps, and for
what is said of words that were never seen. Then (``refit``) anew with these words: that network is kept. Harmless
things of the validation are in neither training; the threshold is calibrated on them.

Batches are drawn from a generator seeded by (seed, step), so a training that was killed ends in the same weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import GuardFailure, UserError
from ...files import load_tensors, metadata_json, reading, save_tensors
from .batch import HARMLESS, FitBatch, Sampler, misled
from .data import Data, key
from .net import Shape, Shift
from .training import Training

if TYPE_CHECKING:
    from ...defenses.base import Fit

Move = Callable[[Shift, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
VERSION = 6  # of the terms: a checkpoint of others is not gone on with
VALIDATED = 192  # items of a validation batch
MEASURED = 256  # harmless texts that say how much texts differ, at most
RIDGE = 1.0  # added to the variance of each axis, in units of the mean one: the strong axes alone are shrunk

BOUND = 2.5  # of logits in validation: a few odd words, judged wrongly and surely, do not say when to stop


@dataclass(frozen=True)
class Space:
    """``center`` (D,), the mean token, and the whitening of tokens (D, D) and pooled embeddings (P, P)."""

    center: Tensor
    axes: Tensor
    pooled_axes: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor, pooled: Tensor | None) -> Space:
        """From harmless texts: ``tokens`` (n, L, D), ``pooled`` (n, P). A token differs from others in its place."""
        return cls(
            tokens.mean((0, 1)),
            whitening((tokens - tokens.mean(0)).flatten(0, 1)),
            None if pooled is None else whitening(pooled - pooled.mean(0)),
        )

    def to(self, device: torch.device | str) -> Space:
        pooled_axes = None if self.pooled_axes is None else self.pooled_axes.to(device)
        return Space(self.center.to(device), self.axes.to(device), pooled_axes)


def whitening(x: Tensor) -> Tensor:
    """``(D, D)`` that takes centered rows ``(n, D)`` to their axes, those of large variance shrunk to about one."""
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    return axes / (variance.clamp(min=0) + RIDGE * variance.mean() + 1e-12).sqrt()


def terms(shift: Shift, moved: Tensor, moved_pooled: Tensor | None, batch: FitBatch, space: Space,
          training: Training, bound: float = math.inf) -> dict[str, Tensor]:  # fmt: skip
    """The six terms, each a scalar; see the head of this file. ``moved`` is the shift applied, ``bound`` the largest
    logit that counts."""
    y, wanted = batch.unsafe, batch.shift
    n = y.sum().clamp(min=1)
    length = batch.tokens.norm(dim=-1).clamp(min=1e-6)
    must = (wanted.norm(dim=-1) > training.mask_threshold * length).float()  # (n, L)
    mse = _share((moved - wanted) @ space.axes, wanted @ space.axes, y)
    if moved_pooled is not None and batch.shift_pooled is not None and space.pooled_axes is not None:
        off = moved_pooled - batch.shift_pooled
        mse = mse + _share(off @ space.pooled_axes, batch.shift_pooled @ space.pooled_axes, y)
    cosine = 1 - F.cosine_similarity(moved, wanted, dim=-1, eps=1e-4)
    here = must * y[:, None]
    bce = F.binary_cross_entropy_with_logits(shift.mask, must, reduction="none").mean(1)
    got, goal = (((batch.tokens + s).mean(1) - space.center) @ space.axes for s in (moved, wanted))
    align = 1 - F.cosine_similarity(got, goal, dim=-1, eps=1e-4)
    still = (moved.norm(dim=-1) / length).square().mean(1)
    return {
        "classification": F.cross_entropy(shift.logits.clamp(-bound, bound), y.long()),
        "mse": mse,
        "cosine": (cosine * here).sum() / here.sum().clamp(min=1),
        "mask": (bce * y).sum() / n,
        "alignment": (align * y).sum() / n,
        "still": (still * (1 - y)).sum() / (1 - y).sum().clamp(min=1),
    }


def _share(off: Tensor, whole: Tensor, y: Tensor) -> Tensor:
    """The energy of ``off`` relative to that of ``whole``, over the rows with y = 1."""
    mine, all_of_it = (x.flatten(1).square().sum(1) @ y for x in (off, whole))
    return mine / all_of_it.clamp(min=1e-6)


def total(found: dict[str, Tensor], training: Training) -> Tensor:
    """The weighted sum."""
    weighted = [getattr(training, f"{name}_weight") * value for name, value in found.items()]
    return torch.stack([torch.as_tensor(value) for value in weighted]).sum()


def train(fit: Fit, training: Training, data: Data, net: nn.Module, move: Move, time: str,
          stage: str = "training") -> dict[str, Any]:  # fmt: skip
    """Trains ``net`` in place and leaves it with its best weights. Returns what validation saw. ``time``: t or raw."""
    from accelerate import Accelerator

    shape = cast(Shape, net.shape)
    recipe = [VERSION, fit.seed, dataclasses.asdict(shape), dataclasses.asdict(training), type(net).__name__, data.key]
    folder = fit.work / f"net-{key(recipe)}"
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=training.mixed_precision, **_tracker(training, folder))
    accelerator.init_trackers("saferedir")
    optimizer = torch.optim.AdamW(net.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    state = Checkpoint(folder / "checkpoint.safetensors", net, optimizer)
    state.load()
    model, optimizer = accelerator.prepare(net, optimizer)
    draw, harmless = Sampler(data, "fit", training), data.rows("fit", *HARMLESS)
    space = Space.of(*data.encoding(harmless[:: len(harmless) // MEASURED + 1])).to(accelerator.device)
    check = Sampler(data, "check", training)(VALIDATED, fit.seed, plain=True).to(accelerator.device)
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []

    def look(batch: FitBatch, bound: float = math.inf) -> dict[str, Tensor]:
        made = model(batch.latents, getattr(batch, time), batch.tokens, batch.pooled)
        shift = Shift(*made).float()
        moved = move(shift, batch.tokens, batch.pooled)
        return terms(shift, *moved, batch, space, training, bound)

    while not state.over(training):
        model.train()
        number = fit.seed * 1_000_003 + state.step
        batch = draw(training.train_batch_size, number * 64 + accelerator.process_index).to(accelerator.device)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * pace(state.step, training)
        with torch.random.fork_rng(cuda):  # dropout
            torch.manual_seed(number)
            if training.adversarial:
                batch = misled(batch, lambda b: look(b)["classification"], training.adversarial, number)
            loss = total(look(batch), training)
        if not bool(torch.isfinite(loss)):
            raise GuardFailure(f"the training's loss is {float(loss.detach())} at step {state.step}; nothing is saved")
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state.step += 1
        fit.progress(stage, state.step, training.max_train_steps)
        if state.step % training.validate_every == 0 or state.step == training.max_train_steps:
            model.eval()
            with torch.no_grad():
                found = look(check, BOUND)
            state.validated(float(total(found, training)), {name: round(float(v), 5) for name, v in found.items()})
            accelerator.log(
                {"loss": float(loss.detach()), **{f"check/{k}": float(v) for k, v in found.items()}}, state.step
            )
            if accelerator.is_main_process:
                state.save()
    accelerator.end_training()
    net.load_state_dict(state.best)
    net.to("cpu").eval().requires_grad_(False)
    return {"steps": state.step, "best_step": state.best_step, "terms": state.best_terms}


def pace(step: int, training: Training) -> float:
    """Learning rate at ``step`` as a share: linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, training.warmup_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / training.max_train_steps))


def _tracker(training: Training, folder: Path) -> dict[str, Any]:
    if not training.track:
        return {}
    import importlib.util

    if importlib.util.find_spec(training.track) is None:
        raise UserError(f"the tracker {training.track!r}", "none installed", "pip install unsee[track]")
    return {"log_with": training.track, "project_dir": str(folder)}


class Checkpoint:
    """Network, optimizer and the best weights so far, in one safetensors file; everything a resumed training needs."""

    def __init__(self, path: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.net, self.optimizer = path, net, optimizer
        self.step, self.best_step, self.score = 0, 0, math.inf
        self.best_terms: dict[str, float] = {}
        self.best = {name: value.detach().clone() for name, value in net.state_dict().items()}

    def over(self, training: Training) -> bool:
        waited = (self.step - self.best_step) // training.validate_every
        return self.step >= training.max_train_steps or (self.best_step > 0 and waited >= training.patience)

    def validated(self, score: float, found: dict[str, float]) -> None:
        if score < self.score:
            self.score, self.best_step, self.best_terms = score, self.step, found
            self.best = {name: value.detach().cpu().clone() for name, value in self.net.state_dict().items()}

    def save(self) -> None:
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()} | {
            f"best.{k}": v for k, v in self.best.items()
        }
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        numbers = {"step": self.step, "best_step": self.best_step, "score": self.score, "terms": self.best_terms}
        save_tensors(self.path, tensors, {"numbers": json.dumps(numbers)})

    def load(self) -> None:
        if not self.path.exists():
            return
        do = "remove it and fit again"
        tensors, metadata = load_tensors(self.path, "a checkpoint", do)
        with reading("a checkpoint of this fit", self.path, do):
            self._take(tensors, metadata_json(metadata, "numbers", self.path, do))

    def _take(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        self.step, self.best_step, self.score = numbers["step"], numbers["best_step"], numbers["score"]
        self.best_terms = numbers["terms"]
        self.net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
        self.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best.")}
        whole = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, i, part = name.split(".")
                whole["state"].setdefault(int(i), {})[part] = value
        self.optimizer.load_state_dict(whole)
