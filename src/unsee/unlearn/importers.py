"""Weight edits that others have made, as ours: whole weights of a denoiser, and LoRAs. Nothing is unpickled.

    esd = import_esd("esd-nudity.safetensors", pipe)      # a whole or partial state: the exact difference is kept
    duo = import_duo("duo-checkpoint-500/", pipe)         # a LoRA of diffusers, PEFT, kohya or ComfyUI

The pipeline must be the model that they were made from; the edit is bound to it. Every tensor of a file is used, or it
is refused and named: a text encoder's half, for example, which no weight edit of ours can hold. ``denoiser_only=True``
takes the denoiser's part of such a file; the edit's record then says what was left out.

Strength of a LoRA, as its own program applies it: alpha / rank, or alpha / √rank with ``use_rslora``; alpha from the
file's ``.alpha`` tensors (kohya), from ``lora_adapter_metadata`` (diffusers ≥ 0.35), from ``adapter_config.json``
(PEFT), each layer's own where ``alpha_pattern`` says so; the rank where nothing does. DoRA's magnitudes are computed
with this model's weights into exact deltas: m (W + BA) / ‖W + BA‖ - W, row by row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..backbones import adapter
from ..defenses.protection import Guarded
from ..errors import BadFile, Mismatch, Unsupported
from .base import WeightEdit, edited
from .duo import Duo
from .esd import ESD
from .layouts import Names, State, kind_of, modern, read_state, some
from .lora import BIAS, DELTA, A, B
from .scales import Scales, read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffusers import DiffusionPipeline

    from ..backbones import Backbone

LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "model.safetensors")
PARTS = {
    "A": (".lora_A.weight", ".lora.down.weight", ".lora_down.weight", ".lora_linear_layer.down.weight"),
    "B": (".lora_B.weight", ".lora.up.weight", ".lora_up.weight", ".lora_linear_layer.up.weight"),
    "alpha": (".alpha",),
    "magnitude": (".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
    "bias": (".lora_B.bias",),
    "diff": (".diff",),
    "diff_b": (".diff_b",),
}


def import_esd(path: str | Path, pipe: DiffusionPipeline, *, denoiser_only: bool = False) -> ESD:
    """A state of weights (``.pt``, ``.safetensors``) as exact deltas from ``pipe``'s own.

    Raises :class:`BadFile` for what is no state of tensors and for tensors of other parts (a text encoder, a VAE: then
    see ``denoiser_only``), :class:`Mismatch` where they fit no layer of ``pipe`` or have another shape.
    """
    path, backbone = Path(path), adapter(_bare_pipe(pipe))
    state, names = read_state(path), Names(backbone)
    found = {key: names.parameter(key) for key in state.tensors}
    left = _left_out([key for key, name in found.items() if name is None], path, denoiser_only and any(found.values()))
    deltas: dict[str, Tensor] = {}
    for key, name in found.items():
        if name is not None:
            _once(deltas, name, key, path)
            deltas[name] = _difference(state.tensors[key], names.own[name], name)
    _not_empty(deltas, path, "a state of the denoiser's weights")
    changed = {f"{backbone.denoiser_name}.{name}_delta": d for name, d in deltas.items() if bool(d.any())}
    if not changed:
        raise BadFile("weights that differ from this model's", f"the same ones in {path}", "use the edited state")
    return _make(ESD(), backbone, changed, path, state, left)


def import_duo(folder: str | Path, pipe: DiffusionPipeline, *, denoiser_only: bool = False) -> Duo:
    """A LoRA (a file, or the folder that diffusers or PEFT writes) as our edit, as strong as its own program makes it.

    Raises :class:`BadFile` for tensors that cannot be used, all of them named, :class:`Mismatch` for another model's.
    """
    backbone, path = adapter(_bare_pipe(pipe)), _lora_file(Path(folder))
    state, names = read_state(path), Names(backbone)
    layers, wholes, left = _layers(state, names, path, denoiser_only)
    scales = Scales.of(path, state.metadata, backbone.denoiser_name)
    weights: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weights |= _weights(f"{backbone.denoiser_name}.{name}", layer, _scale(scales, name, layer), names, name, path)
    for name, value in wholes.items():
        weights[f"{backbone.denoiser_name}.{name}_delta"] = _difference(value, names.own[name], name)
    if scales.settings.get("use_dora") and not any("magnitude" in layer for layer in layers.values()):
        raise BadFile("DoRA's magnitudes", f"none in {path}, whose settings say use_dora", "save it again")
    edit = _make(Duo(), backbone, weights, path, state, left)
    edit.found(backbone)  # a LoRA of another model is refused here, not when it is attached
    return edit


E = TypeVar("E", bound=WeightEdit)
Parts = dict[str, Tensor]  # of one layer, by what they are


def _layers(
    state: State, names: Names, path: Path, denoiser_only: bool
) -> tuple[dict[str, Parts], dict[str, Tensor], dict[str, int]]:
    """(layers by this model's names, whole weights beside them, what was left out). Raises if a tensor is neither."""
    layers, wholes, unknown, halves = dict[str, Parts](), dict[str, Tensor](), list[str](), list[str]()
    for key, value in state.tensors.items():
        stem, part = _part(_one_adapter(modern(key), path))
        name = names.module(stem) if part else None
        if name is not None:
            layer = layers.setdefault(name, {})
            _once(layer, part, key, path)
            layer[part] = value
        elif (whole := names.parameter(key)) is not None:
            _once(wholes, whole, key, path)
            wholes[whole] = value
        else:
            unknown.append(key)
    for name, layer in layers.items():
        if flat := [part for part in ("A", "B") if part in layer and (layer[part].ndim < 2 or not layer[part].numel())]:
            got = f"{flat[0]} of {tuple(layer[flat[0]].shape)} for {name} in {path}"
            raise BadFile("matrices in a LoRA", got, "save it again")
        if ("A" in layer) != ("B" in layer) or not {"A", "diff", "diff_b"} & set(layer):
            halves.append(f"{name} ({', '.join(sorted(layer))})")
    left = _left_out(unknown, path, denoiser_only and bool(layers), halves)
    if wholes and not layers:
        got = f"{path} with whole weights ({some(state.tensors)})"
        raise BadFile("a LoRA", got, "use import_esd")
    _not_empty(layers, path, "a LoRA in a layout of diffusers, PEFT, kohya or ComfyUI")
    return layers, wholes, left


def _scale(scales: Scales, name: str, layer: Parts) -> float:
    return scales.scale(name, len(layer["A"]), layer.get("alpha")) if "A" in layer else 1.0


def _weights(target: str, layer: Parts, scale: float, names: Names, name: str, path: Path) -> dict[str, Tensor]:
    """The layer's tensors as a weight edit keeps them."""
    parts, own = layer, names.own[name + ".weight"]
    made: dict[str, Tensor] = {}
    if "A" in parts:
        if "diff" in parts:
            raise BadFile("low-rank pairs or whole differences", f"both for {name} in {path}", "save it again")
        a, b = _fit_shapes(parts["A"].float(), parts["B"].float() * scale, own, name)
        made = _dora(target, a, b, parts["magnitude"], own) if "magnitude" in parts else {target + A: a, target + B: b}
    elif "diff" in parts:
        made[target + DELTA] = _reshape(parts["diff"].float(), own, name)
    biases = [part for part in ("bias", "diff_b") if part in parts]
    if len(biases) > 1 or ("bias" in parts and "magnitude" in parts):
        raise BadFile("one bias, and none beside DoRA", f"{name} in {path}", "save it again")
    for part in biases:
        if (bias := names.own.get(name + ".bias")) is None:
            got = f"a bias for {name} in {path}, a layer without one"
            raise BadFile("biases of layers that have one", got, "train it without lora_bias")
        made[target + BIAS] = _reshape(parts[part].float(), bias, f"{name}.bias") * (scale if part == "bias" else 1.0)
    return made


def _fit_shapes(a: Tensor, b: Tensor, own: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The pair in the layer's own dimensions: a 1 × 1 convolution and a linear layer are kept alike in some files."""
    if a.ndim > 2 and own.ndim == 2 and a[0, 0].numel() == 1:
        a, b = a.flatten(1), b.flatten(1)
    if a.ndim == 2 and own.ndim > 2 and own[0, 0].numel() == 1:
        a, b = a[..., None, None], b[..., None, None] if b.ndim == 2 else b
    paired = b.ndim == a.ndim == own.ndim and b.numel() == len(b) * len(a) and b.shape[1] == len(a)
    if not paired or (len(b), *a.shape[1:]) != tuple(own.shape):
        got = f"a pair of {tuple(b.shape)} and {tuple(a.shape)}"
        raise Mismatch(f"{name}.weight of {tuple(own.shape)}", got, "use the model it was made from")
    return a, b


def _dora(target: str, a: Tensor, b: Tensor, magnitude: Tensor, own: Tensor) -> dict[str, Tensor]:
    """m (W + BA) / ‖W + BA‖ - W, row by row, with the scale in B already."""
    before = own.detach().float().cpu()
    if magnitude.numel() != len(before):
        got = f"{magnitude.numel()} magnitudes"
        raise Mismatch(f"{len(before)} magnitudes for {target}", got, "use the model it was made from")
    moved = before.flatten(1) + b.flatten(1) @ a.flatten(1)
    long = magnitude.float().flatten()[:, None] * moved / moved.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return {target + DELTA: long.view_as(before) - before}


def _reshape(value: Tensor, own: Tensor, name: str) -> Tensor:
    """``value`` in the shape of ``own``: some files keep linear layers as 1 × 1 convolutions, or these so."""
    plain = [tuple(size for size in shape if size != 1) for shape in (value.shape, own.shape)]
    if plain[0] != plain[1] or not 1 <= value.ndim <= 4:
        got = str(tuple(value.shape))
        raise Mismatch(f"{name} of {tuple(own.shape)}", got, "use the model it was made from")
    return value.reshape(own.shape)


def _difference(value: Tensor, own: Tensor, name: str) -> Tensor:
    """value - own in float32; 0 where they are the same but for rounding to the coarser of their types."""
    before = own.detach().cpu()
    value = _reshape(value, before, name)
    if torch.equal(before.to(value.dtype), value) or torch.equal(value.to(before.dtype), before):
        return torch.zeros_like(before, dtype=torch.float32)
    return value.float() - before.float()


def _left_out(keys: list[str], path: Path, denoiser_only: bool, halves: Iterable[str] = ()) -> dict[str, int]:
    """How many tensors of other parts are left out. Raises, naming all, if nobody said that they may be."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(kind_of(key), []).append(key)
    strange = groups.pop("", [])
    other = {kind: found for kind, found in groups.items() if not _part_of_pipeline(kind)}
    told = [f"{len(found)} of {kind} ({some(found, 1)})" for kind, found in groups.items()]
    if halves := list(halves):
        told.append(f"{len(halves)} layers without both of A and B ({some(halves)})")
    if strange:
        told.append(f"{len(strange)} that match no layer of this model ({some(strange)})")
    if strange and len(told) == 1:
        raise Mismatch("weights of this model's layers", f"{path} with {told[0]}", "use the model it was made from")
    if told and (strange or halves or other or not denoiser_only):
        do = _advice([*other, *groups], bool(strange or halves or other))
        raise BadFile("a file whose every tensor acts on the denoiser", f"{path} with {'; '.join(told)}", do)
    return {kind: len(found) for kind, found in groups.items()}


def _part_of_pipeline(kind: str) -> bool:
    """Whether these are weights of another part, so that the denoiser's may be taken alone."""
    return kind.startswith(("the ", "an average", "embeddings"))


def _advice(kinds: list[str], broken: bool) -> str:
    if any(kind.startswith(("FLUX", "SD 3")) for kind in kinds):
        return "load it with pipe.load_lora_weights and save it with the transformer's save_lora_adapter"
    if any(kind.startswith("a UNet") for kind in kinds):
        return "use a model with these blocks, or convert the file to diffusers' names"
    if broken:
        return "save it again as pairs of lora_A and lora_B, or as whole weights"
    return "pass denoiser_only=True to take the denoiser's part; load a text encoder into the pipeline before protect"


def _not_empty(found: Mapping[str, object], path: Path, wanted: str) -> None:
    if not found:
        raise BadFile(wanted, f"none of the denoiser's tensors in {path}", "check the file; a text encoder goes into "
                      "pipe.text_encoder before protect")  # fmt: skip


def _make(edit: E, backbone: Backbone, weights: dict[str, Tensor], path: Path, state: State, left: dict[str, int]) -> E:
    made = edit.fitted_for(backbone)
    made.load_tensors(weights)
    aside = {**state.aside, **left}
    record = {"imported": path.name, "layers": len(made.targets)} | ({"left_out": aside} if aside else {})
    made.record = record
    return made


def _part(key: str) -> tuple[str, str]:
    """(layer, what of it) of a LoRA's key; what is empty if it is none."""
    return next(
        ((key.removesuffix(e), part) for part, ends in PARTS.items() for e in ends if key.endswith(e)), (key, "")
    )


def _one_adapter(key: str, path: Path) -> str:
    """Without the adapter's name, which PEFT's own state_dict has: ``to_k.lora_A.default.weight``."""
    named = re.fullmatch(r"(.*\.(?:lora_A|lora_B|lora_magnitude_vector))\.([^.]+)(\.weight|\.bias)", key)
    if named is None:
        return key
    if named[2] != "default":
        got = f"the adapter {named[2][:40]!r} in {path}"
        raise BadFile("one LoRA, saved by itself", got, "save it with save_lora_weights or save_pretrained")
    return named[1] + named[3]


def _once(found: Mapping[str, object], name: str, key: str, path: Path) -> None:
    if name in found:
        got = f"{key} in {path} beside another"
        raise BadFile(f"{name} once", got, "take out the one that is not meant")


def _bare_pipe(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Deltas are differences from the model's own weights, so nothing of ours may be on them."""
    if Guarded.of(pipe) is not None or edited(adapter(pipe)):
        raise Unsupported("a pipeline without defenses", "a protected one", "import before protect, or detach first")
    return pipe


def _lora_file(folder: Path) -> Path:
    config = (folder.parent if folder.is_file() else folder) / "config.json"
    if config.is_file() and "defense" in read_config(config):
        raise BadFile("a LoRA of another program", f"{folder}, a defense", "load it with Defense.from_pretrained")
    if folder.is_file():
        return folder
    found = [folder / name for name in LORA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise BadFile("one LoRA in a folder", f"{folder} with {some(p.name for p in found)}", "name the file")
    if not found:
        raise BadFile(f"a folder with {' or '.join(LORA_FILES[:2])}", str(folder), "check the path")
    return found[0]
