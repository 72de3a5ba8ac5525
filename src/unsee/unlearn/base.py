"""The artefact of every weight edit: low-rank pairs or exact deltas of the denoiser's layers.

Keys in ``model.safetensors`` are those of diffusers, so ``pipe.load_lora_weights(FOLDER)`` takes the same folder:

    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight    (r, in)
    unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight    (out, r)    delta = B A
    unet.…to_k.weight_delta                                                          (out, in)   exact; unsee only
    unet.…to_out.0.bias_delta                                                        (out,)      likewise

``transformer.…`` for SD3 and FLUX; convolutions have A of ``(r, in, h, w)`` and B of ``(out, r, 1, 1)``.

Attached, a layer's weight is W + Σ strength · delta over all edits on this denoiser, summed in float32 and cast
once. The untouched weights are kept and put back when the last edit leaves, whatever the order of leaving.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from ..backbones.weights import unwrap
from ..errors import BadFile, Mismatch, Unsupported
from ..guards.base import Defense
from ..settings import Doc

if TYPE_CHECKING:
    from ..backbones import Backbone

A, B, DELTA, BIAS = ".lora_A.weight", ".lora_B.weight", ".weight_delta", ".bias_delta"
ENDS = (A, B, DELTA, BIAS)
Layer = nn.Linear | nn.Conv2d
Strength = Annotated[float, Field(gt=0, le=100)]  # 0 would change nothing, and less would teach the concept


@dataclass(kw_only=True, eq=False)
class WeightEdit(Defense):
    """A defense that lives in the weights."""

    summary: ClassVar[str] = "A change of the denoiser's weights that unlearns a concept."

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
        _edited(backbone).add(self, self.found(backbone))

    def detach(self, backbone: Backbone) -> None:
        """Takes this edit off. Harmless if it is not on."""
        _edited(backbone).remove(self)

    def as_lora(self, rank: int) -> tuple[Self, float]:
        """(this edit with every delta as low-rank pairs, the relative error of that).

        ``rank`` is the most each layer gets; error = ‖delta - B A‖ / ‖delta‖ (Frobenius) over all layers, in [0, 1].
        Deltas of biases and norms have no low rank and stay as they are.
        """
        from .lora import truncated

        deltas = {target: self.delta(target) for target in self.targets}
        plain = {f"{name}_delta": delta for name, delta in deltas.items() if delta.ndim < 2}
        weights, error = truncated({n.removesuffix(".weight"): d for n, d in deltas.items() if d.ndim > 1}, rank)
        return self._with(weights | plain), error

    def export_comfy(self, path: str | Path, *, rank: int = 64) -> Path:
        """Writes one .safetensors with kohya's keys (``lora_unet_…``), which ComfyUI and A1111 read.

        ``strength`` is folded in; exact deltas become pairs of at most ``rank``, and deltas of biases are left out,
        which such files cannot hold. Returns the path.
        """
        from .lora import write_comfy

        exact = any(name.endswith(DELTA) for name in self.weights)
        weights = self.as_lora(rank)[0].weights if exact else self.weights
        pairs = {name: tensor for name, tensor in weights.items() if name.endswith((A, B))}
        return write_comfy(pairs, self.strength, Path(path))

    def _with(self, weights: dict[str, Tensor]) -> Self:
        made = type(self)(**self.config())
        made.load_tensors(weights)
        made.fingerprints, made.record = dict(self.fingerprints), dict(self.record)  # type: ignore[misc]
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
class _Edited:
    """The edits on one denoiser, and its weights as they were before the first of them."""

    originals: dict[str, tuple[nn.Parameter, Tensor]] = field(default_factory=dict)
    edits: list[tuple[WeightEdit, float]] = field(default_factory=list)

    def add(self, edit: WeightEdit, found: dict[str, nn.Parameter]) -> None:
        if any(edit is other for other, _ in self.edits):
            raise Unsupported("a denoiser without this edit", "one that has it already", "attach it once, or detach it")
        for name, parameter in found.items():
            if name not in self.originals:
                self.originals[name] = parameter, parameter.detach().clone()
        self.edits.append((edit, edit.strength))
        self._write(found)

    def remove(self, edit: WeightEdit) -> None:
        kept = [pair for pair in self.edits if pair[0] is not edit]
        if len(kept) == len(self.edits):
            return
        self.edits = kept
        self._write(edit.targets)

    @torch.no_grad()
    def _write(self, names: Iterable[str]) -> None:
        edited = [(edit, strength, set(edit.targets)) for edit, strength in self.edits]
        for name in names:
            parameter, original = self.originals[name]
            edits = [(edit, strength) for edit, strength, targets in edited if name in targets]
            if not edits:
                parameter.data.copy_(original)
                del self.originals[name]
                continue
            total = widened(original).clone()
            for edit, strength in edits:
                total += strength * edit.delta(name).to(total)
            parameter.data.copy_(total)


_ON: weakref.WeakKeyDictionary[nn.Module, _Edited] = weakref.WeakKeyDictionary()


def _edited(backbone: Backbone) -> _Edited:
    return _ON.setdefault(unwrap(backbone.denoiser), _Edited())


def _target(name: str) -> str:
    if name.endswith((A, B)):
        return name.removesuffix(A).removesuffix(B) + ".weight"
    return name.removesuffix("_delta")


def _partner(name: str) -> str:
    return name.removesuffix(A) + B if name.endswith(A) else name.removesuffix(B) + A
