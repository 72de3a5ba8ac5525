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
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..attacks.standard import VERSION
from ..concepts.prompts import ROLES
from ..errors import BadFile, UnknownName, UserError
from ..files import Name, compact_json, read_text, read_toml
from ..metrics import measures
from ..settings import Guidance, Images, Seed, Steps, Words, a_judge, keys, shown
from ..types import Kind, Prompt, Split
from .attacks import UNATTACKED, AttackSpec
from .claims import Check, Claim, Where, check_names, unfolded
from .stacks import StackSpec

if TYPE_CHECKING:
    from ..concepts import Concept
    from ..settings import Settings

ATTACKED: tuple[Kind, ...] = tuple(kind for kind, role in ROLES.items() if role == "unsafe")
ONLY = ("concept", "defense", "attack", "prompts", "split")


class PromptSet(BaseModel):
    """``n`` prompts of one kind and split, for each concept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    kind: Kind = Field(description="What they ask for: plain, synonym, neighbor or benign.")
    split: Split = Field(default="held-out", description="Of which words: held-out, or train to fit a defense on.")
    n: int = Field(ge=1, le=1_000_000, description="How many, for each concept.")


Row = tuple[str, str, str, PromptSet]


class SuiteSpec(BaseModel):
    """What a TOML file of this folder, or of a user, says. ``batch_size`` is about memory and never about content."""

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
        AttackSpec.all(attacks)
        return attacks

    @field_validator("defenses")
    @classmethod
    def _sound_defenses(cls, defenses: list[Any]) -> list[Any]:
        StackSpec.all(defenses)
        return defenses

    @model_validator(mode="after")
    def _sound_names(self) -> Self:
        stacks, kinds = {stack.name for stack in self.stacks}, {p.kind for p in self.prompts}
        for attack in self.attack_specs:
            for said, known in ((attack.defenses, stacks), (attack.prompts, kinds)):
                for name in set(said) - known:
                    raise UnknownName(f"part of the suite for the attack {attack.name}", name, known)
        if self.claims:
            runs = ((g.stack.name, g.attack.name, g.prompts.kind, g.prompts.split, g.concept) for g in self.groups())
            check_names(self.claims, runs)
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> SuiteSpec:
        """Read and check a suite: one that ships, by name, or a user's own, by the path of its TOML file.

        Raises :class:`UserError` with one line for the first mistake.
        """
        path = _find(name_or_path)
        do = f"check the path, or name one of: {', '.join(shipped())}"
        return cls.parse(read_toml(path, "a suite file", "a suite", do), str(name_or_path))

    @classmethod
    def parse(cls, data: Settings, where: str = "the suite") -> SuiteSpec:
        """From a table; ``where`` is named in errors."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _first_mistake(error, where) from None

    @property
    def stacks(self) -> list[StackSpec]:
        """Undefended first, then the defenses in the suite's order."""
        return [StackSpec(), *(s for s in StackSpec.all(self.defenses) if s.parts)]

    @property
    def attack_specs(self) -> list[AttackSpec]:
        """No attack first, then the attacks in the suite's order."""
        return [UNATTACKED, *AttackSpec.all(self.attacks)]

    @property
    def settings(self) -> Settings:
        """What of the sampling belongs to an image's identity."""
        return {"steps": self.steps, "guidance": self.guidance}

    @property
    def digest(self) -> str:
        """Of everything that can change a record: not of ``batch_size``, nor of what is claimed."""
        unsaid = set() if self.metrics else {"metrics"}
        said = self.model_dump(exclude={"batch_size", "claims"} | unsaid)
        return hashlib.sha256(
            compact_json([said, VERSION] if self.attacks else said).encode()
        ).hexdigest()  # two versions of the attacks are not in one table

    def groups(self, only: Iterable[str] = ()) -> list[Group]:
        """The result rows to come, in plan order; ``only`` is ``KEY=VALUE`` (same key: either; others: both)."""
        wanted = _wanted(only)
        each = [
            (stack, attack, prompts)
            for stack, attack, prompts in itertools.product(self.stacks, self.attack_specs, self.prompts)
            if attack == UNATTACKED or (prompts.kind in ATTACKED and attack.meets(stack.name, prompts.kind))
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
    stack: StackSpec
    attack: AttackSpec
    prompts: PromptSet

    @property
    def row(self) -> Row:
        """What tells it from the suite's other groups, and can be a key: names are not given twice."""
        return self.concept, self.stack.name, self.attack.name, self.prompts

    @property
    def twin(self) -> Group:
        return Group(self.concept, StackSpec(), UNATTACKED, self.prompts)

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
                return self.attack.name
            case "prompts":
                return self.prompts.kind
        return self.prompts.split

    @property
    def n(self) -> int:
        """How many prompts; of an attack that takes fewer, the first of them."""
        return min(self.prompts.n, self.attack.n or self.prompts.n)

    def numbered(self, concept: Concept, seed: int) -> Iterator[tuple[int, Prompt]]:
        """The prompts, before any attack, with their places in the group."""
        return enumerate(concept.prompts(self.prompts.kind, self.prompts.split, self.n, seed))


def shipped() -> dict[str, Path]:
    """The suites that ship, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"), key=lambda path: path.stem)}


def about(path: Path) -> str:
    """What a suite is for: the comment that its file begins with, up to the first full stop or blank line."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), read_text(path, "a suite file", "reinstall unsee").splitlines()
    )
    told = itertools.takewhile(bool, (line.removeprefix("#").strip() for line in lines))
    return re.split(r"(?<=[.?!]) ", " ".join(told))[0]


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, str) and not text.endswith(".toml") and "/" not in text and "\\" not in text:
        if text not in shipped():
            raise UnknownName("suite", text, shipped())
        return shipped()[text]
    return Path(name_or_path)


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


def _table(place: tuple[int | str, ...]) -> type[BaseModel]:
    """What is read at this place of a suite file."""
    if place[0] == "prompts" and place[1:]:
        return PromptSet
    if place[0] != "claims" or not place[1:]:
        return SuiteSpec
    inner = [part for part in place[1:-1] if isinstance(part, str)]
    return Where if inner[1:] else Check if inner else Claim
