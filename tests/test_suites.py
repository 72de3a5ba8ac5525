"""The suites that ship: each can be read, and the one for Stable Diffusion 1.4 runs as it is planned.

Its real size is 860 M weights, too much for these tests: the plan runs on ``tiny:sd1``, random weights of the same
structure (CLIP text encoder, UNet with cross-attention, VAE), two prompts and two steps.
"""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from unsee import concepts, picto
from unsee.bench.run import run
from unsee.bench.store import Store
from unsee.registry import ATTACKS, DEFENSES, resolve
from unsee.report.collect import gather
from unsee.suites.suite import SuiteSpec, shipped

ROOT = Path(__file__).parents[1]
SD14 = "sd14"


@pytest.mark.parametrize("name", shipped())
def test_a_suite_can_be_read_and_its_settings_exist(name):
    suite = SuiteSpec.load(name)
    assert suite.name == name and suite.groups()
    for concept in map(concepts.load, suite.concepts):
        for stack in suite.stacks:
            stack.check(concept)
    for attack in suite.attack_specs:
        attack.check()


def test_stable_diffusion_is_attacked_with_the_published_budget():
    """Picto's leads nowhere on other text encoders: a change of the standard set must not reach this suite."""
    struck = [s for s in SuiteSpec.load(SD14).attack_specs if s.method == "ring-a-bell"]
    kind = resolve("attack", ATTACKS, "ring-a-bell")
    assert struck and all(kind.published.items() <= kind.of(s.settings).config().items() for s in struck)


def quick(value):
    """A defense or an attack of the suite with settings that end in a second."""
    if isinstance(value, list):
        return [quick(part) for part in value]
    table = {"name": value, "method": value} if isinstance(value, str) else dict(value)
    if table.get("method") == "none":
        return "none"
    kind = resolve("method", DEFENSES | ATTACKS, table["method"])
    own = {
        k: v
        for k, v in table.items()
        if k in ("name", "method", "beta", "base_lambda", "carrier", "defenses", "prompts")
    }
    return kind.quick | own | ({"n": 2} if table["method"] in ATTACKS else {})


def test_what_ships_is_in_the_wheel():
    """All of the package's folder is: a suite beside it, or unknown to git, would fail after pip install."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"] == {"packages": ["src/unsee"]} and "src" in build["sdist"]["include"]
    assert {"first", "demo", "sd14"} <= shipped().keys() and not (ROOT / "suites").exists()
    data = [*shipped().values(), *concepts.SHIPPED.glob("*.toml"), *picto.DEFENSES.rglob("config.json")]
    assert all(path.is_relative_to(ROOT / "src" / "unsee") for path in data)
    known = subprocess.run(["git", "ls-files", "--", *map(str, data)], cwd=ROOT, capture_output=True, text=True)
    assert known.returncode != 0 or len(known.stdout.splitlines()) == len(data)  # no git in an sdist


@pytest.mark.slow
def test_the_plan_for_stable_diffusion_runs_on_random_weights(tmp_path):
    suite = SuiteSpec.load(SD14)
    tiny = SuiteSpec.parse(suite.model_dump() | {
        "model": "tiny:sd1", "steps": 2, "batch_size": 2, "judge": "always.unsafe",
        "metrics": {"preservation": "picto", "clip_score": "picto"},  # LPIPS and CLIP are downloads
        "defenses": [quick(value) for value in suite.defenses], "attacks": [quick(value) for value in suite.attacks],
        "prompts": [{"kind": p.kind, "n": 2} for p in suite.prompts],
    })  # fmt: skip
    assert [g.stack.name for g in tiny.groups()] == [g.stack.name for g in suite.groups()]
    rows = run(tiny, tmp_path)
    assert len(rows) == len(suite.groups()) and all(r.n == 2 and r.preservation is not None for r in rows)
    with Store(tmp_path) as store:
        told = gather(store)
    verdicts = {c.id: c.verdict for c in told.claims}
    assert "no data" not in verdicts.values() and verdicts["quality"] == "not testable here"
    assert {p.beta for s in told.sweeps for p in s.points} == {250, 500, 2000}
    fitted = [c for c in told.costs if c.defense in ("duo", "esd", "uce")]
    assert all(c.fit_seconds is not None and c.parameters for c in fitted)  # UCE takes hundredths of a second
