"""What settings do together: refused where nothing could act, recorded as they were given, explained when asked."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import pytest
import torch

import unsee
from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.bench.generate import draw
from unsee.cli import main
from unsee.defenses.base import Defense, Guard, attachable
from unsee.errors import BadFile, UnknownName, Unsupported, UserError
from unsee.files import load_tensors
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.safree import SAFREE
from unsee.guards.sld import SLD
from unsee.picto import DEFENSES as SHIPPED
from unsee.registry import DEFENSES, resolve
from unsee.sampling.machine import default_guidance
from unsee.settings import Count, Doc, Share, declared
from unsee.types import Prompt

WEAPON = concepts.load("weapon")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny("sd1")


def drawn(pipe: Any, steps: int = 4, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a dagger", num_inference_steps=steps, guidance_scale=4.0, generator=generator, output_type="pt",
                **more).images  # fmt: skip


# ---- what could not act ----


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SLD(text="weapon", preset="strong", threshold=float("nan")), "threshold of sld"),
        (lambda: SLD(text="weapon", threshold=-1000.0), "threshold of sld"),
        (lambda: SLD(text="weapon", scale=-1.0), "scale of sld"),
        (lambda: SLD(text="weapon", scale=0.5), "scale of sld"),
        (lambda: SLD(text="weapon", warmup=10**30), "warmup of sld"),
        (lambda: SLD(text=" "), "text of sld"),
        (lambda: NegativePrompt(text=""), "text of negative-prompt"),
        (lambda: NegativePrompt(text=" \t"), "text of negative-prompt"),
        (lambda: SAFREE(phrases=()), "phrases"),
        (lambda: SAFREE(phrases=("",)), "phrases"),
        (lambda: SAFREE(phrases=" , "), "phrases"),
        (lambda: unsee.SafeRedir(strength=0.0), "strength of saferedir"),
        (lambda: unsee.Duo(strength=0.0), "strength of duo"),
        (lambda: unsee.Duo(strength=1e25), "strength of duo"),
        (lambda: unsee.INE(options={"scale": 0.5}), "scale of sld"),
    ],
    ids=lambda value: value if isinstance(value, str) else "made",
)
def test_a_setting_that_can_do_nothing_is_refused_by_its_name(make, told):
    with pytest.raises(UserError, match=told) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"warmup": 4, "scale_warmup": False}, 4), ({"warmup": 50}, 4), ({"warmup": 999}, 1),
     ({"preset": "weak", "scale_warmup": False}, 4)],
    ids=str,
)  # fmt: skip
def test_a_warm_up_that_outlasts_the_images_is_refused_when_they_are_drawn(pipe, settings, steps):
    late = pytest.raises(Unsupported, match="warm-up of sld that ends before")
    with unsee.protect(pipe, SLD(text="weapon", **settings)), late:
        drawn(pipe, steps)
    with unsee.protect(pipe, SLD(text="weapon", warmup=steps - 1, scale_warmup=False)) as guarded:
        drawn(pipe, steps)
        assert [event["done"] for event in guarded.decisions[0]] == ["warmed up"] * (steps - 1) + ["guided"]


def test_ine_keeps_words_for_safree_or_does_not_attach(pipe):
    for replaced, told in (("cfg", "phrases"), ("subspace", "a negative")):
        with pytest.raises(UserError, match=f"expected {told} for SAFREE"):
            unsee.protect(pipe, unsee.INE(carrier="safree", replace=replaced))


# ---- what is given is what is recorded ----


@pytest.mark.parametrize("folder", sorted(SHIPPED.iterdir()), ids=lambda f: f.name)
def test_a_shipped_defense_has_the_digest_of_its_file(folder):
    config = json.loads((folder / "config.json").read_text())
    kind = resolve("defense", DEFENSES, config["defense"])
    arguments = {name: one.default for name, one in declared(kind).items()} | config["arguments"]
    found = hashlib.sha256(json.dumps([config["defense"], arguments], sort_keys=True).encode())
    for name, tensor in sorted(load_tensors(folder / "model.safetensors")[0].items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    assert Defense.from_pretrained(folder).digest() == found.hexdigest()


def test_values_stay_as_they_were_given():
    assert SLD(text="x", scale=2000).config()["scale"] is not None and type(SLD(text="x", scale=2000).scale) is int
    assert type(unsee.RingABell(eta=3).eta) is int and "eta=3," in repr(unsee.RingABell(eta=3))
    assert unsee.SAFREE(phrases=["a", "b"]).phrases == ("a", "b")
    training = unsee.Duo.Training(beta=5)
    assert type(training.beta) is int and replace(training, beta=6.0).beta == 6.0
    with pytest.raises(UserError, match="beta of DuoTraining"):
        replace(training, beta=0)


def test_checked_objects_can_be_copied_and_pickled():
    made = unsee.RingABell(eta=1.0)
    assert copy.deepcopy(made) == made == pickle.loads(pickle.dumps(made))
    assert copy.copy(SLD(text="x", scale=3.0)).scale == 3.0


@dataclass(kw_only=True, eq=False)
class Foreign(Guard):
    """Somebody else's, with plain types and with ours."""

    name: ClassVar[str] = "foreign"

    plain: int = 1
    words: tuple[str, ...] = ()
    share: Annotated[Share | None, Doc("Of something.")] = None
    many: Annotated[Count, Doc("Of something.")] = 1
    tool: Any = None


