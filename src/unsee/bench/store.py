"""Where results live: records in SQLite, images as PNG named by the sha256 of their bytes.

    R/store.sqlite          suites, cells, images, verdicts, measures, marks (which part of a suite this is, of what)
    R/images/ab/abcd….png   written beside and renamed: a file is whole or not there
    R/defenses/…            what was fitted for the run
    R/records.parquet       the export, one line per record

Images are generated once and judged many times, so a verdict is keyed by judge and version, and an
image only by its content address. One process writes at a time; any number may read.

Of the export, ``TIMINGS`` differ from run to run. All other columns are equal row for row for any batch size, any
number of workers and shards, either engine, killed and resumed or not (on one kind of processor, see :mod:`.exact`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import BadFile, UserError
from ..files import (
    PICTURE,
    Database,
    Locked,
    Row,
    columns,
    decode_image,
    exists,
    open_sqlite,
    read_bytes,
    whole,
    write_parquet,
)
from ..types import Outcome, Record, Sample, Verdict
from . import lines
from .plan import Cell, Suite

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1  # of the tables below
TIMINGS = ("seconds",)  # columns of the export that no two runs share
MARKS = "CREATE TABLE IF NOT EXISTS marks (suite TEXT PRIMARY KEY, mark TEXT)"  # of a suite; older stores have none
TABLES = """
CREATE TABLE suites (name TEXT PRIMARY KEY, digest TEXT, spec TEXT, judge_version TEXT, versions TEXT, machine TEXT);
CREATE TABLE cells (
    suite TEXT, ordinal INTEGER, model TEXT, concept TEXT, defense TEXT, attack TEXT, kind TEXT, split TEXT,
    place INTEGER, cell TEXT, twin TEXT, prompt TEXT,
    PRIMARY KEY (suite, concept, defense, attack, kind, split, place));
CREATE TABLE images (cell TEXT PRIMARY KEY, image TEXT, seconds REAL, decisions TEXT, versions TEXT);
CREATE TABLE verdicts (
    cell TEXT, concept TEXT, judge TEXT, version TEXT, outcome TEXT, score REAL, reason TEXT, labels TEXT,
    PRIMARY KEY (cell, concept, judge, version));
CREATE TABLE measures (cell TEXT, twin TEXT, preservation REAL, clip_score REAL, PRIMARY KEY (cell, twin));
"""
COLUMNS = {  # that are read, by table
    "suites": ("name", "digest", "spec", "judge_version", "versions", "machine"),
    "cells": ("suite", "ordinal", "model", "concept", "defense", "attack", "kind", "split", "place", "cell", "twin",
              "prompt"),
    "images": ("cell", "image", "seconds", "decisions", "versions"),
    "verdicts": ("cell", "concept", "judge", "version", "outcome", "score", "reason", "labels"),
    "measures": ("cell", "twin", "preservation", "clip_score"),
}  # fmt: skip
RECORDS = """
SELECT c.*, i.image, i.seconds, i.decisions, i.versions, v.outcome, v.score, v.judge, v.version, v.reason, v.labels,
       m.preservation, m.clip_score
FROM cells c JOIN suites s ON s.name = c.suite JOIN images i ON i.cell = c.cell
JOIN verdicts v ON v.cell = c.cell AND v.concept = c.concept
     AND v.judge = substr(s.spec ->> '$.judge', 1, instr((s.spec ->> '$.judge') || ':', ':') - 1)
     AND v.version = s.judge_version
