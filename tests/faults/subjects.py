"""The stores that the harness can put to the test."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .standin import Flaw, StandIn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from durable_tracker.engines.queue import Ledger, Row


class Store(Protocol):
    """The part of `durable_tracker.engines.queue.Queue` that the harness uses."""

    def put(self, payload: bytes) -> None: ...
    def put_many(self, payloads: Sequence[bytes]) -> None: ...
    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]: ...
    def ack(self, keys: Sequence[int]) -> None: ...
    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None: ...
    def ledger(self) -> Ledger: ...
    def mark(self) -> int: ...
    def close(self) -> None: ...


class DeadLetter(Protocol):
    """What was refused."""

    @property
    def key(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


@runtime_checkable
class Reviving(Protocol):
    """A store that can take dead letters back."""

    def dead_letters(self, limit: int) -> Sequence[DeadLetter]: ...
    def requeue(self, keys: Sequence[int]) -> int: ...


@runtime_checkable
class Purging(Protocol):
    """A store from which an operator may remove events."""

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]: ...
    def dead_letters(self, limit: int) -> Sequence[DeadLetter]: ...
    def purge(self, keys: Sequence[int]) -> int: ...
    def purge_dead_letters(self, keys: Sequence[int]) -> int: ...


@runtime_checkable
class Shrinking(Protocol):
    """A store that can give free pages back."""

    def shrink(self) -> bool: ...


class Subject(Protocol):
    """A store under test."""

    @property
    def interval_s(self) -> float:
        """How long a power loss may reach back: 0 if what was acknowledged is durable."""

    @property
    def acks_before_answer(self) -> bool:
        """Whether the program removes rows before the collector has answered (a mistake)."""

    def open(self, folder: Path) -> Store:
        """Open or create the store below `folder`, which may be missing."""

    def dead_values(self, folder: Path) -> list[bytes]:
        """Return the dead letters of a closed store; each contains its payload."""


@dataclass(frozen=True, slots=True)
class StandInSubject:
    """The stand-in, whole or with one flaw."""

    flaw: Flaw = Flaw.NONE
    interval_s: float = 0.0

    @property
    def acks_before_answer(self) -> bool:
        return self.flaw is Flaw.ACK_BEFORE_ANSWER

    def open(self, folder: Path) -> Store:
        return StandIn(folder / "queue", self.flaw)

    def dead_values(self, folder: Path) -> list[bytes]:
        return raw_values(folder / "queue" / "0.sqlite3", "dead")


def raw_values(path: Path, table: str) -> list[bytes]:
    """Return the values of a table of a closed database that has no WAL."""
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        connection.text_factory = bytes
        return [bytes(row[0]) for row in connection.execute(f"SELECT value FROM {table}")]  # noqa: S608
    finally:
        connection.close()


def subject(name: str) -> Subject:
    """Return a subject by its name.

    "standin", "standin:<a flaw's name>"; the product's queue as "queue", "queue:interval", or "queue:small_wal", which
    checkpoints, marks and sweeps after a few events instead of after hundreds or thousands.
    """
    kind, _, variant = name.partition(":")
    if kind == "standin":
        return StandInSubject(Flaw[variant] if variant else Flaw.NONE)
    from .real import QueueSubject

    return QueueSubject(variant)