def test_a_method_of_somebody_else_is_checked_too():
    assert list(declared(Foreign)) == ["plain", "words", "share", "many"]
    assert Foreign(words=["a"], tool=object()).plain == 1
    for wrong in ({"plain": True}, {"plain": 1.5}, {"words": "a"}, {"share": 2}, {"many": 0}):
        with pytest.raises(UserError, match=f"{[*wrong][0]} of foreign"):
            Foreign(**wrong)
    with pytest.raises(UnknownName, match="did you mean 'plain'"):
        Foreign(plian=1)


def test_a_saved_setting_that_cannot_be_is_a_bad_file(tmp_path):
    folder = SLD(text="x").save_pretrained(tmp_path / "g")
    config = json.loads((folder / "config.json").read_text())
    config["arguments"]["scale"] = -1.0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadFile, match="scale of sld as a number from 1"):
        SLD.from_pretrained(folder)


# ---- something else in the place of a defense or a concept ----


@pytest.mark.parametrize(
    ("given", "write"),
    [
        ("sld", 'unsee.SLD(text="weapon")'),
        ("saferedir", 'unsee.SafeRedir.from_pretrained("FOLDER")'),
        (SLD, 'unsee.SLD(text="weapon")'),
        (unsee.Duo, 'unsee.Duo.from_pretrained("FOLDER")'),
        ("runs/duo", "from_pretrained(FOLDER)"),
        ([SLD(text="x")], "protect(pipe, *defenses)"),
        (None, "write an object"),
        (WEAPON, "write an object"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_what_is_no_defense_is_told_what_to_write(given, write):
    with pytest.raises(UserError) as error:
        attachable([given])
    assert write in str(error.value) and "\n" not in str(error.value)


def test_a_stack_counts_as_what_it_holds():
    first, second = SLD(text="x"), NegativePrompt(text="y")
    assert attachable([unsee.Stack(defenses=[first]), second]) == (first, second)
    with pytest.raises(UserError, match="expected a defense, got 'sld'"):
        unsee.Stack(defenses=("sld",))


@pytest.mark.parametrize("given", ["weapon", "my/own.toml", None, 5])
def test_what_is_no_concept_is_told_what_to_write(pipe, tmp_path, given):
    for ask in (
        lambda: unsee.UCE.fit(pipe, given, work=tmp_path / "w"),
        lambda: unsee.RandomTokens()(pipe, given, []),
    ):
        with pytest.raises(UserError, match=r"expected a Concept, got .*; write unsee\.load_concept\("):
            ask()
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, None])
def test_a_seed_is_a_whole_number_of_63_bits(pipe, tmp_path, seed):
    for ask in (
        lambda: unsee.UCE.fit(pipe, WEAPON, work=tmp_path / "w", seed=seed),
        lambda: unsee.RandomTokens()(pipe, WEAPON, [], seed=seed),
    ):
        with pytest.raises(UserError, match=r"seed of .* as a whole number from 0 to below 2\*\*63"):
            ask()


# ---- guidance, whatever the family calls it ----


def test_guidance_is_the_true_one_of_flux():
    flux, sd = adapter(tiny("flux")), adapter(tiny("sd1"))
    assert flux.guided(4.0, 2) == {"true_cfg_scale": 4.0, "negative_prompt": ["", ""]}
    assert flux.guided(1.0, 2) == {"true_cfg_scale": 1.0}
    assert sd.guided(4.0, 2) == {"guidance_scale": 4.0}
    assert default_guidance("tiny:flux", flux.pipe) == 4.0
    assert default_guidance("tiny:flux", flux.pipe, needed=False) == 1.0
    assert default_guidance("tiny:sd1", sd.pipe) == default_guidance("tiny:sd1", sd.pipe, needed=False) == 7.5
    assert default_guidance("picto", sd.pipe) == 4.0


def test_a_guard_acts_on_flux_as_suites_draw_it():
    made, prompts = tiny("flux"), [Prompt("a dagger", "0", 0), Prompt("a hat", "1", 1)]
    guards = [NegativePrompt(text="weapon")]
    bare = draw(made, prompts, [], steps=1, guidance=4.0)
    held = draw(made, prompts, guards, steps=1, guidance=4.0)
    assert all(a.image.tobytes() != b.image.tobytes() for a, b in zip(bare, held, strict=True))
    with pytest.raises(Unsupported, match="--guidance 4"):
        draw(made, prompts, guards, steps=1, guidance=1.0)


def test_generate_on_flux_needs_no_more_than_the_defense(tmp_path, capsys):
    asked = [
        "generate",
        "--model",
        "tiny:flux",
        "--prompt",
        "a dagger",
        "--steps",
        "1",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert main([*asked, "--defense", "negative-prompt", "--concept", "weapon"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["settings"]["guidance"] == 4.0


# ---- the command line ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "esd", "--concept", "weapon", "--out", "R", "--set", "lr=nan"],
        ["fit", "esd", "--concept", "weapon", "--out", "R", "--set", "steps=0"],
        ["fit", "esd", "--concept", "weapon", "--out", "R", "--set", "steps=true"],
        ["fit", "esd", "--concept", "weapon", "--out", "R", "--set", "judge=nosuch"],
        ["fit", "esd", "--concept", "weapon", "--out", "R", "--set", "lr=1", "--set", "lr=2"],
        ["fit", "saferedir", "--concept", "weapon", "--out", "R", "--set", "concept=x"],
        ["fit", "ine", "--concept", "weapon", "--out", "R", "--set", "options.scale=0"],
        ["fit", "sld", "--concept", "weapon", "--out", "R", "--seed", "-1"],
        ["fit", "sld", "--concept", "weapon", "--out", "R", "--seed", str(2**63)],
        ["attack", "p4d", "--concept", "weapon", "--out", "R", "--model", "tiny:sd1", "--set", "lr=nan"],
        ["attack", "p4d", "--concept", "weapon", "--out", "R", "--model", "tiny:sd1", "--judge", "picto:threshold=2"],
        ["attack", "p4d", "--concept", "weapon", "--out", "R", "--model", "tiny:sd1", "--defense", "sld:scale=0"],
        ["attack", "p4d", "--concept", "weapon", "--out", "R", "--steps", "0"],
        ["attack", "p4d", "--concept", "weapon", "--out", "R", "--guidance", "inf"],
        ["generate", "--prompt", "x", "--steps", "1001"],
        ["generate", "--prompt", "x", "--steps", "1" + "0" * 30],
        ["generate", "--prompt", "x", "--guidance", "nan"],
        ["generate", "--prompt", "x", "--seed", "-1"],
        ["generate", "--prompt", "x", "--seed", str(2**63)],
        ["generate", "--prompt", "x", "--prompt", "y", "--seed", str(2**63 - 1)],
        ["erase", "--concept", "weapon", "--out", "R", "--floor", "nan"],
        ["judge", "R", "picto:threshold=2"],
        ["fit", "sdl", "--help-settings"],
        ["bench", "--out", "R"],
    ],
    ids=lambda a: " ".join(a)[:90],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: expected ") and err.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["fit", "sld"], {"text", "preset", "scale"}),
        (["fit", "duo"], {"beta", "strength"}),
        (["attack", "p4d"], {"variant", "guidance"}),
        (["judge", "clip"], {"model", "threshold"}),
        (["judge", "always.safe"], set()),
        (["bench"], {"steps", "prompts.kind", "judge"}),
        (["bench", "s.toml"], {"steps", "prompts.kind", "judge"}),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_help_settings_prints_the_declarations(capsys, arguments, named):
    command, *rest = arguments
    for asked in ([command, *rest, "--help-settings", "--json"], [command, "--json", "--help-settings", *rest]):
        assert main(asked) == 0
        found = json.loads(capsys.readouterr().out)["settings"]
        assert named <= {row["name"] for row in found}
        assert all(row["sentence"].endswith(".") and row["type"] for row in found)
    assert main([command, *rest, "--help-settings"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in named) and "meaning" in shown
