"""SafeRedir: both networks, the released rule recomputed by hand, data, training that resumes, the guard's promises."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import unsee
from unsee import attacks, picto
from unsee.attacks.concept_inversion import ConceptInversion
from unsee.attacks.random_tokens import RandomTokens
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.concepts import load
from unsee.defenses import Defense, protect
from unsee.defenses.base import Fit
from unsee.errors import BadFile, GuardFailure, Mismatch, UnknownName, Unsupported, UserError
from unsee.guards.saferedir import SafeRedir, Training, batch, calibrate, data, ridge, texts, train
from unsee.guards.saferedir.net import MOST_SCALE, Redirector, Shape, Shift, image_like, moves
from unsee.guards.saferedir.reference import PARAMETERS, Reference, read_official
from unsee.guards.sld import SLD

built = functools.cache(tiny)
PROMPTS = ["a dagger", "two red hats", "x"]
SMALL = {
    "pairs": 6, "negatives": 6, "trajectories": 2, "num_inference_steps": 2, "stored_steps": 2, "max_train_steps": 4,
    "train_batch_size": 4, "validate_every": 2, "width": 16, "heads": 2, "generate_batch_size": 4,
}  # fmt: skip


@functools.cache
def random_guard(family: str, **settings) -> SafeRedir:
    return SafeRedir.untrained(built(family), width=16, heads=2, **settings)


def draw(pipe, n=2, steps=2, prompts=PROMPTS, **more):
    settings = {"num_inference_steps": steps, "output_type": "latent", "prompt": list(prompts[:n])}
    settings["generator"] = [torch.Generator().manual_seed(i) for i in range(n)]
    if adapter(pipe).family == "flux":
        settings["negative_prompt"] = [""] * n
    settings = {adapter(pipe).guidance_argument: 4.0, **settings, **more}
    return pipe(**{k: v for k, v in settings.items() if v is not None}).images


def between(guard: SafeRedir, pipe, prompts) -> float:
    """A threshold that the first prompt reaches and the second does not, or the other way round."""
    guard.threshold = 0.0
    with protect(pipe, guard) as guarded:
        draw(pipe, n=2, steps=1, prompts=prompts)
        return sum(d[0]["p"] for d in guarded.decisions) / 2


# ---- the networks ----


def test_the_released_network_has_its_number_of_parameters():
    net = Reference(Shape(tokens=77, text=768, channels=4))
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS == 14_573_574


def by_hand(state, latents, t, tokens):
    """The released network from its description, with nothing but tensors and functional calls, in eval mode."""
    w = {k: v.double() for k, v in state.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.tensor(0.0))

    def layer_norm(name, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def batch_norm(name, x):
        mean, var = (w[f"{name}.running_{k}"][:, None, None] for k in ("mean", "var"))
        return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(name, x, padding):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    x = latents.double()
    for i in range(3):
        b = f"blocks.{i}."
        y = batch_norm(b + "bn1", conv(b + "conv1", x, 1)).clamp(min=0)
        y = batch_norm(b + "bn2", conv(b + "conv2", y, 1))
        x = (y + conv(b + "skip", x, 0)).clamp(min=0)
    latent = linear("latent.0", x.mean((2, 3))).clamp(min=0)
    rates = [10_000.0 ** (-i / 160) for i in range(160)]
    wave = torch.tensor([[f(float(v) * r) for f in (math.sin, math.cos) for r in rates] for v in t]).double()
    wave = linear("time.0", wave)
    joint = torch.cat([latent, layer_norm("time.2", wave * wave.sigmoid())], -1)
    e, heads = tokens.double(), []
    for i in range(4):
        q, k, v = linear(f"heads.{i}.q", joint), linear(f"heads.{i}.k", e), linear(f"heads.{i}.v", e)
        attention = (torch.einsum("bd,bld->bl", q, k) / math.sqrt(768)).softmax(-1)  # at any width
        heads.append(layer_norm(f"heads.{i}.norm", torch.einsum("bl,bld->bd", attention, v) + v.mean(1)))
    cross = layer_norm("cross_norm", linear("cross", torch.cat(heads, -1)))
    logits = linear("judge.3", linear("judge.0", torch.cat([joint, e.mean(1), cross], -1)).clamp(min=0))
    delta = linear("delta.2", linear("delta.0", torch.cat([joint, cross], -1)).clamp(min=0))
    delta = w["lora.factor"] * linear("lora.high", linear("lora.low", delta))
    scale = linear("scale.2", linear("scale.0", e).clamp(min=0))[..., 0].sigmoid()
    return logits, delta, scale


@pytest.fixture(scope="module")
def reference():
    """A reference guard on a tiny pipeline, with batch statistics that are not the initial ones."""
    guard = SafeRedir.untrained(built("sd1"), mode="reference")
    generator = torch.Generator().manual_seed(1)
    for name, value in guard.net.state_dict().items():
        if "running" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return guard


def test_the_released_network_agrees_with_a_recomputation(reference):
    g = torch.Generator().manual_seed(0)
    latents, tokens, t = (
        torch.randn(3, 4, 16, 16, generator=g),
        torch.randn(3, 77, 16, generator=g),
        torch.tensor([981.0, 500.0, 1.0]),
    )
    with torch.no_grad():
        got = reference.net(latents, t, tokens)
    logits, delta, scale = by_hand(reference.net.state_dict(), latents, t, tokens)
    torch.testing.assert_close(got.logits.double(), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.scale.double(), scale, rtol=0, atol=1e-5)
    unit = delta / delta.norm(dim=-1, keepdim=True)
    ours = got.direction.double() / got.direction.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(ours, unit[:, None].expand_as(ours), rtol=0, atol=1e-5)  # one direction for all tokens


@pytest.mark.parametrize("interval", [1, 3])
def test_the_released_rule_agrees_with_a_recomputation(reference, interval):
    """Whole sampler: what the denoiser is given at each step, both halves, from the rule written as a plain loop."""
    pipe, seen = built("sd1"), []
    guard = SafeRedir(mode="reference", threshold=0.0, interval=interval, strength=1.5, shape=reference.shape)
    guard.load_tensors(reference.tensors())
    backbone = adapter(pipe)
    forward = backbone.denoiser.forward

    def spy(*args, **kwargs):
        values = backbone.bind(args, kwargs)
        seen.append((float(values["timestep"]), values["sample"][1:].clone(), values["encoder_hidden_states"].clone()))
        return forward(*args, **kwargs)

    backbone.denoiser.forward = spy
    try:
        with protect(pipe, guard):
            draw(pipe, n=1, steps=5)
    finally:
        del backbone.denoiser.forward
    original = torch.cat([backbone.encode([""]).tokens, backbone.encode(["a dagger"]).tokens]).double()
    now, countdown = original, 0
    for t, latents, given in seen:
        torch.testing.assert_close(given.double(), now, rtol=0, atol=1e-5)
        if countdown:
            countdown -= 1
            continue
        _, delta, scale = by_hand(guard.net.state_dict(), latents, [t], now[1:].float())
        step = 1.5 * scale[0][:, None] * (delta[0] / delta[0].norm())
        now = original + step[None] * original.norm(dim=-1, keepdim=True)
        countdown = interval - 1
    assert torch.equal(seen[0][2].double(), original)  # the first pass is not covered: a quirk that is kept
    assert not torch.equal(seen[1][2][:1].double(), original[:1])  # nor is the negative half left alone


def layers(theirs, ours, kind, *sizes):
    """(official name, ours, shape) of one layer's tensors, in the order in which PyTorch lists them."""
    if kind == "norm":
        sizes, parts = sizes[0], {"weight": sizes, "bias": sizes}
    elif kind == "batch":
        sizes, parts = sizes[0], dict.fromkeys(("weight", "bias", "running_mean", "running_var"), sizes)
        parts["num_batches_tracked"] = ()
    else:
        parts = {"weight": sizes} | ({"bias": sizes[:1]} if kind == "linear" else {})
    return [(f"{theirs}.{n}", f"{ours}.{n}", size if isinstance(size, tuple) else (size,)) for n, size in parts.items()]


