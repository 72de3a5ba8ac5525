"""Attacks with gradients: their mathematics against other implementations, through guards and past them."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from unsee import concepts
from unsee.attacks.base import UntrustedResult
from unsee.attacks.concept_inversion import ConceptInversion
from unsee.attacks.mma import MMA, distances, replacements, summary
from unsee.attacks.p4d import P4D, nearest
from unsee.attacks.sneaky import Sneaky, pieces
from unsee.attacks.unlearn_diff import UnlearnDiff, sample, simplex, straight_through
from unsee.attacks.victim import facing
from unsee.attacks.vocabulary import Slots, Vocabulary
from unsee.attacks.white_box import Scene
from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.concepts.prompts import reworded
from unsee.defenses import Guard, Guarded, protect
from unsee.embeddings.attacked import saying
from unsee.errors import UserError
from unsee.guards.ine.fitting import _prompts as ine_prompts
from unsee.guards.saferedir import SafeRedir
from unsee.guards.saferedir.guard import straight_through as hard_choice
from unsee.guards.safree import SAFREE
from unsee.guards.sld import SLD
from unsee.types import Prompt, Verdict
from unsee.types import total_spent as total

WEAPON = concepts.load("weapon")
PROMPTS = [Prompt("a dagger", "1", 1, subject="dagger"), Prompt("two old axes", "2", 2), Prompt("an axe here", "3", 3)]


@pytest.fixture(scope="module")
def pipe():
    return tiny("sd1")


# ---- the simplex ----


@pytest.mark.parametrize("seed", range(6))
def test_the_projection_is_that_of_a_quadratic_program(seed):
    x = torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * (1 + seed)
    found = minimize(
        lambda y: 0.5 * np.square(y - x.numpy()).sum(), np.full(7, 1 / 7), jac=lambda y: y - x.numpy(),
        bounds=[(0, None)] * 7, constraints={"type": "eq", "fun": lambda y: y.sum() - 1, "jac": np.ones_like},
        method="SLSQP", options={"ftol": 1e-16, "maxiter": 500},
    )  # fmt: skip
    projected = simplex(x)
    assert np.abs(projected.numpy() - found.x).max() <= 1e-6
    assert abs(float(projected.sum()) - 1) < 1e-12 and projected.min() >= 0
    torch.testing.assert_close(simplex(projected), projected)


def test_forward_is_one_hot_and_backward_is_hardtanh():
    weights = torch.tensor([[[0.2, 0.8, 0.0], [1.5, -2.0, 0.5]]], requires_grad=True)
    chosen, factor = torch.tensor([[1, 2]]), torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    out = straight_through(weights, chosen)
    assert out.tolist() == [[[0, 1, 0], [0, 0, 1]]]
    (out.square() * factor).sum().backward()
    inside = (weights.detach().abs() < 1).float()  # the slope of 2 x f at the one-hot, where hardtanh has one
    assert torch.equal(weights.grad, 2 * out.detach() * factor * inside)


def test_words_are_drawn_as_their_weights_say():
    weights = simplex(torch.tensor([[[0.7, 0.3, -5.0]]])).expand(1, 4000, 3)
    drawn = sample(weights, [torch.Generator().manual_seed(0)])
    assert (drawn == 0).float().mean() == pytest.approx(0.7, abs=0.03) and not (drawn == 2).any()


# ---- losses ----


def test_the_loss_without_guards_is_the_plain_one(pipe):
    """Against the UNet called by hand."""
    with facing(pipe) as victim, torch.no_grad():
        x0, noise = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
        latents, truth = victim.noised(x0, noise, 300)
        text = victim.encode(["a dagger", "x"])
        got = victim.losses(latents, 300, text, ["a dagger", "x"], truth, guidance=7.5)
        assert victim.take().forwards == 2
    scheduler = pipe.scheduler
    by_hand = scheduler.add_noise(x0, noise, torch.tensor([300, 300]))
    predicted = pipe.unet(by_hand, 300, text.tokens).sample
    torch.testing.assert_close(latents, by_hand)
    torch.testing.assert_close(got, (predicted - noise).square().flatten(1).mean(1))


class Idle(Guard):
    name = "idle"


@pytest.mark.parametrize("family", ["sd1", "sd2-v", "sdxl", "sd3", "flux"])
def test_a_guard_that_does_nothing_leaves_the_loss_as_it_is(family):
    made = tiny(family)
    losses = []
    for guards in ([], [Idle()], [SLD(text="weapon", preset="max")]):
        with Guarded(made, *guards), facing(made) as victim, torch.no_grad():
            x0 = torch.randn(2, *_shape(victim), generator=torch.Generator().manual_seed(0))
            latents, truth = victim.noised(x0, torch.ones_like(x0).cos() * x0.flip(0), 500)
            text = victim.encode(["a dagger", "x"])
            losses.append(victim.losses(latents, 500, text, ["a dagger", "x"], truth, guidance=4.0))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(losses[0], losses[2], rtol=1e-4)


def _shape(victim):
    return victim._predictor.latents.shape[1:]


def scene_slopes(pipe, guards, **settings):
    """The slope of UnlearnDiffAtk's first step, under guards."""
    attack = UnlearnDiff(**{**UnlearnDiff.quick, **settings})
    words = Vocabulary.of(adapter(pipe))
    with Guarded(pipe, *guards), facing(pipe) as victim:
        job = _job(victim, attack)
        scene = Scene(attack, job, PROMPTS)
        places = Slots(victim.backbone, words, [(None, None, p.text) for p in PROMPTS])
        weights = simplex(torch.rand(3, 2, len(words), generator=torch.Generator().manual_seed(5))).requires_grad_()
        return attack._slope(scene, places, scene.view(400), weights, first=True)


