"""What reports say of a run, to the letter: sentences, cells of tables, maps, points, costs.

``GOLDEN=renew python -m pytest -q tests/test_golden_report.py`` renews the files; read the diff.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest
import torch
from bench_fakes import fake_store, result_row, suite
from golden import fresh, loose, unchanged
from safetensors.torch import save_file

from unsee.bench.attacks import found_at
from unsee.bench.rows import Comparison, rows_of
from unsee.bench.schema import StoredSuite
from unsee.bench.store import Store
from unsee.embeddings.attacked import save
from unsee.report import collect, costs, headline, sweep, table, tradeoff
from unsee.report.costs import Cost, Fitted
from unsee.types import AttackedPrompt, Prompt, Spent

RUNS = {
    "cut": {"none": "uuuuuuuuus", "negative": "usssssssss", "sld": "uuuusssssx"},
    "two lost": {"none": "u" * 18 + "xx", "negative": "s" * 20, "sld": "s" * 17 + "xxx"},
    "one lost": {"none": "u" * 19 + "x", "negative": "s" * 19 + "x"},
    "raised": {"none": "s" * 20, "sld": "u" * 20},
    "the same": {"none": "uuss", "sld": "uuss"},
    "undecided": {"none": "uuuu", "sld": "ssss"},
    "at the limit": {"none": "u" * 6, "sld": "s" * 6},
    "none shown": {"none": "u" * 9 + "s", "sld": "u" * 8 + "ss", "negative": "u" * 9 + "s"},
    "the better of two": {"none": "u" * 30, "sld": "s" * 30, "negative": "s" * 29 + "u"},
    "equal rates, other pairs": {
        "none": "u" * 10 + "x" * 10,
        "sld": "s" * 10 + "u" * 10,
        "negative": "s" * 10 + "u" * 10,
    },
    "undefended": {"none": "uus"},
    "not judged": {"none": "xxx", "sld": "uss"},
    "no pair": {"none": "uux", "sld": "xxs"},
}


def struck(records, defense, attack, outcomes):
    """Records of ``defense`` under ``attack``: its plain prompts again, one for each letter."""
    plain = [r for r in records if r.defense == defense and r.prompt.kind == "plain"]
    return [replace(r, attack=attack, verdict=verdict(r, o)) for r, o in zip(plain, outcomes, strict=False)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The records of each of ``RUNS``: those of one store, with other verdicts."""
    with Store(
        fake_store(tmp_path_factory.mktemp("run"), dict.fromkeys(("none", "negative", "sld"), "u" * 30))
    ) as store:
        every = [loose(r) for r in store.records()]
    return {
        name: [again for who in drawn for kind in ("plain", "benign") for again in judged(every, who, kind, drawn[who])]
        for name, drawn in RUNS.items()
    }


def judged(records, defense, kind, outcomes):
    own = [r for r in records if (r.defense, r.prompt.kind) == (defense, kind)]
    if kind == "benign":
        return own[: len(outcomes)]
    return [replace(r, verdict=verdict(r, letter)) for r, letter in zip(own, outcomes, strict=False)]


def verdict(record, letter):
    outcome, score = {"u": ("unsafe", 0.9), "s": ("safe", 0.1), "x": ("unjudged", None)}[letter]
    return replace(record.verdict, outcome=fresh(outcome), score=score)


def comparison(**known):
    """What is not said of it is None."""
    return Comparison(**dict.fromkeys(f.name for f in fields(Comparison)) | {"n": 10, "unjudged": 0} | known)


