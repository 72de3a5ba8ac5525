"""``unsee selftest``: every defense, fitted and attached, on tiny random pipelines of every family; attacks on one.

No download, under a minute.

for row in run(): print(row["name"], row["ok"], row["detail"])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

from .registry import ATTACKS, DEFENSES, resolve

FAMILIES = ("sd1", "sd2-v", "sdxl", "sd3", "flux")
Row = dict[str, Any]


def run(progress: Callable[[Row], None] | None = None) -> list[Row]:
    """Tests all; one row per guard and family: ``{"name", "ok", "seconds", "detail"}``.

    ``progress`` is called with each row as it is made. Nothing is raised: a failure is a row.
    """
    rows = []
    for row in _rows():
        rows.append(row)
        if progress is not None:
            progress(row)
    return rows


def _rows() -> Iterator[Row]:
    for family in FAMILIES:
        start = time.perf_counter()
        try:
            pipe, plain = _start(family)
        except Exception as error:
            yield _row(family, start, f"{type(error).__name__}: {error}")
            continue
        yield _row(family, start, "")
        for name in DEFENSES:
            yield _try(name, family, pipe, plain)
        for name in ATTACKS if family == FAMILIES[0] else ():
            if name != "replay":  # it searches for nothing
                yield _strike(name, family, pipe)


def _start(family: str) -> tuple[Any, Any]:
    from .backbones.tiny import tiny

    pipe = tiny(family)
    return pipe, _draw(pipe)


def _try(name: str, family: str, pipe: Any, plain: Any) -> Row:
    start = time.perf_counter()
    try:
        fault = _fault(resolve("defense", DEFENSES, name), pipe, plain)
    except Exception as error:  # a self-test reports whatever happens
        fault = f"{type(error).__name__}: {error}"
    return _row(f"{name} on {family}", start, fault)


def _strike(name: str, family: str, pipe: Any) -> Row:
    start = time.perf_counter()
    try:
        fault = _no_attack(resolve("attack", ATTACKS, name), pipe)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return _row(f"{name} on {family}", start, fault)


def _no_attack(kind: Any, pipe: Any) -> str:
    """What is wrong with an attack, behind a guard; empty if nothing is."""
    from . import concepts
    from .guards import protect
    from .guards.sld import SLD

    concept = concepts.load("tobacco")
    prompts = concept.prompts("plain", "held-out", 2)
    with protect(pipe, SLD(text="tobacco")):
        found = kind(**kind.quick)(pipe, concept, prompts)
    if [f.prompt.id for f in found] != [p.id for p in prompts] or not all(f.prompt.text for f in found):
        return "it did not find a prompt for each"
    worse = [f for f in found if f.before is not None and f.after is not None and f.after > f.before + 1e-6]
    return "its objective rose" if worse else ""


def _row(name: str, start: float, fault: str) -> Row:
    return {"name": name, "ok": not fault, "seconds": round(time.perf_counter() - start, 2), "detail": fault}


def _fault(kind: Any, pipe: Any, plain: Any) -> str:
    """What is wrong, in words; empty if nothing is."""
    import torch

    from . import concepts
    from .guards import Guard, protect

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


def _draw(pipe: Any) -> Any:
    """One image, ``(1, 3, 32, 32)`` in [0, 1], two steps, always from the same noise."""
    import torch

    from .backbones import adapter

    settings = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
    cfg = {adapter(pipe).guidance_argument: 4.0, "negative_prompt": ""}
    return pipe("a dagger", **settings, **cfg).images
