"""What a put does when the queue or the disk is full: raise, drop, make room, or wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import QueueClosedError, QueueFullError, SlotBusyError
from durable_tracker.log import logger

if TYPE_CHECKING:
    from durable_tracker.engines.queue import Evicting
    from durable_tracker.settings.table import OnFull

_RECHECK_S: Final = 0.1


class FullQueue:
    """Does as `on_full` says. Safe in any thread and in signal handlers.

    Args:
        name: the emitter's name, for messages.
        on_full: see `Emitter`.

    Attributes:
        on_full: may be set.
        dropped: events that `on_full="drop_newest"` threw away in this process.
    """

    def __init__(self, name: str, on_full: OnFull) -> None:
        self._name = name
        self.on_full: OnFull = on_full
        self.dropped = 0
        self.begin()

    def begin(self) -> None:
        """Start from nothing in this process: a lock of another one must never be used."""
        self._room = threading.Lock()
        self._room.acquire()

    @property
    def raises(self) -> bool:
        """Whether a full queue is the caller's to deal with."""
        return self.on_full == "raise"

    def makes_room(self, queue: Evicting | None, size: int, error: QueueFullError, *, is_over: bool) -> bool:
        """Do as `on_full` says for an event of `size` bytes that found no room.

        Args:
            queue: what was full; None: it cannot make room, or there was none for an empty queue either.
            size: of the event, in bytes.
            error: what is raised if nothing else is to be done.
            is_over: whether the emitter was closed, or the interpreter is ending, so that no room will come.

        Returns:
            Whether to try again. False: the event was dropped, and counted.

        Raises:
            QueueFullError: `error`.
            QueueClosedError: the emitter was closed while this waited.
        """
        if self.on_full == "drop_newest":
            self._count_dropped()
            return False
        if self.on_full == "raise" or (queue and not queue.could_hold(size)):
            raise error  # or no room would ever be enough
        if self.on_full == "drop_oldest":
            if not _evicts(queue, size):
                raise error
        elif queue and queue.is_held_by_this_thread():
            raise error  # in a signal handler that interrupted a put: whoever makes room waits for that put
        elif is_over:
            raise QueueClosedError(f"{self._name}: closed, or its process is ending, while a put waited for room")
        else:
            self._room.acquire(timeout=_RECHECK_S)
        return True

    def _count_dropped(self) -> None:
        self.dropped += 1
        if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8, ...: not a line per event
            logger.warning("emitter.dropped_newest", extra={"emitter": self._name, "dropped": self.dropped})


def _evicts(queue: Evicting | None, size: int) -> bool:
    try:
        return queue is not None and queue.evict(size) > 0
    except SlotBusyError:
        return False  # in a signal handler that interrupted a read, which locks the table
