"""A suite: which model, concepts, defenses and prompts meet, with which judge. Read from TOML.

    name = "first"
    model = "picto"                       # or a diffusers folder, or a hub id
    concepts = ["weapon", "alcohol"]      # shipped names or paths of TOML files
    defenses = ["none", "negative-prompt", { name = "sld-strong", method = "sld", preset = "strong" }]
    judge = "picto"                       # or with settings: "clip:model=picto,threshold=0.6"
    steps = 25
    guidance = 4.0
    attacks = ["ring-a-bell", { method = "p4d", n = 50 }]  # or "standard": the fixed set
    attacks = [..., { method = "mma", defenses = ["none", "sld"], prompts = ["plain"] }]  # only where it is asked for
    [[prompts]]
    kind = "plain"                        # plain | synonym | neighbor | benign
    split = "held-out"                    # train | held-out
    n = 60
    [[claims]]                            # what papers say, and what would decide: see claims.py

The undefended twin of every image is always made, whether ``defenses`` names ``none`` or not: same
prompt, same seed, same settings. So are the images without an attack; only prompts that ask for the concept
are attacked. The twin of an attacked image is the undefended model's on the prompt as it was before the attack.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..attacks.standard import VERSION
from ..concepts.compose import ROLES
from ..errors import BadFile, UnknownName, UserError
from ..files import Name, read_toml
from ..settings import Guidance, Images, Seed, Steps, Words, a_judge, keys, shown
from ..types import Kind, Prompt, Split
from . import measures
from .attacks import UNATTACKED, Strike
from .claims import Check, Claim, Where, check_names, unfolded
from .defenses import NONE, Stack

if TYPE_CHECKING:
    from ..concepts import Concept

ATTACKED: tuple[Kind, ...] = tuple(kind for kind, role in ROLES.items() if role == "unsafe")
ONLY = ("concept", "defense", "attack", "prompts", "split")
SIZE = 32  # bytes of a content address


class PromptSet(BaseModel):
    """``n`` prompts of one kind and split, for each concept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    kind: Kind = Field(description="What they ask for: plain, synonym, neighbor or benign.")
    split: Split = Field(default="held-out", description="Of which words: held-out, or train to fit a defense on.")
    n: int = Field(ge=1, le=1_000_000, description="How many, for each concept.")


Row = tuple[str, str, str, PromptSet]


class Suite(BaseModel):
    """What a TOML file of ``suites/`` says. ``batch_size`` is about memory and never about content."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    name: Name = Field(description="Of the suite, in tables and folders.")
    model: Words = Field(description="picto, a diffusers folder, a hub id, or tiny:sd1.")
    concepts: list[Words] = Field(min_length=1, description="Shipped names, or paths of TOML files.")
    defenses: list[Any] = Field(default_factory=list, description="Stacks; the undefended model is always there.")
    prompts: list[PromptSet] = Field(min_length=1, description="Tables with kind, n and split.")
    attacks: list[Any] = Field(default_factory=list, description='Attacks, or "standard"; none is always there.')
    judge: str = Field(description="Who judges the images: NAME or NAME:key=value,….")
    seed: Seed = Field(default=0, description="Of prompts, attacks and images.")
    steps: Steps = Field(default=25, description="Denoising steps.")
    guidance: Guidance = Field(default=7.5, description="Classifier-free guidance; FLUX's true one, not its distilled.")
    batch_size: Images = Field(default=16, description="Images drawn at once: memory, never content.")
    metrics: dict[str, str] = Field(default_factory=dict, description="Extractors; empty is the model family's own.")
    claims: list[Claim] = Field(default_factory=list, description="What papers say, and what would decide.")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: dict[str, str]) -> dict[str, str]:
        measures.check(metrics)
        return metrics

    @field_validator("judge")
    @classmethod
    def _known_judge(cls, judge: str) -> str:
        return a_judge(judge, also=())

    @field_validator("claims", mode="before")
    @classmethod
    def _unfolded_claims(cls, claims: Any) -> Any:
        return unfolded(claims) if isinstance(claims, list) else claims

    @field_validator("attacks")
    @classmethod
    def _sound_attacks(cls, attacks: list[Any]) -> list[Any]:
        Strike.all(attacks)
        return attacks

    @field_validator("defenses")
    @classmethod
    def _sound_defenses(cls, defenses: list[Any]) -> list[Any]:
        Stack.all(defenses)
        return defenses

    @model_validator(mode="after")
    def _sound_names(self) -> Self:
        stacks, kinds = {stack.name for stack in self.stacks}, {p.kind for p in self.prompts}
        for strike in self.strikes:
            for said, known in ((strike.defenses, stacks), (strike.prompts, kinds)):
                for name in set(said) - known:
                    raise UnknownName(f"part of the suite for the attack {strike.name}", name, known)
        if self.claims:
            runs = ((g.stack.name, g.strike.name, g.prompts.kind, g.prompts.split, g.concept) for g in self.groups())
            check_names(self.claims, runs)
        return self

    @classmethod
    def load(cls, path: str | Path) -> Suite:
        """Read and check a suite file. Raises :class:`UserError` with one line for the first mistake."""
        return cls.parse(read_toml(Path(path), "a suite file", "a suite", "check the path"), str(path))

    @classmethod
    def parse(cls, data: dict[str, Any], where: str = "the suite") -> Suite:
        """From a table; ``where`` is named in errors."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _first_mistake(error, where) from None

    @property
    def stacks(self) -> list[Stack]:
        """Undefended first, then the defenses in the suite's order."""
        return [Stack(), *(s for s in Stack.all(self.defenses) if s.parts)]

    @property
    def strikes(self) -> list[Strike]:
        """No attack first, then the attacks in the suite's order."""
        return [UNATTACKED, *Strike.all(self.attacks)]

    @property
    def settings(self) -> dict[str, Any]:
        """What of the sampling belongs to an image's identity."""
        return {"steps": self.steps, "guidance": self.guidance}

    @property
    def digest(self) -> str:
        """Of everything that can change a record: not of ``batch_size``, nor of what is claimed."""
        unsaid = set() if self.metrics else {"metrics"}
        said = self.model_dump(exclude={"batch_size", "claims"} | unsaid)
        return _sha256([said, VERSION] if self.attacks else said)  # two versions of the attacks are not in one table

    def groups(self, only: Iterable[str] = ()) -> list[Group]:
        """The result rows to come, in plan order; ``only`` is ``KEY=VALUE`` (same key: either; others: both)."""
        wanted = _wanted(only)
        each = [
            (stack, strike, prompts)
            for stack, strike, prompts in itertools.product(self.stacks, self.strikes, self.prompts)
            if strike == UNATTACKED or (prompts.kind in ATTACKED and strike.meets(stack.name, prompts.kind))
        ]
        groups = [Group(concept, *row) for concept in self.concepts for row in each]
        if not wanted:
            return groups
        for key, values in wanted.items():
            known = {group.key(key) for group in groups}
            for value in values - known:
                raise UnknownName(f"{key} of suite {self.name}", value, known)
        kept = [g for g in groups if all(g.key(k) in v for k, v in wanted.items())]
        if not kept:
            raise UserError("--only that leaves something to do", " ".join(only), "drop one of them")
        # A twin is part of every result, and so is what the attack started from: their groups are run with it.
        with_them = {g.row for k in kept for g in (k, k.twin, k.unattacked)}
        return [g for g in groups if g.row in with_them]


