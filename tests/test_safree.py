"""SAFREE against an independent implementation, its invariants, and its edges."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from unsee.attacks.vocabulary import Slots, Vocabulary
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import Defense, protect
from unsee.embeddings import encode_ids, spell, vocabulary, word_rows
from unsee.errors import UnknownName, Unsupported, UserError
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.safree import SAFREE, basis, damp, projector, residuals, triggers
from unsee.guards.safree.subspace import left_out, margins

built = functools.cache(tiny)
PROMPTS = ["a dagger", "two red hats"]
PHRASES = ("weapon", "sword")
NEVER = 10.0  # alpha with which no token is a trigger


def draw(pipe, cfg=True, prompts=PROMPTS, steps=2, **more):
    backbone = adapter(pipe)
    settings = {backbone.guidance_argument: 4.0 if cfg else 1.0}
    if backbone.family == "flux" and cfg:
        settings["negative_prompt"] = [""] * len(prompts)
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    settings |= {"num_inference_steps": steps, "output_type": "pt", "generator": generators}
    return pipe(list(prompts), **{**settings, **more}).images


def matrix(rows=3, width=9, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the mathematics ----


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_a_projector_is_one(rows):
    x = matrix(rows)
    x = torch.cat([x, x[:1] * 2 + (x[1:2] if rows > 1 else 0)])  # a column that adds nothing
    p = projector(x)
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p @ p, p)
    assert float(p.trace()) == pytest.approx(rows)
    torch.testing.assert_close((torch.eye(9, dtype=torch.float64) - p) @ x.T, torch.zeros(9, rows + 1).double())
    slow = x.T.numpy() @ np.linalg.pinv((x @ x.T).numpy(), rcond=1e-9) @ x.numpy()
    np.testing.assert_allclose(p.numpy(), slow, atol=1e-9)


def test_distances():
    m, c = matrix(4, seed=1), matrix(2, seed=2)
    torch.testing.assert_close(residuals(m, basis(c[:0])), m.norm(dim=1))  # P_C = 0
    want = [np.linalg.norm((np.eye(9) - projector(c).numpy()) @ row.numpy()) for row in m]
    np.testing.assert_allclose(residuals(m, basis(c)).numpy(), want)
    torch.testing.assert_close(residuals(c, basis(c)), torch.zeros(2).double(), atol=1e-9, rtol=0)


def test_a_trigger_is_farther_than_the_others_are_on_average():
    d = [1.0, 1.02, 1.2, 0.9]
    for alpha in (0.01, 0.2, -0.5):
        want = [x >= (1 + alpha) * np.mean([y for j, y in enumerate(d) if j != i]) for i, x in enumerate(d)]
        assert triggers(torch.tensor(d).double(), alpha).tolist() == want
        assert (margins(torch.tensor(d).double(), alpha) >= 0).tolist() == want
    assert triggers(torch.tensor([1.0]), 0.01).tolist() == [True]
    assert triggers(torch.zeros(0), 0.01).tolist() == []
    assert margins(torch.tensor([1.0]), 0.01).tolist() == [0.0]  # nothing turns it


@pytest.mark.parametrize("case", [(0.0, 0), (0.5333, 5), (0.6, 10), (2.0, 10)], ids=str)
def test_how_long_a_prompt_is_filtered(case):
    turned, want = case
    guard = SAFREE(phrases=PHRASES)
    assert guard.early(turned) == want == round(10 / (1 + math.exp(-5 * (10 * turned - 5.333))))
    assert SAFREE(phrases=PHRASES, filtering="paper").early(turned) == round(10 / (1 + math.exp(-turned)))


@pytest.mark.parametrize("prompt", ["a", "a dagger", "two red hats by an old house"])
def test_how_far_a_prompt_is_turned_is_of_the_rows_that_are_read(prompt, monkeypatch):
    """b: from the start token to the end token, both; not the padding, nor the words or the triggers alone."""
    pipe, seen = built("sd1"), []
    backbone, guard = adapter(pipe), SAFREE(phrases=PHRASES)
    monkeypatch.setattr(SAFREE, "early", lambda self, turned: seen.append(turned) or 0)
    guard.filter(backbone, prompt, {name: basis(rows) for name, rows in guard.columns(backbone).items()})
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=77).input_ids
    end = ids.index(pipe.tokenizer.eos_token_id)
    with torch.no_grad():
        rows = pipe.text_encoder(torch.tensor([ids]))[0][0].double().numpy()
        copies = torch.tensor([[0 if j == i + 1 else x for j, x in enumerate(ids)] for i in range(end - 1)])
        masked = pipe.text_encoder(copies)[0][:, end].double()
        phrases = torch.tensor([pipe.tokenizer(p, padding="max_length", max_length=77).input_ids for p in PHRASES])
        told = pipe.text_encoder(phrases)[0].double()
    ends = [row.tolist().index(pipe.tokenizer.eos_token_id) for row in phrases]
    concept = projector(torch.stack([told[i, place] for i, place in enumerate(ends)])).numpy()
    turned = (np.eye(len(concept)) - concept) @ projector(masked).numpy() @ rows.T
    cosines = [p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(rows, turned.T, strict=True)]
    wanted = np.mean([1 - cosine for cosine in cosines[: end + 1]])
    assert seen == [pytest.approx(wanted, abs=1e-5)]
    others = (cosines[1 : end + 1], cosines[:end], cosines, cosines[1:end])
    assert all(abs(np.mean([1 - c for c in some]) - wanted) > 1e-4 for some in others)  # told apart from these


def test_the_filter_is_scaled_with_the_steps():
    guard = SAFREE(phrases=PHRASES)
    assert [guard.last_step(10, n) for n in (50, 25, 2, 1)] == [10, 5, 0, 0]
    assert [SAFREE(phrases=PHRASES, scale_steps=False).last_step(10, n) for n in (50, 4)] == [10, 10]
    assert SAFREE(phrases=PHRASES, filtering="off").last_step(0, 50) >= 49


def slow_safree(pipe, prompt, phrases, order, alpha=0.01):
    """Token by token, on SD's one encoder, from the formulas alone. Returns the 77 merged rows."""
    encoder, tokenizer = pipe.text_encoder, pipe.tokenizer

    def encoded(ids):
        rows = encoder(torch.tensor([ids]))[0][0].double().numpy()
        return rows, rows[ids.index(tokenizer.eos_token_id)]

    def padded(text):
        return tokenizer(text, padding="max_length", max_length=77).input_ids

    def project(columns):
        x = np.stack(columns, 1)
        return x @ np.linalg.pinv(x.T @ x, rcond=1e-6) @ x.T

    c = project([encoded(padded(phrase))[1] for phrase in phrases])
    ids = padded(prompt)
    n = ids.index(tokenizer.eos_token_id) - 1
    masked = [encoded([0 if j == i + 1 else x for j, x in enumerate(ids)])[1] for i in range(n)]
    d = [np.linalg.norm(m - c @ m) for m in masked]
    p_i, p, off = project(masked), encoded(ids)[0], np.eye(len(c)) - c
    turned = (off @ p_i if order == "released" else p_i @ off) @ p.T
    for i in range(n):
        if not d[i] < (1 + alpha) * np.mean([x for j, x in enumerate(d) if j != i]):
            p[i + 1] = turned[:, i + 1]
    return p


