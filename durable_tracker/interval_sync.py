"""The once-a-second fdatasync behind `durability="interval"`.

One small daemon thread per process syncs the WAL of every queue that was written since the last round. It holds no lock
while it does, on a read-only descriptor of its own; the worker is no place for it, since it may sit in a request.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S: Final = 1.0


class Syncable(Protocol):
    """A queue whose writes wait for a sync."""

    def sync(self) -> None:
        """Sync what was written. Keeps its errors for the next caller of the queue."""


class IntervalSync:
    """The thread and the queues it serves.

    Thread-safe, also with signal handlers: `add` and `discard` take no lock, and the thread is started by the first
    `add` of a process.
    """

    def __init__(self, interval_s: float = INTERVAL_S, wait: Callable[[float], object] | None = None) -> None:
        """Make an idle syncer. `wait` is for tests."""
        self._interval_s = interval_s
        self._wait = wait or threading.Event().wait
        self._queues: dict[int, Syncable] = {}
        self._pid = 0

    def add(self, queue: Syncable) -> None:
        """Serve `queue` until it is discarded.

        Raises:
            RuntimeError: no thread can be started (the interpreter is shutting down).
        """
        if self._pid != os.getpid():
            self._queues = {}
            threading.Thread(target=self._run, name="durable_tracker-sync", daemon=True).start()
            self._pid = os.getpid()
        self._queues[id(queue)] = queue

    def discard(self, queue: Syncable) -> None:
        """Stop serving `queue`."""
        self._queues.pop(id(queue), None)

    def _run(self) -> None:
        while True:
            self._wait(self._interval_s)
            for queue in list(self._queues.values()):
                queue.sync()
