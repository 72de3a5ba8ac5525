"""The one door for foreign bytes: nothing is opened elsewhere, what fails is a BadFile, names stay inside."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import unsee
from unsee import concepts, files
from unsee.cli import main
from unsee.defenses.base import Defense
from unsee.errors import BadFile, UserError
from unsee.files.prompts import read_rows
from unsee.picto import DEFENSES
from unsee.suites.suite import SuiteSpec

SOURCE = Path(unsee.__file__).parent
MODES = {"r", "rb", "rt", "w", "wb", "a", "ab", "x"}
CALLS = {  # what opens or parses foreign bytes, as the end of a dotted name
    "json.load", "json.loads", "csv.reader", "csv.DictReader", "sqlite3.connect", "torch.load", "np.load", "numpy.load",
    "pickle.load", "pickle.loads", "yaml.safe_load", "zipfile.ZipFile", "tarfile.open", "shelve.open",
}  # fmt: skip
NAMES = {"safe_open", "load_file", "snapshot_download", "hf_hub_download"}  # however they are imported
METHODS = {"read_text", "read_bytes", "read_table"}
MODULES = {"tomllib", "csv", "pickle", "yaml", "pyarrow", "configparser", "shelve", "zipfile", "tarfile"}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def images_of(tree: ast.AST) -> set[str]:
    """The names that PIL.Image has in a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "PIL":
            found |= {name.asname or name.name for name in node.names if name.name == "Image"}
    return found


def openings(text: str) -> list[str]:
    """What of a module's text opens foreign bytes by itself."""
    tree, found = ast.parse(text), []
    pictures = {f"{name}.open" for name in images_of(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {n}" for n in named if n.split(".")[0] in MODULES]
            found += [f"{node.lineno}: import {a.name}" for a in node.names if a.name in NAMES]
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        end = name.rpartition(".")[2]
        modes = {a.value for a in node.args if isinstance(a, ast.Constant)} & MODES
        told = {k.arg for k in node.keywords} & {"encoding", "mode", "newline"}
        method = isinstance(node.func, ast.Attribute) and not name.startswith("files.")  # that is the door itself
        opened = method and (end in METHODS or (end == "open" and (modes or told)))
        if name in CALLS | pictures | {"open"} or opened:
            found.append(f"{node.lineno}: {name}()")
    return found


MODULES_OF_UNSEE = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE / "files")


@pytest.mark.parametrize("path", MODULES_OF_UNSEE, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_but_files_opens_foreign_bytes(path):
    assert openings(path.read_text()) == [], f"{path}: use unsee.files"


@pytest.mark.parametrize(
    "text",
    [
        "import json\njson.loads(x)", "import tomllib", "from PIL import Image as P\nP.open(x)", "open(x)",
        "path.open('rb')", "path.read_text()", "path.open(encoding='utf-8')", "from safetensors import safe_open",
        "import torch\ntorch.load(x)", "import sqlite3\nsqlite3.connect(x)", "import pyarrow.parquet as pq",
        "from huggingface_hub import snapshot_download",
    ],
)  # fmt: skip
def test_the_test_above_sees(text):
    assert openings(text)
    assert not openings("import json\njson.dumps(x)\nindex.open('texts')\nengine.open()\nfrom ..files import read_text")


# ---- whatever is wrong with a file is one line with the file in it ----

READERS = {
    "json": lambda p: files.read_json(p, "w", "d"),
    "toml": lambda p: files.read_toml(p, "f", "w", "d"),
    "prompts": lambda p: read_rows(Path(p), ("prompt",)),
    "text": lambda p: files.read_text(p, "w", "d"),
    "bytes": lambda p: files.read_bytes(p, "w", "d", 1000),
    "tensors": files.load_tensors,
    "shapes": files.tensor_shapes,
    "torch": lambda p: files.read_torch(p, "w", "d"),
    "image": files.open_image,
    "sqlite": lambda p: files.open_sqlite(p, "w", "d").execute("SELECT * FROM sqlite_master").fetchall(),
    "parquet": lambda p: files.read_parquet(p, "w", "d"),
    "sha256": files.sha256,
}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(place)


PLACES = {
    "missing": lambda p: p,
    "folder": lambda p: p.mkdir(),
    "pipe": fifo,
    "socket": bound,
    "dangling": lambda p: p.symlink_to(p.parent / "nowhere"),
    "loop": lambda p: p.symlink_to(p),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused_unopened(tmp_path, reader, place):
    path = tmp_path / "f"
    PLACES[place](path)
    with pytest.raises(BadFile, match=re.escape(str(path))):
        READERS[reader](path)


@pytest.mark.parametrize("path", ["a\0b", "n" * 300, "/dev/zero", "/dev/null", "x/" * 3000])
@pytest.mark.parametrize("reader", READERS)
def test_paths_that_cannot_be_and_devices_are_refused(reader, path):
    with pytest.raises(BadFile):
        READERS[reader](path)
    assert not files.is_dir(path) and not files.is_file(path) and files.exists(path) == path.startswith("/dev")


GARBAGE = {
    "random": bytes(range(256)) * 5,
    "zeros": b"\0" * 3000,
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "deep braces": b'{"a":' * 100_000,
    "zip": b"PK\3\4" + b"\0" * 100,
    "png head": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "sqlite head": b"SQLite format 3\0" + b"\xff" * 2000,
    "parquet head": b"PAR1" + b"\xff" * 100 + b"PAR1",
    "long header": b"\xff" * 8 + b"{}",
    "header": (20).to_bytes(8, "little") + b'{"a":{"dtype":"F99"}}',
}
STRUCTURED = [name for name in READERS if name not in ("bytes", "sha256", "text", "prompts")]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("reader", STRUCTURED)
def test_garbage_is_refused(tmp_path, reader, garbage):
    (tmp_path / "f").write_bytes(GARBAGE[garbage])
    with pytest.raises(BadFile, match=re.escape(str(tmp_path / "f"))):
        READERS[reader](tmp_path / "f")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "finite"), ('{"a": -Infinity}', "finite"), ('{"a": 1e999}', "finite"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 70 + "]" * 70, "deep"), ('["\\ud800"]', "surrogates"), ("[1,\n2,,]", "line 2"), ("1" * 5000, "digits"),
        ("", "Expecting value"),
    ],
)  # fmt: skip
def test_json_that_no_other_program_would_read_the_same_is_refused(tmp_path, text, why):
    (tmp_path / "f").write_text(text)
    with pytest.raises(BadFile, match=why):
        files.read_json(tmp_path / "f", "w", "d")


