"""Judge many, generate once: other judges over the images of a finished run, and the table of how well they agree.

The suite's own verdicts and rows stay as they are: a verdict is stored under its judge and version beside the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import concepts, judges
from ..errors import UserError
from ..metrics.agreement import Agreement, agreements
from ..sampling.invariance import THREADS, fixed
from ..types import Outcome, Prompt
from .generate import batches
from .store import Store


@dataclass(frozen=True)
class AgreementRow:
    """Two judges on one concept, each as "name version"."""

    concept: str
    agreement: Agreement

    def as_dict(self) -> dict[str, object]:
        return {"concept": self.concept} | vars(self.agreement)


def judge_again(folder: str | Path, judge: str, *, batch_size: int = 16,
                progress: Callable[[str, int, int], None] | None = None) -> int:  # fmt: skip
    """Show ``judge`` (``"clip:model=picto"``) every image of the run that it has not judged yet; how many those were.

    Nothing is drawn. Each batch is stored at once, so a stopped call goes on where it was. Raises ``UserError`` for an
    unknown judge, or one that lacks its extra or weights, before anything is judged.
    """
    other = judges.load(judge)
    with Store(folder, write=True) as store:
        known = {c.name: c for suite in store.suites().values() for c in map(concepts.load, suite.spec["concepts"])}
        asked: dict[str, dict[str, Prompt]] = {concept: {} for concept in known}
        for r in store.brief():
            if r.concept in asked:
                asked[r.concept][r.cell] = r.prompt
        todo = []
        for concept in known:
            have = store.have_verdicts(concept, other.name, other.version)
            todo.append((concept, [cell for cell in asked[concept] if cell not in have]))
        total, done = sum(len(cells) for _, cells in todo), 0
        for concept, cells in todo:
            for batch in batches(cells, batch_size):
                images = [store.image_of(cell) for cell in batch]
                with fixed(THREADS):
                    verdicts = other(images, [asked[concept][cell] for cell in batch], known[concept])
                store.put_verdicts(concept, dict(zip(batch, verdicts, strict=True)))
                done += len(batch)
                if progress:
                    progress("verdicts", done, total)
    return done


def agreement_table(folder: str | Path) -> list[AgreementRow]:
    """One row for each concept and pair of judges.

    Equal pictures count once. Raises ``UserError`` where only one judge has seen the images.
    """
    with Store(folder) as store:
        seen = store.outcomes()
    by: dict[str, dict[str, dict[str, Outcome]]] = {}
    for (concept, judge, version), outcomes in seen.items():
        by.setdefault(concept, {})[f"{judge} {version}"] = outcomes
    rows = [AgreementRow(concept, row) for concept, of in by.items() for row in agreements(of)]
    if not rows:
        do = f"show them to another one, for example: unsee judge {folder} clip:model=picto"
        raise UserError(f"the verdicts of two judges in {folder}", "those of one or none", do)
    return rows
