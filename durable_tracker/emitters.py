"""The emitter: owns a queue, a worker and the settings.

Tracker ──put──► Emitter ──► Queue ◄── Worker ──► Delivery ──► Transport ──► collector
                    │          └────────┴──────── Opened, by the first use in each process
                    └── FullQueue: what is done when there is no room
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from durable_tracker.control import server
from durable_tracker.delivery.hold import Hold, hold_of
from durable_tracker.delivery.policy import Delivery, DeliverySettings
from durable_tracker.engines.addresses import engine_of
from durable_tracker.engines.engine import MAX_QUEUE_BYTES, QueueSettings
from durable_tracker.engines.queue import ForkedError, Ledger, NotOursError
from durable_tracker.errors import (
    ConfigurationError,
    QueueClosedError,
    QueueError,
    QueueFullError,
)
from durable_tracker.log import logger
from durable_tracker.protocol.encoder import fields_of, finished
from durable_tracker.protocol.endpoint import Endpoint, replaced_addresses
from durable_tracker.protocol.fields import PAYLOAD_DATA_SCHEMA as _PAYLOAD_DATA_SCHEMA
from durable_tracker.protocol.fields import check_query
from durable_tracker.runtime import exit  # noqa: A004 (a module, used by its name)
from durable_tracker.runtime.elsewhere import names_from_elsewhere
from durable_tracker.runtime.full_queue import FullQueue
from durable_tracker.runtime.official_emitter import Assignable, OfficialEmitter
from durable_tracker.runtime.opened import Opened
from durable_tracker.runtime.settings import EmitterSettings
from durable_tracker.runtime.stats import EmitterStats, age_s, left_s
from durable_tracker.runtime.worker import Worker
from durable_tracker.settings import checks
from durable_tracker.settings.record import on_record, sender_of, to_record
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from durable_tracker.delivery.http_transport import HttpTransport, Session
    from durable_tracker.delivery.transport import Transport
    from durable_tracker.engines.engine import Durability, Engine
    from durable_tracker.engines.queue import Queue, Row
    from durable_tracker.settings.table import OnFull

PAYLOAD_DATA_SCHEMA: Final = _PAYLOAD_DATA_SCHEMA
DEFAULT_MAX_LENGTH: Final = 10
"""Events of a batch by default on the official tracker. Nothing here uses it."""
PROTOCOLS: Final = frozenset({"http", "https"})
METHODS: Final = frozenset({"get", "post"})


class Emitter(OfficialEmitter):
    """Stores events on disk, and delivers them to one collector in the background.

    When `put` (and so `Tracker.track`) returns, the event is on disk. All methods may be called from any thread; `put`
    and `put_many` also from a signal handler. After a fork the child uses a slot of its own; the parent's is untouched.

    The parameters up to `session` are those of the official tracker's `Emitter`, in its order.

    A subclass that overrides `http_post` (or `http_get`, if it sends by GET) is the way to send: the method is called
    with the official argument, one request at a time, in the background. So is one that overrides `send_events`, which
    comes before the two. What its answer means is said at `OverriddenTransport`: events leave the queue only when the
    answer is good, or the answer to all of them that `super()` got. Such an emitter lives until it is closed or the
    interpreter exits: its worker needs it.

    Args:
        endpoint: the collector's host, optionally with scheme, port and path. A scheme wins over `protocol`.
        protocol: "https" or "http".
        port: the collector's port. None: the protocol's.
        method: "post" or "get". A GET carries one event.
        batch_size: events in one request at most; as many that wait are sent without lingering. None: up to 500 in one
            request (1 for GET), and 10 without lingering.
        on_success: called with the list of events (dicts) that were delivered, after they left the queue.
        on_failure: called with the number of events delivered since the last such call and the list of events that
            will not be tried again. It is not called for events that stay queued, but with `report_retries`.
        byte_limit: bytes in one request at most: collectors behind SQS split above 192,000. None: 150,000. A single
            event that is larger is sent alone.
        request_timeout: seconds, or (connect, read) seconds, as in requests. None: 10 and 20.
        max_retry_delay_seconds: the longest backoff.
        buffer_capacity: pending events at most, beside the bound of `max_queue_bytes`. None: no bound.
        custom_retry_codes: HTTP status to True (try again) or False (set the event aside).
        event_store: refused; the queue on disk is the store.
        session: a `requests.Session`: its headers, auth, proxies, verify, cert and trust_env are read once, now. An
            adapter that it has mounted and that is not of requests' own class is used; see `HttpTransport`. It is never
            sent with itself: its cookies and hooks are not used.
        buffer_size: the older spelling of `batch_size`.
        name: the queue's name; emitters of one name and one address share a backlog. None: derived from the address.
            What one of them left is delivered by another as it was to be: `max_age`, `custom_retry_codes`, `byte_limit`
            and `max_retry_delay_seconds` are on record with it. What was to be sent in a way of one's own (`transport`,
            an adapter of `session`, an overridden `http_post`) is sent by an emitter with the same way alone.
        replaces: addresses of collectors whose backlogs go to this one from now on.
        queue: the engine that keeps the events, or its address. None: files of SQLite in `queue_dir`.
        queue_dir: where the queues are. None: `$DURABLE_TRACKER_DIR`, else the user's state directory.
        durability: "always": a put is synced to disk before it returns; "interval": synced once a second. The latter
            survives any crash of the process, and loses at most the last second in a power failure.
        linger: how long the first event waits for others; `batch_size` waiting events (10) go at once. In seconds.
        senders: requests in flight at most; more for distant collectors (order is then approximate).
        max_queue_bytes: bound of the queue on disk, per slot.
        on_full: what a put does on a full queue or disk: "raise" QueueFullError, "drop_newest", "drop_oldest" or
            "block".
        max_age: seconds after which an undelivered event is dropped. None: never.
        headers: sent with each request; kept in memory only. `User-Agent` is "durable-tracker" unless it is among them,
            or among those of the session, over which they win.
        drain: False leaves delivery to `python -m durable_tracker.drain`.
        shutdown_timeout: how long the exit may wait for a healthy collector; never for an outage. In seconds.
        transport: carries events instead of HTTP: anything that keeps the `Transport` protocol.
        report_retries: True calls `on_failure` also when an outage begins, and at most once a minute while it lasts.
            It gets the events at hand. These stay queued and are sent again: to track them once more sends them twice.
        control: False makes no socket in `queue_dir`, by which commands such as `durable-tracker why` ask this process.

    Raises:
        ConfigurationError: an argument is not usable; the message names it.
        StorageError: the queue's directory cannot be made or written.
    """

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
        session: Session | None = None,
        *,
        buffer_size: int | None = None,
        name: str | None = None,
        replaces: str | Sequence[str] = (),
        queue: Engine | str | None = None,
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
        report_retries: bool = False,
        control: bool = True,
    ) -> None:
        if session is not None and transport is not None:
            raise ConfigurationError("session: has no effect beside transport=; give one of them")
        if batch_size is not None and buffer_size is not None:
            raise ConfigurationError("buffer_size: is the older spelling of batch_size; give one of them")
        for name_, value in (
            ("event_store", event_store),
            ("on_success", on_success),
            ("on_failure", on_failure),
            ("session", session),
            ("buffer_size", buffer_size),
            ("transport", transport),
        ):
            ARGUMENTS[name_].value(value)
        self._address = Endpoint.parse(endpoint, protocol, port, method)
        self._settings = EmitterSettings(
            method=self._address.method,
            batch_size=buffer_size if batch_size is None else batch_size,
            byte_limit=ARGUMENTS["byte_limit"].value(byte_limit),
            request_timeout=request_timeout,
            max_retry_delay_seconds=max_retry_delay_seconds,
            buffer_capacity=buffer_capacity,
            custom_retry_codes=ARGUMENTS["custom_retry_codes"].value(custom_retry_codes),
            name=name,
            durability=durability,
            linger=linger,
            senders=senders,
            max_queue_bytes=max_queue_bytes,
            on_full=on_full,
            max_age=max_age,
            headers=ARGUMENTS["headers"].value(headers),
            drain=drain,
            shutdown_timeout=shutdown_timeout,
            report_retries=report_retries,
            control=control,
        )
        self._name = name or self._address.name
        self.on_success = on_success
        self.on_failure = on_failure
        self._capacity = buffer_capacity
        self._session = session
        self._full = FullQueue(self._name, on_full)
        self._hold = hold_of(self._address.identity) if transport is None else Hold()
        self._given_transport = transport
        self._given: dict[str, Any] = {
            "name": self._name,
            "protocol": protocol,
            "port": port,
            "replaces": replaces,
            "queue": queue,
            "queue_dir": queue_dir,
            "control": control,
            "durability": durability,
            "max_queue_bytes": max_queue_bytes,
            "event_store": None,
            "session": session,
            "transport": transport,
        }
        self._adapter_name: str | None = None
        if transport is None:
            # requests takes longer to import than all the rest: who only imports this package does not pay for it.
            from durable_tracker.delivery.http_transport import HttpTransport, settings_of  # noqa: PLC0415

            if session is not None:
                self._session = settings_of(session)
            self._http_transport = HttpTransport  # kept: a late `__del__`, which opens anew, can import nothing
        self._check()  # bad headers and timeouts are errors of the constructor
        self._source = engine_of(queue, queue_dir).source(
            name,
            self._address,
            replaces=replaced_addresses(replaces),
            settings=QueueSettings(
                durability=durability, max_queue_bytes=max_queue_bytes, byte_limit=self._settings.byte_limit
            ),
        )
        self._given["directory"] = getattr(self._source, "directory", None)
        self._timer: threading.Timer | None = None
        self._is_closed = False
        self._is_empty_on_close = False  # nor is it known to be while it is being closed
        self._opened: Opened | None
        self._closed: Opened | None  # what `stats` goes on telling of
        self._begin()
        exit.add(self)

    # ── put ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, payload: bytes) -> None:
        """Store one finished event: a JSON object without `stm`, as UTF-8. It is not checked; `input` checks.

        Raises:
            QueueFullError: the queue or the disk is full, and `on_full` is "raise".
            QueueClosedError: the emitter was closed.
            StorageError: the disk failed. Whether the event was stored is unknown.
        """
        opened = None
        try:
            opened = self._opened or self._open()
            queue = opened.queue
            if self._capacity is not None:
                self._check_capacity(queue, 1)
            queue.put(payload)
        except QueueError as exc:
            self._put_again((payload,), exc, opened)
            return
        if queue.puts >= opened.worker.wake_at:
            opened.worker.wake()

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store finished events, in few commits. Raises as `put`; a leading part may then have been stored."""
        if not payloads:
            return
        opened = None
        try:
            opened = self._opened or self._open()
            if self._capacity is not None:
                self._check_capacity(opened.queue, len(payloads))
            opened.queue.put_many(payloads)
        except QueueError as exc:
            self._put_again(payloads, exc, opened)
            return
        opened.announce()

    def put_invalid(self, payload: bytes, reason: str) -> None:
        """Put an event that the tracker refused among the dead letters, with the reason.

        Raises as `put`, but waits for no room and makes none: `on_full` is about events that can be delivered.
        """
        while True:
            opened = self._opened or self._open()
            try:
                opened.queue.put_invalid(payload, reason)
            except (NotOursError, QueueClosedError) as exc:
                self._open_again(exc, opened)
            else:
                return

    def input(self, payload: Mapping[str, Any]) -> None:
        """Store one event given as a dict of the protocol's fields, as the official tracker hands it over.

        Raises:
            InvalidEventError: a field breaks the protocol; nothing was stored. Otherwise as `put`.
        """
        encoded = finished(payload)
        if self.method == "get":
            check_query(fields_of(encoded))
        self.put(encoded)

    plain_input: ClassVar[Any] = staticmethod(input)  # noqa: A003 (the method above)
    """What a test that patches `input` has replaced."""

    def _check_capacity(self, queue: Queue, count: int) -> None:
        if queue.pending() + count > (self._capacity or 0):
            raise QueueFullError(f"{self._name}: buffer_capacity={self._capacity} events are pending")

    def _put_again(self, payloads: Sequence[bytes], error: QueueError, opened: Opened | None) -> None:
        """Store events once more, when what `error` says was dealt with: a fork, an exit, or a full queue.

        Args:
            payloads: the events, of which a leading part may have been stored.
            error: what a put raised.
            opened: what it was put into, None if that could not be opened.
        """
        while True:
            payloads = payloads[error.stored :]
            if isinstance(error, QueueFullError):
                if opened is not None:
                    opened.announce()  # what found room: others may wait for it to leave
                if len(payloads) > 1 and not self._full.raises:
                    for payload in payloads:  # of several, there may be room for some
                        self.put(payload)
                    return
                is_over = self._is_closed or exit.has_begun()  # after the exit handler nobody delivers, and makes room
                if not self._full.makes_room(
                    opened.evicting if opened else None, len(payloads[0]), error, is_over=is_over
                ):
                    return
            else:
                self._open_again(error, opened)
            opened = None
            try:
                opened = self._opened or self._open()
                self._store(opened.queue, payloads)
            except QueueError as exc:
                error = exc
            else:
                opened.announce()
                return

    def _store(self, queue: Queue, payloads: Sequence[bytes]) -> None:
        if self._capacity is not None:
            self._check_capacity(queue, len(payloads))
        if len(payloads) == 1:
            queue.put(payloads[0])
        else:
            queue.put_many(payloads)

    def _open_again(self, error: QueueError, opened: Opened | None) -> None:
        """Let the next use open a queue anew, if that helps against an error; else raise it."""
        if isinstance(error, NotOursError):
            self._leave(opened)
        elif isinstance(error, QueueClosedError):
            self._reopen_at_exit(opened)
        else:
            raise error

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
            opened = self._opened or self._open()
            try:
                if not self._settings.drain:
                    return opened.queue.is_empty()
                return opened.flush(timeout)
            except NotOursError as exc:
                self._leave(opened)
                # What was closed under this process may hold events, and nobody can look.
                return isinstance(exc, ForkedError) and self.flush(timeout)
        except QueueClosedError:
            return False  # closed meanwhile, by another thread
        except QueueError as exc:  # the disk fails, which the next put raises: what is queued has not left
            logger.error("emitter.flush_failed", extra={"emitter": self._name, "error": f"{type(exc).__name__}: {exc}"})
            return False

    def sync_flush(self) -> bool:
        """As `flush`: the official tracker's name for it."""
        return self.flush()

    def async_flush(self) -> None:
        """Let what is queued be sent now, without waiting for it."""
        if not self._is_closed and self._settings.drain:
            opened = self._opened or self._open()
            opened.worker.start()
            opened.worker.poke()

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
        self._is_empty_on_close = self.close_at_exit(self._settings.shutdown_timeout if timeout is None else timeout)
        exit.discard(self)
        return self._is_empty_on_close

    def close_at_exit(self, timeout_s: float) -> bool:
        """As `close`, but that a later put opens the queue again. Return whether the queue is empty."""
        opened, self._opened = self._opened, None
        self._closed = opened or self._closed
        if opened is None or self._is_inherited():
            return True
        is_empty = opened.close(timeout_s, drains=self._settings.drain)
        self._source.warn()
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
        opened = (self._opened or self._closed) if not self._is_inherited() else None
        queue = opened and opened.queue
        try:
            oldest, used_bytes = (queue.oldest(), queue.used_bytes()) if queue else (None, 0)
            return self._stats(opened, oldest, used_bytes, None)
        except NotOursError:
            return self._stats(None, None, 0, None)  # the next put leaves it, and says so
        except QueueClosedError:
            return self._stats(opened, None, 0, None)
        except QueueError as exc:
            return self._stats(opened, None, 0, f"{type(exc).__name__}: {exc}")

    def _stats(self, opened: Opened | None, oldest: Row | None, used_bytes: int, error: str | None) -> EmitterStats:
        queue = opened and opened.queue
        state = opened.worker.state if opened else None
        why_stopped = opened.worker.why_stopped if opened else None
        return EmitterStats(
            name=self._name,
            slot=queue.path if queue else None,
            ledger=replace(queue.ledger(), parked=state.parked if state else 0) if queue else Ledger(),
            dropped=self._full.dropped,
            state="closed" if self._is_closed else opened.state if opened else "idle",
            last_error=error or why_stopped or (state.last_error if state else None),
            next_attempt_s=left_s(state.next_attempt_at if state else None),
            requests=state.requests if state else 0,
            suspects=state.suspects if state else 0,
            parked=state.parked if state else 0,
            oldest_age_s=age_s(oldest),
            elsewhere=self._source.elsewhere,
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

    def set_flush_timer(self, timeout: float, flush_now: bool = False) -> None:
        """Flush every `timeout` seconds, until `cancel_flush_timer`. A second call replaces the first.

        Delivery needs no timer: events are sent after `linger` seconds anyway.

        Raises:
            ConfigurationError: `timeout` is not a number of seconds above 0.
        """
        checks.seconds_above_0("timeout", timeout)
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
        return f"<{type(self).__name__} {self._name!r} to {self.endpoint}>"

    # ── the slot and the worker of this process ──────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        """Start from nothing in this process: locks of another one must never be used."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # guards opening
        self._full.begin()
        self._opened = None
        self._closed = None

    def _is_inherited(self) -> bool:
        """Return whether this process is a fork, and has not begun anew yet."""
        return self._pid != os.getpid()

    def _leave(self, opened: Opened | None) -> None:
        """Give up a queue that belongs to the parent of this process, or whose files were closed under it."""
        if self._is_inherited():
            self._begin_in_child()
            return
        with self._lock:
            if opened is not None and self._opened is opened:
                self._opened = None
                opened.leave()
                logger.error(
                    "emitter.files_closed",
                    extra={
                        "queue": opened.queue.name,
                        "fate": "its events are kept, and delivered by the next process that opens it",
                        "remedy": "make the emitter after the process has become a daemon",
                    },
                )

    def _begin_in_child(self) -> None:
        # Once, whatever the number of threads that find out: a second time would forget the child's own slot.
        with _fork_locks.setdefault(os.getpid(), threading.RLock()):
            if not self._is_inherited():
                return
            if self._opened is not None:
                self._opened.queue.forget()
            self._begin()

    def _reopen_at_exit(self, opened: Opened | None) -> None:
        """After the exit handler, a late `track` opens the slot again; after `close` it is an error."""
        if self._is_closed:
            raise QueueClosedError(f"{self._name} was closed; the event was not queued")
        with self._lock:
            if self._opened is opened:
                self._opened = None

    def _open(self) -> Opened:
        if self._is_closed:
            raise QueueClosedError(f"{self._name} was closed; the event was not queued")
        if self._is_inherited():
            self._begin_in_child()
        with self._lock:
            if self._opened is not None:
                return self._opened
            self._source.sender = self._sender()  # anew: the way to send may have been patched meanwhile
            queue = self._source.open()
            opened = None
            try:
                opened = self._overtaking() or self._make_opened(queue)
                self._opened = opened
            finally:
                # A signal handler may have opened another queue meanwhile, or raised.
                if opened is None or opened.queue is not queue:
                    queue.close()
            # After the exit handler only a flush delivers: the interpreter would end amid the request.
            if self._settings.drain and not exit.has_begun():
                opened.worker.start()
            if self._settings.control and not exit.has_begun():  # nobody would remove the socket
                server.serve(opened)
            return opened

    def _hand_over(self) -> bool:
        """Let go of the queue, for a drain to deliver, and go on in another. Return whether there was anything in it.

        A put waits no longer than for an open: what was put into the old queue when it is closed goes into the new one.

        Raises:
            SlotBusyError: there is no other queue; nothing has changed.
            StorageError: no other one can be opened; nothing has changed.
        """
        with self._lock:
            opened = self._opened
            if opened is None or self._is_inherited() or self._settings.drain or opened.queue.is_empty():
                return False
            queue = self._source.open()
            made = None
            try:
                made = self._make_opened(queue)
                self._opened = made
            finally:
                if made is None:
                    queue.close()
        if self._is_closed:  # meanwhile: whoever closed it may have seen only the old one
            self._opened = None
            made.close(0.0, drains=False)
        else:
            server.serve(made)
        opened.hand_over(keeps_transport=self._given_transport is not None)
        return True

    def _make_opened(self, queue: Queue) -> Opened:
        self._record(queue)
        transport = self._make_transport()
        # Nothing that the worker has leads to the emitter: one that is dropped without `close`, which the official API
        # does not have, is collected, and what it holds comes back.
        worker = Worker(
            queue,
            functools.partial(
                _delivery,
                own=queue,
                transport=transport,
                settings=self._delivery_settings(),
                on_success=self.on_success,
                on_failure=self.on_failure,
                hold=self._hold,
                about={"emitter": self._name, "collector": self._address.identity},
            ),
            linger_s=self._settings.linger,
            gather=self._settings.gather,
            source=self._source,
            drains=self._settings.drain,
            shutdown_timeout_s=self._settings.shutdown_timeout,
            close=functools.partial(_close_both, queue, transport),
        )
        retiring = weakref.finalize(self, worker.retire)
        retiring.atexit = False
        return Opened(
            queue,
            worker,
            transport,
            emitter=self._name,
            max_queue_bytes=self._settings.max_queue_bytes,
            retiring=retiring,
            give=weakref.WeakMethod(self._hand_over),
        )

    def _record(self, queue: Queue) -> None:
        """Put the address and the settings of the backlog on record.

        Before the first put: else a crash would leave its event with what an earlier owner had.
        """
        origin, settings = self._address.record(), to_record(self._settings, self._source.sender)
        try:
            queue.set_origin(origin)
            if queue.settings != settings:
                queue.set_settings(settings)
        except QueueFullError:
            # A full disk can still be drained, but an event must not be put that would go elsewhere, or in another way.
            if queue.origin != origin or sender_of(queue.settings) != self._source.sender:
                raise

    def _overtaking(self) -> Opened | None:
        """Return what a signal handler opened while this thread was opening."""
        return self._opened

    def _make_transport(self) -> Transport:
        if self._given_transport is not None:
            return self._given_transport
        return self._with_override(self._make_plain())

    def _make_plain(self) -> HttpTransport:
        return self._http_transport(
            self._address.url,
            method=self.method,
            headers=self._settings.headers,
            request_timeout=self._settings.request_timeout,
            connections=self._settings.senders,
            session=self._session,
        )

    def _check(self) -> None:
        self._delivery_settings()
        self._check_override()
        self._full.on_full = self._settings.on_full
        if self._given_transport is None:
            plain = self._make_plain()
            self._adapter_name = plain.adapter_name
            plain.close()

    def _delivery_settings(self) -> DeliverySettings:
        settings = self._settings
        return DeliverySettings(
            batch_size=settings.request_count_max,
            byte_limit=settings.byte_limit,
            max_retry_delay_seconds=settings.max_retry_delay_seconds,
            custom_retry_codes=settings.custom_retry_codes,
            max_age=settings.max_age,
            senders=settings.senders,
            report_retries=settings.report_retries,
        )


class AsyncEmitter(Emitter):
    """The official tracker's asynchronous emitter.

    Every emitter here sends in the background. This one only differs in its parameters: protocol "http" by default,
    and `thread_count`, which is the number of `senders`.
    """

    thread_count = Assignable[int]("senders")

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
        session: Session | None = None,
        **ours: Any,
    ) -> None:
        """As `Emitter`, with the official class's order of parameters; `ours` are `Emitter`'s keyword-only ones."""
        checks.count("thread_count", thread_count)
        if "senders" in ours:
            raise ConfigurationError("senders: is called thread_count here; give only that")
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
            senders=thread_count,
            **ours,
        )


def _delivery(queue: Queue, *, own: Queue, settings: DeliverySettings, **others: Any) -> Delivery:
    """Return the delivery of an emitter's own queue, or of one that it adopted, which keeps to what that has on record.

    What an orphan has on record belongs to its backlog, and wins: `max_age`, `custom_retry_codes`, `byte_limit` and
    `max_retry_delay_seconds`. All else is the adopter's: its transport, headers, method, batch size, senders and
    callbacks. An orphan of a release that recorded nothing is delivered as the adopter's own events.
    """
    if queue is not own:
        settings = replace(settings, **on_record(queue.settings, queue.name))
    return Delivery(queue, settings=settings, **others)


def _close_both(queue: Queue, transport: Transport) -> None:
    server.withdraw(queue)
    queue.close()
    transport.close()


_fork_locks: dict[int, Any] = {}  # by pid: a lock of another process may be held for ever


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