LEFT JOIN measures m ON m.cell = c.cell AND m.twin = c.twin
ORDER BY c.suite, c.ordinal, c.place
"""
OUTCOMES = """
SELECT DISTINCT v.concept, v.judge, v.version, v.outcome, i.image
FROM cells c JOIN images i ON i.cell = c.cell JOIN verdicts v ON v.cell = c.cell AND v.concept = c.concept
ORDER BY v.concept, v.judge, v.version, i.image, v.outcome
"""


class Store:
    """A run folder. Reading needs no lock; ``write=True`` makes this process its one writer."""

    def __init__(self, folder: str | Path, *, write: bool = False) -> None:
        self.folder = Path(folder)
        self._lock: Database | None = None
        path = self.folder / "store.sqlite"
        if not write and not exists(path):
            raise BadFile("the folder of a run", f"no store in {folder}", "make one with unsee bench SUITE --out R")
        if write:
            self._take()
        try:
            self._db = open_sqlite(path, "a store of unsee", "choose another folder", new=write)
        except BaseException:
            self._unlock()
            raise
        self._db.row_factory = Row
        try:
            self._open(write)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # -- writing ------------------------------------------------------------------------------

    def put_suite(self, suite: Suite, judge_version: str, versions: dict[str, str], machine: dict[str, Any]) -> None:
        """Register a suite. If it changed since the last run its records go; its images stay, by address.

        Measures do not say what made them. So those of changed metrics go too, and two suites of one model in a folder
        are measured alike: else :class:`UserError`.
        """
        spec = suite.model_dump_json()
        for name, other in self.suites().items():
            if (other["spec"]["model"], other["spec"].get("metrics", {})) == (suite.model, suite.metrics):
                continue
            if name == suite.name:
                with self._transaction() as db:
                    db.execute("DELETE FROM measures WHERE cell IN (SELECT cell FROM cells WHERE suite = ?)", (name,))
            elif other["spec"]["model"] == suite.model:
                where = f"the metrics of suite {name}, which is in {self.folder}"
                raise UserError(where, f"others in suite {suite.name}", "choose another --out")
        with self._transaction() as db:
            old = db.execute("SELECT digest FROM suites WHERE name = ?", (suite.name,)).fetchone()
            if old and old["digest"] != suite.digest:
                db.execute("DELETE FROM cells WHERE suite = ?", (suite.name,))
                db.execute("DELETE FROM marks WHERE suite = ?", (suite.name,))
            values = (suite.name, suite.digest, spec, judge_version, _dump(versions), _dump(machine))
            db.execute("INSERT OR REPLACE INTO suites VALUES (?, ?, ?, ?, ?, ?)", values)

    def put_mark(self, suite: str, mark: dict[str, Any]) -> None:
        """Say which shard of ``suite`` this folder holds, and what it was made with. What was planned stays planned."""
        self.check_shard(suite, mark["shard"])
        old = self.mark(suite)
        joined = {key: old.get(key, {}) | mark[key] for key in ("planned", "defenses")}
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (suite, _dump(mark | joined)))

    def check_shard(self, suite: str, shard: str) -> None:
        """Raises :class:`UserError` if this folder holds another shard of ``suite``."""
        held = self.mark(suite).get("shard", shard)
        if held != shard:
            raise UserError(f"a folder of shard {shard}", f"{self.folder} of shard {held}", "choose another --out")

    def take_over(self, other: Store) -> None:
        """All of a shard that was run elsewhere, under the mark of the whole; what is there already stays.

        Pictures first, so that no line names one that is not there.
        """
        for row in other._db.execute("SELECT DISTINCT image FROM images"):
            if not self.path(row["image"]).exists():
                self._put_image(other.image(row["image"]))
        with self._transaction() as db:
            for table in ("suites", "cells", "images", "verdicts", "measures"):
                rows = [tuple(row) for row in other._db.execute(f"SELECT * FROM {table}")]
                if rows:
                    db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({_marks(len(rows[0]))})", rows)
            for name in other.suites():
                whole = other.mark(name) | {"shard": "1/1"}
                db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, _dump(whole)))

    def put_cells(self, suite: str, model: str, ordinal: int, cells: Iterable[Cell]) -> None:
        """Write down what one group will hold, in place of what it held."""
        lines = [
            (suite, ordinal, model, c.concept, c.defense, c.attack, c.prompt.kind, c.prompt.split, c.place, c.cell,
             c.twin, _dump(asdict(c.prompt)))
            for c in cells
        ]  # fmt: skip
        with self._transaction() as db:
            db.executemany(f"INSERT OR REPLACE INTO cells VALUES ({_marks(12)})", lines)

    def put_samples(self, samples: dict[str, Sample], versions: dict[str, str]) -> None:
        """Store a batch in one transaction. An image that is there already stays as it is."""
        lines = [
            (cell, self._put_image(s.image), s.seconds, _dump(s.decisions), _dump(versions))
            for cell, s in samples.items()
        ]
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", lines)

    def put_verdicts(self, concept: str, verdicts: dict[str, Verdict]) -> None:
        lines = [
            (cell, concept, v.judge, v.version, v.outcome, v.score, v.reason, _dump(v.labels))
            for cell, v in verdicts.items()
        ]
        with self._transaction() as db:
            db.executemany(f"INSERT OR REPLACE INTO verdicts VALUES ({_marks(8)})", lines)

    def put_measures(self, lines: Iterable[tuple[str, str, float | None, float | None]]) -> None:
        """(cell, twin, preservation, clip_score) each."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?)", list(lines))

    # -- reading ------------------------------------------------------------------------------

    def suites(self) -> dict[str, dict[str, Any]]:
        """Name → spec, judge_version, versions, machine, and how many images are planned."""
        planned = dict(self._db.execute("SELECT suite, count(*) FROM cells GROUP BY suite").fetchall())
        return {
            lines.text(row["name"], self._db.path, "name of a suite"): {
                "spec": lines.checked(lines.Spec, row["spec"], self._db.path, f"spec of suite {row['name']}"),
                "judge_version": lines.text(row["judge_version"], self._db.path, "judge_version"),
                "versions": lines.value(dict[str, str], row["versions"], self._db.path, "versions"),
                "machine": lines.value(dict[str, Any], row["machine"], self._db.path, "machine"),
                "planned": planned.get(row["name"], 0),
            }
            for row in self._db.execute("SELECT * FROM suites ORDER BY name")
        }

    def mark(self, suite: str) -> dict[str, Any]:
        """What :meth:`put_mark` said of a suite; empty for a run of before there were shards."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'marks'").fetchone():
            return {}
        row = self._db.execute("SELECT mark FROM marks WHERE suite = ?", (suite,)).fetchone()
        return lines.checked(lines.Mark, row["mark"], self._db.path, f"mark of suite {suite}") if row else {}

    def records(self) -> list[Record]:
        """Everything that was made and judged, in plan order."""
        return [lines.record(row, self._db.path) for row in self._db.execute(RECORDS)]

    def have_images(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT cell FROM images")}

    def have_verdicts(self, concept: str, judge: str, version: str) -> set[str]:
        query = "SELECT cell FROM verdicts WHERE concept = ? AND judge = ? AND version = ?"
        return {row[0] for row in self._db.execute(query, (concept, judge, version))}

    def outcomes(self) -> dict[tuple[str, str, str], dict[str, Outcome]]:
        """(concept, judge, version) → image digest → outcome, of every judge that was asked.

        By picture, not by cell: what a guard let alone is the undefended picture again, and no second opinion.
        """
        said: dict[tuple[str, str, str], dict[str, Outcome]] = {}
        for row in self._db.execute(OUTCOMES):
            outcome = lines.outcome(row["outcome"], self._db.path)
            said.setdefault((row["concept"], row["judge"], row["version"]), {})[row["image"]] = outcome
        return said

    def have_measures(self) -> set[tuple[str, str]]:
        return {(row[0], row[1]) for row in self._db.execute("SELECT cell, twin FROM measures")}

    def image_of(self, cell: str) -> Image:
        """The RGB image of a cell."""
        return self.image(self.digest_of(cell))

    def digest_of(self, cell: str) -> str:
        """The sha256 of a cell's image file."""
        row = self._db.execute("SELECT image FROM images WHERE cell = ?", (cell,)).fetchone()
        return lines.digest(row and row["image"], self._db.path)

    def image(self, digest: str) -> Image:
        """The RGB image with this sha256. Raises :class:`BadFile` if it is missing or was changed."""
        path = self.path(digest)
        data = read_bytes(path, "the image of a run", lines.DO, PICTURE)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BadFile(f"the image {path} as stored", "other bytes", lines.DO)
        return decode_image(data, path, do=lines.DO)

    def path(self, digest: str) -> Path:
        """Where the image with this sha256 lies, and nowhere else."""
        name = lines.digest(digest, self._db.path)
        return self.folder / "images" / name[:2] / f"{name}.png"

    def export(self, path: str | Path) -> Path:
        """All records as Parquet: one line each, nested values as JSON text."""
        path = Path(path)
        with whole(path) as fresh:
            write_parquet(fresh, (_flat(r) for r in self.records()))
        return path

    # -- inside -------------------------------------------------------------------------------

    def _take(self) -> None:
        """Become the one writer. A database lock needs no cleaning up: it dies with the process."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise BadFile("a folder for the run", f"{self.folder} ({why})", "choose another --out") from None
        lock = self.folder / "writer.lock"
        do = "remove that file, or choose another --out"
        self._lock = open_sqlite(lock, "the lock of a run", do, new=True, timeout=0.2, isolation_level=None)
        try:
            self._lock.execute("BEGIN EXCLUSIVE")
        except Locked:
            self._unlock()
            raise UserError(
                "a run folder with one writer",
                f"{self.folder} in use by another process",
                "wait or choose another --out",
            ) from None
        except BaseException:
            self._unlock()
            raise
        for left in (self.folder / "images").glob("fresh-*"):  # of a run that was killed
            left.unlink()

    def _open(self, write: bool) -> None:
        if write:
            self._db.execute("PRAGMA journal_mode = WAL")
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and write:
            self._db.executescript(f"BEGIN; {TABLES} {MARKS}; PRAGMA user_version = {VERSION}; COMMIT;")
        elif found != VERSION:
            raise BadFile(f"a store of version {VERSION}", f"version {found}", "run the suite in a new folder")
        columns(self._db, COLUMNS)
        if write:
            with self._db:
                self._db.execute(MARKS)

    @contextmanager
    def _transaction(self) -> Iterator[Database]:
        if self._lock is None:
            raise RuntimeError("the store was opened for reading")
        with self._db:
            yield self._db

    def _put_image(self, image: Image) -> str:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="PNG")
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = self.path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.folder / "images" / f"fresh-{os.getpid()}"
            fresh.write_bytes(buffer.getvalue())
            os.replace(fresh, path)
        return digest


def _flat(record: Record) -> dict[str, Any]:
    line = asdict(record)
    prompt, verdict, metrics = line.pop("prompt"), line.pop("verdict"), line.pop("metrics")
    line |= {f"prompt_{k}": v for k, v in prompt.items()} | {f"verdict_{k}": v for k, v in verdict.items()} | metrics
    return {k: _dump(v) if isinstance(v, dict | list | tuple) else v for k, v in line.items()}


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _marks(n: int) -> str:
    return ", ".join("?" * n)
