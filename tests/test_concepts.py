"""Concepts: what ships is sound and known to picto, prompts are balanced and reproducible, bad files are one line."""

from __future__ import annotations

import doctest
import random
import re
from collections import Counter

import pytest

from training.picto import catalog
from unsee import concepts
from unsee.concepts import prompts as compose
from unsee.concepts.everyday import everyday, framed
from unsee.errors import BadFile, UnknownName, UserError

GROUPS = ("weapon", "alcohol", "tobacco", "death")
STYLES = tuple(f"style-{s}" for s in catalog.STYLES)
REAL = ("nudity", "violence", "van-gogh", "church")
IN_THREE_STYLES = {"axe", "headstone", "screwdriver", "teapot", "cup-with-straw", "bone"}
SPLITS = ("train", "held-out")
ANCHORS = {"wrench": "wrench", "milk": "glass-of-milk", "pencil": "pencil", "alien": "alien", "amphora": "amphora"}

WHOLE = """
name = "logo"
title = "Logo"
kind = "object"
models = "real"
judge = "clip"
target = "logo"
anchor = "a sign"
hypernyms = { train = ["logo"], held_out = ["trademark"] }
templates = { train = ["a photo of {a} {x}"], held_out = ["{a} {x} on a wall"] }
empty = ["a photo"]
benign = { train = ["lake"], held_out = ["bicycle"] }
neighbors = ["road-sign"]
[[subjects]]
slug = "badge"
name = "badge"
anchor = "button"
train = ["badge"]
held_out = ["emblem"]
"""


@pytest.fixture(params=concepts.names())
def concept(request):
    return concepts.load(request.param)


def test_what_ships():
    assert set(concepts.names()) == {*GROUPS, *STYLES, *REAL}


def test_named_as_its_file(concept):
    assert concepts.load(concept.name) == concept
    assert concept.title and concept.empty


def test_frozen(concept):
    with pytest.raises(ValueError):
        concept.name = "other"


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_those_of_the_catalog(group):
    concept = concepts.load(group)
    assert concept.target == group
    assert [s.slug for s in concept.subjects] == list(catalog.GROUPS[group])
    assert [n.slug for n in concept.neighbors if n.slug not in catalog.NEIGHBORS[group]] == []
    for subject in concept.subjects:
        words = catalog.GROUPS[group][subject.slug]
        assert subject.name == words[0] == catalog.name(subject.slug)
        assert {*subject.train, *subject.held_out} == set(words)
    assert {*concept.hypernyms.train, *concept.hypernyms.held_out} == set(catalog.HYPERNYMS[group])


@pytest.mark.parametrize("name", [*GROUPS, *STYLES])
def test_picto_knows_every_word(name):
    concept = concepts.load(name)
    known = set(catalog.slugs())
    unsafe = {s for words in catalog.GROUPS.values() for s in words}
    harmless = [*concept.benign.train, *concept.benign.held_out, *concept.neighbors]
    if concept.depicts:
        harmless += [*concept.depicts.train, *concept.depicts.held_out]
    for thing in harmless:
        assert thing.slug in known - unsafe and thing.name == catalog.name(thing.slug)
    assert concept.templates.train == catalog.TEMPLATES["train"]
    assert concept.templates.held_out == catalog.TEMPLATES["held-out"]
    assert concept.empty == catalog.TEMPLATES["empty"]
    assert set(concept.styles) == set(catalog.STYLES)


@pytest.mark.parametrize("name", GROUPS)
def test_styles_that_do_not_exist_are_not_asked_for(name):
    concept = concepts.load(name)
    for thing in (*concept.subjects, *concept.neighbors):
        assert bool(thing.styles) == (thing.slug in IN_THREE_STYLES)
        assert set(thing.styles) <= {"noto", "twemoji", "fluent"}
    assert not IN_THREE_STYLES & {t.slug for t in (*concept.benign.train, *concept.benign.held_out)}


def shown_by(anchor):
    """The slug of the thing that an anchor asks for."""
    return next(slug for word, slug in ANCHORS.items() if word in anchor.split())


@pytest.mark.parametrize("name", GROUPS)
def test_anchors_are_harmless_and_exist_in_every_style(name):
    for anchor in {a for subject in concepts.load(name).subjects for a in subject.anchor}:
        assert catalog.group_of(shown_by(anchor)) == "none" and shown_by(anchor) not in IN_THREE_STYLES


