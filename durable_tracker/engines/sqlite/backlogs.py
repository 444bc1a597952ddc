"""Which backlogs an emitter may send: those whose address on record is its own.

Emitters of different addresses may share a directory, by an explicit `name` or by the names that earlier releases
derived. A slot that holds events for another address is neither opened nor adopted: they would reach a collector that
they were not meant for, perhaps with its credentials or in clear text. An empty slot is anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from durable_tracker.engines.sqlite.queue import SqliteQueue, open_free_slot
from durable_tracker.engines.sqlite.slots import directory_name, existing_slots, safe_name
from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger
from durable_tracker.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from durable_tracker.engines.sqlite.slots import Slot


@dataclass(slots=True)
class Backlogs:
    """The slots that an emitter may open or adopt, and what it found that waits for other addresses.

    Thread-safe: what is found is noted by single assignments.

    Attributes:
        root: the queue dir.
        directory: the emitter's own directory in it.
        address: where the emitter sends.
        replaces: addresses whose backlogs it sends there as well, by the operator's word.
        settings: how a slot is opened.
    """

    root: Path
    directory: Path
    address: Endpoint
    replaces: Sequence[Endpoint]
    settings: Mapping[str, Any]
    _elsewhere: dict[Path, tuple[str, int]] = field(default_factory=dict)
    _has_replaced: bool = False
    _was_told: bool = False

    def open_free(self) -> SqliteQueue:
        """Open the lowest slot that is free, and empty or for this address.

        Raises:
            SlotBusyError: all are taken.
            StorageError: the directory, or a slot, cannot be used.
        """
        return open_free_slot(self.directory, accepts=self._is_ours, **self.settings)

    def open_orphan(self, slot: Slot) -> SqliteQueue | None:
        """Open a slot, whose lock is held, if its events are for this address; else release it."""
        queue = SqliteQueue(slot, **self.settings)
        try:
            is_ours = self._is_ours(queue)
        except BaseException:
            queue.close()
            raise
        if is_ours:
            return queue
        queue.close()
        return None

    def orphans(self) -> Iterator[Slot]:
        """Yield all slots that may hold events for this address.

        Besides the emitter's own directory those are in the directories of the addresses that it replaces, and in
        those that earlier releases named after them.
        """
        names = {self.directory: None}
        for address in (self.address, *self.replaces):
            names |= {self.root / safe_name(address.former_name): None, self.root / directory_name(address.name): None}
        for directory in names:
            yield from existing_slots(directory)

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
        """How many events were found that wait for other addresses, by address."""
        counts: dict[str, int] = {}
        for address, count in list(self._elsewhere.values()):
            counts[address] = counts.get(address, 0) + count
        return counts

    def warn(self) -> None:
        """Say what waits for other addresses, and what sends it."""
        for address, count in self.elsewhere.items():
            logger.warning(
                "emitter.events_elsewhere",
                extra={
                    "events": count,
                    "address": address,
                    "directory": str(self.directory),
                    "fate": f"kept, and not sent to {self.address.identity}",
                    "remedy": "an emitter of that address or `drain` sends them there, `replaces=` here",
                },
            )

    def _is_ours(self, queue: SqliteQueue) -> bool:
        """Return whether the events of a queue may be sent to this address, and note it if not."""
        origin = queue.origin
        theirs = Endpoint.on_record(origin)
        if queue.is_empty():
            self._elsewhere.pop(queue.slot.database, None)
            return True
        if theirs is None:  # nothing can be known
            return queue.slot.directory == self.directory
        if _is_same(self.address, theirs, origin):
            return True
        if any(_is_same(one, theirs, origin) for one in self.replaces):
            self._has_replaced = True
            return True
        if queue.slot.database not in self._elsewhere:
            self._elsewhere[queue.slot.database] = (theirs.identity, queue.pending())
            self.warn()
        return False


def replaced_addresses(replaces: object) -> list[Endpoint]:
    """Read the argument `replaces`: an address, or several.

    Raises:
        ConfigurationError: one is no address; the message does not repeat it.
    """
    texts = [replaces] if isinstance(replaces, str) else replaces
    if not isinstance(texts, (list, tuple, set, frozenset)):
        raise ConfigurationError(f"replaces: must be an address or several, but is of type {type(replaces).__name__}")
    found = []
    for text in texts:
        try:
            found.append(Endpoint.parse(text))
        except ConfigurationError as exc:
            raise ConfigurationError(f"replaces: {exc}") from None
    return found


def _is_same(address: Endpoint, recorded: Endpoint, origin: Mapping[str, str]) -> bool:
    if "user" in origin:
        return address.identity == recorded.identity
    # Earlier releases recorded no user.
    return Endpoint.parse(address.public_url, method=address.method).identity == recorded.identity
