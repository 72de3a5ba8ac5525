"""Every registered guard × every family × batch 1 and 3 × guidance on and off."""

from __future__ import annotations

import json

import pytest
import torch

from unsee.backbones import adapter
from unsee.defenses import protect
from unsee.errors import Unsupported


def refuses(kit, guard, pipe, n):
    """A guard that needs guidance refuses before the seed is used or the denoiser runs."""
    settings = kit.settings(pipe, cfg=False, n=n)
    before = [g.get_state() for g in settings["generator"]]
    with protect(pipe, guard), pytest.raises(Unsupported, match="classifier-free guidance") as error:
        pipe(kit.prompts[:n], **settings)
    assert "\n" not in str(error.value) and "; " in str(error.value)
    assert all(torch.equal(a, g.get_state()) for a, g in zip(before, settings["generator"], strict=True))


def test_acts_on_every_image_and_step_and_leaves_no_trace(kit, guard, family, batch, cfg):
    pipe, made = kit.pipe(family), kit.guard(guard, family)
    if made.needs_cfg and not cfg:
        return refuses(kit, made, pipe, batch)
    plain = kit.draw(pipe, cfg, batch)
    cls, state = type(pipe), dict(vars(pipe))
    with protect(pipe, made) as guarded:
        acted = kit.draw(pipe, cfg, batch)
        decisions = guarded.decisions
    assert torch.isfinite(acted).all()
    for i in range(batch):
        assert not torch.equal(acted[i], plain[i])
        assert [d["step"] for d in decisions[i]] == [0, 1]
    assert len(decisions) == batch and json.loads(json.dumps(decisions)) == decisions
    assert torch.equal(kit.draw(pipe, cfg, batch), plain)
    assert type(pipe) is cls and vars(pipe).keys() == state.keys()
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    assert not denoiser._forward_pre_hooks and not denoiser._forward_hooks


def test_idle_guard_is_bit_identical(kit, idler, family, batch, cfg):
    pipe, made = kit.pipe(family), kit.idle(idler, family)
    if made.needs_cfg and not cfg:
        return refuses(kit, made, pipe, batch)
    plain = kit.draw(pipe, cfg, batch)
    with protect(pipe, made):
        assert torch.equal(kit.draw(pipe, cfg, batch), plain)


def test_one_step_is_covered(kit, guard, family):
    pipe = kit.pipe(family)
    plain = kit.draw(pipe, steps=1)
    with protect(pipe, kit.guard(guard, family)) as guarded:
        assert not torch.equal(kit.draw(pipe, steps=1), plain)
        assert [d["step"] for d in guarded.decisions[0]] == [0]


def test_batch_does_not_change_an_image(kit, guard, family):
    pipe = kit.pipe(family)
    with protect(pipe, kit.guard(guard, family)):
        together = kit.draw(pipe, n=3)
        for i, prompt in enumerate(kit.prompts):
            settings = kit.settings(pipe)
            alone = pipe(prompt, **{**settings, "generator": [torch.Generator().manual_seed(i)]}).images
            torch.testing.assert_close(alone[0], together[i], rtol=1e-3, atol=1e-3)


def test_nothing_leaks_into_the_next_image(kit, guard, family):
    pipe = kit.pipe(family)
    with protect(pipe, kit.guard(guard, family)):
        first = kit.draw(pipe)
        kit.draw(pipe, n=3, steps=1)
        with pytest.raises(ZeroDivisionError):
            kit.draw(pipe, **adapter(pipe).following(lambda latents: 1 / 0))
        assert torch.equal(kit.draw(pipe), first)


def test_images_per_prompt(kit, guard, family):
    pipe = kit.pipe(family)
    settings = {"prompt": kit.prompts[:2], "num_images_per_prompt": 2}
    if family == "flux":
        settings["negative_prompt"] = ["", ""]
    generators = lambda: [torch.Generator().manual_seed(i) for i in range(4)]  # noqa: E731
    plain = kit.draw(pipe, generator=generators(), **settings)
    with protect(pipe, kit.guard(guard, family)) as guarded:
        acted = kit.draw(pipe, generator=generators(), **settings)
    assert len(guarded.decisions) == len(acted) == 4 and all(guarded.decisions)
    assert all(not torch.equal(a, b) for a, b in zip(acted, plain, strict=True))


def test_prompt_embeds_are_protected_like_text(kit, guard, family):
    pipe = kit.pipe(family)
    given = adapter(pipe).encode(kit.prompts[:1]).arguments()
    made = kit.guard(guard, family)
    with protect(pipe, made):
        if made.needs_text:
            with pytest.raises(Unsupported, match="prompt_embeds"):
                kit.draw(pipe, **given)
            return
        torch.testing.assert_close(kit.draw(pipe, **given), kit.draw(pipe), rtol=1e-4, atol=1e-4)


def test_negative_prompt_embeds_are_protected(kit, guard, family):
    pipe = kit.pipe(family)
    backbone = adapter(pipe)
    given = backbone.negative.encode(["ugly"]).arguments("negative_")
    made = kit.guard(guard, family)
    if family in ("pixart", "sana"):  # they take both prompts as embeddings, or both as texts
        if made.needs_text:
            return
        given |= backbone.encode(kit.prompts[:1]).arguments()
    plain = kit.draw(pipe, **given)
    with protect(pipe, made) as guarded:
        assert not torch.equal(kit.draw(pipe, **given), plain)
        assert guarded.decisions[0]


def test_image_to_image_and_inpaint_share_the_denoiser(kit, guard, family):
    """Unprotected siblings are refused while the first is protected; protected ones act."""
    from unsee.backbones import adapter
    from unsee.errors import GuardFailure

    pipe = kit.pipe(family)
    for name in adapter(pipe).pipelines[1:]:
        more = {"safety_checker": None} if "safety_checker" in pipe.components else {}
        if more:
            more["requires_safety_checker"] = False
        sibling = adapter(pipe).task_class(name)(**{**pipe.components, **more})
        sibling.set_progress_bar_config(disable=True)
        call = {"image": torch.zeros(1, 3, 32, 32), "strength": 0.99, "height": 32, "width": 32, "steps": 3}
        if name.endswith("InpaintPipeline"):
            call["mask_image"] = torch.ones(1, 1, 32, 32)
        else:
            call = {k: v for k, v in call.items() if k not in ("height", "width") or family in ("flux", "sd3")}
        plain = kit.draw(sibling, **call)
        with protect(pipe, kit.guard(guard, family)):
            with pytest.raises(GuardFailure, match="outside its pipeline"):
                kit.draw(sibling, **call)
            with protect(sibling, kit.guard(guard, family)) as guarded:
                assert not torch.equal(kit.draw(sibling, **call), plain) and guarded.decisions[0]
        assert torch.equal(kit.draw(sibling, **call), plain)


def test_repr_and_config_rebuild_the_guard(kit, guard):
    made = kit.guard(guard)
    names = {type(made).__name__: type(made)}
    assert repr(eval(repr(made), names)) == repr(made) == repr(type(made)(**made.config()))
