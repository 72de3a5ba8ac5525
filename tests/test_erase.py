"""``unsee erase``: what is tried, what it is thought to cost, who wins, and that stopped runs end alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from bench_fakes import result_row

import unsee
from unsee import concepts
from unsee.bench import engine
from unsee.cli import erasing, main
from unsee.defenses import Defense
from unsee.defenses.stack import Stack
from unsee.erase import Score, Task, erase, estimate
from unsee.erase.candidates import USUAL, Candidates, recipes
from unsee.erase.choice import score, winner
from unsee.erase.estimate import GROWS, Pace, attack_seconds, fit_seconds, pace
from unsee.erase.plan import Plan, make_plan
from unsee.erase.run import Notes
from unsee.errors import GuardFailure, UserError
from unsee.metrics import measures
from unsee.registry import DEFENSES, EDITS, METRICS, resolve
from unsee.suites.attacks import AttackSpec
from unsee.suites.stacks import StackSpec as Recipe
from unsee.types import Spent, Verdict

NEGATIVE = {"name": "negative", "method": "negative-prompt", "text": "dagger, bomb"}
SLD = {"name": "sld", "method": "sld", "text": "dagger", "preset": "max", "warmup": 0}
UCE = {"name": "uce", "method": "uce", "texts": 4}
HERE = Candidates((NEGATIVE, SLD, [UCE, SLD]), ("random-tokens", {"method": "paraphrase", "n": 2}), 3, 2)


class Kept(measures.Measure):
    """Preservation by pixels, and a CLIP score that says nothing."""

    name = "kept"

    def preservation(self, images, twins):
        return [
            1 - float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()) / 255 for a, b in zip(images, twins)
        ]

    def clip_score(self, images, texts):
        return [1.0] * len(images)


@pytest.fixture
def measured(monkeypatch):
    with_measures(monkeypatch)


@pytest.fixture
def guessed(monkeypatch):
    return with_guesses(monkeypatch)


def with_measures(monkeypatch):
    """A tiny pipeline that has a measure of preservation, judged by the first pixel of its pictures."""
    monkeypatch.setitem(METRICS.own, "kept", f"{__name__}:Kept")
    monkeypatch.setitem(measures.USUAL, "tiny:sd1", {"preservation": "kept", "clip_score": "kept"})

    def judge(self, images, prompts, concept):
        odd = [float(np.asarray(image)[0, 0, 0] % 2) for image in images]
        return [Verdict("unsafe" if x else "safe", x, self.name, self.version) for x in odd]

    monkeypatch.setattr("unsee.judges.always.Unsafe.judge", judge)


def with_guesses(monkeypatch):
    """Estimates without measuring: a second for each image, ten for each fit of UCE."""
    calls = []

    def fits(method, settings, pipe, concept):
        calls.append(method)
        return 10.0 if method == "uce" else 0.0

    monkeypatch.setattr(estimate, "pace", lambda *a, **k: Pace(1.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(estimate, "fit_seconds", fits)
    return calls


def task(out, **changes) -> Task:
    usual = {"budget": None, "floor": 0.1, "candidates": HERE, "judge": "always.unsafe", "steps": 2, "guidance": 4.0}
    return Task("tiny:sd1", "weapon", out, **{**usual, **changes})


# -- candidates ----------------------------------------------------------------------------------


def test_the_usual_candidates_are_sound_and_begin_with_saferedir():
    usual = Candidates.load()
    assert [s.name for s in usual.stacks] == [
        "saferedir", "duo", "duo+saferedir", "duo+sld-nearest", "duo+ine-sld", "uce+saferedir",
    ]  # fmt: skip
    weapon = concepts.load("weapon")
    for stack in usual.stacks:
        stack.check(weapon)
    assert len(usual.attack_specs) == 8 and (usual.choose, usual.prove) == (10, 24) and USUAL.is_file()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("candidates = ['sdl']", "did you mean 'sld'?"),
        ("candidates = ['sld', 'sld']", "'sld' twice"),
        ("candidates = ['none']", "the bare model is always there"),
        ("candidates = []", "a list with something in it"),
        ("attacks = ['standard']", "the key 'candidates'"),
        ("candidates = ['sld']\nattacks = ['p4']", "did you mean 'p4d'?"),
        ("candidates = ['sld']\nprof = 3", "did you mean 'prove'?"),
        ("candidates = ['sld']\nprove = 0", "prove in"),
        ("candidates = ['sld']\nmetrics = 'lpips'", "metrics in"),
        ("candidates = ['sld']\n[metrics]\npreservation = 'lpip'", "did you mean 'lpips'?"),
        ("candidates = ['sld']\n[metrics]\npreservation = 3", "an extractor as text"),
        ("candidates = ['sld']\nattacks = ['none']", "attacks that do something"),
        ("candidates = ", "candidates as TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path, text, told):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        Candidates.load(tmp_path / "c.toml")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_what_two_stacks_begin_with_is_one_fit():
    duo, both, other = (recipes(Recipe.parse(v)) for v in ("duo", ["duo", "saferedir"], ["uce", "saferedir"]))
    assert duo == both[:1] and both[1] != other[1] and both[1].startswith("saferedir behind")
    assert recipes(Recipe.parse("duo:beta=5")) != duo


# -- estimates -----------------------------------------------------------------------------------

NOW = [0.0]


@dataclass(frozen=True)
class Counts:
    n: int = 100
    also: int = 10
    steps: int = 40
    none: int = 0


@dataclass(kw_only=True, eq=False)
class Slow(Defense):
    """Takes 5 s, 2 s for each n, 1 for each of the others, and 3 for each step; the first time 60 s more."""

    name: ClassVar[str] = "slow"
    Training: ClassVar[type | None] = Counts
    seen: ClassVar[list[Any]] = []

    @classmethod
    def _fit(cls, fit, training, arguments):
        assert not fit.work.exists() and training.none == 0
        NOW[0] += 5 + 2 * training.n + training.also + 3 * training.steps + (0 if cls.seen else 60)
        cls.seen.append(training)
        return cls()


def test_a_fit_is_tried_small_and_told_large(monkeypatch):
    monkeypatch.setitem(EDITS.own, "slow", f"{__name__}:Slow")
    monkeypatch.setitem(GROWS, "slow", (("n", "also", "none"), ("steps",)))
    Slow.seen = []
    weapon, clock = concepts.load("weapon"), lambda: NOW[0]
    told = fit_seconds("slow", {"n": 102}, None, weapon, clock=clock)
    assert [(t.n, t.also, t.steps) for t in Slow.seen] == [
        (2, 2, 2), (2, 2, 2), (8, 2, 2), (2, 2, 8),
    ]  # fmt: skip
    assert told == 5 + 2 * 102 + 2 + 3 * 40  # what grows in proportion is below its least count in both trials
    monkeypatch.setattr(estimate, "TELLING", 2.0)  # 17 s, then 29, 77 and 35
    told = fit_seconds("slow", {"n": 102}, None, weapon, clock=clock)
    assert told == pytest.approx(5 + 2 * 102 + 3 * 40 + 2 + 100 / 30)  # "also" rises by 1 on the way to 32
    assert [(t.n, t.also, t.steps) for t in Slow.seen[-4:]] == [(2, 2, 2), (8, 2, 2), (32, 3, 2), (2, 2, 8)]
    Slow.seen = [None]
    assert fit_seconds("slow", {"n": 3, "also": 2, "steps": 4}, None, weapon, clock=clock) == 5 + 6 + 2 + 12
    assert fit_seconds("sld", {}, None, weapon) == 0.0


@pytest.mark.parametrize("method", [m for m in DEFENSES if resolve("d", DEFENSES, m).Training])
def test_every_trained_method_says_what_grows(method):
    kind = resolve("defense", DEFENSES, method)
    kind.check_settings(dict.fromkeys((name for group in GROWS[method] for name in group), 2))


@pytest.mark.slow
@pytest.mark.parametrize("method", GROWS)
def test_every_trained_method_can_be_tried(method):
    kind = resolve("defense", DEFENSES, method)
    counts = {name: 12 for group in GROWS[method] for name in group}
    assert fit_seconds(method, {**kind.quick, **counts}, unsee.tiny("sd1"), concepts.load("weapon")) > 0


def test_the_pace_of_a_pipeline_and_what_attacks_will_take():
    pipe = unsee.tiny("sd1")
    before = [p.grad is None for p in pipe.unet.parameters()]
    speed = pace(pipe, concepts.load("weapon"), steps=25, guidance=4.0)
    assert speed.image > speed.forward > 0 and speed.encoding > 0 and speed.backward >= 0
    assert all(before) and all(p.grad is None for p in pipe.unet.parameters())
    rate = Pace(image=100.0, encoding=1.0, forward=10.0, backward=20.0)
    assert rate.of(Spent(encodings=3, forwards=2, backwards=1, images=1)) == 143
    attacks = AttackSpec.all(["paraphrase", "mma:steps=2,candidates=3", "sneaky:queries=2,pool=4,n=3"])
    shared, own = attack_seconds(attacks, 5, rate)
    assert shared == 5 * (2 + 2 * (1 + 3)) * 1.0 + 5 * 2 * 20.0  # what only texts are asked for
    assert own == (5 + 5 + 3) * 100 + 3 * (1 + 4) * 1.0 + 3 * 2 * 100


# -- the plan ------------------------------------------------------------------------------------

FITS = {"duo": 100.0, "saferedir": 50.0, "saferedir behind duo": 60.0, "uce": 5.0, "saferedir behind uce": 70.0}
STACKS = [Recipe.parse(v) for v in ("saferedir", "duo", ["duo", "saferedir"], ["uce", "saferedir"])]


def planned(budget, fits=FITS, stacks=STACKS) -> Plan:
    attacks = AttackSpec.all(["paraphrase"])  # an image for each prompt
    return make_plan(stacks, attacks, Pace(1.0, 0, 0, 0), fits, choose=4, prove=2, budget=budget, measuring=3.0)


def test_a_plan_takes_what_fits_in_order_and_counts_what_is_shared_once(tmp_path):
    plan = planned(None)
    assert [line.fit for line in plan.lines] == [50, 100, 60, 75] and plan.fixed == 3 + 8 + 2 * (2 + 6)
    assert all(line.attacks == 4 + 8 for line in plan.lines) and plan.kept == [s.name for s in STACKS]
    assert plan.seconds == plan.fixed + 285 + 4 * 12
    tight = planned(plan.fixed + 62 + 87)
    assert tight.kept == ["saferedir", "uce+saferedir"]
    assert "112 s" not in tight.lines[1].left_out and "2 min do not fit: 87 s left" in tight.lines[1].left_out
    assert tight.lines[2].fit == 160  # duo was not kept, so its stack would have to fit it
    notes = Notes(tmp_path / "plan.json", "me")
    notes.keep(plan=tight)
    assert Notes(notes.path, "me").known.plan == tight


def test_a_plan_without_a_candidate_says_what_it_would_take():
    with pytest.raises(UserError, match=r"a budget of 89 s or more \(27 s for attacks and proof\), got 30 s"):
        planned(30.0)
    plan = planned(None, FITS | {"duo": "no such thing"})
    assert plan.kept == ["saferedir", "uce+saferedir"] and plan.lines[2].left_out == "no such thing"
    with pytest.raises(UserError, match="no such thing"):
        planned(None, {"duo": "no such thing"}, STACKS[1:2])


# -- the choice ----------------------------------------------------------------------------------


def row(defense, attack, rate, prompts="plain", preservation=None, unjudged=0):
    low, high = (None, None) if rate is None else (max(rate - 0.1, 0.0), min(rate + 0.1, 1.0))
    return result_row(defense=defense, attack=attack, prompts=prompts, unsafe_rate=rate, low=low, high=high,
                      preservation=preservation, unjudged=unjudged)  # fmt: skip


def rows(defense, *rates, kept: float | None = 0.95):
    names = ["none", "rab", "p4d"]
    asked = [row(defense, name, rate) for name, rate in zip(names, rates)]
    return [*asked, row(defense, "none", 0.9, "benign", kept), row("other", "rab", 1.0)]


def test_the_worst_attack_counts():
    found = score("a", rows("a", 0.0, 0.3, 0.1), 0.92)
    assert (found.dsr, found.worst, found.preservation) == (0.7, "rab", 0.95) and found.able
    assert (round(found.low, 6), round(found.high, 6), round(found.mean, 6)) == (0.6, 0.8, round(2.6 / 3, 6))
    assert score("a", rows("a", 0.5, 0.0, 0.1), 0.0).worst == "no attack"


def test_who_may_not_win():
    assert "below the floor of 0.96" in score("a", rows("a", 0.0), 0.96).left_out
    assert score("a", rows("a", 0.0), 0.0).able and score("a", rows("a", 0.0), 0.95).able
    assert "not measured" in score("a", rows("a", 0.0, kept=None), 0.9).left_out
    blind = score("a", rows("a", 0.0, None), 0.0)
    assert "under rab" in blind.left_out and blind.dsr is None and not score("a", [], 0.0).able


def test_ties_are_decided_by_the_mean_then_by_preservation_then_by_order():
    a = Score("a", dsr=0.9, mean=0.9, preservation=0.93)
    better = [replace(a, name="b", dsr=0.91), replace(a, name="b", mean=0.91), replace(a, name="b", preservation=0.94)]
    assert [winner([a, b]).name for b in better] == ["b"] * 3
    assert winner([a, replace(a, name="b")]).name == "a"
    assert winner([replace(a, left_out="x"), replace(a, name="b", dsr=0.1)]).name == "b"
    assert winner([replace(a, left_out="x"), Score("c")]) is None


# -- the whole of it, on a random pipeline ----------------------------------------------------------


def plain(found):
    """A result without what no two calls share."""
    listed = [replace(r, seconds_per_image=None) for r in found.rows]
    return found.winner, found.table, found.proof, found.undefended, listed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        with_measures(patch)
        with_guesses(patch)
        folder = tmp_path_factory.mktemp("erase") / "weapon"
        told: list[str] = []
        return folder, erase(task(folder), tell=told.append), told


def test_the_winner_is_a_stack_with_its_proof(whole):
    folder, found, told = whole
    assert [s.name for s in found.table] == ["negative", "sld", "uce+sld"] and all(s.able for s in found.table)
    best = max(found.table, key=lambda s: (s.dsr, s.mean, s.preservation))
    assert found.winner == best.name and found.folder == folder
    stack = Stack.from_pretrained(folder)
    assert stack.record["dsr"] == found.proof.dsr and stack.record["undefended_dsr"] == found.undefended.dsr
    assert sorted(f.name for f in folder.iterdir() if f.is_file()) == [
        "README.md", "erase.json", "report.html", "report.json", "report.md", "stack.json",
    ]  # fmt: skip
    card = (folder / "README.md").read_text()
    assert "unsee.Stack.from_pretrained" in card and f"| {found.winner} |" in card and "**chosen**" in card
    assert json.loads((folder / "erase.json").read_text())["winner"] == found.winner
    assert told[0].startswith("plan: ") and any("about 10 s to fit" in line for line in told)
    with unsee.protect(unsee.tiny("sd1"), stack):
        pass


def test_chosen_on_train_prompts_and_proved_on_others(whole):
    from unsee.bench.store import Store

    folder, found, _ = whole
    records = {}
    for name in ("choose", "proof"):
        with Store(folder.with_name("weapon.work") / name) as store:
            records[name] = store.records()
    assert {r.prompt.split for r in records["choose"]} == {"train"}
    assert {r.prompt.split for r in records["proof"]} == {"held-out"}
    assert not {r.prompt.seed for r in records["choose"]} & {r.prompt.seed for r in records["proof"]}
    assert {r.defense for r in records["proof"]} == {"none", found.winner}
    assert {r.defense for r in records["choose"] if r.attack != "none"} == {"negative", "sld", "uce+sld"}
    kinds = [
        ("none", "plain"),
        ("none", "neighbor"),
        ("none", "benign"),
        ("random-tokens", "plain"),
        ("paraphrase", "plain"),
    ]
    got = {(r.defense, r.attack.partition(":")[0], r.prompts, r.n) for r in found.rows}
    assert got == {(defense, *kind, 2) for defense in ("none", found.winner) for kind in kinds}


@pytest.mark.parametrize("calls", [3, 14])  # while it chooses, before the first picture of the proof
def test_stopped_and_called_again_it_ends_alike(whole, tmp_path, monkeypatch, measured, guessed, calls):
    left, draw = [calls], engine.draw

    def failing(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(engine, "draw", failing)
    with pytest.raises(KeyboardInterrupt):
        erase(task(tmp_path / "weapon"))
    assert not (tmp_path / "weapon").exists()
    tries = len(guessed)
    monkeypatch.setattr(engine, "draw", draw)
    again = erase(task(tmp_path / "weapon"))
    assert plain(again) == plain(whole[1]) and len(guessed) == tries  # nothing is measured or planned anew
    digests = [Stack.from_pretrained(f).digest() for f in (tmp_path / "weapon", whole[0])]
    assert digests[0] == digests[1]


def test_called_again_when_it_is_done_it_draws_and_fits_nothing(whole, monkeypatch, measured):
    monkeypatch.setattr(engine, "draw", None)
    monkeypatch.setattr("unsee.unlearn.uce.UCE._fit", None)
    assert plain(erase(task(whole[0]))) == plain(whole[1])


def test_where_nothing_meets_the_floor_nothing_is_saved(tmp_path, measured, guessed):
    found = erase(task(tmp_path / "weapon", floor=1.0, candidates=replace(HERE, candidates=(SLD,))))
    assert not found.winner and found.folder is None and not (tmp_path / "weapon").exists()
    assert "below the floor of 1" in found.table[0].left_out and found.table[0].dsr is not None
    assert not (tmp_path / "weapon.work" / "proof").exists()


def test_what_the_budget_lacks_is_left_out_and_said(tmp_path, measured, guessed):
    told: list[str] = []
    found = erase(task(tmp_path / "weapon", budget=62.0), tell=told.append)
    assert [s.name for s in found.table if "do not fit" in s.left_out] == ["uce+sld"]
    assert any(line.startswith("  uce+sld: left out, ") for line in told) and found.winner in ("negative", "sld")
    assert not list((tmp_path / "weapon.work").glob("choose/defenses/*/uce-*"))
    more = erase(task(tmp_path / "weapon", budget=None))  # goes on with what is there
    assert [s.name for s in more.table if s.left_out] == [] and guessed == ["negative-prompt", "sld", "uce"]


def test_a_fit_that_fails_is_left_out_with_its_reason(tmp_path, monkeypatch, measured, guessed):
    def fails(*arguments):
        raise GuardFailure("the loss is nan")

    monkeypatch.setattr("unsee.unlearn.uce.UCE._fit", fails)
    found = erase(task(tmp_path / "weapon"))
    assert {s.name: s.left_out for s in found.table}["uce+sld"] == "the loss is nan" and found.winner


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"floor": 1.5}, "a floor between 0 and 1"),
        ({"budget": 0.0}, "a budget above 0"),
        ({"judge": "pikto"}, "did you mean 'picto'?"),
        ({"candidates": replace(HERE, attacks=("ring-a-bel",))}, "did you mean 'ring-a-bell'?"),
        ({"candidates": replace(HERE, candidates=("sld:prest=strong",))}, "did you mean 'preset'?"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(tmp_path, measured, changes, told):
    with pytest.raises(UserError, match=told.replace("?", r"\?")):
        erase(task(tmp_path / "weapon", **changes))
    assert not list(tmp_path.iterdir())


def test_a_floor_needs_a_measure_of_preservation(tmp_path):
    with pytest.raises(UserError, match="a model with a measure of preservation"):
        erase(task(tmp_path / "weapon"))


def test_a_model_without_one_takes_the_metrics_of_the_candidates_file(tmp_path, guessed):
    ours = replace(HERE, candidates=(SLD,), metrics={"preservation": "picto", "clip_score": "picto"})
    found = erase(task(tmp_path / "weapon", candidates=ours, judge="always.safe", floor=0.0001))
    assert found.table[0].preservation is not None and all(r.preservation is not None for r in found.rows)


def test_a_folder_that_is_another_s_is_refused(whole, tmp_path, measured, guessed):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    with pytest.raises(UserError, match="an empty or new folder"):
        erase(task(tmp_path / "mine"))
    unsee.SLD(text="x").save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="a new folder as --out"):
        erase(task(tmp_path / "saved"))
    with pytest.raises(UserError, match="of this model and concept"):
        erase(replace(task(whole[0]), concept="death"))


# -- the command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"), [("60m", 3600), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("none", None)]
)
def test_times(text, wanted):
    assert erasing.seconds(text) == wanted


@pytest.mark.parametrize("text", ["60", "", "0m", "m", "1x", "-5m"])
def test_no_times(text):
    with pytest.raises(UserError):
        erasing.seconds(text)


def test_the_command_prints_one_object_and_saves(capsys, tmp_path, measured, guessed):
    (tmp_path / "c.toml").write_text(f"candidates = [{json.dumps('sld:text=dagger,warmup=0')}]\nprove = 2")
    call = ["erase", "--model", "tiny:sd1", "--concept", "weapon", "--judge", "always.unsafe", "--steps", "1",
            "--guidance", "4", "--candidates", str(tmp_path / "c.toml"), "--attacks", "random-tokens",
            "--choose", "2", "--out", str(tmp_path / "D")]  # fmt: skip
    assert main([*call, "--json", "--floor", "0.1", "--budget", "none"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["winner"] == "sld:text=dagger,warmup=0" and (tmp_path / "D" / "stack.json").is_file()
    assert {r["n"] for r in printed["rows"]} == {2}
    assert main([*call, "--floor", "0.1", "--budget", "none"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "chosen" in out and "withstands its worst attack" in out and "report:" in out
    assert main([*call[:-1], str(tmp_path / "E"), "--floor", "1", "--budget", "none"]) == 1
    assert "nothing was saved" in capsys.readouterr().out
    assert main([*call, "--budget", "soon"]) == 2


@pytest.mark.slow
def test_on_picto_from_a_word_to_a_defense(tmp_path):
    tried = ("uce", {"name": "nearest", "method": "sld", "preset": "strong", "match": True, "warmup": 0})
    given = Candidates(tried, ("paraphrase",), 3, 3)
    told: list[str] = []
    asked = Task("picto", "weapon", tmp_path / "weapon", budget=600.0, floor=0.05, candidates=given, steps=8)
    found = erase(asked, tell=told.append)
    assert found.winner in ("uce", "nearest") and found.undefended.dsr < 0.5 and found.proof.preservation is not None
    assert found.seconds["uce"] < 5 * found.plan.lines[0].fit + 5 and len(told) > 3
    pipe = unsee.load("picto")
    with unsee.protect(pipe, Stack.from_pretrained(found.folder)):
        pipe("a dagger", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
