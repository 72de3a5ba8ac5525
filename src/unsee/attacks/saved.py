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

from ..errors import BadFile, Mismatch
from ..files import load_tensors, save_tensors
from ..types import Prompt
from ..writing import whole
from .base import AttackedPrompt, Spent, total

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1


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
    """What :func:`save` wrote; ``file`` may be its folder. Raises :class:`BadFile`."""
    file = Path(file)
    file = file / "prompts.json" if file.is_dir() else file
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        named = any(line["words"] for line in data["prompts"])
        kept = load_tensors(file.with_suffix(".safetensors"))[0] if named else {}
        return [_one(line, kept) for line in data["prompts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{file} ({str(error).splitlines()[0]})"
        raise BadFile("the prompts of an attack", why, "give the folder or the .json that unsee attack wrote") from None


def digest(words: Sequence[Tensor]) -> str:
    """The name of some embeddings; empty for none."""
    if not words:
        return ""
    found = hashlib.sha256()
    for rows in words:
        found.update(str(tuple(rows.shape)).encode() + rows.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def saying(pipe: Any, words: tuple[Tensor, ...]) -> Iterator[None]:
    """Until the end, prompts of ``pipe`` that name learned embeddings mean ``words``; nothing for none.

    Raises :class:`Mismatch` for embeddings of other text encoders.
    """
    if not words:
        yield
        return
    from ..backbones import adapter
    from ..unlearn.inversion import pairs, vocabulary

    wanted = [int(e.get_input_embeddings().weight.shape[1]) for e, _ in pairs(adapter(pipe))]  # type: ignore[operator]
    got = [rows.shape[-1] for rows in words]
    if got != wanted:
        raise Mismatch(f"text encoders of width {got}", f"{wanted}", "draw with the model that was attacked")
    with vocabulary(pipe, words):
        yield


def _one(line: dict[str, Any], kept: dict[str, Any]) -> AttackedPrompt:
    name = line["words"]
    words = tuple(kept[f"{name}.{i}"] for i in range(sum(key.startswith(name) for key in kept))) if name else ()
    spent, prompt = Spent(**line["spent"]), Prompt(**line["prompt"])
    seconds = line.get("seconds")  # older files do not say
    return AttackedPrompt(prompt, line["source"], line["attack"], line["before"], line["after"], spent, words, seconds)
