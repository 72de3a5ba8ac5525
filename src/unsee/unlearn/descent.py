"""The training loop that all trained weight edits share: AdamW, clipping, checkpoints, resuming, an estimate first.

Killed at any moment and called again, it ends in the same weights (bit-identical on a CPU): each step has its own
generator, from (seed, step, process) alone, and a checkpoint holds weights, optimizer and log. Under ``accelerate
launch`` every process draws its own samples and gradients are averaged.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ..backbones.weights import unwrap
from ..concepts.prompts import image_seed
from ..defenses.presets import Settled
from ..errors import GuardFailure, UserError
from ..files import digest, load_tensors, metadata_json, reading, save_tensors, typed
from ..settings import Among, Checked, Count, Decay, Rate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter

    from ..backbones import Backbone
    from ..defenses.base import Fit
    from ..defenses.config import Record
    from .adapters import Adapters

Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
LOG_EVERY = 10
PRECISIONS = ("no", "bf16", "fp16")
Rank = Annotated[int, Field(ge=0, le=16384)]
Clip = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True)
class Plan(Checked):
    """How the weights descend."""

    steps: Count
    lr: Rate
    weight_decay: Decay = 1e-2
    clip: Clip = 1.0
    mixed_precision: Annotated[str, Among(*PRECISIONS)] = "no"
    gradient_checkpointing: bool = False
    checkpoint_every: Count = 100
    tensorboard: bool = False


@dataclass
class State:
    """What a checkpoint holds besides weights and optimizer."""

    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    notes: list[dict[str, int]] = field(default_factory=list)  # what validation saw


def descend(fit: Fit, backbone: Backbone, adapters: Adapters, loss: Loss, plan: Plan, identity: str,
            after: Callable[[int], dict[str, int] | None] | None = None) -> Record:  # fmt: skip
    """Trains ``adapters`` in place for ``plan.steps`` steps of ``loss(step, generator)``; returns a record.

    ``identity`` says what is trained; a checkpoint of another is refused. ``after(step)`` may validate: what it
    returns, if not None, is noted in the record. Raises :class:`GuardFailure` if the loss is NaN or infinite.
    """
    with _accelerator(plan, backbone) as accelerator:
        return _descend(fit, backbone, adapters, loss, plan, identity, after, accelerator)


def _descend(fit: Fit, backbone: Backbone, adapters: Adapters, loss: Loss, plan: Plan, identity: str,
             after: Callable[[int], dict[str, int] | None] | None, accelerator: Accelerator) -> Record:  # fmt: skip
    path = fit.work / "train.safetensors"
    parameters = list(adapters.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay)
    state = _resume(path, identity, adapters, optimizer)
    optimizer = accelerator.prepare_optimizer(optimizer)
    with adapters.attached(), _prepare(backbone, plan, draws=after is not None):
        stage = _estimate(loss, plan, state.step, parameters, backbone)
        writer = _writer(fit.work) if plan.tensorboard and accelerator.is_main_process else None
        for step in range(state.step, plan.steps):
            fit.progress(stage, step, plan.steps)
            generator = torch.Generator().manual_seed(_seed(fit.seed, step, accelerator.process_index))
            values = _step(step, generator, loss, plan, backbone, accelerator, optimizer, parameters)
            if step % LOG_EVERY == 0 or step + 1 == plan.steps:
                state.log.append({"step": step, **values})
                _write(writer, step, values)
            state.step = step + 1
            noted = after(state.step) if after is not None else None
            if noted is not None:
                state.notes.append({"step": state.step, **noted})
            if (state.step % plan.checkpoint_every == 0 or state.step == plan.steps) and accelerator.is_main_process:
                _save(path, identity, adapters, optimizer, state)
        fit.progress(stage, plan.steps, plan.steps)
    if writer is not None:
        writer.close()
    record: Record = {"estimate": stage.removeprefix("train: "), "log": _thin(state.log)}
    return record | ({"validation": state.notes} if state.notes else {})


def plan_of(training: Settled, lr: float) -> Plan:
    """The loop's part of a training's settings."""
    names = ("weight_decay", "clip", "mixed_precision", "gradient_checkpointing", "checkpoint_every", "tensorboard")
    return Plan(steps=training.steps, lr=lr, **{name: getattr(training, name) for name in names})


def identity_of(name: str, fit: Fit, training: Settled, backbone: Backbone) -> str:
    """A hash of all that decides the outcome: method, settings (a dataclass), concept, seed, model, hosts."""
    hosts = [host.digest() for host in fit.host]
    values = [name, asdict(training), fit.concept.model_dump(mode="json"), fit.seed, backbone.fingerprint(), hosts]
    return digest(values)


def main_first() -> AbstractContextManager[None]:
    """Under ``accelerate launch``: the main process makes data that lies in files, then the others find it there."""
    from accelerate import PartialState

    return PartialState().main_process_first()


def _step(step: int, generator: torch.Generator, loss: Loss, plan: Plan, backbone: Backbone, accelerator: Accelerator,
          optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> dict[str, float]:  # fmt: skip
    with _autocast(plan, backbone):
        value, values = loss(step, generator)
    if not bool(torch.isfinite(value)):
        raise GuardFailure(
            f"the loss is {float(value)} at step {step}; lower the learning rate or use another precision"
        )
    accelerator.backward(value)
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
    norm = accelerator.clip_grad_norm_(parameters, plan.clip or math.inf)  # the norm is logged all the same
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": float(value.detach()), **values, "gradient": float(norm)}


def _seed(seed: int, step: int, process: int) -> int:
    return image_seed(seed, f"train/{step}" + (f"/{process}" if process else ""))


@contextmanager
def _accelerator(plan: Plan, backbone: Backbone) -> Iterator[Accelerator]:
    """Accelerate's one state of the process is this fit's, and in the end what it was: a caller may train as well."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    half = next(backbone.denoiser.parameters()).dtype == torch.float16
    precision = "fp16" if half and plan.mixed_precision == "no" else plan.mixed_precision
    before = dict(AcceleratorState._shared_state)
    AcceleratorState._reset_state()
    try:
        yield Accelerator(mixed_precision=precision)
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(before)