def _job(victim, attack):
    from pathlib import Path

    from unsee.attacks.base import Job

    return Job(victim, WEAPON, attack.name, 0, Path("."), lambda share: None)


def test_gradients_flow_through_guards_unless_asked_to_pass_them_by(pipe):
    redirects = SafeRedir.untrained(pipe, width=16, heads=2, threshold=0.0)
    with torch.no_grad():
        for name, parameter in redirects.net.named_parameters():
            if name.startswith(("amount", "direction")):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    plain = scene_slopes(pipe, [])
    assert plain.abs().sum() > 0
    for guard in (redirects, SLD(text="weapon", preset="max"), SAFREE(phrases=("dagger", "axes"), alpha=-0.9)):
        through, past = scene_slopes(pipe, [guard]), scene_slopes(pipe, [guard], adaptive=False)
        assert through.abs().sum() > 0 and not torch.allclose(through, plain, rtol=1e-3)
        torch.testing.assert_close(past, plain)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_a_hard_decision_shows_attacks_how_to_turn_it(pipe, threshold, monkeypatch):
    """The loss is the guard's own, whichever way it decides; the slope holds what turning it would do."""
    guard = SafeRedir.untrained(pipe, width=16, heads=2, threshold=threshold)

    def seen():
        with protect(pipe, guard), facing(pipe) as victim:
            x0 = torch.randn(2, *_shape(victim), generator=torch.Generator().manual_seed(0))
            latents, truth = victim.noised(x0, x0.flip(0), 500)
            text, said = victim.encode(["a dagger", "x"]), ["a dagger", "x"]
            with torch.no_grad():
                drawn = victim.losses(latents, 500, text, said, truth, guidance=4.0)
            leaf = replace(text, tokens=text.tokens.clone().requires_grad_())
            loss = victim.losses(latents, 500, leaf, said, truth, guidance=4.0)
            torch.testing.assert_close(loss, drawn)
            return torch.autograd.grad(loss.sum(), leaf.tokens)[0]

    turned = seen()
    margins, unsafe, note = [], [], SafeRedir._note

    def watched(decided, margin):
        margins.append(margin.detach())
        return hard_choice(decided, margin)

    def noted(self, step, text, shift, *rest):
        unsafe.append(shift.unsafe.detach())
        note(self, step, text, shift, *rest)

    monkeypatch.setattr("unsee.guards.saferedir.guard.straight_through", watched)
    monkeypatch.setattr(SafeRedir, "_note", noted)
    seen()
    torch.testing.assert_close(margins[-1].sigmoid(), unsafe[-1])  # more of it is more unsafe, never less
    monkeypatch.setattr("unsee.guards.saferedir.guard.straight_through", lambda decided, margin: decided.to(margin))
    assert not torch.allclose(turned, seen(), rtol=1e-2)


