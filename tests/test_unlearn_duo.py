"""DUO: its loss against an independent slow one, its pairs, its resuming, its errors, every family."""

from __future__ import annotations

import functools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import protect
from unsee.defenses.presets import settled
from unsee.errors import BadFile, Mismatch, UnknownName, UserError
from unsee.judges.base import Judge
from unsee.registry import JUDGES
from unsee.sampling.denoiser import DenoiserCall
from unsee.sampling.sampler import Sampler
from unsee.unlearn.adapters import Adapters
from unsee.unlearn.duo import Duo, pairs
from unsee.unlearn.duo.loss import PairBatch, Scaled, duo_loss, duo_loss_by_rows, last_time, preference, times
from unsee.unlearn.duo.train import PRESETS, DuoTraining, harmless, self_attention
from unsee.unlearn.lora import A, B

shared = functools.cache(tiny)
FLOW = ("sd3", "flux", "sana")
TIME = {"flux": 1 / 1000, "sana": 0.5}  # what the denoiser is told, per step of the scheduler
every_family = pytest.mark.parametrize("family", FAMILIES)
PAPER = {"base_lr": 3e-4, "base_lambda": 1e6, "beta": 500.0, "neighbor": 0.0, "text": "empty"}
SMALL = {
    "n": 2,
    "everyday": 2,
    "steps": 3,
    "batch": 2,
    "rank": 2,
    "draw_steps": 2,
    "judge": "none",
    "checkpoint_every": 1,
}
FAST = PAPER | SMALL


class Toy(Judge):
    """Answers by script: ``answer(call, i)`` is True for unsafe. Even calls see unsafe images, odd ones their twins."""

    name = "toy"
    calls = 0
    answer = staticmethod(lambda call, i: call % 2 == 0)

    def judge(self, images, prompts, concept):
        found = [self.unsafe() if Toy.answer(Toy.calls, i) else self.safe() for i in range(len(images))]
        Toy.calls += 1
        return found


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(JUDGES.own, "toy", f"{__name__}:Toy")
    monkeypatch.setattr(Toy, "calls", 0)
    monkeypatch.setattr(Toy, "answer", staticmethod(lambda call, i: call % 2 == 0))
    return Toy


@pytest.fixture
def weapon():
    return concepts.load("weapon")


