"""What SafeRedir learns from: encoded texts, and latents of the user's own pipeline while it draws them.

    work/data-<key>/index.json                what is in each shard, with its checksum
                    texts-00000.safetensors   tokens (n, L, D), pooled (n, P), float16; every text encoded once
                    paths-00000.safetensors   latents (n, K, …) float16 and t (n, K) at K steps of n trajectories

A shard is written whole (beside its place, then renamed) and noted in the index after that, so a stopped build goes on
with the next shard. Every image has its own generator: the data do not depend on where it was stopped.

Trajectories: the unsafe and the safe text of a pair from one noise (so the noise says nothing of the label), the same
noise under the redirected embedding from a random step on (what the guard sees after it has acted), harmless texts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...backbones import Backbone, Encoding, adapter, quiet
from ...concepts.prompts import image_seed
from ...defenses.base import Fit, Guard
from ...defenses.protection import protect
from ...errors import BadFile, GuardFailure
from ...files import Name, digest, load_tensors, read_json, save_tensors, sha256, typed
from ...sampling.sampler import generate
from ...writing import whole
from .net import image_like
from .texts import Text, compose, found_by_attacks

if TYPE_CHECKING:
    from ...defenses.base import State
    from ...defenses.generation import Generation, Step
    from ...settings import Settings
    from .training import Training

FORMAT, ROWS = 1, 64  # texts in a shard


@dataclass(frozen=True)
class Walk:
    """One trajectory: which text, from which step on which other one, how far towards it, from which noise."""

    text: int  # row of the bank
    kind: str  # unsafe, safe, redirected, harmless
    part: str
    seed: int
    target: int = -1
    switch: int = -1
    amount: float = 1.0


@dataclass(frozen=True)
class Data:
    """Everything that was stored, memory-mapped. Rows of texts and of trajectories go by their number."""

    texts: list[Text]
    paths: list[Walk]
    tokens: list[Tensor]  # one (L, D) per text
    pooled: list[Tensor] | None
    latents: list[Tensor]  # one (K, C, H, W) per trajectory, unpacked
    times: list[Tensor]  # one (K,) per trajectory, 0-999
    raw: list[Tensor]  # (K,) on the scheduler's own scale
    key: str  # of the recipe

    def encoding(self, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """tokens ``(n, L, D)`` and pooled ``(n, P)`` of texts, float32."""
        tokens = torch.stack([self.tokens[i] for i in rows]).float()
        return tokens, None if self.pooled is None else torch.stack([self.pooled[i] for i in rows]).float()

    def rows(self, part: str, *roles: str) -> list[int]:
        """Texts of these roles. Unsafe ones whose concept the text encoder cut off are left out."""
        found = [i for i, t in enumerate(self.texts) if t.part == part and t.role in roles]
        return [i for i in found if self.texts[i].twin < 0 or not self._cut(i)]

    def whole(self) -> Data:
        """The same data with all pairs to fit on; only harmless things that no pair has are still kept for checking."""
        more = [i for i, t in enumerate(self.texts) if t.part == "check" and t.role == "unsafe"]
        texts = [dataclasses.replace(t, part="fit") if t.role == "safe" else t for t in self.texts]
        paths = [p if p.kind == "harmless" else dataclasses.replace(p, part="fit") for p in self.paths]
        return dataclasses.replace(
            self,
            texts=texts + [dataclasses.replace(texts[i], part="fit") for i in more],
            paths=paths,
            tokens=self.tokens + [self.tokens[i] for i in more],
            pooled=self.pooled and self.pooled + [self.pooled[i] for i in more],
            key=self.key + "-whole",
        )

    def shifts(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """The plain pairs to fit on, in chunks: tokens and what makes them safe, pooled embeddings and the same."""
        rows = [i for i in self.rows("fit", "unsafe") if self.texts[i].plain]
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            (x, pooled), (goal, safe) = self.encoding(some), self.encoding([self.texts[i].twin for i in some])
            yield x, goal - x, pooled, None if pooled is None or safe is None else safe - pooled

    def _cut(self, i: int) -> bool:
        return torch.equal(self.tokens[i], self.tokens[self.texts[i].twin])

    def walks(self, part: str, *kinds: str) -> list[int]:
        """Trajectories of these kinds."""
        return [i for i, p in enumerate(self.paths) if p.part == part and p.kind in kinds]


def build(fit: Fit, training: Training, *, unscaled: bool = False) -> Data:
    """Makes what is missing in ``fit.work`` and opens all of it.

    Latents are stored as the denoiser gets them, or (``unscaled``) as the sampling loop holds them.
    """
    backbone = adapter(fit.pipe)
    texts = compose(fit.concept, training.pairs, training.negatives, fit.seed)
    words: dict[str, tuple[Tensor, ...]] = {}
    if training.attacked:
        more, words = found_by_attacks(training.attacked, fit.concept, len(texts))
        texts += more
    paths = plan(fit, training, texts)
    recipe = [FORMAT, backbone.fingerprint(), backbone.text_fingerprint(), [host.digest() for host in fit.host],
              [dataclasses.asdict(t) for t in texts], [dataclasses.asdict(p) for p in paths],
              [getattr(training, name) for name in training.OF_DATA], unscaled]  # fmt: skip
    folder = fit.work / f"data-{key(recipe)}"
    folder.mkdir(parents=True, exist_ok=True)
    index = Index(folder)
    for start in range(0, len(texts), ROWS):
        fit.progress("texts", start, len(texts))
        some = texts[start : start + ROWS]
        index.add(f"texts-{start:05d}", functools.partial(_encode, backbone, some, words, training))
    for start in range(0, len(paths), training.generate_batch_size):
        fit.progress("trajectories", start, len(paths))
        batch = paths[start : start + training.generate_batch_size]
        index.add(f"paths-{start:05d}", functools.partial(_walk, fit, training, texts, batch, unscaled))
    fit.progress("trajectories", len(paths), len(paths))
    return _open(index, texts, paths)


def plan(fit: Fit, training: Training, texts: list[Text]) -> list[Walk]:
    """Trajectories: for each of the first pairs unsafe, safe and redirected; harmless texts in both parts alike, since
    the thresholds of late steps rest on those of the validation."""
    rng = random.Random(f"{fit.seed}:{fit.concept.name}:paths")
    made = []
    for part, n, calm in (("fit", training.trajectories, training.harmless_trajectories),
                          ("check", max(1, training.trajectories // 4), training.harmless_trajectories)):  # fmt: skip
        unsafe = [i for i, t in enumerate(texts) if t.part == part and t.role == "unsafe"][:n]
        harmless = [i for i, t in enumerate(texts) if t.part == part and t.role in ("benign", "neighbor")][:calm]
        for place, i in enumerate(unsafe):
            seed, twin = image_seed(fit.seed, f"{fit.concept.name}/saferedir/{part}/{place}"), texts[i].twin
            made += [Walk(i, "unsafe", part, seed), Walk(twin, "safe", part, seed)]
            if place % 2 == 0:
                switch = rng.randrange(0, max(1, training.num_inference_steps // 2))
                made.append(Walk(i, "redirected", part, seed, twin, switch, rng.uniform(0.7, 1.2)))
        for place, i in enumerate(harmless):
            made.append(Walk(i, "harmless", part, image_seed(fit.seed, f"{fit.concept.name}/harmless/{part}/{place}")))
    return made


def key(value: Any) -> str:
    """Short name of a recipe."""
    return digest(value)[:10]


class Index:
    """``index.json`` of a data folder: shard → sha256. A shard that is listed and whole is not made again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "index.json"
        self.shards: dict[str, str] = {}
        if self.path.exists():
            what, do = "an index of shards", "remove the folder and fit again"
            self.shards = typed(dict[Name, str], read_json(self.path, what, do), self.path, what, do)

    def add(self, name: str, make: Any) -> None:
        """Writes the shard ``name`` of ``make()``, a dict of tensors, unless it is there."""
        path = self.folder / f"{name}.safetensors"
        if name in self.shards and path.exists():
            return
        self.shards[name] = sha256(save_tensors(path, make()))
        write_json(self.path, self.shards)

    def open(self, kind: str) -> Iterator[dict[str, Tensor]]:
        """The shards of one kind in order, memory-mapped. Raises :class:`BadFile` for one that was changed."""
        for name in sorted(name for name in self.shards if name.startswith(kind)):
            path = self.folder / f"{name}.safetensors"
            if not path.exists() or sha256(path) != self.shards[name]:
                raise BadFile("the shard that was written", f"{path} with another checksum", "remove it and fit again")
            yield load_tensors(path)[0]