def official_layout(d, tokens=77):
    """Every tensor of an official file: its name there, ours, its shape; in the file's order."""
    found = [("pos_embed", "gate.place", (1, tokens, d))]  # a parameter of the outermost module: before all modules
    for i, (cin, cout) in enumerate([(4, 64), (64, 128), (128, 256)]):
        a, b = f"latent_encoder.{i}", f"blocks.{i}"
        found += layers(f"{a}.conv.0", f"{b}.conv1", "linear", cout, cin, 3, 3)
        found += layers(f"{a}.conv.1", f"{b}.bn1", "batch", cout)
        found += layers(f"{a}.conv.3", f"{b}.conv2", "linear", cout, cout, 3, 3)
        found += layers(f"{a}.conv.4", f"{b}.bn2", "batch", cout)
        found += layers(f"{a}.downsample", f"{b}.skip", "linear", cout, cin, 1, 1)
    found += layers("latent_encoder.5", "latent.0", "linear", 512, 256)
    found += layers("t_encoder.0", "time.0", "linear", 64, 320) + layers("t_encoder.2", "time.2", "norm", 64)
    for i in range(4):
        a, b = f"cross_attn.heads.{i}", f"heads.{i}"
        found += layers(f"{a}.query", f"{b}.q", "linear", d, 576) + layers(f"{a}.key", f"{b}.k", "linear", d, d)
        found += layers(f"{a}.value", f"{b}.v", "linear", d, d) + layers(f"{a}.norm", f"{b}.norm", "norm", d)
    found += layers("cross_attn.fuse.0", "cross", "linear", d, 4 * d) + layers(
        "cross_attn.fuse.1", "cross_norm", "norm", d
    )
    found += layers("classifier.0", "judge.0", "linear", 256, 576 + 2 * d) + layers(
        "classifier.3", "judge.3", "linear", 2, 256
    )
    found += layers("token_proj.0", "delta.0", "linear", 512, 576 + d) + layers(
        "token_proj.2", "delta.2", "linear", d, 512
    )
    found += [("delta_head.scale", "lora.factor", ())]
    found += layers("delta_head.down", "lora.low", "bare", 16, d) + layers("delta_head.up", "lora.high", "bare", d, 16)
    found += layers("gate_linear", "gate.linear", "linear", 1, d)
    found += [("mask_predictor.attn.in_proj_weight", "attend.in_proj_weight", (3 * d, d))]
    found += [("mask_predictor.attn.in_proj_bias", "attend.in_proj_bias", (3 * d,))]
    found += layers("mask_predictor.attn.out_proj", "attend.out_proj", "linear", d, d)
    found += layers("mask_predictor.predictor.0", "mask.0", "linear", 128, d)
    found += layers("mask_predictor.predictor.2", "mask.2", "norm", 128)
    found += layers("mask_predictor.predictor.3", "mask.3", "linear", 1, 128)
    found += layers("alpha_predictor.net.0", "scale.0", "linear", 256, d)
    return found + layers("alpha_predictor.net.2", "scale.2", "linear", 1, 256)


