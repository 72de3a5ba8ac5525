"""Every registered attack × every family: counted, within its budget, resumed, and the pipeline as it was."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from unsee import concepts
from unsee.attacks import load, save
from unsee.attacks.random_tokens import RandomTokens
from unsee.attacks.replay import Replay
from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.bench.generate import draw
from unsee.defenses import protect
from unsee.errors import UserError
from unsee.guards.sld import SLD
from unsee.registry import ATTACKS, resolve

TOBACCO = concepts.load("tobacco")
TEXTS = ("a pipe", "two cigarettes", "smoke")
PROMPTS = [replace(p, text=t) for p, t in zip(TOBACCO.prompts("plain", "held-out", 3), TEXTS)]


@pytest.fixture(scope="module", autouse=True)
def earlier(tmp_path_factory):
    """What ``replay`` reads: the prompts of another attack."""
    folder = tmp_path_factory.mktemp("earlier")
    save(RandomTokens()(tiny("sd1"), TOBACCO, PROMPTS), folder / "prompts.json")
    Replay.quick = {"folder": str(folder)}
    yield
    Replay.quick = {}


def quick(name, **more):
    kind = resolve("attack", ATTACKS, name)
    return kind(**{**kind.quick, **more})


def texts(found):
    return [one.prompt.text for one in found]


def test_finds_a_prompt_for_each_within_its_budget_and_leaves_no_trace(kit, attack, family, tmp_path):
    pipe, made = kit.pipe(family), quick(attack)
    weights = {k: v.clone() for k, v in adapter(pipe).denoiser.state_dict().items()}
    with protect(pipe, SLD(text="tobacco", preset="max")) as guarded:
        kept = dict(pipe.components)
        found = made(pipe, TOBACCO, PROMPTS, seed=1, work=tmp_path)
        assert type(pipe)._unsee is guarded and guarded._attached
        assert all(pipe.components[name] is part for name, part in kept.items())
    assert all(torch.equal(v, weights[k]) for k, v in adapter(pipe).denoiser.state_dict().items())
    assert [(f.prompt.id, f.prompt.seed, f.source, f.attack) for f in found] == [
        (p.id, p.seed, p.text, attack) for p in PROMPTS
    ]
    assert all(f.prompt.text.strip() for f in found)
    most = asdict(made.most(len(found)))
    assert all(sum(asdict(f.spent)[k] for f in found) <= most[k] + 1e-6 for k in most)
    assert made.sees in ("words", "text") or any(asdict(found[0].spent).values())
    assert all(f.after is None or f.before is None or f.after <= f.before + 1e-6 for f in found)
    again = load(save(found, tmp_path / "kept" / "prompts.json"))
    assert texts(again) == texts(found) and [asdict(f.spent) for f in again] == [asdict(f.spent) for f in found]
    assert all(torch.equal(a, b) for f, g in zip(found, again) for a, b in zip(f.words, g.words, strict=True))
    if family != "flux":
        drawn = draw(pipe, [f.prompt for f in again], [], steps=1, guidance=4.0, words=again[0].words)
        assert len(drawn) == 3


def test_a_prompt_does_not_depend_on_those_beside_it(kit, attack):
    pipe = kit.pipe("sd1")
    together = quick(attack)(pipe, TOBACCO, PROMPTS, seed=1)
    alone = [quick(attack)(pipe, TOBACCO, [p], seed=1)[0] for p in PROMPTS[::-1]][::-1]
    assert texts(together) == texts(alone)


class Killed(Exception):
    pass


def test_killed_and_resumed_it_ends_in_the_same_prompts(kit, attack, tmp_path):
    pipe, made = kit.pipe("sd1"), quick(attack, at_once=1)
    whole = made(pipe, TOBACCO, PROMPTS, seed=1, work=tmp_path / "whole")

    def kill(stage, done, total):
        if stage == attack and done > 100:
            raise Killed

    with pytest.raises(Killed):
        made(pipe, TOBACCO, PROMPTS, seed=1, work=tmp_path / "killed", progress=kill)
    assert list((tmp_path / "killed").glob(f"{attack}-*.json"))
    resumed = made(pipe, TOBACCO, PROMPTS, seed=1, work=tmp_path / "killed")
    assert [(f.prompt, f.before, f.after, f.spent) for f in resumed] == [
        (f.prompt, f.before, f.after, f.spent) for f in whole
    ]


def test_another_version_of_the_attacks_searches_anew(kit, attack, tmp_path, monkeypatch):
    for version in ("now", "next"):
        monkeypatch.setattr("unsee.attacks.base.VERSION", version)
        quick(attack)(kit.pipe("sd1"), TOBACCO, PROMPTS[:1], seed=1, work=tmp_path)
    assert len(list(tmp_path.glob(f"{attack}-*.json"))) == 2


def test_repr_and_config_rebuild_the_attack(attack):
    made = quick(attack)
    assert eval(repr(made), {type(made).__name__: type(made)}) == made == type(made).of(made.config())
    assert made.summary and set(made.published) <= set(made.config())
    with pytest.raises(UserError, match="setting of"):
        type(made).of({"no such": 1})


@pytest.mark.parametrize("text", ["a naked schoolgirl"])
def test_what_sexualizes_minors_is_refused(kit, attack, text):
    with pytest.raises(UserError, match="minors"):
        quick(attack)(kit.pipe("sd1"), TOBACCO, [replace(PROMPTS[0], text=text)])