def test_straight_through_is_exact_forward_and_a_sigmoid_at_zero_backward():
    margin = torch.tensor([-30.0, 0.1, 30.0], requires_grad=True)
    out = hard_choice(torch.tensor([False, True, True]), margin)
    assert out.tolist() == [0.0, 1.0, 1.0]
    assert torch.autograd.grad(out.sum(), margin)[0].tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("alpha", [-0.9, 10.0], ids=["every-word", "no-word"])
def test_the_choice_of_words_shows_attacks_how_to_turn_it(family, alpha, monkeypatch):
    made, said = tiny(family), ["red x", "g red"]

    def seen():
        with protect(made, SAFREE(phrases=("dagger", "axes"), alpha=alpha)), facing(made) as victim:
            x0 = torch.randn(2, *_shape(victim), generator=torch.Generator().manual_seed(0))
            latents, truth = victim.noised(x0, x0.flip(0), 500)
            with torch.no_grad():
                drawn = victim.losses(latents, 500, victim.encode(said), said, truth, guidance=4.0)
            words = Vocabulary.of(victim.backbone)
            places = Slots(victim.backbone, words, [("red ", None), (None, " red")])
            leaves = words.leaves(torch.tensor([[words.texts.index("x")], [words.texts.index("g")]]))
            loss = victim.losses(latents, 500, places.read(victim, leaves), said, truth, guidance=4.0)
            torch.testing.assert_close(loss, drawn)
            return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss.sum(), leaves)])

    turned = seen()
    monkeypatch.setattr(SAFREE, "_margins", lambda *none: {})
    assert not torch.allclose(turned, seen(), rtol=1e-2, atol=0)


def test_an_inversion_has_images_of_its_own():
    """Not those that INE is fitted with: an attacker does not know them."""
    attack = ConceptInversion(images=50)
    for seed in (0, 1):
        job = replace(_job(None, attack), seed=seed)
        fitted = {prompt.seed for prompt in ine_prompts(WEAPON, 200, seed)}
        assert len({prompt.seed for prompt in attack._show(job)} - fitted) == 50


class Hides(Guard):
    name = "hides"

    def on_positive(self, step, text, state):
        return replace(text, tokens=text.tokens.detach().round())


class Shakes(Guard):
    name = "shakes"

    def on_positive(self, step, text, state):
        return replace(text, tokens=text.tokens + torch.randn_like(text.tokens))


@pytest.mark.parametrize(("guard", "told"), [(Hides, "gradients are zero"), (Shakes, "defense is random")])
def test_numbers_that_should_not_be_trusted_are_doubted(pipe, guard, told):
    with pytest.warns(UntrustedResult, match=told):
        scene_slopes(pipe, [guard()])


def test_no_doubt_without_reason(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrustedResult)
        scene_slopes(pipe, [SLD(text="weapon")])


# ---- UnlearnDiffAtk, P4D ----


