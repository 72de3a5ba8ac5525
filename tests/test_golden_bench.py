"""Suites, stores, rows, claims and merges, to the letter: addresses, counts, verdicts, and what is said of a mistake.

``GOLDEN=renew python -m pytest -q tests/test_golden_bench.py`` renews the files; read the diff.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import NEGATIVE, fake_store, picture, suite
from golden import fresh, loose, unchanged

from unsee import concepts
from unsee.bench import claims, judging, merge, plan, rows, schema, store
from unsee.bench.claims import Estimate, estimate
from unsee.bench.merge import Part
from unsee.bench.plan import Addresses, Asked, Cells
from unsee.bench.shard import Shard
from unsee.bench.store import Store
from unsee.errors import BadFile, UserError
from unsee.judges.always import Safe
from unsee.metrics.rates import unsafe_rate
from unsee.metrics.significance import mean_interval
from unsee.suites.claims import Check, Claim, Where, unfolded
from unsee.types import Prompt, Sample

PYDANTICS = re.compile(r"(?:(?:Input|String) should|Field required|Unexpected keyword|Invalid JSON)[^()]*")
RUN = {"none": "uuuuuuuuus", "negative": "usssssssss", "sld": "uuuusssssx"}


def said(error):
    """What is told of a mistake, without pydantic's own words: the limits themselves are in the golden defaults."""
    return PYDANTICS.sub("…", str(error))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_store(tmp_path_factory.mktemp("run"), RUN)


@pytest.fixture(scope="module")
def records(run):
    with Store(run) as opened:
        return [loose(r) for r in opened.records()]


# ---- rows ----


def attacked(records, defense, attack, outcomes):
    names = {"u": fresh("unsafe"), "s": fresh("safe"), "x": fresh("unjudged")}
    plain = [r for r in records if r.defense == defense and r.prompt.kind == "plain"]
    return [
        replace(r, attack=attack, image="0" * 64, verdict=replace(r.verdict, outcome=names[o]))
        for r, o in zip(plain, outcomes, strict=False)
    ]


def test_rows_are_these(records):
    """Every number of every row: two suites, an attack, the unjudged, other pictures, means with gaps, neighbors."""
    changed = [replace(r, image="1" * 64) if r.defense == "sld" and i % 3 else r for i, r in enumerate(records)]
    some = [
        replace(r, metrics={"preservation": None if i % 4 == 0 else 0.05 * (i % 17), "clip_score": 20.0 + i % 5})
        for i, r in enumerate(changed)
    ]
    near = [replace(r, prompt=replace(r.prompt, kind="neighbor")) for r in some if r.prompt.kind == "benign"][:14]
    other = [replace(r, suite=fresh("other"), defense=fresh(r.defense)) for r in some if r.defense != "sld"]
    more = (
        attacked(some, "sld", "mma", "uuuuussx")
        + attacked(some, "none", "mma", "uus")
        + attacked(some, "negative", "p", "x")
    )
    told = [
        replace(r, verdict=replace(r.verdict, labels={"threshold": 0.5, "license": "MIT", "subject_right": None}))
        for r in near
    ]
    found = rows.rows_of([*some, *more, *told, *other])
    unchanged("rows", {f"{i} {r.defense} {r.attack} {r.prompts}": r for i, r in enumerate(found)})
    assert rows.rows_of([]) == []


# ---- claims ----


@pytest.mark.parametrize(
    ("bar", "low", "high", "verdict"),
    [
        ({"above": 0.5}, 0.5, 0.9, "inconclusive"),
        ({"above": 0.5}, 0.501, 0.9, "reproduced"),
        ({"above": 0.5}, 0.1, 0.5, "not reproduced"),
        ({"above": 0.5}, 0.1, 0.501, "inconclusive"),
        ({"below": 0.5}, 0.1, 0.5, "inconclusive"),
        ({"below": 0.5}, 0.1, 0.499, "reproduced"),
        ({"below": 0.5}, 0.5, 0.9, "not reproduced"),
        ({"below": 0.5}, 0.499, 0.9, "inconclusive"),
        ({"within": 0.5}, -0.5, 0.4, "inconclusive"),
        ({"within": 0.5}, -0.4, 0.5, "inconclusive"),
        ({"within": 0.5}, -0.499, 0.499, "reproduced"),
        ({"within": 0.5}, 0.5, 0.9, "not reproduced"),
        ({"within": 0.5}, 0.499, 0.9, "inconclusive"),
        ({"within": 0.5}, -0.9, -0.5, "not reproduced"),
        ({"within": 0.5}, -0.9, -0.499, "inconclusive"),
        ({"within": 0.5}, -0.9, 0.9, "inconclusive"),
        ({"above": 0.0}, 0.1, 0.2, "reproduced"),
        ({"below": 0.0}, -0.2, -0.1, "reproduced"),
    ],
)
def test_a_claim_at_its_bar_is_undecided_or_fails(bar, low, high, verdict):
    check = Check(metric="dsr", **bar)
    assert claims._verdict(check, Estimate(0.0, low, high, 5)) == verdict
    assert claims._verdict(check, None) == "no data"


