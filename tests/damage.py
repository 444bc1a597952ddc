"""Slots whose files are damaged on purpose, and what comes out of them.

`healthy` makes the files of a slot as a clean end or a crash leaves them; `observe` opens what became of them with the
real code, drains it, and notes everything; `judge` compares.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_tracker.engines.queue import Ledger

PAGE_SIZE = 4096
META_PAGES = (5, 6)
LAST_WORDS = b'{"e":"pv","n":"put afterwards"}'
DAMAGE_LINES = {
    "queue.rows_damaged",
    "queue.file_damaged",
    "queue.file_salvaged",
    "queue.wal_damaged",
    "queue.wal_cut_short",
    "queue.counts_corrected",
    "queue.slot_of_newer_format",
}


def payload(number: int) -> bytes:
    """Return the event of that number: mostly small, some larger than a page, no two alike."""
    size = 9000 if number % 29 == 0 else 3000 if number % 11 == 0 else 60 + number % 50
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return b'{"e":"pv","n":"%d","x":"%s"}' % (number, (digest * (size // 64 + 1))[:size].encode())


@dataclass(frozen=True)
class Files:
    """A slot's database and WAL, and which events are where in them."""

    database: bytes
    wal: bytes
    pending: frozenset[bytes]
    dead: frozenset[bytes]
    gone: frozenset[bytes]

    @property
    def size(self) -> int:
        """Bytes of both files together."""
        return len(self.database) + len(self.wal)

    def flipped(self, position: int, bit: int) -> Files:
        """Return the files with one bit flipped. Positions go through the database, and then through the WAL."""
        database, wal = bytearray(self.database), bytearray(self.wal)
        if position < len(database):
            database[position] ^= 1 << bit
        else:
            wal[position - len(database)] ^= 1 << bit
        return replace(self, database=bytes(database), wal=bytes(wal))

    def is_of_counts(self, position: int) -> bool:
        """Return whether a position is on a page of the table of counts, which have no checksum."""
        if position < len(self.database):
            return position // PAGE_SIZE + 1 in META_PAGES
        frame, offset = divmod(position - len(self.database) - 32, PAGE_SIZE + 24)
        start = 32 + frame * (PAGE_SIZE + 24)
        return offset >= 24 and int.from_bytes(self.wal[start : start + 4], "big") in META_PAGES

    def write(self, directory: Path) -> Slot:
        """Lay the files out as slot 0 of `directory`, which is made."""
        make_private_directory(directory)
        slot = Slot(directory, 0)
        slot.database.write_bytes(self.database)
        if self.wal:
            slot.wal.write_bytes(self.wal)
        return slot


def healthy(*, crashed: bool, count: int = 120) -> Files:
    """Make a slot with pending, delivered and refused events. With `crashed`, half of it stands in the WAL alone.

    Where `acked.MARK_MIN` is 1, some that were delivered are only marked.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "slot"
        make_private_directory(directory)
        slot = Slot(directory, 0)
        queue = SqliteQueue.take(slot)
        queue.set_origin({"url": "http://127.0.0.1:9", "method": "post"})
        half = count // 2
        queue.put_many([payload(n) for n in range(1, half)])
        queue.ack([1, 2, 3])
        queue.ack([20])
        queue.reject([4, 5], 400, "refused")
        queue.close()
        gone, dead = {1, 2, 3, 20}, {4, 5}
        queue = SqliteQueue.take(slot)
        for number in range(half, count - 20):
            queue.put(payload(number))
        queue.ack([6, 7])
        queue.ack([half])
        queue.reject([8, half + 1], 422, "refused")
        queue.put_many([payload(n) for n in range(count - 20, count)])
        gone |= {6, 7, half}
        dead |= {8, half + 1}
        if not crashed:
            queue.close()
        database = slot.database.read_bytes()
        wal = slot.wal.read_bytes() if crashed else b""
        queue.close()
    return Files(
        database,
        wal,
        frozenset(payload(n) for n in range(1, count) if n not in gone | dead),
        frozenset(payload(n) for n in dead),
        frozenset(payload(n) for n in gone),
    )


@dataclass
class Observed:
    """What came out of a slot that was opened, drained and closed again."""

    out: Counter[bytes] = field(default_factory=Counter)
    dead: Counter[bytes] = field(default_factory=Counter)
    quarantined: int = 0
    before: Ledger | None = None
    after: Ledger | None = None
    rows_before: tuple[int, int] = (0, 0)
    lines: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    slot: Slot | None = None


class Lines(logging.Handler):
    """Keeps the event names of the package's log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(vars(record)["event"])
        self.records.append(record)

    def __enter__(self) -> Self:
        logging.getLogger("durable_tracker").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("durable_tracker").removeHandler(self)


