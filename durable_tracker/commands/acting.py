"""Acting on a queue: putting dead letters back into it, and purging.

The commands that do it know an `Actor`, and not who owns the queue.

command ──acting(place)──► Actor ──► Owned: the queue itself, for as long as the command has it open
                                 └─► Asked: its live owner does it, by its control socket; see `durable_tracker.control`
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from durable_tracker.control import client
from durable_tracker.errors import SlotBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from durable_tracker.engines.engine import Onlooker, Place
    from durable_tracker.engines.queue import DeadLetter, Queue, Row

AT_ONCE: Final = 500
"""Keys that a call of an `Actor` takes at most."""

_SIZE_AT_ONCE: Final = 1 << 24
_REQUEST_SIZE: Final = 1 << 20
_ACT_S: Final = 30.0
"""How long an owner may take to act: its disk may be slow, and what it did is to be known."""

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


class Asked:
    """An `Actor` whose queue another process has open: that is read from beside it, and acts by itself."""

    def __init__(self, path: Path, owner: int | None, onlooker: Onlooker) -> None:
        self._path = path
        self._owner = owner
        self.letters = onlooker.letters
        self.rows = onlooker.rows

    def requeue(self, keys: Sequence[int], edited: Mapping[int, bytes]) -> int:
        """Have letters put back, in as many requests as their payloads take."""
        moved = 0
        some: list[int] = []
        size = 0
        for key in keys:
            own_size = len(edited.get(key, b""))
            if some and size + own_size > _REQUEST_SIZE:
                moved += self._requeue(some, edited)
                some, size = [], 0
            some.append(key)
            size += own_size
        return moved + self._requeue(some, edited)

    def _requeue(self, keys: Sequence[int], edited: Mapping[int, bytes]) -> int:
        new = {str(key): edited[key].decode() for key in keys if key in edited}
        return self._ask("requeue", keys=list(keys), edited=new)

    def purge(self, keys: Sequence[int]) -> int:
        """Have pending events removed."""
        return self._ask("purge", keys=list(keys))

    def purge_dead_letters(self, keys: Sequence[int]) -> int:
        """Have dead letters removed."""
        return self._ask("purge_dead_letters", keys=list(keys))

    def _ask(self, command: str, **arguments: Any) -> int:
        return int(client.ask(self._path, command, owner=self._owner, answer_s=_ACT_S, **arguments))


@contextlib.contextmanager
def acting(place: Place) -> Iterator[Actor]:
    """Return what acts on the queue at a place, for as long as the context lasts.

    Raises:
        SlotBusyError: somebody else owns it, and does not answer.
        StorageError: it cannot be used.
    """
    with contextlib.ExitStack() as stack:
        actor: Actor
        try:
            actor = Owned(stack.enter_context(place.take()))
        except SlotBusyError:
            if place.path is None:
                raise
            owner = place.owner()
            client.ask(place.path, "stats", owner=owner)  # before anything is read, or anybody asked
            actor = Asked(place.path, owner, stack.enter_context(place.look()))
        yield actor


def chunks(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split keys into as many as one call takes."""
    for start in range(0, len(keys), AT_ONCE):
        yield keys[start : start + AT_ONCE]
