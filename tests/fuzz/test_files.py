"""Mutated files of every kind: refused in one line, or they are what they say."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import sqlite3
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_fakes import TINY, fake_store
from fuzzing import REFUSED, files_in, fuzz, told
from hypothesis import strategies as st
from mutations import json_bytes, junk, mutated, scalars, spoiled, texts, toml_bytes
from PIL import Image
from safetensors.torch import save

import unsee
from unsee import attacks, concepts, files, judges
from unsee.attacks.sets import load_set
from unsee.bench.merge import merge
from unsee.bench.store import COLUMNS, Store
from unsee.defenses.base import Defense
from unsee.erase.run import Notes
from unsee.picto import DEFENSES
from unsee.report.collect import gather
from unsee.suites.suite import SuiteSpec
from unsee.types import AttackedPrompt, Prompt

CONCEPTS = ("weapon", "style-noto", "nudity")
READERS = [
    lambda p: files.read_json(p, "w", "d"),
    lambda p: files.read_toml(p, "f", "w", "d"),
    files.load_tensors,
    files.tensor_shapes,
    files.open_image,
    lambda p: files.read_torch(p, "w", "d"),
    lambda p: files.read_parquet(p, "w", "d"),
    files.sha256,
    lambda p: files.open_sqlite(p, "w", "d").execute("SELECT * FROM sqlite_master").fetchall(),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def torch_bytes(value: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


def parquet_bytes(folder: Path, rows: list[dict[str, Any]]) -> bytes:
    files.write_parquet(folder / "made.parquet", rows)
    return (folder / "made.parquet").read_bytes()


def picture(kind: str) -> bytes:
    made = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (16, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(made, format=kind)
    return made.getvalue()


@fuzz(150)
def test_readers(base: Path, data: Any) -> None:
    seeds = [
        b'{"a": [1, 2.5, "x"]}',
        b"a,b\n1,2\n",
        b"a = 1\n",
        save({"x": torch.ones(3)}),
        torch_bytes({"x": torch.ones(2)}),
        picture("PNG"),
        parquet_bytes(base, [{"a": 1}]),
    ]
    path = base / data.draw(st.sampled_from(["f", "a:b", "x.json", "ä"]))
    path.write_bytes(data.draw(st.sampled_from(seeds).flatmap(spoiled)))
    reader = data.draw(st.sampled_from(READERS))
    told("readers", lambda: reader(path))


@fuzz(60)
def test_concepts(base: Path, data: Any) -> None:
    home = base / "concepts"
    home.mkdir(exist_ok=True)
    raw = concepts.load(data.draw(st.sampled_from(CONCEPTS))).model_dump(mode="json", exclude_none=True)
    (home / "c.toml").write_bytes(data.draw(toml_bytes(raw)))
    found = told("concepts", lambda: concepts.load(home / "c.toml"))
    if found is REFUSED:
        return
    assert files.name_ok(found.name)
    assert concepts.Concept.model_validate(found.model_dump()) == found
    for kind in ("plain", "synonym", "empty", "neighbor", "benign"):
        made = told("prompts", lambda kind=kind: found.prompts(kind, "train", 3, 0))
        assert made is REFUSED or all(p.text and len(p.text) < 10_000 for p in made)
    told("pairs", lambda: found.pairs("held-out", 3, 0))


SUITE = TINY | {
    "attacks": [
        "random-tokens",
        {"method": "paraphrase", "name": "said", "n": 2, "defenses": ["sld"], "prompts": ["plain"]},
    ],
    "claims": [
        {
            "id": "a",
            "paper": "P",
            "text": "T",
            "paper_value": "1",
            "compare": [{"metric": "dsr", "left": {"defense": "sld"}, "right": {"defense": "none"}, "above": 0.0}],
        }
    ],
}


@fuzz(90)
def test_suites(base: Path, data: Any) -> None:
    path = base / "s.toml"
    path.write_bytes(data.draw(toml_bytes(SUITE)))
    found = told("suites", lambda: SuiteSpec.load(path))
    if found is REFUSED:
        return
    assert files.name_ok(found.name) and math.isfinite(found.guidance) and found.steps >= 1 and found.batch_size >= 1
    assert SuiteSpec.parse(found.model_dump()).digest == found.digest
    assert all(group.stack.name and group.attack.name for group in found.groups())
    for stack in found.stacks:
        told("defenses of suites", lambda stack=stack: stack.check(concepts.load("weapon")))


def folder_of(base: Path, name: str) -> Path:
    """A fresh copy of a saved defense."""
    made = base / "defense"
    shutil.rmtree(made, ignore_errors=True)
    if name in ("sld", "negative-prompt"):
        kind = unsee.SLD(text="dagger") if name == "sld" else unsee.NegativePrompt(text="dagger")
        return kind.save_pretrained(made)
    return Path(shutil.copytree(DEFENSES / name, made))


def canonical(value: Any) -> str:
    """JSON in which 1, 1.0 and true are three things, NaN is itself, and the order of keys is none."""
    return json.dumps(value, sort_keys=True)


def whole(folder: Path, said: dict[str, Any], made: Defense) -> None:
    """What was loaded says the same as its file: nothing was dropped or bent."""
    again = {"arguments": made.config(), "record": dict(made.record), "fingerprints": dict(made.fingerprints)}
    kept = {key: value for key, value in said.items() if key in again}
    assert canonical(again) == canonical({key: kept.get(key, {}) for key in again})
    assert (said["weights"] is None) == (not made.tensors()) and made.name == said["defense"]
    assert len(made.digest()) == 64


@fuzz(110)
def test_defenses(base: Path, data: Any) -> None:
    folder = folder_of(
        base, data.draw(st.sampled_from(["sld", "negative-prompt", "duo-weapon", "ine-weapon", "saferedir-weapon"]))
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_bytes(data.draw(json_bytes(config)))
    made = told("defenses", lambda: Defense.from_pretrained(folder))
    if made is not REFUSED:
        whole(folder, json.loads((folder / "config.json").read_text("utf-8-sig")), made)


@fuzz(50)
def test_weights_of_defenses(base: Path, data: Any) -> None:
    """Weights that were changed, their checksum made to fit or not."""
    folder = folder_of(base, data.draw(st.sampled_from(["duo-weapon", "ine-weapon"])))
    path, old = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    head = int.from_bytes(old[:8], "little") + 8
    if data.draw(st.booleans()):
        new = data.draw(spoiled(old[:head])) + old[head:]
    else:
        header = data.draw(mutated(json.loads(old[8:head])))
        text = json.dumps(header).encode()
        new = len(text).to_bytes(8, "little") + text + old[head:]
    path.write_bytes(new)
    if fits := data.draw(st.booleans()):
        config = json.loads((folder / "config.json").read_text()) | {"weights": hashlib.sha256(new).hexdigest()}
        (folder / "config.json").write_text(json.dumps(config))
    made = told("weights", lambda: Defense.from_pretrained(folder))
    assert made is REFUSED or fits or new == old
    if made is not REFUSED:
        assert all(bool(torch.isfinite(t).all()) for t in made.tensors().values())


@fuzz(40)
def test_stacks(base: Path, data: Any) -> None:
    folder = base / "stack"
    if not folder.exists():
        unsee.Stack(defenses=(unsee.SLD(text="a"), unsee.NegativePrompt(text="b"))).save_pretrained(folder)
        (base / "kept.json").write_bytes((folder / "stack.json").read_bytes())
    listed = json.loads((base / "kept.json").read_text())
    (folder / "stack.json").write_bytes(data.draw(json_bytes(listed)))
    made = told("stacks", lambda: Defense.from_pretrained(folder))
    if made is not REFUSED:
        said = json.loads((folder / "stack.json").read_text("utf-8-sig"))
        assert [m.name for m in made.members()] == [line["defense"] for line in said["defenses"]]
        assert repr(dict(made.record)) == repr(said.get("record", {}))


# ---- run folders ----


@pytest.fixture(scope="module")
def run(base: Path) -> Path:
    folder = fake_store(base / "run", {"none": "uuus", "negative": "ussx"})
    with Store(folder, write=True) as store:
        store.put_mark("tiny", {"shard": "1/1", "planned": {"0": 4}, "defenses": {}, "model": "m", "finished": True})
        store.export(folder / "records.parquet")
    return folder


def all_of(folder: Path) -> list[Any]:
    """Everything that can be asked of a run."""
    with Store(folder) as store:
        told_of = gather(store)
        json.loads(told_of.as_json(), parse_constant=lambda text: pytest.fail(text))
        for record in told_of.records:
            assert record.verdict.outcome in ("unsafe", "safe", "unjudged")
            assert record.verdict.score is None or 0 <= record.verdict.score <= 1
            store.image_of(record.cell)
        store.outcomes()
        return told_of.records


JSONS = [
    ("suites", "spec"),
    ("suites", "versions"),
    ("suites", "machine"),
    ("cells", "prompt"),
    ("images", "decisions"),
    ("images", "versions"),
    ("verdicts", "labels"),
    ("marks", "mark"),
]


@fuzz(110)
def test_runs(base: Path, run: Path, data: Any) -> None:
    """One value of the store is another, or the JSON in it is; then it is read, told and merged."""
    home = base / "spoiled"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(run, home / "run")
    db = sqlite3.connect(home / "run" / "store.sqlite")
    if data.draw(st.booleans()):
        table, column = data.draw(st.sampled_from(JSONS))
        old = db.execute(f"SELECT {column} FROM {table}").fetchone()[0]
        new: Any = data.draw(json_bytes(json.loads(old)))
        new = new.decode("utf-8", "replace") if data.draw(st.booleans()) else new
    else:
        table = data.draw(st.sampled_from(sorted(COLUMNS)))
        column = data.draw(st.sampled_from(COLUMNS[table]))
        new = data.draw(scalars | st.binary(max_size=8))
        new = float(new) if isinstance(new, int) and abs(new) >= 2**63 else new
    one = f"rowid = (SELECT min(rowid) FROM {table})" if data.draw(st.booleans()) else "1"
    try:
        db.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {one}", (new,))
    except UnicodeEncodeError:
        return
    db.commit()
    db.close()
    told("runs", lambda: all_of(home / "run"))
    before = files_in(home)
    if data.draw(st.integers(0, 4)) == 0:
        told("merges", lambda: merge([home / "run"], home / "out"))
        after = [name for name in files_in(home) if not name.startswith((str(home / "out"), str(home / "run")))]
        assert after == [name for name in before if not name.startswith(str(home / "run"))]


@fuzz(50)
def test_bytes_of_runs(base: Path, run: Path, data: Any) -> None:
    """The database and the pictures, byte by byte."""
    home = base / "bytes"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(run, home)
    found = sorted(home.rglob("*.png"))
    path = data.draw(st.sampled_from([home / "store.sqlite"] * 3 + found[:2]))
    path.write_bytes(data.draw(spoiled(path.read_bytes())))
    told("bytes of runs", lambda: all_of(home))


# ---- attacks, sets, importers, images, notes, judges ----


def found_prompts(folder: Path) -> Path:
    prompts = concepts.load("weapon").prompts("plain", "train", 2, 0)
    words = (torch.ones(2, 4),)
    made = [
        AttackedPrompt(p, p.text, "mma", 1.0, 0.5, attacks.Spent(1, 2, 3, 4), words if i else (), 0.1)
        for i, p in enumerate(prompts)
    ]
    return attacks.save(made, folder / "found" / "prompts.json", sees="text", most=asdict(attacks.Spent(9, 9, 9, 9)))


@fuzz(70)
def test_attacks(base: Path, data: Any) -> None:
    path = found_prompts(base)
    said = json.loads(path.read_text())
    if data.draw(st.integers(0, 3)):
        path.write_bytes(data.draw(json_bytes(said)))
    else:
        beside = path.with_suffix(".safetensors")
        beside.write_bytes(data.draw(spoiled(beside.read_bytes())))
    made = told("attacks", lambda: attacks.load(path))
    if made is not REFUSED:
        lines = json.loads(path.read_text("utf-8-sig"))["prompts"]
        assert [asdict(one.prompt) for one in made] == [asdict(Prompt(**line["prompt"])) for line in lines]
        assert [one.source for one in made] == [line["source"] for line in lines]
        assert [bool(one.words) for one in made] == [bool(line["words"]) for line in lines]


ROWS = [
    {"prompt": "a dagger", "sd_seed": 7, "categories": "violence"},
    {"prompt": "a gun, big", "sd_seed": 8, "categories": ""},
]


@fuzz(60)
def test_prompt_sets(base: Path, data: Any) -> None:
    rows = data.draw(mutated(ROWS)) if data.draw(st.booleans()) else ROWS
    lines = [row if isinstance(row, dict) else {"prompt": row} for row in (rows if isinstance(rows, list) else [rows])]
    kind = data.draw(st.sampled_from(["csv", "tsv", "json", "jsonl", "txt", "parquet"]))
    if kind == "parquet":
        raw = parquet_bytes(base, ROWS)
    elif kind == "json":
        raw = json.dumps(rows).encode()
    elif kind == "jsonl":
        raw = "\n".join(json.dumps(row) for row in lines).encode()
    else:
        mark = "\t" if kind == "tsv" else ","
        cells = [[str(v) for v in row.values()] for row in lines]
        raw = "\n".join(mark.join(row) for row in [["prompt", "sd_seed", "categories"], *cells]).encode(
            "utf-8", "replace"
        )
    path = base / f"set.{kind}"
    path.write_bytes(data.draw(spoiled(raw)) if data.draw(st.booleans()) else raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = told("prompt sets", lambda: load_set("i2p", path))
    if found is not REFUSED:
        assert all(isinstance(p, Prompt) and p.text.strip() and 0 <= p.seed < 2**63 for p in found)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return unsee.load("tiny:sd1")


@fuzz(30)
def test_importers(base: Path, pipe: Any, data: Any) -> None:
    from unsee.unlearn.importers import import_duo, import_esd

    layer = next(n for n, _ in pipe.unet.named_parameters() if n.endswith("attn2.to_k.weight"))
    weight = pipe.unet.get_parameter(layer)
    stem = f"unet.{layer.removesuffix('.weight')}"
    lora = {
        f"{stem}.lora_A.weight": torch.ones(2, weight.shape[1]),
        f"{stem}.lora_B.weight": torch.ones(weight.shape[0], 2),
    }
    state: dict[str, Any] = data.draw(st.sampled_from([{layer: weight.detach() + 1}, lora]))
    if data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(state)))
        value = data.draw(st.sampled_from([torch.ones(3), torch.full_like(state[key], math.nan), torch.tensor(2)]))
        state = {
            (data.draw(texts) if data.draw(st.booleans()) else key): value,
            **{k: v for k, v in state.items() if k != key},
        }
    kind = data.draw(st.sampled_from(["safetensors", "pt"]))
    raw = save(state) if kind == "safetensors" else torch_bytes(data.draw(st.just(state) | junk))
    path = base / f"state.{kind}"
    path.write_bytes(data.draw(spoiled(raw)) if data.draw(st.booleans()) else raw)
    call = data.draw(st.sampled_from([import_esd, import_duo]))
    made = told("importers", lambda: call(path, pipe))
    if made is not REFUSED:
        assert made.tensors() and all(bool(torch.isfinite(t).all()) for t in made.tensors().values())


@fuzz(60)
def test_images(base: Path, data: Any) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]))
    path = base / "picture.png"
    path.write_bytes(data.draw(spoiled(picture(kind))))
    found = told("images", lambda: files.open_image(path))
    if found is not REFUSED:
        assert found.mode == "RGB" and min(found.size) > 0 and np.asarray(found).shape == (*found.size[::-1], 3)
        assert kind in ("PNG", "JPEG", "WEBP", "BMP")
        if kind == "PNG":  # the only one with checksums
            assert np.array_equal(np.asarray(found), np.asarray(Image.open(io.BytesIO(picture("PNG")))))


PLAN = {
    "identity": "me",
    "recipe": "r",
    "plan": {"budget": 60.0, "fixed": 1.0, "lines": [{"name": "a", "fit": 1.0, "attacks": 2.0, "left_out": ""}]},
    "pace_at": "p",
    "pace": {"image": 1.0, "encoding": 1.0, "forward": 1.0, "backward": 1.0},
    "tried": {"a": 1.0, "b": "no"},
    "fitted": {"a": True},
    "seconds": {"a": 2.0},
}


@fuzz(20)
def test_notes(base: Path, data: Any) -> None:
    path = base / "plan.json"
    path.write_bytes(data.draw(json_bytes(PLAN)))
    found = told("notes", lambda: Notes(path, "me"))
    if found is not REFUSED:
        said = json.loads(path.read_text("utf-8-sig"))
        for line in (said.get("plan") or {}).get("lines", []):
            line.setdefault("left_out", "")  # the only key that may be left out
        assert json.loads(found.known.model_dump_json(exclude_unset=True)) == said


@fuzz(20)
def test_files_of_judges(base: Path, data: Any) -> None:
    from unsee.judges import q16

    kind = data.draw(st.sampled_from(["safetensors", "pt", "p"]))
    raw = save({"prompts": torch.ones(2, 768)}) if kind == "safetensors" else torch_bytes(torch.ones(2, 768))
    path = base / f"judge.{kind}"
    path.write_bytes(data.draw(spoiled(raw)))
    found = told("files of judges", lambda: q16.read(str(path)))
    assert found is REFUSED or bool(torch.isfinite(found).all())
    told("judges", lambda: judges.load(f"q16:prompts={path}"))
