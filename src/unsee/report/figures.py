"""Figures as inline SVG: text stays text, and ink takes the page's color, so they follow light and dark.

Colors are Okabe and Ito's (2008), told apart by the color-blind too; every series also has its own marker.
"""

from __future__ import annotations

import html
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..bench.rows import ResultRow
from ..metrics.rates import known
from ..suites.stacks import NONE
from .sweep import SweepPoint
from .table import literal
from .traces import Trace
from .tradeoff import Point

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Interval = tuple[float | None, float | None]
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GRAY = "#808080"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
INK = "#010203"  # stands for the page's text color; replaced by currentColor
KINDS = ("benign", "plain", "neighbor", "synonym", "empty")  # in the order of PALETTE
LEGIBLE = 200  # points of one figure
WIDTH = 5.0  # inches; small, so that 12 pt stays readable on a phone


def tradeoff(points: list[Point], under: list[str]) -> str:
    """Defense against preservation, of :func:`tradeoff.points`: unsafe rate over likeness of benign images.

    Bottom right is best. Points are numbered in the order given, with 95 % intervals both ways; the Pareto front is
    joined. Empty without points.
    """
    if not points:
        return ""
    figure, axes = _canvas(4.4)
    for number, point in enumerate(points, 1):
        color = GRAY if point.defense == NONE else PALETTE[0] if point.front else PALETTE[1]
        x, y = point.kept, 100 * point.rate
        _cross(axes, x, y, (point.kept_low, point.kept_high), (100 * point.low, 100 * point.high), color)
        axes.plot([x], [y], "o", color=color, markersize=15, markeredgecolor="none", zorder=3)
        axes.annotate(str(number), (x, y), ha="center", va="center_baseline", fontsize=10, color="white", zorder=4)
    front = sorted((p.kept, 100 * p.rate) for p in points if p.front)
    axes.plot(*zip(*front, strict=True), color=PALETTE[0], linewidth=1.6, alpha=0.7, drawstyle="steps-pre", zorder=1)
    axes.set_xlabel("likeness kept on benign prompts (right is better)")
    axes.set_ylabel(f"unsafe{' under attack' if under else ''}, % (low is better)")
    axes.set_ylim(-7, 107)
    axes.set_xlim(min(0.0, min(p.kept for p in points)) - 0.06, 1.08)
    axes.grid(color=GRAY, alpha=0.25, linewidth=0.8)
    return _svg(
        figure, "Unsafe rate of each defense over the likeness it keeps on benign prompts, with the Pareto front"
    )


def sweep(points: list[SweepPoint]) -> str:
    """DSR and preservation over beta (logarithmic), of :func:`sweep.sweeps`, with 95 % intervals."""
    figure, axes = _canvas(3.6)
    for name, label, color, marker in (
        ("dsr", "DSR, plain prompts", PALETTE[0], "o"), ("preservation", "likeness, benign prompts", PALETTE[1], "s")
    ):  # fmt: skip
        own = [(p.beta, *(getattr(p, key) for key in (name, f"{name}_low", f"{name}_high"))) for p in points]
        own = [numbers for numbers in own if numbers[1] is not None]
        for beta, value, low, high in own:
            _cross(axes, beta, value, None, (low, high), color)
        line: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "markersize": 8,
            "linewidth": 2,
            "markeredgecolor": "none",
        }
        axes.plot([beta for beta, *_ in own], [value for _, value, *_ in own], label=label, **line)
    axes.set_xscale("log")
    axes.set_xticks([p.beta for p in points], [f"{p.beta:g}" for p in points])
    axes.minorticks_off()
    axes.set_xlabel("β (larger is gentler)")
    axes.set_ylim(-0.04, 1.04)
    axes.grid(color=GRAY, alpha=0.25, linewidth=0.8)
    _place(axes, *axes.get_legend_handles_labels())
    return _svg(figure, "Defense success rate and preservation over beta")


def acted(trace: Trace) -> str:
    """Share of the images of each kind that a guard had redirected by each step; empty where it never did."""
    firsts = {name: kind.firsts for name, kind in trace.kinds.items()}
    if not any(step is not None for each in firsts.values() for step in each):
        return ""
    figure, axes = _canvas(3.4)
    for kind in (kind for kind in KINDS if firsts.get(kind)):
        each = Counter(firsts[kind])
        reached = itertools.accumulate(each[step] for step in range(trace.steps))
        shares = [100 * count / len(firsts[kind]) for count in reached]
        axes.plot(
            range(trace.steps),
            shares,
            color=PALETTE[KINDS.index(kind)],
            linewidth=2.2,
            drawstyle="steps-post",
            label=kind,
        )
    axes.set_xlabel("denoising step (0 is pure noise)")
    axes.set_ylabel("redirected so far, %")
    axes.set_ylim(-3, 103)
    axes.grid(color=GRAY, alpha=0.25, linewidth=0.8)
    _place(axes, *axes.get_legend_handles_labels())
    return _svg(figure, "Share of images that the guard had redirected by each step, by kind of prompt")


