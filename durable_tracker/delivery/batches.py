"""Batches: events as they go out, and what can be read from an event without decoding it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_tracker.delivery.poison import Suspect
    from durable_tracker.delivery.spans import Span
    from durable_tracker.engines.queue import Row

EVENT_OVERHEAD = len(b',"stm":"1665398554151"') + len(b",")
"""Bytes that an event takes in a body beyond its stored payload."""

# Quotes inside a JSON string are escaped, so this cannot match within a value; an event's own keys are all at one
# level, so it cannot match a nested key either.
_DTM = re.compile(rb'"dtm": ?"(\d{1,18})"')


@dataclass(slots=True, eq=False)
class Batch:
    """Events that go out in one request.

    Attributes:
        rows: the events, oldest first.
        span: their place in the queue and what is known of it.
        suspect: the event, if this is a question about a suspect.
        size: bytes of the body, envelope included.
        ack_failed: whether removing the events from the queue was tried before.
        sent: the events as they went out.
    """

    rows: Sequence[Row]
    span: Span
    size: int
    wall_ms: Callable[[], int]
    suspect: Suspect | None = None
    ack_failed: bool = False
    sent: Sequence[bytes] = ()

    def events(self) -> Sequence[bytes]:
        """Return the events with the present time in them as `stm`; nothing else is touched."""
        tail = b',"stm":"%d"}' % self.wall_ms()
        self.sent = [row.payload[:-1] + tail for row in self.rows]
        return self.sent


def body_size(rows: Sequence[Row], envelope_size: int) -> int:
    """Return the bytes of the body that carries `rows`, to within a comma."""
    return envelope_size + EVENT_OVERHEAD * len(rows) + sum([len(payload) for _, payload in rows])


def device_time_ms(payload: bytes) -> int | None:
    """Return the event's `dtm` in milliseconds since the epoch, or None if it has none."""
    found = _DTM.search(payload)
    return int(found[1]) if found else None
