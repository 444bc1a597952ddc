"""The official tracker's event stores, which have no meaning here: the queue on disk is the store."""

from durable_tracker.runtime.refused import EventStore, InMemoryEventStore

__all__ = ["EventStore", "InMemoryEventStore"]
