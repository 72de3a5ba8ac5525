"""What is attached acts, and is still what runs at every generation; taking it off is exact, or refused."""

from __future__ import annotations

import copy
import pickle
import threading

import diffusers
import pytest
import torch
from peft import LoraConfig

from unsee.backbones import adapter, is_known
from unsee.backbones.tiny import tiny
from unsee.backbones.weights import base_parameters
from unsee.defenses import Guarded, protect
from unsee.errors import GuardFailure, Unsupported, UserError
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.safree import SAFREE
from unsee.guards.sld import SLD
from unsee.unlearn.duo import Duo
from unsee.unlearn.lora import A, B

SELF = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k"])


def lora(pipe, seed=0, strength=1.0):
    backbone, g, weights = adapter(pipe), torch.Generator().manual_seed(seed), {}
    for name, p in backbone.projections().items():
        if p.part in ("q", "k"):
            out, inside = p.module.weight.shape
            weights[f"{backbone.denoiser_name}.{name}{A}"] = torch.randn(2, inside, generator=g)
            weights[f"{backbone.denoiser_name}.{name}{B}"] = 0.3 * torch.randn(out, 2, generator=g)
    edit = Duo(strength=strength).fitted_for(backbone)
    edit.load_tensors(weights)
    return edit


def bits(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def denoiser(pipe):
    return adapter(pipe).denoiser


# ---- what cannot act is refused ----


def test_nothing_to_attach_is_refused():
    with pytest.raises(UserError, match="a defense to attach"):
        protect(tiny("sd1"))


@pytest.mark.parametrize("edit", [Duo(), lora(tiny("sd1"), strength=1e-30)], ids=["no weights", "lost in rounding"])
def test_an_edit_that_changes_nothing_is_refused(edit):
    pipe = tiny("sd1")
    before = bits(pipe.unet)
    with pytest.raises(Unsupported, match="Duo|duo"):
        protect(pipe, edit)
    assert same(bits(pipe.unet), before) and Guarded.of(pipe) is None
    protect(pipe, lora(pipe)).detach()


def test_an_edit_that_leaves_no_finite_weights_is_refused():
    pipe = tiny("sd1").to(torch.float16)
    before = bits(pipe.unet)
    edit = lora(pipe)
    edit.load_tensors({name: 1e6 * tensor for name, tensor in edit.tensors().items()})
    with pytest.raises(Unsupported, match="NaN or infinity"):
        protect(pipe, edit)
    assert same(bits(pipe.unet), before)


def test_fused_projections_are_refused_at_fit_at_attach_and_later(kit, family):
    pipe = tiny(family)
    edit, plain, before = lora(pipe), kit.draw(pipe), bits(denoiser(pipe))
    denoiser(pipe).fuse_qkv_projections()
    if family == "sana":  # whose attention cannot be fused: nothing happens
        return protect(pipe, edit).detach()
    for act in (lambda: protect(pipe, edit), lambda: adapter(pipe).projections()):
        with pytest.raises(Unsupported, match="unfuse_qkv_projections"):
            act()
    denoiser(pipe).unfuse_qkv_projections()
    guarded = protect(pipe, edit)
    edited = {name: p.detach().clone() for name, p in base_parameters(denoiser(pipe))}
    denoiser(pipe).fuse_qkv_projections()
    for act in (lambda: kit.draw(pipe), guarded.detach):
        with pytest.raises(Unsupported, match="unfuse_qkv_projections"):
            act()
    denoiser(pipe).unfuse_qkv_projections()
    assert all(torch.equal(p, edited[name]) for name, p in base_parameters(denoiser(pipe)))
    guarded.detach()
    now = bits(denoiser(pipe))
    assert all(torch.equal(now[name], weight) for name, weight in before.items())
    assert torch.equal(kit.draw(pipe), plain)


CACHES = {
    "first block": lambda t: diffusers.hooks.apply_first_block_cache(t, diffusers.FirstBlockCacheConfig(threshold=0.1)),
    "pyramid": lambda t: diffusers.apply_pyramid_attention_broadcast(
        t,
        diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
    ),
    "taylor": lambda t: diffusers.hooks.apply_taylorseer_cache(t, diffusers.TaylorSeerCacheConfig()),
}


@pytest.mark.parametrize("cache", CACHES)
def test_caches_put_on_by_a_function_are_refused(kit, cache):
    pipe = tiny("flux")
    with protect(pipe, SLD(text="weapon")):
        CACHES[cache](pipe.transformer)
        assert not pipe.transformer.is_cache_enabled
        with pytest.raises(Unsupported, match="all its work"):
            kit.draw(pipe)
    with pytest.raises(Unsupported, match="all its work"):
        protect(pipe, SLD(text="weapon"))


def test_a_block_with_another_forward_is_refused(kit):
    pipe = tiny("sd1")
    block = pipe.unet.down_blocks[0]
    with protect(pipe, SLD(text="weapon")):
        block.forward = type(block).forward.__get__(block)
        with pytest.raises(Unsupported, match="forward was replaced"):
            kit.draw(pipe)
        del block.forward
        kit.draw(pipe)


# ---- what stops being effective is noticed ----


def fuse(pipe):
    pipe.unet.add_adapter(SELF)
    pipe.unet.fuse_lora()


CHANGES = {
    "weights loaded": lambda p: p.unet.load_state_dict(tiny("sd1", seed=1).unet.state_dict()),
    "weights assigned": lambda p: p.unet.load_state_dict(tiny("sd1", seed=1).unet.state_dict(), assign=True),
    "weights written past autograd": lambda p: p.unet.conv_in.weight.data.mul_(2),
    "lora fused": fuse,
    "text encoder replaced": lambda p: setattr(p, "text_encoder", tiny("sd1", seed=1).text_encoder),
    "text encoder's weights": lambda p: p.text_encoder.load_state_dict(tiny("sd1", seed=1).text_encoder.state_dict()),
    "denoiser replaced": lambda p: setattr(p, "unet", tiny("sd1", seed=1).unet),
    "denoiser gone": lambda p: setattr(p, "unet", None),
}


@pytest.mark.parametrize("kind", ["guard", "edit"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_attaching_is_refused_at_the_next_generation(kit, change, kind):
    pipe = tiny("sd1")
    guarded = protect(pipe, SLD(text="weapon") if kind == "guard" else lora(pipe))
    kit.draw(pipe)
    CHANGES[change](pipe)
    with pytest.raises(Unsupported) as error:
        kit.draw(pipe) if pipe.unet else pipe("a dagger")
    assert "\n" not in str(error.value)
    guarded.detach(force=True)
    assert type(pipe) is diffusers.StableDiffusionPipeline


@pytest.mark.parametrize("change", ["weights loaded", "lora fused", "denoiser replaced"])
def test_a_change_in_the_middle_of_a_generation_gives_no_image(kit, change):
    pipe = tiny("sd1")
    with protect(pipe, SLD(text="weapon")), pytest.raises((Unsupported, GuardFailure)):
        kit.draw(pipe, callback_on_step_end=lambda p, i, t, k: ({}, i or CHANGES[change](p))[0])


def test_settings_and_tensors_of_what_is_attached_may_not_change(kit):
    pipe = tiny("sd1")
    guard, edit = SLD(text="weapon"), lora(pipe)
    with protect(pipe, guard, edit):
        guard.text = "nothing"
        with pytest.raises(Unsupported, match="text of sld changed"):
            kit.draw(pipe)
        guard.text = "weapon"
        kit.draw(pipe)
        before = edit.tensors()
        edit.load_tensors({name: 2 * tensor for name, tensor in before.items()})
        with pytest.raises(Unsupported, match="weights of duo changed"):
            kit.draw(pipe)


def test_moving_casting_and_adapters_are_no_change(kit):
    pipe = tiny("sd1")
    with protect(pipe, SLD(text="weapon")):
        kit.draw(pipe)
        pipe.to(torch.bfloat16)
        kit.draw(pipe)
        pipe.unet.add_adapter(SELF)
        kit.draw(pipe)


def test_layerwise_casting_before_and_after(kit, family):
    pipe = tiny(family)
    guard = kit.guard("saferedir", family)
    cast = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    with protect(pipe, guard) as guarded:
        denoiser(pipe).enable_layerwise_casting(**cast)
        after = kit.draw(pipe)
    with protect(pipe, guard) as guarded:
        assert torch.equal(kit.draw(pipe), after) and guarded.decisions[0]


def test_textual_inversion_loaded_before_or_after(kit, tmp_path):
    from safetensors.torch import save_file

    save_file({"<x>": torch.randn(2, 16)}, tmp_path / "x.safetensors")
    pipe = tiny("sd1")
    guard = kit.guard("saferedir").fitted_for(adapter(pipe))
    with protect(pipe, guard):
        pipe.load_textual_inversion(str(tmp_path / "x.safetensors"), token="<x>")
        kit.draw(pipe)
    with protect(pipe, guard):
        kit.draw(pipe)


# ---- taking off is exact, or refused ----


def test_a_lora_fused_on_top_is_not_written_over():
    pipe = tiny("sd1")
    before = bits(pipe.unet)
    guarded = protect(pipe, lora(pipe))
    fuse(pipe)
    with pytest.raises(Unsupported, match=r"unfuse_lora\(\) first"):
        guarded.detach()
    assert Guarded.of(pipe) is guarded
    pipe.unet.unfuse_lora()
    guarded.detach()
    pipe.unet.delete_adapters("default")
    pipe.unet._hf_peft_config_loaded = False
    now = {name.replace(".base_layer", ""): p for name, p in bits(pipe.unet).items()}
    assert all(torch.equal(now[name], weight) for name, weight in before.items())


def test_weights_written_under_an_edit_are_not_lost():
    pipe = tiny("sd1")
    edit, new = lora(pipe), {k: v + 0.1 for k, v in pipe.unet.state_dict().items() if "attn" in k}
    before = bits(pipe.unet)
    guarded = protect(pipe, edit)
    pipe.unet.load_state_dict(new, strict=False)
    with pytest.raises(Unsupported, match="written to"):
        guarded.detach()
    assert all(torch.equal(pipe.unet.state_dict()[k], v) for k, v in new.items())
    guarded.detach(force=True)
    touched = {target.partition(".")[2] for target in edit.targets}
    assert all(
        torch.equal(pipe.unet.state_dict()[k], before[k] if k in touched else new.get(k, before[k])) for k in new
    )


@pytest.mark.parametrize("gone", [True, False])
def test_a_replaced_denoiser_is_not_left_edited(gone):
    pipe = tiny("sd1")
    unet, before = pipe.unet, bits(pipe.unet)
    with protect(pipe, lora(pipe)):
        pipe.unet = None if gone else copy.deepcopy(unet)
    assert same(bits(unet), before)


def test_tensors_loaded_in_between_do_not_change_what_is_taken_off():
    pipe = tiny("sd1")
    before, edit = bits(pipe.unet), lora(pipe)
    first = dict(list(edit.tensors().items())[:2])
    with protect(pipe, edit):
        edit.load_tensors(first)
    assert same(bits(pipe.unet), before)


def test_a_refused_protect_takes_nothing_off_another():
    pipe = tiny("sd1")
    edit = lora(pipe)
    with protect(pipe, edit):
        on = bits(pipe.unet)
        sibling = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
        with pytest.raises(Unsupported):
            protect(sibling, edit, SLD(text="weapon"), NegativePrompt(text="weapon"), lora(pipe, seed=1))
        with pytest.raises(Unsupported):
            protect(pipe, edit)
        assert same(bits(pipe.unet), on)


def test_copies_pickles_and_saved_pipelines_are_refused(tmp_path):
    pipe = tiny("sd1")
    with protect(pipe, SLD(text="weapon")) as guarded:
        for act in (
            lambda: copy.copy(pipe),
            lambda: copy.deepcopy(pipe),
            lambda: pickle.dumps(pipe),
            lambda: pipe.save_pretrained(tmp_path / "saved"),
            lambda: copy.deepcopy(pipe.unet),
            lambda: pickle.dumps(guarded),
        ):
            with pytest.raises(Unsupported, match="detach first"):
                act()
    assert not (tmp_path / "saved").exists()
    pickle.dumps(pipe.scheduler)
    copy.deepcopy(pipe)


# ---- pipelines that share their parts ----


def sibling_of(pipe, task="Img2Img"):
    kind = type(pipe).__mro__[1] if Guarded.of(pipe) else type(pipe)
    cls = getattr(diffusers, kind.__name__.replace("Pipeline", f"{task}Pipeline"))
    more = {"requires_safety_checker": False} if "safety_checker" in pipe.components else {}
    return cls(**{**pipe.components, **more})


def test_siblings_under_one_stack_with_an_edit(kit, family):
    pipe = tiny(family)
    if not adapter(pipe).has_image_to_image:
        return
    other, before = sibling_of(pipe), bits(denoiser(pipe))
    stack = [lora(pipe), SLD(text="weapon", preset="max")]
    image = {"image": torch.zeros(1, 3, 32, 32), "strength": 1.0}
    with protect(pipe, *stack) as one:
        alone, edited = kit.draw(pipe), bits(denoiser(pipe))
        with protect(other, *stack) as two:
            assert same(bits(denoiser(pipe)), edited)
            assert torch.equal(kit.draw(pipe), alone)
            kit.draw(other, **image)
            assert one.decisions[0] and two.decisions[0]
        assert same(bits(denoiser(pipe)), edited) and torch.equal(kit.draw(pipe), alone)
    assert same(bits(denoiser(pipe)), before)


def test_siblings_with_other_edits_are_refused():
    pipe = tiny("sd1")
    with protect(pipe, lora(pipe)):
        for defenses in ([lora(pipe, seed=1)], [SLD(text="weapon")]):
            with pytest.raises(Unsupported, match="same weight edits"):
                protect(sibling_of(pipe), *defenses)


def test_a_sibling_of_a_compiled_denoiser_is_not_left_out(kit):
    pipe = tiny("sd1")
    other, original = sibling_of(pipe), pipe.unet
    image = {"image": torch.zeros(1, 3, 32, 32), "strength": 1.0}
    kit.draw(other, **image)
    pipe.unet = torch.compile(original, backend="eager")
    with protect(pipe, SLD(text="weapon", preset="max")) as guarded:
        kit.draw(pipe)
        assert guarded.decisions[0]
        with pytest.raises(GuardFailure, match="outside its pipeline"):
            kit.draw(other, **image)
        with protect(other, SLD(text="weapon", preset="max")) as second:
            kit.draw(other, **image)
            assert second.decisions[0]
            kit.draw(pipe)
    kit.draw(other, **image)


def test_cover_is_by_content_not_by_name(kit):
    """Two guards of one ``repr`` and other tensors: the one does not stand in for the other."""
    pipe = tiny("sd1")
    one = kit.guard("ine")
    two = copy.copy(one)
    two.rows = tuple(torch.zeros_like(row) for row in one.rows)
    assert repr(one) == repr(two) and one.digest() != two.digest()
    image = {"image": torch.zeros(1, 3, 32, 32), "strength": 1.0}
    other = sibling_of(pipe)
    with protect(pipe, one), protect(other, two), pytest.raises(GuardFailure, match="outside its pipeline"):
        kit.draw(other, **image)


# ---- weight edits need no task that we know ----


@pytest.mark.parametrize("kind", ["ControlNet", "PAG", "Adapter"])
def test_an_edit_alone_on_pipelines_of_other_tasks(kind):
    pipe = tiny("sd1")
    parts = {**pipe.components, "requires_safety_checker": False}
    if kind == "Adapter":  # its features are those of an order of blocks that the tiny model has not
        del parts["image_encoder"]
        blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                  "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}  # fmt: skip
        pipe.unet = parts["unet"] = type(pipe.unet).from_config({**pipe.unet.config, **blocks}).eval()
    more: dict = {}
    if kind == "ControlNet":
        net = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
        other = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net)
        more = {"image": torch.ones(1, 3, 32, 32)}
    elif kind == "Adapter":
        t2i = diffusers.T2IAdapter(in_channels=3, channels=[*pipe.unet.config.block_out_channels], num_res_blocks=1,
                                   downscale_factor=2, adapter_type="full_adapter")  # fmt: skip
        other = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=t2i)
        more = {"image": torch.ones(1, 3, 32, 32)}
    else:
        other = diffusers.StableDiffusionPAGPipeline(**parts, pag_applied_layers="mid")
    assert not is_known(other)

    def draw():
        g = torch.Generator().manual_seed(0)
        return torch.as_tensor(other("a dagger", num_inference_steps=2, output_type="pt", generator=g, **more).images)

    plain, before = draw(), bits(pipe.unet)
    with protect(other, lora(pipe)):
        assert not torch.equal(draw(), plain)
        with pytest.raises(Unsupported, match="ip_adapter_image"):
            other("a dagger", ip_adapter_image=torch.ones(1, 3, 32, 32), **more)
        pipe.unet.load_state_dict(before)
        with pytest.raises(Unsupported, match="written to"):
            draw()
    assert same(bits(pipe.unet), before) and torch.equal(draw(), plain)
    with pytest.raises(Unsupported, match="supported family"):
        protect(other, SLD(text="weapon"))


# ---- text and images that go round ----


def changing(words):
    """A callback that puts other text before the denoiser from the second step on."""

    def callback(pipe, step, t, values):
        return {"prompt_embeds": adapter(pipe).encode(["", words]).tokens}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}


