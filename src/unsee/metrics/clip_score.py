"""CLIP score: how well an image matches a text. By a real CLIP of the user's, or by picto's own under its own name.

Paper       Hessel et al., EMNLP 2021, arXiv 2104.08718
Cost        one pass of both towers for each pair
Differs     the factor is 100, as in torchmetrics and the tables of the unlearning papers, not the paper's 2.5. Scores
            of two CLIPs are on two scales: the name says whose it is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..judges.clip_model import BASE, Clip, open_clip
from .base import of_pictures

if TYPE_CHECKING:
    from PIL.Image import Image


class ClipScore:
    """``(images, texts)`` → scores in [0, 100], higher is a better match; None for what is no picture.

    Formula: 100 · max(0, cos(E_image(x), E_text(c))).

    ``model`` is ``picto``, a folder or a hub id; ``clip`` one that is open already. Raises ``UserError`` where there is
    no CLIP.
    """

    name: str
    higher_is_better = True
    range = (0.0, 100.0)

    def __init__(self, model: str = BASE, *, clip: Clip | None = None, device: str = "cpu", batch_size: int = 16):
        self.clip = clip or open_clip(model, device)
        self.name, self.batch_size = f"clip-score-{self.clip.name}", batch_size

    def __call__(self, images: Sequence[Image], texts: Sequence[str]) -> list[float | None]:
        return of_pictures(self._scores, images, texts)

    def _scores(self, images: list[Image], texts: list[str]) -> list[float]:
        pairs: list[tuple[Image, str]] = list(zip(images, texts, strict=True))
        found: list[float] = []
        for start in range(0, len(pairs), self.batch_size):
            seen, said = zip(*pairs[start : start + self.batch_size], strict=True)
            found += (100 * (self.clip.images(seen) * self.clip.texts(said)).sum(-1).clamp(min=0)).tolist()
        return found


class PictoClipScore(ClipScore):
    """The same by picto's CLIP, not on the scale of OpenAI's.

    Formula: 100 · max(0, cos(E_image(x), E_text(c))).
    """

    def __init__(self) -> None:
        super().__init__("picto")
        self.name = "picto-clip-score"
