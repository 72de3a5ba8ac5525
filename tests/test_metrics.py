"""Every metric against an independent implementation (≤ 1e-5), offline: random networks, Gaussians, slow loops.

What needs torch-fidelity, lpips or torchvision (``pip install 'unsee[metrics]'``) is skipped where they are missing.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import itertools
import math
import mmap
import sys
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from unsee.errors import UserError
from unsee.judges.clip_model import open_clip
from unsee.metrics import agreement, clip_score, cost, frechet, lpips, rates
from unsee.metrics.base import Metric, stacked
from unsee.metrics.perceptual import PictoPerceptual, distance


def needs(module):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"needs {module} ({error}): pip install 'unsee[metrics]'")


class StandIn(types.ModuleType):
    """torchvision where it is not installed: empty classes by any name, and the layers of AlexNet."""

    PARTS = ("", ".datasets", ".models", ".transforms", ".transforms.functional")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})

    def alexnet(self, **kwargs):
        conv, relu, pool = torch.nn.Conv2d, torch.nn.ReLU, lambda: torch.nn.MaxPool2d(3, 2)
        layers = [conv(3, 64, 11, 4, 2), relu(), pool(), conv(64, 192, 5, 1, 2), relu(), pool()]
        layers += [conv(192, 384, 3, 1, 1), relu(), conv(384, 256, 3, 1, 1), relu(), conv(256, 256, 3, 1, 1), relu()]
        return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


@pytest.fixture
def peers(monkeypatch):
    """``needs``, with a stand-in for the torchvision that the packages import but whose parts used here are not."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        for part in StandIn.PARTS:
            module = StandIn(f"torchvision{part}")
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            monkeypatch.setitem(sys.modules, module.__name__, module)
            above, _, name = module.__name__.rpartition(".")
            if above:
                setattr(sys.modules[above], name, module)
    return needs


