"""The refusal: the share it catches of a generated list, no false alarm on harmless ones, its speed, its entrances."""

import doctest
import json
import time

import numpy as np
import pytest
from refusal_lists import HIDDEN, LEET, OTHER, forbidden, harmless

from unsee import concepts
from unsee.bench.generate import draw
from unsee.concepts import disguise, everyday, terms
from unsee.concepts import refusal as refuse
from unsee.concepts.refusal import sexualizes_minors
from unsee.embeddings.attacked import load
from unsee.errors import UserError
from unsee.types import Prompt

CAUGHT = 0.98  # the least share of the whole list; of each kind .85


def test_the_share_that_is_caught(capsys):
    listed = forbidden()
    caught = {kind: [sexualizes_minors(text) for text in texts] for kind, texts in listed.items()}
    share = float(np.mean([hit for hits in caught.values() for hit in hits]))
    with capsys.disabled():
        print(f"\nrefused: {share:.2%} of {sum(map(len, listed.values()))} texts of {len(listed)} kinds;", end=" ")
        print("less than all of " + ", ".join(f"{k} {np.mean(h):.0%}" for k, h in caught.items() if not all(h)))
    assert share >= CAUGHT
    assert {kind: float(np.mean(hits)) for kind, hits in caught.items() if np.mean(hits) < 0.85} == {}


def test_no_false_alarm_on_captions_lessons_and_art():
    texts = harmless()
    assert len(texts) >= 300
    assert [text for text in texts if sexualizes_minors(text)] == []


@pytest.mark.parametrize("text", ["there is one nude statue", "a nude is one of many", "a girl | other 180 | thing-18"])
def test_no_age_and_no_rating_in_the_middle_of_words(text):
    """Catches "i's one" in "is one", and "r 18" in "other 18"."""
    assert not sexualizes_minors(text)


def test_no_false_alarm_on_what_ships():
    things = [thing.strip() for thing in everyday.EVERYDAY.split(",")]
    texts = [f"{a} and {b}" for a, b in zip(things, things[1:], strict=False)]
    for name in concepts.names():
        concept = concepts.load(name)
        for kind in ("plain", "synonym", "empty", "neighbor", "benign"):
            for split in ("train", "held-out"):
                try:
                    texts += [prompt.text for prompt in concept.prompts(kind, split, 60)]
                except UserError as error:  # a kind that this concept has not
                    assert "minors" not in str(error)
    assert len(texts) > 2000
    assert [text for text in texts if sexualizes_minors(text)] == []


def test_no_false_alarm_on_the_captions_that_picto_learned_from():
    catalog = pytest.importorskip("training.picto.catalog")
    texts = [f"{slug.replace('-', ' ')} in {style} style" for slug in catalog.slugs() for style in catalog.STYLES]
    assert len(texts) > 1000
    assert [text for text in texts if sexualizes_minors(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "a nude person of 35 years", "nineteen year old nude", "a twenty five year old, naked", "nude, 18 years old",
        "a kind man, naked", "Nina, a nude of 40", "a therapist, child psychology", "a brainchild of naked ambition",
        "an 18-year-old topless woman", "her nude photos, stolen two years ago", "naked, 12 feet tall statue",
    ],
)  # fmt: skip
def test_ages_and_words_of_adults_pass(text):
    assert not sexualizes_minors(text)


@pytest.mark.parametrize(
    "text",
    [  # too much rather than too little: said in the docstring
        "a sexy girl in a bar", "a 12 year old in nude colored shoes", "a poster against sexual abuse of children",
        "the naked infant Jesus, fresco", "gothic lolita dress", "a boy in underwear",
    ],
)  # fmt: skip
def test_what_is_refused_although_it_may_be_harmless(text):
    assert sexualizes_minors(text)


@pytest.mark.parametrize("text", ["a nude descending", "children in a park", "enfant terrible", "дети", "nu"])
def test_one_half_alone_is_not_refused(text):
    assert not sexualizes_minors(text)


def test_a_cheap_look_never_says_no_where_a_closer_one_says_yes(monkeypatch):
    texts = [text for texts in forbidden().values() for text in texts[::5]]
    quick = [sexualizes_minors(text) for text in texts]
    monkeypatch.setattr(refuse.Terms, "may_say", lambda self, plain: True)
    assert [sexualizes_minors(text) for text in texts] == quick


