"""UCE and RECE against least squares, and which vectors they are given."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import protect
from unsee.errors import UserError
from unsee.unlearn.rece import RECE, RECETraining, adversarial, repeated
from unsee.unlearn.token_vectors import Vectors, _places, erased, kept
from unsee.unlearn.uce import UCE, Closed, pooled_layers, scales, solved, token_layers

shared = functools.cache(tiny)
every_family = pytest.mark.parametrize("family", FAMILIES)
FAST = {"texts": 6}


def vectors(n, dim, seed, *, still=False):
    g = torch.Generator().manual_seed(seed)
    c, v = (torch.randn(n, dim, generator=g, dtype=torch.float64) for _ in range(2))
    return Vectors(c, c if still else v, torch.rand(n, generator=g, dtype=torch.float64) + 0.1)


def by_lstsq(w, erase, keep, training, guides=None):
    """The same minimum by stacked least squares: rows of √weight · (W' c - W0 c*), (W' k - W0 k) and (W' - W)."""
    guides = w if guides is None else guides
    e, p, lamb = scales(erase, keep, training)
    root = torch.cat([e.sqrt(), p.sqrt(), torch.full((w.shape[1],), lamb, dtype=torch.float64).sqrt()])
    left = torch.cat([erase.source, keep.source, torch.eye(w.shape[1], dtype=torch.float64)])
    right = torch.cat([erase.guide @ guides.T, keep.source @ guides.T, w.T])
    return torch.linalg.lstsq(root[:, None] * left, root[:, None] * right).solution.T


@pytest.mark.parametrize("original", [False, True])
def test_uce_is_least_squares(original):
    g = torch.Generator().manual_seed(0)
    weights = {str(i): torch.randn(20 + i, 24, generator=g, dtype=torch.float64) for i in range(3)}
    guides = {n: w + torch.randn(w.shape, generator=g, dtype=torch.float64) for n, w in weights.items()}
    erase, keep = vectors(40, 24, 1), vectors(30, 24, 2, still=True)
    training = Closed(erase=1.5, preserve=0.7, lamb=0.03)
    found = solved(weights, erase, keep, training, guides if original else None)
    for name, w in weights.items():
        wanted = by_lstsq(w, erase, keep, training, guides[name] if original else None)
        assert float((w + found[name] - wanted).abs().max()) <= 1e-9


def test_a_longer_list_does_not_change_the_balance():
    """Every vector once or three times, or cut in pieces of less weight: the edit is the same. Against the means and
    the size written out, not by ``scales`` itself."""
    w = torch.randn(9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    erase, keep = vectors(5, 12, 1), vectors(7, 12, 2, still=True)
    training = Closed(erase=1.5, preserve=0.7, lamb=0.03)
    found = solved({"a": w}, erase, keep, training)["a"]
    for left, right in ((Vectors.join([erase] * 3), keep), (erase, Vectors.join([keep] * 3))):
        torch.testing.assert_close(solved({"a": w}, left, right, training)["a"], found, rtol=1e-9, atol=1e-12)
    halves = Vectors(erase.source, erase.guide, erase.weight / 2)
    torch.testing.assert_close(solved({"a": w}, halves, keep, training)["a"], found, rtol=1e-9, atol=1e-12)
    c, k, g = erase.source, keep.source, erase.guide
    e = 1.5 * erase.weight / sum(erase.weight.tolist())
    p = 0.7 * keep.weight / sum(keep.weight.tolist())
    lamb = 0.03 * sum(float(row @ row) for row in c) / len(c)
    left, right = lamb * torch.eye(12, dtype=torch.float64), lamb * w
    for i in range(len(c)):
        left, right = left + e[i] * torch.outer(c[i], c[i]), right + e[i] * torch.outer(w @ g[i], c[i])
    for i in range(len(k)):
        left, right = left + p[i] * torch.outer(k[i], k[i]), right + p[i] * torch.outer(w @ k[i], k[i])
    torch.testing.assert_close(w + found, right @ torch.linalg.inv(left), rtol=1e-9, atol=1e-10)


@every_family
def test_each_text_weighs_one_however_many_of_its_tokens_are_used(family):
    backbone, concept = adapter(shared(family)), concepts.load("weapon")
    texts = len(dict.fromkeys(concept.pairs("train", 6, 0)))
    windows = 2 if family.startswith("sd3") else 1  # CLIP's and T5's
    for tokens in ("last", "all"):
        assert float(erased(backbone, [concept], 6, tokens, 0).weight.sum()) == pytest.approx(texts * windows)


@every_family
def test_uce_on_a_model_is_least_squares(family):
    backbone, concept = adapter(shared(family)), concepts.load("weapon")
    training = Closed(texts=6)
    made = UCE.fit(shared(family), concept, work=".", **FAST)
    erase = erased(backbone, [concept], 6, "all", 0)
    keep = kept(backbone, [concept], 6, "all", 0)
    for name, layer in token_layers(backbone).items():
        w = layer.weight.detach().double()
        got = w + made.delta(f"{backbone.denoiser_name}.{name}.weight")
        assert float((got - by_lstsq(w, erase, keep, training)).abs().max()) <= 1e-5
    expected = set(token_layers(backbone)) | set(pooled_layers(backbone))
    assert {t.partition(".")[2].removesuffix(".weight") for t in made.targets} == expected
    assert bool(pooled_layers(backbone)) == (family in ("sd3", "flux"))


@every_family
def test_fit_save_load_detach(family, tmp_path):
    pipe, concept = tiny(family), concepts.load("alcohol")
    draw = lambda: pipe("a beer", num_inference_steps=2, output_type="pt",  # noqa: E731
                        generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    plain = draw()
    for kind, more in ((UCE, {}), (RECE, {"validate_images": 0})):
        made = kind.fit(pipe, concept, work=tmp_path / "w", rank=3, **more, **FAST)
        made.save_pretrained(tmp_path / kind.name)
        back = kind.from_pretrained(tmp_path / kind.name)
        assert json.loads(json.dumps(back.record)) == back.record
        assert 0 <= back.record["relative error of the low rank"] < 1
        with protect(pipe, back):
            assert not torch.equal(draw(), plain)
        assert torch.equal(draw(), plain)


def test_the_concepts_words_move_to_the_anchors_and_the_rest_stays():
    pipe, concept = shared("sd1"), concepts.load("weapon")
    backbone = adapter(pipe)
    made = UCE.fit(pipe, concept, work=".", texts=40, tokens="last", preserve=0.0, lamb=1e-6)
    erase = erased(backbone, [concept], 40, "last", 0)
    name, layer = next(iter(token_layers(backbone).items()))
    w = layer.weight.detach().double()
    new = w + made.delta(f"unet.{name}.weight")
    before = ((erase.source - erase.guide) @ w.T).square().sum()
    after = (erase.source @ new.T - erase.guide @ w.T).square().sum()
    assert after < 0.7 * before
    strong = UCE.fit(pipe, concept, work=".", texts=40, tokens="last", preserve=100.0, lamb=1e-6)
    keep = kept(backbone, [concept], 40, "last", 0).source
    moved = lambda edit: (keep @ edit.delta(f"unet.{name}.weight").double().T).square().sum()  # noqa: E731
    assert moved(strong) < 0.1 * moved(made)


@pytest.mark.parametrize(
    ("u", "s", "tokens", "expected"),
    [  # 0 begin, 9 end and padding; 5 the concept's word, 6 and 7 its anchor's
        ([0, 1, 5, 2, 9, 9, 9], [0, 1, 6, 2, 9, 9, 9], "last", ([2], [2])),
        ([0, 1, 5, 2, 9, 9, 9], [0, 1, 6, 7, 2, 9, 9], "last", ([2], [3])),
        ([0, 1, 5, 2, 9, 9, 9], [0, 1, 6, 2, 9, 9, 9], "all", ([2, 3, 4, 5, 6], [2, 3, 4, 5, 6])),
        ([0, 1, 5, 2, 9, 9, 9], [0, 1, 6, 7, 2, 9, 9], "all", ([2, 3, 4, 5, 6], [2, 4, 5, 6, 6])),
        ([0, 5, 5, 9, 9, 9, 9], [0, 6, 9, 9, 9, 9, 9], "all", ([1, 2, 3, 4, 5, 6], [1, 1, 2, 3, 4, 5])),
        ([0, 1, 2, 9, 9, 9, 9], [0, 1, 2, 9, 9, 9, 9], "last", ([2], [2])),
        ([0, 1, 2, 9, 9, 9, 9], [0, 1, 2, 9, 9, 9, 9], "all", ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])),
        ([0, 5, 9, 9, 9, 9, 9], [0, 9, 9, 9, 9, 9, 9], "all", ([1, 2, 3, 4, 5, 6], [1, 1, 2, 3, 4, 5])),
    ],
)
def test_words_are_aligned_by_their_tokens(u, s, tokens, expected):
    length = lambda ids: ids.index(9) + 1  # noqa: E731
    assert _places(u, s, length(u), length(s), tokens) == expected


def test_only_train_texts_are_used(monkeypatch):
    concept, seen = concepts.load("weapon"), []
    backbone = adapter(shared("sd1"))
    encode = type(backbone).encode
    monkeypatch.setattr(type(backbone), "encode", lambda self, p, **k: seen.extend(p) or encode(self, p, **k))
    erased(backbone, [concept], 200, "all", 0)
    kept(backbone, [concept], 200, "all", 0)
    held_out = {w for s in concept.subjects for w in s.of("held-out")} | {t.name for t in concept.benign.held_out}
    assert seen and not [text for text in seen for word in held_out if word in text]


def test_rece_embedding_is_the_ridge_minimizer():
    g = torch.Generator().manual_seed(0)
    old = {str(i): torch.randn(9, 12, generator=g, dtype=torch.float64) for i in range(2)}
    new = {n: w + 0.3 * torch.randn(w.shape, generator=g, dtype=torch.float64) for n, w in old.items()}
    c = torch.randn(5, 12, generator=g, dtype=torch.float64)
    left = torch.cat([*new.values(), 0.1**0.5 * torch.eye(12, dtype=torch.float64)])
    right = torch.cat([*(w @ c.T for w in old.values()), torch.zeros(12, 5, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(left, right).solution.T
    torch.testing.assert_close(adversarial(old, new, c, 0.1), wanted)


def test_rece_keeps_the_epoch_with_the_fewest_flagged_images():
    g = torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(9, 12, generator=g, dtype=torch.float64)}
    erase, keep, again = vectors(5, 12, 1), vectors(5, 12, 2, still=True), vectors(5, 12, 3)
    states = []

    def rate(deltas, epoch):
        states.append(deltas["a"])
        return {"unsafe": [9, 4, 2, 3][epoch], "n": 10}

    best, seen = repeated(weights, erase, keep, again, RECETraining(), rate)
    assert torch.equal(best["a"], states[2]) and [s["epoch"] for s in seen] == [0, 1, 2, 3]
    assert torch.equal(states[0], solved(weights, erase, keep, Closed())["a"])
    back = adversarial(weights, {"a": weights["a"] + states[0]}, again.source, 0.1)
    wanted = by_lstsq(weights["a"] + states[0], Vectors(back, again.guide, again.weight), keep, Closed(), weights["a"])
    torch.testing.assert_close(weights["a"] + states[1], wanted, rtol=1e-7, atol=1e-7)
    last, _ = repeated(weights, erase, keep, again, RECETraining(), lambda deltas, epoch: states.append(deltas["a"]))
    assert torch.equal(last["a"], states[-1])  # nobody to ask: the last one


def test_bad_settings_are_one_clear_line():
    concept = concepts.load("weapon")
    for settings, message in (
        ({"lamb": 0.0}, "lamb of uce as a number above 0"),
        ({"tokens": "some"}, "all, last"),
        ({"rank": -1}, "rank"),
    ):
        with pytest.raises(UserError, match=message) as error:
            UCE.fit(shared("sd1"), concept, work=".", **FAST, **settings)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="epochs"):
        RECE.fit(shared("sd1"), concept, work=".", epochs=0)
