"""The contract. A defense is attached to a pipeline and taken off again; a guard acts at each step.

A new guard is a keyword-only dataclass with one to three of these methods:

    prepare(generation)             once per generation, before anything is drawn → its own state
    on_positive(step, text, state)  the user's half of the text on its way in → another, or None
    on_negative(step, text, state)  the negative half, likewise
    guide(step, state)              → what to subtract from the positive prediction, or None

A guard object holds no state of a generation: what ``prepare`` returns is handed back to it at each
step and forgotten afterwards, so one guard may serve two pipelines and two threads.

How several guards compose
    Text passes through the guards in the order of attaching. Corrections of the prediction are all
    computed from the same predictions and summed, so their order does not matter. The negative
    prediction that ``guide`` sees is the user's own even if another guard replaced the negative text
    (one more pass then): otherwise SLD beside a negative prompt of the same words would cancel itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..concepts import sound_concept
from ..errors import Unsupported, UserError
from ..registry import DEFENSES, OURS, resolve
from ..settings import NONE, Seed, Setting, check, declared, shown, sound
from .storage import Saved

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from ..backbones import Backbone, Encoding
    from ..concepts import Concept
    from ..settings import Settings
    from .generation import Generation, Step

State = Any  # of one guard in one generation: what its ``prepare`` gave
Progress = Callable[[str, int, int], None]  # stage, done, in all
OF_FIT = ("concept", "work", "host", "seed", "progress")  # its own arguments, which no setting can be


@dataclass(frozen=True)
class Fit:
    """What every method is fitted with; see :meth:`Defense.fit`."""

    pipe: DiffusionPipeline
    concept: Concept
    work: Path
    host: tuple[Defense, ...]
    seed: int
    progress: Progress


@dataclass(kw_only=True, eq=False)
class Defense(Saved):
    """Anything that can be attached and taken off. Its fields are its config, and its ``repr``.

    A field has a type and a sentence from :mod:`unsee.settings`, which refuses a wrong value; what several fields say
    together, ``__post_init__`` may refuse.
    """

    Training: ClassVar[type | None] = None  # a frozen dataclass: how it is fitted, with the paper's defaults
    presets: ClassVar[dict[str, Settings]] = {}  # what a setting of None stands for; of a Training: paper and picto
    published: ClassVar[Settings] = {}  # the authors' own settings, where ours differ; see as_published
    quick: ClassVar[Settings] = {}  # settings that fit in a second and act on any prompt, for self-tests

    def attach(self, backbone: Backbone) -> None:
        """Called once when attached; a weight edit changes the weights here."""

    def detach(self, backbone: Backbone) -> None:
        """Called once when taken off; must leave every weight bit-identical to before."""

    def check_detach(self, backbone: Backbone) -> None:
        """Raises :class:`Unsupported` where :meth:`detach` could not do that, or would lose what is not its own."""

    def members(self) -> tuple[Defense, ...]:
        """What is attached, in order: itself, or what a :class:`~unsee.defenses.stack.Stack` holds."""
        return (self,)

    @classmethod
    def fit(cls, pipe: DiffusionPipeline, concept: Concept, *, work: str | Path, host: Sequence[Defense] = (),
            seed: int = 0, progress: Progress | None = None, **settings: Any) -> Self:  # fmt: skip
        """Fits this defense to ``concept`` on ``pipe``, whose weights end as they began.

        ``settings`` are fields of the class and of its ``Training``. ``host`` are the defenses that this one will
        stand behind, in order; they are attached while it is fitted. ``work`` keeps data and checkpoints: killed
        and called again with the same arguments, it goes on there and ends in the same result.
        ``progress(stage, done, total)`` is called on the way. Raises :class:`UserError` for an unknown or wrong
        setting, before anything is drawn.
        """
        sound_concept(concept)
        sound(Seed, "seed", seed, f"{cls.name}.fit")
        arguments, training = cls.check_settings(settings)
        behind = attachable(host)
        fit = Fit(pipe, concept, Path(work), behind, seed, progress or (lambda stage, done, total: None))
        return cls._fit(fit, training, arguments)

    @classmethod
    def as_published(cls, **settings: Any) -> Settings:
        """The authors' own settings with ``settings`` in their place: ``ESD.fit(pipe, concept, work=…,
        **ESD.as_published())``, or ``SLD(text="weapon", **SLD.as_published())``. A method's file says what they do."""
        return {**cls.published, **settings}

    @classmethod
    def takes(cls) -> dict[str, Setting]:
        """What :meth:`fit` takes, by name: fields of the class, then those of its ``Training``."""
        found = {**declared(cls), **(declared(cls.Training) if cls.Training else {})}
        return {name: one for name, one in found.items() if name not in OF_FIT}

    @classmethod
    def check_settings(cls, settings: Settings) -> tuple[Settings, Any]:
        """``settings`` as (arguments of the class, its ``Training``). Raises :class:`UserError` for a wrong one."""
        own, how = declared(cls), declared(cls.Training) if cls.Training else {}
        check(settings, cls.takes(), cls.name)
        arguments = {k: v for k, v in settings.items() if k in own}
        if all(one.default is not NONE or key in arguments for key, one in own.items()):
            cls(**arguments)  # what they say together, before anything is drawn
        training = cls.Training(**{k: v for k, v in settings.items() if k in how}) if cls.Training else None
        return arguments, training

    @classmethod
    def _fit(cls, fit: Fit, training: Any, arguments: Settings) -> Self:
        """A method's own part of :meth:`fit`; what is computed from the concept's words alone needs no more."""
        needed = {f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING}
        if needed and needed <= arguments.keys():
            return cls(**arguments)  # all of it was said, for instance its own text
        return cls.for_concept(fit.concept, **arguments)

    @classmethod
    def for_concept(cls, concept: Concept, **arguments: Any) -> Self:
        """From the concept's words alone, without a model. Only for what needs no more."""
        raise Unsupported("a defense made of words", cls.name, "fit it: unsee fit, or " + cls.__name__ + ".fit")

    def fitted_for(self, backbone: Backbone) -> Self:
        """Binds this object to a model: from now on it attaches to no other. Returns itself."""
        self.fingerprints = {"model": backbone.fingerprint(), "text": backbone.text_fingerprint()}
        return self


