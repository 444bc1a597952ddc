"""Reading a slot while somebody else owns it and goes on writing, without SQLite, a lock or a write.

    books   the counts, the mark, the highest key, the oldest event: as of one commit
    rows    the pending events in slices by key, each slice as of one commit, each row by its checksum

A snapshot is the frames of the WAL up to the last commit, laid over the database. Frames are only ever appended, until
the WAL starts anew with another header, which it does when all of them are in the database. A page of the database
changes only by a checkpoint, which copies frames. So what was read is of one commit if, when the WAL is looked at once
more, its header is the same, and no page that came from the database stands in a frame that was written since. Else it
is read again. Which frames are committed is told by their running checksums: salts alone do not tell, since frames of
a transaction that is being written have them too.

What `rows` promises is not a snapshot of all: every event that was pending when it began and still is when it ends
comes once, and none is altered; what came or went meanwhile may or may not come.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import time
from typing import TYPE_CHECKING, Final, TypeVar

from durable_tracker.engines.engine import View
from durable_tracker.engines.queue import Ledger, Row
from durable_tracker.engines.sqlite import salvage, watermark
from durable_tracker.engines.sqlite.books import COUNTS
from durable_tracker.engines.sqlite.connection import check_format
from durable_tracker.engines.sqlite.pages import Pages
from durable_tracker.engines.sqlite.preflight import DEAD_LETTERS_ROOT, EVENTS_ROOT, META_ROOT
from durable_tracker.engines.sqlite.raw import PAGE_SIZE, open_raw
from durable_tracker.engines.sqlite.row_codec import dead_letter_of, event_of, intact, is_intact, json_object
from durable_tracker.engines.sqlite.wal import Log
from durable_tracker.errors import DamagedQueueError, QueueError, StorageError, UnknownFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from durable_tracker.engines.queue import DeadLetter
    from durable_tracker.engines.sqlite.queue import SqliteQueue
    from durable_tracker.engines.sqlite.slots import Slot

_TRIES: Final = 200
_PAUSE_S: Final = 0.002
_TICK_NS: Final = 20_000_000
"""Two writes within one tick of the system's clock leave the same time on a file."""
_SLICES: Final = (500, 100, 20, 1)
_SLICE_SIZE: Final = 1 << 20
_PAGE_COUNT_AT: Final = 28
"""Where the header of a database says how many pages it has."""

T = TypeVar("T")


class SlotOnlooker:
    """A slot as it can be seen from outside; see `Onlooker`. Not thread-safe.

    Args:
        slot: the slot. No connection of this process has it open.

    Raises:
        StorageError: there is no such file, or it cannot be opened.
    """

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._log = Log(slot.wal)
        try:
            self._descriptor = open_raw(slot.database)
        except FileNotFoundError:
            waiting = ", ".join(path.name for path in salvage.pending(slot))
            also = f", and its events wait in {waiting}: to open the queue brings them back" if waiting else ""
            raise StorageError(f"{slot.database} is missing{also}") from None
        status = os.fstat(self._descriptor)
        self._place = (status.st_dev, status.st_ino)
        self.damaged = self.locked = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────

    def books(self) -> View:
        """Return the counts, as of one commit.

        Raises:
            UnknownFormatError: a newer release wrote the file.
            DamagedQueueError: the counts cannot be made out.
            StorageError: the file changes faster than it can be read.
        """
        return self._read(self._view)

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield the pending events above a key, oldest first. Altered rows are counted in `damaged`, and not yielded.

        Raises:
            DamagedQueueError: pages that do not change do not fit each other, or the owner replaced the file.
            StorageError: the file changes faster than it can be read.
        """
        while True:
            found, after = self._slice(EVENTS_ROOT, after)
            for key, value in found:
                event = event_of(key, value)
                if event is not None:
                    yield Row(key, event.payload)
                elif is_intact(key, value):
                    self.locked += 1
                else:
                    self.damaged += 1
            if not found:
                return

    def letters(self, after: int = -(1 << 62)) -> Iterator[DeadLetter]:
        """Yield the dead letters above a key; those below 0 were damaged on disk. Otherwise as `rows`."""
        while True:
            found, after = self._slice(DEAD_LETTERS_ROOT, after)
            letters = [letter for key, value in found if (letter := dead_letter_of(key, value)) is not None]
            self.damaged += len(found) - len(letters)
            yield from letters
            if not found:
                return

    # ── how it is read ───────────────────────────────────────────────────────────────────────────────────────────

    def _slice(self, root: int, after: int) -> tuple[list[tuple[int, object]], int]:
        """Return the next rows of a table; fewer where a page of them changes all the time."""
        for count_max in _SLICES:
            read = functools.partial(_rows, root=root, after=after, count_max=count_max)
            with contextlib.suppress(_ChangingError):
                return self._read(read, _TRIES // 16)
        return self._read(functools.partial(_rows, root=root, after=after, count_max=1))

    def _read(self, act: Callable[[_Snapshot], T], tries: int = _TRIES) -> T:
        """Return what `act` makes of the pages as of one commit.

        Raises:
            DamagedQueueError: it makes nothing of them, though nobody changed them.
            StorageError: they were changed at each try.
        """
        for attempt in range(tries):
            if attempt:
                time.sleep(_PAUSE_S * min(attempt, 10))
            begun_ns, before = time.time_ns(), self._times()
            self._log.look()
            header, committed = self._log.header, len(self._log.order)
            pages = _Snapshot(self._slot.database, self._descriptor, self._log)
            problem: QueueError | None = None
            try:
                result = act(pages)
            except (DamagedQueueError, UnknownFormatError) as exc:  # which half a page may look like
                problem = exc
            except (IndexError, struct.error, ValueError, KeyError) as exc:
                why = f"its pages do not fit each other ({type(exc).__name__}: {exc})"
                problem = DamagedQueueError(f"{self._slot.database}: {why}")
            self._check_place()
            self._log.look()
            if self._log.header != header or not pages.from_database.isdisjoint(self._log.order[committed:]):
                continue
            if not header and (self._times() != before or before[0] > begun_ns - _TICK_NS):
                continue  # without a WAL only the times tell that one was begun, and ended, meanwhile
            if problem is None:
                return result
            raise problem
        raise _ChangingError(f"{self._slot.database} changes faster than it can be read")

    def _times(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_mtime_ns, status.st_size

    def _check_place(self) -> None:
        try:
            status = self._slot.database.stat()
        except OSError as exc:
            raise DamagedQueueError(f"{self._slot.database}: {exc.strerror}") from None
        if (status.st_dev, status.st_ino) != self._place:
            raise DamagedQueueError(f"{self._slot.database} was replaced by its owner, who found it damaged")

    def _view(self, pages: _Snapshot) -> View:
        meta = _meta(pages)
        counts = {name: _integer(meta, name) for name in (*COUNTS, "requeued", "invalid")}
        mark = watermark.of(meta) or 0
        last = pages.last_leaf(EVENTS_ROOT) if meta else None
        highest = max((record.rowid for record in pages.leaf(pages.page(last))), default=0) if last is not None else 0
        accepted = max(_integer(meta, "high"), highest, mark) - counts.pop("requeued")
        gone = sum(counts[name] for name in COUNTS)
        (oldest, _) = _rows(pages, EVENTS_ROOT, 0, 1)
        event = event_of(*oldest[0]) if oldest else None
        header = pages.page(1) if pages.count else bytes(PAGE_SIZE)
        (free,) = struct.unpack_from(">I", header, 36)
        return View(
            ledger=Ledger(accepted=accepted, pending=accepted - gone, **counts),
            origin=json_object(meta.get("origin")) or {},
            used_bytes=max(pages.count - free, 0) * PAGE_SIZE,
            oldest=Row(oldest[0][0], event.payload) if event is not None else None,
            waiting=tuple(path.name for path in salvage.pending(self._slot)),
        )


class OwnerOnlooker:
    """A slot as its owner sees it, for its own process, which must not open the file; see `Onlooker`. Thread-safe."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue

    def books(self) -> View:
        """Return the counts."""
        queue = self._queue
        return View(ledger=queue.ledger(), origin=queue.origin, used_bytes=queue.used_bytes(), oldest=queue.oldest())

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield the pending events above a key, oldest first."""
        while found := self._queue.rows_above("events", after, _SLICES[0]):
            after = found[-1][0]
            yield from intact(found)

    def letters(self, after: int = -(1 << 62)) -> Iterator[DeadLetter]:
        """Yield the dead letters above a key."""
        while found := self._queue.rows_above("dead_letters", after, _SLICES[0]):
            after = found[-1][0]
            yield from (letter for row in found if (letter := dead_letter_of(*row)) is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: the queue stays open."""


