"""A defense as a folder: config.json, README.md, model.safetensors. Nothing is pickled.

The folder is written beside its place and moved there whole; config.json lists the checksum of the
weights, so a folder that was cut off is refused, never half-loaded.

A stack of defenses is a folder too: one such folder for each, and stack.json with their order and the checksum of
each one's config.json. A defense that was exchanged, or is not there, is refused: what was proved is what is attached.

    runs/weapon/stack.json  README.md  1-duo/  2-saferedir/

config.json says its class as module:Class too. Nothing is imported on a folder's word: the class is the registered one
of that name, if it is of the same package, or the one that is handed in (``MyGuard.from_pretrained(folder)``).
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from .. import writing
from ..errors import BadFile, UnknownName, UserError
from ..files import (
    exists,
    hub_folder,
    is_empty,
    is_file,
    load_tensors,
    parse_json,
    reading,
    save_tensors,
    sha256,
)
from ..registry import DEFENSES, HOLDERS, OURS, resolve
from ..settings import Checked
from .config import AGAIN, CONFIG, FORMAT, STACK, WEIGHTS, Config, read_saved

if TYPE_CHECKING:
    from torch import Tensor

    from ..settings import Settings
    from .config import Record

D = TypeVar("D", bound="Saved")
CARD = "README.md"
FILES = [CONFIG, WEIGHTS, CARD, STACK, f"*/{CONFIG}", f"*/{WEIGHTS}"]  # of a hub repository


@dataclass(kw_only=True, eq=False)
class Saved(Checked):
    """What is kept as a folder: fields that are its arguments, tensors, and what it was fitted for."""

    fingerprints: dict[str, str] = field(init=False, repr=False)
    """Of ``model`` and ``text`` encoder that it was fitted for; empty fits any."""
    record: Record = field(init=False, repr=False)
    """How it was fitted and what validation saw; saved, and shown on the card."""

    name: ClassVar[str]  # as registered
    summary: ClassVar[str] = ""  # one sentence for the model card
    needs_weights: ClassVar[bool] = False  # True: it is nothing without tensors, and a folder without them is refused

    def config(self) -> Settings:
        """The constructor's arguments."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    def digest(self) -> str:
        """What this defense is, as a SHA-256: its name, its configuration, its tensors' bytes."""
        import torch

        found = hashlib.sha256(json.dumps([self.name, self.config()], sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.tensors().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            plain = tensor.detach().cpu().contiguous().flatten()  # flat: a single number has no bytes to view
            found.update(plain.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
        return found.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """What is saved as safetensors; empty for a defense without weights."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what :meth:`tensors` gave."""

    def metadata(self) -> dict[str, str]:
        """What the saved tensors' header says to other programs."""
        return {}

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes a folder (config.json, README.md, model.safetensors), all of it or nothing."""
        with placed(folder) as fresh:
            self.write(fresh)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Loads from a folder or a hub id. Raises :class:`BadFile` if it is not a whole defense of this kind."""
        return load(cls, source, revision=revision)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Uploads what :meth:`save_pretrained` writes; returns the address."""
        return push(self, repo_id, private=private, token=token)

    def __new__(cls, *given: Any, **more: Any) -> Self:
        made = super().__new__(cls, *given, **more)
        made.fingerprints, made.record = {}, {}  # also of a class with an __init__ of its own
        return made

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The defense of this class that lies in ``folder``. Raises :class:`BadFile`."""
        config, path = config_of(folder), folder / CONFIG
        cls._check_config(config, path)
        tensors = {} if config.weights is None else _tensors(folder, config.weights)
        # Its code has only ever seen values that it saved itself, so whatever it raises speaks of the file.
        try:
            with reading(f"arguments and weights of {cls.__name__}", folder, AGAIN):
                defense = cls(**config.arguments)
                if tensors:
                    defense.load_tensors(tensors)
                same = parse_json(json.dumps(defense.config())) == config.arguments
        except BadFile:
            raise
        except UserError as error:  # a setting that is refused
            raise BadFile(error.expected, f"{error.got} in {path}", AGAIN) from error
        if not same:
            raise BadFile(f"arguments as {cls.__name__} saves them", f"others in {path}", AGAIN)
        if config.fingerprints:
            defense.fingerprints = {str(part): mark for part, mark in config.fingerprints.items()}
        defense.record = config.record
        return defense

    @classmethod
    def _check_config(cls, config: Config, path: Path) -> None:
        """Raises :class:`BadFile` unless this is whole: its arguments, and its weights where it has any."""
        known, given = {f.name for f in fields(cls) if f.init}, config.arguments.keys()
        for said, names in (("the unknown argument", given - known), ("no argument", known - given)):
            if names:
                raise BadFile(f"the arguments of {cls.__name__}", f"{said} {sorted(names)[0]!r} in {path}", AGAIN)
        if not all(map(math.isfinite, _numbers(config.arguments))):
            raise BadFile(f"finite arguments of {cls.__name__}", f"NaN or infinity in {path}", AGAIN)
        without = cls.needs_weights and config.weights is None
        idle = config.weights is not None and cls.load_tensors is Saved.load_tensors
        if without or idle:
            wanted = "the checksum of its weights" if without else "no weights"
            raise BadFile(f"a {cls.__name__} with {wanted}", f"weights = {config.weights!r} in {path}", AGAIN)
        if (cls.needs_weights or config.fingerprints) and config.fingerprints.keys() != {"model", "text"}:
            got = f"{', '.join(config.fingerprints) or 'none'} in {path}"
            raise BadFile("the fingerprints of the model and the text encoder that it was fitted for", got, AGAIN)

    def write(self, folder: Path) -> None:
        """Fills the new ``folder``."""
        tensors, weights = self.tensors(), None
        if tensors:
            weights = sha256(save_tensors(folder / WEIGHTS, tensors, self.metadata()))
        config = {
            "format": FORMAT,
            "defense": self.name,
            "class": place(type(self)),
            "arguments": self.config(),
            "fingerprints": dict(self.fingerprints),
            "record": dict(self.record),
            "weights": weights,
        }
        (folder / CARD).write_text(card(self), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
    if not exists(folder / STACK):
        return load_one(cls, folder)
    return _read(cls, resolve("defense", HOLDERS, "stack"), folder)


def load_one(cls: type[D], folder: Path) -> D:
    """As :func:`load`, of a folder that is no stack."""
    return _read(cls, _kind(cls, folder), folder)


def _read(cls: type[D], kind: type[Saved], folder: Path) -> D:
    if not issubclass(kind, cls):
        advice = f"load it with {kind.__name__}.from_pretrained"
        raise BadFile(f"a {cls.__name__}", f"a {kind.__name__} in {folder}", advice)
    return kind.read(folder)


def _kind(cls: type[Saved], folder: Path) -> type[Saved]:
    """The class that ``config.json`` names: ``cls`` itself, or a registered one. Nothing else is imported."""
    path, config = folder / CONFIG, config_of(folder)
    name, said = config.defense, config.cls
    if getattr(cls, "name", None) == name and (said == place(cls) or (said is None and name not in DEFENSES)):
        return cls
    said = said or f"{OURS}:{name}"
    wanted = f"a registered {name!r}"
    if name in DEFENSES or _package(said) == OURS:
        kind: type[Saved] = resolve(f"defense in {path}", DEFENSES, name)
        if config.cls is None or _package(place(kind)) == _package(said):
            return kind
        wanted = f"the {name!r} of {place(kind)}"
    own = said.partition(":")[2].rpartition(".")[2]
    do = f"install the package {_package(said)}, or load it with the class itself: {own}.from_pretrained(FOLDER)"
    raise BadFile(wanted, f"{said} in {path}", do)


def place(kind: type[Saved]) -> str:
    """Where a class is, as ``module:Class``."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _package(place: str) -> str:
    return place.partition(":")[0].partition(".")[0]


def push(defense: Saved, repo_id: str, *, private: bool, token: str | None) -> str:
    """Uploads the folder to the hub; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = defense.save_pretrained(Path(place) / "defense")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
    return str(url)


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
    return read_saved(Config, folder / CONFIG, "a defense's config")


def _tensors(folder: Path, checksum: str) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if sha256(path, "readable weights", AGAIN) != checksum:
        got = f"{path} with another checksum"
        raise BadFile("the weights that were saved", got, "copy or save the folder again")
    return load_tensors(path, "readable weights", AGAIN)[0]


def card(defense: Saved) -> str:
    fitted = "\n".join(f"- {part}: `{value}`" for part, value in defense.fingerprints.items()) or "- any model"
    record = "\n".join(f"- {key}: {value}" for key, value in defense.record.items())
    kind = type(defense)
    ours = kind.__module__.partition(".")[0] == OURS
    imported = "import unsee" if ours else f"import unsee\nfrom {kind.__module__} import {kind.__name__}"
    return f"""---
library_name: unsee
tags: [unsee, diffusers, safety, {defense.name}]
---

# {defense.name}

{defense.summary}

```python
{imported}

with unsee.protect(pipe, {"unsee." * ours}{kind.__name__}.from_pretrained("THIS_FOLDER")):
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


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
