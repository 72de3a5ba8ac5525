"""What keeps a large plan small: addresses, columns, places that lack something, records one by one."""

import hashlib
import json
import sqlite3
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_fakes import fake_store, suite

from unsee import concepts
from unsee.bench import run
from unsee.bench.plan import Addresses, Asked, Cells, address
from unsee.bench.rows import rows_of
from unsee.bench.store import Store
from unsee.errors import UnknownName, UserError
from unsee.suites.claims import Where
from unsee.suites.stacks import StackSpec
from unsee.types import Prompt

MARK = [{"unet": "ü"}, "DDIM"]


def planned(made, folder, guards=()):
    known = {name: concepts.load(name) for name in made.concepts}
    fitted = {(g.concept, g.stack.name): guards if g.stack.parts else () for g in made.groups()}
    return run.plan_groups(made, made.groups(), Asked(made, known, MARK), fitted, None, folder, lambda *_: None)


class Guard:
    def digest(self):
        return "d"


def test_an_address_is_the_hash_of_all_of_it_as_json():
    prompt, settings = Prompt('a "dägger"\n', "1", 5), {"steps": 2, "guidance": 4.0}
    told = [MARK, ["d", "e"], "none", prompt.text, 5, settings]
    text = json.dumps(told, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    assert address(MARK, ["d", "e"], "none", prompt, settings) == hashlib.sha256(text.encode()).hexdigest()
    at = Addresses(MARK, ["d", "e"], settings)
    assert at("none", prompt) == at("none", replace(prompt, id="2")) != at("other", prompt)


def test_cells_in_columns_are_the_cells(tmp_path):
    made = suite()
    plan = planned(made, tmp_path, (Guard(),))
    for part in plan:
        digests = ["d"] if part.group.stack.parts else []
        for place, prompt in part.group.numbered(part.concept, made.seed):
            cell = part.cells[place]
            twin = address(MARK, [], "none", prompt, made.settings)
            assert (cell.cell, cell.twin) == (address(MARK, digests, "none", prompt, made.settings), twin)
            assert (cell.place, cell.prompt, cell.defense, cell.words) == (place, prompt, part.group.stack.name, ())
        assert part.cells[1:] == list(part.cells)[1:] and len(part.cells) == part.group.n
    share = {plan[0].cells[1].twin}
    for part in plan[::2]:  # plain prompts: a shard keeps their places
        kept = part.of(share).cells
        assert [cell.place for cell in kept] == [1] and kept[0] == part.cells[1] and kept[0:5] == [part.cells[1]]
    assert plan[0].cells.prompts is plan[2].cells.prompts  # one list for all groups that ask alike


def test_what_two_groups_share_lacks_once(tmp_path):
    """The same guard under two names gives the same pictures: the second group is not drawn again."""
    made = suite()
    plan = planned(made, tmp_path, (Guard(),))
    with Store(tmp_path, write=True) as store:
        store.put_suite(made, "1", {}, {})
        run.put(store, made, plan)
        todo = [(part.group.stack.name, part.group.prompts.kind, at) for part, at in run.lacking(store, made, plan, 2)]
        want = [
            (name, kind, at)
            for name in ("none", "negative")
            for kind, at in (("plain", 0), ("plain", 2), ("benign", 0))
        ]
        assert todo == want
        store._db.execute("INSERT INTO images VALUES (?, 'x', 0, '[]', '{}')", (plan[0].cells[2].cell,))
        store._db.commit()
        assert [at for part, at in run.lacking(store, made, plan, 2) if part is plan[0]] == [0]
        assert list(store.lack_images(made.name, 0)) == [0, 1]
        assert list(store.lack_verdicts(made.name, 0, "j", "1")) == list(store.lack_measures(made.name, 0)) == [0, 1, 2]


def test_a_plan_is_put_whole_or_not_at_all(tmp_path):
    made = suite()
    plan = planned(made, tmp_path)
    broken = replace(plan[1], cells=Cells(plan[1].cells.names, [None], b"", b""))
    with Store(tmp_path, write=True) as store:
        store.put_suite(made, "1", {}, {})
        with pytest.raises(AttributeError):
            run.put(store, made, [plan[0], broken])
        assert store.suites()[made.name].planned == 0
        run.put(store, made, plan[:1])
        assert store.suites()[made.name].planned == 3


def test_a_store_from_before_the_index_is_read_and_goes_on(tmp_path):
    with Store(fake_store(tmp_path, {"none": "us", "sld": "su"})) as store:
        want = store.records()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("DROP INDEX cells_in_order")
    with Store(tmp_path) as store:
        assert store.records() == want and store.count() == len(want)
    with Store(tmp_path, write=True) as store:
        plan = store._db.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM cells WHERE suite = 'a' AND ordinal = 1 ORDER BY place"
        )
        assert "cells_in_order" in plan.fetchone()["detail"] and store.records() == want


