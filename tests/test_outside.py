"""A package that somebody else wrote and pip installed: its names are found, and none of our files knows of them."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from outside_site import install

import unsee
from unsee import concepts, registry
from unsee.backbones import adapter, is_known
from unsee.backbones.tiny import families, tiny
from unsee.cli import main
from unsee.defenses import Defense
from unsee.errors import BadFile, UnknownName, UserError
from unsee.registry import ATTACKS, BACKBONES, DEFENSES, EDITS, GUARDS, JUDGES, METRICS, resolve
from unsee.suites.suite import SuiteSpec

ROOT = Path(__file__).parents[1]
NAMES = {
    "guards": "outside-fade", "edits": "outside-shrink", "attacks": "outside-suffix", "judges": "outside-bright",
    "metrics": "outside-pixels", "backbones": "outside-sd", "concepts": "outside-lantern",
}  # fmt: skip
SUITE = {
    "name": "outside",
    "model": "tiny:outside-sd",
    "concepts": ["outside-lantern"],
    "defenses": ["none", "outside-fade:strength=0.9", ["outside-shrink", "outside-fade"]],
    "attacks": ["outside-suffix:word=lamp"],
    "judge": "outside-bright:threshold=0.4",
    "metrics": {"preservation": "outside-pixels:size=16", "clip_score": "picto"},
    "steps": 2,
    "guidance": 4.0,
    "prompts": [{"kind": "plain", "n": 2}],
}


def fresh() -> None:
    """As in a new process: what is installed is looked for again."""
    registry._entry_points.cache_clear()
    importlib.invalidate_caches()
    for name in [n for n in sys.modules if n.split(".")[0] in ("unsee_outside", "other")]:
        del sys.modules[name]


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Installs packages for the time of a test."""

    def installed(**entry_points):
        for place in install(tmp_path / f"site-{len(entry_points)}", **entry_points):
            monkeypatch.syspath_prepend(place)
        fresh()

    yield installed
    monkeypatch.undo()
    fresh()


@pytest.fixture
def outside(put):
    put()


def call(capsys, *arguments):
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


# ---- all of it works, by name ----


def test_every_name_is_found_and_nothing_of_it_is_imported(outside, capsys):
    rows = call(capsys, "list", "--json")["names"]
    assert {row["kind"]: row["name"] for row in rows if row["package"] == "unsee-outside"} == NAMES
    assert "unsee_outside" not in sys.modules
    assert call(capsys, "list", "edits", "--json")["names"][-1]["about"] == "unsee_outside.shrink:Shrink"
    assert list(GUARDS)[-1] == "outside-fade" and "outside-shrink" in DEFENSES and "outside-fade" not in EDITS
    assert not [name for name in dir(unsee) if name in ("Fade", "Shrink", "Suffix", "Bright", "Pixels")]
    assert main(["list", "suites"]) == 0 and "first" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["outside-fade", "outside-shrink"])
def test_its_defenses_are_fitted_saved_and_loaded(outside, tmp_path, capsys, method):
    folder = tmp_path / "saved"
    call(capsys, "fit", method, "--model", "tiny:sd1", "--concept", "weapon", "--out", folder, "--json")
    made = Defense.from_pretrained(folder)
    assert made.name == method and type(made).__module__.startswith("unsee_outside.")
    assert json.loads((folder / "config.json").read_text())["class"] == f"{type(made).__module__}:{type(made).__name__}"
    assert f"from {type(made).__module__} import {type(made).__name__}\n" in (folder / "README.md").read_text()
    stack = unsee.Stack(defenses=(made, unsee.SLD(text="dagger"))).save_pretrained(tmp_path / "stack")
    assert [one.name for one in Defense.from_pretrained(stack).members()] == [method, "sld"]
    pipe = tiny("sd1")
    plain = pipe("a dagger", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
    with unsee.protect(pipe, made):
        acted = pipe("a dagger", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0))
    assert not torch.equal(acted.images, plain)


