"""Open files by number, in a process that may close any number under us, and open another file that gets it.

A daemonizer closes every descriptor that it finds. Then the number of a queue's file belongs to nobody, or to another
file of the application, which must be neither written nor closed. So whoever uses a number for long compares device and
inode first. Between that look and the use, another thread can still close it: that race cannot be closed from here.

Where every event looks, `fstat` is too dear: whoever asks for a file's times has the next write note them anew, at the
finest grain (Linux from 6.13 on), which a sync then writes as well; that makes a synced put half as slow again. What is
marked is known by its offset instead, which belongs to the opening of the file, and which nobody moves who reads and
writes at positions, as SQLite does where it is built for that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_LISTINGS: Final = ("/proc/self/fd", "/dev/fd")
_MARK_MIN: Final = 0x5EED0000
_MARKS: Final = range(_MARK_MIN, 0x7FFFFFFF)  # offsets that every file system has
_marks = itertools.count(_MARK_MIN)


class Held:
    """A descriptor, and the file that it was opened for. Any thread may ask it."""

    __slots__ = ("_device", "_inode", "_mark", "number")

    def __init__(self, number: int, *, marks: bool = False) -> None:
        """Remember what `number` is open on now.

        Args:
            number: the descriptor.
            marks: whether to know it by its offset, if it has one. Nobody may read or write there without a position.
        """
        status = os.fstat(number)
        self.number = number
        self._device, self._inode = status.st_dev, status.st_ino
        self._mark = _mark(number) if marks else None

    def is_ours(self) -> bool:
        """Return whether the number is still open on the same file."""
        try:
            if self._mark is not None and os.lseek(self.number, 0, os.SEEK_CUR) == self._mark:
                return True
            status = os.fstat(self.number)
        except OSError:
            return False
        is_ours = status.st_ino == self._inode and status.st_dev == self._device
        if is_ours:
            self._mark = None  # somebody moves the offset: SQLite, as it is built here
        return is_ours

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


def _mark(number: int) -> int | None:
    """Give an opened file an offset that no other has in this process, and return it; None if it can have none."""
    try:
        offset = os.lseek(number, 0, os.SEEK_CUR)
        if offset not in _MARKS:
            offset = next(_marks)
            os.lseek(number, offset, os.SEEK_SET)
    except OSError:
        return None
    return offset


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
                    found.append(Held(number, marks=True))
    return found
