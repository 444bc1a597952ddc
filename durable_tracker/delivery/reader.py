"""Which events go out next.

The cursor is the highest key that was claimed from the queue. Below it lie events in flight, spans that are waiting to
be sent again, and suspects: see `poison` for how a refused event is told from a collector that errs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from durable_tracker.delivery.batches import EVENT_OVERHEAD, Batch, body_size
from durable_tracker.delivery.poison import Court
from durable_tracker.delivery.spans import Span, Spans
from durable_tracker.delivery.throttle import PIECE
from durable_tracker.delivery.transport import ENVELOPE_SIZE
from durable_tracker.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_tracker.delivery.poison import Suspect
    from durable_tracker.delivery.state import DeliverySettings
    from durable_tracker.delivery.throttle import Throttle
    from durable_tracker.engines.queue import Queue, Row

CONTROL_AFTER = 8
"""Refusals in a row after which controls are sent: one acceptance settles what the refusals mean."""

QUESTIONS_MAX = 3
"""Questions about suspects in a row, while there is anything else to send."""

_LEAP_MAX = 12
"""Doublings of the number of batches that are passed by to find one that the collector takes."""

_SLOW_SIZE_MIN = 8_192  # bytes that any link carries in time

GROWTH_AFTER = 16
"""Batches accepted, at the size to which a 413 or a slow link brought them, after which batches grow by an eighth."""


class Reader:
    """Claims batches of events from a queue, oldest first, and halves those that are refused. Not thread-safe.

    Args:
        queue: where the events are.
        settings: bounds of a batch.
        without_old: returns the rows that are not too old to be sent, having dealt with the others.
        wall_ms: the clock for `stm`.
        monotonic: the clock for waiting.
        throttle: when to read in pieces; None: never.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        settings: DeliverySettings,
        without_old: Callable[[list[Row]], list[Row]],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        throttle: Throttle | None = None,
    ) -> None:
        self.streak = 0
        """Refusals since the last acceptance."""
        # A suspect is held by being asked about: else it would come back as an event that nobody knows.
        gap_max_s = min(settings.max_retry_delay_seconds, math.inf if queue.lease_s is None else queue.lease_s / 2)
        self.court = Court(gap_max_s, wall_ms, monotonic)
        """The suspects, and what is known of them."""
        self._leap = 0
        self._asked = 0  # questions about suspects since anything else was sent
        self._queue = queue
        self._settings = settings
        self._without_old = without_old
        self._wall_ms = wall_ms
        self._throttle = throttle
        self._spans = Spans()
        self._cursor = 0
        self._size_max = settings.byte_limit
        self._batches_at_size_max = 0
        self._rows_expected = 0

    @property
    def unclear(self) -> bool:
        """Whether it is open what a refusal meant: then one request at a time tells most."""
        return self.streak > 0 or self._spans.refused

    def next(self, *, idle: bool) -> Batch | None:
        """Return the next batch, or None if there is nothing to send now.

        Args:
            idle: whether nothing is in flight, so that no reply can bring anything new.

        Raises:
            QueueError: the queue could not be read. Nothing is lost.
        """
        while True:
            # Controls come from both sides in turn: from what was refused as a whole, and from what was not read yet.
            is_controlling = self.streak >= CONTROL_AFTER
            batch = self._beyond() if is_controlling and self.streak % 2 else None
            if batch is not None:
                return batch
            if self._asked < QUESTIONS_MAX and not self.streak:
                batch = self._question()
                if batch is not None:
                    return batch
            self._asked = 0
            span = self._spans.largest() if is_controlling else self._spans.oldest()
            if span is None:
                batch = self._fresh(self._settings.batch_size)
                return batch if batch is not None or not idle else self._question()
            batch = self._again(span)
            if batch is not None:
                return self._newest_of(batch) if is_controlling else batch

    def _question(self) -> Batch | None:
        """Ask about a suspect again, if one is due."""
        while (suspect := self.court.due()) is not None:
            try:
                rows = self._without_old(self._row_of(suspect))
            except QueueError:
                self.court.keep(suspect)
                raise
            if rows:
                self._asked += 1
                self.court.asked()
                span = Span(after=suspect.after, last=suspect.key, count=1, refusals=suspect.refusals)
                return self._batch(rows, span, suspect)
            self.court.drop(suspect)
        return None

    def _row_of(self, suspect: Suspect) -> list[Row]:
        """Return the event that is suspect, nothing if it is gone."""
        after = suspect.after
        while after < suspect.key:
            found = self._queue.peek(after, PIECE, self._payload_size_max(1))
            if not found:
                break
            after = found[-1].key
            mine = [row for row in found if row.key == suspect.key]
            if mine:
                return mine
        return []

    def accepted(self, batch: Batch) -> None:
        """Take note that the collector accepted a batch."""
        self.streak = self._leap = 0
        if batch.suspect is not None:
            self.court.acquit(batch.suspect)
        else:
            self.court.accepted(batch.size)
        # Limits are raised without anybody being told, so batches that a 413 made small become larger again.
        if self._size_max < self._settings.byte_limit and batch.size > self._size_max // 2:
            self._batches_at_size_max += 1
            if self._batches_at_size_max >= GROWTH_AFTER:
                self._batches_at_size_max = 0
                self._size_max = min(self._size_max * 9 // 8 + 1, self._settings.byte_limit)

    def refused(self, batch: Batch, *, too_large: bool, status: int | None, reason: str) -> bool:
        """Take note of a refusal, with its HTTP status and the reason in words.

        Returns:
            Whether it is final: the batch is one event, and its refusals are proven to be its own fault. Else its
            events are kept and will be sent again, in halves if there are several.
        """
        if batch.suspect is not None:
            return self.court.judge(batch.suspect, status, reason)
        self.streak += 1
        span = self.court.refused(batch.span)
        rows = batch.rows
        if len(rows) == 1:
            self.court.suspect(span, rows[0].key, batch.size if too_large else 0, status, reason)
            return False
        middle = len(rows) // 2
        between = rows[middle - 1].key
        self._spans.add(replace(span, last=between, count=middle))
        self._spans.add(replace(span, after=between, last=rows[-1].key, count=len(rows) - middle))
        if too_large:
            self._shrink(batch)
        return False

    def give_back(self, batch: Batch, *, was_slow: bool = False) -> None:
        """Take note that nothing came of a batch, perhaps since it did not get through a slow link in time."""
        self._keep(batch)
        if was_slow:
            self._shrink(batch, _SLOW_SIZE_MIN)

    def _shrink(self, batch: Batch, size_min: int = 1) -> None:
        """Let the next batches be half as large as one that did not get through."""
        self._size_max = min(self._size_max, max(batch.size // 2, size_min))
        self._batches_at_size_max = 0

    def put_back(self, newest: Batch) -> None:
        """Take note that the batch that was claimed last is not sent now."""
        if newest.span.last == self._cursor and not newest.span.refusals:
            self._cursor = newest.span.after  # as if it had not been read
        else:
            self._keep(newest)

    def _keep(self, batch: Batch) -> None:
        if batch.suspect is not None:
            self.court.keep(batch.suspect)
        else:
            self._spans.add(batch.span)

    @property
    def cursor(self) -> int:
        """The key of the last event that was claimed."""
        return self._cursor

    def rewind(self) -> int:
        """Read afresh what came back from an outage, together with what was put meanwhile. Nothing is in flight.

        Returns:
            The key behind which nothing is claimed any more.
        """
        self._cursor = self._spans.rewind(self._cursor)
        return self._cursor

    def restart(self) -> None:
        """Forget what was claimed, and read from the beginning: an exception may have left events in nobody's hands."""
        self._spans = Spans()
        self.court.forget()
        self._cursor = 0

    def _fresh(self, count_max: int) -> Batch | None:
        """Claim the oldest events that were not claimed yet."""
        while True:
            expected = min(count_max, self._rows_expected)
            rows = self._read(count_max, self._payload_size_max(expected))
            if not rows:
                return None
            rows, _ = self._fitting(rows)
            after, last = self._cursor, rows[-1].key
            self._rows_expected = len(rows)
            rows = self._without_old(rows)
            self._cursor = last
            if not self.court.is_empty:
                rows = self._without_suspects(rows, after)
            if rows:
                return self._batch(rows, Span(after=after, last=rows[-1].key, count=len(rows)))

    def _without_suspects(self, rows: list[Row], after: int) -> list[Row]:
        befores = [after, *(row.key for row in rows)]
        return [row for row, before in zip(rows, befores, strict=False) if not self.court.recognise(row.key, before)]

    def _read(self, count_max: int, size_max: int) -> list[Row]:
        throttle = self._throttle
        if throttle is None or not throttle.is_gentle:
            return self._queue.peek(self._cursor, count_max, size_max)
        rows: list[Row] = []
        while len(rows) < count_max and size_max > 0:
            piece = min(PIECE, count_max - len(rows))
            found = self._queue.peek(rows[-1].key if rows else self._cursor, piece, size_max)
            rows += found
            if len(found) < piece:
                break
            size_max -= sum(len(row.payload) for row in found)
            throttle.rest()
        return rows

    def _beyond(self) -> Batch | None:
        """Return the newest of the events that were in no refused request, alone.

        Others are claimed for it, twice as many each time, so that a run of refused events at the head, however long it
        is, is soon left behind.
        """
        batch = self._fresh(self._settings.batch_size)
        try:
            for _ in range((1 << self._leap) - 1):
                further = self._fresh(self._settings.batch_size) if batch is not None else None
                if batch is None or further is None:
                    break
                self._spans.add(batch.span)
                batch = further
        except BaseException:
            if batch is not None:  # else nobody would ever read it again
                self._spans.add(batch.span)
            self._leap = 0
            raise
        self._leap = min(self._leap + 1, _LEAP_MAX)
        while batch is None and (span := self._spans.newest_untried()) is not None:
            batch = self._again(span)
        return None if batch is None else self._newest_of(batch)

    def _newest_of(self, batch: Batch) -> Batch:
        """Return a batch's newest event alone; the others become a span that waits for its turn."""
        *others, newest = batch.rows
        if not others:
            return batch
        between = others[-1].key
        self._spans.add(replace(batch.span, last=between, count=len(others)))
        return self._batch([newest], replace(batch.span, after=between, last=newest.key, count=1))

    def _again(self, span: Span) -> Batch | None:
        """Read a span's events from the queue again; None if none of them is there any more."""
        try:
            rows, after = self._reread(span)
        except QueueError:
            self._spans.add(span)
            raise
        if after < span.last:
            # Whatever was evicted or expired meanwhile, the rest of the span stays claimed until it was read.
            self._spans.add(replace(span, after=after, count=max(span.count - len(rows), 1)))
        if not rows:
            return None
        return self._batch(rows, replace(span, last=rows[-1].key, count=len(rows)))

    def _reread(self, span: Span) -> tuple[list[Row], int]:
        """Return as many of a span's rows as are read at once, and the key behind which to go on."""
        rows: list[Row] = []
        after = span.after
        # Suspects may stand in between, which are passed by.
        while len(rows) < span.count and after < span.last:
            found = self._queue.peek(after, max(span.count - len(rows), PIECE), self._payload_size_max(span.count))
            if not found:
                after = span.last
                break
            mine = [row for row in found if row.key <= span.last and not self.court.is_suspect(row.key)]
            rows += mine[: span.count - len(rows)]
            after = rows[-1].key if len(rows) == span.count else found[-1].key
        rows, is_cut = self._fitting(rows)
        if is_cut:
            after = rows[-1].key
        return self._without_old(rows), after

    def still_there(self, batch: Batch) -> Batch | None:
        """Take note that a batch goes out now. Return it without events that were evicted, None if all were."""
        keys = [row.key for row in batch.rows]
        held = self._queue.hold(keys)
        if len(held) == len(keys):
            return batch
        there = set(held)
        rows = [row for row in batch.rows if row.key in there]
        if not rows:
            if batch.suspect is not None:
                self.court.drop(batch.suspect)
            return None
        return self._batch(rows, replace(batch.span, last=rows[-1].key, count=len(rows)), batch.suspect)

    def _batch(self, rows: list[Row], span: Span, suspect: Suspect | None = None) -> Batch:
        return Batch(rows, span, body_size(rows, ENVELOPE_SIZE), self._wall_ms, suspect)

    def _payload_size_max(self, count: int) -> int:
        return max(self._size_max - ENVELOPE_SIZE - EVENT_OVERHEAD * count, 1)

    def _fitting(self, rows: list[Row]) -> tuple[list[Row], bool]:
        """Leave off what does not fit into one body, but never the oldest event. Return whether anything was."""
        size = body_size(rows, ENVELOPE_SIZE)
        count = len(rows)
        while size > self._size_max and len(rows) > 1:
            size -= EVENT_OVERHEAD + len(rows.pop().payload)
        return rows, len(rows) < count
