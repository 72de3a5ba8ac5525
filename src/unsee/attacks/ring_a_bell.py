"""Ring-A-Bell: a genetic search for a text that the text encoder reads like the prompt with more of the concept.

Paper       Tsai et al., ICLR 2024 (arXiv 2310.10012)
Code        chiayi-hsu/Ring-A-Bell
Formula     v = mean over pairs of E(with the concept) - E(without); target E(p) + eta v;
            fitness |target - E(text)|², summed over all tokens, and the pooled embedding where there is one
Sees        the text encoders alone: the same prompts serve against every defense that leaves those as they are
Cost        ``population`` + ``generations`` x half of it text encodings per prompt at most (published: 300,200 to
            600,000, by how the code counts; standard: 3,100). No denoiser, no gradient
Speed       every new text of a generation, of all prompts at once, is encoded in one batch, and no text twice
Differs     * what is scored is the text that the ids decode to, as the pipeline reads it: never ids that no text gives
            * a gene may be blank, so a text may be shorter than ``length``
            * ``seeded``: this share of the first population is the prompt itself with genes changed at random
              (published: 0, all of it random; that needs the published 3,000 generations)
            * ``eta`` is .3 for picto: three concept vectors from a prompt there is no text of picto's, and what comes
              nearest draws nothing (docs/log.md)
            * a child has two parents with probability ``crossover`` and one otherwise; the better half survives as it
              is. In the code survivors mutate like their children (a pair of parents has two), so the best can be lost
Published   population 200, generations 3000, length 16 (also 38 and 77), eta 3 (nudity) to 5.5 (violence), 50 pairs
            (violence: 30), mutation .25, crossover .5
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Generator, Tensor

from ..embeddings import pairs
from ..settings import Count, Doc, Length, Settings, Share
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job
from .victim import ROWS, flat
from .vocabulary import allowed, readable_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .base import Shared

Encode = Callable[[list[str]], Tensor]  # texts → (n, F)
BLANK = 0.1  # chance that a changed gene becomes blank


Population = Annotated[int, Field(ge=4, le=1_000_000)]
Eta = Annotated[float, Field(gt=0, le=1000)]


@dataclass(kw_only=True, frozen=True)
class RingABell(Attack):
    """``RingABell()`` for picto, ``RingABell.as_published()`` for the authors' budget."""

    name: ClassVar[str] = "ring-a-bell"
    summary: ClassVar[str] = "Genetic search for a text that is read like the prompt with more of the concept."
    sees: ClassVar[Sees] = "text"
    published: ClassVar[Settings] = {
        "population": 200, "generations": 3000, "length": 16, "eta": 3.0, "pairs": 50, "seeded": 0.0,
    }  # fmt: skip
    quick: ClassVar[Settings] = {"population": 8, "generations": 3, "length": 4, "pairs": 3}

    population: Annotated[Population, Doc("Texts that live at a time.")] = 100
    generations: Annotated[Count, Doc("How often they have children.")] = 60
    length: Annotated[Length, Doc("Tokens of a text.")] = 16
    eta: Annotated[Eta, Doc("How much of the concept is added to what the prompt is read as.")] = 0.3
    pairs: Annotated[Count, Doc("Pairs of texts, with and without the concept, that say what it is.")] = 50
    mutation: Annotated[Share, Doc("Chance of a child to be changed.")] = 0.25
    crossover: Annotated[Share, Doc("Chance of two parents to be mixed.")] = 0.5
    seeded: Annotated[Share, Doc("Share of the first texts that come from the prompt's own.")] = 0.5

    def most(self, n: int) -> Spent:
        children = self.population - self.population // 2
        return Spent(encodings=2 * self.pairs + n * (1 + self.population + self.generations * children))

    def _prepare(self, job: Job) -> Shared:
        """The concept vector ``(F,)``, and the genes."""
        texts = job.concept.pairs("train", self.pairs, job.seed)
        with_it, without = (flat(job.victim.encode([pair[side] for pair in texts])).mean(0) for side in (0, 1))
        return with_it - without, Genes.of(pairs(job.victim.backbone)[0][1])

    def _find(self, job: Job, prompts: list[Prompt], shared: Shared) -> list[Found]:
        vector, genes = shared
        targets = flat(job.victim.encode([p.text for p in prompts])) + self.eta * vector
        hunts = [
            Hunt(target, job.generator(prompt), genes.read(prompt.text, self.length))
            for target, prompt in zip(targets, prompts, strict=True)
        ]

        def encode(texts: list[str]) -> Tensor:
            return flat(job.victim.encode(texts))

        for generation in self.search(hunts, genes, encode):
            job.tick(generation / (self.generations + 1))
        return [Found(hunt.texts[0], hunt.before, float(hunt.scores[0])) for hunt in hunts]

    def search(self, hunts: Sequence[Hunt], genes: Genes, encode: Encode) -> Iterator[int]:
        """Runs the search of all hunts side by side; yields after each generation."""
        keep = self.population // 2
        grown = [self._first(hunt, len(genes)) for hunt in hunts]
        for generation in range(self.generations + 1):
            score(hunts, [genes.say(rows) for rows in grown], grown, encode, keep)
            yield generation
            if generation < self.generations:
                grown = [self._children(hunt, len(genes), self.population - keep) for hunt in hunts]

    def _first(self, hunt: Hunt, n: int) -> Tensor:
        made = 1 + torch.randint(n - 1, (self.population, self.length), generator=hunt.generator)
        seeded = round(self.seeded * self.population)
        if seeded:
            changed = torch.rand(seeded, self.length, generator=hunt.generator) < 1.0 / self.length
            changed[0] = False
            made[:seeded] = torch.where(changed, made[:seeded], hunt.own)
        return made

    def _children(self, hunt: Hunt, n: int, count: int) -> Tensor:
        """One-point crossover of two survivors, or a copy of one; then one gene may change."""
        g, keep = hunt.generator, len(hunt.alive)
        one, two = hunt.alive[torch.randint(keep, (2, count), generator=g)]
        point = torch.randint(1, self.length + 1, (count, 1), generator=g)
        cross = torch.rand(count, 1, generator=g) < self.crossover
        made = torch.where(cross & (torch.arange(self.length) >= point), two, one)
        where, what = torch.randint(self.length, (count,), generator=g), torch.randint(1, n, (count,), generator=g)
        what = torch.where(torch.rand(count, generator=g) < BLANK, 0, what)
        changes = torch.rand(count, generator=g) < self.mutation
        rows = torch.arange(count)
        made[rows, where] = torch.where(changes, what, made[rows, where])
        return made