@pytest.mark.parametrize("order", ["released", "paper"])
def test_what_the_denoiser_reads_is_the_published_formula(order, monkeypatch):
    pipe, seen = built("sd1"), []
    forward = pipe.unet.forward
    monkeypatch.setattr(
        pipe.unet, "forward", lambda *a, **k: seen.append(k["encoder_hidden_states"]) or forward(*a, **k)
    )
    with protect(pipe, SAFREE(phrases=PHRASES, order=order, filtering="off")) as guarded:
        draw(pipe)
        decisions = guarded.decisions
    seen = [text for text in seen if len(text) == 4]  # the pipeline's own calls: [negative, positive] of two images
    for i, prompt in enumerate(PROMPTS):
        want = slow_safree(pipe, prompt, PHRASES, order)
        np.testing.assert_allclose(seen[0][2 + i].double().numpy(), want, atol=2e-4)
        assert torch.equal(seen[0][2 + i], seen[1][2 + i])  # every step
    plain = adapter(pipe).encode(PROMPTS).tokens
    changed = (seen[0][2:] != plain).any(-1)
    assert not changed[:, 0].any() and not changed[0, 8:].any()  # BOS; "a dagger" has 7 letters; EOS and padding
    assert changed.any(1).all() and all(event["acted"] and event["triggers"] for own in decisions for event in own)


