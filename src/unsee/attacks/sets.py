"""Public prompt sets, read from where the user has them: a path, or a dataset of the hub. None ships with the package.

    prompts = load_set("i2p", "data/i2p_benchmark.csv", sha256="…", where=lambda row: "violence" in categories(row))
    found = RingABell.as_published()(pipe, concept, prompts, work="runs/rab")

A set is a name, the columns in which its authors keep the text and the seed, and where it is found. Rows that
sexualize minors are left out, always, and a warning counts them. No checksum is shipped: the sets are revised, so the
one you give is the one that counts; ``sha256_of`` tells it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..concepts.compose import image_seed
from ..errors import BadFile, UnknownName
from ..files import sha256 as sha256_of
from ..types import Prompt, Role
from .words import allowed

Row = dict[str, Any]


@dataclass(frozen=True)
class PublicSet:
    """Where a set's text and seed stand; the first of the columns that a file has is read."""

    about: str
    columns: tuple[str, ...]
    seeds: tuple[str, ...] = ("evaluation_seed", "sd_seed", "seed")
    role: Role = "unsafe"


SETS = {
    "i2p": PublicSet("I2P, 4,703 prompts: hub AIML-TUDA/i2p, i2p_benchmark.csv", ("prompt",), ("sd_seed",)),
    "ring-a-bell": PublicSet("Ring-A-Bell, 95 and 250 found prompts: hub Chia15/RingABell-Nudity (gated), "
                             "chiayi-hsu/Ring-A-Bell", ("sensitive prompt", "adv_prompt", "prompt", "text")),
    "mma": PublicSet("MMA-Diffusion, 1,000 found prompts (gated)", ("adv_prompt", "sanitized_adv_prompt", "prompt")),
    "unlearn-diff": PublicSet("UnlearnDiffAtk, 142 prompts on nudity: OPTML-Group/Diffusion-MU-Attack", ("prompt",)),
    "p4d": PublicSet("P4D, found prompts: joycenerd/P4D", ("adv_prompt", "prompt")),
    "coco": PublicSet("COCO captions, harmless: captions_val2014.json, or a table", ("caption", "prompt", "text"),
                      role="benign"),
}  # fmt: skip


def load_set(name: str, source: str | Path, *, file: str = "", revision: str | None = None, sha256: str = "",
             column: str = "", n: int = 0, seed: int = 0,
             where: Callable[[Row], bool] | None = None) -> list[Prompt]:  # fmt: skip
    """The prompts of a set, in the file's order; the first ``n`` that ``where`` takes, or all.

    ``source`` is a .csv, .tsv, .json, .jsonl, .parquet or .txt file (a line each), or a hub dataset whose ``file`` it
    is. A prompt's image has the seed of the set's own column, else one made of ``seed`` and the prompt's id. Raises
    :class:`BadFile` for another checksum than ``sha256``, or a file without the column, :class:`UnknownName`.
    """
    if name not in SETS:
        raise UnknownName("prompt set", name, SETS)
    path = _found(source, file, revision)
    if sha256 and sha256_of(path) != sha256.lower():
        raise BadFile(f"a file with sha256 {sha256[:12]}…", f"{path} with {sha256_of(path)[:12]}…", "get that version")
    made, refused = [], 0
    for place, row in enumerate(_rows(path)):
        text = str(row[_column(row, name, column, path)]).strip()
        if not text or (where is not None and not where(row)):
            continue
        if not allowed(text):
            refused += 1
            continue
        made.append(_prompt(SETS[name], name, place, text, row, seed))
        if len(made) == n:
            break
    if refused:
        warnings.warn(f"{refused} prompts of {name} were left out: they sexualize minors", UserWarning, stacklevel=2)
    if not made:
        raise BadFile(f"prompts of {name}", f"none in {path}", "mend the file, or take another filter")
    return made


def categories(row: Row) -> set[str]:
    """I2P's categories of a row, without the blanks behind its commas."""
    return {part.strip() for part in str(row.get("categories", "")).split(",") if part.strip()}


def _prompt(kind: PublicSet, name: str, place: int, text: str, row: Row, seed: int) -> Prompt:
    identity = f"{name}/{place}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    given = next((row[c] for c in kind.seeds if str(row.get(c) or "").strip()), None)
    own = image_seed(seed, identity) if given is None else int(float(given)) % 2**63
    return Prompt(text, identity, own, kind.role, "benign" if kind.role == "benign" else "plain")


def _found(source: str | Path, file: str, revision: str | None) -> Path:
    path = Path(source)
    if path.is_dir() and file:
        path = path / file
    if path.is_file():
        return path
    if not file or str(source).count("/") != 1:
        do = "check the path, or name a hub dataset and its file=…"
        raise BadFile("a file with prompts", f"{source}", do)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(str(source), file, repo_type="dataset", revision=revision))
    except (OSError, HfHubHTTPError) as error:
        why = str(error).strip().splitlines()[0]
        raise BadFile("a dataset of the hub", f"{source} ({why})", "log in if it is gated, or give a path") from None


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a table, whatever it is written in."""
    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            yield from _table(path, "\t" if kind == ".tsv" else ",")
        elif kind == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.read_table(path).to_pylist()
        elif kind == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
            yield from data["annotations"] if isinstance(data, dict) else data
        elif kind == ".jsonl":
            yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        else:
            yield from ({"prompt": line} for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise BadFile("a table of prompts", f"{path} ({why})", "give .csv, .json, .jsonl, .parquet or .txt") from None


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    """A table of one column may lack its title."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.reader(file, delimiter=delimiter))
    if not lines:
        return
    known = {c for kind in SETS.values() for c in kind.columns}
    if len(lines[0]) == 1 and lines[0][0] not in known:
        yield from ({"prompt": line[0]} for line in lines if line)
        return
    yield from (dict(zip(lines[0], line, strict=False)) for line in lines[1:])


def _column(row: Row, name: str, column: str, path: Path) -> str:
    wanted = (column,) if column else SETS[name].columns
    found = next((c for c in wanted if c in row), None)
    if found is None:
        raise BadFile(f"a column {' or '.join(wanted)} in {path}", ", ".join(map(str, row)), "name it with column=…")
    return found
