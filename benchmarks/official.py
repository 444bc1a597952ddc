"""The official tracker, set up so that only what is measured takes time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from snowplow_tracker.emitters import Emitter
from snowplow_tracker.event_store import InMemoryEventStore
from snowplow_tracker.events.self_describing import SelfDescribing
from snowplow_tracker.events.structured_event import StructuredEvent
from snowplow_tracker.self_describing_json import SelfDescribingJson
from snowplow_tracker.subject import Subject
from snowplow_tracker.tracker import Tracker

from benchmarks.payloads import CONTEXT, CONTEXT_SCHEMA, DATA, SCHEMA, STRUCTURED, subject_of

if TYPE_CHECKING:
    import requests

_NEVER = 1 << 60
_logger = logging.getLogger("snowplow_tracker.emitters")


def make_emitter(port: int = 9, session: requests.Session | None = None, batch_size: int = _NEVER) -> Any:
    """Return an emitter that keeps `batch_size` events before it sends, and whose log is silent.

    With `port` 9 nobody listens, so it must not send. Its log would be a line or three for each request.
    """
    _logger.setLevel(logging.ERROR)
    store = InMemoryEventStore(logger=_logger, buffer_capacity=_NEVER)
    return Emitter("127.0.0.1", protocol="http", port=port, batch_size=batch_size, event_store=store, session=session)


def make_tracker(emitter: Any) -> Any:
    """Return a tracker with the same settings as this package's in the benchmarks."""
    subject = subject_of(Subject)
    return Tracker("bench", emitter, subject, app_id="shop")


def structured() -> Any:
    """Return a structured event."""
    return StructuredEvent(**STRUCTURED)


def self_describing() -> Any:
    """Return a self-describing event with one context."""
    return SelfDescribing(SelfDescribingJson(SCHEMA, DATA), context=[SelfDescribingJson(CONTEXT_SCHEMA, CONTEXT)])


def forget(emitter: Any) -> None:
    """Empty the emitter's memory, so that a long list does not slow down what follows."""
    emitter.event_store.event_buffer = []
