"""The maintainers' side: captions, placements, and a training loop that ends the same after being killed."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("tqdm", reason="pip install unsee[training]")

from training.picto import catalog, data, loop


def train(work, stop: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)

    def loss(step: int, g: torch.Generator) -> torch.Tensor:
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=g)
        return (net(x)[:, 0] - x.sum(1)).square().mean()

    return loop.run("net", work, net, loss, steps=12, lr=0.1, warmup=2, every=4, ema=0.9)


def test_a_killed_training_ends_in_the_same_weights(tmp_path):
    whole = train(tmp_path / "a") if (tmp_path / "a").mkdir() is None else {}
    (tmp_path / "b").mkdir()
    for stop in (2, 6, 11):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", stop)
    again = train(tmp_path / "b")
    assert all(torch.equal(whole[k], again[k]) for k in whole)


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
