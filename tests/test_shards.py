"""Parts of a suite and their merging: the same rows for 1, 2 and 5 shards, and nothing merged that does not belong."""

import json
import sqlite3
from collections import Counter

import pytest
from bench_fakes import NEGATIVE, comparable, cut_power, suite
from typer.testing import CliRunner

from unsee.bench.merge import merge
from unsee.bench.run import run
from unsee.bench.shard import Shard
from unsee.bench.store import Store
from unsee.errors import BadFile, UserError

SUITE = suite(
    defenses=[NEGATIVE],
    attacks=[{"method": "random-tokens", "n": 2}],
    prompts=[{"kind": "plain", "n": 5}, {"kind": "benign", "n": 3}],
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The suite whole, and in two shards with other batches."""
    folder = tmp_path_factory.mktemp("runs")
    run(SUITE, folder / "whole")
    for number in (1, 2):
        run(SUITE, folder / f"{number}of2", shard=Shard(number, 2), batch_size=number)
    return folder


def shards(folder, of=2):
    return [folder / f"{number}of{of}" for number in range(1, of + 1)]


def test_a_shard_has_whole_pairs_and_none_twice(runs):
    parts = [comparable(folder) for folder in shards(runs)]
    cells = [{line["cell"] for line in part} for part in parts]
    assert not cells[0] & cells[1]
    for part, own in zip(parts, cells, strict=True):
        assert {line["twin"] for line in part} <= own
    assert abs(len(parts[0]) - len(parts[1])) <= 3  # what one prompt gives: undefended, defended, attacked


@pytest.mark.parametrize("of", [2, 5])
def test_any_number_of_shards_gives_the_same_rows(runs, tmp_path, of):
    if of == 2:
        folders = shards(runs)
    else:
        folders = shards(tmp_path, of)
        for number, folder in enumerate(folders, 1):
            run(SUITE, folder, shard=Shard(number, of))
    merged = merge(folders[::-1], tmp_path / "R")
    assert comparable(tmp_path / "R") == comparable(runs / "whole") and merged == len(comparable(runs / "whole"))


def test_merged_twice_and_run_again_nothing_changes(runs, tmp_path, monkeypatch):
    merge(shards(runs), tmp_path)
    merge(shards(runs), tmp_path)
    monkeypatch.setattr("unsee.bench.engine.draw", None)  # nothing is left to draw, to fit or to search
    monkeypatch.setattr("unsee.attacks.random_tokens.RandomTokens._find", None)
    run(SUITE, tmp_path)
    assert comparable(tmp_path) == comparable(runs / "whole")


def test_the_deal_is_fixed_and_even():
    counts = {f"{i:03d}": 1 + i % 3 for i in range(100)}
    parts = [Shard(n, 7).part(counts) for n in range(1, 8)]
    assert sum(map(len, parts)) == 100 and set().union(*parts) == set(counts)
    loads = [sum(counts[twin] for twin in part) for part in parts]
    assert max(loads) - min(loads) <= 3
    assert parts == [Shard(n, 7).part(dict(reversed(counts.items()))) for n in range(1, 8)]
    assert Counter(counts) and Shard(1, 1).part(counts) == set(counts)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_wrong_shard_is_one_line(text):
    with pytest.raises(UserError, match="a shard as I/N"):
        Shard.parse(text)


def test_a_folder_keeps_its_shard(runs):
    for other in (Shard(2, 2), Shard()):
        with pytest.raises(UserError, match="shard 1/2; choose another --out"):
            run(SUITE, runs / "1of2", shard=other)


def test_all_shards_once_and_a_folder_of_its_own(runs, tmp_path):
    one, two = shards(runs)
    with pytest.raises(UserError, match="none for 2/2"):
        merge([one], tmp_path / "R")
    with pytest.raises(UserError, match="1/2 twice"):
        merge([one, two, one], tmp_path / "R")
    with pytest.raises(UserError, match="a folder of its own"):
        merge([one, two], two)
    with pytest.raises(BadFile, match="no store in"):
        merge([one, tmp_path / "nowhere"], tmp_path / "R")
    assert not (tmp_path / "R").exists()


@pytest.mark.parametrize(
    ("change", "how", "told"),
    [
        ({"steps": 1}, {}, r"another suite .*steps: 1, not 2"),
        ({"model": "tiny:sd2-v"}, {}, r"another suite .*model: tiny:sd2-v"),
        ({"judge": "always.safe"}, {}, r"another suite .*judge: always.safe"),
        ({}, {"threads": 2}, r"another threads .*2, not 1"),
        ({}, {"shard": Shard(2, 3)}, r"another number of shards .*3, not 2"),
    ],
)
def test_what_does_not_belong_is_refused(runs, tmp_path, change, how, told):
    run(SUITE.model_copy(update=change), tmp_path / "two", **{"shard": Shard(2, 2)} | how)
    with pytest.raises(UserError, match=told):
        merge([runs / "1of2", tmp_path / "two"], tmp_path / "R")
    assert not (tmp_path / "R").exists()


@pytest.mark.parametrize(
    ("table", "column", "key", "told"),
    [
        ("marks", "mark", "model", "another model"),
        ("marks", "mark", "defenses", "another defenses"),
        ("suites", "versions", "torch", "another versions .*torch: other"),
        ("marks", "mark", "finished", "which was stopped"),
    ],
)
def test_the_same_name_of_another_thing_is_refused(runs, tmp_path, table, column, key, told):
    import shutil

    shutil.copytree(runs / "2of2", tmp_path / "two")
    with sqlite3.connect(tmp_path / "two" / "store.sqlite") as db:
        value = json.loads(db.execute(f"SELECT {column} FROM {table}").fetchone()[0])
        value[key] = {"model": "other", "defenses": {"weapon/none": ["x"]}, "torch": "other", "finished": False}[key]
        db.execute(f"UPDATE {table} SET {column} = ?", (json.dumps(value),))
    with pytest.raises(UserError, match=told):
        merge([runs / "1of2", tmp_path / "two"], tmp_path / "R")


def test_a_whole_run_is_no_shard_and_an_old_store_can_still_be_read(runs, tmp_path):
    with pytest.raises(UserError, match="1/1 twice"):
        merge([runs / "whole", runs / "whole"], tmp_path / "R")
    with Store(tmp_path, write=True) as store:
        store._db.execute("DROP TABLE marks")
        assert store.mark("tiny") is None
    Store(tmp_path, write=True).close()
    with Store(tmp_path) as store:
        assert store.mark("tiny") is None


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: next(run.rglob("*.png")).write_bytes(b"x"), "other bytes"),
        (lambda run: next(run.rglob("*.png")).unlink(), "No such file"),
        ("DELETE FROM images WHERE cell = (SELECT min(cell) FROM images)", "drawn and judged, got .* of "),
        ("DELETE FROM verdicts WHERE cell = (SELECT min(cell) FROM verdicts)", "drawn and judged, got .* of "),
    ],
    ids=["spoiled", "lost", "not drawn", "not judged"],
)
def test_a_shard_without_all_its_pictures_is_refused_before_anything_is_written(runs, tmp_path, spoil, told):
    import shutil

    shutil.copytree(runs / "2of2", tmp_path / "two")
    if callable(spoil):
        spoil(tmp_path / "two")
    else:
        with sqlite3.connect(tmp_path / "two" / "store.sqlite") as db:
            db.execute(spoil)
    with pytest.raises(BadFile, match=told):
        merge([runs / "1of2", tmp_path / "two"], tmp_path / "R")
    assert not (tmp_path / "R").exists()


def test_a_stopped_shard_goes_on_and_is_the_same(runs, tmp_path, monkeypatch):
    cut_power(monkeypatch, 2)
    with pytest.raises(RuntimeError, match="power cut"):
        run(SUITE, tmp_path / "two", shard=Shard(2, 2))
    with pytest.raises(UserError, match="which was stopped"):
        merge([runs / "1of2", tmp_path / "two"], tmp_path / "R")
    monkeypatch.undo()
    run(SUITE, tmp_path / "two", shard=Shard(2, 2))
    assert comparable(tmp_path / "two") == comparable(runs / "2of2")


def test_the_commands(runs, tmp_path):
    from unsee.cli.commands import app

    done = CliRunner().invoke(app, ["merge", *map(str, shards(runs)), "--out", str(tmp_path / "R"), "--json"])
    assert done.exit_code == 0, done.output
    assert {row["n"] for row in json.loads(done.stdout)["rows"]} == {2, 3, 5}
    assert (tmp_path / "R" / "report.html").is_file()
