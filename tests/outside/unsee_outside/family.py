"""A family of pipelines: Stable Diffusion under another class, that starts from mirrored noise."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from unsee.backbones.sd import SD


class MirroredPipeline(StableDiffusionPipeline):
    """Stable Diffusion that starts from mirrored noise."""

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        return super().prepare_latents(*args, **kwargs).flip(-1)


class MirroredImg2ImgPipeline(StableDiffusionImg2ImgPipeline):
    """From an image; its noise is as it is."""


class Family(SD):
    """``MirroredPipeline`` and its img2img form."""

    family = "outside-sd"
    pipelines = ("MirroredPipeline", "MirroredImg2ImgPipeline")

    @staticmethod
    def tiny() -> MirroredPipeline:
        """A random one, for the contract tests and ``unsee selftest``."""
        from unsee.backbones.tiny import tiny

        return MirroredPipeline(**tiny("sd1").components, requires_safety_checker=False)
