"""Reading a write-ahead log directly: what SQLite would recover from it, and what stands behind a damaged frame.

It follows sections 4.1 and 4.2 of https://www.sqlite.org/fileformat.html. A WAL holds one frame per page that was
written; a frame of which the `commits` field is set ends a transaction. SQLite recovers frames as long as their
checksums, each of which continues the one before, are right; it ignores all that follows, and never says so. Nothing
is written.
"""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from durable_tracker.engines.sqlite.raw import PAGE_SIZE, open_raw, read_around, read_piece
from durable_tracker.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_HEADER_SIZE: Final = 32
_FRAME_HEADER_SIZE: Final = 24
FRAME_SIZE: Final = _FRAME_HEADER_SIZE + PAGE_SIZE
_MAGIC: Final = b"\x37\x7f\x06"  # and a byte whose lowest bit tells the byte order of the checksums
_PAIRS: Final = struct.Struct(">II")
_FRAMES_AT_ONCE: Final = 64
_LOOKS_MAX: Final = 50
_Sums = tuple[int, int]


class Frame(NamedTuple):
    """One page as a WAL has it.

    Attributes:
        place: its place in the file, from 0.
        page: the page's number.
        commits: whether a transaction ends with it.
        is_whole: whether nothing speaks against its image: its checksum is right, or cannot be computed.
        image: the page's bytes.
    """

    place: int
    page: int
    commits: bool
    is_whole: bool
    image: bytes


class Wal(NamedTuple):
    """The frames of a WAL's present generation.

    Attributes:
        frames: all of them, in order, also those at which and behind which SQLite stops.
        recovered: how many of them SQLite recovers: up to the last commit before the first damaged frame.
        has_holes: whether a piece of the file cannot be read.
        is_cut_short: whether something stands behind the last frame that is not of an older generation.
    """

    frames: list[Frame]
    recovered: int
    has_holes: bool
    is_cut_short: bool = False

    @property
    def committed(self) -> int:
        """How many frames there are up to the last one that ends a transaction, damaged or not.

        The last frame of all does not end one if it is damaged: it may have been half written when the process died.
        """
        last = len(self.frames) - 1
        return max(
            (at + 1 for at, frame in enumerate(self.frames) if frame.commits and (frame.is_whole or at < last)),
            default=0,
        )

    def is_doubtful(self, first: int) -> bool:
        """Return whether one of the frames from index `first` on is damaged, or missing."""
        frames = self.frames[first:]
        places = [-1 if first == 0 else self.frames[first - 1].place, *(frame.place for frame in frames)]
        return (
            self.is_cut_short
            or any(not frame.is_whole for frame in frames)
            or any(own + 1 != following for own, following in pairwise(places))
        )

    @property
    def commits_behind(self) -> int:
        """How many transactions end behind what SQLite recovers."""
        return sum(frame.commits for frame in self.frames[self.recovered :])


def read_wal(path: Path) -> Wal:
    """Read a WAL; one that does not exist has no frames.

    Raises:
        StorageError: it cannot be opened.
    """
    content, has_holes = read_around(path)
    count = (len(content) - _HEADER_SIZE) // FRAME_SIZE
    if count <= 0:
        return Wal([], 0, has_holes)
    order = ">" if content[3] & 1 else "<"
    sums = _checksum(content[:24], order, (0, 0))
    is_header_whole = content[:3] == _MAGIC and sums == _PAIRS.unpack_from(content, 24)  # zeros have a sum of zero
    salts = content[16:24] if is_header_whole else _newest_salts(content)
    frames: list[Frame] = []
    recovered, is_chained = 0, is_header_whole
    altered: _Sums | None = None  # of the frame before, as they must have been, where one bit of them was flipped
    for place in range(count):
        start = _HEADER_SIZE + place * FRAME_SIZE
        if not _is_near(content[start + 8 : start + 16], salts):
            continue  # of an older generation
        page, size = _PAIRS.unpack_from(content, start)
        computed, stored = _sums(content, place, order, altered)
        is_chained = is_chained and altered is None and computed == stored and content[start + 8 : start + 16] == salts
        is_chained = is_chained and len(frames) == place
        is_continued = computed != stored and _continues(content, place, count, order, computed, salts)
        altered = computed if is_continued else None
        is_whole = computed == stored or is_continued
        # Where the header of the frame before is lost, nothing can be computed. Then the one behind tells: it is
        # written after this one is.
        is_behind_a_gap = place > 0 and (not frames or frames[-1].place != place - 1)
        is_whole = is_whole or (is_behind_a_gap and _continues(content, place, count, order, stored, salts))
        image = content[start + _FRAME_HEADER_SIZE : start + FRAME_SIZE]
        frames.append(Frame(place, page, size != 0, is_whole, image))
        if is_chained and size:
            recovered = len(frames)
    end = frames[-1].place + 1 if frames else 0
    is_cut_short = end < count and not _is_older(content[_HEADER_SIZE + end * FRAME_SIZE :][8:12], salts)
    return Wal(frames, recovered, has_holes, is_cut_short)