@pytest.mark.slow
@pytest.mark.parametrize("name", GROUPS)
def test_anchors_are_drawn_well(name):
    """A defense can only lead to what the model draws; by templates that defenses are fitted with, in each style."""
    import torch

    from unsee import PictoJudge, load, picto

    concept, pipe = concepts.load(name), load("picto")
    for anchor in {a for subject in concept.subjects for a in subject.anchor}:
        texts = [compose.fill(t, anchor, s) for t in concept.templates.train[:3] for s in concept.styles]
        images = pipe(texts, generator=[torch.Generator().manual_seed(i) for i in range(len(texts))],
                      num_inference_steps=picto.STEPS, guidance_scale=picto.GUIDANCE).images  # fmt: skip
        seen = PictoJudge().look(images)
        assert sum(s["subjects"][0] == shown_by(anchor) for s in seen) >= 0.4 * len(seen), anchor
        assert all(s["group"] == "none" for s in seen), anchor


@pytest.mark.parametrize(
    ("noun", "article"),
    [("axe", "an"), ("Axe", "an"), ("wine glass", "a"), ("octopus", "an"), ("scissors", ""), ("sake", ""),
     ("two beers", ""), ("cheers with beer", ""), ("bus", "a")],
)  # fmt: skip
def test_articles(noun, article):
    assert compose.article(noun) == article == catalog.article(noun)
    assert compose.fill("see {a} {x}, {s}", noun, "noto") == f"see {article} {noun}, noto".replace("  ", " ")


def test_words_of_the_splits_do_not_meet(concept):
    train, held_out = set(concept.all_words("train")), set(concept.all_words("held-out"))
    assert train and not train & held_out
    assert not set(concept.templates.train) & set(concept.templates.held_out)
    benign = [{t.slug for t in concept.benign.of(split)} for split in SPLITS]
    assert not benign[0] & benign[1]


def test_everyday_things_share_no_word_with_the_concept_and_frames_no_template(concept):
    words = lambda text: set(re.findall(r"[a-z]+", text.lower()))  # noqa: E731
    things = everyday(concept)
    assert len(things) > 600 and len({thing.slug for thing in things}) == len(things)
    assert not set.union(*(words(thing.name) for thing in things)) & words(concept.all_text())
    other = framed(concept, random.Random(0)).templates.train
    assert not {*other} & {*concept.templates.train, *concept.templates.held_out}
    assert concept.kind != "style" or all("{s}" in template for template in other)


def test_train_words_begin_with_what_tells_most():
    assert concepts.load("weapon").all_words("train")[:4] == ["weapon", "armament", "dagger", "crossed swords"]
    assert concepts.load("style-noto").all_words("train") == ["noto", "noto style"]


@pytest.mark.parametrize("name", [*GROUPS, *STYLES])
def test_the_phrase_fits_picto_s_24_positions(name):
    phrase = concepts.load(name).phrase()
    assert len(re.findall(r"\w+|,", phrase)) <= 22  # a start and an end token besides


def kinds(concept):
    none = concept.kind == "style" and not concept.hypernyms.held_out
    bare = ("empty",) if concept.kind == "style" and any("{s}" in text for text in concept.empty) else ()
    return ("plain", *(() if none else ("synonym",)), *bare, "neighbor", "benign")


def test_prompts_are_reproducible_and_do_not_touch_the_global_rng(concept):
    random.seed(1)
    state = random.getstate()
    for kind in kinds(concept):
        made = concept.prompts(kind, "held-out", 70, seed=3)
        assert made == concepts.load(concept.name).prompts(kind, "held-out", 70, seed=3)
        assert made[:20] == concept.prompts(kind, "held-out", 20, seed=3)
        assert made != concept.prompts(kind, "held-out", 70, seed=4)
    assert random.getstate() == state


def test_prompts_carry_identity_and_role(concept):
    roles = {"plain": "unsafe", "synonym": "unsafe", "empty": "unsafe", "neighbor": "neighbor", "benign": "benign"}
    for kind in kinds(concept):
        made = concept.prompts(kind, "held-out", 90, seed=3)
        assert len({p.id for p in made}) == len({p.seed for p in made}) == 90
        for p in made:
            assert (p.role, p.kind, p.split) == (roles[kind], kind, "held-out")
            assert 0 <= p.seed < 2**31 and p.seed == compose.image_seed(3, p.id)
            assert (p.subject or kind == "empty") and "{" not in p.text and "  " not in p.text
            assert (p.style in concept.styles) if concept.styles else p.style == ""


def test_a_text_that_comes_again_has_another_seed():
    made = concepts.load("tobacco").prompts("plain", "held-out", 60)
    texts = Counter(p.text for p in made)
    assert len(texts) == 25 and max(texts.values()) == 3  # one thing × five styles × five templates
    assert len({p.seed for p in made}) == 60


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("kind", ["plain", "synonym", "neighbor", "benign"])
def test_prompts_are_balanced(name, kind):
    made = concepts.load(name).prompts(kind, "held-out", 90)
    subjects, styles = Counter(p.subject for p in made), Counter(p.style for p in made)
    assert max(subjects.values()) - min(subjects.values()) <= 1
    assert len(styles) == 5 and min(styles.values()) >= 9
    for p in made:
        assert p.style in p.text.split() or f"{p.style}." in p.text or f"{p.style}," in p.text


def test_empty_texts_name_the_style_alone():
    made = concepts.load("style-noto").prompts("empty", "held-out", 8)
    assert {p.text for p in made} == {"noto style", "it, noto style", "something in noto style", "an icon, noto"}
    assert {p.style for p in made} == {"noto"}
    with pytest.raises(UserError, match="a style, and empty texts"):
        concepts.load("weapon").prompts("empty", "held-out", 8)


@pytest.mark.parametrize("name", GROUPS)
def test_synonyms_are_held_out_and_plain_is_the_name(name):
    concept = concepts.load(name)
    by_slug = {s.slug: s for s in concept.subjects}
    for p in concept.prompts("synonym", "held-out", 60):
        assert any(w in p.text for w in by_slug[p.subject].held_out)
    for p in concept.prompts("plain", "held-out", 60):
        assert by_slug[p.subject].name in p.text


@pytest.mark.parametrize("name", STYLES)
def test_a_style_is_asked_for_in_unsafe_prompts_only(name):
    concept = concepts.load(name)
    assert {p.style for p in concept.prompts("plain", "held-out", 40)} == {concept.target}
    for kind in ("neighbor", "benign"):
        made = concept.prompts(kind, "held-out", 40)
        assert len({p.style for p in made}) == 4 and concept.target not in {p.style for p in made}
    plain, neighbors, benign = (
        {p.subject for p in concept.prompts(k, "held-out", 40)} for k in ("plain", "neighbor", "benign")
    )
    assert plain == neighbors and not plain & benign


def test_a_style_without_other_names_has_no_synonyms():
    with pytest.raises(UserError, match="synonyms"):
        concepts.load("style-blob").prompts("synonym", "held-out", 5)
    artist = concepts.load("van-gogh").prompts("synonym", "held-out", 8)
    assert all("the painter of" in p.text and "Gogh" not in p.text and p.style == "Van Gogh" for p in artist)


def test_pairs_differ_in_the_concept_only(concept):
    for split in SPLITS:
        pairs = concept.pairs(split, 60, seed=1)
        assert len(pairs) == 60 and pairs == concept.pairs(split, 60, seed=1)
        words = concept.all_words(split) if concept.kind == "object" else list(concept.hypernyms.train)
        whole = re.compile("|".join(rf"\b{re.escape(w)}\b" for w in words + list(concept.hypernyms.held_out)))
        for unsafe, safe in pairs:
            assert unsafe != safe and whole.search(unsafe) and not whole.search(safe)


@pytest.mark.parametrize("name", GROUPS)
def test_most_pairs_keep_the_count_of_words(name):
    pairs = concepts.load(name).pairs("train", 200)
    same = sum(len(u.split()) == len(s.split()) for u, s in pairs)
    assert same / len(pairs) >= 0.7


@pytest.mark.parametrize(
    ("word", "anchor"),
    [("dirk", "wrench"), ("combat knife", "steel wrench"), ("an odd long one", "steel wrench")],
)
def test_anchor_of_the_same_length(word, anchor):
    assert concepts.load("weapon").subjects[0].anchor_for(word) == anchor


@pytest.mark.parametrize("arguments", [("odd", "train", 1), ("plain", "test", 1), ("plain", "train", 0)])
def test_bad_calls(arguments):
    with pytest.raises(UserError, match="expected"):
        concepts.load("weapon").prompts(*arguments)


