"""A slot's file: how it is opened, mended, shrunk, synced and closed.

    open:    refuse what is not ours ─► SQLite's recovery ─► rows beyond a damaged frame ─► counts and highest key
    damaged: set aside ─► a new file ─► every intact row of the old one

What is in the file is the business of `books`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.engines.sqlite import dead_letters, interval_sync, preflight, salvage, sweep
from durable_tracker.engines.sqlite.ballast import Headroom
from durable_tracker.engines.sqlite.books import Books, headroom_size
from durable_tracker.engines.sqlite.clocks import NOTE_INTERVAL_S, Ages
from durable_tracker.engines.sqlite.connection import Connection
from durable_tracker.engines.sqlite.descriptors import Held
from durable_tracker.engines.sqlite.raw import PAGE_SIZE
from durable_tracker.engines.sqlite.restore import TakingOver, insert_beyond
from durable_tracker.engines.sqlite.row_codec import KEY_MAX, is_intact
from durable_tracker.engines.sqlite.slots import sync_directory, sync_path
from durable_tracker.engines.sqlite.syncing import sync_data
from durable_tracker.errors import DamagedQueueError, QueueError, QueueFullError, StorageError
from durable_tracker.log import logger

if TYPE_CHECKING:
    from durable_tracker.engines.engine import Durability
    from durable_tracker.engines.sqlite.slots import Slot

_COUNT_ABOVE_HIGH: Final = "SELECT count(*) FROM events WHERE key > (SELECT value FROM meta WHERE key = 'high')"
_LOCK_LOOK_S: Final = 60.0
_VACUUM_PAGES: Final = 256
_FREE_PAGES_KEPT: Final = 32
_MENDS_MAX: Final = 8
_GAP_CHECK_PAGES: Final = 4096  # 16 MiB, which SQLite checks in some 20 ms


class SlotFile:
    """One slot's file, for its one owner. Thread-safe under the lock of `books`.

    Attributes:
        slot: the place, whose lock this object holds until `close`.
        books: what is in the file.
        taking_over: the files that were set aside, and whose rows come into this one.
    """

    def __init__(self, slot: Slot, *, durability: Durability, max_queue_bytes: int, byte_limit: int) -> None:
        """Open, or make, the file; see `SqliteQueue`."""
        self.slot = slot
        self.max_queue_bytes = max_queue_bytes
        self._headroom = Headroom(slot.ballast, headroom_size(byte_limit))
        # Where nothing can sync once a second, every commit has to.
        self._durability: Durability = durability if durability == "always" or interval_sync.start() else "always"
        self._connection: Connection | None = None
        self._wal_held: Held | None = None
        self.ages = Ages(None)
        self._time_was_noted_at = 0.0
        self._lock_was_seen_at = time.monotonic()
        self._mends = 0
        self._gap_was_checked = False
        self._was_counted = False
        self._notes: deque[tuple[int, str, dict[str, object]]] = deque()
        self._beyond: preflight.Rows = []
        try:
            self._open()
            if self._durability == "interval":
                interval_sync.add(self)
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        """Undo an opening that failed, or that a signal handler interrupted, wherever it was."""
        if self._connection is not None:  # else it was refused
            self._connection.close_for_good()
        interval_sync.discard(self)
        self._close_wal()
        self.slot.release()

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
        self.ages = Ages(self.books.meta.get("clocks"))
        self._record_time()

    def note_time(self) -> None:
        """Once a minute: note how high the keys are, which is how rows get an age."""
        if time.monotonic() >= self._time_was_noted_at + NOTE_INTERVAL_S:
            self._record_time()

    def _record_time(self) -> None:
        with self.books.lock, contextlib.suppress(QueueFullError):
            self._time_was_noted_at = time.monotonic()
            self.ages.note(self.books.high)
            self.books.set_meta("clocks", self.ages.record())

    def older_than(self, age_s: float) -> int:
        """Return the highest key whose row is known to be older than `age_s` seconds, 0 if none is.

        As it is asked for before each batch, moments are noted here too, in memory, so that an age is known to a tenth.
        """
        with self.books.lock:
            last = self.ages.older_than(age_s)
            self.ages.note(self.books.high, min(age_s / 10, NOTE_INTERVAL_S))
            return last

    def _record_durability(self) -> None:
        """Tell the next owner what the tail of the WAL is worth."""
        with contextlib.suppress(QueueFullError):
            self.books.set_meta("durability", self._durability)

    def _connect(self) -> None:
        try:
            connection = self._connection = self._new_connection()
        except QueueFullError:
            if not self._headroom.give_up():
                raise
            connection = self._connection = self._new_connection()
        self.books = Books(
            self.slot, connection, headroom=self._headroom, max_queue_bytes=self.max_queue_bytes, note=self.note
        )
        self.taking_over = TakingOver(self.books, [])
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
        books = self.books
        books.load()
        while (row := self._last_row()) is not None and (
            row[0] >= KEY_MAX or (row[0] > books.acked and not is_intact(*row))
        ):
            # A flipped bit in the highest key would make every later key wrong. The keys above the recorded high have
            # no gaps, so their number tells what the highest was.
            above = books.connection.select_one(_COUNT_ABOVE_HIGH) or (0,)
            books.high = max(books.high, books.counts["high"] + above[0])
            dead_letters.set_aside(books, [row[0]])
            if self._last_row() == row:
                raise DamagedQueueError(f"{self.slot.database}: row {row[0]} is found at the end, but not by its key")
        books.reread_high()
        books.high_at_mark = books.high
        with contextlib.suppress(QueueFullError):
            self._headroom.restore()

    def _opened(self) -> None:
        """Follow the connection, which was just opened, perhaps not for the first time."""
        self.books.reread_high()
        beyond, self._beyond = self._beyond, []
        insert_beyond(self.books, beyond)
        self._close_wal()
        try:
            # SQLite syncs the directory with the first sync of a new WAL, which at NORMAL may be late.
            sync_directory(self.slot.directory)
            if self._durability == "interval":
                descriptor = os.open(self.slot.wal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                self._wal_held = Held(descriptor, marks=True)
        except OSError as exc:
            raise StorageError(f"{self.slot.database}: {exc.strerror}") from None

    def _last_row(self) -> tuple[Any, ...] | None:
        return self.books.connection.select_one("SELECT key, value FROM events ORDER BY key DESC LIMIT 1")

    # ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────

    def mend(self, mended: int, cause: DamagedQueueError) -> None:
        """Set the damaged file aside, and go on with its intact rows in a new one.

        Args:
            mended: `mends` as it was before the call that found the damage: of several callers one mends.
            cause: what was found.

        Raises:
            DamagedQueueError: it happens again and again.
        """
        with self.books.lock:
            if self._mends != mended:
                return
            if self._mends >= _MENDS_MAX:
                raise DamagedQueueError(*cause.args)
            self._mends += 1
            self.books.connection.drop()
            self._set_aside(cause)
            self._begin_taking_over()

    def _begin_taking_over(self) -> None:
        """Let the rows of files that were set aside come into this one; see `restore`."""
        self.taking_over.close()
        self.taking_over = TakingOver(self.books, salvage.pending(self.slot))
        self.taking_over.begin()

    @property
    def is_taking_over(self) -> bool:
        """Whether rows may still come out of a file that was set aside; until then they count as pending."""
        return bool(self.taking_over.waiting)

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
        is_small = self.books.connection.used_pages() <= _GAP_CHECK_PAGES
        if has_gap and is_small:
            self._gap_was_checked = True
            self.books.check_soundness("keys are missing")
        elif has_gap or (is_small and not self._was_counted):
            self._gap_was_checked = has_gap
            self._was_counted = True
            if self.books.count_hidden():
                self.books.check_soundness("fewer rows are found than are counted")

    def check_emptiness(self) -> None:
        """After no row was found: compare with the ledger, which knows of rows that a damaged page hides.

        Raises:
            DamagedQueueError: rows are hidden.
        """
        with self.books.lock:
            if self.books.ledger().pending == 0 or self.is_taking_over:
                return
            self.books.read_counts()
            self.books.reread_high()
            pending = self.books.ledger().pending
            row = self.books.connection.select_one("SELECT min(key) FROM events WHERE key > ?", (self.books.acked,))
            if pending == 0 or row is None or row[0] is not None:
                return
            self.books.check_soundness(f"no row is found where {pending} are counted")
            self.books.recount()
            self.note(logging.ERROR, "queue.counts_corrected", counted=pending, found=0)

    @property
    def mends(self) -> int:
        """How often the file was mended."""
        return self._mends

    def _set_aside(self, cause: DamagedQueueError) -> None:
        books = getattr(self, "books", None)  # none if the connection was refused
        if books is not None:
            books.connection.drop()
        salvage.set_aside(self.slot)
        self.note(logging.ERROR, "queue.file_damaged", error=str(cause), kept_as=str(salvage.pending(self.slot)[-1]))
        self.slot.make_file()
        if books is None:
            self._connect()
        else:
            books.connection.call_when_open(self._opened)  # the same object, and lock, on the new file
            self._recover()

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────

    def shrink(self, pages_max: int) -> bool:
        """Give free pages back to the file system; see `SqliteQueue.shrink`."""
        while pages_max > 0:
            with self.books.lock:
                if sweep.sweep(self.books, max(pages_max, sweep.AT_ONCE)):
                    pages_max -= max(sweep.SOME // 8, 1)
                    continue
                free = int(self.books.connection.pragma("freelist_count"))
                if free <= _FREE_PAGES_KEPT:
                    return True
                self.books.connection.vacuum(min(_VACUUM_PAGES, free))
                self.books.wal_room -= _VACUUM_PAGES // 16 * PAGE_SIZE
                if self.books.wal_room < 0 or free <= _VACUUM_PAGES + _FREE_PAGES_KEPT:
                    self.books.checkpoint("TRUNCATE")
            pages_max -= _VACUUM_PAGES
        return False

    def sync(self) -> None:
        """For the interval sync: put on disk what was written. An error is kept for the next put."""
        held = self._wal_held
        if not self.books.is_dirty or held is None or not held.is_ours():
            return
        self.books.is_dirty = False
        try:
            sync_data(held.number)
        except OSError as exc:
            if self._wal_held is not held:
                return  # the connection was opened again meanwhile, and has written everything anew
            with contextlib.suppress(QueueError):
                self.books.connection.drop()  # the next call opens anew, and writes everything again
            self.books.sync_error = f"the sync of the WAL failed: {exc.strerror}"
            self.books.wal_room = -1
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
        if self.books.connection.give_up_if_moved():
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
                sync_data(descriptor)
            finally:
                os.close(descriptor)
        self.forget()

    def close(self) -> None:
        """Sync, checkpoint, close, and release the slot. May be called twice."""
        interval_sync.discard(self)
        try:
            if not self.books.connection.is_inherited():
                # What cannot be swept now is swept by the next owner.
                with contextlib.suppress(QueueError), self.books.lock:
                    if self.books.counts["acked"] and self.books.ledger().pending == 0:
                        sweep.sweep(self.books, self.max_queue_bytes)
                if self.books.ledger().pending or self.is_taking_over:
                    with contextlib.suppress(QueueError):
                        self._record_time()
                else:
                    with contextlib.suppress(OSError):  # on a file system that turned read-only
                        self._headroom.give_up()  # a thousand empty slots would hold a gigabyte and a half
                self.sync()
        finally:
            self.books.connection.close_for_good()  # which does nothing in a child
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
