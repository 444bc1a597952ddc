"""What to do with a file that SQLite cannot read: set it aside, and read every intact row out of it.

    0.sqlite3 (damaged) ──rename──► 0.damaged-<time>.sqlite3 ──intact rows──► 0.sqlite3 (new)
                                             │
                                             └──rename, when that is committed──► 0.salvaged-<time>.sqlite3

Nothing is deleted. A crash in between leaves a file named `damaged`, and the next opening goes on with it. Rows are
found by reading pages, whatever state the b-trees above them are in, and a row is taken only if its checksum is right:
altered bytes never get back into a queue. How the rows get into the new file is the business of `restore`.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from durable_tracker.engines.sqlite import watermark
from durable_tracker.engines.sqlite.pages import Pages, map_page_of
from durable_tracker.engines.sqlite.preflight import EVENTS_ROOT, META_ROOT
from durable_tracker.engines.sqlite.row_codec import KEY_MAX, dead_letter_of, is_intact
from durable_tracker.engines.sqlite.slots import sync_directory
from durable_tracker.engines.sqlite.wal import read_wal
from durable_tracker.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_tracker.engines.sqlite.pages import Record
    from durable_tracker.engines.sqlite.slots import Slot
    from durable_tracker.engines.sqlite.wal import Frame

_PENDING: Final = "damaged"
_DONE: Final = "salvaged"


def set_aside(slot: Slot) -> None:
    """Move a slot's database and WAL out of the way. The database must be closed.

    Raises:
        StorageError: they cannot be moved.
    """
    aside = _free_name(slot)
    try:
        # The database first: for as long as the WAL has the slot's name, a database without it would lose rows.
        if slot.database.exists():
            slot.database.rename(aside)
        if slot.wal.exists():
            slot.wal.rename(aside.with_name(aside.name + "-wal"))
        sync_directory(slot.directory)
    except OSError as exc:
        raise StorageError(f"cannot move {slot.database} aside: {exc.strerror}") from None


def _free_name(slot: Slot) -> Path:
    """Return a name with the time in it that nothing has: the clock may go back, and a rename replaces."""
    second = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = time.time_ns() % 1_000_000_000
    while True:
        aside = slot.directory / f"{slot.index}.{_PENDING}-{second}-{number:09d}.sqlite3"
        if not aside.exists() and not done_name(aside).exists():
            return aside
        number += 1


def finish_setting_aside(slot: Slot) -> None:
    """After a crash between the two renames of `set_aside`: move the WAL to its database.

    Raises:
        StorageError: it cannot be moved.
    """
    if slot.wal.exists() and not slot.database.exists():
        for aside in reversed(pending(slot)):
            target = aside.with_name(aside.name + "-wal")
            if not target.exists():
                try:
                    slot.wal.rename(target)
                    sync_directory(slot.directory)
                except OSError as exc:
                    raise StorageError(f"cannot move {slot.wal} aside: {exc.strerror}") from None
                return


def pending(slot: Slot) -> list[Path]:
    """Return the files of a slot that were set aside and not yet salvaged, oldest first.

    Raises:
        StorageError: the directory cannot be read.
    """
    form = re.compile(rf"{slot.index}\.{_PENDING}-[0-9T-]+\.sqlite3")
    try:
        return sorted(path for path in slot.directory.iterdir() if form.fullmatch(path.name))
    except OSError as exc:
        raise StorageError(f"{slot.directory}: {exc.strerror}") from None


class IntactRow(NamedTuple):
    """A row of a damaged file whose checksum is right."""

    key: int
    value: bytes
    is_dead: bool


class DamagedFile:
    """A database that was set aside, and its WAL, read without SQLite. Not thread-safe.

    Its pages are those of the database with the WAL's transactions applied, up to the last one that was committed.
    A frame of the WAL that is damaged is read besides, as it may hold rows that no other page has, and replaces none;
    so is what was written after the last commit, as that frame may be what was damaged.
    """

    def __init__(self, database: Path) -> None:
        """Open it; the caller closes it with `close`.

        Raises:
            StorageError: it cannot be opened.
        """
        self.path = database
        wal = read_wal(database.with_name(database.name + "-wal"))
        committed, tail = wal.frames[: wal.committed], wal.frames[wal.committed :]
        whole = [frame for frame in committed if frame.is_whole]
        self._pages = Pages.of(database, whole, newer_than_map=_newer_than_map(committed))
        self._extra = [(frame.image, 0) for frame in committed if not frame.is_whole]
        if tail and (wal.is_doubtful(wal.committed) or all(frame.page != META_ROOT for frame in tail)):
            # Of a put: what removes rows, or moves them, changes the counts too. Or the commit may be what was lost.
            self._extra += [(frame.image, self._last_key()) for frame in tail]
        # Their large rows go on on pages that may stand beside them only.
        self._newest = Pages.of(database, [frame for frame in wal.frames if frame.is_whole])

    @property
    def places(self) -> int:
        """How many pages, and frames besides, there are."""
        return self._pages.count + len(self._extra)

    def rows(self, place: int) -> Iterator[IntactRow]:
        """Yield the intact rows of one of the `places`, from 0, but for those that were delivered.

        Raises:
            StorageError: it cannot be read, for a reason other than damage.
        """
        number, above = place + 1, self.delivered
        records: Iterator[Record]
        if number <= self._pages.count:
            records = self._pages.records(number)
        else:
            image, after = self._extra[number - self._pages.count - 1]
            records, above = self._newest.leaf(image), max(above, after)
        for rowid, columns in records:
            match columns:
                case [None, bytes(value)] if is_intact(rowid, value):
                    if rowid > above:
                        yield IntactRow(rowid, value, is_dead=False)
                case [None, bytes(value)] if dead_letter_of(rowid, value) is not None:
                    yield IntactRow(rowid, value, is_dead=True)

    def meta(self) -> dict[str, int | bytes]:
        """Return the counts and what else is on record, as far as that is readable."""
        found: dict[str, int | bytes] = {}
        for _, columns in self._pages.table(META_ROOT):
            match columns:
                case [bytes(name), int() | bytes() as value]:
                    found[name.decode("utf-8", "replace")] = value
        return found

    @property
    def delivered(self) -> int:
        """The mark: events with keys up to this one were delivered (see `watermark`)."""
        meta = self.meta() if self._meta is None else self._meta
        self._meta = meta
        return watermark.of(meta) or 0

    _meta: dict[str, int | bytes] | None = None

    def high(self) -> int:
        """Return the highest key that is known to have been given out."""
        recorded = self.meta().get("high")
        return max(
            recorded if isinstance(recorded, int) and recorded < KEY_MAX else 0,
            self._last_key(),
            *(
                row.key
                for place in range(self._pages.count, self.places)
                for row in self.rows(place)
                if not row.is_dead
            ),
        )

    def _last_key(self) -> int:
        """Return the key of the last intact row of events, 0 if their last page has none or is not led to."""
        last = self._pages.last_leaf(EVENTS_ROOT)
        if last is None:
            return 0
        found = (
            record.rowid
            for record in self._pages.leaf(self._pages.page(last))
            if len(record.columns) == 2 and is_intact(record.rowid, record.columns[1])  # noqa: PLR2004
        )
        return max(found, default=0)

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._pages.close()
        self._newest.close()


def _newer_than_map(frames: list[Frame]) -> set[int]:
    """Return the pages that were written after what is known of the pointer map: a damaged frame may be its newest."""
    written: dict[int, int] = {}
    damaged: list[int] = []
    transaction = 0
    for index, frame in enumerate(frames):
        if not frame.is_whole or frame.place != (frames[index - 1].place + 1 if index else 0):
            damaged.append(transaction)
        if frame.is_whole:
            written[frame.page] = transaction
        transaction += frame.commits
    return {
        page
        for page, last in written.items()
        if any(written.get(map_page_of(page), -1) < moment <= last for moment in damaged)
    }


def done_name(aside: Path) -> Path:
    """Return what a file that was set aside is called once its rows were taken over."""
    return aside.with_name(aside.name.replace(f".{_PENDING}-", f".{_DONE}-"))


def mark_done(aside: Path) -> None:
    """Say that all intact rows of a file were taken over.

    Raises:
        StorageError: it cannot be renamed.
    """
    done = done_name(aside)
    wal = aside.with_name(aside.name + "-wal")
    try:
        if wal.exists():
            wal.rename(done.with_name(done.name + "-wal"))
        aside.rename(done)
        sync_directory(aside.parent)
    except OSError as exc:
        raise StorageError(f"cannot rename {aside}: {exc.strerror}") from None