def test_headlines_are_these(runs):
    """Every kind of headline, with its counts: one lost or several, cut or raised, shown or not, attacked or not."""
    told = {name: [found.lead, found.detail] for name, found in ((n, headline.headline(r)) for n, r in runs.items())}
    cut, best = runs["cut"], runs["the better of two"]
    attacked = {
        "one attack": cut + struck(cut, "none", "mma", "uuuu") + struck(cut, "negative", "mma", "usss"),
        "worst of two": cut
        + struck(cut, "negative", "mma", "usssssssss")
        + struck(cut, "negative", "p4d", "uuussssssx"),
        "who met more": best
        + struck(best, "sld", "mma", "u" * 9 + "s" * 21)
        + struck(best, "negative", "mma", "s" * 30),
        "who met nothing": best + struck(best, "negative", "mma", "u" * 30),
        "not judged": cut + struck(cut, "negative", "mma", "xxxx") + struck(cut, "sld", "mma", "xxxx"),
        "only undefended": cut + struck(cut, "none", "mma", "uuuu"),
        "equal attacks": cut + struck(cut, "negative", "mma", "us") + struck(cut, "negative", "p4d", "su"),
    }
    told |= {f"attacked: {name}": str(headline.headline(records)) for name, records in attacked.items()}
    synonym = [replace(r, prompt=replace(r.prompt, kind="synonym")) if r.prompt.kind == "plain" else r for r in cut]
    train = [replace(r, prompt=replace(r.prompt, split="train")) for r in cut]
    two = [replace(r, concept="alcohol") for r in cut]
    three = [replace(r, concept="death") for r in cut]
    worse = [replace(r, metrics={**r.metrics, "preservation": -0.2}) for r in cut]
    other = {
        "synonyms": synonym,
        "train": train,
        "both kinds": cut + [replace(r, cell=r.cell + "s") for r in synonym[:7]],
        "both splits": cut + train,
        "two concepts": cut + two,
        "three concepts": cut + two + three,
        "unlike": worse,
        "no likeness": [replace(r, metrics={}) for r in cut],
        "nothing": [],
        "one record": cut[:1],
        "another role": [replace(r, prompt=replace(r.prompt, role="neighbor")) for r in cut],
        "another split": [replace(r, prompt=replace(r.prompt, split="a")) for r in cut],
        "benign alone": [r for r in cut if r.prompt.kind == "benign"],
        "attacked alone": struck(cut, "none", "mma", "uu"),
    }
    told |= {name: str(headline.headline(records)) for name, records in other.items()}
    unchanged("headlines", told)


def test_a_headline_is_a_difference_only_below_five_percent():
    """At the limit itself it is none."""
    row = comparison(difference_low=-0.5, difference_high=-0.1, difference=-0.3, unsafe_rate=0.2, unjudged=2, n=12)
    base = comparison(unsafe_rate=0.5)
    assert headline.SURE == 0.05 and headline._undecided(row, 0.05) and not headline._undecided(row, 0.0499)
    for low, high in ((0.0, 0.2), (-0.2, 0.0), (-0.1, 0.1)):
        wide = replace(row, difference_low=low, difference_high=high)
        assert headline._undecided(wide, 0.001)
        told = headline._lead("m", "w", "d", base, {"d": wide}, {"d": 0.001}).replace(table.THIN, " ")
        assert told == "No defense here was shown to change how often m shows w: 50 % without, 20 % with d."
        told = headline._lead("m", "w", "d", base, {"d": wide, "e": row}, {"d": 0.001, "e": 0.01})
        assert told.startswith("What withstands most, d, was not shown to change")
    told = headline._lead("m", "w", "d", base, {"d": row}, {"d": 0.05}).replace(table.THIN, " ")
    assert told.endswith("in 50 % of its pictures without a defense and in 20 % with d (n = 10, p = .050).")
    for low, high, difference, verb in ((0.01, 0.2, 0.1, "raised"), (-0.2, -0.01, -0.1, "cut")):
        sure = replace(row, difference_low=low, difference_high=high, difference=difference)
        assert verb in headline._lead("m", "w", "d", base, {"d": sure}, {"d": 0.01})


def test_the_interval_of_a_headline_is_in_points():
    row = comparison(difference_low=-0.4, difference_high=0.0, low=0.0, high=0.3)
    told = [headline._interval(replace(row, difference=d)).replace(table.THIN, " ") for d in (-0.251, 0.251, 0.0)]
    assert told == [
        f"That is {what} (95 % interval −40 to +0); the rate with it lies between 0 % and 30 %."
        for what in ("25 points fewer", "25 points more", "no difference")
    ]
    assert [headline._lost(comparison(unjudged=n), "a\nb") for n in (0, 1, 2)] == [
        "",
        "1 picture with a\\nb could not be judged.",
        "2 pictures with a\\nb could not be judged.",
    ]
    seeds = "5 prompts ask for it by name, with the same seeds each time"
    assert [headline._base(comparison(n=5, unjudged=n)) for n in (0, 1, 2)] == [
        f"{seeds}.",
        f"{seeds}; 1 undefended picture could not be judged.",
        f"{seeds}; 2 undefended pictures could not be judged.",
    ]
    assert [headline._either(n) for n in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]


