"""The same bits whatever the batch: layers, whole pipelines, guards, judges. And it would be seen if it were not."""

import threading

import pytest
import torch
from bench_fakes import comparable, suite
from torch.nn import functional as F

from unsee.bench.run import run
from unsee.sampling import invariance as exact
from unsee.sampling.invariance import fixed

ROWS = [1, 2, 3, 7, 8, 15, 16, 17, 23, 31, 32, 33, 40, 64, 70]
SHAPES = {  # name → (weight, one row), as in the UNet, the VAE and the text encoder
    "time": ((384, 96), (96,)),
    "tokens": ((96, 96), (16, 96)),
    "long": ((64, 32), (1500, 32)),
    "conv 8x8": ((96, 96, 3, 3), (96, 8, 8)),
    "conv 4x4": ((160, 160, 3, 3), (160, 4, 4)),
    "conv 1x1": ((160, 256, 1, 1), (256, 4, 4)),
    "conv 32x32": ((16, 16, 3, 3), (16, 32, 32)),
}


def call(weight, x):
    return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_does_not_know_how_many_there_are(name):
    made = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=made) for shape in (SHAPES[name][0], (70, *SHAPES[name][1])))
    with fixed(1):
        whole = call(weight, x)
        for rows in ROWS:
            parts = torch.cat([call(weight, part) for part in x.split(rows)])
            assert torch.equal(parts, whole), rows
    torch.testing.assert_close(whole, call(weight, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_the_layout_of_the_input_makes_no_difference(rows):
    """Pictures come with the channels last."""
    weight, x = torch.randn(8, 3, 3, 3), torch.randn(10, 64, 64, 3).permute(0, 3, 1, 2)
    with fixed(1):
        whole = call(weight, x)
        assert torch.equal(torch.cat([call(weight, part) for part in x.split(rows)]), whole)
        assert torch.equal(call(weight, x.contiguous()), whole)


@pytest.mark.parametrize("part", ["unet", "vae", "text"])
def test_every_part_of_a_pipeline_in_floats(part):
    """Before rounding to 8 bits hides most of it: rows alone (under guidance in pairs), in fives, and all together."""
    from unsee.backbones.tiny import tiny

    pipe, made = tiny("sd1"), torch.Generator().manual_seed(0)
    latents = torch.randn(20, 4, 16, 16, generator=made)
    words = torch.randn(20, 77, pipe.unet.config.cross_attention_dim, generator=made)
    ids = torch.randint(0, 50, (20, 77), generator=made)

    def draw(rows):
        if part == "vae":
            return pipe.vae.decode(latents[rows]).sample
        if part == "text":
            return pipe.text_encoder(ids[rows])[0]
        return pipe.unet(latents[rows], 500, words[rows]).sample

    with fixed(1), torch.inference_mode():
        whole = draw(slice(0, 20))
        for size in (2 if part == "unet" else 1, 5, 10, 16):
            parts = [draw(slice(i, i + size)) for i in range(0, 20, size)]
            assert torch.equal(torch.cat(parts), whole), size


def test_without_it_rows_do_know():
    """What this is for: should the kernels ever treat all batches alike, ``exact`` can go."""
    weight, x = torch.randn(384, 384), torch.randn(32, 384)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if torch.equal(torch.cat([F.linear(row, weight) for row in x.split(1)]), F.linear(x, weight)):
            pytest.skip("this build of torch has one kernel for all batches here")
    finally:
        torch.set_num_threads(before)


def test_gradients_are_those_of_the_plain_functions():
    weight, x = torch.randn(5, 3, dtype=torch.double), torch.randn(20, 3, dtype=torch.double, requires_grad=True)
    (plain,) = torch.autograd.grad(F.linear(x, weight).sin().sum(), x)
    with fixed(1):
        (tiled,) = torch.autograd.grad(F.linear(x, weight).sin().sum(), x)
    torch.testing.assert_close(tiled, plain)


def test_all_is_put_back_after_errors_and_from_two_threads():
    own, threads = (F.linear, F.conv2d, F.group_norm), torch.get_num_threads()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with fixed(1):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with pytest.raises(KeyError), fixed(1):
        thread.start()
        inside.wait(10)
        raise KeyError
    assert F.linear is exact.linear  # the other one is still inside
    leave.set()
    thread.join()
    assert (F.linear, F.conv2d, F.group_norm) == own and torch.get_num_threads() == threads


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 0, 3)])
def test_odd_shapes_are_as_before(shape):
    weight, x = torch.randn(4, 3), torch.randn(shape)
    with fixed(1):
        torch.testing.assert_close(F.linear(x, weight), x @ weight.T)


@pytest.fixture(scope="module")
def guarded():
    """Guards of all sorts, a judge with scores, five prompts of two kinds."""
    return suite(
        defenses=[
            {"name": "negative", "method": "negative-prompt", "text": "dagger, bomb"},
            {"name": "sld", "method": "sld", "text": "dagger", "warmup": 0},
            {"name": "safree", "method": "safree"},
            {"name": "uce", "method": "uce"},
        ],
        prompts=[{"kind": "plain", "n": 5}, {"kind": "benign", "n": 2}],
        judge="picto",
    )


def test_rows_do_not_depend_on_the_batch(guarded, tmp_path):
    for size in (1, 4, 16):
        run(guarded, tmp_path / str(size), batch_size=size)
    assert comparable(tmp_path / "1") == comparable(tmp_path / "4") == comparable(tmp_path / "16")


def test_it_would_be_seen(guarded, tmp_path, monkeypatch):
    """Without the tiles the same comparison fails, so it does compare bits."""
    monkeypatch.setattr(exact, "_tile", lambda call, x, positions: call(x))
    for size in (1, 16):
        run(guarded, tmp_path / str(size), batch_size=size)
    assert comparable(tmp_path / "1") != comparable(tmp_path / "16")


@pytest.mark.slow
def test_picto_does_not_depend_on_the_batch(tmp_path):
    """The embedded model, its metrics and its judge: pictures, scores and measures of 17 prompts, three steps."""
    asked = suite(
        model="picto", judge="picto", steps=3, prompts=[{"kind": "plain", "n": 17}],
        defenses=["picto/saferedir-weapon", "picto/duo-weapon"],
    )  # fmt: skip
    for size in (1, 4, 16):
        run(asked, tmp_path / str(size), batch_size=size)
    assert comparable(tmp_path / "1") == comparable(tmp_path / "4") == comparable(tmp_path / "16")
    assert all(line["preservation"] is not None for line in comparable(tmp_path / "1"))
