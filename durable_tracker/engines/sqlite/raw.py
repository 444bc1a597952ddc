"""Reading a file around the pieces of it that the disk cannot read any more.

POSIX locks belong to the process: when any descriptor of a file is closed, the process loses the locks that SQLite
holds on it. So a database file is read like this only while no connection of this process has it open.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

PAGE_SIZE: Final = 4096
SECTOR_SIZE: Final = 512

UNREADABLE: Final = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ENODATA", "EBADMSG", "EUCLEAN", "EREMOTEIO")
    if hasattr(errno, name)  # Linux has them all
)
"""What the system says of a piece of a medium that is lost. Any other error says nothing about what is in the file."""

_CHUNK: Final = 1 << 16


def open_raw(path: Path) -> int:
    """Open a file for reading, and return its descriptor.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}") from None


def read_piece(descriptor: int, size: int, offset: int) -> tuple[bytes, bool]:
    """Read a piece of a file, with zeros in place of sectors that cannot be read.

    Returns:
        The bytes, fewer than `size` at the end of the file, and whether some of them are such zeros.

    Raises:
        StorageError: reading fails for another reason.
    """
    try:
        return os.pread(descriptor, size, offset), False
    except OSError as exc:
        if exc.errno not in UNREADABLE:
            raise StorageError(f"a file of the queue cannot be read: {exc.strerror}") from None
    if size <= SECTOR_SIZE:
        return bytes(min(size, max(os.fstat(descriptor).st_size - offset, 0))), True
    part = PAGE_SIZE if size > PAGE_SIZE else SECTOR_SIZE
    pieces = [read_piece(descriptor, min(part, size - at), offset + at)[0] for at in range(0, size, part)]
    return b"".join(pieces), True


def read_around(path: Path) -> tuple[bytes, bool]:
    """Read a whole file, as `read_piece` does; one that does not exist is empty."""
    try:
        descriptor = open_raw(path)
    except FileNotFoundError:
        return b"", False
    try:
        pieces: list[bytes] = []
        offset, has_holes = 0, False
        while True:
            piece, is_hole = read_piece(descriptor, _CHUNK, offset)
            if not piece:
                return b"".join(pieces), has_holes
            pieces.append(piece)
            has_holes |= is_hole
            offset += len(piece)
    finally:
        os.close(descriptor)
