"""SQLite and Parquet. A database that turns out to be damaged says so at whatever query meets it."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from ..errors import BadFile, Unwritable, UserError
from ..writing import writing
from .door import TABLE, Place, reading, reason, regular

T = TypeVar("T")
Row = sqlite3.Row
AT_ONCE = 2**14  # rows that are written together
ROWS, UNPACKED = 50_000_000, 16 * 2**30  # of a Parquet file: rows, and bytes once they are unpacked
OURS = (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.NotSupportedError)  # faults of the code, not the file


REFUSED = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)  # of the disk


class Locked(BadFile):
    """A database that another process holds."""


class _Cursor(sqlite3.Cursor):
    """A cursor that tells what goes wrong while rows are read."""

    def _run(self, call: Callable[[], T]) -> T:
        assert isinstance(self.connection, Database)
        return self.connection.run(call)

    def execute(self, *arguments: Any) -> _Cursor:
        self._run(lambda: super(_Cursor, self).execute(*arguments))
        return self

    def executemany(self, *arguments: Any) -> _Cursor:
        self._run(lambda: super(_Cursor, self).executemany(*arguments))
        return self

    def executescript(self, *arguments: Any) -> _Cursor:
        self._run(lambda: super(_Cursor, self).executescript(*arguments))
        return self

    def fetchone(self) -> Any:
        return self._run(super().fetchone)

    def fetchall(self) -> list[Any]:
        return self._run(super().fetchall)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return self._run(lambda: super(_Cursor, self).fetchmany(size))

    def __next__(self) -> Any:
        return self._run(super().__next__)


class Database(sqlite3.Connection):
    """A connection whose failures are :class:`BadFile` (:class:`Locked` where another process holds it)."""

    path: Path
    what: str
    do: str

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> _Cursor:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> _Cursor:
        return self.cursor().executemany(*arguments)

    def executescript(self, *arguments: Any) -> _Cursor:
        return self.cursor().executescript(*arguments)

    def commit(self) -> None:
        self.run(super().commit)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> Literal[False]:  # fmt: skip
        return self.run(lambda: super(Database, self).__exit__(kind, error, trace))

    def run(self, call: Callable[[], T]) -> T:
        """What ``call()`` gives; whatever SQLite says against it is run as of this file."""
        try:
            return call()
        except UnicodeDecodeError as error:  # of a message that quotes a damaged file
            raise BadFile(self.what, f"{self.path} ({reason(error)})", self.do) from error
        except sqlite3.Error as error:
            raise self.bad(error) from error

    def bad(self, error: sqlite3.Error) -> Exception:
        """The error to raise in the place of SQLite's; one of the code's own faults stays what it is."""
        if isinstance(error, OURS):
            return error
        code, got = getattr(error, "sqlite_errorcode", 0) & 0xFF, f"{self.path} ({reason(error)})"
        if code == sqlite3.SQLITE_FULL:
            return Unwritable("a place to write", got, "free some room; the same command goes on")
        if code in REFUSED:
            return Unwritable("a place to write", got, "choose another --out, or change its rights")
        busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        return (Locked if busy else BadFile)(self.what, got, self.do)


def open_sqlite(path: Place, what: str, do: str, *, new: bool = False, **options: Any) -> Database:
    """A database, opened; with ``new`` it is made where there is none. ``options`` go to :func:`sqlite3.connect`."""
    from .door import exists

    if not new or exists(path):
        regular(path, what, do, TABLE * 64)
    with reading(what, path, do):
        found: Database = sqlite3.connect(path, factory=Database, **options)
    found.path, found.what, found.do = Path(path), what, do
    return found


def open_resting(path: Place, what: str, do: str, kept: ExitStack) -> Database:
    """A database to read, which another process may be writing, or which lies where nothing can be written.

    There SQLite cannot make the index that a WAL needs. Without a WAL the file is read as one that does not change;
    with one, what was stored last is in it, so both are copied (until ``kept`` is closed) and read together.
    """
    db = open_sqlite(path, what, do)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchall()
        return db
    except Unwritable:
        db.close()
    except UserError:
        return db  # what is wrong is run where it is asked next
    path = Path(path)
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        return open_sqlite(_copy([path, log], Path(kept.enter_context(tempfile.TemporaryDirectory()))), what, do)
    with reading(what, path, do):
        still: Database = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, factory=Database)
    still.path, still.what, still.do = path, what, do
    return still


def _copy(files: list[Path], place: Path) -> Path:
    """The first of ``files`` in ``place``, all copied at one state. Raises :class:`BadFile` where they do not rest."""

    def state() -> list[tuple[int, int]]:
        return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]

    for _ in range(3):
        before = state()
        with writing(place):
            for file in files:
                shutil.copyfile(file, place / file.name)
        if state() == before:
            return place / files[0].name
    raise BadFile("a store at rest on a read-only disk", f"{files[0]}, which is being written", "wait for its run")


def columns(db: Database, wanted: Mapping[str, Sequence[str]]) -> None:
    """Raises :class:`BadFile` unless ``db`` has these columns in these tables."""
    for table, names in wanted.items():
        found = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        if missing := [name for name in names if name not in found]:
            raise BadFile(db.what, f"{db.path} without {table}.{missing[0]}", db.do)


def read_parquet(path: Place, what: str, do: str) -> list[dict[str, Any]]:
    """The rows of a Parquet file. It is opened here, not by its name: ``a:b.parquet`` would be taken for an address."""
    regular(path, what, do, TABLE)
    with reading(what, path, do), open(path, "rb") as file:
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file)
        size = sum(table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups))
        if table.metadata.num_rows > ROWS or size > UNPACKED:
            got = f"{path} of {table.metadata.num_rows} rows and {size} bytes"
            raise BadFile(f"{what} of at most {ROWS} rows and {UNPACKED} bytes", got, do)
        if twice := [name for name, n in Counter(table.schema_arrow.names).items() if n > 1]:
            raise BadFile(f"{what} with each column once", f"{path} with {twice[0]!r} twice", "drop one of them")
        rows: list[dict[str, Any]] = table.read().to_pylist()
    return rows


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], kinds: Mapping[str, str] | None = None) -> None:
    """The rows as one Parquet file, ``AT_ONCE`` at a time. ``kinds`` are Arrow's types by column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    left = iter(rows)
    some = list(itertools.islice(left, AT_ONCE))
    schema = pa.schema(list(kinds.items())) if kinds else pa.Table.from_pylist(some).schema
    with open(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:
        while some:
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            some = list(itertools.islice(left, AT_ONCE))
