"""The names under which other programs keep a denoiser's weights, and what else their files hold.

    names = Names(adapter(pipe))
    names.parameter("module.model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    names.module("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q")

Known: diffusers and PEFT, kohya's underscores, ComfyUI's ``diffusion_model.``, CompVis's numbered blocks (SD 1, SD 2
and SDXL, by the UNet's own structure), and the wrappers around them (``state_dict``, ``unet``, ``module.``,
``_orig_mod.``). Of everything else :func:`kind_of` says what it is, so that a refusal can name it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..backbones.weights import base_parameters, unwrap
from ..errors import BadFile
from ..files import load_tensors, read_torch

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..backbones import Backbone

HEADS = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "state_dict.", "_orig_mod.", "module.",
         "unet.", "transformer.", "model.", "params.")  # fmt: skip
KOHYA = ("lora_unet_", "lora_transformer_", "lycoris_")
OLD_NAMES = {"_lora.": ".lora.", ".processor": "", "to_out.lora": "to_out.0.lora"}  # of diffusers before 0.22
TRAINING = ("optimizer", "optimizer_states", "optimizer_state_dict", "lr_schedulers", "lr_scheduler", "epoch", "step",
            "global_step", "iteration", "callbacks", "loops", "hyper_parameters", "hparams_name", "args", "loss",
            "pytorch-lightning_version", "rng_state")  # fmt: skip
SCHEDULE = re.compile(
    r"(betas|logvar|scale_factor|lvlb_weights|alphas_cumprod(_prev)?|(sqrt|log_one_minus|posterior)_\w+"
    r"|model_ema\.(decay|num_updates))"
)
KINDS = (
    ("the text encoder", r"(lora_te\d?_|te\d?_|text_encoder(_\d)?\.|text_model\.|cond_stage_model\.|conditioner\."
                         r"|encoder\.layers\.|encoder\.block\.|embeddings\.(token|position)_|final_layer_norm\.)"),
    ("the VAE", r"(vae\.|first_stage_model\.|quant_conv|post_quant_conv|(encoder|decoder)\.(conv_in|down|mid|up))"),
    ("an average of the weights (EMA)", r"(model_ema\.|ema\.|unet_ema\.|ema_model\.)"),
    ("the safety checker", r"safety_checker\."),
    ("embeddings of new words", r"(embed$|string_to_param\.|emb_params$|modifier_token|<)"),
    ("FLUX in the layout of Black Forest Labs", r"(lora_unet_)?(double|single)_blocks[._]"),
    ("a UNet in CompVis's layout with blocks that this one has not",
     r"(lora_unet_)?(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)[._]\d"),
    ("SD 3 in the layout of Stability AI", r"(lora_unet_)?joint_blocks[._]"),
)  # fmt: skip
METHODS = (
    ("LoHa", r"\.hada_w"), ("LoKr", r"\.lokr_w"), ("OFT", r"\.(oft_|boft_)"), ("IA3", r"\.(ia3_|on_input)"),
    ("GLoRA", r"\.(a|b)[12]\.weight$"), ("LoCon's middle tensors", r"\.lora_mid\."),
    ("DoRA in the layout of LyCORIS", r"\.dora_scale$"),
)  # fmt: skip


@dataclass
class State:
    """What a file holds: named tensors, the file's metadata, and how much of it is no weights."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)  # training state and schedules, by name


def read_state(path: Path) -> State:
    """A file of weights; dictionaries in dictionaries are taken apart. Nothing is unpickled.

    Raises :class:`BadFile` for a file that is none, and for anything in it but tensors and known training state.
    """
    nested, metadata = _open(path)
    tensors, aside = dict[str, Tensor](), dict[str, int]()
    if not isinstance(nested, dict):
        got = f"{path} with one {type(nested).__name__}"
        raise BadFile("a state of named tensors", got, "save the denoiser's state_dict()")
    for name, value in _leaves(nested):
        top = name.partition(".")[0]
        if top in TRAINING:
            aside["training state"] = aside.get("training state", 0) + 1
        elif not isinstance(value, Tensor):
            got = f"{path} with {name[:60]}, which is {type(value).__name__}"
            raise BadFile("a state of named tensors", got, "save the denoiser's state_dict()")
        elif SCHEDULE.fullmatch(name.removeprefix("state_dict.")):
            aside["noise schedule"] = aside.get("noise schedule", 0) + 1
        else:
            tensors[name] = value
    return State(tensors, metadata, aside)


def _open(path: Path) -> tuple[object, dict[str, str]]:
    what, do = "a file of weights", "save it as safetensors"
    if path.suffix.lower() == ".safetensors":
        return load_tensors(path, what, do)
    return read_torch(path, what, do), {}


