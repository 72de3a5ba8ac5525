"""``unsee fit``: train or compute a defense and save it as a folder; killed and started again, it goes on.

``unsee probe``: what grip a negative has on the model and on the host that defenses make of it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import concepts
from ..errors import BadFile, UnknownName, UserError
from ..files import is_empty, target
from ..registry import DEFENSES, resolve
from ..sampling import machine as models
from ..settings import parse
from ..suites.stacks import StackSpec
from ..writing import alone, check_place

if TYPE_CHECKING:
    from ..bench.probe import Negative
    from ..defenses.base import Progress
    from .settings import Line


def fit(method: str, model: str, names: list[str], out: str, hosts: list[str], given: list[str], seed: int,
        device: str, progress: Progress) -> list[Line]:  # fmt: skip
    """Fit ``method`` to each concept, behind the defenses ``hosts``; returns a table per folder that was written."""
    if method not in DEFENSES:
        raise UnknownName("defense method", method, DEFENSES)
    if len(names) > 1 and "{concept}" not in out:
        raise UserError(
            "{concept} in --out for several concepts", out, f"write for example --out runs/{method}-{{concept}}"
        )
    kind = resolve("defense method", DEFENSES, method)
    how = parse(given, kind.takes())
    kind.check_settings(how)
    wanted = [concepts.load(name) for name in names]
    folders = [_free(target(out.replace("{concept}", concept.name), own=True)) for concept in wanted]
    stack = StackSpec.parse(hosts) if hosts else StackSpec()
    pipe, lines = models.open_model(model, device), []
    for concept, folder in zip(wanted, folders, strict=True):
        with alone(folder):
            host = stack.fit(concept, folder.with_name(folder.name + ".hosts"), lambda: pipe, progress)
            work = folder.with_name(folder.name + ".work")
            made = kind.fit(pipe, concept, work=work, host=host, seed=seed, progress=progress, **how)
            made.save_pretrained(folder)
        lines.append({"path": str(folder), "method": method, "concept": concept.name, "record": made.record})
    return lines


def probe(concept: str, model: str, hosts: list[str], ine: str | None, n: int, seed: int,
          device: str) -> list[Line]:  # fmt: skip
    """r of the concept's words, and of a fitted INE's embedding, by t and overall (``t`` None)."""
    from ..backbones import adapter
    from ..bench.probe import grip
    from ..guards.ine import INE
    from ..guards.negative_prompt import words

    known = concepts.load(concept)
    host = (StackSpec.parse(hosts) if hosts else StackSpec()).fit(known, None)
    learned = INE.from_pretrained(ine) if ine else None
    pipe = models.open_model(model, device)
    negatives: dict[str, Negative] = {"words": words(known)}
    if learned is not None:
        negatives["embedding"] = learned.encode(adapter(pipe))
    scale = models.default_guidance(model, pipe)
    return [asdict(r) for r in grip(pipe, known, host=host, negatives=negatives, n=n, guidance=scale, seed=seed)]


def _free(folder: Path) -> Path:
    if not is_empty(folder):
        raise BadFile("a new folder as --out", f"{folder}, which is there", "remove it, or choose another --out")
    check_place(folder.parent)
    return folder
