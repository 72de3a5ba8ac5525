"""One name → one pipeline: ``picto``, ``tiny:FAMILY``, a diffusers folder, a ``.safetensors`` checkpoint, a hub id.

A pipeline comes whole and in one dtype, or not at all: a part whose weights are not all in its folder is refused, for
the libraries fill what is missing with random numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnknownName, UserError
from ..files import exists, is_dir, is_file, read_json, reading, tensor_shapes

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from ..settings import Settings

NAMES = ["picto", "tiny:sd1", "tiny:sd2-v", "tiny:sdxl", "tiny:sd3", "tiny:flux", "tiny:pixart", "tiny:sana"]
DTYPES = ("torch_dtype", "dtype", "quantization_config", "device_map")  # with one of these the dtypes are the caller's
FILE = re.compile(r"(?:diffusion_pytorch_model|model|pytorch_model)(?:-\d+-of-\d+)?(?:\.(?P<variant>[\w-]+?))?"
                  r"(?:-\d+-of-\d+)?\.(?:safetensors|bin)")  # fmt: skip
CHECKPOINTS = (  # what a single file's tensors are called, and the pipeline that they make
    ("conditioner.embedders.1.", "StableDiffusionXLPipeline"),
    ("conditioner.embedders.0.", "StableDiffusionXLImg2ImgPipeline"),
    ("joint_blocks.", "StableDiffusion3Pipeline"),
    ("double_blocks.", "FluxPipeline"),
    ("model.diffusion_model.input_blocks.", "StableDiffusionPipeline"),
)
DO = "check the folder's model_index.json, the hub id, or the network"
POSITIONS = "position_ids"  # a buffer that old files have and new classes compute, and the other way round


def load(name: str, **kwargs: Any) -> DiffusionPipeline:
    """The pipeline called ``name``; ``kwargs`` go to ``DiffusionPipeline.from_pretrained``, or ``from_single_file``.

    A name with a slash that is no file or folder is taken for a hub id. Without a ``torch_dtype`` all parts get the
    denoiser's (diffusers: float32), whatever they were saved in. A folder that has one variant only (``….fp16.…``) is
    loaded with it. Raises ``UserError`` with one line if there is no pipeline, or if weights of it are missing.
    """
    if name == "picto":
        from .. import picto

        return picto.load(**kwargs)
    if name.startswith("tiny:"):
        from ..backbones.tiny import tiny

        return tiny(name.removeprefix("tiny:"))
    path = Path(name)
    if is_file(name):
        return _one_dtype(_from_file(path, kwargs), kwargs)
    if not exists(name) and "/" not in name:
        raise UnknownName("model", name, NAMES)
    given = {**_variant(path), **kwargs} if is_dir(name) and "variant" not in kwargs else kwargs
    return _one_dtype(_whole(name, _from_folder(name, given), kwargs), kwargs)


def _from_folder(name: str, kwargs: Settings) -> DiffusionPipeline:
    from diffusers import DiffusionPipeline

    with reading("a diffusers pipeline", repr(name), DO):
        parts = dict(_text_encoders(Path(name), kwargs)) if is_dir(name) else {}
        try:
            return DiffusionPipeline.from_pretrained(name, **{**parts, **kwargs})
        except OSError as error:
            if is_dir(name) or "variant" in kwargs or "no file named" not in str(error):
                raise
            return DiffusionPipeline.from_pretrained(name, variant="fp16", **kwargs)  # a hub id with nothing else


def _text_encoders(folder: Path, kwargs: Settings) -> Iterator[tuple[str, ModelMixin]]:
    """The folder's text encoders, opened here, for only here can be asked whether all of their weights were found."""
    import transformers

    file = folder / "model_index.json"
    index = read_json(file, "a diffusers pipeline", DO, finite=False) if is_file(file) else {}
    entries = {k: v for k, v in index.items() if k.startswith("text_encoder") and isinstance(v, list)}
    for part, entry in entries.items():
        kind = getattr(transformers, str(entry[-1]), None) if entry[:1] == ["transformers"] else None
        if part in kwargs or kind is None or set(kwargs) & set(DTYPES) or not (folder / part).is_dir():
            continue
        said = {key: kwargs[key] for key in ("variant", "use_safetensors") if key in kwargs}
        if said.get("variant") and not any((folder / part).glob(f"*.{said['variant']}*")):
            del said["variant"]  # of this part there is one kind of weights
        made, info = kind.from_pretrained(folder / part, output_loading_info=True, local_files_only=True, **said)
        missing(f"{folder / part}", info)
        yield part, made


