"""What the terminal shows: progress on stderr, tables and sentences on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ..bench.claims import ClaimRow
    from ..bench.judging import AgreementRow
    from ..bench.rows import ResultRow
    from ..bench.selftest import Check
    from ..erase import Erased
    from .settings import Line

LINES = 400  # of a result table in the terminal


def say(text: str) -> None:
    """Print a line with rich markup (names in it go through ``escape``); long paths stay whole without a terminal."""
    Console(soft_wrap=True, highlight=False, emoji=False).print(text)


def plain(text: str) -> None:
    """Print a line as it is: what an attack finds may look like markup."""
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)


@contextmanager
def progress(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for the length of the block, one line for each stage, gone when it ends; in a log, lines now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log(every=30)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<9}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {first: bar.add_task(first, total=None)}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                bar.remove_task(tasks.pop(first)) if first in tasks else None
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield update


def _log(every: float) -> Callable[[str, int, int], None]:
    """Plain lines on stderr, ``every`` so many seconds at most: none from what is done sooner."""
    last = time.monotonic()

    def update(stage: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every:
            last = now
            sys.stderr.write(f"{stage}: {done} of {total}\n")
            sys.stderr.flush()

    return update


def record(values: Line) -> None:
    """What a fit says of itself, a line for each value."""
    for key, value in values.items():
        Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(f"  {key}: {value}", style="dim")


def rows(found: list[ResultRow]) -> None:
    """The result table, one block under the name of each concept."""
    from ..report.table import COLUMNS, cells, literal

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in COLUMNS[1:]:
        widest = max((len(word) for row in found[:LINES] for word in column.text(row).split()), default=0)
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            no_wrap=column.title not in ("defense", "prompts", "n"),
            overflow="fold",
            min_width=min(widest, 24) if column.title == "prompts" else None,  # an attack's name in one piece
        )
    last = None
    for row in found[:LINES]:
        if row.concept != last:
            if last is not None:
                table.add_row()
            table.add_row(literal(row.concept), style="bold")
        last = row.concept
        table.add_row(*cells(row)[1:], style="dim" if row.defense == "none" else "")
    console = Console(soft_wrap=False, width=max(Console().width, 118), highlight=False, markup=False, emoji=False)
    console.print(table)
    if found[LINES:]:
        plain(f"… and {len(found) - LINES:,} rows more: in the report, and with --json")


def erased(found: Erased) -> None:
    """What ``unsee erase`` tried, the proof of the winner, and where it lies."""
    from ..erase.card import line, sentence

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("candidate", "DSR, worst [95 %]", "worst attack", "mean DSR", "preserved", ""):
        table.add_column(title, justify="right" if title[:1] in "DmP" else "left", overflow="fold")
    for score in found.table:
        texts = line(score, found.winner)
        table.add_row(*texts[:-1], texts[-1].replace("**", ""), style="bold" if score.name == found.winner else "")
    Console(width=max(Console().width, 118), highlight=False, markup=False, emoji=False).print(table)
    if found.rows:
        say("")
        rows(list(found.rows))
    plain(f"\n{sentence(found)}")
    if found.folder:
        folder, report = (escape(str(path)) for path in (found.folder, found.folder / "report.html"))
        say(f"defense: [bold]{folder}[/bold]\nreport: [bold]{report}[/bold]")


def agreements(found: list[AgreementRow]) -> None:
    """Cohen's kappa of each concept and pair of judges, on the images that both judged."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("concept", "judge", "other judge", "images", "unjudged", "equal", "kappa [95 %]"):
        left = title in ("concept", "judge", "other judge")
        table.add_column(title, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in found:
        pair = row.agreement
        equal = "no data" if pair.observed is None else f"{100 * pair.observed:.0f} %"
        # Where both call every image the same, there is no chance to do better than.
        kappa = "no data" if pair.kappa is None else f"{pair.kappa:.2f} [{pair.low:.2f}, {pair.high:.2f}]"
        counts = (str(pair.n), str(pair.unjudged))
        table.add_row(row.concept, pair.first, pair.second, *counts, equal, kappa)
    Console(highlight=False, markup=False, emoji=False).print(table)


def grips(found: list[Line]) -> None:
    """r and cosine of each negative, on the model and on the host, by time."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("where", "negative", "t", "r", "95 %", "cosine", "95 %", "prompts"):
        table.add_column(title, justify="left" if title in ("where", "negative") else "right")
    for row in found:
        t = "all" if row["t"] is None else f"{row['t']:.0f}"
        r = (f"{row['r']:.2f}", f"{row['low']:.2f}–{row['high']:.2f}")
        cosine = (f"{row['cosine']:.2f}", f"{row['cosine_low']:.2f}–{row['cosine_high']:.2f}")
        numbers = (*r, *cosine, str(row["n"]))
        table.add_row(row["where"], row["negative"], t, *numbers, style="bold" if row["t"] is None else "dim")
    Console(highlight=False, markup=False, emoji=False).print(table)


def settings(found: list[Line]) -> None:
    """A line for each setting: its name, what it may be, its default, what it means."""
    from .settings import usual

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("setting", "type and range", "default", "meaning"):
        table.add_column(title, no_wrap=title == "setting", overflow="fold")
    for row in found:
        table.add_row(row["name"], row["type"], usual(row), row["sentence"])
    Console(width=max(Console().width, 118), highlight=False, markup=False).print(table)


def names(found: list[dict[str, str]]) -> None:
    """A line for each name, a block for each kind; the package where it is not ours."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "package", "where, or what for"):
        table.add_column(title, no_wrap=title == "name", overflow="fold")
    last = None
    for row in found:
        if row["kind"] != last:
            if last is not None:
                table.add_row()
            table.add_row(row["kind"], style="bold")
        last = row["kind"]
        table.add_row(row["name"], row["package"], row["about"])
    Console(width=max(Console().width, 118), highlight=False, markup=False, emoji=False).print(table)


def checks(results: list[Check]) -> None:
    """The self-test: a line for each check, failures with their reason."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("check")
    table.add_column("seconds", justify="right")
    table.add_column("detail", overflow="fold")
    for check in results:
        mark = "[green]✓[/green]" if check.ok else "[red]✗ failed[/red]"
        told = escape(check.name), f"{check.seconds:.2f}", escape(check.detail)
        table.add_row(mark, *told)
    bad = sum(not check.ok for check in results)
    Console(highlight=False).print(table)
    say(
        f"\n[red]{bad} of {len(results)} checks failed[/red]"
        if bad
        else f"\n[green]all {len(results)} checks passed[/green]"
    )


def claims(found: list[ClaimRow]) -> None:
    """A line for each claim: its verdict, its paper, what it says."""
    colors = {"reproduced": "green", "not reproduced": "red", "inconclusive": "yellow"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ({"no_wrap": True}, {"style": "dim", "no_wrap": True}, {}):
        table.add_column(**column)
    for claim in found:
        color = colors.get(claim.verdict, "dim")
        table.add_row(f"[{color}]{claim.verdict}[/{color}]", escape(claim.paper), escape(claim.text))
    if found:
        Console(highlight=False, emoji=False).print("\n", table)
