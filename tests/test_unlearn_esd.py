"""ESD: both forms of its target, its layers by role, resuming, every family."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import protect
from unsee.defenses.storage import load_tensors
from unsee.errors import UserError
from unsee.sampling.denoiser import DenoiserCall
from unsee.sampling.sampler import Sampler
from unsee.unlearn.adapters import Adapters
from unsee.unlearn.ca import CA
from unsee.unlearn.distill import layers_in
from unsee.unlearn.esd import ESD, esd_target, eta_from_old
from unsee.unlearn.spm import SPM, elsewhere

shared = functools.cache(tiny)
every_family = pytest.mark.parametrize("family", FAMILIES)
FAST = {"trajectories": 3, "draw_steps": 2, "steps": 4, "batch": 2, "checkpoint_every": 2}


def test_old_and_new_target_are_one():
    g = torch.Generator().manual_seed(0)
    concept, empty = torch.randint(-64, 64, (2, 5, 4, 8, 8), generator=g).double() / 16  # exact in binary
    for eta in (0.0, 0.5, 1.0, 3.0):
        old = empty - eta * (concept - empty)
        assert torch.equal(esd_target(concept, concept, empty, eta_from_old(eta)), old)


def test_scopes_are_roles():
    backbone = adapter(shared("sd1"))
    names = {scope: set(layers_in(backbone, scope)) for scope in ("x", "x-strict", "u", "self", "all")}
    assert names["x"] == {n for n, p in backbone.projections().items() if p.attention == "cross"}
    assert names["x-strict"] < names["x"] and all(n.endswith(("to_k", "to_v")) for n in names["x-strict"])
    assert names["u"] | names["x"] == names["all"] and not names["u"] & names["x"] and names["self"] < names["u"]
    weights = [n for n, m in backbone.denoiser.named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    assert names["all"] == set(weights)
    with pytest.raises(UserError, match="x-strict"):
        ESD.fit(shared("sd1"), concepts.load("weapon"), work="unused", scope="xattn")


@every_family
@pytest.mark.parametrize("scope", ["x", "x-strict", "u"])
def test_fit_save_load_detach(family, scope, tmp_path):
    pipe = tiny(family)
    before = {k: v.clone() for k, v in adapter(pipe).denoiser.state_dict().items()}
    more = {"u": {"svd_rank": 2}, "x": {"rank": 2, "to": "anchor"}}.get(scope, {})
    made = ESD.fit(pipe, concepts.load("weapon"), work=tmp_path / "w", scope=scope, **FAST, **more)
    made.save_pretrained(tmp_path / "d")
    back = ESD.from_pretrained(tmp_path / "d")
    assert all(torch.equal(v, before[k]) for k, v in adapter(pipe).denoiser.state_dict().items())
    assert json.loads(json.dumps(back.record)) == back.record
    assert ("relative error of the low rank" in back.record) == (scope == "u")
    draw = lambda: pipe("a dagger", num_inference_steps=2, output_type="pt",  # noqa: E731
                        generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    plain = draw()
    with protect(pipe, back):
        assert not torch.equal(draw(), plain)
    assert torch.equal(draw(), plain)
    assert len(back.targets) == len(layers_in(adapter(pipe), scope))


@every_family
def test_targets_are_those_of_the_frozen_model(family, tmp_path):
    """What is stored is eta's combination of predictions at latents on the way; the student starts on its own."""
    pipe, concept = tiny(family), concepts.load("weapon")
    ESD.fit(pipe, concept, work=tmp_path, **FAST, eta=3.0)
    stored, _ = load_tensors(next((tmp_path / "samples").glob("*.safetensors")))
    backbone = adapter(pipe)
    predict = DenoiserCall(Sampler(backbone))
    texts = [unsafe for unsafe, _ in concept.pairs("train", 3)]
    for i in range(0, len(stored["t"]), 2):
        x, t, row = stored["latents"][i : i + 1], stored["t"][i : i + 1], int(stored["text"][i])
        with torch.no_grad():
            c, empty = predict(x, t, backbone.encode([texts[row]])), predict(x, t)
        torch.testing.assert_close(stored["target"][i : i + 1], c - 3.0 * (c - empty), rtol=1e-4, atol=1e-5)
    assert len(stored["t"]) == 3 * 2 and len(set(stored["t"].tolist())) == 2


def test_a_scheduler_whose_only_step_would_be_at_zero():
    pipe = tiny("sd1")
    pipe.scheduler.register_to_config(steps_offset=0)
    predict = DenoiserCall(Sampler(adapter(pipe)))
    x = torch.randn(2, *predict.latents.shape[1:], generator=torch.Generator().manual_seed(0))
    values = predict.arguments(x, torch.tensor([10.0, 700.0]))
    assert values["timestep"].tolist() == [10, 700] and bool(torch.isfinite(predict(x, torch.tensor([10, 700]))).all())


