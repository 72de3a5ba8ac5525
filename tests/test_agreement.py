"""Cohen's kappa against the formula on a confusion matrix written by hand, its interval, and judges of one run."""

import itertools
import json

import numpy as np
import pytest
from bench_fakes import fake_store, stored

from unsee.bench.judging import agreement_table, judge_again
from unsee.bench.rows import rows
from unsee.bench.store import Store
from unsee.errors import UserError
from unsee.metrics.agreement import agreement, agreements, interval, kappa


def by_weights(both, first, second, neither):
    """1 − Σ w O / Σ w E over the matrix, w = 1 off the diagonal: another way to the same number."""
    observed = np.array([[neither, second], [first, both]], dtype=float)
    expected = np.outer(observed.sum(1), observed.sum(0)) / observed.sum()
    off = 1 - np.eye(2)
    return 1 - (off * observed).sum() / (off * expected).sum()


@pytest.mark.parametrize("table", [t for t in itertools.product((0, 1, 4, 13), repeat=4) if sum(t)])
def test_kappa_is_one_minus_the_share_of_chance(table):
    a, b = (table[0] + table[1]) / sum(table), (table[0] + table[2]) / sum(table)
    if (a, b) in ((0, 0), (1, 1)):
        assert kappa(*table) is None
    else:
        assert kappa(*table) == pytest.approx(by_weights(*table), abs=1e-12)


def test_kappa_of_cohens_own_kind_of_table():
    assert kappa(20, 5, 10, 15) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert kappa(5, 0, 0, 5) == 1 and kappa(0, 5, 5, 0) == -1 and kappa(0, 0, 0, 0) is None


def test_the_interval_is_that_of_images_drawn_again():
    table, n = (30, 8, 6, 56), 100
    pairs = np.repeat(np.arange(4), table)
    rng = np.random.default_rng(1)
    again = [kappa(*np.bincount(rng.choice(pairs, n), minlength=4).tolist()) for _ in range(4000)]
    assert interval(table) == pytest.approx(np.percentile(again, [2.5, 97.5]), abs=0.02)
    assert interval(table) == interval(table) and interval((0, 0, 0, 9)) is None


def test_unjudged_is_no_vote_and_only_shared_images_count():
    first = {1: "unsafe", 2: "unsafe", 3: "safe", 4: "unjudged", 5: "safe"}
    found = agreement("a", "b", first, {1: "unsafe", 2: "safe", 3: "safe", 4: "safe", 9: "safe"})
    assert (found.n, found.unjudged, found.both, found.first_only, found.second_only, found.neither) == (
        3,
        1,
        1,
        1,
        0,
        1,
    )
    assert found.observed == pytest.approx(2 / 3)
    assert [(r.first, r.second) for r in agreements({"c": first, "a": first, "b": {}})] == [("a", "b"), ("a", "c"),
                                                                                         ("b", "c")]  # fmt: skip
    assert agreements({"a": first, "b": {}})[0].kappa is None


def test_many_judges_look_at_images_that_were_made_once(tmp_path):
    run = fake_store(tmp_path / "run", {"none": "uuuuss", "sld": "ususxs"})
    before, images = stored(run), sorted((run / "images").rglob("*.png"))
    with pytest.raises(UserError, match="the verdicts of two judges"):
        agreement_table(run)
    assert judge_again(run, "always.safe", batch_size=5) == 24
    assert judge_again(run, "always.safe") == 0
    assert stored(run) == before and sorted((run / "images").rglob("*.png")) == images
    (row,) = agreement_table(run)
    assert (row.concept, row.agreement.first, row.agreement.second) == ("weapon", "always.safe 1", "always.unsafe 1")
    # 24 images: 4 + 2 unsafe to the stored verdicts, one unjudged, none unsafe to always.safe
    pair = row.agreement
    assert (pair.n, pair.unjudged, pair.both, pair.second_only, pair.kappa) == (23, 1, 0, 6, 0.0)
    with Store(run) as store:
        assert {(r.judge, r.judge_version) for r in rows(store)} == {("always.unsafe", "1")}


def test_the_same_picture_is_no_second_opinion(tmp_path):
    run = fake_store(tmp_path / "run", {"none": "us", "sld": "us"})
    judge_again(run, "always.safe")
    assert agreement_table(run)[0].agreement.n == 8
    with Store(run, write=True) as store:  # a guard that let every picture alone
        store._db.execute("UPDATE images SET image = (SELECT o.image FROM images o JOIN cells c ON o.cell = c.twin "
                          "WHERE c.cell = images.cell)")  # fmt: skip
        store._db.commit()
    assert agreement_table(run)[0].agreement.n == 4
    with Store(run, write=True) as store:  # pictures that no suite asks for any more
        store._db.execute("DELETE FROM cells WHERE kind = 'benign'")
        store._db.commit()
    assert agreement_table(run)[0].agreement.n == 2


def test_judges_of_a_run_on_the_command_line(tmp_path, capsys):
    from unsee.cli import main

    run = fake_store(tmp_path / "run", {"none": "us"})
    assert main(["judge", str(run)]) == 2
    assert "unsee judge" in capsys.readouterr().err
    assert main(["judge", str(run), "always.sfae"]) == 2
    assert "did you mean 'always.safe'" in capsys.readouterr().err
    assert main(["judge", str(run), "always.safe", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["judged"] == {"always.safe": 4} and told["agreement"][0]["n"] == 4
    assert main(["judge", str(run)]) == 0
    assert "kappa" in capsys.readouterr().out


def test_picto_and_its_clip_agree_or_not_with_a_number(tmp_path):
    run = fake_store(tmp_path / "run", {"none": "us"}, size=64)
    judge_again(run, "picto:threshold=0.5")
    judge_again(run, "clip:model=picto,template={}")
    table = agreement_table(run)
    assert len(table) == 3 and all(row.agreement.n + row.agreement.unjudged == 4 for row in table)


def test_a_suite_names_a_judge_with_settings(tmp_path):
    from bench_fakes import suite

    from unsee.bench.run import run

    made = suite(judge="picto:threshold=0.4", defenses=[], prompts=[{"kind": "plain", "n": 1}])
    (row,) = run(made, tmp_path / "run")
    assert (row.judge, row.judge_threshold, row.judge_license) == ("picto", 0.4, "Apache-2.0")
    assert row.judge_version.endswith("@0.4")