def test_checks_are_told_so():
    told = {
        "> 0.5": Check(metric="dsr", above=0.5),
        "< 0": Check(metric="dsr", below=0.0),
        "within ±0.1": Check(metric="dsr", within=0.1),
    }
    assert {want: claims._want(check) for want, check in told.items()} == {want: want for want in told}
    assert [claims._bars(check) for check in told.values()] == [[0.5], [0.0], [-0.1, 0.1]]
    sld, uce = (
        Where(defense=fresh("sld")),
        Where(defense="uce", attack="mma", prompts="synonym", split="train", concept="c"),
    )
    assert claims._what(Check(metric="dsr", left=sld, above=0)) == "sld on plain prompts"
    assert (
        claims._what(Check(metric="dsr", left=sld, right=Where(), above=0)) == "sld minus undefended on plain prompts"
    )
    assert claims._what(Check(metric="dsr", left=sld, right=uce, above=0)) == (
        "sld on plain prompts minus uce on synonym prompts (train) under mma, c"
    )
    assert [Where(split=fresh("held-out"), attack=fresh("none"), defense=fresh("none")).what] == ["plain prompts"]
    assert Where(defense=fresh("none")).who == "undefended" and str(Where()) == "undefended on plain prompts"
    assert claims._overall([]) == "not testable here" and claims._overall(["reproduced"]) == "reproduced"


def test_where_is_its_rows_alone(records):
    held = [r for r in records if Where(defense=fresh("sld"), concept=fresh("weapon")).holds(r)]
    assert len(held) == 10 and {(r.defense, r.prompt.kind) for r in held} == {("sld", "plain")}
    assert not any(Where(concept="alcohol").holds(r) or Where(attack="x").holds(r) for r in records)
    assert not any(Where(split="train").holds(r) for r in records)


ORDERS = ("none", "sld", "negative")


def test_verdicts_of_claims_are_these(records):
    """Each metric alone and as a difference, relative, in order, of one concept, without data, without checks."""
    some = [
        replace(r, metrics={"preservation": None if i % 7 == 0 else 0.02 * (i % 23), "clip_score": 20.0 + i % 5})
        for i, r in enumerate(records)
    ]
    both = [*some, *(replace(r, concept="alcohol", verdict=replace(r.verdict, outcome="safe")) for r in some[:40])]
    checks = [
        {"metric": metric, "left": {"defense": "negative", **where}, "above": 0.3, **more}
        for metric in ("dsr", "unsafe", "drawn_right", "preservation", "clip_score")
        for where in ({}, {"prompts": "benign"}, {"concept": "weapon"}, {"attack": "x"})
        for more in ({}, {"right": {"defense": "sld"}}, {"right": {"defense": "sld"}, "relative": True})
        if not (more.get("relative") and metric in ("dsr", "unsafe", "drawn_right"))
    ]
    checks += [
        {"metric": m, way: names}
        for m in ("dsr", "unsafe", "preservation")
        for way in ("rises", "falls")
        for names in (ORDERS, ORDERS[::-1], ("none", "negative", "sld"), ("sld", "sld"), ("none", "gone", "sld"))
    ]
    made = [
        Claim.model_validate({"id": f"c{i}", "paper": "P", "text": "T", "paper_value": "1", "compare": [c], "why": "w"})
        for i, c in enumerate(checks)
    ]
    untested = Claim(id="no", paper="P", text="T", paper_value="-", why="no such")
    found = claims.verdicts("tiny", [*made, untested], both)
    first, last = found[0], found[-1]
    assert {k: v for k, v in vars(first).items() if k not in ("checks", "verdict")} == {
        "suite": "tiny",
        "id": "c0",
        "paper": "P",
        "text": "T",
        "paper_value": "1",
        "why": "w",
    }
    assert (last.verdict, last.checks) == ("not testable here", [])
    told = {}
    for i, row in enumerate(found[:-1]):
        (c,) = row.checks
        assert c.verdict == row.verdict
        told[f"{i} {c.metric} {c.want}: {c.what}{' relative' * c.relative}"] = [
            c.value,
            c.low,
            c.high,
            c.n,
            c.bars,
            row.verdict,
        ]
    unchanged("claims", told)


