"""What every family answers. A family's file writes what differs; the shared mathematics is here.

Scales used everywhere:
    t        the scheduler's own timestep, 0 (image) … 1000 (noise); a flow model's sigma is t / 1000
    t_999    the same on 0-999, noise is 999
    latents  what the denoiser is given, i.e. after the scheduler's input scaling. For the diffusion
             families this is the variance-preserving x = alpha x0 + sigma noise, whatever the
             scheduler; for flow models x = (1 - s) x0 + s noise. All conversions take these.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..errors import GuardFailure, Unsupported
from .weights import Projection, fingerprint, projections, unwrap

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

ENDS = ("", "_2", "_3")  # of text_encoder, tokenizer and prompt
Said = str | tuple[str, ...]  # a text, or what each text encoder reads of it
Arguments = dict[str, Any]  # of a pipeline's call, by name
Values = dict[str, Any]  # of a denoiser's call, by name
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample", "flow_prediction": "flow"}


@dataclass(frozen=True)
class Encoding:
    """An encoded text, one row per prompt."""

    tokens: Tensor  # (B, L, D)
    pooled: Tensor | None = None  # (B, P); None where the family has none (SD 1.x, 2.x)
    ids: tuple[Tensor, ...] = ()  # one (B, L_i) per tokenizer
    masks: tuple[Tensor, ...] = ()  # same shapes, 1 = a token that is not padding
    named: tuple[Tensor, ...] = ()  # embeddings that negative ids stand for, (R, D_i) per text encoder
    mask: Tensor | None = None  # (B, L), which tokens the denoiser reads; None where it reads all

    def rows(self, index: Any) -> Encoding:
        """The rows of ``index``: a slice, or a list of row numbers."""
        pooled, mask = (None if part is None else part[index] for part in (self.pooled, self.mask))
        ids, masks = (tuple(part[index] for part in parts) for parts in (self.ids, self.masks))
        return Encoding(self.tokens[index], pooled, ids, masks, self.named, mask)

    def put(self, rows: slice, half: Encoding) -> Encoding:
        """What the denoiser reads, with ``half`` in the place of these rows."""
        parts = [(getattr(self, name), getattr(half, name)) for name in READ]
        tokens, pooled, mask = (None if a is None or b is None else _put_rows(a, rows, b) for a, b in parts)
        assert tokens is not None
        return Encoding(tokens, pooled, mask=mask)

    @staticmethod
    def join(parts: Sequence[Encoding]) -> Encoding:
        """The rows of several encodings, one below the other."""
        if len(parts) == 1:
            return parts[0]
        tokens, pooled, mask = (
            None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts])
            for name in READ
        )
        assert tokens is not None
        ids = tuple(torch.cat(own) for own in zip(*(part.ids for part in parts), strict=False))
        return Encoding(tokens, pooled, ids, mask=mask)

    def arguments(self, prefix: str = "") -> Arguments:
        """Arguments of a pipeline call that draw this instead of a text (``negative_``: have it as the negative)."""
        names = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")
        given = {f"{prefix}{name}": getattr(self, part) for name, part in zip(names, READ, strict=True)}
        return {f"{prefix}prompt": None, **{name: part for name, part in given.items() if part is not None}}


READ = ("tokens", "pooled", "mask")  # what of an encoding reaches the denoiser


@dataclass(frozen=True)
class TextPart:
    """A part of an encoded text that one text encoder has written: rows of the tokens, or the pooled embedding."""

    name: str  # clip, t5, gemma, pooled
    encoder: int  # whose tokens stand there, as :attr:`Backbone.readers` counts
    rows: slice | None  # of the token sequence; None: the pooled embedding
    start: int  # tokens before the first one of the content
    whole: bool  # its summary is the mean of all that is read, else the row at the text's end


class Backbone:
    """A pipeline seen through the questions a method asks. Holds the pipeline, changes nothing in it."""

    family: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]  # class names of the tasks understood, text-to-image first; see task_class
    denoiser_name: ClassVar[str]
    denoiser_class: ClassVar[str]
    stacked: ClassVar[bool] = True  # CFG is one call on [negative, positive]; False: two calls, positive first
    names: ClassVar[dict[str, str]]  # our word → the denoiser's argument: latents, t, tokens
    batched: ClassVar[tuple[str, ...]]  # denoiser arguments whose first dimension is the batch
    refused: ClassVar[tuple[str, ...]] = ("ip_adapter_image", "ip_adapter_image_embeds")
    extras: ClassVar[tuple[str, ...]] = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")
    residuals: ClassVar[tuple[str, ...]] = ()  # denoiser arguments through which another network steers it
    second_encoder: ClassVar[bool] = True  # whether its pipelines have a text_encoder_2
    short_tokens: ClassVar[bool] = True  # whether the denoiser reads CLIP's tokens, not its pooled embedding alone
    closed: ClassVar[bool] = True  # a text ends with a token of its own
    guidance_argument: ClassVar[str] = "guidance_scale"
    least_guidance: ClassVar[float] = 7.5  # where a guard needs some and the pipeline usually has none
    guidance_advice: ClassVar[str] = "call the pipeline with guidance_scale above 1 on a model that is not distilled"

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self._pinned: nn.Module | None = None
        for name in ("transformer_2", "unconditional_transformer"):
            if getattr(pipe, name, None) is not None:
                raise Unsupported("a pipeline with one denoiser", f"one with {name} too", "use another model")

    @classmethod
    def task_class(cls, name: str) -> Any:
        """The class of one of ``pipelines``: of the adapter's own file where that has it, else of diffusers.

        Raises ``AttributeError`` where there is none.
        """
        own = getattr(sys.modules[cls.__module__], name, None)
        if own is not None:
            return own
        import diffusers

        return getattr(diffusers, name)

    # ---- the parts of the pipeline ----

    @property
    def denoiser(self) -> nn.Module:
        """The module that the pipeline calls at each step, as it stands now; of a :meth:`pinned` one, as it stood."""
        return self.current if self._pinned is None else self._pinned

    @property
    def current(self) -> nn.Module:
        """The module that the pipeline holds now. Raises :class:`Unsupported` where it holds none."""
        held = getattr(self.pipe, self.denoiser_name, None)
        if held is None:
            raise Unsupported(f"a pipeline with its {self.denoiser_name}", "none", "put it back, or load it anew")
        return held

    def pinned(self) -> Self:
        """The same, for good on the denoiser that the pipeline holds now, whatever is put in its place."""
        copied = copy.copy(self)
        copied._pinned = self.denoiser
        return copied

    @property
    def config(self) -> Any:
        """The denoiser's configuration."""
        return self.denoiser.config

    @property
    def text_encoders(self) -> list[nn.Module]:
        return self._parts("text_encoder")

    @property
    def tokenizers(self) -> list[PreTrainedTokenizerBase]:
        return self._parts("tokenizer")

    def _parts(self, stem: str) -> list[Any]:
        found = [getattr(self.pipe, stem + end, None) for end in ENDS]
        return [part for part in found if part is not None]

    @property
    def readers(self) -> list[tuple[nn.Module, PreTrainedTokenizerBase]]:
        """(text encoder, its tokenizer), where the pipeline holds both. Raises :class:`Unsupported` without any."""
        found = [[getattr(self.pipe, part + end, None) for part in ("text_encoder", "tokenizer")] for end in ENDS]
        both = [(encoder, tokenizer) for encoder, tokenizer in found if encoder is not None and tokenizer is not None]
        if not both:
            raise Unsupported("a pipeline with its text encoders", "none", "load it with text encoders")
        return both

    @property
    def latent_channels(self) -> int:
        return int(self.pipe.vae.config.latent_channels)

    @property
    def denoiser_channels(self) -> int:
        """Channels of latents as a text-to-image denoiser takes them."""
        return self.latent_channels

    @property
    def has_image_to_image(self) -> bool:
        """Whether diffusers has a pipeline of this family that starts from an image."""
        return len(self.pipelines) > 1

    @property
    def text_dim(self) -> int:
        raise NotImplementedError

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled embedding, 0 where there is none."""
        return 0

    @property
    def tokens(self) -> int:
        """Number of text tokens that the denoiser reads by default."""
        return int(self.pipe.tokenizer.model_max_length)

    @property
    def prediction_type(self) -> str:
        """``epsilon``, ``v``, ``sample`` or ``flow``, from the scheduler the pipeline holds now."""
        given = self.pipe.scheduler.config.get("prediction_type", "epsilon")
        if given not in PREDICTIONS:
            raise Unsupported(f"a prediction type among {', '.join(PREDICTIONS)}", repr(given), "use another scheduler")
        return PREDICTIONS[given]

    # ---- text ----

    def encode(self, prompts: Sequence[Said], *, length: int | None = None) -> Encoding:
        """Encodes each text in every text encoder, LoRA and textual inversion included; of a tuple each encoder
        reads its own (:meth:`said`).

        ``length`` is the T5 length of SD3 and FLUX (the pipeline's ``max_sequence_length``); the others
        ignore it. A negative text is encoded the same way: encode it.
        """
        if not self.text_encoders:
            raise Unsupported("a pipeline with its text encoders", "none", "load it with text encoders")
        columns = self._columns(prompts)
        with torch.no_grad():
            tokens, pooled = self._encode(columns[0], length, *columns[1:])
        ids, masks = self._tokenize(columns, length)
        return Encoding(tokens, pooled, ids, masks, mask=self.mask(ids))

    @property
    def negative(self) -> Self:
        """The same, reading texts as the pipeline reads a negative prompt, where that differs."""
        return self

    def of_call(self, arguments: Arguments) -> Self:
        """The same, reading texts as a call of the pipeline with these arguments does."""
        return self

    def mask(self, ids: Sequence[Tensor]) -> Tensor | None:
        """``(B, L)``: which tokens of texts with these ids the denoiser reads; None where it reads all."""
        return None

    def text_parts(self, ids: Sequence[Tensor]) -> list[TextPart]:
        """The parts of an encoding with these ids, ``(B, L_i)`` per encoder: tokens in their order, then pooled."""
        long = [_is_long(tokenizer) for _, tokenizer in self.readers]
        found, place = [], 0
        if False in long and self.short_tokens:
            place = ids[long.index(False)].shape[1]
            found.append(TextPart("clip", long.index(False), slice(0, place), 1, whole=False))
        if True in long:
            end = place + ids[long.index(True)].shape[1]
            found.append(TextPart("t5", long.index(True), slice(place, end), 0, whole=True))
        if False in long and self.pooled_dim:
            found.append(TextPart("pooled", long.index(False), None, 1, whole=False))
        return found

    def text_ends(self, ids: Sequence[Tensor]) -> list[Tensor]:
        """The last place that belongs to each text, ``(B,)`` per encoder: the first end token, by its own id."""
        return [
            (own == tokenizer.eos_token_id).int().argmax(1)
            for own, (_, tokenizer) in zip(ids, self.readers, strict=True)
        ]

    def frame(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """The ids (before, behind) the content of a text."""
        ids, end = tokenizer("").input_ids, tokenizer.eos_token_id
        at = ids.index(end) if end in ids else len(ids)
        return ids[:at], ids[at : at + 1]

    def content(self, text: str, tokenizer: PreTrainedTokenizerBase, first: bool = False) -> list[int]:
        """The ids of a piece of a text; ``first``: which the content begins with."""
        return list(tokenizer(self.as_read(text, tokenizer), add_special_tokens=False, verbose=False).input_ids)

    def inside(self, text: str, tokenizer: Any) -> str:
        """What is to be tokenized to have the ids of ``text`` where it stands between others in a prompt."""
        return text

    def placed(self, whole: Tensor, part: Tensor) -> Tensor:
        """A value for each token of a text, ``(B, L)``, in the place of those in an encoder's own input."""
        return part.to(whole.device)

    def _encode(self, prompts: list[str], length: int | None, *others: list[str]) -> tuple[Tensor, Tensor | None]:
        """``others``: what the second and the third encoder read, where it is not what the first does."""
        raise NotImplementedError

    def _columns(self, prompts: Sequence[Said]) -> list[list[str]]:
        """What each encoder reads; one list where all read the same."""
        if all(isinstance(said, str) for said in prompts):
            return [[str(said) for said in prompts]]
        n = len(self.tokenizers)
        return [list(column) for column in zip(*((s,) * n if isinstance(s, str) else s for s in prompts), strict=True)]

    def _encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """diffusers' own ``encode_prompt``, whatever a subclass or somebody else has put in its place."""
        return self.pipeline_class.encode_prompt(self.pipe, *args, **kwargs)

    @property
    def pipeline_class(self) -> Any:
        """diffusers' own class of the pipeline, below what somebody has derived from it."""
        mro = type(self.pipe).__mro__
        return next((c for c in mro if c.__name__ in self.pipelines and c.__module__.startswith("diffusers.")), mro[0])

    def lengths(self, length: int | None) -> list[int]:
        """Longest input of each tokenizer. A T5 tokenizer takes ``length``."""
        t5 = length or self.default_length
        return [t5 if _is_long(t) else int(t.model_max_length) for t in self.tokenizers]

    @property
    def default_length(self) -> int:
        """The pipeline's own ``max_sequence_length``; 0 where it has none."""
        return int(self.default("max_sequence_length") or 0)

    def default(self, name: str) -> Any:
        """What the pipeline's call takes where this argument is left out; None where it has none of this name."""
        for cls in (type(self.pipe), self.pipeline_class):
            if name in (parameters := inspect.signature(cls.__call__).parameters):
                return parameters[name].default
        return None

    def _tokenize(self, columns: list[list[str]], length: int | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        made = []
        for i, (tokenizer, n) in enumerate(zip(self.tokenizers, self.lengths(length), strict=True)):
            texts = [self.as_read(text, tokenizer) for text in columns[i if len(columns) > 1 else 0]]
            made.append(tokenizer(texts, padding="max_length", max_length=n, truncation=True, return_tensors="pt"))
        return tuple(m.input_ids for m in made), tuple(m.attention_mask for m in made)

    def fits(self, text: str, *, length: int | None = None) -> bool:
        """Whether the encoder with the longest input reads all of ``text`` (the rest is cut off)."""
        pairs = zip(self.tokenizers, self.lengths(length), strict=True)
        return any(len(t(self.as_read(text, t), verbose=False).input_ids) <= n for t, n in pairs)

    def as_read(self, text: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """``text`` as the pipeline gives it to a tokenizer: a textual inversion of several vectors is written out."""
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        return text if convert is None else str(convert(text, tokenizer))

    # ---- a call of the pipeline ----

    def check(self, arguments: Arguments) -> None:
        """Refuses call arguments that reach the denoiser past the text. Raises :class:`Unsupported`."""
        for name in self.refused:
            if arguments.get(name) is not None:
                raise Unsupported("a call steered by text alone", f"{name}=…", f"call without {name}, or detach first")
        for name in self.extras:
            for key in arguments.get(name) or ():
                if key != "scale":  # of a LoRA; image prompts, boxes and the like come this way too
                    raise Unsupported("a call steered by text alone", f"{name}={{{key!r}: …}}", f"call without {key}")

    def check_values(self, values: Values) -> None:
        """The same for the denoiser's own arguments: what steers it past the text is refused, however it came."""
        added = values.get("added_cond_kwargs") or {}
        found = [name for name in self.residuals if values.get(name) is not None]
        found += [name for name in ("image_embeds", "hint") if added.get(name) is not None]
        found += [f"{name}[{key!r}]" for name in self.extras for key in values.get(name) or () if key != "scale"]
        if found:
            raise Unsupported("a denoiser steered by text alone", f"{found[0]}=…", "detach first, or leave it out")

    def guided(self, weight: float, prompts: int) -> Arguments:
        """The pipeline's arguments that draw ``prompts`` texts with classifier-free guidance of this weight."""
        return {self.guidance_argument: weight}

    def call_arguments(self, prompts: Sequence[str] | Encoding, n: int, guidance: float,
                       negative: Sequence[str] | None = None) -> Arguments:  # fmt: skip
        """The pipeline's arguments that draw ``n`` texts, or the ``n`` rows of an encoding, guided with this weight."""
        said = prompts.arguments() if isinstance(prompts, Encoding) else {"prompt": list(prompts)}
        guided = self.guided(guidance, n)
        return said | guided | ({} if negative is None else {"negative_prompt": list(negative)})

    @property
    def usual_guidance(self) -> float:
        """The weight that the pipeline has where none is given; 1 and less is none."""
        return float(self.default(self.guidance_argument))

    @property
    def own_arguments(self) -> Arguments:
        """Arguments with which diffusers' own pipeline draws as this one does, at the model's own size."""
        return {}

    def following(self, keep: Callable[[Tensor], Any]) -> Arguments:
        """The pipeline's arguments with which it shows ``keep`` its latents after each step."""

        def shown(_: Any, step: int, t: Any, values: Values) -> dict[str, Any]:
            keep(values["latents"])
            return {}

        return {"callback_on_step_end": shown, "callback_on_step_end_tensor_inputs": ["latents"]}

    @property
    def planned_steps(self) -> int | None:
        """Steps of the drawing that is under way, as the pipeline counts them; None where it does not say."""
        return getattr(self.pipe, "_num_timesteps", None)

    def guidance(self, arguments: Arguments) -> float:
        """Weight w of classifier-free guidance in this call."""
        return float(arguments.get(self.guidance_argument) or 0.0)

    def cfg(self, arguments: Arguments) -> bool:
        """Whether this call uses classifier-free guidance, by the pipeline's own rule."""
        return self.guidance(arguments) > 1

    def texts(self, arguments: Arguments, prefix: str = "") -> list[str] | None:
        """Text of each prompt, several encoders' texts joined; None if only embeddings were given."""
        given = [arguments.get(f"{prefix}prompt{end}") for end in ENDS]
        columns = [[g] if isinstance(g, str) else list(g) for g in given if g is not None]
        if not columns:
            return None
        rows = max(len(c) for c in columns)
        columns = [c * rows if len(c) == 1 else c for c in columns]
        return [", ".join(dict.fromkeys(t for t in row if t)) for row in zip(*columns, strict=True)]

    def said(self, arguments: Arguments, prefix: str = "") -> list[tuple[str, ...]] | None:
        """For each prompt the text of each encoder, by the pipelines' own rule: an empty or absent ``prompt_2`` or
        ``prompt_3`` is the first one's. None if only embeddings were given."""
        names = [f"{prefix}prompt{end}" for end in ENDS[: len(self.tokenizers)]]
        if all(arguments.get(name) is None for name in names):
            return None
        first = arguments.get(names[0]) or ""
        given = [arguments.get(name) or first for name in names]
        columns = [[g] if isinstance(g, str) else list(g) for g in given]
        rows = max(len(c) for c in columns)
        return list(zip(*(c * rows if len(c) == 1 else c for c in columns), strict=True))

    def prompts(self, arguments: Arguments) -> int:
        """Number of prompts in this call, from texts or from embeddings."""
        given = arguments.get("prompt")
        if isinstance(given, str):
            return 1
        given = arguments.get("prompt_embeds") if given is None else given
        return 0 if given is None else len(given)

    # ---- a call of the denoiser ----

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Values:
        """The denoiser's arguments by name, positional ones included."""
        module = unwrap(self.denoiser)
        signature = inspect.signature(type(module).forward)
        return dict(list(signature.bind(module, *args, **kwargs).arguments.items())[1:])

    def time(self, values: Values) -> float:
        """t of a denoiser call, on the scheduler's scale."""
        t = values[self.names["t"]]
        return float(t.flatten()[0]) if isinstance(t, Tensor) else float(t)

    def latents(self, values: Values) -> Tensor:
        """The noisy latents of a denoiser call; an inpainting mask behind them is left out."""
        return values[self.names["latents"]][:, : self.latent_channels]

    def text(self, values: Values) -> Encoding:
        """Tokens and pooled embedding of a denoiser call, all rows."""
        return Encoding(values[self.names["tokens"]])

    def with_text(self, values: Values, encoding: Encoding) -> Values:
        """The same call with other text in all rows. Never changes ``values``."""
        return {**values, self.names["tokens"]: encoding.tokens}

    def select(self, values: Values, rows: slice) -> Values:
        """The same call on some of its rows."""
        return {name: _rows(value, rows) if name in self.batched else value for name, value in values.items()}

    def halves(self, n: int) -> tuple[slice, slice]:
        """(negative rows, positive rows) of a stacked call for ``n`` images."""
        return slice(0, n), slice(n, 2 * n)

    def prediction(self, output: Any) -> Tensor:
        """The prediction in whatever the denoiser returns, in latents' own shape."""
        return first(output)

    def put_prediction(self, output: Any, prediction: Tensor) -> Any:
        """``output`` with another prediction, as the same kind of thing."""
        return put(output, prediction)

    def match(self, encoding: Encoding, like: Encoding) -> Encoding:
        """``encoding`` with the rows, length, dtype and device of ``like``, so that it can replace it.

        One row is repeated for all images. Raises :class:`Unsupported` if the lengths cannot be matched.
        """
        n = len(like.tokens)
        tokens = self._lengthen(encoding.tokens, like.tokens.shape[1]).to(like.tokens)
        pooled, mask = encoding.pooled, encoding.mask
        if (pooled is None) != (like.pooled is None):
            raise GuardFailure(f"a {self.family} text needs tokens and pooled embedding alike; one of them is missing")
        if (mask is None) != (like.mask is None):
            raise GuardFailure(f"a {self.family} text needs its tokens and their mask alike; one of them is missing")
        if pooled is not None and like.pooled is not None:
            pooled = _expand(pooled.to(like.pooled), n)
        if mask is not None and like.mask is not None:
            mask = _expand(mask.to(like.mask), n)
        return replace(encoding, tokens=_expand(tokens, n), pooled=pooled, mask=mask)

    def _lengthen(self, tokens: Tensor, length: int) -> Tensor:
        if tokens.shape[1] == length:
            return tokens
        advice = "pass prompts as text, or embeddings of the usual length"
        raise Unsupported(f"embeddings of {tokens.shape[1]} tokens", f"{length}", advice)

    # ---- time and space ----

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] → float32 latents as the denoiser takes them: the mode of the VAE's posterior."""
        vae = self.pipe.vae
        found = vae.encode(pixels.to(vae.device, vae.dtype))
        z = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return self.pack(((z - shift) * vae.config.scaling_factor).float())

    def pack(self, latents: Tensor) -> Tensor:
        """``(B, C, H, W)`` as the denoiser takes them."""
        return latents

    def timestep_999(self, t: float) -> float:
        """``t`` on the 0-999 scale; noise is 999."""
        last = int(self.pipe.scheduler.config.get("num_train_timesteps", 1000)) - 1
        return min(max(float(t), 0.0), float(last)) * 999.0 / last

    def unscale(self, latents: Tensor, t: float | Tensor) -> Tensor:
        """Undoes the scheduler's input scaling: the denoiser's input → the latents of the sampling loop.

        Euler, LMS and Heun keep x0 + sigma noise and give the denoiser x / sqrt(sigma² + 1); for
        others nothing changes. The factor is asked of a copy, so the scheduler's own state stays.
        """
        scheduler = copy.copy(self.pipe.scheduler)
        if not hasattr(scheduler, "scale_model_input"):
            return latents
        step = torch.as_tensor(t, device=latents.device)
        one = scheduler.scale_model_input(torch.ones(1, 1, 1, 1, device=latents.device), step)
        return latents / one.flatten()[0].to(latents)

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        """(alpha, sigma) with latents = alpha x0 + sigma noise, at the scheduler's time ``t``."""
        if self.prediction_type == "flow":
            sigma = min(max(t / self.pipe.scheduler.config.get("num_train_timesteps", 1000), 0.0), 1.0)
            return 1.0 - sigma, sigma
        table = getattr(self.pipe.scheduler, "alphas_cumprod", None)
        if table is None:
            got = type(self.pipe.scheduler).__name__
            raise Unsupported("a scheduler with alphas_cumprod", got, "use DDIM, Euler or DPM++")
        low = int(min(max(t, 0.0), len(table) - 1))  # Karras sigmas give times between two entries
        high, part = min(low + 1, len(table) - 1), min(max(t - low, 0.0), 1.0)
        squared = float(table[low]) * (1 - part) + float(table[high]) * part
        return squared**0.5, (1.0 - squared) ** 0.5

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(latents at each of ``t`` ``(B,)``, the predictions in the model's own kind that would be right there)."""
        levels = torch.tensor([self.alpha_sigma(float(value)) for value in t], dtype=torch.float64).to(x0)
        a, s = levels.view(-1, 2, *(1,) * (x0.ndim - 1)).unbind(1)
        truth = {"epsilon": noise, "v": a * noise - s * x0, "sample": x0, "flow": noise - x0}[self.prediction_type]
        return a * x0 + s * noise, truth

    def to_x0(self, prediction: Tensor, latents: Tensor, t: float) -> Tensor:
        """The picture (in latents) that a prediction means. Undefined for epsilon where alpha is 0."""
        a, s = self.alpha_sigma(t)
        kind = self.prediction_type
        if kind == "epsilon":
            return (latents - s * prediction) / a
        if kind == "v":
            return a * latents - s * prediction
        return prediction if kind == "sample" else latents - s * prediction

    def to_noise(self, prediction: Tensor, latents: Tensor, t: float) -> Tensor:
        """The noise that a prediction means. Undefined for x0-prediction where sigma is 0."""
        a, s = self.alpha_sigma(t)
        kind = self.prediction_type
        if kind == "epsilon":
            return prediction
        if kind == "v":
            return s * latents + a * prediction
        return (latents - a * prediction) / s if kind == "sample" else latents + a * prediction

    def from_x0(self, x0: Tensor, latents: Tensor, t: float) -> Tensor:
        """The prediction, in the model's own kind, that means ``x0``. Undefined where sigma is 0."""
        a, s = self.alpha_sigma(t)
        kind = self.prediction_type
        if kind == "epsilon":
            return (latents - a * x0) / s
        if kind == "v":
            return (a * latents - x0) / s
        return x0 if kind == "sample" else (latents - x0) / s

    def from_noise(self, noise: Tensor, latents: Tensor, t: float) -> Tensor:
        """The prediction, in the model's own kind, that means ``noise``. Undefined where alpha is 0."""
        a, s = self.alpha_sigma(t)
        kind = self.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "sample":
            return (latents - s * noise) / a
        return (noise - s * latents) / a if kind == "v" else (noise - latents) / a

    def noise_gain(self, t: float) -> float:
        """d noise / d prediction at fixed latents: a difference of predictions times this is one of noises."""
        a, s = self.alpha_sigma(t)
        return {"epsilon": 1.0, "v": a, "flow": a, "sample": -a / max(s, 1e-8)}[self.prediction_type]

    # ---- weights ----

    def projections(self) -> dict[str, Projection]:
        """Every attention projection of the denoiser by its module name, with its role."""
        return projections(unwrap(self.denoiser))

    def fingerprint(self) -> str:
        """SHA-256 of the denoiser: its class, parameter names and shapes, and a sample of signs."""
        return fingerprint([unwrap(self.denoiser)])

    def text_fingerprint(self) -> str:
        """The same of all text encoders; words that a textual inversion has added to their tables do not count."""
        tokenizers = [*self.tokenizers, *[None] * len(self.text_encoders)]
        return fingerprint(self.text_encoders, [_known(t) for t, _ in zip(tokenizers, self.text_encoders)])


def _known(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first id of a word that was added to a tokenizer; None if none was."""
    words = getattr(tokenizer, "added_tokens_decoder", {})
    return min((i for i in words if i >= tokenizer.vocab_size), default=None)


def _rows(value: Any, rows: slice) -> Any:
    """Rows of a batched argument: a tensor, or tensors inside a dict, list or tuple. Scalars stay."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim else value
    if isinstance(value, dict):
        return {name: _rows(part, rows) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_rows(part, rows) for part in value)
    return value


def _expand(rows: Tensor, n: int) -> Tensor:
    if len(rows) not in (1, n):
        raise GuardFailure(f"expected 1 or {n} rows of text, got {len(rows)}")
    return rows if len(rows) == n else rows.expand(n, *rows.shape[1:])


def _put_rows(whole: Tensor, rows: slice, part: Tensor) -> Tensor:
    whole = whole.clone()
    whole[rows] = part
    return whole


def _is_long(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a call says how many tokens it reads (T5), which CLIP's are always 77 of."""
    return "T5" in type(tokenizer).__name__


def first(output: Any) -> Tensor:
    """The prediction in whatever the denoiser returns."""
    return output[0] if isinstance(output, (tuple, list)) else output.sample


def put(output: Any, prediction: Tensor) -> Any:
    """``output`` with another prediction, as the same kind of thing."""
    if isinstance(output, (tuple, list)):
        return type(output)((prediction, *output[1:]))
    return type(output)(sample=prediction)
