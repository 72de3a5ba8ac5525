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
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import writing
from ..errors import BadFile, UnknownName, UserError
from ..files import (
    exists,
    hub_folder,
    inside,
    is_empty,
    is_file,
    load_tensors,
    parse_json,
    read_json,
    reading,
    save_tensors,
    sha256,
    typed,
)
from ..registry import DEFENSES, resolve
from .saved import AGAIN, Config, Listed

if TYPE_CHECKING:
    from .base import Defense
    from .stack import Stack

D = TypeVar("D", bound="Defense")
CONFIG, WEIGHTS, CARD, STACK, FORMAT = "config.json", "model.safetensors", "README.md", "stack.json", 1
SAVED = ("a folder saved by save_pretrained", AGAIN)
FILES = [CONFIG, WEIGHTS, CARD, STACK, f"*/{CONFIG}", f"*/{WEIGHTS}"]  # of a hub repository


def save(defense: Defense, folder: str | Path) -> Path:
    """Writes ``defense`` as ``folder``, replacing a defense that lies there. Returns the folder."""
    with placed(folder) as fresh:
        write(defense, fresh)
    return Path(folder)


@contextmanager
def placed(folder: str | Path) -> Iterator[Path]:
    """A new folder to fill, moved to ``folder`` if the block ends well; only a saved defense is ever replaced."""
    free(Path(folder))
    with writing.placed(Path(folder)) as fresh:
        yield fresh


def free(folder: Path) -> None:
    """Raises :class:`BadFile` unless ``folder`` is new, empty, or a saved defense, and can be written."""
    if folder.is_symlink() and not folder.exists():
        raise BadFile("an empty or new folder", f"{folder}, a link to nothing", "choose another folder")
    saved = is_file(folder / CONFIG) or is_file(folder / STACK)
    if not saved and not is_empty(folder):
        raise BadFile("an empty or new folder", f"{folder} with other files in it", "choose another folder")
    writing.check_place(folder.parent)


def load(cls: type[D], source: str | Path, *, revision: str | None = None) -> D:
    """The defense in ``source``, a folder or a hub id. It must be a ``cls``."""
    folder = _folder(source, revision)
    return _load_stack(cls, folder) if exists(folder / STACK) else _load_one(cls, folder)


def _load_one(cls: type[D], folder: Path) -> D:
    config, path = config_of(folder), folder / CONFIG
    kind = resolve(f"defense in {path}", DEFENSES, config.defense)
    if not issubclass(kind, cls):
        advice = f"load it with {kind.__name__}.from_pretrained"
        raise BadFile(f"a {cls.__name__}", f"a {kind.__name__} in {folder}", advice)
    config.check(kind, path)
    tensors = {} if config.weights is None else _tensors(folder, config.weights)
    # Its code has only ever seen values that it saved itself, so whatever it raises speaks of the file.
    try:
        with reading(f"arguments and weights of {kind.__name__}", folder, AGAIN):
            defense = kind(**config.arguments)
            if tensors:
                defense.load_tensors(tensors)
            same = parse_json(json.dumps(defense.config())) == config.arguments
    except BadFile:
        raise
    except UserError as error:  # a setting that is refused
        raise BadFile(error.expected, f"{error.got} in {path}", AGAIN) from error
    if not same:
        raise BadFile(f"arguments as {kind.__name__} saves them", f"others in {path}", AGAIN)
    if config.fingerprints:
        defense.fingerprints = dict(config.fingerprints)
    defense.record = config.record
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
    listed = typed(Listed, read_json(path, *SAVED, finite=False), path, f"a stack of format {FORMAT}", AGAIN)
    members = []
    for line in listed.defenses:
        config = inside(folder, line.folder) / CONFIG
        if not is_file(config) or sha256(config) != line.config:
            got = f"{config} with another checksum" if is_file(config) else f"no {config}"
            raise BadFile("the defenses that were saved", got, "copy or save the stack again")
        member = _load_one(Defense, folder / line.folder)
        if member.name != line.defense:
            raise BadFile(f"{line.defense}, as {path} says", f"{member.name} in {config}", AGAIN)
        members.append(member)
    stack = Stack(defenses=tuple(members))
    stack.record = listed.record  # type: ignore[misc]
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


def _folder(source: str | Path, revision: str | None) -> Path:
    writing.recover(Path(source))
    if exists(source):
        return Path(source)
    if str(source).startswith("picto/"):
        return shipped(str(source))
    what = "a defense's folder or hub id"
    return hub_folder(str(source), what, "check the path, the id and the network", revision=revision, files=FILES)


def shipped(name: str) -> Path:
    """The folder of ``picto/NAME``, a defense that ships with the package. Raises :class:`UnknownName`."""
    from ..picto import DEFENSES as SHIPPED

    known = {f"picto/{folder.name}": folder for folder in SHIPPED.iterdir() if folder.is_dir()}
    if name not in known:
        raise UnknownName("defense that ships with picto", name, known)
    return known[name]


def config_of(folder: Path) -> Config:
    """config.json of one saved defense, every value of its type. Raises :class:`BadFile`."""
    path = folder / CONFIG
    return typed(Config, read_json(path, *SAVED, finite=False), path, f"a defense's config of format {FORMAT}", AGAIN)


def _tensors(folder: Path, checksum: str) -> dict[str, Any]:
    path = folder / WEIGHTS
    if sha256(path, "readable weights", AGAIN) != checksum:
        got = f"{path} with another checksum"
        raise BadFile("the weights that were saved", got, "copy or save the folder again")
    return load_tensors(path, "readable weights", AGAIN)[0]


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
