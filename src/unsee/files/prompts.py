"""Rows of prompts, from whatever their authors wrote them in. Nothing is cut, joined or guessed.

    rows = read_rows(Path("i2p_benchmark.csv"), titles=("prompt", "text"))      # [("line 2", {"prompt": …, …}), …]

What can be read in two ways is refused with its line, what was expected there, and what to do: a row with more cells
than there are titles (a comma that nobody quoted), a quote that swallows the rows behind it, lines that may be a table.

    .csv .tsv      a table where its first line has one of ``titles`` (between commas, semicolons, tabs or bars), else
                   a prompt on each line, whole, whatever commas and quotes it has
    .txt           a prompt on each line
    .json          a list of rows or of texts; COCO's ``annotations``; columns, as pandas writes them
    .jsonl         a row or a text on each line
    .parquet       a table
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadFile
from .door import TABLE, read_bytes, reading
from .tables import read_parquet
from .texts import parse_json

Row = dict[str, Any]
Placed = tuple[str, Row]  # where it stands, and what stands there
DELIMITERS = (",", ";", "\t", "|")
OTHERS = ("evaluation_seed", "sd_seed", "seed", "case_number")  # titles beside a text's, in the public files
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
WHAT, DO = "a table of prompts", "give .csv, .json, .jsonl, .parquet or .txt"


class Head(NamedTuple):
    """The first line of a table."""

    delimiter: str
    titles: list[str]
    spaced: bool  # a blank stands behind each delimiter


def read_rows(path: Path, titles: Collection[str]) -> list[Placed]:
    """The rows of ``path``, and where each stands; ``titles`` are those that a text may have.

    Raises :class:`BadFile` for a file that cannot be read, and for a line that cannot be read in one way only.
    """
    kind, known = path.suffix.lower(), {title.casefold() for title in titles}
    if kind == ".parquet":
        return _parquet(path)
    readers: dict[str, Callable[[Path, str], list[Placed]]] = {
        ".csv": lambda path, text: _lines_or_table(path, text, known),
        ".tsv": lambda path, text: _lines_or_table(path, text, known),
        ".txt": lambda path, text: _plain(path, text, known),
        "": lambda path, text: _plain(path, text, known),
        ".json": _json,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
    }
    if kind not in readers:
        raise BadFile(WHAT, f"{path}, a {kind} file", DO)
    return readers[kind](path, read_text(path))


def read_text(path: Path) -> str:
    """A text file in UTF-8, or with the byte-order mark of UTF-8, UTF-16 or UTF-32. Raises :class:`BadFile`."""
    data = read_bytes(path, WHAT, "check the path", TABLE)
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and data.count(0) > len(data) // 4:
        raise BadFile("text in UTF-8", f"{path}, which looks like UTF-16 without its mark", "save it as UTF-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        got = f"{path} with the byte 0x{data[error.start]:02x} in line {1 + data[: error.start].count(10)}"
        raise BadFile(f"text in {encoding.upper()}", got, "save it as UTF-8") from None
    if "\ufeff" in text:  # decoding has taken the first
        line = 1 + text[: text.index("\ufeff")].count("\n")
        got = f"{path} with another in line {line}"
        raise BadFile("one byte-order mark, at the start", got, "files were joined: take the mark out")
    return text


def _numbered(path: Path, text: str) -> list[tuple[int, str]]:
    """(number, line) of the lines that are not blank. Only line feeds end lines: U+2028 and U+0085 may be in a text."""
    ends = r"\r\n|\n" if "\n" in text else r"\r"
    lines = [(i, line) for i, line in enumerate(re.split(ends, text), 1) if line.strip()]
    for i, line in lines:
        if "\r" in line:
            got = f"{path} with a carriage return inside line {i}"
            raise BadFile("lines that end alike", got, "make it a line end or a blank, or give the prompts as .jsonl")
    return lines


# ---- lines and tables ----


def _plain(path: Path, text: str, known: set[str]) -> list[Placed]:
    lines = _numbered(path, text)
    if lines and (_head(path, lines[0], known) is not None):
        do = "name the file .csv if these are titles, else begin with another line"
        raise BadFile("a prompt on each line", f"{path} whose first line is {_show(lines[0][1])}", do)
    _no_json(path, lines)
    return [(f"line {i}", {"prompt": line.strip()}) for i, line in lines]


def _lines_or_table(path: Path, text: str, known: set[str]) -> list[Placed]:
    lines = _numbered(path, text)
    if not lines:
        return []
    _no_json(path, lines)
    told = re.fullmatch(r"sep=(.)", lines[0][1])  # as Excel writes it
    if told and len(lines) > 1:
        head = _head(path, lines[1], known, (told[1],))
        if head is None:
            got = f"{path} with {_show(lines[1][1])}"
            raise BadFile(f"titles behind {lines[0][1].strip()}, one of them {' or '.join(sorted(known))}", got, DO)
        return _table(path, text, head, lines[1][0])
    head = _head(path, lines[0], known)
    if head is None:
        return [(f"line {i}", {"prompt": line}) for i, line in _whole(path, lines)]
    if len(head.titles) == 1:
        return [(f"line {i}", {head.titles[0]: line}) for i, line in _whole(path, lines[1:])]
    return _table(path, text, head, lines[0][0])


def _head(path: Path, line: tuple[int, str], known: set[str], delimiters: Sequence[str] = DELIMITERS) -> Head | None:
    """The first line's titles, if it has one of ``known``; None for a prompt. Raises :class:`BadFile` if it is both."""
    for delimiter in delimiters:
        cells = _cells(line[1], delimiter, spaced=True)
        folded = [cell.strip().casefold() for cell in cells or ()]
        if cells is None or not known & set(folded) or (len(cells) == 1 and delimiter != delimiters[0]):
            continue
        raw = _cells(line[1], delimiter) or cells
        spaced = len(raw) > 1 and all(cell[:1].isspace() for cell in raw[1:])
        if spaced and not set(folded) <= {*known, *OTHERS}:
            if not all(re.fullmatch(r"[\w.:-]*", cell) for cell in folded):
                return None  # prose: "a poster, text"
            do = "write titles without blanks behind the separators, or name the file .txt"
            raise BadFile("titles or a prompt", f"{path} whose first line {_show(line[1])} may be both", do)
        titles = [cell.strip() or f"Unnamed: {i}" for i, cell in enumerate(cells)]
        _once(path, titles)
        return Head(delimiter, titles, spaced)
    return None


