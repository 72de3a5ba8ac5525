"""A head and a second node on loopback: the same rows as here, also when a worker, then a node, is killed midway.

pytest -m slow tests/test_ray.py
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bench_fakes import comparable, suite

from unsee.bench.engines import ray as engine
from unsee.bench.run import run
from unsee.errors import UserError

os.environ["RAY_AUTH_MODE"] = "disabled"  # whatever token lies in this home
ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'unsee[ray]'")
pytestmark = pytest.mark.slow

SOURCE = str(Path(__file__).parents[1] / "src")
LONG = suite(
    batch_size=2,
    steps=8,
    prompts=[{"kind": "plain", "n": 10}, {"kind": "neighbor", "n": 6}, {"kind": "benign", "n": 8}],
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*arguments: str) -> subprocess.Popen:
    """``ray start --block``: one process group, that we may end as a whole."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", "--num-cpus=1"]
    paths = [SOURCE, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = os.environ | {"RAY_worker_niceness": "0", "PYTHONPATH": os.pathsep.join(paths)}  # beside other work too
    more = ["--object-store-memory=80000000", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, *more, *arguments], env=env, start_new_session=True, **quiet)


def end(node: subprocess.Popen) -> None:
    if node.poll() is None:
        os.killpg(node.pid, signal.SIGTERM)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def until(true, seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"waited {seconds} s for {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster():
    """(address, the second node): one CPU each, and no driver connected yet."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    shared = ["--include-dashboard=false", f"--port={port}", "--dashboard-agent-listen-port=0"]
    nodes = [start("--head", *shared)]
    try:
        until(lambda: _answers(port), 60, "the head")
        nodes.append(start(f"--address={address}"))
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        until(lambda: alive() == 2, 90, "the second node")
        yield address, nodes[1]
    finally:
        ray.shutdown()
        for node in reversed(nodes):
            end(node)
        left = Path("/tmp/ray/ray_current_cluster")  # what --address auto would look for
        if left.is_file() and left.read_text().strip().endswith(f":{port}"):  # it names the host by another address
            left.unlink()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The rows of the same suite, drawn in this process."""
    folder = tmp_path_factory.mktemp("here")
    run(LONG, folder)
    return comparable(folder)


def test_the_same_rows_as_here(cluster, here, tmp_path):
    run(LONG, tmp_path, engine="ray", address=cluster[0], workers=2)
    assert comparable(tmp_path) == here


def test_a_refusal_of_a_guard_is_the_same_line(cluster, tmp_path):
    with pytest.raises(UserError, match="classifier-free guidance"):
        run(suite(guidance=1.0), tmp_path, engine="ray", address=cluster[0], workers=2)


def test_other_versions_on_a_worker_are_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "facts", lambda pipe: {"torch": "0.1"})
    with pytest.raises(UserError, match="workers with torch 0.1"):
        run(suite(), tmp_path, engine="ray", address=cluster[0], workers=1)


def test_a_worker_killed_in_the_middle(cluster, here, tmp_path, monkeypatch):
    """SIGKILL, as it has drawn its third batch and not yet handed it over; another worker draws it again."""
    killed = tmp_path / "killed"

    class Mortal(engine.Worker):
        drawn = 0

        def draw(self, batch, guards):
            made = super().draw(batch, guards)
            self.drawn += 1
            if self.drawn == 3 and not killed.exists():
                killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return made

    monkeypatch.setattr(engine, "Worker", Mortal)
    run(LONG, tmp_path / "R", engine="ray", address=cluster[0], workers=2)
    assert killed.exists() and comparable(tmp_path / "R") == here


def test_a_node_lost_in_the_middle(cluster, here, tmp_path):
    """The last test: the second node goes for good, and the first one finishes the work."""
    gone = threading.Event()

    def lose(stage: str, done: int, total: int) -> None:
        if stage == "images" and done >= 6 and not gone.is_set():
            gone.set()
            os.killpg(cluster[1].pid, signal.SIGKILL)

    run(LONG, tmp_path, engine="ray", address=cluster[0], workers=2, progress=lose)
    assert gone.is_set() and comparable(tmp_path) == here
    until(lambda: alive() == 1, 120, "the loss to be seen")