def _sums(content: bytes, place: int, order: str, before: _Sums | None) -> tuple[_Sums, _Sums]:
    """Return a frame's checksum as computed from the one before it, which is the one stored there, and as stored."""
    start = _HEADER_SIZE + place * FRAME_SIZE
    before = before or _PAIRS.unpack_from(content, 24 if place == 0 else start - FRAME_SIZE + 16)
    covered = content[start : start + 8] + content[start + _FRAME_HEADER_SIZE : start + FRAME_SIZE]
    return _checksum(covered, order, before), _PAIRS.unpack_from(content, start + 16)


def _continues(content: bytes, place: int, count: int, order: str, computed: _Sums, salts: bytes) -> bool:
    """Return whether the next frame continues the checksum as computed: then only the stored one was altered.

    The next frame has to be of this generation. Where a power failure kept no more of a frame than its header, over a
    frame of the generation before that has the same page, the rest of that generation continues it.
    """
    if place + 1 >= count:
        return False
    start = _HEADER_SIZE + (place + 1) * FRAME_SIZE
    if not _is_near(content[start + 8 : start + 16], salts):
        return False
    covered = content[start : start + 8] + content[start + _FRAME_HEADER_SIZE : start + FRAME_SIZE]
    return _checksum(covered, order, computed) == _PAIRS.unpack_from(content, start + 16)


def _newest_salts(content: bytes) -> bytes:
    """Return the salts of the newest generation by the frames alone: the header is damaged.

    The newest generation's frames stand first. Each restart of a WAL adds 1 to the first salt and draws the second, and
    a generation may be so short that nothing is left of it. So salts that neither agree with the next frame's nor are
    newer were altered.
    """
    found = [
        content[start + 8 : start + 16] for start in range(_HEADER_SIZE, len(content) - FRAME_SIZE + 1, FRAME_SIZE)
    ]
    for own, following in pairwise(found):
        if own == following or _is_older(following[:4], own):
            return own
    return found[0]


def _is_near(own: bytes, salts: bytes) -> bool:
    """Return whether two pairs of salts agree but for one bit: half of them is random, so one bit is damage."""
    return own == salts or (int.from_bytes(own, "big") ^ int.from_bytes(salts, "big")).bit_count() <= 1


def _is_older(own: bytes, salts: bytes) -> bool:
    """Return whether the first salt of a frame is that of an earlier generation: each restart adds 1 to it."""
    return 0 < (int.from_bytes(salts[:4], "big") - int.from_bytes(own, "big")) & 0xFFFFFFFF < 1 << 16


def _checksum(data: bytes, order: str, sums: _Sums) -> _Sums:
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


class Log:
    """The committed frames of a WAL that somebody else writes, read on from where the last look ended.

    Not thread-safe.

    Attributes:
        header: the WAL's header, which is another one for each generation; empty if there is no WAL.
        overlay: the newest committed image of each page.
        order: the numbers of the pages that were committed, in the order in which they were written.
        page_count: how many pages the database has as of the last commit; 0 if none is in the WAL.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin(b"")

    def _begin(self, header: bytes) -> None:
        self.header = header
        self.overlay: dict[int, bytes] = {}
        self.order: list[int] = []
        self.page_count = 0
        self._sums: _Sums = (0, 0)
        self._order = ">" if header[3:4] and header[3] & 1 else "<"
        is_whole = len(header) == _HEADER_SIZE and header[:3] == _MAGIC
        if is_whole:
            self._sums = _checksum(header[:24], self._order, (0, 0))
        self._is_whole = is_whole and self._sums == _PAIRS.unpack_from(header, 24)

    def look(self) -> None:
        """Read the frames that were committed since.

        Raises:
            StorageError: the WAL cannot be read, or starts anew all the time.
        """
        for _ in range(_LOOKS_MAX):
            try:
                descriptor = open_raw(self._path)
            except FileNotFoundError:
                self._begin(b"")
                return
            try:
                header, _ = read_piece(descriptor, _HEADER_SIZE, 0)
                if header != self.header:
                    self._begin(header)
                if self._is_whole:
                    self._read_on(descriptor)
                if read_piece(descriptor, _HEADER_SIZE, 0)[0] == header:
                    return
                self._begin(b"")  # it started anew meanwhile: what was read may be of both generations
            finally:
                os.close(descriptor)
        raise StorageError(f"{self._path} changes faster than it can be read")

    def _read_on(self, descriptor: int) -> None:
        sums, place = self._sums, len(self.order)
        pending: list[tuple[int, bytes]] = []
        while True:
            content, _ = read_piece(descriptor, _FRAMES_AT_ONCE * FRAME_SIZE, _HEADER_SIZE + place * FRAME_SIZE)
            for start in range(0, len(content) - FRAME_SIZE + 1, FRAME_SIZE):
                frame = content[start : start + FRAME_SIZE]
                sums = _checksum(frame[:8] + frame[_FRAME_HEADER_SIZE:], self._order, sums)
                if frame[8:16] != self.header[16:24] or sums != _PAIRS.unpack_from(frame, 16):
                    return
                page, page_count = _PAIRS.unpack_from(frame)
                pending.append((page, frame[_FRAME_HEADER_SIZE:]))
                place += 1
                if page_count:
                    self.overlay.update(pending)
                    self.order += [number for number, _ in pending]
                    self.page_count, self._sums = page_count, sums
                    pending.clear()
            if len(content) < _FRAMES_AT_ONCE * FRAME_SIZE:
                return