def drained(queue: SqliteQueue, count: int = 25) -> Iterator[bytes]:
    """Deliver everything; yield the payloads."""
    while rows := queue.peek(0, count, 1 << 20):
        yield from (row.payload for row in rows)
        queue.ack([row.key for row in rows])
    queue.settle()


def observe(slot: Slot) -> Observed:
    """Open a slot, put one event, deliver everything, open it again, and note what was seen."""
    seen = Observed(slot=slot)
    with Lines() as lines:
        with SqliteQueue.take(slot) as queue:
            # Reading everything first finds damage that only a row shows; counts and rows must agree then.
            queue.put(LAST_WORDS)
            after = 0
            while rows := queue.peek(after, 25, 1 << 20):
                after = rows[-1].key
            queue.settle()
            letters = queue.dead_letters(1 << 20)
            seen.before = queue.ledger()
            seen.rows_before = sum(key > queue._books.acked for key in queue.events), len(letters)
            seen.dead.update(letter.payload for letter in letters)
            seen.quarantined = len(queue.dead_letters(1 << 20, after=-(1 << 62))) - len(letters)
            seen.out.update(drained(queue))
        with SqliteQueue.take(Slot(slot.directory, slot.index)) as queue:
            seen.out.update(drained(queue))
            seen.after = queue.ledger()
    seen.lines = lines.lines
    seen.files = {path.name for path in slot.directory.iterdir()}
    return seen


def judge(
    files: Files, seen: Observed, *, lost_max: int = 1, are_counts_sound: bool = True, is_seen_by_sqlite: bool = True
) -> list[str]:
    """Return what is wrong with what was seen, in words.

    Args:
        files: what was written.
        seen: what came of it.
        lost_max: events that may be missing.
        are_counts_sound: whether the ledger has to be right at once, and not only when the queue was found empty.
        is_seen_by_sqlite: whether a loss leaves traces that the log has to tell of.
    """
    found = []
    known = files.pending | files.dead | files.gone | {LAST_WORDS}
    if altered := set(seen.out) - known:
        found.append(f"altered bytes left: {min(altered)[:60]!r}")
    if altered := set(seen.dead) - known:
        found.append(f"altered bytes among the dead letters: {min(altered)[:60]!r}")
    lost = (files.pending | files.dead) - set(seen.out) - set(seen.dead)
    if len(lost) > lost_max:
        found.append(f"{len(lost)} events lost")
    if LAST_WORDS not in seen.out:
        found.append("what was put afterwards did not come out")
    if (
        is_seen_by_sqlite
        and (lost or any("damaged" in name or "salvaged" in name for name in seen.files))
        and not (DAMAGE_LINES & set(seen.lines))
    ):
        found.append(f"no line in the log: {seen.lines}")
    found += ledger_problems(seen, are_counts_sound=are_counts_sound)
    return found


def ledger_problems(seen: Observed, *, are_counts_sound: bool = True) -> list[str]:
    """Compare the ledger with the rows."""
    before, after = seen.before, seen.after
    assert before is not None
    assert after is not None
    found = []
    if are_counts_sound and (before.pending, before.dead) != seen.rows_before:
        found.append(f"the ledger says {before}, the tables have {seen.rows_before} rows")
    ledgers = (before, after) if are_counts_sound else (after,)
    found += [f"the ledger does not add up: {ledger}" for ledger in ledgers if not ledger.adds_up]
    if after.pending:
        found.append(f"nothing is left, but the ledger says {after}")
    return found


def copy_slot(source: Slot, directory: Path) -> Slot:
    """Copy a slot's files, as a crash at this moment would leave them, to another directory."""
    make_private_directory(directory)
    for path in source.directory.iterdir():
        if path.name.startswith(f"{source.index}.") and path.suffix != ".lock":
            shutil.copyfile(path, directory / path.name)
    return Slot(directory, source.index)
