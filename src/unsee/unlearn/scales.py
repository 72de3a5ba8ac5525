"""How strong a LoRA is: what its own program multiplies B A by, layer by layer.

    Scales.of(path, metadata, "unet").scale("mid_block.attentions.0.proj_in", rank=4, alpha=None)

alpha / rank, or alpha / √rank with ``use_rslora``; alpha from the layer's own ``.alpha`` tensor (kohya), from the
settings that diffusers keeps in the file's metadata and PEFT beside it (``alpha_pattern`` before ``lora_alpha``), else
the rank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import BadFile
from ..files import parse_json, read_json, reading

if TYPE_CHECKING:
    from ..settings import Settings

METADATA = "lora_adapter_metadata"
SAME_BASE = (True, False, None, "gaussian", "eva", "orthogonal")  # ways to start a LoRA that leave the base as it is
OTHER_METHODS = ("use_qalora", "layer_replication", "target_parameters", "alora_invocation_tokens", "use_bdlora",
                 "kasa_config", "monteclora_config", "velora_config", "trainable_token_indices",
                 "arrow_config")  # fmt: skip


@dataclass(frozen=True)
class Scales:
    """What a LoRA's own program multiplies B A by."""

    settings: Settings
    source: str
    kohya: dict[str, str] = field(default_factory=dict)  # its metadata

    @classmethod
    def of(cls, path: Path, metadata: dict[str, str], denoiser: str) -> Scales:
        """The settings in the file's metadata, else in the folder's adapter_config.json. Raises :class:`BadFile`."""
        config = path.parent / "adapter_config.json"
        if METADATA in metadata:
            settings, source = read_object(metadata[METADATA], f"{METADATA} of {path}"), f"{METADATA} of {path}"
            own = {k.removeprefix(f"{denoiser}."): v for k, v in settings.items() if k.startswith(f"{denoiser}.")}
            settings = own or ({} if any("." in key for key in settings) else settings)
        elif config.is_file():
            settings, source = read_config(config), str(config)
        else:
            settings, source = {}, str(path)
        _known_settings(settings, source)
        return cls(settings, source, {k: v for k, v in metadata.items() if k.startswith("ss_network_")})

    def scale(self, name: str, rank: int, alpha: Tensor | None) -> float:
        """Of one layer; by its own alpha, by the settings, or 1. Raises :class:`BadFile` if they do not agree."""
        said = self._by_settings(name, rank) if self.settings else None
        if alpha is None:
            self._no_lost_alpha(rank)
            return 1.0 if said is None else said
        if alpha.numel() != 1 or not bool(torch.isfinite(alpha).all()):
            raise BadFile(f"one finite alpha for {name}", f"{alpha.numel()} numbers, or none finite", "save it again")
        own = float(alpha.double()) / rank
        if said is not None and abs(own - said) > 1e-4 * max(abs(own), abs(said)):
            got = f"{own:g} by its alpha and {said:g} by {self.source} for {name}"
            raise BadFile("one strength for a layer", got, "take out the one that is not meant")
        return own

    def _by_settings(self, name: str, rank: int) -> float:
        r = _number(self._of(name, "rank_pattern", "r", rank), "r", self.source)
        if r != rank:
            raise BadFile(f"rank {r:g} for {name}, as in {self.source}", f"rank {rank}", "copy or save it again")
        alpha = _number(self._of(name, "alpha_pattern", "lora_alpha", 8), "lora_alpha", self.source)  # PEFT's default
        return alpha / (rank**0.5 if self.settings.get("use_rslora") else rank)

    def _of(self, name: str, patterns: str, general: str, otherwise: float) -> object:
        """PEFT's rule: the first pattern that matches the name's end, else what holds for all."""
        given = self.settings.get(patterns) or {}
        try:
            key = next((key for key in given if re.match(rf"(.*\.)?({key})$", name)), None)
        except (re.error, TypeError) as error:
            raise BadFile(f"{patterns} of module names", f"{self.source} ({error})", "save it again") from None
        return self.settings.get(general, otherwise) if key is None else given[key]

    def _no_lost_alpha(self, rank: int) -> None:
        """kohya writes alpha as tensors; where only its metadata has it, it may hold for some layers and not others."""
        alpha, dim = self.kohya.get("ss_network_alpha"), self.kohya.get("ss_network_dim")
        if alpha not in (None, "None", dim, str(rank), f"{rank}.0"):
            got = f"ss_network_alpha {alpha} in the metadata alone"
            raise BadFile("alpha tensors beside kohya's layers", got, "save it again with its alpha tensors")


def _known_settings(settings: Settings, source: str) -> None:
    """Refuses settings under which W + scale · B A is not what the LoRA does."""
    if str(settings.get("peft_type", "LORA")).removeprefix("PeftType.") != "LORA":
        raise BadFile("a LoRA", f"{settings['peft_type']} in {source}", "merge it, and use import_esd")
    start = settings.get("init_lora_weights", True)
    if start not in SAME_BASE:
        got = f"init_lora_weights {start!r} in {source}"
        do = "convert it to a plain LoRA when you save it (PEFT: path_initial_model_for_weight_conversion)"
        raise BadFile("a LoRA beside unchanged weights", got, do)
    used = [name for name in OTHER_METHODS if settings.get(name)]
    if used:
        raise BadFile("a plain LoRA or DoRA", f"{used[0]} in {source}", "merge it, and use import_esd")


def _number(value: object, name: str, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise BadFile(f"a number for {name}", f"{str(value)[:40]!r} in {source}", "save it again")
    return float(value)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file with one object. Raises :class:`BadFile`."""
    return _object(read_json(path, "settings", "save it again"), str(path))


def read_object(text: str, source: str) -> dict[str, Any]:
    """JSON of one object, which ``source`` has. Raises :class:`BadFile`."""
    with reading("settings as JSON", source, "save it again"):
        found = parse_json(text)
    return _object(found, source)


def _object(found: object, source: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise BadFile("settings as an object", f"{source} with one {type(found).__name__}", "save it again")
    return found
