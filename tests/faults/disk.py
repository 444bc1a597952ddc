"""A disk that remembers what it has promised, and forgets the rest when the power goes.

It is fed the recorded operations and keeps, for every file, what is durable and every later state that each piece of it
went through. A crash image takes one of these states for each piece, each file size and each name, independently:
a disk and a file system may write them back in any order. Pieces are 4 KiB (the page cache) or 512 bytes (a torn page).

A sync that failed leaves its pages marked clean though they are not on the disk: they are "stuck", no later sync covers
them, until the page is written again.
"""

from __future__ import annotations

import enum
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from .log import Kind, Operation

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable
    from pathlib import Path

PAGE_SIZE = 4096
_SECTOR_SIZE = 512
_ZERO_SECTOR = bytes(_SECTOR_SIZE)
_PUNCH_HOLE = 2
_KEEP_SIZE = 1


class Naming(enum.Enum):
    """When a new name is durable."""

    DIRECTORY = "A"
    """Only after an fsync of its directory, as POSIX has it."""
    FILE = "B"
    """Also after an fsync of the file, as ext4 and xfs do."""


class Choice(enum.Enum):
    """Which of the states that were not synced an image takes."""

    NONE = "none"
    ALL = "all"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Cut:
    """A truncation that is not durable yet. It happens wholly or not at all: it is one change of the metadata."""

    moment: int
    pieces: frozenset[int]


