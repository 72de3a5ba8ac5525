"""``unsee generate``: draw first, write afterwards, so that a failure leaves nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .. import concepts
from ..bench.generate import draw
from ..errors import BadFile, UserError
from ..files import exists, is_dir
from ..pictures import save_png
from ..sampling import machine as models
from ..settings import Seed, sound
from ..suites.stacks import StackSpec
from ..types import Prompt, Sample
from ..writing import check_place, whole

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..defenses.base import Defense
    from .settings import Line


def generate(
    prompts: list[str],
    model: str,
    defenses: list[str],
    concept: str | None,
    out: Path,
    seed: int,
    steps: int,
    guidance: float | None,
    device: str,
) -> list[Line]:
    """Draw ``prompts`` under the stack and write one PNG each; returns a table per image."""
    concepts.refuse_minors(prompts)
    wanted = [Prompt(text, str(i), seed + i) for i, text in enumerate(prompts)]
    for one in wanted:
        sound(Seed, "seed", one.seed, "unsee generate")
    paths = _paths(out, wanted)
    stack = StackSpec.parse(defenses) if [d for d in defenses if d != "none"] else StackSpec()
    guards = _guards(stack, concepts.load(concept) if concept else None)
    pipe = models.open_model(model, device)
    needed = any(getattr(guard, "needs_cfg", False) for guard in guards)
    scale = models.default_guidance(model, pipe, needed=needed) if guidance is None else guidance
    samples = [draw(pipe, [p], guards, steps=steps, guidance=scale, defense=stack.name)[0] for p in wanted]
    for path, sample in zip(paths, samples, strict=True):
        _write(path, sample)
    return [_line(path, sample) for path, sample in zip(paths, samples, strict=True)]


def _guards(stack: StackSpec, concept: Concept | None) -> list[Defense]:
    loose = [part.name for part in stack.parts if part.method or "{concept}" in part.folder]
    if loose and concept is None:
        raise UserError(f"--concept with --defense {loose[0]}", "no concept", "add --concept NAME, for example weapon")
    return stack.fit(concept, keep=None)


def _paths(out: Path, prompts: list[Prompt]) -> list[Path]:
    if out.suffix.lower() == ".png":
        if len(prompts) > 1:
            raise UserError("a folder as --out for several prompts", str(out), "leave out the .png")
        if out.is_dir():
            raise BadFile("a .png file or a folder as --out", f"{out}, a folder called so", "choose another")
        check_place(out.parent)
        return [out]
    if exists(out) and not is_dir(out):
        raise BadFile("a .png file or a folder as --out", f"the file {out}", "choose another")
    check_place(out)
    return [out / f"{p.seed:04d}-{_slug(p.text)}.png" for p in prompts]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "image"


def _write(path: Path, sample: Sample) -> None:
    with whole(path) as fresh:
        save_png(sample.image, fresh)


def _line(path: Path, sample: Sample) -> Line:
    return {
        "path": str(path),
        "prompt": sample.prompt.text,
        "seed": sample.prompt.seed,
        "defense": sample.defense,
        "settings": sample.settings,
        "seconds": sample.seconds,
        "fault": sample.fault,
        "decisions": list(sample.decisions),
    }
