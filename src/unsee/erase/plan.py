"""What fits into the budget. Decided once, before anything is fitted, and kept: a killed run decides nothing anew.

Taken off first: what was measured to plan, the undefended pictures, the attacks that serve for every defense, and the
proof. Then the candidates in their order: what fits into the rest is kept, what does not is left out, a cheaper one
behind it may still fit. Fits that are done already, in this folder, cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..suites.attacks import AttackSpec
from ..suites.stacks import StackSpec
from .candidates import recipes
from .estimate import Pace, attack_seconds


@dataclass(frozen=True)
class Line:
    """One candidate of the plan. Seconds are estimates; ``left_out`` says why, or is empty."""

    name: str
    fit: float
    attacks: float
    left_out: str = ""

    @property
    def seconds(self) -> float:
        return self.fit + self.attacks


@dataclass(frozen=True)
class Plan:
    """``fixed`` seconds are spent whatever is kept."""

    budget: float | None
    fixed: float
    lines: tuple[Line, ...]

    @property
    def kept(self) -> list[str]:
        return [line.name for line in self.lines if not line.left_out]

    @property
    def seconds(self) -> float:
        return self.fixed + sum(line.seconds for line in self.lines if not line.left_out)


def make_plan(stacks: Sequence[StackSpec], attacks: Sequence[AttackSpec], speed: Pace,
              fits: Mapping[str, float | str], *, choose: int, prove: int, budget: float | None,
              measuring: float) -> Plan:  # fmt: skip
    """The plan. ``fits`` has the estimate of each fit by its recipe, or why it cannot be; None is no limit.

    Raises :class:`UserError` if not even one candidate fits.
    """
    shared, own = attack_seconds(attacks, choose, speed)
    shared_proof, own_proof = attack_seconds(attacks, prove, speed)
    unattacked = 2 * choose * speed.image  # plain and benign
    fixed = measuring + shared + unattacked + shared_proof + 2 * (own_proof + 3 * prove * speed.image)
    left, have, lines = (None if budget is None else budget - fixed), set[str](), []
    for stack in stacks:
        new = [recipe for recipe in recipes(stack) if recipe not in have]
        wrong = [str(fits[recipe]) for recipe in new if isinstance(fits[recipe], str)]
        fit = sum(float(fits[recipe]) for recipe in new) if not wrong else 0.0
        line = Line(stack.name, fit, own + unattacked)
        if wrong:
            line = Line(stack.name, 0.0, 0.0, wrong[0])
        elif left is not None and line.seconds > left:
            line = Line(stack.name, line.fit, line.attacks, f"{clock(line.seconds)} do not fit: {_rest(left)}")
        else:
            left = None if left is None else left - line.seconds
            have.update(new)
        lines.append(line)
    plan = Plan(budget, fixed, tuple(lines))
    if not plan.kept:
        raise _nothing(plan)
    return plan


def clock(seconds: float) -> str:
    """
    >>> clock(0.4), clock(95), clock(3700)
    ('1 s', '95 s', '62 min')
    """
    return f"{max(seconds, 1):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _rest(left: float) -> str:
    return f"{clock(left)} left" if left > 0 else "nothing left beside the attacks and the proof"


def _nothing(plan: Plan) -> UserError:
    possible = [line for line in plan.lines if line.fit or line.attacks]
    if not possible or plan.budget is None:
        return UserError("a candidate that can be fitted", plan.lines[0].left_out, "mend it, or give --candidates")
    least = min(possible, key=lambda line: line.seconds)
    need = f"a budget of {clock(plan.fixed + least.seconds)} or more ({clock(plan.fixed)} for attacks and proof)"
    return UserError(need, clock(plan.budget), "raise --budget, or lower --prove and --choose, or give fewer --attacks")
