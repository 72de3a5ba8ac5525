"""Rows as text: one formatting for the terminal, Markdown and HTML.

Rates are percentages with their 95 % interval in brackets, differences are percentage points against the
undefended model (negative is better). "p" is McNemar's over the same pairs, adjusted by Holm over the suite's table;
"±" is the longer arm of a mean's 95 % interval. A dash stands where a number does not apply or was not measured, "no
data" where it was to be but nothing could be judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..bench.rows import ResultRow

NOTHING, EMPTY = "–", "no data"
THIN = "\N{NO-BREAK SPACE}"  # between a number and its %
MINUS = "\N{MINUS SIGN}"
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
MARKS = re.compile(r"[\\`*\[\]<|~$]|&(?=[#\w])|(?<!\w)_|_(?!\w)")


@dataclass(frozen=True)
class Column:
    """A title and how a row fills it; ``number`` columns are aligned right and sorted by the row's ``key``."""

    title: str
    text: Callable[[ResultRow], str]
    number: bool = True
    key: str = ""


def percent(value: float | None) -> str:
    """A share in [0, 1] as a percentage, with a decimal only near the ends.

    >>> percent(0.934).split(), percent(None), percent(0.004).split()
    (['93', '%'], '–', ['0.4', '%'])
    """
    if value is None:
        return NOTHING
    return f"{_short(100 * value)}{THIN}%"


def rate(row: ResultRow) -> str:
    """``93 % [84, 97]``"""
    if row.unsafe_rate is None or row.low is None or row.high is None:
        return EMPTY
    return f"{percent(row.unsafe_rate)} [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def change(row: ResultRow) -> str:
    """``−81 [−89, −68]`` percentage points"""
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return _gap(row)
    points, low, high = (_signed(100 * x) for x in (row.difference, row.difference_low, row.difference_high))
    return f"{points} [{low}, {high}]"


def chance(row: ResultRow) -> str:
    """``<.001``, ``.034``, ``.43`` or ``1``: the adjusted p-value."""
    return _gap(row) if row.p_holm is None else chance_of(row.p_holm)


def chance_of(p: float) -> str:
    """As :func:`chance`.

    >>> chance_of(0.0004), chance_of(0.034), chance_of(0.5)
    ('<.001', '.034', '.50')
    """
    return "<.001" if p < 0.001 else _bare(p, 3 if p < 0.0995 else 2)


def literal(text: str) -> str:
    """A name as one line: what cannot be seen, or would move what follows, is written out.

    >>> print(literal("two\\nlines"), literal("sld:preset=strong"))
    two\\nlines sld:preset=strong
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escaped(text: str) -> str:
    """Text for Markdown, where it shows as it is written: nothing in it is a mark, a tag, a formula or a cell's end.

    >>> print(escaped("a|b $x$ <i> [y] `z` *w* snake_case"))
    a\\|b \\$x\\$ \\<i> \\[y\\] \\`z\\` \\*w\\* snake_case
    """
    return MARKS.sub(r"\\\g<0>", literal(text))


def kept(row: ResultRow | None) -> str:
    """``0.93 ±.02``: mean preservation, and the longer arm of its interval where there is one."""
    mean, low, high = (row.preservation, row.preservation_low, row.preservation_high) if row else (None, None, None)
    if mean is None or low is None or high is None:
        return _two(mean)
    return f"{_two(mean)} ±{_bare(max(mean - low, high - mean), 2)}"


def count(row: ResultRow) -> str:
    """``60``, or ``60 (2 unjudged)``"""
    return f"{row.n} ({row.unjudged} unjudged)" if row.unjudged else str(row.n)


COLUMNS = (
    Column("concept", lambda r: literal(r.concept), number=False),
    Column("defense", lambda r: literal(r.defense), number=False),
    Column("prompts", lambda r: _prompts(r), number=False),
    Column("n", count, key="n"),
    Column("unsafe [95 %]", rate, key="unsafe_rate"),
    Column("change, points", change, key="difference"),
    Column("p", chance, key="p_holm"),
    Column("touched", lambda r: percent(r.changed), key="changed"),
    Column("preserved", kept, key="preservation"),
    Column("CLIP", lambda r: _one(r.clip_score), key="clip_score"),
    Column("right", lambda r: percent(r.drawn_right), key="drawn_right"),
)


def cells(row: ResultRow) -> list[str]:
    """The texts of one row, in the order of ``COLUMNS``."""
    return [column.text(row) for column in COLUMNS]


def sorting(row: ResultRow) -> list[str]:
    """What each cell of a row is sorted by: the number behind it (empty where there is none), or its text."""
    values = [getattr(row, column.key) if column.key else column.text(row) for column in COLUMNS]
    return ["" if value is None else str(value) for value in values]


def markdown(rows: list[ResultRow]) -> str:
    """A Markdown table, for README and docs."""
    head = "| " + " | ".join(c.title for c in COLUMNS) + " |"
    rule = "|" + "|".join("---:" if c.number else "---" for c in COLUMNS) + "|"
    lines = (
        "| " + " | ".join(c.text(row) if c.number else escaped(c.text(row)) for c in COLUMNS) + " |" for row in rows
    )
    return "\n".join([head, rule, *lines]) + "\n"


def _prompts(row: ResultRow) -> str:
    attack = "" if row.attack == "none" else f" under {literal(row.attack)}"
    return literal(row.prompts) + ("" if row.split == "held-out" else f" ({row.split})") + attack


def _gap(row: ResultRow) -> str:
    """What stands for a comparison that is not there: the undefended model has none to make."""
    return NOTHING if row.defense == "none" else EMPTY


def _bare(value: float, digits: int) -> str:
    """Without the zero before the point; ``0.0`` and ``1.0`` as whole numbers.

    >>> _bare(0.034, 3), _bare(0.999, 2), _bare(0.001, 2)
    ('.034', '1', '0')
    """
    text = f"{value:.{digits}f}"
    return text.partition(".")[0] if float(text) in (0, 1) else text.removeprefix("0")


def _short(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 0.95 or 99.05 < value < 100 else f"{value:.0f}"


def _signed(value: float) -> str:
    text = f"{value:+.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", MINUS)


def _two(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}".replace("-", MINUS)


def _one(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
