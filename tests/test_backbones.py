"""The seam to diffusers: encodings, conversions, roles of projections, fingerprints, refusals."""

from __future__ import annotations

import functools

import pytest
import torch

from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.errors import UnknownName, Unsupported

built = functools.cache(tiny)
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_tiny_pipelines_are_small_repeatable_and_leave_the_random_state(family):
    before = torch.get_rng_state()
    pipe, again, other = tiny(family), tiny(family), tiny(family, seed=1)
    assert torch.equal(before, torch.get_rng_state())

    def draw(p):
        return p("a", num_inference_steps=1, output_type="pt", generator=torch.Generator().manual_seed(0)).images

    assert torch.equal(draw(pipe), draw(again)) and not torch.equal(draw(pipe), draw(other))
    assert draw(pipe).shape == (1, 3, 32, 32)
    assert sum(p.numel() for p in adapter(pipe).denoiser.parameters()) < 200_000


def test_unknown_family_says_the_nearest():
    with pytest.raises(UnknownName, match="did you mean"):
        tiny("sdx1")


def test_unsupported_pipeline_is_one_line():
    with pytest.raises(Unsupported, match="StableDiffusionXLPipeline") as error:
        adapter(object())
    assert "\n" not in str(error.value)


@every_family
def test_encoding_has_the_shapes_the_denoiser_reads(family):
    backbone = adapter(built(family))
    encoded = backbone.encode(["a dagger", "", "a hat"])
    assert encoded.tokens.shape == (3, backbone.tokens, backbone.text_dim)
    if backbone.pooled_dim:
        assert encoded.pooled.shape == (3, backbone.pooled_dim)
    else:
        assert encoded.pooled is None
    assert len(encoded.ids) == len(encoded.masks) == len(backbone.tokenizers) == len(backbone.text_encoders)
    assert all(i.shape == m.shape and len(i) == 3 for i, m in zip(encoded.ids, encoded.masks))
    assert all(m[0].sum() > m[1].sum() > 0 for m in encoded.masks)
    assert torch.equal(encoded.rows([2]).tokens[0], encoded.tokens[2])
    torch.testing.assert_close(backbone.encode(["a hat"]).tokens[0], encoded.tokens[2])


@every_family
def test_fits_knows_the_window(family):
    backbone = adapter(built(family))
    assert backbone.fits("a dagger")
    assert not backbone.fits("x" * 2000)


@every_family
@pytest.mark.parametrize("t", [1.0, 500.0, 900.0])
def test_conversions_are_inverse_and_agree_with_the_definition(family, t):
    backbone = adapter(built(family))
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    a, s = backbone.alpha_sigma(t)
    x = a * x0 + s * noise
    target = {"epsilon": noise, "v": a * noise - s * x0, "flow": noise - x0}[backbone.prediction_type]
    torch.testing.assert_close(backbone.to_x0(target, x, t), x0)
    torch.testing.assert_close(backbone.to_noise(target, x, t), noise)
    torch.testing.assert_close(backbone.from_x0(x0, x, t), target)
    torch.testing.assert_close(backbone.from_noise(noise, x, t), target)
    moved = backbone.to_noise(target + 1, x, t) - backbone.to_noise(target, x, t)
    torch.testing.assert_close(moved, torch.full_like(moved, backbone.noise_gain(t)))


def test_x0_prediction_converts_too():
    pipe = tiny("sd1")
    pipe.scheduler.register_to_config(prediction_type="sample")
    backbone = adapter(pipe)
    x0, noise = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    a, s = backbone.alpha_sigma(300.0)
    x = a * x0 + s * noise
    torch.testing.assert_close(backbone.to_noise(x0, x, 300.0), noise)
    torch.testing.assert_close(backbone.from_noise(noise, x, 300.0), x0, rtol=1e-4, atol=1e-5)
    gain = backbone.to_noise(x0 + 1, x, 300.0) - noise
    torch.testing.assert_close(gain, torch.full_like(gain, backbone.noise_gain(300.0)))


