"""What pipelines share that are made of one denoiser: one generation at a time, and who has attached what to it."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from ..backbones.weights import unwrap

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PATIENCE = 600.0  # seconds that a thread waits for another's ``with protect(…)`` to end
IDLE = 10.0  # and for one that is open-ended: seconds since it last did something


class Holder(Protocol):
    """A protected pipeline: what a host needs to know of it."""

    pipe: DiffusionPipeline
    edits: list[str]

    def passing(self) -> bool:
        """Whether another thread may wait for its end."""

    def conflict(self, other: Any) -> Exception:
        """Why ``other`` cannot be attached beside it."""


class Host:
    """Of one denoiser."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # held while something is drawn, attached or taken off
        self.holders: weakref.WeakSet[Holder] = weakref.WeakSet()  # a pipeline that nobody has any more holds nothing
        self.fingerprint = ""  # of the weights before any edit, while there are holders
        self._turn = threading.Condition()
        self._queue: list[object] = []

    def join(self, guarded: Holder) -> None:
        """Lets ``guarded`` in as soon as those who are there allow it: in one thread at once or never, beside another
        thread's when that has ended. Raises :class:`Unsupported` if it does not."""
        ticket, ends = object(), time.monotonic() + PATIENCE
        with self._turn:
            self._queue.append(ticket)
            try:
                while (other := self._in_the_way(guarded)) or self._queue[0] is not ticket:
                    if other and (not other.passing() or time.monotonic() > ends):
                        raise other.conflict(guarded)
                    self._turn.wait(0.05)
                self.holders.add(guarded)
            finally:
                self._queue.remove(ticket)
                self._turn.notify_all()

    def leave(self, guarded: Holder) -> None:
        with self._turn:
            self.holders.discard(guarded)
            self._turn.notify_all()

    def _in_the_way(self, guarded: Holder) -> Holder | None:
        """A holder of the same pipeline, or one whose weight edits are others: both would draw with the sum."""
        return next((h for h in self.holders if h.pipe is guarded.pipe or h.edits != guarded.edits), None)


_HOSTS: weakref.WeakKeyDictionary[nn.Module, Host] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def host(denoiser: nn.Module) -> Host:
    """The one of this denoiser, compiled or not."""
    with _MAKING:
        return _HOSTS.setdefault(unwrap(denoiser), Host())
