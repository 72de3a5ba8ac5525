"""A protected pipeline as an attacker meets it: what may be asked of it, and a count of what was.

White-box attacks ask through :meth:`Victim.losses`: what would the *guarded* sampler's next step be worth, with
gradients through every guard? Where guards act, the compared prediction is the combined one,

    u + w (p - u)   against   u0 + w (y - u0)        (divided by w², so that without guards it is |p - y|²)

p and u as the guards leave them, u0 what the same weights predict for the empty text without guards, y the truth.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbones import Encoding
from ..defenses.protection import Guarded
from ..embeddings import encode_ids
from ..errors import Unsupported
from ..sampling.denoiser import DenoiserCall
from ..sampling.sampler import Sampler, generate
from ..types import Sees, Spent

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from ..types import Prompt

ROWS = 256  # texts, or rows of the denoiser, at once: bounds memory, not content


@contextmanager
def facing(pipe: DiffusionPipeline) -> Iterator[Victim]:
    """The victim that ``pipe`` is: as it is protected now, or bare."""
    guarded = Guarded.of(pipe)
    if guarded is not None:
        yield Victim(guarded)
        return
    with Guarded(pipe) as guarded:
        yield Victim(guarded)


class Victim:
    """What an attack may ask. Made by :func:`facing`."""

    def __init__(self, guarded: Guarded) -> None:
        self.pipe, self.backbone, self._guarded = guarded.pipe, guarded.backbone, guarded
        self._spent = Spent()

    @property
    def guarded(self) -> bool:
        """Whether anything acts while an image is made, so that the plain loss is not the whole story."""
        return bool(self._guarded.guards)

    def take(self) -> Spent:
        """What was spent since the last time this was asked."""
        spent, self._spent = self._spent, Spent()
        return spent

    def count(self, **spent: float) -> None:
        """Adds to what was spent; for what an attack asks of the pipeline by other ways."""
        self._spent += Spent(**spent)

    def mark(self, sees: Sees) -> list[str]:
        """What an attack's result can depend on, as hashes."""
        marks = [hashlib.sha256(str(sorted(t.get_vocab().items())).encode()).hexdigest()[:16]
                 for t in self.backbone.tokenizers]  # fmt: skip
        if sees != "words":
            marks += [_sums(encoder) for encoder in self.backbone.text_encoders]
        if sees in ("model", "images"):
            marks += [self.backbone.fingerprint(), *(d.digest() for d in self._guarded.defenses)]
            marks += [str(sorted(self.pipe.scheduler.config.items(), key=str))]
        return marks

    # ---- text ----

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Texts as the denoiser gets them, without gradients; at most 256 at once."""
        self.count(encodings=len(texts))
        parts = [self.backbone.encode(texts[i : i + ROWS]) for i in range(0, len(texts), ROWS)]
        return Encoding.join(parts)

    @functools.cached_property
    def empty(self) -> Encoding:
        """The empty text, one row, as the pipeline reads it in the negative's place."""
        self.count(encodings=1)
        return self.backbone.negative.encode([""])

    def read(self, ids: Sequence[Tensor], rows: Sequence[Tensor]) -> Encoding:
        """Spelled texts, with gradients in the embeddings ``rows`` that they name."""
        self.count(encodings=len(ids[0]))
        return encode_ids(self.backbone, ids, rows)

    # ---- images ----

    def generate(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> list[Image]:
        """What the protected pipeline draws, each prompt from its own seed."""
        self.count(images=len(prompts))
        texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
        return generate(self.pipe, texts, seeds, steps=steps, guidance=guidance).images

    def generate_undefended(self, prompts: Sequence[Prompt], *, steps: int, guidance: float) -> list[Image]:
        """What the original model draws: the images an attacker brings along."""
        with self.undefended():
            parts = [self.generate(prompts[i : i + 16], steps=steps, guidance=guidance)
                     for i in range(0, len(prompts), 16)]  # fmt: skip
        return [image for part in parts for image in part]

    @contextmanager
    def undefended(self) -> Iterator[None]:
        """Until the end the pipeline is the original one, which a white-box attacker has too."""
        if type(self.pipe).__name__ != self.backbone.pipelines[0]:
            raise Unsupported(self.backbone.pipelines[0], type(self.pipe).__name__, "attack its text-to-image form")
        with self._guarded.lifted():
            yield

    def latents(self, images: Sequence[Image]) -> Tensor:
        """Images as latents, as the denoiser takes them, ``(n, …)``."""
        return Sampler(self.backbone).encode_images(images).to(self.pipe._execution_device)

    # ---- predictions ----

    def noised(self, x0: Tensor, noise: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """(latents at ``t``, the true prediction for them, in the model's own kind)."""
        return self.backbone.noised(x0, noise, self._times(len(x0), t))

    @property
    def last(self) -> int:
        """Times are 0 … last - 1; noise is at the end."""
        return int(self.pipe.scheduler.config.get("num_train_timesteps", 1000))

    def predict(self, latents: Tensor, t: int, text: Encoding) -> Tensor:
        """The weights' own prediction, past all guards."""
        self.count(forwards=len(latents))
        return self.backbone.prediction(self.backbone.denoiser.forward(**self._values(latents, t, text))).float()

    def losses(self, latents: Tensor, t: int, text: Encoding, said: Sequence[str], truth: Tensor,
               guidance: float = 0.0) -> Tensor:  # fmt: skip
        """Mean squared error of each row's prediction, ``(n,)``; see the module. ``said`` is the text as words.

        ``guidance`` w above 1 goes through the guards; 0 passes them by, and then only weights count.
        """
        if torch.is_grad_enabled():
            self.count(backwards=len(latents))
        if not guidance or not self.guarded:
            return _errors(self.predict(latents, t, text), truth)
        empty = self.empty.rows([0] * len(latents))
        with torch.no_grad():
            plain = self.predict(latents, t, empty)
        combined = self._combine(latents, t, text, empty, said, guidance)
        return _errors(combined, plain + guidance * (truth - plain)) / guidance**2

    def _combine(self, latents: Tensor, t: int, text: Encoding, empty: Encoding, said: Sequence[str],
                  w: float) -> Tensor:  # fmt: skip
        """u + w (p - u) as the guarded sampler computes it in a first step at ``t``."""
        denoiser, predicted = self.backbone.denoiser, self.backbone.prediction
        self.count(forwards=2 * len(latents))
        more = self.backbone.guided(w, len(said))
        with self._guarded.generation(list(said), reads=text, num_inference_steps=1, **more):
            if self.backbone.stacked:
                both = self._values(torch.cat([latents, latents]), t, Encoding.join([empty, text]))
                u, p = predicted(denoiser(**both)).float().chunk(2)
            else:
                p = predicted(denoiser(**self._values(latents, t, text))).float()
                u = predicted(denoiser(**self._values(latents, t, empty))).float()
        return u + w * (p - u)

    def _values(self, latents: Tensor, t: int, text: Encoding) -> dict[str, Any]:
        """The denoiser's arguments, as the pipeline gives them, with these in their places."""
        return self._predictor.arguments(latents, self._times(len(latents), t), text)

    def _times(self, n: int, t: int) -> Tensor:
        """``t`` of 0 … last - 1 on the scheduler's scale, which for flow models ends at last."""
        return torch.full((n,), t + 1 if self.backbone.prediction_type == "flow" else t)

    @functools.cached_property
    def _predictor(self) -> DenoiserCall:
        return DenoiserCall(Sampler(self.backbone))


def flat(encoding: Encoding) -> Tensor:
    """Tokens and pooled embedding as one float32 row per text, ``(B, L D + P)``."""
    tokens = encoding.tokens.float().flatten(1)
    return tokens if encoding.pooled is None else torch.cat([tokens, encoding.pooled.float()], 1)


def _errors(predicted: Tensor, truth: Tensor) -> Tensor:
    return (predicted - truth.to(predicted)).square().flatten(1).mean(1)


def _sums(module: torch.nn.Module) -> str:
    """A hash of every weight's sum: an edit of the text encoder changes it."""
    with torch.no_grad():
        sums = [float(p.sum(dtype=torch.float64)) for p in module.parameters()]
    return hashlib.sha256(str(sums).encode()).hexdigest()[:16]
