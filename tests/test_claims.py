"""Claims: what a suite may say, what decides, and that only intervals do."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_fakes import NEGATIVE, fake_store, suite

from unsee.bench import claims
from unsee.bench.claims import estimate
from unsee.bench.store import Store
from unsee.errors import UserError
from unsee.metrics.rates import paired_difference
from unsee.report.collect import decided_claims
from unsee.suites.claims import Claim, Where

ROOT = Path(__file__).parents[1]
N = 40
RUN = {"none": "u" * N, "negative": "s" * 36 + "u" * 4, "sld": "s" * 20 + "u" * 20}
LEFT, RIGHT = {"defense": "negative"}, {"defense": "sld"}


def claim(*compare: dict, **more: object) -> dict:
    return {"id": "one", "paper": "P", "text": "T", "paper_value": ".9", "compare": list(compare), **more}


def check(metric: str = "dsr", left: dict = LEFT, **more: object) -> dict:
    return {"metric": metric, "left": left, **more}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    with Store(fake_store(tmp_path_factory.mktemp("run"), RUN)) as store:
        return store.records()


def decided(records, *compare: dict, **more: object) -> dict:
    return claims.verdicts("s", [Claim.model_validate(claim(*compare, **more))], records)[0]


@pytest.mark.parametrize(
    ("compare", "verdict"),
    [
        (check(above=0.7), "reproduced"),  # 36 of 40: [.77, .96]
        (check(above=0.9), "inconclusive"),
        (check(above=0.97), "not reproduced"),
        (check(below=0.97), "reproduced"),
        (check(below=0.7), "not reproduced"),
        (check("unsafe", below=0.3), "reproduced"),
        (check(right=RIGHT, above=0.0), "reproduced"),  # .9 against .5
        (check(right=RIGHT, above=0.4), "inconclusive"),
        (check(left=RIGHT, right=LEFT, above=0.0), "not reproduced"),
        (check(right=RIGHT, within=0.7), "reproduced"),
        (check(right=RIGHT, within=0.4), "inconclusive"),
        (check(right=RIGHT, within=0.1), "not reproduced"),
        (check(left=RIGHT, right=LEFT, within=0.7), "reproduced"),  # the same below zero
        (check(left=RIGHT, right=LEFT, within=0.4), "inconclusive"),
        (check(left=RIGHT, right=LEFT, within=0.1), "not reproduced"),
        (check(left=LEFT | {"attack": "mma"}, above=0.0), "no data"),
        ({"metric": "dsr", "rises": ["none", "sld", "negative"]}, "reproduced"),
        ({"metric": "dsr", "falls": ["none", "sld", "negative"]}, "not reproduced"),
        ({"metric": "dsr", "rises": ["none", "negative", "sld"]}, "not reproduced"),  # up, but one step is down
        ({"metric": "dsr", "rises": ["sld", "sld"]}, "inconclusive"),
        ({"metric": "dsr", "left": {"attack": "mma"}, "rises": ["sld", "none"]}, "no data"),
    ],
)
def test_intervals_decide(records, compare, verdict):
    assert decided(records, compare).verdict == verdict


def test_all_checks_must_hold(records):
    good, open_, bad = check(above=0.7), check(above=0.9), check(above=0.97)
    missing = check(left=LEFT | {"attack": "mma"}, above=0.0)
    told = [decided(records, *c).verdict for c in ((good, good), (good, open_), (open_, missing), (missing, bad))]
    assert told == ["reproduced", "inconclusive", "no data", "not reproduced"]
    assert decided(records, why="no such thing here").verdict == "not testable here"


def test_a_difference_is_the_paired_one(records):
    left, right = ([r for r in records if Where(defense=d).holds(r)] for d in ("negative", "sld"))
    got = estimate("dsr", left, right)
    outcomes = [[r.verdict.outcome for r in each] for each in (left, right)]
    want = paired_difference(*outcomes)  # of unsafe rates, the other way round
    assert (got.value, got.low, got.high, got.n) == pytest.approx((want.difference, want.low, want.high, want.pairs))


def test_means_are_compared_by_the_bootstrap(records):
    held = [r for r in records if Where(defense="sld", prompts="benign").holds(r)]
    bare = [r for r in records if Where(prompts="benign").holds(r)]
    alone, apart = estimate("preservation", held, None), estimate("preservation", held, bare, relative=True)
    assert (alone.value, alone.low, alone.n) == pytest.approx((0.8, 0.8, N))
    assert apart.value == pytest.approx(-0.2) and estimate("preservation", held[:1], None) is None


def test_the_unjudged_are_in_no_claim(tmp_path):
    with Store(fake_store(tmp_path, {"none": "uux", "sld": "xss"})) as store:
        got = decided(store.records(), check(left={"defense": "sld"}, right={}, above=0.0)).checks[0]
    assert got.n == 1 and got.value == 1.0


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (check(), "give one of above, below, within, rises, falls"),
        (check(above=0.0, below=1.0), "give one of"),
        ({"metric": "dsr", "rises": ["sld"]}, "two defenses or more"),
        (check(right=RIGHT, above=0.0, relative=True), "difference of two means"),
        (check("dsr", above=0.0, abvoe=1.0), "did you mean 'above'?"),
        (check("dsr", {"defence": "sld"}, above=0.0), "did you mean 'defense'?"),
        (check("dsrr", above=0.0), "claims.0.compare.0.metric"),
        (check(left=[], above=0.0), "claims.0.compare.0.left"),
        (check(left={"defense": "sdl"}, above=0.0), "did you mean 'sld'?"),
        (check(left=LEFT | {"attack": "mma"}, above=0.0), "rows of the suite for the claim one, got none for negative"),
        (check(left=LEFT | {"prompts": "synonym"}, above=0.0), "got none for negative on synonym prompts"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(broken, told):
    with pytest.raises(UserError) as error:
        suite(claims=[claim(broken)])
    assert told in str(error.value)


def test_a_claim_has_checks_or_a_reason_and_its_own_id():
    with pytest.raises(UserError, match="give compare, or why"):
        suite(claims=[claim()])
    with pytest.raises(UserError, match="'one' twice"):
        suite(claims=[claim(check(above=0.0))] * 2)


def test_one_claim_stands_for_a_row_of_each_and_its_checks_for_every_concept():
    rows = [{"side": "negative", "title": "N"}, {"side": "sld", "title": "S"}]
    told = claim(check(left={"defense": "{side}"}, right={}, above=0.0), check("unsafe", above=0.0))
    told |= {"id": "{side}-works", "text": "{title} works.", "each": rows, "concepts": ["weapon", "alcohol"]}
    made = suite(claims=[told], concepts=["weapon", "alcohol"]).claims
    assert [(c.id, c.text) for c in made] == [("negative-works", "N works."), ("sld-works", "S works.")]
    read = [(c.metric, c.left.defense, c.left.concept, c.right and c.right.concept) for c in made[1].compare]
    assert read == [
        ("dsr", "sld", "weapon", "weapon"),
        ("unsafe", "negative", "weapon", None),
        ("dsr", "sld", "alcohol", "alcohol"),
        ("unsafe", "negative", "alcohol", None),
    ]
    again = suite(claims=[c.model_dump() for c in made], concepts=["weapon", "alcohol"])  # as a store reads it
    assert again.claims == made


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"each": [{"side": "sld"}], "text": "{title} works."}, "each has no 'title' for '{title} works.'"),
        ({"each": []}, "each is a list of tables of texts"),
        ({"each": [{"side": 1}]}, "each is a list of tables of texts"),
        ({"concepts": "weapon"}, "concepts is a list of names"),
        ({"concepts": ["weapon"], "compare": "all"}, "concepts needs checks in compare"),
        ({"concepts": ["alcohol"]}, "got none for negative on plain prompts, alcohol"),
    ],
)
def test_a_claim_that_stands_for_others_in_a_wrong_way_is_refused(more, told):
    with pytest.raises(UserError) as error:
        suite(claims=[claim(check(above=0.0)) | more])
    assert told in str(error.value)


def test_what_is_claimed_changes_no_record():
    with_claims = suite(claims=[claim(check(above=0.0))])
    assert with_claims.digest == suite().digest
    assert suite(metrics={"preservation": "lpips", "clip_score": "clip"}).digest != suite().digest


def test_claims_are_read_back_from_the_store(tmp_path):
    fake_store(tmp_path, RUN)
    with Store(tmp_path, write=True) as store:
        prompts = [{"kind": k, "n": N} for k in ("plain", "benign")]
        store.put_suite(suite(claims=[claim(check(above=0.7))], prompts=prompts), "1", {}, {})
        rows = decided_claims(store.records(), store.suites())
    assert [(r.suite, r.id, r.verdict) for r in rows] == [("tiny", "one", "reproduced")]


def test_an_attack_meets_only_what_it_names():
    limited = {"name": "tokens", "method": "random-tokens", "defenses": ["sld"], "prompts": ["plain"]}
    kinds = [{"kind": "plain", "n": 1}, {"kind": "synonym", "n": 1}]
    made = suite(attacks=[limited], prompts=kinds)
    attacked = [(g.stack.name, g.prompts.kind) for g in made.groups() if g.attack.name == "tokens"]
    assert attacked == [("sld", "plain")]
    for wrong in ({"defenses": ["sdl"]}, {"prompts": ["plane"]}):
        with pytest.raises(UserError, match="part of the suite for the attack tokens"):
            suite(attacks=[limited | wrong], prompts=kinds)
    with pytest.raises(UserError, match="as a list of names"):
        suite(attacks=[limited | {"defenses": "sld"}])


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"preservation": "lpips"}, "both metrics, or none"),
        ({"preservation": "lpip", "clip_score": "clip"}, "did you mean 'lpips'?"),
        ({"preservation": "lpips:sise=64", "clip_score": "clip"}, "did you mean 'size'?"),
        ({"preservation": "lpips", "clip_scor": "clip"}, "did you mean 'clip_score'?"),
    ],
)
def test_metrics_that_cannot_be_are_refused(metrics, told):
    with pytest.raises(UserError) as error:
        suite(metrics=metrics, defenses=[NEGATIVE])
    assert told in str(error.value)


def test_the_papers_claims_are_whole():
    from unsee.suites.suite import SuiteSpec

    for name, least in (("claims", 20), ("sd14", 10)):
        made = SuiteSpec.load(name).claims
        assert len(made) >= least and {"SafeRedir", "DUO", "INE"} <= {c.paper for c in made}
