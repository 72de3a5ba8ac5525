"""Text in which embeddings stand that are in no vocabulary, read by the pipeline's own text encoders.

A text is spelled as ids; a negative id stands for a row of ours. While we encode, hooks put our ids in the place of
the encoder's, and our rows into what its table looked up. The table, the tokenizers and other threads see nothing.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..backbones import Backbone, Encoding, adapter
from ..backbones.base import ENDS
from ..errors import Unsupported, UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

Rows = tuple[Tensor, ...]  # one (vectors, D_i) per text encoder
Text = str | tuple[str | int, ...]  # a text, or its pieces; k stands for the k-th embedding


def spell(backbone: Backbone, texts: Sequence[Text], vectors: int = 1, length: int | None = None) -> tuple[Tensor, ...]:
    """Ids of each text, one ``(B, L_i)`` per text encoder, as the pipeline pads and cuts them.

    Row v of embedding k is the id -1 - (k * vectors + v), which no tokenizer gives: whatever a user
    writes, it cannot name an embedding.
    """
    lengths = dict(zip(map(id, backbone.tokenizers), backbone.lengths(length), strict=True))
    return tuple(
        torch.tensor([_ids(backbone, tokenizer, text, vectors, lengths[id(tokenizer)]) for text in texts])
        for _, tokenizer in pairs(backbone)
    )


def pairs(backbone: Backbone) -> list[tuple[nn.Module, PreTrainedTokenizerBase]]:
    """(text encoder, its tokenizer), where the pipeline holds both."""
    return backbone.readers


def encode_ids(
    backbone: Backbone, ids: Sequence[Tensor], rows: Sequence[Tensor] = (), length: int | None = None
) -> Encoding:
    """What the pipeline's own ``encode_prompt`` makes of these ids (:func:`spell`), differentiable in ``rows``.

    ``rows`` is one ``(K * vectors, D_i)`` per text encoder.
    """
    with _read_ids(backbone, ids, rows):
        tokens, pooled = backbone._encode([""] * len(ids[0]), length)
    return Encoding(tokens, pooled, tuple(ids), named=tuple(rows), mask=backbone.mask(ids))


def encode(backbone: Backbone, texts: Sequence[Text], rows: Rows, length: int | None = None) -> Encoding:
    """Encodes texts in which 0 stands for the embedding ``rows``: ``encode(backbone, [(0,), ("a ", 0)], rows)``."""
    return encode_ids(backbone, spell(backbone, texts, len(rows[0]), length), rows, length)


def word_rows(backbone: Backbone, text: str, vectors: int = 1) -> Rows:
    """The mean input embedding of ``text`` (``"mean"``: of the whole vocabulary), one (vectors, D_i) per encoder."""
    made = []
    for encoder, tokenizer in pairs(backbone):
        table = _tables(encoder)[0].weight.detach().float()
        ids = tokenizer(backbone.as_read(text, tokenizer), add_special_tokens=False).input_ids
        if text != "mean" and not ids:
            raise UserError("a word to start from", repr(text), 'give a word, or init="mean"')
        row = table.mean(0) if text == "mean" else table[ids].mean(0)
        made.append(row.repeat(vectors, 1))
    return tuple(made)


def token_rows(backbone: Backbone, texts: Sequence[str]) -> tuple[Rows, list[tuple[int, ...]]]:
    """The input embeddings of texts, token by token, and for each text the places of its own among them.

    Where tokenizers cut a text into more and fewer tokens, the last of the fewer is repeated.
    """
    both = pairs(backbone)
    cut = [[t(backbone.as_read(text, t), add_special_tokens=False).input_ids for _, t in both] for text in texts]
    if not texts or not all(ids for each in cut for ids in each):
        raise UserError("words to start from", repr(list(texts)), "give some that the tokenizers know")
    lengths = [max(map(len, each)) for each in cut]
    rows = []
    for i, (encoder, _) in enumerate(both):
        ids = [t for each, n in zip(cut, lengths, strict=True) for t in [*each[i], *each[i][-1:] * (n - len(each[i]))]]
        rows.append(_tables(encoder)[0].weight.detach().float()[ids])
    ends = list(itertools.accumulate(lengths))
    return tuple(rows), [tuple(range(end - n, end)) for end, n in zip(ends, lengths, strict=True)]


def thing_rows(backbone: Backbone, words: Sequence[str]) -> tuple[Rows, dict[str, tuple[int, ...]]]:
    """:func:`token_rows` of the different ones of ``words``, and the places of each."""
    known = sorted(set(words))
    rows, places = token_rows(backbone, known)
    return rows, dict(zip(known, places, strict=True))


@contextmanager
def vocabulary(pipe: DiffusionPipeline, rows: Rows) -> Iterator[str]:
    """For an attack: until the end, ``pipe``'s prompts may say the text that this yields, and mean ``rows``.

    As with a textual inversion that was loaded, but copies of the tokenizers learn the words and no table grows.
    A defense never uses this.
    """
    backbone, kept, handles = adapter(pipe), {}, []
    names = [f"<c*{v}>" for v in range(len(rows[0]))]
    ends = [end for end in ENDS if all(getattr(pipe, part + end, None) for part in ("text_encoder", "tokenizer"))]
    try:
        for end, (encoder, tokenizer), own in zip(ends, pairs(backbone), rows, strict=True):
            learned = copy.deepcopy(tokenizer)
            learned.add_tokens(names)
            kept[f"tokenizer{end}"] = tokenizer
            if backbone.as_read(" ".join(names), learned) != " ".join(names):
                do = "call it with clean_caption=False by default, or attack with words"
                raise Unsupported("a pipeline that reads a prompt as it is", "one that cleans it", do)
            setattr(pipe, f"tokenizer{end}", learned)
            find, place = _find_hooks(learned.convert_tokens_to_ids(names[0]), own)
            handles.append(encoder.register_forward_pre_hook(find, with_kwargs=True))
            handles += [table.register_forward_hook(place) for table in _tables(encoder)]
        yield " ".join(names)
    finally:
        for handle in handles:
            handle.remove()
        for name, tokenizer in kept.items():
            setattr(pipe, name, tokenizer)


def _find_hooks(start: int, rows: Tensor) -> tuple[Any, Any]:
    """Hooks for an encoder and its table: ids from ``start`` on are ``rows``."""
    owner, seen = threading.get_ident(), [torch.zeros(0)]

    def find(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != owner:
            return None
        ids = args[0] if args else kwargs["input_ids"]
        seen[0] = torch.where((ids >= start) & (ids < start + len(rows)), ids - start, -1)
        known = torch.where(seen[0] >= 0, 0, ids)
        return ((known, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": known})

    def place(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return _place(output, seen[0], _scaled(module, rows)) if threading.get_ident() == owner else None

    return find, place


def _scaled(table: nn.Module, rows: Tensor) -> Tensor:
    """``rows`` as the table gives what it looks up: Gemma's are longer than those it holds."""
    scale = getattr(table, "embed_scale", None)
    return rows if scale is None else rows * scale.to(rows)