def noise(n, size=(64, 64), seed=0):
    random = np.random.default_rng(seed)
    return [Image.fromarray(random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(n)]


class Means:
    """An extractor of one's own: the mean color of an image and its square."""

    name = "means"

    def __call__(self, images):
        colors = stacked(images).mean((1, 2)) / 255
        return np.concatenate([colors, colors**2], 1)


# -- the contract ---------------------------------------------------------------------------------

METRICS = [
    (rates.attack_success_rate, "ASR"),
    (rates.defense_success_rate, "DSR"),
    (rates.forget_success_rate, "FSR"),
    (rates.clip_score_drift, "CSDR"),
    (agreement.kappa, "kappa"),
    (cost.latency, "latency"),
    (cost.peak_memory, "peak-memory"),
    (distance, "picto-perceptual-distance"),
    (PictoPerceptual(), "picto-perceptual"),
    (clip_score.PictoClipScore(), "picto-clip-score"),
    (lpips.LPIPS(network=lambda a, b: torch.zeros(1), name="zero"), "zero"),
    (frechet.FrechetDistance(Means()), "frechet-means"),
    (frechet.KernelDistance(Means()), "kernel-means"),
]


@pytest.mark.parametrize(("one", "name"), METRICS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_metric_says_its_name_range_direction_and_formula(one, name):
    assert isinstance(one, Metric) and one.name == name and one.higher_is_better in (True, False)
    low, high = one.range
    assert low < high
    text = (one if isinstance(one, types.FunctionType) else type(one)).__doc__
    assert "Formula: " in text or f"{name} = " in text


def test_images_of_several_sizes_are_refused_with_their_sizes():
    with pytest.raises(UserError, match="64×64 and 80×64"):
        stacked([*noise(1), *noise(1, (80, 64))])
    assert stacked([*noise(1), *noise(1, (80, 64))], 32).shape == (2, 32, 32, 3)


# -- LPIPS ----------------------------------------------------------------------------------------


def test_lpips_feeds_a_network_pairs_in_range_and_order():
    seen = []

    def network(a, b):
        seen.append((a, b))
        return (a - b).abs().mean()

    images, twins = [*noise(1), *noise(1, (80, 48), 1)], [*noise(1, seed=2), *noise(1, (80, 48), 3)]
    found = lpips.LPIPS(network=network, name="l1")(images, twins)
    slow = [np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() / 127.5 for a, b in zip(images, twins)]
    assert found == pytest.approx(slow, abs=1e-5)
    assert seen[1][0].shape == (1, 3, 48, 80) and -1 <= seen[1][0].min() < -0.9 and 0.9 < seen[1][0].max() <= 1
    small = lpips.LPIPS(network=network, name="l1", size=64)
    assert small.name == "l1-64px" and len(small(images, twins)) == 2 and seen[-1][0].shape == (1, 3, 64, 64)
    kept = lpips.PriorPreservation(small)
    assert kept.name == "1-minus-l1-64px" and kept(images, images) == [1.0, 1.0]
    assert kept(images, twins) == pytest.approx([1 - d for d in small(images, twins)])


def test_lpips_refuses_another_size_and_a_network_without_a_name():
    with pytest.raises(UserError, match="one size"):
        lpips.LPIPS(network=lambda a, b: 0, name="x")(noise(1), noise(1, (32, 32)))
    with pytest.raises(ValueError, match="name"):
        lpips.LPIPS(network=lambda a, b: 0)


def test_a_missing_package_is_one_line_with_its_remedy(monkeypatch):
    for package in ("lpips", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, package, None)
    for make in (lpips.LPIPS, frechet.FrechetDistance):
        with pytest.raises(UserError, match=r"pip install 'unsee\[metrics\]'"):
            make()


@pytest.fixture
def random_alexnet(peers, monkeypatch):
    """The package's LPIPS with its learned channel weights on an AlexNet without a download."""
    peers("lpips")
    models = sys.modules["torchvision"].models
    made = models.alexnet
    torch.manual_seed(0)
    monkeypatch.setattr(models, "alexnet", lambda *args, **kwargs: made(weights=None))
    return lpips.LPIPS(), lpips.LPIPS(size=64)


def test_lpips_equals_its_formula_written_in_numpy(random_alexnet):
    native, small = random_alexnet
    assert (native.name, small.name) == ("LPIPS", "LPIPS-64px")
    assert lpips.PriorPreservation(small).name == "prior-preservation-64px"
    a, b = noise(1, (80, 72)), noise(1, (80, 72), 1)
    assert native(a, a) == [0.0]
    assert native(a, b) == pytest.approx([_lpips_by_hand(native.network, a[0], b[0])], abs=1e-5)
    tiny = [[i.resize((64, 64), Image.Resampling.BICUBIC) for i in x] for x in (a, b)]
    assert small(a, b) == pytest.approx([_lpips_by_hand(small.network, tiny[0][0], tiny[1][0])], abs=1e-5)


def _lpips_by_hand(network, a, b):
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    maps = []
    for image in (a, b):
        x = ((np.asarray(image, float) / 127.5 - 1 - shift) / scale).transpose(2, 0, 1)
        maps.append([m[0].numpy() for m in network.net(torch.from_numpy(x[None]).float())])
    total = 0.0
    for x, y, layer in zip(*maps, network.lins, strict=True):
        x, y = (m / np.sqrt((m**2).sum(0, keepdims=True) + 1e-20) for m in (x, y))
        weight = layer.model[-1].weight.detach().numpy().reshape(-1, 1, 1)
        total += (weight * (x - y) ** 2).sum(0).mean()
    return total


# -- CLIP score -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_clip():
    from transformers import CLIPConfig, CLIPModel

    from unsee.backbones import tiny

    tokenizer = tiny._clip_tokenizer()
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    layer = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={"vocab_size": len(tokenizer), "max_position_embeddings": 77, **layer, **ids},
        vision_config={"image_size": 32, "patch_size": 8, **layer},
        projection_dim=16,
    )
    torch.manual_seed(0)
    return CLIPModel(config).eval(), tokenizer


def opened(model, tokenizer, folder):
    from transformers import CLIPImageProcessor

    size = model.config.vision_config.image_size
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(folder)
    return open_clip(str(folder))


def prepared(image, size):
    """CLIP's preparation by hand: shorter side to size (bicubic), center crop, normalized."""
    short, (width, height) = min(image.size), image.size
    width, height = (size if side == short else int(size * side / short) for side in (width, height))
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    mean, spread = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return ((np.asarray(image) / 255 - mean) / spread).transpose(2, 0, 1)


def test_clip_score_is_the_cosine_of_both_towers(tiny_clip, tmp_path):
    model, tokenizer = tiny_clip
    images, texts = [*noise(2, (50, 40)), *noise(3, (33, 90), 1)], ["a dagger", "an axe", "a", "", "a hammer " * 60]
    score = clip_score.ClipScore(clip=opened(model, tokenizer, tmp_path / "mine"), batch_size=2)
    assert score.name == "clip-score-mine"
    expected = []
    for image, text in zip(images, texts):
        pixels = torch.from_numpy(prepared(image, 32)[None]).float()
        assert (score.clip.pixels([image]) - pixels).abs().max() <= 1e-5
        ids = tokenizer(text, truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            seen = model.visual_projection(model.vision_model(pixels).pooler_output)[0].double().numpy()
            said = model.text_projection(model.text_model(**ids).pooler_output)[0].double().numpy()
        expected.append(max(0.0, 100 * seen @ said / np.linalg.norm(seen) / np.linalg.norm(said)))
    # 1e-5 of the cosine; the score is 100 of it
    assert score(images, texts) == pytest.approx(expected, abs=1e-3)
    assert score([], []) == []


def test_a_clip_is_never_read_from_a_pickle_and_a_missing_one_is_one_line(tmp_path, tiny_clip):
    with pytest.raises(UserError, match="expected a CLIP model"):
        clip_score.ClipScore(str(tmp_path))
    opened(*tiny_clip, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_clip[0].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        clip_score.ClipScore(str(tmp_path))


# -- Fréchet distance and KID ---------------------------------------------------------------------


def features(n, dimensions, seed, rank=None):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rank or dimensions, dimensions)) / math.sqrt(dimensions)
    return random.normal(size=(n, rank or dimensions)) @ mixed + random.normal(size=dimensions)


def test_frechet_of_commuting_gaussians_is_its_closed_form():
    a, b = np.array([0.5, 2.0, 3.0]), np.array([1.5, 0.1, 3.0])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    means = np.zeros(3), np.array([1.0, -2.0, 0.5])
    found = frechet.gaussian_distance(means[0], turn @ np.diag(a) @ turn.T, means[1], turn @ np.diag(b) @ turn.T)
    assert found == pytest.approx(5.25 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), abs=1e-10)


