"""Queues in files of SQLite: which slots an emitter may open, which backlogs it may send, and what there is to visit.

Emitters of different addresses may share a directory, by an explicit `name` or by the names that earlier releases
derived. A slot that holds events for another address is neither opened nor adopted: they would reach a collector that
they were not meant for, perhaps with its credentials or in clear text. An empty slot is anybody's.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from durable_tracker.engines.engine import QueueSettings
from durable_tracker.engines.sqlite import forks
from durable_tracker.engines.sqlite.connection import is_open_here, locking_process
from durable_tracker.engines.sqlite.filesystem import warn_if_weak
from durable_tracker.engines.sqlite.onlooker import OwnerOnlooker, SlotOnlooker
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.raw import open_raw
from durable_tracker.engines.sqlite.slots import (
    SLOTS_MAX,
    Slot,
    directory_name,
    existing_slots,
    make_private_directory,
    safe_name,
)
from durable_tracker.errors import ConfigurationError, SlotBusyError, StorageError, UnknownFormatError
from durable_tracker.log import logger
from durable_tracker.protocol.endpoint import Endpoint
from durable_tracker.settings.record import sender_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from durable_tracker.engines.engine import Place

_AS_IT_IS: Final = QueueSettings()
_UNUSABLE_MAX: Final = 3  # slots that cannot be used: then it is the disk


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """A slot, as a place where there is a queue; see `Place`."""

    slot: Slot
    settings: QueueSettings = _AS_IT_IS

    @property
    def name(self) -> str:
        """The database's path."""
        return str(self.slot.database)

    @property
    def path(self) -> Path:
        """The database."""
        return self.slot.database

    @property
    def label(self) -> str:
        """The emitter's directory and the slot's number."""
        return f"{self.slot.directory.name}/{self.slot.index}"

    def take(self) -> SqliteQueue:
        """Lock and open the slot; see `Place.take`."""
        queue = _opened(self.slot, self.settings)
        if queue is None:
            raise self.slot.busy_error()
        return queue

    def look(self) -> SlotOnlooker | OwnerOnlooker:
        """Look into the slot; see `Place.look`."""
        if is_open_here(self.slot.database):
            queue = forks.opened_at(self.name)
            if not isinstance(queue, SqliteQueue):
                raise self.slot.busy_error()
            return OwnerOnlooker(queue)
        return SlotOnlooker(self.slot)

    def owner(self) -> int | None:
        """Return the process that has the slot open; see `Place.owner`."""
        if is_open_here(self.slot.database):
            return os.getpid()
        try:
            descriptor = open_raw(self.slot.database)
        except (OSError, StorageError):
            return None
        try:
            return locking_process(descriptor)
        finally:
            os.close(descriptor)

    def state(self) -> tuple[int, ...]:
        """Return the times and sizes of the files."""
        with contextlib.suppress(OSError):
            status = self.slot.database.stat()
            return (status.st_mtime_ns, status.st_size, int(self.slot.wal.exists()))
        return ()