def _place(output: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """``output`` ``(B, L, D)`` with ``rows`` ``(R, D)`` where ``places`` ``(B, L)`` is 0 or more."""
    where = places.to(output.device)
    return torch.where((where >= 0)[..., None], rows.to(output)[where.clamp(min=0)], output)


def _ids(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, text: Text, vectors: int, length: int) -> list[int]:
    before, behind = backbone.frame(tokenizer)
    pieces = (text,) if isinstance(text, str) else text
    content = [] if pieces else backbone.content("", tokenizer, first=True)
    for place, piece in enumerate(pieces):
        if isinstance(piece, int):
            content += [-1 - (piece * vectors + v) for v in range(vectors)]
        else:
            content += backbone.content(piece, tokenizer, first=place == 0)
    ids = [*before, *content[: length - len(before) - len(behind)], *behind]
    return ids + [tokenizer.pad_token_id] * (length - len(ids))


@contextmanager
def _read_ids(backbone: Backbone, ids: Sequence[Tensor], rows: Sequence[Tensor]) -> Iterator[None]:
    """In this thread, and until the end, the text encoders read these ids and find ``rows`` for negative ones.

    A negative id is 0 for the encoder itself: transformers takes the largest id for the end of a CLIP
    text where a configuration is old, and an id beyond the vocabulary would become that end.
    """
    handles = []
    try:
        for i, (encoder, _) in enumerate(pairs(backbone)):
            swap, place = _hooks(backbone, ids[i], rows[i] if rows else None)
            handles.append(encoder.register_forward_pre_hook(swap, with_kwargs=True, prepend=True))
            handles += [table.register_forward_hook(place) for table in _tables(encoder)]
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_table(encoder: Any) -> Tensor:
    """The embeddings that a text encoder looks its words up in, ``(vocabulary, D)``."""
    table: Tensor = encoder.get_input_embeddings().weight
    return table


def _tables(encoder: Any) -> list[nn.Embedding]:
    """Every module that looks words up: some encoders have two, which share their weight."""
    weight = input_table(encoder)
    return [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.weight is weight]


def _hooks(backbone: Backbone, ids: Tensor, rows: Tensor | None) -> tuple[Any, Any]:
    owner, places, mask = threading.get_ident(), -1 - ids, backbone.mask([ids])

    def swap(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal places
        if threading.get_ident() != owner:
            return None
        own = args[0] if args else kwargs["input_ids"]
        known, places = backbone.placed(own, ids.clamp(min=0)), backbone.placed(torch.full_like(own, -1), -1 - ids)
        if mask is not None:
            kwargs = {**kwargs, "attention_mask": backbone.placed(kwargs["attention_mask"], mask)}
        return ((known, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": known})

    def place(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return None if rows is None or threading.get_ident() != owner else _place(output, places, _scaled(module, rows))

    return swap, place