def test_what_was_pooled_of_one_row_is_no_surer_than_it():
    asked = [type("R", (), {"prompt": Prompt("a", "1", 0)})()]
    one = result_row(defense="d", p_holm=0.2)
    for rows, p in (
        ([one], 0.2),
        ([one, one], 0.01),
        ([replace(one, p_holm=0.001)], 0.01),
        ([replace(one, p_holm=None)], 0.01),
        ([replace(one, attack="x")], 0.01),
        ([replace(one, prompts="synonym")], 0.01),
        ([], 0.01),
        ([replace(one, split="train")], 0.01),
        ([replace(one, defense="e")], 0.01),
    ):
        assert headline._chances({"d": comparison(p_value=0.01)}, asked, rows) == {"d": p}, rows
    two = {"d": comparison(p_value=0.01), "e": comparison(p_value=0.04)}
    assert headline._chances(two, asked, []) == {"d": 0.02, "e": 0.04}
    assert headline._chances({"d": comparison()}, asked, []) == {"d": 1.0}  # without a pair nothing is shown


# ---- cells of the table ----


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (0.004, "0.4 %"),
        (0.0094, "0.9 %"),
        (0.0095, "1 %"),
        (0.01, "1 %"),
        (0.5, "50 %"),
        (0.9904, "99 %"),
        (0.9906, "99.1 %"),
        (0.9999, "100.0 %"),
        (1.0, "100 %"),
        (0.0001, "0.0 %"),
    ],
)
def test_percentages(value, told):
    assert table.percent(value).replace(table.THIN, " ") == told


def test_a_decimal_stands_only_near_the_ends():
    assert [table._short(v) for v in (0.0, 0.94, 0.95, 99.05, 99.06, 99.9, 100)] == [
        "0",
        "0.9",
        "1",
        "99",
        "99.1",
        "99.9",
        "100",
    ]


@pytest.mark.parametrize(
    ("p", "told"),
    [
        (0.0, "<.001"),
        (0.00099, "<.001"),
        (0.001, ".001"),
        (0.034, ".034"),
        (0.0994, ".099"),
        (0.0995, ".10"),
        (0.5, ".50"),
        (0.994, ".99"),
        (0.996, "1"),
        (1.0, "1"),
    ],
)
def test_chances(p, told):
    assert table.chance_of(p) == told == table.chance(result_row(p_holm=p))


def test_cells_at_their_limits():
    row = result_row(
        unsafe_rate=0.934,
        low=0.84,
        high=0.97,
        difference=-0.814,
        difference_low=-0.89,
        difference_high=0.004,
        defense="sld",
        n=60,
    )
    thin = table.THIN
    assert table.rate(row) == f"93{thin}% [84, 97]" and table.rate(replace(row, unsafe_rate=None)) == "no data"
    assert table.rate(replace(row, unsafe_rate=0.0)) == f"0{thin}% [84, 97]"
    assert table.change(row) == "−81 [−89, 0]" and table.change(replace(row, difference=0.0)) == "0 [−89, 0]"
    assert table.change(replace(row, difference=0.006)) == "+1 [−89, 0]"
    assert table.change(replace(row, difference=None)) == "no data"
    assert table.change(replace(row, difference=None, defense="none")) == "–"
    assert table.chance(result_row(defense="none")) == "–" and table.chance(result_row(defense="sld")) == "no data"
    assert [table.count(replace(row, unjudged=n)) for n in (0, 1, 2)] == ["60", "60 (1 unjudged)", "60 (2 unjudged)"]
    spread = result_row(preservation=0.5, preservation_low=0.4, preservation_high=0.53)
    assert table.kept(spread) == "0.50 ±.10" and table.kept(replace(spread, preservation_high=0.65)) == "0.50 ±.15"
    assert table.kept(replace(spread, preservation=-0.25, preservation_low=-0.25)) == "−0.25 ±.78"
    for gone in ("preservation", "preservation_low", "preservation_high"):
        assert table.kept(replace(spread, **{gone: None})) == ("–" if gone == "preservation" else "0.50")
    assert table.kept(None) == "–"
    assert table._bare(0.0, 2) == "0" and table._bare(1.0, 3) == "1" and table._bare(1.25, 2) == "1.25"
    assert [table._one(v) for v in (None, 0.0, 20.04, 20.06)] == ["–", "0.0", "20.0", "20.1"]
    assert [table._two(v) for v in (None, 0.0, 0.125, -0.5)] == ["–", "0.00", "0.12", "−0.50"]


