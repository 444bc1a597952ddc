"""Where queues live on disk, and who owns which.

    <queue dir>/<emitter name>/0.sqlite3  0.lock  0.ballast     owned by the first emitter of that name
                               1.sqlite3  1.lock  1.ballast     owned by the next one, in any process

A slot belongs to whoever holds the operating system's lock on its lock file. The lock dies with its process, so a crash
leaves a slot that is simply free. Lock files are never unlinked: somebody may be about to lock the old one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import platformdirs

from durable_tracker.engines.sqlite.descriptors import Held
from durable_tracker.engines.sqlite.syncing import sync_file
from durable_tracker.errors import ConfigurationError, SlotBusyError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOTS_MAX: Final = 4096
"""Emitters of one name that may be open at the same time on one host."""

_NAME_SIZE_MAX: Final = 100
_LOCK_TRIES: Final = 5
_DERIVED_SIZE_MAX: Final = 200
_NOT_OURS: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL)
_HOLDS_EVENTS: Final = re.compile(r"(0|[1-9][0-9]{0,3})\.(?:damaged-[0-9T-]+\.)?sqlite3(?:-wal)?")
"""The database and its WAL, and those that were set aside and are not read through: each may be there alone, of a slot
whose process was killed between two steps of mending it."""


def queue_root(queue_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the queue dir: the argument, else `$DURABLE_TRACKER_DIR`, else the user's state directory.

    Raises:
        ConfigurationError: the argument is no path, or there is none and no home directory is known.
    """
    if not isinstance(queue_dir, (str, os.PathLike, type(None))):
        raise ConfigurationError(f"queue_dir: {queue_dir!r} is not a path")
    chosen = queue_dir or os.environ.get("DURABLE_TRACKER_DIR")
    if chosen:
        return Path(chosen).absolute()
    try:
        return Path(platformdirs.user_state_dir("durable_tracker"))
    except RuntimeError:  # $HOME is not set, and the user is in no password file, as in many containers
        raise ConfigurationError(
            "queue_dir: no home directory is known: give one, or set $DURABLE_TRACKER_DIR"
        ) from None


def safe_name(name: str) -> str:
    """Return `name` as a directory's name: the same for the same name, and different for different ones."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "_"
    if safe != name or len(safe) > _NAME_SIZE_MAX:
        safe = f"{safe[:_NAME_SIZE_MAX]}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return safe


def directory_name(name: str) -> str:
    """Return a derived name, which has nothing in it but what a directory's name may have, as such, bounded."""
    if len(name) <= _DERIVED_SIZE_MAX:
        return name
    return f"{name[:_DERIVED_SIZE_MAX]}-{sha256(name.encode()).hexdigest()[:16]}"


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def sync_path(path: Path) -> None:
    """Make the names in a directory durable, and its own name, and those of the directories above it.

    Every time, since whoever made them may not have come to it: its sync failed, or it was killed. A directory above
    that this process may not read was not made by it.

    Raises:
        OSError: a sync failed.
    """
    for directory in (path, *path.parents):
        try:
            sync_directory(directory)
        except OSError as exc:
            if directory == path or exc.errno not in _NOT_OURS:
                raise


def make_private_directory(path: Path) -> None:
    """Make `path` and its missing parents with mode 0700, durably, and see that it can be used.

    Raises:
        StorageError: it cannot be made or written, belongs to somebody else, or is a symbolic link.
    """
    try:
        _make_durably(path)
        status = path.lstat()
    except OSError as exc:
        raise StorageError(f"cannot make the queue directory {path}: {exc.strerror}") from None
    if stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode):
        raise StorageError(f"{path} is not a directory, or is a symbolic link: events would be written elsewhere")
    if status.st_uid != os.geteuid():
        raise StorageError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}: run as its owner")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(f"{path} is writable by others (mode {stat.S_IMODE(status.st_mode):o}): chmod it to 700")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(f"{path} is not writable by this process (permissions, or a read-only file system)")