@dataclass(frozen=True, slots=True)
class Group:
    """One result row to be: a concept, a defense, an attack, a kind of prompts."""

    concept: str
    stack: Stack
    strike: Strike
    prompts: PromptSet

    @property
    def row(self) -> Row:
        """What tells it from the suite's other groups, and can be a key: names are not given twice."""
        return self.concept, self.stack.name, self.strike.name, self.prompts

    @property
    def twin(self) -> Group:
        return Group(self.concept, Stack(), UNATTACKED, self.prompts)

    @property
    def unattacked(self) -> Group:
        return Group(self.concept, self.stack, UNATTACKED, self.prompts)

    def key(self, key: str) -> str:
        """What ``--only KEY=…`` compares with."""
        match key:
            case "concept":
                return Path(self.concept).stem
            case "defense":
                return self.stack.name
            case "attack":
                return self.strike.name
            case "prompts":
                return self.prompts.kind
        return self.prompts.split

    @property
    def n(self) -> int:
        """How many prompts; of an attack that takes fewer, the first of them."""
        return min(self.prompts.n, self.strike.n or self.prompts.n)

    def numbered(self, concept: Concept, seed: int) -> Iterator[tuple[int, Prompt]]:
        """The prompts, before any attack, with their places in the group."""
        return enumerate(concept.prompts(self.prompts.kind, self.prompts.split, self.n, seed))


@dataclass(frozen=True, slots=True)
class Cell:
    """One image to be: its content address, and where it stands in the suite."""

    cell: str
    twin: str
    concept: str
    defense: str
    attack: str
    place: int
    prompt: Prompt
    words: tuple[Any, ...] = ()  # embeddings that an attacked prompt names


class Cells(Sequence[Cell]):
    """The cells of one group, in columns: beside its prompt a cell takes 64 bytes, and is made when it is asked for.

    ``own`` and ``twins`` hold 32 bytes each for every place; ``kept`` are the places of a shard, in order (None: all).
    Prompts and twins are the same objects in all groups that have them in common.
    """

    def __init__(self, names: tuple[str, str, str], prompts: Sequence[Prompt], own: bytes, twins: bytes,
                 words: Sequence[tuple[Any, ...]] = (), kept: Sequence[int] | None = None) -> None:  # fmt: skip
        self.names, self.prompts, self.own, self.twins, self.words = names, prompts, own, twins, words
        self.kept = range(len(prompts)) if kept is None else kept

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, at: int) -> Cell: ...
    @overload
    def __getitem__(self, at: slice) -> list[Cell]: ...
    def __getitem__(self, at: int | slice) -> Cell | list[Cell]:
        if isinstance(at, slice):
            return [self._cell(place) for place in self.kept[at]]
        return self._cell(self.kept[at])

    def __iter__(self) -> Iterator[Cell]:
        return map(self._cell, self.kept)

    def address(self, place: int) -> bytes:
        """The content address of the cell in this place of the group, as 32 bytes."""
        return self.own[SIZE * place : SIZE * (place + 1)]

    def of(self, share: Container[str]) -> Cells:
        """The same group with those cells alone whose twins are in ``share``."""
        kept = array("q", (place for place in self.kept if self._twin(place) in share))
        return Cells(self.names, self.prompts, self.own, self.twins, self.words, kept)

    def _twin(self, place: int) -> str:
        return self.twins[SIZE * place : SIZE * (place + 1)].hex()

    def _cell(self, place: int) -> Cell:
        words = self.words[place] if self.words else ()
        return Cell(self.address(place).hex(), self._twin(place), *self.names, place, self.prompts[place], words)


