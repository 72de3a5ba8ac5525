"""How many inputs there are in all, how they are shared out, and what became of them."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from unsee.errors import UnseeError

INPUTS = int(os.environ.get("UNSEE_FUZZ", "10000"))  # of all targets together
SEEN: Counter[tuple[str, str]] = Counter()
REFUSED = object()


def fuzz(share: int) -> Callable[[Any], Any]:
    """A target that gets ``share`` per mille of all inputs, always the same ones; it draws them from ``data``."""

    def made(target: Callable[..., None]) -> Any:
        how = settings(
            max_examples=max(1, -(-INPUTS * share // 1000)), derandomize=True, database=None, deadline=None,
            phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
        )  # fmt: skip

        @functools.wraps(target)
        def counted(*arguments: Any, **named: Any) -> None:
            SEEN[target.__name__, "inputs"] += 1
            target(*arguments, **named)

        return pytest.mark.slow(how(given(data=st.data())(counted)))

    return made


def told(name: str, call: Callable[[], Any]) -> Any:
    """What ``call()`` gives, or :data:`REFUSED` for an error of ours that is one line. Any other error is a failure."""
    try:
        value = call()
    except UnseeError as error:
        assert str(error).strip() and len(str(error)) < 20_000
        SEEN[name, "refused"] += 1
        return REFUSED
    SEEN[name, "accepted"] += 1
    return value


def files_in(folder: Path) -> list[str]:
    """All that lies in a folder, links as links."""
    return sorted(os.path.join(place, name) for place, dirs, files in os.walk(folder) for name in (*dirs, *files))
