"""Is the bench as fast as the bare pipeline, and are two Ray workers faster than one?

    python benchmarks/bench_throughput.py                        both, on picto: under 5 minutes on 2 free cores
    python benchmarks/bench_throughput.py --only suite --json    the first alone
    python benchmarks/bench_throughput.py --n 4 --batch 2 --steps 2 --model tiny:sd1     token size

suite: all of ``unsee bench`` (plan, draw, store, judge, measure, export) from an empty folder against the pipeline
called with the same prompts, seeds and batches, that keeps nothing; in one process, with ``--threads``, by turns.
Imports and the opening of the model are in neither: they are paid once, whatever the size. Bar: .95 of its images per
second, the median over ``--pairs``; also shown without judge and metrics, which are work that the pipeline does not do.

ray: the suite on a cluster of this machine that the benchmark starts, with one worker whose process, with all its
threads, is pinned to one core, and with two workers pinned to a core each. Counted is from when all have opened the
model until the last image is stored; both draw the same. Bar: 1.6 times.
Needs ``unsee[ray]``; skipped, and said so, without it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: also of what it does outside of the runs

import torch

from unsee import concepts
from unsee.bench import run as bench
from unsee.bench.engines import ray as on_ray
from unsee.bench.generate import batches
from unsee.sampling import machine as models
from unsee.suites.suite import SuiteSpec

BARS = {"suite": 0.95, "ray": 1.6}


def suite(asked: argparse.Namespace, n: int) -> SuiteSpec:
    """Undefended, so that the pipeline alone can draw the same: ``n`` prompts."""
    return SuiteSpec.parse({
        "name": "throughput", "model": asked.model, "concepts": ["weapon"], "prompts": [{"kind": "plain", "n": n}],
        "judge": "picto", "steps": asked.steps, "guidance": 4.0, "batch_size": asked.batch,
    })  # fmt: skip


def plain(made: SuiteSpec, pipe: Any, threads: int) -> None:
    """What a user would write."""
    torch.set_num_threads(threads)
    prompts = [prompt for _, prompt in made.groups()[0].numbered(concepts.load("weapon"), made.seed)]
    for part in batches(prompts, made.batch_size):
        pipe(
            prompt=[p.text for p in part],
            generator=[torch.Generator().manual_seed(p.seed) for p in part],
            num_inference_steps=made.steps,
            guidance_scale=made.guidance,
        )


def timed(call: Callable[[], Any]) -> float:
    """Processor seconds on one thread, which other work on the machine disturbs least; else wall time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    call()
    return clock() - started


def compare_suite(asked: argparse.Namespace) -> dict[str, Any]:
    made = suite(asked, asked.n)
    pipe = models.open_model(asked.model)
    models.open_model = lambda name, device="cpu": pipe  # type: ignore[assignment]  # opened once, for both
    torch.set_num_threads(asked.threads)

    def whole(folder: str) -> None:
        bench.run(made, folder, threads=asked.threads)

    def drawn(folder: str) -> None:
        judge, measure = bench._judge, bench._measure
        bench._judge = bench._measure = lambda *_: None  # type: ignore[assignment]
        try:
            bench.run(made, folder, threads=asked.threads)
        finally:
            bench._judge, bench._measure = judge, measure

    ways: dict[str, Callable[[str], Any]] = {
        "plain": lambda folder: plain(made, pipe, asked.threads), "suite": whole, "drawn": drawn
    }  # fmt: skip
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as scratch:
        small = suite(asked, 2)
        bench.run(small, f"{scratch}/warm", threads=asked.threads)  # imports, the judge's weights
        plain(small, pipe, asked.threads)
        for pair in range(asked.pairs):
            for way in list(ways)[:: 1 if pair % 2 else -1]:
                seconds[way].append(timed(lambda way=way, pair=pair: ways[way](f"{scratch}/{way}-{pair}")))  # type: ignore[misc]
            print(f"pair {pair + 1}: " + ", ".join(f"{w} {s[-1]:.2f} s" for w, s in seconds.items()), file=sys.stderr)
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["suite"], strict=True)]
    without = [a / b for a, b in zip(seconds["plain"], seconds["drawn"], strict=True)]
    best = {f"images_per_second_{way}": round(asked.n / min(taken), 3) for way, taken in seconds.items()}
    middle = statistics.median(ratios)
    return {
        "ratio": round(middle, 4), "of_pairs": [round(r, 4) for r in ratios], "bar": BARS["suite"],
        "reached": middle >= BARS["suite"], "ratio_drawing_alone": round(statistics.median(without), 4), **best,
    }  # fmt: skip


def pinned(folder: str) -> type[on_ray.Worker]:
    """A worker that takes a core for itself before it opens the model, and then waits for the others."""

    class Pinned(on_ray.Worker):
        def open(self) -> dict[str, str]:
            for core in sorted(os.sched_getaffinity(0)):
                try:
                    os.close(os.open(f"{folder}/core-{core}", os.O_CREAT | os.O_EXCL))
                    break
                except FileExistsError:
                    continue
            else:
                raise RuntimeError("more workers than cores")
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {core})
            found, workers = super().open(), int(Path(folder, "workers").read_text())
            Path(folder, f"open-{core}").touch()
            while len(list(Path(folder).glob("open-*"))) < workers:
                time.sleep(0.05)
            return found

    return Pinned


def rate(made: SuiteSpec, workers: int, folder: Path) -> float:
    """Images per second, from when all workers have opened the model until the last image is stored."""
    for left in (*folder.glob("core-*"), *folder.glob("open-*")):
        left.unlink()
    (folder / "workers").write_text(str(workers))
    ended: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "images" and done == total:
            ended.append(time.time())

    bench.run(made, folder / f"R{workers}", engine="ray", workers=workers, progress=progress)
    started = max(opened.stat().st_mtime for opened in folder.glob("open-*"))
    return made.prompts[0].n / (ended[0] - started)


def compare_ray(asked: argparse.Namespace) -> dict[str, Any]:
    try:
        import ray
    except ImportError:
        return {"skipped": "ray is not installed: pip install 'unsee[ray]'"}
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return {"skipped": f"two workers need two cores, here is {cores}"}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as the suite here, not behind all else
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        # Smaller than the suite's, and so more of them: at the end one worker may have nothing left to draw.
        made = suite(asked, asked.n).model_copy(update={"batch_size": max(asked.batch // 2, 1)})
        with tempfile.TemporaryDirectory() as folder:
            on_ray.Worker = pinned(folder)  # type: ignore[misc]  # once: Ray keeps the first class of its source
            one, two = (rate(made, workers, Path(folder)) for workers in (1, 2))
    finally:
        ray.shutdown()
    return {
        "ratio": round(two / one, 3), "bar": BARS["ray"], "reached": two / one >= BARS["ray"],
        "images_per_second_one": round(one, 3), "images_per_second_two": round(two, 3), "ray": ray.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="picto")
    parser.add_argument("--n", type=int, default=48, help="images of each run")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=tuple(BARS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, Any] = {**vars(asked), "torch": torch.__version__, "load": os.getloadavg()[0]}
    for part, compare in {"ray": compare_ray, "suite": compare_suite}.items():
        if asked.only in (None, part):
            found[part] = compare(asked)
    print(json.dumps(found) if asked.json else "\n".join(f"{name:8} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