def official_state(layout):
    """Random numbers in an official file's layout; variances above 0."""
    g, state = torch.Generator().manual_seed(3), {}
    for name, _, shape in layout:
        fan = math.prod(shape[1:]) or 1
        state[name] = torch.randn(shape, generator=g) / math.sqrt(fan)
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    return state


def test_a_state_dict_laid_out_as_the_official_one_loads(tmp_path):
    """At the release's own size: every tensor comes to its place, and the network says what the formulas say."""
    layout = official_layout(768)
    state = official_state(layout)
    torch.save(state, tmp_path / "best_model.pt")
    shape, found = read_official(tmp_path / "best_model.pt")
    assert len(state) == 118 and (shape.tokens, shape.text, shape.channels) == (77, 768, 4)
    assert sum(v.numel() for n, v in state.items() if "running" not in n and "tracked" not in n) == PARAMETERS
    assert all(torch.equal(found[ours], state[theirs]) for theirs, ours, _ in layout)
    net = Reference(shape).eval()
    net.load_state_dict(found)
    g = torch.Generator().manual_seed(0)
    latents, tokens, t = (torch.randn(2, 4, 16, 16, generator=g), torch.randn(2, 77, 768, generator=g),
                          torch.tensor([981.0, 21.0]))  # fmt: skip
    with torch.no_grad():
        got = net(latents, t, tokens)
    logits, delta, scale = by_hand(found, latents, t, tokens)
    torch.testing.assert_close(got.logits.double(), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.scale.double(), scale, rtol=0, atol=1e-6)
    ours = got.direction.double() / got.direction.double().norm(dim=-1, keepdim=True)
    theirs = delta[:, None] / delta.norm(dim=-1)[:, None, None]
    torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=0, atol=1e-5)


def test_official_weights_load_by_order_or_by_name(tmp_path):
    layout = official_layout(16)
    state = official_state(layout)
    torch.save(state, tmp_path / "official.pt")
    by_order = SafeRedir.from_official(tmp_path / "official.pt", built("sd1"), threshold=0.5)
    shuffled = dict(sorted(state.items()))
    torch.save({"state_dict": shuffled}, tmp_path / "other.pt")
    names = {theirs: ours for theirs, ours, _ in layout}
    by_name = SafeRedir.from_official(tmp_path / "other.pt", built("sd1"), names=names)
    for guard in (by_order, by_name):
        assert all(torch.equal(guard.net.state_dict()[ours], state[theirs]) for theirs, ours, _ in layout)
        x = (torch.randn(1, 4, 16, 16), torch.tensor([981.0]), torch.randn(1, 77, 16))
        with torch.no_grad():
            logits, _, scale = by_hand(guard.net.state_dict(), *x)
            torch.testing.assert_close(guard.net(*x).logits.double(), logits, rtol=0, atol=1e-5)
            torch.testing.assert_close(guard.net(*x).scale.double(), scale, rtol=0, atol=1e-6)
    ours_first = {ours: state[theirs] for theirs, ours, _ in [*layout[1:], layout[0]]}
    torch.save(ours_first, tmp_path / "late.pt")  # the positional table last: no official file
    for name in ("other.pt", "late.pt"):
        with pytest.raises(BadFile, match="in its order"):
            read_official(tmp_path / name)
    by_order.save_pretrained(tmp_path / "saved")
    again = SafeRedir.from_pretrained(tmp_path / "saved")
    assert again.digest() == by_order.digest() and again.shape["divisor"] == 768
    assert all(torch.equal(again.tensors()[ours], state[theirs]) for theirs, ours, _ in layout)


def test_a_reference_saved_before_attention_was_the_releases_keeps_its_own(reference):
    """Its folder says nothing of the divisor: it was trained with the root of the text's width, and so it runs."""
    old = {name: value for name, value in reference.shape.items() if name != "divisor"}
    guard = SafeRedir(mode="reference", shape=old)
    guard.load_tensors(reference.tensors())
    assert guard.config()["shape"] == old  # and so its digest is what it was
    assert {head.divisor for head in guard.net.heads} == {old["text"]} == {16}
    assert {head.divisor for head in reference.net.heads} == {768}
    x = (torch.randn(1, 4, 16, 16), torch.tensor([981.0]), 9 * torch.randn(1, 77, 16))
    with torch.no_grad():
        assert not torch.equal(guard.net(*x).logits, reference.net(*x).logits)


def test_the_shipped_defense_is_what_it_was():
    """Its files are as they were measured; a change of the network's shape or names would show here."""
    shipped = SafeRedir.from_pretrained(picto.DEFENSES / "saferedir-weapon")
    assert shipped.digest() == "af8a38c6ddb2070300fcf74526c37914601d1ae045c9335e16e68475162a1311"
    assert "divisor" not in random_guard("sd1").shape  # nor do new fits of ours get another configuration


def test_official_files_with_code_or_other_networks_are_refused(tmp_path):
    torch.save({"x": os.system}, tmp_path / "code.pt")
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("code.pt", "other.pt", "none.pt"):
        with pytest.raises(BadFile):
            read_official(tmp_path / name)


def test_reference_refuses_models_that_it_cannot_reach():
    for family in ("sdxl", "sd3", "flux"):
        with pytest.raises(Unsupported, match="reference"):
            SafeRedir.untrained(built(family), mode="reference")


