"""A broken variant of the producers: rows are removed before they are sent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from durable_tracker.delivery.reader import Reader

real = Reader.next


def removed_first(self: Reader, **arguments: Any) -> Any:
    batch = real(self, **arguments)
    if batch is not None:
        self._queue.ack([row.key for row in batch.rows])
    return batch


Reader.next = removed_first  # type: ignore[method-assign]
import_module("producers")  # runs them
