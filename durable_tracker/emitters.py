"""The emitter: owns a slot, a worker and the settings.

Tracker ──put──► Emitter ──► SqliteQueue ◄── Worker ──► Delivery ──► Transport ──► collector
                    │                          │
                    └── opened by the first    └── started by the first put, or by flush,
                        use in each process        in each process
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from durable_tracker.delivery.batches import device_time_ms
from durable_tracker.delivery.hold import Hold, hold_of
from durable_tracker.delivery.policy import Delivery, DeliverySettings
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.backlogs import Backlogs, replaced_addresses
from durable_tracker.engines.sqlite.books import BYTE_LIMIT, MAX_QUEUE_BYTES
from durable_tracker.engines.sqlite.filesystem import warn_if_weak
from durable_tracker.engines.sqlite.queue import NOT_OURS, ForkedError, SqliteQueue
from durable_tracker.engines.sqlite.slots import directory_name, make_private_directory, queue_root, safe_name
from durable_tracker.errors import (
    ConfigurationError,
    QueueClosedError,
    QueueError,
    QueueFullError,
    SlotBusyError,
)
from durable_tracker.log import logger
from durable_tracker.protocol.encoder import finished
from durable_tracker.protocol.endpoint import Endpoint
from durable_tracker.runtime.settings import EmitterSettings, OnFull, check_count, check_function, check_seconds
from durable_tracker.runtime.worker import Worker, close_retired

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from durable_tracker.delivery.transport import Transport
    from durable_tracker.engines.queue import Row
    from durable_tracker.engines.sqlite.slot_file import Durability

_FULL_RECHECK_S: Final = 0.1
_SENDING: Final = (
    "http_get",
    "http_post",
    "send_events",
    "is_good_status_code",
    "attach_sent_timestamp",
    "reached_limit",
)
"""Methods of the official emitter that its subclasses override to change how it sends. Nothing here calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterStats:
    """A snapshot of an emitter.

    Attributes:
        name: the emitter's name.
        slot: the database file, None before the first use in this process.
        ledger: where every event is that the slot ever accepted.
        dropped: events that `on_full="drop_newest"` threw away in this process; they were never accepted.
        state: "idle", "sending", "backing_off", "blocked", or "stopped" if no thread delivers that should; the next put
            starts one.
        last_error: what went wrong last with the collector, or why no thread delivers; None if nothing did.
        suspects: events that were refused, which is not proven to be their own fault; they are pending.
        parked: those of them for which the dead letters have no room.
        oldest_age_s: seconds since the oldest pending event was tracked, None if none is pending.
        elsewhere: events that were found in this emitter's directories and wait for another collector, by address.
        used_bytes: bytes of the slot's database in use.
        max_queue_bytes: their bound.
    """

    name: str
    slot: Path | None
    ledger: Ledger
    dropped: int
    state: str
    last_error: str | None
    suspects: int
    parked: int
    oldest_age_s: float | None
    elsewhere: Mapping[str, int]
    used_bytes: int
    max_queue_bytes: int


