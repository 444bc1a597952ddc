"""The one SQLite connection of a slot, safe to put under SqliteDict.

SqliteDict's own connection runs in a thread that a failed commit kills, sets `synchronous=OFF` and hands one caller's
error to another. This one has no thread: whoever calls executes, under one lock, in autocommit. It is the only module
that imports sqlite3; `tables` puts it under SqliteDict.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import sqlite3
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

from durable_tracker.engines.queue import DescriptorsLostError
from durable_tracker.engines.sqlite.descriptors import Held, held_on
from durable_tracker.engines.sqlite.immortal import give_back, keep_for_ever
from durable_tracker.engines.sqlite.raw import PAGE_SIZE, open_raw, read_piece
from durable_tracker.engines.sqlite.syncing import sqlite_pragmas, sync_file
from durable_tracker.errors import (
    DamagedQueueError,
    QueueClosedError,
    QueueError,
    QueueFullError,
    SlotBusyError,
    StorageError,
    UnknownFormatError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

APPLICATION_ID: Final = 0x44545251
"""Marks a file as ours in SQLite's header (https://www.sqlite.org/fileformat.html, offset 68)."""

FORMAT: Final = 2
"""Version of the tables, in SQLite's `user_version`. A file with a higher one is refused, untouched.

Formats have numbers with an odd number of bits set (1, 2, 4, 7, 8, 11, ...), so that one flipped bit never makes a
format of another one: any other number is damage.
"""

_FORMAT_MAX: Final = 1000
"""No format will have a number above it: that is damage too."""

_REWRITE_SIZE: Final = 1 << 20

MULTI_ROW_MAX: Final = 256
"""Rows in one INSERT. SQLite's default limit of 32,766 variables would allow 16,383."""

META_PAGE: Final = 5

