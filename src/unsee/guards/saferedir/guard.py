"""SafeRedir: a small network reads text and latents at each step and, where they are unsafe, moves the text.

Paper       Liu, Chen, Qiu, Zhang, Lam, Zhang, Ng 2026 (arXiv 2601.08623)
Code        ryliu68/SafeRedir: inference only, one concept, SD 1.x
Touches     the user's half of the text: tokens and pooled embedding, of the images that are judged unsafe
Cost        no pass of the denoiser; a network of about 0.8 M parameters at each check
Differs     (``mode="unsee"``, the default; ``mode="reference"`` is the release, see ``reference.py``)
            * decides before the denoiser runs: the first step is covered, and samplers of one step
            * decides for each image of a batch; the text of an image that is not judged unsafe is not touched, so
              such an image is bit-identical
            * always reads the text that arrives, never its own output, and shifts the positive half alone
            * has a threshold, calibrated to a share of false positives (0.5 is where it lies)
            * the network and why it is another: ``net.py``
Several     Several concepts are several guards in one ``protect``. Each reads the text as the ones before have left
            it: once the first has taken the dagger out, the second judges what is left, so two shifts are not made
            for one reason, and two concepts in one prompt are both taken out.
Limits      Whoever holds the weights can take it off. A concept that it never saw is not caught.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from ...backbones import Encoding, adapter
from ...defenses.base import Guard
from ...defenses.generation import finite, turning
from ...errors import BadFile, Unsupported, UserError
from ...settings import Among, Count, Doc, FreeText, Settings, Share, Table
from .data import aspect
from .net import Redirector, Shape, Shift, image_like, moves, unit
from .reference import DIVISOR, Reference, read_official
from .training import Training

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ...backbones import Backbone
    from ...defenses.base import Fit
    from ...defenses.generation import Generation, Step
    from .data import Data

NETWORKS: dict[str, type[nn.Module]] = {"unsee": Redirector, "reference": Reference}
DEFAULTS: dict[str, dict[str, Any]] = {  # the reference's are those of the released command line
    "unsee": {"strength": 1.0, "interval": 1, "policy": "positive"},
    "reference": {"strength": 1.5, "interval": 3, "policy": "both"},
}
PRESETS = {"strict": 0.3, "balanced": 0.5, "lenient": 0.8}
GRID = 16
Strength = Annotated[float, Field(gt=0, le=100)]  # at 0 nothing is moved


@dataclass
class State:
    """Of one generation, row by row."""

    net: nn.Module
    flagged: Tensor | None = None  # (n,) bool: moved now
    margin: Tensor | None = None  # (n,) of the last look, in logits; it has a slope where an attacker takes one
    shift: Tensor | None = None  # (n, L, D), added to the text of flagged rows
    shift_pooled: Tensor | None = None
    relative: Tensor | None = None  # reference: (n, L, D) in units of a token's length, felt from ``since`` on
    latest: Tensor | None = None  # reference: what the step that is running was given
    wait: list[int] = dataclasses.field(default_factory=list)  # reference: steps without a look, per image


@dataclass(kw_only=True, eq=False)
class SafeRedir(Guard):
    """``SafeRedir.fit(pipe, concept, work=…)``, or ``SafeRedir.from_pretrained(folder)``."""

    name: ClassVar[str] = "saferedir"
    needs_weights: ClassVar[bool] = True
    summary: ClassVar[str] = "Redirects the embedding of an unsafe prompt to a safe one, image by image, step by step."
    Training: ClassVar[type] = Training
    published: ClassVar[Settings] = {"mode": "reference"}  # with its own strength, interval and policy
    quick: ClassVar[Settings] = {
        "pairs": 6, "negatives": 6, "trajectories": 2, "harmless_trajectories": 2, "num_inference_steps": 2,
        "stored_steps": 2, "width": 16, "heads": 2, "rank": 4, "max_train_steps": 4, "train_batch_size": 4,
        "validate_every": 2, "threshold": 0.0,
    }  # fmt: skip

    concept: Annotated[FreeText, Doc("Name of the concept; fitting fills it in.")] = ""
    mode: Annotated[str, Among(*NETWORKS), Doc("The network: ours, or that of the release.")] = "unsee"
    threshold: Annotated[
        Share | Annotated[str, Among(*PRESETS)],
        Doc("p(unsafe) from which text is moved: strict .3, balanced .5 (calibrated), lenient .8."),
    ] = "balanced"
    strength: Annotated[Strength | None, Doc("Times the trained shift; None is the mode's own.")] = None
    interval: Annotated[
        Count | None, Doc("A check at every so many steps, the first always; None is the mode's own.")
    ] = None
    sticky: Annotated[bool, Doc("Whether an image that once was unsafe stays redirected.")] = True
    policy: Annotated[
        str | None,
        Among("positive", "both"),
        Doc("Which halves of guidance are moved, both for the release alone; None is the mode's own."),
    ] = None
    shape: Annotated[Table | None, Doc("Sizes of the network; set by fitting.")] = None

    def __post_init__(self) -> None:
        if self.setting("policy") == "both" and self.mode == "unsee":
            advice = 'leave policy out, or take mode="reference"'
            raise Unsupported("the positive half alone to be moved", 'policy="both"', advice)
        self.net: nn.Module | None = None if self.shape is None else NETWORKS[self.mode](self._shape()).eval()

    @property
    def limit(self) -> float:
        """The threshold as a number."""
        return PRESETS[self.threshold] if isinstance(self.threshold, str) else float(self.threshold)

    def setting(self, name: str) -> Any:
        """A setting, or the mode's own where it was not given."""
        given = getattr(self, name)
        return DEFAULTS[self.mode][name] if given is None else given

    # ---- fitting, saving ----

    @classmethod
    def _fit(cls, fit: Fit, training: Any, arguments: Settings) -> Self:
        from .data import build

        if "shape" in arguments:
            raise UserError("a shape that the pipeline gives", "shape=…", "leave it out")
        made = cls(**{"concept": fit.concept.name, **arguments})
        backbone = _check_suited(made.mode, adapter(fit.pipe))
        data = build(fit, training, unscaled=made.mode == "reference")
        seen = made._train(fit, training, data, "training")
        if training.refit:
            shorter = dataclasses.replace(training, max_train_steps=seen["best_step"], validate_every=seen["best_step"])
            again = made._train(fit, shorter, data.whole(), "refit")
            seen |= {"refit": {name: again[name] for name in ("harmless", "false_positives", "threshold_logits")}}
        made.record = {
            "concept": fit.concept.name,
            "seed": fit.seed,
            "training": dataclasses.asdict(training),
            "validation": seen,
        }
        return made.fitted_for(backbone)

    def _train(self, fit: Fit, training: Any, data: Data, stage: str) -> dict[str, Any]:
        """A network from scratch, rounded as it will be saved, and calibrated; what validation saw."""
        from .calibrate import calibrate
        from .train import train

        self._take(_measure(data, training), fit.seed)
        if isinstance(self.net, Redirector):
            self.net.dropout = training.dropout
            self.net.standardize(torch.stack([data.tokens[i] for i in data.rows("fit", "safe", "benign", "neighbor")]))
            self.net.regress(data.shifts)
        seen = train(fit, training, data, self._network(), self._moves, self._time, stage)
        if self.mode == "unsee":
            self._round()
        return {**seen, **calibrate(self._network(), data, training, fit)}

    @classmethod
    def untrained(cls, pipe: DiffusionPipeline, *, seed: int = 0, concept: str = "", **settings: Any) -> Self:
        """One with random weights and the dimensions of ``pipe``: for tests and timings, it protects nothing."""
        arguments, training = cls.check_settings(settings)
        made = cls(concept=concept, **arguments)
        backbone = _check_suited(made.mode, adapter(pipe))
        encoded = backbone.encode([""], length=training.max_sequence_length or None)
        made._take(_sizes(encoded.tokens, encoded.pooled, backbone.denoiser_channels, GRID, training), seed)
        return made.fitted_for(backbone)

    @classmethod
    def from_official(
        cls, path: str | Path, pipe: DiffusionPipeline, *, names: dict[str, str] | None = None, **settings: Any
    ) -> Self:
        """The released weights (a ``.pt`` state dict, read with ``weights_only``) for ``pipe``.

        ``names`` maps official parameter names to ours where the order of the file is not the official one.
        Raises :class:`BadFile` for another architecture, :class:`Unsupported` for another family of models.
        """
        made = cls(mode="reference", **settings)
        backbone = _check_suited("reference", adapter(pipe))
        shape, weights = read_official(path, names)
        made._take(shape, 0)
        made.load_tensors(weights)
        _check_sizes(made._shape(), backbone.encode([""]), backbone.latent_channels)
        return made.fitted_for(backbone)

    def tensors(self) -> dict[str, Tensor]:
        """The network; ours in half precision, as it was rounded when it was fitted."""
        if self.net is None:
            return {}
        state = self.net.state_dict()
        return {k: v.half() if self.mode == "unsee" else v for k, v in state.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        try:
            self._network().load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
        except RuntimeError as error:
            got = str(error).splitlines()[-1].strip()
            raise BadFile("the weights of this shape", got, "copy or save the folder again") from error
        self._network().requires_grad_(False)

    def _take(self, shape: Shape, seed: int) -> None:
        shape = dataclasses.replace(shape, divisor=DIVISOR) if self.mode == "reference" else shape
        self.shape = dataclasses.asdict(shape)
        if not shape.divisor:  # ours has none: its configuration, and so its digest, is what it was
            del self.shape["divisor"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = NETWORKS[self.mode](shape).eval()

    def _round(self) -> None:
        """To half precision and back: what is saved is what was validated."""
        state = self._network().state_dict()
        self._network().load_state_dict({k: v.half().float() for k, v in state.items()})

    def _shape(self) -> Shape:
        try:
            return Shape(**(self.shape or {}))
        except TypeError as error:
            raise BadFile("the shape of a network", f"{self.shape}: {error}", "save the defense again") from error

    def _network(self) -> nn.Module:
        if self.net is None:
            raise Unsupported("a fitted SafeRedir", "one without a network", "use SafeRedir.fit or from_pretrained")
        return self.net

    @property
    def _time(self) -> str:
        return "t" if self.mode == "unsee" else "raw"

    # ---- one generation ----

    def attach(self, backbone: Backbone) -> None:
        self._network()
        if self.setting("strength") == 0:
            raise Unsupported("a saferedir that acts", "strength=0, which moves nothing", "leave it out instead")
        _check_suited(self.mode, backbone)

    def prepare(self, generation: Generation) -> State:
        net, device = self._network(), torch.device(generation.backbone.pipe._execution_device)
        here = next(net.parameters()).device == device
        return State(net if here else copy.deepcopy(net).to(device), wait=[0] * generation.images)

    def on_positive(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        return self._redirect(step, text, state) if self.mode == "unsee" else self._released(step, text, state)

    def on_negative(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        if self.mode == "unsee" or self.setting("policy") != "both":
            return None
        return _released_text(text, state.relative)

    def _redirect(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        if step.index % self.setting("interval") == 0 or state.flagged is None:
            self._check(step, text, state)
        assert state.flagged is not None and state.shift is not None
        s = torch.full_like(state.shift[:, 0, 0], float(self.setting("strength")))
        if torch.is_grad_enabled() and state.margin is not None and state.margin.requires_grad:
            rows, s = torch.arange(len(s), device=s.device), s * straight_through(state.flagged, state.margin)
        else:  # nobody takes slopes: the text of the others is not touched
            rows = state.flagged.nonzero()[:, 0]
        if not len(rows):
            return None
        tokens, pooled = text.tokens.clone(), text.pooled
        tokens[rows] = (tokens[rows].float() + s[rows, None, None] * state.shift[rows]).to(tokens.dtype)
        if pooled is not None and state.shift_pooled is not None:
            pooled = pooled.clone()
            pooled[rows] = (pooled[rows].float() + s[rows, None] * state.shift_pooled[rows]).to(pooled.dtype)
        return dataclasses.replace(text, tokens=tokens, pooled=pooled)

    def _check(self, step: Step, text: Encoding, state: State) -> None:
        """Runs the network; sets who is moved, and how far."""
        latents = image_like(step.latents, aspect(step.generation.arguments))
        shift = self._look(step, text, state, latents, step.t_999)
        state.shift, state.shift_pooled = self._moves(shift, text.tokens.float(), _float(text.pooled))
        finite(self, step, state.shift)
        finite(self, step, state.shift_pooled)
        state.margin = shift.logits[:, 1] - shift.logits[:, 0]
        unsafe = shift.unsafe >= self.limit
        state.flagged = unsafe | state.flagged if self.sticky and state.flagged is not None else unsafe
        self._note(step, text, shift, state.flagged.tolist(), state.shift)

    def _look(self, step: Step, text: Encoding, state: State, latents: Tensor, t: float) -> Shift:
        _check_sizes(self._shape(), text, latents.shape[1])
        n = len(text.tokens)
        shift: Shift = state.net(
            latents.float(), torch.full((n,), t, device=latents.device), text.tokens.float(), _float(text.pooled)
        )
        for part in shift:
            finite(self, step, part)
        return shift

    def _moves(self, shift: Shift, tokens: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What is added at strength 1; the training minimizes its errors."""
        if self.mode == "unsee":
            return moves(shift, tokens, pooled, self._shape())
        return _released_shift(shift) * tokens.norm(dim=-1, keepdim=True), None

    def _released(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        """The release's step k: this pass gets what step k - 1 decided, the decision of now is felt from k + 1 on.

        With several images each has its own countdown (the release takes one image at a time).
        """
        now = _released_text(text, state.relative)
        seen = text if now is None else now
        latents = step.backbone.unscale(step.latents, step.t)
        shift = self._look(step, seen, state, latents, step.t)
        relative = float(self.setting("strength")) * _released_shift(shift)
        kept = torch.zeros_like(relative) if state.relative is None else state.relative
        looks = [wait == 0 for wait in state.wait]
        unsafe = [bool(p >= self.limit) and look for p, look in zip(shift.unsafe, looks, strict=True)]
        state.wait = [
            self.setting("interval") - 1 if u else max(0, w - 1) for u, w in zip(unsafe, state.wait, strict=True)
        ]
        mine = torch.tensor(unsafe, device=relative.device)
        if state.relative is not None or any(unsafe):
            state.relative = torch.where(mine[:, None, None], relative, kept)
        self._note(step, text, shift, unsafe, relative * text.tokens.float().norm(dim=-1, keepdim=True))
        return now

    def _note(self, step: Step, text: Encoding, shift: Shift, moved: list[bool], by: Tensor) -> None:
        """One event per image: p(unsafe), mean relative length of the shift, tokens that move by more than a tenth."""
        size = (by.norm(dim=-1) / text.tokens.float().norm(dim=-1).clamp(min=1e-6)).detach()
        step.record(
            self,
            ["redirected" if own else "watched" for own in moved],
            concept=self.concept,
            p=[round(float(p), 4) for p in shift.unsafe.detach()],
            strength=[float(row.mean()) if own else 0.0 for row, own in zip(size, moved, strict=True)],
            tokens=[int((row > 0.1).sum()) if own else 0 for row, own in zip(size, moved, strict=True)],
        )


def _released_shift(shift: Shift) -> Tensor:
    """a_i unit(delta_i), ``(B, L, D)``, in units of each token's length."""
    return shift.scale[..., None] * unit(shift.direction)


def _released_text(text: Encoding, relative: Tensor | None) -> Encoding | None:
    """Always the original text plus the shift of now; rows without one stay as they are."""
    if relative is None:
        return None
    moved = text.tokens.float() + relative * text.tokens.float().norm(dim=-1, keepdim=True)
    some = relative.flatten(1).any(1)[:, None, None]
    return dataclasses.replace(text, tokens=torch.where(some, moved.to(text.tokens.dtype), text.tokens))


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def _check_suited(mode: str, backbone: Backbone) -> Backbone:
    """The release moves tokens alone, so a model with a pooled embedding would be reached past it."""
    if mode == "reference" and (backbone.pooled_dim or not backbone.stacked):
        advice = 'take mode="unsee", which moves the pooled embedding too'
        raise Unsupported("Stable Diffusion 1.x or 2.x in reference mode", backbone.family, advice)
    return backbone


def _check_sizes(shape: Shape, text: Encoding, channels: int) -> None:
    """Text and latents of this call are of the kind that the network was fitted on."""
    pooled = 0 if text.pooled is None else text.pooled.shape[-1]
    got = (*text.tokens.shape[1:], channels, pooled)
    wanted = (shape.tokens, shape.text, shape.channels, shape.pooled)
    if got != wanted:
        names = "tokens {} x {}, latent channels {}, pooled {}"
        advice = "pass prompts as text, or embeddings of the length it was fitted for"
        raise Unsupported(names.format(*wanted), names.format(*got), advice)


def _measure(data: Data, training: Training) -> Shape:
    latents = data.latents[0][0]
    pooled = None if data.pooled is None else data.pooled[0][None]
    return _sizes(data.tokens[0][None], pooled, latents.shape[0], min(GRID, *latents.shape[1:]), training)


def _sizes(tokens: Tensor, pooled: Tensor | None, channels: int, grid: int, training: Training) -> Shape:
    return Shape(
        tokens=tokens.shape[1],
        text=tokens.shape[2],
        channels=channels,
        pooled=0 if pooled is None else pooled.shape[-1],
        grid=grid,
        width=training.width,
        layers=training.layers,
        heads=training.heads,
        rank=training.rank,
        mask=training.use_mask,
        scale=training.use_scale,
    )


def straight_through(decided: Tensor, margin: Tensor) -> Tensor:
    """``decided`` ``(n,)`` as 0 or 1, exactly; backward, :func:`turning`."""
    return decided.to(margin) + turning(margin)