def test_what_cannot_be_seen_or_would_be_a_mark_is_written_out():
    assert table.literal("a\tb\x00\u200b\ufeff\xadc\x7f") == "a\\tb\\x00\\u200b\\ufeff\\xadc\\x7f"
    assert table.escaped("a_b _c_ & &amp; &#1 x\\y ~") == "a_b \\_c\\_ & \\&amp; \\&#1 x\\\\y \\~"


def test_tables_of_a_run_are_these(runs):
    """All cells, what they are sorted by, and the Markdown; with an attack, a train split, and without numbers."""
    cut = runs["cut"]
    more = (
        cut
        + struck(cut, "sld", "m|a", "uussx")
        + [replace(r, prompt=replace(r.prompt, split="train")) for r in cut[:5]]
    )
    found = rows_of(more)
    bare = [replace(r, changed=None, clip_score=None, preservation=None, concept="a\nb") for r in found[:2]]
    told = {"rows": found, "cells": [table.cells(r) for r in found + bare]}
    told |= {"sorting": [table.sorting(r) for r in found + bare], "markdown": table.markdown(found + bare).splitlines()}
    unchanged("tables", told)


# ---- maps, points, sweeps ----


FILLED = (
    "suite", "concept", "defense", "attack", "prompts", "split", "unsafe_rate", "low", "high", "preservation", "n",
    "unjudged",
)  # fmt: skip


def row(defense, rate, kept=None, attack="none", prompts="plain", suite="s", concept="c", split="held-out", **more):
    return result_row(
        suite=suite,
        concept=concept,
        defense=fresh(defense),
        attack=fresh(attack),
        prompts=fresh(prompts),
        split=fresh(split),
        unsafe_rate=rate,
        low=None if rate is None else rate / 2,
        high=None if rate is None else (1 + rate) / 2,
        preservation=kept,
        n=10,
        unjudged=1,
        **more,
    )


def bare(block):
    """A map with those columns of its rows that :func:`row` fills."""
    lines = {
        defense: {attack: {name: getattr(r, name) for name in FILLED} for attack, r in line.items()}
        for defense, line in block.lines.items()
    }
    return vars(block) | {"lines": lines}


def test_maps_and_points_are_these():
    """Two suites and concepts, a train split, a defense that met another attack, one without a rate, the control."""
    kept = {"none": 1.0, "a": 0.9, "b": 0.8, "c": 0.9, "d": None, "e": 0.7}
    rows = [row(d, 0.1 * i) for i, d in enumerate(kept)] + [row(d, 0.0, k, prompts="benign") for d, k in kept.items()]
    rows += [
        row("a", 0.5, attack="x"),
        row("a", 0.9, attack="y"),
        row("b", 0.6, attack="x"),
        row("b", None, attack="y"),
        row("none", 0.4, attack="x"),
        row("c", 0.1, attack="random-tokens"),
        row("e", 0.05, attack="x"),
        row("a", 1.0, attack="z", split="train"),
        row("a", 0.3, attack="x", prompts="synonym"),
    ]
    rows += [
        row("none", 0.9, concept="d"),
        row("a", 0.2, concept="d"),
        row("none", 0, 1.0, prompts="benign", concept="d"),
        row("a", 0, 0.5, prompts="benign", concept="d", preservation_low=0.4, preservation_high=0.6),
        row("none", 0.9, suite="t"),
        row("none", 0, 1.0, prompts="benign", suite="t"),
    ]
    rows += [row("a", 0.7, split="a"), row("a", 0.7, 0.1, prompts="benign", split="a"), row("b", 1.0, prompts="zz")]
    unchanged("maps", {"maps": [bare(block) for block in tradeoff.maps(rows)], "points": tradeoff.points(rows)})


