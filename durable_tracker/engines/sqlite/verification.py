"""Looking at every page and every row of a slot, without mending anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.engines.engine import MAX_QUEUE_BYTES
from durable_tracker.engines.sqlite import preflight, salvage, watermark
from durable_tracker.engines.sqlite.books import COUNTS, OF_FORMAT_2
from durable_tracker.engines.sqlite.connection import Connection
from durable_tracker.engines.sqlite.row_codec import dead_letter_of, is_intact
from durable_tracker.errors import DamagedQueueError, UnknownFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_tracker.engines.sqlite.slots import Slot

_ROWS: Final = 500
_PROBLEMS_MAX: Final = 20
_KEY_MIN: Final = -(1 << 63)


@dataclass(slots=True)
class Verdict:
    """What was found in one slot.

    Attributes:
        slot: the database file.
        pending: events that are intact.
        dead: dead letters that are intact.
        set_aside: rows that failed their checksum earlier, and are kept.
        problems: what is wrong, in words; empty if the slot is sound.
        is_foreign: whether it is of a newer version, or not of this package at all, and so cannot be judged.
        waiting: files that were set aside, and whose rows are not all taken over yet.
    """

    slot: str
    pending: int = 0
    dead: int = 0
    set_aside: int = 0
    problems: list[str] = field(default_factory=list)
    is_foreign: bool = False
    waiting: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(slot: Slot) -> Verdict:
    """Check a slot whose lock the caller holds. Changes no more than opening and closing it does: the WAL is merged.

    Raises:
        QueueError: it cannot be read, for a reason other than damage.
    """
    verdict = Verdict(slot=str(slot.database), waiting=[path.name for path in salvage.pending(slot)])
    if verdict.waiting:
        verdict.problems.append(f"not all rows were taken over yet out of {', '.join(verdict.waiting)}")
    if not slot.database.exists():
        if not verdict.waiting:
            verdict.problems.append(f"{slot.database} is missing")
        return verdict
    try:
        size_max = slot.database.stat().st_size + MAX_QUEUE_BYTES
        connection = Connection(
            slot.database, sync_every_commit=True, size_max=size_max, inspect=lambda: _inspect(slot)
        )
    except UnknownFormatError as exc:
        verdict.is_foreign = True
        verdict.problems.append(str(exc))
    except DamagedQueueError as exc:
        verdict.problems.append(str(exc))
    else:
        try:
            _look(connection, verdict)
        except DamagedQueueError as exc:
            verdict.problems.append(str(exc))
        finally:
            connection.close_for_good()
    return verdict


def _inspect(slot: Slot) -> None:
    if preflight.inspect(slot):
        # SQLite would open it, and throw away what stands behind.
        raise DamagedQueueError(f"{slot.wal}: a frame of the WAL is damaged, and events follow")


def _look(connection: Connection, verdict: Verdict) -> None:
    rows = connection.select(f"PRAGMA integrity_check({_PROBLEMS_MAX})")
    verdict.problems += [f"SQLite: {_text(text)}" for (text,) in rows if text != b"ok"]
    damaged = {"events": 0, "dead_letters": 0}
    for key, value in _walk(connection, "events", verdict, _acked(connection, verdict)):
        if not is_intact(key, value):
            damaged["events"] += 1
        else:
            verdict.pending += 1
    for key, value in _walk(connection, "dead_letters", verdict, _KEY_MIN):
        if dead_letter_of(key, value) is None:
            damaged["dead_letters"] += 1
        elif key > 0:
            verdict.dead += 1
        else:
            verdict.set_aside += 1
    verdict.problems += [f"{count} rows of {table} fail their checksum" for table, count in damaged.items() if count]
    _compare_counts(connection, verdict, damaged)


def _acked(connection: Connection, verdict: Verdict) -> int:
    """Return the key up to which rows were delivered, and are not pending if they are still there."""
    found = connection.select(f"SELECT key, value FROM meta WHERE key IN {watermark.NAMES}")
    mark = watermark.of({name.decode(): value for name, value in found})
    if mark is None:
        verdict.problems.append("the mark up to which events were delivered is altered")
    return mark or _KEY_MIN


def _walk(connection: Connection, table: str, verdict: Verdict, after: int) -> Iterator[tuple[Any, Any]]:
    while True:
        rows = connection.select(
            f"SELECT key, value FROM {table} WHERE key > ? ORDER BY key LIMIT ?",
            (after, _ROWS),
        )
        if not rows:
            return
        yield from ((key, value) for key, value in rows)
        if rows[-1][0] <= after:
            verdict.problems.append(f"the keys of {table} are out of order")
            return
        after = rows[-1][0]


def _compare_counts(connection: Connection, verdict: Verdict, damaged: dict[str, int]) -> None:
    counts = {_text(key): value for key, value in connection.select("SELECT key, value FROM meta")}
    if not counts:
        return  # made, and killed before it was used
    counts = dict.fromkeys(OF_FORMAT_2, 0) | counts
    names = (*COUNTS, "requeued", "high")
    if not all(isinstance(counts.get(name), int) for name in names):
        verdict.problems.append("the counts are unreadable")
        return
    high_row = connection.select_one("SELECT max(key) FROM events")
    high = max(counts["high"], (high_row and high_row[0]) or 0)
    counted = high - counts["requeued"] - sum(counts[name] for name in COUNTS)
    for name, expected, found in (
        ("pending events", counted, verdict.pending + damaged["events"]),
        ("dead letters", counts["dead"], verdict.dead + damaged["dead_letters"]),
    ):
        if expected != found:
            verdict.problems.append(f"{expected} {name} are counted, and {found} are there")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
