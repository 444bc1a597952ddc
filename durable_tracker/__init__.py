"""A Snowplow event tracker that loses nothing: every event is on disk before `track()` returns.

The names below are all that there is to it for most users; README.md shows them at work.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "durable_tracker does not run on Windows, which has no fork-safe locks: a queue's file belongs to "
        "whoever holds its flock, which no forked child can take away and which is free when its owner dies. "
        "It runs on Linux, in WSL or a container too."
    )

if TYPE_CHECKING:
    from durable_tracker._version import __version__
    from durable_tracker.contracts import disable_contracts, enable_contracts
    from durable_tracker.delivery.transport import Reply, Transport
    from durable_tracker.emitter_configuration import EmitterConfiguration
    from durable_tracker.emitters import AsyncEmitter, Emitter
    from durable_tracker.engines.engine import Engine
    from durable_tracker.engines.queue import Ledger, Queue, Row
    from durable_tracker.errors import (
        ConfigurationError,
        DamagedQueueError,
        DurableTrackerError,
        InvalidEventError,
        QueueClosedError,
        QueueError,
        QueueFullError,
        SlotBusyError,
        StorageError,
        UnknownFormatError,
    )
    from durable_tracker.event_store import EventStore, InMemoryEventStore
    from durable_tracker.events import Event, PagePing, PageView, ScreenView, SelfDescribing, StructuredEvent
    from durable_tracker.log import logger
    from durable_tracker.payload import Payload
    from durable_tracker.runtime.refused import CeleryEmitter, RedisEmitter, RedisWorker
    from durable_tracker.runtime.stats import EmitterStats
    from durable_tracker.self_describing_json import SelfDescribingJson
    from durable_tracker.snowplow import Snowplow
    from durable_tracker.subject import Subject
    from durable_tracker.tracker import Tracker
    from durable_tracker.tracker_configuration import TrackerConfiguration

# Names are imported when they are first used: the pytest plugin and the commands need few of them, and everybody who
# has this package installed would pay for all.
_HOMES = {
    "_version": ("__version__",),
    "contracts": ("disable_contracts", "enable_contracts"),
    "emitter_configuration": ("EmitterConfiguration",),
    "emitters": ("AsyncEmitter", "Emitter"),
    "errors": (
        "ConfigurationError",
        "DamagedQueueError",
        "DurableTrackerError",
        "InvalidEventError",
        "QueueClosedError",
        "QueueError",
        "QueueFullError",
        "SlotBusyError",
        "StorageError",
        "UnknownFormatError",
    ),
    "events": ("Event", "PagePing", "PageView", "ScreenView", "SelfDescribing", "StructuredEvent"),
    "log": ("logger",),
    "payload": ("Payload",),
    "engines.engine": ("Engine",),
    "engines.queue": ("Ledger", "Queue", "Row"),
    "event_store": ("EventStore", "InMemoryEventStore"),
    "runtime.stats": ("EmitterStats",),
    "runtime.refused": ("CeleryEmitter", "RedisEmitter", "RedisWorker"),
    "self_describing_json": ("SelfDescribingJson",),
    "snowplow": ("Snowplow",),
    "subject": ("Subject",),
    "tracker": ("Tracker",),
    "tracker_configuration": ("TrackerConfiguration",),
    "delivery.transport": ("Reply", "Transport"),
}
_MODULES = (
    "_version",
    "constants",
    "contracts",
    "emitter_configuration",
    "emitters",
    "event_store",
    "events",
    "payload",
    "self_describing_json",
    "snowplow",
    "subject",
    "tracker",
    "tracker_configuration",
    "typing",
)
"""Modules that whoever imports the official package has at once, as its attributes."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


__all__ = [
    "AsyncEmitter",
    "CeleryEmitter",
    "ConfigurationError",
    "DamagedQueueError",
    "DurableTrackerError",
    "Emitter",
    "EmitterConfiguration",
    "EmitterStats",
    "Engine",
    "Event",
    "EventStore",
    "InMemoryEventStore",
    "InvalidEventError",
    "Ledger",
    "PagePing",
    "PageView",
    "Payload",
    "Queue",
    "QueueClosedError",
    "QueueError",
    "QueueFullError",
    "RedisEmitter",
    "RedisWorker",
    "Reply",
    "Row",
    "ScreenView",
    "SelfDescribing",
    "SelfDescribingJson",
    "SlotBusyError",
    "Snowplow",
    "StorageError",
    "StructuredEvent",
    "Subject",
    "Tracker",
    "TrackerConfiguration",
    "Transport",
    "UnknownFormatError",
    "__version__",
    "disable_contracts",
    "enable_contracts",
    "logger",
]