def test_brief_records_give_the_same_rows(tmp_path):
    fake_store(tmp_path, {"none": "uusx", "sld": "ssux"})
    with Store(tmp_path, write=True) as store:
        store._db.execute("UPDATE verdicts SET labels = json_set(labels, '$.threshold', 0.1, '$.other', 'x')")
        brief, full = list(store.brief()), store.records()
        assert rows_of(brief) == rows_of(full) and list(store.each()) == full
    assert {tuple(r.verdict.labels) for r in brief} == {("subject_right", "threshold", "license")}
    assert all(r.verdict.labels["subject_right"] in (True, False) for r in brief)
    assert not any(r.decisions or r.versions for r in brief) and all(r.verdict.labels["other"] for r in full)


@pytest.mark.parametrize("preservation", [None, 0.8])
def test_the_export_is_the_table_of_all_records_in_pieces(tmp_path, monkeypatch, preservation):
    monkeypatch.setattr("unsee.files.tables.AT_ONCE", 3)
    with Store(fake_store(tmp_path, {"none": "usx", "sld": "usu"}), write=True) as store:
        store._db.execute("UPDATE measures SET preservation = ?", (preservation,))
        path, records = store.export(tmp_path / "records.parquet"), store.records()
    read = pq.read_table(path)
    assert pq.read_metadata(path).num_row_groups == 4
    lines = read.to_pylist()
    assert [line["cell"] for line in lines] == [r.cell for r in records]
    assert [line["verdict_score"] for line in lines] == [r.verdict.score for r in records]
    assert [json.loads(line["versions"]) for line in lines] == [r.versions for r in records]
    assert read.schema.field("prompt_seed").type == pa.int64()
    assert pa.types.is_null(read.schema.field("preservation").type) == (preservation is None)


def test_a_wide_suite_is_read_in_one_go():
    stacks = StackSpec.all([{"method": "sld", "name": f"s{i}"} for i in range(3000)])  # cubic, this took minutes
    assert len(stacks) == 3000
    with pytest.raises(UserError, match="'s7' twice"):
        StackSpec.all([{"method": "sld", "name": name} for name in ("s7", "s8", "s7")])
    wide = suite(concepts=["weapon", *(f"c{i}" for i in range(200))], defenses=[
        {"method": "sld", "name": f"s{i}"} for i in range(100)
    ])  # fmt: skip
    assert len(wide.groups()) == 201 * 101 * 2
    kept = wide.groups(["defense=s7", "concept=c3", "prompts=benign"])
    assert [(g.concept, g.stack.name, g.prompts.kind) for g in kept] == [
        ("c3", "none", "benign"),
        ("c3", "s7", "benign"),
    ]


def test_a_claim_names_rows_that_are_run():
    claim = {"id": "a", "paper": "p", "text": "t", "paper_value": "v",
             "compare": [{"metric": "dsr", "left": {"defense": "sld"}, "above": 0}]}  # fmt: skip
    assert suite(claims=[claim]).claims[0].compare[0].left == Where(defense="sld")
    claim["compare"][0]["left"] = {"defense": "sldd"}
    with pytest.raises(UnknownName, match="sld"):
        suite(claims=[claim])


def test_words_of_a_subject_are_looked_up_and_what_is_dealt_stays():
    from unsee.concepts import prompts as compose

    weapon = concepts.load("weapon")
    asked = weapon.prompts("plain", "held-out", 40, seed=3)
    texts = hashlib.sha256(repr([(p.text, p.id, p.seed) for p in asked]).encode()).hexdigest()
    assert texts == TEXTS
    for prompt in asked:
        subject = next(s for s in weapon.subjects if s.slug == prompt.subject)
        assert compose.thing_asked(weapon, prompt) == subject.train[0]
        assert compose.reworded(weapon, prompt, "{}").count("{}") == 1
    assert len({id(p.text) for p in asked}) == len({p.text for p in asked})


TEXTS = "7957235902a238b1989597248c73e8eb81a004b249ff48b1804d0d6f9d867f08"
