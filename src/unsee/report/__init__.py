"""Reports: rows and records → a sentence, tables, figures, an HTML file, its JSON, a model card. Nothing is measured.

from unsee import report
from unsee.bench.store import Store
with Store("runs/first") as store:
    report.write(store)                   # runs/first/report.html, report.json, report.md
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bench.store import Store
    from .collect import Run


def write(store: Store, run: Run | None = None, folder: Path | None = None) -> Path:
    """Write ``report.html``, ``report.json`` and ``report.md`` beside the store, or in ``folder``.

    Returns the path of the first. ``run`` is what was gathered of it, where that was done already.
    """
    from ..writing import whole
    from . import card, html
    from .collect import gather

    run = run or gather(store)
    made = {"report.html": html.page(run, store), "report.json": run.as_json(), "report.md": card.text(run)}
    place = folder or store.folder
    for name, text in made.items():
        with whole(place / name) as fresh:
            fresh.write_text(text, encoding="utf-8")
    return place / "report.html"
