"""SLD, safe latent diffusion: guidance away from a described concept, where it matters, with momentum.

Paper       Schramowski et al., CVPR 2023 (arXiv 2211.05105)
Code        ml-research/safe-latent-diffusion; StableDiffusionPipelineSafe in diffusers
Touches     the prediction. With e_p, e_u, e_S for prompt, negative and concept, at step i:
                phi   = min(s_S |e_p - e_S|, 1)
                mu    = phi where e_p - e_S < lambda, else 0            (the signed difference)
                gamma = mu (e_S - e_u) + s_m nu
                nu    = beta_m nu + (1 - beta_m) gamma                  (also during warm-up; starts at 0)
                e     = e_u + w (e_p - e_u - [i >= delta] gamma)
            phi is capped from above, as in the code (the printed formula often has a max).
Cost        one more pass per step: 1.5 times classifier-free guidance
Differs     * "weak" uses the paper's s_S = 200; diffusers' ``SafetyConfig.WEAK`` has 20: pass scale=20.
            * delta is meant for 50 steps, so it is scaled by steps / 50 (``scale_warmup=False``: absolute).
              Otherwise a sampler of a few steps would end before the guard begins.
            * v-prediction, x0-prediction and flow: the formulas run on noises, d noise = k d prediction
              with k = noise_gain(t). At the noise end k goes to 0 where SD 1.x has 0.068; |k| is kept at
              least there, so that the first step, and a one-step sampler, are guided too.
            * ``match=True`` (ours): e_S is of the one word nearest to the text that the denoiser reads. A list or a
              hypernym is a mixture, and away from a mixture the thing that was asked for stays likely; away from its
              own word e_p - gamma comes to e_u, and the picture loses that thing alone.
            * guidance_rescale takes its reference from the guarded prompt prediction.
Published   (``SLD.as_published()``) delta counts the sampler's own steps; the presets are the paper's as they are
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from ..defenses.base import Guard
from ..errors import Unsupported
from ..settings import Among, Doc, Settings, Share, Words
from .negative_prompt import every_word, warn_if_cut, words

if TYPE_CHECKING:
    from ..backbones import Backbone, Encoding
    from ..concepts import Concept
    from ..defenses.generation import Generation, Step

PRESETS: dict[str, Settings] = {
    "weak": {"warmup": 15, "scale": 200.0, "threshold": 0.0, "momentum": 0.0, "beta": 0.0},
    "medium": {"warmup": 10, "scale": 1000.0, "threshold": 0.01, "momentum": 0.3, "beta": 0.4},
    "strong": {"warmup": 7, "scale": 2000.0, "threshold": 0.025, "momentum": 0.5, "beta": 0.7},
    "max": {"warmup": 0, "scale": 5000.0, "threshold": 1.0, "momentum": 0.5, "beta": 0.7},
}
DESIGNED_FOR = 50  # sampling steps
Delta = Annotated[int, Field(ge=0, lt=1000)]  # a sampler has 1,000 steps at most
Scale = Annotated[float, Field(ge=1, le=1e6)]  # below 1 the code switches SLD off
Lambda = Annotated[float, Field(ge=0, le=10)]  # far below 0 nothing is less, and it would not act
LEAST_GAIN = 0.068  # sqrt(alphas_cumprod) of SD 1.x at t = 999


@dataclass
class Motion:
    """State of one generation: the encoded concept and the momentum nu, in units of noise."""

    concept: Encoding
    nu: Tensor | float = 0.0


@dataclass(kw_only=True)
class Choice(Motion):
    """The same where each image takes its own of several concepts: of ``known`` the one nearest to what is read."""

    known: Encoding
    empty: Encoding

    def take(self, step: Step) -> None:
        """Chooses by the text that reached the denoiser at this step, before any guard changed it."""
        assert step.asked is not None
        self.concept = self.known.rows(closest(step.asked, self.known, self.empty))


@dataclass(kw_only=True, eq=False)
class SLD(Guard):
    """``SLD(text="weapon, dagger", preset="strong")``. A value that is given replaces the preset's.

    Raises :class:`Unsupported` in a generation that is over before the warm-up is.
    """

    name: ClassVar[str] = "sld"
    summary: ClassVar[str] = "Safe latent diffusion: guidance away from the concept, with momentum."
    needs_cfg: ClassVar[bool] = True
    published: ClassVar[Settings] = {"scale_warmup": False}
    presets: ClassVar[dict[str, Settings]] = PRESETS

    text: Annotated[Words, Doc("What is to be unseen, in words. Left out, the concept's own.")]
    preset: Annotated[str, Among(*PRESETS), Doc("The published set of values that is not given otherwise.")] = "medium"
    warmup: Annotated[Delta | None, Doc("delta, the first steps, which are not guided; None is the preset's.")] = None
    scale: Annotated[Scale | None, Doc("s_S, how hard it guides; None is the preset's.")] = None
    threshold: Annotated[
        Lambda | None, Doc("lambda: only what the prompt says less than this beyond the concept; None is the preset's.")
    ] = None
    momentum: Annotated[Share | None, Doc("s_m, weight of the momentum; None is the preset's.")] = None
    beta: Annotated[Share | None, Doc("beta_m, how long the momentum lasts; None is the preset's.")] = None
    scale_warmup: Annotated[bool, Doc("Whether warmup is of 50 steps, and fewer in shorter samplers.")] = True
    match: Annotated[bool, Doc("Away from the one word, between commas, that is nearest to the prompt.")] = False

    @classmethod
    def for_concept(cls, concept: Concept, **more: Any) -> Self:
        """From the concept's own short text, which fits a text encoder; all its train words to ``match`` among."""
        return cls(text=every_word(concept) if more.get("match") else words(concept), **more)

    def settings(self) -> dict[str, float]:
        """The preset with the given values in place."""
        given = {name: getattr(self, name) for name in PRESETS[self.preset]}
        return {**PRESETS[self.preset], **{name: value for name, value in given.items() if value is not None}}

    def attach(self, backbone: Backbone) -> None:
        for text in split(self.text) if self.match else [self.text]:
            warn_if_cut(self.name, text, backbone)

    def prepare(self, generation: Generation) -> Motion:
        if not self.match:
            return Motion(generation.encode([self.text]))
        encoded = generation.encode(["", *split(self.text)])
        known = encoded.rows(slice(1, None))
        return Choice(concept=known, known=known, empty=encoded.rows([0]))

    def guide(self, step: Step, state: Motion) -> Tensor | None:
        if step.positive is None or step.negative is None:
            return None
        self.acts(step.generation)
        if isinstance(state, Choice):
            state.take(step)
        settings, gain = self.settings(), step.backbone.noise_gain(step.t)
        gain = (LEAST_GAIN if abs(gain) < LEAST_GAIN else abs(gain)) * (-1.0 if gain < 0 else 1.0)
        p, u, s = (gain * e.float() for e in (step.positive, step.negative, step.predict(state.concept)))
        gamma, state.nu = safety(p, u, s, state.nu, settings)
        waiting = step.index < self.delay(step.generation.total)
        size, usual = gamma.flatten(1).norm(dim=1), (p - u).flatten(1).norm(dim=1).clamp(min=1e-12)
        step.record(self, "warmed up" if waiting else "guided", strength=size, relative=size / usual)
        return None if waiting else gamma / gain

    def acts(self, generation: Generation) -> None:
        """Raises :class:`Unsupported` for images that are done before the warm-up is."""
        steps, delay = generation.total, self.delay(generation.total)
        if generation.drawing and delay >= steps:
            advice = f"set warmup below {DESIGNED_FOR if self.scale_warmup else steps}, or draw with more steps"
            got = f"warmup={self.settings()['warmup']:g}, {delay} of them"
            raise Unsupported(f"a warm-up of sld that ends before the {steps} steps do", got, advice)

    def delay(self, steps: int) -> int:
        """delta for a sampler of ``steps`` steps."""
        delta = self.settings()["warmup"]
        return round(delta * steps / DESIGNED_FOR) if self.scale_warmup else int(delta)


