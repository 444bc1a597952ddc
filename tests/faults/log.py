"""Reads what recorder.c wrote."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# The layout of `struct record` in recorder.c.
_HEAD = struct.Struct("<IIIIQQqqiIII")
_MAGIC = 0x54554146


class Kind(enum.IntEnum):
    """What was recorded. The numbers are those of recorder.c."""

    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    SYNC_BEGIN = 5
    SYNC_END = 6
    UNLINK = 7
    RMDIR = 8
    RENAME = 9
    MKDIR = 10
    LINK = 11
    MAP = 12
    MARK = 13
    INJECTED = 14
    CLOSE = 15


class Mode(enum.IntEnum):
    """What happens to a call that was chosen to fail."""

    FAIL = 0
    SHORT = 1
    KILL_BEFORE = 2
    KILL_AFTER = 3
    KILL_TORN = 4


CHANGES = frozenset(
    {Kind.OPEN, Kind.WRITE, Kind.TRUNCATE, Kind.ALLOCATE, Kind.SYNC_END, Kind.UNLINK, Kind.RMDIR}
    | {Kind.RENAME, Kind.MKDIR, Kind.LINK}
)
"""The kinds after which the disk may be another one than before."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One record: an operation that took effect, or a mark. What `a` and `b` mean depends on the kind."""

    kind: Kind
    pid: int
    time_ns: int
    inode: int
    a: int
    b: int
    error: int
    first: bytes
    second: bytes

    @property
    def path(self) -> str:
        """The path that the operation names first."""
        return self.first.decode(errors="surrogateescape")

    @property
    def to(self) -> str:
        """The path that a rename or link names second."""
        return self.second.decode(errors="surrogateescape")

    def __str__(self) -> str:
        name = self.kind.name.lower()
        if self.kind is Kind.WRITE:
            return f"{name} inode {self.inode} at {self.a}, {len(self.first)} bytes"
        return f"{name} inode {self.inode} {self.path} {self.to} a={self.a} b={self.b} error={self.error}"


def read(path: Path) -> list[Operation]:
    """Return all records of a log, oldest first.

    A process that was killed cannot leave half a record: each is one append.
    """
    data = path.read_bytes() if path.exists() else b""
    operations = []
    at = 0
    while at < len(data):
        head = _HEAD.unpack_from(data, at)
        magic, kind, pid, _thread, time_ns, inode, a, b, error, first_size, second_size, _ = head
        if magic != _MAGIC:
            raise ValueError(f"{path}: no record at byte {at}")
        middle = at + _HEAD.size + first_size
        end = middle + second_size
        first = data[at + _HEAD.size : middle]
        operations.append(
            Operation(Kind(kind), pid, time_ns, inode, a, b, error, first, data[middle:end]),
        )
        at = end
    return operations
