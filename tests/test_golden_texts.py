"""Texts to the letter: what concepts and SafeRedir compose for a seed, and how the refusal reads what hides.

A changed text, order, seed or id makes every stored run and every published number one of other prompts.
``GOLDEN=renew python -m pytest -q tests/test_golden_texts.py`` renews the files; read the diff.
"""

from __future__ import annotations

import random
from dataclasses import astuple, replace

import pytest
from golden import brief, fresh, loaded, unchanged
from refusal_lists import forbidden, harmless

from unsee import concepts
from unsee.concepts import description, disguise, prompts, refusal
from unsee.concepts.prompts import PromptSource
from unsee.embeddings.attacked import save
from unsee.errors import BadFile, Unsupported, UserError
from unsee.guards.saferedir import texts
from unsee.types import AttackedPrompt, Prompt, Spent

NAMES = ("weapon", "tobacco", "style-noto", "van-gogh", "nudity")
KINDS = ("plain", "synonym", "empty", "neighbor", "benign")


def prompts_of(concept, kind, split):
    try:
        return brief([astuple(p) for p in concept.prompts(fresh(kind), fresh(split), 90, seed=3)])
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_pairs_are_these(name):
    """Catches any change of a text, an id, a seed, a style, or of the order in which they are dealt."""
    concept = loaded(name)
    made = {f"{kind} {split}": prompts_of(concept, kind, split) for kind in KINDS for split in ("train", "held-out")}
    made |= {f"pairs {split}": brief(concept.pairs(fresh(split), 90, seed=1), 4) for split in ("train", "held-out")}
    asked = [*concept.prompts("plain", "train", 12, 5), Prompt("a lake", "x", 0), Prompt("", "y", 0, subject="none")]
    made["calmed"] = [prompts.calmed(concept, p) for p in asked]
    made["reworded"] = [prompts.reworded(concept, p, "ZQ") for p in asked]
    made["thing asked"] = [prompts.thing_asked(concept, p) for p in asked]
    made["words for"] = [brief(prompts.words_for(concept, p), 3) for p in asked[-3:]]
    unchanged(f"prompts-{name}", made)


def test_every_concept_that_ships_is_worded_so():
    """All prompts and pairs, and SafeRedir's texts, of each: as digests."""
    made = {}
    for name in concepts.names():
        concept = loaded(name)
        listed = [prompts_of(concept, kind, split) for kind in KINDS for split in ("train", "held-out")]
        pairs = [brief(concept.pairs(split, 60, seed=2), 0) for split in ("train", "held-out")]
        plain = concept.prompts("plain", "train", 6, 5)
        worded = [prompts.calmed(concept, p) for p in plain], [prompts.thing_asked(concept, p) for p in plain]
        one = texts.one_replacement(concept)
        rows = texts.compose(concept, 8, 8, 1)
        made[name] = [brief([listed, pairs, worded], 0), brief([astuple(t) for t in rows], 0), one.styles[:2]]
    unchanged("concepts", made)


def test_only_the_first_word_for_a_thing_is_replaced():
    concept = loaded("weapon")
    prompt = Prompt("a dagger, a Dagger and a rifle", "x", 0, subject="dagger")
    assert prompts.reworded(concept, prompt, "zq") == "a zq, a Dagger and a rifle"
    assert prompts.reworded(concept, replace(prompt, text="daggers"), "zq") == "zq daggers"
    assert prompts.reworded(concept, replace(prompt, text="A DAGGER", subject="no"), "zq") == "A zq"


def test_a_seed_of_an_image_is_of_31_bits_of_its_hash():
    """Catches another slice of the digest: every image of every run would be another one."""
    assert prompts.image_seed(0, "a") == int(prompts._digest("0:a")[:16], 16) % 2**31 == 955_224_039
    assert [prompts.image_seed(7, name) for name in ("a", "b")] == [711_620_720, 1_211_554_268]


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("", ""),
        ("a", "an"),
        ("glass", "a"),
        ("two glass", ""),
        ("two axes", ""),
        ("wine glass", "a"),
        ("red wine", ""),
        ("octopus", "an"),
        ("dress", "a"),
        ("cheers", ""),
        ("umbrella", "an"),
        ("uncheers", ""),
        ("gun barrel", "a"),
    ],
)
def test_articles_at_their_limits(noun, article):
    assert prompts.article(noun) == article