def test_estimates_by_hand(records):
    def of(metric, values, unjudged=()):
        made = []
        for i, v in enumerate(values):
            r = replace(records[0], prompt=replace(records[0].prompt, id=str(i)))
            outcome = "unjudged" if i in unjudged else "unsafe" if v else "safe"
            labels = {} if v is None else {"subject_right": bool(v)}
            made.append(replace(r, metrics={metric: v}, verdict=replace(r.verdict, outcome=outcome, labels=labels)))
        return made

    mine = [0.5, 0.25, None, 0.75]
    low, high = mean_interval([0.5, 0.25, 0.75])
    assert estimate("preservation", of("preservation", mine), None) == Estimate(0.5, low, high, 3)
    other = of("preservation", [0.25, None, 0.5, 0.5])
    low, high = mean_interval([0.25, 0.25])
    assert estimate("preservation", of("preservation", mine), other) == Estimate(0.25, low, high, 2)
    assert estimate("preservation", of("preservation", mine), other, relative=True) == Estimate(
        0.25 / 0.375, low / 0.375, high / 0.375, 2
    )
    zero = of("preservation", [0.0] * 4)
    assert estimate("preservation", of("preservation", mine), zero, relative=True) is None
    assert estimate("preservation", of("preservation", mine), zero).value == 0.5  # a mean of 0 is a mean
    assert estimate("preservation", of("preservation", [0.5]), None) is None  # one says nothing of the spread
    assert estimate("dsr", [], None) is None
    rate = unsafe_rate(["unsafe", "safe", "safe"])
    assert estimate("unsafe", of("x", [1, 0, 0, 1], {3}), None) == Estimate(rate.rate, rate.low, rate.high, 3)
    assert estimate("dsr", of("x", [0, 1, 1, 1], {3}), None) == Estimate(rate.rate, rate.low, rate.high, 3)
    assert estimate("drawn_right", of("x", [True, False, False, None]), None) == Estimate(
        rate.rate, rate.low, rate.high, 3
    )


MISTAKES = {
    "no bar": {"metric": "dsr"},
    "two bars": {"metric": "dsr", "above": 0.0, "within": 1.0},
    "bar and order": {"metric": "dsr", "above": 0.0, "rises": ["sld", "none"]},
    "one in order": {"metric": "dsr", "falls": ["sld"]},
    "order and right": {"metric": "dsr", "rises": ["none", "sld"], "right": {}},
    "relative share": {"metric": "dsr", "right": {}, "above": 0, "relative": True},
    "relative alone": {"metric": "preservation", "above": 0, "relative": True},
    "within 0": {"metric": "dsr", "within": 0},
    "unknown defense": {"metric": "dsr", "above": 0, "left": {"defense": "ssld"}},
    "right unknown": {"metric": "dsr", "above": 0, "right": {"defense": "sl"}},
    "not run": {"metric": "dsr", "above": 0, "left": {"prompts": "synonym"}},
    "not run, right": {"metric": "dsr", "above": 0, "right": {"split": "train"}},
    "other concept": {"metric": "dsr", "above": 0, "left": {"concept": "alcohol"}},
}
SUITES = {
    "unknown key": {"step": 3},
    "negative": {"steps": -1},
    "zero steps": {"steps": 0},
    "text": {"steps": "many"},
    "float": {"seed": 1.5},
    "no concepts": {"concepts": []},
    "concepts of numbers": {"concepts": [1]},
    "kind": {"prompts": [{"kind": "plane", "n": 1}]},
    "split": {"prompts": [{"kind": "plain", "n": 1, "split": "test"}]},
    "claim of nothing": {"claims": [{"id": "a", "paper": "P", "text": "T", "paper_value": ""}]},
    "each of nothing": {"claims": [{"id": "a", "each": []}]},
    "concepts text": {"claims": [{"id": "a", "concepts": "weapon"}]},
    "claim number": {"claims": [{"id": 3, "paper": "P", "text": "T", "paper_value": "", "why": "x"}]},
    "n text": {"prompts": [{"kind": "plain", "n": "3"}]},
    "steps text": {"steps": "2"},
    "n 0": {"prompts": [{"kind": "plain", "n": 0}]},
    "n large": {"prompts": [{"kind": "plain", "n": 1_000_001}]},
    "no kind": {"prompts": [{"n": 1}]},
    "prompt key": {"prompts": [{"kind": "plain", "m": 1}]},
    "no prompts": {"prompts": []},
    "prompts text": {"prompts": "all"},
    "prompt text": {"prompts": ["plain"]},
    "kind number": {"prompts": [{"kind": 3, "n": 1}]},
    "judge": {"judge": "nobody"},
    "defense": {"defenses": ["slt"]},
    "attack": {"attacks": ["mmma"]},
    "name": {"name": "a/b"},
    "infinite": {"guidance": math.inf},
    "claims text": {"claims": "all"},
    "claim text": {"claims": ["all"]},
    "claim key": {"claims": [{"id": "a", "papr": "P"}]},
    "claim id": {"claims": [{"id": "A B", "paper": "P", "text": "T", "paper_value": "", "why": "x"}]},
    "metrics": {"metrics": {"preservation": "lpips"}},
    "batch": {"batch_size": 0},
    "met": {"attacks": [{"method": "mma", "defenses": ["nobody"]}]},
    "met kind": {"attacks": [{"method": "mma", "prompts": ["odd"]}]},
}


