"""A slot's file: how it is opened, kept within its bounds, mended, given back and closed.

    open:    refuse what is not ours ─► SQLite's recovery ─► rows beyond a damaged frame ─► counts and highest key
    damaged: set aside ─► a new file ─► every intact row of the old one
    bounds:  WAL ≤ about 1 MiB, database ≤ quota, and room on the disk for one more checkpoint

What is in the file is the business of `sqlite_queue`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

from durable_tracker.errors import DamagedQueueError, QueueError, QueueFullError, SlotBusyError, StorageError
from durable_tracker.log import logger
from durable_tracker.store import acked, dead_letters, interval_sync, preflight, salvage
from durable_tracker.store.clocks import NOTE_INTERVAL_S, Ages
from durable_tracker.store.connection import Connection
from durable_tracker.store.descriptors import Held
from durable_tracker.store.headroom import Headroom
from durable_tracker.store.queue import Ledger
from durable_tracker.store.raw import PAGE_SIZE
from durable_tracker.store.records import KEY_MAX, payload_of
from durable_tracker.store.slots import sync_directory, sync_path
from durable_tracker.store.tables import Table
from durable_tracker.store.take_over import TakingOver, insert_beyond

if TYPE_CHECKING:
    from durable_tracker.store.slots import Slot

Durability = Literal["always", "interval"]

WAL_SIZE_MAX: Final = 1 << 20
"""When the WAL has grown by this much it is checkpointed. Small: recovery costs 2 ms per MiB, and the headroom has to
hold one; and a file that is rewritten in place syncs twice as fast as one that grows."""

BYTE_LIMIT: Final = 150_000
"""Default size of a batch: collectors that buffer in SQS split a request above 192,000 bytes, and answer 200."""

MAX_QUEUE_BYTES: Final = 1 << 30
MAX_QUEUE_BYTES_MIN: Final = 128 << 10

_COUNTS: Final = ("delivered", "dead", "expired", "evicted", "damaged", "discarded")
_INTEGERS: Final = (*_COUNTS, "high", "requeued", "dead_size", *acked.NAMES)
_COUNTS_BY_NAME: Final = f"SELECT key, value FROM meta WHERE key IN {_INTEGERS} ORDER BY key"
_COUNTS_IN_ORDER: Final = _COUNTS_BY_NAME.replace(" WHERE", " NOT INDEXED WHERE")
_COUNT_ABOVE_HIGH: Final = "SELECT count(*) FROM events WHERE key > (SELECT value FROM meta WHERE key = 'high')"
_NEXT_GENERATION: Final = (
    "INSERT INTO meta (key, value) VALUES ('generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
)
_COUNT_SOME: Final = "SELECT count(*), max(key) FROM (SELECT key FROM events WHERE key > ? ORDER BY key LIMIT ?)"
_COUNTED_AT_ONCE: Final = 10_000
_LOCK_LOOK_S: Final = 60.0
_VACUUM_PAGES: Final = 256
_FREE_PAGES_KEPT: Final = 32
_WAL_ROOM_FOR_PUTS: Final = WAL_SIZE_MAX // 8
_EMPTY_SIZE: Final = 8 * PAGE_SIZE  # of a file without events, and a little more
_BEYOND_QUOTA: Final = 16 << 20
_MENDS_MAX: Final = 8
_GAP_CHECK_PAGES: Final = 4096  # 16 MiB, which SQLite checks in some 20 ms


def headroom_size(byte_limit: int = BYTE_LIMIT) -> int:
    """Return the bytes on disk that a slot keeps in reserve: for a checkpoint, and for an ack of two batches."""
    return WAL_SIZE_MAX + 2 * byte_limit + (256 << 10)


class SlotFile:
    """One slot's file, for its one owner. Thread-safe under `lock`, which is reentrant.

    Attributes:
        slot: the place, whose lock this object holds until `close`.
        connection: SQLite's.
        lock: guards everything here.
        high: the highest key that was given out. Behind for an instant while one put overtakes another on a thread.
        wal_room: bytes that the WAL may still grow before it has to be checkpointed.
        is_dirty: whether something was written since the last sync.
        headroom: the ballast.
        counts: the ledger's counts as they are on disk.
        high_at_mark: the highest key when the mark was moved last.
        grew: whether it had risen since the move before.
    """

    def __init__(self, slot: Slot, *, durability: Durability, max_queue_bytes: int, byte_limit: int) -> None:
        """Open, or make, the file; see `SqliteQueue`."""
        self.slot = slot
        self.max_queue_bytes = max_queue_bytes
        self.headroom = Headroom(slot.ballast, headroom_size(byte_limit))
        self.high = 0
        self.wal_room = 0
        self.is_dirty = False
        self.high_at_mark = 0
        self.grew = False
        self.counts: dict[str, int] = dict.fromkeys(_INTEGERS, 0)
        # Where nothing can sync once a second, every commit has to.
        self._durability: Durability = durability if durability == "always" or interval_sync.start() else "always"
        self._pid = os.getpid()
        self._wal_held: Held | None = None
        self.ages = Ages(None)
        self._time_was_noted_at = 0.0
        self._lock_was_seen_at = time.monotonic()
        self._sync_error: str | None = None
        self._mends = 0
        self._gap_was_checked = False
        self._was_counted = False
        self._are_counts_stale = False
        self._notes: deque[tuple[int, str, dict[str, object]]] = deque()
        self._beyond: preflight.Rows = []
        self.taking_over = TakingOver(self, [])
        try:
            self._open()
            if self._durability == "interval":
                interval_sync.add(self)
        except BaseException:
            with contextlib.suppress(AttributeError):
                self.connection.close_for_good()
            interval_sync.discard(self)
            self.forget()
            raise

    # ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        try:
            sync_path(self.slot.directory)
        except OSError as exc:
            raise StorageError(f"{self.slot.directory}: {exc.strerror}") from None
        salvage.finish_setting_aside(self.slot)  # before there is a database again
        self.slot.make_file()
        try:
            self._connect()
            self._begin()
        except DamagedQueueError as exc:
            self._set_aside(exc)
            self._begin()
        self.log()

    def _begin(self) -> None:
        """Read what is on record, and record what the next owner has to know."""
        self._begin_taking_over()
        self._record_durability()
        self.ages = Ages(self.meta.get("clocks"))
        self._record_time()

    def note_time(self) -> None:
        """Once a minute: note how high the keys are, which is how rows get an age."""
        if time.monotonic() >= self._time_was_noted_at + NOTE_INTERVAL_S:
            self._record_time()

    def _record_time(self) -> None:
        with self.lock, contextlib.suppress(QueueFullError):
            self._time_was_noted_at = time.monotonic()
            self.ages.note(self.high)
            self.set_meta("clocks", self.ages.record())

    def older_than(self, age_s: float) -> int:
        """Return the highest key whose row is known to be older than `age_s` seconds, 0 if none is.

        As it is asked for before each batch, moments are noted here too, in memory, so that an age is known to a tenth.
        """
        with self.lock:
            last = self.ages.older_than(age_s)
            self.ages.note(self.high, min(age_s / 10, NOTE_INTERVAL_S))
            return last

    def _record_durability(self) -> None:
        """Tell the next owner what the tail of the WAL is worth."""
        with contextlib.suppress(QueueFullError):
            self.set_meta("durability", self._durability)

    def _connect(self) -> None:
        try:
            connection = self._new_connection()
        except QueueFullError:
            if not self.headroom.give_up():
                raise
            connection = self._new_connection()
        self.connection = connection
        self.lock = connection.lock
        self.events = Table(connection, "events", is_readonly=True)
        self.meta = Table(connection, "meta")
        self._recover()
        connection.call_when_open(self._opened)

    def _new_connection(self) -> Connection:
        return Connection(
            self.slot.database,
            sync_every_commit=self._durability == "always",
            size_max=self.max_queue_bytes,
            inspect=self._inspect,
        )

    def _inspect(self) -> None:
        self._beyond = preflight.inspect(self.slot)

    def _recover(self) -> None:
        """Read the counts and the highest key, in O(1)."""
        if self.connection.select_one("SELECT 1 FROM meta WHERE key = 'high'") is None:
            rows = ", ".join(f"('{name}', 0)" for name in _INTEGERS)
            self.connection.script(f"INSERT OR IGNORE INTO meta (key, value) VALUES {rows}")
        elif self.connection.select_one(f"SELECT 1 FROM meta WHERE key IN {acked.NAMES}") is None:
            # Of a version that had no mark.
            rows = ", ".join(f"('{name}', 0)" for name in acked.NAMES)
            self.connection.script(f"INSERT OR IGNORE INTO meta (key, value) VALUES {rows}")
        self.read_counts()
        if self.connection.select(_COUNTS_BY_NAME) != self.connection.select(_COUNTS_IN_ORDER):
            raise DamagedQueueError(f"{self.slot.database}: the index of the counts is damaged")
        if not self._is_mark_whole():
            # What was delivered and not swept is pending again, which is better than to hide what is pending.
            self.transaction(acked.moved(0))
            self.recount()
            self.note(logging.ERROR, "queue.mark_altered", fate="some events may be delivered once more")
        self.high = max(self.high, self.acked)  # whatever has become of the record: no key below the mark is given out
        while (row := self._last_row()) is not None and (
            row[0] >= KEY_MAX or (row[0] > self.acked and payload_of(*row) is None)
        ):
            # A flipped bit in the highest key would make every later key wrong. The keys above the recorded high have
            # no gaps, so their number tells what the highest was.
            above = self.connection.select_one(_COUNT_ABOVE_HIGH) or (0,)
            self.high = max(self.high, self.counts["high"] + above[0])
            dead_letters.set_aside(self, [row[0]])
            if self._last_row() == row:
                raise DamagedQueueError(f"{self.slot.database}: row {row[0]} is found at the end, but not by its key")
        self.reread_high()
        self.high_at_mark = self.high
        self.wal_room = WAL_SIZE_MAX
        with contextlib.suppress(QueueFullError):
            self.headroom.restore()

    def _opened(self) -> None:
        """Follow the connection, which was just opened, perhaps not for the first time."""
        self.reread_high()
        beyond, self._beyond = self._beyond, []
        insert_beyond(self, beyond)
        self._close_wal()
        try:
            # SQLite syncs the directory with the first sync of a new WAL, which at NORMAL may be late.
            sync_directory(self.slot.directory)
            if self._durability == "interval":
                self._wal_held = Held(os.open(self.slot.wal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError as exc:
            raise StorageError(f"{self.slot.database}: {exc.strerror}") from None

    def _last_row(self) -> tuple[Any, ...] | None:
        return self.connection.select_one("SELECT key, value FROM events ORDER BY key DESC LIMIT 1")

    def reread_high(self) -> None:
        """Set `high` from the rows and the record. It never falls. The caller holds the lock."""
        row = self.connection.select_one(
            "SELECT coalesce((SELECT max(key) FROM events), 0),"
            " coalesce((SELECT value FROM meta WHERE key = 'high'), 0)"
        )
        assert row is not None  # noqa: S101 (there is no FROM)
        self.high = max(self.high, *row)

    # ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────

    def mend(self, mended: int, cause: DamagedQueueError) -> None:
        """Set the damaged file aside, and go on with its intact rows in a new one.

        Args:
            mended: `mends` as it was before the call that found the damage: of several callers one mends.
            cause: what was found.

        Raises:
            DamagedQueueError: it happens again and again.
        """
        with self.lock:
            if self._mends != mended:
                return
            if self._mends >= _MENDS_MAX:
                raise DamagedQueueError(*cause.args)
            self._mends += 1
            self.connection.drop()
            self._set_aside(cause)
            self._begin_taking_over()

    def _begin_taking_over(self) -> None:
        """Let the rows of files that were set aside come into this one; see `take_over`."""
        self.taking_over.close()
        self.taking_over = TakingOver(self, salvage.pending(self.slot))
        self.taking_over.begin()

    @property
    def is_taking_over(self) -> bool:
        """Whether rows may still come out of a file that was set aside; until then they count as pending."""
        return bool(self.taking_over.waiting)

    def check_soundness(self, suspicion: str) -> None:
        """Have SQLite look at every page.

        Raises:
            DamagedQueueError: it found something.
        """
        with self.lock:
            if not self.connection.is_sound():
                raise DamagedQueueError(f"{self.slot.database}: {suspicion}, and SQLite's integrity check fails")

    def check_hidden(self, *, has_gap: bool) -> None:
        """After rows were found: see whether a damaged page hides some. The lock must not be held.

        Hidden rows have to be found before the queue is empty: a page that seems empty is given away, and they with it.
        In a small file the rows are counted at the first look, in some milliseconds. Where keys do not follow each
        other, since rows were removed or are hidden, a small file is read by SQLite, which holds up puts for some
        20 ms; in a large one the rows are counted, in slices, and SQLite reads it only if they are fewer than the
        ledger says. Once for each opening.

        Raises:
            DamagedQueueError: a page is damaged.
        """
        if self._gap_was_checked or self.is_taking_over or (self._was_counted and not has_gap):
            return
        is_small = self.connection.used_pages() <= _GAP_CHECK_PAGES
        if has_gap and is_small:
            self._gap_was_checked = True
            self.check_soundness("keys are missing")
        elif has_gap or (is_small and not self._was_counted):
            self._gap_was_checked = has_gap
            self._was_counted = True
            if self._count_hidden():
                self.check_soundness("fewer rows are found than are counted")

    def _count_hidden(self) -> int:
        """Return how many pending rows are counted and cannot be found; 0 if rows were removed while it looked."""
        with self.lock:
            gone, after = sum(self.counts[name] for name in _COUNTS), self.acked
        found = 0
        while True:
            with self.lock:
                count, last = self.connection.select_one(_COUNT_SOME, (after, _COUNTED_AT_ONCE)) or (0, None)
                if not count:
                    is_still = gone == sum(self.counts[name] for name in _COUNTS)
                    return self.ledger().pending - found if is_still else 0
            found, after = found + count, last

    def check_emptiness(self) -> None:
        """After no row was found: compare with the ledger, which knows of rows that a damaged page hides.

        Raises:
            DamagedQueueError: rows are hidden.
        """
        with self.lock:
            if self.ledger().pending == 0 or self.is_taking_over:
                return
            self.read_counts()
            self.reread_high()
            pending = self.ledger().pending
            row = self.connection.select_one("SELECT min(key) FROM events WHERE key > ?", (self.acked,))
            if pending == 0 or row is None or row[0] is not None:
                return
            self.check_soundness(f"no row is found where {pending} are counted")
            self.recount()
            self.note(logging.ERROR, "queue.counts_corrected", counted=pending, found=0)

    def recount(self) -> None:
        """Make the counts agree with the rows: what was accepted and is nowhere counts as damaged."""
        self.read_counts()
        self.reread_high()
        (pending,) = self.connection.select_one("SELECT count(*) FROM events WHERE key > ?", (self.acked,)) or (0,)
        dead, size = self.connection.select_one(
            "SELECT count(CASE WHEN key > 0 THEN 1 END), coalesce(sum(length(value)), 0) FROM dead_letters"
        ) or (0, 0)
        counts = {
            name: value if name == "requeued" else max(value, 0)
            for name, value in self.counts.items()
            if name not in acked.NAMES
        }
        gone = counts["delivered"] + counts["expired"] + counts["evicted"] + counts["discarded"]
        missing = self.high - counts["requeued"] - gone - pending - dead
        # More rows than were accepted: some came back that were counted as gone. They will be delivered again.
        back = min(max(-missing, 0), counts["delivered"])
        counts |= {"dead": dead, "dead_size": size, "damaged": max(missing, 0)}
        counts["delivered"] -= back
        counts["requeued"] -= max(-missing, 0) - back
        self.transaction(
            ";".join(f"UPDATE meta SET value = {value} WHERE key = '{key}'" for key, value in counts.items())
        )

    @property
    def mends(self) -> int:
        """How often the file was mended."""
        return self._mends

    def _set_aside(self, cause: DamagedQueueError) -> None:
        lock = getattr(self, "lock", None)
        with contextlib.suppress(AttributeError):
            self.connection.drop()
        salvage.set_aside(self.slot)
        self.note(logging.ERROR, "queue.file_damaged", error=str(cause), kept_as=str(salvage.pending(self.slot)[-1]))
        self.slot.make_file()
        if lock is None:
            self._connect()
        else:
            self.connection.call_when_open(self._opened)  # the same object, and lock, on the new file
            self._recover()

    # ── transactions and bounds ──────────────────────────────────────────────────────────────────────────────────

    def transaction(self, statements: str, size: int = 0, *, pages: int = 4, may_use_ballast: bool = True) -> None:
        """Run statements as one transaction, beyond the quota, and with the headroom if the disk is full.

        Args:
            statements: SQL.
            size: about how many bytes of rows they write.
            pages: about how many pages they write besides.
            may_use_ballast: whether the headroom may be given up for it.
        """
        with self.lock:
            self.look_after_lock()
            if self.wal_room < 0 and self.headroom.is_there:
                with contextlib.suppress(QueueFullError, SlotBusyError):  # the transaction itself will say so
                    self.checkpoint()
            self._are_counts_stale = True  # an error does not tell whether the transaction was committed
            try:
                self._beyond_quota(statements)
            except QueueFullError:
                if not may_use_ballast or not self.headroom.give_up():
                    raise
                self.note(logging.WARNING, "queue.disk_full")
                self.connection.checkpoint("TRUNCATE")
                try:
                    self._beyond_quota(statements)
                except QueueFullError:
                    self._doubt_full_disk()
                    raise
            self.wal_room -= pages * PAGE_SIZE + size
            self.is_dirty = True
            if not self.headroom.is_there:
                self._regain_headroom()
            self.read_counts()
            if not self._is_mark_whole():  # what was delivered would be read again and again
                raise DamagedQueueError(f"{self.slot.database}: the mark does not move")
            # A put that a signal handler overtook, or raised out of, may have left it behind its own row.
            self.high = max(self.high, self.counts["high"])

    def _doubt_full_disk(self) -> None:
        """A damaged page can make SQLite find the disk full as well."""
        try:
            self.headroom.restore()
        except QueueFullError:
            return  # it is full
        self.check_soundness("SQLite finds the disk full, which it is not")

    def _beyond_quota(self, statements: str) -> None:
        with contextlib.suppress(QueueFullError):
            self.connection.script(statements)
            return
        # Setting a row aside takes a page before it gives one back. Or the disk is full: then this fails as well.
        self.connection.limit_size(self.max_queue_bytes + _BEYOND_QUOTA)
        try:
            self.connection.script(statements)
        finally:
            with contextlib.suppress(QueueError):
                self.connection.limit_size(self.max_queue_bytes)

    def _regain_headroom(self) -> None:
        """On a full disk, give back what the last transaction freed, and try to restore the ballast."""
        with contextlib.suppress(QueueFullError):
            self.connection.vacuum(_VACUUM_PAGES)
            self.checkpoint("TRUNCATE")
            self.headroom.restore()

    def make_room(self) -> None:
        """Before something is accepted: keep the WAL and the disk within what the headroom can rescue.

        Raises:
            QueueFullError: there is no room.
            StorageError: a sync has failed since the last call.
        """
        if self._sync_error is not None:
            error, self._sync_error = self._sync_error, None
            raise StorageError(f"{self.slot.database}: {error}")
        self.headroom.restore()
        if self.wal_room < 0:
            with contextlib.suppress(SlotBusyError):
                # Locked by a statement of this very thread, if a signal handler interrupted it: the next put does it.
                self.checkpoint()

    def has_swept(self) -> bool:
        """On a full queue: delete some rows that were delivered. Return whether there is room for more puts by that."""
        try:
            if not acked.sweep(self):
                return False
        except SlotBusyError:
            return False  # in a signal handler that interrupted a read, which locks the table
        self.make_room()
        return True

    def could_hold(self, size: int) -> bool:
        """Return whether an event of `size` bytes would fit if there was no other; dead letters stay."""
        dead, count = self.counts["dead_size"], self.counts["dead"]
        return size + dead + min(dead, count * PAGE_SIZE) + _EMPTY_SIZE <= self.max_queue_bytes

    def explain_full(self, exc: QueueFullError, size: int) -> QueueFullError:
        """Return the error that says whether the quota or the disk has no room for `size` bytes."""
        if self.connection.is_at_limit(size):
            return QueueFullError(f"{self.slot.database} has reached max_queue_bytes={self.max_queue_bytes}")
        return QueueFullError(f"the disk is full: {exc}")

    def checkpoint(self, mode: str = "PASSIVE") -> None:
        """Write the WAL into the database, and let the WAL start anew.

        SQLite starts it anew with the next write only. Until then its frames are older than the database, and damage
        in one of them would have a recovery put older pages over newer ones. So the next write is made at once.
        """
        self.connection.checkpoint(mode, _NEXT_GENERATION if mode == "PASSIVE" else None)
        self.wal_room = WAL_SIZE_MAX

    def checkpoint_soon(self) -> None:
        """Checkpoint if one of the next puts would have to: whoever drains can wait for the disk better."""
        with self.lock:
            if self.wal_room < _WAL_ROOM_FOR_PUTS and self.headroom.is_there:
                with contextlib.suppress(QueueFullError):  # the next transaction will say so
                    self.checkpoint()

    def shrink(self, pages_max: int) -> bool:
        """Give free pages back to the file system; see `SqliteQueue.shrink`."""
        while pages_max > 0:
            with self.lock:
                if acked.sweep(self, max(pages_max, acked.AT_ONCE)):
                    pages_max -= max(acked.SOME // 8, 1)
                    continue
                free = int(self.connection.pragma("freelist_count"))
                if free <= _FREE_PAGES_KEPT:
                    return True
                self.connection.vacuum(min(_VACUUM_PAGES, free))
                self.wal_room -= _VACUUM_PAGES // 16 * PAGE_SIZE
                if self.wal_room < 0 or free <= _VACUUM_PAGES + _FREE_PAGES_KEPT:
                    self.checkpoint("TRUNCATE")
            pages_max -= _VACUUM_PAGES
        return False

    def sync(self) -> None:
        """For the interval sync: put on disk what was written. An error is kept for the next put."""
        held = self._wal_held
        if not self.is_dirty or held is None or not held.is_ours():
            return
        self.is_dirty = False
        try:
            os.fdatasync(held.number)
        except OSError as exc:
            if self._wal_held is not held:
                return  # the connection was opened again meanwhile, and has written everything anew
            with contextlib.suppress(QueueError):
                self.connection.drop()  # the next call opens anew, and writes everything again
            self._sync_error = f"the sync of the WAL failed: {exc.strerror}"
            self.wal_room = -1
            logger.error("queue.sync_failed", extra={"slot": str(self.slot.database), "error": exc.strerror})

    def look_after_lock(self) -> None:
        """Once a minute: see that the files are still those at their paths.

        A lock file that was removed is made and locked anew. A database that was removed or replaced is given up: what
        is put into it would be gone with this process.
        """
        now = time.monotonic()
        if now < self._lock_was_seen_at + _LOCK_LOOK_S:
            return
        self._lock_was_seen_at = now
        if self.connection.give_up_if_moved():
            self.note(logging.ERROR, "queue.file_replaced", fate="what was in it is gone; a new one is opened")
        if not self.slot.renew():
            self.note(logging.ERROR, "queue.lock_file_replaced", fate="SQLite's own lock keeps others out")

    def leave(self) -> None:
        """Give up a file that was closed under this process: sync what was written, and close nothing that is not ours.

        The events in it are delivered by whoever opens it next.
        """
        interval_sync.discard(self)
        with contextlib.suppress(OSError):
            descriptor = os.open(self.slot.wal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        self.forget()

    # ── the ledger, and the rest ─────────────────────────────────────────────────────────────────────────────────

    @property
    def acked(self) -> int:
        """The mark: rows with keys up to this one were delivered, if they are still there (see `acked`)."""
        with self.lock:
            if self._are_counts_stale:
                self.read_counts()
            return self.counts["acked"] if self._is_mark_whole() else 0

    def _is_mark_whole(self) -> bool:
        return self.counts["acked"] == -self.counts["acked_check"]

    def read_counts(self) -> None:
        """Read the counts from disk.

        Raises:
            DamagedQueueError: they are unreadable.
        """
        with self.lock:  # else those that another thread has just read would be replaced by older ones
            rows = dict(self.connection.select("SELECT key, value FROM meta"))
            try:
                self.counts = {name: int(rows[name.encode()]) for name in _INTEGERS}
            except (KeyError, ValueError, TypeError):
                raise DamagedQueueError(f"{self.slot.database}: the counts are unreadable") from None
            self._are_counts_stale = False
            if min(self.counts[name] for name in _COUNTS if name != "damaged") < 0:  # it is for a while, in a take-over
                raise DamagedQueueError(f"{self.slot.database}: a count is negative")

    def set_meta(self, name: str, value: object) -> None:
        """Record something other than a count, as JSON, unless it is on record already. Bytes are JSON."""
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        with self.lock:
            if self.meta.get(name) != text:
                self.transaction(f"INSERT OR REPLACE INTO meta (key, value) VALUES ('{name}', x'{text.hex()}')")

    def ledger(self) -> Ledger:
        """Return the counts, in O(1)."""
        with self.lock:
            with contextlib.suppress(QueueError):  # closed: then nothing can have changed
                self.reread_high()
                if self._are_counts_stale:
                    self.read_counts()
            counts = {name: self.counts[name] for name in _COUNTS}
            accepted = self.high - self.counts["requeued"]
            return Ledger(accepted=accepted, pending=accepted - sum(counts.values()), **counts)

    def close(self) -> None:
        """Sync, checkpoint, close, and release the slot. May be called twice."""
        interval_sync.discard(self)
        try:
            if self._pid == os.getpid():
                with contextlib.suppress(QueueError), self.lock:  # what cannot be swept now is swept by the next owner
                    if self.counts["acked"] and self.ledger().pending == 0:
                        acked.sweep(self, self.max_queue_bytes)
                if self.ledger().pending or self.is_taking_over:
                    with contextlib.suppress(QueueError):
                        self._record_time()
                else:
                    with contextlib.suppress(OSError):  # on a file system that turned read-only
                        self.headroom.give_up()  # a thousand empty slots would hold a gigabyte and a half
                self.sync()
        finally:
            if self._pid == os.getpid():
                self.connection.close_for_good()
            self.forget()

    def forget(self) -> None:
        """Close the descriptors; in a forked child: those that it inherited, which frees nothing of the parent's."""
        self.taking_over.close()
        self._close_wal()
        self.slot.release()

    def _close_wal(self) -> None:
        held, self._wal_held = self._wal_held, None
        if held is not None:
            held.close()

    def note(self, level: int, event: str, **extra: object) -> None:
        """Keep a line for the log until no lock is held: a log handler may itself track events."""
        self._notes.append((level, event, {"slot": str(self.slot.database), **extra}))

    def log(self) -> None:
        """Write the lines that were kept."""
        with contextlib.suppress(IndexError):
            while True:
                level, event, extra = self._notes.popleft()
                logger.log(level, event, extra=extra)
