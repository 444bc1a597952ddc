"""A Snowplow event tracker that loses nothing: every event is on disk before `track()` returns.

from durable_tracker import Emitter, Subject, Tracker

with Tracker(Emitter("collector.example.com"), app_id="shop") as tracker:
tracker.track_page_view("https://shop.example.com/")
"""

from __future__ import annotations

from durable_tracker.configuration import EmitterConfiguration, TrackerConfiguration
from durable_tracker.emitters import AsyncEmitter, Emitter, EmitterStats
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
from durable_tracker.events import Event, PagePing, PageView, ScreenView, SelfDescribing, StructuredEvent
from durable_tracker.log import logger
from durable_tracker.protocol import __version__
from durable_tracker.queue import Ledger, Queue, Row
from durable_tracker.refused import (
    CeleryEmitter,
    EventStore,
    RedisEmitter,
    RedisWorker,
    disable_contracts,
    enable_contracts,
)
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.snowplow import Snowplow
from durable_tracker.subject import Subject
from durable_tracker.tracker import Tracker
from durable_tracker.transport import Reply, Transport

__all__ = [
    "AsyncEmitter",
    "CeleryEmitter",
    "ConfigurationError",
    "DamagedQueueError",
    "DurableTrackerError",
    "Emitter",
    "EmitterConfiguration",
    "EmitterStats",
    "Event",
    "EventStore",
    "InvalidEventError",
    "Ledger",
    "PagePing",
    "PageView",
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