def test_a_template_is_filled_with_its_own_article_only_where_none_is_given():
    assert prompts.fill("{a} {x}", "axe", a="") == "axe"
    assert prompts.fill("{a} {x} {s}", "axe", "ink", a="the") == "the axe ink"
    assert prompts.fill("{a}  {x}", "sake") == "sake"


@pytest.mark.parametrize("template", ["{x:>9}", "{x!r}", "{a} {x:s}"])
def test_a_template_with_more_than_a_name_in_braces_is_told(template):
    with pytest.raises(ValueError, match="more than a name in its braces"):
        description.fields(template)
    with pytest.raises(ValueError) as told:
        description.fields("{x:>9}" + "y" * 90)
    assert str(told.value) == f"template {'{x:>9}' + 'y' * 54!r} with more than a name in its braces"
    assert description.fields("{a} of {x}, plain") == {"a", "x"}


def test_a_deal_shows_every_cell_in_a_round_and_every_text_before_one_comes_again():
    cells = [
        PromptSource("a", ("p", "q"), ("i", "j", "k")),
        PromptSource("b", ("r",), ("i",)),
        PromptSource("c", ("s",), ("j", "k")),
    ]
    dealt = prompts.deal(cells, ["T", "U", "V"], random.Random(0))
    rounds = [[next(dealt) for _ in cells] for _ in range(18)]
    assert all(sorted(cell.slug for cell, *_ in one) == ["a", "b", "c"] for one in rounds)
    own = [tuple(rest) for one in rounds for cell, *rest in one if cell.slug == "a"]
    assert len(set(own)) == 18 and [len({style for _, style, _ in own[i : i + 3]}) for i in (0, 3, 6)] == [3, 3, 3]
    assert {tuple(rest) for one in rounds[:3] for cell, *rest in one if cell.slug == "b"} == {
        ("r", "i", "T"),
        ("r", "i", "U"),
        ("r", "i", "V"),
    }
    unchanged("deal", {"deal": ["".join([c.slug, *rest]) for one in rounds for c, *rest in one]})


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("plain", "train", 0), "expected at least one prompt, got 0; ask for 1 or more"),
        (("odd", "train", 1), "expected a kind of prompt (plain, synonym, empty, neighbor, benign), got 'odd'"),
        (("plain", "test", 1), "expected a split (train, held-out), got 'test'; name one of these"),
    ],
)
def test_what_cannot_be_asked_for_is_told(call, told):
    concept = loaded("weapon")
    with pytest.raises(UserError) as error:
        concept.prompts(*call)
    assert str(error.value).startswith(told) and len(concept.prompts("plain", "train", 1)) == 1


# ---- SafeRedir's texts ----


@pytest.mark.parametrize("name", NAMES)
def test_texts_to_fit_on_are_these(name):
    """Catches any change of what SafeRedir learns from: its shares, its order, its edits, what is kept apart."""
    concept, made = loaded(name), {}
    for pairs, negatives, seed in ((1, 1, 0), (2, 3, 1), (9, 12, 2), (60, 50, 3)):
        rows = texts.compose(concept, pairs, negatives, seed)
        shares = {
            f"{part} {role}": sum((t.part, t.role) == (part, role) for t in rows)
            for part in ("fit", "check")
            for role in ("unsafe", "safe", "benign", "neighbor", "empty")
        }
        plain = sum(t.plain for t in rows)
        made[f"{pairs}, {negatives}, seed {seed}"] = brief([astuple(t) for t in rows]) | shares | {"plain": plain}
    for seed in range(5):
        made[f"parts {seed}"] = [
            [
                len(part.subjects),
                [s.train for s in part.subjects][:4],
                len(part.benign.train),
                part.templates.train[:2],
                brief([t.slug for t in part.benign.train], 1),
                len(part.depicts.train) if part.depicts else 0,
            ]
            for part in (texts.fitting(concept, seed), texts.checking(concept, seed))
        ]
    unchanged(f"saferedir-texts-{name}", made)


