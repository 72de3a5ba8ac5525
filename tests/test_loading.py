"""A model comes whole and in one dtype, or is refused in one line; what ships is found by its name."""

from __future__ import annotations

import functools
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import unsee
from unsee.backbones.tiny import tiny
from unsee.defenses import Defense
from unsee.errors import BadFile, UnknownName, UserError
from unsee.judges import load as load_judge
from unsee.judges.clip_model import open_clip, picto_clip

shared = functools.cache(tiny)
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def folder(tmp_path):
    shared("sd1").save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def dtypes(pipe):
    return {part.dtype for part in pipe.components.values() if isinstance(part, torch.nn.Module)}


def refusal(load, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_saved_in_half_draws(dtype, variant, tmp_path):
    tiny("sd1").to(dtype).save_pretrained(tmp_path / "half", variant=variant)
    pipe = unsee.load(str(tmp_path / "half"))
    assert dtypes(pipe) == {torch.float32}
    assert pipe("a dagger", num_inference_steps=1).images[0].size == (32, 32)


def test_another_dtype_only_if_it_is_asked_for(folder):
    assert dtypes(unsee.load(str(folder), torch_dtype=torch.bfloat16)) == {torch.bfloat16}


def test_a_part_without_plain_weights_is_enough_for_its_variant(folder):
    at = folder / "unet"
    (at / "diffusion_pytorch_model.safetensors").rename(at / "diffusion_pytorch_model.fp16.safetensors")
    pipe = unsee.load(str(folder))
    assert torch.equal(pipe.unet.conv_in.weight, shared("sd1").unet.conv_in.weight) and dtypes(pipe) == {torch.float32}
    shutil.copy(at / "diffusion_pytorch_model.fp16.safetensors", at / "diffusion_pytorch_model.ema.safetensors")
    assert "ema, fp16" in refusal(unsee.load, str(folder))
    assert unsee.load(str(folder), variant="ema").unet is not None


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_model_without_all_of_its_weights_is_refused(folder, part):
    place = folder / part / f"{WEIGHTS[part]}.safetensors"
    state = load_file(place)
    lost = sorted(state)[3]
    del state[lost]
    save_file(state, place, {"format": "pt"})
    said = refusal(unsee.load, str(folder))
    assert part in said and "1 of its weights" in said and lost.removeprefix("text_model.") in said


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("m.safetensors", ["unet.x.lora_A.weight"], "a LoRA"),
        ("m.safetensors", ["foo"], "a checkpoint of Stable Diffusion or FLUX"),
        (
            "m.safetensors",
            ["model.diffusion_model.input_blocks.0.0.weight"],
            "StableDiffusionPipeline.from_single_file",
        ),
        (
            "m.safetensors",
            ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"],
            "FluxPipeline.from_single_file",
        ),
        ("m.safetensors", None, "a checkpoint in safetensors"),
        ("m.ckpt", None, "nothing is unpickled"),
    ],
)
def test_a_single_file_is_opened_or_refused_in_one_line(name, keys, told, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network\nat all")

    for kind in ("StableDiffusionPipeline", "FluxPipeline"):
        monkeypatch.setattr(f"diffusers.{kind}.from_single_file", offline)
    path = tmp_path / name
    path.write_bytes(b"\x80\x04") if keys is None else save_file({key: torch.ones(1) for key in keys}, path)
    assert told in refusal(unsee.load, str(path))


def test_a_single_file_that_diffusers_opens_is_in_one_dtype(tmp_path, monkeypatch):
    asked = []

    def opened(path, **kwargs):
        asked.append((path, kwargs))
        pipe = tiny("sd1")
        pipe.text_encoder.to(torch.float16)
        return pipe

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.from_single_file", opened)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, tmp_path / "m.safetensors")
    pipe = unsee.load(str(tmp_path / "m.safetensors"), config="somewhere")
    assert dtypes(pipe) == {torch.float32} and asked == [(str(tmp_path / "m.safetensors"), {"config": "somewhere"})]


# ---- CLIP ----


@pytest.fixture
def clip(tmp_path):
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    text = {**small, "vocab_size": len(picto_clip()[1]), "max_position_embeddings": 24}
    net = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    place = tmp_path / "clip"
    net.save_pretrained(place)
    picto_clip()[1].save_pretrained(place)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(place)
    return place


def test_a_whole_clip_judges(clip):
    concept = unsee.load_concept("weapon")
    verdict = load_judge(f"clip:model={clip}")(
        [Image.effect_noise((64, 64), 80).convert("RGB")], concept.prompts("plain", "held-out", n=1), concept
    )
    assert verdict[0].outcome in ("safe", "unsafe")


@pytest.mark.parametrize(
    "lost", ["text_projection.weight", "visual_projection.weight", "logit_scale", "vision_model.", "text_model."]
)
def test_a_clip_with_weights_missing_never_judges(clip, lost):
    state = load_file(clip / "model.safetensors")
    kept = {key: value for key, value in state.items() if not key.startswith(lost)}
    assert len(kept) < len(state)
    save_file(kept, clip / "model.safetensors", {"format": "pt"})
    for load in (lambda: load_judge(f"clip:model={clip}"), lambda: open_clip(str(clip))):
        said = refusal(load)
        assert f"without {len(state) - len(kept)} of its weights" in said


def test_a_clip_of_another_size_is_refused(clip):
    state = load_file(clip / "model.safetensors")
    state["visual_projection.weight"] = torch.ones(4, 16)
    save_file(state, clip / "model.safetensors", {"format": "pt"})
    refusal(load_judge, f"clip:model={clip}")


@pytest.mark.parametrize("kind", ["clip_text_model", "siglip", "siglip2", "blip", "chinese_clip"])
def test_another_architecture_is_refused_in_one_line(clip, kind):
    path = clip / "config.json"
    path.write_text(path.read_text().replace('"model_type": "clip"', f'"model_type": "{kind}"'))
    assert f"a model of type {kind}" in refusal(load_judge, f"clip:model={clip}")


def test_the_text_encoder_of_a_pipeline_is_no_clip(folder):
    picto_clip()[1].save_pretrained(folder / "text_encoder")
    assert "clip_text_model" in refusal(load_judge, f"clip:model={folder / 'text_encoder'}")


# ---- what ships ----


def test_what_ships_is_loaded_by_name_in_python_too():
    made = unsee.SafeRedir.from_pretrained("picto/saferedir-weapon")
    assert made.concept == "weapon" and made.tensors()
    assert type(Defense.from_pretrained("picto/duo-weapon")) is unsee.Duo
    with pytest.raises(UnknownName, match="did you mean 'picto/saferedir-weapon'"):
        unsee.SafeRedir.from_pretrained("picto/saferedir-weapom")
    with pytest.raises(BadFile, match="a Duo"):
        unsee.SafeRedir.from_pretrained("picto/duo-weapon")
    with pytest.raises(UnknownName):
        unsee.SafeRedir.from_pretrained("picto/../saferedir-weapon")
