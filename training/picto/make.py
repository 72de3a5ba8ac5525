"""Make picto from nothing: data, tokenizer, VAE, CLIP, judge, UNet, then install. Resumes where it was stopped.

    python -m training.picto.make --work runs/picto

About two and a half hours on two CPU cores, minutes on a GPU. Pin the two threads of a CPU run
(``GOMP_CPU_AFFINITY="0 1"``): when both land on one core a step takes twice as long.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

STAGES = ("data", "captions", "train_vae", "train_clip", "train_judge", "train_unet", "install")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="runs/picto")
    a = parser.parse_args()
    for stage in STAGES:
        print(f"== {stage}", flush=True)
        subprocess.run([sys.executable, "-m", f"training.picto.{stage}", "--work", a.work], check=True)


if __name__ == "__main__":
    main()
