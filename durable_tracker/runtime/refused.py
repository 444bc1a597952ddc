"""Names of the official tracker that have no meaning here. Using one says what to use instead."""

from __future__ import annotations

from typing import Any, NoReturn

from durable_tracker.errors import ConfigurationError


class _Refused:
    instead = ""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise ConfigurationError(f"{type(self).__name__}: {self.instead}")


class RedisEmitter(_Refused):
    """Refused: every emitter is a durable queue."""

    instead = "every Emitter stores its events on disk; use Emitter, with drain=False to leave sending to a drain"


class RedisWorker(_Refused):
    """Refused: `python -m durable_tracker.drain` is the worker."""

    instead = "an Emitter sends by itself; `python -m durable_tracker.drain` sends what others left"


class CeleryEmitter(_Refused):
    """Refused: every emitter sends in the background."""

    instead = "every Emitter sends in the background and survives crashes; use Emitter"


class EventStore(_Refused):
    """Refused: the queue on disk is the store."""

    instead = "events are stored on disk; choose where with Emitter(queue_dir=...)"


class InMemoryEventStore(EventStore):
    """Refused: there is no in-memory mode; for tests there is `durable_tracker.testing`."""


def disable_contracts() -> NoReturn:
    """Refused: what is checked keeps one event from spoiling its whole batch downstream."""
    raise ConfigurationError("disable_contracts: validation is always on; an event that fails it would be lost")


def enable_contracts() -> NoReturn:
    """Refused: they are always on."""
    raise ConfigurationError("enable_contracts: validation is always on; remove the call")
