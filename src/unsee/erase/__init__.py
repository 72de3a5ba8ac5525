"""``erase``: a concept in, the best defense and its proof out.

    from unsee.erase import Task, erase
    found = erase(Task("picto", "weapon", "runs/weapon", budget=3600))
    found.winner, found.table, found.proof      # and runs/weapon is a stack: protect(pipe, Stack.from_pretrained(…))

In the order of the work: ``candidates`` (which stacks may be tried, a TOML file), ``estimate`` (what each will cost on
this machine and model, measured), ``plan`` (what fits into the budget), ``choice`` (who wins), ``run`` (all of it,
resumable), ``card``. It is made of the bench's own suites, attacks and reports; nothing is measured in another way.
"""

from .choice import Score
from .result import Erased
from .run import Task, erase

__all__ = ["Erased", "Score", "Task", "erase"]
