"""Captions of icons: what may be said of (slug, style), and what else is meant by the same words.

python -m training.picto.captions      # trains the tokenizer into WORK/tokenizer
"""

from __future__ import annotations

import argparse
import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path

from . import catalog, data

POSITIONS = 24
PIECES = 2000


@dataclass(frozen=True)
class Caption:
    """A text and what it matches: a set of slugs, and a style ('' means any)."""

    text: str
    slugs: frozenset[str]
    style: str

    def matches(self, slug: str, style: str) -> bool:
        return slug in self.slugs and self.style in ("", style)


@functools.cache
def tags(work: Path) -> dict[str, tuple[str, ...]]:
    """Emojibase tags that point at no more than two benign slugs of the catalog: their synonyms."""
    name, version = data.EMOJIBASE
    emoji = data.read_json(data.fetch(name, version, work / "npm"), "package/en/data.json")
    ours = {s for s in catalog.slugs() if catalog.group_of(s) == "none"}
    found: dict[str, set[str]] = {}
    taken = {w for words in catalog.GROUPS.values() for ws in words.values() for w in ws}
    taken |= {w for ws in catalog.HYPERNYMS.values() for w in ws}
    taken |= {"style", "icon", "emoji", "picture", "white", "thing", "look", "show", "draw", *catalog.STYLES}
    for e in emoji:
        slug = data.slug_of(e["label"])
        for tag in e.get("tags", []) if slug in ours else []:
            if tag not in taken and tag.isascii() and tag.isalpha() and len(tag) > 2:
                found.setdefault(tag, set()).add(slug)
    out: dict[str, list[str]] = {}
    for tag, slugs in sorted(found.items()):
        for slug in slugs if len(slugs) <= 2 else ():
            out.setdefault(slug, []).append(tag)
    return {k: tuple(v) for k, v in out.items()}


def caption(slug: str, style: str, rng: random.Random, work: Path) -> Caption:
    """A random caption of one icon: name, synonym or hypernym, in a random template, mostly with its style."""
    group, meant = catalog.group_of(slug), frozenset([slug])
    roll = rng.random()
    if group != "none":
        words = catalog.GROUPS[group][slug]
        word = words[0] if roll < 0.4 else rng.choice(words)
        if roll > 0.88:
            word, meant = rng.choice(catalog.HYPERNYMS[group]), frozenset(catalog.GROUPS[group])
    else:
        other = tags(work).get(slug, ())
        word = rng.choice(other) if other and roll > 0.8 else catalog.name(slug)
        if word != catalog.name(slug):
            meant = frozenset(s for s in catalog.slugs() if word in tags(work).get(s, ()))
    roll = rng.random()
    if roll < 0.03:
        text = rng.choice(catalog.TEMPLATES["empty"]).format(s=style)
        return Caption(text, frozenset(catalog.slugs()), style)
    styled = roll > 0.12
    kind = rng.choice(("train", "held-out")) if styled else "plain"
    text = rng.choice(catalog.TEMPLATES[kind]).format(x=word, s=style, a=catalog.article(word))
    return Caption(" ".join(text.split()), meant, style if styled else "")


def train_tokenizer(work: Path) -> Path:
    """BPE in CLIP's form (lower case, ``</w>``, vocab.json + merges.txt) on captions of everything in the catalog."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    out = work / "tokenizer"
    if out.exists():
        return out
    rng = random.Random(0)
    corpus = [caption(s, style, rng, work).text for s in catalog.slugs() for style in catalog.STYLES for _ in range(20)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[a-z]+|[0-9]|[^\sa-z0-9]+"), "removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # fmt: skip
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ascii_pieces = sorted(c for c in alphabet if ord(c) < 128)
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, end_of_word_suffix="</w>", initial_alphabet=ascii_pieces, show_progress=False
    )
    bpe.train_from_iterator(corpus, trainer)
    state = json.loads(bpe.to_str())["model"]
    vocab = sorted(state["vocab"], key=state["vocab"].get)
    vocab += [c + "</w>" for c in ascii_pieces if c + "</w>" not in state["vocab"]]  # any ASCII text can be encoded
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: i for i, piece in enumerate(vocab)}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    CLIPTokenizer(vocab=ids, merges=merges, model_max_length=POSITIONS).save_pretrained(out)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/picto"))
    print(train_tokenizer(parser.parse_args().work))