def test_moves_are_the_written_formula():
    """By hand, number by number; the mask acts although directions are normalized, and tokens go their own ways."""
    g = torch.Generator().manual_seed(0)
    shape = Shape(tokens=5, text=8, channels=4, pooled=6)
    shift = Shift(torch.zeros(2, 2), torch.randn(2, 5, 8, generator=g), torch.randn(2, 5, generator=g),
                  torch.rand(2, 5, generator=g), torch.randn(2, 6, generator=g))  # fmt: skip
    tokens, pooled = torch.randn(2, 5, 8, generator=g), torch.randn(2, 6, generator=g)
    got, whole = moves(shift, tokens, pooled, shape)
    for b in range(2):
        for i in range(5):
            d, e = shift.direction[b, i].double(), tokens[b, i].double()
            m = 1 / (1 + math.exp(-float(shift.mask[b, i])))
            want = m * float(shift.scale[b, i]) * e.norm() * d / d.norm()
            torch.testing.assert_close(got[b, i].double(), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole[b], shift.pooled[b] * pooled[b].norm())
    unmasked, _ = moves(shift, tokens, pooled, dataclasses.replace(shape, mask=False))
    assert not torch.allclose(unmasked, got)


def test_the_network_reads_and_moves_every_part():
    g = torch.Generator().manual_seed(0)
    net = Redirector(Shape(tokens=7, text=8, channels=4, pooled=6, grid=4, width=16, heads=2))
    x = [
        torch.randn(2, 4, 8, 8, generator=g),
        torch.tensor([999.0, 10.0]),
        torch.randn(2, 7, 8, generator=g),
        torch.randn(2, 6, generator=g),
    ]
    first = net(*x)
    assert first.direction.shape == (2, 7, 8) and first.pooled.shape == (2, 6) and first.mask.shape == (2, 7)
    assert bool((first.scale >= 0).all() and (first.scale <= MOST_SCALE).all())
    for i in range(4):  # each input is really read
        other = [v + 1 if k == i else v for k, v in enumerate(x)]
        assert not torch.equal(net(*other).logits, first.logits)
    directions = F.normalize(first.direction[0], dim=-1)
    assert (directions @ directions.T).min().item() < 0.99  # not one for all tokens


def test_packed_latents_are_unfolded_by_the_calls_shape():
    packed = torch.arange(48.0).view(1, 24, 2)
    assert image_like(packed, 6 / 4).shape == (1, 2, 6, 4) and image_like(packed, 4 / 6).shape == (1, 2, 4, 6)
    assert torch.equal(image_like(packed, 1.5)[0, :, 1, 2], packed[0, 6])
    assert image_like(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 8, 8)


# ---- texts, data, training ----


@pytest.mark.parametrize("name", ["weapon", "style-noto", "nudity", "van-gogh", "tobacco"])
def test_texts_use_train_words_only_and_keep_some_for_validation(name):
    concept = load(name)
    made = texts.compose(concept, 60, 60, 0)
    assert made == texts.compose(concept, 60, 60, 0) != texts.compose(concept, 60, 60, 1)
    assert {t.role for t in made} == {"unsafe", "safe", "benign", "neighbor", "empty"}
    everything = " | ".join(t.text for t in made).replace(",", " ").replace(".", " ")
    held = {w for s in concept.subjects for w in s.held_out} | set(concept.hypernyms.held_out)
    used = {w for s in concept.subjects for w in s.train} | set(concept.hypernyms.train)
    new = {w for w in held if not any(w in known for known in used)}  # "urn" is within "cremation urn"
    assert not [w for w in new if f" {w} " in f" {everything} "]
    held_out = {p.text for kind in ("plain", "neighbor", "benign") for p in concept.prompts(kind, "held-out", 200)}
    assert not held_out & {t.text for t in made}
    assert all(made[t.twin].role == "safe" and made[t.twin].part == t.part for t in made if t.role == "unsafe")
    fit, check = texts.fitting(concept, 0), texts.checking(concept, 0)
    assert not {t.slug for t in fit.benign.train} & {t.slug for t in check.benign.train}
    assert not set(fit.templates.train) & set(check.templates.train)


def test_a_style_is_replaced_by_one_other_style():
    concept = load("style-noto")
    made = texts.compose(concept, 40, 8, 0)
    pairs = [(t.text, made[t.twin].text) for t in made if t.role == "unsafe"]
    assert len(pairs) == 50 and all(unsafe.replace("noto", "blob") == safe != unsafe for unsafe, safe in pairs)


def test_a_concept_without_pairs_is_refused():
    concept = load("weapon").model_copy(update={"subjects": ()})
    with pytest.raises(Unsupported, match="pairs"):
        texts.compose(concept, 4, 4, 0)


def fitted(tmp_path, family="sd2-v", stop=None, **more):
    """A tiny fit; ``stop`` = (stage, done) raises there, as if it had been killed."""

    def progress(stage, done, total):
        if stop == (stage, done):
            raise KeyboardInterrupt

    return SafeRedir.fit(built(family), load("weapon"), work=tmp_path, progress=progress, **{**SMALL, **more})


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_and_guard_from_end_to_end(tmp_path, family):
    """Every family, pooled embedding included: fit, save, load, attach, redirect; nothing changed in the pipeline."""
    pipe = built(family)
    before = {k: v.clone() for k, v in adapter(pipe).denoiser.state_dict().items()}
    guard = fitted(tmp_path / "work", family, threshold=0.0)
    assert guard.record["concept"] == "weapon" and guard.record["validation"]["harmless"] > 0
    guard.save_pretrained(tmp_path / "saved")
    again = Defense.from_pretrained(tmp_path / "saved")
    assert isinstance(again, SafeRedir) and again.record == json.loads(json.dumps(guard.record))
    plain = draw(pipe)
    drawn = []
    for one in (guard, again):
        with protect(pipe, one) as guarded:
            drawn.append(draw(pipe))
            assert all([e["done"] for e in events] == ["redirected"] * 2 for events in guarded.decisions)
    assert torch.equal(*drawn) and not torch.equal(drawn[0], plain)
    assert torch.equal(draw(pipe), plain)
    assert all(torch.equal(v, before[k]) for k, v in adapter(pipe).denoiser.state_dict().items())