def test_a_suite_of_its_names_alone(outside, tmp_path, capsys):
    spec = {k: v for k, v in SUITE.items() if k not in ("prompts", "metrics")}
    lines = [f"{key} = {json.dumps(value)}" for key, value in spec.items()]
    lines += ["[metrics]", *(f"{k} = {json.dumps(v)}" for k, v in SUITE["metrics"].items())]
    (tmp_path / "s.toml").write_text("\n".join([*lines, "[[prompts]]", 'kind = "plain"', "n = 2"]))
    rows = call(capsys, "bench", tmp_path / "s.toml", "--out", tmp_path / "run", "--json")["rows"]
    assert [(row["defense"], row["attack"]) for row in rows] == [
        (defense, attack)
        for defense in ("none", "outside-fade:strength=0.9", "outside-shrink+outside-fade")
        for attack in ("none", "outside-suffix:word=lamp")
    ]
    assert {row["judge"] for row in rows} == {"outside-bright"} and {row["judge_threshold"] for row in rows} == {0.4}
    assert all(row["n"] == 2 and row["unjudged"] == 0 and 0 <= row["preservation"] <= 1 for row in rows)
    assert rows[0]["preservation"] == 1.0 and rows[4]["changed"] == 1.0 and rows[4]["preservation"] < 1.0
    assert {row["model"] for row in rows} == {"tiny:outside-sd"} and rows[0]["concept"] == "outside-lantern"


def test_its_family_is_adapted_and_guarded(outside):
    """The class nearest to the pipeline's decides: its base is Stable Diffusion's, which ours would take."""
    pipe = tiny("outside-sd")
    assert adapter(pipe).family == "outside-sd" and adapter(tiny("sd1")).family == "sd" and "outside-sd" in families()
    with unsee.protect(pipe, unsee.SLD(text="dagger", preset="max", warmup=0)) as guarded:
        assert adapter(pipe).family == "outside-sd"
        pipe("a dagger", num_inference_steps=2)
        assert guarded.decisions[0]


def test_selftest_tries_them(outside, capsys):
    checks = call(capsys, "selftest", "outside-fade", "outside-shrink", "outside-suffix", "--json")["checks"]
    tried = {check["name"] for check in checks}
    assert all(check["ok"] for check in checks) and len(tried) == len(checks)
    assert {"outside-fade on outside-sd", "outside-shrink on flux", "outside-suffix on sd1"} <= tried
    assert not {"sld on sd1"} & tried
    assert main(["selftest", "outside-fad"]) == 2 and "did you mean 'outside-fade'" in capsys.readouterr().err


def test_the_contract_tests_try_them(tmp_path):
    """They take their names from the registry: those of a package are there without a line of ours."""
    paths = [*install(tmp_path / "site"), str(ROOT / "src")]
    chosen = (
        "outside-fade and (sd1 or flux) or outside-sd and (sld or ine-) or outside-suffix and (sd1 or outside-sd) "
        "or outside-shrink or outside-bright or outside-pixels"
    )
    contracts = ("matrix", "attack_matrix", "setting_values", "measures")
    files = [f"tests/contracts/test_{name}.py" for name in contracts]
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", chosen, "-rA"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True)
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    assert done.returncode == 0, done.stdout[-3000:]
    for kind, name in NAMES.items():
        assert any(name in line for line in passed) or kind == "concepts", name


# ---- what cannot be used is one line, and no one else's business ----


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "table", "name"),
    [("guards", DEFENSES, "sld"), ("judges", JUDGES, "clip"), ("metrics", METRICS, "outside-pixels"),
     ("edits", DEFENSES, "outside-fade"), ("attacks", ATTACKS, "mma")],
)  # fmt: skip
def test_a_name_that_is_there_twice_is_refused_with_both_packages(outside, put, kind, table, name):
    """Never one of them, silently."""
    put(**{kind: {name: "unsee_outside.fade:Fade"}})
    with pytest.raises(UserError) as error:
        resolve("name", table, name)
    first = "unsee-outside" if name.startswith("outside") else "unsee"
    assert {first, "other"} <= set(line(error).replace(",", "").replace(";", "").split())
    assert resolve("guard", GUARDS, "safree").name == "safree"  # nobody else's is disturbed
    assert name in table and len(table) == len(set(table))


