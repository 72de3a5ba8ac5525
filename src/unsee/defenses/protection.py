"""``protect``: attach defenses to a pipeline, and leave no trace when they are taken off.

The denoiser gets PyTorch's own forward pre-hook and hook. The pipeline object gets, for as long as it
is protected, a subclass of its class whose ``__call__`` opens and closes a :class:`Generation`; its
name, signature and every attribute stay what they were. A denoiser call outside a generation (by
another pipeline made of the same parts, or by hand) is refused, not left unguarded.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch import Tensor

from ..backbones import Encoding, adapter, is_known, weights_adapter
from ..backbones.weights import refuse_fused, unwrap
from ..errors import GuardFailure, Mismatch, Unsupported, UserError
from .base import Defense, Fit, Guard, attachable
from .generation import Generation, Step, finite
from .host import IDLE, host
from .snapshot import Parts, Setup, skipping

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import DiffusionPipeline
    from torch.utils.hooks import RemovableHandle

    from ..backbones.base import Values
    from ..types import Event

PARTS = {"model": "model", "text": "text encoder"}


def protect(pipe: DiffusionPipeline, *defenses: Defense) -> Guarded:
    """Attaches ``defenses`` to ``pipe`` in this order, until ``.detach()`` or the end of ``with``; of a stack, each.

        with protect(pipe, SLD(text="weapon, dagger")) as guarded:
            pipe("a dagger")
            guarded.decisions

    The pipeline is used as before; it is also ``guarded.pipe``. Generations of one denoiser are made one at a time,
    whatever thread and pipeline asks. What was attached must still be what runs: a denoiser, text encoder or weights
    that changed since are noticed at the next generation, which is refused. Weight edits alone may be attached to any
    pipeline around a known denoiser (ControlNet, PAG, T2I-adapter …). Pipelines that share a denoiser may be protected
    together, with the same weight edits. A thread waits for another's ``with protect(…)`` on the same pipeline.

    Raises :class:`UserError` for no defense at all, :class:`Unsupported` for a pipeline that cannot be protected or
    already is, or a defense that could not act, and :class:`Mismatch` for one fitted for another model; then nothing
    is attached.
    """
    if not defenses:
        raise UserError("a defense to attach", "none", "pass one: protect(pipe, SLD(text=…))")
    return Guarded(pipe, *attachable(defenses))


class Guarded:
    """A protected pipeline, made by :func:`protect`; without any defense it is the bare one, for comparisons."""

    def __init__(self, pipe: DiffusionPipeline, *defenses: Defense) -> None:
        self.pipe, self.defenses = pipe, tuple(member for d in defenses for member in d.members())
        self.guards = [d for d in self.defenses if isinstance(d, Guard)]
        self.edits = sorted(d.digest() for d in self.defenses if not isinstance(d, Guard))
        edits_alone = bool(self.edits) and not self.guards
        self.backbone = (weights_adapter(pipe) if edits_alone else adapter(pipe)).pinned()
        self._here = threading.local()  # generation, decisions: of this thread
        self._latest: list[list[Event]] = []
        self._class, self._attached = type(pipe), False
        self._handles: list[RemovableHandle] = []
        self._denoiser = self.backbone.denoiser
        self._thread, self._entered, self._active = threading.current_thread(), False, time.monotonic()
        self._host = host(self._denoiser)
        self._host.join(self)
        try:
            with self._host.lock:
                self._class = type(pipe)
                self._check_denoiser()
                self._check_fingerprints()
                self._attach()
        except BaseException:
            self._host.leave(self)
            raise

    @staticmethod
    def of(pipe: DiffusionPipeline) -> Guarded | None:
        """How ``pipe`` is protected now; None if it is not."""
        return getattr(type(pipe), "_unsee", None)

    @property
    def decisions(self) -> list[list[Event]]:
        """What was done in this thread's last generation (else in the latest of all): one list per image.

        An event is ``{"defense", "step", "t", "done", …}`` with the guard's own values, fit for JSON.
        """
        return getattr(self._here, "decisions", self._latest)

    def detach(self, *, force: bool = False) -> None:
        """Takes everything off; the pipeline is bit- and type-identical to before. Twice is harmless.

        Raises :class:`Unsupported`, and leaves everything attached, where that cannot be: weights under an edit were
        written to, or replaced, since (a LoRA was fused, other weights were loaded). With ``force`` the weights from
        before the edit are put back, and what was written since is lost.
        """
        with self._host.lock:
            if self._attached:
                self._take_off(force)
                self._host.leave(self)

    @contextmanager
    def lifted(self) -> Iterator[DiffusionPipeline]:
        """Until the end nothing is attached, then everything is again: for comparing with the original model, as
        an attacker who holds it does. Yields the pipeline; other threads' generations wait."""
        if not self._attached:
            raise Unsupported("a protected pipeline", "a detached one", "call protect(...) again")
        with self._host.lock:
            self._take_off()
            try:
                yield self.pipe
            finally:
                self._attach()

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        return f"protect({', '.join([type(self.pipe).__name__, *map(repr, self.defenses)])})"

    def __deepcopy__(self, memo: object) -> Self:
        raise _no_copy("a copy of a protected model")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise _no_copy("a pickle of a protected model")

    @contextmanager
    def generation(self, *args: Any, reads: Encoding | None = None, **kwargs: Any) -> Iterator[Generation]:
        """Opens a generation as the pipeline's call with these arguments would, for code that calls the
        denoiser itself (an attack that needs gradients; ``reads`` are its prompts with the embeddings that it
        learns). Yields it; ``decisions`` are set at the end."""
        if not self._attached:
            raise Unsupported("a protected pipeline", "a detached one", "call protect(...) again")
        with self._host.lock:
            self._check()
            opened = self._open(args, kwargs)
            opened.reads = reads
            outer = getattr(self._here, "generation", None)
            self._here.generation = opened
            _active().append(self)
            try:
                yield opened
            finally:  # also after an error: nothing of this generation may reach the next
                self._here.generation = outer
                _active().pop()
                self._here.decisions = self._latest = opened.decisions
                self._active = time.monotonic()

    # ---- attaching ----

    def _attach(self) -> None:
        done: list[Defense] = []
        try:
            for defense in self.defenses:
                defense.attach(self.backbone)
                done.append(defense)
        except BaseException:
            for defense in reversed(done):
                defense.detach(self.backbone)
            raise
        register, hooks = self._denoiser.register_forward_pre_hook, []
        if self.guards:
            hooks = [register(self._before, with_kwargs=True)]
            hooks.append(self._denoiser.register_forward_hook(self._after, with_kwargs=True))
            if unwrap(self._denoiser) is not self._denoiser:  # another pipeline may hold what was compiled
                hooks.append(unwrap(self._denoiser).register_forward_pre_hook(self._inside))
        elif self.edits:
            hooks = [register(_Count(self))]
        self._handles = hooks
        self._parts, self._setups = Parts(self.backbone), [Setup(defense) for defense in self.defenses]
        self.pipe.__class__ = _subclass(self._class, self)
        self._attached = True

    def _take_off(self, force: bool = False) -> None:
        for defense in () if force else self.defenses:
            defense.check_detach(self.backbone)
        for handle in self._handles:
            handle.remove()
        self.pipe.__class__, self._handles, self._attached = self._class, [], False
        for defense in reversed(self.defenses):
            defense.detach(self.backbone)

    def passing(self) -> bool:
        """Whether another thread may wait for the end of this one: it is in a ``with``, or was busy just now."""
        mine = self._thread is threading.current_thread() or not self._thread.is_alive()
        return not mine and (self._entered or time.monotonic() - self._active < IDLE)

    def conflict(self, other: Guarded) -> Unsupported:
        """Why ``other`` cannot be attached beside this one."""
        if other.pipe is self.pipe:
            advice = "give all defenses to one protect(...), or detach first"
            return Unsupported("an unprotected pipeline", "a protected one", advice)
        got = "one that another pipeline protects with others"
        return Unsupported("a denoiser with the same weight edits", got, "give both pipelines the same, or detach")

    def _check_fingerprints(self) -> None:
        """By the weights before any edit, which a pipeline that shares the denoiser may have attached already."""
        expected = [(d, part, mark) for d in self.defenses for part, mark in d.fingerprints.items()]
        if not expected:
            return
        if not self._host.fingerprint or len(self._host.holders) == 1:
            self._host.fingerprint = self.backbone.fingerprint()
        found = {"model": self._host.fingerprint, "text": self.backbone.text_fingerprint()}
        for defense, part, mark in expected:
            if found[part] != mark:
                wanted = f"the {PARTS[part]} that {defense.name} was fitted for ({mark[:12]})"
                raise Mismatch(wanted, found[part][:12], "fit it for this one")

    def _check(self) -> None:
        """Everything that was attached is still what runs."""
        self._check_denoiser()
        if any(handle.id not in self._denoiser._forward_pre_hooks for handle in self._handles[:1]):
            raise GuardFailure("the guards' hooks were removed from the denoiser; protect the pipeline again")
        parts: list[Parts | Setup] = [self._parts, *self._setups]
        for part in parts:
            if change := part.change():
                raise Unsupported("what was protected", change, "detach, and protect the pipeline after changing it")

    def _check_denoiser(self) -> None:
        """The denoiser is the one with our hooks, and a call of it runs them."""
        denoiser = self.backbone.current
        if denoiser is not self._denoiser:
            got = "another (replaced or compiled since)"
            raise Unsupported("the denoiser that was protected", got, "protect the pipeline after changing it")
        for module in (denoiser, unwrap(denoiser)):
            if module._compiled_call_impl is not None:  # its compiled call may have left hooks out
                raise Unsupported(
                    "an eager denoiser",
                    f"{self.backbone.denoiser_name}.compile()",
                    f"use pipe.{self.backbone.denoiser_name} = torch.compile(…) before protecting",
                )
        if self.guards and (found := skipping(denoiser)):
            got, _, do = found.partition(": ")
            raise Unsupported("a denoiser that does all its work at each step", got, do)
        if self.edits:
            refuse_fused(unwrap(denoiser))

    # ---- one generation ----

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if not is_known(self.pipe):  # weight edits alone
            return self._call_unknown(*args, **kwargs)
        with self.generation(*args, **kwargs) as opened:
            opened.drawing = True
            output = self._class.__call__(self.pipe, *args, **kwargs)
            if self.defenses:
                opened.finish()
            self._check()
            return output

    def _call_unknown(self, *args: Any, **kwargs: Any) -> Any:
        """Of a pipeline whose calls we do not understand, but whose weights we hold."""
        if not self._attached:
            raise Unsupported("a protected pipeline", "a detached one", "call protect(...) again")
        with self._host.lock:
            self._check()
            self.backbone.check(kwargs)
            output = self._class.__call__(self.pipe, *args, **kwargs)
            self._check()
            return output

    def _open(self, args: tuple[object, ...], kwargs: Values) -> Generation:
        generation = Generation.of(self.backbone, self._class.__call__, args, kwargs)
        for guard in self.guards:
            _require_cfg(guard, generation)
        with torch.no_grad():
            generation.states = [guard.prepare(generation) for guard in self.guards]
        return generation

    def _current(self) -> Generation | None:
        generation = getattr(self._here, "generation", None)
        if generation is None and not any(self._covered_by(other) for other in _active()):
            raise GuardFailure(
                "a protected denoiser was called outside its pipeline; "
                "call the protected pipeline, or protect the pipeline that shares this denoiser too"
            )
        return generation

    def _covered_by(self, other: Guarded) -> bool:
        """Whether another protected pipeline, now drawing with the same denoiser, has all our guards."""
        return unwrap(other._denoiser) is unwrap(self._denoiser) and self._marks <= other._marks

    @functools.cached_property
    def _marks(self) -> frozenset[str]:
        return frozenset(guard.digest() for guard in self.guards)

    # ---- the hooks ----

    def _inside(self, module: torch.nn.Module, args: tuple[object, ...]) -> None:
        """On the module in a compiled one: who calls it past the wrapper, and our hooks, is outside."""
        if not torch.compiler.is_compiling():
            self._current()

    def _before(
        self, module: torch.nn.Module, args: tuple[object, ...], kwargs: Values
    ) -> tuple[tuple[()], Values] | None:
        if torch.compiler.is_compiling():  # another pipeline compiled it and has its hooks on the wrapper
            return None
        generation = self._current()
        if generation is None:
            return None
        values = self.backbone.bind(args, kwargs)
        self.backbone.check_values(values)
        negative, positive = self._halves(generation, values)
        step = self._begin(generation, values, positive)
        text = whole = self.backbone.text(values)
        if negative is not None:
            text = self._condition("on_negative", step, text, negative)
            step.own = self.backbone.select(values, negative) if text is not whole else None
        if positive is not None:
            text = self._condition("on_positive", step, text, positive)
        if text is whole:
            return None
        values = self.backbone.with_text(values, text)
        if positive is not None:
            step.conditions = self.backbone.select(values, positive)
        return (), values

    def _after(self, module: torch.nn.Module, args: tuple[object, ...], kwargs: Values, output: Any) -> Any:
        generation = None if torch.compiler.is_compiling() else self._current()
        if generation is None or generation.step is None:
            return None
        step, prediction = generation.step, self.backbone.prediction(output)
        negative, positive = self._halves(generation, self.backbone.bind(args, kwargs))
        generation.calls += 1
        step.positive = prediction[positive] if positive is not None else step.positive
        if generation.cfg and negative is None:
            return None  # FLUX: the second call of this step brings the negative
        step.negative = None if negative is None else self._own_negative(step, prediction[negative])
        correction = self._guide(step)
        if correction is None:
            return None
        return self.backbone.put_prediction(output, self._correct(step, prediction, correction, positive))

    def _halves(self, generation: Generation, values: Values) -> tuple[slice | None, slice | None]:
        """(negative rows, positive rows) of this call. Anything unexpected is refused."""
        n, both = generation.images, generation.cfg and self.backbone.stacked
        expected = 2 * n if both else n
        got = len(self.backbone.latents(values)), len(self.backbone.text(values).tokens)
        if got != (expected, expected):
            raise GuardFailure(f"expected {expected} rows for {n} images, got {got}; was guidance changed on the way?")
        if both:
            return self.backbone.halves(n)
        second = generation.cfg and generation.calls % 2 == 1
        return (slice(0, n), None) if second else (None, slice(0, n))

    def _begin(self, generation: Generation, values: Values, positive: slice | None) -> Step:
        t = self.backbone.time(values)
        if positive is None:
            if generation.step is None or generation.step.t != t:
                raise GuardFailure("the negative call of a step came without its positive one")
            return generation.step
        turns = 2 if generation.cfg and not self.backbone.stacked else 1
        conditions = self.backbone.select(values, positive)
        latents = self.backbone.latents(conditions)
        asked = self.backbone.text(conditions)
        generation.step = Step(generation, generation.calls // turns, t, latents, conditions, asked)
        return generation.step

    def _condition(self, method: str, step: Step, text: Encoding, rows: slice) -> Encoding:
        """Passes one half of the text through every guard; the same object if none changed it."""
        half = text.rows(rows)
        for guard, state in zip(self.guards, step.generation.states, strict=True):
            changed = getattr(guard, method)(step, half, state)
            if changed is None:
                continue
            finite(guard, step, changed.tokens)
            finite(guard, step, changed.pooled)
            half = self.backbone.match(changed, half)
            text = text.put(rows, half)
        return text

    def _own_negative(self, step: Step, predicted: Tensor) -> Tensor:
        """What the user's own negative predicts, if a guard has replaced it and another needs to know."""
        if step.own is None or not any(guard.guides for guard in self.guards):
            return predicted
        return step.evaluate(step.own, self.backbone.text(step.own))

    def _guide(self, step: Step) -> Tensor | None:
        total = None
        for guard, state in zip(self.guards, step.generation.states, strict=True):
            change = guard.guide(step, state)
            if change is not None:
                finite(guard, step, change)
                total = change if total is None else total + change
        return total

    def _correct(self, step: Step, prediction: Tensor, change: Tensor, positive: slice | None) -> Tensor:
        """Subtracts ``change`` from the positive prediction, wherever this call lets us reach it.

        Stacked: e_u + w (e_p - change - e_u) as wanted. In FLUX's second call only the negative can
        still be moved: n + w (p - n) with n = e_u + change w / (w - 1) is the same, and w > 1 there.
        """
        if positive is None:
            w = self.backbone.guidance(step.generation.arguments)
            return prediction + (change * (w / (w - 1.0))).to(prediction)
        out = prediction.clone()
        out[positive] = (prediction[positive].to(change) - change).to(prediction)
        return out


def edits_attached(fit: Fit) -> Guarded:
    """The weight edits among the hosts, attached. Guards act while an image is made; they change no fit of weights."""
    return Guarded(fit.pipe, *(host for host in fit.host if not isinstance(host, Guard)))


def _require_cfg(guard: Guard, generation: Generation) -> None:
    """Refuses a guard that can only act through classifier-free guidance where there is none."""
    if guard.needs_cfg and not generation.cfg:
        backbone = generation.backbone
        got = f"{backbone.guidance_argument}={generation.arguments.get(backbone.guidance_argument)}"
        wanted = f"classifier-free guidance, which {guard.name} acts through"
        raise Unsupported(wanted, f"none ({got})", backbone.guidance_advice)


_THREAD = threading.local()


def _active() -> list[Guarded]:
    """The protected pipelines that are drawing in this thread, outermost first."""
    if not hasattr(_THREAD, "active"):
        _THREAD.active = []
    return _THREAD.active


class _Count:
    """A hook that counts the denoiser's calls; in a copy of the denoiser it does nothing."""

    def __init__(self, guarded: Guarded | None) -> None:
        self.guarded = guarded

    def __call__(self, module: torch.nn.Module, args: tuple[object, ...]) -> None:
        generation = getattr(self.guarded._here, "generation", None) if self.guarded else None
        if generation is not None and not torch.compiler.is_compiling():
            generation.calls += 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _Count, (None,)


def _subclass(original: type, guarded: Guarded) -> type:
    """``original`` with a ``__call__`` that opens a generation; its name and signature are the same. What would leave
    the guards behind without a word (a copy, a pickle, a saved pipeline) is refused."""

    @functools.wraps(original.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not guarded.pipe:
            raise _no_copy("a copy of it")
        return guarded._call(*args, **kwargs)

    def refuse(got: str) -> Callable[..., NoReturn]:
        def refused(*args: object, **kwargs: object) -> NoReturn:
            raise _no_copy(got)

        return refused

    names = {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
    acts: dict[str, Any] = {"__call__": call, "_unsee": guarded, "__deepcopy__": refuse("a deep copy of it")}
    acts |= {"__copy__": refuse("a copy of it"), "__reduce_ex__": refuse("a pickle of it")}
    if guarded.guards:
        acts["save_pretrained"] = refuse("a saved pipeline, in which no guard is")
    return type(original.__name__, (original,), {**names, **acts})


def _no_copy(got: str) -> Unsupported:
    return Unsupported("the pipeline object that was protected", got, "detach first, and protect the copy")
