"""SafeRedir's fit data and batches: which rows, partners, steps and amounts are drawn for a seed, on numbers made here.

``GOLDEN=renew python -m pytest -q tests/test_golden_saferedir.py`` renews the files; read the diff.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from dataclasses import astuple
from types import SimpleNamespace

import pytest
import torch
from golden import brief, fresh, loaded, unchanged

from unsee.backbones import Encoding
from unsee.backbones.tiny import tiny
from unsee.defenses.base import Fit
from unsee.errors import BadFile, GuardFailure, UserError
from unsee.guards.saferedir import Training, batch, data, texts
from unsee.guards.saferedir.data import Data, Walk
from unsee.guards.saferedir.texts import Text


def held(pooled: bool = True) -> Data:
    """Ten texts of two parts, seven trajectories of three steps; every number says where it is from."""
    roles = [
        ("unsafe", 1),
        ("safe", -1),
        ("unsafe", 3),
        ("safe", -1),
        ("unsafe", 5),
        ("safe", -1),
        ("benign", -1),
        ("neighbor", -1),
        ("empty", -1),
        ("benign", -1),
    ]
    own = [
        Text(f"t{i}", fresh(role), fresh("fit"), twin, plain=i < 3, attacked=i == 4)
        for i, (role, twin) in enumerate(roles)
    ]
    own += [
        Text("c0", "unsafe", "check", 11),
        Text("c1", "safe", "check"),
        Text("c2", "benign", "check"),
        Text("z", "safe", "zz"),
    ]
    walks = [
        Walk(0, "unsafe", "fit", 1),
        Walk(1, "safe", "fit", 1),
        Walk(0, "redirected", "fit", 1, 1, 1, 0.8),
        Walk(2, "unsafe", "fit", 2),
        Walk(3, "safe", "fit", 2),
        Walk(6, "harmless", "fit", 3),
        Walk(10, "unsafe", "check", 4),
        Walk(12, "harmless", "check", 5),
    ]
    n, k = len(own), len(walks)
    tokens = torch.linspace(-1, 1, n * 6).view(n, 2, 3) ** 3
    latents = torch.linspace(-2, 2, k * 24).view(k, 3, 2, 2, 2)
    return Data(
        own,
        walks,
        list(tokens.half()),
        list(torch.linspace(0, 3, n * 2).view(n, 2).half()) if pooled else None,
        list(latents.half()),
        [torch.tensor([999.0, 500, 1])] * k,
        [torch.tensor([9.0, 5, i]) for i in range(k)],
        "key",
    )


def numbers(x):
    return " ".join(f"{v:.4g}" for v in x.double().flatten().tolist()[:24])


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"seen_share": 1.0, "seen_from": 0.4},
        {"attacked_share": 1.0, "seen_share": 0.0},
        {"mixing": 1.0, "noise": 0.0},
    ],
)
def test_batches_are_these(pooled, more):
    """Catches another draw, order, amount, label, shift or blur, with and without a pooled embedding."""
    training, made = Training(**more), {}
    for part, n, seed, plain in (
        ("fit", 12, 0, False),
        ("fit", 7, 1, True),
        ("check", 4, 2, False),
        ("fit", 1, 3, False),
    ):
        drawn = batch.Sampler(held(pooled), part, training)(n, seed, plain=plain)
        for field in dataclasses.fields(drawn):
            got = getattr(drawn, field.name)
            name = f"{part} {n} {field.name}{' plain' * plain}"
            made[name] = None if got is None else [list(got.shape), float(f"{got.double().sum():.3e}"), numbers(got)]
    unchanged(f"batches-{'-'.join(map(str, more)) or 'usual'}{'-pooled' * pooled}", made)


def test_items_are_drawn_so():
    """Rows, goals, steps and labels of 200 items of each kind; every group is met where it is there."""
    made = {}
    for name, more in {
        "usual": {},
        "seen": {"seen_share": 0.5, "seen_from": 0.7},
        "attacked": {"attacked_share": 0.5},
    }.items():
        sampler = batch.Sampler(held(), "fit", Training(**more))
        for kind in (sampler._unsafe, sampler._harmless):
            rng = random.Random(5)
            made[f"{name} {kind.__name__}"] = brief([kind(rng) for _ in range(200)], 6)
    sampler.own, sampler.redirected, sampler.shown, sampler.calm = {}, [], [], []
    rng = random.Random(6)
    bare = [*(sampler._unsafe(rng) for _ in range(50)), *(sampler._harmless(rng) for _ in range(50))]
    assert {at for _, _, at, _ in bare} == {None}
    assert [sampler._step(random.Random(i), ([], ())) for i in range(9)] == [None] * 9
    unchanged("items", made)


def test_a_sampler_sorts_its_part():
    sampler = batch.Sampler(held(), "fit", Training())
    assert (sampler.unsafe, sampler.attacked) == ([0, 2], [4])
    assert sampler.roles == {"safe": [1, 3, 5], "benign": [6, 9], "neighbor": [7], "empty": [8]}
    assert (sampler.shown, sampler.redirected, sampler.calm) == ([0, 3], [2], [1, 4, 5])
    assert sampler.own == {0: [0, 2], 2: [3], 1: [1], 3: [4], 6: [5]}
    check = batch.Sampler(held(), "check", Training())
    assert (check.unsafe, check.roles, check.shown, check.calm) == ([10], {"safe": [11], "benign": [12]}, [6], [7])
    with pytest.raises(UserError, match="pairs that differ in what the text encoder reads, got none; use shorter"):
        batch.Sampler(held(), "other", Training())


def test_roles_are_met_by_their_weights():
    sampler, rng = batch.Sampler(held(), "fit", Training()), random.Random(0)
    drawn = [sampler._any(rng) for _ in range(3000)]
    share = {role: sum(i in rows for i in drawn) / 3000 for role, rows in sampler.roles.items()}
    assert share == pytest.approx({"safe": 4 / 15, "benign": 6 / 15, "neighbor": 4 / 15, "empty": 1 / 15}, abs=0.03)


def test_latents_are_those_of_their_step_or_noise_of_the_first_ones_size():
    bank = held()
    sampler = batch.Sampler(bank, "fit", Training())
    for at in ((3, 2), (0, 1)):
        latents, t, raw = sampler._latents(at, torch.Generator())
        assert torch.equal(latents, bank.latents[at[0]][at[1]].float())
        assert (t, raw) == (bank.times[at[0]][at[1]], bank.raw[at[0]][at[1]])
    latents, t, raw = sampler._latents(None, torch.Generator().manual_seed(3))
    first = bank.latents[0][0].float()
    assert torch.allclose(latents, torch.randn(first.shape, generator=torch.Generator().manual_seed(3)) * first.std())
    assert (t, raw) == (999.0, 9.0)


def test_rows_are_mixed_any_way_among_equals_and_a_little_with_the_harmless():
    """Each row by hand: the same draws in the same order, unsafe ones half of the way at most, to harmless 30 %."""
    sampler = batch.Sampler(held(), "fit", Training(mixing=0.7))
    n, g = 64, torch.Generator().manual_seed(0)
    tokens, pooled, shift, shift_pooled = (torch.randn(n, *s, generator=g) for s in ((2, 3), (4,), (2, 3), (4,)))
    unsafe = (torch.arange(n) % 2).float()
    got = sampler._mix(tokens, pooled, shift, shift_pooled, unsafe, random.Random(9))
    rng, kinds = random.Random(9), set()
    for i in range(n):
        other, amount = i, 0.0
        if rng.random() < 0.7:
            other = rng.randrange(n)
            kinds.add((int(unsafe[i]), int(unsafe[other])))
            if unsafe[i] == unsafe[other]:
                amount = rng.random() / 2
            elif unsafe[i] > unsafe[other]:
                amount = rng.random() * 0.3
        for mixed, x in zip(got, (tokens, pooled, shift, shift_pooled), strict=True):
            assert torch.allclose(mixed[i], (1 - amount) * x[i] + amount * x[other], atol=1e-6), i
    assert len(kinds) == 4
    assert sampler._mix(tokens, None, shift, None, unsafe, random.Random(9))[1::2] == (None, None)


def test_a_blur_is_in_units_of_each_embeddings_length():
    sampler = batch.Sampler(held(), "fit", Training(noise=0.4))
    x, pooled = torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(1)), torch.ones(8, 3)
    got = sampler._blur(x, pooled, torch.Generator().manual_seed(2))
    g = torch.Generator().manual_seed(2)
    size = (2 * torch.rand(8, generator=g) - 1).clamp(min=0) * 0.4
    for mixed, plain in zip(got, (x, pooled), strict=True):
        noise = torch.randn(plain.shape, generator=g)
        for i in range(8):
            length = plain[i].square().sum(-1, keepdim=True).sqrt()
            assert torch.allclose(mixed[i], plain[i] + size[i] * noise[i] * length / plain.shape[-1] ** 0.5, atol=1e-6)
    assert 0 < int((size > 0).sum()) < 8 and sampler._blur(x, None, g)[1] is None


def test_half_are_moved():
    """Half by chance stay; the others are even between nothing and the most."""
    size = batch._half(4000, 0.6, torch.Generator().manual_seed(0))
    moved = size[size > 0]
    assert len(moved) == pytest.approx(2000, abs=100) and 0.599 < float(moved.max()) <= 0.6 and float(size.min()) == 0
    assert float(moved.mean()) == pytest.approx(0.3, abs=0.02)
    assert batch._rows(torch.ones(2), torch.zeros(2, 3, 4)).shape == (2, 1, 1)
    assert batch._rows(torch.ones(2), torch.zeros(2)).shape == (2,)


def test_misled_embeddings_are_by_hand():
    n, g = 6, torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(n, 2, 3, generator=g), torch.randn(n, 4, generator=g)
    given = batch.FitBatch(tokens, tokens, tokens, tokens, pooled, torch.ones(n), tokens, pooled)
    got = batch.misled(given, lambda b: (b.tokens**3).sum() + (b.pooled**2).sum(), 0.5, 7)
    size = (2 * torch.rand(n, generator=torch.Generator().manual_seed(7)) - 1).clamp(min=0) * 0.5
    for x, slope, moved in ((tokens, 3 * tokens**2, got.tokens), (pooled, 2 * pooled, got.pooled)):
        for i in range(n):
            wanted = x[i] + size[i] * x[i].norm() * slope[i] / slope[i].norm()
            assert torch.allclose(moved[i], wanted, atol=1e-5)
    flat = batch.misled(given, lambda b: (b.tokens * 0).sum() + (b.pooled * 0).sum(), 0.5, 7)
    assert torch.equal(flat.tokens, tokens)  # no slope, no step: and no division by nothing
    alone = batch.misled(dataclasses.replace(given, pooled=None), lambda b: b.tokens.sum(), 0.5, 7)
    assert alone.pooled is None and not torch.equal(alone.tokens, tokens)


def test_a_batch_moves_as_a_whole():
    drawn = batch.Sampler(held(False), "fit", Training())(4, 0)
    moved = drawn.to(torch.device("cpu"))
    assert torch.equal(moved.tokens, drawn.tokens) and moved.pooled is None and moved.shift_pooled is None


# ---- the data ----


def test_rows_leave_out_pairs_that_the_encoder_cut():
    bank = held()
    assert bank.rows(fresh("fit"), fresh("unsafe")) == [0, 2, 4] and bank.rows("fit", "benign", "empty") == [6, 8, 9]
    assert bank.rows("check", "unsafe", "safe") == [10, 11] and bank.rows("other", "unsafe") == []
    bank.tokens[2] = bank.tokens[3].clone()
    bank.tokens[1] = bank.tokens[0] + 1  # of its twin another one is right
    assert bank.rows("fit", "unsafe") == [0, 4] and bank.rows("fit", "safe") == [1, 3, 5]
    first = dataclasses.replace(
        bank, texts=[dataclasses.replace(t, twin=0) if i == 2 else t for i, t in enumerate(bank.texts)]
    )
    first.tokens[0] = first.tokens[2].clone()
    assert first.rows("fit", "unsafe") == [0, 4]  # a twin in row 0 is one too
    assert bank.walks(fresh("fit"), "unsafe", "safe") == [0, 1, 3, 4] and bank.walks("check", "harmless", "unsafe") == [
        6,
        7,
    ]


def test_encodings_are_of_their_rows():
    tokens, pooled = held().encoding([3, 0])
    assert (
        torch.equal(tokens, torch.stack([held().tokens[3], held().tokens[0]]).float()) and tokens.dtype == torch.float32
    )
    assert (
        torch.equal(pooled, torch.stack([held().pooled[3], held().pooled[0]]).float()) and pooled.dtype == torch.float32
    )
    assert held(False).encoding([0])[1] is None


def test_the_whole_has_the_validations_pairs_to_fit_on():
    bank = held()
    whole = bank.whole()
    assert len(whole.texts) == 15 and whole.texts[14] == dataclasses.replace(bank.texts[10], part="fit")
    assert [t.part for t in whole.texts[10:14]] == ["check", "fit", "check", "fit"]
    assert torch.equal(whole.tokens[14], bank.tokens[10]) and torch.equal(whole.pooled[14], bank.pooled[10])
    assert [p.part for p in whole.paths] == ["fit"] * 7 + ["check"] and whole.key == "key-whole"
    assert whole.rows("fit", "unsafe") == [0, 2, 4, 14] and held(False).whole().pooled is None


def test_shifts_are_of_the_plain_pairs_in_chunks(monkeypatch):
    bank = held()
    for rows, sizes in ((64, [2]), (2, [2]), (1, [1, 1])):
        monkeypatch.setattr(data, "ROWS", rows)
        found = list(bank.shifts())
        assert [len(x) for x, *_ in found] == sizes
        x, way, pooled, way_pooled = (torch.cat(part) for part in zip(*found, strict=True))
        assert torch.equal(x, bank.encoding([0, 2])[0]) and torch.equal(x + way, bank.encoding([1, 3])[0])
        assert torch.equal(pooled, bank.encoding([0, 2])[1]) and torch.allclose(
            pooled + way_pooled, bank.encoding([1, 3])[1]
        )
    assert all(part[2:] == (None, None) for part in held(False).shifts())


@pytest.mark.parametrize("name", ["weapon", "style-noto"])
def test_trajectories_are_these(name):
    """How many of each kind and part, from which seeds, which are redirected when, how far."""
    concept, made = loaded(name), {}
    bank = texts.compose(concept, 40, 40, 0)
    for few, calm, steps, seed in ((1, 1, 1, 0), (3, 2, 2, 0), (4, 3, 3, 1), (9, 8, 25, 2)):
        training = Training(trajectories=few, harmless_trajectories=calm, num_inference_steps=steps)
        walks = data.plan(Fit(None, concept, None, (), seed, None), training, bank)
        kinds = [
            sum((w.part, w.kind) == (p, k) for w in walks)
            for p in ("fit", "check")
            for k in ("unsafe", "safe", "redirected", "harmless")
        ]
        made[f"{few} {calm} {steps} {seed}"] = brief([astuple(w) for w in walks], 4) | {"kinds": kinds}
    unchanged(f"trajectories-{name}", made)


@pytest.mark.parametrize(
    ("steps", "stored", "kept"),
    [
        (1, 10, [0]),
        (2, 1, [0]),
        (2, 2, [0, 1]),
        (3, 2, [0, 2]),
        (3, 3, [0, 1, 2]),
        (25, 2, [0, 24]),
        (25, 3, [0, 8, 24]),
        (25, 10, [0, 1, 3, 5, 7, 10, 13, 16, 20, 24]),
        (5, 10, [0, 1, 2, 3, 4]),
        (0, 5, [0]),
        (9, 1, [0]),
        (2, 5, [0, 1]),
    ],
)
def test_steps_that_are_stored(steps, stored, kept):
    assert data.chosen(steps, stored) == kept


def test_the_shape_of_a_call():
    assert data.aspect({"height": 6, "width": 4}) == 1.5 and data.aspect({}) == 1.0
    assert data.aspect({"height": 6}) == data.aspect({"width": 6}) == data.aspect({"height": 6, "width": None}) == 1.0


def test_an_index_makes_a_shard_once_and_reads_them_in_order(tmp_path):
    index, made = data.Index(tmp_path), []

    def make(value):
        return lambda: made.append(value) or {"x": torch.full((2,), float(value))}

    for name, value in (("b-1", 1), ("a-1", 2), ("a-0", 3), ("a-1", 9)):
        index.add(name, make(value))
    assert made == [1, 2, 3] and [s["x"][0].item() for s in index.open("a")] == [3, 2]
    again = data.Index(tmp_path)
    again.add("b-1", make(7))
    assert made == [1, 2, 3] and again.shards == index.shards == json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "b-1.safetensors").unlink()
    with pytest.raises(BadFile, match="with another checksum; remove it and fit again"):
        list(again.open("b"))
    again.add("b-1", make(8))  # listed and gone: made anew
    assert made == [1, 2, 3, 8] and [s["x"][0].item() for s in again.open("b")] == [8]
    (tmp_path / "a-0.safetensors").write_bytes(b"x")
    with pytest.raises(BadFile, match="with another checksum"):
        list(again.open("a"))
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(BadFile, match="an index of shards"):
        data.Index(tmp_path)
    assert len(data.key([1])) == 10 and data.key([1]) != data.key([2])


@pytest.mark.parametrize("pooled", [True, False])
def test_the_recorder_notes_every_step_and_mixes_from_an_images_own_step_on(pooled):
    target = Encoding(torch.ones(3, 2, 2), torch.full((3, 2), 2.0) if pooled else None)
    recorder = data.Recorder(switch=[1, -1, 0], amount=[0.5, 0.5, 1.2], target=target)
    text = Encoding(torch.zeros(3, 2, 2), torch.zeros(3, 2) if pooled else None)
    backbone = SimpleNamespace(unscale=lambda x, t: x * 10 + t)

    def step(index):
        return SimpleNamespace(
            index=index,
            latents=torch.full((3, 4, 2, 2), float(index)),
            t_999=900.0 - index,
            t=5.0,
            backbone=backbone,
            generation=SimpleNamespace(arguments={}),
        )

    first, second = (recorder.on_positive(step(i), text, None) for i in (0, 1))
    assert first.tokens[:, 0, 0].tolist() == pytest.approx([0, 0, 1.2])
    assert second.tokens[:, 1, 1].tolist() == pytest.approx([0.5, 0, 1.2])
    if pooled:
        assert second.pooled[:, 1].tolist() == pytest.approx([1.0, 0, 2.4])
    else:
        assert first.pooled is None and second.pooled is None
    assert not text.tokens.any()  # the call's own is as it was
    assert [(x.dtype, float(x[0, 0, 0, 0]), a, b) for x, a, b in recorder.seen] == [
        (torch.float16, 0.0, 900.0, 5.0),
        (torch.float16, 1.0, 899.0, 5.0),
    ]
    recorder.prepare(None)
    assert recorder.seen == []
    recorder.switch, recorder.unscaled = [-1, -1, 2], True
    assert recorder.on_positive(step(1), text, None) is None and float(recorder.seen[0][0][0, 0, 0, 0]) == 15.0
    recorder.switch, recorder.target = [0, 0, 0], None
    assert recorder.on_positive(step(1), text, None) is None


def test_a_build_stores_all_in_shards_and_goes_on_where_it_was(tmp_path, monkeypatch):
    """Names and sizes of shards, what is told on the way, one noise for a pair, another picture where redirected."""
    monkeypatch.setattr(data, "ROWS", 16)
    told, pipe = [], tiny("sd1")
    training = Training(
        pairs=6,
        negatives=6,
        trajectories=2,
        harmless_trajectories=1,
        num_inference_steps=3,
        stored_steps=2,
        generate_batch_size=3,
        guidance_scale=2.0,
    )
    fit = Fit(pipe, loaded("weapon"), tmp_path, (), 0, lambda *a: told.append(a))
    bank = data.build(fit, training)
    n, k = len(bank.texts), len(bank.paths)
    (folder,) = tmp_path.glob("data-*")
    names = sorted(p.name for p in folder.glob("*.safetensors"))
    assert names == sorted(
        [f"texts-{i:05d}.safetensors" for i in range(0, n, 16)] + [f"paths-{i:05d}.safetensors" for i in range(0, k, 3)]
    )
    assert told == [("texts", i, n) for i in range(0, n, 16)] + [("trajectories", i, k) for i in [*range(0, k, 3), k]]
    assert len(bank.tokens) == n and len(bank.latents) == len(bank.times) == len(bank.raw) == k and bank.pooled is None
    assert bank.key == folder.name and len(bank.latents[0]) == 2
    assert [p.kind for p in bank.paths] == [
        "unsafe",
        "safe",
        "redirected",
        "unsafe",
        "safe",
        "harmless",
        "unsafe",
        "safe",
        "redirected",
        "harmless",
    ]
    unsafe, safe, redirected = bank.latents[:3]
    assert torch.equal(unsafe[0], safe[0]) and torch.equal(unsafe[0], redirected[0])
    assert not torch.equal(unsafe[1], safe[1]) and not torch.equal(unsafe[1], redirected[1])
    assert torch.equal(bank.tokens[0], data.adapter(pipe).encode([bank.texts[0].text]).tokens[0].half())
    again = data.build(fit, training)
    assert all(torch.equal(a, b) for a, b in zip(bank.latents, again.latents, strict=True))


def test_texts_that_are_not_finite_are_not_stored(monkeypatch):
    class Backbone:
        pipe = None

        def encode(self, listed, length):
            return Encoding(
                torch.full((len(listed), 2, 2), math.nan if "x" in listed else 1.0), torch.ones(len(listed), 2)
            )

    training = SimpleNamespace(max_sequence_length=0)
    good = data._encode(Backbone(), [Text("a", "safe", "fit"), Text("b", "safe", "fit")], {}, training)
    assert good["tokens"].shape == (2, 2, 2) and good["pooled"].dtype == torch.float16
    with pytest.raises(GuardFailure, match="the text encoder's tokens are not finite in half precision"):
        data._encode(Backbone(), [Text("x", "safe", "fit")], {}, training)