def test_the_words_are_written_as_they_are_compared():
    listed = [word for of in (terms.MINOR, terms.SEXUAL) for text in of.values() for word in text.split()]
    assert [word for word in listed if disguise.fold(word) != word] == []
    for language, words in terms.AMBIGUOUS.items():
        own = {*terms.MINOR[language].split(), *terms.SEXUAL[language].split()}
        assert set(words.split()) <= own
    assert set(OTHER) | {"en"} >= set(terms.MINOR) and len(HIDDEN) >= 15 and LEET


@pytest.mark.parametrize(
    ("text", "folded"),
    [("N\u200bU\u00adDE", "nude"), ("Ｎúdé", "nude"), ("𝓃𝓊𝒹𝑒", "nude"), ("🇳🇺🇩🇪", "nude"), ("ﬁne", "fine"),
     ("ЁЖИК", "ежик"), ("한국", "한국"), ("ポルノ", "ポルノ"), ("Straße", "strasse"), ("żółw", "zolw")],
)  # fmt: skip
def test_folding(text, folded):
    assert disguise.fold(text) == disguise.fold(folded)


def test_it_costs_microseconds():
    typical = [
        "a picture of a dagger in noto style",
        "an elderly woman walking her dog along the beach at sunset, 8k, trending on artstation",
        "two people in a café at night, oil on canvas",
        "a boy and his dog in the rain, by Norman Rockwell",
    ]
    for text in typical:
        sexualizes_minors(text)
    rounds = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(250):
            for text in typical:
                sexualizes_minors(text)
        rounds.append((time.process_time() - began) / 1000)
    assert min(rounds) < 200e-6  # about 20 µs on a machine that does nothing else; the bar is for one that does


def test_a_text_without_end_does_not_take_without_end():
    began = time.process_time()
    for text in ("nude " * 2_000, "a " * 5_000, "n*" * 2_000, "nakednaked" * 500, "1" * 10_000, "e" * 10_000,
                 "nude a 1 " * 1_000, "nude one year " * 500, "nu*de " * 1_000, "n.u.d.e " * 1_000):  # fmt: skip
        sexualizes_minors(text)
    assert time.process_time() - began < 20


WRONG = "a naked twelve\u200byearold"


def test_it_is_asked_wherever_texts_come_in(tmp_path, capsys):
    from test_concepts import WHOLE, write

    from unsee.attacks.vocabulary import allowed
    from unsee.backbones.tiny import tiny
    from unsee.cli import main
    from unsee.suites.suite import SuiteSpec

    with pytest.raises(UserError, match="minors"):  # a concept, from a file or made in Python
        concepts.load(write(tmp_path, WHOLE.replace('"badge"', '"nude"').replace('"lake"', '"toddler"')))
    weapon = concepts.load("weapon")
    with pytest.raises(UserError, match="minors"):
        concepts.Concept.model_validate(weapon.model_dump() | {"title": WRONG})
    with pytest.raises(UserError, match="minors"):  # prompts that are drawn, by whomever
        draw(tiny("sd1"), [Prompt(WRONG, "1", 1)], [], steps=1, guidance=2.0)
    assert main(["generate", "--prompt", WRONG, "--model", "tiny:sd1", "--out", str(tmp_path / "a.png")]) == 2
    assert "sexualizes minors" in capsys.readouterr().err and not (tmp_path / "a.png").exists()
    line = {"prompt": {"text": WRONG, "id": "1", "seed": 1}, "source": "a dagger", "attack": "replay", "before": None,
            "after": None, "spent": {}, "words": ""}  # fmt: skip
    (tmp_path / "prompts.json").write_text(json.dumps({"version": 1, "spent": {}, "prompts": [line]}))
    with pytest.raises(UserError, match="minors"):  # found prompts, given as a file
        load(tmp_path / "prompts.json")
    assert not allowed(WRONG)
    file = tmp_path / "wrong.toml"
    file.write_text(WHOLE.replace('"badge"', '"nude"').replace('"lake"', '"toddler"'))
    asked = {"name": "s", "model": "tiny:sd1", "concepts": [str(file)], "judge": "always.safe", "steps": 1,
             "prompts": [{"kind": "plain", "n": 1}]}  # fmt: skip
    from unsee.bench.run import run

    with pytest.raises(UserError, match="minors"):  # a suite, before anything is written
        run(SuiteSpec.parse(asked), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", [disguise, refuse])
def test_examples_in_docstrings(module):
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed
