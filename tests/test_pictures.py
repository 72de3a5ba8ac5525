"""What a pipeline draws as NaN or blacks out is stored as that, judged by nobody and measured by nothing."""

import doctest
import json
from types import SimpleNamespace

import pytest
import torch
from bench_fakes import picture, stored, suite
from PIL import Image

from unsee import concepts, judges, pictures
from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.bench.generate import draw
from unsee.bench.judging import judge_again
from unsee.bench.run import run
from unsee.bench.store import Store
from unsee.judges.always import Safe, Unsafe
from unsee.metrics import clip_score, frechet, lpips, perceptual
from unsee.report.collect import gather
from unsee.sampling import machine as models
from unsee.sampling import sampler
from unsee.types import Prompt
from unsee.unlearn.duo.pairs import EITHER, _Maker

WEAPON = concepts.load("weapon")
PROMPTS = WEAPON.prompts("plain", "held-out", n=2)
FAMILIES = ("sd1", "sd2-v", "sdxl", "sd3", "flux")


def flagging(*flags):
    """A pipeline's own safety checker, as Stable Diffusion 1 has it: it blacks out what it flags."""

    def check(images, clip_input):
        for image, flagged in zip(images, flags, strict=True):
            image *= not flagged
        return images, list(flags)

    return check


def features(images, return_tensors):
    return SimpleNamespace(to=lambda device: SimpleNamespace(pixel_values=torch.zeros(len(images), 1)))


def checked(*flags):
    pipe = tiny("sd1")
    pipe.safety_checker, pipe.feature_extractor = flagging(*flags), features
    return pipe


def broken(family="sd1"):
    """A model whose VAE overflows, as SDXL's does in half precision."""
    pipe = tiny(family)
    pipe.vae.decoder.conv_out.weight.data[:] = float("nan")
    return pipe


@pytest.mark.parametrize("family", FAMILIES)
def test_finished_pictures_are_bit_for_bit_the_pipelines_own(family):
    pipe, texts = tiny(family), [p.text for p in PROMPTS]
    asked = {"num_inference_steps": 2, **adapter(pipe).guided(3.0, len(PROMPTS))}
    own = pipe(texts, generator=[torch.Generator().manual_seed(p.seed) for p in PROMPTS], **asked).images
    made = draw(pipe, PROMPTS, [], steps=2, guidance=3.0)
    assert [s.image.tobytes() for s in made] == [image.tobytes() for image in own]
    assert [s.fault for s in made] == ["", ""]


@pytest.mark.parametrize("family", FAMILIES)
def test_nan_is_marked_and_no_judge_calls_it_safe(family, recwarn):
    made = draw(broken(family), PROMPTS, [], steps=2, guidance=3.0)
    assert {s.fault for s in made} == {pictures.NOT_FINITE}
    for judge in (Safe(), Unsafe(), judges.load("picto")):
        assert {v.reason for v in judge([s.image for s in made], PROMPTS, WEAPON)} == {pictures.NOT_FINITE}
    assert not [w for w in recwarn if "invalid value" in str(w.message)]


@pytest.mark.parametrize("guidance", [float("inf"), 1e38])
def test_a_guidance_that_overflows_is_unjudged(guidance):
    made = draw(tiny("sd1"), PROMPTS, [], steps=2, guidance=guidance)
    assert {v.outcome for v in Safe()([s.image for s in made], PROMPTS, WEAPON)} == {"unjudged"}


def test_weights_that_overflow_are_unjudged():
    pipe = tiny("sd1")
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_k" in name or "conv_out" in name:
                weight *= 1e25
    made = draw(pipe, PROMPTS, [], steps=2, guidance=3.0)
    assert {v.outcome for v in Safe()([s.image for s in made], PROMPTS, WEAPON)} == {"unjudged"}


def test_one_image_of_a_batch_that_is_nan_does_not_cost_the_others():
    pipe = tiny("sd1")
    pixels = torch.rand(3, 3, 8, 8)
    pixels[1, 0, 2, 2] = float("inf")
    pixels[2, 0, 2, 2] = float("nan")
    made = sampler.as_pictures(pipe, pixels)
    assert [pictures.fault(image) for image in made] == ["", pictures.NOT_FINITE, pictures.NOT_FINITE]


def test_what_the_pipelines_own_safety_checker_blacks_out_is_unjudged():
    made = draw(checked(False, True), PROMPTS, [], steps=2, guidance=3.0)
    assert [s.fault for s in made] == ["", "the pipeline's own safety checker blacked it out"]
    assert made[1].image.getextrema() == ((0, 0),) * 3
    said = Safe()([s.image for s in made], PROMPTS, WEAPON)
    assert [(v.outcome, v.reason) for v in said] == [("safe", ""), ("unjudged", pictures.BLACKED_OUT)]


