"""Suites and runs on a random pipeline: what a suite may say, and that the same suite gives the same records."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench_fakes import NEGATIVE, TINY, comparable, cut_power, stored, suite

from unsee.bench import engine
from unsee.bench.plan import address
from unsee.bench.run import run
from unsee.bench.store import Store
from unsee.errors import UserError
from unsee.suites.stacks import StackSpec
from unsee.suites.suite import SuiteSpec, about, shipped
from unsee.types import Prompt

ROOT = Path(__file__).parents[1]
KEYS = {
    *("p_value", "p_holm", "preservation_low", "preservation_high", "clip_score_low", "clip_score_high"),
    *("suite", "model", "concept", "defense", "attack", "prompts", "split", "n", "unjudged"),
    *("unsafe_rate", "low", "high", "base_unsafe_rate", "difference", "difference_low", "difference_high"),
    *("changed", "preservation", "clip_score", "seconds_per_image"),
    *("judge", "judge_version", "judge_threshold", "judge_license"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A suite run to its end, undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(suite(), folder)


# -- what a suite may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stps": 3}, "got 'stps'; did you mean 'steps'?"),
        ({"steps": 0}, "'steps' in the suite as a whole number from 1 to 1000, got 0"),
        ({"steps": 1001}, "'steps' in the suite as a whole number from 1 to 1000, got 1001"),
        ({"steps": "25"}, "'steps' in the suite as a whole number from 1 to 1000, got '25'"),
        ({"steps": True}, "'steps' in the suite as a whole number from 1 to 1000, got True"),
        ({"guidance": float("nan")}, "'guidance' in the suite as a number from 0 to 100, got nan"),
        ({"guidance": float("inf")}, "'guidance' in the suite as a number from 0 to 100, got inf"),
        ({"seed": -1}, "'seed' in the suite as a whole number from 0 to below 2**63, got -1"),
        ({"seed": 2**63}, "'seed' in the suite as a whole number from 0 to below 2**63"),
        ({"batch_size": 10**30}, "'batch_size' in the suite as a whole number"),
        ({"model": ""}, "'model' in the suite as a text that is not empty, got ''"),
        ({"name": "../x"}, "'name' in the suite as a text, got '../x'"),
        ({"judge": "picto:threshold=2"}, "threshold of the judge picto as a number from 0 to 1, got 2"),
        ({"judge": "pikto"}, "did you mean 'picto'?"),
        ({"attacks": ["ring-a-bel"]}, "did you mean 'ring-a-bell'?"),
        ({"attacks": ["paraphrase", "paraphrase"]}, "'paraphrase' twice"),
        ({"attacks": [7]}, "an attack as text or table"),
        ({"attacks": [{"method": "paraphrase", "n": -1}]}, "n of the attack paraphrase as a whole number from 0"),
        ({"prompts": []}, "'prompts' in the suite as a list with something in it, got []"),
        ({"prompts": [{"kind": "plane", "n": 1}]}, "did you mean 'plain'?"),
        ({"prompts": [{"kind": "plain", "m": 1}]}, "a known key in the suite, got 'm'"),
        ({"prompts": [{"kind": "plain"}]}, "'prompts.0.n'"),
        ({"defenses": ["sdl"]}, "did you mean 'sld'?"),
        ({"defenses": ["sld", "sld"]}, "'sld' twice"),
        ({"defenses": [{"method": "sl"}]}, "did you mean 'sld'?"),
        ({"defenses": [7]}, "a defense as text or table"),
        ({"defenses": ["sld:preset"]}, "a setting as key=value"),
        ({"defenses": ["runs/nowhere"]}, "no folder 'runs/nowhere'"),
        ({"defenses": [{"folder": "runs/nowhere", "preset": "x"}]}, "only `folder` and `name`"),
    ],
)
def test_a_mistake_in_a_suite_is_one_line(change, told):
    with pytest.raises(UserError) as caught:
        suite(**change)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["name = ", "name = 'x'\x00", "\xff"])
def test_an_unreadable_suite_is_one_line(tmp_path, text):
    (tmp_path / "s.toml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="s.toml"):
        SuiteSpec.load(tmp_path / "s.toml")


@pytest.mark.parametrize("name", shipped())
def test_shipped_suites_are_sound(name):
    assert SuiteSpec.load(name).name == name and about(shipped()[name]).endswith((".", "?"))


@pytest.mark.parametrize(
    ("said", "told"), [("frst", "did you mean 'first'"), ("./first", "check the path, or name one of: claims, demo")]
)
def test_a_suite_that_is_not_there_is_one_line(said, told):
    with pytest.raises(UserError, match=told):
        SuiteSpec.load(said)


def test_names_of_stacks():
    assert StackSpec.parse("none").name == "none"
    assert StackSpec.parse("sld:preset=strong,warmup=0").parts[0].settings == {"preset": "strong", "warmup": 0}
    assert StackSpec.parse(["negative-prompt", {"name": "b", "method": "sld"}]).name == "negative-prompt+b"


def test_only_chooses_whole_groups_and_their_twins():
    groups = suite().groups(["defense=sld", "prompts=plain"])
    assert [(g.stack.name, g.prompts.kind) for g in groups] == [("none", "plain"), ("sld", "plain")]


@pytest.mark.parametrize("only", ["defense", "defence=sld", "defense=slt"])
def test_a_wrong_only_is_one_line(only):
    with pytest.raises(UserError):
        suite().groups([only])


def test_an_address_depends_on_all_that_makes_an_image():
    prompt = Prompt("a dagger", "1", 5)
    base = ("model", ["d"], "none", prompt, {"steps": 2})
    others = [
        ("other", *base[1:]),
        ("model", [], *base[2:]),
        (*base[:2], "attack", *base[3:]),
        (*base[:3], replace(prompt, text="an axe"), base[4]),
        (*base[:3], replace(prompt, seed=6), base[4]),
        (*base[:4], {"steps": 3}),
    ]
    addresses = {address(*base), *(address(*other) for other in others)}
    assert len(addresses) == 1 + len(others)
    assert address(*base[:3], replace(prompt, id="2"), base[4]) == address(*base)


# -- running ------------------------------------------------------------------------------------


def test_rows_have_their_keys_and_every_image_its_twin(whole):
    folder, rows = whole
    assert [(r.defense, r.prompts) for r in rows] == [
        (d, p) for d in ("none", "negative", "sld") for p in ("plain", "benign")
    ]
    assert all(KEYS <= set(row.as_dict()) <= KEYS | {"drawn_right"} for row in rows)
    assert {row.defense: row.changed for row in rows} == {"none": None, "negative": 1.0, "sld": 1.0}
    assert all(row.unsafe_rate == 1.0 and row.unjudged == 0 for row in rows)
    records = {r.cell: r for r in stored(folder)}
    for record in records.values():
        twin = records[record.twin]
        assert twin.defense == "none" and twin.prompt == record.prompt
        assert bool(record.decisions) == (record.defense != "none")


def test_defenses_change_the_picture_and_are_kept(whole):
    folder, _ = whole
    images = {(r.defense, r.prompt.id): r.image for r in stored(folder)}
    assert all(images[d, p] != images["none", p] for d, p in images if d != "none")
    assert len(list((folder / "defenses" / "weapon").iterdir())) == 2
    assert (folder / "records.parquet").is_file()


def test_a_second_run_draws_and_judges_nothing(whole, monkeypatch):
    folder, rows = whole
    monkeypatch.setattr(engine, "draw", None)
    monkeypatch.setattr("unsee.judges.always.Unsafe.judge", None)
    assert run(suite(), folder) == rows


def test_flux_has_its_true_guidance_in_a_suite(tmp_path):
    """Catches guards that act through guidance and idle on FLUX, whose usual guidance is distilled."""
    ine = {"method": "ine", "name": "ine", "steps": 2, "batch": 2, "images": 2, "check": 0, "draw_steps": 1}
    ine |= {"judge": "always.unsafe", "options": {"warmup": 0}}
    measured = {"preservation": "picto", "clip_score": "picto"}
    flux = suite(model="tiny:flux", concepts=["nudity"], defenses=[*TINY["defenses"], ine], metrics=measured)
    rows = [row for row in run(flux, tmp_path) if row.defense != "none"]
    assert {row.defense for row in rows} == {"negative", "sld", "ine"}
    assert all(row.changed == 1.0 for row in rows)


def test_another_judge_judges_the_same_images(tmp_path, monkeypatch):
    run(suite(defenses=[]), tmp_path)
    monkeypatch.setattr(engine, "draw", None)
    rows = run(suite(defenses=[], judge="always.broken"), tmp_path)
    assert [(r.n, r.unjudged, r.unsafe_rate) for r in rows] == [(3, 3, None), (2, 2, None)]


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_an_exception_inside_leaves_a_run_that_can_be_resumed(whole, tmp_path, monkeypatch, calls):
    cut_power(monkeypatch, calls)
    with pytest.raises(RuntimeError, match="power cut"):
        run(suite(), tmp_path)
    monkeypatch.undo()
    run(suite(), tmp_path)
    assert stored(tmp_path) == stored(whole[0])


def test_a_part_first_and_the_rest_later_is_the_same(whole, tmp_path):
    part = run(suite(), tmp_path, only=["defense=sld", "prompts=benign"])
    assert [(r.defense, r.prompts) for r in part] == [("none", "benign"), ("sld", "benign")]
    run(suite(), tmp_path)
    assert stored(tmp_path) == stored(whole[0])


def test_two_processes_draw_the_same_and_say_with_what(whole, tmp_path):
    run(suite(), tmp_path, workers=2)
    assert comparable(tmp_path) == comparable(whole[0])
    with Store(tmp_path) as store:
        assert store.suites()["tiny"].machine | {"workers": 2, "threads": 1} == store.suites()["tiny"].machine
        assert {r.versions["threads"] for r in store.records()} == {"1"}


def test_a_refusal_in_a_worker_is_the_same_line(tmp_path):
    with pytest.raises(UserError, match="classifier-free guidance"):
        run(suite(guidance=1.0), tmp_path, workers=2)
    assert {r.defense for r in stored(tmp_path)} <= {"none"}


def test_a_guard_that_refuses_stops_the_run_with_its_line(tmp_path):
    with pytest.raises(UserError, match="classifier-free guidance"):
        run(suite(guidance=1.0), tmp_path)
    assert {r.defense for r in stored(tmp_path)} <= {"none"}


@pytest.mark.parametrize(
    "change",
    [
        {"concepts": ["wepon"]},
        {"model": "tiny:sd9"},
        {"defenses": [{"method": "sld", "preset": "stong"}]},
        {"defenses": [{"method": "sld", "presett": "strong"}]},
        {"defenses": ["nowhere/{concept}"]},
    ],
)
def test_what_cannot_be_run_writes_nothing(tmp_path, change):
    with pytest.raises(UserError):
        run(suite(**change), tmp_path / "R")
    assert not (tmp_path / "R").exists()


def test_a_fit_of_other_defaults_is_another_fit(monkeypatch):
    from unsee import concepts
    from unsee.suites.stacks import fit_address as address
    from unsee.unlearn.duo import Duo

    weapon, nudity = concepts.load("weapon"), concepts.load("nudity")
    before = address(Duo, {"n": 8}, weapon, [])
    assert before == address(Duo, {"n": 8}, weapon, [])
    assert len({before, address(Duo, {"n": 9}, weapon, []), address(Duo, {"n": 8}, nudity, [])}) == 3
    monkeypatch.setitem(Duo.presets["picto"], "beta", 7.5)
    assert address(Duo, {"n": 8}, weapon, []) != before


def test_whoever_asks_for_the_settings_of_an_ine_from_words_gets_its_own(monkeypatch):
    from unsee import concepts
    from unsee.erase.estimate import _counts
    from unsee.guards.ine import INE, fitting
    from unsee.suites.stacks import fit_address

    weapon, given = concepts.load("weapon"), {"start": "words"}
    assert _counts(INE, given, weapon)["images"] == 50 and _counts(INE, {}, weapon)["images"] == 25
    assert _counts(INE, {**given, "images": 8}, weapon)["images"] == 8
    before = fit_address(INE, given, weapon, [])
    monkeypatch.setitem(fitting.WORDS, "lr", 1e-3)
    assert fit_address(INE, given, weapon, []) != before


def test_a_fit_on_other_files_is_another_fit(tmp_path):
    from unsee import concepts
    from unsee.guards.saferedir import SafeRedir
    from unsee.suites.stacks import fit_address

    def address():
        return fit_address(SafeRedir, {"attacked": f"{tmp_path}/{{concept}}"}, concepts.load("weapon"), [])

    seen = [address()]
    for text in ("one", "two"):
        (tmp_path / "weapon" / "p4d").mkdir(parents=True, exist_ok=True)
        (tmp_path / "weapon" / "p4d" / "prompts.json").write_text(text)
        seen.append(address())
    (tmp_path / "weapon" / "store.sqlite").write_text("what a run keeps for itself")
    assert len(set(seen)) == 3 and address() == seen[-1]


def test_a_saved_folder_and_a_recipe_draw_the_same(whole, tmp_path):
    from unsee.guards.negative_prompt import NegativePrompt

    NegativePrompt(text=NEGATIVE["text"]).save_pretrained(tmp_path / "saved")
    run(suite(defenses=[{"name": "negative", "folder": str(tmp_path / "saved")}]), tmp_path / "R")
    expected = [r for r in stored(whole[0]) if r.defense != "sld"]
    assert stored(tmp_path / "R") == expected