# ---- against plain guidance ----


@pytest.mark.parametrize("family", FAMILIES)
def test_without_triggers_it_is_the_negative_prompt(family):
    pipe = built(family)
    with protect(pipe, NegativePrompt(text="weapon, sword")):
        want = draw(pipe, negative_prompt=["ugly", ""])
    with protect(pipe, SAFREE(phrases=PHRASES, alpha=NEVER)) as guarded:
        assert torch.equal(draw(pipe, negative_prompt=["ugly", ""]), want)
        assert [event["acted"] for event in guarded.decisions[0]] == [False, False]
    plain = draw(pipe, cfg=False)
    with protect(pipe, SAFREE(phrases=PHRASES, alpha=NEVER)):
        assert torch.equal(draw(pipe, cfg=False), plain)


def test_a_step_costs_what_plain_guidance_costs(monkeypatch):
    pipe, rows = built("sd1"), []
    forward = pipe.unet.forward
    monkeypatch.setattr(
        pipe.unet, "forward", lambda *a, **k: rows.append(len(k["encoder_hidden_states"])) or forward(*a, **k)
    )
    with protect(pipe, SAFREE(phrases=PHRASES)):
        draw(pipe)
    assert rows == [4, 4]


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_the_pooled_embedding_is_filtered_too(family):
    pipe = built(family)
    backbone, guard = adapter(pipe), SAFREE(phrases=PHRASES)
    bases = {name: basis(rows) for name, rows in guard.columns(backbone).items()}
    found = guard.filter(backbone, "a dagger", bases)
    names = [part.view.name for part in found.parts]
    assert names == {"sdxl": ["clip", "pooled"], "sd3": ["clip", "t5", "pooled"], "flux": ["t5", "pooled"]}[family]
    pooled = next(part for part in found.parts if part.view.rows is None)
    row = backbone.encode(["a dagger"]).pooled
    assert pooled.triggers.any() and not torch.allclose(pooled.merge(row, "released"), row)


@pytest.mark.parametrize("family", ["sd1", "sd3", "flux"])
def test_a_prompt_without_words(family):
    pipe = built(family)
    plain = draw(pipe, cfg=False, prompts=[""])
    with protect(pipe, SAFREE(phrases=PHRASES)) as guarded:
        assert torch.equal(draw(pipe, cfg=False, prompts=[""]), plain)
        assert guarded.decisions[0][0]["triggers"] == []


def test_a_prompt_of_one_word_is_filtered():
    pipe = built("sd1")
    with protect(pipe, SAFREE(phrases=PHRASES)) as guarded:
        assert not torch.equal(draw(pipe, cfg=False, prompts=["x"]), draw_plain(pipe, "x"))
        assert guarded.decisions[0][0]["triggers"] == ["x"]


def draw_plain(pipe, prompt):
    return draw(tiny("sd1"), cfg=False, prompts=[prompt])


# ---- where a text ends ----


def test_the_end_is_found_by_its_id():
    """A token beyond the vocabulary, or an old configuration, moves transformers' own pooled output; not ours."""
    backbone = adapter(built("sdxl"))
    assert [ends.tolist() for ends in backbone.text_ends(spell(backbone, ["a dagger", "", ("a ", 0)]))] == [
        [8, 1, 3]
    ] * 2
    rows = word_rows(backbone, "dagger")
    ids = spell(backbone, [("a ", 0)])
    want = encode_ids(backbone, ids, rows).pooled
    old = tiny("sdxl")
    old.text_encoder_2.text_model.eos_token_id = 2
    torch.testing.assert_close(encode_ids(adapter(old), ids, rows).pooled, want)


def test_an_attackers_token_is_tested_like_a_word():
    pipe = tiny("sd1")
    with (
        protect(pipe, SAFREE(phrases=PHRASES)) as guarded,
        vocabulary(pipe, word_rows(adapter(pipe), "weapon")) as said,
    ):
        draw(pipe, prompts=[f"a {said}"])
        assert guarded.decisions[0][0]["triggers"]