def _leaves(nested: dict[object, object], head: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    for name, value in nested.items():
        if isinstance(value, dict) and depth < 8:
            yield from _leaves(value, f"{head}{name}.", depth + 1)
        else:
            yield f"{head}{name}", value


class Names:
    """A denoiser's parameters by every name that a file may give them."""

    def __init__(self, backbone: Backbone) -> None:
        denoiser = unwrap(backbone.denoiser)
        self.own: dict[str, nn.Parameter] = dict(base_parameters(denoiser))
        self.known = {name: name for name in self.own} | ldm_names(denoiser)
        layers = {name.removesuffix(".weight"): own for name, own in self.known.items() if name.endswith(".weight")}
        self.layers = {name: own.removesuffix(".weight") for name, own in layers.items()}
        self.joined = {name.replace(".", "_"): own for name, own in self.layers.items()}

    def parameter(self, key: str) -> str | None:
        """This model's name of the parameter that a file calls ``key``; None if it is none of its own."""
        return next((self.known[name] for name in _bare(key) if name in self.known), None)

    def module(self, key: str) -> str | None:
        """This model's name of the layer that a file calls ``key``; None if it is none of its own."""
        head = next((head for head in KOHYA if key.startswith(head)), None)
        if head is not None:
            return self.joined.get(key.removeprefix(head).removeprefix("unet_"))
        return next((self.layers[name] for name in _bare(key) if name in self.layers), None)


def _bare(key: str) -> Iterator[str]:
    """The key, and what is left of it as wrappers come off."""
    key = key.replace("._orig_mod.", ".").replace(".base_layer.", ".").removesuffix(".base_layer")
    while True:
        yield key
        head = next((head for head in HEADS if key.startswith(head)), None)
        if head is None:
            return
        key = key.removeprefix(head)


def ldm_names(unet: nn.Module) -> dict[str, str]:
    """CompVis's name of each parameter of a UNet → diffusers'; empty for another denoiser."""
    if not hasattr(unet, "down_blocks") or not hasattr(unet, "up_blocks"):
        return {}
    places = sorted(_ldm_places(unet), key=lambda pair: -len(pair[0]))
    found = {}
    for name, _ in base_parameters(unet):
        place = next(((own, theirs) for own, theirs in places if name.startswith(own + ".")), None)
        if place is not None:
            found[place[1] + name.removeprefix(place[0])] = name
    return found


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip


def _ldm_places(unet: UNet2DConditionModel) -> Iterator[tuple[str, str]]:
    """(diffusers' name, CompVis's) of each part: CompVis numbers the blocks through."""
    yield from ENDS.items()
    i = 1
    for b, block in enumerate(unet.down_blocks):
        for j, _ in enumerate(block.resnets):
            yield from _ldm_pair(f"down_blocks.{b}", block, j, f"input_blocks.{i}")
            i += 1
        if getattr(block, "downsamplers", None):
            yield f"down_blocks.{b}.downsamplers.0.conv", f"input_blocks.{i}.0.op"
            i += 1
    yield from _ldm_resnet("mid_block.resnets.0", "middle_block.0")
    yield from _ldm_resnet("mid_block.resnets.1", "middle_block.2")
    yield "mid_block.attentions.0", "middle_block.1"
    i = 0
    for b, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            yield from _ldm_pair(f"up_blocks.{b}", block, j, f"output_blocks.{i}")
            i += 1
        if getattr(block, "upsamplers", None):
            turn = 2 if getattr(block, "attentions", None) else 1
            yield f"up_blocks.{b}.upsamplers.0.conv", f"output_blocks.{i - 1}.{turn}.conv"


def _ldm_pair(own: str, block: nn.Module, j: int, theirs: str) -> Iterator[tuple[str, str]]:
    yield from _ldm_resnet(f"{own}.resnets.{j}", f"{theirs}.0")
    if getattr(block, "attentions", None):
        yield f"{own}.attentions.{j}", f"{theirs}.1"


def _ldm_resnet(own: str, theirs: str) -> Iterator[tuple[str, str]]:
    for part, name in RESNET.items():
        yield f"{own}.{part}", f"{theirs}.{name}"


def kind_of(key: str) -> str:
    """What a tensor that is none of the denoiser's is, as a refusal names it; empty if nobody knows."""
    method = next((name for name, pattern in METHODS if re.search(pattern, key)), "")
    return method or next((n for name in _bare(key) for n, p in KINDS if re.match(p, name)), "")


def modern(key: str) -> str:
    """Keys of diffusers before 0.22: ``attn1.processor.to_q_lora.down.weight``."""
    for old, new in OLD_NAMES.items():
        key = key.replace(old, new)
    return key


def some(keys: Iterable[str], n: int = 3) -> str:
    """The first few of ``keys``, and how many there are."""
    listed = list(keys)
    more = f" and {len(listed) - n} more" if len(listed) > n else ""
    return ", ".join(key if len(key) <= 90 else "…" + key[-89:] for key in listed[:n]) + more
