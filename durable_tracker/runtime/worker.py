"""The thread round `Delivery`: it wakes, lets events gather, sends, adopts orphans, tidies up, and stops.

put ──► (wake_at reached) ──► linger ──► Delivery.run ──► empty ──► orphans? ──► shrink ──► sleep
                                             │
                                             └── outage: waits inside, until its time, a flush or a stop
"""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import queue as queues
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.delivery.policy import Delivery, Result
from durable_tracker.delivery.throttle import Throttle
from durable_tracker.engines.queue import NotOursError, Shrinking
from durable_tracker.errors import QueueClosedError, QueueError, SlotBusyError
from durable_tracker.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_tracker.delivery.policy import DeliveryState
    from durable_tracker.delivery.state import Answer
    from durable_tracker.engines.engine import Place, Source
    from durable_tracker.engines.queue import Queue

NEVER: Final = 1 << 63
ADOPTION_INTERVAL_S: Final = 60.0
ADOPTION_SLICE_S: Final = 1.0
_POKE_GRACE_S: Final = 1.5  # longer than the gap that delivery keeps between attempts that a poke brings forward
_SHRINK_PAGES: Final = 1024
_STORAGE_RETRY_S: Final = 1.0
_RESTART_S_MAX: Final = 60.0
_RETIRED_MAX: Final = 16
_DEATHS_MAX: Final = 5

_retired: dict[int, Worker] = {}
"""Workers whose emitters are gone, and that still have something to deliver."""


