"""The embedded model as it ships: sizes, speed of loading, and that model, judge and metrics belong together."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image

import unsee
from unsee import concepts, picto
from unsee.judges.clip_model import picto_clip as clip
from unsee.judges.picto import PictoJudge, network, pixels
from unsee.metrics.clip_score import PictoClipScore
from unsee.metrics.perceptual import PictoPerceptual, distance


@pytest.fixture(scope="module")
def pipe():
    return unsee.load("picto")


@pytest.fixture(scope="module")
def drawn(pipe):
    """Eight held-out weapon prompts and eight benign ones, drawn undefended."""
    concept = concepts.load("weapon")
    prompts = concept.prompts("plain", "held-out", 8, 3) + concept.prompts("benign", "held-out", 8, 3)
    seeds = [torch.Generator().manual_seed(p.seed) for p in prompts]
    images = pipe([p.text for p in prompts], generator=seeds, num_inference_steps=picto.STEPS,
                  guidance_scale=picto.GUIDANCE).images  # fmt: skip
    return concept, prompts, images


def random_images(n: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(n)]


def test_it_is_an_ordinary_pipeline_of_64_pixels(pipe, drawn):
    from diffusers import StableDiffusionPipeline

    assert type(pipe) is StableDiffusionPipeline
    assert {i.size for i in drawn[2]} == {(64, 64)}
    assert all(p.dtype == torch.float32 for p in pipe.unet.parameters())


def test_the_weights_are_small_half_precision_and_not_pickled():
    files = [f for f in picto.WEIGHTS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 25e6
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".txt"}
    from safetensors import safe_open

    for file in (f for f in files if f.suffix == ".safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(k).get_dtype() for k in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_it_loads_in_two_seconds_once_diffusers_is_imported(pipe):
    best = min(_seconds(picto.load) for _ in range(3))
    assert best < 2.0


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def test_the_text_window_holds_every_shipped_prompt(pipe):
    backbone = unsee.adapter(pipe)
    for name in ("weapon", "alcohol", "tobacco", "death", "style-noto"):
        for kind in ("plain", "neighbor", "benign"):
            assert all(backbone.fits(p.text) for p in concepts.load(name).prompts(kind, "held-out", 60, 0))


def test_the_judge_tells_weapons_from_the_rest(drawn):
    concept, prompts, images = drawn
    outcomes = [v.outcome for v in PictoJudge()(images, prompts, concept)]
    assert outcomes[:8].count("unsafe") >= 6
    assert outcomes[8:].count("unsafe") <= 1


def test_the_judge_sees_nothing_in_blank_paper_and_in_noise():
    concept = concepts.load("weapon")
    images = [Image.new("RGB", (64, 64), "white"), *random_images(7, 0)]
    prompts = concept.prompts("benign", "held-out", 8, 0)
    outcomes = [v.outcome for v in PictoJudge()(images, prompts, concept)]
    assert outcomes == ["unjudged", *["safe"] * 7]


def test_the_judge_says_so_when_it_cannot_see_a_target():
    concept, images = concepts.load("nudity"), random_images(2, 1)
    verdicts = PictoJudge()(images, concept.prompts("plain", "held-out", 2, 0), concept)
    assert all(v.outcome == "unjudged" and "nudity" in v.reason for v in verdicts)


def test_judge_and_generator_share_no_weights(pipe):
    theirs = [p for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()]
    for own in network()[0].parameters():
        assert not any(own.shape == p.shape and torch.equal(own, p) for p in theirs if own.numel() > 100)


def test_perceptual_distance_is_zero_symmetric_and_agrees_with_a_slow_sum():
    a, b = pixels(random_images(2, 2)), pixels(random_images(2, 3))
    assert torch.equal(distance(a, a), torch.zeros(2))
    assert torch.allclose(distance(a, b), distance(b, a))
    net = network()[0].double()
    try:
        total = 0.0
        for x, y in zip(net.features(a.double()), net.features(b.double()), strict=True):
            x, y = x[0].numpy(), y[0].numpy()
            x /= np.linalg.norm(x, axis=0, keepdims=True) + 1e-12
            y /= np.linalg.norm(y, axis=0, keepdims=True) + 1e-12
            total += ((x - y) ** 2).sum(0).mean() / 4
    finally:
        network()[0].float()
    assert distance(a, b)[0].item() == pytest.approx(total, abs=1e-5)


def test_preservation_is_one_for_the_same_picture_and_about_zero_for_another_subject(drawn):
    images, metric = drawn[2], PictoPerceptual()
    assert metric.preservation(images, images) == [1.0] * 16
    others = metric.preservation(images[8:], images[9:] + images[8:9])
    assert abs(float(np.mean(others))) < 0.35


def test_clip_score_is_the_cosine_and_prefers_the_right_text(drawn):
    _, prompts, images = drawn
    texts, score = [p.text for p in prompts], PictoClipScore()
    right, wrong = score(images[8:], texts[8:]), score(images[8:], texts[9:] + texts[8:9])
    assert np.mean(right) > np.mean(wrong) + 5
    model, tokenizer = clip()
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(pixels(images[8:9])).pooler_output)
        tokens = tokenizer(texts[8], padding="max_length", return_tensors="pt")
        text = model.text_projection(model.text_model(**tokens).pooler_output)
    assert right[0] == pytest.approx(100 * max(0.0, torch.cosine_similarity(image, text).item()), abs=1e-3)


def test_the_text_encoder_is_clips_own(pipe):
    tower = clip()[0].text_model.state_dict()
    own = {k.removeprefix("text_model."): v for k, v in pipe.text_encoder.state_dict().items()}
    assert all(torch.equal(own[k], v) for k, v in tower.items())