def _make_durably(path: Path) -> None:
    if path.is_dir():
        return
    if path.parent != path:
        _make_durably(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    sync_directory(path.parent)


@dataclass(eq=False)
class Slot:
    """One numbered place of a queue directory, and its lock while this process holds it.

    Not thread-safe: its owner serialises the calls.
    """

    directory: Path
    index: int
    _held: Held | None = field(default=None, repr=False)
    _pid: int = field(default=0, repr=False)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.directory / f"{self.index}.sqlite3"

    @property
    def wal(self) -> Path:
        """SQLite's write-ahead log."""
        return self.directory / f"{self.index}.sqlite3-wal"

    @property
    def lock(self) -> Path:
        """The lock file, which holds its owner's pid."""
        return self.directory / f"{self.index}.lock"

    @property
    def ballast(self) -> Path:
        """The file that keeps room on the disk; see `ballast`."""
        return self.directory / f"{self.index}.ballast"

    def acquire(self) -> bool:
        """Take the slot's lock if it is free. Return whether this object holds it now.

        Raises:
            StorageError: the lock file cannot be opened.
        """
        if self._held is not None and self._pid == os.getpid():
            return True
        for _ in range(_LOCK_TRIES):
            held = self._lock()
            if held is None:
                return False
            if held.is_at(self.lock):
                return True
            self.release()  # a cleaner removed the file between its opening and its locking: the lock is nobody's
        raise StorageError(f"{self.lock} is removed again and again")

    def renew(self) -> bool:
        """See that the locked file is still the one that others lock; if it was removed, make and lock it anew.

        Returns:
            Whether it is. If not, somebody else has made and locked it, and is kept out by SQLite's own lock alone.
        """
        held = self._held
        if held is None or held.is_at(self.lock):
            return True
        try:
            if self._lock() is None:
                return False
        except StorageError:
            return False
        held.close()
        return True

    def _lock(self) -> Held | None:
        """Open and lock the lock file, and hold it; None if somebody else does."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            reason = "is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
            raise StorageError(f"cannot open the lock file {self.lock}: {reason}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(f"{self.lock} is not a regular file")
            if _lock_descriptor(descriptor):
                with contextlib.suppress(OSError):  # the pid serves messages only, and a full disk has no room for it
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                self._held, self._pid = Held(descriptor), os.getpid()
                return self._held
        except OSError as exc:
            raise StorageError(f"cannot lock {self.lock}: {exc.strerror}") from None
        finally:
            if self._held is None or self._held.number != descriptor:
                os.close(descriptor)  # somebody else's, or an exception out of a signal handler
        return None

    def release(self) -> None:
        """Give the lock back. In a forked child: close the inherited descriptor, which frees nothing."""
        held, self._held = self._held, None
        if held is not None:
            # Not LOCK_UN: in a child it would free the parent's lock. Closing frees it once no copy is left.
            held.close()

    def owner(self) -> int | None:
        """Return the pid that the lock file states, or None."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.lock.read_text(encoding="ascii"))
        return None

    def busy_error(self) -> SlotBusyError:
        """Return the error that says who holds the slot."""
        pid = self.owner()
        if pid is not None and not _is_alive(pid):
            return SlotBusyError(
                f"{self.database}: its owner, process {pid}, is dead, but a child that it forked still holds the lock",
                pid,
            )
        return SlotBusyError(f"{self.database} is in use by process {pid or 'unknown'}", pid)

    def make_file(self) -> None:
        """Make the database file, empty, private and durable, if there is none; refuse a planted one."""
        try:
            for path in (self.database, self.wal, self.ballast):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    if not stat.S_ISREG(status.st_mode):
                        raise StorageError(f"{path} is not a regular file")
                    if status.st_uid != os.geteuid():
                        raise StorageError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}")
            if not self.database.exists():
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(self.database, flags, 0o600))
                sync_directory(self.directory)
        except OSError as exc:
            raise StorageError(f"cannot make {self.database}: {exc.strerror}") from None


def existing_slots(directory: Path) -> Iterator[Slot]:
    """Yield the slots of a directory that may hold events, lowest first."""
    with contextlib.suppress(FileNotFoundError):
        matches = [_HOLDS_EVENTS.fullmatch(name) for name in os.listdir(directory)]  # noqa: PTH208 (names suffice)
        for index in sorted({int(match[1]) for match in matches if match}):
            yield Slot(directory, index)


def _lock_descriptor(descriptor: int) -> bool:
    """Take the lock of a file's description, which dies with the last copy of it. Return whether it was free.

    Not by a library: the one there is hooks into every fork of the process, and may have it raise.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