def test_frechet_in_one_dimension_is_the_difference_of_means_and_deviations():
    a, b = features(50, 1, 0), features(70, 1, 1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "m", "dimensions", "rank"), [(100, 80, 12, None), (300, 300, 48, None), (20, 9, 30, 4)])
def test_frechet_equals_scipys_root_and_is_zero_for_itself(n, m, dimensions, rank):
    a, b = features(n, dimensions, 0, rank), features(m, dimensions, 1)
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s @ t + 1e-14 * np.eye(dimensions)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)
    assert frechet.frechet_distance(b, a) == pytest.approx(expected, abs=1e-5)
    assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("n", "dimensions"), [(200, 16), (400, 64)])
def test_frechet_equals_torch_fidelitys_on_the_same_features(peers, n, dimensions):
    theirs = peers("torch_fidelity.metric_fid")
    a, b = features(n, dimensions, 0), features(n, dimensions, 1)
    stats = [theirs.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    expected = theirs.fid_statistics_to_metric(*stats, False)[theirs.KEY_METRIC_FID]
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)


def _kernel(x, y):
    return (sum(p * q for p, q in zip(x, y)) / len(x) + 1) ** 3


def test_kid_equals_a_slow_double_loop():
    a, b = features(14, 5, 0), features(11, 5, 1)
    within = [np.mean([_kernel(x, y) for x, y in itertools.permutations(s.tolist(), 2)]) for s in (a, b)]
    across = np.mean([_kernel(x, y) for x in a.tolist() for y in b.tolist()])
    assert frechet.squared_mmd(a, b) == pytest.approx(sum(within) - 2 * across, abs=1e-9)


def test_kid_equals_torch_fidelitys_on_the_same_features(peers):
    theirs = peers("torch_fidelity.metric_kid")
    a, b = (torch.from_numpy(features(60, 24, seed)) for seed in (0, 1))
    asked = {"kid_subsets": 3, "kid_subset_size": 60, "rng_seed": 0, "verbose": False}  # whole sets: any order
    expected = theirs.kid_features_to_metric(a, b, **asked)[theirs.KEY_METRIC_KID_MEAN]
    value, spread = frechet.kernel_distance(a.numpy(), b.numpy(), subsets=3, size=60)
    assert value == pytest.approx(expected, abs=1e-5) and spread == pytest.approx(0, abs=1e-9)


def test_kid_is_repeatable_about_zero_for_one_origin_and_has_a_spread():
    both = features(400, 6, 0)
    value, spread = frechet.kernel_distance(both[:200], both[200:], size=100)
    assert (value, spread) == frechet.kernel_distance(both[:200], both[200:], size=100)
    assert spread > 0 and abs(value) < 3 * spread


