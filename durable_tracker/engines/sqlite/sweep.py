"""Delivered rows that still stand in the table, and their removal.

    ack of a batch, others wait behind it ──► mark: "up to this key all is delivered"    one page
    nothing is pending any more ────────────► sweep: the whole table at once             a few pages, however long it is
    more is put all the time ───────────────► sweep: some rows with each ack             beyond a bound
    no room, or puts that must not wait ────► sweep: some rows                           the pages that they stand on

SQLite deletes a row by rewriting its page and balancing the tree, which costs about as much as to write the row anew.
So while a backlog is drained nothing is deleted but the mark moves. Whoever reads events reads those beyond the mark.
Rows count as delivered when they are marked. The caller holds the file's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durable_tracker.engines.sqlite import watermark
from durable_tracker.engines.sqlite.books import RECORD_HIGH
from durable_tracker.engines.sqlite.connection import KeyTakenError
from durable_tracker.errors import QueueFullError, SlotBusyError

if TYPE_CHECKING:
    from durable_tracker.engines.sqlite.books import Books

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


def mark(books: Books, first: int, last: int) -> bool:
    """Note that the rows from `first` to `last` are delivered, if nothing before them is pending and others wait.

    Returns:
        Whether it was noted. If not, the rows have to be deleted.
    """
    count = last - first + 1
    if (
        count < MARK_MIN
        or books.high - last < count
        or not books.headroom.is_there
        or _first(books, books.acked) != first
    ):
        return False
    if books.ledger().pending > books.high - first + 1:
        return False  # a damaged page hides rows before these: they must not come to stand below the mark
    books.grew, books.high_at_mark = books.high > books.high_at_mark, books.high
    books.transaction(
        f"{RECORD_HIGH};"
        "UPDATE meta SET value = value +"
        f" (SELECT count(*) FROM events WHERE key BETWEEN {first} AND {last}) WHERE key = 'delivered';"
        f"{watermark.moved(last)}",
        pages=1,
    )
    return True


def sweep(books: Books, pages_max: int = AT_ONCE) -> bool:
    """Delete marked rows: all at once if nothing is pending and they fill up to `pages_max` pages, else some.

    Returns:
        Whether there were any.
    """
    acked = books.acked
    oldest = _first(books, 0) if acked else None
    if oldest is None or oldest > acked:
        return False
    if books.headroom.is_there and _first(books, acked) is None and books.ledger().pending == 0:
        pages = books.connection.used_pages()
        if pages <= pages_max and _empty(books, acked, pages):
            return True
    last = min(oldest + SOME - 1, acked)
    books.transaction(f"DELETE FROM events WHERE key <= {last}", SOME * _SIZE_IN_LOG)
    return True


def sweep_beyond(books: Books, count: int) -> None:
    """After an ack of `count` rows: delete twice as many that are marked, if they would fill the file for ever.

    That is where more is put all the time, so that the queue is never empty, and they are more than what is pending.
    """
    if not (books.grew and books.acked) or books.connection.used_pages() <= AT_ONCE:
        return
    oldest = _first(books, 0)
    if oldest is None or books.acked - oldest < max(books.ledger().pending, SOME):
        return
    last = min(oldest + min(2 * count, IN_STEP) - 1, books.acked)
    books.transaction(f"DELETE FROM events WHERE key <= {last}", (last - oldest + 1) * _SIZE_IN_LOG)


def _first(books: Books, after: int) -> int | None:
    row = books.connection.select_one("SELECT min(key) FROM events WHERE key > ?", (after,))
    return None if row is None else row[0]


def _empty(books: Books, acked: int, pages: int) -> bool:
    """Empty the table. Return False, with nothing done, if there is something in it that is not marked, or no room."""
    try:
        # A DELETE with a condition would go row by row. So what a signal handler may just have put is what makes the
        # INSERT fail, by a name that exists already, and with it the transaction.
        books.transaction(
            "INSERT INTO meta (key, value)"
            f" SELECT 'high', 0 WHERE (SELECT max(key) FROM events) > {acked};"
            f"DELETE FROM events;{watermark.moved(0)}",
            pages=8 + pages // _PAGES_ON_A_LIST,
        )
    except (KeyTakenError, QueueFullError):
        return False
    return True


def make_room(books: Books) -> bool:
    """On a full queue: delete some rows that were delivered. Return whether there is room for more puts by that."""
    try:
        if not sweep(books):
            return False
    except SlotBusyError:
        return False  # in a signal handler that interrupted a read, which locks the table
    books.make_room()
    return True