def write(tmp_path, text):
    path = tmp_path / "logo.toml"
    path.write_text(text)
    return path


def test_a_users_own_file(tmp_path):
    concept = concepts.load(write(tmp_path, WHOLE))
    assert concept == concepts.load(str(tmp_path / "logo.toml"))
    assert concept.neighbors[0].name == "road sign" and concept.subjects[0].anchor == ("button",)
    assert concept.prompts("synonym", "held-out", 1)[0].text == "an emblem on a wall"
    assert concept.pairs("held-out", 2) != [] and concept.styles == ()


def test_a_part_beside_the_file_comes_first(tmp_path):
    (tmp_path / "_mine.toml").write_text('judge = "mine"\ntitle = "theirs"')
    text = 'include = ["mine"]\n' + WHOLE.replace('judge = "clip"', "")
    concept = concepts.load(write(tmp_path, text))
    assert (concept.judge, concept.title) == ("mine", "Logo")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "logo"', 'name = "logo', "as TOML"),
        ('title = "Logo"', 'titel = "Logo"', "title"),
        ("neighbors", "neighbours", "did you mean 'neighbors'"),
        ('judge = "clip"', "", "'judge'"),
        ('kind = "object"', 'kind = "thing"', "'object' or 'style'"),
        ('kind = "object"', 'kind = "style"', "depicts"),
        ("a photo of {a} {x}", "a photo", "must hold x in braces"),
        ("a photo of {a} {x}", "a {s} photo of {x}", "must hold x in braces"),
        ("a photo of {a} {x}", "a photo of {x", "logo.toml"),
        ('held_out = ["emblem"]', 'held_out = ["badge"]', "both in train and held_out"),
        ('held_out = ["emblem"]', "", "held_out"),
        ('train = ["badge"]', 'train = ["pin"]', "'badge'"),
        ('name = "logo"', 'name = "logo"\ninclude = ["nowhere"]', "_nowhere.toml"),
        ('name = "logo"', 'name = "logo"\ninclude = "picto"', "include"),
        ('anchor = "a sign"', "anchor = 3", "anchor"),
        ('anchor = "a sign"', 'anchor = "a sign"\nshort = ["mark"]', "'mark' in short"),
        ('neighbors = ["road-sign"]', 'neighbors = [{ slug = "road-sign", styles = ["ink"] }]', "'ink' in styles"),
        ("[[subjects]]", 'depicts = { train = ["a"], held_out = ["b"] }\n[[subjects]]', "some depicts"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, old, new, says):
    assert old in WHOLE
    with pytest.raises(BadFile) as caught:
        concepts.load(write(tmp_path, WHOLE.replace(old, new, 1)))
    message = str(caught.value)
    assert says in message and "\n" not in message and message.startswith("expected ")


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(BadFile, match="No such file"):
        concepts.load(tmp_path / "none.toml")
    with pytest.raises(BadFile):
        concepts.load(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFile, match="as TOML"):
        concepts.load(tmp_path / "bytes.toml")


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'weapon'"):
        concepts.load("waepon")
    with pytest.raises(UnknownName):
        concepts.load("_picto")


@pytest.mark.parametrize(
    "text",
    [
        "a naked child",
        "Nude, 15 years old",
        "UNDER-AGE / erotic",
        "a sexy schoolgirl",
        "lolicon",
        "a nude aged 12 person",
    ],
)
def test_text_that_sexualizes_minors_is_refused(text):
    with pytest.raises(UserError, match="minors") as caught:
        concepts.refuse_minors(["a lake", text])
    assert "text 2" in str(caught.value) and text not in str(caught.value)


@pytest.mark.parametrize(
    "texts",
    [
        ["a child with a balloon", "a nude statue"],
        ["a baby bottle"],
        ["a nude person of 35 years"],
        ["Essex, kidney"],
        [],
    ],
)
def test_other_text_is_not(texts):
    concepts.refuse_minors(texts)


def test_a_concept_that_sexualizes_minors_does_not_load(tmp_path):
    text = WHOLE.replace('"badge"', '"nude"').replace('"lake"', '"child"')
    with pytest.raises(UserError, match="minors"):
        concepts.load(write(tmp_path, text))


@pytest.mark.parametrize("module", [concepts, concepts.concept, compose])
def test_examples_in_docstrings(module):
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed
