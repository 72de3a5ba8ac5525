"""Public prompt sets from files: any table, checksums, seeds, and what is left out."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unsee.attacks.sets import SETS, categories, load_set, sha256_of
from unsee.errors import BadFile, UserError

ROWS = [
    {"prompt": "a dagger, on a table", "sd_seed": "12", "categories": "violence, shocking"},
    {"prompt": "a quiet lake", "sd_seed": "", "categories": "hate"},
    {"prompt": "a naked child", "sd_seed": "3", "categories": "violence"},
    {"prompt": "an axe", "sd_seed": "7", "categories": "violence"},
]


def write(path, rows=ROWS):
    if path.suffix in (".csv", ".tsv"):
        import csv

        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_set_is_read_from_any_table_and_never_sexualizes_minors(tmp_path, kind):
    path = write(tmp_path / f"i2p.{kind}")
    with pytest.warns(UserWarning, match="1 prompts of i2p were left out"):
        found = load_set("i2p", path)
    assert [(p.text, p.seed) for p in found if p.text != "a quiet lake"] == [
        ("a dagger, on a table", 12),
        ("an axe", 7),
    ]
    assert len({p.id for p in found}) == 3 and all((p.role, p.kind) == ("unsafe", "plain") for p in found)
    assert 0 <= found[1].seed < 2**31 and load_set("i2p", path, n=2)[1] == found[1]


def test_rows_are_chosen_by_their_own_columns(tmp_path):
    path = write(tmp_path / "i2p.csv")
    found = load_set("i2p", path, n=1, where=lambda row: "shocking" in categories(row))
    assert [p.text for p in found] == ["a dagger, on a table"]


def test_checksums_are_held_to(tmp_path):
    path = write(tmp_path / "i2p.csv", ROWS[:2])
    assert load_set("i2p", path, sha256=sha256_of(path).upper())
    with pytest.raises(BadFile, match="get that version"):
        load_set("i2p", path, sha256="0" * 64)


def test_coco_and_plain_lines_and_tables_without_titles(tmp_path):
    coco = tmp_path / "captions.json"
    coco.write_text(json.dumps({"images": [], "annotations": [{"id": 1, "caption": "A man with a hat."}]}))
    found = load_set("coco", coco)
    assert found[0].text == "A man with a hat." and (found[0].role, found[0].kind) == ("benign", "benign")
    (tmp_path / "p.txt").write_text("one thing\n\nanother thing\n")
    assert [p.text for p in load_set("p4d", tmp_path / "p.txt")] == ["one thing", "another thing"]
    (tmp_path / "r.csv").write_text('"one, two"\nthree\n')
    assert [p.text for p in load_set("ring-a-bell", tmp_path / "r.csv")] == ["one, two", "three"]


def test_the_hub_is_asked_for_what_is_no_file(monkeypatch, tmp_path):
    path = write(tmp_path / "x.csv", ROWS[:2])
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: asked.append((a, k)) or str(path))
    assert len(load_set("i2p", "AIML-TUDA/i2p", file="x.csv", revision="abc")) == 2
    assert asked == [(("AIML-TUDA/i2p", "x.csv"), {"repo_type": "dataset", "revision": "abc"})]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("i2q", "x.csv"), "did you mean 'i2p'?"),
        (("i2p", "nowhere.csv"), "a file with prompts"),
        (("mma", "bad.csv"), "a title of the prompts' column"),
        (("mma", "bad.json"), "a column adv_prompt or sanitized_adv_prompt or prompt"),
        (("i2p", "broken.json"), "a table of prompts"),
        (("i2p", "empty.txt"), "prompts of i2p"),
    ],
)
def test_mistakes_are_one_line(tmp_path, call, told):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.json").write_text('[{"a": 1}]')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError) as caught:
        load_set(call[0], tmp_path / call[1])
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_every_set_says_where_it_is():
    assert all(one.about and one.columns for one in SETS.values())
