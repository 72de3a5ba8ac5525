"""The front door: what is public can be imported, the edges are light, the README's claims about files hold."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import runpy
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import unsee
from unsee import errors, registry

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "pyarrow", "scipy")


@pytest.mark.parametrize("name", unsee.__all__)
def test_what_is_public_can_be_imported(name):
    assert getattr(unsee, name).__doc__


def test_public_names_are_sorted_and_in_dir():
    assert unsee.__all__ == sorted(unsee.__all__)
    assert set(unsee.__all__) <= set(dir(unsee))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unsee.nothing


@pytest.mark.parametrize("table", ["GUARDS", "DEFENSES", "ATTACKS", "JUDGES", "BACKBONES"])
def test_what_is_registered_is_there(table):
    entries = getattr(registry, table)
    assert all(registry.resolve("entry", entries, name) for name in entries)
    with pytest.raises(errors.UnknownName, match="expected a known entry"):
        registry.resolve("entry", entries, "no such thing")


@pytest.mark.parametrize("error", [errors.BadFile("a", "b", "c"), errors.UnknownName("kind", "x", ["y"])])
def test_errors_cross_processes_whole(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_the_version_is_one():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == unsee.__version__
    assert f"## {unsee.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def processor_seconds(*arguments: str) -> float:
    """User + system time of a fresh Python: unlike wall time it does not grow when the machine is busy."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children's processor time is a POSIX thing")
@pytest.mark.parametrize(
    ("arguments", "most"), [(("-c", "import unsee"), 0.3), (("-m", "unsee", "--help"), 0.5)], ids=["import", "help"]
)
def test_edges_are_light(arguments, most):
    best = float("inf")
    for _ in range(5):
        best = min(best, processor_seconds(*arguments))
        if best <= most:
            return
        time.sleep(0.2)
    pytest.fail(f"best of 5: {best:.2f} s, at most {most} s; see python -X importtime {' '.join(arguments)}")


@pytest.mark.parametrize("code", ["import unsee", "from unsee import concepts; concepts.load('weapon')"])
def test_nothing_heavy_comes_along(code):
    probe = f"{code}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run_and_are_short(path, tmp_path, monkeypatch, capsys):
    assert len(path.read_text().splitlines()) < 40
    monkeypatch.setattr(sys, "argv", [str(path), "tiny:sd1", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"\]\(([\w./-]+)\)", text)) | set(
        re.findall(r"`((?:src|tests|docs|scripts)/[\w./-]+)`", text)
    )
    named = {n for n in named if "NAME" not in n}
    assert [n for n in sorted(named) if not (ROOT / n.lstrip("/")).exists()] == []


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "fmt", "docs-numbers"])
def test_make_targets_stand_alone(target):
    text = (ROOT / "Makefile").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"{target}:"))
    assert line.split(":")[1].strip() in ("setup", "$(STAMP)")


def test_contributing_shows_a_concept_that_loads(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a concept")[2]
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "logo.toml").write_text(block[1])
    concept = unsee.load_concept(tmp_path / "logo.toml")
    assert concept.prompts("synonym", "held-out", 2) and concept.pairs("train", 2)


def test_contributing_shows_a_guard_that_guards(tmp_path, monkeypatch):
    """Whoever copies it has one, and its entry point is that of its class."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add your own")[2].partition("\n## ")[0]
    code, entry = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("python", "toml"))
    place = tomllib.loads(entry)["project"]["entry-points"]["unsee.guards"]["fade"]
    module, _, name = place.partition(":")
    file = tmp_path / (module.replace(".", "/") + ".py")
    file.parent.mkdir()
    file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    kind = getattr(importlib.import_module(module), name)
    pipe = unsee.tiny("sd1")
    with unsee.protect(pipe, kind.fit(pipe, unsee.load_concept("weapon"), work=tmp_path)) as guarded:
        pipe("a dagger", num_inference_steps=2)
    assert kind.name == "fade" and [event["done"] for event in guarded.decisions[0]] == ["faded"] * 2
    assert len(section.splitlines()) < 40


def test_every_family_is_credited():
    from training.picto import catalog

    notice = (ROOT / "NOTICE").read_text().lower()
    words = {"noto-v1": "noto emoji v1", "fluent-emoji-flat": "fluent emoji flat", "fxemoji": "fxemoji"}
    for family in catalog.FAMILIES:
        assert words.get(family, family.replace("-", " ")) in notice
