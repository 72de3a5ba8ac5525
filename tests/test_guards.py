"""SLD's mathematics against an independent implementation, the two guards' settings, saved folders."""

from __future__ import annotations

import functools
import json
import warnings

import numpy as np
import pytest
import torch

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import Defense, Guard, protect, storage
from unsee.errors import BadFile, UnknownName, UserError
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.sld import PRESETS, SLD, closest, safety
from unsee.registry import GUARDS

built = functools.cache(tiny)
PROMPTS = ["a dagger", "a red hat"]


def slow_sld(p, u, s, nu, scale, threshold, momentum, beta):
    """Formula by formula, number by number, in float64. Written from the paper's symbols alone."""
    gamma, new = np.zeros_like(p), np.zeros_like(p)
    for i in np.ndindex(p.shape):
        phi = min(scale * abs(p[i] - s[i]), 1.0)
        mu = phi if p[i] - s[i] < threshold else 0.0
        gamma[i] = mu * (s[i] - u[i]) + momentum * nu[i]
        new[i] = beta * nu[i] + (1 - beta) * gamma[i]
    return gamma, new


def record(pipe, guard, steps=4, w=5.0):
    """Draws two images; returns per step t, (e_u, e_p, e_S) before the guard, and what the scheduler got."""
    backbone = adapter(pipe)
    denoiser, passes, got = backbone.denoiser, [], []
    forward, step = denoiser.forward, pipe.scheduler.step

    def spy(*args, **kwargs):
        output = forward(*args, **kwargs)
        first = output[0] if isinstance(output, tuple) else output.sample
        values = backbone.bind(args, kwargs)
        first = first[:, : backbone.latents(values).shape[1]]  # PixArt's variance lies behind
        passes.append((backbone.time(values), first.double().numpy().copy()))
        return output

    def stepped(noise, *args, **kwargs):
        got.append(noise.double().numpy().copy())
        return step(noise, *args, **kwargs)

    denoiser.forward, pipe.scheduler.step = spy, stepped
    try:
        with protect(pipe, guard) as guarded:
            generators = [torch.Generator().manual_seed(i) for i in range(2)]
            settings = {backbone.guidance_argument: w, "negative_prompt": ["", ""], "generator": generators}
            pipe(PROMPTS, num_inference_steps=steps, output_type="latent", **settings)
    finally:
        del denoiser.forward, pipe.scheduler.step
    rows = []
    for i in range(steps):
        if backbone.stacked:
            (t, both), (_, s) = passes[2 * i : 2 * i + 2]
            u, p = both[:2], both[2:]
        else:
            (t, p), (_, u), (_, s) = passes[3 * i : 3 * i + 3]
        rows.append((t, u, p, s))
    return rows, got, guarded.decisions


def noise_per_prediction(pipe, family, t):
    """How far the noise moves when the prediction moves by one, at fixed latents."""
    if family in ("sd1", "sdxl", "pixart"):
        return 1.0
    return pipe.scheduler.alphas_cumprod[int(t)].item() ** 0.5 if family == "sd2-v" else 1 - t / 1000


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
def test_sld_is_the_published_formula(family, preset):
    """Whole sampler, all families: what the scheduler receives is e_u + w (e_p - e_u - [i >= delta] gamma)."""
    pipe, w, delta = built(family), 5.0, 2
    guard = SLD(text="weapon", preset=preset, warmup=delta, scale_warmup=False)
    rows, got, decisions = record(pipe, guard, w=w)
    values = {k: PRESETS[preset][k] for k in ("scale", "threshold", "momentum", "beta")}
    nu = np.zeros_like(rows[0][1])
    for i, (t, u, p, s) in enumerate(rows):
        k = max(0.068, noise_per_prediction(pipe, family, t))
        gamma, nu = slow_sld(k * p, k * u, k * s, nu, **values)
        want = u + w * (p - u - (gamma / k if i >= delta else 0))
        np.testing.assert_allclose(got[i], want, rtol=2e-3, atol=2e-4)
        plain = u + w * (p - u)
        assert np.allclose(want, plain) == (i < delta)
        assert decisions[0][i]["done"] == ("guided" if i >= delta else "warmed up")
        assert decisions[1][i]["strength"] == pytest.approx(np.linalg.norm(gamma[1]), rel=1e-2)
        assert np.abs(nu).max() > 0  # also while warming up


