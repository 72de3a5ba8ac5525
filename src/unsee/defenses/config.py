"""What config.json and stack.json of a saved defense must say, and of which type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ..files import Name, read_json, typed
from ..settings import Settings

CONFIG, WEIGHTS, STACK, FORMAT = "config.json", "model.safetensors", "stack.json", 1
AGAIN = "copy or save the folder again"
Record = dict[str, Any]  # how a defense was fitted and what validation saw, as JSON
T = TypeVar("T", bound=BaseModel)
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Place = Annotated[str, Field(pattern=r"^[^\s:.][^\s:]*:[^\s:]+$", max_length=500)]  # module:Class


Format = Annotated[int, Field(ge=1, le=1)]  # Literal[1] takes True


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Facts(BaseModel):
    """How a defense was fitted: what reports read of it has a type, the rest is as the method told it."""

    model_config = ConfigDict(extra="allow")
    training: Settings = {}
    fit_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Config(_Line):
    """``config.json``."""

    format: Format
    defense: Name
    cls: Place | None = Field(default=None, alias="class")  # older folders have none
    arguments: Settings
    fingerprints: dict[Literal["model", "text"], Sha256]
    weights: Sha256 | None
    facts: Facts = Field(default=Facts(), alias="record")

    @property
    def record(self) -> Record:
        return self.facts.model_dump(exclude_unset=True)


class Member(_Line):
    """A defense of a stack: its folder, and the checksum of its ``config.json``."""

    folder: Name
    defense: Name
    config: Sha256


class Listed(_Line):
    """``stack.json``."""

    format: Format
    defenses: list[Member] = Field(min_length=1)
    record: Record = {}


def read_saved(kind: type[T], path: Path, what: str) -> T:
    """One of these files, every value of its type. Raises :class:`BadFile`."""
    found = read_json(path, "a folder saved by save_pretrained", AGAIN, finite=False)
    return typed(kind, found, path, f"{what} of format {FORMAT}", AGAIN)
