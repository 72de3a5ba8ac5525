"""The maintainers' side: captions, placements, and a training loop that ends the same after being killed."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("tqdm", reason="pip install unsee[training]")

from training.picto import catalog, data, loop


def train(work, stop: int | None = None, **kwargs) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=g)
        return (net(x)[:, 0] - x.sum(1)).square().mean()

    return loop.run("net", work, net, loss, steps=12, lr=0.1, warmup=2, every=4, ema=0.9, **kwargs)


def test_a_killed_training_ends_in_the_same_weights(tmp_path):
    whole = train(tmp_path / "a") if (tmp_path / "a").mkdir() is None else {}
    (tmp_path / "b").mkdir()
    for stop in (2, 6, 11):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", stop)
    again = train(tmp_path / "b")
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_a_training_by_another_rate_reports_and_ends_the_same_after_being_killed(tmp_path):
    from training.picto import train_flow

    rate, seen = train_flow.constant_then_falling(12, 4), []
    assert [rate(s) for s in (0, 7, 8, 9, 11)] == [1.0, 1.0, 1.0, 0.75, 0.25]
    assert train_flow.constant_then_falling(12, 0)(11) == 1.0
    settings = {"rate": rate, "first": 3, "fused": True, "report": lambda average: seen.append(average) or "there"}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "a", **settings)
    assert len(seen) == 3
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", 9, **settings)
    again = train(tmp_path / "b", **settings)
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_flow_batches_follow_the_generator_and_drop_a_tenth_of_the_captions():
    from training.picto import train_flow

    stored = {
        "latents": torch.randn(5, train_flow.PLACEMENTS, 16, 8, 8).half(),
        "text": torch.ones(5, train_flow.CAPTIONS, 24, 128).half(),
        "pooled": torch.ones(5, train_flow.CAPTIONS, 128).half(),
        "empty_text": torch.zeros(24, 128).half(), "empty_pooled": torch.zeros(128).half(),
    }  # fmt: skip
    draws = train_flow.Draws(stored, torch.ones(5))
    one, same = (draws(2000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    x0, noise, t, text, pooled = one
    assert x0.shape == noise.shape == (2000, 16, 8, 8) and text.shape == (2000, 24, 256) and pooled.shape == (2000, 256)
    assert t.min() > 0 and t.max() < 1 and t.mean() == pytest.approx(0.58, abs=0.03)
    empty = pooled[:, 0] == 0
    assert torch.equal(empty, text[:, 0, 0] == 0) and empty.float().mean().item() == pytest.approx(0.1, abs=0.03)
    held = draws(50, torch.Generator().manual_seed(3), view=train_flow.PLACEMENTS - 1)[0]
    assert all(any(torch.equal(x, y.float()) for y in stored["latents"][:, -1]) for x in held)


def test_the_quicker_flow_model_is_the_same_and_a_new_one_says_nothing():
    from training.picto import train_flow

    torch.manual_seed(0)
    net = train_flow.model().eval()
    inputs = {"hidden_states": torch.randn(2, 16, 8, 8), "timestep": torch.tensor([10.0, 900.0]),
              "encoder_hidden_states": torch.randn(2, 24, 256), "pooled_projections": torch.randn(2, 256)}  # fmt: skip
    with torch.no_grad():
        assert not net(**inputs).sample.any()
        for p in net.parameters():
            p.add_(0.02 * torch.randn(p.shape))
        fused = net(**inputs).sample
        quick = train_flow.quicken(net)(**inputs).sample
    assert fused.std() > 1e-3 and not torch.equal(fused, quick) and torch.allclose(fused, quick, atol=1e-5)


def test_the_flow_pipeline_reads_text_as_its_training_did_and_draws(tmp_path):
    from transformers import CLIPTokenizer

    from training.picto import install_flow, train_flow
    from unsee.picto import WEIGHTS

    net = train_flow.model()
    torch.save({"average": net.state_dict(), "step": 7, "curve": [(7, 1.0)]}, tmp_path / "flow.pt")
    weights = install_flow.export(tmp_path / "flow.pt", tmp_path / "out" / "picto-flow.safetensors")
    assert weights.stat().st_size < install_flow.LIMIT
    pipe = install_flow.pipeline(weights)
    pipe.set_progress_bar_config(disable=True)
    texts = ["an axe, blob style", ""]
    seen, _, pooled, _ = pipe.encode_prompt(texts, None, None, max_sequence_length=0)
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    states, whole = train_flow.encode(train_flow.text_tower(), tokenizer, texts)
    assert torch.allclose(seen, states.float().repeat(1, 1, 2), atol=2e-2)
    assert torch.allclose(pooled, whole.float().repeat(1, 2), atol=2e-2)
    image = pipe("an axe", num_inference_steps=2, max_sequence_length=0, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_every_unsafe_slug_and_neighbor_has_a_group():
    assert {catalog.group_of(s) for words in catalog.GROUPS.values() for s in words} == set(catalog.GROUPS)
    assert all(catalog.group_of(s) == "none" for near in catalog.NEIGHBORS.values() for s in near)
    assert len(catalog.slugs()) == len(set(catalog.slugs()))


def test_test_families_are_in_no_training_list():
    assert not {*catalog.STYLES.values(), *catalog.JUDGE_ONLY} & set(catalog.TEST_ONLY)


@pytest.mark.parametrize("fine", [1, 2])
def test_place_keeps_white_white_and_moves_by_pixels(fine):
    image = torch.full((1, 3, 96, 96), 255, dtype=torch.uint8)
    image[:, :, 24:72, 24:72] = 0
    still = data.place(image, torch.Generator().manual_seed(0), shift=0, scale=(1.0, 1.0), fine=fine)
    assert still.shape == (1, 3, 64, 64)
    assert still[0, 0, 0, 0] == pytest.approx(1.0) and still[0, 0, 32, 32] == pytest.approx(-1.0)
    assert (still < 0).float().mean().item() == pytest.approx((48 / 96) ** 2, abs=0.01)
    small = data.place(image, torch.Generator().manual_seed(0), shift=0, scale=(0.5, 0.5), fine=fine)
    assert (small < 0).float().mean().item() == pytest.approx((24 / 96) ** 2, abs=0.01)


def test_slugs_are_those_of_the_packages():
    assert data.slug_of("Skull and Crossbones") == "skull-and-crossbones"
    assert data.slug_of("woman’s hat") == "womans-hat"


def test_fetch_refuses_another_tarball(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "LOCK", tmp_path / "lock.json")
    (tmp_path / "pkg-1.0.tgz").write_bytes(b"one")
    assert data.fetch("pkg", "1.0", tmp_path).exists()
    (tmp_path / "pkg-1.0.tgz").write_bytes(b"two")
    with pytest.raises(ValueError, match="expected sha256"):
        data.fetch("pkg", "1.0", tmp_path)


def test_captions_name_their_style_and_match_their_icon(tmp_path, monkeypatch):
    from training.picto import captions

    monkeypatch.setattr(captions, "tags", lambda work: {})
    rng = random.Random(0)
    for slug in catalog.slugs()[::7]:
        said = captions.caption(slug, "blob", rng, tmp_path)
        assert said.matches(slug, "blob")
        assert (said.style == "") == ("blob" not in said.text)
