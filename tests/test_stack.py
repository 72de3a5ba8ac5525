"""Several defenses as one thing: one folder, checked as a whole, taken wherever a saved defense is."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from bench_fakes import stored, suite

import unsee
from unsee import concepts
from unsee.bench.run import run
from unsee.cli import main
from unsee.defenses import Defense
from unsee.defenses.stack import Stack
from unsee.errors import BadFile, Mismatch, Unsupported, UserError
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.sld import SLD
from unsee.suites.stacks import StackSpec as Recipe
from unsee.unlearn.uce import UCE


def drawn(pipe):
    settings = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "pt"}
    return pipe("a dagger", generator=torch.Generator().manual_seed(0), **settings).images


@pytest.fixture(scope="module")
def pipe():
    return unsee.tiny("sd1")


@pytest.fixture(scope="module")
def members(pipe, tmp_path_factory):
    edit = UCE.fit(pipe, concepts.load("weapon"), work=tmp_path_factory.mktemp("uce"), texts=4)
    return edit, SLD(text="dagger", preset="max", warmup=0), NegativePrompt(text="bomb")


@pytest.fixture(scope="module")
def folder(members, tmp_path_factory):
    stack = Stack(defenses=members)
    stack.record = {"dsr": 0.9}
    return stack.save_pretrained(tmp_path_factory.mktemp("stack") / "saved")


def test_a_stack_comes_back_as_it_was(folder, members):
    stack = Stack.from_pretrained(folder)
    assert [d.name for d in stack.defenses] == ["uce", "sld", "negative-prompt"]
    assert [d.digest() for d in stack.defenses] == [d.digest() for d in members]
    assert stack.digest() == Stack(defenses=members).digest() != Stack(defenses=members[::-1]).digest()
    assert stack.record == {"dsr": 0.9} and stack.fingerprints == members[0].fingerprints
    assert type(Defense.from_pretrained(folder)) is Stack and "unsee.Stack" in (folder / "README.md").read_text()
    assert sorted(f.name for f in folder.iterdir()) == [
        "1-uce", "2-sld", "3-negative-prompt", "README.md", "stack.json",
    ]  # fmt: skip


def test_protect_attaches_what_it_holds_and_takes_it_off(pipe, folder, members):
    before = drawn(pipe)
    with unsee.protect(pipe, *members):
        expected = drawn(pipe)
    with unsee.protect(pipe, Stack.from_pretrained(folder)) as guarded:
        assert [d.name for d in guarded.defenses] == ["uce", "sld", "negative-prompt"]
        assert torch.equal(drawn(pipe), expected) and {e["defense"] for e in guarded.decisions[0]} >= {"sld"}
    assert torch.equal(drawn(pipe), before) and not torch.equal(before, expected)


def test_it_fits_no_other_model(folder):
    with pytest.raises(Mismatch, match="uce was fitted for"):
        unsee.protect(unsee.tiny("sdxl"), Stack.from_pretrained(folder))


def test_members_of_two_models_are_no_stack(members):
    other = SLD(text="x")
    other.fingerprints = {"model": "0" * 64}
    with pytest.raises(Mismatch, match="one model"):
        Stack(defenses=(members[0], other))


def test_nothing_is_no_stack_and_attaching_it_alone_is_refused(pipe, members):
    with pytest.raises(UserError):
        Stack(defenses=())
    with pytest.raises(Unsupported):
        Stack(defenses=members).attach(unsee.adapter(pipe))


def test_a_stack_in_a_stack_is_flat_and_a_host_too(pipe, members, tmp_path):
    inner = Stack(defenses=members[:2])
    assert Stack(defenses=(inner, members[2])).defenses == members
    fitted = UCE.fit(pipe, concepts.load("weapon"), work=tmp_path, host=[inner], texts=4)
    alone = UCE.fit(pipe, concepts.load("weapon"), work=tmp_path, host=list(members[:2]), texts=4)
    assert fitted.digest() == alone.digest()


def change(folder, how):
    listed = json.loads((folder / "stack.json").read_text())
    if how == "exchanged":
        NegativePrompt(text="cat").save_pretrained(folder / "3-negative-prompt")
    elif how == "gone":
        shutil.rmtree(folder / "2-sld")
    elif how == "weights":
        path = folder / "1-uce" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif how == "outside":
        listed["defenses"][0]["folder"] = "../saved/1-uce"
    elif how == "format":
        listed["format"] = 9
    elif how == "broken":
        listed = {"format": 1}
    (folder / "stack.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("how", ["exchanged", "gone", "weights", "outside", "format", "broken"])
def test_what_was_changed_is_refused(folder, tmp_path, how):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy, how)
    with pytest.raises(BadFile):
        Stack.from_pretrained(copy)


def test_a_stack_is_no_single_defense_and_the_other_way_round(folder):
    with pytest.raises(BadFile, match="Stack.from_pretrained"):
        UCE.from_pretrained(folder)
    with pytest.raises(BadFile, match="a Stack, got a UCE"):
        Stack.from_pretrained(folder / "1-uce")


def test_it_replaces_a_defense_but_nothing_else(members, tmp_path):
    members[1].save_pretrained(tmp_path / "a")
    Stack(defenses=members[1:]).save_pretrained(tmp_path / "a")
    assert len(Stack.from_pretrained(tmp_path / "a").defenses) == 2
    members[1].save_pretrained(tmp_path / "a")
    assert SLD.from_pretrained(tmp_path / "a").text == "dagger"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(BadFile, match="other files"):
        Stack(defenses=members).save_pretrained(tmp_path / "b")


def test_suites_take_its_folder_and_count_its_members(folder, members, tmp_path):
    assert [d.name for d in Recipe.parse(str(folder)).fit(None, None)] == ["uce", "sld", "negative-prompt"]
    for member, name in zip(members, "abc", strict=True):
        member.save_pretrained(tmp_path / name)
    prompts = [{"kind": "plain", "n": 2}]
    loose = [{"folder": str(tmp_path / name)} for name in "abc"]
    run(suite(defenses=[loose], prompts=prompts), tmp_path / "R")
    run(suite(defenses=[str(folder)], prompts=prompts), tmp_path / "S")
    cells = [[(r.cell, r.image) for r in stored(tmp_path / name)] for name in "RS"]
    assert cells[0] == cells[1]  # the same addresses, so the pictures of one are those of the other


def test_the_command_line_takes_it(capsys, folder, tmp_path):
    model = ["--model", "tiny:sd1", "--steps", "1", "--json"]
    out = str(tmp_path / "a.png")
    assert main(["generate", *model, "--prompt", "x", "--defense", str(folder), "--guidance", "4", "--out", out]) == 0
    decisions = json.loads(capsys.readouterr().out)["images"][0]["decisions"]
    assert {e["defense"] for e in decisions} >= {"sld", "negative-prompt"}
    call = [*model, "--concept", "weapon", "--n", "2", "--judge", "always.safe", "--defense", str(folder)]
    assert main(["attack", "random-tokens", *call, "--out", str(tmp_path / "R")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {r["defense"] for r in rows} == {"none", folder.name}
