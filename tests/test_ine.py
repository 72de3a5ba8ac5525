"""INE: the embedding of a word is the word, in every carrier; fitting, saving, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from PIL import Image

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import Defense, Guarded, protect
from unsee.embeddings import token_rows, word_rows
from unsee.errors import BadFile, GuardFailure, Mismatch, UnknownName, Unsupported, UserError
from unsee.guards.ine import INE, templates
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.safree import SAFREE
from unsee.guards.sld import PRESETS, SLD, Motion
from unsee.suites.stacks import StackSpec

built = functools.cache(tiny)
PROMPTS = ["a dagger", "two red hats"]
QUICK = {"steps": 2, "images": 2, "judge": "always.unsafe", "draw_steps": 1, "check": 1, "folder": ""}
WORDS = ("weapon", "sword")


def draw(pipe, *guards, cfg=True, steps=2, negative="", **more):
    backbone = adapter(pipe)
    settings = {backbone.guidance_argument: 4.0 if cfg else 1.0, "num_inference_steps": steps, "output_type": "pt"}
    if cfg:
        settings["negative_prompt"] = [negative] * len(PROMPTS)
    settings["generator"] = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    with Guarded(pipe, *guards):
        return pipe(PROMPTS, **settings, **more).images


def ine(pipe, *texts, **settings):
    """An INE whose embeddings are those of words."""
    made = INE(**settings)
    rows = [word_rows(adapter(pipe), text) for text in texts]
    made.load_tensors({f"rows.{i}": torch.stack(own) for i, own in enumerate(zip(*rows, strict=True))})
    return made


# ---- the carriers ----

CARRIED = {
    "negative-prompt": ({}, lambda: NegativePrompt(text="x")),
    "sld": ({"preset": "max"}, lambda: SLD(text="x", preset="max")),
    "sld-options": ({"carrier": "sld", "options": {"scale": 3.0}}, lambda: SLD(text="x", scale=3.0)),
    "safree": ({}, lambda: SAFREE(phrases=("x",))),
    "safree-subspace": (
        {"carrier": "safree", "replace": "subspace", "negative": "weapon"},
        lambda: SAFREE(phrases=("x",), negative="weapon"),
    ),
    "safree-cfg": (
        {"carrier": "safree", "replace": "cfg", "phrases": WORDS},
        lambda: SAFREE(phrases=WORDS, negative="x"),
    ),
}


@pytest.mark.parametrize("case", CARRIED)
@pytest.mark.parametrize("family", ["sd2-v", "sdxl"])
def test_a_words_own_embedding_is_the_carrier_on_that_word(family, case):
    """On CLIP families "x" is one token, so the two must agree to the last digits."""
    pipe, (settings, words) = built(family), CARRIED[case]
    made = ine(pipe, "x", **{"carrier": case, **settings})
    for negative in ("", "ugly"):
        torch.testing.assert_close(draw(pipe, made, negative=negative), draw(pipe, words(), negative=negative))
    assert not torch.allclose(draw(pipe, made), draw(pipe))


@pytest.mark.parametrize("carrier", ["negative-prompt", "sld", "safree"])
@pytest.mark.parametrize("family", FAMILIES)
def test_acts_with_several_embeddings_and_leaves_no_trace(family, carrier):
    pipe = built(family)
    plain, made = (
        draw(pipe),
        ine(pipe, "x", "dagger", carrier=carrier, options={"scale": 9e3} if carrier == "sld" else {}),
    )
    with protect(pipe, made) as guarded:
        settings = {adapter(pipe).guidance_argument: 4.0, "negative_prompt": ["", ""], "num_inference_steps": 2}
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        acted = pipe(PROMPTS, **settings, output_type="pt", generator=generators).images
        decisions = guarded.decisions
    assert all(not torch.equal(a, b) for a, b in zip(acted, plain, strict=True))
    assert all([(d["defense"], d["step"]) for d in own] == [("ine", 0), ("ine", 1)] for own in decisions)
    assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("case", CARRIED)
def test_costs_what_the_carrier_costs_on_words(case, monkeypatch):
    pipe, (settings, words), rows = built("sd1"), CARRIED[case], []
    forward = pipe.unet.forward
    monkeypatch.setattr(
        pipe.unet, "forward", lambda *a, **k: rows.append(len(k["encoder_hidden_states"])) or forward(*a, **k)
    )
    draw(pipe, words())
    want, rows[:] = list(rows), []
    draw(pipe, ine(pipe, "x", **{"carrier": case, **settings}))
    assert rows == want


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_without_guidance_a_negative_is_refused_and_safree_still_projects(family):
    pipe = built(family)
    for carrier in ("negative-prompt", "sld"):
        with pytest.raises(Unsupported, match="classifier-free guidance"):
            draw(pipe, ine(pipe, "x", carrier=carrier), cfg=False)
    made = ine(pipe, "x", carrier="safree", options={"filtering": "off"})
    assert not torch.equal(draw(pipe, made, cfg=False), draw(pipe, cfg=False))


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_a_concept_that_moves_nothing_is_plain_guidance(family, monkeypatch):
    """e_S = e_u and no momentum."""
    pipe = built(family)
    monkeypatch.setattr(SLD, "prepare", lambda self, generation: Motion(generation.encode([""])))
    assert PRESETS["weak"]["momentum"] == 0
    torch.testing.assert_close(draw(pipe, SLD(text="x", preset="weak", warmup=0)), draw(pipe), atol=1e-5, rtol=1e-5)


def test_momentum_grows_while_warming_up():
    pipe, states = built("sd1"), []
    made = ine(pipe, "weapon", carrier="sld", options={"warmup": 1, "scale_warmup": False})
    guide, given = made.inner.guide, []
    made.inner.guide = lambda step, state: (given.append(guide(step, state)), states.append(state.nu.clone()), given)[
        2
    ][-1]
    draw(pipe, made)
    assert given[0] is None and given[1] is not None
    assert float(states[0].abs().max()) > 0 and not torch.equal(*states)


def test_users_cannot_name_it():
    """Prompts and negatives that look like the embedding's name are read as letters."""
    pipe = built("sd1")
    made = ine(pipe, "weapon", carrier="negative-prompt")
    backbone = adapter(pipe)
    with protect(pipe, made):
        assert torch.equal(backbone.encode(["<c*>"]).tokens, adapter(tiny("sd1")).encode(["<c*>"]).tokens)
    plain, named = made.encode(backbone, [None, "<c*>"]).ids[0]
    assert (plain < 0).sum() == (named < 0).sum() == 1


