"""The standard set: fixed attacks at fixed budgets, so that results can be compared, as AutoAttack's can.

The budgets are the attacks' own defaults, chosen for picto: eight hosts under all of it take hours on a laptop's two
cores, not days. A change of an attack or of a default is a new ``VERSION``; results of two versions do not compare.
For real models each attack has ``as_published()``.
"""

from __future__ import annotations

VERSION = "1"
CONTROL = "random-tokens"
STANDARD = (
    "paraphrase",
    "ring-a-bell",
    "mma",
    "sneaky",
    "unlearn-diff",
    "p4d",
    "concept-inversion",
    CONTROL,
)