def test_a_suite_shows_what_it_could_not_judge(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "open_model", lambda name, device="cpu": checked(True))
    asked = suite(defenses=[], batch_size=1, judge="always.safe", prompts=[{"kind": "plain", "n": 3}],
                  metrics={"preservation": "picto", "clip_score": "picto"})  # fmt: skip
    (row,) = run(asked, tmp_path / "run")
    assert (row.n, row.unjudged, row.unsafe_rate, row.clip_score, row.preservation) == (3, 3, None) + (None,) * 2
    assert {r.verdict.reason for r in stored(tmp_path / "run")} == {pictures.BLACKED_OUT}
    assert judge_again(tmp_path / "run", "always.unsafe") == 3  # another judge, later, from what is stored
    with Store(tmp_path / "run") as store:
        assert {o for of in store.outcomes().values() for o in of.values()} == {"unjudged"}
        told = gather(store)
    assert told.unjudged == 3 and "could be judged" in told.headline.lead


def test_a_defense_is_not_praised_for_pictures_that_are_none(tmp_path, monkeypatch):
    """The guarded pictures are NaN: the rate is no data, the headline says so, and nothing was preserved."""
    from unsee.bench import generate

    plain = generate._call

    def nan_behind_guards(pipe, prompts, guards, steps, guidance):
        images, decisions = plain(pipe, prompts, (), steps, guidance)
        return [pictures.mark(image, pictures.NOT_FINITE) if guards else image for image in images], decisions

    monkeypatch.setattr(generate, "_call", nan_behind_guards)
    rows = run(suite(metrics={"preservation": "picto", "clip_score": "picto"}), tmp_path / "run")
    defended = [row for row in rows if row.defense != "none"]
    assert defended and all(row.unjudged == row.n for row in defended)
    measured = ("unsafe_rate", "difference", "preservation", "clip_score")
    assert {getattr(row, key) for row in defended for key in measured} == {None}
    assert all(row.unjudged == 0 and row.clip_score is not None for row in rows if row.defense == "none")
    with Store(tmp_path / "run") as store:
        assert "cut" not in gather(store).headline.lead


def test_generate_says_what_is_no_picture(tmp_path, monkeypatch, capsys):
    from unsee.cli import main

    monkeypatch.setattr(models, "open_model", lambda name, device="cpu": broken())
    asked = ["generate", "--prompt", "a lake", "--model", "tiny:sd1", "--steps", "2", "--out", str(tmp_path / "a.png")]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["fault"] == pictures.NOT_FINITE
    with Image.open(tmp_path / "a.png") as image:
        assert pictures.fault(image) == pictures.NOT_FINITE
    assert main(asked) == 0
    assert "no picture: not finite" in capsys.readouterr().out


def sizes(a, b):
    return torch.ones(len(a))


METRICS = {
    "picto-perceptual": (lambda: perceptual.PictoPerceptual(), False),
    "picto-distance": (lambda: perceptual.PictoPerceptual().distance, False),
    "lpips": (lambda: lpips.LPIPS(network=sizes, name="ones"), False),
    "prior-preservation": (lambda: lpips.PriorPreservation(lpips.LPIPS(network=sizes, name="ones")), False),
    "clip-score": (lambda: clip_score.PictoClipScore(), True),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_no_number_for_what_is_no_picture(name):
    make, texts = METRICS[name]
    measure, one, black = make(), picture((200, 30, 40), 64), Image.new("RGB", (64, 64))
    bad = pictures.mark(picture((1, 2, 3), 64), pictures.NOT_FINITE)
    others = ["a dagger"] * 4 if texts else [one, one, one, black]
    found = measure([one, black, bad, one], others)
    assert found[1:3] == [None, None] and isinstance(found[0], float)
    assert isinstance(found[3], float) if texts else found[3] is None
    assert measure([black], others[:1]) == [None] and measure([], []) == []
    with pytest.raises(ValueError):
        measure([one], [])


def test_a_distance_of_sets_leaves_out_what_is_no_picture():
    good = [Image.effect_noise((16, 16), 60 + i).convert("RGB") for i in range(4)]
    kind = frechet.FrechetDistance(frechet.PictoFeatures())
    clean, mixed = kind(good, good, few=True), kind([*good, Image.new("RGB", (16, 16))], good, few=True)
    assert (mixed.value, mixed.images, mixed.left_out, clean.left_out) == (clean.value, 4, 1, 0)
    assert "1 left out" in str(mixed)


def test_pairs_of_duo_are_made_of_pictures_even_where_nobody_judges():
    maker = _Maker(None, WEAPON, SimpleNamespace(judge="none"), None, 0)
    assert maker._judge_images([picture((200, 30, 40)), Image.new("RGB", (8, 8))]) == [EITHER, "unjudged"]


def test_every_way_of_drawing_marks(tmp_path):
    from unsee.attacks.victim import facing
    from unsee.backbones import adapter
    from unsee.sampling.sampler import Sampler

    pipe = broken()
    with facing(pipe) as victim:
        images = victim.generate([Prompt("a lake", "1", 1)], steps=2, guidance=3.0)
    images += Sampler(adapter(pipe)).generate(["a lake"], [1], steps=2, guidance=3.0).images
    assert {pictures.fault(image) for image in images} == {pictures.NOT_FINITE}


def test_examples_in_docstrings():
    tried = doctest.testmod(pictures)
    assert tried.attempted and not tried.failed
