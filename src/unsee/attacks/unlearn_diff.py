"""UnlearnDiffAtk: words before the prompt that make the defended model predict the noise of an unsafe image.

Paper       Zhang et al., ECCV 2024 (arXiv 2310.11868)
Code        OPTML-Group/Diffusion-MU-Attack
Formula     min over words a of E |y - f(x_t, t, a + p)|², x_t the noised target image, y its true prediction.
            The words are points w on the simplex of the vocabulary: forward a one-hot sample of w, backward
            straight through; after each step of the optimizer w is projected back
Sees        the whole protected model, gradients included (white box)
Cost        per prompt ``timesteps`` x ``per_timestep`` gradient steps, an exam at each timestep, one target image
            (published: 2,000 steps and 50 images; standard: 60 steps)
Differs     * nobody judges on the way: instead of drawing an image at each timestep and stopping at the first success,
              the words (each place's likeliest) are kept that do best on an exam of fixed views, the plain prompt too
            * adaptive: the prediction is that of the guarded, guided sampler (``adaptive=False``: of the weights)
            * only words that every tokenizer reads as themselves, so that what was optimized is what is drawn
            * ``optimizer="adamw"``: the decay shrinks all weights of a place alike, and the projection takes most of
              that back. The code's Adam adds it to the gradient (L2), where Adam's own scaling turns it into steps
            * ``start="random"``: each place begins somewhere else; the code begins at 1/V for every word
            * ``clamp="weights"``: backward the identity where |w| ≤ 1 (hardtanh's slope at w), which on the simplex
              is everywhere. The code clamps the gradient itself to [-1, 1]
Published   (``UnlearnDiff.as_published()``) 5 words, Adam with L2 decay .1, lr .01, start 1/V, gradient clamped, 40
            iterations at each of t = 10, 30, … 990 in turn. Its loss is the plain one, as ours where no guard acts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ..settings import Among, Count, Decay, Doc, Length, Rate, Settings, Steps
from ..types import Prompt, Spent
from .base import Found, Job
from .vocabulary import Slots, Vocabulary
from .white_box import Best, Scene, View, WhiteBox, doubt

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
STARTS, CLAMPS = ("random", "uniform"), ("weights", "gradient")


@dataclass(kw_only=True, frozen=True)
class UnlearnDiff(WhiteBox):
    """``UnlearnDiff()`` for picto, ``UnlearnDiff.as_published()`` for the authors' budget."""

    name: ClassVar[str] = "unlearn-diff"
    summary: ClassVar[str] = "Words before the prompt, on the simplex, that fit the noise of an unsafe image."
    published: ClassVar[Settings] = {
        "timesteps": 50, "per_timestep": 40, "lr": 0.01, "optimizer": "adam", "start": "uniform", "clamp": "gradient",
    }  # fmt: skip
    quick: ClassVar[Settings] = {"length": 2, "timesteps": 2, "per_timestep": 2, "draw_steps": 1, "exam": 1}

    length: Annotated[Length, Doc("Words before the prompt.")] = 5
    timesteps: Annotated[Steps, Doc("Times, of 1,000, at which they are fitted.")] = 15
    per_timestep: Annotated[Count, Doc("Steps of the search at each.")] = 4
    lr: Annotated[Rate, Doc("Learning rate.")] = 0.1
    weight_decay: Annotated[Decay, Doc("Of the optimizer.")] = 0.1
    optimizer: Annotated[str, Among(*OPTIMIZERS), Doc("AdamW, or Adam, whose decay is L2.")] = "adamw"
    start: Annotated[str, Among(*STARTS), Doc("Of the words' weights.")] = "random"
    clamp: Annotated[str, Among(*CLAMPS), Doc("What is kept in a range: the weights, or their gradient.")] = "weights"

    def most(self, n: int) -> Spent:
        return self.cost(n, self.timesteps * self.per_timestep, self.timesteps + 1)

    def _prepare(self, job: Job) -> Vocabulary:
        return Vocabulary.of(job.victim.backbone)

    def _find(self, job: Job, prompts: list[Prompt], shared: Vocabulary) -> list[Found]:
        scene = Scene(self, job, prompts)
        places = Slots(job.victim.backbone, shared, [(None,) * self.length + (p.text,) for p in prompts])
        best = Best(scene, scene.exam())
        weights = self._start(scene, len(shared)).requires_grad_()
        how: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimizer = OPTIMIZERS[self.optimizer]([weights], **how)
        for i, t in enumerate(self._times(job.victim.last)):
            for k in range(self.per_timestep):
                weights.grad = self._slope(scene, places, scene.view(t), weights, first=i + k == 0)
                optimizer.step()
                weights.data = simplex(weights.data)
            best.offer(places.say(weights.argmax(-1)))
            job.tick((i + 1) / self.timesteps)
        return best.found()

    def _start(self, scene: Scene, n: int) -> Tensor:
        """Each prompt's first weights of ``n`` words, ``(B, K, n)``."""
        if self.start == "uniform":
            return torch.full((len(scene.prompts), self.length, n), 1.0 / n)
        return simplex(torch.stack([torch.rand(self.length, n, generator=g) for g in scene.generators]))

    def _slope(self, scene: Scene, places: Slots, view: View, weights: Tensor, first: bool) -> Tensor:
        chosen = sample(weights.detach(), scene.generators)
        said = places.say(chosen)
        hot = straight_through(weights, chosen, self.clamp)
        text = places.read(scene.victim, places.vocabulary.embed(hot))
        losses = scene.losses(view, text, said)
        (slope,) = torch.autograd.grad(losses.sum(), weights)
        if first:
            doubt(losses, lambda: scene.losses(view, text, said), [slope])
        return slope

    def _times(self, last: int) -> list[int]:
        """Evenly spaced, low noise first: 10, 30, … 990 for 50 of 1,000."""
        return [int(last * (i + 0.5) / self.timesteps) for i in range(self.timesteps)]


def simplex(x: Tensor) -> Tensor:
    """The nearest point with entries ≥ 0 that sum to 1, along the last dimension, by bisection of the threshold.

    max(x - tau, 0) sums to 1 for exactly one tau, which lies in [max x - 1, max x].
    """
    wide = x.double()
    high = wide.amax(-1, keepdim=True)
    low = high - 1.0
    for _ in range(60):
        tau = (low + high) / 2
        full = (wide - tau).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(full, tau, low), torch.where(full, high, tau)
    return (wide - high).clamp(min=0).to(x.dtype)


def sample(weights: Tensor, generators: list[Generator]) -> Tensor:
    """One word for each place ``(B, K)``, drawn from its weights ``(B, K, V)`` by its prompt's own chance."""
    return torch.stack(
        [torch.multinomial(w.clamp(min=0), 1, generator=g)[:, 0] for w, g in zip(weights, generators, strict=True)]
    )


def straight_through(weights: Tensor, chosen: Tensor, clamp: str = "weights") -> Tensor:
    """Forward the one-hot vectors of ``chosen``; backward the slope of hardtanh at ``weights``, or with ``clamp``
    ``gradient`` the gradient, clamped to [-1, 1]."""
    hot = nn.functional.one_hot(chosen, weights.shape[-1]).to(weights)
    if clamp == "weights":
        soft = nn.functional.hardtanh(weights)
    else:
        soft = weights.clone()
        if soft.requires_grad:
            soft.register_hook(lambda gradient: gradient.clamp(-1.0, 1.0))
    return hot + (soft - soft.detach())  # in this order it is exactly one-hot
