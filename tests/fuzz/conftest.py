"""What became of the inputs, at the end of the run."""

from __future__ import annotations

import sys
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    seen = getattr(sys.modules.get("fuzzing"), "SEEN", {})
    names = list(dict.fromkeys(name for name, _ in seen))
    for name in names:
        line = ", ".join(f"{seen[name, what]} {what}" for what in ("inputs", "refused", "accepted") if seen[name, what])
        terminalreporter.write_line(f"{name.removeprefix('test_')}: {line}")
    if names:
        terminalreporter.write_line(f"fuzz: {sum(seen[name, 'inputs'] for name in names)} inputs")