def _once(path: Path, titles: Sequence[str]) -> None:
    folded = [title.casefold() for title in titles]
    twice = next((title for i, title in enumerate(titles) if folded[i] in folded[:i]), None)
    if twice is not None:
        raise BadFile(
            "titles that stand once", f"{path} with {_show(twice)} twice", "rename or drop one of the columns"
        )


def _table(path: Path, text: str, head: Head, first: int) -> list[Placed]:
    """The rows behind the titles, which stand in line ``first``."""
    ends = r"(?<=\n)" if "\n" in text else r"(?<=\r)"
    lines = re.split(ends, text)
    reader = csv.reader(lines[first:], delimiter=head.delimiter, skipinitialspace=head.spaced, strict=True)
    rows: list[Placed] = []
    start, n = first + 1, len(head.titles)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return rows
        except csv.Error as error:
            got = f"{path}, line {start} ({error})"
            raise BadFile("cells whose quotes close", got, "close or double the quote there") from None
        end = first + reader.line_num
        if cells and any(cell.strip() for cell in cells):
            if len(cells) != n:
                got = f"{len(cells)} in line {start} of {path}"
                do = f"quote a text that has {_name_of(head.delimiter)} in it, or give the prompts as .jsonl"
                raise BadFile(f"{n} cells ({', '.join(map(_show, head.titles[:6]))})", got, do)
            _no_swallowed(path, head, lines, start - 1, end)
            rows.append((f"line {start}", dict(zip(head.titles, cells, strict=True))))
        start = end + 1


def _no_swallowed(path: Path, head: Head, lines: Sequence[str], start: int, end: int) -> None:
    """A cell of several lines is one, unless its lines would be rows by themselves: then a quote has swallowed rows."""
    if end - start < 2:
        return
    bare = [_cells(line.strip().replace('"', ""), head.delimiter, head.spaced) or [] for line in lines[start:end]]
    folded = [title.casefold() for title in head.titles]
    numbers = [i for i, title in enumerate(folded) if title in OTHERS or (i < len(bare[0]) and _number(bare[0][i]))]
    rows = [len(cells) == len(folded) and all(_number(cells[i]) for i in numbers) for cells in bare]
    if any(rows[1:-1]) or (rows[0] and rows[-1]):
        got = f"lines {start + 1} to {end} of {path} in one, which look like rows"
        raise BadFile("quotes around one cell", got, "close or double the quote there, or give the prompts as .jsonl")