@dataclass(slots=True)
class SqliteSource:
    """The slots that an emitter may open or adopt, and what it found that waits for other addresses.

    Thread-safe: what is found is noted by single assignments.

    Attributes:
        root: the queue dir.
        directory: the emitter's own directory in it.
        address: where the emitter sends.
        replaces: addresses whose backlogs it sends there as well, by the operator's word.
        settings: how a slot is opened.
        sender: by what of the user's own the emitter sends, None for plain HTTP.
    """

    root: Path
    directory: Path
    address: Endpoint
    replaces: Sequence[Endpoint]
    settings: QueueSettings
    sender: str | None = None
    _elsewhere: dict[str, tuple[str, str | None, int]] = field(default_factory=dict)
    _has_replaced: bool = False
    _was_told: bool = False

    @property
    def where(self) -> str:
        """The emitter's directory."""
        return str(self.directory)

    def open(self) -> SqliteQueue:
        """Open the lowest slot that is free, usable, and empty or for this address, making one if need be.

        A slot of a newer format, or one that cannot be used, is left alone, and the next one taken.

        Raises:
            SlotBusyError: all are taken.
            StorageError: the directory, or several slots one after another, cannot be used.
        """
        unusable = 0
        for index in range(SLOTS_MAX):
            slot = Slot(self.directory, index)
            try:
                queue = _opened(slot, self.settings)
                if queue is None:
                    continue
            except SlotBusyError:
                continue
            except UnknownFormatError as exc:
                logger.warning("queue.slot_of_newer_format", extra={"slot": str(slot.database), "error": str(exc)})
                continue
            except StorageError as exc:
                unusable += 1
                if unusable == _UNUSABLE_MAX:
                    raise
                logger.warning("queue.slot_unusable", extra={"slot": str(slot.database), "error": str(exc)})
                continue
            is_accepted = False
            try:
                is_accepted = self._is_ours(queue)
            finally:
                if not is_accepted:
                    queue.close()
            if is_accepted:
                return queue
        raise SlotBusyError(f"all {SLOTS_MAX} slots of {self.directory} are in use")

    def orphans(self) -> Iterator[SlotPlace]:
        """Yield all slots that may hold events for this address.

        Besides the emitter's own directory those are in the directories of the addresses that it replaces, and in
        those that earlier releases named after them.
        """
        names = {self.directory: None}
        for address in (self.address, *self.replaces):
            names |= {self.root / safe_name(address.former_name): None, self.root / directory_name(address.name): None}
        for directory in names:
            for slot in existing_slots(directory):
                yield SlotPlace(slot, self.settings)

    def adopt(self, place: Place) -> SqliteQueue | None:
        """Open a slot if its events are for this address; see `Source.adopt`."""
        assert isinstance(place, SlotPlace)  # noqa: S101 (one of this source's)
        try:
            queue = _opened(place.slot, self.settings)
        except SlotBusyError as exc:  # by SQLite's lock alone, as in a child of the process that had it open
            raise StorageError(str(exc)) from None
        if queue is None:
            raise place.slot.busy_error()
        is_ours = False
        try:
            is_ours = self._is_ours(queue)
        finally:
            if not is_ours:
                queue.close()
        return queue if is_ours else None

    def looked_everywhere(self) -> None:
        """Say once if nothing was found for an address that is replaced."""
        if self.replaces and not self._has_replaced and not self._was_told:
            self._was_told = True
            logger.warning(
                "emitter.nothing_to_replace",
                extra={"replaces": [one.identity for one in self.replaces], "queue_dir": str(self.root)},
            )

    @property
    def elsewhere(self) -> dict[str, int]:
        """How many events were found that wait for other addresses, or another way to send, by that."""
        counts: dict[str, int] = {}
        for (address, sender), count in self._counted().items():
            counts[address if sender is None else f"{address} by {sender}"] = count
        return counts

    def _counted(self) -> Counter[tuple[str, str | None]]:
        counts = Counter[tuple[str, str | None]]()
        for address, sender, count in list(self._elsewhere.values()):
            counts[address, sender] += count
        return counts

    def warn(self) -> None:
        """Say what waits for other addresses, or another way to send, and what sends it."""
        for (address, sender), count in self._counted().items():
            fate = f"kept, and not sent to {self.address.identity}"
            remedy = "an emitter of that address or `drain` sends them there, `replaces=` here"
            if sender is not None:
                fate = "kept, and not sent in another way"
                remedy = "an emitter that sends by it sends them, `drain --as-http` over plain HTTP"
            extra = {"events": count, "address": address, "sender": sender, "directory": str(self.directory)}
            logger.warning("emitter.events_elsewhere", extra={**extra, "fate": fate, "remedy": remedy})

    def _is_ours(self, queue: SqliteQueue) -> bool:
        """Return whether the events of a queue may be sent to this address, in this way, and note it if not."""
        origin = queue.origin
        theirs = Endpoint.on_record(origin)
        if queue.is_empty():
            self._elsewhere.pop(queue.name, None)
            return True
        sender = sender_of(queue.settings)
        sender = None if sender == self.sender else sender
        if theirs is None:  # nothing can be known
            is_for_here = queue.slot.directory == self.directory
        else:
            is_replaced = any(_is_same(one, theirs, origin) for one in self.replaces)
            is_for_here = is_replaced or _is_same(self.address, theirs, origin)
            self._has_replaced = self._has_replaced or is_replaced
        if is_for_here and sender is None:
            return True
        if queue.name not in self._elsewhere and (theirs is not None or is_for_here):
            address = self.address if theirs is None else theirs
            self._elsewhere[queue.name] = (address.identity, sender if is_for_here else None, queue.pending())
            self.warn()
        return False


