"""What the contract tests draw with: shared tiny pipelines, and guards that act or stand idle."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import families, tiny
from unsee.defenses import Guard
from unsee.registry import ATTACKS, GUARDS, resolve

PROMPTS = ["a dagger", "two red hats", "a x"]
IDLE = {  # arguments with which nothing is found to act on; settings that can never act are refused
    "saferedir": {"threshold": 1.0},
    "safree": {"alpha": 10.0, "negative": ""},
}


@functools.cache
def shared(family: str) -> Any:
    return tiny(family)


@functools.cache
def fitted(name: str, family: str, idle: bool) -> Guard:
    """The guard of this name, quickly fitted to a tiny pipeline; ``idle``: so that it does nothing."""
    kind = resolve("guard", GUARDS, name)
    settings = {**kind.quick, **(IDLE[name] if idle else {})}
    with tempfile.TemporaryDirectory() as work:
        return kind.fit(shared(family), concepts.load("tobacco"), work=work, **settings)


class Kit:
    """Everything a contract test needs, as one fixture."""

    families = tuple(families())
    prompts = PROMPTS

    @staticmethod
    def pipe(family: str) -> Any:
        return shared(family)

    @staticmethod
    def guard(name: str, family: str = "sd1") -> Guard:
        return copy.copy(fitted(name, family, False))

    @staticmethod
    def idle(name: str, family: str = "sd1") -> Guard:
        if name not in IDLE:
            pytest.skip(f"{name} acts on every prompt")
        return copy.copy(fitted(name, family, True))

    @staticmethod
    def settings(pipe: Any, cfg: bool = True, n: int = 1, steps: int = 2) -> dict[str, Any]:
        backbone = adapter(pipe)
        more: dict[str, Any] = {backbone.guidance_argument: 4.0 if cfg else 1.0}
        if backbone.family == "flux" and cfg:
            more["negative_prompt"] = [""] * n
        generators = [torch.Generator().manual_seed(i) for i in range(n)]
        return {"num_inference_steps": steps, "output_type": "pt", "generator": generators, **more}

    @classmethod
    def draw(cls, pipe: Any, cfg: bool = True, n: int = 1, steps: int = 2, **more: Any) -> torch.Tensor:
        settings = {**cls.settings(pipe, cfg, n, steps), **more}
        if "prompt_embeds" not in settings:
            settings.setdefault("prompt", PROMPTS[:n])
        return pipe(**settings).images


@dataclass(kw_only=True, eq=False)
class Probe(Guard):
    """A guard whose methods are given, for what no registered guard does."""

    name: ClassVar[str] = "probe"
    label: str = ""

    def on_positive(self, step, text, state):
        return self.acts["positive"](step, text) if "positive" in self.acts else None

    def on_negative(self, step, text, state):
        return self.acts["negative"](step, text) if "negative" in self.acts else None

    def guide(self, step, state):
        return self.acts["guide"](step) if "guide" in self.acts else None


@contextmanager
def spied(pipe: Any) -> Iterator[list[tuple[dict[str, Any], torch.Tensor]]]:
    """Every evaluation of the denoiser, extra passes included: (arguments by name, prediction)."""
    backbone, seen = adapter(pipe), []
    denoiser = backbone.denoiser
    original = denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        seen.append((backbone.bind(args, kwargs), (output[0] if isinstance(output, tuple) else output.sample).clone()))
        return output

    denoiser.forward = forward
    try:
        yield seen
    finally:
        del denoiser.forward


@pytest.fixture
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def probe():
    def make(**acts: Any) -> Probe:
        made = Probe()
        made.acts = acts
        return made

    return make


@pytest.fixture
def spy():
    return spied


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tables = {
        "guard": sorted(GUARDS),
        "idler": sorted(IDLE),
        "attack": sorted(ATTACKS),
        "family": families(),
        "batch": [1, 3],
        "cfg": [True, False],
    }
    for name, values in tables.items():
        if name in metafunc.fixturenames:
            ids = [f"{name}={v}" if name in ("batch", "cfg") else str(v) for v in values]
            metafunc.parametrize(name, values, ids=ids)
