"""``unsee attack``: one attack on one stack of defenses, drawn and judged as a suite of two rows would be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .. import concepts
from ..bench.attacks import Target, run_attack
from ..errors import UnknownName
from ..registry import ATTACKS
from ..sampling import machine as models
from ..settings import parse
from ..suites.suite import SuiteSpec

if TYPE_CHECKING:
    from ..defenses.base import Progress
    from .settings import Line


def suite(method: str, model: str, defenses: list[str], concept: str, asked: Line, settings: list[str],
          seed: int, judge: str | None, steps: int, guidance: float) -> SuiteSpec:  # fmt: skip
    """The suite that the command runs: the stack and the bare model, with the attack and without it."""
    if method not in ATTACKS:
        raise UnknownName("attack", method, ATTACKS)
    stack = [d for d in defenses if d != "none"]
    return SuiteSpec.parse({
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


def only_find(made: SuiteSpec, out: Path, device: str, progress: Progress) -> list[Line]:
    """Runs the attack and draws nothing: a line for each prompt, the way it was and the way it is."""
    pipe = models.open_model(made.model, device)
    concept, attack, stack = concepts.load(made.concepts[0]), made.attack_specs[1], made.stacks[-1]
    attack.check()
    guards = stack.fit(concept, out / "defenses", lambda: pipe, progress)
    prompts = concept.prompts(made.prompts[0].kind, made.prompts[0].split, made.prompts[0].n, made.seed)
    target = Target(pipe, tuple(guards), stack.name, concept)
    found = run_attack(attack, target, prompts, made, out / "attacks", progress)
    return [{"source": f.source, "prompt": f.prompt.text, "seed": f.prompt.seed, "before": f.before, "after": f.after}
            for f in found]  # fmt: skip