def closest(asked: Encoding, known: Encoding, empty: Encoding) -> list[int]:
    """For each row of ``asked`` the row of ``known`` whose mean token state is nearest to its own by the cosine, both
    less the ``empty`` text's."""
    first, others = (normalize(_mean(text) - _mean(empty), dim=1) for text in (asked, known))
    return [int(i) for i in (first @ others.T).argmax(1)]


def _mean(text: Encoding) -> Tensor:
    if text.mask is None:
        return text.tokens.float().mean(1)
    read = text.mask[..., None].float()
    return (text.tokens.float() * read).sum(1) / read.sum(1)


def split(text: str) -> list[str]:
    """The words of a text, which stand between commas."""
    return [word for word in map(str.strip, text.split(",")) if word]


def safety(p: Tensor, u: Tensor, s: Tensor, nu: Tensor | float, settings: dict[str, float]) -> tuple[Tensor, Tensor]:
    """(gamma, new nu), element by element, from the noises of prompt, negative and concept."""
    difference = p - s
    phi = (settings["scale"] * difference.abs()).clamp(max=1.0)
    mu = torch.where(difference < settings["threshold"], phi, torch.zeros_like(phi))
    gamma = mu * (s - u) + settings["momentum"] * nu
    return gamma, settings["beta"] * nu + (1.0 - settings["beta"]) * gamma