def test_a_killed_fit_ends_in_the_same_weights(tmp_path):
    whole = fitted(tmp_path / "a")
    for stop in [("texts", 64), ("trajectories", 4), ("training", 1), ("training", 3), ("calibration", 0)]:
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "b", stop=stop, pairs=30)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "c", stop=("training", 3))
    again = fitted(tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))
    assert whole.record == again.record


def test_a_changed_shard_is_noticed(tmp_path):
    fitted(tmp_path)
    shard = next(tmp_path.glob("data-*/texts-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(BadFile, match="checksum"):
        fitted(tmp_path)


@pytest.mark.slow
def test_reference_mode_is_fitted_too(tmp_path):
    guard = fitted(tmp_path, "sd1", mode="reference")
    assert isinstance(guard.net, Reference) and not guard.net.training


class Held:
    """As much of the training's data as a sampler reads: six texts, a walk of ten steps for each of the first four."""

    texts = [SimpleNamespace(attacked=False, twin=twin) for twin in (2, 3, 2, 3, 4, 5)]
    paths = [SimpleNamespace(text=text) for text in (0, 1, 2, 3)]
    times = [torch.arange(10.0)] * 4
    roles = {"unsafe": [0, 1], "safe": [2, 3], "benign": [4, 5]}

    def rows(self, part, *roles):
        return [i for role in roles for i in self.roles.get(role, [])]

    def walks(self, part, *kinds):
        return {("unsafe",): [0, 1], ("redirected",): []}.get(kinds, [2, 3])


@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (0.5, 5), (0.65, 7), (0.7, 7), (0.95, 9)])
def test_a_harmless_text_is_shown_the_concepts_picture_late_only(share, first):
    """Steps from ``seen_from`` of the way on, all of them, of walks that show the concept; the last one always."""
    sampler = batch.Sampler(Held(), "fit", Training(seen_share=1.0, seen_from=share))
    rng = random.Random(0)
    drawn = [sampler._unsafe(rng) for _ in range(300)]
    assert {at[1] for _, _, at, _ in drawn} == set(range(first, 10))
    assert {(at[0], goal) for _, goal, at, _ in drawn} == {(0, 2), (1, 3)}  # the text leads to the picture's safe twin
    assert {text for text, *_ in drawn} == {2, 3, 4, 5} and {label for *_, label in drawn} == {1}
    rarely = batch.Sampler(Held(), "fit", Training(seen_share=0.2, seen_from=share))
    asked = [rarely._unsafe(rng)[0] in (0, 1) for _ in range(600)]
    assert 0.7 < sum(asked) / len(asked) < 0.9


def test_data_hold_what_the_training_asks_for(tmp_path):
    training = Training(**SMALL)
    fit = Fit(built("sd2-v"), load("weapon"), tmp_path, (), 0, lambda *a: None)
    found = data.build(fit, training)
    assert data.chosen(25, 10)[0] == 0 and data.chosen(25, 10)[-1] == 24 and data.chosen(1, 10) == [0]
    pair = found.walks("fit", "unsafe", "safe")[:2]
    unsafe, safe = (found.latents[i] for i in pair)
    assert torch.equal(unsafe[0], safe[0]) and not torch.equal(unsafe[-1], safe[-1])  # one noise, two pictures
    assert found.times[0].tolist() == [501.0, 1.0] and unsafe.dtype == torch.float16  # DDIM's own two steps
    items = batch.Sampler(found, "fit", training)(40, 0, plain=True)
    again = batch.Sampler(found, "fit", training)(40, 0, plain=True)
    assert torch.equal(items.latents, again.latents) and torch.equal(items.tokens, again.tokens)
    assert items.unsafe.sum() == 20
    assert not items.shift[items.unsafe == 0].any() and items.shift[items.unsafe == 1].flatten(1).any(1).all()