def test_conversions_agree_with_the_scheduler():
    """diffusers' own velocity, as an independent implementation."""
    pipe = built("sd2-v")
    x0, noise, t = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4), torch.tensor([700])
    v = pipe.scheduler.get_velocity(x0, noise, t)
    x = pipe.scheduler.add_noise(x0, noise, t)
    torch.testing.assert_close(adapter(pipe).to_x0(v, x, 700.0), x0, rtol=1e-4, atol=1e-4)


@every_family
def test_time_runs_from_0_to_999(family):
    backbone = adapter(built(family))
    times = [backbone.timestep_999(t) for t in (-1, 0, 1, 500, 998, 999, 1000)]
    assert times[:2] == [0, 0] and times[-2:] == [999, 999] and times == sorted(times)
    assert times[3] == pytest.approx(500, abs=1)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"])
def test_scaling_is_undone_inside_the_loop(name):
    """What the denoiser is given, unscaled, is what the sampling loop holds."""
    import diffusers

    pipe = tiny("sd1")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    backbone, seen, held = adapter(pipe), [], []
    step = pipe.scheduler.step

    def before(module, args, kwargs):
        values = backbone.bind(args, kwargs)
        seen.append(backbone.unscale(backbone.latents(values), args[1])[:1])

    pipe.scheduler.step = lambda noise, t, x, **more: (held.append(x.clone()), step(noise, t, x, **more))[1]
    handle = pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    pipe("a", num_inference_steps=3)
    handle.remove()
    assert len(seen) == len(held) >= 3
    for a, b in zip(seen, held):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@every_family
def test_projections_have_roles(family):
    backbone = adapter(built(family))
    found = backbone.projections()
    modules = dict(backbone.denoiser.named_modules())
    assert all(modules[name] is p.module for name, p in found.items())
    by_role = {(p.attention, p.part) for p in found.values()}
    assert {("self", k) for k in "qkv"} <= by_role and {("cross", "k"), ("cross", "v")} <= by_role
    if family in ("sd1", "sd2-v", "sdxl"):
        cross = {name: p for name, p in found.items() if p.attention == "cross"}
        assert all(".attn2." in name for name in cross)
        assert {p.module.in_features for p in cross.values() if p.part in "kv"} == {backbone.text_dim}
    else:
        context = [p for p in found.values() if p.part == "context"]
        assert [p.module.in_features for p in context] == [backbone.text_dim] and context[0].attention == "cross"


@every_family
def test_fingerprint_sees_weights_and_not_precision(family):
    pipe = tiny(family)
    backbone = adapter(pipe)
    model, text = backbone.fingerprint(), backbone.text_fingerprint()
    pipe.to(torch.bfloat16)
    assert (model, text) == (backbone.fingerprint(), backbone.text_fingerprint())
    with torch.no_grad():
        next(p for p in backbone.denoiser.parameters() if p.ndim > 1).mul_(-1)
    assert backbone.fingerprint() != model and backbone.text_fingerprint() == text
    assert len({adapter(built(f)).fingerprint() for f in ("sd1", "sdxl", "sd3", "flux")}) == 4


def test_cfg_follows_the_pipelines_own_rule():
    flux, sd = adapter(built("flux")), adapter(built("sd1"))
    assert sd.cfg({"guidance_scale": 7.5}) and not sd.cfg({"guidance_scale": 1.0})
    assert not flux.cfg({"guidance_scale": 7.5, "true_cfg_scale": 4.0, "negative_prompt": None})
    assert flux.cfg({"true_cfg_scale": 4.0, "negative_prompt": ""})
    assert not flux.cfg({"true_cfg_scale": 1.0, "negative_prompt": ""})
    distilled = tiny("sd1")
    distilled.unet.register_to_config(time_cond_proj_dim=8)
    assert not adapter(distilled).cfg({"guidance_scale": 7.5})
