"""What the seam answers of a call, against what the pipeline itself gives its denoiser."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import protect
from unsee.embeddings import encode_ids, spell
from unsee.errors import GuardFailure, Unsupported
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.safree import SAFREE
from unsee.sampling.denoiser import DenoiserCall
from unsee.sampling.sampler import Sampler
from unsee.sampling.sdedit import starting_from

built = functools.cache(tiny)
every_family = pytest.mark.parametrize("family", FAMILIES)
masked = pytest.mark.parametrize("family", ["pixart", "sana"])
TEXTS = ["a dagger", "two red hats"]


def draw(pipe, prompts=TEXTS, guidance=4.0, **more):
    argument = adapter(pipe).guidance_argument
    seeds = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    call = {"num_inference_steps": 2, "output_type": "pt", "generator": seeds, argument: guidance, **more}
    return pipe(prompts, **call).images


def calls(pipe, **more):
    """The denoiser's arguments by name, call by call."""
    backbone, seen = adapter(pipe), []
    hook = lambda module, args, kwargs: seen.append(backbone.bind(args, kwargs))  # noqa: E731
    handle = backbone.denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        draw(pipe, **more)
    finally:
        handle.remove()
    return seen


@every_family
def test_both_halves_are_what_the_seam_encodes(family):
    """Catches a text encoded otherwise than the call does: its mask, its template, the order of the halves."""
    pipe = built(family)
    backbone = adapter(pipe)
    seen = calls(pipe, negative_prompt=["ugly", ""])
    n = len(TEXTS)
    if backbone.stacked:
        negative, positive = (backbone.text(backbone.select(seen[0], rows)) for rows in backbone.halves(n))
    else:
        positive, negative = (backbone.text(values) for values in seen[:2])
    for got, wanted in ((positive, backbone.encode(TEXTS)), (negative, backbone.negative.encode(["ugly", ""]))):
        torch.testing.assert_close(got.tokens, wanted.tokens)
        assert (got.mask is None) == (wanted.mask is None)
        if got.mask is not None:
            assert torch.equal(got.mask, wanted.mask) and 0 < got.mask.sum() < got.mask.numel()


@every_family
def test_spelled_texts_are_the_prompts_of_the_pipeline(family):
    """Catches ids put at other places of the encoder's input, or read with the mask of another text."""
    backbone = adapter(built(family))
    for view in (backbone, backbone.negative):
        texts = [*TEXTS, "", "x" * 400]
        wanted, got = view.encode(texts), encode_ids(view, spell(view, texts))
        torch.testing.assert_close(got.tokens, wanted.tokens)
        assert all(torch.equal(a, b) for a, b in zip(got.ids, wanted.ids, strict=True))
        assert got.mask is None or torch.equal(got.mask, wanted.mask)


@every_family
def test_the_negative_prompt_of_a_guard_is_the_users(family):
    """Catches a mask left behind: with the old half's mask the new text is cut, and another image is drawn."""
    pipe = built(family)
    empty, longer = ["", ""], ["weapon, dagger"] * 2
    wanted = draw(pipe, negative_prompt=longer)
    assert not torch.allclose(wanted, draw(pipe, negative_prompt=empty), atol=1e-3)
    with protect(pipe, NegativePrompt(text=longer[0])):
        torch.testing.assert_close(draw(pipe, negative_prompt=empty), wanted, rtol=1e-4, atol=1e-4)


@masked
def test_a_text_without_its_mask_is_refused(family):
    """Catches a guard or an attack that makes a text of tokens alone: what is drawn would be another picture."""
    pipe = built(family)
    backbone = adapter(pipe)
    whole = backbone.encode(TEXTS[:1])
    bare = dataclasses.replace(whole, mask=None)
    call = DenoiserCall(Sampler(backbone))
    x, t = torch.randn_like(call.latents), torch.tensor([500.0])
    everything = dataclasses.replace(whole, mask=torch.ones_like(whole.mask))
    assert float((call(x, t, whole) - call(x, t, everything)).abs().max()) > 1e-3  # the mask counts
    with pytest.raises(GuardFailure, match="mask"):
        call(x, t, bare)


@every_family
def test_a_prediction_has_the_latents_shape_and_time_the_schedulers_scale(family):
    """Catches a learned variance taken for prediction, and a scaled time taken for the scheduler's."""
    pipe = built(family)
    backbone = adapter(pipe)
    values = calls(pipe, negative_prompt=["", ""])[0]
    output = backbone.denoiser.forward(**values)
    prediction = backbone.prediction(output)
    assert prediction.shape == backbone.latents(values).shape
    moved = backbone.put_prediction(output, prediction + 1)
    assert torch.equal(backbone.prediction(moved), prediction + 1)
    whole, other = (found[0] if isinstance(found, tuple) else found.sample for found in (output, moved))
    assert torch.equal(whole[:, prediction.shape[1] :], other[:, prediction.shape[1] :])
    assert backbone.time(values) == pytest.approx(float(pipe.scheduler.timesteps[0]), rel=1e-4)


@pytest.mark.parametrize("name", ["transformer_2", "unconditional_transformer"])
def test_a_second_denoiser_is_refused_by_name(name):
    """Catches half a guard: hooks on one of two denoisers."""
    pipe = tiny("pixart")
    setattr(pipe, name, torch.nn.Linear(1, 1))
    with pytest.raises(Unsupported, match=name) as error:
        adapter(pipe)
    assert "\n" not in str(error.value)


def test_a_call_is_read_with_its_own_instruction():
    """Catches texts encoded with the pipeline's default instruction where the call has another (SAFREE compares)."""
    pipe = tiny("sana")
    for instruction in (None, ["Draw: "]):
        plain = draw(pipe, complex_human_instruction=instruction)
        assert not torch.equal(plain, draw(pipe))
        with protect(pipe, SAFREE(phrases=("dagger",))):
            assert not torch.equal(draw(pipe, complex_human_instruction=instruction), plain)


def test_sdedit_from_noised_latents_is_diffusers_own():
    """Catches another step, noise or scale than an image-to-image pipeline starts with."""
    import diffusers

    for scheduler in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        pipe = tiny("sd1")
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
        sibling = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        sibling.set_progress_bar_config(disable=True)
        x0 = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(7))
        seeds = lambda: [torch.Generator().manual_seed(i) for i in range(2)]  # noqa: E731
        settings = {"num_inference_steps": 5, "output_type": "pt"}
        wanted = sibling(TEXTS, image=x0, strength=0.7, generator=seeds(), **settings).images
        generators = seeds()
        with starting_from(pipe, x0, generators, 5, 0.7) as more:
            got = pipe(TEXTS, generator=generators, **more, **settings).images
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@masked
def test_sdedit_keeps_more_of_an_image_at_less_strength(family):
    """Catches a start from pure noise, at which strength would say nothing."""
    studio = Sampler(adapter(built(family)))
    images = studio.generate(TEXTS, [0, 1], steps=4, guidance=1.0).images
    x0 = studio.encode_images(images)
    off = []
    for strength in (0.3, 1.0):
        drawn = studio.generate(TEXTS, [2, 3], steps=4, guidance=1.0, images=images, strength=strength)
        assert len(drawn.path) == max(int(4 * strength), 1)
        off.append(float((drawn.latents - x0).square().mean()))
    assert off[0] < off[1] and drawn.latents.shape == x0.shape
