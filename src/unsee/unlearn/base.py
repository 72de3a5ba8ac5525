"""The artefact of every weight edit: low-rank pairs or exact deltas of the denoiser's layers.

Keys in ``model.safetensors`` are those of diffusers, so ``pipe.load_lora_weights(FOLDER)`` takes the same folder:

    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight    (r, in)
    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight    (out, r)    delta = B A
    unet.…to_k.weight_delta                                                          (out, in)   exact; unsee only
    unet.…to_out.0.bias_delta                                                        (out,)      likewise

``transformer.…`` for SD3 and FLUX; convolutions have A of ``(r, in, h, w)`` and B of ``(out, r, 1, 1)``.

Attached, a layer's weight is W + Σ strength · delta over all edits on this denoiser, summed in float32 and cast
once. The untouched weights are kept and put back when the last edit leaves, whatever the order of leaving. Pipelines
that share the denoiser share the edit: it leaves with the last of them. Weights that somebody else has written to
meanwhile are not written over: taking the edit off is refused, and says why.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from ..backbones.weights import refuse_fused, unwrap
from ..defenses.base import Defense
from ..defenses.snapshot import merged
from ..errors import BadFile, Mismatch, Unsupported
from ..settings import Doc
from .lora import DELTA, ENDS, A, B, strength_metadata, truncated, write_comfy

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..backbones import Backbone

LOST = 1e-3  # relative error of an export that is worth a warning
Layer = nn.Linear | nn.Conv2d
Strength = Annotated[float, Field(gt=0, le=100)]  # 0 would change nothing, and less would teach the concept


@dataclass(kw_only=True, eq=False)
class WeightEdit(Defense):
    """A defense that lives in the weights."""

    summary: ClassVar[str] = "A change of the denoiser's weights that unlearns a concept."

    needs_weights: ClassVar[bool] = True

    strength: Annotated[Strength, Doc("Times the change that was fitted.")] = 1.0

    def __post_init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.weights)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes low-rank pairs and deltas. Raises :class:`BadFile` for any other key, half a pair, NaN or infinity."""
        for name, tensor in tensors.items():
            if not name.endswith(ENDS):
                raise BadFile(
                    "lora_A, lora_B, weight_delta and bias_delta tensors",
                    name,
                    "import it with unsee.unlearn.importers",
                )
            if name.endswith((A, B)) and _partner(name) not in tensors:
                raise BadFile("low-rank pairs", f"{name} alone", "copy or save the folder again")
            if not bool(torch.isfinite(tensor).all()):
                raise BadFile("finite weights", f"NaN or infinity in {name}", "fit it again")
        self.weights = dict(tensors)

    @property
    def targets(self) -> list[str]:
        """The edited parameters (``….weight``, ``….bias``), with the denoiser's name in front."""
        return list(dict.fromkeys(map(_target, self.weights)))

    def delta(self, target: str) -> Tensor:
        """What is added to a parameter at strength 1, in its shape; float32, or float64 if stored so."""
        if target + "_delta" in self.weights:
            return widened(self.weights[target + "_delta"])
        layer = target.removesuffix(".weight")
        a, b = widened(self.weights[layer + A]), widened(self.weights[layer + B])
        return b @ a if a.ndim == 2 else (b.flatten(1) @ a.flatten(1)).view(len(b), *a.shape[1:])

    def attach(self, backbone: Backbone) -> None:
        """Adds strength · delta to the weights; raises :class:`Mismatch` or :class:`Unsupported`, nothing added."""
        if not self.weights:
            do = "fit it, or load it with from_pretrained"
            raise Unsupported(f"a fitted {type(self).__name__}", "one without weights", do)
        refuse_fused(unwrap(backbone.denoiser))
        _edited(backbone).add(self, backbone.pipe, self.found(backbone))

    def detach(self, backbone: Backbone) -> None:
        """Takes this edit off. Harmless if it is not on."""
        _edited(backbone).remove(self, backbone.pipe)

    def check_detach(self, backbone: Backbone) -> None:
        """Raises :class:`Unsupported` where putting the weights back would lose what others wrote to them."""
        _edited(backbone).check(self, backbone.pipe, unwrap(backbone.denoiser))

    def as_lora(self, rank: int) -> tuple[Self, float]:
        """(this edit with every delta as low-rank pairs, the relative error of that).

        ``rank`` is the most each layer gets; error = ‖delta - B A‖ / ‖delta‖ (Frobenius) over all layers, in [0, 1].
        Deltas of biases and norms have no low rank and stay as they are.
        """
        deltas = {target: self.delta(target) for target in self.targets}
        plain = {f"{name}_delta": delta for name, delta in deltas.items() if delta.ndim < 2}
        weights, error = truncated({n.removesuffix(".weight"): d for n, d in deltas.items() if d.ndim > 1}, rank)
        return self._with(weights | plain), error

    def export_comfy(self, path: str | Path, *, rank: int = 64) -> Path:
        """Writes one .safetensors with kohya's keys (``lora_unet_…``), which ComfyUI and A1111 read.

        ``strength`` is folded in. Exact deltas become pairs of at most ``rank``, with a warning where that loses more
        than a thousandth; those of biases and norms are kept as they are (``.diff_b``, ``.diff``). Returns the path.
        """
        exact = any(name.endswith(DELTA) for name in self.weights)
        edit, lost = self.as_lora(rank) if exact else (self, 0.0)
        if lost > LOST:
            said = f"export_comfy: pairs of rank {rank} lose {lost:.1%} of the deltas; give a higher rank"
            warnings.warn(said, UserWarning, stacklevel=2)
        return write_comfy(edit.weights, self.strength, Path(path))

    def metadata(self) -> dict[str, str]:
        """``strength`` as diffusers reads it from the saved file (alpha = strength · rank); empty at strength 1."""
        return strength_metadata(self.weights, self.strength)

    def _with(self, weights: dict[str, Tensor]) -> Self:
        made = type(self)(**self.config())
        made.load_tensors(weights)
        made.fingerprints, made.record = dict(self.fingerprints), dict(self.record)
        return made

    def found(self, backbone: Backbone) -> dict[str, nn.Parameter]:
        """The parameters to edit in this model. Raises :class:`Mismatch` or :class:`Unsupported` where one is unfit."""
        prefix, found = backbone.denoiser_name + ".", {}
        for target in self.targets:
            if not target.startswith(prefix):
                raise Mismatch(
                    f"weights of a {backbone.denoiser_name}", target, "use it on the model it was fitted for"
                )
            layer, _, kind = target.removeprefix(prefix).rpartition(".")
            module = layer_of(unwrap(backbone.denoiser), layer)
            found[target] = _editable(target, module, kind, self._shape(target))
        return found

    def _shape(self, target: str) -> tuple[int, ...]:
        if target + "_delta" in self.weights:
            return tuple(self.weights[target + "_delta"].shape)
        layer = target.removesuffix(".weight")
        return (len(self.weights[layer + B]), *self.weights[layer + A].shape[1:])


