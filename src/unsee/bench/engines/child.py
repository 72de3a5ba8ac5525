"""A process of this machine that works for another one, and does not outlive it.

Light to import: the new process is tied to its parent before it imports anything that takes time. Ctrl-C in a terminal
goes to parent and child alike; only the parent acts on it, and ends the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler  # what Connection.send and recv use
from typing import Generic, TypeVar

from ...errors import UnseeError

Task = TypeVar("Task")
Answer = TypeVar("Answer")
PR_SET_PDEATHSIG = 1
ENOUGH = "what was drawn is kept, and the same command goes on; with fewer --workers if memory is short"


class Child(Generic[Task, Answer]):
    """``make(*arguments)`` runs in the child and gives what answers there; ``load`` tasks are under way.

    Both are called by name, so they are functions of a module. Tasks and answers are pickled.
    """

    def __init__(self, make: Callable[..., Callable[[Task], Answer]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.link, theirs = context.Pipe()
        self.load = 0
        named = (make.__module__, make.__qualname__)
        self.process = context.Process(target=_live, args=(theirs, os.getpid(), *named, arguments), daemon=True)
        with _no_interrupt():
            self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        """Hands over a task; the child keeps it until it has done those before."""
        self.load += 1
        try:
            self.link.send_bytes(ForkingPickler.dumps(task))
        except OSError:
            raise self._lost() from None

    def take(self) -> Answer:
        """The next answer, in the order of the tasks. Raises what the task raised, or that the child is lost."""
        try:
            answer: Answer
            answer, error = ForkingPickler.loads(self.link.recv_bytes())
        except (EOFError, OSError):
            raise self._lost() from None
        self.load -= 1
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        """At once, whatever it does: nothing of it is needed any more."""
        self.process.kill()
        self.process.join()
        self.link.close()

    def _lost(self) -> UnseeError:
        self.process.join(1.0)
        code = self.process.exitcode
        by = -code if code is not None and code < 0 else 0  # the signal that killed it
        how = f"was killed by {signal.Signals(by).name}" if by else f"ended with exit code {code}"
        why = " (often: out of memory)" if by == getattr(signal, "SIGKILL", 9) else ""
        return UnseeError(f"expected workers that live, got one that {how}{why}; {ENOUGH}")


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """What is started within never sees Ctrl-C, from its first moment; one that comes meanwhile waits for us."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the first child starts it, and it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live(link: Connection, parent: int, module: str, name: str, arguments: tuple[object, ...]) -> None:
    """The child's life: one answer for each task, until nobody asks any more."""
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "fork" in multiprocessing.get_all_start_methods():  # then a library's locks (tqdm's) have no names, so a child
        multiprocessing.set_start_method("fork", force=True)  # that is killed leaves none, and no warning about them
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(link, tasks), daemon=True).start()
    work: Callable[[object], object] | None = None
    while True:
        given = tasks.get()
        try:
            if work is None:
                work = getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)(*arguments)
            answer: tuple[object, Exception | None] = work(ForkingPickler.loads(given)), None
        except Exception as error:
            answer = None, _portable(error)
        link.send_bytes(ForkingPickler.dumps(answer))


def _read(link: Connection, tasks: queue.SimpleQueue[bytes]) -> None:
    """Also while the child works: a pipe that ends means that its parent has ended."""
    while True:
        try:
            tasks.put(link.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)


def _end_with(parent: int) -> None:
    """Where the system can, it ends the child with its parent, whatever the child is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)


def _portable(error: Exception) -> Exception:
    """As it is, with its traceback as a note where it is no word to the user; in words where it cannot be pickled."""
    told = "".join(traceback.format_exception(error))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # whatever its class does there
        return RuntimeError(f"in a worker:\n{told}")
    if not isinstance(error, UnseeError):
        error.add_note(f"in a worker:\n{told}")
    return error
