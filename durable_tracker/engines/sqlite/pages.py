"""Reading records out of SQLite's pages directly, for files that SQLite can no longer read, or should not open yet.

It follows https://www.sqlite.org/fileformat.html and trusts nothing: every length is checked against the page, and what
cannot be parsed is skipped. Whether a row is intact is for the caller to say, by its checksum. Nothing is written.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from durable_tracker.engines.sqlite.raw import PAGE_SIZE, open_raw, read_piece

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from durable_tracker.engines.sqlite.wal import Frame

_HEADER_SIZE: Final = 100
_FREELIST_FIELDS: Final = 32  # where the header names the first trunk page and the number of free pages
_LOCAL_MAX: Final = PAGE_SIZE - 35
_LOCAL_MIN: Final = (PAGE_SIZE - 12) * 32 // 255 - 23
_PAYLOAD_SIZE_MAX: Final = 1 << 24  # events have at most 1 MB; a damaged length must not have the whole file read
_PTRMAP_ENTRIES: Final = PAGE_SIZE // 5
_PTRMAP_FREE: Final = 2
_PTRMAP_KINDS: Final = range(1, 6)
_TRUNK_ENTRIES: Final = PAGE_SIZE // 4 - 2
_BLOB: Final = 12
_INTERIOR: Final = 5
_LEAF: Final = 13
_DEPTH_MAX: Final = 20
_CONSTANTS: Final = (8, 9)  # kinds that stand for the integers 0 and 1
_SIZES: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


class Record(NamedTuple):
    """One record of a table: its rowid and its columns. Text comes as bytes."""

    rowid: int
    columns: list[int | bytes | None]


class Pages:
    """The pages of a database file as they would be with some frames of its WAL applied.

    The file must not be open in a connection of this process; see `raw`.
    """

    def __init__(self, descriptor: int | None, *, overlay: Mapping[int, bytes], count: int) -> None:
        """Take the pages of an open file.

        Args:
            descriptor: the file's; None: there is none.
            overlay: pages that are newer than those of the file.
            count: how many pages there are.
        """
        self._descriptor = descriptor
        self._overlay = overlay
        self._maps: dict[int, bytes] = {}
        self._newer_than_map: Container[int] = ()
        self.count = count
        self._free = _FreeList(self)

    @classmethod
    def of(cls, database: Path, frames: Iterable[Frame] = (), *, newer_than_map: Container[int] = ()) -> Self:
        """Open a database; the caller closes it with `close`.

        Args:
            database: its path.
            frames: those to be applied, in order.
            newer_than_map: pages about which the pointer map may be out of date.

        Raises:
            StorageError: it cannot be opened.
        """
        try:
            descriptor = open_raw(database)
        except FileNotFoundError:
            descriptor = None  # a WAL without its database
        size = 0 if descriptor is None else os.fstat(descriptor).st_size
        frames = list(frames)
        # A page beyond what these frames can have added is a flipped bit, and would be walked to.
        page_max = -(-size // PAGE_SIZE) + len(frames)
        overlay = {frame.page: frame.image for frame in frames if 0 < frame.page <= page_max}
        pages = cls(descriptor, overlay=overlay, count=max([-(-size // PAGE_SIZE), *overlay]))
        pages._newer_than_map = newer_than_map
        return pages

    def close(self) -> None:
        """Close the file. May be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def is_in_wal(self, number: int) -> bool:
        """Return whether a page comes from the WAL."""
        return number in self._overlay

    def page(self, number: int) -> bytes:
        """Return a page, with zeros where the file is cut short or cannot be read.

        Raises:
            StorageError: reading fails for another reason than a lost piece of the medium.
        """
        image = self._overlay.get(number)
        if image is None:
            image, _ = (b"", False) if self._descriptor is None else self._read(self._descriptor, number)
            image = image.ljust(PAGE_SIZE, b"\0")
        return image

    @staticmethod
    def _read(descriptor: int, number: int) -> tuple[bytes, bool]:
        return read_piece(descriptor, PAGE_SIZE, (number - 1) * PAGE_SIZE)

    def records(self, number: int) -> Iterator[Record]:
        """Yield the records on a page, none if it is known to be free: what stands on it was deleted before."""
        if not self.is_free(number):
            yield from self.leaf(self.page(number))

    def leaf(self, image: bytes) -> Iterator[Record]:
        """Yield the records of one page, read as a leaf whatever it says it is: its type may be what was damaged.

        If the page's header fits its cells, those are its records. Else neither the number of cells nor a pointer is
        believed by itself: the array of pointers ends where the first cell begins, or after that number, whichever is
        later.
        """
        start = (_HEADER_SIZE if image.startswith(b"SQLite format 3\0") else 0) + 8
        (cells,) = struct.unpack_from(">H", image, start - 5)
        end, counted = PAGE_SIZE, min(start + 2 * cells, PAGE_SIZE)
        if start == 8 and is_consistent_leaf(image):  # noqa: PLR2004 (any page but the first)
            end = 0
        position = start
        while position + 2 <= max(end, counted):
            (offset,) = struct.unpack_from(">H", image, position)
            position += 2
            try:
                size, content = _varint(image, offset)
                rowid, content = _varint(image, content)
                yield Record(rowid, _columns(self._payload(image, content, size)))
            except (IndexError, struct.error):
                continue
            end = min(end, offset)

    def table(self, root: int) -> Iterator[Record]:
        """Yield the records of a small table, as far as its pages lead to one another."""
        waiting, seen = [(root, 0)], set()
        while waiting:
            number, depth = waiting.pop()
            if number in seen or not 0 < number <= self.count or depth > _DEPTH_MAX:
                continue
            seen.add(number)
            image = self.page(number)
            if image[0] == _INTERIOR:
                cells = min(int.from_bytes(image[3:5], "big"), (PAGE_SIZE - 12) // 2)
                offsets = struct.unpack_from(f">{cells}H", image, 12)
                children = [int.from_bytes(image[at : at + 4], "big") for at in offsets]
                waiting += [(child, depth + 1) for child in (*children, int.from_bytes(image[8:12], "big"))]
            yield from self.leaf(image)  # also if it says that it is none: one bit makes the difference

    def rows_above(self, root: int, after: int, depth: int = 0) -> Iterator[Record]:
        """Yield a table's records with a rowid above `after`, in order, down from its root.

        Raises:
            IndexError: a page is not what its parent says, or a length does not fit.
        """
        if not 0 < root <= self.count or depth > _DEPTH_MAX:
            raise IndexError(root)
        image = self.page(root)
        kind, cells = image[0], int.from_bytes(image[3:5], "big")
        start = 8 if kind == _LEAF else 12
        if kind not in (_LEAF, _INTERIOR) or start + 2 * cells > PAGE_SIZE:
            raise IndexError(root)
        for offset in struct.unpack_from(f">{cells}H", image, start):
            if kind == _LEAF:
                size, content = _varint(image, offset)
                rowid, content = _varint(image, content)
                if rowid > after:
                    yield Record(rowid, _columns(self._payload(image, content, size)))
            elif _varint(image, offset + 4)[0] > after:  # the highest rowid that the child has
                yield from self.rows_above(int.from_bytes(image[offset : offset + 4], "big"), after, depth + 1)
        if kind == _INTERIOR:
            yield from self.rows_above(int.from_bytes(image[8:12], "big"), after, depth + 1)

    def last_leaf(self, root: int) -> int | None:
        """Return the number of a table's last page, on which the highest keys are; None if none is led to."""
        number = root
        for _ in range(_DEPTH_MAX):
            if not 0 < number <= self.count:
                return None
            image = self.page(number)
            if image[0] != _INTERIOR:
                return number if image[0] == _LEAF else None
            (number,) = struct.unpack_from(">I", image, 8)
        return None

    def is_free(self, number: int) -> bool:
        """Return whether a page is free, by the pointer map, or, where that has no entry, by the freelist."""
        entry = self.map_entry(number)
        if entry is None or number in self._newer_than_map:
            return False
        kind, parent = entry
        return (kind, parent) == (_PTRMAP_FREE, 0) or (kind not in _PTRMAP_KINDS and number in self._free.numbers())

    def map_entry(self, number: int) -> tuple[int, int] | None:
        """Return a page's type and parent by the pointer map, None if it has no entry there."""
        map_page = map_page_of(number)
        if number <= 2 or number == map_page:  # noqa: PLR2004 (page 1 has the schema, page 2 is the first map)
            return None
        if map_page not in self._maps:
            self._maps[map_page] = self.page(map_page)
        kind, parent = struct.unpack_from(">BI", self._maps[map_page], 5 * (number - map_page - 1))
        return kind, parent

    def freelist_problem(self) -> str | None:
        """Return what is wrong with the list of free pages, None if nothing is.

        SQLite writes new rows over a page that stands in this list, and asks nobody else whether it is free.
        """
        return self._free.problem()

    def _payload(self, image: bytes, offset: int, size: int) -> bytes:
        if not 0 < size < min(_PAYLOAD_SIZE_MAX, (self.count + 1) * PAGE_SIZE):
            raise IndexError(size)
        if size <= _LOCAL_MAX:
            return image[offset : offset + size]
        local = _local_size(size) - 4
        parts = [image[offset : offset + local]]
        (following,) = struct.unpack_from(">I", image, offset + local)
        left = size - local
        while left > 0:
            # What is no cell leads nowhere at once, nearly always. The pointer map is not asked: it may be damaged.
            if not 2 < following <= self.count:  # noqa: PLR2004 (see `map_entry`)
                raise IndexError(following)
            image = self.page(following)
            (following,) = struct.unpack_from(">I", image, 0)
            parts.append(image[4 : 4 + min(left, PAGE_SIZE - 4)])
            left -= PAGE_SIZE - 4
        return b"".join(parts)


class _FreeList:
    """The list of free pages: trunk pages, each of which names the next one and up to 1,022 others."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._numbers: set[int] | None = None
        self._problem: str | None = None

    def numbers(self) -> set[int]:
        """Return the pages in the list, as far as it can be followed."""
        if self._numbers is None:
            self._numbers = set()
            self._follow(self._numbers)
        return self._numbers

    def problem(self) -> str | None:
        """Return what is wrong with the list in itself, or by the pointer map."""
        for number in self.numbers():
            if self._problem is None and self._pages.map_entry(number) != (_PTRMAP_FREE, 0):
                self._problem = f"page {number} is in the list of free pages, and is not free by the pointer map"
        return self._problem

    def _follow(self, numbers: set[int]) -> None:
        pages = self._pages
        trunk, total = struct.unpack_from(">II", pages.page(1), _FREELIST_FIELDS)
        while trunk:
            if not 2 < trunk <= pages.count or trunk in numbers:  # noqa: PLR2004 (see `map_entry`)
                self._problem = f"the list of free pages leads to page {trunk}"
                return
            numbers.add(trunk)
            following, count = struct.unpack_from(">II", image := pages.page(trunk), 0)
            if count > _TRUNK_ENTRIES:
                self._problem = f"trunk page {trunk} of the list of free pages counts {count} entries"
                return
            leaves = struct.unpack_from(f">{count}I", image, 8)
            if any(not 2 < leaf <= pages.count for leaf in leaves) or len(set(leaves) - numbers) != count:  # noqa: PLR2004
                self._problem = f"trunk page {trunk} of the list of free pages names a page that cannot be free"
            numbers.update(leaves)
            trunk = following
        if len(numbers) != total:
            self._problem = f"the list of free pages has {len(numbers)} pages, where {total} are counted"


def map_page_of(number: int) -> int:
    """Return the page of the pointer map that has a page's entry."""
    return 2 + (number - 2) // (_PTRMAP_ENTRIES + 1) * (_PTRMAP_ENTRIES + 1)


def is_consistent_leaf(image: bytes) -> bool:
    """Return whether the header of a table's leaf fits its cells and its free blocks, byte for byte.

    Then SQLite adds a row to it without writing over another. The rules are those of section 1.6 of the file format:
    cells, free blocks and up to 60 bytes of fragments fill the area from where the header says that the cells begin.
    """
    if image[0] != _LEAF:
        return False
    free, cells, begin, fragments = struct.unpack_from(">HHHB", image, 1)
    begin = begin or 1 << 16
    pointers_end = 8 + 2 * cells
    if not pointers_end <= begin <= PAGE_SIZE or fragments > 60:  # noqa: PLR2004 (see above)
        return False
    taken: list[tuple[int, int]] = []
    for offset in struct.unpack_from(f">{cells}H", image, 8):
        try:
            size, content = _varint(image, offset)
            _, content = _varint(image, content)
        except IndexError:
            return False
        taken.append((offset, max(content + _local_size(size), offset + 4)))
    while free:
        following, size = struct.unpack_from(">HH", image, free) if free <= PAGE_SIZE - 4 else (0, 0)
        if size < 4 or (following and following < free + size):  # noqa: PLR2004 (the least that a free block has)
            return False
        taken.append((free, free + size))
        free = following
    taken.sort()
    gaps, position = 0, begin
    for first, end in taken:
        if first < position or end > PAGE_SIZE:
            return False
        gaps += first - position
        position = end
    return bool(gaps + PAGE_SIZE - position == fragments)


def _local_size(size: int) -> int:
    """Return how many bytes of a cell's payload stand on the leaf, with the number of the overflow page behind them."""
    if size <= _LOCAL_MAX:
        return size
    local = _LOCAL_MIN + (size - _LOCAL_MIN) % (PAGE_SIZE - 4)
    return (local if local <= _LOCAL_MAX else _LOCAL_MIN) + 4


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