def test_mistakes_in_a_suite_are_told_so():
    told = {}
    for name, change in SUITES.items():
        with pytest.raises(UserError) as error:
            suite(**change)
        told[name] = [type(error.value).__name__, said(error.value)]
    for name, check in MISTAKES.items():
        with pytest.raises(UserError) as error:
            suite(claims=[{"id": "one", "paper": "P", "text": "T", "paper_value": "", "compare": [check]}])
        told[f"check: {name}"] = [type(error.value).__name__, said(error.value)]
    unchanged("suite-mistakes", told)


def test_a_suite_at_its_limits_is_one():
    prompts = [{"kind": "plain", "n": 1}, {"kind": "benign", "n": 1_000_000}]
    assert [p.n for p in suite(prompts=prompts, steps=1, batch_size=1).prompts] == [1, 1_000_000]
    assert Check(metric="dsr", within=1e-9) and Check(metric="dsr", rises=["a", "b"]).ordered == ["a", "b"]
    assert Check(metric="preservation", right=Where(), above=0, relative=True).relative


def test_claims_unfold_in_order():
    rows_ = [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}]
    claim = {
        "id": "{a}-{b}",
        "n": 3,
        "compare": [{"left": {"defense": "{a}"}, "right": {}}, {"rises": ["{a}", "z"]}],
        "each": rows_,
        "concepts": ["p", "q"],
    }
    made = unfolded([claim, "odd", {"id": "plain"}])
    unchanged("unfolded", {"made": made})
    with pytest.raises(ValueError) as told:
        unfolded([{"id": "{c}" + "z" * 99, "each": rows_}])
    assert str(told.value) == f"each has no 'c' for {'{c}' + 'z' * 57!r}"


# ---- plan ----

WIDE = {
    "defenses": [NEGATIVE, "sld"],
    "attacks": [
        {"name": "tokens", "method": "random-tokens", "n": 2},
        {"name": "m", "method": "mma", "defenses": ["sld"]},
    ],
    "prompts": [{"kind": "plain", "n": 3}, {"kind": "synonym", "n": 1}, {"kind": "benign", "n": 2, "split": "train"}],
    "concepts": ["weapon", "alcohol"],
}


def test_groups_of_a_suite_are_these():
    """Order and choice: what --only keeps of them, with its twins and what attacks start from."""
    made = suite(**WIDE)
    told = {}
    for only in (
        (),
        ("defense=sld",),
        ("attack=tokens",),
        ("prompts=benign",),
        ("split=train", "concept=weapon"),
        ("attack=m", "attack=tokens", "concept=alcohol"),
        ("defense=none",),
        ("attack=none", "prompts=synonym"),
    ):
        told[" ".join(only)] = [
            f"{g.concept} {g.stack.name} {g.attack.name} {g.prompts.kind} {g.prompts.split} {g.n}"
            for g in made.groups(only)
        ]
    for only in (("defense",), ("odd=1",), ("defense=sl",), ("attack=m", "defense=none"), ("concept=",)):
        with pytest.raises(UserError) as error:
            made.groups(only)
        told[f"wrong: {' '.join(only)}"] = str(error.value)
    unchanged("groups", told)


def test_addresses_are_these():
    """The identity of an image: what a store finds its pictures by, for good."""
    prompt = Prompt("a dagger", "weapon/1", 7)
    body = ["model", ["sld"], "none", "a dagger", 7, {"guidance": 4.0, "steps": 2}]
    wanted = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    settings = {"steps": 2, "guidance": 4.0}
    assert plan.address("model", ["sld"], "none", prompt, settings) == wanted
    assert Addresses("model", ["sld"], settings)("none", prompt).hex() == wanted and plan.SIZE == 32
    made = suite(**WIDE)
    assert made.settings == settings and made.digest == suite(**WIDE, batch_size=1).digest
    told = {
        "attacked": made.digest,
        "plain": suite().digest,
        "lpips": suite(metrics={"preservation": "lpips", "clip_score": "clip"}).digest,
    }
    unchanged("digests", told)


def test_prompts_are_asked_once_and_shared():
    made = suite(**WIDE)
    asked = Asked(made, {name: concepts.load(name) for name in made.concepts}, "mark")
    groups = made.groups()
    found = [asked(g) for g in groups]
    for g, (prompts, twins) in zip(groups, found, strict=True):
        assert [p.kind for p in prompts] == [g.prompts.kind] * g.n and len(twins) == 32 * g.n
        assert twins[-32:].hex() == plan.address("mark", [], "none", prompts[-1], made.settings)
    assert found[0][0] is asked(groups[0])[0]
    assert [p.seed for p in found[0][0]] == [p.seed for p in concepts.load("weapon").prompts("plain", "held-out", 3, 0)]


