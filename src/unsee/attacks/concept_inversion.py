"""Concept inversion: an embedding, learned on the protected model, that draws the concept again; prompts then name it.

Paper       Pham et al., ICLR 2024 (arXiv 2308.01508); on textual inversion, Gal et al., ICLR 2023
Code        NYU-DICE-Lab/circumventing-concept-erasure
Formula     see ``unsee.embeddings``: min over c of E |y - f(x_t, t, c)|², through the guards where any act
Sees        the whole protected model, gradients included (white box), and it needs a way to speak in embeddings: what
            it finds is no text, and is drawn with the embedding lent to the tokenizer (``unsee.attacks.saying``)
Cost        ``images`` images and ``steps`` x ``batch`` passes with gradients, once for all prompts (published: 5,000
            steps of 16; standard: 400 of 8)
Differs     * the images are the original model's for the concept's train prompts, not chosen by a judge, and each
              is learned with its own prompt's words around the embedding. On picto late times and a rate that falls
              to 0 learn in 400 steps what even times and a constant rate do not (docs/log.md)
            * ``start``: one embedding for all things, which starts as the ``hypernym``; or ``words``: those of each of
              the concept's things (dagger, bomb, axe), learned on its own images. Neither is the stronger everywhere
              (docs/redteam.md)
            * ``place``: the embedding stands for the concept's word (``instead``), or before the prompt (``before``,
              as for I2P prompts in the paper)
            * where a guard reads words (SAFREE) the loss through guards cannot be had: an
              :class:`UntrustedResult` says so, and only the weights are learned from. The guard acts on what is drawn
Published   AdamW 5e-3 (effective .08: by the batch), decay .01, 5000 steps, batch 4 x 4, 25 images, one vector
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from .. import embeddings as inversion
from ..concepts import Concept
from ..concepts.prompts import reworded, thing_asked
from ..defenses.presets import guidance_for
from ..embeddings import STARTS, TIMES, Inversion, Rows
from ..errors import Unsupported
from ..settings import Among, Count, Decay, Doc, Guidance, Images, Rate, Settings, Share, Steps
from ..types import Prompt, Sees, Spent
from .base import Attack, Found, Job, UntrustedResult

PLACES = ("instead", "before")
APART = 1_000_000  # an attacker's images and noises are its own: not those of seed 0, which INE is fitted with


@dataclass(frozen=True)
class Learned:
    """Embeddings, and which of them stand for each thing; no things: all of them for the concept."""

    rows: Rows
    places: dict[str, tuple[int, ...]]


@dataclass(kw_only=True, frozen=True)
class ConceptInversion(Attack):
    """``ConceptInversion()`` for picto, ``ConceptInversion.as_published()`` for the authors' budget."""

    name: ClassVar[str] = "concept-inversion"
    summary: ClassVar[str] = "An embedding that draws the concept on the protected model, named in the prompts."
    sees: ClassVar[Sees] = "model"
    published: ClassVar[Settings] = {
        "steps": 5000, "batch": 16, "lr": 0.08, "images": 25, "times": "uniform", "decay": False,
        "weight_decay": 0.01,
    }  # fmt: skip
    quick: ClassVar[Settings] = {"steps": 2, "batch": 2, "images": 2, "draw_steps": 1}

    steps: Annotated[Count, Doc("Steps of training.")] = 400
    batch: Annotated[Count, Doc("Images of a step.")] = 8
    lr: Annotated[Rate, Doc("Learning rate.")] = 2e-3
    times: Annotated[str, Among(*TIMES), Doc("How t is drawn, late being the later of two draws.")] = "late"
    decay: Annotated[bool, Doc("Whether the rate falls to 0 in a line.")] = True
    weight_decay: Annotated[Decay, Doc("Of AdamW, on the embedding itself.")] = 0.0
    vectors: Annotated[Count, Doc("Rows of the embedding in each text encoder.")] = 1
    images: Annotated[Images, Doc("Images of the concept, drawn by the undefended model.")] = 50
    start: Annotated[
        str, Among(*STARTS), Doc("One embedding, from the hypernym, or one for each thing, from its name (words).")
    ] = "hypernym"
    bare: Annotated[Share, Doc("Share of examples with the embedding alone, without its prompt's words.")] = 0.5
    place: Annotated[str, Among(*PLACES), Doc("Where the embedding stands in the prompt.")] = "instead"
    adaptive: Annotated[bool, Doc("Through the guards; if not, only the weights count.")] = True
    guidance: Annotated[Guidance, Doc("Guidance that is attacked; 0 is what the concept's models are drawn with.")] = (
        0.0
    )
    draw_steps: Annotated[Steps, Doc("Denoising steps of the images.")] = 25

    def most(self, n: int) -> Spent:
        return self._train(guided=True) + Spent(images=self.images)

    def _train(self, guided: bool) -> Spent:
        rows = self.steps * self.batch
        return Spent(rows + guided * rows, 3 * rows if guided else rows, rows)

    def _prepare(self, job: Job) -> Learned:
        victim, concept = job.victim, job.concept
        scale = guidance_for(concept, self.guidance)
        shown = self._show(job)
        x0 = inversion.latents_of(victim.pipe, victim.generate_undefended(shown, steps=self.draw_steps, guidance=scale))
        guided = scale if self.adaptive and victim.guarded else 0.0
        try:
            return self._invert(job, shown, x0, guided)
        except Unsupported as error:
            if not guided:
                raise
            warnings.warn(
                f"attacked past the guards, for one cannot be learned through: {error}", UntrustedResult, stacklevel=2
            )
            return self._invert(job, shown, x0, 0.0)

    def _invert(self, job: Job, shown: Sequence[Prompt], x0: Any, guided: float) -> Learned:
        how = Inversion(init=job.concept.hypernyms.train[0], vectors=self.vectors, steps=self.steps, lr=self.lr,
                        decay=self.decay, weight_decay=self.weight_decay, batch=self.batch, times=self.times,
                        bare=self.bare, guided=guided)  # fmt: skip
        said = [reworded(job.concept, prompt, "{}") for prompt in shown]
        words = [thing_asked(job.concept, prompt) for prompt in shown] if self.start == "words" else []
        rows = inversion.invert(
            job.victim.pipe, x0, how, work=job.work / "inversion", captions=said, words=words, seed=job.seed + APART,
            progress=lambda stage, done, total: job.tick(done / total),
        )  # fmt: skip
        spent = self._train(guided=bool(guided))
        job.victim.count(encodings=spent.encodings, forwards=spent.forwards, backwards=spent.backwards)
        return Learned(rows, inversion.thing_rows(job.victim.backbone, words)[1] if words else {})

    def _find(self, job: Job, prompts: list[Prompt], shared: Learned) -> list[Found]:
        return [Found(self._describe(job.concept, prompt, shared), words=shared.rows) for prompt in prompts]

    def _describe(self, concept: Concept, prompt: Prompt, learned: Learned) -> str:
        """The prompt with the embeddings' names; a thing that no image showed has those of the first."""
        first = next(iter(learned.places.values()), range(self.vectors))
        name = " ".join(f"<c*{place}>" for place in learned.places.get(thing_asked(concept, prompt), first))
        return f"{name} {prompt.text}" if self.place == "before" else reworded(concept, prompt, name)

    def _show(self, job: Job) -> list[Prompt]:
        return job.concept.prompts("plain", "train", self.images, job.seed + APART)