def test_what_attacks_found_is_fitted_on(tmp_path):
    pipe, concept = built("sd1"), load("weapon")
    asked = concept.prompts("plain", "train", 6, 3)
    for kind in (RandomTokens, ConceptInversion):
        found = kind(**kind.quick)(pipe, concept, asked, seed=1)
        attacks.save(found, tmp_path / "weapon" / kind.name / "prompts.json")
    made, words = texts.found_by_attacks(str(tmp_path / "{concept}"), concept, 100)
    assert [t.twin for t in made[:4]] == [101, -1, 103, -1] and len(made) == 24 and len(words) == 1
    assert {t.part for t in made} == {"fit", "check"} and all(t.attacked for t in made)
    assert not any(re.search(rf"\b{word}\b", t.text) for t in made[1::2] for word in concept.all_words("train"))
    training = Training(**SMALL, attacked=str(tmp_path / "{concept}"), attacked_share=1.0, seen_share=0.0)
    held = data.build(Fit(pipe, concept, tmp_path / "work", (), 0, lambda *a: None), training)
    row = next(i for i, t in enumerate(held.texts) if t.words)
    with attacks.saying(pipe, words[held.texts[row].words]):
        assert torch.equal(held.tokens[row], adapter(pipe).encode([held.texts[row].text]).tokens[0].half())
    draw_batch = batch.Sampler(held, "fit", training)
    assert {draw_batch._unsafe(random.Random(i))[0] for i in range(99)} == set(draw_batch.attacked)

    with pytest.raises(BadFile, match="without any"):
        texts.found_by_attacks(str(tmp_path / "nowhere"), concept, 0)
    attacks.save(RandomTokens()(pipe, concept, concept.prompts("plain", "held-out", 1, 0)), tmp_path / "h/prompts.json")
    with pytest.raises(UserError, match="held out"):
        texts.found_by_attacks(str(tmp_path / "h"), concept, 0)


def test_terms_against_a_recomputation():
    g = torch.Generator().manual_seed(0)
    tokens, wanted, moved = (torch.randn(4, 3, 5, generator=g) for _ in range(3))
    y = torch.tensor([1.0, 0.0, 1.0, 0.0])
    wanted = wanted * y[:, None, None]
    shift = Shift(torch.randn(4, 2, generator=g), moved, torch.randn(4, 3, generator=g), torch.rand(4, 3, generator=g))
    items = batch.FitBatch(torch.zeros(4), torch.zeros(4), torch.zeros(4), tokens, None, y, wanted, None)
    center, axes = torch.randn(5, generator=g), torch.randn(5, 5, generator=g)
    space = train.Space(center, axes)
    found = train.terms(shift, moved, None, items, space, Training(mask_threshold=0.8))
    mse = energy = cosine = bce = align = still = ce = 0.0
    must_count = 0
    for b in range(4):
        p = shift.logits[b].softmax(-1)
        target = torch.tensor([1 - y[b], y[b]])
        ce -= float((target * p.log()).sum()) / 4
        if y[b] == 0:
            still += sum(float(moved[b, i].norm() ** 2 / tokens[b, i].norm() ** 2) for i in range(3)) / 3 / 2
            continue
        for i in range(3):
            mse += sum(float(axes[:, k] @ (moved[b, i] - wanted[b, i])) ** 2 for k in range(5))
            energy += sum(float(axes[:, k] @ wanted[b, i]) ** 2 for k in range(5))
        a, c = (axes.T @ ((tokens[b] + x[b]).mean(0) - center) for x in (moved, wanted))
        align += (1 - float(a @ c / a.norm() / c.norm())) / 2
        for i in range(3):
            must = bool(wanted[b, i].norm() > 0.8 * tokens[b, i].norm())
            m = float(shift.mask[b, i].sigmoid())
            bce -= math.log(m if must else 1 - m) / 3 / 2
            if must:
                must_count += 1
                cosine += 1 - float(moved[b, i] @ wanted[b, i] / moved[b, i].norm() / wanted[b, i].norm())
    expected = {"classification": ce, "mse": mse / energy, "cosine": cosine / must_count, "mask": bce,
                "alignment": align, "still": still}  # fmt: skip
    assert {k: pytest.approx(float(v), rel=1e-3) for k, v in found.items()} == expected
    zeroed = Training(**{f"{name}_weight": 0.0 for name in found if name != "mse"})
    assert float(train.total(found, zeroed)) == pytest.approx(mse / energy, rel=1e-4)


def test_half_of_the_embeddings_are_misled_up_the_slope_and_no_further():
    n, generator = 64, torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(n, 3, 4, generator=generator), torch.randn(n, 5, generator=generator)
    aim = torch.randn(3, 4, generator=generator)
    given = batch.FitBatch(tokens, tokens, tokens, tokens, pooled, torch.ones(n), tokens, pooled)

    def loss(b):
        return (b.tokens * aim).sum() + b.pooled.sum()

    moved = train.misled(given, loss, 0.3, 0)
    share = ((moved.tokens - tokens).flatten(1).norm(dim=1) / tokens.flatten(1).norm(dim=1)).tolist()
    went = [i for i, far in enumerate(share) if far]
    assert n // 4 < len(went) < 3 * n // 4 and 0.2 < max(share) <= 0.3001
    way = (moved.tokens - tokens)[went]
    assert torch.allclose(F.cosine_similarity(way.flatten(1), aim.flatten()[None]), torch.ones(len(went)), atol=1e-5)
    assert (moved.pooled - pooled)[went].gt(0).all() and moved.shift is given.shift
    assert torch.equal(train.misled(given, loss, 0.3, 0).tokens, moved.tokens)


def test_whitening_shrinks_the_strong_axes():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 6, generator=g) @ torch.randn(6, 6, generator=g)
    rows -= rows.mean(0)
    white = rows @ train.whitening(rows)
    expected = np.linalg.eigvalsh(np.cov(rows.numpy().T, bias=True))
    expected = expected / (expected + train.RIDGE * expected.mean())
    assert np.cov(white.numpy().T, bias=True) == pytest.approx(np.diag(expected), abs=2e-3)


