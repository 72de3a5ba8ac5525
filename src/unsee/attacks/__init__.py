"""Attacks: a protected pipeline and prompts in, other prompts out. They spend what they say, and judge nothing.

    from unsee.attacks.ring_a_bell import RingABell
    with unsee.protect(pipe, *defenses):
        found = RingABell()(pipe, concept, prompts, seed=0, work="runs/attack")

In the order of reading: ``base`` (the contract), ``victim`` (what may be asked of a pipeline), ``words`` (what is
searched among), ``saved`` (files), then one file for each attack; ``standard`` is the fixed set and budget.
"""

from __future__ import annotations

from ..embeddings.attacked import load, save, saying
from ..types import AttackedPrompt, Spent
from .base import Attack, UntrustedResult

__all__ = ["Attack", "AttackedPrompt", "UntrustedResult", "Spent", "load", "save", "saying"]
