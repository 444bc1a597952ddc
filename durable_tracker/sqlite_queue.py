"""The queue on disk: one slot, one owner, one SQLite file.

    track() ─► put ─► events ──ack──► (gone, `delivered` + 1)
                        │ └──reject──► dead_letters ──requeue──► events
                        └──expire, evict──► (gone, counted)

A put writes its row and nothing else; how many were accepted follows from the keys, which rise without gaps. Whatever
removes rows changes the counts in the same transaction, by SQLite's own count of the rows that went.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import logging
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from zlib import crc32

from durable_tracker import interval_sync
from durable_tracker.connection import MULTI_ROW_MAX, PAGE_SIZE, Connection, KeyTakenError, Table
from durable_tracker.errors import (
    DamagedQueueError,
    QueueError,
    QueueFullError,
    SlotBusyError,
    StorageError,
    UnknownFormatError,
)
from durable_tracker.group_commit import GROUP_SIZE_MAX, GroupCommit
from durable_tracker.headroom import Headroom
from durable_tracker.log import logger
from durable_tracker.queue import Ledger, Row
from durable_tracker.slots import SLOTS_MAX, Slot, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Durability = Literal["always", "interval"]

WAL_SIZE_MAX: Final = 1 << 20
"""When the WAL has grown by this much it is checkpointed. Small: recovery costs 2 ms per MiB, and the headroom has to
hold one; and a file that is rewritten in place syncs twice as fast as one that grows."""

BYTE_LIMIT: Final = 150_000
"""Default size of a batch: collectors that buffer in SQS split a request above 192,000 bytes, and answer 200."""

MAX_QUEUE_BYTES: Final = 1 << 30
MAX_QUEUE_BYTES_MIN: Final = 128 << 10

DEAD_LETTERS_MAX: Final = 10_000
DEAD_LETTERS_SIZE_MAX: Final = 64 << 20

_COUNTS: Final = ("delivered", "dead", "expired", "evicted", "damaged", "discarded")
_INTEGERS: Final = (*_COUNTS, "high", "requeued", "dead_size")
_KEY_MAX: Final = 1 << 62  # beyond it, a key is a flipped bit
_RECORD_OVERHEAD: Final = 4
_KEY_TRIES: Final = 100
_VACUUM_PAGES: Final = 256
_FREE_PAGES_KEPT: Final = 32

# Before anything is deleted the highest key goes on record, so that it can never be given out again.
_RECORD_HIGH: Final = (
    "UPDATE meta SET value = max(value, (SELECT coalesce(max(key), 0) FROM events)) WHERE key = 'high';"
)


class ForkedError(QueueError):
    """The queue belongs to the process that opened it, not to this child. Internal: the emitter opens another."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was set aside.

    Attributes:
        key: negative if the row failed its checksum.
        status: the HTTP status that refused it, or None.
        reason: why, in words.
        time_ms: when, in milliseconds since 1970 UTC.
        payload: the event's JSON as it was stored.
    """

    key: int
    status: int | None
    reason: str
    time_ms: int
    payload: bytes


class SqliteQueue:
    """A `Queue` in one slot.

    Thread-safe, and `put` and `put_many` may be called from signal handlers; see `durable_tracker.queue.Queue`.
    A process that inherited it by a fork gets `ForkedError` from every method but `close`.
    """

    def __init__(
        self,
        slot: Slot,
        *,
        durability: Durability = "always",
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        byte_limit: int = BYTE_LIMIT,
        create: bool = True,
    ) -> None:
        """Open the slot's database, whose lock the caller holds; `close` releases it.

        Args:
            slot: a slot that was acquired.
            durability: "always": on disk when a put returns. "interval": synced once a second.
            max_queue_bytes: bound of the database file, dead letters included.
            byte_limit: the size of a batch, in bytes, for which the headroom has to suffice.
            create: make the database if there is none.

        Raises:
            StorageError: it cannot be opened. The lock was released.
        """
        self.slot = slot
        self.max_queue_bytes = max_queue_bytes
        self._durability = durability
        self._pid = os.getpid()
        self._headroom = Headroom(slot.ballast, WAL_SIZE_MAX + 2 * byte_limit + (256 << 10))
        self._create = create
        self.high = 0  # highest key given out; behind for an instant while a signal handler's put overtakes another
        self._wal_room = 0
        self._claimed: tuple[int, int] | None = None
        self._counts: dict[str, int] = {}
        self._wal_descriptor: int | None = None
        self._is_dirty = False
        self._sync_error: str | None = None
        self._notes: deque[tuple[int, str, dict[str, object]]] = deque()
        try:
            slot.make_file()
            self._connection = self._connect()
            self._group = GroupCommit(self._connection.lock, self)
            self._tables()
            self._recover()
            self._connection.call_when_open(self._opened)
            if durability == "interval":
                interval_sync.add(self)
        except BaseException:
            with contextlib.suppress(AttributeError):
                self._connection.close_for_good()
            slot.release()
            raise
        _open_queues[id(self)] = self

    @classmethod
    def take(cls, slot: Slot, **settings: Any) -> Self:
        """Acquire `slot` and open it.

        Raises:
            SlotBusyError: somebody else holds it.
        """
        if not slot.acquire():
            raise slot.busy_error()
        return cls(slot, **settings)

    # ── put ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, payload: bytes) -> None:
        """Store one event; see `Queue.put`."""
        if self._pid != os.getpid():
            raise ForkedError(str(self.slot.database))
        self._group.put(payload)

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store events, one commit per chunk of at most 256 events and 1 MiB; see `Queue.put_many`."""
        self._check_pid()
        stored = 0
        for chunk in _chunks(payloads):
            try:
                with self._connection.lock:
                    self.insert_all(chunk, [])
            except QueueFullError as exc:
                exc.stored = stored
                raise
            stored += len(chunk)

    def insert_one(self, payload: bytes) -> None:
        """For the group: store one payload. The lock is held."""
        if self._wal_room < 0 or not self._headroom.is_there:
            self._make_room()
        for _ in range(_KEY_TRIES):
            key = self.high + 1
            try:
                self._connection.insert_one(key, crc32(payload, key).to_bytes(4, "big") + payload)
            except KeyTakenError:
                self._reread_high()
            except QueueFullError as exc:
                self._explain_full(exc)
            else:
                self.high = key
                self._wal_room -= PAGE_SIZE + len(payload)
                self._is_dirty = True
                return
        raise StorageError(f"{self.slot.database}: no free key after {_KEY_TRIES} tries")

    def insert_all(self, payloads: Sequence[bytes], keys: list[int]) -> None:
        """For the group: store all payloads or none. The lock is held."""
        if self._wal_room < 0 or not self._headroom.is_there:
            self._make_room()
        for _ in range(_KEY_TRIES):
            first = self.high + 1
            keys.append(first)
            values: list[int | bytes] = []
            for key, payload in enumerate(payloads, first):
                values += (key, crc32(payload, key).to_bytes(4, "big") + payload)
            try:
                self._connection.insert_many(values)
            except KeyTakenError:
                self._reread_high()
            except QueueFullError as exc:
                self._explain_full(exc)
            else:
                self.high = first + len(payloads) - 1
                self._wal_room -= PAGE_SIZE * (2 + len(payloads) // 8) + sum(map(len, payloads))
                self._is_dirty = True
                return
        raise StorageError(f"{self.slot.database}: no free key after {_KEY_TRIES} tries")

    def holds(self, key: int, payload: bytes) -> bool:
        """For the group: whether `payload` is stored under `key`. The lock is held."""
        row = self._connection.select_one("SELECT value FROM events WHERE key = ?", (key,))
        return row is not None and row[0][_RECORD_OVERHEAD:] == payload

    def _make_room(self) -> None:
        """Keep the WAL and the disk within what the headroom can rescue, before anything more is accepted."""
        if self._sync_error is not None:
            error, self._sync_error = self._sync_error, None
            raise StorageError(f"{self.slot.database}: {error}")
        self._headroom.restore()
        if self._wal_room < 0:
            self._checkpoint()

    def _explain_full(self, exc: QueueFullError) -> None:
        if self._connection.is_at_limit:
            raise QueueFullError(f"{self.slot.database} has reached max_queue_bytes={self.max_queue_bytes}") from None
        raise QueueFullError(f"the disk is full: {exc}") from None

    # ── peek, and what follows ───────────────────────────────────────────────────────────────────────────────────

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        """Return the oldest pending rows with a key above `after`; see `Queue.peek`."""
        self._check_pid()
        rows: list[Row] = []
        damaged: list[int] = []
        with self._connection.lock:
            found = self._connection.select(
                "SELECT key, value FROM events WHERE key > ? ORDER BY key LIMIT ?",
                (after, count_max),
                size_max=size_max + _RECORD_OVERHEAD * count_max,
            )
            size = 0
            for key, value in found:
                payload = value[_RECORD_OVERHEAD:]
                if crc32(payload, key).to_bytes(4, "big") != value[:_RECORD_OVERHEAD]:
                    damaged.append(key)
                    continue
                size += len(payload)
                if rows and size > size_max:
                    break
                rows.append(Row(key, payload))
            if damaged:
                self._set_aside(damaged)
            if rows:
                low = self._claimed[0] if self._claimed else rows[0].key
                high = max(self._claimed[1], rows[-1].key) if self._claimed else rows[-1].key
                self._claimed = (low, high)
        self._log()
        if damaged and not rows:
            return self.peek(max(after, damaged[-1]), count_max, size_max)
        return rows

    def release(self) -> None:
        """Take note that no row is in flight; see `Queue.release`."""
        self._claimed = None

    def ack(self, keys: Sequence[int]) -> None:
        """Remove delivered rows; see `Queue.ack`."""
        self._remove(keys, "delivered")

    def expire(self, keys: Sequence[int]) -> None:
        """Remove rows that outlived `max_age`; see `Queue.expire`."""
        self._remove(keys, "expired")

    def evict(self, size: int) -> int:
        """Remove the oldest rows that are not in flight, at least `size` bytes of them. Return how many."""
        self._check_pid()
        with self._connection.lock:
            low, high = self._claimed or (0, -1)
            found = self._connection.select(
                "SELECT key, length(value) FROM events WHERE key NOT BETWEEN ? AND ? ORDER BY key LIMIT 1000",
                (low, high),
            )
            keys = []
            for key, length in found:
                keys.append(key)
                size -= length + PAGE_SIZE // 16
                if size <= 0:
                    break
            self._remove(keys, "evicted")
        return len(keys)

    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
        """Move refused rows to the dead letters; see `Queue.reject`."""
        self._check_pid()
        for key in keys:
            with self._connection.lock:
                row = self._connection.select_one("SELECT value FROM events WHERE key = ?", (key,))
                if row is not None:
                    self._bury(key, key, row[0], status, reason)
        self._trim_dead_letters()
        self._log()

    def _set_aside(self, keys: Sequence[int]) -> None:
        for key in keys:
            row = self._connection.select_one("SELECT value FROM events WHERE key = ?", (key,))
            if row is not None:
                self._bury(key, -key, row[0], None, "the row failed its checksum: its bytes were altered on disk")
        self._note(logging.ERROR, "queue.rows_damaged", keys=list(keys))

    def _bury(self, key: int, grave: int, record: bytes, status: int | None, reason: str) -> None:
        """Move one row from `events` to `dead_letters`, in one transaction."""
        note = json.dumps({"status": status, "reason": reason, "time_ms": time.time_ns() // 1_000_000}).encode()
        value = len(note).to_bytes(4, "big") + note + record[_RECORD_OVERHEAD:]
        count = "damaged" if grave < 0 else "dead"
        # A damaged row's key may be wrong: it must not go on record as the highest.
        high = f"UPDATE meta SET value = max(value, {self.high}) WHERE key = 'high';" if grave < 0 else _RECORD_HIGH
        self._run(
            f"{high}"
            f"INSERT OR REPLACE INTO dead_letters (key, value) VALUES ({grave}, x'{value.hex()}');"
            f"UPDATE meta SET value = value + {len(value)} WHERE key = 'dead_size';"
            f"DELETE FROM events WHERE key = {key};"
            f"UPDATE meta SET value = value + changes() WHERE key = '{count}'",
            len(value),
        )

    def _trim_dead_letters(self) -> None:
        with self._connection.lock:
            while self._counts["dead"] > DEAD_LETTERS_MAX or (
                self._counts["dead_size"] > DEAD_LETTERS_SIZE_MAX and self._counts["dead"] > 1
            ):
                excess = max(self._counts["dead"] - DEAD_LETTERS_MAX, 1)
                oldest = self._connection.select(
                    "SELECT key, length(value) FROM dead_letters WHERE key > 0 ORDER BY key LIMIT ?",
                    (min(excess, 100),),
                )
                if not oldest:
                    return
                self._run(
                    f"DELETE FROM dead_letters WHERE key BETWEEN 1 AND {oldest[-1][0]};"
                    "UPDATE meta SET value = value + changes() WHERE key = 'discarded';"
                    f"UPDATE meta SET value = value - {len(oldest)} WHERE key = 'dead';"
                    f"UPDATE meta SET value = value - {sum(length for _, length in oldest)} WHERE key = 'dead_size'"
                )
                self._note(logging.WARNING, "queue.dead_letters_discarded", count=len(oldest), bound=DEAD_LETTERS_MAX)

    def _remove(self, keys: Iterable[int], count: str) -> None:
        self._check_pid()
        for part in _parts(sorted(keys)):
            deletes = "".join(
                f"DELETE FROM events WHERE key BETWEEN {first} AND {last};"
                f"UPDATE meta SET value = value + changes() WHERE key = '{count}';"
                for first, last in part
            )
            expected = sum(last - first + 1 for first, last in part)
            with self._connection.lock:
                before = self._counts[count]
                self._run(_RECORD_HIGH + deletes, expected * 512)
                missing = expected - (self._counts[count] - before)
            if missing:
                self._note(logging.ERROR, "queue.rows_missing", count=missing, counted_as=count)
        self._log()

    def _run(self, statements: str, size: int = 0) -> None:
        """Run a transaction that changes counts, with the headroom if the disk is full."""
        with self._connection.lock:
            if self._wal_room < 0 and self._headroom.is_there:
                with contextlib.suppress(QueueFullError):  # the transaction itself will say so
                    self._checkpoint()
            try:
                self._without_quota(statements)
            except QueueFullError:
                if not self._headroom.give_up():
                    raise
                self._note(logging.WARNING, "queue.disk_full")
                self._connection.checkpoint("TRUNCATE")
                self._without_quota(statements)
            self._wal_room -= 4 * PAGE_SIZE + size
            self._is_dirty = True
            if not self._headroom.is_there:
                self._regain_headroom()
            self._read_counts()

    def _without_quota(self, statements: str) -> None:
        """Run a transaction beyond the quota: setting a row aside takes a page before it gives one back."""
        self._connection.limit_size(self.max_queue_bytes + (16 << 20))
        try:
            self._connection.script(statements)
        finally:
            with contextlib.suppress(QueueError):
                self._connection.limit_size(self.max_queue_bytes)

    def _regain_headroom(self) -> None:
        """On a full disk, give back what the last transaction freed, and try to restore the ballast."""
        with contextlib.suppress(QueueFullError):
            self._connection.vacuum(_VACUUM_PAGES)
            self._connection.checkpoint("TRUNCATE")
            self._wal_room = WAL_SIZE_MAX
            self._headroom.restore()

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────

    def ledger(self) -> Ledger:
        """Return the counts; see `Queue.ledger`."""
        with self._connection.lock:
            counts = {name: self._counts[name] for name in _COUNTS}
            accepted = self.high - self._counts["requeued"]
            return Ledger(accepted=accepted, pending=accepted - sum(counts.values()), **counts)

    def pending(self) -> int:
        """Return the number of pending events, in O(1)."""
        return self.ledger().pending

    def oldest_key(self) -> int | None:
        """Return the lowest pending key; see `Queue.oldest_key`."""
        self._check_pid()
        row = self._connection.select_one("SELECT min(key) FROM events")
        return None if row is None else row[0]

    def high_key(self) -> int:
        """Return the highest key ever given out; see `Queue.high_key`."""
        return self.high

    def oldest(self) -> Row | None:
        """Return the oldest pending row, in O(1), without claiming it."""
        self._check_pid()
        row = self._connection.select_one("SELECT key, value FROM events ORDER BY key LIMIT 1")
        return None if row is None else Row(row[0], row[1][_RECORD_OVERHEAD:])

    def is_held_by_this_thread(self) -> bool:
        """Return whether this thread is inside the queue already, as in a signal handler that interrupted a put."""
        return bool(self._connection.lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 (as threading.Condition does)

    def used_bytes(self) -> int:
        """Return the bytes of the database's pages that hold data, in O(1)."""
        self._check_pid()
        return self._connection.used_pages() * PAGE_SIZE

    def is_full(self) -> bool:
        """Return whether the next put is likely to find the quota or the disk full."""
        self._check_pid()
        return not self._headroom.is_there or self._connection.is_at_limit

    @property
    def origin(self) -> dict[str, str]:
        """What `set_origin` recorded, {} if nothing."""
        value = self.meta.get("origin")
        return {} if value is None else dict(json.loads(value))

    def set_origin(self, origin: dict[str, str]) -> None:
        """Record where the events are to go, so that a later drain needs no configuration. Never a secret."""
        self._check_pid()
        if self.origin != origin:
            self.meta["origin"] = origin

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """Return dead letters with a key above `after`, oldest first. `after` below 0 includes damaged rows."""
        self._check_pid()
        rows = self._connection.select(
            "SELECT key, value FROM dead_letters WHERE key > ? ORDER BY key LIMIT ?", (after, limit)
        )
        return [_dead_letter(key, value) for key, value in rows]

    def requeue(self, keys: Sequence[int]) -> int:
        """Move dead letters back to the end of the queue, under new keys. Return how many."""
        self._check_pid()
        moved = 0
        for old in keys:
            with self._connection.lock:
                row = self._connection.select_one("SELECT value FROM dead_letters WHERE key = ?", (old,))
                if row is None or old < 0:
                    continue
                payload = _dead_letter(old, row[0]).payload
                self._reread_high()
                key = self.high + 1
                record = crc32(payload, key).to_bytes(4, "big") + payload
                self._run(
                    f"INSERT INTO events (key, value) VALUES ({key}, x'{record.hex()}');"
                    f"DELETE FROM dead_letters WHERE key = {old};"
                    "UPDATE meta SET value = value - changes() WHERE key = 'dead';"
                    f"UPDATE meta SET value = value - {len(row[0])} WHERE key = 'dead_size';"
                    f"UPDATE meta SET value = value + 1 WHERE key = 'requeued';{_RECORD_HIGH}",
                    len(record),
                )
                self.high = key
                moved += 1
        return moved

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────

    def shrink(self, pages_max: int = 1 << 62) -> bool:
        """Give free pages back to the file system, a step at a time so that puts pass in between.

        Args:
            pages_max: stop after about this many pages.

        Returns:
            Whether nothing is left to give back.
        """
        self._check_pid()
        while pages_max > 0:
            with self._connection.lock:
                free = int(self._connection.pragma("freelist_count"))
                if free <= _FREE_PAGES_KEPT:
                    return True
                self._connection.vacuum(min(_VACUUM_PAGES, free))
                self._wal_room -= _VACUUM_PAGES // 16 * PAGE_SIZE
                if self._wal_room < 0 or free <= _VACUUM_PAGES + _FREE_PAGES_KEPT:
                    self._checkpoint("TRUNCATE")
            pages_max -= _VACUUM_PAGES
        return False

    def sync(self) -> None:
        """For the interval sync: put on disk what was written. An error is kept for the next put."""
        if not self._is_dirty or self._wal_descriptor is None:
            return
        self._is_dirty = False
        try:
            os.fdatasync(self._wal_descriptor)
        except OSError as exc:
            with contextlib.suppress(QueueError):
                self._connection.drop()  # the next call opens anew, and writes everything again
            self._sync_error = f"the sync of the WAL failed: {exc.strerror}"
            self._wal_room = -1
            logger.error("queue.sync_failed", extra={"slot": str(self.slot.database), "error": exc.strerror})

    def close(self) -> None:
        """Checkpoint, close and release the slot. May be called twice; closes nothing of another process."""
        _open_queues.pop(id(self), None)
        interval_sync.discard(self)
        if self._pid == os.getpid():
            self.sync()
            self._connection.close_for_good()
        self.forget()

    def forget(self) -> None:
        """In a forked child: close the descriptors that it inherited, and touch nothing else."""
        self._close_wal()
        self.slot.release()

    def _connect(self) -> Connection:
        def connect() -> Connection:
            return Connection(
                self.slot.database,
                sync_every_commit=self._durability == "always",
                size_max=self.max_queue_bytes,
                create=self._create,
            )

        try:
            return connect()
        except QueueFullError:
            if not self._headroom.give_up():
                raise
            return connect()

    def _tables(self) -> None:
        self.events = Table(self._connection, "events", is_readonly=True)
        self.dead_letter_table = Table(self._connection, "dead_letters", is_readonly=True)
        self.meta = Table(self._connection, "meta")

    def _recover(self) -> None:
        """Read the counts and the highest key, in O(1)."""
        if self._connection.select_one("SELECT 1 FROM meta WHERE key = 'high'") is None:
            rows = ", ".join(f"('{name}', 0)" for name in _INTEGERS)
            self._connection.script(f"INSERT OR IGNORE INTO meta (key, value) VALUES {rows}")
        self._read_counts()
        while (row := self._last_row()) is not None and not (row[0] < _KEY_MAX and _is_intact(*row)):
            # A flipped bit in the highest key would make every later key wrong. The keys above the recorded high
            # have no gaps, so their number tells what the highest was.
            (above,) = self._connection.select_one(
                "SELECT count(*) FROM events WHERE key > (SELECT value FROM meta WHERE key = 'high')"
            ) or (0,)
            self.high = max(self.high, self._counts["high"] + above)
            self._set_aside([row[0]])
        self._reread_high()
        # Room in the WAL is unknown to a new connection, and it was just emptied.
        self._wal_room = WAL_SIZE_MAX
        with contextlib.suppress(QueueFullError):
            self._headroom.restore()

    def _last_row(self) -> tuple[int, bytes] | None:
        return self._connection.select_one("SELECT key, value FROM events ORDER BY key DESC LIMIT 1")

    def _reread_high(self) -> None:
        row = self._connection.select_one(
            "SELECT max(coalesce((SELECT max(key) FROM events), 0), (SELECT value FROM meta WHERE key = 'high'))"
        )
        assert row is not None  # noqa: S101 (an aggregate always gives a row)
        self.high = row[0]

    def _read_counts(self) -> None:
        rows = dict(self._connection.select("SELECT key, value FROM meta WHERE key != 'origin'"))
        try:
            self._counts = {name: int(rows[name.encode()]) for name in _INTEGERS}
        except (KeyError, ValueError, TypeError):
            raise DamagedQueueError(f"{self.slot.database}: the counts are unreadable") from None

    def _opened(self) -> None:
        """Follow the connection, which was just opened, perhaps not for the first time."""
        self._reread_high()
        self._close_wal()
        # SQLite syncs the directory with the first sync of a new WAL, which at NORMAL may be late.
        sync_directory(self.slot.directory)
        if self._durability == "interval":
            self._wal_descriptor = os.open(self.slot.wal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _close_wal(self) -> None:
        descriptor, self._wal_descriptor = self._wal_descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _checkpoint(self, mode: str = "PASSIVE") -> None:
        self._connection.checkpoint(mode)
        self._wal_room = WAL_SIZE_MAX

    def _note(self, level: int, event: str, **extra: object) -> None:
        """Keep a line for the log until no lock is held: a log handler may itself track events."""
        self._notes.append((level, event, {"slot": str(self.slot.database), **extra}))

    def _log(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                level, event, extra = self._notes.popleft()
                logger.log(level, event, extra=extra)

    def _check_pid(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError(str(self.slot.database))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SqliteQueue {self.slot.database}>"


def open_free_slot(directory: Path, **settings: Any) -> SqliteQueue:
    """Open the lowest slot of a directory that is free and usable, making one if need be.

    A slot of a newer format is left alone, and the next one taken.

    Raises:
        SlotBusyError: all are taken.
        StorageError: the directory, or the slot, cannot be used.
    """
    for index in range(SLOTS_MAX):
        slot = Slot(directory, index)
        if not slot.acquire():
            continue
        try:
            return SqliteQueue(slot, **settings)
        except SlotBusyError:
            continue
        except UnknownFormatError as exc:
            logger.warning("queue.slot_of_newer_format", extra={"slot": str(slot.database), "error": str(exc)})
    raise SlotBusyError(f"all {SLOTS_MAX} slots of {directory} are in use")


def _chunks(payloads: Sequence[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for payload in payloads:
        if chunk and (len(chunk) == MULTI_ROW_MAX or size + len(payload) > GROUP_SIZE_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(payload)
        size += len(payload)
    if chunk:
        yield chunk


def _parts(keys: Sequence[int], ranges_max: int = 100) -> Iterator[list[tuple[int, int]]]:
    """Split sorted keys into runs without gaps, so that nothing but the keys is named, and those into parts."""
    ranges: list[tuple[int, int]] = []
    for key in keys:
        if ranges and ranges[-1][1] == key - 1:
            ranges[-1] = (ranges[-1][0], key)
        else:
            ranges.append((key, key))
    for start in range(0, len(ranges), ranges_max):
        yield ranges[start : start + ranges_max]


def _is_intact(key: int, record: bytes) -> bool:
    return crc32(record[_RECORD_OVERHEAD:], key).to_bytes(4, "big") == record[:_RECORD_OVERHEAD]


def _dead_letter(key: int, value: bytes) -> DeadLetter:
    size = int.from_bytes(value[:4], "big")
    note = json.loads(value[4 : 4 + size])
    return DeadLetter(key, note["status"], note["reason"], note["time_ms"], value[4 + size :])


# A fork must not find SQLite's own mutexes locked, so our locks are held across it. The child forgets what it
# inherited:
# it neither uses nor closes the parent's connections, and never releases the parent's locks.
_open_queues: dict[int, SqliteQueue] = {}
_held: dict[int, list[list[SqliteQueue]]] = {}  # by thread, and within it a stack: threads and handlers fork, too


def _before_fork() -> None:
    held: list[SqliteQueue] = []
    _held.setdefault(_thread.get_ident(), []).append(held)
    for queue in list(_open_queues.values()):
        if queue._pid == os.getpid():  # noqa: SLF001 (after a fork that skipped this hook, nobody frees the others)
            queue._connection.lock.acquire()  # noqa: SLF001
            held.append(queue)


def _after_fork_in_parent() -> None:
    for queue in _held[_thread.get_ident()].pop():
        queue._connection.lock.release()  # noqa: SLF001


def _after_fork_in_child() -> None:
    _held.clear()
    for queue in list(_open_queues.values()):
        queue.forget()
    _open_queues.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