@pytest.mark.parametrize("family", ["sd2-v", "sdxl", "sd3", "flux"])
def test_of_embeddings_for_every_thing_each_image_gets_the_nearest(family):
    pipe, things = built(family), PROMPTS
    made = of_things(pipe, things, preset="max")
    want, first = (
        draw(pipe, SLD(text=", ".join(things), preset="max", match=True)),
        of_things(pipe, things[:1], preset="max"),
    )
    (same, other), (whole, lone) = draw(pipe, made), draw(pipe, first)
    torch.testing.assert_close(same, whole, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(other, lone, rtol=1e-3, atol=1e-3)
    if family in ("sd2-v", "sdxl"):  # where all tokenizers cut words alike
        assert torch.equal(draw(pipe, made), want)
    for loaded in (made.carried_by("safree", replace="subspace", negative="x"), made.carried_by("negative-prompt")):
        assert not torch.equal(draw(pipe, loaded), draw(pipe))


def of_things(pipe, things, **settings):
    """An INE with an embedding for every thing: its tokens'."""
    rows, places = token_rows(adapter(pipe), things)
    made = INE(lengths=tuple(map(len, places)), **settings)
    made.load_tensors({f"rows.{i}": own[:, None] for i, own in enumerate(rows)})
    return made


def test_embeddings_that_would_be_cut_off_are_refused():
    pipe = built("sd1")
    many = of_things(pipe, ["dagger", "red hats"] * 8, carrier="negative-prompt")
    with pytest.raises(UserError, match="16 that are too long together"):
        draw(pipe, many)
    draw(pipe, many.carried_by("sld", preset="max"))


# ---- fitting ----


@pytest.mark.parametrize("carrier", ["negative-prompt", "sld", "safree"])
@pytest.mark.parametrize("family", ["sd2-v", "sdxl", "sd3", "flux"])
def test_fitted_saved_loaded_drawn(family, carrier, tmp_path):
    pipe, concept = built(family), concepts.load("weapon")
    more = {"replace": "subspace"} if carrier == "safree" else {}
    made = INE.fit(
        pipe, concept, work=tmp_path / "work", host=[NegativePrompt(text="x")], carrier=carrier, **more, **QUICK
    )
    assert made.record["shown"] == {"base": "1 of 1", "host": "1 of 1"} and made.record["concept"] == "weapon"
    assert made.record["hosts"][0]["defense"] == "negative-prompt" and made.record["training"]["steps"] == 2
    loaded = Defense.from_pretrained(made.save_pretrained(tmp_path / "ine"))
    assert repr(loaded) == repr(made) == repr(eval(repr(made))) and loaded.record == made.record
    assert torch.equal(draw(pipe, loaded), draw(pipe, made)) and not torch.equal(draw(pipe, made), draw(pipe))
    assert (made.phrases != () and "weapon" in made.negative) == (carrier == "safree")


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_an_embedding_for_every_thing_is_fitted_saved_loaded(family, tmp_path):
    pipe, concept = built(family), concepts.load("weapon")
    settings = {**QUICK, "images": 6, "start": "words", "preset": "max"}
    made = INE.fit(pipe, concept, work=tmp_path / "work", **settings)
    assert len(made.lengths) > 1 and made.rows[0].shape[:2] == (sum(made.lengths), 1)
    training = made.record["training"]
    assert (training["lr"], training["bare"], training["images"]) == (5e-4, 0.0, 6)
    loaded = Defense.from_pretrained(made.save_pretrained(tmp_path / "ine-weapon"))
    assert repr(loaded) == repr(made) and torch.equal(draw(pipe, loaded), draw(pipe, made))
    taken = INE.fit(pipe, concept, work=tmp_path / "b", preset="max", embedding=str(tmp_path / "ine-weapon"))
    assert torch.equal(draw(pipe, taken), draw(pipe, made)) and not torch.equal(draw(pipe, made), draw(pipe))


def test_a_kill_changes_nothing(tmp_path):
    pipe, concept = built("sd1"), concepts.load("weapon")
    settings = {**QUICK, "steps": 4, "save_every": 1, "count": 2, "check": 0}
    want = INE.fit(pipe, concept, work=tmp_path / "whole", **settings)
    for stage, at in (("drawing", 2), ("inverting", 1), ("inverting", 3)):

        def kill(now, done, total, stage=stage, at=at):
            if (now, done) == (stage, at):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            INE.fit(pipe, concept, work=tmp_path / "killed", progress=kill, **settings)
    got = INE.fit(pipe, concept, work=tmp_path / "killed", **settings)
    assert got.rows[0].shape == (2, 1, 16) and not torch.equal(*got.rows[0])
    assert all(torch.equal(a, b) for a, b in zip(got.rows, want.rows, strict=True))


def test_one_embedding_in_many_carriers(tmp_path):
    pipe, concept = built("sd1"), concepts.load("weapon")
    first = INE.fit(pipe, concept, work=tmp_path / "a", carrier="negative-prompt", **QUICK)
    first.save_pretrained(tmp_path / "ine-weapon")
    taken = INE.fit(
        pipe, concept, work=tmp_path / "b", carrier="sld", preset="max", embedding=str(tmp_path / "ine-{concept}")
    )
    assert torch.equal(taken.rows[0], first.rows[0]) and taken.record["hosts"] == first.record["hosts"]
    assert torch.equal(draw(pipe, first.carried_by("sld", preset="max")), draw(pipe, taken))
    with pytest.raises(Mismatch, match="text encoder"):
        other = tiny("sd1", seed=1)
        INE.fit(other, concept, work=tmp_path / "c", embedding=str(tmp_path / "ine-weapon"))


def test_a_suite_takes_the_embedding_of_another_stack(tmp_path):
    pipe, concept = built("sd1"), concepts.load("weapon")
    host, quick = {"name": "uce", "method": "uce"}, {"method": "ine", "carrier": "sld", **QUICK}
    stacks = [[host, {"name": "ine", **quick}], {"name": "taken", **quick, "embedding": "@uce+ine"}]
    for _ in range(2):  # the second time from what was kept
        first, taken = (stack.fit(concept, tmp_path, lambda: pipe) for stack in StackSpec.all(stacks))
        assert torch.equal(taken[0].rows[0], first[1].rows[0])
        assert [h["defense"] for h in taken[0].record["hosts"]] == ["uce"]
    assert len(list(tmp_path.glob("weapon/ine-????????"))) == 2
    for wrong in (stacks[::-1], [{**stacks[1], "embedding": "@"}]):
        with pytest.raises(UserError, match="further up"):
            StackSpec.all(wrong)


def test_images_from_a_folder(tmp_path):
    pipe, concept = built("sd1"), concepts.load("weapon")
    with pytest.raises(BadFile, match="images"):
        INE.fit(pipe, concept, work=tmp_path / "w", **{**QUICK, "folder": str(tmp_path)})
    for i in range(2):
        Image.new("RGB", (50, 40), (90 * i, 0, 200)).save(tmp_path / f"{i}.png")
    made = INE.fit(pipe, concept, work=tmp_path / "w", **{**QUICK, "folder": str(tmp_path)})
    assert made.record["images"] == 2 and not (tmp_path / "w" / "images").exists()


def test_a_concept_that_the_judge_never_sees(tmp_path):
    with pytest.raises(UserError, match="0 of 8") as error:
        INE.fit(built("sd1"), concepts.load("weapon"), work=tmp_path, **{**QUICK, "judge": "always.safe"})
    assert "\n" not in str(error.value)


def test_an_embedding_that_draws_nothing_is_told_of(tmp_path):
    from unsee.guards.ine import fitting

    class Blind:
        def __call__(self, images, prompts, concept):
            from unsee.types import Verdict

            asked = prompts[0].text == fitting.NAME
            return [Verdict("safe" if asked else "unsafe", 0.5, "blind", "1") for _ in images]

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="0 of 1 images behind the host"):
        patch.setattr(fitting, "_judge", lambda *_: Blind())
        made = INE.fit(built("sd1"), concepts.load("weapon"), work=tmp_path, **QUICK)
    assert made.record["shown"] == {"base": "0 of 1", "host": "0 of 1"}