@dataclass(slots=True, eq=False)
class File:
    """A file's pieces. A piece that is nowhere holds zeros. Every state knows the moment at which it arose."""

    piece_size: int
    durable: dict[int, bytes] = field(default_factory=dict)
    later: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    cuts: list[Cut] = field(default_factory=list)
    stuck: set[int] = field(default_factory=set)
    moment: int = 0

    @property
    def size(self) -> int:
        """The size that the running process sees."""
        return self.sizes[-1][1]

    def piece(self, number: int) -> bytes:
        """Return a piece as the running process sees it."""
        states = self.later.get(number)
        return states[-1][1] if states else self.durable.get(number, bytes(self.piece_size))

    def _replace(self, number: int, start: int, data: bytes) -> None:
        old = self.piece(number)
        new = old[:start] + data + old[start + len(data) :]
        self.later.setdefault(number, []).append((self.moment, new))
        first = number * self.piece_size // PAGE_SIZE * PAGE_SIZE // self.piece_size
        self.stuck.difference_update(range(first, first + PAGE_SIZE // self.piece_size))

    def write(self, at: int, data: bytes) -> None:
        """Write as a process does; nothing of it is durable yet."""
        self.moment += 1
        done = 0
        while done < len(data):
            number, start = divmod(at + done, self.piece_size)
            part = data[done : done + self.piece_size - start]
            self._replace(number, start, part)
            done += len(part)
        self.grow(at + len(data))

    def grow(self, size: int) -> None:
        """Make the file at least this long."""
        if size > self.size:
            self.moment += 1
            self.sizes.append((self.moment, size))

    def zero(self, at: int, end: int) -> frozenset[int]:
        """Make a range zeros, without changing the size. Return the pieces that were touched."""
        self.moment += 1
        touched = set()
        for number in {*self.durable, *self.later}:
            first = number * self.piece_size
            start, stop = max(at, first) - first, min(end, first + self.piece_size) - first
            if start < stop:
                self._replace(number, start, bytes(stop - start))
                touched.add(number)
        return frozenset(touched)

    def truncate(self, size: int) -> None:
        """Cut or lengthen the file."""
        if size < self.size:
            pieces = self.zero(size, self.size + self.piece_size)
            self.cuts.append(Cut(self.moment, pieces))
            self.sizes.append((self.moment, size))
        else:
            self.grow(size)

    def synced(self, moment: int) -> None:
        """Make durable what there was at that moment, when the sync began, but for what is stuck."""
        for number in list(self.later):
            covered = moment
            if number in self.stuck:
                # The truncation is metadata, and a failed write of the data does not hold it up.
                cuts = [cut.moment for cut in self.cuts if cut.moment <= moment and number in cut.pieces]
                covered = max(cuts, default=-1)
            states = self.later[number]
            while states and states[0][0] <= covered:
                self.durable[number] = states.pop(0)[1]
            if not states:
                del self.later[number]
        while len(self.sizes) > 1 and self.sizes[1][0] <= moment:
            del self.sizes[0]
        self.cuts = [cut for cut in self.cuts if cut.moment > moment]

    def sync_failed(self, moment: int) -> None:
        """Mark what that sync covered, and was not written since, as clean in memory though not on the disk."""
        self.stuck.update(number for number, states in self.later.items() if states[-1][0] <= moment)

    def possible(self, cuts: int) -> tuple[dict[int, list[bytes]], list[int]]:
        """Return the states that each piece can be in, and the sizes, if that many truncations have happened.

        The first state is the oldest one.
        """
        done, open_ = self.cuts[:cuts], self.cuts[cuts:]
        pieces = {}
        for number, states in self.later.items():
            low = max((cut.moment for cut in done if number in cut.pieces), default=-1)
            high = min((cut.moment for cut in open_ if number in cut.pieces), default=self.moment + 1)
            held = [state for moment, state in states if low <= moment < high]
            if low < 0:
                held.insert(0, self.durable.get(number, bytes(self.piece_size)))
            pieces[number] = held
        low = done[-1].moment if done else -1
        high = open_[0].moment if open_ else self.moment + 1
        return pieces, [size for moment, size in self.sizes if low <= moment < high]


@dataclass(slots=True, eq=False)
class Folder:
    """A directory's names, and the changes to them that are not durable yet, oldest first."""

    durable: dict[str, Node] = field(default_factory=dict)
    later: list[dict[str, Node | None]] = field(default_factory=list)
    persisted: int = 0

    @property
    def moment(self) -> int:
        """How many changes there were."""
        return self.persisted + len(self.later)

    @property
    def names(self) -> dict[str, Node]:
        """The names that the running process sees."""
        return _applied(self.durable, self.later)

    def persist(self, moment: int) -> None:
        """Make the changes durable that there were at that moment."""
        count = max(moment - self.persisted, 0)
        self.durable = _applied(self.durable, self.later[:count])
        del self.later[:count]
        self.persisted += count


Node = File | Folder


def _applied(names: dict[str, Node], changes: Iterable[dict[str, Node | None]]) -> dict[str, Node]:
    result = dict(names)
    for change in changes:
        for name, node in change.items():
            if node is None:
                result.pop(name, None)
            else:
                result[name] = node
    return result


@dataclass(frozen=True, slots=True)
class Image:
    """What is on the disk after a power loss: for each relative path the size and the pieces, None for a directory."""

    piece_size: int
    entries: dict[str, tuple[int, dict[int, bytes]] | None]

    def digest(self) -> bytes:
        """Return a hash of the names and the content; equal images have equal ones."""
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(self.entries):
            entry = self.entries[path]
            digest.update(f"{path}\0{-1 if entry is None else entry[0]}\0".encode())
            if entry is not None:
                for number in sorted(entry[1]):
                    # In sectors, so that one content has one hash whatever the size of the pieces.
                    for start in range(0, self.piece_size, _SECTOR_SIZE):
                        sector = entry[1][number][start : start + _SECTOR_SIZE]
                        if sector != _ZERO_SECTOR:
                            digest.update((number * self.piece_size + start).to_bytes(8, "big"))
                            digest.update(sector)
        return digest.digest()

    def write_to(self, target: Path) -> None:
        """Replace `target` by a directory that looks like this image."""
        if target.exists():
            shutil.rmtree(target)
        target.mkdir()
        for path in sorted(self.entries):
            entry = self.entries[path]
            if entry is None:
                (target / path).mkdir(mode=0o700)
                continue
            size, pieces = entry
            fd = os.open(target / path, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.ftruncate(fd, size)
                for number, piece in pieces.items():
                    at = number * self.piece_size
                    os.pwrite(fd, piece[: size - at], at)
            finally:
                os.close(fd)


class Disk:
    """Applies recorded operations below one directory, and makes crash images of any moment."""

    def __init__(self, root: Path, naming: Naming, piece_size: int) -> None:
        self.root = PurePosixPath(root)
        self.naming = naming
        self.piece_size = piece_size
        self.top = Folder()
        self._by_inode: dict[int, Node] = {}
        self._syncs: dict[int, tuple[Node, int]] = {}

    # ---- feeding

    def apply(self, operation: Operation) -> None:
        """Do what a process did.

        Raises:
            ValueError: the log shows something that cannot be rebuilt.
        """
        kind = operation.kind
        if kind is Kind.OPEN:
            self._open(operation)
        elif kind is Kind.MKDIR:
            folder = Folder()
            self._by_inode[operation.inode] = folder
            self._change(operation.path, folder)
        elif kind in (Kind.UNLINK, Kind.RMDIR):
            self._change(operation.path, None)
        elif kind in (Kind.RENAME, Kind.LINK):
            self._rename(operation)
        elif kind is Kind.SYNC_BEGIN:
            node = self._by_inode[operation.inode]
            self._syncs[operation.a] = (node, node.moment)
        elif kind is Kind.SYNC_END:
            self._sync_end(operation)
        elif kind is Kind.MAP and not operation.path.endswith("-shm"):
            raise ValueError(f"{operation.path} is mapped for writing: what it stores cannot be recorded")
        elif kind in (Kind.WRITE, Kind.TRUNCATE, Kind.ALLOCATE):
            file = self._by_inode[operation.inode]
            if not isinstance(file, File):
                raise ValueError(f"not a file: {operation}")
            if kind is Kind.WRITE:
                file.write(operation.a, operation.first)
            elif kind is Kind.TRUNCATE:
                file.truncate(operation.a)
            else:
                if operation.error & _PUNCH_HOLE:
                    file.zero(operation.a, operation.a + operation.b)
                if not operation.error & _KEEP_SIZE:
                    file.grow(operation.a + operation.b)

    def _open(self, operation: Operation) -> None:
        if operation.path == str(self.root):
            self._by_inode[operation.inode] = self.top
            return
        created, truncated = operation.b & 1, operation.b & 4
        if created:
            file = File(self.piece_size)
            self._by_inode[operation.inode] = file
            self._change(operation.path, file)
            return
        parent, name = self._parent(operation.path)
        node = parent.names.get(name)
        if node is None:
            raise ValueError(f"opened before it was created: {operation}")
        self._by_inode[operation.inode] = node
        if truncated and isinstance(node, File):
            node.truncate(0)

    def _rename(self, operation: Operation) -> None:
        if operation.b != 1 + 2:
            raise ValueError(f"a name crossed the border of the recorded directory: {operation}")
        parent, name = self._parent(operation.path)
        target, new = self._parent(operation.to)
        node = parent.names[name]
        gone: dict[str, Node | None] = {name: None} if operation.kind is Kind.RENAME else {}
        if target is parent:
            parent.later.append({**gone, new: node})  # one change: a name is never in two places or in none
        else:
            target.later.append({new: node})
            parent.later.append(gone)

    def _sync_end(self, operation: Operation) -> None:
        node, covered = self._syncs.pop(operation.a)
        if isinstance(node, Folder):
            if operation.error == 0:
                node.persist(covered)
            return
        if operation.error != 0:
            node.sync_failed(covered)
            return
        node.synced(covered)
        if self.naming is Naming.FILE:
            self._persist_name(node)

    def _persist_name(self, node: Node) -> None:
        for folder in self._folders(self.top):
            touching = [at for at, change in enumerate(folder.later) if node in change.values()]
            if touching:
                folder.persist(folder.persisted + touching[-1] + 1)
            if folder is not self.top and node in folder.names.values():
                self._persist_name(folder)

    def _folders(self, folder: Folder) -> list[Folder]:
        found = [folder]
        for node in folder.names.values():
            if isinstance(node, Folder):
                found += self._folders(node)
        return found

    def _parent(self, path: str) -> tuple[Folder, str]:
        parts = PurePosixPath(path).relative_to(self.root).parts
        folder = self.top
        for part in parts[:-1]:
            node = folder.names[part]
            if not isinstance(node, Folder):
                raise TypeError(path)
            folder = node
        return folder, parts[-1]

    def _change(self, path: str, node: Node | None) -> None:
        parent, name = self._parent(path)
        parent.later.append({name: node})

    # ---- reading

    def live(self) -> Image:
        """Return what the running processes see."""
        return self._image(Choice.ALL, None)

    def image(self, choice: Choice, rng: random.Random) -> Image:
        """Return one of the states in which a power loss at this moment may leave the disk."""
        return self._image(choice, rng if choice is Choice.RANDOM else None)

    def _image(self, choice: Choice, rng: random.Random | None) -> Image:
        image = Image(self.piece_size, {})
        self._collect(self.top, "", choice, rng, image)
        return image

    def _collect(self, folder: Folder, prefix: str, choice: Choice, rng: random.Random | None, image: Image) -> None:
        if rng is not None:
            share = rng.choice((0.0, 0.5, 0.9, 1.0))
            names = _applied(folder.durable, [change for change in folder.later if rng.random() < share])
        else:
            names = folder.names if choice is Choice.ALL else folder.durable
        for name, node in names.items():
            path = prefix + name
            if isinstance(node, Folder):
                image.entries[path] = None
                self._collect(node, path + "/", choice, rng, image)
            elif not name.endswith("-shm"):
                image.entries[path] = _states(node, choice, rng)


def _states(file: File, choice: Choice, rng: random.Random | None) -> tuple[int, dict[int, bytes]]:
    pieces = dict(file.durable)
    cuts = 0 if choice is Choice.NONE else len(file.cuts)
    if rng is not None and rng.random() < 0.5:
        cuts = rng.randint(0, len(file.cuts))
    possible, sizes = file.possible(cuts)
    if rng is not None:
        size = sizes[-1] if rng.random() < 0.5 else rng.choice(sizes)
        pieces.update(_random_states(possible, rng))
    else:
        last = -1 if choice is Choice.ALL else 0
        size = sizes[last]
        pieces.update({number: states[last] for number, states in possible.items()})
    zeros = bytes(file.piece_size)
    kept = {number: piece for number, piece in pieces.items() if number * file.piece_size < size and piece != zeros}
    return size, kept


def _random_states(possible: dict[int, list[bytes]], rng: random.Random) -> dict[int, bytes]:
    """Choose a state for each piece, by one of several ways that find different mistakes."""
    chosen = {number: states[0] for number, states in possible.items()}
    numbers = sorted(possible)
    if not numbers:
        return chosen
    one = rng.choice(numbers)
    share = rng.random()
    way = rng.choice(("any", "coin", "all but one", "only one", "a prefix", "all", "none"))
    for number in numbers:
        states = possible[number]
        if way == "any" or (way == "only one" and number == one):
            chosen[number] = rng.choice(states)
        elif (
            (way == "coin" and rng.random() < share)
            or (way == "all but one" and number != one)
            or (way == "a prefix" and number < one)
            or way == "all"
        ):
            chosen[number] = states[-1]
    return chosen


def differences(image: Image, real: Path) -> list[str]:
    """Compare an image with a real directory: the recorder's own check. Empty if they are equal."""
    paths = {str(path.relative_to(real)): path for path in real.rglob("*") if not path.name.endswith("-shm")}
    found = [
        f"{name} is only {'real' if name in paths else 'in the log'}"
        for name in sorted(set(paths) ^ set(image.entries))
    ]
    for name in sorted(set(paths) & set(image.entries)):
        entry = image.entries[name]
        if (entry is None) != paths[name].is_dir():
            found.append(f"{name} is a directory in one and a file in the other")
        elif entry is not None:
            size, pieces = entry
            content = bytearray(size)
            for number, piece in pieces.items():
                at = number * image.piece_size
                content[at : at + len(piece)] = piece[: size - at]
            if bytes(content) != paths[name].read_bytes():
                found.append(f"{name} has another content")
    return found