def noises(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, 3, 3, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("preset", PRESETS)
def test_safety_agrees_with_the_slow_one(preset):
    p, u, s, nu = noises()
    settings = SLD(text="x", preset=preset).settings()
    values = {k: settings[k] for k in ("scale", "threshold", "momentum", "beta")}
    want = slow_sld(*(x.double().numpy() for x in (p, u, s, nu)), **values)
    for a, b in zip(safety(p, u, s, nu, settings), want):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=1e-5)


def test_invariants():
    p, u, s, _ = noises()
    strong = SLD(text="x", preset="strong").settings()
    zero = torch.zeros_like(p)
    assert torch.equal(safety(p, u, u, 0.0, {**strong, "momentum": 0.0})[0], zero)  # e_S = e_u: plain CFG
    assert torch.equal(safety(p, u, p, 0.0, strong)[0], zero)  # e_S = e_p: phi = 0
    gamma, nu = safety(p, u, s, 0.0, strong)
    assert nu.abs().max() > 0
    torch.testing.assert_close(nu, (1 - strong["beta"]) * gamma)
    saturated = safety(p, u, s, 0.0, {**strong, "scale": 1e9, "threshold": 1e9})[0]
    torch.testing.assert_close(saturated, s - u)  # phi is capped at 1 from above
    signed = safety(p, u, s, 0.0, {**strong, "scale": 1e9, "threshold": 0.0})[0]
    assert torch.equal(signed != 0, (p < s))  # the signed difference decides, not its size


def test_published_presets():
    table = {name: tuple(values.values()) for name, values in PRESETS.items()}
    assert table == {
        "weak": (15, 200.0, 0.0, 0.0, 0.0),
        "medium": (10, 1000.0, 0.01, 0.3, 0.4),
        "strong": (7, 2000.0, 0.025, 0.5, 0.7),
        "max": (0, 5000.0, 1.0, 0.5, 0.7),
    }
    assert SLD(text="x", preset="weak", scale=20.0).settings()["scale"] == 20.0
    assert SLD(text="x").preset == "medium"


@pytest.mark.parametrize("case", [("weak", 50, 15), ("weak", 1, 0), ("weak", 20, 6), ("strong", 25, 4)], ids=str)
def test_warmup_scales_with_the_steps(case):
    preset, steps, delay = case
    assert SLD(text="x", preset=preset).delay(steps) == delay
    assert SLD(text="x", preset=preset, scale_warmup=False).delay(steps) == PRESETS[preset]["warmup"]


def test_bad_settings_are_one_line():
    with pytest.raises(UnknownName, match="did you mean 'strong'"):
        SLD(text="x", preset="stong")
    with pytest.raises(UserError):
        SLD(text=" ")


def test_a_text_that_is_cut_off_warns():
    pipe = built("sd1")
    for guard in (NegativePrompt(text="x" * 100), SLD(text="x" * 100)):
        with pytest.warns(UserWarning, match="fewer words"):
            protect(pipe, guard).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        protect(pipe, NegativePrompt(text="weapon")).detach()


WORDS = ["beer", "dagger", "bomb"]


def test_negative_prompt_is_the_pipelines_own():
    """For SD the guard and the pipeline's argument are the same thing."""
    pipe = built("sd1")

    def draw(negative):
        settings = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
        return pipe("a dagger", negative_prompt=negative, **settings).images

    want = draw("weapon, ugly")
    with protect(pipe, NegativePrompt(text="weapon")):
        torch.testing.assert_close(draw("ugly"), want)


