"""What a fit and an attack will take, measured on this machine and this model before they start.

A fit      is tried at a few counts: its settings that are counts (GROWS) at 2, then each group of them at m = 8, or
           32 or 128 where that is not yet half as long again (a difference must stand out from chance), in a folder
           that is thrown away. Seconds are taken to grow in a straight line with each group:
               seconds = s(2, 2, …) + Σ_g (s(… m …) − s(2, 2, …)) / (m − 2) · (n_g − 2)
           The first try warms up and is not counted. Early stopping makes the truth smaller, a model that seldom draws
           what is asked for makes it larger. What is not in GROWS is taken to cost what its one small fit costs.
           These are seconds on the wall: a machine that is busy now is thought to stay so.
An attack  has said the most that it may spend (``Attack.most``): text encodings, denoiser rows with and without
           gradients, images. Each of these is timed once. So this is an upper bound, but for the passes that guards
           make on their own account.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..registry import DEFENSES, resolve
from ..suites.attacks import AttackSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import DiffusionPipeline

    from ..concepts import Concept
    from ..defenses import Defense
    from ..types import Spent

Clock = Callable[[], float]
GROWS: dict[str, tuple[tuple[str, ...], ...]] = {  # method → groups of settings that are counts; the first leads
    "ca": (("trajectories",), ("steps",)),
    "duo": (("n",), ("everyday",), ("steps",)),
    "esd": (("trajectories",), ("steps",)),
    "ine": (("images", "check"), ("steps",)),
    "rece": (("texts",), ("epochs",)),
    "saferedir": (
        ("trajectories", "harmless_trajectories", "pairs", "negatives"),
        ("max_train_steps",),
    ),
    "spm": (("trajectories",), ("steps",)),
    "uce": (("texts",),),
}
FEW, MORE = 2, (8, 32, 128)
TELLING = 1.5  # a trial so much longer than the small one says what growing costs
ROWS = 4  # images and denoiser rows that are timed at once
STEPS = (2, 5)  # of the images that are timed


@dataclass(frozen=True)
class Pace:
    """Seconds for one of each."""

    image: float
    encoding: float
    forward: float  # a row through the denoiser
    backward: float  # what a row with gradients costs more

    def of(self, spent: Spent) -> float:
        """Seconds for what an attack may spend."""
        return (
            spent.images * self.image
            + spent.encodings * self.encoding
            + spent.forwards * self.forward
            + spent.backwards * self.backward
        )


def pace(
    pipe: DiffusionPipeline, concept: Concept, *, steps: int, guidance: float, clock: Clock = time.perf_counter
) -> Pace:
    """Times ``pipe`` as it is: a few images of few steps, a list of texts, a pass with gradients."""
    import torch

    from ..attacks.victim import facing

    prompts = concept.prompts("plain", "train", ROWS)
    texts = [p.text for p in concept.prompts("plain", "train", 64)]
    with facing(pipe) as victim:
        drawn = victim.generate(prompts, steps=STEPS[0], guidance=guidance)
        short, long = (
            _least(functools.partial(victim.generate, prompts, steps=s, guidance=guidance), clock) for s in STEPS
        )
        encoding = _least(lambda: victim.encode(texts), clock) / len(texts)
        latents = victim.latents(drawn)
        text = victim.encode([p.text for p in prompts])
        tokens = text.tokens.detach().clone().requires_grad_()
        leaf = type(text)(tokens, text.pooled, text.ids)

        def there() -> None:
            with torch.no_grad():
                victim.predict(latents, victim.last // 2, leaf)

        def and_back() -> None:
            with torch.enable_grad():
                torch.autograd.grad(victim.predict(latents, victim.last // 2, leaf).square().mean(), tokens)

        forward, both = (_least(call, clock) / ROWS for call in (there, and_back))
    step = max(long - short, 0.0) / (STEPS[1] - STEPS[0])
    image = (short + step * (steps - STEPS[0])) / ROWS
    return Pace(max(image, 0.0), encoding, forward, max(both - forward, 0.0))


def attack_seconds(attacks: Sequence[AttackSpec], n: int, speed: Pace) -> tuple[float, float]:
    """(what is searched for once for all defenses, what each defense adds: its own searches and ``n`` images each)."""
    shared = own = 0.0
    for attack in attacks:
        sees, spent = attack.most(n)
        if sees in ("words", "text"):
            shared += speed.of(spent)
        else:
            own += speed.of(spent)
        own += min(n, attack.n or n) * speed.image
    return shared, own


def fit_seconds(method: str, settings: dict[str, Any], pipe: DiffusionPipeline, concept: Concept, *,
                clock: Clock = time.perf_counter) -> float:  # fmt: skip
    """What fitting ``method`` with ``settings`` will take; 0 for what is made of words alone.

    Raises what the fit raises, so a setting that cannot be is told here.
    """
    kind = resolve("defense method", DEFENSES, method)
    if kind.Training is None:
        return 0.0
    full = _counts(kind, settings, concept)
    groups = [group for group in (_sized(group, full) for group in GROWS.get(method, ())) if group]
    small = {key: value for group in groups for key, value in _at(FEW, group).items()}

    def seconds(counts: dict[str, int]) -> float:
        with scratch() as work:
            started = clock()
            kind.fit(pipe, concept, work=work, **(settings | counts))
            return clock() - started

    def slope(group: dict[str, int], base: float) -> float:
        """Seconds for one more of the group's first count."""
        tried = [count for count in MORE if count < next(iter(group.values()))]
        for count in tried:
            grown = seconds(small | _at(count, group))
            if grown > TELLING * base or count == tried[-1]:
                return max(grown - base, 0.0) / (count - FEW)
        raise AssertionError("a group of no counts")

    seconds(small)
    base = seconds(small)
    return base + sum(slope(group, base) * (next(iter(group.values())) - FEW) for group in groups)


def _counts(kind: type[Defense], settings: dict[str, Any], concept: Concept) -> dict[str, Any]:
    """All settings of the real fit, as the method will take them."""
    from ..defenses.presets import settled

    _, training = kind.check_settings(settings)
    return asdict(settled(training, concept, kind.presets))


def _sized(names: Sequence[str], full: dict[str, Any]) -> dict[str, int]:
    """The counts of one group; nothing if the real fit is as small as the trial."""
    found = {name: int(full[name]) for name in names if full.get(name)}
    return found if names[0] in found and found[names[0]] > MORE[0] else {}


def _at(lead: int, group: dict[str, int]) -> dict[str, int]:
    """The group with its first count at ``lead`` and the others in proportion, none below 2 or above its own."""
    share = lead / next(iter(group.values()))
    return {name: min(count, max(FEW, round(share * count))) for name, count in group.items()}


def _least(call: Callable[[], object], clock: Clock) -> float:
    """Seconds of the faster of two calls; the first of all has warmed up."""
    times = []
    for _ in range(2):
        started = clock()
        call()
        times.append(clock() - started)
    return min(times)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place) / "work"