def test_the_regression_is_ridge_regression_place_by_place():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, 8, generator=g) * torch.linspace(0.2, 2, 8)
    y = torch.einsum("nld,lde->nle", x, torch.randn(3, 8, 8, generator=g)) + torch.randn(200, 3, 8, generator=g)
    fitted = ridge.RidgeMap(3, 8, 8)
    fitted.fit(lambda: zip(x.split(64), y.split(64), strict=True))
    for place in range(3):
        mx, my = x[:, place].mean(0), y[:, place].mean(0)
        a, b = (x[:, place] - mx).numpy(), (y[:, place] - my).numpy()
        penalty = math.sqrt(ridge.RIDGE * (a**2).sum() / 8) * np.eye(8)
        weights = np.linalg.lstsq(np.vstack([a, penalty]), np.vstack([b, np.zeros((8, 8))]), rcond=None)[0]
        assert np.abs(a @ weights + my.numpy() - fitted(x)[:, place].numpy()).max() < 2e-3


def test_the_regression_finds_a_map_of_its_rank_and_nothing_where_nothing_differs():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, 3, generator=g) @ torch.randn(3, 16, generator=g)
    x[:, 0] = x[0, 0]  # as the first token of every text
    y = 0.5 * x @ torch.randn(16, 16, generator=g)
    fitted = ridge.RidgeMap(2, 16, 3)
    assert not fitted(x).any()
    fitted.fit(lambda: [(x, y)])
    assert torch.allclose(fitted(x)[:, 0], y[:, 0], atol=1e-3)
    assert float((fitted(x) - y).norm() / (y - y.mean(0)).norm()) < 0.05


def test_the_network_starts_from_the_regression():
    pipe = built("sdxl")
    guard = SafeRedir.untrained(pipe, width=16, heads=2, rank=4)
    shape, g = guard.net.shape, torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(2, 77, shape.text, generator=g), torch.randn(2, shape.pooled, generator=g)
    for part, x in (("line", tokens), ("line_pooled", pooled[:, None])):
        getattr(guard.net, part).fit(lambda x=x: [(x, -0.5 * x), (2 * x, -x)])
    latents = torch.randn(2, shape.channels, 8, 8, generator=g)
    with torch.no_grad():
        shift = guard.net(latents, torch.full((2,), 999.0), tokens, pooled)
        start = guard.net.line(tokens)
    assert float(F.cosine_similarity(shift.direction, start, dim=-1).min()) > 0.8
    assert float(F.cosine_similarity(shift.pooled, guard.net.line_pooled(pooled[:, None])[:, 0]).min()) > 0.5


def test_an_odd_picture_raises_the_limit_of_its_own_step_alone():
    harmless = torch.linspace(-6, -4, 200).repeat(4, 1)
    harmless[3, :7] = 9.0
    limits = calibrate._limits(harmless, torch.tensor([999.0, 900.0, 300.0, 100.0]), 0.02)
    share = (harmless >= limits[:, None]).float().mean(1)
    assert float(share[0]) == pytest.approx(0.02, abs=0.006) and share[2:].tolist() == [0, 0]
    assert float(limits[:3].max()) < -3.9 and float(limits[3]) > 9


# ---- the guard ----


@pytest.mark.parametrize("family", FAMILIES)
def test_unflagged_rows_of_a_batch_are_bit_identical(family):
    pipe, guard = built(family), SafeRedir.untrained(built(family), width=16, heads=2)
    guard.threshold = between(guard, pipe, PROMPTS)
    plain = draw(pipe, steps=1)
    with protect(pipe, guard) as guarded:
        acted = draw(pipe, steps=1)
    moved = [events[0]["done"] == "redirected" for events in guarded.decisions]
    assert sorted(moved) == [False, True]
    assert [torch.equal(a, b) for a, b in zip(acted, plain, strict=True)] == [not m for m in moved]


@pytest.mark.parametrize("family", FAMILIES)
def test_not_triggered_is_bit_identical(family):
    pipe = built(family)
    with protect(pipe, random_guard(family, threshold=1.0)) as guarded:
        acted = draw(pipe)
    assert torch.equal(acted, draw(pipe)) and guarded.decisions[0][0]["done"] == "watched"


def test_pooled_embedding_is_moved_and_the_negative_half_is_not():
    pipe, seen = built("sdxl"), []
    backbone = adapter(pipe)
    handle = None
    with protect(pipe, random_guard("sdxl", threshold=0.0)):
        handle = backbone.denoiser.register_forward_pre_hook(
            lambda m, a, k: seen.append(backbone.text(backbone.bind(a, k))), with_kwargs=True
        )
        draw(pipe, n=1, steps=1)
    handle.remove()
    own, negative = backbone.encode(["a dagger"]), seen[0].rows(slice(0, 1))
    assert not torch.allclose(seen[0].pooled[1], own.pooled[0]) and not torch.allclose(seen[0].tokens[1], own.tokens[0])
    unguarded = []
    handle = backbone.denoiser.register_forward_pre_hook(
        lambda m, a, k: unguarded.append(backbone.text(backbone.bind(a, k))), with_kwargs=True
    )
    draw(pipe, n=1, steps=1)
    handle.remove()
    assert torch.equal(negative.tokens[0], unguarded[0].tokens[0]) and torch.equal(
        negative.pooled[0], unguarded[0].pooled[0]
    )


def test_interval_and_sticky():
    pipe = built("sd1")

    def steps(**settings):
        guard = SafeRedir.untrained(pipe, width=16, heads=2, **settings)
        with protect(pipe, guard) as guarded:
            draw(pipe, n=1, steps=5)
            return guarded.decisions[0]

    assert [e["step"] for e in steps(threshold=0.0, interval=2)] == [0, 2, 4]
    p = [e["p"] for e in steps(threshold=1.0)]
    limit = (max(p) + sorted(p)[-2]) / 2
    top = p.index(max(p))
    if max(p) - sorted(p)[-2] > 1e-4:
        loose = [e["done"] for e in steps(threshold=limit, sticky=False)]
        tight = [e["done"] for e in steps(threshold=limit)]
        assert tight[top:] == ["redirected"] * (5 - top)
        assert loose.index("redirected") == top