class Worker:
    """Delivers one queue in a thread of its own, which `start` starts.

    `wake`, `start` and `stop` take no lock that a signal handler could wait for; `flush` and `join` wait, with a
    deadline. A worker belongs to one process: after a fork the child makes another.

    Attributes:
        wake_at: the number of puts from which on a put has to call `wake`.
        why_stopped: why no thread runs that should, None if one does or none should.
        is_paused: whether it was asked to deliver nothing for now.
        drains: whether it delivers at all.
    """

    def __init__(
        self,
        queue: Queue,
        make_delivery: Callable[..., Delivery],
        *,
        linger_s: float,
        gather: int,
        source: Source,
        drains: bool = True,
        shutdown_timeout_s: float = 5.0,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Make an idle worker.

        Args:
            queue: what it drains.
            make_delivery: called with a queue, `wait`, `stopping` and `throttle`.
            linger_s: how long the first event waits for others.
            gather: how many waiting events end the linger.
            source: where there may be backlogs that it may send as well.
            drains: False: it delivers nothing, and only closes once it is retired.
            shutdown_timeout_s: for how long the exit may wait for a healthy collector, if the worker is retired.
            close: closes the queue and the transport, for a worker that is retired.
        """
        self._queue = queue
        self._make_delivery = make_delivery
        self._linger_s = linger_s
        self._gather = gather
        self._source = source
        self.drains = drains
        self._shutdown_timeout_s = shutdown_timeout_s
        self._close = close or queue.close
        self._is_retired = False
        self._gives_up = False
        self._signals: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._listeners: list[queues.SimpleQueue[None]] = []
        self._start_once = threading.Lock()
        self._is_stopped = False
        self._is_poked = False
        self.is_paused = False
        self._pauses = 0
        self._alive = threading.Lock()
        self._next_adoption = 0.0
        self._done_orphans: dict[str, object] = {}
        self._pid = os.getpid()
        self._throttle = Throttle(lambda: queue.puts, lambda: self._is_stopped or bool(self._listeners))
        self._delivery = make_delivery(queue, wait=self._wait, stopping=self._is_to_halt, throttle=self._throttle)
        self._ident: int | None = None
        self._has_ended = False
        self._deaths = 0
        self._restart_at = 0.0
        self._error: str | None = None  # of the last round, None if it had none
        self._failures = 0
        self._rounds = 0
        self._rounds_to_the_end = 0  # the last one after which nothing was left that can be sent
        self.has_started = False
        self.why_stopped: str | None = None
        self.wake_at = NEVER

    # ── for the emitter ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> DeliveryState:
        """What delivery is doing."""
        return self._delivery.state

    @property
    def answers(self) -> list[Answer]:
        """What came back last, the oldest first."""
        return self._delivery.answers

    def pause(self) -> None:
        """Deliver nothing until `resume`, for as long as this process lives. A request in flight is waited for."""
        self.is_paused = True
        self._pauses += 1  # in this order; see `_round`
        self._signals.put(None)

    def resume(self) -> None:
        """Deliver again, at once."""
        self.is_paused = False
        self.poke()

    def start(self) -> None:
        """Start the thread, unless it runs.

        If it cannot be started (the process has too many, or the interpreter is shutting down) nothing is raised: the
        events stay queued, and the next put tries again. A thread that has died, of what no thread of its own raises,
        is started anew, but not more often than a backoff allows.
        """
        if self._is_stopped or time.monotonic() < self._restart_at or not self._start_once.acquire(blocking=False):
            return
        try:
            was_stopped, self.why_stopped, self._has_ended = self.why_stopped, None, False
            # Not threading.Thread: its start() takes a lock that a signal handler would wait for for ever.
            _thread.start_new_thread(self._run, ())
        except (RuntimeError, MemoryError) as exc:
            self._start_once.release()
            if was_stopped is None:
                logger.error(
                    "worker.not_started",
                    extra={
                        "queue": self._queue.name,
                        "error": str(exc),
                        "fate": "kept, and tried again by the next put",
                    },
                )
            self.why_stopped = f"no thread could be started: {exc}"
            self.wake_at = 0
        else:
            self.has_started = True

    def wake(self) -> None:
        """Say that a put has reached `wake_at`. Starts the thread if that has failed, or if it has died."""
        if self.why_stopped is not None:
            self.start()
            return
        self.wake_at = NEVER
        self._signals.put(None)

    def poke(self) -> None:
        """Ask for an attempt now, without the linger and the rest of a backoff."""
        self._is_poked = True
        self._signals.put(None)

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until everything that was put before is gone from the queue.

        An attempt is made at once, also while backing off; only a Retry-After is respected.

        Args:
            timeout_s: how long to wait at most; None: as long as events are being delivered.

        Returns:
            Whether it is gone. False also as soon as the collector is found unable to take it, and at once on the
            worker's own thread, as from a callback: it would wait for itself.
        """
        if self._is_own_thread():
            return False
        mark = self._queue.mark()
        asked_at = time.monotonic()
        deadline = None if timeout_s is None else asked_at + timeout_s
        before, failures, rounds = self.state, self._failures, self._rounds
        listener: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._listeners.append(listener)
        try:
            self.poke()
            while True:
                if self._queue.is_past(mark):
                    return True
                now, state = time.monotonic(), self.state
                has_failed = state.trouble_count > before.trouble_count or self._failures > failures
                if has_failed or self.is_paused or not self.has_started or self._has_ended:
                    return False
                if self._rounds_to_the_end > rounds and not self._queue.ledger().held:
                    return self._queue.is_past(mark)  # what is left cannot be read by this release
                is_declined = state.state in ("backing_off", "blocked") and state.requests == before.requests
                if (is_declined and now > asked_at + _POKE_GRACE_S) or (deadline is not None and now >= deadline):
                    return False
                left = _POKE_GRACE_S if deadline is None else min(_POKE_GRACE_S, deadline - now)
                with contextlib.suppress(queues.Empty):
                    listener.get(timeout=left)
        finally:
            self._listeners.remove(listener)

    def stop(self) -> None:
        """Ask the thread to end after the request that it may be in. May be called twice."""
        self._is_stopped = True
        self._signals.put(None)

    def retire(self) -> None:
        """Take note that the emitter is gone, without having been closed: nobody will put, flush or stop.

        What is in the queue is delivered, and then everything is given back. While the collector is down that may take
        long, so of many that are retired all but some give everything back at once, and leave the events on disk for
        the next owner. Called by the garbage collector, in any thread: takes no lock.
        """
        if self._is_stopping():
            return
        self._is_retired = True
        _retired[id(self)] = self
        self._signals.put(None)
        for one in list(_retired.values())[:-_RETIRED_MAX]:
            one._signals.put(None)  # noqa: SLF001 (it may be waiting for a collector, and has to go now)
        self.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end. Return whether it has. On the thread itself: return at once."""
        if not self.has_started:
            return True
        if self._is_own_thread():
            return False
        if not self._alive.acquire(timeout=max(timeout_s, 0.0)):
            return False
        self._alive.release()
        return True

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────

    def is_copy(self) -> bool:
        """Return whether this is a fork's copy; under gevent that of a greenlet, the "thread", which has to end."""
        return self._pid != os.getpid()

    def _is_own_thread(self) -> bool:
        return self._ident == _thread.get_ident()

    def _run(self) -> None:
        has_died = True
        with self._alive:
            self._ident = _thread.get_ident()
            try:
                while not self._is_over():
                    self._round_whatever_happens()
                has_died = False
                if self._is_retired and not self._is_stopping():
                    self._close_retired()
            except (QueueClosedError, NotOursError):
                has_died = False  # closed by the emitter, which did not wait; or this is a copy
            except BaseException as exc:  # noqa: BLE001 - thrown into the thread, as greenlets have it
                self._died(exc)
            finally:
                self._has_ended, self._ident = True, None
                self._delivery.close()
                self._tell()
        if has_died:
            self._start_once.release()
            self.wake_at = 0  # the next put starts another
            if self._is_retired and self._deaths < _DEATHS_MAX:
                self._restart_at = 0.0
                self.start()  # no put will come

    def _is_to_close(self) -> bool:
        """Return whether the emitter is gone, and nothing is left to wait for."""
        if not self._is_retired:
            return False
        is_waiting = self.is_paused or self.state.state in ("backing_off", "blocked") or self._error is not None
        self._gives_up = self._gives_up or not self.drains or (is_waiting and len(_retired) > _RETIRED_MAX)
        if self._gives_up:
            return True
        try:
            return self._queue.is_empty()
        except (QueueClosedError, NotOursError):
            raise
        except (QueueError, OSError):
            return False  # the disk fails, which may pass

    def _close_retired(self) -> None:
        self._is_stopped = True
        try:
            self._close()
        except Exception as exc:  # noqa: BLE001 - a transport of the user's own; nobody is there to be told
            error = type(exc).__name__
            logger.warning("worker.not_closed", extra={"queue": self._queue.name, "error": error})
        finally:
            _retired.pop(id(self), None)

    def _died(self, exc: BaseException) -> None:
        self._deaths += 1
        pause_s = min(2.0 ** (self._deaths - 1), _RESTART_S_MAX)
        self._restart_at = time.monotonic() + pause_s
        self.why_stopped = f"the thread has died: {type(exc).__name__}"
        if self._deaths == 1:
            fate = "kept; the next put starts another thread, and later deaths are not logged"
            extra = {"queue": self._queue.name, "error": type(exc).__name__, "fate": fate}
            logger.error("worker.died", extra=extra)

    def _round_whatever_happens(self) -> None:
        try:
            self._round()
            self._error = None
        except (QueueClosedError, NotOursError):
            raise
        except (QueueError, OSError) as exc:
            # A full disk or a lack of descriptors fails what tidies up as well. It passes: the thread outlives it.
            self._failed("worker.storage_failed", f"{type(exc).__name__}: {exc}")
        except BaseException as exc:
            if type(exc).__name__ == "GreenletExit":
                raise  # whoever killed the greenlet that is this thread waits for its end
            # Its text may hold a payload.
            traced = exc.__traceback__
            while traced is not None and traced.tb_next is not None:
                traced = traced.tb_next
            place = f" at {traced.tb_frame.f_code.co_filename}:{traced.tb_lineno}" if traced is not None else ""
            self._failed("worker.failed", f"{type(exc).__name__}{place}")

    def _failed(self, event: str, error: str) -> None:
        """Say so once, and pause."""
        self._failures += 1
        if self._error is None:
            extra = {"queue": self._queue.name, "error": error, "fate": "kept, and tried again"}
            logger.error(event, extra=extra)
        self._error = error
        self._wait(_STORAGE_RETRY_S)

    def _round(self) -> None:
        self._is_poked = False  # here, not where it is noticed: this round is the attempt that was asked for
        # Read first: a pause that is in this number is waited out here, any other makes another number of it.
        pauses = self._pauses
        while self.is_paused and not self._is_over():
            self.wake_at = NEVER
            self._signals.get()
        seen = self._queue.puts
        self._rounds += 1
        result = self._delivery.run(progress=self._tell, may_yield=lambda: time.monotonic() >= self._next_adoption)
        if result is Result.EMPTY:
            self._rounds_to_the_end = self._rounds
        self._tell()
        if self.is_paused or self._pauses != pauses:  # both: one that only begins is not in the number yet
            return
        if result is Result.STOPPED and not self._is_over():
            raise QueueClosedError(f"{self._queue.name} was closed under the worker")
        if not self._is_stopped and time.monotonic() >= self._next_adoption:
            self._adopt(seen)
        if isinstance(self._queue, Shrinking):
            while not self._has_news(seen) and not self._queue.shrink(_SHRINK_PAGES):
                pass
        self._sleep(seen)
        if self._queue.puts > seen:
            self._linger(seen)

    def _has_news(self, seen: int) -> bool:
        return self._is_to_halt() or self._is_poked or self._queue.puts > seen

    def _sleep(self, seen: int) -> None:
        """Wait for a put, a flush, a stop, the next look for orphans, for suspects, or for events of others."""
        poll_at = math.inf if self._queue.poll_s is None else time.monotonic() + self._queue.poll_s
        while True:
            # Anew each time: the `wake` of an earlier put may come late, and clear it.
            self.wake_at = seen + 1
            due = min(self._next_adoption, self.state.next_attempt_at or math.inf, poll_at)
            left = due - time.monotonic()
            if self._has_news(seen) or left <= 0:
                return
            with contextlib.suppress(queues.Empty):
                self._signals.get(timeout=left)

    def _linger(self, seen: int) -> None:
        """Let more events gather, unless there are enough or somebody waits for them."""
        until = time.monotonic() + self._linger_s
        while not (self._is_stopped or self.is_paused or self._is_poked or self._is_retired):
            self.wake_at = seen + self._gather
            left = until - time.monotonic()
            if left <= 0 or self._queue.puts >= seen + self._gather:
                break
            with contextlib.suppress(queues.Empty):
                self._signals.get(timeout=left)
        self.wake_at = NEVER

    def _wait(self, seconds: float) -> bool:
        """For delivery: wait out an outage. Returns whether to stop."""
        self.wake_at = NEVER
        self._tell()
        until = time.monotonic() + seconds
        while not self._is_poked and not self._is_to_halt():
            left = until - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(queues.Empty):
                self._signals.get(timeout=left)
        self._is_poked = False
        return self._is_to_halt()

    def _is_to_halt(self) -> bool:
        return self.is_paused or self._is_over()

    def _is_over(self) -> bool:
        return self._is_stopping() or self._is_to_close()

    def _is_stopping(self) -> bool:
        return self._is_stopped or self.is_copy()

    def _tell(self, _state: DeliveryState | None = None) -> None:
        for listener in list(self._listeners):
            listener.put(None)

    # ── orphans ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _adopt(self, seen: int) -> None:
        """Deliver what other owners of this name left behind, in turns with the queue's own events."""
        slice_end = time.monotonic() + ADOPTION_SLICE_S

        def is_over() -> bool:
            must_stop = self._is_stopped or self.is_paused
            return must_stop or (self._has_news(seen) and time.monotonic() >= slice_end)

        for place in self._source.orphans():
            if is_over():
                return  # the next round goes on from here
            state = place.state()
            if place.name == self._queue.name or self._done_orphans.get(place.name) == state:
                continue
            try:
                result = self._adopt_one(place, is_over)
            except SlotBusyError:
                continue
            except QueueError as exc:
                logger.warning("worker.orphan_unusable", extra={"queue": place.name, "error": str(exc)})
                continue
            if result is Result.TROUBLE:
                break  # the others are for the same collector
            if result is Result.EMPTY:
                self._done_orphans[place.name] = place.state()
        if not is_over():  # else the last one may have more
            self._source.looked_everywhere()
            self._next_adoption = time.monotonic() + ADOPTION_INTERVAL_S

    def _adopt_one(self, place: Place, is_over: Callable[[], bool]) -> Result:
        """Deliver what is at a place, if it is for this collector."""
        orphan = self._source.adopt(place)
        if orphan is None:
            return Result.EMPTY
        with orphan:
            return self._drain_orphan(orphan, is_over)

    def _drain_orphan(self, orphan: Queue, is_over: Callable[[], bool]) -> Result:
        """Deliver an orphan's events, without waiting for an outage to end."""
        if orphan.is_empty():
            return Result.EMPTY
        logger.info("worker.orphan_adopted", extra={"queue": orphan.name, **_counts(orphan)})
        delivery = self._make_delivery(orphan, wait=self._wait, stopping=is_over, throttle=self._throttle)
        try:
            result = delivery.run(give_up_on_trouble=True)
            if isinstance(orphan, Shrinking):
                orphan.shrink()
        finally:
            delivery.close()
        return result


def close_retired() -> None:
    """At exit: give those whose emitters are gone one bounded attempt, and close what they have."""
    started_at = time.monotonic()
    for worker in [worker for worker in list(_retired.values()) if not worker.is_copy()]:
        left_s = max(worker._shutdown_timeout_s - (time.monotonic() - started_at), 0.0)  # noqa: SLF001
        with contextlib.suppress(QueueError):
            if worker.has_started and worker.state.state in ("idle", "sending"):
                worker.flush(left_s)
        worker.stop()
        worker.join(max(worker._shutdown_timeout_s - (time.monotonic() - started_at), 0.0))  # noqa: SLF001
        worker._close_retired()  # noqa: SLF001


def _counts(queue: Queue) -> dict[str, Any]:
    return {"pending": queue.ledger().pending}
