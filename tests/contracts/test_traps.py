"""The traps that do not need the whole matrix: each is protected or refused, never silently passed."""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import replace

import pytest
import torch

from unsee.backbones import adapter
from unsee.backbones.tiny import tiny
from unsee.defenses import protect
from unsee.errors import GuardFailure, Mismatch, Unsupported
from unsee.guards.negative_prompt import NegativePrompt
from unsee.guards.sld import SLD

MASKED = ("pixart", "sana")  # their text has a mask, and no pooled embedding
SCHEDULERS = [
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_swapped_scheduler(kit, guard, name):
    """Swapped after attaching; several of these scale the model's input or evaluate twice per step."""
    import diffusers

    pipe = tiny("sd2-v")
    with protect(pipe, kit.guard(guard, "sd2-v")) as guarded:
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
        acted = kit.draw(pipe, steps=4)  # PNDM's first four are special
        assert [d["step"] for d in guarded.decisions[0]] == list(range(pipe.num_timesteps))
    assert not torch.equal(acted, kit.draw(pipe, steps=4))


def test_callers_scheduler_is_left_alone(kit, family):
    """Undoing the scaling must not advance the scheduler's own counters."""
    from diffusers import EulerDiscreteScheduler

    pipe = kit.pipe(family)
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    backbone = adapter(copy.copy(pipe))
    backbone.pipe.scheduler = scheduler
    before = scheduler.step_index
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = scheduler.timesteps[1]
    scaled = copy.copy(scheduler).scale_model_input(latents, t)
    torch.testing.assert_close(backbone.unscale(scaled, t), latents)
    assert not torch.equal(scaled, latents) and scheduler.step_index is before


def test_pooled_embedding_and_every_token_are_replaced(kit, family, spy):
    """The negative half as a whole, and not one number of the user's half."""
    pipe = kit.pipe(family)
    backbone = adapter(pipe)
    with spy(pipe) as plain:
        kit.draw(pipe, n=2, steps=1)
    with spy(pipe) as seen, protect(pipe, NegativePrompt(text="weapon")):
        kit.draw(pipe, n=2, steps=1)
    want = backbone.negative.encode(["weapon"] * 2)
    texts = [(backbone.text(a[0]), backbone.text(b[0])) for a, b in zip(plain, seen, strict=True)]
    if backbone.stacked:
        (before, after), positive, negative = texts[0], slice(2, 4), slice(0, 2)
        halves = [(before.rows(positive), after.rows(positive)), (before.rows(negative), after.rows(negative))]
    else:
        halves = texts
    for part in ("tokens", "pooled", "mask"):
        (user, kept), (own, changed) = [(getattr(a, part), getattr(b, part)) for a, b in halves]
        bare = {"tokens": (), "pooled": ("sd1", "sd2-v", *MASKED), "mask": set(kit.families) - set(MASKED)}
        assert (user is None) == (family in bare[part])
        if user is not None:
            assert torch.equal(user, kept) and not torch.equal(own, changed)
            torch.testing.assert_close(changed, getattr(want, part))


def test_users_negative_prompt_is_joined(kit, family, spy):
    pipe = kit.pipe(family)
    backbone = adapter(pipe)
    with spy(pipe) as seen, protect(pipe, NegativePrompt(text="weapon")):
        kit.draw(pipe, steps=1, negative_prompt=["ugly"])
    want = backbone.negative.encode(["weapon, ugly"])
    torch.testing.assert_close(backbone.text(seen[-1][0]).tokens[:1], want.tokens)


def test_long_weighted_embeddings(kit):
    """Two windows of tokens: the negative is repeated, which attention cannot tell from once."""
    pipe = kit.pipe("sd1")
    once = adapter(pipe).encode(["a dagger"]).tokens
    twice = once.repeat(1, 2, 1)
    with protect(pipe, NegativePrompt(text="weapon")):
        short = kit.draw(pipe, prompt_embeds=once)
        long = kit.draw(pipe, prompt_embeds=twice, negative_prompt_embeds=torch.zeros_like(twice))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-4)


def test_lengths_that_cannot_be_matched_are_refused(kit):
    pipe = kit.pipe("sd1")
    odd = {"prompt_embeds": torch.randn(1, 50, 16), "negative_prompt_embeds": torch.randn(1, 50, 16)}
    with protect(pipe, NegativePrompt(text="weapon")), pytest.raises(Unsupported, match="50"):
        kit.draw(pipe, **odd)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["positive", "negative", "guide"])
def test_nan_is_a_failure_and_gives_no_image(kit, probe, family, method, bad):
    def spoil(step, text=None):
        if text is None:
            return torch.full_like(step.positive, bad)
        return replace(text, tokens=text.tokens * bad)

    pipe = kit.pipe(family)
    plain = kit.draw(pipe)
    with protect(pipe, probe(**{method: spoil})), pytest.raises(GuardFailure, match="step 0"):
        kit.draw(pipe)
    assert torch.equal(kit.draw(pipe), plain)


def test_a_pooled_embedding_or_a_mask_left_out_is_a_failure(kit, probe, family):
    pipe = kit.pipe(family)
    forget = probe(positive=lambda step, text: type(text)(text.tokens + 1))
    with protect(pipe, forget):
        if family in ("sd1", "sd2-v"):  # of tokens alone
            kit.draw(pipe)
        else:
            with pytest.raises(GuardFailure, match="mask" if family in MASKED else "pooled"):
                kit.draw(pipe)


def test_positive_guard_works_without_guidance(kit, probe, family, cfg, batch):
    """A guard that needs no guidance acts on the user's half alone, with guidance on and off."""
    pipe = kit.pipe(family)
    rows = []

    def change(step, text):
        rows.append(len(text.tokens))
        return replace(text, tokens=text.tokens.flip(1))

    plain = kit.draw(pipe, cfg, batch)
    with protect(pipe, probe(positive=change, guide=lambda step: 0.1 * step.positive)):
        acted = kit.draw(pipe, cfg, batch)
    assert rows == [batch, batch] and not torch.equal(acted, plain)


def test_call_from_outside_is_refused(kit, guard, family):
    pipe = kit.pipe(family)
    backbone = adapter(pipe)
    with protect(pipe, kit.guard(guard, family)):
        with pytest.raises(GuardFailure, match="outside its pipeline"):
            backbone.denoiser()
        with pytest.raises(GuardFailure, match="outside its pipeline"):
            type(pipe).__mro__[1].__call__(pipe, "a dagger", **kit.settings(pipe))
        with pytest.raises(Unsupported, match="copy"):
            copy.copy(pipe)("a dagger", **kit.settings(pipe))


def test_twice_protected_is_refused(kit):
    pipe = kit.pipe("sd1")
    with protect(pipe, SLD(text="weapon")), pytest.raises(Unsupported, match="one protect"):
        protect(pipe, SLD(text="weapon"))
    protect(pipe, SLD(text="weapon")).detach()


def test_a_sibling_with_fewer_guards_is_refused(kit):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = kit.pipe("sd1")
    parts = {**pipe.components, "requires_safety_checker": False}
    sibling = StableDiffusionImg2ImgPipeline(**parts)
    weaker = SLD(text="weapon", preset="weak")
    with protect(pipe, SLD(text="weapon")), protect(sibling, weaker), pytest.raises(GuardFailure, match="outside its"):
        kit.draw(sibling, image=torch.zeros(1, 3, 32, 32))


def test_from_pipe_keeps_working_and_is_refused(kit):
    from diffusers import AutoPipelineForImage2Image

    pipe = kit.pipe("sd1")
    with protect(pipe, SLD(text="weapon")):
        sibling = AutoPipelineForImage2Image.from_pipe(pipe)
        with pytest.raises(GuardFailure, match="outside its pipeline"):
            kit.draw(sibling, image=torch.zeros(1, 3, 32, 32))


