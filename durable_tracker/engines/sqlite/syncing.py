"""What this platform offers for putting bytes on a disk, and whether the promise was tested on it.

|                      | Linux, tested     | macOS, untested                         | other Unix, untested         |
|----------------------|-------------------|-----------------------------------------|------------------------------|
| content of a file    | `fdatasync`       | `F_FULLFSYNC`: `fsync` leaves it in the | `fdatasync` if there is one, |
|                      |                   | drive's cache                           | else `fsync`                 |
| content and metadata | `fsync`           | `F_FULLFSYNC`                           | `fsync`                      |
| SQLite's own syncs   | its default       | `fullfsync`, `checkpoint_fullfsync`     | its default                  |
| room set aside       | `posix_fallocate` | written                                 | the one that there is        |

Everything is looked up when it is called, so that a test can take it away. Nothing here is called for each event.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import Final

from durable_tracker.log import logger

_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOTTY})
"""What a file system answers that does not know the call."""
_PIECE: Final = 1 << 16


def sync_file(descriptor: int) -> None:
    """Put a file, or the names in a directory, on the disk.

    Raises:
        OSError: the sync failed.
    """
    if not _full_sync(descriptor):
        os.fsync(descriptor)


def sync_data(descriptor: int) -> None:
    """Put the content of a file on the disk, and of its metadata what reading it needs.

    Raises:
        OSError: the sync failed.
    """
    if not _full_sync(descriptor):
        getattr(os, "fdatasync", os.fsync)(descriptor)


def _full_sync(descriptor: int) -> bool:
    """Have the drive empty its cache. Return False where there is no such call, or not for this file."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is None:
        return False
    try:
        fcntl.fcntl(descriptor, full_sync)
    except OSError as exc:
        if exc.errno not in _CANNOT:
            raise  # a sync that failed must not pass for one after a second try
        return False
    return True


def sqlite_pragmas() -> tuple[str, ...]:
    """Return the names of the switches by which SQLite syncs as `sync_file` does; empty where it does so anyway."""
    return ("fullfsync", "checkpoint_fullfsync") if hasattr(fcntl, "F_FULLFSYNC") else ()


def allocate(descriptor: int, size: int) -> None:
    """Have the file system set `size` bytes aside, by writing them where it cannot be asked to (NFS, macOS).

    Raises:
        OSError: there is no room, or writing failed.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
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


def untested() -> list[str]:
    """Return why what the package promises was not tested on this platform and interpreter; empty on Linux."""
    reasons = []
    if sys.platform != "linux":
        reasons.append(f"its campaigns of kills, faults and power loss ran on Linux only, not on {sys.platform}")
    if "t" in sys.abiflags:
        reasons.append("builds of Python without the global interpreter lock are not supported")
    return reasons


_warned: set[str] = set()


def warn_if_untested() -> None:
    """Log one warning per process for each reason to doubt the promise here."""
    for reason in untested():
        if reason not in _warned:
            _warned.add(reason)
            logger.warning(
                "emitter.untested_platform",
                extra={
                    "reason": reason,
                    "fate": "events are stored with the strongest sync that the system has",
                    "advice": "run `python -m durable_tracker selftest` there before relying on it",
                },
            )