def test_a_concept_that_is_there_twice_is_refused(put):
    put(concepts={"weapon": "unsee_outside:lantern.toml"})
    with pytest.raises(UserError, match="one package with the concept 'weapon', got unsee and other"):
        concepts.load("weapon")
    assert concepts.load("alcohol").name == "alcohol"


BROKEN = {
    "no module": ("guards", "x", "other.nothing:X", "ModuleNotFoundError"),
    "no class": ("guards", "x", "unsee_outside.fade:Nothing", "AttributeError"),
    "no place at all": ("guards", "x", "unsee_outside.fade", "AttributeError"),
    "another kind": ("judges", "x", "unsee_outside.fade:Fade", "as a Judge"),
    "a function": ("attacks", "x", "unsee_outside.fade:replace", "as a Attack"),
    "an edit as a guard": ("guards", "x", "unsee_outside.shrink:Shrink", "as a Guard"),
    "another name": ("guards", "x", "unsee_outside.fade:Fade", "'outside-fade' in unsee_outside.fade:Fade"),
    "another family": ("backbones", "x", "unsee_outside.family:Family", "'outside-sd'"),
    "no concept": ("concepts", "x", "unsee_outside:nothing.toml", "which is no such file"),
    "a concept of no package": ("concepts", "x", "nothing:x.toml", "ModuleNotFoundError"),
    "a concept of another name": ("concepts", "x", "unsee_outside:lantern.toml", "'outside-lantern' in"),
    "no TOML": ("concepts", "x", "unsee_outside:__init__.py", "package:FILE.toml"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_one_line_at_its_use(put, how):
    kind, name, place, told = BROKEN[how]
    put(**{kind: {name: place}})
    tables = {"guards": DEFENSES, "judges": JUDGES, "attacks": ATTACKS, "backbones": BACKBONES}
    with pytest.raises(UserError) as error:
        concepts.load(name) if kind == "concepts" else resolve(kind.rstrip("s"), tables[kind], name)
    assert told in line(error) and "package other" in line(error)
    assert resolve("guard", GUARDS, "sld") and concepts.load("weapon") and adapter(tiny("sd1")).family == "sd"
    assert unsee.judges.load("picto").name == "picto"


def test_a_broken_family_is_told_where_it_may_be_the_one_that_is_needed(outside, put):
    pipe = tiny("outside-sd")
    put(backbones={"x": "other.nothing:X"})
    assert adapter(tiny("sd1")).family == "sd"
    with pytest.raises(UserError, match="'x' of the package other"):
        adapter(type("Mine", (type(tiny("sd1")),), {})(**tiny("sd1").components, requires_safety_checker=False))
    assert not is_known(object())
    with pytest.raises(UserError, match="the backbone 'x' of the package other"):
        adapter(object())
    assert type(pipe).__name__ == "MirroredPipeline"


def test_two_families_of_one_pipeline_are_refused(put, monkeypatch):
    from unsee.backbones.sd import SD

    twin = type("Twin", (SD,), {"family": "twin"})
    monkeypatch.setitem(BACKBONES.own, "twin", f"{__name__}:TWIN")
    monkeypatch.setattr(sys.modules[__name__], "TWIN", twin, raising=False)
    with pytest.raises(UserError, match="one family for StableDiffusionPipeline"):
        adapter(tiny("sd1"))


# ---- a folder does not decide what is imported ----


def saved(put, tmp_path):
    """A folder of a defense whose package is gone again."""
    put()
    folder = resolve("guard", GUARDS, "outside-fade")(strength=0.3).save_pretrained(tmp_path / "fade")
    return folder


def gone(monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "outside" not in p and "site-" not in p])
    fresh()


def test_what_is_not_registered_is_not_imported_and_says_how_to_load_it(put, tmp_path, monkeypatch):
    folder = saved(put, tmp_path)
    kind = resolve("guard", GUARDS, "outside-fade")
    gone(monkeypatch)
    with pytest.raises(BadFile) as error:
        Defense.from_pretrained(folder)
    assert "install the package unsee_outside" in line(error) and "Fade.from_pretrained" in line(error)
    assert "unsee_outside" not in sys.modules
    assert kind.from_pretrained(folder).strength == 0.3  # handed in


@pytest.mark.parametrize("said", ["os:system", "unsee.guards.sld:SLD", "other.fade:Fade"])
def test_a_class_of_another_package_is_refused(outside, tmp_path, said):
    """Else whoever writes a folder chooses which code reads it."""
    folder = resolve("guard", GUARDS, "outside-fade")(strength=0.3).save_pretrained(tmp_path / "fade")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"class": said}))
    for kind in (Defense, resolve("guard", GUARDS, "outside-fade")):
        with pytest.raises(BadFile, match="the 'outside-fade' of unsee_outside.fade:Fade"):
            kind.from_pretrained(folder)