def test_threads_do_not_mix(kit, guard):
    """Two threads through one pipeline: each gets its own image and its own decisions."""
    pipe, results = tiny("sd1"), {}
    with protect(pipe, kit.guard(guard)) as guarded:
        alone = {n: (kit.draw(pipe, n=n), guarded.decisions) for n in (1, 3)}

        def work(n):
            for _ in range(3):
                results[n] = (kit.draw(pipe, n=n), guarded.decisions)

        threads = [threading.Thread(target=work, args=(n,)) for n in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n, (image, decisions) in alone.items():
        assert torch.equal(results[n][0], image) and results[n][1] == decisions


def test_another_thread_cannot_borrow_a_generation(kit):
    """While one thread draws, a bare denoiser call of another is still outside a generation."""
    pipe, caught = kit.pipe("sd1"), []

    def intrude(*_):
        def call():
            try:
                pipe.unet(torch.zeros(1, 4, 16, 16), 1, torch.zeros(1, 77, 16))
            except GuardFailure as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return {}

    with protect(pipe, SLD(text="weapon")):
        kit.draw(pipe, callback_on_step_end=intrude)
    assert len(caught) == 2


def test_guidance_changed_on_the_way_is_refused(kit):
    def off(pipe, step, t, values):
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": values["prompt_embeds"].chunk(2)[1]}

    pipe = kit.pipe("sd1")
    with protect(pipe, SLD(text="weapon")), pytest.raises(GuardFailure, match="rows"):
        kit.draw(pipe, callback_on_step_end=off, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_removed_hooks_are_noticed(kit):
    pipe = kit.pipe("sd1")
    with protect(pipe, SLD(text="weapon")) as guarded:
        for handle in guarded._handles:
            handle.remove()
        with pytest.raises(GuardFailure, match="removed"):
            kit.draw(pipe)

    def strip(*_):
        for handle in guarded._handles:
            handle.remove()
        return {}

    with protect(pipe, SLD(text="weapon")) as guarded, pytest.raises(GuardFailure, match="1 of 2"):
        kit.draw(pipe, callback_on_step_end=strip)


def test_replaced_or_compiled_denoiser_is_refused(kit):
    pipe = tiny("sd1")
    plain = kit.draw(pipe)
    with protect(pipe, SLD(text="weapon")):
        original = pipe.unet
        pipe.unet = torch.compile(original, backend="eager")
        with pytest.raises(Unsupported, match="after changing it"):
            kit.draw(pipe)
        pipe.unet = original
        original.compile(backend="eager")
        with pytest.raises(Unsupported, match="eager denoiser"):
            kit.draw(pipe)
        original._compiled_call_impl = None
        kit.draw(pipe)
    assert torch.equal(kit.draw(pipe), plain)


def test_compiled_before_protecting_is_protected(kit):
    pipe = tiny("sd1")
    guards = [NegativePrompt(text="weapon"), SLD(text="weapon")]
    with protect(pipe, *guards):
        eager = kit.draw(pipe)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    plain = kit.draw(pipe)  # compiled without hooks: they must not be lost for that
    with protect(pipe, *guards) as guarded:
        torch.testing.assert_close(kit.draw(pipe), eager, rtol=1e-3, atol=1e-3)
        assert len(guarded.decisions[0]) == 4
    torch.testing.assert_close(kit.draw(pipe), plain)


def test_cached_denoiser_is_refused(kit):
    pipe = tiny("flux")
    from diffusers import FirstBlockCacheConfig

    with protect(pipe, SLD(text="weapon")):
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(Unsupported, match="cache"):
            kit.draw(pipe)


def test_offloaded_after_attaching(kit, guard, family):
    """Offloading wraps ``forward``; extra passes must go through it as well."""
    pipe = tiny(family)
    plain = kit.draw(pipe)
    with protect(pipe, kit.guard(guard, family)):
        acted = kit.draw(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        assert hasattr(adapter(pipe).denoiser, "_hf_hook")
        assert torch.equal(kit.draw(pipe), acted)
    assert torch.equal(kit.draw(pipe), plain)


def test_lora_loaded_after_attaching(kit, guard, family):
    """The LoRA acts, the guard acts on the model with it, and the fingerprint is still the model's."""
    from peft import LoraConfig, inject_adapter_in_model

    pipe = tiny(family)
    backbone = adapter(pipe)
    before = backbone.fingerprint()
    names = backbone.projections().keys()
    with protect(pipe, kit.guard(guard, family).fitted_for(backbone)) as guarded:
        acted = kit.draw(pipe)
        adding = getattr(backbone.denoiser, "add_adapter", None) or inject_adapter_in_model  # PixArt has none
        more = () if adding is not inject_adapter_in_model else (backbone.denoiser,)
        adding(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]), *more)
        changed = kit.draw(pipe)
        assert len(guarded.decisions[0]) == 2 and not torch.equal(changed, acted)
    assert backbone.fingerprint() == before and backbone.projections().keys() == names
    assert not torch.equal(kit.draw(pipe), changed)


def test_fitted_for_another_model_is_refused(kit, guard, family):
    made = kit.guard(guard, family).fitted_for(adapter(tiny(family)))
    protect(tiny(family), made).detach()
    other = tiny(family, seed=1)
    cls = type(other)
    with pytest.raises(Mismatch, match="model"):
        protect(other, made)
    assert type(other) is cls and not adapter(other).denoiser._forward_hooks
    other = tiny(family)
    other.text_encoder = tiny(family, seed=1).text_encoder
    with pytest.raises(Mismatch, match="text encoder"):
        protect(other, made)


@pytest.mark.parametrize("name", ["ip_adapter_image", "ip_adapter_image_embeds"])
def test_image_prompts_are_refused(kit, family, name):
    pipe = kit.pipe(family)
    known = Unsupported if family != "sana" else TypeError  # its call has no such argument
    with protect(pipe, SLD(text="weapon")), pytest.raises(known, match=name):
        kit.draw(pipe, **{name: [torch.zeros(1, 1, 4)]})


def test_skipped_layers_are_refused(kit):
    pipe = kit.pipe("sd3")
    with protect(pipe, SLD(text="weapon")), pytest.raises(Unsupported, match="skip_guidance_layers"):
        kit.draw(pipe, skip_guidance_layers=[0])


def test_two_guards_on_one_prediction_add_up(kit, family, spy):
    """Order does not matter, and SLD beside a negative prompt of the same words is not cancelled."""
    pipe = kit.pipe(family)
    negative, sld = NegativePrompt(text="weapon"), SLD(text="weapon", preset="max")
    with protect(pipe, negative, sld) as guarded:
        one = kit.draw(pipe)
        strengths = [d["strength"] for d in guarded.decisions[0] if d["defense"] == "sld"]
    with protect(pipe, sld, negative):
        other = kit.draw(pipe)
    with protect(pipe, negative):
        alone = kit.draw(pipe)
    assert min(strengths) > 1e-3 and torch.equal(one, other) and not torch.equal(one, alone)


def test_direct_calls_inside_a_generation_are_guarded(kit, spy):
    """What an attack uses: its own denoiser call, with gradients, through the guards."""
    pipe = kit.pipe("sd1")
    text = adapter(pipe).encode(["", "a dagger"]).tokens
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1).requires_grad_()
    plain = pipe.unet(latents, 500, text).sample
    with protect(pipe, SLD(text="weapon", preset="max")) as guarded:
        with guarded.generation("a dagger", guidance_scale=7.5):
            acted = pipe.unet(latents, 500, text).sample
        assert guarded.decisions[0][0]["t"] == 500.0
    assert torch.equal(acted[0], plain[0]) and not torch.equal(acted[1], plain[1])
    acted.sum().backward()
    assert latents.grad is not None