def test_templates_hold_one_place():
    for name in ("weapon", "style-noto", "church"):
        made = templates(concepts.load(name))
        assert made and all(template.count("{}") == 1 for template in made)
    assert "{} in noto style" in [t.removeprefix("a ") for t in templates(concepts.load("weapon"))]


# ---- what is refused ----


def test_bad_input_is_one_line():
    pipe = built("sd1")
    for case, kind, match in (
        (lambda: INE(carrier="slt"), UnknownName, "did you mean 'sld'"),
        (lambda: INE(carrier="safree", replace="all"), UnknownName, "replace of ine"),
        (lambda: INE.Training(start="wrods"), UnknownName, "did you mean 'words'"),
        (lambda: INE.Training(start="words", folder="x"), UserError, "drawn images"),
        (lambda: INE(lengths=(2,)).load_tensors({"rows.0": torch.ones(1, 1, 16)}), BadFile, "2 rows"),
        (lambda: INE(preset="stong"), UnknownName, "did you mean 'strong'"),
        (lambda: protect(pipe, INE()), UserError, "fitted INE"),
        (lambda: INE().load_tensors({}), BadFile, "rows"),
        (lambda: INE().load_tensors({"rows.0": torch.full((1, 1, 16), torch.nan)}), BadFile, "finite"),
        (lambda: protect(built("sdxl"), ine(pipe, "x")), Mismatch, "width"),
    ):
        with pytest.raises(kind, match=match) as error:
            case()
        assert "\n" not in str(error.value)


def test_fitted_for_another_text_encoder_is_refused():
    pipe = built("sd1")
    made = ine(pipe, "x").fitted_for(adapter(pipe))
    with pytest.raises(Mismatch):
        protect(tiny("sd1", seed=1), made)


def test_a_bare_denoiser_call_stays_refused():
    pipe = built("sd1")
    with protect(pipe, ine(pipe, "x")), pytest.raises(GuardFailure, match="outside its pipeline"):
        pipe.unet()
