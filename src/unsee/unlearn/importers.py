"""Weight edits that others have made, as ours: ESD's UNet states and DUO's LoRA folders. Nothing is unpickled.

    esd = import_esd("esd-nudity.safetensors", pipe)      # a whole or partial UNet state: the exact difference is kept
    duo = import_duo("duo-checkpoint-500/", pipe)         # pytorch_lora_weights.safetensors, or PEFT's own folder

The pipeline must be the model that they were made from; the edit is bound to it.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones import adapter
from ..backbones.weights import unwrap
from ..errors import BadFile, Mismatch
from .base import A, B
from .duo import Duo
from .esd import ESD

LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "model.safetensors")
HEADS = ("base_model.model.", "unet.", "transformer.", "model.diffusion_model.")
DOWN_UP = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))
OLD_NAMES = {"_lora.": ".lora.", ".processor": "", "to_out.lora": "to_out.0.lora"}


def import_esd(path: str | Path, pipe: Any) -> ESD:
    """An ESD state of weights (``.pt``, ``.safetensors``) as exact deltas from ``pipe``'s own.

    Raises :class:`BadFile` for what is no state of tensors, :class:`Mismatch` where it fits no layer of ``pipe`` or
    has another shape.
    """
    backbone = adapter(pipe)
    own = {n.replace(".base_layer", ""): p for n, p in unwrap(backbone.denoiser).named_parameters()}
    deltas = {}
    for key, value in _state(Path(path)).items():
        name = _headless(key)
        if name not in own:
            raise Mismatch("weights of this model", f"{key} in {path}", "use the model it was made from")
        if own[name].shape != value.shape:
            got = str(tuple(value.shape))
            raise Mismatch(f"{name} of {tuple(own[name].shape)}", got, "use the model it was made from")
        delta = value.float() - own[name].detach().float().cpu()
        if bool(delta.any()):
            deltas[f"{backbone.denoiser_name}.{name}_delta"] = delta
    if not deltas:
        raise BadFile("weights that differ from this model's", f"the same ones in {path}", "use the edited state")
    made = ESD().fitted_for(backbone)
    made.load_tensors(deltas)
    made.record = {"imported": Path(path).name, "layers": len(deltas)}  # type: ignore[misc]
    return made


def import_duo(folder: str | Path, pipe: Any) -> Duo:
    """A LoRA in the keys of diffusers or PEFT as our edit; alpha, where it differs from the rank, is folded in."""
    path, backbone = _lora_file(Path(folder)), adapter(pipe)
    state = {_modern(key): value for key, value in _state(path).items()}
    weights: dict[str, Tensor] = {}
    for key, a in state.items():
        pair = next((pair for pair in DOWN_UP if key.endswith(pair[0])), None)
        if pair is None:
            continue
        stem = key.removesuffix(pair[0])
        if stem + pair[1] not in state:
            raise BadFile("low-rank pairs", f"{key} alone in {path}", "copy the file again")
        name = f"{backbone.denoiser_name}.{_headless(stem)}"
        scale = _alpha(path, state, stem, len(a)) / len(a)
        weights |= {name + A: a.float(), name + B: scale * state[stem + pair[1]].float()}
    if not weights:
        raise BadFile("a LoRA with the keys of diffusers or PEFT", str(path), "export it with save_lora_weights")
    made = Duo().fitted_for(backbone)
    made.load_tensors(weights)
    made.found(backbone)  # a LoRA of another model is refused here, not when it is attached
    made.record = {"imported": path.name, "layers": len(made.targets)}  # type: ignore[misc]
    return made


def _state(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadFile("a file of weights", f"{path} ({why})", "save it as safetensors") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BadFile("a state of named tensors", f"{path} with other things", "save the denoiser's state_dict()")
    return state


def _lora_file(folder: Path) -> Path:
    if folder.is_file():
        return folder
    found = [folder / name for name in LORA_FILES if (folder / name).is_file()]
    if not found:
        raise BadFile(f"a folder with {' or '.join(LORA_FILES[:2])}", str(folder), "check the path")
    return found[0]


def _alpha(path: Path, state: dict[str, Tensor], stem: str, rank: int) -> float:
    if stem + ".alpha" in state:
        return float(state[stem + ".alpha"])
    config = path.parent / "adapter_config.json"  # PEFT's
    if not config.is_file():
        return float(rank)
    return float(json.loads(config.read_text(encoding="utf-8")).get("lora_alpha", rank))


def _headless(key: str) -> str:
    for head in HEADS:
        key = key.removeprefix(head)
    return key


def _modern(key: str) -> str:
    """Keys of diffusers before 0.22: ``attn1.processor.to_q_lora.down.weight``."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key