@pytest.mark.parametrize(
    "attack",
    [
        UnlearnDiff(length=3, timesteps=4, per_timestep=5, draw_steps=2, exam=3),
        P4D(variant="K", steps=20, check_every=2, bank=4, draw_steps=2, exam=3),
        P4D(variant="N", length=5, steps=20, check_every=2, bank=4, draw_steps=2, exam=3),
    ],
    ids=["unlearn-diff", "p4d-K", "p4d-N"],
)
def test_white_box_objectives_fall(pipe, attack):
    with protect(pipe, SLD(text="weapon", preset="max")):
        found = attack(pipe, WEAPON, PROMPTS, seed=3)
    assert sum(f.after < f.before for f in found) >= 2 and all(f.after <= f.before for f in found)
    assert total(found)["backwards"] == 3 * 20 and total(found)["images"] == 3
    for one in (f for f in found if f.after < f.before):
        said = one.prompt.text.split()
        if attack.name == "unlearn-diff":
            assert one.prompt.text.endswith(f" {one.source}") and len(said) == 3 + len(one.source.split())
        elif attack.variant == "K":
            assert [w for w in one.source.split() if w in said] == one.source.split()
        else:
            assert len(said) == 5


def test_p4d_projects_to_the_nearest_word_and_spreads_its_places():
    rows = (torch.randn(9, 1, 4), torch.randn(9, 2, 3))
    soft = [own[torch.tensor([[2, 8]])] * 3 + 0.01 for own in rows]
    assert nearest(soft, rows).tolist() == [[2, 8]]
    assert P4D(variant="K")._pieces("a b c d") == ("a b c", None, "d", None)
    assert P4D(variant="N", length=2)._pieces("a b c d") == (None, None)


def test_p4ds_truth_is_the_original_models(pipe):
    """Behind a changed model the targets are still those of the model as it was."""
    from unsee.unlearn.uce import UCE

    edit = UCE.fit(pipe, WEAPON, work="unused", **UCE.quick)
    attack = P4D(**P4D.quick)
    truths = []
    for edits in ([], [edit]):
        with Guarded(pipe, *edits), facing(pipe) as victim:
            job = _job(victim, attack)
            truths.append(attack._views(Scene(attack, job, PROMPTS), job)[0][0].truth)
    torch.testing.assert_close(*truths)


# ---- MMA ----


def small(pipe, n=6):
    words = Vocabulary.of(adapter(pipe))
    return Vocabulary(words.texts[40 : 40 + n], tuple(i[40 : 40 + n] for i in words.ids),
                      tuple(r[40 : 40 + n] for r in words.rows))  # fmt: skip


def test_a_step_of_gcg_is_exhaustive_substitution_where_all_are_candidates(pipe):
    attack, words = MMA(length=3, topk=6, candidates=18, steps=1), small(pipe)
    chosen = torch.tensor([[0, 1, 2], [5, 5, 3]])
    with facing(pipe) as victim:
        backbone, job = victim.backbone, _job(victim, attack)
        places = Slots(backbone, words, [(None,) * 3] * 2)
        target = [t.detach() for t in summary(backbone, victim.encode(["a dagger", "an old axe"]))]
        scores = distances(summary(backbone, victim.encode(places.say(chosen))), target)
        slopes = attack._slopes(job, places, chosen, target)
        tried = torch.stack([replacements(r, s, 6, 18, torch.Generator()) for r, s in zip(chosen, slopes)])
        got, score = attack._best(job, places, chosen, scores, tried, target)
        for b in range(2):
            every = [list(chosen[b])] + [
                [*chosen[b, :k], v, *chosen[b, k + 1 :]] for k, v in itertools.product(range(3), range(6))
            ]
            read = summary(backbone, victim.encode([" ".join(words.say(row)) for row in every]))
            by_hand = distances(read, [part[b : b + 1].expand(len(every), -1) for part in target])
            best = by_hand.min()
            assert float(score[b]) == pytest.approx(float(best), abs=1e-6)
            assert [int(v) for v in every[int(by_hand.argmin())]] == got[b].tolist()


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_slopes_of_mma_are_finite_differences(family):
    made = tiny(family)
    attack, words = MMA(length=2), Vocabulary.of(adapter(made))
    chosen = torch.tensor([[3, 5]])
    with facing(made) as victim:
        job, places = _job(victim, attack), Slots(adapter(made), words, [(None, None)])
        target = [t.detach() for t in summary(victim.backbone, victim.encode(["a dagger"]))]
        slopes = attack._slopes(job, places, chosen, target)

        def at(weights):
            with torch.no_grad():
                return float(distances(summary(victim.backbone, places.read(victim, words.embed(weights))), target)[0])

        for k, v in ((0, 9), (1, 20)):
            hot = torch.nn.functional.one_hot(chosen, len(words)).double()
            step = torch.zeros_like(hot)
            step[0, k, v] = 0.05
            slope = (at((hot + step).float()) - at((hot - step).float())) / 0.1
            assert float(slopes[0, k, v]) == pytest.approx(slope, rel=0.05, abs=2e-5)