def test_edits_are_these():
    """Each kind of edit alike on both sides; texts without a free word, of other lengths, of two words, none at all."""
    pairs = [
        ("a red dagger on a table", "a red wrench on a table"),
        ("a lake at night", "a lake at night"),
        ("sharp knife", "blunt spoon"),
        ("x y z", "u v w"),
        ("one two three", "one two"),
        ("a b", "a b"),
        ("", ""),
    ]
    made = {}
    for sentences in ([], ["a hat"], ["a cow on grass", "two blue birds fly home", "an old map of a town", "rain"]):
        for pair in pairs:
            edited = [texts.edit(pair, sentences, random.Random(i)) for i in range(150)]
            made[f"{pair[0]} / {pair[1]}, {len(sentences)}"] = brief(edited, 3)
    unchanged("saferedir-edits", made)


def test_a_slip_loses_doubles_or_swaps_a_letter():
    slips = {texts._slip("abc", random.Random(i)) for i in range(60)}
    assert slips == {"bc", "ac", "aabc", "abbc", "bac", "acb"}
    assert texts._slip("ab", random.Random(0)) == "ab" and texts._slip("", random.Random(0)) == ""


def test_things_are_set_aside_only_where_there_are_three():
    concept = loaded("weapon")
    for n, fit, check in ((1, 1, 1), (2, 2, 2), (3, 2, 1), (4, 3, 1), (5, 4, 1), (10, 8, 2)):
        few = concept.model_copy(
            update={"templates": concept.templates.model_copy(update={"train": tuple("abcdefghij"[:n])})}
        )
        parts = texts.fitting(few, 0).templates.train, texts.checking(few, 0).templates.train
        assert (len(parts[0]), len(parts[1])) == (fit, check), n
    assert texts.checking(few, 1).templates.train == ("d", "i") and texts.checking(few, 0).templates.train == ("e", "j")


def test_what_attacks_found_is_a_row_and_its_twin(tmp_path):
    """One in five is for validation; each twin stands behind its own row, wherever the bank's own end."""
    concept = loaded("weapon")
    asked = concept.prompts("plain", "train", 11, 3)
    found = [
        AttackedPrompt(prompt=replace(p, text=f"zq {p.text}"), source=p.text, attack="x", spent=Spent()) for p in asked
    ]
    save(found, tmp_path / "weapon" / "prompts.json")
    made, words = texts.found_by_attacks(str(tmp_path / "{concept}"), concept, 40)
    assert words == {} and [t.part for t in made[::2]] == ["fit"] * 4 + ["check"] + ["fit"] * 4 + ["check", "fit"]
    assert [t.part for t in made[1::2]] == [t.part for t in made[::2]]
    assert [t.twin for t in made[::2]] == list(range(41, 63, 2)) and {t.twin for t in made[1::2]} == {-1}
    assert [t.text for t in made[::2]] == [f"zq {p.text}" for p in asked]
    assert [t.text for t in made[1::2]] == [prompts.calmed(concept, p) for p in asked]
    assert {(t.role, t.attacked, t.plain, t.words) for t in made} == {
        ("unsafe", True, False, ""),
        ("safe", True, False, ""),
    }
    with pytest.raises(BadFile) as told:
        texts.found_by_attacks(str(tmp_path / "no"), concept, 0)
    assert "a folder with prompts of attacks" in str(told.value)


def test_a_style_has_one_replacement_and_an_object_needs_subjects():
    noto, weapon = loaded("style-noto"), loaded("weapon")
    assert texts.one_replacement(noto).styles == ("noto", "blob") and texts.one_replacement(weapon) is weapon
    with pytest.raises(Unsupported, match="'weapon' with none; give it subjects"):
        texts.compose(weapon.model_copy(update={"subjects": ()}), 1, 1, 0)


# ---- what hides ----

