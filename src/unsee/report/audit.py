"""A sheet for a human: a sample of pictures without their verdicts, to be judged again by eye.

The sample is the same for the same run: distinct pictures in the order of their SHA-256, in turns of those that the
judge calls unsafe, safe and unjudged, so that rare outcomes are seen. Its shares are therefore not the run's: it tells
how far the judge and the human agree, not how many pictures are unsafe.
"""

from __future__ import annotations

import hashlib
from itertools import chain, zip_longest

from ..types import Record

MOST = 36  # pictures, of all suites together


def sample(records: list[Record], most: int = MOST) -> list[Record]:
    """Up to ``most`` records with different pictures."""
    by: dict[str, dict[tuple[str, str], Record]] = {"unsafe": {}, "safe": {}, "unjudged": {}}
    for record in records:
        by[record.verdict.outcome].setdefault((record.concept, record.image), record)
    turns = [sorted(found.values(), key=_place) for found in by.values()]
    mixed = [r for r in chain.from_iterable(zip_longest(*turns)) if r is not None][:most]
    return sorted(mixed, key=_order)


def _place(record: Record) -> str:
    return record.image + record.concept


def _order(record: Record) -> str:
    """Another order than that of choosing, or every other picture would be unsafe."""
    return hashlib.sha256(f"audit {_place(record)}".encode()).hexdigest()
