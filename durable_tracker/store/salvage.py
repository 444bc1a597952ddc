"""What to do with a file that SQLite cannot read: set it aside, and take every intact row out of it.

    0.sqlite3 (damaged) ──rename──► 0.damaged-<time>.sqlite3 ──intact rows──► 0.sqlite3 (new)
                                             │
                                             └──rename, when that is committed──► 0.salvaged-<time>.sqlite3

Nothing is deleted. A crash in between leaves a file named `damaged`, and the next opening goes on with it. Rows are
found by reading pages, whatever state the b-trees above them are in, and a row is taken only if its checksum is right:
altered bytes never get back into a queue.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import StorageError
from durable_tracker.store.connection import META_PAGE
from durable_tracker.store.pages import Pages, wal_frames
from durable_tracker.store.records import dead_letter_of, payload_of
from durable_tracker.store.slots import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_tracker.store.pages import Frame
    from durable_tracker.store.slots import Slot

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
    """After a crash between the two renames of `set_aside`: move the WAL to its database."""
    if slot.wal.exists() and not slot.database.exists():
        for aside in reversed(pending(slot)):
            target = aside.with_name(aside.name + "-wal")
            if not target.exists():
                slot.wal.rename(target)
                sync_directory(slot.directory)
                return


def pending(slot: Slot) -> list[Path]:
    """Return the files of a slot that were set aside and not yet salvaged, oldest first."""
    form = re.compile(rf"{slot.index}\.{_PENDING}-[0-9T-]+\.sqlite3")
    return sorted(path for path in slot.directory.iterdir() if form.fullmatch(path.name))


@dataclass(slots=True)
class Found:
    """What can be read of a damaged database, in one pass.

    Attributes:
        high: the highest key of an intact row, 0 if there is none.
        meta: the counts and the origin, as far as they are readable.
    """

    high: int = 0
    meta: dict[str, int | bytes] = field(default_factory=dict)

    @property
    def acked(self) -> int:
        """Events with keys up to this one were delivered (see `acked`)."""
        match (self.meta.get("acked"), self.meta.get("acked_check")):
            case (int(key), int(check)) if key == -check:
                return key
        return 0


def survey(database: Path) -> Found:
    """Read what has to be known before rows are taken over."""
    found = Found()
    with contextlib.closing(_pages(database)) as pages:
        for rowid, columns in pages.records():
            match columns:
                case [None, bytes(value)] if payload_of(rowid, value) is not None:
                    found.high = max(found.high, rowid)
                case [bytes(name), int() | bytes() as value]:
                    found.meta[name.decode("utf-8", "replace")] = value
    return found


def intact_rows(database: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield key, value and whether it is a dead letter, of every intact row of a closed database and its WAL.

    In no particular order, perhaps one row more than once.
    """
    with contextlib.closing(_pages(database)) as pages:
        for rowid, columns in pages.records():
            match columns:
                case [None, bytes(value)] if payload_of(rowid, value) is not None:
                    yield rowid, value, False
                case [None, bytes(value)] if dead_letter_of(rowid, value) is not None:
                    yield rowid, value, True


def rows_beyond(database: Path, frames: list[Frame], recovered: int) -> tuple[list[tuple[int, bytes]], bool]:
    """Return the intact events that a WAL holds beyond the frame at which SQLite stopped, and whether it is damaged.

    With a single transaction there, nobody can say. A power failure may have cut it short, and then it was never
    acknowledged; or a bit was flipped in it, and then it was. The intact rows of a put are kept in either case; a part
    of anything else, which always writes counts too, would undo what it left behind. A second transaction was begun
    only when the first was on disk, so there it is damage that made SQLite stop. That holds for a WAL that was synced
    with every commit.
    """
    beyond = frames[recovered:]
    commits = sum(frame.commits for frame in beyond)
    if not commits:
        return [], False
    has_gap = [frame.place for frame in beyond] != list(range(recovered, recovered + len(beyond)))
    if commits == 1 and (has_gap or any(frame.page == META_PAGE for frame in beyond)):
        return [], False
    rows: dict[int, bytes] = {}
    with contextlib.closing(Pages(database, frames)) as pages:
        for frame in beyond:
            for rowid, columns in pages.leaf(frame.page, frame.image):
                match columns:
                    case [None, bytes(value)] if payload_of(rowid, value) is not None:
                        rows[rowid] = value
    return sorted(rows.items()), commits > 1


def _pages(database: Path) -> Pages:
    return Pages(database, wal_frames(database.with_name(database.name + "-wal")))


def done_name(aside: Path) -> Path:
    """Return what a file that was set aside is called once its rows were taken over."""
    return aside.with_name(aside.name.replace(f".{_PENDING}-", f".{_DONE}-"))


def mark_done(aside: Path) -> None:
    """Say that all intact rows of a file were taken over."""
    done = done_name(aside)
    wal = aside.with_name(aside.name + "-wal")
    if wal.exists():
        wal.rename(done.with_name(done.name + "-wal"))
    aside.rename(done)
    sync_directory(aside.parent)