def layer_of(denoiser: nn.Module, name: str) -> nn.Module | None:
    """The layer called ``name``, below a PEFT LoRA if it carries one; None if there is none."""
    try:
        module = denoiser.get_submodule(name)
    except AttributeError:
        return None
    return getattr(module, "base_layer", module)


def widened(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _editable(name: str, module: nn.Module | None, kind: str, shape: tuple[int, ...]) -> nn.Parameter:
    weight = getattr(module, kind, None)
    if not isinstance(weight, Tensor):
        raise Mismatch(f"a model with {name}", "one without", "use it on the model it was fitted for")
    if weight.is_meta:
        raise Unsupported("weights in memory", "sequentially offloaded ones", "protect before enabling that offload")
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        got = f"{type(module).__name__} in {str(weight.dtype).removeprefix('torch.')}"
        raise Unsupported("plain floating-point weights", got, "load the model without quantization")
    if tuple(weight.shape) != shape:
        raise Mismatch(f"{name} of {shape}", str(tuple(weight.shape)), "use it on the model it was fitted for")
    return weight


@dataclass
class _Entry:
    """One edit on a denoiser as it was attached, whatever becomes of the object."""

    digest: str
    strength: float
    edit: WeightEdit  # a copy: its tensors are those that were attached
    holders: list[tuple[weakref.ref[DiffusionPipeline], WeightEdit]]  # of the pipelines, each with its object


@dataclass
class _Edited:
    """The edits on one denoiser, and its weights as they were before the first of them."""

    originals: dict[str, tuple[nn.Parameter, Tensor, int]] = field(default_factory=dict)  # parameter, before, version
    entries: list[_Entry] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, edit: WeightEdit, pipe: DiffusionPipeline, found: dict[str, nn.Parameter]) -> None:
        digest = edit.digest()
        with self.lock:
            entry = next((e for e in self.entries if e.digest == digest), None)
            if entry is not None:
                if any(ref() is pipe for ref, _ in entry.holders):
                    advice = "attach it once, or detach it"
                    raise Unsupported("a denoiser without this edit", "one that has it already", advice)
                entry.holders.append((weakref.ref(pipe), edit))
                return
            for name, parameter in found.items():
                if name not in self.originals:
                    self.originals[name] = parameter, parameter.detach().clone(), 0
            self.entries.append(_Entry(digest, edit.strength, edit._with(edit.weights), [(weakref.ref(pipe), edit)]))
            try:
                self._write(found)
                self._refuse_vain(edit, found)
            except BaseException:
                self._drop(self.entries[-1])
                raise

    def remove(self, edit: WeightEdit, pipe: DiffusionPipeline) -> None:
        with self.lock:
            for entry in self._of(edit, pipe):
                entry.holders = [held for held in entry.holders if held[0]() is not pipe]
                if not entry.holders:
                    self._drop(entry)

    def check(self, edit: WeightEdit, pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
        with self.lock:
            for entry in self._of(edit, pipe):
                if len(entry.holders) == 1:
                    refuse_fused(denoiser)
                    for name in entry.edit.targets:
                        self._check_written(name, denoiser)

    def _of(self, edit: WeightEdit, pipe: DiffusionPipeline) -> list[_Entry]:
        """What was attached of ``edit`` for ``pipe``; its tensors may have been replaced since."""
        mine = [(entry, own) for entry in self.entries for ref, own in entry.holders if ref() is pipe]
        same = [entry for entry, own in mine if own is edit]
        return same or [entry for entry, _ in mine if entry.digest == edit.digest()]

    def _drop(self, entry: _Entry) -> None:
        self.entries.remove(entry)
        self._write(entry.edit.targets)

    @torch.no_grad()
    def _write(self, names: Iterable[str]) -> None:
        for name in names:
            parameter, original, _ = self.originals[name]
            wanted = self._wanted(name)
            if wanted is not original and not bool(torch.isfinite(wanted.to(parameter.dtype)).all()):
                raise Unsupported("an edit that leaves finite weights", f"NaN or infinity in {name}", "lower strength")
            parameter.data.copy_(wanted)
            if wanted is original:
                del self.originals[name]
            else:
                self.originals[name] = parameter, original, parameter._version

    def _wanted(self, name: str) -> Tensor:
        """The parameter with all edits that are on; the original itself where none is."""
        _, original, _ = self.originals[name]
        edits = [entry for entry in self.entries if name in entry.edit.targets]
        if not edits:
            return original
        total = widened(original).clone()
        for entry in edits:
            total += entry.strength * entry.edit.delta(name).to(total)
        return total

    def _refuse_vain(self, edit: WeightEdit, found: Iterable[str]) -> None:
        if all(torch.equal(self.originals[n][0], self.originals[n][1].to(self.originals[n][0])) for n in found):
            got = f"one that changes no weight at strength {edit.strength}"
            raise Unsupported(f"a {edit.name} that acts", got, "fit it again, or raise strength")

    def _check_written(self, name: str, denoiser: nn.Module) -> None:
        parameter, original, version = self.originals[name]
        layer, _, kind = name.partition(".")[2].rpartition(".")
        module = layer_of(denoiser, layer)
        if getattr(module, kind, None) is not parameter:
            raise _changed(f"{name} is another tensor")
        if parameter.is_meta:
            raise _changed(f"{name} is offloaded", "take the offloading off first")
        wanted = self._wanted(name).to(parameter.dtype).to(parameter)
        if torch.equal(parameter, wanted) or torch.equal(parameter, original.to(parameter)):
            return
        if merged(denoiser):
            raise _changed(f"an adapter was fused into {name}", "call unfuse_lora() first")
        rounding = 8 * torch.finfo(parameter.dtype).eps * wanted.abs().max()
        if parameter._version != version or bool((parameter - wanted).abs().max() > rounding):
            raise _changed(f"{name} was written to")  # else: an adapter was fused and taken out again


LOSES = "detach(force=True) puts back the weights from before, and loses what was written"


def _changed(what: str, do: str = LOSES) -> Unsupported:
    return Unsupported("the weights that the edit left", f"others: {what}", do)


_ON: weakref.WeakKeyDictionary[nn.Module, _Edited] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def _edited(backbone: Backbone) -> _Edited:
    with _MAKING:
        return _ON.setdefault(unwrap(backbone.denoiser), _Edited())


def edited(backbone: Backbone) -> bool:
    """Whether an edit of ours is on this denoiser, attached through this pipeline or another."""
    return bool(_edited(backbone).originals)


def _target(name: str) -> str:
    if name.endswith((A, B)):
        return name.removesuffix(A).removesuffix(B) + ".weight"
    return name.removesuffix("_delta")


def _partner(name: str) -> str:
    return name.removesuffix(A) + B if name.endswith(A) else name.removesuffix(B) + A
