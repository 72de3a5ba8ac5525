"""What others have made, imported: as strong as in its own program, from any known layout, or refused by name."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.defenses import Defense, protect
from unsee.errors import BadFile, Mismatch, Unsupported, UserError
from unsee.unlearn.duo import Duo
from unsee.unlearn.esd import ESD
from unsee.unlearn.importers import import_duo, import_esd
from unsee.unlearn.layouts import ldm_names
from unsee.unlearn.lora import BIAS, DELTA, A, B

shared = functools.cache(tiny)
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"


def draw(pipe):
    return pipe("a dagger", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images


def trained(family="sd1", **settings):
    """A pipeline with a random LoRA that acts, as PEFT has it."""
    pipe = tiny(family)
    denoiser = adapter(pipe).denoiser
    torch.manual_seed(0)
    config = {"r": 4, "lora_alpha": 16, "target_modules": ["to_k", "to_out.0"], "init_lora_weights": False}
    denoiser.add_adapter(LoraConfig(**{**config, **settings}), "d")
    for name, p in denoiser.named_parameters():
        if "magnitude" in name:
            p.data *= 1 + torch.rand(p.shape)
        elif "lora_" in name:
            p.data *= 0.5
    return pipe, denoiser


SETTINGS = {
    "alpha": {},
    "alpha as the rank": {"lora_alpha": 4},
    "alpha 1": {"lora_alpha": 1},
    "rslora": {"use_rslora": True},
    "patterns": {"alpha_pattern": {"attn1.to_k": 3}, "rank_pattern": {"attn1.to_k": 2, r"attn2\.to_out.0": 3}},
    "patterns and rslora": {"alpha_pattern": {"attn1.to_k": 3}, "rank_pattern": {"to_k": 2}, "use_rslora": True},
    "dora": {"use_dora": True},
    "convolutions": {"target_modules": ["conv1", "proj_in", "to_k"]},
    "dora on convolutions": {"target_modules": ["conv1", "proj_in", "to_k"], "use_dora": True},
    "biases": {"lora_bias": True, "target_modules": ["to_out.0", "proj_in"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SETTINGS)
def test_a_lora_is_as_strong_as_in_diffusers(case, tmp_path):
    pipe, denoiser = trained(**SETTINGS[case])
    wanted = draw(pipe)
    denoiser.save_lora_adapter(tmp_path / "l", adapter_name="d")
    edit = import_duo(tmp_path / "l", shared("sd1"))
    for target in edit.targets:
        layer, _, kind = target.removeprefix("unet.").rpartition(".")
        module = denoiser.get_submodule(layer)
        if kind == "weight" and not SETTINGS[case].get("use_dora"):
            torch.testing.assert_close(edit.delta(target), module.get_delta_weight("d").detach(), rtol=1e-5, atol=1e-6)
    with protect(plain := tiny("sd1"), edit):
        torch.testing.assert_close(draw(plain), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wanted, draw(plain), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_save_lora_weights_keeps_its_strength_in_the_metadata(family, tmp_path):
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    targets = ["to_k", "to_out.0"]
    pipe, denoiser = trained(family, alpha_pattern={"to_k": 2}, target_modules=targets)
    kind = adapter(pipe).denoiser_name
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(denoiser, adapter_name="d"))
    said = {f"{kind}_lora_layers": layers, f"{kind}_lora_adapter_metadata": denoiser.peft_config["d"].to_dict()}
    pipe.save_lora_weights(tmp_path / "l", **said)
    edit = import_duo(tmp_path / "l", shared(family))
    with protect(plain := tiny(family), edit):
        torch.testing.assert_close(draw(plain), draw(pipe), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"bias": "all"}, {"use_dora": True}, {"lora_alpha": 1}])
def test_the_folder_of_peft(more, tmp_path):
    from peft import get_peft_model

    pipe = tiny("sd1")
    torch.manual_seed(1)
    config = {"r": 4, "lora_alpha": 16, "target_modules": ["to_v", "to_out.0"], "init_lora_weights": False}
    model = get_peft_model(pipe.unet, LoraConfig(**{**config, **more}))
    for name, p in model.named_parameters():
        if "lora_" in name or (more.get("bias") and "bias" in name):
            p.data = p.data * 0.3 + (0.05 if "bias" in name else 0.0)
    wanted = draw(pipe)
    model.save_pretrained(tmp_path / "p")
    with protect(plain := tiny("sd1"), import_duo(tmp_path / "p", shared("sd1"))):
        torch.testing.assert_close(draw(plain), wanted, rtol=1e-4, atol=1e-4)


def pairs(rank=2, seed=0, layers=None):
    """Random low-rank pairs of a tiny UNet: layer → (down, up)."""
    own, g = dict(shared("sd1").unet.named_parameters()), torch.Generator().manual_seed(seed)
    names = layers or [
        LAYER,
        LAYER.replace("to_k", "to_q"),
        "up_blocks.0.attentions.1.proj_in",
        "mid_block.resnets.1.conv2",
    ]
    made = {}
    for name in names:
        out, inside, *size = own[name + ".weight"].shape
        down = torch.randn(rank, inside, *size, generator=g)
        made[name] = down, torch.randn(out, rank, *(1 for _ in size), generator=g) * 0.1
    return made


ENDS = {
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "raw": (".lora_A.default.weight", ".lora_B.default.weight"),
    "old": (".lora.down.weight", ".lora.up.weight"),
    "kohya": (".lora_down.weight", ".lora_up.weight"),
}
COMPVIS = {
    own.removesuffix(".weight"): theirs.removesuffix(".weight") for theirs, own in ldm_names(shared("sd1").unet).items()
}
NAMES = {
    "bare": lambda n: n,
    "unet": lambda n: "unet." + n,
    "peft": lambda n: "base_model.model." + n,
    "comfy": lambda n: "diffusion_model." + n,
    "compvis": lambda n: "diffusion_model." + COMPVIS[n],
    "whole compvis": lambda n: "model.diffusion_model." + COMPVIS[n],
    "kohya": lambda n: "lora_unet_" + n.replace(".", "_"),
    "kohya, compvis": lambda n: "lora_unet_" + COMPVIS[n].replace(".", "_"),
    "compiled": lambda n: "_orig_mod." + n,
    "parts compiled": lambda n: n.replace(".attentions", "._orig_mod.attentions"),
    "distributed": lambda n: "module.unet." + n,
}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_of_a_lora(name, ends, tmp_path):
    down, up = ENDS[ends]
    state = {NAMES[name](n) + e: t for n, both in pairs().items() for e, t in zip((down, up), both, strict=True)}
    state |= {NAMES[name](n) + ".alpha": torch.tensor(6.0) for n in pairs() if ends == "kohya"}
    save_file(state, tmp_path / "l.safetensors")
    edit = import_duo(tmp_path / "l.safetensors", shared("sd1"))
    assert len(edit.targets) == 4
    for n, (a, b) in pairs().items():
        delta = (b.flatten(1) @ a.flatten(1)).view(len(b), *a.shape[1:])
        torch.testing.assert_close(edit.delta(f"unet.{n}.weight"), delta * (3 if ends == "kohya" else 1))


def test_attention_processors_of_old_diffusers(tmp_path):
    (a, b), old = pairs()[LAYER], LAYER.replace("attn1.to_k", "attn1.processor.to_k_lora")
    out = LAYER.replace("attn1.to_k", "attn1.processor.to_out_lora")
    state = {f"unet.{old}.down.weight": a, f"unet.{old}.up.weight": b, f"{out}.down.weight": a, f"{out}.up.weight": b}
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "l.safetensors")
    edit = import_duo(tmp_path / "l.safetensors", shared("sd1"))
    assert set(edit.targets) == {f"unet.{LAYER}.weight", f"unet.{LAYER.replace('to_k', 'to_out.0')}.weight"}


def lora_state(head="unet.", **more):
    state = {head + n + e: t for n, both in pairs().items() for e, t in zip((A, B), both, strict=True)}
    return {k.replace("/", "."): v for k, v in {**state, **more}.items()}


one = torch.ones(4)
REFUSED = {
    "a magnitude alone": ({f"unet.{LAYER.replace('to_k', 'to_v')}.lora_magnitude_vector": one}, "(magnitude)", BadFile),
    "B alone": ({f"unet.{LAYER.replace('to_k', 'to_v')}{B}": torch.ones(16, 2)}, "(B)", BadFile),
    "A alone": ({f"unet.{LAYER.replace('to_k', 'to_v')}{A}": torch.ones(2, 16)}, "(A)", BadFile),
    "alpha alone": ({f"unet.{LAYER.replace('to_k', 'to_v')}.alpha": torch.tensor(1.0)}, "(alpha)", BadFile),
    "the text encoder's half": (
        {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": one},
        "1 of the text encoder",
        BadFile,
    ),
    "kohya's text encoder": (
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": one},
        "text encoder",
        BadFile,
    ),
    "LoHa": ({f"lora_unet_{LAYER.replace('.', '_')}.hada_w1_a": one}, "1 of LoHa", BadFile),
    "LoKr": ({f"unet.{LAYER}.lokr_w1": one}, "LoKr", BadFile),
    "LyCORIS's DoRA": ({f"unet.{LAYER}.dora_scale": one}, "DoRA in the layout of LyCORIS", BadFile),
    "LoCon's middle": ({f"unet.{LAYER}.lora_mid.weight": one}, "middle", BadFile),
    "FLUX of Black Forest Labs": (
        {"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": one},
        "Black Forest",
        BadFile,
    ),
    "SD 3 of Stability": ({"diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight": one}, "SD 3", BadFile),
    "another model's layer": (
        {"unet.down_blocks.7.attentions.0.proj_in.lora_A.weight": one},
        "no layer of this model",
        Mismatch,
    ),
    "nothing that is known": (
        {"foo": one, "bar/baz": torch.ones(3)},
        "2 that match no layer of this model",
        Mismatch,
    ),
    "two adapters": ({f"unet.{LAYER}.lora_A.other.weight": one}, "the adapter 'other'", BadFile),
    "a layer twice": ({f"{LAYER}{A}": torch.ones(2, 16)}, "once", BadFile),
    "a bias for a layer without one": ({f"unet.{LAYER}.lora_B.bias": torch.ones(16)}, "a layer without one", BadFile),
    "a difference beside a pair": ({f"unet.{LAYER}.diff": torch.ones(16, 16)}, "low-rank pairs or whole", BadFile),
    "another rank": ({f"unet.{LAYER}{A}": torch.ones(3, 16)}, "to_k.weight of (16, 16)", Mismatch),
    "another width": ({f"unet.{LAYER}{A}": torch.ones(2, 8)}, "to_k.weight of (16, 16)", Mismatch),
    "NaN": ({f"unet.{LAYER}{A}": torch.full((2, 16), float("nan"))}, "NaN", BadFile),
    "alpha NaN": ({f"unet.{LAYER}.alpha": torch.tensor(float("nan"))}, "finite alpha", BadFile),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tensor_that_cannot_be_used_is_refused_by_name(case, tmp_path):
    more, told, kind = REFUSED[case]
    save_file(lora_state(**more), tmp_path / "x.safetensors")
    with pytest.raises(kind) as caught:
        import_duo(tmp_path / "x.safetensors", shared("sd1"))
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(lora_state()))
def test_no_tensor_of_a_lora_may_be_missing(key, tmp_path):
    state = lora_state()
    del state[key]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(BadFile, match="without both of A and B"):
        import_duo(tmp_path / "x.safetensors", shared("sd1"))


SAID = [
    ({"r": 2, "lora_alpha": "x"}, "a number for lora_alpha"),
    ({"r": 3, "lora_alpha": 4}, "rank 3"),
    ({"r": 2, "lora_alpha": 4, "init_lora_weights": "pissa"}, "'pissa'"),
    ({"r": 2, "lora_alpha": 4, "use_dora": True}, "magnitudes"),
    ({"r": 2, "lora_alpha": 4, "peft_type": "LOHA"}, "LOHA"),
    ({"r": 2, "lora_alpha": 4, "layer_replication": [[0, 1]]}, "layer_replication"),
    ({"r": 2, "lora_alpha": 4, "alpha_pattern": {"(": 1}}, "alpha_pattern"),
    ({"r": 2, "lora_alpha": float("inf")}, "finite"),
    ([], "settings as an object"),
]


@pytest.mark.parametrize(("settings", "told"), SAID)
@pytest.mark.parametrize("where", ["metadata", "folder"])
def test_settings_that_change_what_a_lora_does_are_used_or_refused(settings, told, where, tmp_path):
    text = json.dumps(settings)
    save_file(
        lora_state(),
        tmp_path / "adapter_model.safetensors",
        {"lora_adapter_metadata": text} if where == "metadata" else {},
    )
    if where == "folder":
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        import_duo(tmp_path, shared("sd1"))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_two_strengths_that_differ_are_refused(tmp_path):
    state = lora_state() | {f"unet.{LAYER}.alpha": torch.tensor(1.0)}
    save_file(state, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 8})})
    with pytest.raises(BadFile, match="one strength"):
        import_duo(tmp_path / "x.safetensors", shared("sd1"))
    save_file(lora_state(), tmp_path / "k.safetensors", {"ss_network_alpha": "8", "ss_network_dim": "2"})
    with pytest.raises(BadFile, match="ss_network_alpha"):
        import_duo(tmp_path / "k.safetensors", shared("sd1"))


def test_the_denoisers_part_alone_if_that_is_said(tmp_path):
    half = {"text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight": one}
    save_file(lora_state(**half), tmp_path / "x.safetensors")
    edit = import_duo(tmp_path / "x.safetensors", shared("sd1"), denoiser_only=True)
    assert len(edit.targets) == 4 and edit.record["left_out"] == {"the text encoder": 1}
    save_file(lora_state(**half, foo=torch.ones(3)), tmp_path / "x.safetensors")
    with pytest.raises(BadFile, match="foo"):
        import_duo(tmp_path / "x.safetensors", shared("sd1"), denoiser_only=True)
    save_file(half, tmp_path / "x.safetensors")
    with pytest.raises(BadFile, match="load a text encoder into the pipeline"):
        import_duo(tmp_path / "x.safetensors", shared("sd1"), denoiser_only=True)


# ---- whole weights ----


@functools.cache
def changed():
    """Two parameters of a tiny UNet, moved."""
    own, g = dict(shared("sd1").unet.named_parameters()), torch.Generator().manual_seed(0)
    names = [LAYER.replace("attn1", "attn2") + ".weight", "mid_block.resnets.0.conv1.bias"]
    return {n: own[n].detach() + torch.randn(own[n].shape, generator=g) for n in names}


def nested(state):
    made = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        made.setdefault(layer, {})[kind] = value
    return made


STATES = {
    "diffusers": lambda s: s,
    "ESD, module by module": nested,
    "DoCo and concept ablation": lambda s: {"unet": s},
    "a trainer's": lambda s: {"state_dict": s, "epoch": 3, "global_step": 7, "optimizer": {"lr": 0.1, "x": [1]}},
    "compiled": lambda s: {"_orig_mod." + n: v for n, v in s.items()},
    "distributed": lambda s: {"module." + n: v for n, v in s.items()},
    "both, in a dictionary": lambda s: {"model": {"module._orig_mod." + n: v for n, v in s.items()}},
    "CompVis": lambda s: {"model.diffusion_model." + compvis(n): v for n, v in s.items()},
    "CompVis, a whole checkpoint's": lambda s: {
        "state_dict": {
            **{"model.diffusion_model." + compvis(n): v for n, v in s.items()},
            "betas": one,
            "alphas_cumprod": one,
        }
    },
}


def compvis(name):
    layer, _, kind = name.rpartition(".")
    return f"{COMPVIS[layer]}.{kind}"


@pytest.mark.parametrize("case", STATES)
def test_every_layout_of_whole_weights(case, tmp_path):
    torch.save(STATES[case](changed()), tmp_path / "e.pt")
    edit = import_esd(tmp_path / "e.pt", shared("sd1"))
    own = dict(shared("sd1").unet.named_parameters())
    assert edit.targets == [f"unet.{n}" for n in changed()]
    for n, value in changed().items():
        torch.testing.assert_close(edit.delta(f"unet.{n}"), value - own[n], rtol=1e-6, atol=1e-6)


def test_compvis_names_are_those_that_diffusers_converts():
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    for more in (
        {},
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64},
    ):
        kinds = {"down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2} if more else {}
        up = {"up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)} if more else {}
        sizes = (8, 16, 16) if more else (8, 8, 16, 16)
        unet = UNet2DConditionModel(
            block_out_channels=sizes,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=2,
            **more,
            **kinds,
            **up,
        )
        state, names = unet.state_dict(), ldm_names(unet)
        assert sorted(names.values()) == sorted(state)
        theirs = {"model.diffusion_model." + name: state[own] for name, own in names.items()}
        config = {**unet.config, "class_embed_type": None}
        back = convert_ldm_unet_checkpoint(theirs, config)
        assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


PARTS = [
    ({"text_model.encoder.layers.0.mlp.fc1.weight": one}, "the text encoder"),  # AdvUnlearn
    ({"encoder.layers.0.mlp.fc1.weight": one}, "the text encoder"),
    ({"text_encoder": {"text_model.embeddings.token_embedding.weight": one}}, "the text encoder"),
    ({"cond_stage_model.transformer.text_model.final_layer_norm.bias": one}, "the text encoder"),
    ({"first_stage_model.encoder.conv_in.bias": one}, "the VAE"),
    ({"model_ema.diffusion_modelinput_blocks00weight": one}, "an average of the weights"),
    ({"state_dict": {"embed": one}}, "embeddings of new words"),
    ({"model.diffusion_model.input_blocks.88.1.proj_in.weight": one}, "CompVis's layout"),
    ({"transformer.double_blocks.0.img_attn.qkv.weight": one}, "FLUX in the layout of Black Forest Labs"),
]


@pytest.mark.parametrize(("state", "told"), PARTS)
def test_the_parts_of_other_layouts_are_named(state, told, tmp_path):
    for content in (state, {**changed(), **state}):
        torch.save(content, tmp_path / "e.pt")
        with pytest.raises(BadFile) as caught:
            import_esd(tmp_path / "e.pt", shared("sd1"))
        said = str(caught.value)
        assert told in said and "the model it was made from" not in said and "\n" not in said


def test_a_whole_checkpoints_denoiser_alone_if_that_is_said(tmp_path):
    state = STATES["CompVis"](changed()) | {"first_stage_model.x": one, "cond_stage_model.y": one, "betas": one}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "e.ckpt")
    edit = import_esd(tmp_path / "e.ckpt", shared("sd1"), denoiser_only=True)
    assert len(edit.targets) == 2
    left = {"training state": 1, "noise schedule": 1, "the VAE": 1, "the text encoder": 1}
    assert edit.record["left_out"] == left


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "one list"),
        (torch.ones(3), "one Tensor"),
        ({"x": "y"}, "which is str"),
        ({"x": [torch.ones(1)]}, "which is list"),
        ({}, "none of the denoiser's tensors"),
        ({"epoch": 1}, "none of the denoiser's tensors"),
    ],
)
def test_what_is_no_state_is_refused(content, told, tmp_path):
    torch.save(content, tmp_path / "e.pt")
    for load in (import_esd, import_duo):
        with pytest.raises(BadFile) as caught:
            load(tmp_path / "e.pt", shared("sd1"))
        assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (1,), (16,), (16, 16, 2), (16, 16, 1, 1, 1)])
def test_a_tensor_of_another_shape_is_refused(shape, tmp_path):
    torch.save({next(iter(changed())): torch.ones(shape)}, tmp_path / "e.pt")
    with pytest.raises(Mismatch, match="the model it was made from"):
        import_esd(tmp_path / "e.pt", shared("sd1"))


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
@pytest.mark.parametrize("shape", [(), (4,), (0, 16), (4, 16, 3), (4, 16, 3, 3)])
def test_a_pair_of_other_shapes_is_refused(part, shape, tmp_path):
    stem = f"unet.{next(iter(changed())).removesuffix('.weight')}"
    state = {f"{stem}.lora_A.weight": torch.ones(4, 16), f"{stem}.lora_B.weight": torch.ones(16, 4)}
    save_file(state | {f"{stem}.{part}.weight": torch.ones(shape)}, tmp_path / "l.safetensors")
    with pytest.raises((BadFile, Mismatch)):
        import_duo(tmp_path / "l.safetensors", shared("sd1"))


@pytest.mark.parametrize("end", ["diff", "diff_b"])
def test_a_difference_of_another_shape_is_refused(end, tmp_path):
    layer = next(n for n in dict(shared("sd1").unet.named_parameters()) if n.endswith("to_out.0.bias"))
    stem = "lora_unet_" + layer.removesuffix(".bias").replace(".", "_")
    save_file({f"{stem}.{end}": torch.ones(5)}, tmp_path / "l.safetensors")
    with pytest.raises(Mismatch, match="the model it was made from"):
        import_duo(tmp_path / "l.safetensors", shared("sd1"))


def test_weights_saved_in_half_are_not_taken_for_changes(tmp_path):
    state = {n: p.detach().half() for n, p in shared("sd1").unet.named_parameters()}
    moved = changed()
    save_file(state | {n: v.half() for n, v in moved.items()}, tmp_path / "h.safetensors")
    edit = import_esd(tmp_path / "h.safetensors", shared("sd1"))
    assert set(edit.targets) == {f"unet.{n}" for n in moved}
    with pytest.raises(BadFile, match="use import_esd"):
        import_duo(tmp_path / "h.safetensors", shared("sd1"))


def test_nothing_is_imported_onto_a_protected_pipeline(tmp_path):
    save_file(lora_state(), tmp_path / "x.safetensors")
    pipe = tiny("sd1")
    with protect(pipe, import_duo(tmp_path / "x.safetensors", pipe)), pytest.raises(Unsupported, match="detach first"):
        import_duo(tmp_path / "x.safetensors", pipe)


# ---- export ----


def edits(strength):
    """A LoRA, and exact deltas with a bias, a norm and a convolution among them."""
    low, exact = Duo(strength=strength), ESD(strength=strength)
    low.load_tensors({f"unet.{n}{e}": t for n, both in pairs().items() for e, t in zip((A, B), both, strict=True)})
    own, g = dict(shared("sd1").unet.named_parameters()), torch.Generator().manual_seed(1)
    names = [LAYER + ".weight", "mid_block.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.bias"]
    names += ["mid_block.resnets.0.norm1.weight"]
    exact.load_tensors({f"unet.{n}_delta": torch.randn(own[n].shape, generator=g) for n in names})
    assert {k[k.rindex(".") :] for k in exact.weights} == {DELTA, BIAS}
    return low, exact


@pytest.mark.parametrize("strength", [1.0, 0.5, 1.5])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_exported_to_comfy_comes_back(which, strength, tmp_path):
    edit = edits(strength)[which]
    back = import_duo(edit.export_comfy(tmp_path / "c.safetensors"), shared("sd1"))
    assert set(back.targets) == set(edit.targets) and back.strength == 1
    for target in edit.targets:
        torch.testing.assert_close(back.delta(target), strength * edit.delta(target), rtol=1e-5, atol=1e-5)


def test_an_export_that_loses_something_says_so(tmp_path):
    with pytest.warns(UserWarning, match="rank 2 lose .* of the deltas"):
        edits(1.0)[1].export_comfy(tmp_path / "c.safetensors", rank=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "strength"), [("sd1", 0.25), ("sd1", 2.0), ("sdxl", 0.5), ("sd3", 0.5), ("flux", 0.5)]
)
def test_diffusers_loads_a_saved_folder_with_its_strength(family, strength, tmp_path):
    pipe, g, weights = tiny(family), torch.Generator().manual_seed(0), {}
    backbone = adapter(pipe)
    for i, (name, p) in enumerate(backbone.projections().items()):
        rank, (out, inside) = 2 + i % 3, p.module.weight.shape
        weights[f"{backbone.denoiser_name}.{name}{A}"] = torch.randn(rank, inside, generator=g)
        weights[f"{backbone.denoiser_name}.{name}{B}"] = 0.05 * torch.randn(out, rank, generator=g)
    edit = Duo(strength=strength).fitted_for(backbone)
    edit.load_tensors(weights)
    edit.save_pretrained(tmp_path / "e")
    with protect(pipe, edit):
        ours = draw(pipe)
    assert not torch.allclose(ours, draw(pipe), atol=1e-3)
    back = Defense.from_pretrained(tmp_path / "e")
    assert back.strength == strength and all(torch.equal(back.weights[k], v) for k, v in weights.items())
    pipe.load_lora_weights(str(tmp_path / "e"))
    torch.testing.assert_close(draw(pipe), ours, rtol=1e-3, atol=1e-3)
    for given in (tmp_path / "e", tmp_path / "e" / "model.safetensors"):
        with pytest.raises(BadFile, match="from_pretrained"):
            import_duo(given, tiny(family))


def test_a_folder_at_strength_one_is_as_before(tmp_path):
    edits(1.0)[0].save_pretrained(tmp_path / "e")
    from safetensors import safe_open

    with safe_open(tmp_path / "e" / "model.safetensors", framework="pt") as file:
        assert not file.metadata()
    assert load_file(tmp_path / "e" / "model.safetensors").keys() == edits(1.0)[0].weights.keys()
