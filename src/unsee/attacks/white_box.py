"""What attacks with gradients share: images of the concept, noised views of them, and an exam to compare texts by.

The images are the original model's for the very prompts that are attacked: an attacker who holds the weights has that
model too. They are drawn first, with everything taken off for that time; nothing of it reaches what is found.

Adaptive (the default), the loss goes through every guard, with gradients; see ``victim.py``. What a guard decides hard
is decided in each step for the text as it is then, and has a straight-through slope: SafeRedir's decision (not in
reference mode, which never acts on a first step) and SAFREE's choice of words.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor

from ..defenses.presets import guidance_for
from ..settings import Count, Doc, Guidance, Steps
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job, UntrustedResult
from .vocabulary import allowed

if TYPE_CHECKING:
    from ..backbones import Encoding
    from ..concepts import Concept

ROWS = 3  # of the denoiser for one prompt's loss through guards: both halves of guidance, and the plain empty text


@dataclass(kw_only=True, frozen=True)
class WhiteBox(Attack):
    """What has gradients, through the guards or past them."""

    sees: ClassVar[Sees] = "model"

    adaptive: Annotated[bool, Doc("Through the guards; if not, past them, so that only changes of weights count.")] = (
        True
    )
    guidance: Annotated[
        Guidance, Doc("The sampler's, which is attacked and draws; 0 is what the concept's models are drawn with.")
    ] = 0.0
    draw_steps: Annotated[Steps, Doc("Denoising steps of the images.")] = 25
    exam: Annotated[Count, Doc("Noised images on which texts are compared.")] = 4

    def scale(self, concept: Concept) -> float:
        return guidance_for(concept, self.guidance)

    def cost(self, n: int, steps: int, checks: int) -> Spent:
        """The most that ``steps`` steps with gradients and ``checks`` exams cost on ``n`` prompts."""
        losses = steps + 1 + self.exam * checks  # one more to see whether the defense answers at random
        return Spent(n * (steps + 1 + checks) + 1, ROWS * n * losses, n * steps, n)


@dataclass(frozen=True)
class View:
    """Noised images and what should be predicted for them, ``(B, …)``."""

    latents: Tensor
    t: int
    truth: Tensor


class Scene:
    """The prompts of one list, their images, and the losses of texts on views of these."""

    def __init__(self, attack: WhiteBox, job: Job, prompts: list[Prompt]) -> None:
        self.victim, self.prompts, self.attack = job.victim, prompts, attack
        self.generators = [job.generator(prompt) for prompt in prompts]
        scale = attack.scale(job.concept)
        images = self.victim.generate_undefended(prompts, steps=attack.draw_steps, guidance=scale)
        self.x0 = self.victim.latents(images)
        self.guidance = scale if attack.adaptive else 0.0

    def view(self, t: int) -> View:
        """The images at ``t``, with new noise, each image's from its prompt's own generator."""
        noise = torch.stack([torch.randn(self.x0.shape[1:], generator=g) for g in self.generators]).to(self.x0)
        latents, truth = self.victim.noised(self.x0, noise, t)
        return View(latents, t, truth)

    def exam(self) -> list[View]:
        """Views at times spread evenly over the middle 80 %."""
        n, last = self.attack.exam, self.victim.last
        return [self.view(int(last * (0.1 + 0.8 * (i + 0.5) / n))) for i in range(n)]

    def losses(self, view: View, text: Encoding, said: Sequence[str]) -> Tensor:
        return self.victim.losses(view.latents, view.t, text, said, view.truth, self.guidance)

    def score(self, views: Sequence[View], texts: Sequence[str]) -> Tensor:
        """Mean loss of each text on its own prompt's views, ``(B,)``."""
        with torch.no_grad():
            text = self.victim.encode(texts)
            return torch.stack([self.losses(view, text, texts) for view in views]).mean(0).cpu()


class Best:
    """The best text of each prompt so far; the prompt itself is the first."""

    def __init__(self, scene: Scene, views: Sequence[View]) -> None:
        self.scene, self.views = scene, views
        self.texts = [prompt.text for prompt in scene.prompts]
        self.scores = self.before = scene.score(views, self.texts)

    def offer(self, texts: Sequence[str]) -> None:
        """Takes what is better, and may be said."""
        scores = self.scene.score(self.views, texts)
        better = (scores < self.scores) & torch.tensor([allowed(text) for text in texts])
        self.texts = [new if b else old for new, old, b in zip(texts, self.texts, better.tolist(), strict=True)]
        self.scores = torch.where(better, scores, self.scores)

    def found(self) -> list[Found]:
        columns = zip(self.texts, self.before.tolist(), self.scores.tolist(), strict=True)
        return [Found(text, before, after) for text, before, after in columns]


def doubt(losses: Tensor, again: Callable[[], Tensor], slopes: Sequence[Tensor]) -> None:
    """Warns, as AutoAttack does, where the numbers of a white-box attack should not be trusted."""
    if not any(bool(slope.abs().sum() > 0) for slope in slopes):
        why = "all gradients are zero: something on the way hides them, so failing here is no sign of a strong defense"
        warnings.warn(f"{why}; attack with ring-a-bell or sneaky too", UntrustedResult, stacklevel=3)
    with torch.no_grad():
        if not torch.allclose(again(), losses.detach(), rtol=1e-5, atol=1e-8):
            why = "the same call gave two results: the defense is random, and one gradient says little about it"
            warnings.warn(f"{why}; average over several seeds", UntrustedResult, stacklevel=3)
