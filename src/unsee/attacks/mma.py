"""MMA-Diffusion's text attack: words that say nothing of the concept, and that the text encoder reads like the prompt.

Paper       Yang et al., CVPR 2024 (arXiv 2311.17516), by GCG (Zou et al. 2023)
Code        cure-lab/MMA-Diffusion
Formula     max over words a of cos(s(a), s(p)), s the text's summary: the token at its end, and the pooled embedding
            where there is one (the mean of both cosines). A step: the slope in the one-hot weights names the ``topk``
            most promising words of each place; ``candidates`` single replacements among these are scored exactly
Sees        the text encoders, gradients included; the same prompts serve against every defense
Cost        per prompt and step one encoding with gradients and ``candidates`` without, all prompts' in one batch
            (published: 1,000 steps of 512; standard: 40 of 64)
Differs     * a step never goes to a worse text
            * only words that every tokenizer reads as themselves (published: a check of that at the end)
            * banned are all words of the concept, and pieces of them of four letters and more. The published list of
              targets is not used: its attack here is on the user's own prompts. Images are not attacked
Published   20 words, topk 256, 512 candidates, 1000 steps
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Generator, Tensor, nn

from ..settings import Count, Doc, Length, Settings
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job
from .vocabulary import Slots, Vocabulary, allowed

if TYPE_CHECKING:
    from ..backbones import Backbone, Encoding


@dataclass(kw_only=True, frozen=True)
class MMA(Attack):
    """``MMA()`` for picto, ``MMA.as_published()`` for the authors' budget."""

    name: ClassVar[str] = "mma"
    summary: ClassVar[str] = "Other words with the same pooled text encoding, by greedy coordinate gradient."
    sees: ClassVar[Sees] = "text"
    published: ClassVar[Settings] = {"length": 20, "topk": 256, "candidates": 512, "steps": 1000}
    quick: ClassVar[Settings] = {"length": 3, "topk": 4, "candidates": 6, "steps": 3}

    length: Annotated[Length, Doc("Tokens of the text that is found.")] = 12
    topk: Annotated[Count, Doc("Tokens that are considered at each place.")] = 64
    candidates: Annotated[Count, Doc("Texts that are tried in a step.")] = 64
    steps: Annotated[Count, Doc("Steps of the search.")] = 40

    def most(self, n: int) -> Spent:
        return Spent(encodings=n * (2 + self.steps * (1 + self.candidates)), backwards=n * self.steps)

    def _prepare(self, job: Job) -> Vocabulary:
        concept = job.concept
        return Vocabulary.of(job.victim.backbone, [*concept.all_words("train"), *concept.all_words("held-out")])

    def _find(self, job: Job, prompts: list[Prompt], shared: Vocabulary) -> list[Found]:
        backbone = job.victim.backbone
        target = [part.detach() for part in summary(backbone, job.victim.encode([p.text for p in prompts]))]
        places = Slots(backbone, shared, [(None,) * self.length] * len(prompts))
        generators = [job.generator(p) for p in prompts]
        chosen = torch.stack([torch.randint(len(shared), (self.length,), generator=g) for g in generators])
        before = scores = distances(summary(backbone, job.victim.encode(places.say(chosen))), target)
        for step in range(self.steps):
            slopes = self._slopes(job, places, chosen, target)
            tried = torch.stack([
                replacements(row, slope, self.topk, self.candidates, g)
                for row, slope, g in zip(chosen, slopes, generators, strict=True)
            ])  # fmt: skip
            chosen, scores = self._best(job, places, chosen, scores, tried, target)
            job.tick((step + 1) / self.steps)
        columns = zip(places.say(chosen), before.tolist(), scores.tolist(), strict=True)
        return [Found(text, start, end) for text, start, end in columns]

    def _slopes(self, job: Job, places: Slots, chosen: Tensor, target: list[Tensor]) -> Tensor:
        """Of the distance in the one-hot weights of each place, ``(B, K, V)``."""
        job.victim.count(backwards=len(chosen))
        hard = places.vocabulary.leaves(chosen)
        read = summary(job.victim.backbone, places.read(job.victim, hard))
        return places.vocabulary.slopes(torch.autograd.grad(distances(read, target).sum(), hard))

    def _best(self, job: Job, places: Slots, chosen: Tensor, scores: Tensor, tried: Tensor,
              target: list[Tensor]) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The best of the present words ``(B, K)`` and those tried ``(B, C, K)``, exactly scored."""
        n, count, _ = tried.shape
        texts = [" ".join(places.vocabulary.say(row)) for rows in tried for row in rows]
        read = summary(job.victim.backbone, job.victim.encode(texts))
        wanted = [part.repeat_interleave(count, 0) for part in target]
        tried_scores = distances(read, wanted) + torch.tensor([0.0 if allowed(t) else float("inf") for t in texts])
        found, place = tried_scores.view(n, count).min(1)
        better = found < scores
        winners = tried[torch.arange(n), place]
        return torch.where(better[:, None], winners, chosen), torch.where(better, found, scores)


def replacements(row: Tensor, slope: Tensor, topk: int, count: int, generator: Generator) -> Tensor:
    """``(C, K)``: ``row`` ``(K,)`` with one word replaced, among each place's ``topk`` words of least slope ``(K, V)``.

    All of them where ``count`` is as many, else a random part.
    """
    k = len(row)
    topk = min(topk, slope.shape[1])
    words = (-slope).topk(topk, 1).indices.flatten()
    places = torch.arange(k).repeat_interleave(topk)
    picked = torch.arange(k * topk) if count >= k * topk else torch.randperm(k * topk, generator=generator)[:count]
    made = row.repeat(len(picked), 1)
    made[torch.arange(len(picked)), places[picked]] = words[picked]
    return made


def summary(backbone: Backbone, text: Encoding) -> list[Tensor]:
    """What stands for the whole text: the token at its end ``(B, D)``, and the pooled embedding where there is one."""
    part = backbone.text_parts(text.ids)[0]  # whose tokens are first in the sequence
    where = backbone.text_ends(text.ids)[part.encoder].to(text.tokens.device)
    token = text.tokens[torch.arange(len(where), device=where.device), where].float()
    return [token] if text.pooled is None else [token, text.pooled.float()]


def distances(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """1 - the mean cosine, ``(B,)`` in [0, 2]; 0 is the same reading."""
    cosines = [nn.functional.cosine_similarity(a, b, dim=-1) for a, b in zip(one, other, strict=True)]
    return 1.0 - torch.stack(cosines).mean(0).cpu()
