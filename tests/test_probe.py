"""The probe's r against its formula; its intervals and its warning."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

from unsee import concepts
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.bench import probe
from unsee.bench.probe import Grip, bootstrap, grip, overall
from unsee.defenses.base import Defense
from unsee.errors import Unsupported, UserError

built = functools.cache(tiny)


class Weaker(Defense):
    """A host that halves what the text says (SD 1.x)."""

    name = "weaker"

    def attach(self, backbone):
        self.kept = {
            n: p.module.weight.detach().clone() for n, p in backbone.projections().items() if p.attention == "cross"
        }
        for name in self.kept:
            backbone.projections()[name].module.weight.data.mul_(0.5)

    def detach(self, backbone):
        for name, weight in self.kept.items():
            backbone.projections()[name].module.weight.data.copy_(weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_has_no_grip_and_the_prompt_itself_has_one(family):
    pipe, concept = built(family), concepts.load("weapon")
    prompts = concept.prompts("plain", "held-out", 1)
    encoded = adapter(pipe).encode([prompts[0].text])
    rows = grip(pipe, concept, negatives={"empty": "", "same": encoded}, prompts=prompts, steps=2)
    assert [row.t for row in rows if row.negative == "same"][:2] == sorted({r.t for r in rows if r.t}, reverse=True)
    by = overall(rows)
    assert by["base", "empty"].r == pytest.approx(0, abs=1e-3)
    assert by["base", "same"].r == pytest.approx(1, abs=1e-3) and by["base", "same"].n == 1
    assert by["base", "same"].cosine == pytest.approx(1, abs=1e-3)


def test_r_is_the_formula():
    """Against predictions made by hand on the first latents of the sampler."""
    pipe, concept = built("sd1"), concepts.load("weapon")
    prompts = concept.prompts("plain", "held-out", 3)
    rows = grip(pipe, concept, prompts=prompts, steps=1)
    backbone, t = adapter(pipe), rows[0].t
    want, alike = [], []
    for prompt in prompts:
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(prompt.seed))
        texts = backbone.encode(["", prompt.text, concept.phrase()]).tokens
        u, p, n = (pipe.unet(noise, t, text[None]).sample for text in texts)
        want.append(float((n - u).norm() / (p - u).norm()))
        alike.append(float(((n - u) * (p - u)).sum() / (n - u).norm() / (p - u).norm()))
    assert rows[0].negative == "words" and rows[0].r == pytest.approx(sum(want) / 3, rel=1e-3)
    assert rows[0].cosine == pytest.approx(sum(alike) / 3, rel=1e-3) and -1 <= rows[0].cosine_low <= rows[0].cosine
    assert min(want) * 0.999 <= rows[0].low <= rows[0].r <= rows[0].high <= max(want) * 1.001


def test_base_and_host_and_no_trace():
    pipe, concept = tiny("sd1"), concepts.load("weapon")
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    rows = grip(pipe, concept, host=[Weaker()], n=2, steps=2)
    assert {row.where for row in rows} == {"base", "host"} and len(rows) == 2 * 3
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())
    assert rows == grip(pipe, concept, host=[Weaker()], n=2, steps=2)


def test_bootstrap():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap(values)
    error = float(values.std()) / 20
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1) and low < float(values.mean()) < high
    assert bootstrap(values) == (low, high) and bootstrap(torch.ones(5)) == (1.0, 1.0)


def test_warns_of_words_without_grip():
    def rows(low, high):
        return [Grip("base", "words", None, 0.9, 0.8, 1.0, 9), Grip("host", "words", None, 0.2, low, high, 9)]

    with pytest.warns(UserWarning, match="lost grip") as caught:
        probe._warn(rows(0.1, 0.3), {"words"})
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe._warn(rows(0.1, 0.85), {"words"})  # the intervals touch
        probe._warn(rows(0.1, 0.3), set())  # not a text


def test_bad_input():
    concept = concepts.load("weapon")
    with pytest.raises(UserError, match="guidance"):
        grip(built("sd1"), concept, guidance=1.0)
    with pytest.raises(Unsupported):
        grip(object(), concept)
