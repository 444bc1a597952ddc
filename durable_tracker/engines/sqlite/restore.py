"""Putting rows into a slot's file that were found in a damaged one, or behind a damaged frame of its log.

    begin   when a file was set aside: its counts and its highest key go into the new file, which takes puts at once
    some    before each reading of the queue: the intact rows of the next pages, as new rows at the end of the queue
    finish  when all was read: what was counted and not found is counted as damaged

In between, the rows that were not reached yet are counted as pending. How far it has got is recorded in the same
transaction as the rows, so that a crash repeats nothing. Where the rows come from is the business of `salvage`.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.engines.sqlite import salvage, watermark
from durable_tracker.engines.sqlite.row_codec import KEY_MAX, Event, event_of, json_object, moved

if TYPE_CHECKING:
    from pathlib import Path

    from durable_tracker.engines.sqlite.books import Books
    from durable_tracker.engines.sqlite.salvage import IntactRow

_ROWS: Final = 256  # in one transaction, or a page more
_SIZE: Final = 1 << 20
_PLACES: Final = 256
_PROGRESS: Final = "taking_over"
_RECORDS: Final = ("origin", "settings")  # of the address, and of how to deliver


class TakingOver:
    """The files of a slot that were set aside and are being read, oldest first. Guarded by the slot file's lock.

    One thread at a time reads; the lock is held for its transactions only, so that puts pass in between.
    """

    def __init__(self, books: Books, waiting: list[Path]) -> None:
        self._books = books
        self.waiting = waiting
        self._source: salvage.DamagedFile | None = None
        self._reading = threading.Lock()
        self._seen: set[tuple[bool, int]] = set()
        self._taken = 0

    def begin(self) -> None:
        """Take over the counts of files that were just set aside. Does nothing if that was done."""
        books = self._books
        if not self.waiting or self.waiting[-1].name in self._progress():
            return
        books.read_counts()
        counts, progress = dict(books.counts), self._progress()
        records: dict[str, bytes] = {}
        for path in self.waiting:
            source = salvage.DamagedFile(path)
            try:
                meta, high = source.meta(), source.high()
            finally:
                source.close()
            for key in counts.keys() - set(watermark.NAMES):
                value = meta.get(key)
                if isinstance(value, int) and key == "requeued" and abs(value) < KEY_MAX:
                    counts[key] = value  # falls with what the tracker refuses
                elif isinstance(value, int) and 0 <= value < KEY_MAX:
                    counts[key] = max(counts[key], value)  # they only grow
            counts["high"] = max(books.high, counts["high"], high)
            records |= {name: text for name in _RECORDS if isinstance(text := meta.get(name), bytes)}
            progress |= _progress_of(meta.get(_PROGRESS))
        statements = [f"UPDATE meta SET value = {value} WHERE key = '{key}'" for key, value in counts.items()]
        for name, text in records.items():
            statements.append(f"INSERT OR REPLACE INTO meta (key, value) VALUES ('{name}', x'{text.hex()}')")
        progress = {path.name: 0 for path in self.waiting} | progress
        books.transaction(";".join([*statements, _recorded(progress)]))
        books.reread_high()

    def some(self) -> None:
        """Take over the intact rows of the next pages.

        Raises:
            QueueFullError: there is no room for them now. What is there stays there.
            StorageError: a file cannot be read, for a reason other than damage.
        """
        with self._reading:
            if not self.waiting:
                return
            path = self.waiting[0]
            if self._source is None:
                self._source = salvage.DamagedFile(path)
                self._seen.clear()
            rows, place = self._read(self._source, self._progress().get(path.name, 0))
            with self._books.lock:
                self._store(path.name, rows, place)
                # Not before they are stored: where there was no room they are read again.
                self._seen.update((row.is_dead, row.key) for row in rows)
                if place >= self._source.places:
                    self._finish(path)

    def _read(self, source: salvage.DamagedFile, place: int) -> tuple[list[IntactRow], int]:
        """Return rows that were not seen before, and the place to go on from."""
        rows: list[IntactRow] = []
        new: set[tuple[bool, int]] = set()
        size, end = 0, min(place + _PLACES, source.places)
        while place < end and len(rows) < _ROWS and size < _SIZE:
            for row in source.rows(place):
                one = (row.is_dead, row.key)
                if one not in self._seen and one not in new:  # a page may hold what was moved to another one
                    new.add(one)
                    rows.append(row)
                    size += len(row.value)
            place += 1
        return rows, place

    def _store(self, name: str, rows: list[IntactRow], place: int) -> None:
        """Store rows at the end of the queue, and how far this has got. The lock is held."""
        books = self._books
        books.reread_high()
        statements, key = [], books.high
        for row in rows:
            if row.is_dead:
                value = row.value
                statements.append(
                    f"INSERT OR IGNORE INTO dead_letters (key, value) VALUES ({row.key}, x'{value.hex()}')"
                )
                continue
            key += 1
            value = moved(key, row.value)
            statements.append(f"INSERT INTO events (key, value) VALUES ({key}, x'{value.hex()}')")
        count = key - books.high
        statements.append(f"UPDATE meta SET value = value + {count} WHERE key IN ('high', 'requeued')")
        statements.append(_recorded(self._progress() | {name: place}))
        if count:
            statements.insert(0, f"UPDATE meta SET value = {books.high} WHERE key = 'high'")
        books.transaction(";".join(statements), sum(len(row.value) for row in rows), may_use_ballast=False)
        books.high = max(books.high, key)
        self._taken += len(rows)

    def _finish(self, path: Path) -> None:
        """Say that a file was read through, and, after the last one, what was not found. The lock is held."""
        books = self._books
        if self._source is not None:
            self._source.close()
            self._source = None
        salvage.mark_done(path)
        del self.waiting[0]
        if self.waiting:
            return
        books.recount()
        books.transaction(f"DELETE FROM meta WHERE key = '{_PROGRESS}'")
        lost = books.counts["damaged"]
        kept = str(salvage.done_name(path))
        books.note(logging.WARNING, "queue.file_salvaged", kept_as=kept, rows=self._taken, damaged=lost)

    def _progress(self) -> dict[str, int]:
        """Return how many places of each file were read, of those of which the counts were taken over."""
        return _progress_of(self._books.meta.get(_PROGRESS))

    def close(self) -> None:
        """Close the file that is being read."""
        if self._source is not None:
            self._source.close()


def _progress_of(value: object) -> dict[str, int]:
    try:
        progress: Any = json.loads(value) if isinstance(value, bytes) else {}
    except ValueError:
        return {}  # of a release that did not record how far it had got, or altered
    return progress if isinstance(progress, dict) else {}


def _recorded(progress: dict[str, int]) -> str:
    text = json.dumps(progress).encode().hex()
    return f"INSERT OR REPLACE INTO meta (key, value) VALUES ('{_PROGRESS}', x'{text}')"


def insert_beyond(books: Books, rows: list[tuple[int, bytes]]) -> None:
    """Store events that SQLite's recovery left behind a frame of the WAL that is damaged, or was never whole."""
    rows = [(key, value) for key, value in rows if key > books.high]
    if not rows:
        return
    # A letter that was just being requeued, perhaps edited, is still one: its new row was not whole.
    letters = {mark for letter, _ in books.letters() for mark in (letter.payload, _eid(letter.payload))}
    rows = [(key, value) for key, value in rows if not _is_among(letters, event_of(key, value) or Event(b""))]
    if not rows:
        return
    # What was cut short was never accepted: accepted is the highest key less what counts as requeued.
    missing = rows[-1][0] - books.high - len(rows)
    books.transaction(
        ";".join(f"INSERT INTO events (key, value) VALUES ({key}, x'{value.hex()}')" for key, value in rows)
        + f";UPDATE meta SET value = value + {missing} WHERE key = 'requeued'",
        sum(len(value) for _, value in rows),
    )
    books.reread_high()
    books.note(logging.ERROR, "queue.wal_cut_short", rows_salvaged=len(rows), rows_missing=missing)


def _is_among(letters: set[bytes | str | None], event: Event) -> bool:
    return event.payload in letters or (event.replays > 0 and (_eid(event.payload) or event.payload) in letters)


def _eid(payload: bytes) -> str | None:
    eid = (json_object(payload) or {}).get("eid")
    return eid if isinstance(eid, str) else None