def write_json(path: Path, value: Any) -> None:
    """Whole, or as it was."""
    with whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=1, sort_keys=True))


def _encode(backbone: Backbone, texts: list[Text], words: Mapping[str, Any], training: Training) -> dict[str, Tensor]:
    from ...embeddings.attacked import saying

    made = []
    for name, group in itertools.groupby(texts, key=lambda t: t.words):
        with quiet(), saying(backbone.pipe, words.get(name, ())):  # every text that is cut is reported; see Data.rows
            made.append(backbone.encode([t.text for t in group], length=training.max_sequence_length or None))
    parts = {"tokens": torch.cat([one.tokens for one in made]).half().cpu()}
    pooled = [one.pooled for one in made if one.pooled is not None]
    if pooled:
        parts["pooled"] = torch.cat(pooled).half().cpu()
    for name, tensor in parts.items():
        if not bool(torch.isfinite(tensor).all()):
            raise GuardFailure(f"the text encoder's {name} are not finite in half precision; nothing was stored")
    return parts


def _open(index: Index, texts: list[Text], paths: list[Walk]) -> Data:
    tokens: list[Tensor] = []
    pooled: list[Tensor] = []
    for shard in index.open("texts"):
        tokens += shard["tokens"].unbind(0)
        pooled += shard["pooled"].unbind(0) if "pooled" in shard else []
    found = list(index.open("paths"))
    latents, times, raw = (
        [row for shard in found for row in shard[name].unbind(0)] for name in ("latents", "t", "raw")
    )
    return Data(texts, paths, tokens, pooled or None, latents, times, raw, index.folder.name)


