"""The order of the rooms, as pyproject.toml has it: an import against it, or a circle of files, is told here."""

from __future__ import annotations

from pathlib import Path

from importlinter.cli import EXIT_STATUS_ERROR, lint_imports

ROOT = Path(__file__).parents[1]
CIRCLE = """
root_package = unsee
[importlinter:contract:order]
name = upside down
type = layers
layers =
    unsee.concepts
    unsee.guards
"""


def test_each_room_imports_only_what_stands_below_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) != EXIT_STATUS_ERROR


def test_the_test_above_sees(tmp_path, capsys):
    (tmp_path / "upside-down.ini").write_text("[importlinter]" + CIRCLE)
    assert lint_imports(config_filename=str(tmp_path / "upside-down.ini"), no_cache=True) == EXIT_STATUS_ERROR
    assert "upside down BROKEN" in capsys.readouterr().out