def _autocast(plan: Plan, backbone: Backbone) -> AbstractContextManager[None]:
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.mixed_precision]
    kind = next(backbone.denoiser.parameters()).device.type
    return torch.autocast(kind, dtype=dtype, enabled=dtype is not None)


@contextmanager
def _prepare(backbone: Backbone, plan: Plan, *, draws: bool) -> Iterator[None]:
    """Gradient checkpointing on where asked for; VAE and text encoders off the accelerator where nothing is drawn."""
    denoiser = unwrap(backbone.denoiser)
    switch = plan.gradient_checkpointing and not denoiser.is_gradient_checkpointing
    frozen = [p for p in denoiser.parameters() if p.requires_grad]
    idle = [m for m in (getattr(backbone.pipe, "vae", None), *backbone.text_encoders) if m is not None]
    places: list[tuple[Any, Any]] = [
        (m, m.device) for m in idle if m.device.type not in ("cpu", "meta") and not hasattr(m, "_hf_hook")
    ]
    places = [] if draws else places
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for module, _ in places:
            module.to("cpu")
        if switch:
            denoiser.enable_gradient_checkpointing()
        yield
    finally:
        if switch:
            denoiser.disable_gradient_checkpointing()
        for module, device in places:
            module.to(device)
        for parameter in frozen:
            parameter.requires_grad_(True)


def _estimate(loss: Loss, plan: Plan, done: int, parameters: list[nn.Parameter], backbone: Backbone) -> str:
    """Times one step that is thrown away and says what the rest will take."""
    if done >= plan.steps:
        return "train"
    started = time.perf_counter()
    with _autocast(plan, backbone):
        value, _ = loss(0, torch.Generator().manual_seed(0))
    value.backward()
    seconds = (time.perf_counter() - started) * (plan.steps - done)
    for parameter in parameters:
        parameter.grad = None
    return f"train: about {_duration(seconds)}, {_memory() / 2**30:.1f} GB at most"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _memory() -> int:
    """Peak bytes so far: of the accelerator, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _thin(log: list[dict[str, float]], most: int = 6) -> list[dict[str, float]]:
    """A few rows of the log, first and last among them, rounded to four digits."""
    stride = max(1, math.ceil(len(log) / (most - 1)))
    rows = log[:-1][::stride] + log[-1:]
    return [{k: float(f"{v:.4g}") for k, v in row.items()} for row in rows]


# ---- checkpoints ----


def _save(path: Path, identity: str, adapters: Adapters, optimizer: torch.optim.Optimizer, state: State) -> None:
    tensors = adapters.tensors()
    for name, parameter in adapters.parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}:{name}"] = torch.as_tensor(value)
    save_tensors(path, tensors, {"identity": identity, "state": json.dumps(asdict(state))})


def stored(path: Path, identity: str, make: Callable[[], tuple[dict[str, Tensor], dict[str, str]]]) -> Any:
    """(tensors, metadata) of ``path``, which ``make()`` gives if it is not there yet. Raises :class:`UserError` for a
    file of another fit."""
    if not path.exists():
        tensors, metadata = make()
        save_tensors(path, tensors, metadata | {"identity": identity})
    tensors, metadata = load_tensors(path)
    _same_fit(path, metadata, identity)
    return tensors, metadata


def _same_fit(path: Path, metadata: dict[str, str], identity: str) -> None:
    if metadata.get("identity") != identity:
        got = f"{path} of another (settings, concept, seed or model)"
        raise UserError("a work folder of the same fit", got, "remove or rename it")


def _resume(path: Path, identity: str, adapters: Adapters, optimizer: torch.optim.Optimizer) -> State:
    if not path.exists():
        return State()
    do = "remove it and fit again"
    tensors, metadata = load_tensors(path, "a checkpoint", do)
    _same_fit(path, metadata, identity)
    with reading("a checkpoint of this fit", path, do), torch.no_grad():
        for name, parameter in adapters.parameters.items():
            parameter.copy_(tensors[name])
            kept = {k.partition(":")[0]: v for k, v in tensors.items() if k.partition(":")[2] == name}
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in kept.items()}
    return typed(State, metadata_json(metadata, "state", path, do), path, "a checkpoint of this fit", do)


# ---- tensorboard ----


def _writer(work: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("tensorboard", "none installed", "pip install 'unsee[track]'") from error
    return SummaryWriter(work / "tensorboard")


def _write(writer: SummaryWriter | None, step: int, values: dict[str, float]) -> None:
    if writer is None:
        return
    for name, value in values.items():
        writer.add_scalar(name, value, step)
