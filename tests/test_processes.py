"""Signals, workers and their parents: real processes, real signals, and a limit of time for each."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import process_fakes
import pytest
from bench_fakes import comparable

from unsee.bench.engines.child import Child
from unsee.cli import main
from unsee.errors import UnseeError, UserError

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals as POSIX has them")
HERE = pathlib.Path(__file__).parent
SOURCE = str(HERE.parent / "src")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, str(HERE)]), "OMP_NUM_THREADS": "1"}
RESUMES = "error: stopped; the same command goes on where it was\n"
SUITE = """
name = "tiny"
model = "tiny:sd1"
concepts = ["weapon"]
defenses = [{ name = "negative", method = "negative-prompt", text = "dagger" }]
judge = "always.unsafe"
steps = 8
guidance = 4.0
batch_size = 2
prompts = [{ kind = "plain", n = 300 }]
"""


def until(true, seconds=60.0):
    limit = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)
    return found


def gone(pid):
    """Ended, if perhaps not yet waited for."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
        return False
    except ProcessLookupError:
        return True


def start(*arguments):
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=ENVIRONMENT, start_new_session=True, **quiet)


def asleep(folder, n):
    """The numbers of the ``n`` processes that have got so far as to sleep."""
    marks = list(folder.glob("mark-*"))
    return [int(mark.name.rpartition("-")[2]) for mark in marks] if len(marks) == n else []


def command(folder, workers, how=""):
    process = start(HERE / "process_fakes.py", folder / "mark", workers, how)
    return process, until(lambda: asleep(folder, workers + 1))


# -- a command that is stopped --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "workers", "all_of_them"),
    [(signal.SIGINT, 0, False), (signal.SIGINT, 2, True), (signal.SIGTERM, 2, False), (signal.SIGTERM, 2, True),
     (signal.SIGHUP, 0, False)],
)  # fmt: skip
def test_a_signal_is_one_line_its_exit_code_and_no_orphan(tmp_path, number, workers, all_of_them):
    """A terminal sends Ctrl-C to the whole group, ``kill`` and supervisors to the one process."""
    process, pids = command(tmp_path, workers)
    (os.killpg if all_of_them else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + number, "", RESUMES)
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("how", ["finalizer", "stuck"])
def test_a_signal_that_gets_lost_comes_again_and_a_second_ends_it_at_once(tmp_path, how):
    process, _ = command(tmp_path, 0, how)
    os.kill(process.pid, signal.SIGINT)
    if how == "stuck":
        time.sleep(0.5)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", RESUMES)


def test_the_handlers_of_a_caller_are_given_back(monkeypatch, capsys):
    monkeypatch.setattr("unsee.cli._run", lambda arguments: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert main(["report", "R"]) == 143
    assert capsys.readouterr().err == "error: stopped; nothing is half-written, run it again\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("swallowed", ["typer's exit code", "an error that a stop led to"])
def test_a_stop_is_told_whatever_became_of_it_on_the_way(monkeypatch, capsys, swallowed):
    def stopped(arguments):
        if swallowed == "typer's exit code":
            return 130
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(9)
        finally:
            raise UnseeError("a worker is gone")  # as it is: the signal went to it too

    monkeypatch.setattr("unsee.cli._run", stopped)
    assert main(["bench", "x"]) == 130 and capsys.readouterr().err == RESUMES


# -- workers --------------------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path):
    made = Child(process_fakes.worker, str(tmp_path / "mark"))
    yield made
    made.end()


def test_a_worker_answers_in_order_and_tells_what_went_wrong_as_it_was(child):
    for task in ("one", "fail", "odd", "refuse", "two"):
        child.give(task)
    assert child.take() == ("one", child.process.pid)
    with pytest.raises(KeyError, match="inside") as caught:
        child.take()
    assert "in work\n    raise KeyError" in "".join(caught.value.__notes__)  # where, for it is a fault of ours
    with pytest.raises(RuntimeError, match="(?s)in a worker:.*Odd: one"):
        child.take()
    with pytest.raises(UserError, match="^expected a, got b; c$"):
        child.take()
    assert child.take() == ("two", child.process.pid) and child.load == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_is_told_at_once(child, tmp_path, number):
    child.give("sleep")
    until(lambda: asleep(tmp_path, 1))
    os.kill(child.process.pid, number)
    started = time.monotonic()
    with pytest.raises(UnseeError, match=f"workers that live, got one that was killed by {number.name}.*goes on; with"):
        child.take()
    assert time.monotonic() - started < 5
    with pytest.raises(UnseeError, match="killed by"):
        child.give("more")


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    process, pids = command(tmp_path, 2)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in pids), seconds=2)
    process.communicate()


def test_workers_end_with_their_parent_also_without_help_of_the_system(tmp_path):
    """The pipe alone, as on other systems than Linux."""
    script = (
        "import sys, os, time, process_fakes\nfrom unsee.bench.engines import child\n"
        "if __name__ == '__main__':\n"
        "    made = child.Child(process_fakes.without_help, sys.argv[1]); made.give('sleep'); time.sleep(60)\n"
    )
    (tmp_path / "s.py").write_text(script)
    process = start(tmp_path / "s.py", tmp_path / "mark")
    (pid,) = until(lambda: asleep(tmp_path, 1))
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: gone(pid), seconds=2)
    process.communicate()


# -- the real thing -------------------------------------------------------------------------------


def bench(folder, *more):
    (folder / "s.toml").write_text(SUITE)
    return start("-m", "unsee", "bench", folder / "s.toml", "--out", folder / "R", *more)


def pictures(folder):
    return list((folder / "R" / "images").rglob("*.png"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = bench(folder)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return comparable(folder / "R")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(undisturbed, tmp_path, number, workers):
    process = bench(tmp_path, "--workers", workers)
    until(lambda: len(pictures(tmp_path)) > 3, 600)
    second = bench(tmp_path)  # while the first one writes
    _, err = second.communicate(timeout=600)
    assert second.returncode == 2 and err.count("\n") == 1 and "in use by another process; wait or choose" in err
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines(keepends=True) if not line.startswith("images: ")]
    told = (-9, "") if number == signal.SIGKILL else (128 + number, RESUMES)
    assert (process.returncode, "".join(lines)) == told
    assert 0 < len(pictures(tmp_path)) < 600 and not list(tmp_path.rglob("*.part"))
    again = bench(tmp_path)
    _, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert comparable(tmp_path / "R") == undisturbed and not list((tmp_path / "R" / "images").glob("fresh-*"))


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_ends_in_one_line_and_goes_on(undisturbed, tmp_path):
    process = bench(tmp_path, "--workers", 2)
    until(lambda: len(pictures(tmp_path)) > 3, 600)
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    workers = [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    lines = [line for line in err.splitlines() if not line.startswith("images: ")]
    assert process.returncode == 1 and len(lines) == 1 and "killed by SIGKILL (often: out of memory)" in lines[0]
    assert all(gone(pid) for pid in workers)
    again = bench(tmp_path)
    _, err = again.communicate(timeout=600)
    assert again.returncode == 0 and comparable(tmp_path / "R") == undisturbed, err