class Emitter:
    """Stores events on disk, and delivers them to one collector in the background.

    When `put` (and so `Tracker.track`) returns, the event is on disk. All methods may be called from any thread; `put`
    and `put_many` also from a signal handler. After a fork the child uses a slot of its own; the parent's is untouched.

    The parameters up to `session` are those of the official tracker's `Emitter`, in its order.

    Args:
        endpoint: the collector's host, optionally with scheme, port and path. A scheme wins over `protocol`.
        protocol: "https" or "http".
        port: the collector's port, or None.
        method: "post" or "get". A GET carries one event.
        batch_size: as many waiting events are sent without lingering; if given, also the most events in one request.
            None: 10 (1 for GET), and then up to 500 in one request.
        on_success: called with the list of events (dicts) that were delivered, after they left the queue.
        on_failure: called with the number of events delivered since the last such call and the list of events that
            will not be tried again. It is not called for events that stay queued: an outage loses nothing.
        byte_limit: bytes of a request's body at most. None: 150,000.
        request_timeout: seconds, or (connect, read) seconds, as in requests. None: 10 and 20.
        max_retry_delay_seconds: the longest backoff.
        buffer_capacity: pending events at most, None for no bound but `max_queue_bytes`.
        custom_retry_codes: HTTP status to True (try again) or False (set the event aside).
        event_store: refused; the queue on disk is the store.
        session: refused; see `transport` and `headers`.
        buffer_size: the older spelling of `batch_size`.
        name: the queue's name. None: derived from the address. Emitters of one name share a backlog.
        replaces: addresses of collectors whose backlogs are sent to this one from now on.
        queue_dir: directory of all queues. None: `$DURABLE_TRACKER_DIR`, else the user's state directory.
        durability: "always": every put is synced to disk before it returns. "interval": synced once a second; survives
            any crash of the process, and loses at most the last second in a power failure.
        linger: seconds for which the first event waits for others.
        senders: requests in flight at most; more for distant collectors. Order is then approximate.
        max_queue_bytes: bound of the queue's file, in bytes.
        on_full: what a put does on a full queue or disk: "raise" QueueFullError, "drop_newest", "drop_oldest", "block".
        max_age: seconds after which an undelivered event is dropped. None: never.
        headers: sent with each request. Kept in memory only.
        drain: False leaves delivery to `python -m durable_tracker.drain`.
        shutdown_timeout: seconds for which the interpreter's exit may wait for a healthy collector.
        transport: carries events instead of HTTP.

    Raises:
        ConfigurationError: an argument is not usable; the message names it.
        StorageError: the queue's directory cannot be made or written.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse what would silently be ignored.

        Raises:
            ConfigurationError: the subclass overrides a method of the official emitter that nothing here calls.
        """
        super().__init_subclass__(**options)
        for name in _SENDING:
            if name in vars(cls):
                instead = "transport= carries events, custom_retry_codes= says what is tried again"
                raise ConfigurationError(f"{cls.__name__}.{name}: would never be called; {instead}")

    def __init__(
        self,
        endpoint: str,
        protocol: str = "https",
        port: int | None = None,
        method: str = "post",
        batch_size: int | None = None,
        on_success: Callable[[list[dict[str, Any]]], object] | None = None,
        on_failure: Callable[[int, list[dict[str, Any]]], object] | None = None,
        byte_limit: int | None = None,
        request_timeout: float | tuple[float, float] | None = None,
        max_retry_delay_seconds: float = 60,
        buffer_capacity: int | None = None,
        custom_retry_codes: Mapping[int, bool] | None = None,
        event_store: None = None,
        session: None = None,
        *,
        buffer_size: int | None = None,
        name: str | None = None,
        replaces: str | Sequence[str] = (),
        queue_dir: str | os.PathLike[str] | None = None,
        durability: Durability = "always",
        linger: float = 0.1,
        senders: int = 1,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        on_full: OnFull = "raise",
        max_age: float | None = None,
        headers: Mapping[str, str] | None = None,
        drain: bool = True,
        shutdown_timeout: float = 5.0,
        transport: Transport | None = None,
    ) -> None:
        if event_store is not None:
            raise ConfigurationError(
                "event_store: events are stored on disk; choose where with queue_dir=, how much with max_queue_bytes="
            )
        if session is not None:
            raise ConfigurationError("session: connections are kept alive already; see headers= and transport=")
        if batch_size is not None and buffer_size is not None:
            raise ConfigurationError("buffer_size: is the older spelling of batch_size; give one of them")
        check_function("on_success", on_success)
        check_function("on_failure", on_failure)
        if isinstance(transport, type) or not (transport is None or callable(getattr(transport, "send", None))):
            raise ConfigurationError(f"transport: {transport!r} has no method send; see the protocol Transport")
        self._address = Endpoint.parse(endpoint, protocol, port, method)
        self._settings = EmitterSettings(
            method=self._address.method,
            batch_size=buffer_size if batch_size is None else batch_size,
            byte_limit=BYTE_LIMIT if byte_limit is None else byte_limit,
            request_timeout=request_timeout,
            max_retry_delay_seconds=max_retry_delay_seconds,
            buffer_capacity=buffer_capacity,
            custom_retry_codes=custom_retry_codes or {},
            name=name,
            durability=durability,
            linger=linger,
            senders=senders,
            max_queue_bytes=max_queue_bytes,
            on_full=on_full,
            max_age=max_age,
            headers=headers or {},
            drain=drain,
            shutdown_timeout=shutdown_timeout,
        )
        self.name = name or self._address.name
        self.endpoint = self._address.public_url
        self.method = self._address.method
        self.batch_size = self._settings.gather
        self.byte_limit = self._settings.byte_limit
        self.on_success = on_success
        self.on_failure = on_failure
        self.request_timeout = request_timeout
        self.max_retry_delay_seconds = max_retry_delay_seconds
        self.custom_retry_codes = self._settings.custom_retry_codes
        self.buffer_capacity = buffer_capacity
        self._delivery_settings = DeliverySettings(
            batch_size=self._settings.request_count_max,
            byte_limit=self.byte_limit,
            max_retry_delay_seconds=max_retry_delay_seconds,
            custom_retry_codes=self.custom_retry_codes,
            max_age=max_age,
            senders=senders,
        )
        self._hold = hold_of(self._address.identity) if transport is None else Hold()
        self._given_transport = transport
        if transport is None:
            # requests takes longer to import than all the rest: who only imports this package does not pay for it.
            from durable_tracker.delivery.http_transport import HttpTransport  # noqa: PLC0415

            self._http_transport = HttpTransport  # kept: a late `__del__`, which opens anew, can import nothing
            self._make_transport().close()  # bad headers and timeouts are errors of the constructor
        root = queue_root(queue_dir)
        self.directory = root / (safe_name(name) if name else directory_name(self.name))
        make_private_directory(self.directory)
        self._backlogs = Backlogs(
            root, self.directory, self._address, replaced_addresses(replaces), self._queue_settings
        )
        warn_if_weak(self.directory)
        self._dropped = 0
        self._timer: threading.Timer | None = None
        self._is_closed = False
        self._is_empty_on_close = False  # nor is it known to be while it is being closed
        self._transport: Transport
        self._pair: tuple[SqliteQueue, Worker] | None
        self._begin()
        _emitters.add(self)

    # ── put ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, payload: bytes) -> None:
        """Store one finished event: a JSON object without `stm`, as UTF-8. It is not checked; `input` checks.

        Raises:
            QueueFullError: the queue or the disk is full, and `on_full` is "raise".
            QueueClosedError: the emitter was closed.
            StorageError: the disk failed. Whether the event was stored is unknown.
        """
        try:
            pair = self._pair or self._open()
        except QueueFullError as exc:  # the disk has no room for an empty queue either
            self._put_when_full([payload], exc)
            return
        queue, worker = pair
        try:
            if self.buffer_capacity is not None:
                self._check_capacity(queue, 1)
            queue.put(payload)
        except NOT_OURS:
            self._leave(pair)
            self.put(payload)
            return
        except QueueFullError as exc:
            self._put_when_full([payload], exc)
            return
        except QueueClosedError:
            self._reopen_at_exit(pair)
            self.put(payload)
            return
        if queue.puts >= worker.wake_at:
            worker.wake()

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store finished events, in few commits. Raises as `put`; a leading part may then have been stored."""
        try:
            pair = self._pair or self._open()
        except QueueFullError as exc:
            self._put_when_full(payloads, exc)
            return
        queue, worker = pair
        try:
            if self.buffer_capacity is not None:
                self._check_capacity(queue, len(payloads))
            queue.put_many(payloads)
        except NOT_OURS as exc:
            self._leave(pair)
            self.put_many(payloads[getattr(exc, "stored", 0) :])
            return
        except QueueFullError as exc:
            self._put_when_full(payloads[exc.stored :], exc)
            return
        except QueueClosedError:
            self._reopen_at_exit(pair)
            self.put_many(payloads)
            return
        if queue.puts >= worker.wake_at:
            worker.wake()

    def input(self, payload: Mapping[str, Any]) -> None:
        """Store one event given as a dict of the protocol's fields, as the official tracker hands it over.

        Raises:
            InvalidEventError: a field breaks the protocol; nothing was stored. Otherwise as `put`.
        """
        self.put(finished(payload))

    @staticmethod
    def _announce(queue: SqliteQueue, worker: Worker) -> None:
        if queue.puts >= worker.wake_at:
            worker.wake()

    def _check_capacity(self, queue: SqliteQueue, count: int) -> None:
        if queue.pending() + count > (self.buffer_capacity or 0):
            raise QueueFullError(f"{self.name}: buffer_capacity={self.buffer_capacity} events are pending")

    def _put_when_full(self, payloads: Sequence[bytes], error: QueueFullError) -> None:
        """Do as `on_full` says with events that found the queue full."""
        if (pair := self._pair) is not None:
            self._announce(*pair)  # those of the same call that found room: others may wait for them to leave
        if self._settings.on_full == "raise":
            raise error
        for payload in payloads:
            # Of several, there may be room for this one.
            self._put_one_when_full(payload, error if len(payloads) == 1 else None)

    def _put_one_when_full(self, payload: bytes, error: QueueFullError | None) -> None:
        while True:
            if error is not None:
                if self._settings.on_full == "drop_newest":
                    self._count_dropped()
                    return
                self._wait_for_room(payload, error)
            pair = None
            try:
                pair = self._pair or self._open()
                if self.buffer_capacity is not None:
                    self._check_capacity(pair[0], 1)
                pair[0].put(payload)
            except NOT_OURS:
                error = None
                if pair is not None:
                    self._leave(pair)
            except QueueFullError as exc:
                error = exc
            else:
                self._announce(*pair)
                return

    def _count_dropped(self) -> None:
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:  # 1, 2, 4, 8, ...: not a line per event
            logger.warning("emitter.dropped_newest", extra={"emitter": self.name, "dropped": self._dropped})

    def _wait_for_room(self, payload: bytes, error: QueueFullError) -> None:
        queue = pair[0] if (pair := self._pair) is not None else None
        if queue is not None and not queue.could_hold(len(payload)):
            raise error  # no room would ever be enough
        if self._settings.on_full == "drop_oldest":
            try:
                has_room = queue is not None and queue.evict(len(payload)) > 0
            except SlotBusyError:
                has_room = False  # in a signal handler that interrupted a read, which locks the table
            if not has_room:
                raise error
        elif queue is not None and queue.is_held_by_this_thread():
            raise error  # in a signal handler that interrupted a put: whoever makes room waits for that put
        elif self._is_closed:
            raise QueueClosedError(f"{self.name} was closed while a put waited for room")
        else:
            self._room.acquire(timeout=_FULL_RECHECK_S)

    # ── flush and close ──────────────────────────────────────────────────────────────────────────────────────────

    def flush(self, timeout: float | None = None) -> bool:
        """Deliver what is queued now.

        Makes an attempt at once, also while backing off, and stops waiting as soon as the collector is found unable to
        take the events, which then stay queued.

        Args:
            timeout: seconds to wait at most. None: as long as events are being delivered.

        Returns:
            Whether everything that was put before has left the queue.
        """
        if self._is_closed:
            return self._is_empty_on_close
        try:
            pair = self._pair or self._open()
            try:
                return self._flush(*pair, timeout)
            except NOT_OURS as exc:
                self._leave(pair)
                # What was closed under this process may hold events, and nobody can look.
                return isinstance(exc, ForkedError) and self.flush(timeout)
        except QueueClosedError:
            return False  # closed meanwhile, by another thread
        except QueueError as exc:  # the disk fails, which the next put raises: what is queued has not left
            logger.error("emitter.flush_failed", extra={"emitter": self.name, "error": f"{type(exc).__name__}: {exc}"})
            return False

    def _flush(self, queue: SqliteQueue, worker: Worker, timeout: float | None) -> bool:
        if queue.is_empty():
            return True
        if not self._settings.drain:
            return False
        worker.start()
        return worker.flush(timeout)

    def sync_flush(self) -> bool:
        """As `flush`: the official tracker's name for it."""
        return self.flush()

    def async_flush(self) -> None:
        """Let what is queued be sent now, without waiting for it."""
        if not self._is_closed and self._settings.drain:
            _, worker = self._pair or self._open()
            worker.start()
            worker.poke()

    def close(self, timeout: float | None = None) -> bool:
        """Deliver what the collector takes at once, then close. Events that remain are delivered by the next owner.

        Never waits for an outage. May be called twice.

        Args:
            timeout: seconds to wait at most. None: `shutdown_timeout`.

        Returns:
            Whether the queue is empty.
        """
        self.cancel_flush_timer()
        if self._is_closed:
            return self._is_empty_on_close
        self._is_closed = True
        self._is_empty_on_close = self._shut(self._settings.shutdown_timeout if timeout is None else timeout)
        _emitters.discard(self)
        return self._is_empty_on_close

    def _shut(self, timeout_s: float) -> bool:
        pair, self._pair = self._pair, None
        if pair is None or self._pid != os.getpid():
            return True
        queue, worker = pair
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(QueueError):
            if self._settings.drain and not queue.is_empty():
                worker.start()  # which it is, unless the slot was opened after the exit handler
            if worker.has_started and worker.state.state in ("idle", "sending"):
                worker.flush(timeout_s)
        worker.stop()
        worker.join(deadline - time.monotonic())
        is_empty = False
        with contextlib.suppress(QueueError):
            is_empty = queue.is_empty()
        queue.close()
        self._backlogs.warn()
        try:
            self._transport.close()
        except Exception as exc:  # noqa: BLE001 - a transport of the user's own; at exit the other emitters come next
            logger.warning("emitter.transport_not_closed", extra={"emitter": self.name, "error": type(exc).__name__})
        return is_empty

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> EmitterStats:
        """Return a snapshot. O(1).

        Raises nothing, also while the disk fails: then `last_error` says so, and what cannot be read is as it was last
        (the ledger), None (the age) or 0.
        """
        pair = self._pair if self._pid == os.getpid() else None
        queue, worker = pair or (None, None)
        try:
            oldest, used_bytes = (queue.oldest(), queue.used_bytes()) if queue else (None, 0)
            return self._stats(queue, worker, oldest, used_bytes, None)
        except NOT_OURS:
            return self._stats(None, None, None, 0, None)  # the next put leaves it, and says so
        except QueueError as exc:
            return self._stats(queue, worker, None, 0, f"{type(exc).__name__}: {exc}")

    def _stats(
        self, queue: SqliteQueue | None, worker: Worker | None, oldest: Row | None, used_bytes: int, error: str | None
    ) -> EmitterStats:
        state = worker.state if worker else None
        why_stopped = worker.why_stopped if worker else None
        return EmitterStats(
            name=self.name,
            slot=queue.slot.database if queue else None,
            ledger=queue.ledger() if queue else Ledger(),
            dropped=self._dropped,
            state="stopped" if why_stopped else state.state if state else "idle",
            last_error=error or why_stopped or (state.last_error if state else None),
            suspects=state.suspects if state else 0,
            parked=state.parked if state else 0,
            oldest_age_s=_age_s(oldest),
            elsewhere=self._backlogs.elsewhere,
            used_bytes=used_bytes,
            max_queue_bytes=self._settings.max_queue_bytes,
        )

    @staticmethod
    def as_collector_uri(endpoint: str, protocol: str = "https", port: int | None = None, method: str = "post") -> str:
        """Return the address that requests go to.

        Raises:
            ConfigurationError: it cannot be an address.
        """
        return Endpoint.parse(endpoint, protocol, port, method).public_url

    @staticmethod
    def is_good_status_code(status_code: int) -> bool:
        """Return whether a status means that the collector took the events."""
        return 200 <= status_code < 300  # noqa: PLR2004

    def set_flush_timer(self, timeout: float, flush_now: bool = False) -> None:
        """Flush every `timeout` seconds, until `cancel_flush_timer`. A second call replaces the first.

        Delivery needs no timer: events are sent after `linger` seconds anyway.

        Raises:
            ConfigurationError: `timeout` is not a number of seconds above 0.
        """
        check_seconds("timeout", timeout)
        if not timeout:
            raise ConfigurationError("timeout: 0 would flush without a pause; give the seconds between two flushes")
        self.cancel_flush_timer()
        if flush_now:
            self.async_flush()

        def tick() -> None:
            self.async_flush()
            if self._timer is timer:
                self.set_flush_timer(timeout)

        timer = threading.Timer(timeout, tick)
        timer.daemon = True
        self._timer = timer
        timer.start()

    def cancel_flush_timer(self) -> None:
        """Undo `set_flush_timer`."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} to {self.endpoint}>"

    # ── the slot and the worker of this process ──────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        """Start from nothing in this process: locks of another one must never be used."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # guards opening
        self._room = threading.Lock()
        self._room.acquire()
        self._pair = None

    def _leave(self, pair: tuple[SqliteQueue, Worker]) -> None:
        """Give up a slot that belongs to the parent of this process, or whose files were closed under it."""
        if self._pid != os.getpid():
            self._begin_in_child()
            return
        with self._lock:
            if self._pair is pair:
                self._pair = None
                pair[1].stop()
                pair[0].leave()
                forget = getattr(self._transport, "forget", None)
                if forget is not None:
                    forget()
                logger.error(
                    "emitter.files_closed",
                    extra={
                        "slot": str(pair[0].slot.database),
                        "fate": "its events are kept, and delivered by the next process that opens it",
                        "remedy": "make the emitter after the process has become a daemon",
                    },
                )

    def _begin_in_child(self) -> None:
        # Once, whatever the number of threads that find out: a second time would forget the child's own slot.
        with _fork_locks.setdefault(os.getpid(), threading.RLock()):
            if self._pid == os.getpid():
                return
            if self._pair is not None:
                self._pair[0].forget()
            self._begin()

    def _reopen_at_exit(self, pair: tuple[SqliteQueue, Worker]) -> None:
        """After the exit handler, a late `track` opens the slot again; after `close` it is an error."""
        if self._is_closed:
            raise QueueClosedError(f"{self.name} was closed; the event was not queued")
        with self._lock:
            if self._pair is pair:
                self._pair = None

    def _open(self) -> tuple[SqliteQueue, Worker]:
        if self._is_closed:
            raise QueueClosedError(f"{self.name} was closed; the event was not queued")
        if self._pid != os.getpid():
            self._begin_in_child()
        with self._lock:
            if self._pair is not None:
                return self._pair
            queue = self._backlogs.open_free()
            try:
                self._pair = self._overtaking_pair() or self._make_pair(queue)
            finally:
                # A signal handler may have opened another slot meanwhile, or raised.
                if self._pair is None or self._pair[0] is not queue:
                    queue.close()
            # After the exit handler only a flush delivers: the interpreter would end amid the request.
            if self._settings.drain and _exiting_pid != os.getpid():
                self._pair[1].start()
            return self._pair

    def _make_pair(self, queue: SqliteQueue) -> tuple[SqliteQueue, Worker]:
        record = self._address.record()
        try:
            # Before the first put: else a crash would leave its event with the address of an earlier owner.
            queue.set_origin(record)
        except QueueFullError:
            if queue.origin != record:  # a full disk can still be drained, but an event must not be put
                raise
        self._transport = self._make_transport()
        # Nothing that the worker has leads to the emitter: one that is dropped without `close`, which the official API
        # does not have, is collected, and what it holds comes back.
        worker = Worker(
            queue,
            functools.partial(
                Delivery,
                transport=self._transport,
                settings=self._delivery_settings,
                on_success=self.on_success,
                on_failure=self.on_failure,
                hold=self._hold,
            ),
            linger_s=self._settings.linger,
            gather=self.batch_size,
            orphans=self._backlogs,
            drains=self._settings.drain,
            shutdown_timeout_s=self._settings.shutdown_timeout,
            close=functools.partial(_close_both, queue, self._transport),
        )
        weakref.finalize(self, worker.retire).atexit = False
        return queue, worker

    def _overtaking_pair(self) -> tuple[SqliteQueue, Worker] | None:
        """Return what a signal handler opened while this thread was opening."""
        return self._pair

    @property
    def _queue_settings(self) -> dict[str, Any]:
        return {
            "durability": self._settings.durability,
            "max_queue_bytes": self._settings.max_queue_bytes,
            "byte_limit": self._settings.byte_limit,
        }

    def _make_transport(self) -> Transport:
        if self._given_transport is not None:
            return self._given_transport
        return self._http_transport(
            self._address.url,
            method=self.method,
            headers=self._settings.headers,
            request_timeout=self.request_timeout,
            connections=self._settings.senders,
        )


