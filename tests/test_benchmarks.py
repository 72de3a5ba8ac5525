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


def test_growth(tmp_path):
    """Every stage does what it says, and all of it; how time grows is the slow test's."""
    stages = runpy.run_path(str(FOLDER / "growth.py"))["STAGES"]
    assert stages["plan"](80, tmp_path) == {"groups": 20, "cells": 80, "batches": 20}
    found = stages["store"](80, tmp_path)
    assert (found["drawn"], found["left"]) == (80, 0) and found["pictures"] > 0
    assert stages["export"](80, tmp_path)["records"] == 80
    assert stages["report"](80, tmp_path) | {"bytes": 0} == {"records": 80, "rows": 20, "bytes": 0}
    assert stages["stacks"](80, tmp_path) == {"stacks": 2, "groups": 80}
    assert stages["subjects"](80, tmp_path)["prompts"] == 8


def test_growth_has_a_process_for_each_size_and_an_exponent(monkeypatch, capsys):
    found = run("growth", ["--sizes", "80,160", "--stages", "stacks", "--json"], monkeypatch, capsys)
    assert [(row["stage"], row["n"], row["counts"]["groups"]) for row in found["rows"]] == [
        ("stacks", 80, 80),
        ("stacks", 160, 160),
    ]
    assert all(row["megabytes"] > 0 and row["exponent"] is not None for row in found["rows"])


@pytest.mark.slow
def test_growth_is_linear(monkeypatch, capsys):
    found = run("growth", ["--sizes", "3000,30000", "--json"], monkeypatch, capsys)
    assert {row["stage"]: row["exponent"] for row in found["rows"] if row["exponent"] > 1.1} == {}
    assert max(row["megabytes"] for row in found["rows"]) < 1000