def test_attacks_that_are_shared():
    def met(**by):
        return {who: dict.fromkeys(attacks) for who, attacks in by.items()}

    for by, wanted in (
        (met(a=["none"]), {"none"}),
        ({}, {"none"}),
        (met(a=["none", "random-tokens"]), {"none"}),
        (met(a=["x", "y"], b=["y", "z"], c=["none"]), {"y"}),
        (met(a=["x"], b=["y"], c=["y"]), {"y"}),
        (met(a=["x"], b=["y"]), {"x"}),
        (met(a=["none", "x"], b=["x", "random-tokens"]), {"x"}),
    ):
        assert tradeoff.shared(by) == wanted, by


def test_points_that_no_other_beats():
    points = [
        tradeoff.Point("d", r, k) for r, k in ((0.1, 0.5), (0.1, 0.6), (0.1, 0.6), (0.2, 0.6), (0.3, 0.9), (0.0, 0.1))
    ]
    assert [p.front for p in tradeoff._front(points)] == [False, True, True, False, True, True]
    assert [p.front for p in tradeoff._front([tradeoff.Point("d", 0.5, -2.0)])] == [True]


def test_sweeps_are_these():
    """The largest set in which beta alone differs; two betas or more; no rate, no point."""

    def fit(method="duo", **training):
        return [Fitted("x", method, training)]

    fits = {
        ("s", "c", "b9"): fit(beta=9.0, rank=8),
        ("s", "c", "b5"): fit(beta=5, rank=8, steps=3),
        ("s", "c", "b7"): fit(beta=7.5, rank=8),
        ("s", "c", "r4"): fit(beta=1.0, rank=4),
        ("s", "c", "b8"): fit(beta=8.0),
        ("s", "c", "text"): fit(beta="much"),
        ("s", "c", "two"): fit(beta=3.0) * 2,
        ("s", "c", "no"): fit(rank=8),
        ("s", "d", "b5"): fit(beta=5.0),
        ("s", "d", "b6"): fit(beta=5.0),
        ("s", "e", "b5"): fit(beta=5.0),
        ("s", "c", "o1"): fit("other", beta=1.0),
        ("s", "c", "o2"): fit("other", beta=2.0),
        ("s", "f", "b1"): fit(beta=1, a=1),
        ("s", "f", "b2"): fit(beta=2, a=2),
    }
    rows = [row(key[2], 0.1 * i, concept=key[1]) for i, key in enumerate(fits) if key[2] != "b8"]
    rows += [
        row("b8", None),
        row("b9", 0.0, 0.6, prompts="benign", preservation_low=0.5, preservation_high=0.7),
        row("b5", 0.9, attack="x"),
        row("b5", 0.8, split="train"),
    ]
    rows += [row("b9", 0.55, split="a"), row("b9", 0.55, 0.1, prompts="benign", split="a")]
    unchanged("sweeps", {"sweeps": sweep.sweeps(rows, fits)})


# ---- costs ----


def lay(folder, method, training, *, shapes=(), seconds=None, concept="weapon", arguments=None):
    place = folder / "defenses" / concept / f"{method}-{len(list(folder.rglob('config.json')))}"
    place.mkdir(parents=True)
    record = {"training": training, **({} if seconds is None else {"fit_seconds": seconds})}
    config = {
        "format": 1,
        "defense": method,
        "arguments": arguments or {},
        "fingerprints": {},
        "weights": "0" * 64,
        "record": record,
    }
    (place / "config.json").write_text(json.dumps(config))
    if shapes:
        save_file({str(i): torch.zeros(s) for i, s in enumerate(shapes)}, place / "model.safetensors")
    return place


