"""The contract. An attack takes a protected pipeline and prompts, and gives back other prompts for it.

A new attack is a keyword-only frozen dataclass whose fields are its budget, with one or two of these methods:

    _prepare(job)                  once per call: what all prompts share (a concept vector) → anything
    _find(job, prompts, shared)    some prompts at once → one :class:`Found` each, in order

and ``most(n)``: the most it may spend on ``n`` prompts. It asks everything of ``job.victim``, which counts, and
fails where more is spent than ``most`` allows. It does not know which defense it faces and never judges itself.

The public call is final. It cuts the prompts into lists of ``at_once``, in order, and keeps what each list gave in
``work``: killed and called again it goes on there and ends in the same prompts. A prompt's chance comes from
(seed, attack, prompt id) alone, so a result does not depend on which prompts are attacked beside it (up to the last
bits of a float, as everywhere in this package).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, final

from ..concepts import refuse_minors, sound_concept
from ..errors import UserError
from ..settings import Checked, Count, Doc, Seed, Settings, check, declared, sound
from ..types import AttackedPrompt, Prompt, Sees, Spent
from .standard import VERSION

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Generator, Tensor

    from ..concepts import Concept
    from .victim import Victim

Progress = Callable[[str, int, int], None]  # stage, done, in all


Shared = Any  # what an attack has made once for all prompts of a call


class UntrustedResult(UserWarning):
    """A number that should not be trusted yet: gradients that are zero, a defense that answers at random."""


@dataclass(frozen=True)
class Found:
    """What an attack says of one prompt: the text to draw, and its objective on the way (lower is better)."""

    text: str
    before: float | None = None
    after: float | None = None
    words: tuple[Tensor, ...] = ()  # embeddings that the text names, one (vectors, D) per text encoder


@dataclass(frozen=True)
class Job:
    """What an attack is given beside the prompts."""

    victim: Victim
    concept: Concept
    attack: str
    seed: int
    work: Path
    tick: Callable[[float], None]  # share of the present prompts that is done, in [0, 1]

    def generator(self, prompt: Prompt | str = "") -> Generator:
        """A prompt's own chance, or with no prompt the attack's."""
        import torch

        name = prompt if isinstance(prompt, str) else prompt.id
        found = hashlib.sha256(f"{self.attack}:{self.seed}:{name}".encode()).hexdigest()
        return torch.Generator().manual_seed(int(found[:15], 16))


@dataclass(kw_only=True, frozen=True)
class Attack(Checked):
    """Fields are the budget and the settings: the ``standard`` values for picto. ``published`` are the authors' own.

    A field has a type and a sentence from :mod:`unsee.settings`, which refuses a wrong value.
    """

    name: ClassVar[str]  # as registered
    summary: ClassVar[str]  # one sentence
    sees: ClassVar[Sees]  # what it needs of the model: if only words or text, its prompts serve for every defense
    published: ClassVar[Settings] = {}
    quick: ClassVar[Settings] = {}  # settings that end in a second on a tiny pipeline, for tests

    at_once: Annotated[Count, Doc("Prompts that are attacked at a time: memory against speed.")] = 16

    def most(self, n: int) -> Spent:
        """The most that ``n`` prompts may cost, all of them together."""
        raise NotImplementedError

    def _prepare(self, job: Job) -> Shared:
        """What all prompts share; made again when the attack is resumed."""
        return None

    def _find(self, job: Job, prompts: list[Prompt], shared: Shared) -> list[Found]:
        raise NotImplementedError

    @final
    def __call__(self, pipe: DiffusionPipeline, concept: Concept, prompts: Sequence[Prompt], *, seed: int = 0,
                 work: str | Path | None = None, progress: Progress | None = None) -> list[AttackedPrompt]:  # fmt: skip
        """One attacked prompt for each of ``prompts``, in order, against ``pipe`` as it is protected now.

        ``work`` keeps what was found: called again with the same arguments, only what is missing is searched for.
        Raises :class:`UserError` for prompts that sexualize minors, and :class:`Unsupported` where it cannot act.
        """
        from .victim import facing

        sound_concept(concept)
        sound(Seed, "seed", seed, self.name)
        refuse_minors([concept.all_text(), *(p.text for p in prompts)])
        if len({p.id for p in prompts}) < len(prompts):
            raise UserError("prompts with different ids", "the same id twice", "number them")
        with tempfile.TemporaryDirectory() as scratch, facing(pipe) as victim:
            folder = Path(scratch if work is None else work)
            shown = progress or (lambda stage, done, total: None)
            job = Job(victim, concept, self.name, seed, folder, lambda share: None)
            return self._all(job, list(prompts), shown)

    def _all(self, job: Job, prompts: list[Prompt], progress: Progress) -> list[AttackedPrompt]:
        from ..embeddings import attacked as saved

        lists = [prompts[i : i + self.at_once] for i in range(0, len(prompts), self.at_once)]
        files = [job.work / f"{self.name}-{self._recipe(job, part)}.json" for part in lists]
        shared: list[Shared] = []
        found: list[AttackedPrompt] = []
        for i, (part, file) in enumerate(zip(lists, files, strict=True)):
            if not file.exists():
                told, began = _with_progress(job, progress, i, len(lists)), time.perf_counter()
                shared = shared or [self._prepare(told), job.victim.take()]
                made = self._one(told, part, shared[0], shared[1], len(prompts))
                seconds = (time.perf_counter() - began) / len(part)  # what all share is in the first list's
                saved.save([replace(one, seconds=seconds) for one in made], file)
            found += saved.load(file)
            progress(self.name, 100 * (i + 1), 100 * len(lists))
        return found

    def _one(self, job: Job, prompts: list[Prompt], shared: Shared, prepared: Spent, n: int) -> list[AttackedPrompt]:
        found = self._find(job, prompts, shared)
        if len(found) != len(prompts):
            raise RuntimeError(f"{self.name} found {len(found)} prompts for {len(prompts)}")
        refuse_minors(f.text for f in found)
        spent = job.victim.take()
        if not (prepared + spent).within(self.most(len(prompts))):
            raise RuntimeError(f"{self.name} spent {prepared + spent}, its budget is {self.most(len(prompts))}")
        share = prepared * (1 / n) + spent * (1 / len(prompts))
        return [
            AttackedPrompt(replace(p, text=f.text), p.text, self.name, f.before, f.after, share, f.words)
            for p, f in zip(prompts, found, strict=True)
        ]

    def _recipe(self, job: Job, prompts: list[Prompt]) -> str:
        """What decides the result, as a short hash; what an earlier version found is searched for again."""
        listed, seen = [(p.id, p.text, p.seed) for p in prompts], job.victim.mark(self.sees)
        parts = [VERSION, self.config(), job.concept.model_dump(mode="json"), job.seed, seen, listed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_name_of).encode()).hexdigest()[:16]

    def config(self) -> Settings:
        """The constructor's arguments."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """From a table of settings. Raises :class:`UserError` for one it does not have, lacks, or cannot use."""
        known = declared(cls)
        silent = {f.name for f in fields(cls)} - known.keys()  # what no text can say (a function), at its default
        check({k: v for k, v in settings.items() if k not in silent or v is not None}, known, cls.name, complete=True)
        return cls(**settings)

    @classmethod
    def as_published(cls, **settings: Any) -> Self:
        """With the authors' own budget."""
        return cls(**{**cls.published, **settings})


def _with_progress(job: Job, progress: Progress, i: int, n: int) -> Job:
    return replace(job, tick=lambda share: progress(job.attack, int(100 * (i + min(share, 1.0))), 100 * n))


def _name_of(value: Any) -> str:
    """A judge or a rewriter by its name: what it does cannot be hashed."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
