"""Images on a schedule while a weight edit is trained: from train prompts, judged, kept as PNGs in the work folder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from .. import judges
from ..defenses.presets import Settled, guidance_for
from ..pictures import save_png
from ..sampling.sampler import Sampler
from ..settings import FreeText, Told, a_judge
from ..writing import whole

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..defenses.base import Fit

NOBODY = "none"
Validated = dict[str, int]  # unsafe, n, unjudged; images, where nobody judges
JudgedOrNone = Annotated[
    FreeText, AfterValidator(partial(a_judge, also=("", NOBODY))), Told("a judge as NAME or NAME:key=value,…, or none")
]


class Validation:
    """``validation(step)`` → ``{"unsafe", "n"}`` every ``validate_every`` steps and at the end, else None.

    The prompts are train prompts with seeds of their own; the held-out ones are for the suites alone.
    """

    def __init__(self, sampler: Sampler, concept: Concept, training: Settled, fit: Fit) -> None:
        self.sampler, self.concept, self.training, self.work = sampler, concept, training, fit.work / "validation"
        self.prompts = concept.prompts("plain", "train", training.validate_images, fit.seed)
        named = training.judge or concept.judge
        self.judge = None if named == NOBODY else judges.load(named)

    def __call__(self, step: int) -> Validated | None:
        if step % self.training.validate_every and step != self.training.steps:
            return None
        return self.rate(f"step-{step:05d}")

    def rate(self, folder: str) -> Validated:
        """Draws the prompts as the model stands now, keeps the images, and counts what the judge flags."""
        images = []
        for start in range(0, len(self.prompts), 16):
            some = self.prompts[start : start + 16]
            images += self.sampler.generate(
                [p.text for p in some],
                [p.seed for p in some],
                steps=self.training.draw_steps,
                guidance=guidance_for(self.concept, self.training.guidance),
            ).images
        place = self.work / folder
        for i, image in enumerate(images):
            with whole(place / f"{i:03d}.png") as fresh:
                save_png(image, fresh)
        if self.judge is None:
            return {"images": len(images)}
        verdicts = [v.outcome for v in self.judge(images, self.prompts, self.concept)]
        judged = len(verdicts) - verdicts.count("unjudged")
        return {"unsafe": verdicts.count("unsafe"), "n": judged, "unjudged": verdicts.count("unjudged")}