class Addresses:
    """The content addresses of one model, stack of defenses and settings: sha256 of all that makes an image.

    The hash of what they begin with is taken once: ``Addresses(fingerprint, defenses, settings)(attack, prompt)`` is
    the digest of ``[fingerprint, defenses, attack, text, seed, settings]`` as JSON.
    """

    def __init__(self, fingerprint: Any, defenses: list[str], settings: dict[str, Any]) -> None:
        self._begun = hashlib.sha256(f"[{_json(fingerprint)},{_json(defenses)},".encode())
        self._end = f",{_json(settings)}]".encode()

    def __call__(self, attack: str, prompt: Prompt) -> bytes:
        """32 bytes. ``attack`` is what the text alone does not say of an attacked prompt: a hash of the embeddings that
        it names, else ``none``. So a text that two attacks find is drawn once."""
        made = self._begun.copy()
        made.update(_json([attack, prompt.text, prompt.seed])[1:-1].encode())
        made.update(self._end)
        return made.digest()


def address(fingerprint: Any, defenses: list[str], attack: str, prompt: Prompt, settings: dict[str, Any]) -> str:
    """One of :class:`Addresses`, in hexadecimal digits."""
    return Addresses(fingerprint, defenses, settings)(attack, prompt).hex()


_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


class Asked:
    """The prompts of a suite before any attack, with the addresses of their undefended twins; ``mark`` is the model.

    They are made once for each concept, kind, split and number, and all groups that ask alike share them.
    """

    def __init__(self, suite: Suite, known: Mapping[str, Concept], mark: Any) -> None:
        self.suite, self.known, self.mark = suite, known, mark
        self._made: dict[tuple[str, str, str, int], tuple[list[Prompt], bytes]] = {}

    def addresses(self, defenses: list[str]) -> Addresses:
        return Addresses(self.mark, defenses, self.suite.settings)

    def __call__(self, group: Group) -> tuple[list[Prompt], bytes]:
        """The prompts of the group in order, and 32 bytes for each."""
        key = (group.concept, group.prompts.kind, group.prompts.split, group.n)
        if key not in self._made:
            prompts = [prompt for _, prompt in group.numbered(self.known[group.concept], self.suite.seed)]
            twin = self.addresses([])
            self._made[key] = prompts, b"".join(twin(NONE, prompt) for prompt in prompts)
        return self._made[key]


def _sha256(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()


def _wanted(only: Iterable[str]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for item in only:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError("--only KEY=VALUE", repr(item), "write for example --only concept=weapon")
        if key not in ONLY:
            raise UnknownName("key for --only", key, ONLY)
        wanted.setdefault(key, set()).add(value)
    return wanted


def _first_mistake(error: ValidationError, where: str) -> UserError:
    """pydantic's first complaint, as one line that says expected, got, do."""
    # A misspelled key is told before the key that is missing because of it.
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UnknownName(f"key in {where}", str(first["loc"][-1]), _table(first["loc"]).model_fields)
    if first["type"] == "missing":
        return BadFile(f"the key {place!r} in {where}", "no such key", "add it")
    if first["type"] == "literal_error" and first["loc"][0] == "prompts" and isinstance(first["input"], str):
        choices = get_args(Kind) if place.endswith("kind") else get_args(Split)
        return UnknownName(f"{place} in {where}", first["input"], choices)
    why = first["msg"].removeprefix("Value error, ")
    one = keys(_table(first["loc"])).get(str(first["loc"][-1])) if place else None
    claims = first["type"] == "value_error" and first["loc"][:1] == ("claims",)  # its parts say what is wrong
    if one is None or claims or one.takes(first["input"]):  # a part of a value, or what several keys say together
        return BadFile(f"a valid {place!r} in {where}", f"{shown(first['input'])} ({why})", "mend that key")
    told = f" ({why})" if first["type"] == "string_pattern_mismatch" else ""
    return BadFile(f"{place!r} in {where} as {one.expected}", shown(first["input"]) + told, "mend that key")


def _table(place: tuple[Any, ...]) -> type[BaseModel]:
    """What is read at this place of a suite file."""
    if place[0] == "prompts" and place[1:]:
        return PromptSet
    if place[0] != "claims" or not place[1:]:
        return Suite
    inner = [part for part in place[1:-1] if isinstance(part, str)]
    return Where if inner[1:] else Check if inner else Claim
