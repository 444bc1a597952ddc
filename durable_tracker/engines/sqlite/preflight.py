"""Looking at a slot's files before SQLite opens them, for damage that SQLite would make worse without a word.

    a WAL with committed frames behind a damaged one    SQLite stops there, and writes older pages over newer ones
    a damaged list of free pages                        SQLite writes new rows over a page that is in use
    a page whose header does not fit its cells          SQLite writes the next row over others

Everything is read before a connection of this process has the file open; see `raw`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from durable_tracker.engines.sqlite.pages import Pages, is_consistent_leaf
from durable_tracker.engines.sqlite.row_codec import is_intact
from durable_tracker.engines.sqlite.wal import read_wal
from durable_tracker.errors import DamagedQueueError, StorageError

if TYPE_CHECKING:
    from durable_tracker.engines.sqlite.slots import Slot
    from durable_tracker.engines.sqlite.wal import Frame, Wal

ROOTS: Final = (3, 4, 5)
EVENTS_ROOT: Final = 3
DEAD_LETTERS_ROOT: Final = 4
META_ROOT: Final = 5

Rows = list[tuple[int, bytes]]


def inspect(slot: Slot) -> Rows:
    """Look at a slot that is about to be opened.

    Returns:
        The keys and values of the events that SQLite will leave behind, for the caller to put in again.

    Raises:
        DamagedQueueError: SQLite must not open it.
        StorageError: it cannot be read, for a reason other than damage.
    """
    try:
        size = slot.database.stat().st_size
    except FileNotFoundError:
        size = 0
    except OSError as exc:
        raise StorageError(f"{slot.database}: {exc.strerror}") from None
    wal = read_wal(slot.wal)
    if size == 0 and (wal.frames or wal.has_holes):
        raise DamagedQueueError(f"{slot.database} is empty, but its WAL is not")
    if wal.has_holes:
        raise DamagedQueueError(f"{slot.wal}: a piece of it cannot be read")
    if size == 0:
        return []
    with contextlib.closing(Pages.of(slot.database, wal.frames[: wal.recovered])) as pages:
        if pages.count < max(ROOTS):
            return []  # made, and killed before it had tables; or SQLite says what it is
        _check_where_rows_are_added(slot, pages)
        if not wal.frames[wal.recovered :]:
            return []
        return _behind(slot, wal)


def _check_where_rows_are_added(slot: Slot, pages: Pages) -> None:
    for root in ROOTS:
        last = pages.last_leaf(root)
        # A page from the WAL has a checksum of its own.
        if last is None or not (pages.is_in_wal(last) or is_consistent_leaf(pages.page(last))):
            raise DamagedQueueError(f"{slot.database}: the last page of table {root} does not say where its rows are")
    if (problem := pages.freelist_problem()) is not None:
        raise DamagedQueueError(f"{slot.database}: {problem}")


def _behind(slot: Slot, wal: Wal) -> Rows:
    """Return the events behind a damaged frame, if the frames before it are all that the database has got.

    They are only ever added: a part of a transaction that removes rows removes none.

    What stands there is either damage, or the tail of a WAL that a power failure cut short. A tail that was cut short
    was never synced, and a checkpoint syncs the WAL first: then no page of it is in the database, and what SQLite
    recovers is consistent. With a sync at every commit, moreover, a transaction is begun only when the one before is
    on disk, so that no more than one can be cut short.
    """
    behind = wal.frames[wal.recovered :]
    with contextlib.closing(Pages.of(slot.database, [frame for frame in wal.frames if frame.is_whole])) as newest:
        durability = next((value for name, value in _meta(newest) if name == b"durability"), None)
    damaged = f"{slot.wal}: frame {_first_damaged(wal) + 1} of the WAL is damaged, and committed ones follow"
    if durability == b'"always"' and wal.commits_behind > 1:
        raise DamagedQueueError(damaged)
    before = wal.frames[: wal.recovered]
    whole = [frame for frame in behind if frame.is_whole]  # of another, the image may be what an older frame left there
    if wal.commits_behind and _are_in_database(slot, whole, before):
        raise DamagedQueueError(damaged)
    if wal.is_doubtful(wal.recovered) and _are_in_database(slot, _unique(slot, whole, before), before):
        # What a checkpoint has copied was committed: it is the commit that was damaged.
        raise DamagedQueueError(damaged)
    return rows_of(slot, wal)


def rows_of(slot: Slot, wal: Wal) -> Rows:
    """Return the intact events behind what SQLite recovers, in the order of their keys.

    The caller keeps only those with keys above the highest that was recovered: the others were there before.
    """
    behind = wal.frames[wal.recovered :]
    images = list({frame.page: frame.image for frame in behind if frame.is_whole}.values())
    images += [frame.image for frame in behind if not frame.is_whole]
    rows: dict[int, bytes] = {}
    with contextlib.closing(Pages.of(slot.database, wal.frames)) as pages:
        for image in images:
            for rowid, columns in pages.leaf(image):
                match columns:
                    case [None, bytes(value)] if is_intact(rowid, value):
                        rows[rowid] = value
    return sorted(rows.items())


def _unique(slot: Slot, behind: list[Frame], before: list[Frame]) -> list[Frame]:
    """Return the frames whose pages no earlier transaction can have left: with counts, or with new events, in them.

    Others may be byte for byte what they were before, as a page from which the last row was removed again.
    """
    with contextlib.closing(Pages.of(slot.database, before)) as pages:
        last = pages.last_leaf(EVENTS_ROOT)
        high = max((record.rowid for record in pages.leaf(pages.page(last))), default=0) if last is not None else 0
        return [
            frame
            for frame in behind
            if frame.page == META_ROOT
            or any(
                record.rowid > high and is_intact(record.rowid, record.columns[-1])
                for record in pages.leaf(frame.image)
                if record.columns
            )
        ]


def _are_in_database(slot: Slot, behind: list[Frame], before: list[Frame]) -> bool:
    """Return whether a page behind the damaged frame was copied into the database, as a checkpoint does."""
    newest = {frame.page: frame.image for frame in behind}
    older = {frame.page: frame.image for frame in before}
    with contextlib.closing(Pages.of(slot.database)) as pages:
        return any(
            0 < number <= pages.count and older.get(number) != pages.page(number) == image
            for number, image in newest.items()
        )


def _meta(pages: Pages) -> list[tuple[bytes, object]]:
    found: list[tuple[bytes, object]] = []
    for _, columns in pages.table(META_ROOT):
        match columns:
            case [bytes(name), value]:
                found.append((name, value))
    return found


def _first_damaged(wal: Wal) -> int:
    return next((frame.place for frame in wal.frames if not frame.is_whole), wal.recovered)