@dataclass(frozen=True, slots=True)
class SqliteEngine:
    """A directory of queues, one file of SQLite a queue; see `Engine`.

    Attributes:
        directory: the queue dir.
    """

    directory: Path

    def source(
        self, name: str | None, address: Endpoint, *, replaces: Sequence[Endpoint], settings: QueueSettings
    ) -> SqliteSource:
        """Make an emitter's directory, and return its slots; see `Engine.source`."""
        directory = self.directory / (directory_name(address.name) if name is None else safe_name(name))
        make_private_directory(directory)
        warn_if_weak(directory)
        return SqliteSource(self.directory, directory, address, replaces, settings)

    def places(self, names: Sequence[str] = ()) -> list[SlotPlace]:
        """Return the slots, of all directories or of those of some names; see `Engine.places`."""
        if not names:
            return places_at(self.directory)
        found: list[SlotPlace] = []
        for name in names:
            own = [*_slots_in(self.directory / name), *_slots_in(self.directory / safe_name(name))]
            if not own:
                raise ConfigurationError(f"--name {name}: no queue of that name is in {self.directory}")
            found += map(SlotPlace, own)
        return found

    def __str__(self) -> str:
        return str(self.directory)


def places_at(path: Path) -> list[SlotPlace]:
    """Return the slots at a path: a slot's database, an emitter's directory, or a queue dir."""
    try:
        is_file = path.is_file()
        directories = sorted(path.iterdir()) if path.is_dir() else []
    except PermissionError:
        is_file, directories = False, []
    if is_file:
        return [SlotPlace(slot) for slot in _slots_in(path.parent) if slot.database == path]
    found = _slots_in(path)
    for directory in directories:
        if directory.is_dir() and not directory.is_symlink():
            found += _slots_in(directory)
    return [SlotPlace(slot) for slot in found]


def _slots_in(directory: Path) -> list[Slot]:
    """Return a directory's slots; of one that may not be read the first, so that it is reported as unreadable."""
    try:
        return list(existing_slots(directory))
    except NotADirectoryError:
        return []
    except PermissionError:
        return [Slot(directory, 0)]


def _open(slot: Slot, settings: QueueSettings) -> SqliteQueue:
    return SqliteQueue(
        slot,
        durability=settings.durability,
        max_queue_bytes=settings.max_queue_bytes,
        byte_limit=settings.byte_limit,
    )


def _opened(slot: Slot, settings: QueueSettings) -> SqliteQueue | None:
    """Open a slot, None if somebody else holds it; whatever is raised, by a signal handler too, gives the lock back."""
    queue = None
    try:
        if slot.acquire():
            queue = _open(slot, settings)
    finally:
        if queue is None:
            slot.release()
    return queue


def _is_same(address: Endpoint, recorded: Endpoint, origin: Mapping[str, str]) -> bool:
    if "user" in origin:
        return address.identity == recorded.identity
    # Earlier releases recorded no user.
    return Endpoint.parse(address.public_url, method=address.method).identity == recorded.identity