DISGUISED = (  # harmless, each a way to hide; numbers and years are words that are known
    "twelve",
    "TwElVe",
    "tw3lve",
    "t w e l v e",
    "t.w.e.l.v.e",
    "twelveyears",
    "twelveyearsold",
    "tw*lve",
    "t**lve",
    "twelllve",
    "tweelve",
    "t-w-e-l-v-e years",
    "seven teen",
    "seventeen17",
    "17seventeen",
    "ｔｗｅｌｖｅ",
    "𝓽𝔀𝓮𝓵𝓿𝓮",
    "тwelve",
    "naïve café",
    "a_b_c",
    "$even",
    "s€ven",
    "|ive",
    "f|ve!",
    "(five)",
    "f i v e",
    "f 1 v e",
    "5ive",
    "a b",
    "a b c",
    "5 6 7 8",
    "x*",
    "**",
    "*a*",
    "e1even",
    "e!even!",
    "el@ven",
    "elevenelevenelevenelevenelevenelevenelevenelevenx",
    "onetwothreefourfivesixseveneightnineteneleventwelvethirteenfourteenfifteen" * 4,
    "years old",
    "yearsold",
    "yearold",
    "y e a r s",
    "ye ars old",
    "ol d",
    "well-known",
    "mother-in-law",
    "co2",
    "mp3player",
    "2nd",
    "3,5",
    "10.000",
    "€5",
    "aaa",
    "aa",
    "baaad",
    "baaaaad boook",
    "don't",
    "x.y",
    "\N{GREEK SMALL LETTER OMICRON}ne",
    "ł",
    "Straße",
    "ye\u200bars",
    "🇴🇳🇪",
    "🅞🅝🅔",
    "",
    " ",
    "_",
    "one  two",
    "t*n",
    "te*",
    "n*ne",
    "se*en and f*ve",
    "#ix",
    "%even",
    "ni·e",
    "sixteensixteensixteen",
    "seventeeneighteennineteen",
    "20years",
    "years20",
    "tenyearstwelve",
    "t€n",
    "+en",
    "ni9e",
)


def test_what_hides_is_read_so():
    """Every way of hiding, in harmless words: what is said, what else it may be, what it means in order."""
    made = {}
    for text in DISGUISED:
        plain = disguise.readings(text)[-1]
        said, other = disguise.words_of(plain)
        made[text] = (
            [
                disguise.readings(text),
                said,
                brief(sorted(other), 4),
                disguise.meant(plain),
                brief(disguise.unmasked(plain), 1),
            ]
            if len(text) < 60
            else [brief(said, 3), brief(sorted(other), 1), brief(disguise.meant(plain), 3)]
        )
    unchanged("disguise", made)