def test_the_nearest_word_is_the_one_in_the_prompt():
    asked, known, empty = (adapter(built("sd1")).encode(t) for t in (["dagger", "bomb", "dagger dagger"], WORDS, [""]))
    assert [WORDS[i] for i in closest(asked, known, empty)] == ["dagger", "bomb", "dagger"]


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_matched_sld_is_the_sld_of_that_word(family):
    pipe = built(family)

    def draw(guard):
        with protect(pipe, guard):
            settings = {adapter(pipe).guidance_argument: 4.0, "num_inference_steps": 1, "output_type": "pt"}
            negative = {"negative_prompt": ["", ""]} if family == "flux" else {}
            return pipe(["dagger", "bomb"], generator=[torch.Generator().manual_seed(i) for i in (0, 1)], **settings,
                        **negative).images  # fmt: skip

    matched = draw(SLD(text="beer, dagger, bomb", match=True, warmup=0))
    for i, word in enumerate(["dagger", "bomb"]):
        alone = draw(SLD(text=word, warmup=0))
        torch.testing.assert_close(matched[i], alone[i])
        assert not torch.allclose(matched[1 - i], alone[1 - i], atol=1e-6)


def test_matching_takes_all_train_words_and_reads_what_arrives():
    guard = SLD.for_concept(concepts.load("weapon"), match=True)
    assert guard.text.split(", ") == concepts.load("weapon").all_words("train") and not guard.needs_text
    pipe, matched = built("sd1"), SLD(text=", ".join(WORDS), match=True, warmup=0)
    settings = {"guidance_scale": 4.0, "num_inference_steps": 2, "output_type": "pt"}
    backbone, seeded = adapter(pipe), lambda: torch.Generator().manual_seed(0)
    both = {word: backbone.encode(["", word]).tokens for word in ("beer", "bomb")}

    def swap(pipe, step, t, values):  # what the call says is not what the denoiser reads
        return {"prompt_embeds": both["bomb"]}

    changed = {"callback_on_step_end": swap, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with protect(pipe, matched):
        found = pipe("beer", generator=seeded(), **settings, **changed).images
    with protect(pipe, SLD(text="beer", warmup=0)):
        whole = pipe("beer", generator=seeded(), **settings, **changed).images
    assert not torch.allclose(found, whole, atol=1e-6)
    embeds = {"prompt_embeds": both["bomb"][1:], "negative_prompt_embeds": both["bomb"][:1]}
    with protect(pipe, matched):
        by_embeds = pipe(**embeds, generator=seeded(), **settings).images
    with protect(pipe, SLD(text="bomb", warmup=0)):
        torch.testing.assert_close(by_embeds, pipe("bomb", generator=seeded(), **settings).images)


# ---- folders ----


class Weighted(Guard):
    name = "weighted"

    def __init__(self):
        self.w = torch.arange(4.0)

    def config(self):
        return {}

    def tensors(self):
        return {"w": self.w}

    def load_tensors(self, tensors):
        self.w = tensors["w"]


@pytest.fixture
def weighted(monkeypatch):
    monkeypatch.setitem(GUARDS.own, "weighted", f"{__name__}:Weighted")
    return Weighted()


SAVED = [SLD(text="weapon", preset="max", scale=3.0), NegativePrompt(text="weapon")]


@pytest.mark.parametrize("guard", SAVED, ids=repr)
def test_saved_and_loaded(tmp_path, guard):
    folder = guard.save_pretrained(tmp_path / "guard")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["guard"]  # nothing left beside it
    assert repr(Defense.from_pretrained(folder)) == repr(type(guard).from_pretrained(str(folder))) == repr(guard)
    assert guard.name in (folder / "README.md").read_text()
    guard.save_pretrained(folder)  # again, over itself
    with pytest.raises(BadFile, match="from_pretrained"):
        (SLD if isinstance(guard, NegativePrompt) else NegativePrompt).from_pretrained(folder)


def test_fingerprints_travel_with_the_folder(tmp_path):
    from unsee.errors import Mismatch

    folder = SLD(text="weapon").fitted_for(adapter(built("sd1"))).save_pretrained(tmp_path / "g")
    loaded = SLD.from_pretrained(folder)
    protect(built("sd1"), loaded).detach()
    with pytest.raises(Mismatch):
        protect(tiny("sd1", seed=3), loaded)
    assert SLD(text="weapon").fingerprints == {}


def test_weights_are_checked(tmp_path, weighted):
    folder = weighted.save_pretrained(tmp_path / "g")
    assert torch.equal(Weighted.from_pretrained(folder).w, weighted.w)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BadFile, match="checksum"):
        Weighted.from_pretrained(folder)
    path.unlink()
    with pytest.raises(BadFile, match="readable weights"):
        Weighted.from_pretrained(folder)