@pytest.mark.parametrize("make", [frechet.FrechetDistance, frechet.KernelDistance])
def test_too_few_images_are_refused_unless_asked_for_and_it_says_so(make):
    images = noise(20, (8, 8))
    with pytest.raises(UserError, match="2048 images or more for .*-means, got 10; .*few=True"):
        make(Means())(images, images[:10])
    found = make(Means())(images[:10], images[10:], few=True)
    assert found.few and found.name.endswith("-means (few images)") and math.isfinite(found.value)
    assert "10 against 10 images" in str(found)
    nothing = make(Means())(images[:1], images, few=True)
    assert nothing.value is None and "no data" in str(nothing)


def test_enough_images_are_measured_and_the_batches_joined_in_order():
    images = noise(64, (8, 8)) * 32
    found = frechet.FrechetDistance(Means())(images, images[::-1])
    assert (found.few, found.name, found.images) == (False, "frechet-means", 2048)
    assert found.value == pytest.approx(0, abs=1e-7)
    features = frechet.FrechetDistance(Means())._features(images[:50])
    assert np.allclose(features, Means()(images[:50]))


def test_features_that_are_broken_are_refused():
    good = features(5, 3, 0)
    for bad in (np.full((5, 3), np.nan), good[:1], good[:, :2], good[0]):
        with pytest.raises(ValueError):
            frechet.frechet_distance(good, bad)


def test_picto_features_are_the_judges_and_never_called_fid():
    found = frechet.PictoFeatures()(noise(3))
    assert found.shape == (3, 192) and np.isfinite(found).all()
    assert frechet.FrechetDistance(frechet.PictoFeatures()).name == "frechet-picto"
    assert frechet.KernelDistance(frechet.PictoFeatures()).name == "kernel-picto"


def test_inception_is_torch_fidelitys_and_alone_called_fid(peers, monkeypatch):
    module = peers("torch_fidelity.feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(network, "load_state_dict", lambda self, state: None)  # random weights
    inception = frechet.Inception()
    assert frechet.FrechetDistance(inception).name == "FID" and frechet.KernelDistance(inception).name == "KID"
    images = noise(2, (40, 30))
    pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
    assert np.allclose(inception(images), inception.network(pixels)[0].numpy(), atol=1e-5)


# -- cost -----------------------------------------------------------------------------------------


def test_latency_is_the_median_of_the_counted_calls(monkeypatch):
    clock, calls = itertools.accumulate([0, 9, 1, 1, 1, 5, 1, 2, 1, 3, 1, 4, 1, 6]), []
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    found = cost.latency(lambda: calls.append(1), repeats=7, warmup=2)
    assert len(calls) == 9 and (found.n, found.seconds, found.low, found.high) == (7, 4, 1, 9)
    with pytest.raises(ValueError, match="repeats"):
        cost.latency(lambda: None, repeats=0)


def test_latency_of_a_real_call():
    found = cost.latency(lambda: time.sleep(0.005), repeats=6)
    assert 0.005 <= found.low <= found.seconds <= found.high < 1


@pytest.mark.parametrize("n", [1, 5, 6, 9, 25, 200])
def test_the_interval_of_the_median_is_the_narrowest_that_holds_95_percent(n):
    found = cost.median_interval(list(range(n, 0, -1)))
    outside = [sum(math.comb(n, j) for j in range(k)) / 2 ** (n - 1) for k in range(n // 2 + 2)]
    k = max(k for k, p in enumerate(outside) if p <= 0.05)
    assert found == ((k, n + 1 - k) if k else None)


def test_peak_memory_sees_what_a_call_held_for_a_moment():
    small = cost.peak_memory(lambda: None)
    if small is None:
        pytest.skip("this system does not say how much memory a process held")

    def fresh() -> None:  # from the system: malloc could give what this process freed before, and keeps resident
        with mmap.mmap(-1, 64 * 2**20) as pages:
            for page in range(0, len(pages), mmap.PAGESIZE):
                pages[page] = 1

    large = cost.peak_memory(fresh)
    assert 60 <= large - small <= 80
    assert cost.peak_memory(lambda: None) < large - 50  # set back before every call


@pytest.mark.gpu
def test_peak_memory_of_the_accelerator():
    grown = cost.peak_memory(lambda: torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda"), device="cuda")
    assert 64 <= grown <= 80 + torch.cuda.memory_allocated() / 2**20


def test_pairs_of_times():
    """Against ratios made by hand; the middle half leaves out a quarter at each end."""
    before, after = [1.0, 2.0, 4.0, 1.0, 1.0], [1.0, 4.0, 2.0, 1.1, 0.9]
    assert cost.pair_ratio(before, after) == {"ratio": 1.0, "middle_half": [0.9, 1.1]}
    with pytest.raises(ValueError):
        cost.pair_ratio([1.0], [1.0, 2.0])
