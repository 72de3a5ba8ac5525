"""Installs ``tests/outside`` as pip would, offline and in no time: its metadata in a folder of the path."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).with_name("outside")


def install(site: Path, **entry_points: dict[str, str]) -> list[str]:
    """What to put on ``sys.path``: the package, and ``site`` with its ``.dist-info``, or one with other entry points
    (``guards={name: place}``) under the name ``other``."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    name = "other" if entry_points else project["name"]
    groups: dict[str, Any] = {f"unsee.{kind}": names for kind, names in entry_points.items()}
    info = site / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    sections = (
        [f"[{group}]", *(f"{key} = {place}" for key, place in names.items())]
        for group, names in (groups or project["entry-points"]).items()
    )
    (info / "entry_points.txt").write_text("\n".join(line for section in sections for line in section) + "\n")
    return [str(site), str(PACKAGE)]