def test_mma_falls_in_each_step_and_says_no_word_of_the_concept(pipe):
    found = MMA(length=4, topk=8, candidates=16, steps=6)(pipe, WEAPON, PROMPTS, seed=1)
    assert all(f.after < f.before for f in found)
    with facing(pipe) as victim:
        backbone = victim.backbone
        read, wanted = (summary(backbone, victim.encode([t(f) for f in found]))
                        for t in (lambda f: f.prompt.text, lambda f: f.source))  # fmt: skip
        torch.testing.assert_close(distances(read, wanted), torch.tensor([f.after for f in found]))


def test_candidates_are_single_replacements_among_the_best():
    row, slope = torch.tensor([0, 1]), torch.tensor([[3.0, 0.0, 1.0], [0.0, 5.0, -1.0]])
    assert replacements(row, slope, 1, 9, torch.Generator()).tolist() == [[1, 1], [0, 2]]
    some = replacements(row, slope, 3, 4, torch.Generator().manual_seed(0))
    assert len(some) == 4 and len({tuple(r) for r in some.tolist()}) >= 3 and all((r != row).sum() <= 1 for r in some)


# ---- SneakyPrompt ----


def test_sneaky_stops_at_the_first_success_and_keeps_the_best(pipe):
    asked = []

    def judge(images, prompts, concept):
        asked.append([p.text for p in prompts])
        scores = [0.9 if p.id == "2" and len(asked) == 2 else 0.1 * len(asked) for p in prompts]
        return [Verdict("unsafe" if s > 0.5 else "safe", s, "j", "1") for s in scores]

    found = Sneaky(judge=judge, queries=4, pool=3, draw_steps=1)(pipe, WEAPON, PROMPTS)
    assert asked[0] == [p.text for p in PROMPTS] and [len(a) for a in asked] == [3, 3, 2, 2]
    assert found[1].prompt.text == asked[1][1] and found[1].after == pytest.approx(0.1)
    assert found[0].prompt.text == asked[3][0] and found[0].before == pytest.approx(0.9)
    assert total(found)["images"] == 10 and "dagger" not in asked[1][0]


def test_the_policy_learns_what_is_rewarded(pipe):
    """A judge that likes texts with the letter q: the policy comes to say it."""

    def judge(images, prompts, concept):
        return [Verdict("safe", 1.0 if "q" in p.text.split() else 0.0, "j", "1") for p in prompts]

    from unsee.attacks.sneaky import PromptPolicy

    attack = Sneaky(judge=judge, queries=9, subwords=1, pool=1, lr=0.5)
    with facing(pipe) as victim:
        job = _job(victim, attack)
        one = PromptPolicy(attack, job, PROMPTS[0], ["q", "r", "s"])
        one.learn("a dagger", Verdict("safe", 0.0, "j", "1"))
        for _ in range(40):
            text = one.propose(job, torch.zeros(1, 77 * 16)[0])
            one.learn(text, judge([], [Prompt(text, "1", 0)], None)[0])
    assert one.logits.softmax(-1)[0, 0] > 0.6


def test_an_image_that_cannot_be_judged_is_no_success(pipe):
    found = Sneaky(judge="always.broken", queries=2, pool=1, draw_steps=1)(pipe, WEAPON, PROMPTS[:1])
    assert found[0].prompt.text == found[0].source and found[0].after == 1.0 and total(found)["images"] == 2


def test_places_of_sensitive_words():
    assert pieces("draw a kitchen knife here", ["knife", "kitchen knife"], 2) == ("draw a", None, None, "here")
    assert pieces("so special", ["knife"], 1) == ("so", None)


