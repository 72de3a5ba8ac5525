"""Nothing outside sampling/ calls a pipeline to draw, or steps a scheduler."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import unsee

HOME = Path(unsee.__file__).parent
FILES = sorted(p.relative_to(HOME) for p in HOME.rglob("*.py") if p.relative_to(HOME).parts[0] != "sampling")


def draws(text: str) -> list[str]:
    """The calls that draw: ``pipe(…)``, ``x.pipe(…)``, ``pipeline(…)``, ``scheduler.step(…)``, ``set_timesteps(…)``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            said = ast.unparse(node.func)
            last = said.split(".")[-1]
            if last in ("pipe", "pipeline", "from_text", "set_timesteps") or said.endswith("scheduler.step"):
                found.append(said)
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nothing_but_the_sampler_draws(file):
    assert not draws((HOME / file).read_text())


@pytest.mark.parametrize("text", ["pipe('x')", "self.pipe(a, b=1)", "scheduler.step(e, t, x)", "s.set_timesteps(3)"])
def test_the_test_above_sees(text):
    assert draws(text)