class Expanding(diffusers.StableDiffusionPipeline):
    def __call__(self, prompt=None, **kwargs):
        return super().__call__(f"{prompt} dagger", **kwargs)


def test_safree_refuses_what_is_not_the_prompts_own_encoding(kit):
    pipe, guard = tiny("sd1"), SAFREE(phrases=("dagger",))
    with protect(pipe, guard):
        kit.draw(pipe)
        with pytest.raises(Unsupported, match="own encoding"):
            kit.draw(pipe, **changing("a bomb"))
    expanding = Expanding(**pipe.components, requires_safety_checker=False)
    with protect(expanding, guard), pytest.raises(Unsupported, match="own encoding"):
        kit.draw(expanding, prompt="a hat")
    pipe.encode_prompt = lambda prompt, *a, **k: type(pipe).encode_prompt(pipe, ["a bomb"] * len(prompt), *a, **k)
    with protect(pipe, guard), pytest.raises(Unsupported, match="own encoding"):
        kit.draw(pipe, prompt=["a hat"])


@pytest.mark.parametrize("name", ["cross_attention_kwargs", "joint_attention_kwargs"])
def test_image_prompts_in_a_dictionary_are_refused(kit, name):
    pipe = tiny("sd1" if name.startswith("cross") else "sd3")
    with protect(pipe, SLD(text="weapon")):
        for key in ("ip_adapter_image_embeds", "gligen", "ip_adapter_masks"):
            with pytest.raises(Unsupported, match=key):
                kit.draw(pipe, **{name: {key: torch.zeros(1)}})
        kit.draw(pipe, **{name: {"scale": 1.0}} if name.startswith("cross") else {})


