"""What a defense costs: parameters, size and fitting as its saved folder tells; what attacks spent.

Seconds an image are not told: pictures of different defenses are drawn at different times, so theirs would measure what
else the machine did (``benchmarks/guard_overhead.py`` draws in turn). Parameters and bytes are read off the head of
``model.safetensors``; the seconds of a fit are in the folders that a run itself fitted without a stop. What an attack
spent is in the folders of what it found. What is not known is left out, not guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..bench.attacks import found_at, kind_of
from ..bench.rows import ResultRow
from ..bench.schema import Spec, StoredSuite
from ..defenses.storage import CONFIG, WEIGHTS, config_of
from ..embeddings import attacked as saved
from ..errors import UserError
from ..files import is_file, plain, tensor_shapes
from ..metrics.rates import mean
from ..suites.stacks import NONE, DefenseSpec, StackSpec
from ..types import Record, Spent

if TYPE_CHECKING:
    from ..defenses.config import Config

Key = tuple[str, str, str]  # suite, concept, defense
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Fitted:
    """One part of a stack as it lies on disk. ``training`` is empty and numbers are None where nothing is known."""

    name: str
    method: str
    training: dict[str, object] = field(default_factory=dict)
    parameters: int | None = None
    size: int | None = None  # bytes
    seconds: float | None = None


@dataclass(frozen=True)
class Cost:
    """One line for each suite, concept and defense. None is not known."""

    suite: str
    concept: str
    defense: str
    images: int
    fit_seconds: float | None
    parameters: int | None
    bytes: int | None


@dataclass(frozen=True)
class AttackCost:
    """What an attack of a suite spent on a prompt, the mean over all that it attacked; ``most_*`` is its budget.

    ``seconds`` has the quickest and the slowest stack beside it.
    """

    suite: str
    attack: str
    sees: str | None
    prompts: int
    encodings: float
    forwards: float
    backwards: float
    images: float
    most_encodings: float | None
    most_forwards: float | None
    most_backwards: float | None
    most_images: float | None
    seconds: float | None
    seconds_low: float | None
    seconds_high: float | None


def fits(folder: Path, suites: dict[str, StoredSuite]) -> dict[Key, list[Fitted]]:
    """(suite, concept, defense) → what is known of its parts, in order."""
    found: dict[Key, list[Fitted]] = {}
    for name, suite in suites.items():
        stacks = _stacks(suite.spec)
        for concept in (Path(c).stem for c in suite.spec["concepts"]):
            own = _own(folder / "defenses" / plain(concept), [part for stack in stacks for part in stack.parts])
            for stack in stacks:
                found[name, concept, stack.name] = [_part(part, concept, own.get(part.name)) for part in stack.parts]
    return found


def costs(records: list[Record], known: dict[Key, list[Fitted]]) -> list[Cost]:
    """One line for each (suite, concept, defense); the undefended model first where it was run."""
    images = Counter((r.suite, r.concept, r.defense) for r in records if r.attack == NONE)
    return [
        Cost(
            *key,
            images=count,
            fit_seconds=_sum(part.seconds for part in known.get(key, [])),
            parameters=_sum(part.parameters for part in known.get(key, [])),
            bytes=_sum(part.size for part in known.get(key, [])),
        )
        for key, count in images.items()
    ]


def attack_costs(folder: Path, rows: list[ResultRow]) -> list[AttackCost]:
    """One line for each attack of a suite. One that reads text alone searches once for all stacks: counted once."""
    found: dict[tuple[str, str], dict[str, saved.Told]] = {}
    for row in (row for row in rows if row.attack != NONE):
        kind = kind_of(row.prompts, row.split)
        file = found_at(folder / "attacks", row.concept, row.defense, row.attack, kind) / "prompts.json"
        if is_file(file):
            kept = saved.read(file)
            once = kept.sees in ("words", "text")
            key = f"{row.concept} {kind} {'' if once else row.defense}"
            found.setdefault((row.suite, row.attack), {})[key] = kept
    return [_attack_cost(suite, attack, list(each.values())) for (suite, attack), each in found.items()]


def _attack_cost(suite: str, attack: str, each: list[saved.Told]) -> AttackCost:
    n = [len(kept.prompts) for kept in each]
    seconds = [_sum(line.seconds for line in kept.prompts) for kept in each]
    timed = [s / k for s, k in zip(seconds, n, strict=True) if s is not None]
    allowed = [kept.most for kept in each if kept.most is not None]
    spent = {f.name: sum(getattr(kept.spent, f.name) for kept in each) / sum(n) for f in fields(Spent)}
    columns: dict[str, Any] = dict(spent)
    for key in spent:
        most = sum(getattr(one, key) for one in allowed) / sum(n)
        columns[f"most_{key}"] = most if len(allowed) == len(each) else None
    return AttackCost(
        suite, attack, each[0].sees, sum(n), **columns,
        seconds=mean(timed), seconds_low=min(timed, default=None), seconds_high=max(timed, default=None),
    )  # fmt: skip


def _stacks(spec: Spec) -> list[StackSpec]:
    stacks = []
    for value in spec["defenses"]:
        try:
            stacks.append(StackSpec.parse(value))
        except UserError:  # a folder that is gone since, or a run that came from another machine
            continue
    return stacks


def _part(part: DefenseSpec, concept: str, own: Path | None) -> Fitted:
    place = Path(part.folder.replace("{concept}", concept)) if part.folder else own
    config = _config(place)
    if config is None:
        return Fitted(part.name, part.method, dict(part.settings))
    parameters, size = _weights(place)
    return Fitted(part.name, config.defense, _training(config), parameters, size, config.facts.fit_seconds)


def _own(folder: Path, parts: list[DefenseSpec]) -> dict[str, Path]:
    """Part's name → the folder that the run fitted it into, where the settings leave no doubt.

    A part that fits one folder only takes it away from the others: so one without settings gets what is left.
    """
    known: dict[str, list[tuple[Path, dict[str, object]]]] = {}  # method → its folders, and what they say
    for place in sorted(folder.glob("*-*")):
        config = None if place.suffix == ".work" else _config(place)
        if config is not None:
            known.setdefault(config.defense, []).append((place, _training(config)))
    left = {
        part.name: [place for place, training in known.get(part.method, []) if _fits(part, training)]
        for part in parts
        if part.method
    }
    taken: dict[str, Path] = {}
    while sure := {name: each[0] for name, each in left.items() if len(each) == 1}:
        taken |= sure
        gone = set(taken.values())
        left = {n: [p for p in each if p not in gone] for n, each in left.items() if n not in taken}
    return taken


def _fits(part: DefenseSpec, training: dict[str, object]) -> bool:
    return all(training.get(key) == value for key, value in part.settings.items())


def _training(config: Config) -> dict[str, object]:
    return {**config.facts.training, **config.arguments}


def _config(place: Path | None) -> Config | None:
    """None where nothing lies, or a stack."""
    return config_of(place) if place is not None and is_file(place / CONFIG) else None


def _weights(place: Path | None) -> tuple[int | None, int | None]:
    """Numbers in ``model.safetensors``, of which the head alone is read, and its bytes."""
    path = place / WEIGHTS if place else None
    if path is None or not is_file(path):
        return (0, 0) if place else (None, None)
    return sum(math.prod(shape) for shape in tensor_shapes(path).values()), path.stat().st_size


def _sum(values: Iterable[Number | None]) -> Number | None:
    """Of all parts; None if one is not known or there is none."""
    listed = list(values)
    known = [v for v in listed if v is not None]
    return sum(known) if listed and len(known) == len(listed) else None
