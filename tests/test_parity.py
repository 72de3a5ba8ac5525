"""Parity with what the authors published: their settings are there as settings, and each formula that differs from
ours is held to a small implementation of its own, written from the formula."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from unsee import concepts
from unsee import embeddings as inversion
from unsee.attacks.concept_inversion import ConceptInversion
from unsee.attacks.p4d import P4D
from unsee.attacks.unlearn_diff import UnlearnDiff, simplex, straight_through
from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.defenses.base import Fit
from unsee.defenses.presets import settled
from unsee.errors import UnknownName, UserError
from unsee.guards.safree import SAFREE, basis, projector, triggers
from unsee.guards.safree import guard as safree_guard
from unsee.guards.safree.subspace import left_out
from unsee.guards.sld import SLD
from unsee.registry import ATTACKS, DEFENSES, resolve
from unsee.sampling.denoiser import DenoiserCall
from unsee.sampling.sampler import Sampler
from unsee.types import Prompt
from unsee.unlearn.adapters import Adapters
from unsee.unlearn.descent import Plan, descend
from unsee.unlearn.distill import layers_in
from unsee.unlearn.duo import Duo
from unsee.unlearn.duo.train import PRESETS, DuoTraining
from unsee.unlearn.esd import ESD
from unsee.unlearn.rece import RECE, RECETraining, repeated
from unsee.unlearn.token_vectors import Vectors
from unsee.unlearn.uce import UCE, Closed, solved, token_layers

built = functools.cache(tiny)
WEAPON = concepts.load("weapon")
PROMPTS = [Prompt("a dagger", "1", 1, subject="dagger"), Prompt("two old axes", "2", 2), Prompt("an axe here", "3", 3)]

# the defaults of the authors' command lines and configurations
OFFICIAL = {
    "saferedir": {"mode": "reference"},
    "sld": {"scale_warmup": False},
    "safree": {"scale_steps": False, "cutoff": 0.0},
    "ine": {"start": "hypernym", "steps": 3000, "lr": 5e-3, "decay": False, "batch": 1, "times": "uniform"},
    "uce": {"tokens": "last", "sums": True, "erase": 1.0, "preserve": 1.0, "lamb": 0.5},
    "rece": {"guides": "current", "sums": True, "erase": 1.0, "preserve": 0.1, "lamb": 0.1, "ridge": 0.1, "epochs": 3},
    "esd": {"eta": 2.0, "lr": 5e-5, "steps": 200, "batch": 1, "draw_steps": 50, "guidance": 3.0, "biases": True},
    "ca": {"scope": "x-strict", "steps": 100, "batch": 8, "lr": 2e-6 * 8, "weight_decay": 0.01},
    "spm": {"rank": 1, "turn": 1.0, "still": 1000.0, "steps": 3000, "lr": 1e-4, "batch": 1, "draw_steps": 30},
    "duo": {"preset": "paper", "timesteps": "independent", "batch": 4, "rank": 32, "n": 64, "edit_strength": 0.75},
    "ring-a-bell": {"population": 200, "generations": 3000, "length": 16, "eta": 3.0, "seeded": 0.0},
    "mma": {"length": 20, "topk": 256, "candidates": 512, "steps": 1000},
    "sneaky": {"queries": 60, "pool": 1},
    "unlearn-diff": {"timesteps": 50, "per_timestep": 40, "lr": 0.01, "optimizer": "adam", "start": "uniform",
                     "clamp": "gradient"},
    "p4d": {"steps": 3000, "check_every": 50, "count": "tokens", "front": True},
    "concept-inversion": {"steps": 5000, "batch": 16, "lr": 5e-3 * 16, "weight_decay": 0.01, "images": 25},
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_published_settings_are_the_authors(name):
    kind = resolve("method", DEFENSES | ATTACKS, name)
    if name in ATTACKS:
        made = kind.as_published().config()
        own = kind.as_published(at_once=3)
        assert own.at_once == 3 and {**own.config(), "at_once": made["at_once"]} == made
    else:
        made = kind.as_published(seed=7)
        assert made.pop("seed") == 7
        kind.check_settings(made)  # every one is a setting
    assert {key: made[key] for key in OFFICIAL[name]} == OFFICIAL[name]


def test_nothing_published_is_a_default_unseen():
    """A published value that is ours too need not be named; one that is named twice must agree."""
    unlike = {name for name in DEFENSES | ATTACKS if resolve("method", DEFENSES | ATTACKS, name).published}
    assert unlike == set(OFFICIAL)


# ---- UCE and RECE ----


def vectors(n, dim, seed, *, still=False):
    g = torch.Generator().manual_seed(seed)
    c, v = (torch.randn(n, dim, generator=g, dtype=torch.float64) for _ in range(2))
    return Vectors(c, c if still else v, torch.rand(n, generator=g, dtype=torch.float64) + 0.1)


def closed_form(w, erase, keep, e, p, lamb):
    """(l W + e Σ v cᵀ + p Σ v kᵀ) (l I + e Σ c cᵀ + p Σ k kᵀ)⁻¹ with v what ``w`` says of the guide; row by row."""
    w = w.numpy()
    left, right = lamb * w, lamb * np.eye(w.shape[1])
    for factor, part in ((e, erase), (p, keep)):
        for c, guide in zip(part.source.numpy(), part.guide.numpy(), strict=True):
            left = left + factor * np.outer(w @ guide, c)
            right = right + factor * np.outer(c, c)
    return torch.from_numpy(left @ np.linalg.inv(right))


def test_uce_with_sums_is_the_published_closed_form():
    w = torch.randn(9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    erase, keep = vectors(5, 12, 1), vectors(7, 12, 2, still=True)
    found = w + solved({"a": w}, erase, keep, Closed(**UCE.published))["a"]
    torch.testing.assert_close(found, closed_form(w, erase, keep, 1.0, 1.0, 0.5), rtol=1e-9, atol=1e-10)
    twice = Vectors.join([erase, erase])  # a longer list weighs more: what means over texts take out
    more = w + solved({"a": w}, twice, keep, Closed(**UCE.published))["a"]
    torch.testing.assert_close(more, closed_form(w, erase, keep, 2.0, 1.0, 0.5), rtol=1e-9, atol=1e-10)


def test_rece_as_published_sees_its_guides_with_the_current_weights():
    g = torch.Generator().manual_seed(0)
    w = torch.randn(9, 12, generator=g, dtype=torch.float64)
    erase, keep, again = vectors(5, 12, 1), vectors(5, 12, 2, still=True), vectors(5, 12, 3)
    training = RECETraining(**{**RECE.published, "epochs": 2, "validate_images": 0})
    states = []
    repeated({"a": w}, erase, keep, again, training, lambda deltas, epoch: states.append(w + deltas["a"]))
    now = closed_form(w, erase, keep, 1.0, 0.1, 0.1)
    torch.testing.assert_close(states[0], now, rtol=1e-9, atol=1e-10)
    for state in states[1:]:
        back = np.linalg.inv(0.1 * np.eye(12) + now.numpy().T @ now.numpy()) @ (now.numpy().T @ w.numpy())
        attacked = Vectors(again.source @ torch.from_numpy(back).T, again.guide, again.weight)
        now = closed_form(now, attacked, keep, 1.0, 0.1, 0.1)
        torch.testing.assert_close(state, now, rtol=1e-8, atol=1e-9)
    ours = []
    original = RECETraining(**{**RECE.published, "epochs": 2, "validate_images": 0, "guides": "original"})
    repeated({"a": w}, erase, keep, again, original, lambda deltas, epoch: ours.append(w + deltas["a"]))
    assert torch.equal(ours[0], states[0]) and not torch.allclose(ours[1], states[1])
    assert RECETraining().guides == "original" and not Closed().sums  # ours stay the defaults
    with pytest.raises(UserError, match="current, original"):
        RECETraining(guides="both")


# ---- ESD ----


def test_esd_trains_biases_where_asked(tmp_path):
    """The additions to weights and biases are those of a copy of the model with both as parameters."""
    fast = {"trajectories": 2, "draw_steps": 2, "steps": 3, "batch": 2, "checkpoint_every": 2, "lr": 1e-2}
    pipe, concept = tiny("sd1"), WEAPON
    made = ESD.fit(pipe, concept, work=tmp_path / "w", scope="x", biases=True, **fast)
    layers = layers_in(adapter(pipe), "x")
    biased = {f"unet.{name}.bias" for name, layer in layers.items() if layer.bias is not None}
    assert biased and set(made.targets) == {f"unet.{name}.weight" for name in layers} | biased
    assert all(float(made.delta(name).abs().max()) > 0 for name in biased)
    made.save_pretrained(tmp_path / "d")
    assert set(ESD.from_pretrained(tmp_path / "d").targets) == set(made.targets)
    low = made.as_lora(2)[0]
    assert all(torch.equal(low.delta(name), made.delta(name)) for name in biased)
    without = ESD.fit(pipe, concept, work=tmp_path / "v", scope="x", **fast)
    assert not [name for name in without.targets if name.endswith(".bias")]


@pytest.mark.parametrize("scope", ["x", "u"])
@pytest.mark.parametrize("rank", [0, 2])
def test_additions_to_biases_are_additions_to_biases(scope, rank):
    pipe = tiny("sd1")
    backbone = adapter(pipe)
    layers = layers_in(backbone, scope)
    added = Adapters(layers, rank, torch.Generator().manual_seed(0), biases=True)
    for i, (name, parameter) in enumerate(added.parameters.items()):
        parameter.data.normal_(std=0.02, generator=torch.Generator().manual_seed(i))
        if name.endswith(".lora_B.weight"):
            parameter.data.zero_()
        if name.endswith(".weight_delta"):
            parameter.data.zero_()
    predict = DenoiserCall(Sampler(backbone))
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        plain = predict(x, torch.tensor([10.0]))
        with added.attached():
            one = predict(x, torch.tensor([10.0]))
        for name, layer in layers.items():
            if layer.bias is not None:
                layer.bias += added.parameters[name + ".bias_delta"]
        other = predict(x, torch.tensor([10.0]))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, plain, atol=1e-3)


def test_a_clip_of_zero_clips_nothing(tmp_path):
    """Adam without weight decay, step by step, on the whole gradient."""
    pipe = tiny("sd1")
    backbone = adapter(pipe)
    layers = dict(list(token_layers(backbone).items())[:1])

    def fitted(clip):
        adapters = Adapters(layers, 0, torch.Generator())
        (parameter,) = adapters.parameters.values()
        goal = torch.linspace(-90, 90, parameter.numel()).view_as(parameter) ** 3

        def loss(step, generator):
            return (parameter - goal / (1 + step)).square().sum(), {}

        fit = Fit(pipe, WEAPON, tmp_path / str(clip), (), 0, lambda *a: None)
        descend(fit, backbone, adapters, loss, Plan(steps=4, lr=0.1, weight_decay=0.0, clip=clip), "x")
        return parameter.detach(), goal

    found, goal = fitted(0.0)
    x, m, v = torch.zeros_like(goal), torch.zeros_like(goal), torch.zeros_like(goal)
    for step in range(4):
        slope = 2 * (x - goal / (1 + step))
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        x = x - 0.1 * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    torch.testing.assert_close(found, x)
    assert not torch.equal(found, fitted(1.0)[0])


# ---- DUO ----


def test_duo_has_the_rate_of_its_family():
    nudity = concepts.load("nudity")
    rates = {family: settled(DuoTraining(), nudity, PRESETS, family).base_lr for family in ("", "sd1", "sdxl", "sd3")}
    assert rates == {"": 3e-4, "sd1": 3e-4, "sdxl": 3e-4, "sd3": 3e-5}
    assert settled(DuoTraining(base_lr=1e-3), nudity, PRESETS, "sd3").base_lr == 1e-3
    assert settled(DuoTraining(), nudity, PRESETS, "sd3").beta == 500.0
    own = settled(DuoTraining(), WEAPON, PRESETS, "sd3")  # picto's concepts keep picto's
    assert own.base_lr == PRESETS["picto"]["base_lr"]
    asked = settled(DuoTraining(**Duo.published), WEAPON, PRESETS, "sd3")
    assert (asked.beta, asked.base_lr, asked.base_lambda, asked.text) == (500.0, 3e-5, 1e6, "empty")
    with pytest.raises(UnknownName, match="did you mean 'paper'"):
        settled(DuoTraining(preset="papers"), nudity, PRESETS)


@pytest.mark.slow
def test_a_fit_on_sd3_uses_it(tmp_path):
    made = Duo.fit(tiny("sd3"), WEAPON, work=tmp_path, **{**Duo.quick, "preset": "paper", "judge": "none"})
    assert made.record["training"]["base_lr"] == 3e-5


# ---- UnlearnDiffAtk ----


def test_the_gradient_is_clamped_and_the_words_are_one_hot():
    weights = torch.tensor([[[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]]], requires_grad=True)
    chosen, factor = torch.tensor([[1, 2]]), torch.tensor([[[0.3, -7.0, 2.0], [0.0, 1.0, -0.5]]])
    out = straight_through(weights, chosen, "gradient")
    assert out.tolist() == [[[0, 1, 0], [0, 0, 1]]]
    (out * factor).sum().backward()
    assert torch.equal(weights.grad, factor.clamp(-1, 1))
    assert straight_through(weights.detach(), chosen, "gradient").tolist() == out.tolist()  # without slopes, too


def test_unlearn_diff_as_published_is_adam_with_l2_decay_from_the_middle(monkeypatch):
    """Every weight after each step, against Adam written out: the decay joins the gradient before the moments."""
    pipe, seen = tiny("sd1"), []
    attack = UnlearnDiff.as_published(length=2, timesteps=2, per_timestep=2, draw_steps=1, exam=1)
    given = {}

    def slope(self, scene, places, view, weights, first):
        n = len(given)
        g = torch.Generator().manual_seed(n)
        given[n] = 3 * torch.randn(weights.shape, generator=g)
        seen.append(weights.detach().clone())
        return given[n].clone()

    monkeypatch.setattr(UnlearnDiff, "_slope", slope)
    attack(pipe, WEAPON, PROMPTS[:2], seed=1)
    x, m, v = torch.full_like(seen[0], 1.0 / seen[0].shape[-1]), 0.0, 0.0
    assert len(seen) == 4
    for step, found in enumerate(seen):
        torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-7)
        g = given[step] + 0.1 * x  # L2
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - 0.01 * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        x = simplex(x)


def test_unlearn_diff_walks_through_the_published_times():
    assert UnlearnDiff.as_published()._times(1000) == list(range(10, 1000, 20))


def test_the_published_attack_runs_and_ours_is_another(tmp_path):
    pipe = tiny("sd1")
    budget = {"length": 2, "timesteps": 2, "per_timestep": 3, "draw_steps": 1, "exam": 2}
    found = UnlearnDiff(**{**UnlearnDiff.published, **budget})(pipe, WEAPON, PROMPTS, seed=3)
    assert all(f.after <= f.before for f in found)
    default = UnlearnDiff()
    assert (default.optimizer, default.start, default.clamp) == ("adamw", "random", "weights")
    for name in ("optimizer", "start", "clamp"):
        with pytest.raises(UnknownName, match=name):
            UnlearnDiff(**{name: "other"})


# ---- P4D ----


def interleaved(ids, every):
    """Position by position: every (every + 1)-th is free, and there are len // every + 1 free ones."""
    kept = iter(ids)
    places = range(len(ids) + len(ids) // every + 1)
    return [None if i % (every + 1) == 0 else next(kept) for i in places]


@pytest.mark.parametrize("text", ["a b c d e f", "a b c d e f g", "a b", "a b c", ""])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_p4d_k_as_published_has_a_free_word_in_front(text, every):
    tokenizer = built("sd1").tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    pieces = P4D.as_published(variant="K", every=every)._pieces(text, tokenizer)
    said = []
    for piece in pieces:
        said += [None] if piece is None else tokenizer(piece, add_special_tokens=False).input_ids
    assert said == interleaved(ids, every)


def test_p4d_counts_tokens_or_words():
    tokenizer = built("sd1").tokenizer
    text = "two daggers"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > 2  # several tokens a word, so that counting differs
    pieces = P4D.as_published(variant="K", every=2)._pieces(text, tokenizer)
    assert sum(piece is None for piece in pieces) == len(ids) // 2 + 1 and pieces[0] is None
    assert P4D(variant="K", every=2)._pieces(text, tokenizer) == ("two daggers", None)  # ours, as it was
    assert P4D(variant="K", every=1, front=True)._pieces(text) == (None, "two", None, "daggers", None)
    assert P4D.as_published(length=2)._pieces(text, tokenizer) == (None, None)
    with pytest.raises(UnknownName, match="count"):
        P4D(count="letters")


def test_p4d_k_as_published_runs():
    quick = {"steps": 3, "check_every": 1, "bank": 2, "draw_steps": 1, "exam": 1}
    found = P4D.as_published(variant="K", **quick)(tiny("sd1"), WEAPON, PROMPTS, seed=3)
    assert len(found) == 3 and all(f.after <= f.before for f in found)


# ---- concept inversion ----


def test_an_inversion_decays_as_adamw_does(tmp_path):
    """Two runs that differ in the decay alone: after one step the embeddings differ by lr · decay · the start."""
    pipe, made = tiny("sd1"), {}
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for decay in (0.0, 0.5):
        how = inversion.Inversion(init="dagger", steps=1, lr=0.1, weight_decay=decay)
        made[decay] = inversion.invert(pipe, latents, how, work=tmp_path / str(decay), seed=3)[0]
    start = inversion.word_rows(adapter(pipe), "dagger")[0]
    torch.testing.assert_close(made[0.0] - made[0.5], 0.1 * 0.5 * start, rtol=1e-3, atol=1e-5)
    assert ConceptInversion().weight_decay == 0.0


# ---- SAFREE and SLD ----


def test_a_cutoff_of_zero_is_the_whole_span():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 9, generator=g, dtype=torch.float64)
    x[2] = x[0] + 1e-4 * x[2]  # a direction below our cut-off, and far above float64's noise
    whole = x.T.numpy() @ np.linalg.pinv((x @ x.T).numpy(), rcond=1e-15) @ x.numpy()
    np.testing.assert_allclose(projector(x, 0.0).numpy(), whole, atol=1e-6)
    assert basis(x).shape[1] == 2 and basis(x, 0.0).shape[1] == 3
    assert basis(torch.cat([x, x[:1]]), 0.0).shape[1] == 3  # what float64 cannot tell from none is none
    with pytest.raises(UserError, match="cutoff"):
        SAFREE(phrases=("x",), cutoff=1.0)


