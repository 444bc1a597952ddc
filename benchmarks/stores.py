"""This package, its peers, the limit and the floor, behind one `put`.

Each peer is used as its documentation shows, with the settings that make it fastest at its level of durability:

    interval    a crash of the process loses nothing, a power failure what was not synced (or more)
    always      on disk when the call returns
"""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from durable_tracker import Emitter
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Level = Literal["interval", "always"]

QUEUE: Final = "SqliteQueue.put"
EMITTER: Final = "Emitter.put"
RAW: Final = "raw sqlite3 (limit)"
FLOOR: Final = "pwrite + fdatasync (floor)"
SQLITEDICT: Final = "sqlitedict"
LITEQUEUE: Final = "litequeue"
DISKCACHE: Final = "diskcache Deque"
HUEY: Final = "huey SqliteStorage"
PERSIST_QUEUE: Final = "persist-queue ack queue"

QUEUE_SIZE_MAX: Final = 16 << 30
_FLOOR_SIZE: Final = 8 << 20


class Store(NamedTuple):
    """An open store."""

    put: Callable[[bytes], object]
    close: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Contender:
    """A store that can be opened in a directory.

    Attributes:
        name: in tables.
        level: its durability.
        durability: what it really promises, in words.
        open: opens it; several processes may open the same directory.
        is_durable_peer: whether it counts among the peers of equal durability.
    """

    name: str
    level: Level
    durability: str
    open: Callable[[Path], Store]
    is_durable_peer: bool = False


def _queue(level: Level) -> Callable[[Path], Store]:
    def opened(directory: Path) -> Store:
        directory.mkdir(exist_ok=True)
        queue = SqliteQueue.take(Slot(directory, 0), durability=level, max_queue_bytes=QUEUE_SIZE_MAX)
        return Store(queue.put, queue.close)

    return opened


def _emitter(level: Level) -> Callable[[Path], Store]:
    def opened(directory: Path) -> Store:
        emitter = make_emitter(directory, level)
        return Store(emitter.put, emitter.close)

    return opened


def make_emitter(directory: Path, level: Level, **settings: Any) -> Emitter:
    """Return an emitter with its queue in `directory`, which sends nothing unless told otherwise."""
    settings = {"drain": False, "protocol": "http", "port": 9, "max_queue_bytes": QUEUE_SIZE_MAX, **settings}
    return Emitter("127.0.0.1", name="bench", queue_dir=directory, durability=level, **settings)


def raw_connection(path: Path, level: Level) -> sqlite3.Connection:
    """Return a bare connection with the package's pragmas, and a table with an integer key."""
    raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in (
        "locking_mode=EXCLUSIVE",
        "page_size=4096",
        "auto_vacuum=INCREMENTAL",
        "journal_mode=WAL",
        f"synchronous={'FULL' if level == 'always' else 'NORMAL'}",
        "wal_autocheckpoint=256",
        "cache_size=-2000",
        "secure_delete=FAST",
    ):
        raw.execute(f"PRAGMA {pragma}").fetchone()
    raw.execute("CREATE TABLE IF NOT EXISTS events (key INTEGER PRIMARY KEY, value BLOB NOT NULL)")
    return raw


def _raw(level: Level) -> Callable[[Path], Store]:
    def opened(directory: Path) -> Store:
        directory.mkdir(exist_ok=True)
        raw = raw_connection(directory / f"{os.getpid()}.sqlite3", level)
        execute = raw.cursor().execute
        lock = threading.Lock()
        key = 0

        def put(payload: bytes) -> None:
            nonlocal key
            with lock:
                key += 1
                execute("INSERT INTO events (key, value) VALUES (?, ?)", (key, payload))

        return Store(put, raw.close)

    return opened


def _floor(directory: Path) -> Store:
    directory.mkdir(exist_ok=True)
    descriptor = os.open(directory / f"{os.getpid()}.log", os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(descriptor, bytes(_FLOOR_SIZE), 0)
    os.fsync(descriptor)
    lock = threading.Lock()
    at = 0

    def put(payload: bytes) -> None:
        nonlocal at
        with lock:
            os.pwrite(descriptor, payload, at)
            at = (at + len(payload)) % (_FLOOR_SIZE - len(payload))
            os.fdatasync(descriptor)

    return Store(put, lambda: os.close(descriptor))


def _sqlitedict(directory: Path) -> Store:
    from sqlitedict import SqliteDict

    directory.mkdir(exist_ok=True)
    table = SqliteDict(str(directory / "dict.sqlite3"), autocommit=True, journal_mode="WAL")
    lock = threading.Lock()
    key = 0

    def put(payload: bytes) -> None:
        nonlocal key
        with lock:
            key += 1
            own = key
        table[own] = payload
        table.commit()  # returns when the worker thread has committed; without it the call only hands over

    return Store(put, table.close)


def _litequeue(directory: Path) -> Store:
    from litequeue import LiteQueue

    directory.mkdir(exist_ok=True)
    queue = LiteQueue(str(directory / "lite.sqlite3"), timeout=30)
    return Store(lambda payload: queue.put(payload.decode()), queue.conn.close)


def _diskcache(directory: Path) -> Store:
    from diskcache import Deque

    deque = Deque(directory=str(directory))
    return Store(deque.append, deque._cache.close)


def _huey(directory: Path) -> Store:
    from huey.storage import SqliteStorage

    directory.mkdir(exist_ok=True)
    storage = SqliteStorage(filename=str(directory / "huey.sqlite3"), fsync=True, timeout=30)
    return Store(storage.enqueue, storage.close)


def _persist_queue(directory: Path) -> Store:
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(str(directory), multithreading=True, auto_commit=True, timeout=30)
    return Store(queue.put, queue.close)


CONTENDERS: Final = (
    Contender(QUEUE, "interval", "synced once a second", _queue("interval")),
    Contender(EMITTER, "interval", "synced once a second", _emitter("interval")),
    Contender(RAW, "interval", "WAL NORMAL, exclusive: synced at checkpoints", _raw("interval")),
    Contender(LITEQUEUE, "interval", "WAL NORMAL: synced at checkpoints", _litequeue, is_durable_peer=True),
    Contender(DISKCACHE, "interval", "WAL NORMAL: synced at checkpoints", _diskcache, is_durable_peer=True),
    Contender(SQLITEDICT, "interval", "WAL, synchronous=OFF: never synced", _sqlitedict),
    Contender(QUEUE, "always", "synced before the return", _queue("always")),
    Contender(EMITTER, "always", "synced before the return", _emitter("always")),
    Contender(RAW, "always", "WAL FULL, exclusive: synced before the return", _raw("always")),
    Contender(FLOOR, "always", "synced before the return, unstructured", _floor),
    Contender(HUEY, "always", "WAL FULL: synced before the return", _huey, is_durable_peer=True),
    Contender(PERSIST_QUEUE, "always", "WAL FULL: synced before the return", _persist_queue, is_durable_peer=True),
)


def contenders(level: Level) -> list[Contender]:
    """Return those of one level."""
    return [contender for contender in CONTENDERS if contender.level == level]


def contender(name: str, level: Level) -> Contender:
    """Return one of them."""
    return next(found for found in contenders(level) if found.name == name)
