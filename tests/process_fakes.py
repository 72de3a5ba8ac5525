"""What the tests of processes run in others: light, so that a process is up in a moment."""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def worker(mark: str) -> Any:
    """Does what it is told: answers, sleeps, fails, dies."""

    def work(task: str) -> Any:
        if task == "sleep":
            open(f"{mark}-{os.getpid()}", "w").close()
            time.sleep(60)
        if task == "fail":
            raise KeyError("inside")
        if task == "odd":
            raise Odd("one", "two")
        if task == "refuse":
            from unsee.errors import UserError

            raise UserError("a", "b", "c")
        return task, os.getpid()

    return work


def without_help(mark: str) -> Any:
    """A worker that takes back what the system would do for it."""
    import ctypes

    ctypes.CDLL(None).prctl(1, 0)
    return worker(mark)


class Odd(Exception):
    """Cannot be pickled: its arguments are not those of its class."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def command(mark: str, workers: str, how: str = "") -> int:
    """A command that never ends by itself, with so many workers that sleep; ``how`` the signal is met."""
    import gc

    from unsee.bench.engines.child import Child
    from unsee.cli import main
    from unsee.cli.commands import app

    def attack() -> None:
        children = []
        try:
            for _ in range(int(workers)):
                children.append(Child(worker, mark))
                children[-1].give("sleep")
            open(f"{mark}-{os.getpid()}", "w").close()
            if how == "finalizer":  # where Python drops what is raised
                while True:
                    Slow()
                    gc.collect()
            children[0].take() if children else time.sleep(60)
        except BaseException:
            time.sleep(60 if how == "stuck" else 0)
            raise
        finally:
            for child in children:
                child.end()

    app.command("attack")(attack)
    sys.argv = ["unsee", "attack"]
    return main()


class Slow:
    def __del__(self) -> None:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass


if __name__ == "__main__":
    sys.exit(command(*sys.argv[1:]))
