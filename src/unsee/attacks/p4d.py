"""P4D, Prompting4Debugging: words by which the defended model predicts what the original model does for the prompt.

Paper       Chin et al., ICML 2024 (arXiv 2309.06135)
Code        joycenerd/P4D
Formula     min over words a of E |f_original(x_t, t, p) - f(x_t, t, a)|², x_t a noised image of the original model.
            a is found as in PEZ (Wen et al. 2023): the loss and its gradient are taken at the nearest words, the
            step is made by a continuous copy
Sees        the whole protected model, gradients included, and the original one (white box)
Cost        per prompt ``steps`` gradient steps, ``bank`` passes of the original, one image (published: 3,000 steps with
            two models in memory; standard: 60)
Variants    ``N``: ``length`` free words and nothing else. ``K``: a free word at every ``every`` words of the prompt
Differs     * (t, noise) come from a bank of ``bank`` views, whose targets the original predicts in one go at the start:
              both models need not be in memory at once
            * the words that do best on an exam (the bank's first views) are kept, the plain prompt too; published:
              evaluated every 50 steps by CLIP similarity of an image
            * adaptive: the prediction is that of the guarded, guided sampler (``adaptive=False``: of the weights)
            * only words that every tokenizer reads as themselves, so that what was optimized is what is drawn
            * K counts words (``count="words"``) and has a free one after each piece, the last too: ``a b c * d e *``.
              The code counts tokens and has one in front of each piece, and at the end where the last is a whole one:
              ``* a b c * d e``, ``* a b c *`` (``count="tokens"``, ``front=True``). That can cut a word in two
Published   (``P4D.as_published(variant=…)``) N: 16 words; K: a word in front of every 3 tokens. AdamW lr .1, weight
            decay .1, 3000 steps, each with a noise of its own (here 1,000 of them in turn), checked every 50
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor, nn

from ..settings import Among, Count, Decay, Doc, Length, Rate, Settings
from ..types import Prompt, Spent
from .base import Found, Job
from .vocabulary import Slots, Vocabulary
from .white_box import Best, Scene, View, WhiteBox, doubt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VARIANTS, COUNTS = ("N", "K"), ("words", "tokens")


@dataclass(kw_only=True, frozen=True)
class P4D(WhiteBox):
    """``P4D(variant="K")`` for picto, ``P4D.as_published(variant="N")`` for the authors' budget."""

    name: ClassVar[str] = "p4d"
    summary: ClassVar[str] = "Words by which the defended model predicts what the original did for the prompt."
    published: ClassVar[Settings] = {
        "steps": 3000, "check_every": 50, "bank": 1000, "variant": "N", "count": "tokens", "front": True,
    }  # fmt: skip
    quick: ClassVar[Settings] = {
        "length": 2, "steps": 3, "check_every": 2, "bank": 2, "draw_steps": 1, "exam": 1,
    }  # fmt: skip

    variant: Annotated[str, Among(*VARIANTS), Doc("N: free words alone; K: free words among the prompt's own.")] = "K"
    length: Annotated[Length, Doc("Free words of N.")] = 16
    every: Annotated[Length, Doc("Words of the prompt between two free ones of K.")] = 3
    count: Annotated[str, Among(*COUNTS), Doc("What is counted there: words, or the first tokenizer's tokens.")] = (
        "words"
    )
    front: Annotated[bool, Doc("A free word in front of each piece, not after it.")] = False
    steps: Annotated[Count, Doc("Steps of the search.")] = 60
    check_every: Annotated[Count, Doc("Steps after which the words are compared with the best.")] = 5
    bank: Annotated[Count, Doc("Noised images that are learned from, in turn.")] = 20
    lr: Annotated[Rate, Doc("Learning rate.")] = 0.1
    weight_decay: Annotated[Decay, Doc("Of the optimizer.")] = 0.1

    def most(self, n: int) -> Spent:
        bank = Spent(encodings=n, forwards=n * (self.bank + self.exam))
        return self.cost(n, self.steps, -(-self.steps // self.check_every) + 2) + bank

    def _prepare(self, job: Job) -> Vocabulary:
        return Vocabulary.of(job.victim.backbone)

    def _find(self, job: Job, prompts: list[Prompt], shared: Vocabulary) -> list[Found]:
        scene = Scene(self, job, prompts)
        places = Slots(
            job.victim.backbone, shared, [self._pieces(p.text, job.victim.backbone.tokenizers[0]) for p in prompts]
        )
        exam, bank = self._views(scene, job)
        best, words = Best(scene, exam), shared.rows
        first = torch.zeros(len(prompts), places.most, dtype=torch.long)
        for row, count, generator in zip(first, places.counts, scene.generators, strict=True):
            row[:count] = torch.randint(len(shared), (count,), generator=generator)
        soft = shared.leaves(first)
        optimizer = torch.optim.AdamW(soft, lr=self.lr, weight_decay=self.weight_decay)
        for step in range(self.steps):
            chosen = nearest(soft, words)
            slopes = self._slopes(scene, places, bank[step % self.bank], chosen, first=step == 0)
            if step % self.check_every == 0:
                best.offer(places.say(chosen))
            for part, slope in zip(soft, slopes, strict=True):
                part.grad = slope
            optimizer.step()
            job.tick((step + 1) / self.steps)
        best.offer(places.say(nearest(soft, words)))
        return best.found()

    def _pieces(self, text: str, tokenizer: PreTrainedTokenizerBase = None) -> tuple[str | None, ...]:
        if self.variant == "N":
            return (None,) * self.length
        said = text.split() if self.count == "words" else tokenizer(text, add_special_tokens=False).input_ids
        cut = [said[i : i + self.every] for i in range(0, len(said), self.every)]
        parts = [" ".join(part) if self.count == "words" else tokenizer.decode(part).strip() for part in cut]
        if not self.front:
            return tuple(piece for part in parts for piece in (part, None))
        pieces = [piece for part in parts for piece in (None, part)]
        return tuple(pieces if len(said) % self.every else [*pieces, None])

    def _views(self, scene: Scene, job: Job) -> tuple[list[View], list[View]]:
        """(exam, bank), with the original's predictions for the prompts as truth."""
        times = torch.randint(scene.victim.last, (self.bank,), generator=job.generator("times")).tolist()
        views = [*scene.exam(), *(scene.view(t) for t in times)]
        text = scene.victim.encode([p.text for p in scene.prompts])
        with torch.no_grad(), scene.victim.undefended():
            views = [replace(v, truth=scene.victim.predict(v.latents, v.t, text)) for v in views]
        return views[: self.exam], views[self.exam :]

    def _slopes(self, scene: Scene, places: Slots, view: View, chosen: Tensor, first: bool) -> list[Tensor]:
        hard = places.vocabulary.leaves(chosen)
        said = places.say(chosen)
        text = places.read(scene.victim, hard)
        losses = scene.losses(view, text, said)
        slopes = list(torch.autograd.grad(losses.sum(), hard))
        if first:
            doubt(losses, lambda: scene.losses(view, text, said), slopes)
        return slopes


def nearest(soft: list[Tensor], words: tuple[Tensor, ...]) -> Tensor:
    """The word next to each place ``(B, K)``: cosine over all encoders' embeddings of it, side by side."""
    flat = torch.cat([part.detach().flatten(2).cpu() for part in soft], -1)
    known = torch.cat([rows.flatten(1).cpu() for rows in words], -1)
    return (nn.functional.normalize(flat, dim=-1) @ nn.functional.normalize(known, dim=-1).T).argmax(-1)