# ---- what is refused ----


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_distances_follow_a_words_embedding(family):
    """What an attack learns from: a word given as its embedding is that word, and slopes in it are true."""
    backbone = adapter(built(family))
    words = Vocabulary.of(backbone)
    ids = Slots(backbone, words, [("red ", None, " dagger")]).ids
    rows = [own[words.texts.index("x")].clone().requires_grad_() for own in words.rows]
    said = left_out(backbone, spell(backbone, ["red x dagger"]), None)

    def columns(step=0.0, along=rows):
        return left_out(backbone, ids, None, [row + step * a for row, a in zip(rows, along, strict=True)])

    for name, column in columns().items():
        torch.testing.assert_close(column.detach(), said[name])
        probe = torch.randn(column.shape, generator=torch.Generator().manual_seed(0)).double()
        slopes = torch.autograd.grad((column * probe).sum(), rows, allow_unused=True, retain_graph=True)
        slopes = [torch.zeros_like(r) if s is None else s for s, r in zip(slopes, rows, strict=True)]
        size = sum(float(s.square().sum()) for s in slopes) ** 0.5
        with torch.no_grad():
            high, low = ((columns(step / size, slopes)[name] * probe).sum() for step in (1e-2, -1e-2))
        assert float(high - low) / 2e-2 == pytest.approx(size, rel=0.05) and size > 0


@pytest.mark.parametrize("name", ["prompt_embeds", "clip_skip", "prompt_2"])
def test_what_cannot_be_tested_is_refused(name):
    pipe = built("sdxl")
    encoded = adapter(pipe).encode(PROMPTS)
    given = {"clip_skip": 1, "prompt_2": ["x", "y"]}
    call = {"prompt_embeds": encoded.tokens, "pooled_prompt_embeds": encoded.pooled, "prompt": None}
    settings = call if name == "prompt_embeds" else {"prompt": PROMPTS, name: given[name]}
    with protect(pipe, SAFREE(phrases=PHRASES)), pytest.raises(Unsupported, match=name) as error:
        pipe(**settings, num_inference_steps=1, output_type="latent")
    assert "\n" not in str(error.value)


def test_bad_settings_are_one_line():
    with pytest.raises(UnknownName, match="did you mean 'paper'"):
        SAFREE(phrases=PHRASES, order="papr")
    with pytest.raises(UserError, match="alpha"):
        SAFREE(phrases=PHRASES, alpha=math.nan)
    with pytest.raises(Unsupported, match="UNet"):
        protect(built("flux"), SAFREE(phrases=PHRASES, re_attention=True))
    assert SAFREE(phrases="weapon, sword").phrases == PHRASES


def test_saved_and_loaded(tmp_path):
    guard = SAFREE(phrases=PHRASES, negative="weapon", order="paper")
    assert repr(Defense.from_pretrained(guard.save_pretrained(tmp_path / "g"))) == repr(guard)


# ---- latent re-attention ----


def test_damping_is_the_published_formula():
    f, o = (torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    a, b = (np.fft.fftshift(np.fft.fft2(x.numpy()), axes=(-2, -1)) for x in (f, o))
    low = np.zeros((4, 4), bool)
    low[1:3, 1:3] = True
    want = np.where(low & (abs(a) > abs(b)), 0.2 * a, a)
    got = damp(f, o, 0.2)
    np.testing.assert_allclose(got.numpy(), np.fft.ifft2(np.fft.ifftshift(want, axes=(-2, -1))).real, atol=1e-5)
    torch.testing.assert_close(damp(f, o, 1.0), f)
    torch.testing.assert_close(damp(f, 10 * f, 0.2), f)  # nowhere larger than the original


def test_re_attention_acts_and_leaves_nothing(monkeypatch):
    from unsee.guards.safree import attention

    pipe = built("sd1")
    guard = SAFREE(phrases=PHRASES, filtering="off")
    with protect(pipe, guard):
        without = draw(pipe)
    with protect(pipe, SAFREE(phrases=PHRASES, filtering="off", re_attention=True)):
        assert not torch.equal(draw(pipe), without)
        monkeypatch.setattr(attention, "SKIP_SCALES", (1.0, 1.0))
        torch.testing.assert_close(draw(pipe), without, atol=1e-4, rtol=1e-4)
    assert not any(block._forward_pre_hooks for block in pipe.unet.up_blocks)