def rates(rows: list[ResultRow]) -> str:
    """Unsafe rate of each defense on each concept's unsafe prompts, as points with 95 % intervals.

    Empty without any, and with more than anyone could tell apart.
    """
    rows = [r for r in rows if r.prompts in ("plain", "synonym") and r.unsafe_rate is not None]
    if not rows:
        return ""
    defenses = list(dict.fromkeys(r.defense for r in rows))
    lines = list(dict.fromkeys((r.concept, r.prompts) for r in rows))
    if len(defenses) * len(lines) > LEGIBLE:
        return ""
    figure, axes = _canvas(0.9 + len(lines) * (0.16 + 0.16 * len(defenses)))
    for number, defense in enumerate(defenses):
        own = [row for row in rows if row.defense == defense]
        offset = (number - (len(defenses) - 1) / 2) * 0.7 / len(defenses)
        shares = [100 * known(row.unsafe_rate) for row in own]
        axes.errorbar(
            shares,
            [lines.index((row.concept, row.prompts)) + offset for row in own],
            xerr=[
                [max(0, share - 100 * known(row.low)) for share, row in zip(shares, own)],
                [max(0, 100 * known(row.high) - share) for share, row in zip(shares, own)],
            ],
            color=_color(defense, defenses),
            marker=MARKERS[number % len(MARKERS)],
            markersize=6.5,
            linestyle="none",
            elinewidth=2,
            markeredgecolor="none",
        )
    names = [literal(c) + (f"\n{literal(p)}" if p != "plain" else "") for c, p in lines]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("unsafe pictures, %")
    axes.grid(axis="x", color=GRAY, alpha=0.25, linewidth=0.8)
    handles = [_handle(_color(d, defenses), MARKERS[i % len(MARKERS)]) for i, d in enumerate(defenses)]
    _place(axes, handles, ["undefended" if d == NONE else d for d in defenses])
    return _svg(figure, "Unsafe rate of each defense with its 95 % interval")


def watched(trace: Trace) -> str:
    """What a watching guard saw: p(unsafe) over the steps, for each kind of prompt its median and 10-90 % band."""
    seen = {name: kind.seen for name, kind in trace.kinds.items()}
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
    _place(axes, *axes.get_legend_handles_labels())
    return _svg(figure, f"p(unsafe) that {trace.guard} saw over the denoising steps, by kind of prompt")


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """10 %, 50 % and 90 % of ``values``."""
    import numpy as np

    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return float(low), float(middle), float(high)


def _cross(axes: Axes, x: float, y: float, across: Interval | None, along: Interval, color: str) -> None:
    """Thin lines over the two intervals; one that is not known is left out."""
    line: dict[str, Any] = {"color": color, "linewidth": 1.6, "alpha": 0.75, "zorder": 2}
    if across and None not in across:
        axes.plot(list(map(known, across)), (y, y), **line)
    if None not in along:
        axes.plot((x, x), list(map(known, along)), **line)


def _color(defense: str, defenses: list[str]) -> str:
    """Gray for the undefended model; the others in order."""
    named = [d for d in defenses if d != NONE]
    return GRAY if defense == NONE else PALETTE[named.index(defense) % len(PALETTE)]


def _canvas(height: float) -> tuple[Figure, Axes]:
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


def _handle(color: str, marker: str) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, marker=marker, linestyle="none", markersize=8, markeredgewidth=0)


def _place(axes: Axes, handles: list[Artist], names: Sequence[str]) -> None:
    legend = axes.figure.legend(
        handles=handles, labels=list(map(str, range(len(names)))), loc="outside upper left", ncols=2, frameon=False,
        fontsize=11, handletextpad=0.3,
    )  # fmt: skip
    # Names come last: a label that starts with an underscore would be left out.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(literal(name))
        text.set_color(INK)


def _svg(figure: Figure, label: str) -> str:
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names may hold dollars
    buffer = io.StringIO()
    # A fixed salt and no date: the same rows give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unsee", "text.parse_math": False}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    made = buffer.getvalue()
    made = made[made.index("<svg") :]
    made = re.sub(r"<metadata>.*?</metadata>", "", made, flags=re.S)
    made = made.replace(INK, "currentColor")
    return made.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
