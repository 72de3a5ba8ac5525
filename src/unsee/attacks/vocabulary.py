"""Words to search among, and texts that have places for them.

A searched word is one that every tokenizer of the pipeline reads as itself wherever it stands, so the text that is
drawn is the text that was optimized. With several text encoders a word has its ids in each of them, and the slope at
a place is the sum over encoders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..concepts import refuse_minors
from ..embeddings import input_table, pairs, spell
from ..errors import Unsupported, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..backbones import Backbone, Encoding
    from .victim import Victim

READABLE = re.compile(r"[!-~]+")  # printable ASCII, no blank


def allowed(text: str) -> bool:
    """Whether a text may be searched for, drawn and kept: it does not sexualize minors, and no word of it could."""
    try:
        refuse_minors([text])
    except UserError:
        return False
    return True


def readable_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[str]]:
    """Every id that decodes to something printable, with its text. Special tokens are left out, and words for minors:
    so no search can end in a text that sexualizes them."""
    special = {
        *tokenizer.all_special_ids,
        *getattr(tokenizer, "added_tokens_encoder", {}).values(),
    }  # textual inversions too
    found = [(i, tokenizer.decode([i]).strip()) for i in range(len(tokenizer)) if i not in special]
    kept = [(i, text) for i, text in found if READABLE.fullmatch(text) and allowed(f"{text} nude")]
    return [i for i, _ in kept], [text for _, text in kept]


@dataclass(frozen=True)
class Vocabulary:
    """``V`` words; ``ids`` and ``rows`` of each text encoder: ``(V, m_i)`` and their embeddings ``(V, m_i, D_i)``."""

    texts: tuple[str, ...]
    ids: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, backbone: Backbone, banned: Iterable[str] = ()) -> Vocabulary:
        """All words of the first tokenizer that each encoder reads as themselves, less those in ``banned`` texts."""
        found = pairs(backbone)
        texts = sorted(set(readable_ids(found[0][1])[1]))
        for place, (_, tokenizer) in enumerate(found):
            texts = _stable(backbone, tokenizer, texts, single=place == 0)
        said = {part for text in banned for part in re.findall(r"\w+", text.lower())}
        texts = [text for text in texts if not _is_banned(text, said)]
        if not texts:
            raise Unsupported("words that each tokenizer reads as themselves", "none", "attack with paraphrase")
        ids = tuple(torch.tensor(_ids(backbone, tokenizer, texts)) for _, tokenizer in found)
        tables = [input_table(encoder).detach().float() for encoder, _ in found]
        return cls(tuple(texts), ids, tuple(table[i.to(table.device)] for table, i in zip(tables, ids, strict=True)))

    def leaves(self, choice: Tensor) -> list[Tensor]:
        """The embeddings of words ``(B, K)``, ``(B, K, m_i, D_i)`` per encoder, as leaves that take gradients."""
        return [rows[choice.to(rows.device)].clone().requires_grad_() for rows in self.rows]

    def embed(self, weights: Tensor) -> tuple[Tensor, ...]:
        """Mixtures of words ``(B, K, V)`` → embeddings ``(B, K, m_i, D_i)`` per encoder, differentiable."""
        return tuple(torch.einsum("bkv,vmd->bkmd", weights.to(rows), rows) for rows in self.rows)

    def slopes(self, slopes: Sequence[Tensor]) -> Tensor:
        """Slopes of embeddings ``(B, K, m_i, D_i)`` → slopes of one-hot weights ``(B, K, V)``, summed over encoders."""
        parts = [torch.einsum("bkmd,vmd->bkv", slope, rows) for slope, rows in zip(slopes, self.rows, strict=True)]
        return torch.stack([part.cpu() for part in parts]).sum(0)

    def say(self, choice: Iterable[int]) -> list[str]:
        return [self.texts[int(v)] for v in choice]


class Slots:
    """Texts with places for searched words. A text is a tuple of pieces; None is a place."""

    def __init__(self, backbone: Backbone, vocabulary: Vocabulary, texts: Sequence[tuple[str | None, ...]]) -> None:
        self.backbone, self.vocabulary, self.pieces = backbone, vocabulary, list(texts)
        self.counts = [sum(piece is None for piece in text) for text in texts]
        self.most = max(self.counts)  # K; a text with fewer places leaves the last ones unread
        numbered = [_number(text, b * self.most) for b, text in enumerate(texts)]
        self.ids = [spell(backbone, numbered, rows.shape[1])[i] for i, rows in enumerate(vocabulary.rows)]

    def read(self, victim: Victim, embedded: Sequence[Tensor]) -> Encoding:
        """Encodes the texts with embeddings ``(B, K, m_i, D_i)`` at their places, differentiable in them."""
        return victim.read(self.ids, [part.flatten(0, 2) for part in embedded])

    def say(self, choice: Tensor) -> list[str]:
        """The texts with the words ``choice`` ``(B, K)`` at their places."""
        return [fill(text, self.vocabulary.say(row)) for text, row in zip(self.pieces, choice, strict=True)]


def fill(pieces: tuple[str | None, ...], words: Sequence[str]) -> str:
    """The pieces with ``words`` in the places, left to right; words too many are left out.

    >>> fill((None, "a dagger", None), ["red", "two", "x"])
    'red a dagger two'
    """
    rest = iter(words)
    return " ".join(part for part in (next(rest) if piece is None else piece for piece in pieces) if part)


def _number(text: tuple[str | None, ...], first: int) -> tuple[str | int, ...]:
    numbers = iter(range(first, first + len(text)))
    return tuple(next(numbers) if piece is None else piece for piece in text)


def _ids(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    inside = [backbone.inside(text, tokenizer) for text in texts]
    return list(tokenizer(inside, add_special_tokens=False).input_ids)


def _stable(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, texts: list[str], single: bool) -> list[str]:
    """Those of one length in tokens (1 for the first tokenizer) that are read alike alone and between others."""
    alone, around = _ids(backbone, tokenizer, texts), _ids(backbone, tokenizer, [f"{t} {t}" for t in texts])
    lengths = Counter(map(len, alone))
    wanted = 1 if single else lengths.most_common(1)[0][0] if lengths else 1
    unknown = tokenizer.unk_token_id
    return [
        text
        for text, one, two in zip(texts, alone, around, strict=True)
        if len(one) == wanted and two == [*one, *one] and (unknown is None or single or unknown not in one)
    ]


def _is_banned(word: str, said: set[str]) -> bool:
    """One of the banned words, or a piece of one that says it (four letters and more, either way)."""
    word = word.lower()
    return word in said or any((len(w) > 3 and w in word) or (len(word) > 3 and word in w) for w in said)