def test_words_are_cut_into_known_ones_or_not_at_all():
    assert disguise._cut("twelveyears") == disguise.joined("twelveyears") == ("twelve", "years")
    assert disguise._cut("twelvex") == disguise._cut("xtwelve") == disguise._cut("") == ()
    assert disguise._cut("five5five") == ("five", "5", "five")
    longest = 20 * disguise.LONGEST
    exact = ("five" * longest)[: longest - longest % 4]
    assert disguise._cut(exact) == ("five",) * (longest // 4)
    over = "five" * (longest // 4 + 1) + "x"
    assert disguise._cut(over) == disguise.joined(over) == ("five",) * (longest // 4 + 1)  # beyond, the x is skipped
    assert disguise.joined("five") == () and disguise.joined("zzzzzz") == ()


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ([], ""),
        ([""], ""),
        (["a"], "(?:a)"),
        (["a", ""], "(?:a)?"),
        (["ab", "a"], "(?:a(?:b)?)"),
        (["b", "ac", "ad"], "(?:a(?:c|d)|b)"),
        (["."], r"(?:\.)"),
    ],
)
def test_a_pattern_of_words_branches_by_letter(words, pattern):
    assert disguise.any_of(words) == pattern


def test_stars_stand_for_one_letter_each_in_words_with_two_of_their_own():
    assert list(disguise._unstar("f*ve")) == ["five"] and list(disguise._unstar("f***")) == []
    assert set(disguise._unstar("s*x te*")) >= {"six", "ten"} and list(disguise._unstar("fi1*")) == []
    least, most = "on" + "*" * (disguise.LONGEST - 2), "on" + "*" * (disguise.LONGEST - 1)
    assert list(disguise._unstar(most)) == [] and all(len(w) == len(least) for w in disguise._unstar(least))
    assert list(disguise._unstar("(f*ve)")) == ["five"]
    longest = next(w for w in disguise.KNOWN.split() if len(w) == disguise.LONGEST and w.isascii())
    assert longest in disguise._unstar("*" + longest[1:])


def test_the_lists_of_the_refusal_are_read_so():
    """Catches a word that is lost, or that counts in another language."""
    made = {}
    for name, found in (("minor", refusal.MINOR), ("sexual", refusal.SEXUAL), ("always", refusal.ALWAYS)):
        both = [sorted((word, sorted(own)) for word, own in each.items()) for each in (found.words, found.starts)]
        made[name] = [
            brief(both[0], 0),
            brief(both[1], 0),
            brief(found.phrases, 0),
            brief(sorted(found.short), 0),
            brief(found.pattern.pattern, 0),
            brief(found.hint.pattern, 0),
        ]
    made["known"] = [
        brief(disguise.KNOWN, 0),
        brief(sorted(disguise.PIECES), 0),
        disguise.LONGEST,
        brief(sorted(disguise.STARTS), 0),
        brief(sorted(disguise.WHOLE), 0),
    ]
    made["age"] = [brief(refusal.AGE.pattern, 0), brief(refusal.AGE_BARE.pattern, 0)]
    made["marks"] = [brief(sorted(map(str, disguise.MARKS)), 0), brief(sorted(map(str, disguise.SIGNS.items())), 0)]
    unchanged("refusal-lists", made)


def looked_at(text):
    """All that the refusal asks of a text."""
    told = [refusal.sexualizes_minors(text)]
    for plain in disguise.readings(text):
        said, other = disguise.words_of(plain)
        terms = [(each.may_say(plain), each.tags(plain, said, other)) for each in (refusal.MINOR, refusal.SEXUAL)]
        told.append(
            [
                said,
                sorted(other),
                disguise.meant(plain),
                terms,
                refusal._young(plain, said),
                refusal._may_be_young(plain),
                refusal.ALWAYS.tags(plain, said, other),
            ]
        )
    return told


def test_the_refusal_reads_its_lists_so():
    """Of each kind of text the whole reading, as a digest: the words are in ``refusal_lists.py`` and not here."""
    made = {kind: brief([looked_at(text) for text in listed[::9]], 0) for kind, listed in forbidden().items()}
    made["harmless"] = brief([looked_at(text) for text in harmless()[::3]], 0)
    unchanged("refusal", made)


def test_an_age_is_below_18():
    """One year more or less on either side, in figures and in words."""
    young = [
        n for n in range(1, 100) if refusal._young(f"a person of {n} years old", f"a person of {n} years old".split())
    ]
    assert young == list(range(1, 18))
    for text, wanted in (
        ("thirty seven years old", False),
        ("seven years old", True),
        ("after seven years", False),
        ("a man, 17", True),
        ("a man, 18", False),
        ("under 18", True),
        ("under 19", False),
        ("grade 12", True),
        ("grade 13", False),
        ("ten months old", True),
        ("he is 17", True),
        ("he is 18", False),
    ):
        assert refusal._young(text, disguise.words_of(text)[0]) == wanted, text


def test_what_is_always_refused_is_so_beside_a_number_too():
    words = [word.replace("-", "") for word in refusal.terms.ALWAYS.split()]
    assert words and all(
        refusal.sexualizes_minors(text) for word in words for text in (word, f"{word} 35", f"7 {word}")
    )


def test_the_text_that_is_refused_is_counted_from_one():
    with pytest.raises(UserError, match=r"one that does \(text 3\); remove it"):
        refusal.refuse_minors(["a", "b", "a naked child", "a naked child"])
