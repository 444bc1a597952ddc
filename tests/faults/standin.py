"""A small durable store, and each of the mistakes that a durable store can make.

It exists for the harness alone: in its correct form the harness must pass it, and with any `Flaw` it must not.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

from durable_tracker.engines.queue import Ledger, Row
from durable_tracker.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Flaw(enum.Enum):
    """A mistake that loses, alters or repeats events. Every one was made by some published queue."""

    NONE = "none"
    SYNCHRONOUS_OFF = "synchronous OFF"
    SYNCHRONOUS_NORMAL = "synchronous NORMAL, and put() claims to be durable"
    JOURNAL_DELETE = "a rollback journal with synchronous FULL"
    ACK_BEFORE_ANSWER = "rows are removed before the collector answered"
    RETURN_BEFORE_COMMIT = "put() returns before its commit"
    NO_CHECKPOINT_AT_OPEN = "no checkpoint at open, nor anything else that writes a log again that failed to sync"
    LOG_NOT_REWRITTEN = "the checkpoint at open trusts a log that an earlier process failed to sync"
    NO_DIRECTORY_SYNC = "a new directory is not synced"
    REPLACE = "REPLACE instead of INSERT, with a key counter that a signal handler overtakes"
    COUNTER_AFTER_INSERT = "the key counter moves after the insert"
    LIST_REFERENCE = "the connection is kept alive by a list, which does not outlive finalisation"


_KEPT: list[sqlite3.Connection] = []


class StandIn:
    """Rows with integer keys in one exclusively locked SQLite file. Keeps the contract of `Queue` but the limits."""

    def __init__(self, folder: Path, flaw: Flaw = Flaw.NONE) -> None:
        self._folder = folder
        self._flaw = flaw
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._last_key = 0
        with self._mapped():
            folder.mkdir(mode=0o700, exist_ok=True)
            if flaw is not Flaw.NO_DIRECTORY_SYNC:
                _sync_folder(folder.parent)  # also if it was there: its maker may have died before its own sync
            self._open()

    # ---- the connection

    def _open(self) -> sqlite3.Connection:
        if self._flaw not in (Flaw.LOG_NOT_REWRITTEN, Flaw.NO_CHECKPOINT_AT_OPEN):
            _rewrite(self._folder / "0.sqlite3-wal")
        connection = sqlite3.connect(
            self._folder / "0.sqlite3", timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
            _sync_folder(self._folder)  # SQLite ignores an error of its own sync of the WAL's name
        except BaseException:
            connection.close()
            raise
        if self._flaw is Flaw.LIST_REFERENCE:
            _KEPT.append(connection)
        else:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        flaw = self._flaw
        journal = "DELETE" if flaw is Flaw.JOURNAL_DELETE else "WAL"
        synchronous = {Flaw.SYNCHRONOUS_OFF: "OFF", Flaw.SYNCHRONOUS_NORMAL: "NORMAL"}.get(flaw, "FULL")
        # An exclusive lock would have SQLite zero and sync the journal, instead of unlinking it.
        locking = "NORMAL" if flaw is Flaw.JOURNAL_DELETE else "EXCLUSIVE"
        for pragma in (
            f"locking_mode={locking}",
            f"journal_mode={journal}",
            f"synchronous={synchronous}",
            "wal_autocheckpoint=64",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        if flaw is not Flaw.NO_CHECKPOINT_AT_OPEN and journal == "WAL":
            self._checkpoint(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS events (key INTEGER PRIMARY KEY, value BLOB)")
        connection.execute("CREATE TABLE IF NOT EXISTS dead (key INTEGER PRIMARY KEY, value BLOB)")
        connection.execute("CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, count INTEGER)")
        self._last_key = self._high(connection)

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection) -> None:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
        if busy:
            raise sqlite3.OperationalError("the checkpoint did not succeed")

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            self._drop()
            raise StorageError(f"{type(exc).__name__}: {exc}") from None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or self._pid != os.getpid():
            return
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        if connection in _KEPT:
            _KEPT.remove(connection)
        else:
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(connection))

    def _current(self) -> sqlite3.Connection:
        return self._connection or self._open()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._mapped():
            connection = self._current()
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @staticmethod
    def _high(connection: sqlite3.Connection) -> int:
        highest = connection.execute("SELECT max(key) FROM events").fetchall()[0][0] or 0
        return max(highest, StandIn._count(connection, "high"))

    @staticmethod
    def _count(connection: sqlite3.Connection, name: str) -> int:
        rows = connection.execute("SELECT count FROM counts WHERE name = ?", (name,)).fetchall()
        return int(rows[0][0]) if rows else 0

    @staticmethod
    def _add(connection: sqlite3.Connection, name: str, count: int) -> None:
        connection.execute(
            "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + ?",
            (name, count, count),
        )

    # ---- the contract of Queue

    def put(self, payload: bytes) -> None:
        """Store one event."""
        self.put_many([payload])

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store events in one commit."""
        with self._lock, self._mapped():
            connection = self._current()
            if self._flaw is Flaw.RETURN_BEFORE_COMMIT:
                if connection.in_transaction:
                    connection.execute("COMMIT")
                connection.execute("BEGIN IMMEDIATE")
            if self._flaw in (Flaw.REPLACE, Flaw.COUNTER_AFTER_INSERT):
                self._insert_badly(connection, payloads)
                return
            while True:
                first = self._last_key + 1
                try:
                    self._insert(connection, "INSERT", first, payloads)
                except sqlite3.IntegrityError:  # the counter is behind: an interrupting call has moved it back
                    self._last_key = self._high(connection)
                else:
                    self._last_key = first + len(payloads) - 1
                    return

    def _insert_badly(self, connection: sqlite3.Connection, payloads: Sequence[bytes]) -> None:
        first = self._last_key + 1
        verb = "REPLACE" if self._flaw is Flaw.REPLACE else "INSERT"
        self._insert(connection, verb, first, payloads)
        self._last_key = first + len(payloads) - 1

    @staticmethod
    def _insert(connection: sqlite3.Connection, verb: str, first: int, payloads: Sequence[bytes]) -> None:
        marks = ", ".join("(?, ?)" for _ in payloads)
        values: list[int | bytes] = []
        for key, payload in enumerate(payloads, first):
            values += (key, payload)
        connection.execute(f"{verb} INTO events VALUES {marks}", values)

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        """Return the oldest rows above `after`."""
        with self._lock, self._mapped():
            rows = self._current().execute(
                "SELECT key, value FROM events WHERE key > ? ORDER BY key LIMIT ?", (after, count_max)
            )
            return [Row(key, value) for key, value in rows.fetchall()]

    def ack(self, keys: Sequence[int]) -> None:
        """Remove rows that were delivered."""
        with self._transaction() as connection:
            self._remove(connection, keys, "delivered")

    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
        """Move rows to the dead letters."""
        with self._transaction() as connection:
            for key in keys:
                connection.execute("INSERT INTO dead SELECT key, value FROM events WHERE key = ?", (key,))
            self._remove(connection, keys, "dead")

    def _remove(self, connection: sqlite3.Connection, keys: Sequence[int], count: str) -> None:
        high = self._high(connection)
        if self._flaw is not Flaw.COUNTER_AFTER_INSERT:
            self._last_key = high  # while the rows that it follows from are still there
        self._add(connection, "high", high - self._count(connection, "high"))
        removed = sum(connection.execute("DELETE FROM events WHERE key = ?", (key,)).rowcount for key in keys)
        self._add(connection, count, removed)

    def ledger(self) -> Ledger:
        """Return the counts."""
        with self._lock, self._mapped():
            connection = self._current()
            accepted = self._high(connection)
            delivered, dead = self._count(connection, "delivered"), self._count(connection, "dead")
            pending = accepted - delivered - dead
            return Ledger(accepted=accepted, delivered=delivered, dead=dead, pending=pending)

    def mark(self) -> int:
        """Return the highest key that was ever given out."""
        with self._lock, self._mapped():
            return self._high(self._current())

    def close(self) -> None:
        """Give the connection back, in the process that opened it."""
        with self._lock:
            self._drop()


def _rewrite(path: Path) -> None:
    """Write a file over itself and sync it.

    A page whose sync once failed is clean in memory and missing on the disk, and no later sync writes it. A checkpoint
    would copy it from memory into the database, page by page; a power loss in between leaves a mixture.
    """
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
        if data:
            os.pwrite(fd, data, 0)
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