@dataclass(kw_only=True, eq=False)
class Recorder(Guard):
    """Notes the latents of every step; from an image's own step on it mixes another text in."""

    name: ClassVar[str] = "saferedir-recorder"
    unscaled: bool = False
    switch: Sequence[int] = ()  # per image; -1 never
    amount: Sequence[float] = ()

    target: Encoding | None = None
    seen: list[tuple[Tensor, float, float]] = dataclasses.field(default_factory=list)

    def prepare(self, generation: Generation) -> None:
        self.seen.clear()

    def on_positive(self, step: Step, text: Encoding, state: State) -> Encoding | None:
        latents = step.backbone.unscale(step.latents, step.t) if self.unscaled else step.latents
        latents = image_like(latents.detach(), aspect(step.generation.arguments))
        self.seen.append((latents.half().cpu(), step.t_999, step.t))
        now = [i for i, switch in enumerate(self.switch) if 0 <= switch <= step.index]
        if not now or self.target is None:
            return None
        tokens, pooled = text.tokens.clone(), None if text.pooled is None else text.pooled.clone()
        for i in now:
            tokens[i] = torch.lerp(tokens[i], self.target.tokens[i].to(tokens), self.amount[i])
            if pooled is not None and self.target.pooled is not None:
                pooled[i] = torch.lerp(pooled[i], self.target.pooled[i].to(pooled), self.amount[i])
        return dataclasses.replace(text, tokens=tokens, pooled=pooled)


def aspect(arguments: Settings) -> float:
    """Height over width of a call; 1 where it does not say."""
    height, width = arguments.get("height"), arguments.get("width")
    return float(height) / float(width) if height and width else 1.0


def chosen(steps: int, stored: int) -> list[int]:
    """At most ``stored`` of ``steps`` steps, the first and the last among them, denser at the noise end."""
    if stored < 2 or steps < 2:
        return [0]
    return sorted({round((i / (stored - 1)) ** 1.5 * (steps - 1)) for i in range(stored)})


def _walk(fit: Fit, training: Training, texts: list[Text], batch: list[Walk], unscaled: bool) -> dict[str, Tensor]:
    backbone, length = adapter(fit.pipe), training.max_sequence_length
    targets = [texts[p.target if p.target >= 0 else p.text].text for p in batch]
    recorder = Recorder(
        unscaled=unscaled,
        switch=[p.switch for p in batch],
        amount=[p.amount for p in batch],
        target=backbone.encode(targets, length=length or None),
    )
    more: dict[str, Any] = {"max_sequence_length": length} if length else {}
    with torch.no_grad(), protect(fit.pipe, *fit.host, recorder):
        generate(
            fit.pipe, [texts[p.text].text for p in batch], [p.seed for p in batch], decode=False,
            steps=training.num_inference_steps, guidance=training.guidance_scale, **more,
        )  # fmt: skip
    seen = [recorder.seen[i] for i in chosen(len(recorder.seen), training.stored_steps)]
    n = len(batch)
    return {
        "latents": torch.stack([latents for latents, _, _ in seen], dim=1),
        "t": torch.tensor([[t for _, t, _ in seen]] * n),
        "raw": torch.tensor([[raw for _, _, raw in seen]] * n),
    }
