"""Guards act while an image is made. ``base`` is the contract, ``attach`` the only place with hooks."""

from __future__ import annotations

from .attach import Guarded, protect
from .base import Defense, Guard
from .generation import Generation, Step

__all__ = ["Defense", "Generation", "Guard", "Guarded", "Step", "protect"]
