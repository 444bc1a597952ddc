"""Acting on a queue: putting dead letters back into it, and purging.

The commands that do it know an `Actor`, and not who owns the queue.

command ──acting(place)──► Actor ──► Owned: the queue itself, for as long as the command has it open
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.queue import DeadLetter, Queue, Row

AT_ONCE: Final = 500
"""Keys that a call of an `Actor` takes at most."""

_SIZE_AT_ONCE: Final = 1 << 24
_FIRST: Final = -(1 << 62)  # letters below 0 were damaged on disk


class Actor(Protocol):
    """Acts on one queue. Not thread-safe.

    A key is this actor's: it means nothing to another one. A call takes at most `AT_ONCE` keys, and those that are not
    there any more are passed by. What is put while rows or letters are iterated over may or may not come.

    Raises:
        QueueError: it cannot be done now. Of the keys of that call some, in their order, may have been dealt with.
    """

    def letters(self) -> Iterator[DeadLetter]:
        """Yield the dead letters by their keys; those below 0, which were damaged on disk, come first."""

    def rows(self) -> Iterator[Row]:
        """Yield the pending events that nobody else holds, oldest first."""

    def requeue(self, keys: Sequence[int], edited: Mapping[int, bytes]) -> int:
        """Put letters back, with what `edited` has for a key instead of the payload; see `Queue.requeue`."""

    def purge(self, keys: Sequence[int]) -> int:
        """Remove pending events for good; see `Queue.purge`."""

    def purge_dead_letters(self, keys: Sequence[int]) -> int:
        """Remove dead letters for good; see `Queue.purge_dead_letters`."""


class Owned:
    """An `Actor` on a queue that is open in this process."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.requeue = queue.requeue
        self.purge = queue.purge
        self.purge_dead_letters = queue.purge_dead_letters

    def letters(self) -> Iterator[DeadLetter]:
        """Yield the dead letters."""
        after = _FIRST
        while letters := self._queue.dead_letters(AT_ONCE, after):
            after = letters[-1].key
            yield from letters

    def rows(self) -> Iterator[Row]:
        """Yield the pending events, which are claimed by that."""
        after = 0
        while rows := self._queue.peek(after, AT_ONCE, _SIZE_AT_ONCE):
            after = rows[-1].key
            yield from rows


@contextlib.contextmanager
def acting(place: Place) -> Iterator[Actor]:
    """Return what acts on the queue at a place, for as long as the context lasts.

    Raises:
        SlotBusyError: somebody else owns it.
        StorageError: it cannot be used.
    """
    with place.take() as queue:
        yield Owned(queue)


def chunks(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split keys into as many as one call takes."""
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]
