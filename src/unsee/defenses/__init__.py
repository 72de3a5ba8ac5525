"""What every defense shares: the contract, attaching it, a generation, saving, stacking, presets."""

from __future__ import annotations

from .base import Defense, Guard
from .generation import Generation, Step
from .protection import Guarded, protect

__all__ = ["Defense", "Generation", "Guard", "Guarded", "Step", "protect"]
