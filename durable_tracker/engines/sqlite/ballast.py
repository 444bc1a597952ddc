"""Room on the disk that is kept for the day when there is none.

On a full disk SQLite cannot delete either: a DELETE and a checkpoint both write before they free. So each slot holds a
preallocated ballast file. When the disk is full it is given up, which makes room for exactly one checkpoint and one
acknowledgement at a time, each of which frees more; when there is room again it is restored, and only then are puts
accepted. `PRAGMA max_page_count` reserves nothing, and a ballast smaller than the WAL was found useless for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from durable_tracker.engines.sqlite.slots import sync_directory
from durable_tracker.errors import QueueFullError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
_PIECE = 1 << 16


class Headroom:
    """One slot's ballast. Not thread-safe: the queue calls it under its lock."""

    def __init__(self, path: Path, size: int) -> None:
        """Name the file and its size in bytes; nothing is made yet."""
        self.path = path
        self.size = size
        self.is_there = False

    def restore(self) -> None:
        """Make the ballast if it is missing or short.

        Raises:
            QueueFullError: there is no room for it.
        """
        if self.is_there:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags, 0o600)
            try:
                status = os.fstat(descriptor)
                if status.st_size < self.size or status.st_blocks * 512 < self.size:
                    _allocate(descriptor, self.size)
                    os.fsync(descriptor)
                    sync_directory(self.path.parent)
            finally:
                os.close(descriptor)
        except OSError as exc:
            self.give_up()
            if exc.errno in _FULL:
                raise QueueFullError(
                    f"no room for {self.path} ({self.size} bytes), which keeps a full disk drainable: {exc.strerror}"
                ) from None
            raise StorageError(f"cannot make {self.path}: {exc.strerror}") from None
        self.is_there = True

    def give_up(self) -> bool:
        """Free the ballast's room. Return whether there was any."""
        self.is_there = False
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
            return True
        return False


def _allocate(descriptor: int, size: int) -> None:
    """Have the file system set `size` bytes aside, by writing them where it cannot be asked to (NFS, macOS)."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:
        pass
    except OSError as exc:
        if exc.errno not in _CANNOT:
            raise
    else:
        return
    for offset in range(0, size, _PIECE):
        piece = os.urandom(min(_PIECE, size - offset))  # zeros would take no room on a file system that compresses
        while piece:
            written = os.pwrite(descriptor, piece, offset)
            offset, piece = offset + written, piece[written:]  # noqa: PLW2901 (the rest of the same piece)