def _whole(path: Path, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """One prompt a line. What a writer of tables has quoted is unquoted; what none has written is left as it is."""
    alone = {d: [_cells(line, d) for _, line in lines] for d in (",", ";", "\t")}
    for rows in alone.values():
        counts = {len(cells) if cells else 0 for cells in rows}
        if len(counts) == 1 and counts.pop() > 1:
            got = f"{path} with {len(rows[0] or ())} cells on each line, first {_show(lines[0][1])}"
            do = "give its titles in the first line, or name it .txt if each line is a prompt"
            raise BadFile("a title of the prompts' column, or one prompt a line", got, do)
    rows, quoted = alone[","], [i for i, line in lines if _needs_quotes(line)]
    if all(cells is not None and len(cells) == 1 for cells in rows):
        return [(i, cells[0]) for (i, _), cells in zip(lines, rows, strict=True) if cells]
    _no_open_quote(path, lines)
    loose = next(i for (i, _), cells in zip(lines, rows, strict=True) if cells is None or len(cells) > 1)
    if quoted:
        got = f"{path} with line {quoted[0]} quoted and line {loose} not"
        raise BadFile("lines quoted alike", got, "quote each line that has a comma or a quote in it, or name it .txt")
    if _like_titles(lines[0][1]):
        do = "name the column with column=… or in the first line; name the file .txt if each line is a prompt"
        raise BadFile("a column of prompts", f"{path} with {_show(lines[0][1])} in its first line", do)
    return [(i, line.strip()) for i, line in lines]


def _no_open_quote(path: Path, lines: list[tuple[int, str]]) -> None:
    """Refuses lines that a writer of tables may have made of one cell with a line end in it."""
    text = [line + "\n" for _, line in lines]
    reader = csv.reader(text, strict=True)
    try:
        before, parsed = 0, True
        spans = []
        for cells in reader:
            parsed = parsed and len(cells) == 1
            spans += [(before, reader.line_num)] if reader.line_num > before + 1 else []
            before = reader.line_num
    except csv.Error:
        return
    if parsed and spans:
        first, last = lines[spans[0][0]][0], lines[spans[0][1] - 1][0]
        got = f"{path} with a quote that opens in line {first} and closes in line {last}"
        raise BadFile("one prompt a line", got, "close the quote in its line, or give the prompts as .jsonl")


def _needs_quotes(line: str) -> bool:
    """Whether a writer of tables made this line: quotes around what has to have them."""
    inner = line.strip()[1:-1]
    cells = _cells(line.strip(), ",")
    return line.strip()[:1] == '"' and cells is not None and len(cells) == 1 and ("," in inner or '""' in inner)


def _like_titles(line: str) -> bool:
    cells = _cells(line, ",") or []
    return len(cells) > 1 and all(re.fullmatch(r"[\w.:-]+( [\w.:-]+)?|", cell) for cell in cells)


def _cells(line: str, delimiter: str, spaced: bool = False) -> list[str] | None:
    """The cells of a line by itself; None where its quotes are not a table's."""
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=spaced, strict=True), [])
    except csv.Error:
        return None


def _number(cell: str) -> bool:
    return re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", cell) is not None


def _no_json(path: Path, lines: list[tuple[int, str]]) -> None:
    if lines and re.match(r'\s*(\{\s*"|\[\s*[\[{"])', lines[0][1]):
        raise BadFile("prompts on lines", f"{path}, which looks like JSON", "name it .json, or .jsonl")


def _name_of(delimiter: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}.get(delimiter, repr(delimiter))


def _show(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:39] + "…").replace("\\u2026", "…")


# ---- JSON and Parquet ----


def _json(path: Path, text: str) -> list[Placed]:
    data = _loads(path, text, "")
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        data = data["annotations"]  # COCO
    if isinstance(data, dict):
        data = _by_rows(path, data)
    if not isinstance(data, list):
        raise BadFile(
            "a list of prompts", f"{path} with one {type(data).__name__}", "give a list of texts or of objects"
        )
    return [_row(path, f"row {i}", row) for i, row in enumerate(data, 1)]


def _json_lines(path: Path, text: str) -> list[Placed]:
    return [_row(path, f"line {i}", _loads(path, line, f", line {i}")) for i, line in _numbered(path, text)]


def _loads(path: Path, text: str, place: str) -> Any:
    """JSON; a name that stands twice in an object is refused, for the first would be dropped."""
    with reading(WHAT, f"{path}{place}", DO):
        return parse_json(text, finite=False)


def _by_rows(path: Path, data: dict[str, Any]) -> list[Row]:
    """Columns as pandas writes them: {"prompt": {"0": …}} or {"prompt": […]}."""
    columns = list(data.values())
    if columns and all(isinstance(c, dict) for c in columns) and len({tuple(c) for c in columns}) == 1:
        return [{title: column[i] for title, column in data.items()} for i in columns[0]]
    if columns and all(isinstance(c, list) for c in columns) and len(set(map(len, columns))) == 1:
        rows = [dict(zip(data, cells, strict=True)) for cells in zip(*columns, strict=True)]
        if all(not isinstance(cell, (list, dict)) for row in rows for cell in row.values()):
            return rows
    got = f"{path} with an object of {', '.join(map(_show, list(data)[:4]))}"
    raise BadFile("a list of prompts", got, "give a list of texts or of objects, one each prompt")


def _row(path: Path, place: str, row: Any) -> Placed:
    if isinstance(row, dict):
        return place, row
    if isinstance(row, str) or row is None:
        return place, {"prompt": row}
    got = f"{type(row).__name__} in {place} of {path}"
    raise BadFile("a text, or an object with one", got, "mend that row")


def _parquet(path: Path) -> list[Placed]:
    return [(f"row {i}", row) for i, row in enumerate(read_parquet(path, WHAT, DO), 1)]
