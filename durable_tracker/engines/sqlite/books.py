"""The books of a slot: what the events table holds, what became of the rest, and the bounds of the file.

    counts   the ledger's, in `meta`; changed by the transaction that moves the rows, by SQLite's own count of them
    high     the highest key that was given out: rows above it on disk were accepted by a put that wrote nothing else
    mark     up to this key all is delivered, though rows may still stand there (see `watermark`)
    bounds   WAL <= about 1 MiB, database <= quota, and room on the disk for one more checkpoint

How the file is opened, mended and closed is the business of `slot_file`.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.engines.engine import BYTE_LIMIT
from durable_tracker.engines.queue import FATES, Ledger
from durable_tracker.engines.sqlite import watermark
from durable_tracker.engines.sqlite.connection import FORMAT
from durable_tracker.engines.sqlite.raw import PAGE_SIZE
from durable_tracker.engines.sqlite.row_codec import dead_letter_of
from durable_tracker.engines.sqlite.tables import Table
from durable_tracker.errors import DamagedQueueError, QueueError, QueueFullError, SlotBusyError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from durable_tracker.engines.queue import DeadLetter
    from durable_tracker.engines.sqlite.ballast import Headroom
    from durable_tracker.engines.sqlite.connection import Connection
    from durable_tracker.engines.sqlite.slots import Slot

WAL_SIZE_MAX: Final = 1 << 20
"""When the WAL has grown by this much it is checkpointed. Small: recovery costs 2 ms per MiB, and the headroom has to
hold one; and a file that is rewritten in place syncs twice as fast as one that grows."""

COUNTS: Final = tuple(fate for fate in FATES if fate != "missing")  # nobody else has this file
_INTEGERS: Final = (*COUNTS, "invalid", "high", "requeued", "dead_size", "invalid_size", *watermark.NAMES)
OF_FORMAT_2: Final = ("purged", "invalid", "invalid_size")
_COUNTS_BY_NAME: Final = f"SELECT key, value FROM meta WHERE key IN {_INTEGERS} ORDER BY key"
_COUNTS_IN_ORDER: Final = _COUNTS_BY_NAME.replace(" WHERE", " NOT INDEXED WHERE")
_NEXT_GENERATION: Final = (
    "INSERT INTO meta (key, value) VALUES ('generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
)
_COUNT_SOME: Final = "SELECT count(*), max(key) FROM (SELECT key FROM events WHERE key > ? ORDER BY key LIMIT ?)"
_COUNTED_AT_ONCE: Final = 10_000
_VACUUM_PAGES: Final = 256
_WAL_ROOM_FOR_PUTS: Final = WAL_SIZE_MAX // 8
_EMPTY_SIZE: Final = 8 * PAGE_SIZE  # of a file without events, and a little more
_BEYOND_QUOTA: Final = 16 << 20

RECORD_HIGH: Final = "UPDATE meta SET value = max(value, (SELECT coalesce(max(key), 0) FROM events)) WHERE key = 'high'"
"""Before anything is deleted the highest key goes on record, so that it can never be given out again."""


def headroom_size(byte_limit: int = BYTE_LIMIT) -> int:
    """Return the bytes on disk that a slot keeps in reserve: for a checkpoint, and for an ack of two batches."""
    return WAL_SIZE_MAX + 2 * byte_limit + (256 << 10)


class Books:
    """The tables of one slot, their counts and bounds. Thread-safe under `lock`, which is reentrant.

    Attributes:
        slot: where it is.
        connection: SQLite's; opens itself anew after a failure.
        lock: guards everything here.
        max_queue_bytes: bound of the database file, in bytes.
        headroom: the ballast.
        events: pending rows, and delivered ones up to the mark; read-only.
        meta: what is on record.
        high: the highest key that was given out. Behind for an instant while one put overtakes another on a thread.
        wal_room: bytes that the WAL may still grow before it has to be checkpointed.
        is_dirty: whether something was written since the last sync.
        sync_error: why a sync failed since the last put, None if none did.
        counts: the ledger's counts as they are on disk.
        high_at_mark: the highest key when the mark was moved last.
        grew: whether it had risen since the move before.
        note: takes a level, an event and details, for the log once no lock is held.
    """

    def __init__(
        self,
        slot: Slot,
        connection: Connection,
        *,
        headroom: Headroom,
        max_queue_bytes: int,
        note: Callable[..., None],
    ) -> None:
        self.slot = slot
        self.connection = connection
        self.lock = connection.lock
        self.max_queue_bytes = max_queue_bytes
        self.headroom = headroom
        self.events = Table(connection, "events", is_readonly=True)
        self.meta = Table(connection, "meta")
        self.high = 0
        self.wal_room = 0
        self.is_dirty = False
        self.sync_error: str | None = None
        self.high_at_mark = 0
        self.grew = False
        self.counts: dict[str, int] = dict.fromkeys(_INTEGERS, 0)
        self._are_counts_stale = False
        self.note = note

    # ── the counts ───────────────────────────────────────────────────────────────────────────────────────────────

    def load(self) -> None:
        """Read the counts when the file was opened, in O(1).

        Raises:
            DamagedQueueError: they are unreadable, or their index is.
        """
        self.wal_room = WAL_SIZE_MAX
        for names in (_INTEGERS, watermark.NAMES, OF_FORMAT_2):
            # Of a new file, or of an older release. One of them alone cannot be missing: that is damage.
            if self.connection.select_one(f"SELECT 1 FROM meta WHERE key IN {names}") is None:
                rows = ", ".join(f"('{name}', 0)" for name in names)
                self.connection.script(f"INSERT INTO meta (key, value) VALUES {rows}")
        self._raise_format()
        self.read_counts()
        if self.connection.select(_COUNTS_BY_NAME) != self.connection.select(_COUNTS_IN_ORDER):
            raise DamagedQueueError(f"{self.slot.database}: the index of the counts is damaged")
        if watermark.of(self.counts) is None:
            # What was delivered and not swept is pending again, which is better than to hide what is pending.
            self.transaction(watermark.moved(0))
            self.recount()
            self.note(logging.ERROR, "queue.mark_altered", fate="some events may be delivered once more")
        self.high = max(self.high, self.acked)  # whatever has become of the record: no key below the mark is given out

    def _raise_format(self) -> None:
        """Make a file of an older release one of this format. Its rows stay as they are; see `row_codec`.

        An older release refuses a file by the number in the database's header, which it reads without the WAL. So the
        number has to stand there before a row is written that the older release would misread.

        Raises:
            StorageError: it could not be written.
        """
        if self.connection.pragma("user_version") < FORMAT:
            self.connection.script(f"PRAGMA user_version = {FORMAT}")
            if self.connection.pragma("wal_checkpoint(TRUNCATE)") != 0:
                raise StorageError(f"{self.slot.database}: its format could not be raised to {FORMAT}")

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
            if min(self.counts[name] for name in COUNTS if name != "damaged") < 0:  # it is for a while, in a take-over
                raise DamagedQueueError(f"{self.slot.database}: a count is negative")

    @property
    def acked(self) -> int:
        """The mark: rows with keys up to this one were delivered, if they are still there (see `watermark`)."""
        with self.lock:
            if self._are_counts_stale:
                self.read_counts()
            return watermark.of(self.counts) or 0

    def ledger(self) -> Ledger:
        """Return the counts, in O(1)."""
        with self.lock:
            with contextlib.suppress(QueueError):  # closed: then nothing can have changed
                self.reread_high()
                if self._are_counts_stale:
                    self.read_counts()
            counts = {name: self.counts[name] for name in COUNTS}
            accepted = self.high - self.counts["requeued"]
            pending = accepted - sum(counts.values())
            return Ledger(accepted=accepted, pending=pending, invalid=self.counts["invalid"], **counts)

    def reread_high(self) -> None:
        """Set `high` from the rows and the record. It never falls. The caller holds the lock."""
        row = self.connection.select_one(
            "SELECT coalesce((SELECT max(key) FROM events), 0),"
            " coalesce((SELECT value FROM meta WHERE key = 'high'), 0)"
        )
        assert row is not None  # noqa: S101 (there is no FROM)
        self.high = max(self.high, *row)

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
            if name not in watermark.NAMES
        }
        gone = sum(counts[name] for name in COUNTS if name not in ("dead", "damaged"))
        missing = self.high - counts["requeued"] - gone - pending - dead
        # More rows than were accepted: some came back that were counted as gone. They will be delivered again.
        back = min(max(-missing, 0), counts["delivered"])
        counts |= {"dead": dead, "dead_size": size, "damaged": max(missing, 0)}
        counts |= self.count_invalid()
        counts["delivered"] -= back
        counts["requeued"] -= max(-missing, 0) - back
        self.transaction(
            ";".join(f"UPDATE meta SET value = {value} WHERE key = '{key}'" for key, value in counts.items())
        )

    def count_invalid(self) -> dict[str, int]:
        """Count the dead letters that the tracker itself refused, by reading them all."""
        sizes = [size for letter, size in self.letters() if letter.kind == "invalid"]
        return {"invalid": len(sizes), "invalid_size": sum(sizes)}

    def following(self, after: int, rows: Sequence[tuple[Any, ...]]) -> int:
        """Return the key to go on from behind rows that were read above `after`.

        Raises:
            DamagedQueueError: it is no higher. Whoever goes on would never come to an end.
        """
        if rows[-1][0] <= after:
            raise DamagedQueueError(f"{self.slot.database}: its keys are out of order")
        return int(rows[-1][0])

    def letters(self) -> Iterator[tuple[DeadLetter, int]]:
        """Yield the dead letters that are intact, oldest first, each with the bytes of its row."""
        after = 0
        while rows := self.connection.select(
            "SELECT key, value FROM dead_letters WHERE key > ? ORDER BY key LIMIT 500", (after,)
        ):
            after = self.following(after, rows)
            yield from ((letter, len(row[1])) for row in rows if (letter := dead_letter_of(*row)) is not None)

    def count_hidden(self) -> int:
        """Return how many pending rows are counted and cannot be found; 0 if rows were removed while it looked."""
        with self.lock:
            gone, after = sum(self.counts[name] for name in COUNTS), self.acked
        found = 0
        while True:
            with self.lock:
                count, last = self.connection.select_one(_COUNT_SOME, (after, _COUNTED_AT_ONCE)) or (0, None)
                if not count:
                    is_still = gone == sum(self.counts[name] for name in COUNTS)
                    return self.ledger().pending - found if is_still else 0
            found, after = found + count, last

    def check_soundness(self, suspicion: str) -> None:
        """Have SQLite look at every page.

        Raises:
            DamagedQueueError: it found something.
        """
        with self.lock:
            if not self.connection.is_sound():
                raise DamagedQueueError(f"{self.slot.database}: {suspicion}, and SQLite's integrity check fails")

    def set_meta(self, name: str, value: object) -> None:
        """Record something other than a count, as JSON, unless it is on record already. Bytes are JSON."""
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        with self.lock:
            if self.meta.get(name) != text:
                self.transaction(f"INSERT OR REPLACE INTO meta (key, value) VALUES ('{name}', x'{text.hex()}')")

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
            if watermark.of(self.counts) is None:  # what was delivered would be read again and again
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
        if self.sync_error is not None:
            error, self.sync_error = self.sync_error, None
            raise StorageError(f"{self.slot.database}: {error}")
        self.headroom.restore()
        if self.wal_room < 0:
            with contextlib.suppress(SlotBusyError):
                # Locked by a statement of this very thread, if a signal handler interrupted it: the next put does it.
                self.checkpoint()

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