def test_a_digest_is_of_settings_and_of_bytes_and_stays_what_it_was(weighted):
    """Results are addressed with it: a change of these two would lose every stored run."""
    weights = "e465a14cdf8ac2f7e3a4a4398d47a836dc9702016a60596b564611795fa4f47f"
    assert SLD(text="weapon", preset="max").digest() == SLD(text="weapon", preset="max").digest()
    assert SLD(text="weapon", preset="max").digest() != SLD(text="weapon").digest()
    found = []
    for w in (torch.arange(4.0), torch.arange(4.0) + 1, torch.tensor(3), torch.ones(2, 3).bfloat16().T, torch.ones(0)):
        weighted.w = w
        found.append(weighted.digest())
    assert found[0] == weights and len(set(found)) == 5


FUTURE = '{"format": 9, "defense": "sld", "arguments": {}, "fingerprints": {}, "weights": null}'


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", FUTURE])
def test_broken_config_is_a_bad_file(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadFile) as error:
        Defense.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_wrong_argument_is_a_bad_file(tmp_path):
    folder = SLD(text="x").save_pretrained(tmp_path / "g")
    config = json.loads((folder / "config.json").read_text())
    config["arguments"]["colour"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadFile, match="colour"):
        SLD.from_pretrained(folder)


@pytest.mark.parametrize("source", ["./nowhere", "nowhere", "nobody/nothing"])
def test_missing_folder_is_a_bad_file(source):
    with pytest.raises(BadFile) as error:
        SLD.from_pretrained(source)
    assert "\n" not in str(error.value)


def test_saving_is_all_or_nothing(tmp_path, weighted, monkeypatch):
    weighted.save_pretrained(tmp_path / "g")
    before = {p.name: p.read_bytes() for p in (tmp_path / "g").iterdir()}
    monkeypatch.setattr(storage, "card", lambda defense: 1 / 0)
    weighted.w = torch.zeros(4)
    for place in ("g", "new"):
        with pytest.raises(ZeroDivisionError):
            weighted.save_pretrained(tmp_path / place)
    assert [p.name for p in tmp_path.iterdir()] == ["g"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "g").iterdir()} == before


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(BadFile):
        SLD(text="x").save_pretrained(tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_selftest_passes_and_reports_failures(monkeypatch):
    from unsee.bench import selftest
    from unsee.registry import ATTACKS, DEFENSES

    seen = []
    monkeypatch.setattr("unsee.backbones.tiny.families", lambda: ["sd1"])
    rows = selftest.run(seen.append)
    assert rows == seen and len(rows) == 1 + len(DEFENSES) + len(ATTACKS) - 1
    assert all(check.ok and not check.detail and check.seconds >= 0 for check in rows)
    monkeypatch.setattr(SLD, "guide", lambda *a: None)
    assert {check.name for check in selftest.run() if not check.ok} == {"ine on sd1", "sld on sd1"}
