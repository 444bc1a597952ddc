"""The product's own queue, as a subject of the harness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_tracker.engines.sqlite import books, interval_sync, sweep
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

from .subjects import raw_values

if TYPE_CHECKING:
    from pathlib import Path

    from durable_tracker.engines.engine import Durability

INTERVAL_S = 0.2
"""The interval sync's period in tests: a program then need not take minutes."""

_BYTE_LIMIT = 10_000
_SMALL_WAL = 48 << 10


@dataclass(frozen=True, slots=True)
class QueueSubject:
    """`SqliteQueue` on slot 0."""

    variant: str = ""

    @property
    def interval_s(self) -> float:
        return INTERVAL_S if self.variant == "interval" else 0.0

    @property
    def acks_before_answer(self) -> bool:
        return False

    def open(self, folder: Path) -> SqliteQueue:
        durability: Durability = "always"
        if self.variant == "interval":
            interval_sync.INTERVAL_S = INTERVAL_S  # type: ignore[misc]
            durability = "interval"
        elif self.variant == "small_wal":
            books.WAL_SIZE_MAX = _SMALL_WAL  # type: ignore[misc]
            sweep.MARK_MIN, sweep.SOME = 1, 3  # type: ignore[misc]
        directory = folder / "queue" / "emitter"
        make_private_directory(directory)
        return SqliteQueue.take(Slot(directory, 0), durability=durability, byte_limit=_BYTE_LIMIT)

    def dead_values(self, folder: Path) -> list[bytes]:
        return raw_values(folder / "queue" / "emitter" / "0.sqlite3", "dead_letters")
