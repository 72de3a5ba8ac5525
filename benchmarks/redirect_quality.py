"""Is a redirected image a good image of the rest of its prompt? picto, held-out pairs of an unsafe and a safe text.

    python benchmarks/redirect_quality.py weapon=picto/saferedir-weapon alcohol=runs/saferedir-alcohol --json
    python benchmarks/redirect_quality.py --suite saferedir-ablation --run runs/ablation --n 100 --json

From one seed each: the undefended model draws the safe text, the defended one the unsafe text. Both images are scored
against the safe text by picto's own CLIP; the judge says whether the unsafe one is still unsafe, and which style both
have. A style's safe text names the other style that SafeRedir is fitted to put in its place. Reported: mean score of
both, their ratio with a bootstrap interval over pairs, and the shares with intervals; ``style_kept`` is that of the
redirected images where the safe twin has the style it was asked for.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import unsee
from unsee import concepts, picto
from unsee.bench.generate import batches, draw
from unsee.concepts.prompts import image_seed
from unsee.guards.saferedir.texts import one_replacement
from unsee.metrics.clip_score import PictoClipScore
from unsee.metrics.rates import wilson
from unsee.suites.stacks import StackSpec
from unsee.suites.suite import SuiteSpec
from unsee.types import Prompt


def prompts(concept: Any, texts: list[str], side: str, safe: list[str]) -> list[Prompt]:
    """One per text; the style is the one that the safe text names, the seed the pair's."""
    found = []
    for i, text in enumerate(texts):
        style = next((s for s in concept.styles if re.search(rf"\b{s}\b", safe[i])), "")
        found.append(Prompt(text, f"{side}/{i}", image_seed(0, f"{concept.name}/quality/{i}"), style=style))
    return found


def drawn(pipe: Any, asked: list[Prompt], defenses: list[Any]) -> list[Any]:
    settings = {"steps": picto.STEPS, "guidance": picto.GUIDANCE}
    return [s.image for part in batches(asked, 16) for s in draw(pipe, part, defenses, **settings)]


def share(hits: list[bool]) -> list[float]:
    """[rate, low, high]."""
    low, high = wilson(sum(hits), len(hits)) or (float("nan"), float("nan"))
    return [round(x, 4) for x in (sum(hits) / len(hits), low, high)]


def ratio(ours: list[float], twins: list[float]) -> list[float]:
    """[mean / mean, low, high], 2,000 resamples of the pairs."""
    a, b = np.array(ours), np.array(twins)
    rows = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    found = a[rows].mean(1) / b[rows].mean(1)
    return [round(float(x), 4) for x in (a.mean() / b.mean(), *np.quantile(found, (0.025, 0.975)))]


@functools.cache
def twins(name: str, n: int) -> tuple[list[Prompt], list[Any]]:
    """The safe texts of ``n`` held-out pairs, and their images by the undefended model."""
    concept = concepts.load(name)
    safe = [text for _, text in one_replacement(concept).pairs("held-out", n)]
    wanted = prompts(concept, safe, "safe", safe)
    return wanted, drawn(unsee.load("picto"), wanted, [])


def row(name: str, stack: StackSpec, keep: Path | None, called: str, n: int) -> dict[str, Any]:
    """One line of the table."""
    concept, pipe, judge = concepts.load(name), unsee.load("picto"), unsee.PictoJudge()
    unsafe = [text for text, _ in one_replacement(concept).pairs("held-out", n)]
    wanted, theirs = twins(name, n)
    safe = [p.text for p in wanted]
    ours = drawn(pipe, prompts(concept, unsafe, "unsafe", safe), stack.fit(concept, keep))
    scores = [PictoClipScore()(images, safe) for images in (ours, theirs)]
    styled = [[s["style"] == p.style for s, p in zip(judge.look(side), wanted, strict=True)] for side in (ours, theirs)]
    return {
        "concept": concept.name,
        "defense": called,
        "n": n,
        "still_unsafe": share([v.outcome == "unsafe" for v in judge(ours, wanted, concept)]),
        "clip_redirected": round(float(np.mean(scores[0])), 2),
        "clip_safe_twin": round(float(np.mean(scores[1])), 2),
        "clip_ratio": ratio(*scores),
        "style_redirected": share(styled[0]),
        "style_safe_twin": share(styled[1]),
        "style_kept": share([mine for mine, twin in zip(*styled, strict=True) if twin]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="CONCEPT=DEFENSE", help="a saved folder; A+B is a stack")
    parser.add_argument("--suite", help="all defenses of a suite instead, as they were fitted in --run")
    parser.add_argument("--run", type=Path, help="the run folder of the suite")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if bool(asked.pairs) == bool(asked.suite and asked.run):
        parser.error("expected CONCEPT=DEFENSE …, or --suite and --run")
    found = []
    for name, defense in (pair.split("=", 1) for pair in asked.pairs):
        found.append((name, StackSpec.parse(defense.split("+")), None, defense))
    if asked.suite:
        suite = SuiteSpec.load(asked.suite)
        stacks = [stack for stack in suite.stacks if stack.parts]
        found = [(name, stack, asked.run / "defenses", stack.name) for name in suite.concepts for stack in stacks]
    rows = [row(*what, asked.n) for what in found]
    if asked.json:
        print(json.dumps({"rows": rows}, indent=2))
    else:
        print("\n\n".join("\n".join(f"{k:18} {v}" for k, v in found.items()) for found in rows))


if __name__ == "__main__":
    main()
