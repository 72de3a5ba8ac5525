"""A defense as a folder: config.json, README.md, model.safetensors. Nothing is pickled.

The folder is written beside its place and moved there whole; config.json lists the checksum of the
weights, so a folder that was cut off is refused, never half-loaded.

A stack of defenses is a folder too: one such folder for each, and stack.json with their order and the checksum of
each one's config.json. A defense that was exchanged, or is not there, is refused: what was proved is what is attached.

    runs/weapon/stack.json  README.md  1-duo/  2-saferedir/
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BadFile, UnknownName
from ..files import load_tensors, save_tensors, sha256
from ..registry import DEFENSES, resolve

if TYPE_CHECKING:
    from .base import Defense
    from .stack import Stack

D = TypeVar("D", bound="Defense")
CONFIG, WEIGHTS, CARD, STACK, FORMAT = "config.json", "model.safetensors", "README.md", "stack.json", 1
FILES = [CONFIG, WEIGHTS, CARD, STACK, f"*/{CONFIG}", f"*/{WEIGHTS}"]  # of a hub repository


def save(defense: Defense, folder: str | Path) -> Path:
    """Writes ``defense`` as ``folder``, replacing a defense that lies there. Returns the folder."""
    with placed(folder) as fresh:
        write(defense, fresh)
    return Path(folder)


@contextmanager
def placed(folder: str | Path) -> Iterator[Path]:
    """A new folder to fill, moved to ``folder`` if the block ends well; only a saved defense is ever replaced."""
    folder = Path(folder)
    free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield made
        os.chmod(made, 0o755)  # mkdtemp makes it private
        _swap(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def free(folder: Path) -> None:
    """Raises :class:`BadFile` unless ``folder`` is new, empty, or a saved defense."""
    saved = (folder / CONFIG).is_file() or (folder / STACK).is_file()
    if folder.exists() and not saved and (not folder.is_dir() or any(folder.iterdir())):
        raise BadFile("an empty or new folder", f"{folder} with other files in it", "choose another folder")


def load(cls: type[D], source: str | Path, *, revision: str | None = None) -> D:
    """The defense in ``source``, a folder or a hub id. It must be a ``cls``."""
    folder = _folder(source, revision)
    return _load_stack(cls, folder) if (folder / STACK).is_file() else _load_one(cls, folder)


def _load_one(cls: type[D], folder: Path) -> D:
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


def _load_stack(cls: type[D], folder: Path) -> D:
    from .base import Defense
    from .stack import Stack

    if not issubclass(Stack, cls):
        raise BadFile(f"a {cls.__name__}", f"a stack in {folder}", "load it with Stack.from_pretrained")
    path = folder / STACK
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        lines = [(str(line["folder"]), str(line["config"])) for line in listed["defenses"]]
        known = listed["format"] == FORMAT and all(name == Path(name).name for name, _ in lines)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadFile("a folder saved by save_pretrained", f"{path}: {error}", "save the stack again") from error
    if not known:
        raise BadFile(f"a stack of format {FORMAT}", f"{path} of another kind", "save the stack again")
    members = []
    for name, checksum in lines:
        config = folder / name / CONFIG
        if not config.is_file() or sha256(config) != checksum:
            got = f"{config} with another checksum" if config.is_file() else f"no {config}"
            raise BadFile("the defenses that were saved", got, "copy or save the stack again")
        members.append(_load_one(Defense, folder / name))
    stack = Stack(defenses=tuple(members))
    stack.record = listed.get("record", {})  # type: ignore[misc]
    return stack  # type: ignore[return-value]


def write(defense: Defense, folder: Path) -> None:
    """Fills the new ``folder`` with ``defense``: a stack, or one."""
    from .stack import Stack

    _write_stack(defense, folder) if isinstance(defense, Stack) else _write(defense, folder)


def _write_stack(stack: Stack, folder: Path) -> None:
    lines = []
    for place, defense in enumerate(stack.defenses, 1):
        name = f"{place}-{defense.name}"
        (folder / name).mkdir()
        _write(defense, folder / name)
        lines.append({"folder": name, "defense": defense.name, "config": sha256(folder / name / CONFIG)})
    (folder / CARD).write_text(_card(stack), encoding="utf-8")
    listed = {"format": FORMAT, "defenses": lines, "record": dict(stack.record)}
    (folder / STACK).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _write(defense: Defense, folder: Path) -> None:
    tensors, weights = defense.tensors(), None
    if tensors:
        weights = sha256(save_tensors(folder / WEIGHTS, tensors, defense.metadata()))
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
    if isinstance(source, str) and source.startswith("picto/"):
        return shipped(source)
    if not isinstance(source, str) or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise BadFile("a defense's folder or hub id", str(source), "check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the hub raises many kinds: offline, no such repository, no access
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "check the path, the id and the network"
        raise BadFile("a defense's folder or hub id", f"{source} ({reason})", advice) from error


def shipped(name: str) -> Path:
    """The folder of ``picto/NAME``, a defense that ships with the package. Raises :class:`UnknownName`."""
    from ..picto import DEFENSES as SHIPPED

    known = {f"picto/{folder.name}": folder for folder in SHIPPED.iterdir() if folder.is_dir()}
    if name not in known:
        raise UnknownName("defense that ships with picto", name, known)
    return known[name]


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
