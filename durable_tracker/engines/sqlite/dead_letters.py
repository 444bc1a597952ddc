"""Events that were set aside: refused by the collector for what they are, or altered on disk.

Every move is one transaction that also keeps the counts. The caller holds the file's lock.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from durable_tracker.engines.queue import INVALID_MAX, DeadLetter
from durable_tracker.engines.sqlite.books import RECORD_HIGH
from durable_tracker.engines.sqlite.connection import KeyTakenError
from durable_tracker.engines.sqlite.row_codec import (
    dead_letter_of,
    dead_letter_record,
    event_of,
    is_intact,
    letter_flags,
    record,
)
from durable_tracker.errors import DeadLettersFullError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from durable_tracker.engines.sqlite.books import Books

COUNT_MAX: Final = 10_000
SIZE_MAX: Final = 64 << 20
INVALID_SIZE_MAX: Final = 16 << 20
INVALID_KEY_MIN: Final = 1 << 50
"""Keys from here on are of letters that the tracker refused; no event will ever have one."""

_NEXT_INVALID: Final = (
    f"SELECT coalesce(max(key), {INVALID_KEY_MIN - 1}) + 1 FROM dead_letters WHERE key >= {INVALID_KEY_MIN}"
)
_KEY_TRIES: Final = 100
_DISCARDED_AT_ONCE: Final = 100  # finding the oldest means reading them
_QUOTA_SHARE: Final = 4  # of a small quota letters take a quarter at most: else they would keep new events out for ever


def bury(books: Books, key: int, status: int | None, reason: str) -> None:
    """Move a refused row to the dead letters. Does nothing if there is no such row.

    Raises:
        DeadLettersFullError: they have reached their bound.
    """
    check_room(books)
    row = books.connection.select_one("SELECT value FROM events WHERE key = ? AND key > ?", (key, books.acked))
    if row is None:
        return
    event = event_of(key, row[0])
    if event is None:
        set_aside(books, [key])
        return
    letter = DeadLetter(key, status, reason, _now_ms(), event.payload, replays=event.replays)
    _move(books, key, letter, "dead", RECORD_HIGH)


def add_invalid(books: Books, payload: bytes, reason: str) -> None:
    """Put an event among the dead letters that the tracker refused.

    It takes no key of the events, since a signal handler may call this amid a put that has chosen its own. These
    letters have keys of their own, and each counts as accepted by one less that counts as requeued.

    These have a bound of their own, beyond which the oldest of them are discarded: what a collector has refused is
    never displaced by what a caller does wrong all the time.

    Raises:
        QueueFullError: there is no room.
    """
    size_max = min(INVALID_SIZE_MAX, books.max_queue_bytes // (2 * _QUOTA_SHARE))
    if books.counts["invalid"] >= INVALID_MAX or books.counts["invalid_size"] + len(payload) > size_max:
        _discard_invalid(books, INVALID_MAX - _DISCARDED_AT_ONCE, size_max - size_max // 8 - len(payload))
    if books.connection.is_at_limit(len(payload)):
        raise books.explain_full(QueueFullError(str(books.slot.database)), len(payload))
    for tries_left in reversed(range(_KEY_TRIES)):
        (key,) = books.connection.select_one(_NEXT_INVALID) or (INVALID_KEY_MIN,)
        value = dead_letter_record(DeadLetter(key, None, reason, _now_ms(), payload, kind="invalid"))
        try:
            books.transaction(
                f"INSERT INTO dead_letters (key, value) VALUES ({key}, x'{value.hex()}');"
                "UPDATE meta SET value = value - 1 WHERE key = 'requeued';"
                "UPDATE meta SET value = value + 1 WHERE key IN ('dead', 'invalid');"
                f"UPDATE meta SET value = value + {len(value)} WHERE key IN ('dead_size', 'invalid_size')",
                len(value),
            )
        except KeyTakenError:  # by a signal handler that interrupted this
            if not tries_left:
                raise
        else:
            return


def _discard_invalid(books: Books, count_max: int, size_max: int) -> None:
    """Discard the oldest letters that the tracker refused, until there are that many of that size."""
    count, size = books.counts["invalid"], books.counts["invalid_size"]
    gone: list[int] = []
    for letter, length in books.letters():
        if count <= count_max and size <= size_max:
            break
        if letter.kind == "invalid":
            gone.append(letter.key)
            count, size = count - 1, size - length
    if gone:
        sizes = books.counts["invalid_size"] - size
        books.transaction(
            f"DELETE FROM dead_letters WHERE key IN ({', '.join(map(str, gone))});"
            f"UPDATE meta SET value = value - {len(gone)} WHERE key IN ('dead', 'invalid');"
            f"UPDATE meta SET value = value - {sizes} WHERE key IN ('dead_size', 'invalid_size');"
            f"UPDATE meta SET value = value + {len(gone)} WHERE key = 'discarded'"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def set_aside(books: Books, keys: Iterable[int]) -> None:
    """Move rows that failed their checksum to the dead letters, under negative keys."""
    reason = "the row failed its checksum: its bytes were altered on disk"
    # A damaged row's key may be wrong: it must not go on record as the highest.
    high = f"UPDATE meta SET value = max(value, {books.high}) WHERE key = 'high'"
    for key in keys:
        row = books.connection.select_one("SELECT value FROM events WHERE key = ?", (key,))
        if row is None or is_intact(key, row[0]):
            books.check_soundness(f"key {key} leads to one row in order, and to another or none by itself")
        else:
            # A flipped bit can also turn the bytes into NULL or a number.
            kept = row[0][4:].lstrip(b"\0") if isinstance(row[0], bytes) else repr(row[0]).encode()
            letter = DeadLetter(-abs(key), None, reason, _now_ms(), kept, kind="damaged")
            _move(books, key, letter, "damaged", high)
    books.note(logging.ERROR, "queue.rows_damaged", keys=list(keys))


def set_letter_aside(books: Books, key: int) -> None:
    """Count a dead letter that failed its checksum as damaged, and keep its bytes under a negative key."""
    row = books.connection.select_one("SELECT value FROM dead_letters WHERE key = ?", (key,))
    if row is None:
        return
    old = row[0] if isinstance(row[0], bytes) else repr(row[0]).encode()
    reason = "the dead letter failed its checksum: its bytes were altered on disk"
    value = dead_letter_record(DeadLetter(-key, None, reason, _now_ms(), old, kind="damaged"))
    invalid = books.count_invalid()
    books.transaction(
        f"INSERT OR IGNORE INTO dead_letters (key, value) VALUES ({-key}, x'{value.hex()}');"
        f"DELETE FROM dead_letters WHERE key = {key};"
        "UPDATE meta SET value = value - changes() WHERE key = 'dead';"
        "UPDATE meta SET value = value + 1 WHERE key = 'damaged';"
        f"UPDATE meta SET value = value + {len(value) - len(old)} WHERE key = 'dead_size';"
        f"UPDATE meta SET value = {invalid['invalid']} WHERE key = 'invalid';"
        f"UPDATE meta SET value = {invalid['invalid_size']} WHERE key = 'invalid_size'",
        len(value),
    )
    books.note(logging.ERROR, "queue.rows_damaged", keys=[key])


def _move(books: Books, key: int, letter: DeadLetter, count: str, high: str) -> None:
    value = dead_letter_record(letter)
    books.transaction(
        f"{high};"
        f"INSERT OR REPLACE INTO dead_letters (key, value) VALUES ({letter.key}, x'{value.hex()}');"
        f"UPDATE meta SET value = value + {len(value)} WHERE key = 'dead_size';"
        f"DELETE FROM events WHERE key = {key};"
        f"UPDATE meta SET value = value + changes() WHERE key = '{count}'",
        len(value),
    )


def check_room(books: Books) -> None:
    """See that there is room for one more letter.

    Raises:
        DeadLettersFullError: there is none.
    """
    size_max = min(SIZE_MAX, books.max_queue_bytes // _QUOTA_SHARE)
    count = books.counts["dead"] - books.counts["invalid"]
    size = books.counts["dead_size"] - books.counts["invalid_size"]
    if count >= COUNT_MAX or (count and size >= size_max):
        raise DeadLettersFullError(
            f"{books.slot.database} has {count} dead letters of {size} bytes, and takes {COUNT_MAX} or {size_max} bytes"
        )


def requeue(books: Books, old: int, edited: bytes | None = None) -> bool:
    """Move a letter back to the end of the queue, under a new key. Return whether there was one.

    With `edited`, that goes back instead of its payload.

    A row that failed its checksum stays: altered bytes are never sent. So does one of a kind that only a newer release
    can read.
    """
    row = books.connection.select_one("SELECT value FROM dead_letters WHERE key = ?", (old,))
    letter = None if row is None or old <= 0 else dead_letter_of(old, row[0])
    if row is None or old <= 0:
        return False
    if letter is None:
        set_letter_aside(books, old)
        return False
    if letter_flags(row[0]):
        return False
    books.reread_high()
    key = books.high + 1
    value = record(key, letter.payload if edited is None else edited, letter.replays + 1)
    of_invalid = (
        "UPDATE meta SET value = value - 1 WHERE key = 'invalid';"
        f"UPDATE meta SET value = value - {len(row[0])} WHERE key = 'invalid_size';"
        if letter.kind == "invalid"
        else ""
    )
    books.transaction(
        f"INSERT INTO events (key, value) VALUES ({key}, x'{value.hex()}');"
        f"DELETE FROM dead_letters WHERE key = {old};"
        "UPDATE meta SET value = value - changes() WHERE key = 'dead';"
        f"UPDATE meta SET value = value - {len(row[0])} WHERE key = 'dead_size';{of_invalid}"
        f"UPDATE meta SET value = value + 1 WHERE key = 'requeued';{RECORD_HIGH}",
        len(value),
    )
    books.high = key
    return True


def purge(books: Books, keys: Sequence[int]) -> int:
    """Remove letters for good, whatever is in them. Return how many.

    SQLite counts them within the transaction, by their keys: what a signal handler adds or discards meanwhile changes
    nothing. Of those below 0 no more are counted as purged than as damaged, since a salvaged file may hold others.
    """
    asked_for = f"FROM dead_letters WHERE key IN ({', '.join(map(str, keys))})"
    of_invalid = f"{asked_for} AND key >= {INVALID_KEY_MIN}"
    damaged = f"min((SELECT count(*) {asked_for} AND key < 0), (SELECT max(value, 0) FROM meta WHERE key = 'damaged'))"
    before = books.ledger().purged
    books.transaction(
        f"UPDATE meta SET value = value + (SELECT count(*) {asked_for} AND key > 0) + {damaged} WHERE key = 'purged';"
        f"UPDATE meta SET value = value - (SELECT count(*) {asked_for} AND key > 0) WHERE key = 'dead';"
        f"UPDATE meta SET value = value - {damaged} WHERE key = 'damaged';"
        f"UPDATE meta SET value = value - (SELECT count(*) {of_invalid}) WHERE key = 'invalid';"
        f"UPDATE meta SET value = value - (SELECT coalesce(sum(length(value)), 0) {of_invalid})"
        " WHERE key = 'invalid_size';"
        f"UPDATE meta SET value = value - (SELECT coalesce(sum(length(value)), 0) {asked_for}) WHERE key = 'dead_size';"
        f"DELETE {asked_for}",
        len(keys) * 512,
    )
    return books.ledger().purged - before