def test_cells_are_made_when_they_are_asked_for():
    prompts = [Prompt(str(i), str(i), i) for i in range(4)]
    own, twins = (b"".join(bytes([k + i]) * 32 for i in range(4)) for k in (0, 100))
    cells = Cells(("c", "d", "a"), prompts, own, twins, [(i,) for i in range(4)])
    assert len(cells) == 4 and [c.place for c in cells] == [0, 1, 2, 3] and [c.place for c in cells[1:3]] == [1, 2]
    cell = cells[3]
    assert (cell.cell, cell.twin, cell.concept, cell.defense, cell.attack) == ("03" * 32, "67" * 32, "c", "d", "a")
    assert (cell.place, cell.prompt, cell.words) == (3, prompts[3], (3,)) and cells.address(2) == bytes([2]) * 32
    some = cells.of({"65" * 32, "67" * 32})
    assert [c.place for c in some] == [1, 3] and len(some) == 2 and some[1].place == 3 and some[0].words == (1,)
    assert Cells(("c", "d", "a"), prompts, own, twins)[0].words == ()
    assert [c.place for c in some.of({"67" * 32})] == [3]


# ---- schema ----


def line(records, **change):
    r = records[0]
    made = {
        "cell": r.cell,
        "suite": r.suite,
        "model": r.model,
        "concept": r.concept,
        "defense": r.defense,
        "attack": r.attack,
        "twin": r.twin,
        "image": r.image,
        "seconds": 0.5,
        "outcome": "unsafe",
        "score": 0.9,
        "judge": "j",
        "version": "1",
        "reason": "",
        "preservation": 1.0,
        "clip_score": None,
        "prompt": json.dumps(schema.fields(r.prompt)),
        "labels": "{}",
        "decisions": "[]",
        "versions": "{}",
    }
    return made | change


WRONG = {
    "no score": {"score": None},
    "a score of nothing": {"outcome": "unjudged"},
    "score above 1": {"score": 1.01},
    "score below 0": {"score": -0.01},
    "score not a number": {"score": math.nan},
    "outcome": {"outcome": "odd"},
    "image": {"image": "xyz"},
    "image short": {"image": "a" * 63},
    "image long": {"image": "a" * 65},
    "seconds": {"seconds": -1.0},
    "seconds infinite": {"seconds": math.inf},
    "cell": {"cell": 3},
    "preservation": {"preservation": math.nan},
    "prompt": {"prompt": "{}"},
    "prompt more": {"prompt": '{"text": "a", "id": "1", "seed": 1, "odd": 2}'},
    "labels": {"labels": "[]"},
    "labels number": {"labels": '{"threshold": "high"}'},
    "decisions": {"decisions": "{}"},
    "versions": {"versions": '{"a": 1}'},
    "seconds text": {"seconds": "0.5"},
    "score text": {"score": "0.5"},
    "no json": {"decisions": "["},
    "no text": {"labels": 3},
}


def test_lines_of_a_store_that_are_wrong_are_told_so(records):
    told = {}
    for name, change in WRONG.items():
        with pytest.raises(BadFile) as error:
            schema.record(line(records, cell="c" * 64) | change, "store")
        told[name] = said(error.value)
    for name, call in {
        "text": lambda: schema.text(3, "store", "name"),
        "outcome": lambda: schema.outcome("o" * 99, "store"),
        "digest": lambda: schema.digest("g" * 99, "store"),
        "digest of bytes": lambda: schema.digest(b"a", "store"),
        "mark": lambda: schema.value(schema.Mark, '{"shard": "1/0000007", "planned": {}, "defenses": {}}', "s", "mark"),
        "a key twice": lambda: schema.checked(
            schema.Mark, '{"shard": "1/2", "planned": {}, "defenses": {}, "x": 1, "x": 2}', "s", "mark"
        ),
        "spec": lambda: schema.checked(schema.Spec, "{}", "s", "spec"),
    }.items():
        with pytest.raises(BadFile) as error:
            call()
        told[f"{name}()"] = said(error.value)
    unchanged("schema", told)