def test_the_cutoff_reaches_both_spans(monkeypatch):
    used = []
    monkeypatch.setattr(safree_guard, "basis", lambda rows, cutoff: used.append(cutoff) or basis(rows, cutoff))
    backbone = adapter(built("sd1"))
    made = SAFREE(phrases=("weapon", "sword"), **SAFREE.as_published())
    bases = {name: safree_guard.basis(rows, made.cutoff) for name, rows in made.columns(backbone).items()}
    made.filter(backbone, "a dagger", bases)
    assert set(used) == {0.0} and len(used) == 2


def test_a_prompt_beyond_the_window_is_tested_as_far_as_it_is_read():
    """The released code cuts the end token off there and reads the start token, whose row no token changes: nothing
    would be a trigger. Here the end token stays, so the copies differ."""
    pipe = built("sd1")
    backbone = adapter(pipe)
    text = " ".join(["a red dagger by the old house"] * 12)
    ids = inversion.spell(backbone, [text])
    assert ids[0].shape[1] == 77 and int(ids[0][0, -1]) == pipe.tokenizer.eos_token_id
    columns = left_out(backbone, ids, None)["clip"]
    assert len(columns) == 75
    assert float((columns[0] - columns[40]).abs().max()) > 1e-6
    with torch.no_grad():
        cut = torch.tensor([pipe.tokenizer(text, truncation=False).input_ids[:77]]).repeat(3, 1)
        cut[torch.arange(3), 1 + torch.arange(3)] = 0
        rows = pipe.text_encoder(cut)[0][:, 0].double()  # what that code has: no end token, the start's row
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])
    assert not triggers(rows.norm(dim=1), 0.01).any()


def test_sld_as_published_counts_the_samplers_own_steps():
    guard = SLD(text="weapon", **SLD.as_published())
    assert [guard.delay(n) for n in (50, 25, 4)] == [10, 10, 10]
    assert [SLD(text="weapon").delay(n) for n in (50, 25, 4)] == [10, 5, 1]
