"""A defense as a folder: config.json, README.md, model.safetensors. Nothing is pickled.

The folder is written beside its place and moved there whole; config.json lists the checksum of the
weights, so a folder that was cut off is refused, never half-loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadFile
from ..files import load_tensors, save_tensors, sha256
from ..registry import DEFENSES, resolve

if TYPE_CHECKING:
    from .base import Defense

D = TypeVar("D", bound="Defense")
CONFIG, WEIGHTS, CARD, FORMAT = "config.json", "model.safetensors", "README.md", 1


def save(defense: Defense, folder: str | Path) -> Path:
    """Writes ``defense`` as ``folder``, replacing a defense that lies there. Returns the folder."""
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadFile("an empty or new folder", f"{folder} with other files in it", "choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(defense, made)
        _swap(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def load(cls: type[D], source: str | Path, *, revision: str | None = None) -> D:
    """The defense in ``source``, a folder or a hub id. It must be a ``cls``."""
    folder = _folder(source, revision)
    config = _config(folder)
    kind = resolve("defense", DEFENSES, config["defense"])
    if not issubclass(kind, cls):
        advice = f"load it with {kind.__name__}.from_pretrained"
        raise BadFile(f"a {cls.__name__}", f"a {kind.__name__} in {folder}", advice)
    try:
        defense = kind(**config["arguments"])
    except TypeError as error:
        got = f"{folder / CONFIG}: {error}"
        raise BadFile(f"arguments of {kind.__name__}", got, "save the defense again") from error
    if config["weights"] is not None:
        defense.load_tensors(_tensors(folder, config["weights"]))
    if config["fingerprints"]:
        defense.fingerprints = config["fingerprints"]
    defense.record = config.get("record", {})
    return defense


def push(defense: Defense, repo_id: str, *, private: bool, token: str | None) -> str:
    """Uploads the folder to the hub; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = save(defense, Path(place) / "defense")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    return str(url)


def digest(defense: Defense) -> str:
    """See :meth:`Defense.digest`; results are addressed with it."""
    import torch

    found = hashlib.sha256(json.dumps([defense.name, defense.config()], sort_keys=True, default=str).encode())
    for name, tensor in sorted(defense.tensors().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        plain = tensor.detach().cpu().contiguous().flatten()  # flat: a single number has no bytes to view
        found.update(plain.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return found.hexdigest()


def _write(defense: Defense, folder: Path) -> None:
    tensors, weights = defense.tensors(), None
    if tensors:
        weights = sha256(save_tensors(folder / WEIGHTS, tensors))
    config = {
        "format": FORMAT,
        "defense": defense.name,
        "arguments": defense.config(),
        "fingerprints": dict(defense.fingerprints),
        "record": dict(defense.record),
        "weights": weights,
    }
    (folder / CARD).write_text(_card(defense), encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.chmod(folder, 0o755)  # mkdtemp makes it private


def _swap(made: Path, folder: Path) -> None:
    """Moves the finished folder into place; an older one goes aside first and is removed last."""
    aside = made.with_name(made.name + ".old")
    if folder.exists():
        os.replace(folder, aside)
    os.replace(made, folder)
    shutil.rmtree(aside, ignore_errors=True)


def _folder(source: str | Path, revision: str | None) -> Path:
    path = Path(source)
    if path.exists():
        return path
    if not isinstance(source, str) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise BadFile("a defense's folder or hub id", str(source), "check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except Exception as error:  # the hub raises many kinds: offline, no such repository, no access
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "check the path, the id and the network"
        raise BadFile("a defense's folder or hub id", f"{source} ({reason})", advice) from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "defense", "arguments", "fingerprints", "weights"} - set(config)
    except (OSError, ValueError, TypeError) as error:
        raise BadFile("a folder saved by save_pretrained", f"{path}: {error}", "save the defense again") from error
    if missing or config["format"] != FORMAT:
        got = f"no {', '.join(sorted(missing))}" if missing else f"format {config['format']}"
        raise BadFile(f"a defense's config of format {FORMAT}", f"{path} with {got}", "save the defense again")
    return config


def _tensors(folder: Path, checksum: str) -> dict[str, Any]:
    from safetensors import SafetensorError

    path = folder / WEIGHTS
    try:
        if sha256(path) != checksum:
            got = f"{path} with another checksum"
            raise BadFile("the weights that were saved", got, "copy or save the folder again")
        return load_tensors(path)[0]
    except (OSError, SafetensorError) as error:
        raise BadFile("readable weights", f"{path}: {error}", "copy or save the folder again") from error


def _card(defense: Defense) -> str:
    fitted = "\n".join(f"- {part}: `{value}`" for part, value in defense.fingerprints.items()) or "- any model"
    record = "\n".join(f"- {key}: {value}" for key, value in defense.record.items())
    return f"""---
library_name: unsee
tags: [unsee, diffusers, safety, {defense.name}]
---

# {defense.name}

{defense.summary}

```python
import unsee

with unsee.protect(pipe, unsee.{type(defense).__name__}.from_pretrained("THIS_FOLDER")):
    image = pipe(prompt).images[0]
```

Made by `{defense!r}`.

Fitted for (SHA-256 of structure and signs of weights):

{fitted}
{
        f'''
How it was fitted, and what validation saw:

{record}
'''
        if record
        else ""
    }"""
