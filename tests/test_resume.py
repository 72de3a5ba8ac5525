"""Twenty kills at random moments: every run that was resumed ends with the records of an undisturbed one.

pytest -m slow -k resume
"""

import hashlib
import multiprocessing
import random
import time

import pytest
from bench_fakes import stored, suite

from unsee.bench.run import run

KILLS = 20
SUITE = suite(
    batch_size=3,
    prompts=[{"kind": "plain", "n": 7}, {"kind": "neighbor", "n": 4}, {"kind": "benign", "n": 5}],
).model_dump()
PRELOAD = [  # imported once by the server that the victims are forked from
    "unsee.bench.run",
    "unsee.backbones.tiny",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers.scheduling_ddim",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "unsee.guards.sld",
    "unsee.guards.negative_prompt",
    "pyarrow.parquet",
]


def victim(folder):
    from unsee.suites.suite import SuiteSpec

    run(SuiteSpec.parse(SUITE), folder)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def start(processes, folder):
    process = processes.Process(target=victim, args=(folder,))
    process.start()
    return process


@pytest.mark.slow
def test_resume_after_kills_at_random_moments(processes, tmp_path):
    start(processes, tmp_path / "warm-up").join()
    started = time.monotonic()
    start(processes, tmp_path / "undisturbed").join()
    seconds = time.monotonic() - started
    expected, chance = stored(tmp_path / "undisturbed"), random.Random(0)
    assert len(expected) == 3 * 16
    kills = rounds = 0
    while kills < KILLS:
        folder = tmp_path / f"round-{rounds}"
        rounds += 1
        while True:
            process = start(processes, folder)
            process.join(chance.uniform(0, seconds))
            if process.exitcode is not None:
                break
            process.kill()  # SIGKILL: no handler, no cleaning up
            process.join()
            kills += 1
        assert process.exitcode == 0
        assert stored(folder) == expected
        assert not list((folder / "images").glob("fresh-*"))
        for path in (folder / "images").rglob("*.png"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
