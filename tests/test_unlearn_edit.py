"""The artefact: attaches, stacks, detaches bit-identically, refuses what it cannot edit, and other programs read it."""

from __future__ import annotations

import functools
import pickle

import pytest
import torch

from unsee.backbones import adapter
from unsee.backbones.tiny import FAMILIES, tiny
from unsee.defenses import Defense, protect
from unsee.errors import BadFile, Mismatch, Unsupported, UserError
from unsee.unlearn.duo import Duo
from unsee.unlearn.esd import ESD
from unsee.unlearn.importers import import_duo, import_esd
from unsee.unlearn.lora import DELTA, A, B
from unsee.unlearn.uce import UCE

shared = functools.cache(tiny)
every_family = pytest.mark.parametrize("family", FAMILIES)


def bits(pipe):
    return {name: p.detach().clone() for name, p in adapter(pipe).denoiser.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def draw(pipe):
    return pipe("a dagger", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images


def lora(pipe, *, size=0.3, rank=2, seed=0, roles=("self",)):
    """A random LoRA on the projections of some roles, as an edit."""
    backbone, g, weights = adapter(pipe), torch.Generator().manual_seed(seed), {}
    for name, p in backbone.projections().items():
        if p.attention in roles:
            out, inside = p.module.weight.shape
            weights[f"{backbone.denoiser_name}.{name}{A}"] = torch.randn(rank, inside, generator=g)
            weights[f"{backbone.denoiser_name}.{name}{B}"] = size * torch.randn(out, rank, generator=g)
    edit = Duo().fitted_for(backbone)
    edit.load_tensors(weights)
    return edit


def exact(pipe, seed=0):
    """Random deltas on three layers, a convolution and a bias among them where there is one."""
    backbone, g = adapter(pipe), torch.Generator().manual_seed(seed)
    own = dict(backbone.denoiser.named_parameters())
    names = [next(n for n in own if n.endswith(end) and own[n].ndim == d) for end, d in ((".weight", 2), (".bias", 1))]
    names += [n for n in own if own[n].ndim == 4][:1]
    edit = ESD().fitted_for(backbone)
    deltas = {n: torch.randn(own[n].shape, generator=g) for n in names}
    edit.load_tensors({f"{backbone.denoiser_name}.{n}_delta": d for n, d in deltas.items()})
    return edit


@every_family
@pytest.mark.parametrize("make", [lora, exact])
def test_acts_and_leaves_every_weight_as_it_was(family, make):
    pipe = shared(family)
    before, plain, edit = bits(pipe), draw(pipe), make(pipe)
    with protect(pipe, edit):
        assert not torch.equal(draw(pipe), plain)
        own = dict(adapter(pipe).denoiser.named_parameters())
        for target in edit.targets:
            name = target.partition(".")[2]
            torch.testing.assert_close(own[name].data, before[name] + edit.delta(target))
    assert same(bits(pipe), before) and torch.equal(draw(pipe), plain)


def test_strength_scales_and_zero_is_refused():
    pipe = shared("sd1")
    before = bits(pipe)
    weights = lora(pipe).tensors()
    with pytest.raises(UserError, match="strength of duo"):
        Duo(strength=0.0)
    for strength in (0.5, 2.0):
        edit = Duo(strength=strength)
        edit.load_tensors(weights)
        with protect(pipe, edit):
            name = edit.targets[0].partition(".")[2]
            got = adapter(pipe).denoiser.get_parameter(name)
            torch.testing.assert_close(got.data, before[name] + strength * edit.delta(edit.targets[0]))
    assert same(bits(pipe), before)
    for bad in (float("nan"), "much"):
        with pytest.raises(UserError, match="strength of duo"):
            Duo(strength=bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_edits_leave_in_any_order_and_dtype(dtype):
    pipe = tiny("sd1").to(dtype)
    backbone, before = adapter(pipe), bits(pipe)
    edits = [lora(pipe, seed=1), lora(pipe, seed=2, roles=("self", "cross")), exact(pipe)]
    for edit in edits:
        edit.attach(backbone)
    all_on = bits(pipe)
    edits[0].detach(backbone)
    edits[0].detach(backbone)  # twice is harmless
    edits[0].attach(backbone)
    for name, weight in bits(pipe).items():  # the order shows in no more than a last bit
        torch.testing.assert_close(weight, all_on[name])
    for i in (1, 0, 2):
        edits[i].detach(backbone)
    assert same(bits(pipe), before)


def test_one_edit_on_two_pipelines_and_not_twice_on_one():
    first, second = tiny("sd1"), tiny("sd1")
    edit = lora(first)
    with protect(first, edit):
        with protect(second, edit):
            assert same(bits(first), bits(second))
        with pytest.raises(Unsupported, match="has it already"):
            edit.attach(adapter(first))
    assert same(bits(first), bits(second))


def test_beside_a_peft_lora():
    pipe = tiny("sd1")
    clean = bits(pipe)
    edit = lora(pipe)
    other = lora(pipe, seed=5, roles=("cross",))
    pipe.load_lora_weights(other.tensors(), adapter_name="style")
    wrapped = bits(pipe)
    with protect(pipe, edit):
        assert not same(bits(pipe), wrapped)
    assert same(bits(pipe), wrapped)
    edit.attach(adapter(pipe))
    pipe.unload_lora_weights()  # the layers are unwrapped while the edit is on
    edit.detach(adapter(pipe))
    assert same(bits(pipe), clean)


def test_refuses_what_it_cannot_edit_and_touches_nothing():
    pipe = tiny("sd1")
    edit, before = lora(pipe), bits(pipe)
    with pytest.raises(Mismatch, match="one line|model"):
        edit.attach(adapter(shared("sd3")))
    with pytest.raises(Mismatch, match="fitted for"):
        protect(tiny("sd1", seed=1), edit)  # the fingerprint
    wrong = Duo()
    wrong.load_tensors({f"{k}": (v[:, :1] if k.endswith(A) else v) for k, v in edit.tensors().items()})
    with pytest.raises(Mismatch, match="of \\("):
        protect(pipe, wrong)
    assert same(bits(pipe), before)
    quantized = tiny("sd1")
    layer = next(iter(adapter(quantized).projections().values())).module
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(Unsupported, match="quantization"):
        edit.attach(adapter(quantized))
    quantized.unet.to("meta")
    with pytest.raises(Unsupported, match="offload"):
        edit.attach(adapter(quantized))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_broken_tensors(bad):
    with pytest.raises(BadFile, match="NaN or infinity"):
        UCE().load_tensors({"unet.x" + DELTA: torch.tensor([[bad]])})
    with pytest.raises(BadFile, match="alone"):
        UCE().load_tensors({"unet.x" + A: torch.ones(1, 1)})
    with pytest.raises(BadFile, match="importers"):
        UCE().load_tensors({"unet.x.weight": torch.ones(1, 1)})


def test_saved_and_loaded(tmp_path):
    pipe = tiny("sd1")
    edit = exact(pipe)
    edit.record = {"concepts": ["weapon"]}
    edit.save_pretrained(tmp_path / "e")
    back = Defense.from_pretrained(tmp_path / "e")
    assert isinstance(back, ESD) and back.record == edit.record and repr(back) == repr(edit)
    assert same(back.tensors(), edit.tensors()) and back.fingerprints == edit.fingerprints


@every_family
def test_load_lora_weights_takes_the_folder(family, tmp_path):
    pipe = tiny(family)
    if not hasattr(pipe, "load_lora_weights"):  # diffusers has none for PixArt
        return
    edit = lora(pipe, size=0.05)
    edit.save_pretrained(tmp_path / "e")
    with protect(pipe, edit):
        ours = draw(pipe)
    pipe.load_lora_weights(str(tmp_path / "e"))
    assert not torch.equal(draw(pipe), draw(shared(family)))
    torch.testing.assert_close(draw(pipe), ours, rtol=1e-3, atol=1e-3)


def test_exact_deltas_as_lora_with_their_error(tmp_path):
    pipe = tiny("sd1")
    edit = exact(pipe)
    low, error = edit.as_lora(2)
    lost = sum(float((edit.delta(t) - low.delta(t)).square().sum()) for t in edit.targets if not t.endswith(".bias"))
    whole = sum(float(edit.delta(t).square().sum()) for t in edit.targets if not t.endswith(".bias"))
    assert error == pytest.approx((lost / whole) ** 0.5, rel=1e-4) and 0 < error < 1
    full, none = edit.as_lora(10_000)
    assert none < 1e-6 and full.fingerprints == edit.fingerprints
    for target in edit.targets:
        torch.testing.assert_close(full.delta(target), edit.delta(target), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="rank"):
        edit.as_lora(0)


def test_comfy_export_is_read_back_by_diffusers(tmp_path):
    from safetensors.torch import load_file

    pipe = tiny("sd1")
    edit = Duo(strength=0.5)
    edit.load_tensors(lora(pipe, size=0.05).tensors())
    path = edit.export_comfy(tmp_path / "comfy.safetensors")
    keys = load_file(path)
    assert all(k.startswith("lora_unet_") and k.endswith((".alpha", "_down.weight", "_up.weight")) for k in keys)
    with protect(pipe, edit):
        ours = draw(pipe)
    pipe.load_lora_weights(str(tmp_path), weight_name="comfy.safetensors")
    torch.testing.assert_close(draw(pipe), ours, rtol=1e-3, atol=1e-3)
    transformer = lora(shared("flux")).export_comfy(tmp_path / "flux.safetensors")
    assert all(k.startswith("transformer.") for k in load_file(transformer))


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_imports_esd_states_exactly(kind, tmp_path):
    from safetensors.torch import save_file

    pipe, edited = tiny("sd1"), tiny("sd1")
    change = exact(edited, seed=3)
    change.attach(adapter(edited))
    state = {k: v.clone() for k, v in edited.unet.state_dict().items()}
    path = tmp_path / f"esd.{kind}"
    torch.save(state, path) if kind == "pt" else save_file(state, path)
    found = import_esd(path, pipe)
    assert set(found.targets) == set(change.targets)
    with protect(pipe, found):
        assert torch.equal(draw(pipe), draw(edited))
    with pytest.raises(Unsupported, match="without defenses"):
        import_esd(path, edited)
    with pytest.raises(Mismatch, match="made from"):
        import_esd(path, shared("sdxl"))


def test_imports_duo_folders(tmp_path):
    from safetensors.torch import save_file

    pipe = tiny("sd1")
    edit = lora(pipe)
    (tmp_path / "peft").mkdir()
    peft = {"base_model.model." + k.removeprefix("unet."): v for k, v in edit.tensors().items()}
    save_file(peft, tmp_path / "peft" / "adapter_model.safetensors")
    (tmp_path / "peft" / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 1}')
    (tmp_path / "diffusers").mkdir()
    old = {k.replace(A, ".lora.down.weight").replace(B, ".lora.up.weight"): v for k, v in edit.tensors().items()}
    save_file(old, tmp_path / "diffusers" / "pytorch_lora_weights.safetensors")
    half, same_one = import_duo(tmp_path / "peft", pipe), import_duo(tmp_path / "diffusers", pipe)
    for target in edit.targets:
        torch.testing.assert_close(half.delta(target), edit.delta(target) / 2)  # alpha / rank
        torch.testing.assert_close(same_one.delta(target), edit.delta(target))
    with pytest.raises(Mismatch):
        import_duo(tmp_path / "peft", shared("sd3"))
    with pytest.raises(BadFile, match="pytorch_lora_weights"):
        import_duo(tmp_path, pipe)


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    for name in ("evil.pt", "raw.pt", "cut.safetensors", "absent.pt"):
        with pytest.raises(BadFile) as error:
            import_esd(tmp_path / name, shared("sd1"))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "touched").exists()


def test_every_edit_is_registered():
    from unsee.registry import DEFENSES, EDITS, resolve

    for name in EDITS:
        kind = resolve("defense", DEFENSES, name)
        assert kind.name == name and kind.summary and kind.Training
