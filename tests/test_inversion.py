"""Concept inversion: the splice reads as the pipeline reads, the loss is the right one, a kill changes nothing."""

from __future__ import annotations

import functools
import hashlib
import threading

import pytest
import torch
from PIL import Image

from unsee import embeddings as inversion
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import Guarded, protect
from unsee.embeddings import Inversion, encode, invert, spell, token_rows, vocabulary, word_rows
from unsee.errors import Unsupported, UserError
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.safree import SAFREE
from unsee.guards.sld import SLD
from unsee.sampling.denoiser import DenoiserCall
from unsee.sampling.sampler import Sampler, generate

built = functools.cache(tiny)
TEXTS = ["a dagger", "", "x" * 90]
QUICK = {"steps": 4, "batch": 2, "save_every": 2}


def pictures(n=3):
    shades = [Image.linear_gradient("L").resize((32, 32)).rotate(90 * i).convert("RGB") for i in range(n)]
    return shades


def digest(pipe):
    found = hashlib.sha256()
    for part in (adapter(pipe).denoiser, *adapter(pipe).text_encoders, pipe.vae):
        for weight in part.parameters():
            found.update(weight.detach().numpy().tobytes())
    return found.hexdigest()


def hooks(pipe):
    """Ours: transformers has some of its own that collect hidden states."""
    parts = (adapter(pipe).denoiser, *adapter(pipe).text_encoders)
    every = [m for part in parts for m in part.modules()]
    found = [h for m in every for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return [h for h in found if h.__module__.startswith("unsee")]


# ---- the splice ----


@pytest.mark.parametrize("family", FAMILIES)
def test_spelled_texts_are_the_pipelines_own(family):
    backbone = adapter(built(family))
    want = backbone.encode(TEXTS)
    got = inversion.encode_ids(backbone, spell(backbone, TEXTS))
    assert all(torch.equal(a, b) for a, b in zip(got.ids, want.ids, strict=True))
    assert torch.equal(got.tokens, want.tokens)
    assert want.pooled is None or torch.equal(got.pooled, want.pooled)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_words_own_row_reads_as_the_word(family):
    backbone = adapter(built(family))
    rows = word_rows(backbone, "x")
    for pieces, text in (((0,), "x"), (("a ", 0, " b"), "a x b")):
        got, want = encode(backbone, [pieces], rows), backbone.encode([text])
        torch.testing.assert_close(got.tokens, want.tokens)
        assert want.pooled is None or torch.allclose(got.pooled, want.pooled)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_several_texts_have_their_own_places(family):
    """As many rows for every encoder, however each of the tokenizers cuts a text."""
    backbone = adapter(built(family))
    rows, places = token_rows(backbone, ["a dagger", "x"])
    assert [place for own in places for place in own] == list(range(len(rows[0])))
    assert len({len(own) for own in rows}) == 1 and torch.equal(rows[0][places[1][0]], word_rows(backbone, "x")[0][0])
    with pytest.raises(UserError, match="words to start from"):
        token_rows(backbone, ["x", ""])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoders_row_has_a_gradient(family):
    """T5 has two modules that look words up; both must find the rows."""
    backbone = adapter(built(family))
    rows = tuple(row.requires_grad_() for row in word_rows(backbone, "mean", 2))
    text = encode(backbone, [("a ", 0)], rows)
    total = text.tokens.square().sum() + (0 if text.pooled is None else text.pooled.square().sum())
    for own in torch.autograd.grad(total, rows):
        assert own.shape[0] == 2 and bool((own.abs().sum(1) > 0).all())


def test_too_many_words_are_cut_like_any_text():
    backbone = adapter(built("sd1"))
    (ids,) = spell(backbone, [("x" * 100, 0)])
    assert ids.shape == (1, 77) and int(ids.min()) >= 0 and int(ids[0, -1]) == backbone.tokenizers[0].eos_token_id


def test_other_threads_read_what_they_always_read(monkeypatch):
    pipe = built("sd1")
    backbone, seen = adapter(pipe), []
    want = backbone.encode(["a dagger"]).tokens
    original = type(pipe).encode_prompt

    def meanwhile(*args, **kwargs):
        if not seen:
            seen.append(None)
            thread = threading.Thread(target=lambda: seen.append(backbone.encode(["a dagger"]).tokens))
            thread.start()
            thread.join()
        return original(*args, **kwargs)

    monkeypatch.setattr(type(pipe), "encode_prompt", meanwhile)
    encode(backbone, [(0,)], word_rows(backbone, "mean"))
    assert torch.equal(seen[1], want) and not hooks(pipe)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_a_vocabulary_is_lent_and_taken_back(family):
    pipe = tiny(family)
    backbone, rows = adapter(pipe), word_rows(adapter(pipe), "mean", 2)
    before = [dict(t.get_vocab()) for t in backbone.tokenizers]
    want = encode(backbone, [("a ", 0)], rows)
    with vocabulary(pipe, rows) as said:
        got = backbone.encode([f"a {said}"])
    torch.testing.assert_close(got.tokens, want.tokens)
    assert [dict(t.get_vocab()) for t in backbone.tokenizers] == before and not hooks(pipe)
    assert not torch.allclose(backbone.encode([f"a {said}"]).tokens, want.tokens)


# ---- the loss ----


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_and_the_true_prediction(family, tmp_path):
    """The prediction that is called true means the picture that went in, at every t."""
    pipe = built(family)
    backbone, x0 = adapter(pipe), inversion.latents_of(pipe, pictures(2))
    predict = DenoiserCall(Sampler(backbone))
    assert x0.shape[1:] == predict.latents.shape[1:] and len(x0) == 4
    with Guarded(pipe) as guarded:
        from unsee.embeddings.inversion import _Job

        job = _Job(predict, guarded, Inversion(**QUICK), x0, (), 0)
    noise = torch.randn(x0[:2].shape, generator=torch.Generator().manual_seed(0))
    for t in (100, 700):
        times = torch.full((2,), t) + job.lowest
        latents, truth = backbone.noised(x0[:2], noise, times)
        at = backbone.time(predict.arguments(latents, times))
        assert at == pytest.approx(t + (backbone.prediction_type == "flow"))
        torch.testing.assert_close(backbone.to_x0(truth, latents, at), x0[:2], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(backbone.to_noise(truth, latents, at), noise, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_and_leaves_no_trace(family, tmp_path):
    pipe = tiny(family)
    pipe.vae.requires_grad_(True)
    adapter(pipe).denoiser.requires_grad_(True)  # as from_pretrained gives it
    before, seen = digest(pipe), []
    rows = invert(pipe, pictures(), Inversion(**QUICK), work=tmp_path, progress=lambda *args: seen.append(args))
    start = word_rows(adapter(pipe), "mean")
    assert all(not torch.equal(a, b) and a.shape == b.shape for a, b in zip(rows, start, strict=True))
    assert digest(pipe) == before and not hooks(pipe)
    assert all(w.requires_grad and w.grad is None for w in adapter(pipe).denoiser.parameters())
    assert seen[-1] == ("inverting", 4, 4)


def test_the_loss_falls(tmp_path):
    """On noises and times that were not trained on, the same ones before and after."""
    from unsee.embeddings.inversion import _Job

    pipe = built("sd1")
    how, x0 = Inversion(steps=40, batch=4, lr=0.1, flip=0.0), inversion.latents_of(pipe, pictures(1))
    rows = invert(pipe, x0, how, work=tmp_path, templates=())
    with Guarded(pipe) as guarded, torch.no_grad():
        job = _Job(DenoiserCall(Sampler(adapter(pipe))), guarded, how, x0, (), 0)
        before, after = (
            sum(float(job.loss(own, step)) for step in range(1000, 1010))
            for own in (word_rows(adapter(pipe), "mean"), rows)
        )
    assert after < before


def test_guided_without_guards_is_the_plain_loss(tmp_path):
    """u + w (p - u) against u + w (y - u), over w²: the same as p against y."""
    pipe = built("sd2-v")
    settings = {"steps": 3, "batch": 1, "bare": 1.0}
    plain = invert(pipe, pictures(), Inversion(**settings), work=tmp_path / "a")
    guided = invert(pipe, pictures(), Inversion(**settings, guided=4.0), work=tmp_path / "b")
    torch.testing.assert_close(plain, guided, atol=1e-4, rtol=1e-3)


GUIDED = [(family, SLD(text="weapon", preset="max")) for family in FAMILIES]
GUIDED += [(family, NegativePrompt(text="weapon")) for family in ("sd1", "flux")]


@pytest.mark.parametrize(("family", "host"), GUIDED, ids=lambda value: getattr(value, "name", value))
def test_guided_goes_through_the_guards(family, host, tmp_path):
    pipe, how = built(family), Inversion(steps=2, batch=1, guided=4.0, unroll=2)
    free = invert(pipe, pictures(), how, work=tmp_path / "a")
    behind = invert(pipe, pictures(), how, work=tmp_path / "b", host=[host])
    assert not all(torch.allclose(a, b, atol=1e-6) for a, b in zip(free, behind, strict=True)) and not hooks(pipe)


def test_the_pipeline_may_be_protected_already(tmp_path):
    pipe, how, host = built("sd1"), Inversion(steps=2, guided=4.0), SLD(text="weapon", preset="max")
    behind = invert(pipe, pictures(), how, work=tmp_path / "a", host=[host])
    with protect(pipe, host):
        assert torch.equal(invert(pipe, pictures(), how, work=tmp_path / "b")[0], behind[0])


def test_the_plain_loss_passes_guards_by(tmp_path):
    pipe, how = built("sd1"), Inversion(**QUICK)
    free = invert(pipe, pictures(), how, work=tmp_path / "a")
    behind = invert(pipe, pictures(), how, work=tmp_path / "b", host=[SLD(text="weapon")])
    assert torch.equal(free[0], behind[0])
    name = {file.name for folder in "ab" for file in (tmp_path / folder).glob("*.safetensors")}
    assert len(name) == 1  # so another guard before the same weights takes up what was trained


def test_a_caption_of_its_own_for_each_image(tmp_path):
    from unsee.embeddings.inversion import _Job

    pipe, captions = built("sd1"), ["a {} here", "red {}"]
    with Guarded(pipe) as guarded:
        job = _Job(
            DenoiserCall(Sampler(adapter(pipe))), guarded, Inversion(**QUICK, bare=0.0), torch.zeros(4), (), 0, captions
        )
    generator = torch.Generator().manual_seed(0)
    assert [job._text(generator, image) for image in (0, 1)] == [("a", 0, "here"), ("red", 0)]
    with pytest.raises(UserError, match="caption for each of 2"):
        invert(pipe, pictures(2), Inversion(**QUICK), work=tmp_path, captions=["{}"])


def test_late_times_and_a_falling_rate(tmp_path):
    from unsee.embeddings.inversion import _Job

    pipe, rates = built("sd1"), []
    how = Inversion(steps=4, times="late", decay=True)
    with Guarded(pipe) as guarded:
        job = _Job(DenoiserCall(Sampler(adapter(pipe))), guarded, how, torch.zeros(2), (), 0)
    drawn = job._times(20_000, torch.Generator().manual_seed(0)).float()
    assert drawn.mean() == pytest.approx(1000 * 2 / 3, rel=0.02)  # of the greater of two even draws
    step = torch.optim.Adam.step

    def seen(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"] / how.lr)
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", seen)
        invert(pipe, pictures(1), how, work=tmp_path)
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.25])


# ---- killed and called again ----


@pytest.mark.parametrize("at", [1, 5, 6])
def test_a_kill_changes_nothing(at, tmp_path):
    pipe, how = built("sdxl"), Inversion(**{**QUICK, "steps": 8})
    want = invert(pipe, pictures(), how, work=tmp_path / "whole")

    def kill(stage, done, total):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert(pipe, pictures(), how, work=tmp_path / "killed", progress=kill)
    seen = []
    got = invert(pipe, pictures(), how, work=tmp_path / "killed", progress=lambda s, done, n: seen.append(done))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert seen[0] == at - at % 2 + 1 and not list(tmp_path.rglob(".*"))


def test_another_recipe_starts_anew(tmp_path):
    pipe = built("sd1")
    one = invert(pipe, pictures(), Inversion(**QUICK), work=tmp_path)
    other = invert(pipe, pictures(), Inversion(**QUICK), work=tmp_path, seed=1)
    assert not torch.equal(one[0], other[0]) and len(list(tmp_path.glob("*.safetensors"))) == 2


# ---- what is refused, and use ----


def test_bad_input_is_one_line(tmp_path):
    pipe = built("sd1")
    for case, match in (
        (lambda: Inversion(steps=0), "steps"),
        (lambda: Inversion(times="early"), "times"),
        (lambda: Inversion(guided=0.5), "guided"),
        (lambda: invert(pipe, torch.zeros(0, 4, 16, 16), work=tmp_path), "images"),
        (lambda: invert(pipe, pictures(), Inversion(**QUICK), work=tmp_path, templates=["no place"]), "template"),
        (lambda: invert(pipe, pictures(), Inversion(**QUICK, init=" "), work=tmp_path), "init of Inversion"),
    ):
        with pytest.raises(UserError, match=match) as error:
            case()
        assert "\n" not in str(error.value)
    with pytest.raises(Unsupported, match="safree"):
        invert(pipe, pictures(), Inversion(**QUICK, guided=4.0), work=tmp_path, host=[SAFREE(phrases=("x",))])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_can_be_drawn(family):
    pipe = built(family)
    text = encode(adapter(pipe), [(0,)], word_rows(adapter(pipe), "dagger"))
    image = generate(pipe, text, [0], steps=1, guidance=1.0).tensor
    assert image.shape == (1, 3, 32, 32) and bool(torch.isfinite(image).all())