def test_training_lowers_the_loss(tmp_path):
    found = ESD.fit(
        tiny("sd1"), concepts.load("weapon"), work=tmp_path, **{**FAST, "steps": 60, "lr": 1e-2, "batch": 8}
    )
    log = found.record["log"]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_a_whole_delta_and_a_lora_of_full_rank_are_the_same_model():
    backbone = adapter(shared("sd1"))
    for scope in ("x", "u"):
        layers = layers_in(backbone, scope)
        whole, low = (Adapters(layers, rank, torch.Generator().manual_seed(0)) for rank in (0, 1000))
        for name in layers:
            a, b = low.parameters[name + ".lora_A.weight"], low.parameters[name + ".lora_B.weight"]
            b.data.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
            product = (b.flatten(1) @ a.flatten(1)).view_as(whole.parameters[name + ".weight_delta"])
            whole.parameters[name + ".weight_delta"].data.copy_(product)
        predict = DenoiserCall(Sampler(backbone))
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
        with torch.no_grad(), whole.attached():
            one = predict(x, torch.tensor([10.0]))
        with torch.no_grad(), low.attached():
            other = predict(x, torch.tensor([10.0]))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@every_family
@pytest.mark.parametrize("kind", [CA, SPM])
def test_ca_and_spm_fit_save_load_detach(kind, family, tmp_path):
    pipe = tiny(family)
    made = kind.fit(pipe, concepts.load("weapon"), work=tmp_path / "w", **FAST)
    made.save_pretrained(tmp_path / "d")
    back = kind.from_pretrained(tmp_path / "d")
    before = {k: v.clone() for k, v in adapter(pipe).denoiser.state_dict().items()}
    with protect(pipe, back):
        assert any(not torch.equal(v, before[k]) for k, v in adapter(pipe).denoiser.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in adapter(pipe).denoiser.state_dict().items())
    if kind is SPM:
        assert all(t.shape[0] == 1 for name, t in back.tensors().items() if name.endswith("lora_A.weight"))


@pytest.mark.parametrize("kind", [CA, SPM])
def test_targets_of_ca_and_spm(kind, tmp_path):
    pipe, concept = tiny("sd1"), concepts.load("weapon")
    kind.fit(pipe, concept, work=tmp_path, **FAST)
    stored, _ = load_tensors(next((tmp_path / "samples").glob("*.safetensors")))
    backbone = adapter(pipe)
    predict, pairs = DenoiserCall(Sampler(backbone)), concept.pairs("train", 3)
    x, t, row = stored["latents"][:1], stored["t"][:1], int(stored["text"][0])
    with torch.no_grad():
        unsafe, safe = (predict(x, t, backbone.encode([text])) for text in pairs[row])
    wanted = safe if kind is CA else safe - (unsafe - safe)
    torch.testing.assert_close(stored["target"][:1], wanted, rtol=1e-4, atol=1e-5)


def test_random_texts_are_of_the_concepts_size():
    concept = adapter(shared("sdxl")).encode(["a dagger", "a sword"])
    found = elsewhere(concept, torch.Generator().manual_seed(0))
    for given, drawn in ((concept.tokens, found.tokens), (concept.pooled, found.pooled)):
        ratio = drawn.flatten(1).norm(dim=1) / given.flatten(1).norm(dim=1)
        assert drawn.shape == given.shape and ((ratio > 0.79) & (ratio < 1.21)).all()


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill", [("trajectories", 1), ("train", 1), ("train", 3)])
def test_killed_and_called_again_ends_the_same(kill, tmp_path):
    pipe, concept = shared("sd1"), concepts.load("weapon")

    def stop(stage, done, total):
        if stage.startswith(kill[0]) and done >= kill[1]:
            raise Killed

    settings = {**FAST, "trajectories": 18}
    whole = ESD.fit(pipe, concept, work=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        ESD.fit(pipe, concept, work=tmp_path / "cut", progress=stop, **settings)
    again = ESD.fit(pipe, concept, work=tmp_path / "cut", **settings)
    assert all(torch.equal(v, again.tensors()[k]) for k, v in whole.tensors().items())
    with pytest.raises(UserError, match="work folder of the same fit"):
        ESD.fit(pipe, concept, work=tmp_path / "cut", **{**settings, "eta": 9.0})


def test_a_checkpoint_behind_another_host_is_refused(tmp_path):
    """Also where the other host has the same settings and edits the same layers."""
    pipe, concept = shared("sd1"), concepts.load("weapon")
    name, layer = next(iter(layers_in(adapter(pipe), "x").items()))
    hosts = [ESD(), ESD()]
    for host, size in zip(hosts, (0.01, 0.02), strict=True):
        host.load_tensors({f"unet.{name}.weight_delta": torch.full(layer.weight.shape, size)})
    ESD.fit(pipe, concept, work=tmp_path, host=hosts[:1], **FAST)
    with pytest.raises(UserError, match="work folder of the same fit"):
        ESD.fit(pipe, concept, work=tmp_path, host=hosts[1:], **FAST)


def test_bad_settings_are_one_clear_line(tmp_path):
    concept = concepts.load("weapon")
    for settings in ({"to": "nothing"}, {"scope": "xattn"}, {"steps": 0}, {"lr": 0.0}):
        with pytest.raises(UserError) as error:
            ESD.fit(shared("sd1"), concept, work=tmp_path, **{**FAST, **settings})
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_caller_s_own_accelerator_is_what_it_was(tmp_path):
    """Catches a fit that leaves its precision, or nothing, where the caller's training had its own."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    before = dict(AcceleratorState._shared_state)
    try:
        AcceleratorState._reset_state()
        own = Accelerator(mixed_precision="bf16", cpu=True)
        ESD.fit(tiny("sd1"), concepts.load("weapon"), work=tmp_path, **ESD.quick)
        assert own.mixed_precision == "bf16" and AcceleratorState().mixed_precision == "bf16"
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(before)
