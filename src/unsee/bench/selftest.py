"""``unsee selftest``: every defense, fitted and attached, on tiny random pipelines of every family; attacks on one.
What installed packages add is tried as ours is.

No download, a few minutes.

for check in run(): print(check.name, check.ok, check.detail)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..errors import UnknownName
from ..registry import ATTACKS, DEFENSES, resolve

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from ..attacks import Attack
    from ..defenses import Defense


@dataclass(frozen=True)
class Check:
    """One method on one family; ``detail`` says what is wrong, and is empty where nothing is."""

    name: str
    ok: bool
    seconds: float
    detail: str


def run(progress: Callable[[Check], None] | None = None, *, names: Collection[str] = ()) -> list[Check]:
    """Tests all, or the methods and families called ``names``: one check per method and family; of a family it tries
    every method. Raises :class:`UnknownName`.

    ``progress`` is called with each as it is made. Nothing is raised: a failure is a check that is not ``ok``.
    """
    rows = []
    for row in _rows(names):
        rows.append(row)
        if progress is not None:
            progress(row)
    return rows


def _rows(names: Collection[str]) -> Iterator[Check]:
    from ..backbones.tiny import families

    known = [*families(), *DEFENSES, *ATTACKS]
    for name in names:
        if name not in known:
            raise UnknownName("method or family to test", name, known)
    for family in families():
        tried = [name for name in (*DEFENSES, *ATTACKS) if not names or family in names or name in names]
        attacked = family in ("sd1", *names)
        if not tried:
            continue
        start = time.perf_counter()
        try:
            pipe, plain = _start(family)
        except Exception as error:
            yield _row(family, start, f"{type(error).__name__}: {error}")
            continue
        yield _row(family, start, "")
        for name in tried:
            if name in DEFENSES:
                yield _try_defense(name, family, pipe, plain)
            elif attacked and name != "replay":  # it searches for nothing
                yield _try_attack(name, family, pipe)


def _start(family: str) -> tuple[DiffusionPipeline, Tensor]:
    from ..backbones.tiny import tiny

    pipe = tiny(family)
    return pipe, _draw(pipe)


def _try_defense(name: str, family: str, pipe: DiffusionPipeline, plain: Tensor) -> Check:
    start = time.perf_counter()
    try:
        fault = _defense_fault(resolve("defense", DEFENSES, name), pipe, plain)
    except Exception as error:  # a self-test reports whatever happens
        fault = f"{type(error).__name__}: {error}"
    return _row(f"{name} on {family}", start, fault)


def _try_attack(name: str, family: str, pipe: DiffusionPipeline) -> Check:
    start = time.perf_counter()
    try:
        fault = _attack_fault(resolve("attack", ATTACKS, name), pipe)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return _row(f"{name} on {family}", start, fault)


def _attack_fault(kind: type[Attack], pipe: DiffusionPipeline) -> str:
    """What is wrong with an attack, behind a guard; empty if nothing is."""
    from .. import concepts
    from ..defenses import protect
    from ..guards.sld import SLD

    concept = concepts.load("tobacco")
    prompts = concept.prompts("plain", "held-out", 2)
    with protect(pipe, SLD(text="tobacco")):
        found = kind(**kind.quick)(pipe, concept, prompts)
    if [f.prompt.id for f in found] != [p.id for p in prompts] or not all(f.prompt.text for f in found):
        return "it did not find a prompt for each"
    worse = [f for f in found if f.before is not None and f.after is not None and f.after > f.before + 1e-6]
    return "its objective rose" if worse else ""


def _row(name: str, start: float, fault: str) -> Check:
    return Check(name, not fault, round(time.perf_counter() - start, 2), fault)


def _defense_fault(kind: type[Defense], pipe: DiffusionPipeline, plain: Tensor) -> str:
    """What is wrong, in words; empty if nothing is."""
    import torch

    from .. import concepts
    from ..defenses import Guard, protect

    with TemporaryDirectory() as work:
        defense = kind.fit(pipe, concepts.load("tobacco"), work=work, **kind.quick)
    with protect(pipe, defense) as guarded:
        acted, decisions = _draw(pipe), guarded.decisions
    if not bool(torch.isfinite(acted).all()):
        return "the defended image has NaN or infinity"
    if torch.equal(acted, plain):
        return "the defense changed nothing"
    if isinstance(defense, Guard) and (len(decisions) != 1 or not decisions[0]):
        return "the guard recorded no decision"
    return "" if torch.equal(_draw(pipe), plain) else "detached, the pipeline draws another image"


def _draw(pipe: DiffusionPipeline) -> Tensor:
    """One image, ``(1, 3, 32, 32)`` in [0, 1], two steps, always from the same noise."""
    from ..sampling.sampler import generate

    return generate(pipe, ["a dagger"], [0], steps=2, guidance=4.0, negative=[""]).tensor
