"""What a run's store must say, line by line, and of which type. It may come from another machine, or from anybody."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from sys import intern
from typing import Annotated, Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from ..errors import BadFile
from ..files import Name, parse_json
from ..types import Outcome, Prompt, Record, Verdict
from .plan import PromptSet

DO = "restore it, or run the suite in a new folder"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Listed = str | dict[str, Any] | list[str | dict[str, Any]]


class Labels(BaseModel):
    """What a judge adds to its verdict; what reports read of it has a type."""

    model_config = ConfigDict(extra="allow")
    license: str | None = None
    threshold: Finite | None = None
    subject_right: bool | None = None
    style_right: bool | None = None


class Spec(BaseModel):
    """A suite as it was run. Not checked again: its folders may be gone, its methods renamed."""

    model_config = ConfigDict(extra="allow")
    name: Name
    model: str
    concepts: list[str]
    defenses: list[Listed]
    prompts: list[PromptSet]
    attacks: list[str | dict[str, Any]] = []
    judge: str
    metrics: dict[str, str] = {}
    claims: list[dict[str, Any]] = []
    seed: int
    steps: int
    guidance: Finite


class Mark(BaseModel):
    """Which shard of a suite a folder holds, and what it was made with."""

    model_config = ConfigDict(extra="allow")
    shard: Annotated[str, Field(pattern=r"^[0-9]{1,6}/[0-9]{1,6}$")]
    planned: dict[str, int]
    defenses: dict[str, list[str]]
    model: str = ""
    finished: bool = False


class Line(TypedDict):
    """The columns of a record that are no JSON, as :class:`Record` and :class:`Verdict` have them."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    cell: str
    suite: str
    model: str
    concept: str
    defense: str
    attack: str
    twin: str
    image: Digest
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    outcome: Outcome
    score: Share | None
    judge: str
    version: str
    reason: str
    preservation: Finite | None
    clip_score: Finite | None


LINE = TypeAdapter(Line)
ROW = (
    "cell", "suite", "model", "concept", "defense", "attack", "prompt", "twin", "image", "seconds", "outcome", "score",
    "judge", "version", "reason", "preservation", "clip_score", "labels", "decisions", "versions",
)  # fmt: skip


def record(row: Sequence[Any], where: object, prompt: Callable[[str], Prompt],
           read: Callable[[str], dict[str, Any]] | None = None) -> Record:  # fmt: skip
    """A row of the store, in the order of ``ROW``, as a :class:`Record`. Raises :class:`BadFile` with the column that
    is wrong. Texts that many records have are the same object in all."""
    named = dict(zip(ROW, row, strict=True))
    asked, told, decided, made_with = (named.pop(name) for name in ("prompt", "labels", "decisions", "versions"))
    try:
        line = LINE.validate_python(named)
    except ValidationError as error:
        raise _bad(error, where, f"cell {str(named['cell'])[:16]!r}") from None
    if (line["score"] is None) != (line["outcome"] == "unjudged"):
        raise BadFile("a score where there is a verdict, and only there", f"{where} (cell {line['cell']!r})", DO)
    text = {name: intern(value) for name, value in line.items() if isinstance(value, str)}
    said = labels(told, where) if read is None else read(told)
    outcome = cast(Outcome, text["outcome"])
    return Record(
        cell=text["cell"],
        suite=text["suite"],
        model=text["model"],
        concept=text["concept"],
        defense=text["defense"],
        attack=text["attack"],
        prompt=prompt(asked),
        image=text["image"],
        verdict=Verdict(outcome, line["score"], text["judge"], text["version"], text["reason"], said),
        seconds=line["seconds"],
        twin=text["twin"],
        decisions=tuple(value(list[dict[str, Any]], decided, where, "decisions")),
        metrics={"preservation": line["preservation"], "clip_score": line["clip_score"]},
        versions=value(dict[str, str], made_with, where, "versions"),
    )


def labels(text: str, where: object) -> dict[str, Any]:
    """What a judge added to a verdict."""
    found: dict[str, Any] = value(Labels, text, where, "labels").model_dump(exclude_unset=True)
    return found


def value(kind: Any, text: object, where: object, column: str) -> Any:
    """The JSON of a column as ``kind``."""
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        return _adapter(kind).validate_json(text, strict=True)
    except ValueError as error:  # pydantic's is one
        raise _bad(error, where, column) from None


def checked(kind: Any, text: object, where: object, column: str) -> dict[str, Any]:
    """The JSON object of a column as it is, which is a sound ``kind``."""
    value(kind, text, where, column)
    try:
        found: dict[str, Any] = parse_json(str(text), finite=False)
    except ValueError as error:
        raise _bad(error, where, column) from None
    return found


def text(found: object, where: object, column: str) -> str:
    """``found``, which is text."""
    if not isinstance(found, str):
        raise BadFile("a store of unsee", f"{where} ({column}: no text)", DO)
    return found


def outcome(found: object, where: object) -> Outcome:
    """``found``, which is what a judge can say."""
    if found not in get_args(Outcome):
        raise BadFile("a store of unsee", f"{where} (outcome: {str(found)[:60]!r})", DO)
    return cast(Outcome, found)


def digest(text: object, where: object) -> str:
    """``text``, which is the SHA-256 of an image."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
        raise BadFile("the SHA-256 of an image", f"{str(text)[:80]!r} in {where}", DO)
    return text


def _bad(error: ValueError, where: object, column: str) -> BadFile:
    why = str(error).splitlines()[0]
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    return BadFile("a store of unsee", f"{where} ({column}: {why})", DO)


@functools.cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)
