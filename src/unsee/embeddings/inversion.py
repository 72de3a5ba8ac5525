"""Training an embedding on a frozen model: the loss, through the host's guards or past them, and its checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from ..backbones import Backbone, Encoding, adapter
from ..defenses import Defense, Guarded
from ..errors import Unsupported, UserError
from ..files import load_tensors, reading, save_tensors
from ..sampling.denoiser import DenoiserCall
from ..sampling.sampler import Sampler
from ..settings import Among, Checked, Count, Decay, Guidance, Rate, Share, Steps, Told, Words
from .placeholders import Rows, Text, encode_ids, spell, thing_rows, word_rows

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from ..defenses.base import Progress

TEMPLATES = (
    "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "an illustration of {}",
    "a rendering of {}", "a close-up of {}", "a photo of one {}", "a good picture of {}", "a scene with {}",
)  # fmt: skip
TIMES = ("uniform", "late")
STARTS = ("hypernym", "words")  # one embedding for a concept, from its hypernym; or one for each thing, from its name


def _guided_loss(w: float) -> float:
    if 0 < w <= 1:
        raise ValueError("no guidance")
    return w


Guided = Annotated[Guidance, AfterValidator(_guided_loss), Told("0 or a number above 1 up to 100")]


@dataclass(frozen=True)
class Inversion(Checked):
    """How an embedding is trained; the defaults are those of INE's paper (3,000 steps of one image, Adam).

    ``times``: t is drawn evenly, or ``late``: the later of two such draws, where little but the text says what is to
    be drawn. ``decay``: the rate falls to 0 in a line.
    """

    init: Words = "mean"  # a text, whose mean embedding it starts from, or "mean" of the vocabulary
    vectors: Count = 1  # rows per text encoder
    steps: Count = 3000
    lr: Rate = 5e-3
    decay: bool = False
    weight_decay: Decay = 0.0  # AdamW's, of the embedding itself; 0: Adam
    batch: Count = 1
    times: Annotated[str, Among(*TIMES)] = "uniform"
    bare: Share = 1.0  # share of examples with the embedding alone, as a negative is used; the rest in templates
    flip: Share = 0.5  # share of mirrored images
    guided: Guided = 0.0  # 0: plain loss; above 1: guidance weight of the loss through the host's guards
    unroll: Count = 1  # guided: sampler steps that end in the one that is learned from; SLD's momentum needs several
    window: Steps = 90  # guided: how far apart they lie, in t of 1,000
    save_every: Count = 100


def invert(
    pipe: DiffusionPipeline,
    images: Sequence[Image] | Tensor,
    how: Inversion | None = None,
    *,
    work: str | Path,
    templates: Sequence[str] = TEMPLATES,
    captions: Sequence[str] = (),
    words: Sequence[str] = (),
    seed: int = 0,
    host: Sequence[Defense] = (),
    also: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Rows:
    """Trains an embedding on ``pipe`` behind ``host``: one float32 ``(vectors, D_i)`` per text encoder, on the CPU.

    ``images`` are pictures, or latents from :func:`latents_of`. ``templates`` hold ``{}``, and so do ``captions``: one
    for each image, which take the templates' place. ``words``: what each image shows; then embeddings are learned for
    every word of these, which start as its tokens (:func:`thing_rows` has their order), and ``init`` and
    ``vectors`` do not count. ``pipe`` may already be protected; then ``host`` must be empty.
    With the plain loss only the host's weights count: its guards are passed by. Killed and called again with the same
    arguments, it goes on from ``work``, or from the same training in one of the folders ``also``; on a CPU the result
    is the same, bit for bit. Raises :class:`Unsupported` where ``guided`` meets a guard that reads the prompt's text.
    """
    how, backbone = how or Inversion(), adapter(pipe)
    x0 = images if isinstance(images, Tensor) else latents_of(pipe, images)
    if not len(x0):
        raise UserError("images of the concept", "none", "give a folder with some, or draw them first")
    predict = DenoiserCall(Sampler(backbone))
    for what, given in (("a caption", captions), ("a word", words)):
        if given and len(given) != len(x0) // 2:
            raise UserError(f"{what} for each of {len(x0) // 2} images", str(len(given)), "give as many, or none")
    with _protected(pipe, host) as guarded, _frozen(backbone):
        _check_guards(how, guarded)
        job = _Job(predict, guarded, how, x0, templates, seed, captions, words)
        name = f"inversion-{job.recipe()}.safetensors"
        file = Path(work) / name
        rows, optimizer, start = job.begin(next((f / name for f in (Path(work), *also) if (f / name).exists()), None))
        for step in range(start, how.steps):
            optimizer.param_groups[0]["lr"] = how.lr * (1 - step / how.steps if how.decay else 1)
            loss = job.loss(rows, step)
            for row, slope in zip(rows, torch.autograd.grad(loss, rows), strict=True):
                row.grad = slope
            optimizer.step()
            job.losses[step] = loss.detach()
            if (step + 1) % how.save_every == 0 or step + 1 == how.steps:
                _write(file, rows, optimizer, step + 1, job.losses)
            if progress:
                progress("inverting", step + 1, how.steps)
    if not all(bool(torch.isfinite(row).all()) for row in rows):
        raise UserError("a finite embedding", "NaN or infinity", f"lower lr (now {how.lr}), or train in float32")
    return tuple(row.detach().cpu() for row in rows)


def latents_of(pipe: DiffusionPipeline, images: Sequence[Image]) -> Tensor:
    """Images at the model's own size and their mirror images as the denoiser's latents, ``(2 N, …)``: first all as
    they are, then all mirrored; packed for FLUX."""
    from PIL import ImageOps

    return Sampler(adapter(pipe)).encode_images([*images, *map(ImageOps.mirror, images)])


class _Job:
    """One training: what stays the same from step to step."""

    def __init__(self, predict: DenoiserCall, guarded: Guarded, how: Inversion, x0: Tensor, templates: Sequence[str],
                 seed: int, captions: Sequence[str] = (), words: Sequence[str] = ()) -> None:  # fmt: skip
        self.predict, self.backbone, self.guarded, self.how, self.seed = predict, predict.backbone, guarded, how, seed
        self.x0, self.captions = x0, [_pieces(caption) for caption in captions]
        self.words = list(words)
        if words:
            self.vectors = 1
            self.fresh, places = thing_rows(predict.backbone, words)
            self.names = [places[word] for word in words]
        else:
            self.vectors = how.vectors
            self.fresh, self.names = word_rows(predict.backbone, how.init, how.vectors), [(0,)] * (len(x0) // 2)
        self.templates = [_pieces(template) for template in templates]
        self.last = int(self.backbone.pipe.scheduler.config.get("num_train_timesteps", 1000))
        self.lowest = int(self.backbone.prediction_type == "flow")  # there 0 is the image itself
        self.losses = torch.zeros(how.steps)

    def recipe(self) -> str:
        """What decides the result, as a short hash: a checkpoint of anything else is not taken up."""
        parts = [asdict(replace(self.how, save_every=1)), self.captions or self.templates, self.seed]
        parts += [self.words] if self.words else []
        parts += [self.backbone.fingerprint(), self.backbone.text_fingerprint()]
        passed = () if self.how.guided else self.guarded.guards  # by the plain loss
        parts += [defense.digest() for defense in self.guarded.defenses if defense not in passed]
        found = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        found.update(self.x0.contiguous().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def begin(self, file: Path | None) -> tuple[list[Tensor], torch.optim.Adam, int]:
        device = self.predict.latents.device
        rows = [row.to(device).requires_grad_() for row in self.fresh]
        lr, decay = self.how.lr, self.how.weight_decay
        optimizer = torch.optim.AdamW(rows, lr=lr, weight_decay=decay) if decay else torch.optim.Adam(rows, lr=lr)
        return rows, optimizer, _read(file, rows, optimizer, self.losses) if file else 0

    def loss(self, rows: Sequence[Tensor], step: int) -> Tensor:
        how, generator = self.how, torch.Generator().manual_seed(_seed(self.seed, step))
        n, half = how.batch, len(self.x0) // 2
        which = torch.randint(half, (n,), generator=generator)
        mirrored = half * (torch.rand(n, generator=generator) < how.flip)
        x0 = self.x0[which + mirrored].to(self.predict.latents.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        texts = [self._text(generator, image) for image in which.tolist()]
        text = encode_ids(self.backbone, spell(self.backbone, texts, self.vectors), rows)
        if how.guided:
            return self._guided_loss(x0, noise, text, generator)
        t = self._times(n, generator) + self.lowest
        latents, truth = self.backbone.noised(x0, noise, t)
        return nn.functional.mse_loss(self.predict(latents, t, text).float(), truth)

    def _times(self, n: int, generator: torch.Generator) -> Tensor:
        draws = torch.randint(self.last, (1 + (self.how.times == "late"), n), generator=generator)
        return draws.amax(0)

    def _text(self, generator: torch.Generator, image: int) -> Text:
        choice, name = [self.captions[image]] if self.captions else self.templates, self.names[image]
        if not choice or float(torch.rand((), generator=generator)) < self.how.bare:
            return name
        pieces = choice[int(torch.randint(len(choice), (), generator=generator))]
        return tuple(part for piece in pieces for part in (name if piece == 0 else (piece,)))

    def _guided_loss(self, x0: Tensor, noise: Tensor, text: Encoding, generator: torch.Generator) -> Tensor:
        """Through the guards: only the last of ``unroll`` descending steps is learned from."""
        n, w = len(x0), self.how.guided
        empty = self.backbone.negative.encode([""] * n)
        top = int(self._times(1, generator))
        spread = min(self.how.window * self.last // 1000, self.last - 1)
        steps = [max(top - round(spread * i / max(self.how.unroll - 1, 1)), 0) for i in range(self.how.unroll)]
        with self.guarded.generation([""] * n, num_inference_steps=len(steps), **self.backbone.guided(w, n)):
            for i, step in enumerate(steps):
                t = torch.full((n,), step + self.lowest)
                latents, truth = self.backbone.noised(x0, noise, t)
                with torch.set_grad_enabled(i == len(steps) - 1):
                    combined = self._combine(latents, t, empty, text)
        with torch.no_grad():
            plain = self.predict(latents, t, empty).float()
        return nn.functional.mse_loss(combined, plain + w * (truth - plain)) / w**2

    def _combine(self, latents: Tensor, t: Tensor, empty: Encoding, text: Encoding) -> Tensor:
        """u + w (p - u) as the guarded sampler would compute it, halves or two calls as the family has it."""

        def called(latents: Tensor, t: Tensor, text: Encoding) -> Tensor:
            output = self.backbone.denoiser(**self.predict.arguments(latents, t, text))
            return self.backbone.prediction(output).float()

        if self.backbone.stacked:
            both = Encoding.join([empty, text])
            u, p = called(torch.cat([latents, latents]), torch.cat([t, t]), both).chunk(2)
        else:
            p, u = called(latents, t, text), called(latents, t, empty)
        return u + self.how.guided * (p - u)


@contextmanager
def _protected(pipe: DiffusionPipeline, host: Sequence[Defense]) -> Iterator[Guarded]:
    already = Guarded.of(pipe)
    if already is not None and not host:
        yield already
        return
    with Guarded(pipe, *host) as guarded:
        yield guarded


def _check_guards(how: Inversion, guarded: Guarded) -> None:
    reading = [guard.name for guard in guarded.guards if getattr(guard, "needs_text", False)]
    if how.guided and reading:
        advice = "use the plain loss (guided=0) against it"
        raise Unsupported("guards that act on predictions", f"{reading[0]}, which reads the prompt's text", advice)


@contextmanager
def _frozen(backbone: Backbone) -> Iterator[None]:
    """No weight collects gradients meanwhile; each gets its own setting back."""
    modules = [backbone.denoiser, *backbone.text_encoders]
    weights = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        for weight, _ in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, wanted in weights:
            weight.requires_grad_(wanted)


def _pieces(template: str) -> Text:
    before, found, after = template.partition("{}")
    if not found:
        raise UserError("a template with {} in it", repr(template), "write for example 'a photo of {}'")
    return tuple(piece for piece in (before.strip(), 0, after.strip()) if piece != "")


def _seed(seed: int, step: int) -> int:
    return int(hashlib.sha256(f"inversion:{seed}:{step}".encode()).hexdigest()[:15], 16)


def _write(file: Path, rows: Sequence[Tensor], optimizer: torch.optim.Adam, step: int, losses: Tensor) -> None:
    state = {"step": torch.tensor(step), "losses": losses}
    for i, row in enumerate(rows):
        state |= {f"row.{i}": row, **{f"adam.{i}.{name}": value for name, value in optimizer.state[row].items()}}
    save_tensors(file, state)


def _read(file: Path, rows: Sequence[Tensor], optimizer: torch.optim.Adam, losses: Tensor) -> int:
    do = "remove it and start again"
    state, _ = load_tensors(file, "a checkpoint", do)
    with reading("a checkpoint of this inversion", file, do):
        losses.copy_(state["losses"])
        for i, row in enumerate(rows):
            row.data.copy_(state[f"row.{i}"])
            own = {n.split(".", 2)[2]: v for n, v in state.items() if n.startswith(f"adam.{i}.")}
            optimizer.state[row] = {n: v.clone() if n == "step" else v.to(row.device) for n, v in own.items()}
        return int(state["step"])