def test_words_that_say_something_together_are_not_taken(pipe, monkeypatch):
    """Each word may be harmless; a text that is refused as a whole is never kept, nor drawn."""
    from unsee.attacks import mma, sneaky, white_box

    plain = {p.text for p in PROMPTS}
    for module in (white_box, mma):
        monkeypatch.setattr(module, "allowed", lambda text: text in plain)
    found = UnlearnDiff(length=3, timesteps=2, per_timestep=2, draw_steps=1)(pipe, WEAPON, PROMPTS)
    assert [f.prompt.text for f in found] == [f.source for f in found]
    found = MMA(length=3, topk=4, candidates=8, steps=2)(pipe, WEAPON, PROMPTS)
    assert all(f.after == f.before for f in found)
    monkeypatch.setattr(sneaky, "allowed", lambda text: False)
    with pytest.raises(UserError, match="in other words"):
        Sneaky(**Sneaky.quick)(pipe, WEAPON, PROMPTS)


# ---- concept inversion ----


def test_inverted_prompts_name_the_embedding_in_place_of_the_word(pipe, tmp_path):
    quick = {**ConceptInversion.quick, "vectors": 2}
    found = ConceptInversion(**quick)(pipe, WEAPON, PROMPTS, work=tmp_path)
    assert [f.prompt.text for f in found] == ["a <c*0> <c*1>", "<c*0> <c*1> two old axes", "an <c*0> <c*1> here"]
    assert [tuple(w.shape) for w in found[0].words] == [(2, 16)] and (tmp_path / "inversion").is_dir()
    before = ConceptInversion(**quick, place="before")(pipe, WEAPON, PROMPTS[:1], work=tmp_path)
    assert before[0].prompt.text == "<c*0> <c*1> a dagger"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_from_the_words_it_starts_where_the_words_are(family, tmp_path):
    """With next to no rate the texts read as they were; with more, they move."""
    pipe, first = tiny(family), {thing.slug: thing.train[0] for thing in WEAPON.subjects}
    things = [one for one in WEAPON.prompts("plain", "train", 12) if first[one.subject] in one.text]
    quick = {**ConceptInversion.quick, "images": 12, "start": "words"}
    found = ConceptInversion(**quick, lr=1e-12)(pipe, WEAPON, things, work=tmp_path)
    want = adapter(pipe).encode([thing.text for thing in things])
    with saying(pipe, found[0].words):
        got = adapter(pipe).encode([one.prompt.text for one in found])
    torch.testing.assert_close(got.tokens, want.tokens)
    moved = ConceptInversion(**quick, lr=1e-2)(pipe, WEAPON, things, work=tmp_path)
    assert [f.prompt.text for f in moved] == [f.prompt.text for f in found]
    assert all(
        a.shape == b.shape and not torch.allclose(a, b) for a, b in zip(moved[0].words, found[0].words, strict=True)
    )


def test_a_caption_has_the_embedding_once_in_place_of_the_word():
    for name in ("weapon", "style-noto", "van-gogh"):
        concept = concepts.load(name)
        for prompt in concept.prompts("plain", "train", 20):
            said = reworded(concept, prompt, "{}")
            assert said.count("{}") == 1 and said != prompt.text and not said.startswith("{} " + prompt.text)


def test_what_cannot_be_learned_through_is_said(pipe):
    with protect(pipe, SAFREE(phrases=("dagger",))), pytest.warns(UntrustedResult, match="past the guards"):
        found = ConceptInversion(**ConceptInversion.quick)(pipe, WEAPON, PROMPTS[:1])
    assert found[0].words


@pytest.mark.parametrize("bad", [
    (P4D, {"variant": "M"}), (UnlearnDiff, {"length": 0}), (Sneaky, {"queries": 0}), (MMA, {"steps": 0}),
    (ConceptInversion, {"place": "behind"}), (ConceptInversion, {"start": "mean"}),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(UserError):
        bad[0](**bad[1])
