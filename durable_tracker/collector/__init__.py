"""A development collector on loopback: takes events as Snowplow's does, judges them, and fails on demand.

`python -m durable_tracker.collector` runs it; for tests in Python there is the class `Collector`.
"""

from __future__ import annotations

from durable_tracker.collector.faults import Fault, Faults
from durable_tracker.collector.received import Anomaly
from durable_tracker.collector.registry import Registry
from durable_tracker.collector.server import Collector
from durable_tracker.collector.validation import Request

__all__ = ["Anomaly", "Collector", "Fault", "Faults", "Registry", "Request"]
