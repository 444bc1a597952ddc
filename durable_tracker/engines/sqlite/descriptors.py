"""Open files by number, in a process that may close any number under us, and open another file that gets it.

A daemonizer closes every descriptor that it finds. Then the number of a queue's file belongs to nobody, or to another
file of the application, which must be neither written nor closed. So whoever uses a number for long compares device and
inode first. Between that look and the use, another thread can still close it: that race cannot be closed from here.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_LISTINGS: Final = ("/proc/self/fd", "/dev/fd")


class Held:
    """A descriptor, and the file that it was opened for. Immutable but for the world's changes."""

    __slots__ = ("_device", "_inode", "number")

    def __init__(self, number: int) -> None:
        """Remember what `number` is open on now."""
        status = os.fstat(number)
        self.number = number
        self._device, self._inode = status.st_dev, status.st_ino

    def is_ours(self) -> bool:
        """Return whether the number is still open on the same file."""
        try:
            status = os.fstat(self.number)
        except OSError:
            return False
        return status.st_ino == self._inode and status.st_dev == self._device

    def is_at(self, path: Path) -> bool:
        """Return whether the file is the one that `path` names now."""
        try:
            status = path.lstat()
        except OSError:
            return False
        return status.st_ino == self._inode and status.st_dev == self._device

    def close(self) -> None:
        """Close the descriptor, unless the number is another file's by now."""
        if self.is_ours():
            os.close(self.number)


def held_on(path: Path) -> list[Held]:
    """Return the descriptors of this process that are open on a file; none where they cannot be listed."""
    found: list[Held] = []
    with contextlib.suppress(OSError):
        status = path.stat()
        listing = next((one for one in _LISTINGS if os.path.isdir(one)), None)  # noqa: PTH112 (no path of ours)
        for name in os.listdir(listing) if listing else ():  # noqa: PTH208 (numbers)
            with contextlib.suppress(OSError):  # the listing's own is closed by now
                number = int(name)
                if os.path.samestat(os.fstat(number), status):
                    found.append(Held(number))
    return found
