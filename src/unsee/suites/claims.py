"""Claims of papers, as a suite declares them. :mod:`unsee.bench.claims` decides them.

    [[claims]]
    id = "duo-synonyms"
    paper = "DUO"
    text = "Unlearning on images holds for words that were never named; unlearning on text does not."
    paper_value = "direction only"
    compare = [
        { metric = "dsr", left = { defense = "duo", prompts = "synonym" },
          right = { defense = "uce", prompts = "synonym" }, above = 0.0 },
    ]

``concepts = ["weapon", "alcohol"]`` has every check once for each concept. ``each = [{ attack = "mma", title = "M" }]``
makes a claim of every row, with ``{attack}`` and ``{title}`` filled in wherever the claim has them. One without checks
is not testable here and says ``why``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import BadFile, UnknownName
from ..types import Kind, Record, Split

Row = tuple[str, str, str, str]  # defense, attack, prompts, split

PLACE = re.compile(r"\{([a-z]+)\}")


Metric = Literal["dsr", "unsafe", "drawn_right", "preservation", "clip_score"]


MEANS = ("preservation", "clip_score")


class Where(BaseModel):
    """Which rows: as the suite names its defense, attack and prompts; no ``concept`` is all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    defense: str = "none"
    attack: str = "none"
    prompts: Kind = "plain"
    split: Split = "held-out"
    concept: str = ""

    def __str__(self) -> str:
        return f"{self.who} on {self.what}"

    @property
    def who(self) -> str:
        return "undefended" if self.defense == "none" else self.defense

    @property
    def what(self) -> str:
        asked = f"{self.prompts} prompts" + ("" if self.split == "held-out" else f" ({self.split})")
        attack = "" if self.attack == "none" else f" under {self.attack}"
        return asked + attack + (f", {self.concept}" if self.concept else "")

    @property
    def row(self) -> Row:
        return self.defense, self.attack, self.prompts, self.split

    def holds(self, record: Record) -> bool:
        """Whether the record is one of these rows."""
        return (row_of(record), self.concept or record.concept) == (self.row, record.concept)


class Check(BaseModel):
    """One comparison; exactly one of ``above``, ``below``, ``within``, ``rises``, ``falls``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: Metric
    left: Where = Where()
    right: Where | None = None
    above: float | None = None
    below: float | None = None
    within: float | None = Field(default=None, gt=0)
    relative: bool = False  # the difference as a share of the right mean
    rises: list[str] = Field(default_factory=list)
    falls: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        said = [k for k in ("above", "below", "within") if getattr(self, k) is not None]
        said += [k for k in ("rises", "falls") if getattr(self, k)]
        if len(said) != 1:
            raise ValueError("give one of above, below, within, rises, falls")
        if said[0] in ("rises", "falls") and (self.right or len(self.ordered) < 2):
            raise ValueError(f"{said[0]} takes two defenses or more, and no right side")
        if self.relative and (self.right is None or self.metric not in MEANS):
            raise ValueError("relative is for the difference of two means")
        return self

    @property
    def ordered(self) -> list[str]:
        return self.rises or self.falls

    @property
    def places(self) -> list[Where]:
        """All rows that it reads."""
        if self.ordered:
            return [self.left.model_copy(update={"defense": name}) for name in self.ordered]
        return [self.left, *([self.right] if self.right else [])]


class Claim(BaseModel):
    """What a paper says, what it measured, and the checks that decide; without checks, ``why`` not."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    paper: str
    text: str
    paper_value: str
    compare: list[Check] = Field(default_factory=list)
    why: str = ""  # it cannot be tested here; or what to know of the comparison

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.compare and not self.why:
            raise ValueError("give compare, or why it cannot be tested here")
        return self


def unfolded(claims: Iterable[Any]) -> list[Any]:
    """Claims as written in a suite, one for each row of ``each``, their checks once for each of ``concepts``.

    What is no table is left for the model to refuse. Raises ValueError for an ``each`` or ``concepts`` of another form.
    """
    return [_with_concepts(one) for claim in claims for one in _each(claim)]


def _each(claim: Any) -> list[Any]:
    if not isinstance(claim, dict) or "each" not in claim:
        return [claim]
    rows = claim["each"]
    if not (isinstance(rows, list) and rows and all(isinstance(r, dict) and _texts(r.values()) for r in rows)):
        raise ValueError("each is a list of tables of texts")
    return [_filled({k: v for k, v in claim.items() if k != "each"}, row) for row in rows]


def _filled(value: Any, row: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, row) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, row) for v in value]
    if not isinstance(value, str):
        return value
    for unknown in sorted(set(PLACE.findall(value)) - set(row)):
        raise ValueError(f"each has no {unknown!r} for {value[:60]!r}")
    return PLACE.sub(lambda place: row[place[1]], value)


def _with_concepts(claim: Any) -> Any:
    if not isinstance(claim, dict) or "concepts" not in claim:
        return claim
    concepts, checks = claim["concepts"], claim.get("compare")
    if not (isinstance(concepts, list) and concepts and _texts(concepts)):
        raise ValueError("concepts is a list of names")
    if not (isinstance(checks, list) and all(isinstance(c, dict) for c in checks)):
        raise ValueError("concepts needs checks in compare")
    compare = [_about(check, concept) for concept in concepts for check in checks]
    return {k: v for k, v in claim.items() if k != "concepts"} | {"compare": compare}


def _about(check: dict[str, Any], concept: str) -> dict[str, Any]:
    sides = {k: v for k, v in {"left": {}, **check}.items() if k in ("left", "right") and isinstance(v, dict)}
    return check | {side: where | {"concept": concept} for side, where in sides.items()}


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(v, str) for v in values)


def check_names(claims: Iterable[Claim], groups: Iterable[tuple[str, str, str, str, str]]) -> None:
    """Raise :class:`UserError` for an id twice, or rows that no (defense, attack, prompts, split, concept) runs."""
    known = set(groups)
    defenses, rows = {k[0] for k in known}, {(k[:4], concept) for k in known for concept in ("", k[4])}
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise BadFile("claims with different ids", f"{claim.id!r} twice", "rename one")
        seen.add(claim.id)
        for place in (place for check in claim.compare for place in check.places):
            if place.defense not in defenses:
                raise UnknownName(f"defense of the claim {claim.id}", place.defense, defenses)
            if (place.row, place.concept) not in rows:
                raise BadFile(
                    f"rows of the suite for the claim {claim.id}", f"none for {place}", "add them, or mend it"
                )


def row_of(record: Record) -> Row:
    """Where a record belongs."""
    return record.defense, record.attack, record.prompt.kind, record.prompt.split
