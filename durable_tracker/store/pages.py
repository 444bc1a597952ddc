"""Reading records out of SQLite's pages directly, for files that SQLite itself can no longer read.

It follows https://www.sqlite.org/fileformat.html and trusts nothing: every length is checked against the page, and what
cannot be parsed is skipped. Whether a row is intact is for the caller to say, by its checksum. Nothing is written.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE_SIZE: Final = 4096
_HEADER_SIZE: Final = 100
_WAL_HEADER_SIZE: Final = 32
_FRAME_HEADER_SIZE: Final = 24
_FRAME_SIZE: Final = _FRAME_HEADER_SIZE + PAGE_SIZE
_LOCAL_MAX: Final = PAGE_SIZE - 35
_LOCAL_MIN: Final = (PAGE_SIZE - 12) * 32 // 255 - 23
_PAYLOAD_SIZE_MAX: Final = 1 << 24  # events have at most 1 MB; a damaged length must not have the whole file read
_PTRMAP_ENTRIES: Final = PAGE_SIZE // 5
_PTRMAP_FREE: Final = 2
_PTRMAP_OVERFLOW_FIRST: Final = 3
_PTRMAP_OVERFLOW_NEXT: Final = 4
_BLOB: Final = 12
_INTERIOR: Final = 5
_LEAF: Final = 13
_DEPTH_MAX: Final = 20
_CONSTANTS: Final = (8, 9)  # kinds that stand for the integers 0 and 1
_SIZES: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


class Frame(NamedTuple):
    """One page as a write-ahead log has it: its place there, and whether a transaction ends with it."""

    place: int
    page: int
    commits: bool
    image: bytes


class Record(NamedTuple):
    """One record of a table: its rowid and its columns. Text comes as bytes."""

    rowid: int
    columns: list[int | bytes | None]


def wal_frames(path: Path) -> list[Frame]:
    """Return the frames of a WAL's present generation, in order, also beyond the one at which SQLite stops.

    SQLite stops at the first frame whose checksum is wrong. Those after it with the same salts were committed too.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return []
    frames = []
    (salts,) = struct.unpack_from(">Q", content.ljust(_WAL_HEADER_SIZE + 16, b"\0"), _WAL_HEADER_SIZE + 8)
    for start in range(_WAL_HEADER_SIZE, len(content) - _FRAME_SIZE + 1, _FRAME_SIZE):
        (own,) = struct.unpack_from(">Q", content, start + 8)
        if (own ^ salts).bit_count() > 1:
            continue  # of an older generation; half of its salts are random, so one bit is damage
        number, size = struct.unpack_from(">II", content, start)
        place = (start - _WAL_HEADER_SIZE) // _FRAME_SIZE
        frames.append(Frame(place, number, size != 0, content[start + _FRAME_HEADER_SIZE : start + _FRAME_SIZE]))
    return frames