def rig(family, *, dtype=torch.float32, trained=True, n=2):
    """A tiny model with adapters (not at their start if ``trained``), a predictor, and one random batch."""
    pipe = tiny(family).to(dtype)
    backbone = adapter(pipe)
    predict = DenoiserCall(Sampler(backbone))
    adapters = Adapters(self_attention(backbone), 2, torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    if trained:
        for name, p in adapters.parameters.items():
            if name.endswith(B):
                p.data.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    shape = (n, *predict.latents.shape[1:])
    safe, unsafe, noise = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    t_safe, t_unsafe = times(backbone, n, "independent", g)
    return pipe, backbone, predict, adapters, PairBatch(safe, unsafe, noise, t_safe, t_unsafe)


# ---- the mathematics ----


@every_family
def test_at_the_start_the_loss_is_ln_2_and_off_is_bit_identical(family):
    pipe, backbone, predict, adapters, batch = rig(family, trained=False)
    t = torch.tensor([500.0, 20.0])
    plain = predict(batch.safe, t)
    with adapters.attached():
        loss = duo_loss(predict, adapters, backbone, batch, 500.0, 5e6)
        assert float(loss.total.detach()) == pytest.approx(math.log(2), abs=1e-6)
        assert float(loss.preserve) == 0 and float(loss.margin) == 0
        loss.total.backward()
        moved = [p.grad.abs().max() for name, p in adapters.parameters.items() if name.endswith(B)]
        assert max(moved) > 0
        for p in adapters.parameters.values():
            p.data.add_(0.1)
        assert not torch.equal(predict(batch.safe, t), plain)
        with adapters.off():
            assert torch.equal(predict(batch.safe, t), plain)
    assert torch.equal(predict(batch.safe, t), plain)


def slow_loss(pipe, backbone, predict, parameters, batch, beta, lamb):
    """Image by image, from the formula, with the scheduler's own noising and the low-rank product in the weights."""
    denoiser, family = backbone.denoiser, backbone.family
    merged = {n.removesuffix(A) + ".weight": parameters[n.removesuffix(A) + B] @ parameters[n] for n in parameters
              if n.endswith(A)}  # fmt: skip
    merged = {name: denoiser.get_parameter(name) + delta for name, delta in merged.items()}

    def f(x, t, on):
        values = dict(predict.values)
        names = backbone.names
        values[names["latents"]] = x[None]
        values[names["t"]] = torch.tensor([t * TIME.get(family, 1.0)], dtype=torch.float64)
        if family not in FLOW:
            values[names["t"]] = values[names["t"]].long()
        return torch.func.functional_call(denoiser, merged if on else {}, kwargs=values)[0][0, : x.shape[0]]

    def noisy(x0, e, t):
        if family in FLOW:
            return (1 - t / 1000) * x0 + t / 1000 * e, e - x0
        squared = pipe.scheduler.alphas_cumprod.double()[int(t)]
        x = squared.sqrt() * x0 + (1 - squared).sqrt() * e
        return x, squared.sqrt() * e - (1 - squared).sqrt() * x0 if backbone.prediction_type == "v" else e

    total, n = 0.0, len(batch.safe)
    last = 1000.0 if family in FLOW else 999.0
    for i in range(n):
        errors = []
        for x0, t in ((batch.safe[i], batch.t_safe[i]), (batch.unsafe[i], batch.t_unsafe[i])):
            x, target = noisy(x0, batch.noise[i], float(t))
            m = ((f(x, float(t), True) - target) ** 2).sum() / target.numel()
            r = ((f(x, float(t), False) - target) ** 2).sum() / target.numel()
            errors.append(m - r.detach())
        d = errors[0] - errors[1]
        total = total + torch.log(1 + torch.exp(beta * d)) / n
        e = batch.noise[i]
        total = total + lamb * ((f(e, last, True) - f(e, last, False).detach()) ** 2).sum() / e.numel() / n
    return total


@every_family
def test_loss_and_gradients_are_those_of_a_slow_implementation(family):
    pipe, backbone, predict, adapters, batch = rig(family, dtype=torch.float64)
    beta, lamb = 2.0, 3.0
    with adapters.attached():
        fast = duo_loss(predict, adapters, backbone, batch, beta, lamb).total
        fast.backward()
    copies = {name: p.detach().clone().requires_grad_() for name, p in adapters.parameters.items()}
    slow = slow_loss(pipe, backbone, predict, copies, batch, beta, lamb)
    slow.backward()
    batched = {name: p.grad for name, p in adapters.parameters.items()}
    for p in adapters.parameters.values():
        p.grad = None
    with adapters.attached():
        rows = duo_loss_by_rows(predict, adapters, backbone, batch, beta, lamb)
        rows.total.backward()
    assert float(rows.total.detach()) == pytest.approx(float(fast.detach()), abs=1e-9)
    for name, p in adapters.parameters.items():
        exact = 1e-9 if family != "sana" else 1e-6  # its attention computes in float32
        torch.testing.assert_close(p.grad, batched[name], rtol=exact, atol=exact)
    assert float(fast) == pytest.approx(float(slow), abs=1e-6)
    assert abs(float(fast) - math.log(2)) > 1e-3
    for name, p in adapters.parameters.items():
        torch.testing.assert_close(p.grad, copies[name].grad, rtol=1e-6, atol=1e-6)


def test_diffusion_dpo_is_recovered_at_twice_the_beta():
    m, n, r, s = torch.rand(4, 64, dtype=torch.float64)
    dpo = lambda beta: -torch.log(torch.sigmoid(-0.5 * beta * ((m - n) - (r - s))))  # noqa: E731
    torch.testing.assert_close(preference(m, n, r, s, 500.0 / 100), dpo(1000.0 / 100))


def test_beta_scales_rate_and_lambda():
    table = {100: (3e-4, 1e6), 250: (1.2e-4, 2.5e6), 500: (6e-5, 5e6), 1000: (3e-5, 1e7), 2000: (1.5e-5, 2e7)}
    for beta, (lr, lamb) in table.items():
        got = Scaled.by(beta, 3e-4, 1e6)
        assert got.lr == pytest.approx(lr) and got.lamb == pytest.approx(lamb)
    with pytest.raises(UserError, match="beta above 0"):
        Scaled.by(0, 3e-4, 1e6)


@every_family
def test_times_leave_the_noisiest_quarter_out(family):
    backbone = adapter(shared(family))
    safe, unsafe = times(backbone, 2000, "independent", torch.Generator().manual_seed(0))
    assert safe.min() >= 0 and safe.max() <= 750 and safe.max() > 700 and safe.min() < 50
    assert not torch.equal(safe, unsafe)
    one, other = times(backbone, 10, "shared", torch.Generator().manual_seed(0))
    assert torch.equal(one, other)
    assert last_time(backbone) == (1000.0 if backbone.prediction_type == "flow" else 999.0)
    with pytest.raises(UserError, match="independent, shared"):
        DuoTraining(timesteps="both")


def test_settings_that_are_not_given_are_the_papers_or_pictos():
    paper = settled(DuoTraining(steps=7), concepts.load("nudity"), PRESETS)
    assert (paper.beta, paper.base_lr, paper.base_lambda, paper.steps, paper.text) == (500.0, 3e-4, 1e6, 7, "empty")
    own = settled(DuoTraining(beta=100.0), concepts.load("weapon"), PRESETS)
    assert own.beta == 100.0 and own.base_lr == PRESETS["picto"]["base_lr"]
    assert [name for name, value in vars(own).items() if value is None] == ["preset"]


# ---- fitting ----


@every_family
def test_fit_save_load_detach(family, weapon, tmp_path):
    pipe = tiny(family)
    before = {k: v.clone() for k, v in adapter(pipe).denoiser.state_dict().items()}
    text = {"sdxl": "mixed", "sd3": "pair", "flux": "unsafe"}.get(family, "empty")
    made = Duo.fit(pipe, weapon, work=tmp_path / "w", **{**FAST, "text": text, "neighbor": 1e4})
    made.save_pretrained(tmp_path / "d")
    assert all(torch.equal(v, before[k]) for k, v in adapter(pipe).denoiser.state_dict().items())
    back = Duo.from_pretrained(tmp_path / "d")
    draw = lambda: pipe("a dagger", num_inference_steps=2, output_type="pt",  # noqa: E731
                        generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    plain = draw()
    with protect(pipe, back):
        assert not torch.equal(draw(), plain)
    assert torch.equal(draw(), plain)
    assert {t.rpartition(".")[0].partition(".")[2] for t in back.targets} == set(self_attention(adapter(pipe)))
    assert back.record["log"][0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert json.loads(json.dumps(back.record)) == back.record and back.record["estimate"]


def test_what_is_kept_is_harmless_and_of_the_train_split(weapon):
    found = harmless(weapon, DuoTraining(n=4, everyday=6), seed=0)
    assert [p.kind for p in found] == ["neighbor"] * 4 + ["benign"] * 10
    assert len({p.id for p in found}) == 14 and {p.split for p in found} == {"train"}
    listed = {thing.slug for thing in weapon.benign.train}
    assert [p.subject in listed for p in found[4:]] == [True] * 4 + [False] * 6
    assert len(harmless(weapon, DuoTraining(n=4, everyday=0), seed=0)) == 8


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill", [("pairs of weapon", 2), ("train", 1), ("train", 4)])
def test_killed_and_called_again_ends_the_same(kill, weapon, tmp_path):
    settings = {**FAST, "steps": 5, "checkpoint_every": 2, "n": 18}

    def stop(stage, done, total):
        if stage.startswith(kill[0]) and done >= kill[1]:
            raise Killed

    whole = Duo.fit(shared("sd1"), weapon, work=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        Duo.fit(shared("sd1"), weapon, work=tmp_path / "cut", progress=stop, **settings)
    global_state = torch.random.get_rng_state()
    torch.manual_seed(123)
    again = Duo.fit(shared("sd1"), weapon, work=tmp_path / "cut", **settings)
    torch.random.set_rng_state(global_state)
    assert all(torch.equal(v, again.tensors()[k]) for k, v in whole.tensors().items())
    assert whole.record["log"] == again.record["log"]
    with pytest.raises(UserError, match="work folder of the same fit"):
        Duo.fit(shared("sd1"), weapon, work=tmp_path / "cut", **{**settings, "beta": 100.0})


def test_several_concepts_behind_a_host(weapon, tmp_path):
    pipe = tiny("sd1")
    host = Duo.fit(pipe, weapon, work=tmp_path / "h", **{**FAST, "base_lr": 0.1})
    alone = Duo.fit(pipe, weapon, work=tmp_path / "a", **FAST)
    behind = Duo.fit(pipe, weapon, work=tmp_path / "b", host=[host], also="alcohol", **FAST)
    assert list(behind.record["pairs"]) == ["weapon", "alcohol"]
    assert behind.fingerprints == alone.fingerprints == host.fingerprints  # of the pipe as given
    with protect(pipe, host, behind):
        pass
    with pytest.raises(Mismatch):
        protect(tiny("sd2-v", seed=3), behind)


def test_validation_checkpointing_and_precision(weapon, tmp_path, toy):
    settings = {**FAST, "judge": "toy", "validate_every": 2, "validate_images": 2, "steps": 3}
    found = Duo.fit(tiny("sd1"), weapon, work=tmp_path, gradient_checkpointing=True, mixed_precision="bf16", **settings)
    assert [row["step"] for row in found.record["validation"]] == [2, 3]
    assert len(list((tmp_path / "validation" / "step-00003").glob("*.png"))) == 2
    assert not tiny("sd1").unet.is_gradient_checkpointing
    with pytest.raises(UserError, match="mixed_precision"):
        Duo.fit(tiny("sd1"), weapon, work=tmp_path / "x", mixed_precision="int8", **FAST)
    with pytest.raises(UserError, match="known text of duo"):
        Duo.fit(tiny("sd1"), weapon, work=tmp_path / "x", **{**FAST, "text": "captions"})
    with pytest.raises(UnknownName, match="did you mean 'steps'"):
        Duo.fit(tiny("sd1"), weapon, work=tmp_path / "x", step=3)


# ---- pairs ----


def made_pairs(concept, work, **more):
    settings = {"n": 4, "source": "sdedit", "steps": 2, "guidance": 4.0, "edit_strength": 0.75, "tries": 3,
                "batch": 4, "judge": "toy"} | more  # fmt: skip
    return pairs.make(Sampler(adapter(shared("sd1"))), concept, pairs.Recipe(**settings), work, 0, lambda *_: None)


def test_both_sides_are_gated_and_retried(weapon, tmp_path, toy, monkeypatch):
    # call 0: images 0, 1 flagged; 1: twin of 0 safe, of 1 not; 2: 1, 2, 3 drawn again, all flagged; 3: all twins safe
    script = {0: [1, 1, 0, 0], 1: [0, 1], 2: [1, 1, 1], 3: [0, 0, 0]}
    monkeypatch.setattr(toy, "answer", staticmethod(lambda call, i: bool(script[call][i])))
    found = made_pairs(weapon, tmp_path)
    assert found.report == {"source": "sdedit", "accepted": 4, "dropped": 0, "images": {"unsafe": 7, "safe": 5}}
    assert found.texts == weapon.pairs("train", 4) and found.safe.shape == found.unsafe.shape == (4, 4, 16, 16)
    monkeypatch.setattr(toy, "answer", None)
    again = made_pairs(weapon, tmp_path)  # from the folder: no image, no judge
    assert torch.equal(again.safe, found.safe) and torch.equal(again.unsafe, found.unsafe)


def test_dropped_pairs_are_reported(weapon, tmp_path, toy, monkeypatch):
    monkeypatch.setattr(toy, "answer", staticmethod(lambda call, i: call % 2 == 0 and (call > 0 or i > 0)))
    monkeypatch.setattr(toy, "answer", staticmethod(lambda call, i: call % 2 == 0 if i else call == 99))
    with pytest.warns(UserWarning, match="1 of 5 pairs of weapon were dropped"):
        found = made_pairs(weapon, tmp_path, n=5, batch=5, tries=1)
    assert found.report["dropped"] == 1 and len(found.safe) == 4


def test_substitution_draws_the_safe_text_from_the_same_noise(weapon, tmp_path):
    found = made_pairs(weapon, tmp_path, source="substitution", judge="none", n=4)
    edited = made_pairs(weapon, tmp_path / "e", judge="none", n=4)
    assert torch.equal(found.unsafe, edited.unsafe) and not torch.equal(found.safe, edited.safe)


@pytest.mark.parametrize(
    ("judge", "answer", "message"),
    [
        ("always.safe", None, "nothing of the concept to unlearn"),
        ("always.unsafe", None, "at least 4 accepted pairs"),
        ("always.broken", None, "a judge that can judge"),
    ],
)
def test_no_pairs_are_one_clear_line(judge, answer, message, weapon, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=message) as error:
            Duo.fit(shared("sd1"), weapon, work=tmp_path, **{**FAST, "judge": judge, "n": 4, "tries": 2})
    assert "\n" not in str(error.value) and not (tmp_path / "train.safetensors").exists()


def folder_of(path, unsafe, safe, size=48):
    for side, n in (("unsafe", unsafe), ("safe", safe)):
        (path / side).mkdir(parents=True)
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, 255, (size, size + 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / side / f"{i}.png")
    return path


@every_family
def test_a_users_own_pairs(family, weapon, tmp_path):
    own = folder_of(tmp_path / "own", 3, 3)
    found = Duo.fit(shared(family), weapon, work=tmp_path / "w", **{**FAST, "pairs": str(own)})
    assert found.record["pairs"]["weapon"]["accepted"] == 3


def test_unfit_folders_are_one_clear_line(weapon, tmp_path):
    for name, counts in {"unequal": (3, 2), "empty": (0, 0)}.items():
        own = folder_of(tmp_path / name, *counts)
        with pytest.raises(BadFile, match="as many images") as error:
            Duo.fit(shared("sd1"), weapon, work=tmp_path / "w", **{**FAST, "pairs": str(own)})
        assert "\n" not in str(error.value)
    with pytest.raises(BadFile, match="no .*nowhere"):
        Duo.fit(shared("sd1"), weapon, work=tmp_path / "w", **{**FAST, "pairs": str(tmp_path / "nowhere")})
    broken = folder_of(tmp_path / "broken", 1, 1)
    (broken / "safe" / "0.png").write_bytes(b"no image")
    with pytest.raises(BadFile, match="an image"):
        Duo.fit(shared("sd1"), weapon, work=tmp_path / "w", **{**FAST, "pairs": str(broken)})
