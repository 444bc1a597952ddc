"""The official tracker's event stores, which have no meaning here: the queue on disk is the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from logging import Logger

    from durable_tracker.typing import PayloadDict, PayloadDictList


class EventStore(Protocol):
    """What the official tracker asks of an event store; a class that derives from it can be defined."""

    def add_event(self, payload: PayloadDict) -> bool:
        """Take one event's fields, and return whether there was room."""

    def get_events_batch(self) -> PayloadDictList:
        """Return the events, and forget them."""

    def cleanup(self, batch: PayloadDictList, need_retry: bool) -> None:
        """Forget events, or take them back to be sent again."""

    def size(self) -> int:
        """Return the number of events."""


def _refuse(*_unused: object) -> NoReturn:
    raise ConfigurationError(
        "InMemoryEventStore: events are stored on disk; leave event_store out, choose where with queue_dir= and how "
        "much with max_queue_bytes=; for tests there is durable_tracker.testing"
    )


class InMemoryEventStore(EventStore):
    """Can be made, so that code which does so goes on; its use raises a ConfigurationError.

    Args:
        logger: kept, not used.
        buffer_capacity: kept, not used.
    """

    def __init__(self, logger: Logger, buffer_capacity: int = 10_000) -> None:
        self.logger = logger
        self.buffer_capacity = buffer_capacity

    def add_event(self, payload: PayloadDict) -> bool:
        """Raise a ConfigurationError."""
        _refuse(payload)

    def get_events_batch(self) -> PayloadDictList:
        """Raise a ConfigurationError."""
        _refuse()

    def cleanup(self, batch: PayloadDictList, need_retry: bool) -> None:
        """Raise a ConfigurationError."""
        _refuse(batch, need_retry)

    def size(self) -> int:
        """Raise a ConfigurationError."""
        _refuse()


__all__ = ["EventStore", "InMemoryEventStore"]
