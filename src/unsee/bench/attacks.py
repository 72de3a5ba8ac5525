"""Running a suite's attack behind a stack of defenses; what it found is kept, to be read and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import inside, plain
from ..suites.stacks import NONE

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from ..concepts import Concept
    from ..defenses import Defense
    from ..suites.attacks import AttackSpec
    from ..suites.suite import SuiteSpec
    from ..types import AttackedPrompt, Prompt


@dataclass(frozen=True)
class Target:
    """What is attacked: a pipeline, with the defenses that are attached for the attack's duration."""

    pipe: DiffusionPipeline
    guards: tuple[Defense, ...]
    defense: str
    concept: Concept


def run_attack(spec: AttackSpec, target: Target, prompts: list[Prompt], suite: SuiteSpec, folder: Path,
               progress: Callable[[str, int, int], None] | None = None) -> list[AttackedPrompt]:  # fmt: skip
    """Attacks ``target``; what was found is kept in ``folder``/concept/defense/attack, to be read and replayed."""
    from ..defenses import Guarded
    from ..embeddings.attacked import save

    attack = spec.attack({"guidance": suite.guidance, "draw_steps": suite.steps, "judge": suite.judge})
    with Guarded(target.pipe, *target.guards):
        found = attack(target.pipe, target.concept, prompts, seed=suite.seed, work=folder / "work",
                       progress=progress)  # fmt: skip
    kinds = "-".join(dict.fromkeys(kind_of(p.kind, p.split) for p in prompts))
    place = found_at(folder, target.concept.name, target.defense, spec.name, kinds)
    about = {"attack": repr(attack), "model": suite.model, "concept": target.concept.name, "sees": attack.sees}
    save(found, place / "prompts.json", **about, defense=target.defense, seed=suite.seed,
         most=asdict(attack.most(len(prompts))))  # fmt: skip
    return found


def words_digest(words: tuple[Tensor, ...]) -> str:
    """What an attacked prompt means beside its text: the embeddings that it names, as a hash."""
    if not words:
        return NONE
    from ..embeddings.attacked import digest

    return digest(words)


def found_at(folder: Path, concept: str, defense: str, attack: str, kind: str) -> Path:
    """Where a run keeps what an attack found; ``kind`` as :func:`kind_of` has it."""
    return inside(folder, plain(concept), plain(defense), plain(attack), plain(kind))


def kind_of(kind: str, split: str) -> str:
    return kind + "-train" * (split == "train")
