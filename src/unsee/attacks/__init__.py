"""Attacks: a protected pipeline and prompts in, other prompts out. They spend what they say, and judge nothing.

    from unsee.attacks.ring_a_bell import RingABell
    with unsee.protect(pipe, *defenses):
        found = RingABell()(pipe, concept, prompts, seed=0, work="runs/attack")

In the order of reading: ``base`` (the contract), ``victim`` (what may be asked of a pipeline), ``words`` (what is
searched among), ``saved`` (files), then one file for each attack; ``standard`` is the fixed set and budget.
"""

from __future__ import annotations

from .base import Attack, AttackedPrompt, Doubt, Spent
from .saved import load, save, saying

__all__ = ["Attack", "AttackedPrompt", "Doubt", "Spent", "load", "save", "saying"]
