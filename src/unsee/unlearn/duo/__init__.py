"""DUO: direct unlearning optimization. ``pairs`` makes the data, ``loss`` is the mathematics, ``train`` the defense."""

from __future__ import annotations

from .train import Duo

__all__ = ["Duo"]