def test_strength_zero_is_refused_and_more_moves_more():
    pipe = built("sd1")
    plain, moved = draw(pipe), []
    with pytest.raises(UserError, match="strength of saferedir"):
        random_guard("sd1", threshold=0.0, strength=0.0)
    for strength in (0.25, 0.5, 1.0):
        with protect(pipe, random_guard("sd1", threshold=0.0, strength=strength)):
            moved.append(float((draw(pipe) - plain).norm()))
    assert 0.0 < moved[0] < moved[1] < moved[2]


def test_two_concepts_and_another_guard_stack():
    pipe = built("sd1")
    a, b = (SafeRedir.untrained(pipe, seed=s, concept=f"c{s}", width=16, heads=2, threshold=0.0) for s in (0, 1))
    drawn = []
    for guards in ([a], [b], [a, b], [a, b, SLD(text="weapon", warmup=0)]):
        with protect(pipe, *guards) as guarded:
            drawn.append(draw(pipe))
            by = [e["concept"] for e in guarded.decisions[0] if e["defense"] == "saferedir" and e["step"] == 0]
            assert by == [g.concept for g in guards if isinstance(g, SafeRedir)]
    assert all(not torch.equal(x, y) for i, x in enumerate(drawn) for y in drawn[:i])


def test_no_extra_pass_of_the_denoiser():
    pipe, calls = built("sd1"), []
    forward = pipe.unet.forward
    pipe.unet.forward = lambda *a, **k: calls.append(1) or forward(*a, **k)
    try:
        with protect(pipe, random_guard("sd1", threshold=0.0)):
            draw(pipe, steps=3)
    finally:
        del pipe.unet.forward
    assert len(calls) == 3


def test_gradients_pass_through_the_shift():
    """An adaptive attack, and our own adversarial tests, need them."""
    guard = random_guard("sd1", threshold=0.0)
    tokens = torch.randn(1, 77, 16, requires_grad=True)
    shift = guard.net(torch.randn(1, 4, 16, 16), torch.tensor([999.0]), tokens)
    moves(shift, tokens, None, Shape(**guard.shape))[0].sum().backward()
    assert tokens.grad.abs().sum() > 0


# ---- bad input: a clear error, never an unprotected image ----


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["judge.2.bias", "direction.bias", "amount.bias"])
def test_nan_in_the_network_gives_no_image(part, bad):
    pipe, guard = built("sd1"), SafeRedir.untrained(built("sd1"), width=16, heads=2, threshold=1.0)
    dict(guard.net.named_parameters())[part].data.fill_(bad)
    with protect(pipe, guard), pytest.raises(GuardFailure, match="step 0"):
        draw(pipe)


def test_embeddings_of_another_length_are_refused_and_others_are_checked():
    pipe = built("sd1")
    given = adapter(pipe).encode(["a dagger"]).tokens
    with protect(pipe, random_guard("sd1", threshold=0.0)) as guarded:
        embedded = draw(pipe, n=1, prompt=None, prompt_embeds=given)
        torch.testing.assert_close(embedded, draw(pipe, n=1), rtol=1e-4, atol=1e-4)
        twice = given.repeat(1, 2, 1)
        with pytest.raises(Unsupported, match="154"):
            draw(pipe, n=1, prompt=None, prompt_embeds=twice, negative_prompt_embeds=twice)
        assert guarded.decisions is not None


def test_another_base_model_or_text_encoder_is_refused():
    other = tiny("sd1", seed=1)
    with pytest.raises(Mismatch, match="model"):
        protect(other, random_guard("sd1"))
    mixed = tiny("sd1")
    mixed.text_encoder = other.text_encoder
    with pytest.raises(Mismatch, match="text encoder"):
        protect(mixed, random_guard("sd1"))


def test_without_a_network_it_does_not_attach():
    with pytest.raises(Unsupported, match="fitted"):
        protect(built("sd1"), SafeRedir())


@pytest.mark.parametrize(
    "settings",
    [{"mode": "ours"}, {"threshold": "loose"}, {"threshold": 1.5}, {"interval": 0}, {"strength": -1.0},
     {"policy": "negative"}, {"policy": "both"}, {"shape": {"tokens": 3, "sides": 4}}],
)  # fmt: skip
def test_bad_settings(settings):
    with pytest.raises((UnknownName, UserError, Unsupported, BadFile)):
        SafeRedir(**settings)


@pytest.mark.parametrize(
    "settings", [{"pairs": 0}, {"width": 10}, {"false_positives": 0.0}, {"shape": {}}, {"words": 3}]
)
def test_bad_training(settings, tmp_path):
    with pytest.raises(UserError):
        fitted(tmp_path, **settings)


def test_a_broken_folder_is_refused(tmp_path):
    random_guard("sd1").save_pretrained(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["arguments"]["shape"]["width"] = 32
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadFile, match="weights of this shape"):
        SafeRedir.from_pretrained(tmp_path / "a")


def test_repr_rebuilds_it():
    guard = random_guard("sd1")
    assert repr(eval(repr(guard), {"SafeRedir": SafeRedir})) == repr(guard)
    assert isinstance(unsee.tiny, object)