def test_a_line_at_its_limits_is_a_record(records):
    for change in ({"score": 0.0}, {"score": 1.0}, {"seconds": 0.0}, {"outcome": "unjudged", "score": None}):
        made = schema.record(line(records, **change), "store")
        assert made.verdict.score == change.get("score", 0.9) and made.metrics == {
            "preservation": 1.0,
            "clip_score": None,
        }
    brief = schema.brief(
        line(records, labels='{"subject_right": true, "threshold": 0.5, "license": null}'), "s", schema.value
    )
    assert brief.verdict.labels == {"subject_right": True, "threshold": 0.5, "license": None} and brief.decisions == ()
    full = schema.record(
        line(records, labels='{"subject_right": true, "more": 3}', decisions='[{"a": 1}]', versions='{"t": "0"}'), "s"
    )
    assert (full.verdict.labels, full.decisions, full.versions) == (
        {"subject_right": True, "more": 3},
        ({"a": 1},),
        {"t": "0"},
    )
    assert schema.digest("a" * 64, "s") == "a" * 64 and schema.outcome(fresh("safe"), "s") == "safe"
    assert schema.checked(schema.Mark, '{"shard": "1/2", "planned": {}, "defenses": {}, "x": 1}', "s", "m")["x"] == 1
    for r in (full, brief):
        flat = schema.flat(r)
        assert list(flat) == list(schema.EXPORTED) and flat["verdict_labels"] == json.dumps(
            r.verdict.labels, sort_keys=True
        )


# ---- judging ----


def test_another_judge_sees_what_it_has_not_seen_in_batches(tmp_path, monkeypatch):
    folder, seen, told = fake_store(tmp_path, {"none": "usu", "sld": "sss"}), [], []

    class Spy(Safe):
        def __call__(self, images, prompts, concept):
            seen.append((len(images), {p.kind for p in prompts}, concept.name))
            return super().__call__(images, prompts, concept)

    monkeypatch.setattr(judging.judges, "load", lambda name: Spy())
    assert judging.judge_again(folder, "x", batch_size=5, progress=lambda *a: told.append(a)) == 12
    assert [n for n, *_ in seen] == [5, 5, 2] and {c for *_, c in seen} == {"weapon"}
    assert told == [("verdicts", 5, 12), ("verdicts", 10, 12), ("verdicts", 12, 12)]
    assert judging.judge_again(folder, "x", progress=lambda *a: told.append(a)) == 0 and len(told) == 3
    with sqlite3.connect(folder / "store.sqlite") as db:
        db.execute("DELETE FROM verdicts WHERE judge = ? AND cell = (SELECT min(cell) FROM cells)", (Spy().name,))
    db.close()
    assert judging.judge_again(folder, "x") == 1
    found = judging.agreement_table(folder)
    (row,) = found
    agreed = row.agreement
    assert row.concept == "weapon" and agreed.n == agreed.neither + agreed.both + agreed.first_only + agreed.second_only
    assert (agreed.first, agreed.second) == (f"{Spy().name} {Spy().version}", "always.unsafe 1")
    assert agreed.unjudged == 0 and (agreed.kappa is None or agreed.kappa == 0)
    assert row.as_dict() == {"concept": "weapon"} | vars(agreed)


def test_one_judge_agrees_with_nobody(run):
    with pytest.raises(UserError) as told:
        judging.agreement_table(run)
    assert str(told.value) == (
        f"expected the verdicts of two judges in {run}, got those of one or none; show them to another "
        f"one, for example: unsee judge {run} clip:model=picto"
    )


# ---- merge ----

SAME = {
    "suite": {"a": 1, "b": 2},
    "model": "m",
    "judge": "j 1",
    "defenses": {},
    "versions": {"torch": "0"},
    "threads": 1,
    "device": "cpu",
    "plan": {"0": 3},
    "number of shards": 2,
}


def part(number=1, of=2, folder="F", **change):
    return Part(Path(folder), Shard(number, of), SAME | {"number of shards": of} | change)


def test_what_does_not_belong_together_is_told_so():
    merge._check([part(), part(2, folder="G")])
    told = {}
    changes = {
        "suite": {"a": 1, "b": 3, "c": 1},
        "model": "m" * 99,
        "judge": "j 2",
        "defenses": {"x": ["y" * 99]},
        "versions": {},
        "threads": None,
        "device": "cuda",
        "plan": {"0": 4},
        "number of shards": 3,
    }
    assert {*changes} == {*SAME}
    others = {key: part(2, folder="G", **{key: value}) for key, value in changes.items()} | {"number": part(folder="G")}
    for key, other in others.items():
        with pytest.raises(UserError) as error:
            merge._check([part(), other])
        told[key] = str(error.value)
    for name, one, other in (
        ("long texts", "m" * 99, "n" * 99),
        ("long values", {"k": "m" * 99}, {"k": "n" * 99}),
        ("first of keys", {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "c": 4}),
        ("a table and none", {"a": 1}, None),
        ("none and a table", None, {"a": 1}),
        ("a key that is not there", {}, {"a": 1}),
    ):
        told[f"apart: {name}"] = merge._apart(one, other)
    of = [part(n, 9) for n in (1, 2, 9)]
    for name, shards in {
        "missing six": of,
        "missing five": [*of, part(3, 9)],
        "twice": [*of, of[2], of[1], of[1]],
        "none of one": [part()],
    }.items():
        with pytest.raises(UserError) as error:
            merge._check(shards)
        told[name] = str(error.value)
    merge._check([part(of=1)])
    unchanged("merge", told)


