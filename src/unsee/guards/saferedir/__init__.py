"""SafeRedir: ``net`` our network, ``reference`` the released one; ``texts`` and ``data`` what it learns from, ``train``
and ``calibrate`` how; ``guard`` what is attached."""

from __future__ import annotations

from .guard import SafeRedir
from .training import Training

__all__ = ["SafeRedir", "Training"]
