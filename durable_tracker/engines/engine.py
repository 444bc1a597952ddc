"""The seam between emitters and where their queues are kept.

    Engine ──source──► Source ──open──► Queue        what an emitter has
       │                  └────orphans──► Place      what dead owners of the name left behind
       └────places──► Place ──take──► Queue          what a drain or another command visits

The emitter, its worker, the drain and the commands know these, and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from durable_tracker.settings import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from durable_tracker.engines.queue import DeadLetter, Ledger, Queue, Row
    from durable_tracker.protocol.endpoint import Endpoint

Durability = table.Durability
BYTE_LIMIT: Final = table.BYTE_LIMIT
MAX_QUEUE_BYTES: Final = table.MAX_QUEUE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """How a queue is opened. An engine that has no use for one of them ignores it.

    Attributes:
        durability: "always": on disk when a put returns. "interval": synced once a second.
        max_queue_bytes: bound of the queue, in bytes.
        byte_limit: the size of a batch, in bytes, for which there has to be room to acknowledge it.
    """

    durability: Durability = "always"
    max_queue_bytes: int = MAX_QUEUE_BYTES
    byte_limit: int = BYTE_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the books of a queue say, as of one moment.

    Attributes:
        ledger: the counts.
        origin: what `Queue.set_origin` recorded.
        used_bytes: the bytes that the queue takes.
        oldest: the oldest pending event, None if there is none, or it cannot be read.
        waiting: files that were set aside as damaged, whose intact events come into the queue when it is opened.
    """

    ledger: Ledger
    origin: Mapping[str, str]
    used_bytes: int
    oldest: Row | None
    waiting: tuple[str, ...] = ()


class Onlooker(Protocol):
    """Reads a queue, whoever owns it, at no cost to the owner. It claims, changes and mends nothing.

    Not thread-safe. Use it as a context manager.

    Raises:
        UnknownFormatError: a newer release wrote the queue.
        DamagedQueueError: something does not fit; to open the queue mends it.
        StorageError: it cannot be read.
    """

    def books(self) -> View:
        """Return what the books say."""

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield the pending events above a key, oldest first.

        Each event that is pending from the beginning to the end comes once, and as it was put; what came or went
        meanwhile may or may not come.
        """

    def letters(self, after: int = -(1 << 62)) -> Iterator[DeadLetter]:
        """Yield the dead letters above a key; those below 0 were damaged on disk."""

    def __enter__(self) -> Self:
        """Return it."""

    def __exit__(self, *exc_info: object) -> None:
        """Close what it reads."""


class Place(Protocol):
    """Where one queue is, whether it is open or not."""

    @property
    def name(self) -> str:
        """Its full name, such as a path; the same as that of the queue that is opened there."""

    @property
    def path(self) -> Path | None:
        """The file that it is in, None if it is in none."""

    @property
    def label(self) -> str:
        """A short name, for a line that has little room."""

    def take(self) -> Queue:
        """Open the queue, and own it until it is closed.

        Raises:
            SlotBusyError: somebody else owns it.
            StorageError: it cannot be used.
        """

    def look(self) -> Onlooker:
        """Look in, without opening the queue.

        Raises:
            StorageError: it cannot be read.
        """

    def owner(self) -> int | None:
        """Return the process that has the queue open, None if none has, or that cannot be told."""

    def state(self) -> object:
        """Return what changes when an owner writes, to compare with; looks at no event."""


class Source(Protocol):
    """Where one emitter finds its queue, and the backlogs that it may send. Thread-safe.

    A backlog that has a way to send on record (see `durable_tracker.settings.record`) is opened and adopted by the same
    way alone; one that has none, by any.

    Attributes:
        sender: by what of the user's own the emitter sends, None for plain HTTP. The emitter sets it before `open`.
    """

    sender: str | None

    @property
    def where(self) -> str:
        """Where its queues are, for messages."""

    def open(self) -> Queue:
        """Open a queue that nobody else owns, making one if need be.

        Raises:
            SlotBusyError: as many are open as there can be.
            StorageError: none can be used.
        """

    def orphans(self) -> Iterable[Place]:
        """Return places that may hold events of owners that are gone, for this emitter to deliver."""

    def adopt(self, place: Place) -> Queue | None:
        """Open an orphan; None if its events are for another collector, or sent in another way.

        Raises:
            SlotBusyError: somebody owns it.
            StorageError: it cannot be used.
        """

    def looked_everywhere(self) -> None:
        """Take note that every orphan was looked at."""

    @property
    def elsewhere(self) -> Mapping[str, int]:
        """How many events were found that wait for other collectors, by address."""

    def warn(self) -> None:
        """Log what waits for other collectors, and what sends it."""


class Engine(Protocol):
    """Where queues are kept. Thread-safe; one may serve any number of emitters."""

    def source(
        self, name: str | None, address: Endpoint, *, replaces: Sequence[Endpoint], settings: QueueSettings
    ) -> Source:
        """Return where an emitter finds its queue.

        Args:
            name: the emitter's name, None for one that is derived from its address.
            address: the collector that it sends to.
            replaces: addresses of collectors whose backlogs it sends there as well.
            settings: how its queues are opened.

        Raises:
            StorageError: the engine cannot be used.
        """

    def places(self, names: Sequence[str] = ()) -> Sequence[Place]:
        """Return where there are queues: all, or those of some emitters.

        Raises:
            ConfigurationError: there is none of a name.
        """

    def __str__(self) -> str:
        """Return what it is and where, without secrets."""
