"""The policy loop: peek → send → ack, reject, expire or back off. It knows no thread and no signal.

    Queue.peek ──► batch ──► Transport.send ──► what the answer means
        ▲                                        ├─ delivered ──► Queue.ack
        │                                        ├─ refused ────► halves; alone and proven: Queue.reject
        │                                        ├─ too large ──► halves, and smaller batches from now on
        │                                        └─ blocked, outage ─► nothing is touched
        └──────────── wait ◄─────────────────────────┘

A row stays in the queue until the collector has answered 2xx, so whatever ends this loop, a crash included, leaves
"still pending" behind.

While all goes well the next batch is read ahead, during the request before it. It is sent only after that one's events
are removed from the queue, so a crash repeats no more than the requests that were in flight. As soon as anything is not
accepted, what was read ahead is put back.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from durable_tracker.delivery.hold import Hold
from durable_tracker.delivery.reader import Reader
from durable_tracker.delivery.reporter import Reporter
from durable_tracker.delivery.retry import Backoff, Outcome, Trouble, classify, retry_while_troubled
from durable_tracker.delivery.senders import Senders
from durable_tracker.delivery.state import Answer, DeliverySettings, DeliveryState, Phase, Result
from durable_tracker.errors import ConfigurationError, DeadLettersFullError, QueueClosedError, QueueError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from durable_tracker.delivery.batches import Batch
    from durable_tracker.delivery.throttle import Throttle
    from durable_tracker.delivery.transport import Reply, Transport
    from durable_tracker.engines.queue import Queue, Row

__all__ = ["Delivery", "DeliverySettings", "DeliveryState", "Result"]

REFUSALS_MAX = 16
"""Refusals in a row after which the collector is taken to refuse everything."""

LEASE_DEADLINES_MIN = 3
"""How many requests, each as long as it may take, a claim has to outlast."""

POKE_GAP_S = 1.0
"""Attempts that a poke brings forward are at least this far apart."""


REPORT_GAP_S = 60.0
"""Reports of events that stay queued are at least this far apart while an outage lasts."""


ON_REQUEST = "set aside on request, without proof that it is the event's own fault"


def _reason(reply: Reply) -> str:
    return reply.error or f"HTTP {reply.status}"


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Delivery:
    """Delivers one queue through one transport. One thread at a time may call `run`; `state` is for all.

    Args:
        queue: where the events are.
        transport: carries them.
        settings: how.
        wait: waits the given seconds and returns True if delivery is to stop, at once when it is asked to. It may
            return False early, which asks for an attempt before its time: that is granted, but not before a
            Retry-After is over and not more often than once a second.
        stopping: whether delivery is to stop; asked between requests.
        on_success: called with the decoded events of a batch after they were accepted and removed from the queue.
        on_failure: called with the number of events delivered since the last such call, and the decoded events
            that will not be tried again (refused for good, or too old), after they were moved out of the queue. With
            `report_retries` also for events that stay queued and are tried again.
        wall_ms: the wall clock, in milliseconds since the epoch: for `stm`.
        monotonic: the clock for everything else, in seconds.
        backoff: how long to wait after a trouble; by default full jitter up to the settings' maximum.
        throttle: when to rest beside an application that tracks; None: never.
        hold: what the collector said last, for all who deliver to it; None: nobody else does.
        about: what the log says besides: the emitter's name, the collector's address.

    What the callbacks raise is logged and goes no further.

    Raises:
        ConfigurationError: what the queue hands out would be taken over by others while a request is in flight.
    """

    def __init__(
        self,
        queue: Queue,
        transport: Transport,
        *,
        settings: DeliverySettings,
        wait: Callable[[float], bool],
        stopping: Callable[[], bool],
        on_success: Callable[[list[dict[str, Any]]], object] | None = None,
        on_failure: Callable[[int, list[dict[str, Any]]], object] | None = None,
        wall_ms: Callable[[], int] = _wall_ms,
        monotonic: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
        throttle: Throttle | None = None,
        hold: Hold | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        deadline_s = getattr(transport, "deadline_s", None)
        if queue.lease_s is not None and deadline_s is not None and queue.lease_s < LEASE_DEADLINES_MIN * deadline_s:
            raise ConfigurationError(
                f"lease: {queue.lease_s:g} s is less than {LEASE_DEADLINES_MIN} times the {deadline_s:g} s"
                " that a request may take: others would send the same events meanwhile"
            )
        self._queue = queue
        self._settings = settings
        self._wait = wait
        self._stopping = stopping
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._backoff = backoff or Backoff(max_retry_delay_seconds=settings.max_retry_delay_seconds)
        self._senders: Senders[Batch] = Senders(transport, settings.senders, self._rest)
        self._in_flight: set[Batch] = set()
        self._ahead: Batch | None = None  # claimed after all others, and not sent yet
        self._unread: Exception | None = None  # why nothing could be claimed ahead
        self._owed: list[Batch] = []  # accepted by the collector, but not yet removed from the queue
        self._reader = Reader(
            queue,
            settings=settings,
            without_old=self._without_old,
            wall_ms=wall_ms,
            monotonic=monotonic,
            throttle=throttle,
        )
        self._throttle = throttle
        self._known: bytes | None = None  # what is on record of suspects, None before that was read
        self._hold = hold or Hold()
        self._left: float = math.inf  # events that were pending when the run began, and are not dealt with
        self._puts = 0  # when it began
        self._may_yield: Callable[[], bool] = lambda: False
        self._hitch: Trouble | None = None  # what ends this attempt once all replies are in
        self._progress: Callable[[DeliveryState], object] | None = None
        self._report = Reporter({**(about or {}), "queue": queue.name}, on_success, on_failure)
        self._report_at = -math.inf  # when events that stay queued may be reported next

    @property
    def state(self) -> DeliveryState:
        """A snapshot. May be read from any thread."""
        return self._report.state

    @property
    def answers(self) -> list[Answer]:
        """What came back last, the oldest first. May be read from any thread."""
        return list(self._report.answers)

    def run(
        self,
        *,
        give_up_on_trouble: bool = False,
        progress: Callable[[DeliveryState], object] | None = None,
        may_yield: Callable[[], bool] | None = None,
    ) -> Result:
        """Send until the queue is empty or delivery is to stop; an outage is waited for.

        It never gives up on an event because of time or tries. Errors of the storage are waited for like an outage.

        Args:
            give_up_on_trouble: return TROUBLE at the first trouble, and at once while a Retry-After is in force.
            progress: called after each request that was answered.
            may_yield: whether to return PASSED once what was in the queue at the beginning has been sent, though more
                has been put meanwhile: where events are tracked all the time the queue is never empty.
        """
        if self._hold.until > self._monotonic():
            # Said to this delivery, or to another one of this process: whoever waits for it has to see that it waits.
            self._report.note(
                state=Phase.BACKING_OFF,
                next_attempt_at=self._hold.until,
                trouble_count=self.state.trouble_count + 1,
                last_error=self.state.last_error or "the collector has asked to be left alone for a while",
            )
            if give_up_on_trouble:
                return Result.TROUBLE
            self._sleep(self._hold.until - self._monotonic())
        self._progress = progress
        self._may_yield = may_yield or (lambda: False)
        self._puts = self._queue.puts
        self._left = self._queue.pending() if may_yield else math.inf
        try:
            result = retry_while_troubled(
                self._attempt,
                delay_s=self._plan,
                sleep=self._sleep,
                give_up=lambda: give_up_on_trouble or self._stopping(),
            )
        except BaseException:
            # Replies to what is in flight are not waited for, and not believed later.
            self._senders.withdraw()
            self._in_flight.clear()
            self._ahead = self._unread = None
            self._reader.restart()
            raise
        self._put_back()
        if isinstance(result, Trouble):
            return Result.STOPPED if self._stopping() else Result.TROUBLE
        return result

    def set_aside(self) -> int:
        """Move the suspects to the dead letters though nothing is proven, since an operator asks for that.

        To be called when `run` has returned SUSPECTS. Those for which the dead letters have no room stay.

        Returns:
            How many were moved.

        Raises:
            QueueError: the queue failed. Those before are moved.
        """
        court, moved = self._reader.court, 0
        try:
            for suspect in court.suspects:
                try:
                    self._queue.reject([suspect.key], suspect.status, f"{suspect.reason} ({ON_REQUEST})")
                except DeadLettersFullError as exc:
                    court.park(suspect)
                    self._report.parked(str(exc))
                else:
                    court.drop(suspect)
                    moved += 1
        finally:
            self._remember()
            self._report.set_aside(moved)
            self._report.note(suspects=len(court), parked=court.parked)
        return moved

    def close(self) -> None:
        """Let the sender threads end. The queue and the transport are their owner's to close."""
        self._senders.close()

    # One attempt: from a queue with something in it to an empty queue, or to trouble.

    def _attempt(self) -> Result | Trouble:
        self._hitch = None
        try:
            try:
                return self._deliver()
            except QueueClosedError:
                raise
            except QueueError as exc:
                self._storage_failed(exc)
                self._settle()
                return self._troubled()
        except QueueClosedError:
            return Result.STOPPED

    def _deliver(self) -> Result | Trouble:
        if self._known is None:
            self._known = self._queue.remembered() or b"[]"
            self._reader.court.recall(self._known)
        self._pay()
        while not self._hitch:
            if self._stopping():
                self._settle()
                return self._troubled() if self._hitch else self._ended(Result.STOPPED)
            if self._has_passed():
                self._settle()
                return self._troubled() if self._hitch else self._ended(Result.PASSED)
            self._fill()
            if not self._senders.in_flight:
                return self._ended(Result.SUSPECTS if len(self._reader.court) else Result.EMPTY)
            self._collect()
        self._settle()
        return self._troubled()

    def _has_passed(self) -> bool:
        """Return whether to let something else have its turn, since more is put all the time."""
        return self._left <= len(self._reader.court) and self._queue.puts > self._puts and self._may_yield()

    def _ended(self, result: Result) -> Result:
        if result is Result.SUSPECTS:
            self._report.suspected(len(self._reader.court))
        self._give_back(self._reader.cursor)
        self._remember()
        due = self._reader.court.due_at if result is Result.SUSPECTS else None
        self._report.note(suspects=len(self._reader.court), parked=self._reader.court.parked, next_attempt_at=due)
        if result is Result.SUSPECTS:
            self._report.note(state=Phase.BLOCKED, consecutive_troubles=0)
        elif result is not Result.STOPPED or not self.state.consecutive_troubles:
            self._report.note(state=Phase.IDLE, consecutive_troubles=0)
        return result

    def _give_back(self, after: int) -> None:
        """Let others have what was claimed above a key. An engine that breaks its word and raises ends nothing."""
        with contextlib.suppress(QueueError):
            self._queue.settle()
            # Nor what the collector has, and is only to be removed; else it would be sent again, under new keys.
            owed = {row.key for batch in self._owed for row in batch.rows}
            self._queue.release(after, keep=self._reader.court.keys | owed)

    def _remember(self) -> None:
        """Keep what is known of suspects. If that fails a later process begins anew with them."""
        known = self._reader.court.known(self._reader.cursor)
        if self._known is not None and known != self._known:
            with contextlib.suppress(QueueError):
                self._queue.remember(known)
                self._known = known

    def _fill(self) -> None:
        """Have as many requests in flight as may be."""
        if not self._is_clear:
            self._put_back()
        while self._senders.in_flight < self._window:
            if self._ahead is None:
                self._ahead = self._reader.next(idle=not self._senders.in_flight)
            if self._ahead is None:
                return
            batch = self._reader.still_there(self._ahead)
            self._ahead = None
            if batch is not None:
                self._submit(batch)

    def _read_ahead(self) -> None:
        """While a request is under way and all goes well: have the next batch at hand."""
        if self._ahead is None and self._is_clear:
            self._rest()
            try:
                self._ahead = self._reader.next(idle=False)
            except Exception as exc:  # noqa: BLE001 - raised when the request is over, whose fate does not depend on it
                self._unread = exc

    @property
    def _is_clear(self) -> bool:
        """Whether it is clear what an answer would mean, since all goes well."""
        return not (self._hitch or self.state.consecutive_troubles or self._reader.unclear)

    @property
    def _window(self) -> int:
        """How many requests may be in flight: one while it is unclear what an answer would mean."""
        return self._settings.senders if self._is_clear else 1

    def _without_old(self, rows: list[Row]) -> list[Row]:
        """Expire the rows that are too old to be sent."""
        if self._settings.max_age is None:
            return rows
        old = self._queue.older(rows, self._settings.max_age)
        if not old:
            return rows
        self._queue.expire([row.key for row in old])
        self._left -= len(old)
        self._report.expired(old, self._settings.max_age)
        gone = {row.key for row in old}
        return [row for row in rows if row.key not in gone]

    # What comes back.

    def _submit(self, batch: Batch) -> None:
        if self.state.state is Phase.IDLE:
            self._report.note(state=Phase.SENDING)
        self._in_flight.add(batch)
        self._senders.submit(batch)

    def _put_back(self) -> None:
        """Undo reading ahead."""
        if self._ahead is not None:
            self._reader.put_back(self._ahead)
            self._ahead = None

    def _settle(self) -> None:
        """Wait until nothing is in flight."""
        self._put_back()
        while self._senders.in_flight:
            self._collect()

    def _collect(self) -> None:
        batch, reply = self._senders.collect(self._read_ahead)
        unread, self._unread = self._unread, None
        self._rest()
        if batch not in self._in_flight:
            return  # of a run that an exception ended; the events are pending again
        self._in_flight.discard(batch)
        outcome = classify(reply.status, self._settings.custom_retry_codes)
        self._report.answered(reply, is_delivered=outcome is Outcome.DELIVERED)
        try:
            self._answered(batch, reply, outcome)
            if isinstance(unread, QueueError):
                raise unread
        except QueueClosedError:
            raise
        except QueueError as exc:
            self._storage_failed(exc)
        if unread is not None and not isinstance(unread, QueueError):
            raise unread
        if self._progress is not None:
            self._progress(self.state)

    def _answered(self, batch: Batch, reply: Reply, outcome: Outcome) -> None:
        if outcome is Outcome.DELIVERED:
            self._accepted(batch)
            return
        self._queue.settle([row.key for row in batch.rows])
        if outcome in (Outcome.REFUSED, Outcome.TOO_LARGE):
            self._refused(batch, reply, outcome)
        else:
            self._reader.give_back(batch, was_slow=reply.is_unsent)
            if self._settings.report_retries and self._monotonic() >= self._report_at:
                self._report_at = self._monotonic() + REPORT_GAP_S
                self._report.failed(batch.rows)
            self._hitched(outcome, reply.retry_after_s)

    def _accepted(self, batch: Batch) -> None:
        self._reader.accepted(batch)
        self._report_at = -math.inf  # the next outage is another one
        self._left -= len(batch.rows)
        self._report.accepted(batch)
        if self.state.suspects:
            self._report.note(suspects=len(self._reader.court))
        self._owed.append(batch)
        self._pay()
        if self._throttle is not None:
            self._throttle.delivered(len(batch.rows))
        self._rest()
        self._report.recovered()

    def _pay(self) -> None:
        """Remove from the queue what the collector has accepted.

        If that fails the batch stays owed and nothing else is sent before it is paid: the collector does not get the
        same events again at every attempt while the disk is full. After a crash it gets them once more.
        """
        while self._owed:
            batch = self._owed[0]
            keys = [row.key for row in batch.rows]
            if batch.ack_failed:
                # Whether the failed call did it after all is unknown. Only rows that are still there are acked.
                keys = list(self._queue.hold(keys))
            batch.ack_failed = True
            if keys:
                self._queue.ack(keys)
            self._queue.settle([row.key for row in batch.rows])
            del self._owed[0]
            self._report.removed(batch)

    def _refused(self, batch: Batch, reply: Reply, outcome: Outcome) -> None:
        self._report.note(state=Phase.SENDING, consecutive_troubles=0)  # whatever it means, somebody is there
        final = self._reader.refused(
            batch, too_large=outcome is Outcome.TOO_LARGE, status=reply.status, reason=_reason(reply)
        )
        if self._reader.streak >= REFUSALS_MAX and batch.suspect is None:
            self._hitched(Outcome.BLOCKED, None)
        if final:
            self._bury(batch, reply)
        self._report.note(suspects=len(self._reader.court), parked=self._reader.court.parked)

    def _bury(self, batch: Batch, reply: Reply) -> None:
        """Move a refused event to the dead letters."""
        row = batch.rows[0]
        try:
            self._queue.reject([row.key], reply.status, _reason(reply))
        except DeadLettersFullError as exc:
            if batch.suspect is not None:
                self._reader.court.park(batch.suspect)
            self._report.parked(str(exc))
            return
        except QueueError:
            self._reader.give_back(batch)
            raise
        self._left -= 1
        self._report.refused(row, reply.error)

    # Trouble.

    def _hitched(self, outcome: Outcome, retry_after_s: float | None) -> None:
        """Note why this attempt ends; of several reasons the worse one and the longest Retry-After count."""
        worst, longest = outcome, retry_after_s
        if self._hitch is not None:
            if self._hitch.outcome is Outcome.BLOCKED:
                worst = Outcome.BLOCKED
            longest = max((s for s in (longest, self._hitch.retry_after_s) if s is not None), default=None)
        self._hitch = Trouble(outcome=worst, consecutive=0, retry_after_s=longest)

    def _storage_failed(self, exc: QueueError) -> None:
        self._hitched(Outcome.OUTAGE, None)
        self._report.note(last_error=f"{type(exc).__name__}: {exc}")

    def _troubled(self) -> Trouble:
        """Close an attempt that ended in trouble: everything in flight is settled by now."""
        assert self._hitch is not None  # noqa: S101
        self._give_back(self._reader.rewind())
        self._remember()
        trouble = replace(self._hitch, consecutive=self.state.consecutive_troubles + 1)
        self._hitch = None
        self._hold.until = max(self._hold.until, self._monotonic() + self._backoff.minimum_s(trouble))
        phase = Phase.BLOCKED if trouble.outcome is Outcome.BLOCKED else Phase.BACKING_OFF
        self._report.troubled(phase, trouble.consecutive)
        return trouble

    def _rest(self) -> None:
        if self._throttle is not None:
            self._throttle.rest()

    def _plan(self, trouble: Trouble) -> float:
        delay_s = self._backoff.delay_s(trouble)
        self._report.note(next_attempt_at=self._monotonic() + delay_s)
        return delay_s

    def _sleep(self, seconds: float) -> None:
        start = self._monotonic()
        due = start + seconds
        while (left := due - self._monotonic()) > 0:
            if self._wait(left):
                break
            if self._monotonic() < due:  # poked
                due = min(due, max(self._hold.until, start + POKE_GAP_S))
        self._report.note(next_attempt_at=None)
