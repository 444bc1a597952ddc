"""The queue on disk: one slot, one owner, one SQLite file.

    track() ─► put ─► events ──ack──► (gone, or marked to go; `delivered` + 1)
                        │ └──reject──► dead_letters ──requeue──► events
                        │                 └──purge_dead_letters──► (gone, counted)
                        └──expire, evict, purge──► (gone, counted)

A put writes its row and nothing else; how many were accepted follows from the keys, which rise without gaps. Whatever
removes rows changes the counts in the same transaction, by SQLite's own count of the rows that went.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar
from zlib import crc32

from durable_tracker.engines.engine import BYTE_LIMIT, MAX_QUEUE_BYTES, Durability
from durable_tracker.engines.queue import DeadLetter, ForkedError, Ledger, Row
from durable_tracker.engines.sqlite import dead_letters, forks, sweep
from durable_tracker.engines.sqlite.books import RECORD_HIGH
from durable_tracker.engines.sqlite.connection import MULTI_ROW_MAX, Connection, KeyTakenError
from durable_tracker.engines.sqlite.group_commit import GROUP_SIZE_MAX, GroupCommit
from durable_tracker.engines.sqlite.raw import PAGE_SIZE
from durable_tracker.engines.sqlite.row_codec import (
    OVERHEAD,
    PLAIN,
    dead_letter_of,
    event_of,
    intact,
    is_intact,
    json_object,
    record,
)
from durable_tracker.engines.sqlite.slot_file import SlotFile
from durable_tracker.errors import (
    DamagedQueueError,
    QueueError,
    QueueFullError,
    StorageError,
)
from durable_tracker.log import logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from durable_tracker.engines.sqlite.slots import Slot
    from durable_tracker.engines.sqlite.tables import Table

_KEY_TRIES: Final = 100
_UNUSABLE_MAX: Final = 3  # slots that cannot be used: then it is the disk
_EVICTED_AT_ONCE: Final = 1000
_PURGED_AT_ONCE: Final = 500  # in one transaction, which the WAL and the headroom have to hold
_ROW_SIZE_MIN: Final = 256  # what a small row frees, roughly, when it is evicted

P = ParamSpec("P")
R = TypeVar("R")


def _mending(method: Callable[Concatenate[SqliteQueue, P], R]) -> Callable[Concatenate[SqliteQueue, P], R]:
    """Refuse a forked child; mend the file if the method finds it damaged, and call again; log outside locks."""

    @functools.wraps(method)
    def wrapper(queue: SqliteQueue, /, *args: P.args, **kwargs: P.kwargs) -> R:
        queue.check_pid()
        mended = queue._file.mends  # noqa: SLF001 (a method in all but place)
        try:
            queue._file.look_after_lock()  # noqa: SLF001
            return method(queue, *args, **kwargs)
        except DamagedQueueError as exc:
            queue._file.mend(mended, exc)  # noqa: SLF001
            return method(queue, *args, **kwargs)
        finally:
            queue._file.log()  # noqa: SLF001

    return wrapper


class SqliteQueue:
    """A `Queue` in one slot.

    Thread-safe, and `put` and `put_many` may be called from signal handlers; see `durable_tracker.engines.queue.Queue`.
    A process that inherited it by a fork gets `ForkedError` from every method but `close`. A file that SQLite cannot
    read is set aside, its intact rows are taken over into a new one, and the call goes on.

    Attributes:
        slot: where it is.
        max_queue_bytes: bound of the database file, in bytes.
    """

    def __init__(
        self,
        slot: Slot,
        *,
        durability: Durability = "always",
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        byte_limit: int = BYTE_LIMIT,
    ) -> None:
        """Open the slot's database, whose lock the caller holds; `close` releases it.

        Args:
            slot: a slot that was acquired.
            durability: "always": on disk when a put returns. "interval": synced once a second.
            max_queue_bytes: bound of the database file, dead letters included.
            byte_limit: the size of a batch, in bytes, for which the headroom has to suffice.

        Raises:
            StorageError: it cannot be opened. The lock was released.
        """
        self.slot = slot
        self.max_queue_bytes = max_queue_bytes
        self._pid = os.getpid()
        self._on_wire: set[int] = set()
        self._locked: set[int] = set()  # rows that only a newer release can read, of those that were seen
        self._doubt = 0  # the highest key that may be gone, though it was read
        file = SlotFile(slot, durability=durability, max_queue_bytes=max_queue_bytes, byte_limit=byte_limit)
        try:
            self._file = file
            self._books = file.books
            self._group = GroupCommit(file.books.lock, self)
            forks.add(self)
        except BaseException:  # out of a signal handler
            file.close()
            raise

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
        if self._pid != os.getpid():  # the gate, without a call: this is the way of every event
            raise ForkedError(self.name)
        try:
            self._group.put(payload)
        except DamagedQueueError:
            self._put_mended(payload)

    @_mending
    def _put_mended(self, payload: bytes) -> None:
        self._group.put(payload)

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store events, one commit per chunk of at most 256 events and 1 MiB; see `Queue.put_many`."""
        stored = 0
        for chunk in _chunks(payloads):
            try:
                self._put_chunk(chunk)
            except QueueError as exc:
                exc.stored = stored
                raise
            stored += len(chunk)

    @_mending  # each by itself: those before it are stored already
    def _put_chunk(self, chunk: Sequence[bytes]) -> None:
        with self._books.lock:
            self.insert_all(chunk, [])

    def insert_one(self, payload: bytes) -> None:
        """For the group: store one payload. The lock is held."""
        books = self._books
        if books.wal_room < 0 or not books.headroom.is_there:
            books.make_room()
        for _ in range(_KEY_TRIES):
            key = books.high + 1
            try:
                body = PLAIN + payload  # by hand what `record` does, which is a call
                books.connection.insert_one(key, crc32(body, key).to_bytes(4, "big") + body)
            except KeyTakenError:
                books.reread_high()
            except QueueFullError as exc:
                if sweep.make_room(books):
                    continue
                full = books.explain_full(exc, len(payload))
                break
            else:
                books.high = max(books.high, key)  # a signal handler's put may have come in between
                books.wal_room -= PAGE_SIZE + len(payload)
                books.is_dirty = True
                return
        else:
            books.check_soundness(f"no free key after {_KEY_TRIES} tries")
            raise StorageError(f"{self.slot.database}: no free key after {_KEY_TRIES} tries")
        raise full

    def insert_all(self, payloads: Sequence[bytes], keys: list[int]) -> None:
        """For the group: store all payloads or none. The lock is held."""
        books = self._books
        if books.wal_room < 0 or not books.headroom.is_there:
            books.make_room()
        for _ in range(_KEY_TRIES):
            first = books.high + 1
            keys.append(first)
            values: list[int | bytes] = []
            for key, payload in enumerate(payloads, first):
                values += (key, record(key, payload))
            try:
                books.connection.insert_many(values)
            except KeyTakenError:
                books.reread_high()
            except QueueFullError as exc:
                if sweep.make_room(books):
                    continue
                full = books.explain_full(exc, sum(map(len, payloads)))
                break
            else:
                books.high = max(books.high, first + len(payloads) - 1)
                books.wal_room -= PAGE_SIZE * (2 + len(payloads) // 8) + sum(map(len, payloads))
                books.is_dirty = True
                return
        else:
            books.check_soundness(f"no free key after {_KEY_TRIES} tries")
            raise StorageError(f"{self.slot.database}: no free key after {_KEY_TRIES} tries")
        raise full

    def holds(self, key: int, payload: bytes) -> bool:
        """For the group: whether `payload` is stored under `key`. The lock is held."""
        row = self._connection.select_one("SELECT value FROM events WHERE key = ?", (key,))
        return row is not None and row[0] == record(key, payload)

    # ── peek, and what follows ───────────────────────────────────────────────────────────────────────────────────

    @_mending
    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        """Return the oldest pending rows with a key above `after`; see `Queue.peek`."""
        self._file.note_time()
        while True:
            self._take_over()
            found, has_gap = self._claim(after, count_max, size_max)
            if found:
                self._file.check_hidden(has_gap=has_gap)
            # Outside the lock, since it takes as long as the reading: puts pass in between.
            rows = intact(found)
            if len(rows) < len(found):
                self._pass_by(found)
            if rows:
                return rows
            if not found:
                if self._file.is_taking_over:
                    self._take_over(raises=True)
                    continue
                self._file.check_emptiness()
                with self._books.lock:
                    sweep.sweep(self._books)
                return rows
            after = self._books.following(after, found)

    def _pass_by(self, found: Sequence[tuple[int, object]]) -> None:
        """Set altered rows aside, and leave where they are those that only a newer release can read."""
        altered = [key for key, value in found if not is_intact(key, value)]
        with self._books.lock:
            if altered:
                dead_letters.set_aside(self._books, altered)
            self._locked.update(key for key, value in found if is_intact(key, value) and not event_of(key, value))

    def _take_over(self, *, raises: bool = False) -> None:
        """Let some rows come in from a file that was set aside.

        Raises:
            QueueFullError: there is no room for them, and `raises`.
        """
        try:
            self._file.taking_over.some()
        except QueueFullError:
            if raises:  # else there may be room once something was delivered
                raise

    @_mending
    def take_over_all(self) -> None:
        """Let all rows come in from files that were set aside.

        Raises:
            QueueFullError: there is no room for them.
        """
        while self._file.is_taking_over:
            self._file.taking_over.some()

    def _claim(self, after: int, count_max: int, size_max: int) -> tuple[list[tuple[int, object]], bool]:
        """Read rows. Return them, and whether keys are missing between them."""
        has_gap = False
        with self._books.lock:
            after = max(after, self._books.acked)
            found = self._connection.select(
                "SELECT key, value FROM events WHERE key > ? ORDER BY key LIMIT ?",
                (after, count_max),
                size_max=size_max,
                overhead=OVERHEAD,
            )
            if found:
                first, last = found[0][0], found[-1][0]
                has_gap = last - (after or first - 1) != len(found)
        return found, has_gap

    @_mending
    def hold(self, keys: Sequence[int]) -> Sequence[int]:
        """Take note that rows go out now; see `Queue.hold`."""
        with self._books.lock:
            acked = self._books.acked
            if keys and keys[0] <= max(self._doubt, acked):
                bounds = (max(keys[0], acked + 1), keys[-1])
                found = self._connection.select("SELECT key FROM events WHERE key BETWEEN ? AND ?", bounds)
                there = {key for (key,) in found}
                keys = [key for key in keys if key in there]
            self._on_wire.update(keys)
        return keys

    def settle(self, keys: Sequence[int] | None = None) -> None:
        """Take note that rows are not on the wire any more; see `Queue.settle`. In a child too it touches no file."""
        if keys is None:
            self._on_wire.clear()
        else:
            self._on_wire.difference_update(keys)

    def release(self, after: int, keep: Collection[int] = ()) -> None:
        """Do nothing: a slot has one consumer; see `Queue.release`."""

    @_mending
    def ack(self, keys: Sequence[int]) -> None:
        """Remove delivered rows; see `Queue.ack`."""
        self._remove(keys, "delivered")
        with self._books.lock:
            sweep.sweep_beyond(self._books, len(keys))
        self._books.checkpoint_soon()

    @_mending
    def older(self, rows: Sequence[Row], age_s: float) -> list[Row]:
        """Return the rows that are older; see `Queue.older`."""
        last = self._file.older_than(age_s)
        return [row for row in rows if row.key <= last]

    @_mending
    def expire(self, keys: Sequence[int]) -> None:
        """Remove rows that outlived `max_age`; see `Queue.expire`."""
        self._remove(keys, "expired")

    @_mending
    def evict(self, size: int) -> int:
        """Remove the oldest rows that are not in flight, at least `size` bytes of them. Return how many."""
        with self._books.lock:
            after, keys = self._books.acked, list[int]()
            while size > 0:
                found = self._connection.select(
                    "SELECT key, coalesce(length(value), 0) FROM events WHERE key > ? ORDER BY key LIMIT ?",
                    (after, _EVICTED_AT_ONCE),
                )
                for key, length in found:
                    after = key
                    if key in self._on_wire:
                        continue
                    keys.append(key)
                    size -= max(length, _ROW_SIZE_MIN)
                    if size <= 0:
                        break
                else:
                    if len(found) < _EVICTED_AT_ONCE or len(keys) >= _EVICTED_AT_ONCE:
                        break
            self._remove(keys, "evicted")
            self._doubt = max([self._doubt, *keys])
        return len(keys)

    def _remove(self, keys: Iterable[int], count: str) -> None:
        rising = sorted(set(keys))
        try:
            self._remove_parts(rising, count)
        except BaseException:
            self._doubt = max([self._doubt, *rising])
            raise

    def _remove_parts(self, rising: Sequence[int], count: str) -> None:
        books = self._books
        for part in _parts(rising):
            expected = sum(last - first + 1 for first, last in part)
            with books.lock:
                gone = books.acked
                before = books.counts[count]
                if count != "delivered" or len(part) > 1 or not sweep.mark(books, *part[0]):
                    deletes = ";".join(
                        f"DELETE FROM events WHERE key BETWEEN {max(first, gone + 1)} AND {last};"
                        f"UPDATE meta SET value = value + changes() WHERE key = '{count}'"
                        for first, last in part
                    )
                    books.transaction(f"{RECORD_HIGH};{deletes}", expected * 512)
                missing = expected - (books.counts[count] - before)
            if missing:
                # They were seen. That they cannot be found is how a damaged page shows: they would be sent for ever.
                books.check_soundness(f"{missing} rows that were read cannot be found")
                books.note(logging.ERROR, "queue.rows_missing", count=missing, counted_as=count)

    @_mending
    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
        """Move refused rows to the dead letters; see `Queue.reject`."""
        for key in keys:
            with self._books.lock:
                dead_letters.bury(self._books, key, status, reason)

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────

    lease_s = None
    poll_s = None

    @property
    def name(self) -> str:
        """The database's path."""
        return str(self.slot.database)

    @property
    def path(self) -> Path:
        """The database."""
        return self.slot.database

    @property
    def puts(self) -> int:
        """How many events were put, counted from anywhere: the highest key that was given out."""
        return self._books.high

    def mark(self) -> int:
        """Return the highest key that was given out; see `Queue.mark`."""
        self.check_pid()
        return self._books.high

    def is_past(self, mark: int) -> bool:
        """Return whether no key up to `mark` is pending; see `Queue.is_past`."""
        oldest = self.oldest_key()
        return oldest is None or oldest > mark

    def is_empty(self) -> bool:
        """Return whether nothing is pending; see `Queue.is_empty`."""
        return self.oldest_key() is None

    @_mending
    def oldest_key(self) -> int | None:
        """Return the lowest pending key, None if there is none.

        0 if nothing can be read now, and events are still to come in from a damaged file.
        """
        row = self._connection.select_one("SELECT min(key) FROM events WHERE key > ?", (self._books.acked,))
        if row is None or row[0] is None:
            if self._file.is_taking_over:
                return 0
            self._file.check_emptiness()
            return None
        return int(row[0])

    @_mending
    def oldest(self) -> Row | None:
        """Return the oldest pending row, in O(1), without claiming it."""
        row = self._connection.select_one(
            "SELECT key, value FROM events WHERE key > ? ORDER BY key LIMIT 1", (self._books.acked,)
        )
        event = None if row is None else event_of(*row)
        return None if row is None or event is None else Row(row[0], event.payload)

    def ledger(self) -> Ledger:
        """Return the counts; see `Queue.ledger`."""
        self.check_pid()
        ledger = self._books.ledger()
        # some of those that were seen may have been evicted since
        return replace(ledger, locked=min(len(self._locked), ledger.pending)) if self._locked else ledger

    def pending(self) -> int:
        """Return the number of pending events, in O(1)."""
        self.check_pid()
        return self._books.ledger().pending

    def used_bytes(self) -> int:
        """Return the bytes of the database's pages that hold data, in O(1)."""
        self.check_pid()
        return self._connection.used_pages() * PAGE_SIZE

    def could_hold(self, size: int) -> bool:
        """Return whether an event of `size` bytes would fit if there was no other."""
        self.check_pid()
        return self._books.could_hold(size)

    def is_held_by_this_thread(self) -> bool:
        """Return whether this thread is inside the queue already, as in a signal handler that interrupted a put."""
        return bool(self._books.lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 (as threading.Condition)

    @property
    def origin(self) -> dict[str, str]:
        """What `set_origin` recorded, {} if nothing."""
        return self._record("origin")

    @property
    def settings(self) -> dict[str, Any]:
        """What `set_settings` recorded, {} if nothing."""
        return self._record("settings")

    def _record(self, name: str) -> dict[str, Any]:
        """Return a JSON object of `meta`. What was altered on disk is as if nothing was on record."""
        self.check_pid()
        value = self._books.meta.get(name)
        if value is None:
            return {}
        found = json_object(value)
        if found is not None:
            return found
        logger.warning("queue.record_ignored", extra={"slot": self.name, "record": name, "fate": "as if it had none"})
        return {}

    @_mending
    def remember(self, suspects: bytes) -> None:
        """Keep what delivery knows of refused events; see `Queue.remember`."""
        if suspects != (self.remembered() or b"[]"):
            self._books.set_meta("suspects", suspects)

    @_mending
    def remembered(self) -> bytes | None:
        """Return what was kept last; see `Queue.remembered`."""
        value = self._books.meta.get("suspects")
        return value if isinstance(value, bytes) else None

    @_mending
    def set_origin(self, origin: dict[str, str]) -> None:
        """Record where the events are to go, so that a later drain needs no configuration. Never a secret."""
        self._books.set_meta("origin", origin)

    @_mending
    def set_settings(self, settings: dict[str, Any]) -> None:
        """Record how the events are to be delivered; see `Queue.set_settings`."""
        self._books.set_meta("settings", settings)

    @_mending
    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """Return dead letters with a key above `after`, oldest first. `after` below 0 includes damaged rows."""
        rows = self._connection.select(
            "SELECT key, value FROM dead_letters WHERE key > ? ORDER BY key LIMIT ?", (after, limit)
        )
        if after <= 0 and len(rows) < limit and sum(key > 0 for key, _ in rows) != self._books.counts["dead"]:
            self._books.check_soundness(f"{len(rows)} dead letters are found, where the count differs")
        letters = []
        for key, value in rows:
            letter = dead_letter_of(key, value)
            if letter is not None:
                letters.append(letter)
            elif key > 0:
                with self._books.lock:
                    dead_letters.set_letter_aside(self._books, key)
        return letters

    @_mending
    def put_invalid(self, payload: bytes, reason: str) -> None:
        """Put an event that the tracker refused among the dead letters; see `Queue.put_invalid`."""
        with self._books.lock:
            self._books.make_room()
            dead_letters.add_invalid(self._books, payload, reason)

    @_mending
    def requeue(self, keys: Sequence[int], edited: Mapping[int, bytes] | None = None) -> int:
        """Move dead letters back to the end of the queue; see `Queue.requeue`."""
        moved = 0
        for key in keys:
            with self._books.lock:
                moved += dead_letters.requeue(self._books, key, (edited or {}).get(key))
        return moved

    def purge(self, keys: Sequence[int]) -> int:
        """Remove pending events that are not on the wire; see `Queue.purge`."""
        self.check_pid()
        return sum(self._purge(part) for part in _slices(keys))

    @_mending  # each transaction by itself: those before it are counted already
    def _purge(self, keys: Sequence[int]) -> int:
        books = self._books
        with books.lock:
            left = [key for key in keys if key not in self._on_wire]
            if not left:
                return 0
            before = books.ledger().purged
            # Whoever read them ahead has to look again before they go out.
            self._doubt = max([self._doubt, *left])
            books.transaction(
                f"{RECORD_HIGH};DELETE FROM events WHERE key > {books.acked} AND key IN ({', '.join(map(str, left))});"
                "UPDATE meta SET value = value + changes() WHERE key = 'purged'",
                len(left) * 512,
            )
            return books.ledger().purged - before

    def purge_dead_letters(self, keys: Sequence[int]) -> int:
        """Remove dead letters; see `Queue.purge_dead_letters`."""
        self.check_pid()
        return sum(self._purge_dead_letters(part) for part in _slices(keys))

    @_mending
    def _purge_dead_letters(self, keys: Sequence[int]) -> int:
        with self._books.lock:
            return dead_letters.purge(self._books, keys)

    def rows_above(self, table: str, after: int, count_max: int) -> list[tuple[int, Any]]:
        """Return the next rows of a table above a key, as they are on disk; of events only pending ones."""
        self.check_pid()
        with self._books.lock:
            after = max(after, self._books.acked) if table == "events" else after
            rows = self._connection.select(
                f"SELECT key, value FROM {table} WHERE key > ? ORDER BY key LIMIT ?",
                (after, count_max),
                size_max=GROUP_SIZE_MAX,
            )
            if rows:
                self._books.following(after, rows)
            return rows

    @property
    def events(self) -> Table:
        """The events as a SqliteDict, read-only: key to row (see `row_codec`)."""
        self.check_pid()
        return self._books.events

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────

    @_mending
    def shrink(self, pages_max: int = 1 << 62) -> bool:
        """Give free pages back to the file system, a step at a time so that puts pass in between.

        Args:
            pages_max: stop after about this many pages.

        Returns:
            Whether nothing is left to give back.
        """
        return self._file.shrink(pages_max)

    def close(self) -> None:
        """Checkpoint, close and release the slot. May be called twice; closes nothing of another process."""
        forks.discard(self)
        self._file.close()

    def leave(self) -> None:
        """Give the queue up, since its files were closed under this process; see `SlotFile.leave`."""
        forks.discard(self)
        self._file.leave()

    def forget(self) -> None:
        """In a forked child: close the descriptors that it inherited, and touch nothing else."""
        self._file.forget()

    def is_inherited(self) -> bool:
        """Return whether another process opened the queue, of which this one is a fork."""
        return self._pid != os.getpid()

    def check_pid(self) -> None:
        """Be the gate that every use passes.

        Raises:
            ForkedError: the queue is another process's.
        """
        if self._pid != os.getpid():
            raise ForkedError(self.name)

    @property
    def lock(self) -> threading.RLock:
        """What guards the connection."""
        return self._books.lock

    @property
    def _connection(self) -> Connection:
        return self._books.connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SqliteQueue {self.slot.database}>"


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


def _slices(keys: Iterable[int]) -> Iterator[list[int]]:
    """Split keys into as many as go in one transaction."""
    rising = sorted(set(keys))
    for start in range(0, len(rising), _PURGED_AT_ONCE):
        yield rising[start : start + _PURGED_AT_ONCE]


def _parts(keys: Sequence[int], ranges_max: int = 100) -> Iterator[list[tuple[int, int]]]:
    """Split rising keys into runs without gaps, so that nothing but the keys is named, and those into parts."""
    if keys and keys[-1] - keys[0] == len(keys) - 1:
        yield [(keys[0], keys[-1])]
        return
    ranges: list[tuple[int, int]] = []
    for key in keys:
        if ranges and ranges[-1][1] == key - 1:
            ranges[-1] = (ranges[-1][0], key)
        else:
            ranges.append((key, key))
    for start in range(0, len(ranges), ranges_max):
        yield ranges[start : start + ranges_max]
