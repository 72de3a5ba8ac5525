"""``unsee attack``: one attack on one stack of defenses, drawn and judged as a suite of two rows would be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import concepts
from ..bench import models
from ..bench.attacks import Target
from ..bench.plan import Suite
from ..errors import UnknownName
from ..registry import ATTACKS
from ..settings import parse

if TYPE_CHECKING:
    from ..guards.base import Progress


def suite(method: str, model: str, defenses: list[str], concept: str, asked: dict[str, Any], settings: list[str],
          seed: int, judge: str | None, steps: int, guidance: float) -> Suite:  # fmt: skip
    """The suite that the command runs: the stack and the bare model, with the attack and without it."""
    if method not in ATTACKS:
        raise UnknownName("attack", method, ATTACKS)
    stack = [d for d in defenses if d != "none"]
    return Suite.parse({
        "name": f"attack-{method}",
        "model": model,
        "concepts": [concept],
        "defenses": [stack] if stack else [],
        "attacks": [{"name": method, "method": method, **parse(settings)}],
        "prompts": [asked],
        "judge": judge or concepts.load(concept).judge,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
    })  # fmt: skip


def guidance_of(model: str, given: float | None) -> float:
    """What is given, else picto's own, else the 7.5 of a suite."""
    return models.GUIDANCE.get(model, 7.5) if given is None else given


def only_find(made: Suite, out: Path, device: str, progress: Progress) -> list[dict[str, Any]]:
    """Runs the attack and draws nothing: a line for each prompt, the way it was and the way it is."""
    pipe = models.open_model(made.model, device)
    concept, strike, stack = concepts.load(made.concepts[0]), made.strikes[1], made.stacks[-1]
    strike.check()
    guards = stack.fit(concept, out / "defenses", lambda: pipe, progress)
    prompts = concept.prompts(made.prompts[0].kind, made.prompts[0].split, made.prompts[0].n, made.seed)
    target = Target(pipe, tuple(guards), stack.name, concept)
    found = strike.run(target, prompts, made, out / "attacks", progress)
    return [{"source": f.source, "prompt": f.prompt.text, "seed": f.prompt.seed, "before": f.before, "after": f.after}
            for f in found]  # fmt: skip
