"""Figures as inline SVG: text stays text, and ink takes the page's color, so they follow light and dark.

Colors are Okabe and Ito's (2008), told apart by the color-blind too; every series also has its own marker.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from ..bench.defenses import NONE

if TYPE_CHECKING:
    from ..types import Record

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GRAY = "#808080"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
INK = "#010203"  # stands for the page's text color; replaced by currentColor
KINDS = ("benign", "plain", "neighbor", "synonym", "empty")  # in the order of PALETTE
WIDTH = 5.0  # inches; small, so that 12 pt stays readable on a phone


def tradeoff(rows: list[dict[str, Any]]) -> str:
    """Defense against preservation: unsafe rate of unsafe prompts over likeness of benign pictures.

    One point for each concept and defense, with its 95 % interval; bottom right is best. Empty text where
    the model has no preservation metric or the suite no benign prompts.
    """
    points = _points(rows)
    if not points:
        return ""
    concepts, defenses = _ordered(points, "concept"), _ordered(points, "defense")
    figure, axes = _canvas(4.6)
    for point in points:
        rate = 100 * point["rate"]
        axes.errorbar(
            point["kept"],
            rate,
            yerr=[[max(0, rate - 100 * point["low"])], [max(0, 100 * point["high"] - rate)]],
            color=_color(point["defense"], defenses),
            marker=MARKERS[concepts.index(point["concept"]) % len(MARKERS)],
            markersize=9,
            elinewidth=1.6,
            alpha=0.9,
            markeredgecolor="none",
        )
    axes.set_xlabel("likeness kept on benign prompts (right is better)")
    axes.set_ylabel("unsafe pictures, % (low is better)")
    axes.set_ylim(-4, 104)
    low = min(p["kept"] for p in points)
    axes.set_xlim(min(0.0, low) - 0.04, 1.06)
    axes.grid(color=GRAY, alpha=0.25, linewidth=0.8)
    _legend(axes, concepts, defenses)
    return _svg(figure, "Unsafe rate of each defense over the likeness it keeps on benign prompts")


def rates(rows: list[dict[str, Any]]) -> str:
    """Unsafe rate of each defense on each concept's unsafe prompts, as points with 95 % intervals."""
    rows = [r for r in rows if r["prompts"] in ("plain", "synonym") and r["unsafe_rate"] is not None]
    if not rows:
        return ""
    defenses = list(dict.fromkeys(r["defense"] for r in rows))
    lines = list(dict.fromkeys((r["concept"], r["prompts"]) for r in rows))
    figure, axes = _canvas(0.9 + len(lines) * (0.16 + 0.16 * len(defenses)))
    for row in rows:
        place = lines.index((row["concept"], row["prompts"]))
        offset = (defenses.index(row["defense"]) - (len(defenses) - 1) / 2) * 0.7 / len(defenses)
        share = 100 * row["unsafe_rate"]
        axes.errorbar(
            share,
            place + offset,
            xerr=[[max(0, share - 100 * row["low"])], [max(0, 100 * row["high"] - share)]],
            color=_color(row["defense"], defenses),
            marker=MARKERS[defenses.index(row["defense"]) % len(MARKERS)],
            markersize=6.5,
            elinewidth=2,
            markeredgecolor="none",
        )
    axes.set_yticks(range(len(lines)), [f"{c}\n{p}" if p != "plain" else c for c, p in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("unsafe pictures, %")
    axes.grid(axis="x", color=GRAY, alpha=0.25, linewidth=0.8)
    handles = [
        _handle(_color(d, defenses), MARKERS[i % len(MARKERS)], "undefended" if d == NONE else d)
        for i, d in enumerate(defenses)
    ]
    _place(axes, handles)
    return _svg(figure, "Unsafe rate of each defense with its 95 % interval")


def watched(records: list[Record], defense: str) -> str:
    """What a watching guard saw: p(unsafe) over the steps, for each kind of prompt its median and 10-90 % band.

    Reads the ``p`` of the decisions that ``defense`` (a guard's registered name) recorded; empty text without any.
    """
    seen: dict[str, dict[int, list[float]]] = {}
    for record in records:
        for event in record.decisions:
            if event["defense"] == defense and "p" in event:
                seen.setdefault(record.prompt.kind, {}).setdefault(event["step"], []).append(event["p"])
    if not seen:
        return ""
    figure, axes = _canvas(3.4)
    for kind in KINDS:
        steps = sorted(seen.get(kind, {}))
        if not steps:
            continue
        low, middle, high = zip(*(quantiles(seen[kind][step]) for step in steps), strict=True)
        color, images = PALETTE[KINDS.index(kind)], len(seen[kind][steps[0]])
        axes.fill_between(steps, low, high, color=color, alpha=0.22, linewidth=0)
        axes.plot(steps, middle, color=color, linewidth=2.2, label=f"{kind} ({images} images)")
    axes.set_xlabel("denoising step (0 is pure noise)")
    axes.set_ylabel("p(unsafe)")
    axes.set_ylim(-0.03, 1.03)
    axes.grid(color=GRAY, alpha=0.25, linewidth=0.8)
    _place(axes, axes.get_legend_handles_labels()[0])
    return _svg(figure, f"p(unsafe) that {defense} saw over the denoising steps, by kind of prompt")


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """10 %, 50 % and 90 % of ``values``."""
    import numpy as np

    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return float(low), float(middle), float(high)


def _points(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """(concept, defense) with an unsafe rate on plain prompts and a preservation on benign ones."""
    kept = {
        (r["suite"], r["concept"], r["defense"]): r["preservation"]
        for r in rows
        if r["prompts"] == "benign" and r["preservation"] is not None
    }
    return [
        {
            "concept": r["concept"], "defense": r["defense"], "rate": r["unsafe_rate"], "low": r["low"],
            "high": r["high"], "kept": kept[r["suite"], r["concept"], r["defense"]],
        }
        for r in rows
        if r["prompts"] == "plain"
        and r["unsafe_rate"] is not None
        and (r["suite"], r["concept"], r["defense"]) in kept
    ]  # fmt: skip


def _ordered(points: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(p[key] for p in points))


def _color(defense: str, defenses: list[str]) -> str:
    """Gray for the undefended model; the others in order."""
    named = [d for d in defenses if d != NONE]
    return GRAY if defense == NONE else PALETTE[named.index(defense) % len(PALETTE)]


def _canvas(height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    # rc settings are read while artists are made, and text is kept as text by svg.fonttype when saved.
    with matplotlib.rc_context({"font.size": 12, "font.family": "sans-serif"}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRAY)
    axes.tick_params(colors=INK, labelsize=12, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.label.set_fontsize(12)
    axes.yaxis.label.set_fontsize(12)
    return figure, axes


def _handle(color: str, marker: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, marker=marker, linestyle="none", markersize=8, markeredgewidth=0, label=label)


def _legend(axes: Any, concepts: list[str], defenses: list[str]) -> None:
    """Colors for defenses, markers for concepts (left out for a single one)."""
    handles = [_handle(_color(d, defenses), "o", "undefended" if d == NONE else d) for d in defenses]
    if len(concepts) > 1:
        marks = [_handle(INK, MARKERS[i % len(MARKERS)], c) for i, c in enumerate(concepts)]
        blank = _handle("none", "", " ")
        rows = max(len(handles), len(marks))  # matplotlib fills column by column
        handles += [blank] * (rows - len(handles)) + marks + [blank] * (rows - len(marks))
    _place(axes, handles)


def _place(axes: Any, handles: list[Any]) -> None:
    legend = axes.figure.legend(
        handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=11, handletextpad=0.3
    )
    for text in legend.get_texts():
        text.set_color(INK)


def _svg(figure: Any, label: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: the same rows give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unsee"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = text.replace(INK, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
