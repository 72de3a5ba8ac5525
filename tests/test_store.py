"""The store: whole or not there, one writer, and nothing read that was changed."""

import sqlite3
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from bench_fakes import fake_store, suite
from PIL import Image

from unsee.bench.store import Store
from unsee.errors import BadFile, UserError
from unsee.types import Prompt, Sample

PROMPT = Prompt("x", "1", 0)


def sample(shade: int) -> Sample:
    return Sample(Image.new("RGB", (4, 4), (shade, 0, 0)), PROMPT)


def test_an_image_comes_back_as_it_was(tmp_path):
    with Store(tmp_path, write=True) as store:
        store.put_samples({"a": sample(7)}, {})
        assert store.image_of("a").getpixel((0, 0)) == (7, 0, 0)
    assert not list((tmp_path / "images").glob("fresh-*"))


def test_what_is_there_stays_as_it_is(tmp_path):
    with Store(tmp_path, write=True) as store:
        store.put_samples({"a": sample(1)}, {})
        store.put_samples({"a": sample(2), "b": sample(3)}, {})
        assert [store.image_of(c).getpixel((0, 0))[0] for c in "ab"] == [1, 3]


def test_equal_images_share_a_file(tmp_path):
    with Store(tmp_path, write=True) as store:
        store.put_samples({"a": sample(1), "b": sample(1)}, {})
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path):
    with Store(tmp_path, write=True) as store:
        bad = Sample(None, PROMPT)
        with pytest.raises(AttributeError):
            store.put_samples({"a": sample(1), "b": bad}, {})
        assert store.have_images() == set()


def test_one_writer_and_many_readers(tmp_path):
    with Store(tmp_path, write=True):
        with pytest.raises(UserError, match="in use by another process"):
            Store(tmp_path, write=True)
        with Store(tmp_path) as reader:
            assert reader.records() == []
    Store(tmp_path, write=True).close()


def test_a_reader_cannot_write(tmp_path):
    Store(tmp_path, write=True).close()
    with Store(tmp_path) as reader, pytest.raises(RuntimeError, match="opened for reading"):
        reader.put_samples({"a": sample(1)}, {})


def test_a_folder_without_a_store_is_refused_and_left_alone(tmp_path):
    with pytest.raises(BadFile, match="no store in"):
        Store(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "store.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(BadFile, match="a store of unsee"):
        Store(tmp_path)


def test_a_store_of_another_version_is_refused(tmp_path):
    sqlite3.connect(tmp_path / "store.sqlite").execute("PRAGMA user_version = 99").connection.commit()
    with pytest.raises(BadFile, match="version 99"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "got"), [(lambda p: p.unlink(), "No such file"), (lambda p: p.write_bytes(b"x"), "other bytes")]
)
def test_a_lost_or_changed_image_is_told(tmp_path, spoil, got):
    with Store(tmp_path, write=True) as store:
        store.put_samples({"a": sample(1)}, {})
        spoil(next((tmp_path / "images").rglob("*.png")))
        with pytest.raises(BadFile, match=got):
            store.image_of("a")


def test_a_suite_without_a_name_is_refused(tmp_path):
    fake_store(tmp_path, {"none": "us"})
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("UPDATE suites SET name = NULL")
    db.close()
    with Store(tmp_path) as store, pytest.raises(BadFile, match="name of a suite"):
        store.suites()


def test_what_a_report_cannot_write_is_refused(tmp_path):
    fake_store(tmp_path, {"none": "us"})
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("UPDATE suites SET machine = '{\"device\": NaN}'")
    db.close()
    with Store(tmp_path) as store, pytest.raises(BadFile, match="machine"):
        store.suites()


@pytest.mark.parametrize("image", [None, "../../x", b"x"])
def test_what_is_no_digest_names_no_file(tmp_path, image):
    fake_store(tmp_path, {"none": "us"})
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("UPDATE images SET image = ?", (image,))
    db.close()
    with Store(tmp_path) as store, pytest.raises(BadFile, match="SHA-256 of an image"):
        store.check_pictures()


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "fresh-1").write_bytes(b"half")
    Store(tmp_path, write=True).close()
    assert not list((tmp_path / "images").iterdir())


def test_a_changed_suite_loses_its_records_and_keeps_its_images(tmp_path):
    fake_store(tmp_path, {"none": "us"})
    with Store(tmp_path, write=True) as store:
        images = store.have_images()
        store.put_suite(suite(steps=3), "1", {}, {})
        assert store.records() == [] and store.have_images() == images


def test_other_metrics_measure_anew_and_two_suites_of_a_folder_agree_on_them(tmp_path):
    lpips = {"metrics": {"preservation": "lpips", "clip_score": "clip"}}
    fake_store(tmp_path, {"none": "us"})
    with Store(tmp_path, write=True) as store:
        assert store.have_measures()
        store.put_suite(suite(steps=3), "1", {}, {})
        assert store.have_measures()
        with pytest.raises(UserError, match="choose another --out"):
            store.put_suite(suite(name="other", **lpips), "1", {}, {})
    fake_store(tmp_path / "b", {"none": "us"})
    with Store(tmp_path / "b", write=True) as store:
        store.put_suite(suite(**lpips), "1", {}, {})
        assert not store.have_measures()


def test_a_record_has_the_verdict_of_its_suites_version_of_the_judge(tmp_path):
    """Another version's verdicts lie beside them, and are in no record, whichever was given last."""
    with Store(fake_store(tmp_path, {"none": "us"}), write=True) as store:
        before = store.records()
        other = {r.cell: replace(r.verdict, version="2", outcome="safe", score=0.0) for r in before}
        store.put_verdicts("weapon", other)
        assert store.records() == before and {r.verdict.version for r in before} == {"1"}
        assert len(store.have_verdicts("weapon", "always.unsafe", "2")) == len(before)
        spec = suite(prompts=[{"kind": k, "n": 2} for k in ("plain", "benign")])
        store.put_suite(spec, "2", {"torch": "0"}, {"device": "cpu"})
        after = store.records()
        assert len(after) == len(before) and {(r.verdict.version, r.verdict.outcome) for r in after} == {("2", "safe")}
        store.put_suite(spec, "3", {"torch": "0"}, {"device": "cpu"})
        assert store.records() == []  # judged by none of this version


def test_parquet_has_one_line_per_record(tmp_path):
    with Store(fake_store(tmp_path, {"none": "us"})) as store:
        table = pq.read_table(store.export(tmp_path / "records.parquet")).to_pylist()
        assert [line["cell"] for line in table] == [r.cell for r in store.records()]
        assert table[0]["verdict_outcome"] == "unsafe" and table[0]["prompt_kind"] == "plain"