class Pages:
    """The pages of a database file as they would be with its WAL applied."""

    def __init__(self, database: Path, frames: list[Frame]) -> None:
        """Open a database; the caller closes it with `close`."""
        self._file = database.open("rb")
        size = self._file.seek(0, 2)
        # A page beyond what these frames can have added is a flipped bit, and would be walked to.
        page_max = -(-size // PAGE_SIZE) + len(frames)
        self._overlay = {frame.page: frame.image for frame in frames if frame.page <= page_max}
        self.count = max([-(-size // PAGE_SIZE), *self._overlay])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def page(self, number: int) -> bytes:
        """Return a page, filled with zeros where the file is cut short."""
        image = self._overlay.get(number)
        if image is None:
            self._file.seek((number - 1) * PAGE_SIZE)
            image = self._file.read(PAGE_SIZE).ljust(PAGE_SIZE, b"\0")
        return image

    def records(self) -> Iterator[Record]:
        """Yield every record on every leaf of a table that is not known to be free."""
        for number in range(1, self.count + 1):
            if not self._is_free(number):
                yield from self.leaf(number, self.page(number))

    def leaf(self, number: int, image: bytes) -> Iterator[Record]:
        """Yield the records of one page, read as a leaf whatever it says it is: its type may be what was damaged.

        Neither the number of cells nor a pointer is believed by itself: the array of pointers ends where the first
        cell begins, or after that number, whichever is later.
        """
        start = (_HEADER_SIZE if number == 1 else 0) + 8
        (cells,) = struct.unpack_from(">H", image, start - 5)
        end, counted = PAGE_SIZE, min(start + 2 * cells, PAGE_SIZE)
        position = start
        while position + 2 <= max(end, counted):
            (offset,) = struct.unpack_from(">H", image, position)
            position += 2
            try:
                size, content = _varint(image, offset)
                rowid, content = _varint(image, content)
                yield Record(rowid, _columns(self._payload(number, image, content, size)))
            except (IndexError, struct.error):
                continue
            end = min(end, offset)

    def _is_free(self, number: int) -> bool:
        """Return whether the pointer map says that a page is free: what stands on it was deleted before."""
        return self._map_entry(number) == (_PTRMAP_FREE, 0)

    def _map_entry(self, number: int) -> tuple[int, int] | None:
        """Return a page's type and parent by the pointer map, None if it has no entry there."""
        group = (number - 2) // (_PTRMAP_ENTRIES + 1)
        map_page = 2 + group * (_PTRMAP_ENTRIES + 1)
        if number <= 2 or number == map_page:  # noqa: PLR2004 (page 1 has the schema, page 2 is the first map)
            return None
        kind, parent = struct.unpack_from(">BI", self.page(map_page), 5 * (number - map_page - 1))
        return kind, parent

    def _payload(self, number: int, image: bytes, offset: int, size: int) -> bytes:
        if not 0 < size < min(_PAYLOAD_SIZE_MAX, self.count * PAGE_SIZE):
            raise IndexError(size)
        if size <= _LOCAL_MAX:
            return image[offset : offset + size]
        local = _LOCAL_MIN + (size - _LOCAL_MIN) % (PAGE_SIZE - 4)
        if local > _LOCAL_MAX:
            local = _LOCAL_MIN
        parts = [image[offset : offset + local]]
        (following,) = struct.unpack_from(">I", image, offset + local)
        expected = (_PTRMAP_OVERFLOW_FIRST, number)
        left = size - local
        while left > 0:
            # Most of what is read here is no cell at all. The map, which knows whose overflow a page is, tells at once.
            if not 0 < following <= self.count or self._map_entry(following) != expected:
                raise IndexError(following)
            expected = (_PTRMAP_OVERFLOW_NEXT, following)
            image = self.page(following)
            (following,) = struct.unpack_from(">I", image, 0)
            parts.append(image[4 : 4 + min(left, PAGE_SIZE - 4)])
            left -= PAGE_SIZE - 4
        return b"".join(parts)


def would_overwrite(database: Path, frames: list[Frame], root: int) -> bool:
    """Return whether the next row of a table would be written over others.

    SQLite puts it on the last leaf, below where the page's header says that the cells begin, and believes it. Pages
    that are in the WAL are not looked at: they have checksums.
    """
    in_log = {frame.page for frame in frames}
    pages = Pages(database, [])
    try:
        number = root
        for _ in range(_DEPTH_MAX):
            if number in in_log or not 0 < number <= pages.count:
                return False
            image = pages.page(number)
            if image[0] == _INTERIOR:
                (number,) = struct.unpack_from(">I", image, 8)
                continue
            cells, begin = struct.unpack_from(">HH", image, 3)
            pointers = min(cells, (PAGE_SIZE - 8) // 2)
            return image[0] == _LEAF and any(at < begin for at in struct.unpack_from(f">{pointers}H", image, 8))
    finally:
        pages.close()
    return False


def _columns(payload: bytes) -> list[int | bytes | None]:
    """Return the columns of a record (section 2.1 of the file format)."""
    header_size, position = _varint(payload, 0)
    offset = header_size
    columns: list[int | bytes | None] = []
    while position < header_size:
        kind, position = _varint(payload, position)
        size = _size(kind)
        content = payload[offset : offset + size]
        if len(content) != size:
            raise IndexError(size)
        offset += size
        if kind == 0:
            columns.append(None)
        elif kind >= _BLOB:
            columns.append(content)
        else:
            columns.append(kind - 8 if kind in _CONSTANTS else int.from_bytes(content, "big", signed=True))
    return columns


def _size(kind: int) -> int:
    if kind >= _BLOB:
        return (kind - _BLOB) // 2
    return _SIZES[kind]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it."""
    value = 0
    for index in range(8):
        byte = data[position + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 (the continuation bit)
            return value, position + index + 1
    value = value << 8 | data[position + 8]
    return (value - (1 << 64) if value >> 63 else value), position + 9


def broken_frame(path: Path) -> int | None:
    """Return the first frame of a WAL at which SQLite stops though a committed one follows; None if there is none.

    It follows section 4.2 of the file format: each frame's checksum continues that of the frame before.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if len(content) < _WAL_HEADER_SIZE + _FRAME_SIZE:
        return None
    order = ">" if content[3] & 1 else "<"
    sums = _checksum(content[:24], order, (0, 0))
    whole = 0
    if sums == struct.unpack_from(">II", content, 24):
        for start in range(_WAL_HEADER_SIZE, len(content) - _FRAME_SIZE + 1, _FRAME_SIZE):
            image = content[start + _FRAME_HEADER_SIZE : start + _FRAME_SIZE]
            sums = _checksum(content[start : start + 8] + image, order, sums)
            stored = struct.unpack_from(">II", content, start + 16)
            if content[start + 8 : start + 16] != content[16:24] or sums != stored:
                break
            whole += 1
    beyond = wal_frames(path)[whole:]
    return whole + 1 if any(frame.commits for frame in beyond) else None


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for one, other in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
