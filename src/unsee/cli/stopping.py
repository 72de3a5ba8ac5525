"""Ctrl-C and its like: the first ends the command in order, the second at once.

The first raises :class:`Stopped` where the command stands: what is under way is given up, workers are ended, scratch
files removed. It is no ``KeyboardInterrupt``, which typer would turn into an exit code without a word. All files are
whole at every moment, so the second may end the process where it stands.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; kill, a supervisor, a batch system; a closed terminal
AGAIN = 0.05  # seconds until a stop that got lost is tried again
RESUMES = ("attack", "bench", "demo", "erase", "fit", "judge", "merge")  # commands that keep what is done


class Stopped(BaseException):
    """The command was asked to end, by the signal of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def code(self) -> int:
        """As shells give it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextmanager
def stoppable(message: str, *, whole_program: bool = False) -> Iterator[list[int]]:
    """Within: signals raise :class:`Stopped`. Yields those that came, in order.

    A signal that is ignored stays so (``nohup``), and one that the caller handles stays his. After the block they are
    as they were; of a ``whole_program``, which only has to end, they end it without a word.
    """
    came: list[int] = []
    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]

    def handle(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            os.write(2, f"error: {message}\n".encode())
            os._exit(128 + number)
        raise Stopped(number)

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a finalizer, so the stop has to come again."""
        if not isinstance(unraisable.exc_value, Stopped):
            return hooked(unraisable)
        came.clear()
        threading.Timer(AGAIN, os.kill, (os.getpid(), unraisable.exc_value.number)).start()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in numbers}
    hooked, sys.unraisablehook = sys.unraisablehook, lost
    for number in numbers:
        if before[number] in usual:
            signal.signal(number, handle)
    try:
        yield came
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, signal.SIG_DFL if whole_program else handler)
        sys.unraisablehook = hooked


def message(arguments: list[str]) -> str:
    """What a stopped command says."""
    if next((word for word in arguments if not word.startswith("-")), "") in RESUMES:
        return "stopped; the same command goes on where it was"
    return "stopped; nothing is half-written, run it again"
