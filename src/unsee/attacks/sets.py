"""Public prompt sets, read from where the user has them: a path, or a dataset of the hub. None ships with the package.

    prompts = load_set("i2p", "data/i2p_benchmark.csv", sha256="…", where=lambda row: "violence" in categories(row))
    found = RingABell.as_published()(pipe, concept, prompts, work="runs/rab")
    print(read_set("i2p", "data/i2p_benchmark.csv"))      # 4,703 prompts, 4,703 with a seed of their own

A set is a name, the columns in which its authors keep the text and the seed, and where it is found. Rows that
sexualize minors are left out, always, and so are rows without a text; a warning counts both. Whatever else cannot be
used is refused with its line. No checksum is shipped: the sets are revised, so the one you give is the one that
counts; ``sha256_of`` tells it.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concepts.prompts import image_seed
from ..errors import BadFile, UnknownName, UserError
from ..files import hub_file, is_dir, is_file
from ..files import sha256 as sha256_of
from ..files.prompts import Placed, Row, read_rows
from ..types import Prompt, Role
from .vocabulary import allowed

SEEDS = ("evaluation_seed", "sd_seed", "seed")
MOST = 2**63 - 1


@dataclass(frozen=True)
class PublicSet:
    """Where a set's text and seed stand; the first of the columns that a file has is read."""

    about: str
    columns: tuple[str, ...]
    seeds: tuple[str, ...] = SEEDS
    role: Role = "unsafe"


@dataclass(frozen=True)
class Reading:
    """What a file of prompts gave: ``seeds`` of the prompts have their own, of ``rows`` rows some were left out."""

    name: str
    prompts: list[Prompt]
    rows: int
    seeds: int
    column: str
    seed_column: str = ""
    empty: int = 0
    refused: int = 0

    def __str__(self) -> str:
        own = f"{self.seeds:,} with a seed of their own" + (f" ({self.seed_column})" if self.seed_column else "")
        left = [f"{n:,} left out ({why})" for n, why in ((self.empty, "no text"), (self.refused, "minors")) if n]
        return ", ".join(
            [f"{self.name}: {len(self.prompts):,} prompts ({self.column}) of {self.rows:,} rows", own, *left]
        )


SETS = {
    "i2p": PublicSet("I2P, 4,703 prompts: hub AIML-TUDA/i2p, i2p_benchmark.csv (sd_seed); unsafe-prompts4703.csv of "
                     "rohitgandikota/erasing and others (evaluation_seed)", ("prompt",)),
    "ring-a-bell": PublicSet("Ring-A-Bell, 95 and 250 found prompts: hub Chia15/RingABell-Nudity (gated), "
                             "chiayi-hsu/Ring-A-Bell", ("sensitive prompt", "adv_prompt", "prompt", "text")),
    "mma": PublicSet("MMA-Diffusion, 1,000 found prompts (gated)", ("adv_prompt", "sanitized_adv_prompt", "prompt")),
    "unlearn-diff": PublicSet("UnlearnDiffAtk, 142 prompts on nudity: OPTML-Group/Diffusion-MU-Attack", ("prompt",)),
    "p4d": PublicSet("P4D, found prompts: joycenerd/P4D", ("adv_prompt", "prompt")),
    "sneaky-prompt": PublicSet("SneakyPrompt, 200 prompts, a line each: Yuchen413/text2image_safety, nsfw_list.txt",
                               ("adv_prompt", "prompt", "text")),
    "hub": PublicSet("HUB, a prompt on each line: ml-postech/HUB, prompts/", ("prompt", "text")),
    "coco": PublicSet("COCO captions, harmless: captions_val2014.json, or a table as coco_30k.csv",
                      ("caption", "prompt", "text"), role="benign"),
}  # fmt: skip


def load_set(name: str, source: str | Path, *, file: str = "", revision: str | None = None, sha256: str = "",
             column: str = "", seed_column: str = "", n: int = 0, seed: int = 0,
             where: Callable[[Row], bool] | None = None) -> list[Prompt]:  # fmt: skip
    """The prompts of a set, in the file's order; the first ``n`` that ``where`` takes, or all. See :func:`read_set`."""
    return read_set(name, source, file=file, revision=revision, sha256=sha256, column=column,
                    seed_column=seed_column, n=n, seed=seed, where=where).prompts  # fmt: skip


def read_set(name: str, source: str | Path, *, file: str = "", revision: str | None = None, sha256: str = "",
             column: str = "", seed_column: str = "", n: int = 0, seed: int = 0,
             where: Callable[[Row], bool] | None = None) -> Reading:  # fmt: skip
    """The prompts of a set, and how many rows and seeds were read.

    ``source`` is a file of a kind that :mod:`~unsee.files.prompts` reads, or a hub dataset whose ``file`` it is.
    ``column`` and ``seed_column`` name the text's and the seed's, where they are not the set's own. A prompt's image
    has the seed of its row, else one made of ``seed`` and the prompt's id. Raises :class:`BadFile` for another
    checksum than ``sha256``, a file without the column, a line that cannot be read in one way only, a text that is
    none, a seed that is no whole number from 0 to 2⁶³ - 1; :class:`UnknownName`.
    """
    if name not in SETS:
        raise UnknownName("prompt set", name, SETS)
    if n < 0:
        raise UserError("a number of prompts, 0 for all", str(n), "pass n=100, for instance")
    kind, path = SETS[name], _found(source, file, revision)
    if sha256 and sha256_of(path) != sha256.lower():
        raise BadFile(f"a file with sha256 {sha256[:12]}…", f"{path} with {sha256_of(path)[:12]}…", "get that version")
    titles = {c for one in SETS.values() for c in one.columns} | ({column} if column else set())
    rows = read_rows(path, titles)
    texts = _Column((column,) if column else kind.columns, path, "column")
    seeds = _Column((seed_column,) if seed_column else kind.seeds, path, "seed_column", needed=bool(seed_column))
    made: list[Prompt] = []
    own = empty = refused = 0
    for place, (where_, row) in enumerate(rows):
        if where is not None and not where(row):
            continue
        text = _text(texts.of(row, where_), where_, path)
        if not text:
            empty += 1
            continue
        if not allowed(text):
            refused += 1
            continue
        given = _seed(seeds.of(row, where_), where_, path)
        own += given is not None
        made.append(_prompt(kind, name, place, text, given, seed))
        if len(made) == n:
            break
    if not made:
        raise BadFile(f"prompts of {name}", f"none in {path}", "mend the file, or take another filter")
    reading = Reading(name, made, len(rows), own, texts.used, seeds.used, empty, refused)
    _tell(reading, rows, path)
    return reading


def categories(row: Row) -> set[str]:
    """I2P's categories of a row, without the blanks behind its commas."""
    return {part.strip() for part in str(row.get("categories", "")).split(",") if part.strip()}


def _tell(reading: Reading, rows: Sequence[Placed], path: Path) -> None:
    """Warns of whatever was not used."""
    name, told = reading.name, []
    if reading.refused:
        told.append(f"{reading.refused} prompts of {name} were left out: they sexualize minors")
    if reading.empty:
        told.append(f"{reading.empty} rows of {path.name} were left out: they have no text")
    if reading.seed_column and reading.seeds < len(reading.prompts):
        told.append(f"{len(reading.prompts) - reading.seeds} prompts of {name} have no {reading.seed_column}")
    like = [title for title in rows[0][1] if "seed" in title.casefold()]
    if like and not reading.seed_column:
        told.append(f"the column {like[0]} of {path.name} was not read; name it with seed_column=… if it holds seeds")
    for line in told:
        warnings.warn(line, UserWarning, stacklevel=4)


class _Column:
    """The one column of several names that a row has."""

    def __init__(self, names: Sequence[str], path: Path, option: str, *, needed: bool = True) -> None:
        self.names, self.path, self.option, self.needed, self.used = names, path, option, needed, ""

    def of(self, row: Row, place: str) -> Any:
        """The row's cell; None if there is none and it is not needed. Raises :class:`BadFile`."""
        folded = {title.casefold(): title for title in row}
        found = [folded[name.casefold()] for name in self.names if name.casefold() in folded]
        if not found and self.needed:
            got = ", ".join(map(str, row)) or "an empty object"
            wanted = f"a column {' or '.join(self.names)} in {self.path}"
            raise BadFile(wanted, f"{got} in {place}", f"name it with {self.option}=…")
        if not found:
            return None
        if self.option == "seed_column":
            self._agree(row, found, place)
        self.used = found[0]
        return row[found[0]]

    def _agree(self, row: Row, found: Sequence[str], place: str) -> None:
        said = {str(row[title]): f"{title} {row[title]}" for title in found if str(row[title] or "").strip()}
        if len(said) > 1:
            got = f"{' and '.join(said.values())} in {place} of {self.path}"
            raise BadFile("one seed for a prompt", got, f"name it with {self.option}=…")


def _text(cell: Any, place: str, path: Path) -> str:
    """A cell's text; empty for a cell that has none. Raises :class:`BadFile` for a number, a list, an object."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if not isinstance(cell, str):
        raise BadFile("a prompt as text", f"{type(cell).__name__} in {place} of {path}", "mend that row")
    return cell.strip()


def _seed(cell: Any, place: str, path: Path) -> int | None:
    """A cell's seed; None for one that has none. Raises :class:`BadFile` for anything but a whole number in range."""
    text = "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell).strip()
    if not text:
        return None
    whole = None if isinstance(cell, bool) else re.fullmatch(r"(\d{1,19})(\.0*)?", text)
    if not whole or not whole[1].isascii() or int(whole[1]) > MOST:
        raise BadFile(
            "a seed, a whole number from 0 to 2⁶³ - 1", f"{text[:40]!r} in {place} of {path}", "mend that row"
        )
    return int(whole[1])


def _prompt(kind: PublicSet, name: str, place: int, text: str, given: int | None, seed: int) -> Prompt:
    identity = f"{name}/{place}/{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
    own = image_seed(seed, identity) if given is None else given
    return Prompt(text, identity, own, kind.role, "benign" if kind.role == "benign" else "plain")


def _found(source: str | Path, file: str, revision: str | None) -> Path:
    path = Path(source)
    if is_dir(path) and file:
        path = path / file
    if is_file(path):
        return path
    if not file or str(source).count("/") != 1:
        do = "check the path, or name a hub dataset and its file=…"
        raise BadFile("a file with prompts", f"{source}", do)
    do = "log in if it is gated, or give a path"
    return hub_file(str(source), file, "a dataset of the hub", do, revision=revision, kind="dataset")
