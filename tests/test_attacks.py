"""Attacks that read text alone, their words and their files: against brute force, and what may not be searched for."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch

from unsee import concepts
from unsee.attacks import load, save
from unsee.attacks.paraphrase import Paraphrase, misspelled
from unsee.attacks.random_tokens import RandomTokens
from unsee.attacks.ring_a_bell import Genes, Hunt, RingABell
from unsee.attacks.victim import facing, flat
from unsee.attacks.vocabulary import Slots, Vocabulary, allowed, readable_ids
from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.errors import BadFile, Mismatch, UserError
from unsee.types import AttackedPrompt, Prompt, Spent
from unsee.types import total_spent as total

WEAPON = concepts.load("weapon")


@pytest.fixture(scope="module")
def pipe():
    return tiny("sd1")


# ---- words ----


@pytest.mark.parametrize("family", FAMILIES)
def test_a_searched_word_is_read_as_itself_by_every_encoder(family):
    """One-hot weights at the places give what the pipeline makes of the text, whatever stands around them."""
    made = tiny(family)
    words = Vocabulary.of(adapter(made))
    places = Slots(adapter(made), words, [(None, None, "a dagger"), ("an axe", None)])
    choice = torch.tensor([[3, 7], [11, 0]])
    with facing(made) as victim, torch.no_grad():
        read = places.read(victim, words.embed(torch.nn.functional.one_hot(choice, len(words)).float()))
        said = places.say(choice)
        assert said[1] == f"an axe {words.texts[11]}" and said[0].endswith("a dagger")
        torch.testing.assert_close(flat(read), flat(victim.encode(said)))
        assert victim.take() == Spent(encodings=4)


def test_slopes_of_words_are_those_of_their_weights():
    words = Vocabulary.of(adapter(tiny("sdxl")))
    weights = torch.rand(2, 3, len(words), requires_grad=True)
    embedded = [part.detach().requires_grad_() for part in words.embed(weights)]
    loss = sum((part.sin() * torch.arange(1, 4)[:, None, None]).sum() for part in embedded)
    slopes = words.slopes(torch.autograd.grad(loss, embedded))
    again = sum((part.sin() * torch.arange(1, 4)[:, None, None]).sum() for part in words.embed(weights))
    torch.testing.assert_close(slopes, torch.autograd.grad(again, weights)[0])


def test_banned_words_and_words_for_minors_are_not_searched(pipe):
    words = Vocabulary.of(adapter(pipe), banned=["a b", "?"])
    assert not {"a", "b"} & set(words.texts) and {"c", "?"} <= set(words.texts)

    class Reads:
        all_special_ids = [0]
        texts = ["<s>", "girl", "dagger", "kids", " ", "nude"]

        def __len__(self):
            return len(self.texts)

        def decode(self, ids):
            return self.texts[ids[0]]

    assert readable_ids(Reads())[1] == ["dagger", "nude"]
    assert allowed("a dagger") and not allowed("a nude child")


# ---- Ring-A-Bell ----


def test_the_genetic_search_finds_the_optimum_of_a_small_vocabulary(pipe):
    """7³ texts, all tried by hand."""
    tokenizer, attack = pipe.tokenizer, RingABell(population=40, generations=60, length=3, seeded=0.0)
    genes = Genes(tokenizer, tuple(tokenizer("a b c d e f", add_special_tokens=False).input_ids))
    with facing(pipe) as victim:
        targets = flat(victim.encode(["x y z", "q"]))
        every = genes.say(torch.tensor(list(itertools.product(range(7), repeat=3))))
        encoded = flat(victim.encode(every))
        hunts = [Hunt(t, torch.Generator().manual_seed(i), torch.zeros(3).long()) for i, t in enumerate(targets)]
        for _ in attack.search(hunts, genes, lambda texts: flat(victim.encode(texts))):
            pass
    for hunt, target in zip(hunts, targets, strict=True):
        distances = (encoded - target).square().sum(1)
        assert hunt.texts[0] in {every[i] for i in (distances <= distances.min() * 1.000001).nonzero()[:, 0]}
        assert float(hunt.scores[0]) == pytest.approx(float(distances.min()), rel=1e-5)


def test_the_first_population_holds_the_prompt_itself(pipe):
    """Of ``seeded`` individuals the first is the prompt, others are it with some genes changed; the rest is random."""
    own = Genes.of(pipe.tokenizer).read("a gun", 8)
    n = len(Genes.of(pipe.tokenizer))
    for seed in range(5):
        hunt = Hunt(torch.zeros(1), torch.Generator().manual_seed(seed), own)
        made = RingABell(population=40, length=8, seeded=0.5)._first(hunt, n)
        alike = (made == own).float().mean(1)
        assert made.shape == (40, 8) and torch.equal(made[0], own)
        assert alike[1:20].mean() > 0.7 and (alike[1:20] < 1).any() and alike[20:].mean() < 0.2
    random = RingABell(population=40, length=8, seeded=0.0)._first(hunt, n)
    assert not (random == own).all(1).any()


def test_each_text_is_encoded_once_and_the_best_survive(pipe):
    attack, asked = RingABell(population=10, generations=8, length=3, pairs=2), []
    genes = Genes.of(pipe.tokenizer)
    with facing(pipe) as victim:

        def encode(texts):
            asked.extend(texts)
            return flat(victim.encode(texts))

        target = flat(victim.encode(["a gun"]))[0]
        hunts = [Hunt(target, torch.Generator().manual_seed(0), genes.read("a gun", 3)) for _ in range(2)]
        best = [float(hunts[0].scores[0]) for _ in attack.search(hunts, genes, encode)]
    assert len(asked) == len(set(asked)) and len(hunts[0].texts) == 5
    assert best == sorted(best, reverse=True) and hunts[0].texts == hunts[1].texts
    assert best[0] == 0.0 or best[-1] <= best[0]


def test_the_objective_falls_and_is_that_of_the_text(pipe):
    attack, prompts = RingABell(population=20, generations=15, length=6, pairs=4), WEAPON.prompts("plain", "train", 3)
    found = attack(pipe, WEAPON, prompts, seed=2)
    assert all(f.after < f.before for f in found) and len({f.prompt.text for f in found}) == 3
    with facing(pipe) as victim:
        texts = WEAPON.pairs("train", 4, 2)
        vector = flat(victim.encode([a for a, _ in texts])).mean(0) - flat(victim.encode([b for _, b in texts])).mean(0)
        for one in found:
            target = flat(victim.encode([one.source]))[0] + attack.eta * vector
            distance = (flat(victim.encode([one.prompt.text]))[0] - target).square().sum()
            assert one.after == pytest.approx(float(distance), rel=1e-4)
    assert total(found)["encodings"] <= attack.most(3).encodings and total(found)["forwards"] == 0


def test_a_prompts_share_is_of_its_own_list_and_of_what_all_lists_share(pipe, monkeypatch):
    """Lists of 2, 2 and 1: what all share is spread over all five, what a list spent over its own; so is its time."""
    from unsee.attacks import base

    class Clock:
        now = 0.0

        def perf_counter(self):
            Clock.now += 1.0  # a list reads it twice: a second for each
            return Clock.now

    spent = []

    class Counted(RandomTokens):
        name = "random-tokens"

        def most(self, n):
            return Spent(encodings=1e3, images=1e3)

        def _prepare(self, job):
            job.victim.count(encodings=10)

        def _find(self, job, prompts, shared):
            spent.append(7 * len(prompts) + len(spent))  # no two lists alike
            job.victim.count(images=spent[-1])
            return super()._find(job, prompts, super()._prepare(job))

    monkeypatch.setattr(base, "time", Clock())
    prompts = [Prompt(f"a gun {i}", str(i), i) for i in range(5)]
    found = Counted(at_once=2)(pipe, WEAPON, prompts)
    assert spent == [14, 15, 9]
    assert [f.spent.images for f in found] == pytest.approx([7.0, 7.0, 7.5, 7.5, 9.0])
    assert [f.spent.encodings for f in found] == pytest.approx([2.0] * 5)
    assert total(found)["images"] == pytest.approx(sum(spent)) and total(found)["encodings"] == pytest.approx(10)
    assert [f.seconds for f in found] == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0])


def test_text_alone_decides_so_one_search_serves_every_defense(pipe, tmp_path):
    from unsee.defenses import protect
    from unsee.guards.sld import SLD

    attack, prompts = RingABell(**RingABell.quick), WEAPON.prompts("plain", "held-out", 2)
    attack(pipe, WEAPON, prompts, work=tmp_path)
    with protect(pipe, SLD(text="weapon")):
        attack(pipe, WEAPON, prompts, work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    other = tiny("sd1")
    next(p for n, p in other.text_encoder.named_parameters() if "final_layer_norm.bias" in n).data += 0.01
    attack(other, WEAPON, prompts, work=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("bad", [{"population": 3}, {"mutation": 2.0}, {"generations": 0}, {"at_once": 0}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(UserError):
        RingABell(**bad)


# ---- paraphrase, random tokens ----


@pytest.mark.parametrize("name", concepts.names())
def test_a_paraphrase_says_another_held_out_word(name, pipe):
    concept = concepts.load(name)
    prompts = concept.prompts("plain", "held-out", 12)
    for way in ("synonym", "template", "misspelling"):
        found = Paraphrase(ways=(way,))(pipe, concept, prompts)
        assert all(f.prompt.text != f.source for f in found if way != "template")
        if way == "synonym":
            held = [w.lower() for w in concept.all_words("held-out")]
            assert not held or any(any(w in f.prompt.text.lower() for w in held) for f in found)


def test_paraphrases_keep_the_article_right(pipe):
    prompt = replace(WEAPON.prompts("plain", "held-out", 1)[0], text="draw a dagger on an axe", subject="axe")
    text = Paraphrase(ways="synonym")(pipe, WEAPON, [prompt])[0].prompt.text
    assert text in ("draw a dagger on a tomahawk", "draw a dagger on a battle axe")
    said = Paraphrase(rewriter=str.upper)(pipe, WEAPON, [prompt])
    assert said[0].prompt.text == "DRAW A DAGGER ON AN AXE"


def test_a_misspelling_is_one_slip():
    import random

    for seed in range(20):
        word = misspelled("dagger", random.Random(seed))
        assert word != "dagger" and abs(len(word) - 6) <= 1 and word[0] == "d" and set(word) <= set("dagger")


def test_random_tokens_stand_before_the_prompt(pipe):
    prompt = Prompt("a dagger", "1", 0)
    text = RandomTokens(length=3)(pipe, WEAPON, [prompt])[0].prompt.text
    assert text.endswith(" a dagger") and len(text.removesuffix(" a dagger").replace(" ", "")) == 3
    other = RandomTokens(length=3, keep=False)(pipe, WEAPON, [prompt])[0].prompt.text
    assert "dagger" not in other


# ---- files ----


def test_files_hold_words_once_and_refuse_what_they_are_not(pipe, tmp_path):
    from unsee.attacks import saying

    words = (torch.randn(1, 16),)
    found = [AttackedPrompt(Prompt(f"<c*0> {i}", str(i), i), "x", "a", 1.0, 0.5, Spent(2.0), words) for i in range(3)]
    file = save(found, tmp_path / "R" / "prompts.json", defense="uce")
    assert json.loads(file.read_text())["defense"] == "uce"
    assert sorted(p.name for p in file.parent.iterdir()) == ["prompts.json", "prompts.safetensors"]
    again = load(file.parent)
    assert [replace(f, words=()) for f in again] == [replace(f, words=()) for f in found]
    assert torch.equal(again[2].words[0], words[0])
    with pytest.raises(Mismatch, match="width"), saying(pipe, (torch.randn(1, 8),)):
        pass
    file.write_text("{")
    with pytest.raises(BadFile):
        load(file)
    with pytest.raises(BadFile):
        load(tmp_path / "nowhere.json")


def test_the_same_id_twice_is_refused(pipe):
    prompt = Prompt("a dagger", "1", 0)
    with pytest.raises(UserError, match="different ids"):
        RandomTokens()(pipe, WEAPON, [prompt, prompt])
