"""Each text encoder reads its own text, and our ids are those that it reads."""

from __future__ import annotations

import functools

import pytest
import torch

from unsee import INE, SAFREE, NegativePrompt, protect
from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.embeddings.placeholders import spell, word_rows

shared = functools.cache(tiny)
SECOND = {"sdxl": {"negative_prompt_2": "y"}, "sd3": {"negative_prompt_2": "y", "negative_prompt_3": "z"},
          "flux": {"negative_prompt_2": "y"}}  # fmt: skip


def draw(pipe, prompt="a dagger", n=2, **more):
    seed = [torch.Generator().manual_seed(i) for i in range(n)]
    more = {"true_cfg_scale": 3.0, **more} if "Flux" in type(pipe).__name__ else more
    return pipe(prompt, generator=seed, num_images_per_prompt=n, num_inference_steps=2, output_type="pt", **more).images


@pytest.mark.parametrize("family", SECOND)
@pytest.mark.parametrize("first", ["x", ""])
def test_each_encoder_gets_its_own_negative(family, first):
    pipe = tiny(family)
    joined = {name: f"blood, {text}" for name, text in SECOND[family].items()}
    want = draw(pipe, negative_prompt=f"blood, {first}" if first else "blood", **joined)
    both = draw(pipe, negative_prompt="blood, x, y", negative_prompt_2="blood, x, y")
    with protect(pipe, NegativePrompt(text="blood")):
        got = draw(pipe, negative_prompt=first, **SECOND[family])
    assert torch.equal(got, want) and not torch.equal(got, both)


def test_an_absent_second_negative_is_the_first():
    pipe = tiny("sdxl")
    want = draw(pipe, negative_prompt="blood, x")
    with protect(pipe, NegativePrompt(text="blood")):
        for more in ({}, {"negative_prompt_2": ""}, {"negative_prompt_2": "x"}, {"negative_prompt_2": ["x"]}):
            assert torch.equal(draw(pipe, negative_prompt="x", **more), want)


def test_each_prompt_of_a_batch_has_its_own_negatives():
    pipe = tiny("sdxl")
    own = {"negative_prompt": ["a", "b"], "negative_prompt_2": ["c", "d"]}
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    joined = {name: [f"blood, {text}" for text in texts] for name, texts in own.items()}
    drawn = pipe(["p", "q"], generator=seeds, num_inference_steps=2, output_type="pt", **joined).images
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    with protect(pipe, NegativePrompt(text="blood")):
        got = pipe(["p", "q"], generator=seeds, num_inference_steps=2, output_type="pt", **own).images
    assert torch.equal(got, drawn)


@pytest.mark.parametrize("family", SECOND)
def test_an_inverted_negative_stands_before_each_encoders_own(family):
    backbone = adapter(shared(family))
    made = INE()
    made.load_tensors({f"rows.{i}": own[None] for i, own in enumerate(word_rows(backbone, "blood"))})
    texts = ("x", "y", "z")[: len(backbone.tokenizers)]
    together = made.encode(backbone, [texts, texts])
    for i, text in enumerate(texts):
        assert torch.equal(together.ids[i], made.encode(backbone, [text, text]).ids[i])
    assert len({tuple(own[0].tolist()) for own in together.ids}) > 1


def taught(family):
    """A pipeline with a textual inversion of three vectors, and one of a single one."""
    pipe, g = tiny(family), torch.Generator().manual_seed(0)
    for end in ("", "_2") if family == "sdxl" else ("",):
        encoder, tokenizer = getattr(pipe, f"text_encoder{end}"), getattr(pipe, f"tokenizer{end}")
        width = encoder.get_input_embeddings().weight.shape[1]
        for token, n in (("<many>", 3), ("<one>", 1)):
            rows = torch.randn(n, width, generator=g)
            pipe.load_textual_inversion(rows, token=token, text_encoder=encoder, tokenizer=tokenizer)
    return pipe


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("prompt", ["a <many> in a box", "<many>, <one> and <many>", "<one>", "no such word"])
def test_ids_are_those_that_the_encoders_read(family, prompt):
    pipe = taught(family)
    backbone = adapter(pipe)
    read = [[] for _ in backbone.text_encoders]
    handles = [
        encoder.register_forward_pre_hook(
            lambda m, args, kwargs, own=own: own.append((args[0] if args else kwargs["input_ids"]).clone()),
            with_kwargs=True,
        )
        for encoder, own in zip(backbone.text_encoders, read, strict=True)
    ]
    encoded = backbone.encode([prompt])
    for handle in handles:
        handle.remove()
    spelled = spell(backbone, [prompt])
    for own, ids, mask, said in zip(read, encoded.ids, encoded.masks, spelled, strict=True):
        assert torch.equal(own[0], ids) and torch.equal(ids, said)
        assert int(mask.sum()) == int((ids == ids[0, -1]).int().argmax()) + 1  # all that is read, and the end
    assert len(word_rows(backbone, "<many>")[0]) == 1
    assert not backbone.fits(" ".join(["<many>"] * 30)) and backbone.fits(" ".join(["<one>"] * 30))


def test_safree_sees_every_vector_of_a_word():
    pipe = taught("sd1")
    with protect(pipe, SAFREE(phrases=("a dagger",), alpha=-0.99)) as guarded:
        draw(pipe, "<many>", 1)
    assert guarded.decisions[0][0]["triggers"] == ["<many>", "<many>_1", "<many>_2"]
