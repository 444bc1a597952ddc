"""Delivered rows that still stand in the table, and their removal.

    ack of a batch, others wait behind it ──► mark: "up to this key all is delivered"    one page
    nothing is pending any more ────────────► sweep: the whole table at once             a few pages, however long it is
    more is put all the time ───────────────► sweep: some rows with each ack             beyond a bound
    no room, or puts that must not wait ────► sweep: some rows                           the pages that they stand on

SQLite deletes a row by rewriting its page and balancing the tree, which costs about as much as to write the row anew.
So while a backlog is drained nothing is deleted but the mark moves. Whoever reads events reads those beyond the mark.
Rows count as delivered when they are marked. The caller holds the file's lock.
"""

# ruff: noqa: S608 (what stands in these statements are integers)

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durable_tracker.errors import QueueFullError
from durable_tracker.store import dead_letters
from durable_tracker.store.connection import KeyTakenError

if TYPE_CHECKING:
    from durable_tracker.store.slot_file import SlotFile

NAMES: Final = ("acked", "acked_check")
"""The mark, and its negative: a flipped bit in either must not hide rows."""

MARK_MIN: Final = 64
"""Fewer rows are deleted at once: a mark has to be swept later, which is one more commit."""

SOME: Final = 256
"""Rows that are swept while a put may wait: a fraction of a millisecond."""

AT_ONCE: Final = 1 << 12
"""Pages that are emptied at once while puts may wait: 16 MiB, some milliseconds, as a checkpoint."""

IN_STEP: Final = 1024
"""Rows that are swept at once, at most, while events are tracked all the time."""

_SIZE_IN_LOG: Final = 512  # bytes, of a deleted row
_PAGES_ON_A_LIST: Final = 500  # that became free; half as many as would go on one, since the pointer map changes too


def mark(file: SlotFile, first: int, last: int) -> bool:
    """Note that the rows from `first` to `last` are delivered, if nothing before them is pending and others wait.

    Returns:
        Whether it was noted. If not, the rows have to be deleted.
    """
    count = last - first + 1
    if count < MARK_MIN or file.high - last < count or not file.headroom.is_there or _first(file, file.acked) != first:
        return False
    if file.ledger().pending > file.high - first + 1:
        return False  # a damaged page hides rows before these: they must not come to stand below the mark
    file.grew, file.high_at_mark = file.high > file.high_at_mark, file.high
    file.transaction(
        f"{dead_letters.RECORD_HIGH};"
        "UPDATE meta SET value = value +"
        f" (SELECT count(*) FROM events WHERE key BETWEEN {first} AND {last}) WHERE key = 'delivered';"
        f"{moved(last)}",
        pages=1,
    )
    return True


def moved(key: int) -> str:
    """Return the SQL that moves the mark."""
    return f"UPDATE meta SET value = CASE key WHEN 'acked' THEN {key} ELSE -{key} END WHERE key IN {NAMES}"


def sweep(file: SlotFile, pages_max: int = AT_ONCE) -> bool:
    """Delete marked rows: all at once if nothing is pending and they fill up to `pages_max` pages, else some.

    Returns:
        Whether there were any.
    """
    acked = file.acked
    oldest = _first(file, 0) if acked else None
    if oldest is None or oldest > acked:
        return False
    if file.headroom.is_there and _first(file, acked) is None and file.ledger().pending == 0:
        pages = file.connection.used_pages()
        if pages <= pages_max and _empty(file, acked, pages):
            return True
    last = min(oldest + SOME - 1, acked)
    file.transaction(f"DELETE FROM events WHERE key <= {last}", SOME * _SIZE_IN_LOG)
    return True


def sweep_beyond(file: SlotFile, count: int) -> None:
    """After an ack of `count` rows: delete twice as many that are marked, if they would fill the file for ever.

    That is where more is put all the time, so that the queue is never empty, and they are more than what is pending.
    """
    if not (file.grew and file.acked) or file.connection.used_pages() <= AT_ONCE:
        return
    oldest = _first(file, 0)
    if oldest is None or file.acked - oldest < max(file.ledger().pending, SOME):
        return
    last = min(oldest + min(2 * count, IN_STEP) - 1, file.acked)
    file.transaction(f"DELETE FROM events WHERE key <= {last}", (last - oldest + 1) * _SIZE_IN_LOG)


def _first(file: SlotFile, after: int) -> int | None:
    row = file.connection.select_one("SELECT min(key) FROM events WHERE key > ?", (after,))
    return None if row is None else row[0]


def _empty(file: SlotFile, acked: int, pages: int) -> bool:
    """Empty the table. Return False, with nothing done, if there is something in it that is not marked, or no room."""
    try:
        # A DELETE with a condition would go row by row. So what a signal handler may just have put is what makes the
        # INSERT fail, by a name that exists already, and with it the transaction.
        file.transaction(
            "INSERT INTO meta (key, value)"
            f" SELECT 'high', 0 WHERE (SELECT max(key) FROM events) > {acked};"
            f"DELETE FROM events;{moved(0)}",
            pages=8 + pages // _PAGES_ON_A_LIST,
        )
    except (KeyTakenError, QueueFullError):
        return False
    return True