@pytest.mark.parametrize("said", ["", "unsee", "a b:C", "a:b:c", "..x:Y", 3, "x:" + "y" * 600])
def test_a_class_that_is_no_place_is_refused(tmp_path, said):
    folder = unsee.SLD(text="x").save_pretrained(tmp_path / "sld")
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "unsee.guards.sld:SLD"
    (folder / "config.json").write_text(json.dumps(config | {"class": said}))
    with pytest.raises(BadFile, match="class"):
        Defense.from_pretrained(folder)


def test_a_class_of_a_name_of_ours_is_read_by_itself_alone(tmp_path):
    """A subclass that kept our name would otherwise come back as ours, without what it adds."""

    class Mine(unsee.SLD):
        pass

    folder = Mine(text="x").save_pretrained(tmp_path / "mine")
    assert type(Mine.from_pretrained(folder)) is Mine
    with pytest.raises(BadFile, match="Mine.from_pretrained"):
        Defense.from_pretrained(folder)


def test_older_folders_name_no_class_and_load(tmp_path):
    from unsee import picto

    for folder in picto.DEFENSES.iterdir():
        assert "class" not in json.loads((folder / "config.json").read_text())
        assert type(Defense.from_pretrained(folder)).__module__.startswith("unsee.")


# ---- the registry and what is public ----


def test_public_names_are_those_of_the_registry():
    """One line there makes a class public; the imports for editors, which Python never sees, must follow."""
    tree = ast.parse((ROOT / "src/unsee/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {a.asname or a.name: (f"unsee.{n.module}", a.name) for n in block.body for a in n.names}
    assert told == {name: tuple(place.split(":")) for name, place in unsee._HOMES.items()}
    tables = (GUARDS, EDITS, ATTACKS, JUDGES, METRICS)
    classes = [place.split(":")[1] for t in tables for name, place in t.own.items() if "." not in name]
    assert set(classes) < set(unsee.__all__) and len(classes) == len(set(classes))
    assert dir(unsee) == sorted(["__version__", *unsee.__all__])


def test_a_suite_says_what_it_cannot_measure(outside):
    with pytest.raises(UserError, match="an extractor for clip_score, got outside-pixels, which measures preservation"):
        SuiteSpec.parse(SUITE | {"metrics": {"preservation": "picto", "clip_score": "outside-pixels"}})
    with pytest.raises(UnknownName, match="setting of the extractor outside-pixels"):
        SuiteSpec.parse(SUITE | {"metrics": {"preservation": "outside-pixels:sise=3", "clip_score": "picto"}})
    with pytest.raises(UserError, match="threshold"):
        SuiteSpec.parse(SUITE | {"judge": "outside-bright:threshold=3"})
