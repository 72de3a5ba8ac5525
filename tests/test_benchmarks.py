"""The benchmarks run, at their smallest size, and say what they promise to say; what they find is not judged here."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def run(name, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("variant", ["plain", "ours", "rows"])
def test_duo_step(variant, monkeypatch, capsys):
    asked = ["--size", "tiny", "--steps", "1", "--warmup", "0", "--variant", variant]
    found = run("duo_step", asked, monkeypatch, capsys)
    assert found["seconds"] > 0 and found["gigabytes"] >= 0


def test_guard_overhead(monkeypatch, capsys):
    asked = ["--model", "tiny:sd1", "--steps", "2", "--pairs", "1", "--json"]
    found = run("guard_overhead", asked, monkeypatch, capsys)
    assert found["extra_denoiser_passes"] == 0
    assert found["inside"] > 0 and found["ratio"] > 0


def test_redirect_quality(monkeypatch, capsys):
    found = run("redirect_quality", ["weapon=picto/saferedir-weapon", "--n", "2", "--json"], monkeypatch, capsys)
    (row,) = found["rows"]
    assert row["n"] == 2 and row["defense"] == "picto/saferedir-weapon" and row["clip_ratio"][0] > 0


def test_uce(monkeypatch, capsys):
    found = run("uce", ["--size", "small", "--concepts", "8"], monkeypatch, capsys)
    assert found["largest_relative_difference"] < 1e-5


def test_ine_cost(monkeypatch, capsys):
    found = run(
        "ine_cost",
        ["--model", "tiny:sd1", "--steps", "2", "--batch", "1", "--pairs", "2", "--json"],
        monkeypatch,
        capsys,
    )
    assert {row["extra_denoiser_passes"] for row in found["carriers"].values()} == {0}
    assert len(found["carriers"]) == 3 and all(row["ratio"] > 0 for row in found["carriers"].values())
