"""Attacked prompts as files: JSON with a line to read, and a .safetensors beside it where prompts name embeddings.

What an attack found against one defense is replayed against any other (transfer) with the attack ``replay``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ..concepts import refuse_minors
from ..errors import BadFile, Mismatch
from ..files import TABLE, is_dir, load_tensors, read_json, save_tensors, typed
from ..types import AttackedPrompt, Prompt, Spent
from ..types import total_spent as total
from ..writing import whole

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

VERSION = 1
WHAT, DO = "the prompts of an attack", "give the folder or the .json that unsee attack wrote"


class Line(BaseModel):
    """One prompt as it is kept. ``words`` is the hash of its embeddings, empty for none."""

    model_config = ConfigDict(extra="forbid")
    prompt: Prompt
    source: str
    attack: str
    before: float | None
    after: float | None
    spent: Spent
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # older files do not say
    words: str = Field(pattern=r"^([0-9a-f]{16})?$")


class Told(BaseModel):
    """The file; what stands in it for readers is of any kind, but for what reports read."""

    model_config = ConfigDict(extra="allow")
    version: int = Field(ge=VERSION, le=VERSION)
    prompts: list[Line] = Field(min_length=1)
    spent: Spent
    most: Spent | None = None
    sees: str | None = None


def save(found: Sequence[AttackedPrompt], file: str | Path, **about: Any) -> Path:
    """Writes ``file`` (.json), and beside it the embeddings that the prompts name; whole, or not at all.

    ``about`` is written on top, for readers: settings, defense, model.
    """
    file = Path(file)
    kept: dict[str, Tensor] = {}
    lines = []
    for one in found:
        name = digest(one.words)
        kept |= {f"{name}.{i}": rows for i, rows in enumerate(one.words)}
        line = {"prompt": asdict(one.prompt), "source": one.source, "attack": one.attack, "before": one.before}
        lines.append(line | {"after": one.after, "spent": asdict(one.spent), "seconds": one.seconds, "words": name})
    if kept:
        save_tensors(file.with_suffix(".safetensors"), kept)
    text = json.dumps({"version": VERSION, **about, "spent": total(found), "prompts": lines}, indent=1)
    with whole(file) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")
    return file


def load(file: str | Path) -> list[AttackedPrompt]:
    """What :func:`save` wrote; ``file`` may be its folder.

    Raises :class:`BadFile`, and :class:`UserError` for prompts that sexualize minors.
    """
    file = Path(file)
    file = file / "prompts.json" if is_dir(file) else file
    lines = read(file).prompts
    beside = file.with_suffix(".safetensors")
    kept = load_tensors(beside, "the embeddings that prompts name", DO)[0] if any(line.words for line in lines) else {}
    found = [_one(line, kept, beside) for line in lines]
    refuse_minors(text for one in found for text in (one.prompt.text, one.source))
    return found


def read(file: Path) -> Told:
    """The file itself, every value of its type. Raises :class:`BadFile`."""
    return typed(Told, read_json(file, WHAT, DO, most=TABLE, finite=False), file, WHAT, DO)


def digest(words: Sequence[Tensor]) -> str:
    """The name of some embeddings; empty for none."""
    if not words:
        return ""
    found = hashlib.sha256()
    for rows in words:
        found.update(str(tuple(rows.shape)).encode() + rows.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def saying(pipe: DiffusionPipeline, words: tuple[Tensor, ...]) -> Iterator[None]:
    """Until the end, prompts of ``pipe`` that name learned embeddings mean ``words``; nothing for none.

    Raises :class:`Mismatch` for embeddings of other text encoders.
    """
    if not words:
        yield
        return
    from ..backbones import adapter
    from . import input_table, pairs, vocabulary

    wanted = [input_table(e).shape[1] for e, _ in pairs(adapter(pipe))]
    got = [rows.shape[-1] for rows in words]
    if got != wanted:
        raise Mismatch(f"text encoders of width {got}", f"{wanted}", "draw with the model that was attacked")
    with vocabulary(pipe, words):
        yield


def _one(line: Line, kept: dict[str, Tensor], beside: Path) -> AttackedPrompt:
    names = [f"{line.words}.{i}" for i in range(len(kept))] if line.words else []
    words = tuple(kept[name] for name in names if name in kept)
    if digest(words) != line.words:
        raise BadFile(f"the embeddings {line.words}", f"others in {beside}", DO)
    return AttackedPrompt(line.prompt, line.source, line.attack, line.before, line.after, line.spent, words,
                          line.seconds)  # fmt: skip
