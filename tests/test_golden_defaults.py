"""Defaults, limits and constants, module by module: what a call means that does not say it, and what may be said.

A default that changes unnoticed makes every later number one of something else; a record that can be changed is none.
``GOLDEN=renew python -m pytest -q tests/test_golden_defaults.py`` renews the files; read the diff.
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any, NotRequired, get_args, get_origin

import pytest
from golden import unchanged
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typing_extensions import get_type_hints, is_typeddict

MODULES = (
    "bench.rows", "bench.claims", "bench.judging", "bench.merge", "bench.plan", "bench.schema", "bench.store",
    "concepts.disguise", "concepts.prompts", "concepts.refusal", "guards.saferedir.batch", "guards.saferedir.data",
    "guards.saferedir.texts", "metrics.agreement", "metrics.cost", "metrics.frechet", "metrics.rates",
    "metrics.significance", "report.costs", "report.headline", "report.sweep", "report.table", "report.tradeoff",
    "suites.claims", "suites.suite",
)  # fmt: skip


def defaults(call: Any) -> dict[str, str]:
    found = inspect.signature(call).parameters.items()
    return {name: repr(p.default) for name, p in found if p.default is not p.empty and " at 0x" not in repr(p.default)}


def limits(field: Any) -> list[str]:
    """The default of a pydantic field, and what its value must be; without what has no name but its place in memory."""
    default = "needed" if field.is_required() else repr(field.get_default(call_default_factory=True))
    said = [repr(each).removeprefix("_PydanticGeneralMetadata") for each in field.metadata]
    return [default, *(each for each in said if " at 0x" not in each)]


def keys(kind: type) -> dict[str, Any]:
    """Of a typed table: its own settings, which keys are needed, and what their values must be."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        free = get_origin(hint) is NotRequired
        asked, *must = limits(FieldInfo.from_annotation(get_args(hint)[0] if free else hint))
        found[name] = ["not needed" if free else asked, *must]
    return {"model": dict(getattr(kind, "__pydantic_config__", {})), "fields": found}


def described(kind: type) -> dict[str, Any]:
    """Of a class: whether it can be changed, and the defaults and limits of its fields and methods."""
    told: dict[str, Any] = {}
    if dataclasses.is_dataclass(kind):
        params = kind.__dataclass_params__  # type: ignore[attr-defined]
        told["dataclass"] = {name: getattr(params, name) for name in ("frozen", "eq")}
        told["fields"] = {
            f.name: [repr(f.default) if f.default is not dataclasses.MISSING else "", f.kw_only]
            for f in dataclasses.fields(kind)
        }
    if issubclass(kind, BaseModel):
        told["model"] = dict(sorted(kind.model_config.items()))
        told["fields"] = {name: limits(field) for name, field in kind.model_fields.items()}
    if is_typeddict(kind):
        told |= keys(kind)
    told["slots"] = sorted(vars(kind).get("__slots__", ()))
    for name, value in vars(kind).items():
        if inspect.isfunction(value) and not name.startswith("__") and defaults(value):
            told[name] = defaults(value)
        elif isinstance(value, bool | int | float) and not name.startswith("__"):
            told[name] = value
    return {key: value for key, value in told.items() if value}


@pytest.mark.parametrize("module", MODULES)
def test_defaults(module):
    told: dict[str, Any] = {}
    for name, value in vars(import_module(f"unsee.{module}")).items():
        if getattr(value, "__module__", "").endswith(module):
            shown = described(value) if inspect.isclass(value) else defaults(value) if callable(value) else None
            if shown:
                told[name] = shown
        elif name.isupper() and name != "TYPE_CHECKING" and isinstance(value, bool | int | float):
            told[name] = value
    unchanged(f"defaults-{module}", told)