def test_a_defense_that_fails_to_attach_leaves_no_trace(kit):
    pipe = kit.pipe("sd1")
    undone = []

    class Edit(SLD):
        def detach(self, backbone):
            undone.append(self)

    class Broken(SLD):
        def attach(self, backbone):
            raise RuntimeError("no")

    edit = Edit(text="weapon")
    with pytest.raises(RuntimeError):
        protect(pipe, edit, Broken(text="weapon"))
    assert undone[-1] is edit and not pipe.unet._forward_hooks
    kit.draw(pipe)
    assert not hasattr(type(pipe), "_unsee")


def test_a_generation_ends_with_its_call(kit):
    """After an image, and after an error in the middle of one, the denoiser is closed again."""
    pipe = kit.pipe("sd1")
    with protect(pipe, SLD(text="weapon")):
        kit.draw(pipe)
        with pytest.raises(GuardFailure, match="outside its pipeline"):
            pipe.unet()
        with pytest.raises(ZeroDivisionError):
            kit.draw(pipe, callback_on_step_end=lambda *_: 1 / 0)
        with pytest.raises(GuardFailure, match="outside its pipeline"):
            pipe.unet()


def test_each_image_keeps_its_own_negative(kit, spy):
    """The order of rows with several images per prompt: both of the first prompt come first."""
    pipe = kit.pipe("sd1")
    settings = {**kit.settings(pipe, n=4, steps=1), "negative_prompt": ["ugly", "red"], "num_images_per_prompt": 2}
    with spy(pipe) as seen, protect(pipe, NegativePrompt(text="weapon")):
        pipe(kit.prompts[:2], **settings)
    want = adapter(pipe).encode(["weapon, ugly", "weapon, ugly", "weapon, red", "weapon, red"]).tokens
    torch.testing.assert_close(seen[0][0]["encoder_hidden_states"][:4], want)


def test_one_generation_at_a_time(kit):
    """A second thread waits: the pipeline keeps its guidance and its scheduler's state in itself."""
    pipe, order, threads = kit.pipe("sd1"), [], []

    def meanwhile(*_):
        if not threads:
            threads.append(threading.Thread(target=lambda: (kit.draw(pipe, steps=1), order.append("second"))))
            threads[0].start()
            threads[0].join(timeout=0.5)  # time enough to be done, if nothing held it back
        return {}

    with protect(pipe, SLD(text="weapon")):
        kit.draw(pipe, callback_on_step_end=meanwhile)
        order.append("first")
        threads[0].join()
    assert order == ["first", "second"]
