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

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..errors import BadFile, UserError
from ..files import (
    PICTURE,
    Database,
    Locked,
    Row,
    columns,
    decode_image,
    exists,
    open_resting,
    open_sqlite,
    read_bytes,
    write_parquet,
)
from ..pictures import save_png
from ..settings import named_in
from ..suites.suite import SuiteSpec
from ..types import Outcome, Record, Sample, Verdict
from ..writing import check_place, whole, writing
from . import schema
from .plan import Cell
from .schema import Mark, StoredSuite

if TYPE_CHECKING:
    from PIL.Image import Image

LOCK = "writer.lock"
VERSION = 1  # of the tables below
TIMINGS = ("seconds",)  # columns of the export that no two runs share
LATER = """
CREATE TABLE IF NOT EXISTS marks (suite TEXT PRIMARY KEY, mark TEXT);
CREATE INDEX IF NOT EXISTS cells_in_order ON cells (suite, ordinal, place);
"""  # what older stores have not: a writer makes it, a reader can do without
CACHE = -64 * 1024  # of a writer, in KiB: the places of new images are random, and stay at hand
PROMPTS = 2**17  # that are kept while records are read
NUMBERS = {  # columns of the export in which no record may have a number, and where they come from
    "verdict_score": ("verdicts", "score"),
    "preservation": ("measures", "preservation"),
    "clip_score": ("measures", "clip_score"),
}
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
SELECT {columns}
FROM cells c JOIN images i ON i.cell = c.cell
JOIN verdicts v ON v.cell = c.cell AND v.concept = c.concept AND v.judge = ? AND v.version = ?
LEFT JOIN measures m ON m.cell = c.cell AND m.twin = c.twin
WHERE c.suite = ? {only} ORDER BY c.ordinal, c.place
"""
PLAIN = """
c.cell, c.suite, c.model, c.concept, c.defense, c.attack, c.prompt, c.twin, i.image, i.seconds, v.outcome, v.score,
v.judge, v.version, v.reason, m.preservation, m.clip_score, """
NESTED = "v.labels, i.decisions, i.versions"
BRIEF = f"""CASE json_type(v.labels) WHEN 'object' THEN
json_object({", ".join(f"'{name}', v.labels -> '$.{name}'" for name in schema.LABELS)}) ELSE v.labels END AS labels"""
DECIDED = "AND c.attack = 'none' AND i.decisions != '[]'"
LACKING = """
SELECT c.place FROM cells c LEFT JOIN {table} t ON t.cell = c.cell {alike}
WHERE c.suite = ? AND c.ordinal = ? AND t.cell IS NULL ORDER BY c.place
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
        self._inside = False  # of a transaction of several puts
        path = self.folder / "store.sqlite"
        if not write and not exists(path):
            raise BadFile("the folder of a run", f"no store in {folder}", "make one with unsee bench SUITE --out R")
        self._copy = contextlib.ExitStack()  # of a store on a read-only disk, where it needs one
        if write:
            self._take()
        what, do = "a store of unsee", "choose another folder"
        try:
            self._db = open_sqlite(path, what, do, new=True) if write else open_resting(path, what, do, self._copy)
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
        self._copy.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @staticmethod
    def check(folder: str | Path) -> None:
        """Raises :class:`UserError` if ``folder`` cannot be written or has a writer. Leaves nothing."""
        check_place(folder)
        if (Path(folder) / LOCK).is_file():
            _sole(Path(folder)).close()

    # -- writing ------------------------------------------------------------------------------

    def put_suite(
        self, suite: SuiteSpec, judge_version: str, versions: dict[str, str], machine: Mapping[str, object]
    ) -> None:
        """Register a suite. If it changed since the last run its records go; its images stay, by address.

        Measures do not say what made them. So those of changed metrics go too, and two suites of one model in a folder
        are measured alike: else :class:`UserError`.
        """
        spec = suite.model_dump_json()
        for name, other in self.suites().items():
            if (other.spec["model"], other.spec.get("metrics", {})) == (suite.model, suite.metrics):
                continue
            if name == suite.name:
                with self._transaction() as db:
                    db.execute("DELETE FROM measures WHERE cell IN (SELECT cell FROM cells WHERE suite = ?)", (name,))
            elif other.spec["model"] == suite.model:
                where = f"the metrics of suite {name}, which is in {self.folder}"
                raise UserError(where, f"others in suite {suite.name}", "choose another --out")
        with self._transaction() as db:
            old = db.execute("SELECT digest FROM suites WHERE name = ?", (suite.name,)).fetchone()
            if old and old["digest"] != suite.digest:
                db.execute("DELETE FROM cells WHERE suite = ?", (suite.name,))
                db.execute("DELETE FROM marks WHERE suite = ?", (suite.name,))
            values = (suite.name, suite.digest, spec, judge_version, _dump(versions), _dump(machine))
            db.execute("INSERT OR REPLACE INTO suites VALUES (?, ?, ?, ?, ?, ?)", values)

    def put_mark(self, suite: str, mark: Mark) -> None:
        """Say which shard of ``suite`` this folder holds, and what it was made with. What was planned stays planned."""
        self.check_shard(suite, mark["shard"])
        old = self.mark(suite)
        if old:
            planned, defenses = old["planned"] | mark["planned"], old["defenses"] | mark["defenses"]
            mark = {**mark, "planned": planned, "defenses": defenses}
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (suite, _dump(mark)))

    def check_shard(self, suite: str, shard: str) -> None:
        """Raises :class:`UserError` if this folder holds another shard of ``suite``."""
        held = self.mark(suite)
        if held and held["shard"] != shard:
            got = f"{self.folder} of shard {held['shard']}"
            raise UserError(f"a folder of shard {shard}", got, "choose another --out")

    def take_over(self, other: Store) -> None:
        """All of a shard that was run elsewhere, under the mark of the whole; what is there already stays.

        Pictures first, so that no line names one that is not there.
        """
        for row in other._db.execute("SELECT DISTINCT image FROM images"):
            self._put_bytes(row["image"], other.bytes_of(row["image"]))
        with self._transaction() as db:
            for table in ("suites", "cells", "images", "verdicts", "measures"):
                rows = other._db.execute(f"SELECT * FROM {table}")
                db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({_marks(len(rows.description))})", rows)
            for name in other.suites():
                whole = {**(other.mark(name) or {}), "shard": "1/1"}
                db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, _dump(whole)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is put within is stored in one transaction: all of it, or nothing."""
        with self._transaction():
            self._inside = True
            try:
                yield
            finally:
                self._inside = False

    def put_cells(self, suite: str, model: str, ordinal: int, cells: Iterable[Cell]) -> None:
        """Write down what one group will hold, in place of what it held."""
        rows = (
            (suite, ordinal, model, c.concept, c.defense, c.attack, c.prompt.kind, c.prompt.split, c.place, c.cell,
             c.twin, _dump(schema.fields(c.prompt)))
            for c in cells
        )  # fmt: skip
        with self._transaction() as db:
            db.executemany(f"INSERT OR REPLACE INTO cells VALUES ({_marks(12)})", rows)

    def put_samples(self, samples: dict[str, Sample], versions: dict[str, str]) -> None:
        """Store a batch in one transaction. An image that is there already stays as it is."""
        made_with = _dump(versions)
        rows = [
            (cell, self._put_image(s.image), s.seconds, _dump(s.decisions), made_with) for cell, s in samples.items()
        ]
        with self._transaction() as db:
            db.executemany("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", rows)

    def put_verdicts(self, concept: str, verdicts: dict[str, Verdict]) -> None:
        rows = (
            (cell, concept, v.judge, v.version, v.outcome, v.score, v.reason, _dump(v.labels))
            for cell, v in verdicts.items()
        )
        with self._transaction() as db:
            db.executemany(f"INSERT OR REPLACE INTO verdicts VALUES ({_marks(8)})", rows)

    def put_measures(self, rows: Iterable[tuple[str, str, float | None, float | None]]) -> None:
        """(cell, twin, preservation, clip_score) each."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?)", rows)

    # -- reading ------------------------------------------------------------------------------

    def suites(self) -> dict[str, StoredSuite]:
        """Name → suite, in alphabetical order."""
        planned = dict(self._db.execute("SELECT suite, count(*) FROM cells GROUP BY suite").fetchall())
        return {
            schema.text(row["name"], self._db.path, "name of a suite"): StoredSuite(
                spec=schema.checked(schema.Spec, row["spec"], self._db.path, f"spec of suite {row['name']}"),
                judge_version=schema.text(row["judge_version"], self._db.path, "judge_version"),
                versions=schema.value(dict[str, str], row["versions"], self._db.path, "versions"),
                machine=schema.checked(schema.Table, row["machine"], self._db.path, "machine"),
                planned=planned.get(row["name"], 0),
            )
            for row in self._db.execute("SELECT * FROM suites ORDER BY name")
        }

    def mark(self, suite: str) -> Mark | None:
        """What :meth:`put_mark` wrote of a suite; None for a run of before there were shards."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'marks'").fetchone():
            return None
        row = self._db.execute("SELECT mark FROM marks WHERE suite = ?", (suite,)).fetchone()
        return schema.checked(Mark, row["mark"], self._db.path, f"mark of suite {suite}") if row else None

    def records(self) -> list[Record]:
        """Everything that was made and judged, in plan order."""
        return list(self.each())

    def each(self) -> Iterator[Record]:
        """The records one by one: a run may be larger than memory."""
        return self._read(schema.record)

    def brief(self) -> Iterator[Record]:
        """The records without decisions and versions, and with those labels alone that rows tell of."""
        return self._read(schema.brief, BRIEF)

    def decided(self) -> Iterator[Record]:
        """The records without an attack of which a guard decided something."""
        return self._read(schema.record, only=DECIDED)

    def count(self) -> int:
        """How many records there are."""
        return sum(row[0] for row in self._rows("count(*)"))

    def _read(self, make: Callable[..., Record], nested: str = NESTED, only: str = "") -> Iterator[Record]:
        prompts = lru_cache(PROMPTS)(schema.value)  # many records have the same
        return (make(row, self._db.path, prompts) for row in self._rows(PLAIN + nested, only))

    def _rows(self, columns: str, only: str = "") -> Iterator[Row]:
        """What the records' tables hold, suite by suite in plan order."""
        query = RECORDS.format(columns=columns, only=only)
        for name, suite in self.suites().items():
            judge = named_in(suite.spec["judge"])
            yield from self._db.execute(query, (judge, suite.judge_version, name))

    def have_images(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT cell FROM images")}

    def have_verdicts(self, concept: str, judge: str, version: str) -> set[str]:
        query = "SELECT cell FROM verdicts WHERE concept = ? AND judge = ? AND version = ?"
        return {row[0] for row in self._db.execute(query, (concept, judge, version))}

    def _any(self, column: str) -> bool:
        """Whether some record may have a number in a column of the export."""
        table = NUMBERS.get(column)
        query = f"SELECT 1 FROM {table[0]} WHERE {table[1]} IS NOT NULL LIMIT 1" if table else "SELECT 1"
        return self._db.execute(query).fetchone() is not None

    def lack_images(self, suite: str, ordinal: int) -> Iterator[int]:
        """The places of a group that have no image, in order."""
        return self._lack("images", "", (), suite, ordinal)

    def lack_verdicts(self, suite: str, ordinal: int, judge: str, version: str) -> Iterator[int]:
        """The places of a group that this judge has not seen."""
        alike = "AND t.concept = c.concept AND t.judge = ? AND t.version = ?"
        return self._lack("verdicts", alike, (judge, version), suite, ordinal)

    def lack_measures(self, suite: str, ordinal: int) -> Iterator[int]:
        return self._lack("measures", "AND t.twin = c.twin", (), suite, ordinal)

    def _lack(self, table: str, alike: str, given: tuple[str, ...], suite: str, ordinal: int) -> Iterator[int]:
        query = LACKING.format(table=table, alike=alike)
        return (row[0] for row in self._db.execute(query, (*given, suite, ordinal)))

    def outcomes(self) -> dict[tuple[str, str, str], dict[str, Outcome]]:
        """(concept, judge, version) → image digest → outcome, of every judge that was asked.

        By picture, not by cell: what a guard let alone is the undefended picture again, and no second opinion.
        """
        found: dict[tuple[str, str, str], dict[str, Outcome]] = {}
        for row in self._db.execute(OUTCOMES):
            outcome = schema.outcome(row["outcome"], self._db.path)
            found.setdefault((row["concept"], row["judge"], row["version"]), {})[row["image"]] = outcome
        return found

    def have_measures(self) -> set[tuple[str, str]]:
        return {(row[0], row[1]) for row in self._db.execute("SELECT cell, twin FROM measures")}

    def image_of(self, cell: str) -> Image:
        """The RGB image of a cell."""
        return self.image(self.digest_of(cell))

    def digest_of(self, cell: str) -> str:
        """The sha256 of a cell's image file."""
        row = self._db.execute("SELECT image FROM images WHERE cell = ?", (cell,)).fetchone()
        return schema.digest(row and row["image"], self._db.path)

    def image(self, digest: str) -> Image:
        """The RGB image with this sha256. Raises :class:`BadFile` if it is missing or was changed."""
        return decode_image(self.bytes_of(digest), self.path(digest), do=schema.DO)

    def bytes_of(self, digest: str) -> bytes:
        """The file of that image. Raises :class:`BadFile` if it is missing or was changed."""
        path = self.path(digest)
        data = read_bytes(path, "the image of a run", schema.DO, PICTURE)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BadFile(f"the image {path} as stored", "other bytes", schema.DO)
        return data

    def check_pictures(self) -> None:
        """Raises :class:`BadFile` unless all that was planned is drawn and judged, each file as it was stored."""
        planned = self._db.execute("SELECT count(*) FROM cells").fetchone()[0]
        stored = self.count()
        if stored != planned:
            got = f"{stored} of {planned} in {self.folder}"
            raise BadFile("every picture that was planned, drawn and judged", got, "run its command again; it goes on")
        for row in self._db.execute("SELECT DISTINCT image FROM images"):
            self.bytes_of(row["image"])

    def path(self, digest: str) -> Path:
        """Where the image with this sha256 lies, and nowhere else."""
        sound = schema.digest(digest, self._db.path)
        return self.folder / "images" / sound[:2] / f"{sound}.png"

    def export(self, path: str | Path) -> Path:
        """All records as Parquet: one line each, nested values as JSON text."""
        path = Path(path)
        kinds = {name: kind if self._any(name) else "null" for name, kind in schema.EXPORTED.items()}
        with whole(path) as fresh:
            write_parquet(fresh, map(schema.flat, self.each()), kinds)
        return path

    # -- inside -------------------------------------------------------------------------------

    def _take(self) -> None:
        """Become the one writer. A database lock needs no cleaning up: it dies with the process."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK).touch()
        self._lock = _sole(self.folder)
        with writing(self.folder):
            (self.folder / "store.sqlite").touch()  # SQLite itself would not ask the umask
            for left in (self.folder / "images").glob("fresh-*"):  # of a run that was killed
                left.unlink()

    def _open(self, write: bool) -> None:
        if write:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA cache_size = {CACHE}")
            self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last batches, and nothing else
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0 and write:
            self._db.executescript(f"BEGIN; {TABLES} {LATER} PRAGMA user_version = {VERSION}; COMMIT;")
        elif found != VERSION:
            raise BadFile(f"a store of version {VERSION}", f"version {found}", "run the suite in a new folder")
        columns(self._db, COLUMNS)
        if write:
            self._db.executescript(f"BEGIN; {LATER} COMMIT;")

    @contextmanager
    def _transaction(self) -> Iterator[Database]:
        if self._lock is None:
            raise RuntimeError("the store was opened for reading")
        if self._inside:
            yield self._db
            return
        with self._db:
            yield self._db

    def _put_image(self, image: Image) -> str:
        buffer = io.BytesIO()
        save_png(image, buffer)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        self._put_bytes(digest, buffer.getvalue())
        return digest

    def _put_bytes(self, digest: str, data: bytes) -> None:
        path, fresh = self.path(digest), self.folder / "images" / f"fresh-{os.getpid()}"
        if path.exists():
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fresh.write_bytes(data)
                os.replace(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)


def _sole(folder: Path) -> Database:
    """The lock of the one writer, taken. It needs no cleaning up: it dies with its process, however that ends."""
    what, do = "the lock of a run", "remove that file, or choose another --out"
    lock = open_sqlite(folder / LOCK, what, do, new=True, timeout=0.2, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except Locked:
        lock.close()
        got, do = f"{folder} in use by another process", "wait or choose another --out"
        raise UserError("a run folder with one writer", got, do) from None
    except BaseException:
        lock.close()
        raise
    return lock


_dump = json.JSONEncoder(sort_keys=True, default=str).encode


def _marks(n: int) -> str:
    return ", ".join("?" * n)
