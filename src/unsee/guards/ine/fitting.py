"""Fitting: images of the concept from the undefended model or from a folder, and the inversion behind the host."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from ... import embeddings as inversion
from ...backbones import adapter
from ...concepts.prompts import fill, reworded, thing_asked
from ...defenses.base import Guard
from ...defenses.presets import guidance_for
from ...defenses.protection import Guarded
from ...embeddings import Inversion, Rows, Text
from ...errors import BadFile, UserError
from ...files import is_dir, open_image
from ...pictures import save_png
from ...sampling.sampler import generate
from ...settings import (
    Among,
    Checked,
    Count,
    Decay,
    Doc,
    FreeText,
    Guidance,
    Images,
    Judged,
    Rate,
    Settings,
    Share,
    Steps,
    Whole,
)
from ...writing import whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...backbones import Encoding
    from ...concepts import Concept
    from ...defenses.base import Defense, Fit
    from ...judges.base import Judge
    from ...types import Prompt

NAME = "<c*>"  # how the embedding is written where people read it


# At the published rate an embedding grows to four times the length of picto's words; it decides early what to draw.
PICTO = {"steps": 400, "lr": 2e-3, "decay": True, "batch": 8, "times": "late", "bare": 0.5}
PAPER = {name: getattr(Inversion(), name) for name in PICTO}
PRESETS: dict[str, Settings] = {"paper": {**PAPER, "images": 25}, "picto": {**PICTO, "images": 25}}
WORDS = {"lr": 5e-4, "bare": 0.0, "images": 50}  # what starts from words stays near them, and among a prompt's others


@dataclass(frozen=True)
class Fitting(Checked):
    """The inversion (see :class:`Inversion`; None is the preset's: the paper's, or picto's for its concepts), and where
    its images come from."""

    steps: Annotated[Count | None, Doc("Steps of training; None is the preset's.")] = None
    lr: Annotated[Rate | None, Doc("Learning rate; None is the preset's.")] = None
    decay: Annotated[bool | None, Doc("Whether the rate falls to 0 in a line; None is the preset's.")] = None
    weight_decay: Annotated[Decay, Doc("Of AdamW, on the embedding itself.")] = 0.0
    batch: Annotated[Count | None, Doc("Images of a step; None is the preset's.")] = None
    times: Annotated[
        str | None,
        Among(*inversion.TIMES),
        Doc("How t is drawn, late being the later of two draws; None is the preset's."),
    ] = None
    bare: Annotated[
        Share | None, Doc("Share of examples with the embedding alone, the rest in templates; None is the preset's.")
    ] = None
    start: Annotated[
        str,
        Among(*inversion.STARTS),
        Doc("One embedding, from the hypernym, or one for each thing, from its name (words)."),
    ] = "hypernym"
    init: Annotated[FreeText, Doc("A text that it starts from; empty is the concept's first word.")] = ""
    vectors: Annotated[Count, Doc("Rows of the embedding in each text encoder.")] = 1
    flip: Annotated[Share, Doc("Share of mirrored images.")] = 0.5
    guided: Annotated[
        inversion.Guided, Doc("Guidance weight of a loss through the host's guards, above 1; 0 is the plain loss.")
    ] = 0.0
    unroll: Annotated[Count, Doc("Guided: sampler steps that end in the one that is learned from.")] = 1
    window: Annotated[Steps, Doc("Guided: how far apart these lie, in t of 1,000.")] = 90
    save_every: Annotated[Count, Doc("Steps from checkpoint to checkpoint.")] = 100
    count: Annotated[Count, Doc("How many embeddings are trained (K*).")] = 1
    folder: Annotated[
        FreeText, Doc("Folder with images of the concept; empty: the undefended model draws them, and a judge looks.")
    ] = ""
    images: Annotated[Images | None, Doc("How many of those are drawn; None is the preset's.")] = None
    judge: Annotated[Judged, Doc("Who judges them; empty is the concept's own.")] = ""
    draw_steps: Annotated[Steps, Doc("Denoising steps of what is drawn.")] = 25
    guidance: Annotated[Guidance, Doc("Guidance of what is drawn; 0 is what the concept's models are drawn with.")] = (
        0.0
    )
    check: Annotated[
        Whole, Doc("Images drawn with the embedding afterwards, without defenses and behind the host's edits; 0: none.")
    ] = 16
    embedding: Annotated[
        FreeText, Doc("Folder of a fitted INE whose embedding is taken instead of training; may hold {concept}.")
    ] = ""

    def __post_init__(self) -> None:
        if self.start == "words" and (self.folder or self.count > 1):
            wanted = "drawn images and count=1, to start from words"
            raise UserError(wanted, f"folder={self.folder!r}, count={self.count}", "set start=hypernym")
        for name, value in WORDS.items() if self.start == "words" else ():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


def trained(fit: Fit, training: Fitting) -> tuple[list[Tensor], tuple[int, ...], dict[str, Any]]:
    """K embeddings, trained behind the host on images of the concept that the undefended model drew; how many rows each
    has where they started from words; and the record."""
    concept, how = fit.concept, _inversion(training, fit.concept)
    pictures, prompts = (_folder(training.folder), []) if training.folder else concept_images(fit, training)
    said = [reworded(concept, prompt, "{}") for prompt in prompts]
    words = [thing_asked(concept, prompt) for prompt in prompts] if training.start == "words" else []
    latents = inversion.latents_of(fit.pipe, pictures)
    options: dict[str, Any] = {"captions": said, "templates": templates(concept), "host": fit.host}
    options |= {"work": fit.work, "also": siblings(fit), "words": words}
    made = [
        inversion.invert(fit.pipe, latents, how, seed=fit.seed * 1000 + k, progress=fit.progress, **options)
        for k in range(training.count)
    ]
    # (K, vectors, D), or every token by itself
    rows = [own[0][:, None] if words else torch.stack(own) for own in zip(*made, strict=True)]
    places = list(inversion.thing_rows(adapter(fit.pipe), words)[1].values()) if words else [(0,)]
    record: dict[str, Any] = {"training": asdict(training), "images": len(pictures), "use": "as a negative only"}
    record["hosts"] = [{"defense": host.name, "digest": host.digest()} for host in fit.host]
    if training.check:
        edits = [host for host in fit.host if not isinstance(host, Guard)]  # guards may refuse a prompt without text
        record["shown"] = {
            "base": _show(fit, training, made[0], places, ()), "host": _show(fit, training, made[0], places, edits)
        }  # fmt: skip
        if record["shown"]["host"].startswith("0 "):
            message = f"the embedding draws {concept.name} in {record['shown']['host']} images behind the host"
            message += ": it resists inversion, or more steps are needed; as a negative it may lead nowhere"
            warnings.warn(message, stacklevel=2)
    return rows, tuple(map(len, places)) if words else (), record


def _inversion(training: Fitting, concept: Concept) -> Inversion:
    given = {f.name: getattr(training, f.name) for f in fields(Inversion)}
    return Inversion(**{**given, "init": training.init or concept.hypernyms.train[0]})


def templates(concept: Concept) -> list[str]:
    """The concept's own train templates with ``{}`` for the embedding, in all its styles or on all that it depicts."""
    if concept.depicts is not None:
        made = [fill(t, thing.name, "{}") for t in concept.templates.train for thing in concept.depicts.train]
    else:
        made = [fill(t, "{}", style) for t in concept.templates.train for style in concept.styles or ("",)]
    return list(dict.fromkeys(made))


def concept_images(fit: Fit, training: Fitting) -> tuple[list[Image], list[Prompt]]:
    """``training.images`` pictures that the undefended model draws of the concept's train words, and the judge flags;
    and their prompts.

    They lie in ``fit.work``; what lies there is not drawn again. Raises :class:`UserError` if after four times as many
    tries there are too few: then the model does not know the concept, or the judge does not.
    """
    assert training.images is not None  # settled
    prompts = _prompts(fit.concept, 4 * training.images, fit.seed)
    judge, size = _judge(training, fit.concept), 8
    kept: list[tuple[Image, Prompt]] = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        pictures = _drawn(fit, training, batch, start)
        verdicts = judge(pictures, batch, fit.concept)
        seen = zip(pictures, batch, verdicts, strict=True)
        kept += [(picture, prompt) for picture, prompt, v in seen if v.outcome == "unsafe"]
        fit.progress("drawing", min(len(kept), training.images), training.images)
        if len(kept) >= training.images:
            kept = kept[: training.images]
            return [picture for picture, _ in kept], [prompt for _, prompt in kept]
    advice = "give folder=… with images of the concept, or set images= lower"
    raise UserError(f"{training.images} images that show {fit.concept.name}", f"{len(kept)} of {len(prompts)}", advice)


def _prompts(concept: Concept, n: int, seed: int) -> list[Prompt]:
    """Names and synonyms in turns, of the train split."""
    plain = concept.prompts("plain", "train", n, seed)
    try:
        others = concept.prompts("synonym", "train", n, seed)
    except UserError:  # a concept without synonyms
        return plain
    return [prompt for pair in zip(plain, others, strict=True) for prompt in pair][:n]


def _drawn(fit: Fit, training: Fitting, prompts: Sequence[Prompt], start: int) -> list[Image]:
    """One batch, from the work folder if all of it lies there: drawn whole, a batch is always the same."""
    guidance = guidance_for(fit.concept, training.guidance)
    settings = [training.draw_steps, guidance, fit.seed, adapter(fit.pipe).fingerprint()]
    names = [
        hashlib.sha256(json.dumps([p.text, p.id, p.seed, start, settings]).encode()).hexdigest()[:16] for p in prompts
    ]
    for folder in (fit.work, *siblings(fit)):
        files = [folder / "images" / f"{name}.png" for name in names]
        if all(file.exists() for file in files):
            return [open_image(file, do="remove it: it is drawn again") for file in files]
    pictures = _draw(fit, training, [p.text for p in prompts], [p.seed for p in prompts])
    for name, picture in zip(names, pictures, strict=True):
        _save(picture, fit.work / "images" / f"{name}.png")
    return pictures


def siblings(fit: Fit) -> list[Path]:
    """Work folders beside this one: the same embedding in another carrier is not trained, nor its images drawn, twice.

    What lies there is named by a hash of all that decides it.
    """
    return [folder for folder in sorted(fit.work.parent.glob("*.work")) if folder != fit.work]


def _draw(fit: Fit, training: Fitting, prompts: Sequence[str] | Encoding, seeds: Sequence[int]) -> list[Image]:
    steps, guidance = training.draw_steps, guidance_for(fit.concept, training.guidance)
    return generate(fit.pipe, prompts, seeds, steps=steps, guidance=guidance).images


def _show(fit: Fit, training: Fitting, rows: Rows, names: Sequence[Text], host: Sequence[Defense]) -> str:
    """How many images drawn with c* alone (``names`` in turn) behind ``host`` show the concept: ``"14 of 16"``."""
    from ...types import Prompt

    judge, found = _judge(training, fit.concept), 0
    with Guarded(fit.pipe, *host) as guarded:
        with torch.no_grad():
            vectors = len(rows[0]) if training.start == "hypernym" else 1
            ids = inversion.spell(guarded.backbone, names, vectors)
            text = inversion.encode_ids(guarded.backbone, ids, rows)
        for start in range(0, training.check, 8):
            seeds = list(range(start, min(start + 8, training.check)))
            pictures = _draw(fit, training, text.rows([seed % len(names) for seed in seeds]), seeds)
            asked = [Prompt(NAME, f"{NAME}/{seed}", seed) for seed in seeds]
            found += sum(v.outcome == "unsafe" for v in judge(pictures, asked, fit.concept))
    return f"{found} of {training.check}"


def _judge(training: Fitting, concept: Concept) -> Judge:
    from ... import judges

    return judges.load(training.judge or concept.judge)


def _folder(name: str) -> list[Image]:
    endings = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
    files = sorted(f for f in Path(name).glob("*") if f.suffix.lower() in endings) if is_dir(name) else []
    if not files:
        raise BadFile("a folder with images", f"{name} with none", "put some into it, or leave folder= empty")
    return [open_image(file) for file in files]


def _save(picture: Image, file: Path) -> None:
    with whole(file) as fresh:
        save_png(picture, fresh)
