"""Which engine an address names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from durable_tracker.engines.memory import MemoryEngine
from durable_tracker.engines.sqlite.engine import SqliteEngine
from durable_tracker.engines.sqlite.slots import queue_root
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from durable_tracker.engines.engine import Engine


def engine_of(queue: Any = None, queue_dir: str | os.PathLike[str] | None = None) -> Engine:
    """Return the engine that the arguments `queue` and `queue_dir` name.

    Args:
        queue: an engine, or the address of one: `memory:NAME`. None: `$DURABLE_TRACKER_QUEUE`, else a directory.
        queue_dir: the directory. None: `$DURABLE_TRACKER_DIR`, else the user's state directory.

    Raises:
        ConfigurationError: both are given, or there is no such engine.
    """
    if queue is not None and queue_dir is not None:
        raise ConfigurationError("queue_dir: is where an emitter without queue= keeps its events; give one of them")
    if queue is None and queue_dir is None:
        queue = os.environ.get("DURABLE_TRACKER_QUEUE") or None
    if queue is None:
        return SqliteEngine(queue_root(queue_dir))
    if isinstance(queue, str):
        scheme, _, _ = queue.partition(":")
        if scheme == "memory":
            return MemoryEngine.at(queue)
        raise ConfigurationError(f"queue: there is no engine for an address of the scheme {scheme!r}")
    if not all(callable(getattr(queue, name, None)) for name in ("source", "places")) or isinstance(queue, type):
        raise ConfigurationError(f"queue: {type(queue).__name__} has no methods source and places; see Engine")
    engine: Engine = queue
    return engine


def is_address(text: str) -> bool:
    """Return whether a text is the address of an engine, rather than a path."""
    return text.startswith("memory:")
