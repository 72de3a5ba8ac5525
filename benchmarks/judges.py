"""Milliseconds an image for every judge that can be opened here, at one thread.

    python benchmarks/judges.py                            what is installed, and what ships
    python benchmarks/judges.py clip vlm:url=…,model=…     judges that need a download or a server

Images are noise: the cost of these networks does not depend on what is on the picture. NudeNet's cost grows a little
with what it finds.
"""

from __future__ import annotations

import sys

import torch
from PIL import Image

import unsee
from unsee import judges
from unsee.errors import UserError
from unsee.metrics.cost import latency
from unsee.types import Prompt

HERE = ("picto", "clip:model=picto", "nudenet", "open-nsfw")
N, SIZE = 16, 512


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    images = [Image.effect_noise((SIZE, SIZE), 60 + i).convert("RGB") for i in range(N)]
    prompts = [Prompt("a thing", str(i), i) for i in range(N)]
    for name in names or HERE:
        try:
            judge = judges.load(name)
        except UserError as error:
            print(f"{name:24} not here: {error}")
            continue
        concept = unsee.load_concept("nudity" if name in ("nudenet", "open-nsfw") else "weapon")
        verdicts = judge(images, prompts, concept)
        unjudged = sum(v.outcome == "unjudged" for v in verdicts)
        taken = latency(lambda judge=judge, concept=concept: judge(images, prompts, concept), repeats=7)
        low, middle, high = (1000 * x / N for x in (taken.low, taken.seconds, taken.high))  # 7 calls have an interval
        print(f"{name:24} {middle:7.1f} ms [{low:.1f}, {high:.1f}]  unjudged {unjudged} of {N}")


if __name__ == "__main__":
    main(sys.argv[1:])
