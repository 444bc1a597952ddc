"""An engine without a disk, for tests: it keeps every promise of `Queue` and `Engine` but durability.

    engine = MemoryEngine("shop")
    Emitter("collector.example.com", queue=engine)
    drain.main(["memory:shop"])            in the same process

Several consumers may have one queue open: what one of them was handed belongs to it for `lease_s`.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from durable_tracker.engines.engine import QueueSettings, View
from durable_tracker.engines.queue import INVALID_MAX, DeadLetter, ForkedError, Ledger, Row
from durable_tracker.errors import ConfigurationError, QueueClosedError, QueueError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from durable_tracker.engines.engine import Place
    from durable_tracker.protocol.endpoint import Endpoint


@dataclass(slots=True)
class _Event:
    payload: bytes
    put_at_s: float
    holder: MemoryQueue | None = None
    key: int = 0  # the holder's
    until_s: float = 0.0
    replays: int = 0


@dataclass(slots=True)
class _Store:
    """What the consumers of one queue share. Guarded by `lock`, which is reentrant."""

    settings: QueueSettings
    lock: threading.RLock = field(default_factory=threading.RLock)
    events: dict[int, _Event] = field(default_factory=dict)  # by order of put
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    counts: Ledger = field(default_factory=Ledger)
    size: int = 0
    number: int = 0
    first: int = 1  # no event has a lower number
    free: int = 1  # nor has one that nobody ever claimed, or that was given back
    # what signal handlers put amid other calls
    late: deque[tuple[MemoryQueue, bytes, str | None]] = field(default_factory=deque)
    on_wire: set[int] = field(default_factory=set)
    origin: dict[str, str] = field(default_factory=dict)
    on_record: dict[str, Any] = field(default_factory=dict)
    suspects: bytes | None = None

    def oldest(self) -> int | None:
        """Return the lowest number, None if there is no event."""
        while self.first <= self.number and self.first not in self.events:
            self.first += 1
        return self.first if self.events else None

    def count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})


class MemoryQueue:
    """A `Queue` in memory; see there. Thread-safe.

    Args:
        store: what it shares with other consumers; None: a queue of its own.
        name: for messages.
        lease_s: for how many seconds what is peeked is this consumer's.
        monotonic: the clock of leases and ages.
    """

    def __init__(
        self,
        store: _Store | None = None,
        *,
        name: str = "memory:",
        lease_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = _Store(QueueSettings()) if store is None else store
        self._name = name
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._pid = os.getpid()
        self._numbers: dict[int, int] = {}  # by key: what this consumer holds, in the order of its claims
        self._key = 0
        self._is_closed = False
        self.puts = 0

    name = property(lambda self: self._name, doc="The engine's address and the queue's name.")
    path = None
    lease_s = property(lambda self: self._lease_s, doc="See `Queue.lease_s`.")
    poll_s = property(lambda self: None if self._lease_s is None else 1.0, doc="See `Queue.poll_s`.")

    # ── put ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, payload: bytes) -> None:
        """Store one event; see `Queue.put`."""
        if self.is_held_by_this_thread():
            self._check_open()
            self._store.late.append((self, payload, None))  # a signal handler's: whoever it interrupted takes it in
            return
        with self._opened() as store:
            if store.size + len(payload) > store.settings.max_queue_bytes:
                raise QueueFullError(f"{self._name} has reached max_queue_bytes={store.settings.max_queue_bytes}")
            self.take_in(store, payload)

    def take_in(self, store: _Store, payload: bytes) -> None:
        """For the store: add an event. The lock is held."""
        store.number += 1
        store.events[store.number] = _Event(payload, self._monotonic())
        store.size += len(payload)
        store.count(accepted=1, pending=1)
        self.puts += 1

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store events, in order; see `Queue.put_many`."""
        for stored, payload in enumerate(payloads):
            try:
                self.put(payload)
            except QueueError as exc:
                exc.stored = stored
                raise

    # ── peek, and what follows ───────────────────────────────────────────────────────────────────────────────────

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        """Claim the oldest rows that nobody holds; see `Queue.peek`."""
        rows: list[Row] = []
        size = 0
        with self._opened() as store:
            for key, number in self._candidates(store, after):
                event = store.events[number]
                size += len(event.payload)
                if rows and (len(rows) == count_max or size > size_max):
                    break
                if key is None:
                    self._key += 1
                    key = self._key  # noqa: PLW2901 (a row that was just claimed)
                    self._numbers[key] = number
                event.holder, event.key, event.until_s = self, key, self._until_s()
                rows.append(Row(key, event.payload))
        return rows

    def _candidates(self, store: _Store, after: int) -> Iterator[tuple[int | None, int]]:
        """Yield what this consumer holds above `after`, then, without a key, what nobody holds."""
        now_s = self._monotonic()
        for key, number in list(self._numbers.items()) if after < self._key else ():
            if number not in store.events:
                del self._numbers[key]
            elif key > after and self._is_held(store, key, now_s):  # else only a late ack may still name it
                yield key, number
        store.oldest()
        # Claims only end by themselves where they are for a time.
        for number in range(store.free if self._lease_s is None else store.first, store.number + 1):
            event = store.events.get(number)
            if event is not None and (event.holder is None or event.until_s <= now_s):
                yield None, number
            store.free = max(store.free, number + 1) if self._lease_s is None else store.free

    def _is_held(self, store: _Store, key: int, now_s: float) -> bool:
        event = store.events.get(self._numbers.get(key, 0))
        return event is not None and event.holder is self and event.key == key and event.until_s > now_s

    def _until_s(self) -> float:
        return float("inf") if self._lease_s is None else self._monotonic() + self._lease_s

    def hold(self, keys: Sequence[int]) -> Sequence[int]:
        """Prolong the leases; see `Queue.hold`."""
        with self._opened() as store:
            now_s = self._monotonic()
            held = [key for key in keys if self._is_held(store, key, now_s)]
            for key in held:
                store.events[self._numbers[key]].until_s = self._until_s()
                store.on_wire.add(self._numbers[key])
        return held

    def settle(self, keys: Sequence[int] | None = None) -> None:
        """Take note that rows are not on the wire any more; see `Queue.settle`."""
        with self._store.lock:
            numbers = self._numbers.values() if keys is None else [self._numbers.get(key, 0) for key in keys]
            self._store.on_wire.difference_update(numbers)

    def release(self, after: int, keep: Collection[int] = ()) -> None:
        """Give claims back; see `Queue.release`."""
        with self._store.lock:
            for key in [key for key in self._numbers if key > after and key not in keep]:
                number = self._numbers.pop(key)
                event = self._store.events.get(number)
                if event is not None and event.holder is self and event.key == key:
                    event.holder = None
                    self._store.free = min(self._store.free, number)

    def ack(self, keys: Sequence[int]) -> None:
        """Remove delivered rows; see `Queue.ack`."""
        self._remove(keys, "delivered")

    def expire(self, keys: Sequence[int]) -> None:
        """Remove rows that outlived `max_age`; see `Queue.expire`."""
        self._remove(keys, "expired")

    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
        """Move refused rows to the dead letters; see `Queue.reject`."""
        with self._opened() as store:
            for key in keys:
                for number, event in self._remove([key], "dead"):
                    store.letters[number] = DeadLetter(
                        number, status, reason, time.time_ns() // 1_000_000, event.payload, replays=event.replays
                    )

    def put_invalid(self, payload: bytes, reason: str) -> None:
        """Put an event among the dead letters; see `Queue.put_invalid`."""
        if self.is_held_by_this_thread():
            self._check_open()
            self._store.late.append((self, payload, reason))
            return
        with self._opened() as store:
            if store.size + len(payload) > store.settings.max_queue_bytes:
                raise QueueFullError(f"{self._name} has reached max_queue_bytes={store.settings.max_queue_bytes}")
            self.take_in_invalid(store, payload, reason)

    def take_in_invalid(self, store: _Store, payload: bytes, reason: str) -> None:
        """For the store: add an event that was refused. The lock is held."""
        invalid = [key for key, letter in store.letters.items() if letter.kind == "invalid"]
        for key in invalid[: max(len(invalid) + 1 - INVALID_MAX, 0)]:
            del store.letters[key]
            store.count(dead=-1, invalid=-1, discarded=1)
        store.number += 1
        letter = DeadLetter(store.number, None, reason, time.time_ns() // 1_000_000, payload, kind="invalid")
        store.letters[store.number] = letter
        store.count(accepted=1, dead=1, invalid=1)

    def _remove(self, keys: Sequence[int], count: str) -> list[tuple[int, _Event]]:
        """Remove what is still there, whoever holds it by now: what was delivered must not be sent again."""
        gone = []
        with self._opened() as store:
            for key in keys:
                number = self._numbers.pop(key, 0)
                store.on_wire.discard(number)
                event = store.events.pop(number, None)
                if event is not None:
                    gone.append((number, event))
                    store.size -= len(event.payload)
                    store.count(pending=-1, **{count: 1})
        return gone

    def evict(self, size: int) -> int:
        """Remove the oldest rows that are not on the wire; see `Evicting`."""
        evicted = 0
        with self._opened() as store:
            for number, event in list(store.events.items()):
                if size > 0 and number not in store.on_wire:
                    size -= len(event.payload)
                    evicted += 1
                    del store.events[number]
                    store.size -= len(event.payload)
                    store.count(pending=-1, evicted=1)
        return evicted

    def could_hold(self, size: int) -> bool:
        """Return whether an event would fit if there was no other."""
        return size <= self._store.settings.max_queue_bytes

    def is_held_by_this_thread(self) -> bool:
        """Return whether this thread is inside the queue already."""
        return bool(self._store.lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 (as threading.Condition)

    def older(self, rows: Sequence[Row], age_s: float) -> list[Row]:
        """Return the rows that are older; see `Queue.older`."""
        with self._opened() as store:
            now_s = self._monotonic()
            return [
                row
                for row in rows
                if (event := store.events.get(self._numbers.get(row.key, 0))) and now_s - event.put_at_s > age_s
            ]

    def remember(self, suspects: bytes) -> None:
        """Do nothing: a key means nothing to a later consumer."""

    def remembered(self) -> bytes | None:
        """Return None; see `remember`."""
        return None

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────

    def ledger(self) -> Ledger:
        """Return the counts; see `Queue.ledger`."""
        self._check_pid()
        with _Locked(self._store) as store:
            now_s = self._monotonic()
            held = sum(e.holder not in (None, self) and e.until_s > now_s for e in store.events.values())
            return replace(store.counts, held=held)

    def pending(self) -> int:
        """Return the number of pending events."""
        self._check_pid()
        with _Locked(self._store) as store:
            return store.counts.pending

    def is_empty(self) -> bool:
        """Return whether nothing is pending; see `Queue.is_empty`."""
        with self._opened() as store:
            return not store.events

    def mark(self) -> int:
        """Return a mark behind what was put; see `Queue.mark`."""
        with self._opened() as store:
            return store.number

    def is_past(self, mark: int) -> bool:
        """Return whether what was put before the mark is gone; see `Queue.is_past`."""
        with self._opened() as store:
            oldest = store.oldest()
            return oldest is None or oldest > mark

    def oldest(self) -> Row | None:
        """Return the oldest row without claiming it."""
        with self._opened() as store:
            oldest = store.oldest()
            return None if oldest is None else Row(oldest, store.events[oldest].payload)

    def all_rows(self, after: int) -> list[Row]:
        """Return what is pending, whoever holds it, by the order of puts."""
        with self._opened() as store:
            return [Row(number, event.payload) for number, event in store.events.items() if number > after]

    def used_bytes(self) -> int:
        """Return the bytes of all payloads."""
        self._check_pid()
        return self._store.size

    @property
    def origin(self) -> dict[str, str]:
        """What `set_origin` recorded."""
        return dict(self._store.origin)

    def set_origin(self, origin: dict[str, str]) -> None:
        """Record where the events are to go."""
        self._store.origin = dict(origin)

    @property
    def settings(self) -> dict[str, Any]:
        """What `set_settings` recorded."""
        return dict(self._store.on_record)

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Record how the events are to be delivered."""
        self._store.on_record = dict(settings)

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """Return dead letters; see `Queue.dead_letters`."""
        with self._opened() as store:
            return [letter for key, letter in sorted(store.letters.items()) if key > after][:limit]

    def requeue(self, keys: Sequence[int], edited: Mapping[int, bytes] | None = None) -> int:
        """Put dead letters back at the end of the queue; see `Queue.requeue`."""
        moved = 0
        with self._opened() as store:
            for key in keys:
                letter = store.letters.pop(key, None)
                if letter is not None:
                    moved += 1
                    store.number += 1
                    payload = (edited or {}).get(key, letter.payload)
                    event = _Event(payload, self._monotonic(), replays=letter.replays + 1)
                    store.events[store.number] = event
                    store.size += len(payload)
                    store.count(dead=-1, pending=1, invalid=-1 if letter.kind == "invalid" else 0)
        return moved

    def purge(self, keys: Sequence[int]) -> int:
        """Remove pending events that are not on the wire; see `Queue.purge`."""
        with self._opened() as store:
            now_s = self._monotonic()
            held = [key for key in keys if self._is_held(store, key, now_s)]
            return len(self._remove([key for key in held if self._numbers[key] not in store.on_wire], "purged"))

    def purge_dead_letters(self, keys: Sequence[int]) -> int:
        """Remove dead letters; see `Queue.purge_dead_letters`."""
        with self._opened() as store:
            gone = [letter for key in keys if (letter := store.letters.pop(key, None)) is not None]
            invalid = sum(letter.kind == "invalid" for letter in gone)
            store.count(dead=-len(gone), invalid=-invalid, purged=len(gone))
        return len(gone)

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> _Locked:
        self._check_open()
        return _Locked(self._store)

    def _check_open(self) -> None:
        self._check_pid()
        if self._is_closed:
            raise QueueClosedError(f"{self._name} is closed")

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError(self._name)

    def close(self) -> None:
        """Give back what this consumer holds."""
        if self._pid == os.getpid() and not self._is_closed:
            self._is_closed = True
            self.release(0)

    leave = close

    def forget(self) -> None:
        """In a forked child: do nothing, since nothing is shared with the parent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MemoryQueue {self._name}>"


class _Locked:
    """A store, while its lock is held."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    def __enter__(self) -> _Store:
        self._store.lock.acquire()
        self._take_in()
        return self._store

    def __exit__(self, *exc_info: object) -> None:
        self._take_in()
        self._store.lock.release()

    def _take_in(self) -> None:
        while self._store.late:
            queue, payload, refused_for = self._store.late.popleft()
            if refused_for is None:
                queue.take_in(self._store, payload)
            else:
                queue.take_in_invalid(self._store, payload, refused_for)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class MemoryEngine:
    """An `Engine` in memory, for tests; see there. Thread-safe.

    Args:
        address: what comes after `memory:` in its address, by which commands of this process find it while it lives.
        lease_s: for how many seconds what is peeked belongs to one of several consumers; None: until it is closed.
        monotonic: the clock of leases and ages.
    """

    address: str = ""
    lease_s: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    _of: dict[int, tuple[threading.RLock, dict[tuple[str, str], _Store]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.address:
            _engines[str(self)] = self

    @staticmethod
    def at(address: str) -> MemoryEngine:
        """Return the engine of an address.

        Raises:
            ConfigurationError: this process has none; events in memory would be lost with whoever asked for it.
        """
        engine = _engines.get(address)
        if engine is None:
            raise ConfigurationError(f"queue: {address} is in memory, which is for tests, and not in this process")
        return engine

    def source(
        self, name: str | None, address: Endpoint, *, replaces: Sequence[Endpoint], settings: QueueSettings
    ) -> MemorySource:
        """Return where an emitter finds its queue; see `Engine.source`."""
        return MemorySource(self, name or address.name, address, replaces, settings)

    def places(self, names: Sequence[str] = ()) -> list[MemoryPlace]:
        """Return the queues; see `Engine.places`."""
        lock, stores = self._here()
        with lock:
            missing = [name for name in names if not any(key[0] == name for key in stores)]
            if missing:
                raise ConfigurationError(f"--name {missing[0]}: no queue of that name is in {self}")
            return [MemoryPlace(self, *key) for key in stores if not names or key[0] in names]

    def _here(self) -> tuple[threading.RLock, dict[tuple[str, str], _Store]]:
        """Return this process's lock and queues: a child has none of its parent's."""
        return self._of.setdefault(os.getpid(), (threading.RLock(), {}))

    def queue(self, name: str, collector: str = "", settings: QueueSettings | None = None) -> MemoryQueue:
        """Open a queue, as one more consumer of it.

        Args:
            name: the emitter's name.
            collector: the identity of its address.
            settings: its bounds, if it is made by this.
        """
        lock, stores = self._here()
        with lock:
            store = stores.setdefault((name, collector), _Store(settings or QueueSettings()))
        return MemoryQueue(
            store, name=MemoryPlace(self, name, collector).name, lease_s=self.lease_s, monotonic=self.monotonic
        )

    def __str__(self) -> str:
        return f"memory:{self.address}"


_engines: weakref.WeakValueDictionary[str, MemoryEngine] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class MemoryPlace:
    """A queue of an engine; see `Place`."""

    engine: MemoryEngine
    emitter: str
    collector: str

    @property
    def name(self) -> str:
        """The engine's address, the queue's name, and the collector that its events are for."""
        return f"{self.engine}/{self.emitter}" + (f" for {self.collector}" if self.collector else "")

    label = name
    path = None

    def take(self) -> MemoryQueue:
        """Open the queue beside its other consumers."""
        return self.engine.queue(self.emitter, self.collector)

    def look(self) -> MemoryOnlooker:
        """Look into the queue; see `Place.look`."""
        return MemoryOnlooker(self.take())

    def owner(self) -> None:
        """Return None: nobody owns it alone."""

    def state(self) -> object:
        """Return the counts."""
        with self.take() as queue:
            return queue.ledger()


@dataclass(frozen=True, slots=True)
class MemoryOnlooker:
    """A queue that is looked at; see `Onlooker`. Thread-safe."""

    queue: MemoryQueue

    def books(self) -> View:
        """Return the counts."""
        queue = self.queue
        return View(ledger=queue.ledger(), origin=queue.origin, used_bytes=queue.used_bytes(), oldest=queue.oldest())

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield what is pending now."""
        yield from self.queue.all_rows(after)

    def letters(self, after: int = -(1 << 62)) -> Iterator[DeadLetter]:
        """Yield the dead letters."""
        yield from self.queue.dead_letters(1 << 62, after)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.queue.close()


@dataclass(slots=True)
class MemorySource:
    """Where an emitter finds its queue: emitters of one name, collector and way to send share it; see `Source`."""

    engine: MemoryEngine
    name: str
    address: Endpoint
    replaces: Sequence[Endpoint]
    settings: QueueSettings
    sender: str | None = None

    @property
    def where(self) -> str:
        """The engine's address."""
        return str(self.engine)

    def open(self) -> MemoryQueue:
        """Open the queue; see `Source.open`."""
        return self.engine.queue(self.name, self._by_sender(self.address), self.settings)

    def _by_sender(self, address: Endpoint) -> str:
        return address.identity if self.sender is None else f"{address.identity} by {self.sender}"

    def orphans(self) -> list[MemoryPlace]:
        """Return the queues of the collectors that this one replaces, and those that anybody may send."""
        theirs = {one.identity for one in self.replaces} | {self._by_sender(one) for one in self.replaces}
        if self.sender is not None:
            theirs.add(self.address.identity)
        return [place for place in self.engine.places() if place.emitter == self.name and place.collector in theirs]

    def adopt(self, place: Place) -> MemoryQueue | None:
        """Open an orphan; see `Source.adopt`."""
        return place.take() if isinstance(place, MemoryPlace) else None

    def looked_everywhere(self) -> None:
        """Take note that every orphan was looked at."""

    @property
    def elsewhere(self) -> Mapping[str, int]:
        """Return the events of this name that wait for other collectors."""
        ours = (self.address, *self.replaces)
        mine = {one.identity for one in ours} | {self._by_sender(one) for one in ours}
        found = {}
        for place in self.engine.places():
            if place.emitter == self.name and place.collector not in mine:
                with place.take() as queue:
                    if queue.pending():
                        found[place.collector] = queue.pending()
        return found

    def warn(self) -> None:
        """Do nothing: a test looks at `elsewhere`."""
