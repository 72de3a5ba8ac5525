"""Golden files: what was made when somebody last looked at it, to the letter. Any other output is a change to explain.

GOLDEN=renew python -m pytest -q tests/test_golden_*.py    # writes them anew; read the diff before it is committed
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from unsee import concepts
from unsee.concepts import Concept
from unsee.types import Record, as_json

FOLDER = Path(__file__).parent / "golden"


def unchanged(name: str, made: dict[str, Any]) -> None:
    """Asserts that ``made`` is what ``golden/NAME.json`` holds, key by key; floats to 6 digits."""
    path = FOLDER / f"{name}.json"
    made = json.loads(json.dumps(_plain(made)))
    if os.environ.get("GOLDEN") == "renew":
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    for key in {**made, **kept}:
        assert made.get(key) == kept.get(key), key
    assert list(made) == list(kept)


def brief(rows: Sequence[Any], first: int = 2) -> dict[str, Any]:
    """A long list as its first rows, to be read, its length, and a digest of all of it."""
    text = json.dumps(_plain(list(rows)), ensure_ascii=False)
    return {"first": list(rows[:first]), "n": len(rows), "sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _plain(value: Any) -> Any:
    """JSON of it that does not hang on the last digits of a float, nor on the order of a set; of a row its table."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(as_json(value))
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(each) for each in value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def fresh(text: str) -> str:
    """An equal text that is another object, as those that are read from a file or a database are."""
    return "".join(list(text))


def loose(record: Record) -> Record:
    """An equal record whose names are other objects than any name in the code: ``is`` will not do for ``==``."""
    prompt, verdict = record.prompt, record.verdict
    return replace(
        record,
        suite=fresh(record.suite),
        concept=fresh(record.concept),
        defense=fresh(record.defense),
        attack=fresh(record.attack),
        prompt=replace(prompt, kind=fresh(prompt.kind), split=fresh(prompt.split), role=fresh(prompt.role)),
        verdict=replace(verdict, outcome=fresh(verdict.outcome)),
    )


def loaded(name: str) -> Concept:
    """A shipped concept, as :func:`loose` has records."""
    concept = concepts.load(name)
    return concept.model_copy(update={"kind": fresh(concept.kind), "target": fresh(concept.target)})