def test_image_prompts_at_the_denoiser_are_refused(kit):
    """However they got there: a subclass, a callback, another component."""
    pipe = tiny("sd1")
    forward = pipe.unet.register_forward_pre_hook(
        lambda m, a, k: (a, {**k, "added_cond_kwargs": {"image_embeds": torch.zeros(1)}}), with_kwargs=True
    )
    with protect(pipe, SLD(text="weapon")), pytest.raises(Unsupported, match="image_embeds"):
        kit.draw(pipe)
    forward.remove()


# ---- threads ----


@pytest.mark.parametrize("where", ["one pipeline", "siblings"])
@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_protect_draw_detach_from_many_threads(kit, where, rounds):
    """Each thread's images are those of one thread, and no weight is left changed."""
    pipe = tiny("sd1")
    before, plain = bits(pipe.unet), kit.draw(pipe)
    pipes = [pipe] * 8
    if where == "siblings":
        parts = {**pipe.components, "requires_safety_checker": False}
        pipes = [diffusers.StableDiffusionPipeline(**parts) for _ in range(8)]
        for each in pipes:  # a scheduler keeps the state of a run
            each.scheduler = copy.deepcopy(pipe.scheduler)
            each.set_progress_bar_config(disable=True)
    stacks = [[lora(pipe)], [SLD(text="weapon", preset="max")], [lora(pipe, seed=1), NegativePrompt(text="weapon")]]
    wanted = []
    for stack in stacks:
        with protect(pipe, *stack):
            wanted.append(kit.draw(pipe))
    wrong: list[object] = []

    def work(i):
        try:
            for n in range(rounds):
                which = (i + n) % 3
                guarded = protect(pipes[i], *stacks[which])
                image = kit.draw(pipes[i])
                guarded.detach()
                if not torch.equal(image, wanted[which]):
                    wrong.append((i, n, which))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong, wrong[:3]
    assert same(bits(pipe.unet), before) and torch.equal(kit.draw(pipe), plain)


def test_another_thread_that_never_ends_is_not_waited_for_for_ever(monkeypatch):
    from unsee.defenses import protection as attach

    monkeypatch.setattr(attach, "IDLE", 0.2)
    pipe, seen = tiny("sd1"), []

    def second():
        try:
            protect(pipe, SLD(text="weapon"))
        except Unsupported as error:
            seen.append(str(error))

    guarded = protect(pipe, SLD(text="weapon"))
    thread = threading.Thread(target=second)
    thread.start()
    thread.join(timeout=20)
    assert seen and "one protect" in seen[0]
    guarded.detach()
