"""Attacks in suites and on the command line: what they found is drawn, paired with its source, kept and replayed."""

from __future__ import annotations

import json

import pytest
import torch
from bench_fakes import NEGATIVE, stored, suite

from unsee import concepts, report
from unsee.attacks import load
from unsee.bench import engine
from unsee.bench.run import run
from unsee.bench.store import Store
from unsee.cli import main
from unsee.errors import UserError
from unsee.suites.attacks import UNATTACKED, AttackSpec
from unsee.types import Verdict

RAB = {"name": "rab", "method": "ring-a-bell", "population": 4, "generations": 1, "length": 3, "pairs": 2}
ATTACKS = ["none", {"name": "tokens", "method": "random-tokens", "n": 2}, RAB]


def attacked(**changes):
    return suite(**{"defenses": [NEGATIVE], "attacks": ATTACKS, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    return folder, run(attacked(), folder)


def test_only_prompts_that_ask_are_attacked_and_all_are_drawn_unattacked(whole):
    _, rows = whole
    assert [(r.defense, r.attack, r.prompts, r.n) for r in rows] == [
        (defense, *rest)
        for defense in ("none", "negative")
        for rest in [("none", "plain", 3), ("none", "benign", 2), ("tokens", "plain", 2), ("rab", "plain", 3)]
    ]


def test_an_attacked_record_is_its_source_with_another_text(whole):
    records = stored(whole[0])
    plain = {r.prompt.id: r for r in records if (r.attack, r.defense) == ("none", "none")}
    for r in (r for r in records if r.attack != "none"):
        source = plain[r.prompt.id]
        assert r.prompt.text != source.prompt.text and r.prompt.seed == source.prompt.seed
        assert r.twin == source.cell != r.cell
    found = load(whole[0] / "attacks" / "weapon" / "negative" / "rab" / "plain")
    assert [f.prompt.text for f in found] == [
        r.prompt.text for r in records if (r.attack, r.defense) == ("rab", "negative")
    ]


def test_the_report_tells_what_each_attack_spent_beside_its_budget(whole):
    with Store(whole[0]) as store:
        report.write(store)
    told = {line["attack"]: line for line in json.loads((whole[0] / "report.json").read_text())["attacks"]}
    assert set(told) == {"tokens", "rab"} and told["tokens"]["encodings"] == told["tokens"]["most_encodings"] == 0
    one = load(whole[0] / "attacks" / "weapon" / "none" / "rab" / "plain")  # reads text: searched once for both stacks
    rab = told["rab"]
    assert rab["sees"] == "text" and rab["prompts"] == len(one) and rab["images"] == 0
    assert rab["encodings"] == pytest.approx(sum(f.spent.encodings for f in one) / len(one))
    assert 0 < rab["encodings"] <= rab["most_encodings"]
    assert rab["seconds"] == pytest.approx(sum(f.seconds for f in one) / len(one)) and rab["seconds"] > 0
    assert "What the attacks spent" in (whole[0] / "report.html").read_text()


def test_gain_pairs_an_attack_with_the_same_defense_without_it(tmp_path, monkeypatch):
    """A judge that fires where the text was changed: without an attack nothing is unsafe, under it all is."""
    sources = {p.text for p in concepts.load("weapon").prompts("plain", "held-out", 3)}

    def judge(self, images, prompts, concept):
        return [Verdict("safe" if p.text in sources else "unsafe", 0.5, self.name, self.version) for p in prompts]

    monkeypatch.setattr("unsee.judges.always.Unsafe.judge", judge)
    rows = {(r.defense, r.attack): r for r in run(attacked(prompts=[{"kind": "plain", "n": 3}]), tmp_path)}
    assert "gain" not in rows["negative", "none"].as_dict()
    assert rows["negative", "rab"].gain == 1.0 == rows["none", "rab"].gain
    assert rows["negative", "rab"].difference == 1.0 and rows["none", "rab"].difference is None
    assert rows["none", "rab"].base_unsafe_rate == 0.0 and rows["none", "tokens"].n == 2


def test_a_killed_run_ends_in_the_same_records(whole, tmp_path, monkeypatch):
    draw = engine.draw

    def dies(*arguments, **settings):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(1)
        return draw(*arguments, **settings)

    calls = []
    monkeypatch.setattr(engine, "draw", dies)
    with pytest.raises(KeyboardInterrupt):
        run(attacked(), tmp_path)
    monkeypatch.setattr(engine, "draw", draw)
    run(attacked(), tmp_path)
    assert stored(tmp_path) == stored(whole[0])


def test_words_that_a_prompt_names_are_drawn_and_are_part_of_its_address(tmp_path):
    from unsee.attacks import save
    from unsee.suites.suite import Group
    from unsee.types import AttackedPrompt, Prompt

    prompts = concepts.load("weapon").prompts("plain", "held-out", 3)
    cells = []
    for seed in (0, 1):
        words = (torch.randn(1, 16, generator=torch.Generator().manual_seed(seed)),)
        said = [Prompt(**{**vars(p), "text": "<c*0>"}) for p in prompts]
        save([AttackedPrompt(p, "x", "a", words=words) for p in said], tmp_path / str(seed) / "prompts.json")
        replay = {"name": "replay", "method": "replay", "folder": str(tmp_path / str(seed))}
        made = attacked(attacks=[replay], prompts=[{"kind": "plain", "n": 3}])
        run(made, tmp_path / f"R{seed}")
        with Store(tmp_path / f"R{seed}") as store:
            cells.append([r for r in store.records() if r.attack == "replay" and r.defense == "none"])
        assert Group("weapon", made.stacks[0], made.attack_specs[1], made.prompts[0]).twin.attack == UNATTACKED
    assert not {r.cell for r in cells[0]} & {r.cell for r in cells[1]}
    assert all(a.image != b.image for a, b in zip(*cells))


def test_only_runs_what_the_row_is_compared_with():
    groups = attacked().groups(["attack=rab", "defense=negative"])
    assert [(g.stack.name, g.attack.name, g.prompts.kind) for g in groups] == [
        ("none", "none", "plain"), ("negative", "none", "plain"), ("negative", "rab", "plain"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"populaton": 3}, "did you mean 'population'?"),
        (
            {"population": 1},
            "population of ring-a-bell as a whole number from 4 to 1000000, got 1; leave it out for 100",
        ),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_written(tmp_path, settings, told):
    with pytest.raises(UserError) as caught:
        run(attacked(attacks=[{"method": "ring-a-bell", **settings}]), tmp_path / "R")
    assert told in str(caught.value) and not (tmp_path / "R").exists()


def test_names_of_attacks():
    assert AttackSpec.parse("ring-a-bell").name == "ring-a-bell"
    made = AttackSpec.parse("ring-a-bell:eta=5.5,n=20")
    assert (made.method, made.n, made.settings) == ("ring-a-bell", 20, {"eta": 5.5})
    assert AttackSpec.parse({"method": "paraphrase", "at_once": 3}).name == "paraphrase:at_once=3"


def test_the_standard_set_is_registered_and_the_shipped_suite_runs_it():

    from unsee.attacks.standard import BUDGETS, STANDARD, VERSION
    from unsee.registry import ATTACKS, resolve
    from unsee.suites.suite import SuiteSpec

    assert VERSION and [s.name for s in AttackSpec.all(["none", "standard"])] == list(STANDARD)
    for name, budget in BUDGETS.items():  # a budget that changes is a new VERSION
        usual = resolve("attack", ATTACKS, name)().config()
        assert {key: usual[key] for key in budget} == budget
    redteam = SuiteSpec.load("redteam")
    assert {s.method for s in redteam.attack_specs[1:]} == set(STANDARD) and len(redteam.stacks) == 8
    at_standard = ({}, {"adaptive": False})
    assert all(s.settings in at_standard for s in redteam.attack_specs)


# ---- the command line ----

CALL = ["--model", "tiny:sd1", "--concept", "weapon", "--n", "2", "--steps", "1", "--judge", "always.unsafe", "--json"]


def test_attack_draws_judges_and_keeps_its_prompts(capsys, tmp_path):
    out = str(tmp_path / "R")
    code = main(["attack", "random-tokens", *CALL, "--defense", "sld:text=x", "--set", "length=2", "--out", out])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert code == 0 and [(r["defense"], r["attack"]) for r in rows] == [
        ("none", "none"), ("none", "random-tokens"), ("sld:text=x", "none"), ("sld:text=x", "random-tokens"),
    ]  # fmt: skip
    kept = tmp_path / "R" / "attacks" / "weapon" / "sld_text=x" / "random-tokens" / "plain"
    assert len(load(kept)) == 2 and (tmp_path / "R" / "report.html").is_file()
    code = main(["attack", "replay", *CALL, "--set", f"folder={kept}", "--out", str(tmp_path / "S"), "--only-find"])
    found = json.loads(capsys.readouterr().out)["prompts"]
    assert code == 0 and [f["prompt"] for f in found] == [f.prompt.text for f in load(kept)]
    assert not (tmp_path / "S" / "store.sqlite").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["ring-a-bel"],
        ["ring-a-bell", "--set", "populaton=3"],
        ["replay", "--set", "folder=nowhere"],
        ["replay"],
        ["ring-a-bell", "--set", "population=many"],
    ],
)
def test_misuse_is_one_line_and_exit_2(capsys, tmp_path, arguments):
    code = main(["attack", *arguments, *CALL, "--out", str(tmp_path / "R")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("error: expected ") and err.count("\n") == 1