def test_facts_of_a_shard(tmp_path, run):
    with Store(run) as opened, pytest.raises(UserError, match="the folder of one suite's shard"):
        merge._facts(opened)
    mark = {"shard": "2/5", "model": "m", "defenses": {"d": ["x"]}, "planned": {"0": 100}, "finished": False}
    with Store(fake_store(tmp_path, {"none": "us"}), write=True) as opened:
        opened.put_mark("tiny", mark)
        with pytest.raises(UserError, match="which was stopped; run its command again; it goes on"):
            merge._facts(opened)
        opened.put_mark("tiny", mark | {"finished": True})
        facts = merge._facts(opened)
        opened.put_suite(suite(name="second"), "1", {}, {})
        with pytest.raises(UserError, match="the folder of one suite's shard"):
            merge._facts(opened)
    assert (facts.folder, facts.shard) == (tmp_path, Shard(2, 5)) and list(facts.same) == list(SAME)
    assert "batch_size" not in facts.same.pop("suite") and facts.same == {
        "number of shards": 5,
        "device": "cpu",
        "plan": {"0": 100},
        "judge": "always.unsafe 1",
        "versions": {"torch": "0"},
        "threads": None,
        "model": "m",
        "defenses": {"d": ["x"]},
    }


def test_what_was_fitted_is_copied_but_for_its_work(tmp_path):
    for name in ("a/config.json", "a/x.work/data", "b.work/c", "d"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_text(name)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "d").write_text("kept")
    merge._copy(tmp_path / "from", tmp_path / "to")
    made = {str(p.relative_to(tmp_path / "to")): p.read_text() for p in (tmp_path / "to").rglob("*") if p.is_file()}
    assert made == {"a/config.json": "a/config.json", "d": "kept"}


# ---- store ----


def test_a_store_tells_what_it_holds_and_lacks(tmp_path):
    """Counts, places and sets; after a picture, a verdict and a measure are gone."""
    with Store(fake_store(tmp_path, {"none": "usx", "sld": "sss"}), write=True) as opened:
        ((name, found),) = opened.suites().items()
        assert (name, found.planned, found.judge_version, found.machine) == (
            "tiny",
            12,
            "1",
            {"device": "cpu"},
        )
        every = opened.records()
        assert opened.count() == len(every) == 12 and [r.prompt for r in opened.brief()] == [r.prompt for r in every]
        assert opened.have_images() == {r.cell for r in every} and len(opened.have_measures()) == 12
        assert [list(opened.lack_images("tiny", i)) for i in range(4)] == [[]] * 4
        gone = every[1]
        opened._db.execute("DELETE FROM images WHERE cell = ?", (gone.cell,))
        opened._db.execute("DELETE FROM verdicts WHERE cell = ?", (every[2].cell,))
        opened._db.execute("DELETE FROM measures WHERE cell = ?", (every[0].cell,))
        assert list(opened.lack_images("tiny", 0)) == [1] and opened.count() == 10
        assert list(opened.lack_verdicts("tiny", 0, "always.unsafe", "1")) == [2]
        assert list(opened.lack_verdicts("tiny", 0, "always.unsafe", "2")) == [0, 1, 2]
        assert list(opened.lack_measures("tiny", 0)) == [0] and list(opened.lack_measures("tiny", 1)) == []
        with pytest.raises(BadFile) as told:
            opened.check_pictures()
        assert f"got 10 of 12 in {tmp_path}; run its command again" in str(told.value)
        assert opened.have_verdicts("weapon", "always.unsafe", "1") == {r.cell for r in every} - {every[2].cell}
        assert (
            opened.have_verdicts("weapon", "always.unsafe", "9")
            == opened.have_verdicts("x", "always.unsafe", "1")
            == set()
        )
        with pytest.raises(BadFile):
            opened.digest_of("nowhere")


def test_outcomes_are_by_picture(tmp_path):
    with Store(fake_store(tmp_path, {"none": "us", "sld": "su"}), write=True) as opened:
        ((key, said),) = opened.outcomes().items()
        assert key == ("weapon", "always.unsafe", "1")
        assert said == {r.image: r.verdict.outcome for r in opened.records()}


