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
from durable_tracker.engines.sqlite.syncing import allocate, sync_file
from durable_tracker.errors import QueueFullError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
                    allocate(descriptor, self.size)
                    sync_file(descriptor)
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