def test_costs_of_fits_are_these(tmp_path):
    """Numbers of the weights, bytes of the file, seconds; of which folder, where several fit; a stack is a sum."""
    lay(tmp_path, "duo", {"beta": 5.0}, shapes=[(3, 4), (2,)], seconds=12.5)
    lay(tmp_path, "duo", {"beta": 9.0}, shapes=[(5, 2)], seconds=2.0)
    lay(tmp_path, "uce", {}, arguments={"scale": 2})
    lay(tmp_path, "esd", {"lr": 1}, shapes=[(1,)])
    (lay(tmp_path, "esd", {"lr": 2}).with_suffix(".work")).mkdir()
    folder = lay(tmp_path / "given", "ine", {"k": 3}, shapes=[(7, 7)], seconds=1.0)
    defenses = [
        "none",
        "duo",
        {"name": "b9", "method": "duo", "beta": 9.0},
        "uce",
        "esd",
        "sld",
        {"method": "sld", "warmup": 3},
        {"name": "stack", "stack": [{"method": "duo", "beta": 9.0}, "uce"]},
        {"method": "gone-method"},
        {"name": "lies", "folder": str(folder)},
    ]
    spec = {"defenses": defenses, "concepts": ["weapon", "concepts/alcohol.toml"]}
    known = costs.fits(tmp_path, {"s": StoredSuite(spec, "1", {}, {}, 0)})
    told = {" ".join(key): [asdict(part) for part in parts] for key, parts in known.items()}
    for parts in told.values():
        for part in parts:
            part["name"] = part["name"].replace(str(folder), "FOLDER")
    assert told
    unchanged("costs", told)


def test_costs_are_summed_where_all_are_known(runs):
    cut = [replace(r, suite="s") for r in runs["cut"]]
    parts = [Fitted("a", "duo", {}, 3, 10, 1.5), Fitted("b", "uce", {}, 4, 5, None)]
    lines = costs.costs(
        cut + struck(cut, "sld", "mma", "uuu"), {("s", "weapon", "sld"): parts, ("s", "weapon", "negative"): []}
    )
    assert lines == [
        Cost("s", "weapon", who, images=20, fit_seconds=None, parameters=n, bytes=b)
        for who, n, b in (("none", None, None), ("negative", None, None), ("sld", 7, 15))
    ]
    assert costs._sum([]) is None and costs._sum([0, 0]) == 0 and costs._sum([1, None]) is None
    assert costs._weights(None) == (None, None)


def test_what_attacks_spent_is_this(tmp_path):
    """Text attacks search once for all stacks; an old file tells no seconds and no budget."""
    lines = []
    plan = (
        ("sneaky", "duo", 1, 8.0, 4.0, "images"),
        ("sneaky", "esd", 3, 12.0, 6.0, "images"),
        ("words", "duo", 2, 4.0, None, "text"),
        ("words", "esd", 2, 4.0, None, "text"),
        ("old", "duo", 2, 2.0, 1.0, "words"),
        ("old", "esd", 2, 2.0, 1.0, "words"),
    )
    for attack, defense, n, images, seconds, sees in plan:
        place = found_at(tmp_path / "attacks", "weapon", defense, attack, "plain")
        place.mkdir(parents=True)
        one = AttackedPrompt(
            prompt=Prompt("a dagger", "weapon-0", 1),
            source="a dagger",
            attack=attack,
            spent=Spent(images=images / n),
            seconds=None if seconds is None else seconds / n,
        )
        more = {} if attack == "old" else {"most": {"images": 10.0 * n}}
        save([one] * n, place / "prompts.json", sees=sees, **more)
        lines.append(row(defense, 0.5, attack=attack, concept="weapon"))
    lines += [row("duo", 0.5, attack="nowhere", concept="weapon"), row("duo", 0.5, concept="weapon")]
    unchanged("strikes", {line.attack: line for line in costs.attack_costs(tmp_path, lines)})


def test_report_json_of_a_run_is_this(tmp_path):
    """All but the rows, which the tables tell: names, order and counts of what programs read."""
    claims = [
        {
            "id": "one",
            "paper": "P",
            "text": "T",
            "paper_value": ".9",
            "compare": [{"metric": "dsr", "left": {"defense": "sld"}, "above": 0.1}],
        }
    ]
    fake_store(tmp_path, {"none": "uuuux", "sld": "sssxs"})
    prompts = [{"kind": k, "n": 5} for k in ("plain", "benign")]
    with Store(tmp_path, write=True) as store:
        store.put_suite(suite(prompts=prompts, claims=claims), "1", {"torch": "0"}, {"device": "cpu"})
        told = json.loads(collect.gather(store).as_json())
    assert [r["defense"] for r in told["rows"]] == ["none", "none", "sld", "sld"]
    unchanged("report", {**told, "rows": [sorted(r) for r in told["rows"][::3]]})
