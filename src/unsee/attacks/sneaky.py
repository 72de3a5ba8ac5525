"""SneakyPrompt: other words in the place of the sensitive ones, learned from a judge's answers to a few images.

Paper       Yang et al., IEEE S&P 2024 (arXiv 2305.12082)
Code        Yuchen413/text2image_safety
Does        every word of the concept in a prompt becomes ``subwords`` words of a policy. Each query draws one image;
            the policy learns from what the judge says (REINFORCE), and stops at the first image that is unsafe
Sees        images of the protected model, the judge's answers, and a public text encoder (black box)
Cost        at most ``queries`` images per prompt, and ``pool`` text encodings for each (published: 60; standard: 10)
Differs     * an unlearned model has no filter that refuses, so the judge is the filter turned round: the reward is its
              score of the image. ``judge`` is a registered name, a Judge, or empty for the concept's own
            * the policy is a table of logits, one row for each place, in place of an LSTM of 30 units
            * of ``pool`` samples of the policy the one is drawn whose encoding is nearest the prompt's (the authors'
              second reward, the similarity to the prompt, before the image is paid for); 1: the sample itself
            * the first query is the prompt itself; no further words are replaced when it does not go through
Published   60 queries, words of less than 10 letters, 3 subwords, Adam lr .1
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import judges
from ..concepts.prompts import words_for
from ..defenses.presets import guidance_for
from ..errors import UserError
from ..settings import Count, Doc, Guidance, Judged, Length, Rate, Settings, Steps
from ..types import Prompt, Sees, Spent, Verdict
from .base import Attack, Found, Job
from .victim import flat
from .vocabulary import Vocabulary, allowed, fill

if TYPE_CHECKING:
    from .base import Shared

LETTERS = 10


@dataclass(kw_only=True, frozen=True)
class Sneaky(Attack):
    """``Sneaky(judge="picto")``."""

    name: ClassVar[str] = "sneaky"
    summary: ClassVar[str] = "Other words for the sensitive ones, learned from a judge's answers to a few images."
    sees: ClassVar[Sees] = "images"
    published: ClassVar[Settings] = {"queries": 60, "pool": 1}
    quick: ClassVar[Settings] = {"queries": 2, "pool": 2, "draw_steps": 1, "judge": "always.safe"}

    judge: Annotated[
        Judged | Callable[..., Any], Doc("Who answers; empty is the concept's own. From Python, what is called as one.")
    ] = ""
    queries: Annotated[Count, Doc("Images that it may ask about.")] = 10
    subwords: Annotated[Length, Doc("Words that stand for a sensitive one.")] = 3
    pool: Annotated[Count, Doc("Texts of which one is drawn.")] = 32
    lr: Annotated[Rate, Doc("Learning rate of the policy.")] = 0.1
    draw_steps: Annotated[Steps, Doc("Denoising steps of the images.")] = 25
    guidance: Annotated[Guidance, Doc("Guidance of the images; 0 is what the concept's models are drawn with.")] = 0.0

    def most(self, n: int) -> Spent:
        return Spent(encodings=n * (1 + (self.queries - 1) * self.pool), images=n * self.queries)

    def _prepare(self, job: Job) -> Shared:
        concept = job.concept
        banned = [*concept.all_words("train"), *concept.all_words("held-out")]
        words = Vocabulary.of(job.victim.backbone, banned)
        short = [i for i, text in enumerate(words.texts) if len(text) < LETTERS]
        named = self.judge or concept.judge
        judge = judges.load(named) if isinstance(named, str) else named
        return [words.texts[i] for i in short], judge

    def _find(self, job: Job, prompts: list[Prompt], shared: Shared) -> list[Found]:
        words, judge = shared
        tries = [PromptPolicy(self, job, prompt, words) for prompt in prompts]
        wanted = flat(job.victim.encode([p.text for p in prompts]))
        for query in range(self.queries):
            alive = [i for i, one in enumerate(tries) if not one.done]
            if not alive:
                break
            texts = [tries[i].best if query == 0 else tries[i].propose(job, wanted[i]) for i in alive]
            drawn = [replace(prompts[i], text=text) for i, text in zip(alive, texts, strict=True)]
            guidance = guidance_for(job.concept, self.guidance)
            images = job.victim.generate(drawn, steps=self.draw_steps, guidance=guidance)
            for i, text, verdict in zip(alive, texts, judge(images, drawn, job.concept), strict=True):
                tries[i].learn(text, verdict)
            job.tick((query + 1) / self.queries)
        return [Found(one.best, one.before, one.after) for one in tries]


class PromptPolicy:
    """One prompt's policy, and the best that it said."""

    def __init__(self, attack: Sneaky, job: Job, prompt: Prompt, words: list[str]) -> None:
        self.attack, self.words, self.generator = attack, words, job.generator(prompt)
        self.pieces = pieces(prompt.text, words_for(job.concept, prompt), attack.subwords)
        places = sum(piece is None for piece in self.pieces)
        self.logits = torch.zeros(places, len(words), requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=attack.lr)
        self.best, self.before, self.after, self.done = prompt.text, 1.0, 1.0, False
        self.chosen: Tensor | None = None
        self.rewards: list[float] = []

    def propose(self, job: Job, wanted: Tensor) -> str:
        """Of a pool of samples the one that is read most like the prompt."""
        with torch.no_grad():
            drawn = torch.multinomial(self.logits.softmax(-1), self.attack.pool, replacement=True,
                                      generator=self.generator).T  # fmt: skip
        texts = [fill(self.pieces, [self.words[int(v)] for v in row]) for row in drawn]
        likeness = nn.functional.cosine_similarity(flat(job.victim.encode(texts)), wanted[None], dim=-1)
        sayable = torch.tensor([allowed(text) for text in texts], device=likeness.device)
        place = int(likeness.where(sayable, -2.0).argmax())
        if not sayable[place]:
            raise UserError("a prompt that can be said in other words", repr(self.best), "leave it out")
        self.chosen = drawn[place]
        return texts[place]

    def learn(self, text: str, verdict: Verdict) -> None:
        """Keeps the best, and moves the policy by how much better than usual this was."""
        reward = verdict.score or 0.0  # an image that nobody could judge earns nothing
        if self.chosen is None:
            self.before = self.after = 1.0 - reward
        elif 1.0 - reward < self.after:
            self.best, self.after = text, 1.0 - reward
        self.done = verdict.outcome == "unsafe"
        self.rewards.append(reward)
        if self.chosen is None or self.done:
            return
        gain = reward - sum(self.rewards) / len(self.rewards)
        said = self.logits.log_softmax(-1).gather(1, self.chosen[:, None]).sum()
        self.optimizer.zero_grad()
        (-gain * said).backward()
        self.optimizer.step()


def pieces(text: str, sensitive: list[str], subwords: int) -> tuple[str | None, ...]:
    """The text with ``subwords`` places for each sensitive word; of one without any, for its longest word.

    >>> pieces("draw a kitchen knife here", ["knife", "kitchen knife"], 2)
    ('draw a', None, None, 'here')
    """
    said = [w for w in sorted(set(sensitive), key=len, reverse=True) if re.search(rf"\b{re.escape(w)}\b", text, re.I)]
    said = said or [max(re.findall(r"\w+", text) or [text], key=len)]
    pattern = "|".join(rf"\b{re.escape(word)}\b" for word in said)
    parts = [part.strip() for part in re.split(pattern, text, flags=re.IGNORECASE)]
    made: list[str | None] = [parts[0]]
    for part in parts[1:]:
        made += [*[None] * subwords, part]
    return tuple(piece for piece in made if piece != "")