TABLES: Final = {
    3: "CREATE TABLE events (key INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    4: "CREATE TABLE dead_letters (key INTEGER PRIMARY KEY, value BLOB NOT NULL)",
    META_PAGE: "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
}
"""By their root pages, which follow from the order in which they are made: page 2 is the first pointer map."""

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
{";".join(TABLES.values()).replace("TABLE", "TABLE IF NOT EXISTS")};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
COMMIT;
"""

_TABLES_FOUND: Final = "SELECT rootpage, sql FROM sqlite_schema WHERE type = 'table' ORDER BY rootpage"

_COUNT_OF_OTHER_TABLES: Final = (
    "SELECT count(*) FROM sqlite_schema WHERE tbl_name NOT IN ('events', 'dead_letters', 'meta')"
)

_ERRORS: Final[dict[int, type[QueueError]]] = {
    sqlite3.SQLITE_FULL: QueueFullError,
    sqlite3.SQLITE_BUSY: SlotBusyError,
    sqlite3.SQLITE_LOCKED: SlotBusyError,
    sqlite3.SQLITE_CORRUPT: DamagedQueueError,
    sqlite3.SQLITE_NOTADB: DamagedQueueError,
    sqlite3.SQLITE_FORMAT: DamagedQueueError,
}


_UNREADABLE: Final = {sqlite3.SQLITE_IOERR | kind << 8 for kind in (32, 33)}
"""SQLITE_IOERR_DATA and SQLITE_IOERR_CORRUPTFS: a piece of the file is lost (https://www.sqlite.org/rescode.html)."""


class KeyTakenError(QueueError):
    """A row with that key exists. Internal: the owner reads the highest key again and retries."""


_live: dict[tuple[int, int], int] = {}
"""The databases that connections of this process have open: device and inode to the process.

Opening such a file raw, and closing it, would drop SQLite's locks on it (see `raw`).
"""


class Connection:
    """One `sqlite3` connection in autocommit, for one owner.

    Thread-safe. `lock` is reentrant, so that a signal handler may call while the thread that it interrupted is inside.
    No call leaves a transaction open between two bytecodes of the caller: writes are single statements, and a
    transaction of several is one `executescript`, which a signal handler cannot enter.

    After an I/O error the connection is dropped, and the next call opens a new one, checkpointing first: a failed
    fsync may have marked pages clean that never reached the disk, and only writing them again is safe.

    If the files were closed under it (see `descriptors`), every call raises `DescriptorsLostError` from then on. What
    SQLite has open is then given up without being closed, in any way: its numbers may be those of other files.

    Errors of sqlite3 leave as errors of this package, as text. The exception itself would keep its cursor alive by its
    traceback, and a connection with a live cursor cannot be closed.
    """

    autocommit = False
    """For SqliteDict: there is never anything to commit."""

    def __init__(
        self, path: Path, *, sync_every_commit: bool, size_max: int, inspect: Callable[[], object] | None = None
    ) -> None:
        """Open the database.

        Args:
            path: the database file. Its directory exists and belongs to the caller.
            sync_every_commit: `synchronous=FULL`; otherwise NORMAL.
            size_max: bound of the database file, in bytes. Reaching it is a QueueFullError.
            inspect: called before each opening, while nothing of this process has the file open; raises
                DamagedQueueError if SQLite must not open it.

        Raises:
            SlotBusyError: another connection has it open.
            UnknownFormatError: it was written by a newer version, or is not ours. Nothing was touched.
            DamagedQueueError: it is not a sound database.
            QueueFullError: the disk is too full to open it.
            StorageError: anything else.
        """
        self.path = path
        self.lock = threading.RLock()
        # The lock guards everything below.
        self._sync_every_commit = sync_every_commit
        self._size_max = size_max
        self._inspect = inspect
        self._pid = os.getpid()
        self._closed = False
        self._lost = False
        self._held: list[Held] = []  # SQLite's descriptors; the WAL's first, which is the one that a commit writes to
        self._held_wal: Held | None = None
        self._place: tuple[int, int] | None = None
        self._raw: sqlite3.Connection | None = None
        self._is_kept = False
        self._cursor: sqlite3.Cursor | None = None
        self._insert: Callable[[str, tuple[int, bytes]], object] = _not_open
        self._on_open: Callable[[], None] | None = None
        self._open()

    def call_when_open(self, function: Callable[[], None]) -> None:
        """Call `function` now, and whenever the connection was opened again after an error."""
        with self.lock:
            self._ready()
            self._on_open = function
            function()

    # ── for the queue ────────────────────────────────────────────────────────────────────────────────────────────

    def insert_one(self, key: int, value: bytes) -> None:
        """Insert a row into `events`. The caller holds the lock.

        Raises:
            KeyTakenError: the key exists.
        """
        raw, held = self._raw, self._held_wal
        if raw is None or raw.in_transaction or not (held is None or held.is_ours()):
            self._ready()
        try:
            self._insert(_INSERT_ONE, (key, value))
        except sqlite3.ProgrammingError:
            # A finaliser that the garbage collector ran inside this very call: the cursor is in use.
            error = None
        except sqlite3.Error as exc:
            error = self._failed(exc)
        else:
            return
        if error is not None:
            raise error
        self._call(_INSERT_ONE, (key, value))

    def insert_many(self, values: Sequence[int | bytes]) -> None:
        """Insert rows, given as key, value, key, value, …, in one statement: all are stored, or none.

        Raises:
            KeyTakenError: one of the keys exists.
        """
        sql = _insert_sql(len(values) // 2)
        with self.lock:
            raw, held = self._raw, self._held_wal
            if raw is None or raw.in_transaction or not (held is None or held.is_ours()):
                raw = self._ready()  # looks at all descriptors, and each look lets another thread have its turn
            try:
                raw.execute(sql, values)
            except sqlite3.Error as exc:
                error = self._failed(exc)
            else:
                return
        raise error

    def script(self, statements: str) -> None:
        """Run statements as one transaction: all or nothing."""
        self._run(f"BEGIN IMMEDIATE;{statements};COMMIT")

    def _run(self, script: str) -> None:
        with self.lock:
            raw = self._ready()
            try:
                raw.executescript(script)
            except sqlite3.Error as exc:
                error = self._failed(exc)
            else:
                return
        raise error

    def pragma(self, text: str) -> Any:
        """Run one PRAGMA to its end and return the first column of its first row, None if it has none."""
        row = self.select_one(f"PRAGMA {text}")
        return None if row is None else row[0]

    def vacuum(self, pages_max: int) -> None:
        """Give up to `pages_max` free pages back to the file system (at the next checkpoint)."""
        self._run(f"PRAGMA incremental_vacuum({pages_max})")  # `execute` would step it once, which frees one page

    def checkpoint(self, mode: str = "PASSIVE", then: str | None = None) -> None:
        """Write the WAL into the database and sync it, so that the WAL starts anew.

        Without a bytecode in between, since SQLite counts an unfinished checkpoint among the writers: what a signal
        handler puts would not be committed when that returns, and a transaction of its own would fail and undo it.

        Args:
            mode: "PASSIVE" keeps the WAL's file for reuse, "TRUNCATE" empties it.
            then: statements to be run as one transaction behind it.
        """
        self._run(f"PRAGMA wal_checkpoint({mode});" + (f"BEGIN IMMEDIATE;{then};COMMIT" if then else ""))

    def limit_size(self, size_max: int) -> None:
        """Bound the database file to `size_max` bytes, or to its present size if that is larger."""
        with self.lock:
            self._size_max = size_max
            self.pragma(f"max_page_count={_pages(size_max)}")

    def used_pages(self) -> int:
        """Return the pages that hold data, in O(1)."""
        with self.lock:
            return int(self.pragma("page_count")) - int(self.pragma("freelist_count"))

    def is_at_limit(self, size: int = 0) -> bool:
        """Return whether the database file has reached `size_max`, and has no free pages left for `size` bytes."""
        with self.lock:
            return self.used_pages() + size // PAGE_SIZE >= _pages(self._size_max) - 1

    def is_sound(self) -> bool:
        """Return whether SQLite finds every page in order. Reads the whole file."""
        return bool(self.pragma("integrity_check(1)") == b"ok")

    def drop(self) -> None:
        """Close after an error elsewhere. The next call opens again, and checkpoints first."""
        with self.lock:
            self._drop()

    def give_up_if_moved(self) -> bool:
        """Give the connection up if its path names another file by now, or none. Return whether it does."""
        with self.lock:
            place = self._place if self._raw is not None else None
            if place is not None and not _is_at(self.path, place):
                self._give_up()
                return True
            return False

    def close_for_good(self) -> None:
        """Checkpoint and close. Does nothing in a process that inherited the connection. May be called twice."""
        if self.is_inherited():
            return
        with self.lock:
            self._closed = True
            self._drop()

    def is_inherited(self) -> bool:
        """Return whether another process opened the connection, of which this one is a fork."""
        return self._pid != os.getpid()

    # ── the interface that SqliteDict calls ──────────────────────────────────────────────────────────────────────

    def execute(self, sql: str, arg: Sequence[Any] = (), res: object = None) -> None:  # noqa: ARG002 (theirs)
        """Run a statement that gives no rows."""
        self._call(sql, arg or ())

    def executemany(self, sql: str, items: Iterable[Sequence[Any]]) -> None:
        """Run a statement once per item, each in a transaction of its own."""
        for item in items:
            self._call(sql, item)

    def select(
        self, sql: str, arg: Sequence[Any] = (), *, size_max: int | None = None, overhead: int = 0
    ) -> list[tuple[Any, ...]]:
        """Return rows. The caller bounds their number with LIMIT, and their size with `size_max`.

        Args:
            sql: the statement.
            arg: its parameters.
            size_max: stop before the second columns have more than that many bytes together, but not before the first.
            overhead: bytes of each second column that do not count.
        """
        with self.lock:
            raw = self._ready()
            cursor = raw.cursor()
            try:
                cursor.execute(sql, arg or ())
                return cursor.fetchall() if size_max is None else _fetch_up_to(cursor, size_max, overhead)
            except sqlite3.Error as exc:
                with contextlib.suppress(sqlite3.ProgrammingError):  # a signal handler's put dropped the connection
                    cursor.close()  # before the connection is dropped: a half-read cursor would keep it open
                error = self._failed(exc)
            finally:
                with contextlib.suppress(sqlite3.ProgrammingError):  # the connection was dropped
                    cursor.close()
        raise error

    def select_one(self, sql: str, arg: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row, or None."""
        rows = self.select(sql, arg)
        return rows[0] if rows else None

    def commit(self, blocking: bool = True) -> None:
        """Do nothing: every statement has committed itself."""

    def close(self, force: bool = False) -> None:
        """Do nothing. SqliteDict calls this from `__del__`, also in a forked child; see `close_for_good`."""

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, sql: str, arg: Sequence[Any]) -> None:
        with self.lock:
            raw = self._ready()
            try:
                raw.execute(sql, arg)
            except sqlite3.Error as exc:
                error = self._failed(exc)
            else:
                return
        raise error

    def _ready(self) -> sqlite3.Connection:
        """Return the open connection, outside any transaction. The caller holds the lock."""
        if self._closed:
            raise QueueClosedError(f"{self.path} was closed")
        if self._is_lost():
            raise DescriptorsLostError(f"{self.path} was closed under the connection")
        if self._raw is None:
            self._open()
        assert self._raw is not None  # noqa: S101 (for the type checker)
        if self._raw.in_transaction:
            # A signal handler got here between a failed script and its ROLLBACK.
            self._raw.rollback()
        return self._raw

    def _is_lost(self) -> bool:
        """Return whether SQLite's descriptors were closed, and give the connection up if so."""
        if not self._lost and self._raw is not None and not all(held.is_ours() for held in self._held):
            self._give_up()
        return self._lost

    def _give_up(self) -> None:
        # Neither closed nor released, here or by a finaliser: SQLite would close and write to its old numbers.
        self._lost = True
        self._raw = self._cursor = None
        self._insert = _not_open

    def _failed(self, exc: sqlite3.Error) -> QueueError:
        """Put the connection into a sound state after an error, and return the error to raise."""
        raw = self._raw
        if raw is not None and raw.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                raw.rollback()
        error = _mapped(exc, self.path)
        exc.__traceback__ = None
        if isinstance(error, StorageError):
            self._drop()
        return error

    def _drop(self) -> None:
        is_inherited = self.is_inherited()
        if not is_inherited and self._is_lost():
            return
        raw, self._raw = self._raw, None
        cursor, self._cursor = self._cursor, None
        self._insert = _not_open
        self._held, self._held_wal = [], None
        if raw is None or is_inherited:
            return
        if cursor is not None:
            cursor.close()
        with contextlib.suppress(sqlite3.Error):  # what could not be checkpointed is still in the WAL
            raw.close()
        if self._is_kept:  # else a signal handler raised amid the opening, and it is not known what there is to give
            give_back(cursor)
            give_back(raw)
        if self._place is not None:
            _live.pop(self._place, None)

    def _open(self) -> None:
        self._refuse_if_in_use()
        is_new = self._check_header()
        if self._inspect is not None:
            self._inspect()
        self._rewrite_wal()
        try:
            raw = sqlite3.connect(
                self.path,
                timeout=0,  # busy means "taken": waiting would not help
                isolation_level=None,
                check_same_thread=False,
                cached_statements=MULTI_ROW_MAX + 64,
            )
        except sqlite3.Error as exc:
            error = _mapped(exc, self.path)
            exc.__traceback__ = None
        else:
            self._raw, self._is_kept = raw, False
            try:
                # No finaliser of any process may close it: a forked child's ordinary exit would checkpoint and unlink
                # the parent's WAL. Only `_drop`, which compares the pid, gives this reference back. A reference held
                # by a list or a module would not survive finalisation.
                keep_for_ever(raw)
                self._cursor = raw.cursor()  # one for all inserts: making one takes a tenth of an insert
                keep_for_ever(self._cursor)
                self._insert = self._cursor.execute
                self._is_kept = True
                self._configure(raw, is_new=is_new)
                self._hold()
                if self._on_open is not None:
                    self._on_open()
            except UnicodeDecodeError as exc:
                # SQLite's message quotes the schema, and the schema is altered.
                error = DamagedQueueError(f"{self.path}: {exc}")
                self._drop()
            except sqlite3.Error as exc:
                error = self._failed(exc)
                if _code(exc) == sqlite3.SQLITE_ERROR:
                    # These statements are right, so it is the file that they do not fit.
                    error = DamagedQueueError(*error.args)
                self._drop()
            except BaseException:  # also one out of a signal handler: nobody else would ever give this connection back
                self._drop()
                raise
            else:
                return
        raise error

    def _hold(self) -> None:
        """Find SQLite's descriptors, and note that this process has the file open."""
        wal = held_on(self.path.with_name(self.path.name + "-wal"))
        self._held = [*wal, *held_on(self.path)]
        self._held_wal = wal[0] if wal else None
        status = self.path.stat()
        self._place = (status.st_dev, status.st_ino)
        _live[self._place] = self._pid

    def _refuse_if_in_use(self) -> None:
        """See that nobody has the file open, before it or its WAL is touched.

        The slot's lock says so as well, but its file can be removed by a cleaner. SQLite's locks tell then: those of
        other processes can be asked for, and those of this one are known.

        Raises:
            SlotBusyError: somebody has.
        """
        try:
            if is_open_here(self.path):
                raise SlotBusyError(f"{self.path} is open in this process")
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StorageError(f"{self.path}: {exc.strerror}") from None
        try:
            pid = locking_process(descriptor)
        finally:
            os.close(descriptor)
        if pid is not None:
            raise SlotBusyError(f"{self.path} is in use by process {pid}", pid)

    def _rewrite_wal(self) -> None:
        """Write the WAL over itself, and sync it.

        A failed sync, of this process or an earlier one, marks pages clean that never reached the disk. SQLite's
        recovery reads them from the page cache, and its own sync of the WAL would not write them: a power failure
        during the checkpoint that follows would find neither a whole WAL nor a whole database. Nobody else has the
        file open: the slot's lock is held, and no connection is.
        """
        try:
            descriptor = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StorageError(f"{self.path}-wal: {exc.strerror}") from None
        try:
            offset = 0
            while (piece := read_piece(descriptor, _REWRITE_SIZE, offset))[0]:
                chunk, is_hole = piece
                if is_hole:
                    raise DamagedQueueError(f"{self.path}-wal: a piece of it cannot be read")
                offset += os.pwrite(descriptor, chunk, offset)
            sync_file(descriptor)
        except OSError as exc:
            raise StorageError(f"{self.path}-wal: {exc.strerror}") from None
        finally:
            os.close(descriptor)

    def _check_header(self) -> bool:
        """Return whether the file has to be made; refuse what is not ours without touching it."""
        try:
            descriptor = open_raw(self.path)
        except FileNotFoundError:
            return True
        try:
            header, is_hole = read_piece(descriptor, 100, 0)
        finally:
            os.close(descriptor)
        if is_hole:
            raise DamagedQueueError(f"{self.path}: its header cannot be read")
        if not header:
            return True
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):  # noqa: PLR2004 (header's size)
            raise DamagedQueueError(f"{self.path} has no SQLite header")
        check_format(header, self.path)
        return False

    def _configure(self, raw: sqlite3.Connection, *, is_new: bool) -> None:
        def pragma(text: str, expected: object = None) -> None:
            cursor = raw.execute(f"PRAGMA {text}")
            row = cursor.fetchone()
            cursor.close()
            if expected is not None and (row is None or row[0] != expected):
                # SQLite keeps the old setting without an error.
                raise StorageError(f"{self.path}: PRAGMA {text} gave {row}, not {expected!r}")

        raw.text_factory = bytes  # one flipped bit in a TEXT would make a whole fetch fail
        # First of all: anything before it would create a -shm file, which fails on a full disk.
        pragma("locking_mode=EXCLUSIVE", b"exclusive")
        if is_new:
            pragma(f"page_size={PAGE_SIZE}")
            pragma("auto_vacuum=INCREMENTAL")
        pragma("journal_mode=WAL", b"wal")
        pragma(f"synchronous={'FULL' if self._sync_every_commit else 'NORMAL'}")
        pragma("synchronous", 2 if self._sync_every_commit else 1)
        for name in sqlite_pragmas():
            pragma(f"{name}=ON")
            pragma(name, 1)
        pragma("wal_autocheckpoint=0", 0)  # its errors would be swallowed: the queue checkpoints
        # What an earlier process wrote but failed to sync must reach the disk before anything is acknowledged here.
        pragma("wal_checkpoint(TRUNCATE)", 0)
        pragma("trusted_schema=OFF")
        pragma("cell_size_check=ON")
        pragma("secure_delete=FAST")
        pragma("temp_store=MEMORY")
        pragma("mmap_size=0")
        pragma("cache_size=-2000")
        if _row(raw, "PRAGMA user_version")[0] == 0:
            (others,) = _row(raw, _COUNT_OF_OTHER_TABLES)
            if others:
                raise UnknownFormatError(f"{self.path} is a database of something else. It was left untouched.")
            raw.executescript(_SCHEMA)
            pragma("wal_checkpoint(TRUNCATE)", 0)
        elif raw.execute(_TABLES_FOUND).fetchall() != [(page, sql.encode()) for page, sql in TABLES.items()]:
            # SqliteDict would make a table whose name was altered anew, and its rows would never be seen again.
            raise DamagedQueueError(f"{self.path} lacks one of its tables")
        pragma(f"max_page_count={_pages(self._size_max)}")

    def __repr__(self) -> str:
        return f"<Connection {self.path}>"


def is_open_here(path: Path) -> bool:
    """Return whether this process has a database open: then nothing else of it may open the file, see `raw`."""
    try:
        status = path.stat()
    except OSError:
        return False
    return _live.get((status.st_dev, status.st_ino)) == os.getpid()


def check_format(header: bytes, path: Path) -> None:
    """Refuse a database that is not ours, by the first 100 bytes of its first page.

    Raises:
        UnknownFormatError: a newer release wrote it, or another program.
        DamagedQueueError: it is ours, and altered.
    """
    user_version = int.from_bytes(header[60:64], "big")
    application_id = int.from_bytes(header[68:72], "big")
    is_ours = (application_id ^ APPLICATION_ID).bit_count() <= 1
    is_altered = application_id != APPLICATION_ID or not _is_readable(header) or not is_format(user_version)
    if is_ours and is_altered:
        # SQLite would say that it cannot write, or does not know the format: true, but no reason to stop.
        raise DamagedQueueError(f"{path} has a damaged header")
    if application_id not in (0, APPLICATION_ID) or user_version > FORMAT:
        raise UnknownFormatError(
            f"{path} has format {user_version} of application {application_id:#x}; "
            f"this version reads formats up to {FORMAT} of {APPLICATION_ID:#x}. It was left untouched."
        )


def is_format(user_version: int) -> bool:
    """Return whether some release may have written this number; see `FORMAT`."""
    return user_version <= _FORMAT_MAX and user_version.bit_count() % 2 == 1


def _is_readable(header: bytes) -> bool:
    """Return whether the constants of SQLite's header are those of a file that was made here."""
    versions, schema_format, encoding = header[18:20], header[44:48], header[56:60]
    return (
        header[16:18] == PAGE_SIZE.to_bytes(2, "big")
        and set(versions) <= {1, 2}
        and header[20:24] == bytes((0, 64, 32, 32))
        and int.from_bytes(schema_format, "big") <= 4  # noqa: PLR2004 (the highest there is)
        and int.from_bytes(encoding, "big") <= 1
    )


def _is_at(path: Path, place: tuple[int, int]) -> bool:
    try:
        status = path.stat()
    except OSError as exc:
        return exc.errno != errno.ENOENT  # nothing is known
    return (status.st_dev, status.st_ino) == place


def locking_process(descriptor: int) -> int | None:
    """Return another process that holds a lock of SQLite's on a file, None if there is none, or that cannot be told.

    SQLite locks 512 bytes from 0x40000000 on (https://www.sqlite.org/src/file/src/os.h, PENDING_BYTE).
    """
    if sys.platform != "linux":
        return None
    asked = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0x40000000, 512, 0)
    try:
        kind, _, _, _, pid = struct.unpack("@hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError:
        return None
    return None if kind == fcntl.F_UNLCK else int(pid)


_INSERT_ONE: Final = "INSERT INTO events (key, value) VALUES (?, ?)"


def _insert_sql(rows: int) -> str:
    return _INSERT_ONE + ", (?, ?)" * (rows - 1)


def _row(raw: sqlite3.Connection, sql: str) -> tuple[Any, ...]:
    cursor = raw.execute(sql)
    row: tuple[Any, ...] = cursor.fetchone()
    cursor.close()
    return row


def _not_open(*_args: object) -> NoReturn:
    raise sqlite3.ProgrammingError("not open")


def _fetch_up_to(cursor: sqlite3.Cursor, size_max: int, overhead: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        value = row[1]
        if isinstance(value, bytes):  # a flipped bit can make it NULL or a number
            size += len(value) - overhead
            if size > size_max and rows:
                break
        rows.append(row)
    return rows


def _pages(size_max: int) -> int:
    # A file-size limit of the process makes writes fail with EFBIG in the middle of a checkpoint; as a bound on pages
    # it is met by the INSERT, cleanly.
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY:
        size_max = min(size_max, limit)
    return max(size_max // PAGE_SIZE, 1)


def _code(exc: sqlite3.Error) -> int | None:
    """Return SQLite's extended error code; None if the module sqlite3 raised the error without asking SQLite."""
    return getattr(exc, "sqlite_errorcode", None)


def _mapped(exc: sqlite3.Error, path: Path) -> QueueError:
    extended = _code(exc)
    if extended is None:  # not 0, which is SQLITE_OK: what happened is unknown, whatever the class says
        return StorageError(f"{path}: {exc} ({type(exc).__name__}, without an error code of SQLite)")
    code = extended & 0xFF
    if code == sqlite3.SQLITE_CONSTRAINT:
        return KeyTakenError(f"{path}: {exc}")
    name = getattr(exc, "sqlite_errorname", type(exc).__name__)
    kind = DamagedQueueError if extended in _UNREADABLE else _ERRORS.get(code, StorageError)
    return kind(f"{path}: {exc} ({name})")
