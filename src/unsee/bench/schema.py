"""What a run's store must say, line by line, and of which type. It may come from another machine, or from anybody."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Hashable, Mapping
from sys import intern
from typing import Annotated, Any, NotRequired, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from ..errors import BadFile
from ..files import Name, parse_json
from ..types import Event, Kind, Outcome, Prompt, Record, Split, Verdict

DO = "restore it, or run the suite in a new folder"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Table = dict[str, object]
Read = Callable[..., Any]  # as :func:`value`, and may remember what it read
T = TypeVar("T")


@with_config(ConfigDict(extra="forbid"))
class AskedPrompts(TypedDict):
    """One of a suite's kinds of prompts."""

    kind: Kind
    split: NotRequired[Split]
    n: Annotated[int, Field(ge=1, le=1_000_000)]


class Labels(BaseModel):
    """What a judge adds to its verdict; what reports read of it has a type."""

    model_config = ConfigDict(extra="allow")
    license: str | None = None
    threshold: Finite | None = None
    subject_right: bool | None = None
    style_right: bool | None = None


class Spec(TypedDict):
    """A suite as it was run. Not checked again: its folders may be gone, its methods renamed."""

    name: Name
    model: str
    concepts: list[str]
    defenses: list[str | Table | list[str | Table]]
    prompts: list[AskedPrompts]
    attacks: NotRequired[list[str | Table]]
    judge: str
    metrics: NotRequired[dict[str, str]]
    claims: NotRequired[list[Table]]
    seed: int
    steps: int
    guidance: Finite
    batch_size: NotRequired[int]


class Mark(TypedDict):
    """Which shard of a suite a folder holds, and what it was made with."""

    shard: Annotated[str, Field(pattern=r"^[0-9]{1,6}/[0-9]{1,6}$")]
    planned: dict[str, int]
    defenses: dict[str, list[str]]
    model: NotRequired[str]
    finished: NotRequired[bool]


@dataclasses.dataclass(frozen=True)
class StoredSuite:
    """A suite as the store has it; ``planned`` images in all."""

    spec: Spec
    judge_version: str
    versions: dict[str, str]
    machine: Table
    planned: int


class Line(BaseModel):
    """The columns of a record that are no JSON, as :class:`Record` and :class:`Verdict` have them."""

    model_config = ConfigDict(strict=True, frozen=True)
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


class BriefLabels(BaseModel):
    """The labels that rows tell of."""

    model_config = ConfigDict(extra="forbid")
    subject_right: bool | None
    threshold: Finite | None
    license: str | None


COLUMNS = tuple(Line.model_fields)
LABELS = tuple(BriefLabels.model_fields)
PROMPT = tuple(field.name for field in dataclasses.fields(Prompt))
EXPORTED = {  # column → its type in Parquet
    **dict.fromkeys(("cell", "suite", "model", "concept", "defense", "attack", "image"), "string"),
    "seconds": "double",
    **dict.fromkeys(("twin", "decisions", "versions"), "string"),
    **{f"prompt_{name}": "int64" if name == "seed" else "string" for name in PROMPT},
    "verdict_outcome": "string",
    "verdict_score": "double",
    **{f"verdict_{name}": "string" for name in ("judge", "version", "reason", "labels")},
    "preservation": "double",
    "clip_score": "double",
}
_dump = json.JSONEncoder(sort_keys=True, default=str).encode


def record(row: Mapping[str, object], where: object, prompts: Read | None = None) -> Record:
    """A line of the store as a :class:`Record`. Raises :class:`BadFile` with the column that is wrong."""
    labels = value(Labels, row["labels"], where, "labels").model_dump(exclude_unset=True)
    decisions = tuple(value(list[Event], row["decisions"], where, "decisions"))
    versions = value(dict[str, str], row["versions"], where, "versions")
    return _record(row, where, prompts or value, labels, decisions, versions)


def brief(row: Mapping[str, object], where: object, prompts: Read) -> Record:
    """As :func:`record`, without decisions and versions, of a line whose labels are those of ``LABELS``."""
    return _record(row, where, prompts, prompts(BriefLabels, row["labels"], where, "labels").model_dump(), (), {})


def _record(row: Mapping[str, object], where: object, prompts: Read, labels: Table, decisions: tuple[Event, ...],
            versions: dict[str, str]) -> Record:  # fmt: skip
    try:
        line = Line.model_validate({name: row[name] for name in COLUMNS})
    except ValidationError as error:
        raise _bad(error, where, f"cell {str(row['cell'])[:16]!r}") from None
    if (line.score is None) != (line.outcome == "unjudged"):
        raise BadFile("a score where there is a verdict, and only there", f"{where} (cell {line.cell!r})", DO)
    judge, version, reason = intern(line.judge), intern(line.version), intern(line.reason)
    return Record(
        cell=intern(line.cell),  # twins, pictures and names stand in many records, each as one text
        suite=intern(line.suite),
        model=intern(line.model),
        concept=intern(line.concept),
        defense=intern(line.defense),
        attack=intern(line.attack),
        prompt=prompts(Prompt, row["prompt"], where, "prompt"),
        image=intern(line.image),
        verdict=Verdict(cast(Outcome, intern(line.outcome)), line.score, judge, version, reason, labels),
        seconds=line.seconds,
        twin=intern(line.twin),
        decisions=decisions,
        metrics={"preservation": line.preservation, "clip_score": line.clip_score},
        versions=versions,
    )


def fields(prompt: Prompt) -> Table:
    """As ``dataclasses.asdict``, which copies every value."""
    return {name: getattr(prompt, name) for name in PROMPT}


def flat(r: Record) -> Table:
    """A record as the columns of ``EXPORTED``, nested values as JSON text."""
    v = r.verdict
    own = (r.cell, r.suite, r.model, r.concept, r.defense, r.attack, r.image, r.seconds, r.twin)
    judged = (v.outcome, v.score, v.judge, v.version, v.reason, _dump(v.labels))
    nested = (_dump(r.decisions), _dump(r.versions))
    numbers = (r.metrics["preservation"], r.metrics["clip_score"])
    return dict(zip(EXPORTED, (*own, *nested, *fields(r.prompt).values(), *judged, *numbers), strict=True))


def value(kind: type[T], text: object, where: object, column: str) -> T:
    """The JSON of a column as ``kind``."""
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        return cast(T, _adapter(cast(Hashable, kind)).validate_json(text, strict=True))
    except ValueError as error:  # pydantic's is one
        raise _bad(error, where, column) from None


def checked(kind: type[T], text: object, where: object, column: str) -> T:
    """The JSON object of a column as it is, which is a sound ``kind``."""
    value(kind, text, where, column)
    try:
        return cast(T, parse_json(str(text)))
    except ValueError as error:
        raise _bad(error, where, column) from None


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
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