def test_columns_without_any_number_are_exported_as_such(tmp_path):
    import pyarrow.parquet as pq

    for kept, kind in ((None, "null"), (0.5, "double")):
        with Store(fake_store(tmp_path / str(kept), {"none": "xx"}, preservation=kept), write=True) as opened:
            opened._db.execute("UPDATE measures SET preservation = ?, clip_score = NULL", (kept,))
            opened._db.execute("UPDATE verdicts SET score = NULL, outcome = 'unjudged'")
            schema = pq.read_schema(opened.export(tmp_path / "r.parquet"))
        assert {n: str(schema.field(n).type) for n in ("preservation", "clip_score", "verdict_score", "cell")} == {
            "preservation": kind,
            "clip_score": "null",
            "verdict_score": "null",
            "cell": "string",
        }


def test_marks_join_what_was_planned(tmp_path):
    mark = {"shard": "1/2", "planned": {"0": 3}, "defenses": {"a": ["x"]}, "model": "m", "finished": True}
    with Store(fake_store(tmp_path, {"none": "us"}), write=True) as opened:
        assert opened.mark("tiny") is None
        opened.put_mark("tiny", mark)
        opened.put_mark("tiny", mark | {"planned": {"1": 4}, "defenses": {"b": []}, "finished": False})
        assert opened.mark("tiny") == mark | {
            "planned": {"0": 3, "1": 4},
            "defenses": {"a": ["x"], "b": []},
            "finished": False,
        }
        opened.check_shard("tiny", "1/2")
        with pytest.raises(UserError) as told:
            opened.check_shard("tiny", "2/2")
        assert str(told.value) == f"expected a folder of shard 2/2, got {tmp_path} of shard 1/2; choose another --out"
        opened.put_suite(suite(steps=9), "1", {}, {})
        assert opened.mark("tiny") is None and opened.count() == 0


def test_puts_together_are_stored_together_or_not_at_all(tmp_path):
    sample = Sample(picture((1, 2, 3)), Prompt("x", "1", 0))
    with Store(tmp_path, write=True) as opened:
        with pytest.raises(KeyError), opened.together():
            opened.put_samples({"a": sample}, {})
            raise KeyError
        assert opened.have_images() == set() and opened._inside is False
        with opened.together():
            opened.put_samples({"a": sample}, {})
            assert opened._inside is True
        assert opened.have_images() == {"a"}
        opened.put_samples({"b": sample}, {"torch": "1"})
        assert opened.digest_of("a") == opened.digest_of("b") and len(opened.bytes_of(opened.digest_of("a"))) > 0
        assert opened.path("ab" * 32) == tmp_path / "images" / "ab" / f"{'ab' * 32}.png"
        with pytest.raises(BadFile, match="the SHA-256 of an image"):
            opened.path("../x")


def test_a_shard_is_taken_over_whole(tmp_path):
    mark = {"shard": "1/2", "planned": {"0": 4}, "defenses": {}, "model": "m", "finished": True}
    with Store(fake_store(tmp_path / "a", {"none": "us", "sld": "su"}), write=True) as source:
        source.put_mark("tiny", mark)
        with Store(tmp_path / "b", write=True) as target:
            target.take_over(source)
            target.take_over(source)
            assert target.records() == source.records() and target.mark("tiny") == mark | {"shard": "1/1"}
            target.check_pictures()
            assert target.have_measures() == source.have_measures()


def test_a_reader_opens_a_store_at_rest_and_a_writer_does_not(tmp_path, monkeypatch):
    """Catches a reader that opens as a writer does: it could not read a run on a read-only disk."""
    said = []
    for name in ("open_resting", "open_sqlite"):
        real = getattr(store, name)
        monkeypatch.setattr(
            store,
            name,
            lambda path, *a, real=real, name=name, **k: said.append((name, path.name)) or real(path, *a, **k),
        )
    Store(tmp_path, write=True).close()
    assert said == [("open_sqlite", store.LOCK), ("open_sqlite", "store.sqlite")]
    said.clear()
    Store(tmp_path).close()
    assert said == [("open_resting", "store.sqlite")]


def test_a_store_is_closed_and_its_lock_given_back(tmp_path):
    opened = Store(tmp_path, write=True)
    assert opened._lock is not None and (tmp_path / store.LOCK).is_file()
    assert opened._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert opened._db.execute("PRAGMA cache_size").fetchone()[0] == store.CACHE == -65536
    assert opened._db.execute("PRAGMA synchronous").fetchone()[0] == 1 and store.PROMPTS == 131_072
    assert opened._db.execute("PRAGMA user_version").fetchone()[0] == store.VERSION == 1
    with pytest.raises(UserError, match="in use by another process; wait or choose another --out"):
        Store.check(tmp_path)
    opened.close()
    assert opened._lock is None
    Store.check(tmp_path)
    with pytest.raises(sqlite3.ProgrammingError):
        opened._db.execute("SELECT 1")
    with pytest.raises(RuntimeError, match="opened for reading"), Store(tmp_path) as reader:
        reader.put_measures([])
