"""Which events go out next, and what is known about those that were refused.

The cursor is the highest key that was claimed from the queue. Below it lie events in flight, and spans that are
waiting to be sent again: see `spans` for how a refused event is told from a collector that refuses everything.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from durable_tracker.delivery.batches import EVENT_OVERHEAD, Batch, body_size
from durable_tracker.delivery.pace import PIECE
from durable_tracker.delivery.spans import Span, Spans
from durable_tracker.delivery.transport import ENVELOPE_SIZE
from durable_tracker.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_tracker.delivery.pace import Pace
    from durable_tracker.delivery.state import DeliverySettings
    from durable_tracker.store.queue import Queue, Row

CONTROL_AFTER = 8
"""Refusals in a row after which controls are sent: one acceptance settles what the refusals mean."""

GROWTH_AFTER = 16
"""Batches accepted, at the size to which a 413 brought them, after which batches grow by an eighth."""


class Claims:
    """Claims batches of events from a queue, oldest first, and decides what a refusal means. Not thread-safe.

    Args:
        queue: where the events are.
        settings: bounds of a batch.
        without_old: returns the rows that are not too old to be sent, having dealt with the others.
        wall_ms: the clock for `stm`.
        monotonic: the clock for waiting.
        pace: when to read in pieces; None: never.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        settings: DeliverySettings,
        without_old: Callable[[list[Row]], list[Row]],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        pace: Pace | None = None,
    ) -> None:
        self.streak = 0
        """Refusals since the last acceptance."""
        self.probe_at = -math.inf
        """When a suspect may next be asked about although nothing was accepted since, by the monotonic clock."""
        self._queue = queue
        self._settings = settings
        self._without_old = without_old
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._pace = pace
        self._spans = Spans()
        self._cursor = 0
        self._clock = 0  # counts requests made and refusals, to say which came first
        self._accepted_last = 0  # when the newest request that was accepted was made, by that counter
        self._size_accepted_min = 0
        self._size_max = settings.byte_limit
        self._batches_at_size_max = 0
        self._rows_expected = 0

    def __len__(self) -> int:
        """Return how many spans are waiting to be sent again."""
        return len(self._spans)

    @property
    def unclear(self) -> bool:
        """Whether it is open what a refusal meant: then one request at a time tells most."""
        return self.streak > 0 or self._spans.refused

    @property
    def suspects(self) -> int:
        """How many events were refused alone, and are kept until that is proven to be their own fault."""
        return self._spans.suspects

    def next(self, *, idle: bool) -> Batch | None:
        """Return the next batch, or None if there is nothing to send now.

        Args:
            idle: whether nothing is in flight, so that no reply can bring anything new.

        Raises:
            QueueError: the queue could not be read. Nothing is lost.
        """
        while True:
            # Controls come from both sides in turn: from what was refused as a whole, and from the end of the queue,
            # which is farthest from whatever the run of refused events at its head may be.
            batch = self._newest() if self.streak >= CONTROL_AFTER and self.streak % 2 else None
            if batch is not None:
                return batch
            span = self._next_span()
            if span is None:
                batch = self._fresh(self._settings.batch_size)
                if batch is not None or not idle:
                    return batch
                return self._last_resort()
            batch = self._again(span)
            if batch is not None:
                return batch

    def accepted(self, batch: Batch) -> None:
        """Take note that the collector accepted a batch."""
        self.streak = 0
        self._accepted_last = max(self._accepted_last, batch.made)
        self._size_accepted_min = min(self._size_accepted_min or batch.size, batch.size)
        # Limits are raised without anybody being told, so batches that a 413 made small become larger again.
        if self._size_max < self._settings.byte_limit and batch.size > self._size_max // 2:
            self._batches_at_size_max += 1
            if self._batches_at_size_max >= GROWTH_AFTER:
                self._batches_at_size_max = 0
                self._size_max = min(self._size_max * 9 // 8 + 1, self._settings.byte_limit)

    def refused(self, batch: Batch, *, too_large: bool) -> bool:
        """Take note of a refusal.

        Returns:
            Whether it is final: the batch is one event that was refused alone before, and others were accepted since.
            Else its events are kept and will be sent again, in halves if there are several.
        """
        self._clock += 1
        if not batch.probe:  # probes have a pace of their own, and are no reason for newer events to wait
            self.streak += 1
        span = replace(batch.span, refused_first=batch.span.refused_first or self._clock, refused_last=self._clock)
        rows = batch.rows
        if len(rows) > 1:
            middle = len(rows) // 2
            self._spans.add(replace(span, last=rows[middle - 1].key, count=middle))
            self._spans.add(replace(span, first=rows[middle].key, count=len(rows) - middle))
            if too_large:
                self._size_max = min(self._size_max, max(batch.size // 2, 1))
                self._batches_at_size_max = 0
            return False
        if batch.last_resort or (batch.span.alone and self._accepted_last > batch.span.refused_last):
            return True
        self.probe_at = self._monotonic() + self._settings.max_retry_delay_seconds
        self._spans.add(replace(span, alone=True, too_large=batch.size if too_large else 0))
        return False

    def give_back(self, batch: Batch) -> None:
        """Take note that nothing came of a batch."""
        self._spans.add(batch.span)

    def put_back(self, newest: Batch) -> None:
        """Take note that the batch that was claimed last is not sent now."""
        if newest.span.last == self._cursor and not newest.span.refused_first:
            self._cursor = newest.span.first - 1  # no key lies in between: it is as if it had not been read
        else:
            self._spans.add(newest.span)

    def rewind(self) -> None:
        """Read afresh what came back from an outage, together with what was put meanwhile. Nothing is in flight."""
        self._cursor = self._spans.rewind(self._cursor)

    def restart(self) -> None:
        """Forget what was claimed, and read from the beginning: an exception may have left events in nobody's hands."""
        self._spans = Spans()
        self._cursor = 0

    def _next_span(self) -> Span | None:
        if self.streak >= CONTROL_AFTER:
            return self._spans.control(self._accepted_last)
        return self._spans.oldest(self._accepted_last)

    def _last_resort(self) -> Batch | None:
        """Ask once more about a suspect, since nothing else is left to ask about."""
        while True:
            span = None
            if self.streak < CONTROL_AFTER:  # beyond, the last acceptance is too long ago to go by
                span = self._spans.last_resort(self._accepted_last, self._size_accepted_min)
            last_resort = span is not None
            if span is None and self._monotonic() >= self.probe_at:
                span = self._spans.probe()
            if span is None:
                return None
            batch = self._again(span)
            if batch is not None:
                batch.last_resort = last_resort
                batch.probe = not last_resort
                return batch

    def _fresh(self, count_max: int) -> Batch | None:
        """Claim the oldest events that were not claimed yet."""
        while True:
            expected = min(count_max, self._rows_expected)
            rows = self._read(count_max, self._payload_size_max(expected))
            if not rows:
                return None
            rows = self._fit(rows)
            last = rows[-1].key
            self._rows_expected = len(rows)
            rows = self._without_old(rows)
            self._cursor = last
            if rows:
                return self._batch(rows, Span(first=rows[0].key, last=rows[-1].key, count=len(rows)))

    def _read(self, count_max: int, size_max: int) -> list[Row]:
        pace = self._pace
        if pace is None or not pace.is_gentle:
            return self._queue.peek(self._cursor, count_max, size_max)
        rows: list[Row] = []
        while len(rows) < count_max and size_max > 0:
            piece = min(PIECE, count_max - len(rows))
            found = self._queue.peek(rows[-1].key if rows else self._cursor, piece, size_max)
            rows += found
            if len(found) < piece:
                break
            size_max -= sum(len(row.payload) for row in found)
            pace.rest()
        return rows

    def _newest(self) -> Batch | None:
        """Claim the newest event; what lies before it becomes a span that waits for its turn."""
        newest = self._queue.high_key()
        if newest <= self._cursor:
            return None
        if newest > self._cursor + 1:
            self._spans.add(Span(first=self._cursor + 1, last=newest - 1, count=self._settings.batch_size))
        self._cursor = newest
        return self._again(Span(first=newest, last=newest, count=1))

    def _again(self, span: Span) -> Batch | None:
        """Read a span's events from the queue again; None if none of them is there any more."""
        try:
            found = self._queue.peek(span.first - 1, span.count, self._payload_size_max(span.count))
            rows = self._fit([row for row in found if row.key <= span.last])
            last = rows[-1].key if rows else span.last
            count = len(rows)
            rows = self._without_old(rows)
        except QueueError:
            self._spans.add(span)
            raise
        if last < span.last:
            # Whatever was evicted or expired meanwhile, the rest of the span's keys stay claimed until they were read.
            self._spans.add(replace(span, first=last + 1, count=max(span.count - count, 1)))
        if not rows:
            return None
        return self._batch(rows, replace(span, first=rows[0].key, last=rows[-1].key, count=len(rows)))

    def _batch(self, rows: list[Row], span: Span) -> Batch:
        self._clock += 1
        return Batch(rows=rows, span=span, size=body_size(rows, ENVELOPE_SIZE), made=self._clock, wall_ms=self._wall_ms)

    def _payload_size_max(self, count: int) -> int:
        return max(self._size_max - ENVELOPE_SIZE - EVENT_OVERHEAD * count, 1)

    def _fit(self, rows: list[Row]) -> list[Row]:
        """Leave off what does not fit into one body, but never the oldest event."""
        size = body_size(rows, ENVELOPE_SIZE)
        while size > self._size_max and len(rows) > 1:
            size -= EVENT_OVERHEAD + len(rows.pop().payload)
        return rows
