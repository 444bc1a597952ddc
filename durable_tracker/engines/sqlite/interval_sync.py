"""The once-a-second fdatasync behind `durability="interval"`.

One small thread per process syncs the WAL of every queue that was written since the last round. It holds no lock while
it does, on a read-only descriptor of its own; the worker is no place for it, since it may sit in a request.
"""

from __future__ import annotations

import _thread
import os
import time
from typing import Final, Protocol

from durable_tracker.log import logger

INTERVAL_S: Final = 1.0


class Syncable(Protocol):
    """A queue whose writes wait for a sync."""

    def sync(self) -> None:
        """Sync what was written. Raises nothing: an error is kept for the next caller of the queue."""


_queues: dict[int, Syncable] = {}
_pid = 0


def start() -> bool:
    """Start the thread if this process has none. Return whether it runs: at interpreter shutdown none can start."""
    global _pid  # noqa: PLW0603 (one thread per process is the point)
    if _pid != os.getpid():
        try:
            # Not threading.Thread: its start() takes a lock that a signal handler would wait for for ever.
            _thread.start_new_thread(_run, ())
        except RuntimeError:
            return False
        _pid = os.getpid()
    return True


def add(queue: Syncable) -> None:
    """Sync `queue` every second until it is discarded. `start` has said that the thread runs."""
    _queues[id(queue)] = queue


def discard(queue: Syncable) -> None:
    """Stop syncing `queue`."""
    _queues.pop(id(queue), None)


def forget_all() -> None:
    """In a forked child: sync nothing of the parent's.

    Not when the child's thread is started: a queue that a signal handler has added by then would go with the parent's.
    """
    _queues.clear()


def _run() -> None:
    has_failed = False
    while True:
        try:
            time.sleep(INTERVAL_S)  # a daemon with nothing to be woken for
            for queue in list(_queues.values()):
                queue.sync()
        except BaseException as exc:  # noqa: BLE001 - without this thread nothing is synced, and nobody would know
            if not has_failed:
                has_failed = True
                logger.error("interval_sync.failed", extra={"error": type(exc).__name__, "fate": "tried every second"})