class _ChangingError(StorageError):
    """The file was changed at each try."""


class _Snapshot(Pages):
    """The pages of a database as of the last commit, and which of them came from the database itself."""

    def __init__(self, path: Path, descriptor: int, log: Log) -> None:
        size = os.fstat(descriptor).st_size
        super().__init__(descriptor, overlay=log.overlay, count=log.page_count or size // PAGE_SIZE)
        self.path = path
        self.is_cut_short = self.count < META_ROOT <= int.from_bytes(os.pread(descriptor, 4, _PAGE_COUNT_AT), "big")
        self.from_database: set[int] = set()

    def page(self, number: int) -> bytes:
        """Return a page, and take note of where it came from."""
        if not self.is_in_wal(number):
            self.from_database.add(number)
        return super().page(number)


def _meta(pages: _Snapshot) -> dict[str, object]:
    """Return what is on record, nothing for a file that was made and not used yet.

    Raises:
        UnknownFormatError: a newer release wrote it.
        DamagedQueueError: it is shorter than its header says, so that it was used.
    """
    if pages.count < META_ROOT:
        if pages.is_cut_short:
            raise DamagedQueueError(f"{pages.path} is cut short")
        return {}
    check_format(pages.page(1), pages.path)
    found: dict[str, object] = {}
    for record in pages.rows_above(META_ROOT, 0):
        match record.columns:
            case [bytes(name), value]:
                found[name.decode("utf-8", "replace")] = value
    return found


def _rows(pages: _Snapshot, root: int, after: int, count_max: int) -> tuple[list[tuple[int, object]], int]:
    """Return the next rows above a key, and the key to go on from; of events only those that are not delivered."""
    meta = _meta(pages)
    if not meta:
        return [], after
    if root == EVENTS_ROOT:
        after = max(after, watermark.of(meta) or 0)
    found: list[tuple[int, object]] = []
    size = 0
    for rowid, columns in pages.rows_above(root, after):
        value = columns[-1]
        found.append((rowid, value))
        size += len(value) if isinstance(value, bytes) else 0
        if len(found) >= count_max or size >= _SLICE_SIZE:
            break
    return found, found[-1][0] if found else after


def _integer(meta: dict[str, object], name: str) -> int:
    value = meta.get(name, 0)
    if not isinstance(value, int):
        raise ValueError(f"the count {name} is altered")  # noqa: TRY004 (damage)
    return value