def test_what_is_sound_is_read(tmp_path):
    path = tmp_path / "a:b"  # a name that pyarrow takes for an address
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\xc3\xa4"]}\r\n')
    assert files.read_json(path, "w", "d") == {"a": [1, 2.5, None, "ä"]}
    files.save_tensors(path, {"x": torch.arange(6).view(2, 3)}, {"k": "v"})
    tensors, metadata = files.load_tensors(path)
    assert tensors["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and metadata == {"k": "v"}
    assert files.tensor_shapes(path) == {"x": (2, 3)}
    files.write_parquet(path, [{"a": 1, "b": "x"}])
    assert (
        files.read_parquet(path, "w", "d")
        == [{"a": 1, "b": "x"}]
        == pq.read_table(pa.BufferReader(path.read_bytes())).to_pylist()
    )
    torch.save({"x": torch.ones(2)}, path)
    assert files.read_torch(path, "w", "d")["x"].tolist() == [1, 1]


def test_a_torch_file_with_code_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save(Evil(), tmp_path / "f.pt")
    with pytest.raises(BadFile):
        files.read_torch(tmp_path / "f.pt", "w", "d")
    assert not (tmp_path / "ran").exists()


def picture(path: Path, kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format=kind)
    return path.read_bytes()


def test_a_picture_is_decoded_whole_or_refused(tmp_path, monkeypatch):
    data = picture(tmp_path / "f")
    assert files.open_image(tmp_path / "f").size == (24, 24)
    for cut in (len(data) // 2, len(data) - 13, 30):
        (tmp_path / "f").write_bytes(data[:cut])
        with pytest.raises(BadFile):
            files.open_image(tmp_path / "f")
    for place in range(8, len(data) - 12, 97):  # the last 12 bytes say nothing but that it ends
        (tmp_path / "f").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(BadFile):
            files.open_image(tmp_path / "f")
    monkeypatch.setattr(files.pictures, "PIXELS", 100)
    with pytest.raises(BadFile, match="megapixels"):
        files.decode_image(data, "memory")


def test_a_format_that_runs_a_program_is_refused(tmp_path):
    (tmp_path / "f.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(BadFile):
        files.open_image(tmp_path / "f.png")


def test_what_is_too_large_is_refused(tmp_path, monkeypatch):
    with open(tmp_path / "f", "wb") as file:
        file.truncate(files.SETTINGS + 1)
    with pytest.raises(BadFile, match="at most 16 MiB"):
        files.read_json(tmp_path / "f", "w", "d")


def test_a_database_that_is_damaged_further_on_says_so(tmp_path):
    path = tmp_path / "db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (x TEXT)")
    db.executemany("INSERT INTO t VALUES (?)", [("y" * 500,)] * 200)
    db.commit()
    db.close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(BadFile, match="malformed"):
        list(files.open_sqlite(path, "w", "d").execute("SELECT * FROM t"))


def test_a_database_whose_schema_is_no_text_says_so(tmp_path):
    """SQLite quotes the schema in its message, which Python then cannot decode."""
    path = tmp_path / "db"
    sqlite3.connect(path).execute("CREATE TABLE t (x TEXT)").connection.close()
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE t", b"CREATE T\xf3BLE t"))
    with pytest.raises(BadFile, match="malformed|decode"):
        files.open_sqlite(path, "w", "d").execute("SELECT 1 FROM sqlite_master").fetchall()


def test_a_fault_of_our_own_stays_one(tmp_path):
    db = files.open_sqlite(tmp_path / "db", "w", "d", new=True)
    with pytest.raises(sqlite3.ProgrammingError):
        db.execute("SELECT ?", (1, 2))


def test_a_table_that_unpacks_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    pq.write_table(pa.table({"a": [0] * 1000}), tmp_path / "t.parquet")
    monkeypatch.setattr(files.tables, "ROWS", 10)
    with pytest.raises(BadFile, match="1000 rows"):
        files.read_parquet(tmp_path / "t.parquet", "w", "d")


@pytest.mark.parametrize(
    "name", ["", "a", "a/b/c", "../x", "/etc", "~/x", "a:b", "a/" + "n" * 300, "a/b\0", "a b/c", 3]
)
def test_what_cannot_be_a_hub_id_is_not_asked_for(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(BadFile):
        files.hub_folder(name, "w", "d")


# ---- names ----

SUITE = {
    "name": "s",
    "model": "tiny:sd1",
    "concepts": ["weapon"],
    "judge": "picto",
    "prompts": [{"kind": "plain", "n": 1}],
}
BAD_NAMES = ["", ".", "..", "../../EVIL", "/abs/x", "a/b", "a\\b", "a b", ".hidden", "n" * 65, "n" * 300, "a\0b", "a\n",
             "ä", "a:b", "{concept}", "$x", "<b>"]  # fmt: skip
GOOD_NAMES = ["weapon", "style-noto", "duo_v1.2", "A", "0", "n" * 64, "-x", "a..b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name_is_refused_wherever_one_is_read(name, tmp_path):
    assert not files.name_ok(name)
    with pytest.raises(UserError):
        files.named("a thing", name)
    weapon = concepts.load("weapon").model_dump()
    with pytest.raises(ValueError):
        concepts.Concept.model_validate(weapon | {"name": name})
    for more in ({"name": name}, {"defenses": [{"method": "sld", "name": name}]},
                 {"attacks": [{"method": "random-tokens", "name": name}]}):  # fmt: skip
        if name or "name" in more:  # an empty one of a defense or an attack is none
            with pytest.raises(UserError):
                SuiteSpec.parse(SUITE | more)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_are_taken(name):
    assert files.name_ok(name) and files.named("a thing", name) == name
    assert concepts.Concept.model_validate(concepts.load("weapon").model_dump() | {"name": name}).name == name


def test_the_bare_model_s_name_is_nobody_else_s():
    for more in ({"defenses": [{"method": "sld", "name": "none"}]}, {"attacks": [{"method": "mma", "name": "none"}]}):
        with pytest.raises(UserError, match="bare model"):
            SuiteSpec.parse(SUITE | more)


def test_nothing_is_joined_to_a_folder_that_leads_out(tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    (home / "link").symlink_to(out)
    for parts in (
        ("..",),
        ("a", ".."),
        ("/x",),
        ("a/b",),
        ("",),
        (".",),
        ("a\0",),
        ("n" * 300,),
        ("link",),
        ("link", "x"),
    ):
        with pytest.raises(BadFile):
            files.inside(home, *parts)
    assert files.inside(home, "a", "b..c") == home / "a" / "b..c"


def include(folder: Path, part: str) -> Path:
    text = (concepts.SHIPPED / "weapon.toml").read_text()
    path = folder / "c.toml"
    path.write_text(re.sub(r"^include = .*$", lambda _: f"include = [{json.dumps(part)}]", text, count=1, flags=re.M))
    return path


@pytest.mark.parametrize("part", ["../x", "/etc/x", "n" * 300, "a\x00b", "..", "a/b"])
def test_includes_do_not_lead_out(tmp_path, part):
    with pytest.raises(UserError):
        concepts.load(include(tmp_path, part))


def test_a_part_that_is_a_link_is_not_passed_over(tmp_path):
    path = include(tmp_path, "picto")
    assert concepts.load(path).name == "weapon"
    (tmp_path / "_picto.toml").symlink_to(tmp_path / "nowhere.toml")
    with pytest.raises(BadFile):
        concepts.load(path)
    outside = tmp_path.parent / f"{tmp_path.name}-outside.toml"
    outside.write_text((concepts.SHIPPED / "_picto.toml").read_text())
    (tmp_path / "_picto.toml").unlink()
    (tmp_path / "_picto.toml").symlink_to(outside)
    with pytest.raises(BadFile, match="leads"):
        concepts.load(path)


@pytest.mark.parametrize("name", ["../../EVIL", "/abs/x", ".."])
def test_a_concept_s_name_leads_nowhere(tmp_path, name, capsys, monkeypatch):
    """Nothing is written, and one line says what is wrong, from a suite and from fit with {concept} in --out."""
    for part in concepts.SHIPPED.glob("_*.toml"):
        (tmp_path / part.name).write_text(part.read_text())
    text = (concepts.SHIPPED / "weapon.toml").read_text()
    (tmp_path / "c.toml").write_text(re.sub(r"^name = .*$", f'name = "{name}"', text, count=1, flags=re.M))
    (tmp_path / "s.toml").write_text(
        'name="one"\nmodel="tiny:sd1"\nconcepts=["c.toml"]\ndefenses=[{method="uce",texts=6}]\njudge="picto"\nsteps=1\n'
        'attacks=["random-tokens"]\n[[prompts]]\nkind="plain"\nn=2\n'
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.parent.rglob("*"))
    fit = ["fit", "uce", "--concept", "c.toml", "--out", "run/{concept}", "--model", "tiny:sd1", "--set", "texts=6"]
    for arguments in (["bench", "s.toml", "--out", "run/deep/out"], fit):
        assert main(arguments) == 2
        told = capsys.readouterr()
        assert not told.out and told.err.count("\n") == 1 and "'name'" in told.err
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("out", ["n" * 300, "a/" + "n" * 300, "x" * 250, "y/" * 3000])
@pytest.mark.parametrize(
    "command",
    [
        ["demo"],
        ["generate", "--prompt", "x"],
        ["bench", "s.toml"],
        ["merge", "a"],
        ["fit", "uce", "--concept", "weapon"],
    ],
)
def test_an_out_that_no_system_takes_is_one_line(capsys, tmp_path, monkeypatch, command, out):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--out", out]) == 2
    assert capsys.readouterr().err.startswith("error: expected a path to write to")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["\udcff", "a\0b"])
def test_arguments_that_are_no_text_are_one_line(capsys, argument):
    assert main(["generate", "--prompt", argument]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---- a saved defense ----


def saved(tmp_path: Path, name: str, **changes: object) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for file in (DEFENSES / name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return folder


SPOILED = {
    "no weights": {"weights": None},
    "no fingerprints": {"fingerprints": {}},
    "half of them": {"fingerprints": {"model": "0" * 64}},
    "another fingerprint": {"fingerprints": {"model": "x", "text": "y"}},
    "a record that is a list": {"record": []},
    "a training that is text": {"record": {"training": "x"}},
    "an unknown class": {"defense": "no-such"},
    "a class that is no name": {"defense": "../x"},
    "another class": {"defense": "sld"},
    "no arguments": {"arguments": {}},
    "too many arguments": {"arguments": {"zzz": 1}},
    "arguments as a list": {"arguments": []},
    "no format": {"format": ...},
    "format as text": {"format": "1"},
    "format true": {"format": True},
    "more keys": {"more": 1},
    "weights as a number": {"weights": 1},
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", sorted(folder.name for folder in DEFENSES.iterdir()))
def test_a_defense_that_is_not_whole_is_refused(tmp_path, name, how):
    assert Defense.from_pretrained(saved(tmp_path, name)).name == name.partition("-")[0]
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError):
        Defense.from_pretrained(saved(tmp_path / "x", name, **SPOILED[how]))


def test_a_defense_of_words_has_no_weights(tmp_path):
    folder = unsee.SLD(text="dagger").save_pretrained(tmp_path / "sld")
    config = json.loads((folder / "config.json").read_text())
    assert unsee.SLD.from_pretrained(folder).text == "dagger"
    (folder / "config.json").write_text(json.dumps(config | {"weights": "0" * 64}))
    with pytest.raises(BadFile, match="no weights"):
        unsee.SLD.from_pretrained(folder)