def attachable(defenses: Sequence[object]) -> tuple[Defense, ...]:
    """``defenses`` in order, each stack as what it holds. Raises :class:`UserError` for what is no defense: a name, a
    class, a folder, a list; it says what to write.

    >>> attachable(["sld"])
    Traceback (most recent call last):
    unsee.errors.UserError: expected a defense, got 'sld'; write for example unsee.SLD(text="weapon")
    """
    found: list[Defense] = []
    for one in defenses:
        if not isinstance(one, Defense):
            raise UserError("a defense", shown(str(one) if isinstance(one, Path) else one), _instead(one))
        found += one.members()
    return tuple(found)


def _instead(value: object) -> str:
    """What to write in the place of ``value``."""
    text = str(value) if isinstance(value, (str, Path)) else ""
    kind = resolve("defense", DEFENSES, text) if text in DEFENSES else value
    if isinstance(kind, type) and issubclass(kind, Defense):
        needed = [f"{name}=…" for name, one in declared(kind).items() if one.default is NONE]
        trained = kind.Training is not None
        made = '.from_pretrained("FOLDER")' if trained else f"({', '.join(needed)})".replace("text=…", 'text="weapon"')
        ours = kind.__module__.partition(".")[0] == OURS
        return f"write for example {'unsee.' * ours}{kind.__name__}{made}"
    if text:
        return "load it first, for example unsee.SLD.from_pretrained(FOLDER)"
    if isinstance(value, (list, tuple)):
        return "write protect(pipe, *defenses)"
    return 'write an object, for example unsee.SLD(text="weapon")'


@dataclass(kw_only=True, eq=False)
class Guard(Defense):
    """A defense that acts while an image is made. Override what you need, leave the rest."""

    needs_cfg: ClassVar[bool] = False  # True: a call without classifier-free guidance is refused
    needs_text: ClassVar[bool] = False  # True: it reads words, and refuses prompts that arrive as embeddings

    @property
    def guides(self) -> bool:
        """Whether :meth:`guide` may do anything; if not, another guard's negative costs no extra pass."""
        return type(self).guide is not Guard.guide

    def prepare(self, generation: Generation) -> State:
        """State for one generation: encoded texts, counters. Runs without gradients."""
        return None

    def on_positive(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        """The user's text of all images of this step, ``(n, L, D)``; None leaves it bit-identical."""
        return None

    def on_negative(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        """The negative text; not called without classifier-free guidance."""
        return None

    def guide(self, step: Step, state: State) -> Tensor | None:
        """Subtracted from ``step.positive``, same shape, in the model's own kind of prediction.

        Without classifier-free guidance ``step.negative`` is None.
        """
        return None