class AsyncEmitter(Emitter):
    """The official tracker's asynchronous emitter.

    Every emitter here sends in the background. This one only differs in its parameters: protocol "http" by default,
    and `thread_count`, which is the number of `senders`.
    """

    def __init__(
        self,
        endpoint: str,
        protocol: str = "http",
        port: int | None = None,
        method: str = "post",
        batch_size: int | None = None,
        on_success: Callable[[list[dict[str, Any]]], object] | None = None,
        on_failure: Callable[[int, list[dict[str, Any]]], object] | None = None,
        thread_count: int = 1,
        byte_limit: int | None = None,
        request_timeout: float | tuple[float, float] | None = None,
        max_retry_delay_seconds: float = 60,
        buffer_capacity: int | None = None,
        custom_retry_codes: Mapping[int, bool] | None = None,
        event_store: None = None,
        session: None = None,
        **ours: Any,
    ) -> None:
        """As `Emitter`, with the official class's order of parameters; `ours` are `Emitter`'s keyword-only ones."""
        check_count("thread_count", thread_count)
        super().__init__(
            endpoint,
            protocol,
            port,
            method,
            batch_size,
            on_success,
            on_failure,
            byte_limit,
            request_timeout,
            max_retry_delay_seconds,
            buffer_capacity,
            custom_retry_codes,
            event_store,
            session,
            **{"senders": thread_count, **ours},
        )


def _close_both(queue: SqliteQueue, transport: Transport) -> None:
    queue.close()
    transport.close()


def _age_s(row: Row | None) -> float | None:
    tracked_ms = None if row is None else device_time_ms(row.payload)
    return None if tracked_ms is None else max(time.time() - tracked_ms / 1000, 0.0)


_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()
_fork_locks: dict[int, Any] = {}  # by pid: a lock of another process may be held for ever


_exiting_pid = 0


def _close_all_at_exit() -> None:
    """Give every emitter one bounded attempt, within one deadline. A later put opens its slot again, and stores."""
    global _exiting_pid  # noqa: PLW0603 (there is one exit)
    _exiting_pid = os.getpid()
    started_at = time.monotonic()
    close_retired()
    for emitter in list(_emitters):
        with contextlib.suppress(QueueError):
            emitter._shut(max(emitter._settings.shutdown_timeout - (time.monotonic() - started_at), 0.0))  # noqa: SLF001


atexit.register(_close_all_at_exit)
