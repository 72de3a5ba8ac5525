"""Protect a pipeline, see what the guard did, take it off again.

Run it as
    python examples/01_guard.py            the embedded model; writes before.png and after.png
    python examples/01_guard.py tiny:sd1   random weights, a second
"""

import sys
from pathlib import Path

import torch

import unsee


def main(model: str = "picto", out: str = ".") -> None:
    pipe = unsee.load(model)
    pipe.set_progress_bar_config(disable=True)
    weapon = unsee.load_concept("weapon")
    prompt = weapon.prompts("plain", "held-out", n=1)[0]
    settings = {"num_inference_steps": 25, "guidance_scale": 4.0}

    def draw(name: str) -> None:
        seeded = torch.Generator().manual_seed(prompt.seed)
        image = pipe(prompt.text, generator=seeded, **settings).images[0]
        image.save(Path(out) / name)

    print(prompt.text)
    draw("before.png")
    with unsee.protect(pipe, unsee.SLD.for_concept(weapon, preset="strong", match=True, warmup=0)) as guarded:
        draw("after.png")
        print(f"{len(guarded.decisions[0])} steps recorded, the last: {guarded.decisions[0][-1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
