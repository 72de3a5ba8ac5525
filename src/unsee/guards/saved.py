"""What config.json and stack.json of a saved defense must say, and of which type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import BadFile
from ..files import Name

if TYPE_CHECKING:
    from .base import Defense

AGAIN = "copy or save the folder again"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Format = Annotated[int, Field(ge=1, le=1)]  # Literal[1] takes True


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Facts(BaseModel):
    """How a defense was fitted: what reports read of it has a type, the rest is as the method told it."""

    model_config = ConfigDict(extra="allow")
    training: dict[str, Any] = {}
    fit_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Config(_Line):
    """``config.json``."""

    format: Format
    defense: Name
    arguments: dict[str, Any]
    fingerprints: dict[Literal["model", "text"], Sha256]
    weights: Sha256 | None
    facts: Facts = Field(default=Facts(), alias="record")

    @property
    def record(self) -> dict[str, Any]:
        return self.facts.model_dump(exclude_unset=True)

    def check(self, kind: type[Defense], path: Path) -> None:
        """Raises :class:`BadFile` unless this is a whole ``kind``: its arguments, and its weights where it has any."""
        from .base import Defense

        known, given = {f.name for f in fields(kind) if f.init}, self.arguments.keys()
        for said, names in (("the unknown argument", given - known), ("no argument", known - given)):
            if names:
                raise BadFile(f"the arguments of {kind.__name__}", f"{said} {sorted(names)[0]!r} in {path}", AGAIN)
        if any(value != value or value in (float("inf"), float("-inf")) for value in _numbers(self.arguments)):
            raise BadFile(f"finite arguments of {kind.__name__}", f"NaN or infinity in {path}", AGAIN)
        without = kind.needs_weights and self.weights is None
        idle = self.weights is not None and kind.load_tensors is Defense.load_tensors
        if without or idle:
            wanted = "the checksum of its weights" if without else "no weights"
            raise BadFile(f"a {kind.__name__} with {wanted}", f"weights = {self.weights!r} in {path}", AGAIN)
        if (kind.needs_weights or self.fingerprints) and self.fingerprints.keys() != {"model", "text"}:
            got = f"{', '.join(self.fingerprints) or 'none'} in {path}"
            raise BadFile("the fingerprints of the model and the text encoder that it was fitted for", got, AGAIN)


class Member(_Line):
    """A defense of a stack: its folder, and the checksum of its ``config.json``."""

    folder: Name
    defense: Name
    config: Sha256


class Listed(_Line):
    """``stack.json``."""

    format: Format
    defenses: list[Member] = Field(min_length=1)
    record: dict[str, Any] = {}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