def missing(name: str, info: Settings) -> None:
    """Raises :class:`UserError` if transformers has made weights of ``name`` up (``output_loading_info``)."""
    lost = [*info.get("missing_keys", ()), *(one[0] for one in info.get("mismatched_keys", ()))]
    lost = sorted(key for key in map(str, lost) if POSITIONS not in key)
    if lost:
        got = f"{name} without {len(lost)} of its weights ({', '.join(lost[:2])}{', …' if lost[2:] else ''})"
        raise UserError("a model with all of its weights", got, "copy or download the model again")


def _whole(name: str, pipe: DiffusionPipeline, kwargs: Settings) -> DiffusionPipeline:
    """The pipeline, unless parts of it have weights that no file gave (diffusers leaves them without values)."""
    for part, module in _modules(pipe):
        lost = [key for key, p in module.named_parameters() if p.is_meta] if "device_map" not in kwargs else []
        if lost:
            missing(f"{part} of {name}", {"missing_keys": lost})
    return pipe


def _one_dtype(pipe: DiffusionPipeline, kwargs: Settings) -> DiffusionPipeline:
    """The pipeline with all of its parts in its denoiser's dtype, if the caller asked for none."""
    from ..backbones import quiet

    modules = dict(_modules(pipe))
    denoiser = next((modules[name] for name in ("unet", "transformer") if name in modules), None)
    if denoiser is None or set(kwargs) & set(DTYPES):
        return pipe
    with quiet():
        for module in modules.values():
            if module.dtype != denoiser.dtype and getattr(module, "hf_quantizer", None) is None:
                module.to(denoiser.dtype)
    return pipe


def _modules(pipe: DiffusionPipeline) -> Iterator[tuple[str, ModelMixin]]:
    import torch

    return ((name, part) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module))


def _variant(folder: Path) -> dict[str, str]:
    """The variant to ask for: the only one of a folder in which some part has no plain weights."""
    parts: dict[Path, set[str]] = {}
    for file in folder.glob("*/*"):
        if found := FILE.fullmatch(file.name):
            parts.setdefault(file.parent, set()).add(found["variant"] or "")
    asked = [variants for variants in parts.values() if "" not in variants]
    common = set.intersection(*asked) if asked else set[str]()
    if len(common) > 1:
        do = "pass variant=…, or keep one kind of weights in the folder"
        raise UserError("one kind of weights", f"{folder} with {', '.join(sorted(common))}", do)
    return {"variant": common.pop()} if common else {}


def _from_file(path: Path, kwargs: Settings) -> DiffusionPipeline:
    """A whole checkpoint in one file. diffusers needs the model's configuration, from the hub, its cache or config=."""
    import diffusers

    if path.suffix.lower() != ".safetensors":
        do = "give a diffusers folder, or a checkpoint as .safetensors: nothing is unpickled"
        raise UserError("a diffusers pipeline", f"the file {path}", do)
    keys = list(tensor_shapes(path, "a checkpoint in safetensors", "copy the file again"))
    if any("lora_" in key for key in keys):
        do = "load the model, and the file with unsee.unlearn.importers.import_duo"
        raise UserError("a whole model", f"{path}, a LoRA", do)
    kind = next((kind for part, kind in CHECKPOINTS if any(part in key for key in keys)), None)
    if kind is None:
        got = f"{path} with {', '.join(keys[:2])}, …"
        raise UserError("a checkpoint of Stable Diffusion or FLUX", got, "give a diffusers folder")
    do = f"convert it once where there is a network: diffusers.{kind}.from_single_file(…).save_pretrained(FOLDER)"
    with reading(f"a checkpoint that {kind} opens", path, do):  # for a part that is not in the file it asks the hub
        return getattr(diffusers, kind).from_single_file(str(path), **kwargs)