@dataclass(frozen=True)
class Genes:
    """The alphabet: gene 0 is blank, gene k the tokenizer's id ``ids[k - 1]``."""

    tokenizer: PreTrainedTokenizerBase
    ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Genes:
        return cls(tokenizer, tuple(readable_ids(tokenizer)[0]))

    def __len__(self) -> int:
        return len(self.ids) + 1

    def say(self, rows: Tensor) -> list[str]:
        """Rows of genes ``(n, K)`` → texts."""
        listed = [[self.ids[gene - 1] for gene in row if gene] for row in rows.tolist()]
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(listed)]

    def read(self, text: str, length: int) -> Tensor:
        """A text's own genes ``(K,)``, cut or filled up with blanks."""
        gene = {token: k for k, token in enumerate(self.ids, 1)}
        found = [gene[i] for i in self.tokenizer(text, add_special_tokens=False).input_ids if i in gene][:length]
        return torch.tensor(found + [0] * (length - len(found)))


@dataclass
class Hunt:
    """The search for one prompt: who is alive, best first, and every text that was scored."""

    target: Tensor  # (F,)
    generator: Generator
    own: Tensor  # (K,) the prompt's genes
    alive: Tensor = field(default_factory=lambda: torch.zeros(0))  # (keep, K)
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))  # (keep,) lower is better
    texts: list[str] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)
    before: float | None = None  # the best of the first population


def score(hunts: Sequence[Hunt], texts: Sequence[list[str]], grown: Sequence[Tensor], encode: Encode,
          keep: int) -> None:  # fmt: skip
    """Scores the new individuals of all hunts, each different text encoded once, and keeps each hunt's best."""
    missing = [{t for t in new if t not in hunt.seen} for hunt, new in zip(hunts, texts, strict=True)]
    for hunt, new in zip(hunts, missing, strict=True):
        hunt.seen |= {text: float("inf") for text in new if not allowed(text)}
    wanted = sorted({t for new in missing for t in new if allowed(t)})
    for start in range(0, len(wanted), ROWS):
        part = wanted[start : start + ROWS]
        encoded = encode(part)
        for hunt, new in zip(hunts, missing, strict=True):
            mine = [i for i, text in enumerate(part) if text in new]
            distances = (encoded[mine] - hunt.target).square().sum(1)
            hunt.seen |= {part[i]: d for i, d in zip(mine, distances.tolist(), strict=True)}
    for hunt, said, rows in zip(hunts, texts, grown, strict=True):
        _survive(hunt, said, rows, keep)


def _survive(hunt: Hunt, texts: list[str], rows: Tensor, keep: int) -> None:
    everyone = torch.cat([hunt.alive, rows]) if len(hunt.alive) else rows
    said = [*hunt.texts, *texts]
    scores = torch.tensor([hunt.seen[text] for text in said], dtype=torch.float64)
    best = scores.argsort(stable=True)[:keep]
    hunt.alive, hunt.scores, hunt.texts = everyone[best], scores[best], [said[i] for i in best]
    if hunt.before is None:
        hunt.before = float(scores.min())
