"""The end of the interpreter: every emitter gets one bounded attempt, within one deadline, and is closed.

A later put opens its queue again, and stores; only a flush delivers then, since the interpreter would end amid the
request.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
import weakref
from typing import Protocol

from durable_tracker.errors import QueueError
from durable_tracker.runtime.worker import close_retired


class Closable(Protocol):
    """An emitter."""

    @property
    def shutdown_timeout(self) -> float:
        """For how many seconds the exit may wait for a healthy collector."""

    def close_at_exit(self, timeout_s: float) -> object:
        """Deliver what the collector takes at once, and close; a later put may open it again."""


_emitters: weakref.WeakSet[Closable] = weakref.WeakSet()
_exiting_pid = 0


def add(emitter: Closable) -> None:
    """Close an emitter at exit, if it is still there."""
    _emitters.add(emitter)


def discard(emitter: Closable) -> None:
    """It was closed."""
    _emitters.discard(emitter)


def has_begun() -> bool:
    """Return whether this process is ending."""
    return _exiting_pid == os.getpid()


def _close_all() -> None:
    global _exiting_pid  # noqa: PLW0603 (there is one exit)
    _exiting_pid = os.getpid()
    started_at = time.monotonic()
    close_retired()
    for emitter in list(_emitters):
        with contextlib.suppress(QueueError):
            emitter.close_at_exit(max(emitter.shutdown_timeout - (time.monotonic() - started_at), 0.0))


atexit.register(_close_all)
