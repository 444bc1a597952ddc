"""The seam between tracking and delivery: what a durable queue promises.

An event's life, from the caller's thread to the collector:

    put ──► pending ──peek──► in flight ──ack─────► delivered
               ▲                  │ ├────reject──► dead letter ──requeue──► pending, under a new key
               └──── (a crash) ───┘ └────expire──► expired

An operator may `purge` what is pending and not in flight, and dead letters.

"In flight" exists only in the memory of whoever drains: a row stays where it is until `ack`, so a crash means "still
pending". `SqliteQueue` is the engine that ships; another one (a shared one, for hosts without a local disk) has to
keep the contract below and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from durable_tracker.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Self


class Row(NamedTuple):
    """One pending event.

    Attributes:
        key: a handle of this consumer's own, above all that it was handed before. It means nothing to others, and
            nothing is to be read out of a difference of two.
        payload: the event as it was put.
    """

    key: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where every event that the queue ever accepted is now. Counts of events.

    `accepted` is `pending` and all `FATES` together, on every engine, across crashes. What is in `WITHIN` is counted
    by another column already.

    Attributes:
        accepted: stored by a `put` that returned.
        pending: waiting to be delivered.
        delivered: accepted by the collector.
        dead: among the dead letters: refused by the collector, or by the tracker (`invalid`).
        expired: older than `max_age`.
        evicted: removed for newer ones, as `on_full="drop_oldest"` asks for.
        damaged: altered on disk, and set aside.
        discarded: dead letters that were removed for newer ones.
        purged: removed by an operator.
        missing: gone without a trace, since somebody else removed rows of a shared engine.
        held: of `pending`, in the hands of other consumers.
        locked: of `pending`, of a kind that this release cannot read, as far as that was seen.
        parked: of `pending`, refused for good, and not among the dead letters since these are full.
        invalid: of `dead`, refused by the tracker itself.
    """

    accepted: int = 0
    pending: int = 0
    delivered: int = 0
    dead: int = 0
    expired: int = 0
    evicted: int = 0
    damaged: int = 0
    discarded: int = 0
    purged: int = 0
    missing: int = 0
    held: int = 0
    locked: int = 0
    parked: int = 0
    invalid: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether the equation holds: no event is counted twice, none is forgotten."""
        counts = asdict(self)
        return (
            min(counts.values()) >= 0
            and self.accepted == self.pending + sum(counts[fate] for fate in FATES)
            and self.held + self.locked + self.parked <= self.pending
            and self.invalid <= self.dead
        )


FATES: Final = ("delivered", "dead", "expired", "evicted", "damaged", "discarded", "purged", "missing")
"""What becomes of an event that is not pending."""

WITHIN: Final = {"held": "pending", "locked": "pending", "parked": "pending", "invalid": "dead"}
"""Columns that say more of another one."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was set aside.

    Attributes:
        key: the key that it had in the queue; negative if the row failed its checksum.
        status: the HTTP status that refused it, or None.
        reason: why, in words.
        time_ms: when, in milliseconds since 1970 UTC.
        payload: the event's JSON as it was stored.
        kind: "refused" by the collector, "invalid" for the tracker, or "damaged" on disk.
        replays: how often it had been put back into the queue before.
    """

    key: int
    status: int | None
    reason: str
    time_ms: int
    payload: bytes
    kind: str = "refused"
    replays: int = 0


INVALID_MAX: Final = 10_000
"""Bound of the dead letters that the tracker itself refused; the oldest of them make room for newer ones."""


class NotOursError(QueueError):
    """The queue is not this process's any more: it has to open another. The event was not stored."""


class ForkedError(NotOursError):
    """The queue belongs to the process that opened it, not to this child."""


class DescriptorsLostError(NotOursError):
    """The queue's files were closed under this process, as a daemonizer does."""


class Queue(Protocol):
    """A durable, ordered queue of encoded events with one owner.

    Every method may be called from any thread. `put` and `put_many` may also be called from a signal handler that
    interrupted any other method. A method that returned is durable at the level that the queue was opened with. All
    raise `StorageError` when the storage failed: then the outcome of that one call is unknown (it was not
    acknowledged, yet may have happened), and no other call is affected.
    """

    @property
    def puts(self) -> int:
        """How many events were put through this object, counted from anywhere: it rises with each."""

    @property
    def lease_s(self) -> float | None:
        """For how many seconds a row that was claimed is this consumer's; None: until it is closed."""

    @property
    def poll_s(self) -> float | None:
        """After how many seconds to look for events of other processes; None: nobody else puts into this queue."""

    def put(self, payload: bytes) -> None:
        """Store one event.

        Raises:
            QueueFullError: the quota or the disk is full; nothing was stored.
            QueueClosedError: the queue was closed; nothing was stored.
        """

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Store events, in order, in as few commits as the engine's limits allow.

        Raises:
            QueueFullError: as `put`; a leading part of `payloads` may have been stored.
        """

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        """Claim the oldest pending rows, without removing them, and return those with a key above `after`.

        Rows that another consumer holds are not returned. What is returned is this consumer's for `lease_s`, and is
        returned again under the same key until then. A row that comes back later has a new key.

        At most `count_max` rows whose payloads have at most `size_max` bytes together, but always at least one row if
        there is one. A row that fails its checksum is set aside (counted as `damaged`) and never returned.
        """

    def hold(self, keys: Sequence[int]) -> Sequence[int]:
        """Take note that rows go out now, and hold them for another `lease_s`.

        A full queue evicts others; one that was only peeked may be evicted. Asked about rows whose removal failed, it
        tells which of them are still there.

        Returns:
            The keys whose rows are still there and this consumer's, in their order.
        """

    def settle(self, keys: Sequence[int] | None = None) -> None:
        """Take note that rows, or all (None), are not on the wire any more. Never raises."""

    def release(self, after: int, keep: Collection[int] = ()) -> None:
        """Let other consumers have what was claimed above `after`, but for `keep`: one of them may reach the collector.

        What comes back to this one has new keys. Never raises.
        """

    def ack(self, keys: Sequence[int]) -> None:
        """Remove rows that were delivered: from now on nobody sees them, whenever the storage gets rid of them.

        Rows that are gone are passed by: the counts grow by those that went.
        """

    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
        """Move rows that were refused for what they are to the dead letters, with the reason.

        Raises:
            DeadLettersFullError: they have reached their bound. The row is still pending: nothing is ever discarded.
        """

    def older(self, rows: Sequence[Row], age_s: float) -> list[Row]:
        """Return those of the rows of which it is known that they were put more than `age_s` seconds ago.

        By the queue's own clock. What cannot be known, since the wall clock jumped or was wrong, is not old.
        """

    def expire(self, keys: Sequence[int]) -> None:
        """Remove rows that outlived `max_age`."""

    def remember(self, suspects: bytes) -> None:
        """Keep what delivery knows of events that were refused, for whoever drains next; b"[]" for nothing."""

    def remembered(self) -> bytes | None:
        """Return what was kept last, None if nothing was."""

    def ledger(self) -> Ledger:
        """Return the counts, in O(1)."""

    def pending(self) -> int:
        """Return the number of pending events, in O(1)."""

    def is_empty(self) -> bool:
        """Return whether nothing is pending, in O(1). False while events are still to come in from a damaged file."""

    def mark(self) -> int:
        """Return a mark behind all that was put so far, for `is_past`."""

    def is_past(self, mark: int) -> bool:
        """Return whether everything that was put before a mark is gone from the queue, in O(1)."""

    def close(self) -> None:
        """Give back what was claimed, and the storage. May be called twice."""

    @property
    def name(self) -> str:
        """Where it is, for messages."""

    @property
    def path(self) -> Path | None:
        """The file that it is in, None if it is in none."""

    @property
    def origin(self) -> dict[str, str]:
        """What `set_origin` recorded, {} if nothing."""

    def set_origin(self, origin: dict[str, str]) -> None:
        """Record where the events are to go, so that a later drain needs no configuration. Never a secret."""

    @property
    def settings(self) -> dict[str, Any]:
        """What `set_settings` recorded, {} if nothing, or if that is unreadable."""

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Record how the events are to be delivered, as JSON; see `durable_tracker.settings.record`."""

    def oldest(self) -> Row | None:
        """Return the oldest pending row, in O(1), without claiming it; its key means nothing."""

    def used_bytes(self) -> int:
        """Return the bytes that the queue takes, in O(1)."""

    def dead_letters(self, limit: int = 100, after: int = 0) -> list[DeadLetter]:
        """Return dead letters with a key above `after`, oldest first. `after` below 0 includes damaged rows."""

    def put_invalid(self, payload: bytes, reason: str) -> None:
        """Put an event that the tracker refused among the dead letters; it counts as accepted, and as `invalid`.

        These letters have a bound of their own, beyond which the oldest of them are discarded.

        Raises:
            QueueFullError: the quota or the disk is full; nothing was stored.
        """

    def requeue(self, keys: Sequence[int], edited: Mapping[int, bytes] | None = None) -> int:
        """Move dead letters back to the end of the queue, under new keys. Return how many.

        Args:
            keys: the letters'. One that is not there is passed by, and so is one that is damaged.
            edited: what goes back instead of a letter's payload, by its key.
        """

    def purge(self, keys: Sequence[int]) -> int:
        """Remove pending events for good, in as few transactions as the engine's limits allow. Return how many.

        Those that are on the wire, or that another consumer holds, are left: they may be delivered.
        """

    def purge_dead_letters(self, keys: Sequence[int]) -> int:
        """Remove dead letters for good, in as few transactions as the engine's limits allow. Return how many.

        Each counts as `purged` from then on, and no more as `dead`, or, below 0, as `damaged`.
        """

    def leave(self) -> None:
        """Give up a queue that was closed under this process; nothing that is not this queue's is closed."""

    def forget(self) -> None:
        """In a forked child: close what it inherited, and touch nothing else."""

    def __enter__(self) -> Self:
        """Return the queue."""

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""


@runtime_checkable
class Evicting(Protocol):
    """A queue that can make room by removing its oldest events."""

    def evict(self, size: int) -> int:
        """Remove the oldest rows that are not on the wire, at least `size` bytes of them. Return how many."""

    def could_hold(self, size: int) -> bool:
        """Return whether an event of `size` bytes would fit if there was no other."""

    def is_held_by_this_thread(self) -> bool:
        """Return whether this thread is inside the queue already, as in a signal handler that interrupted a put."""


@runtime_checkable
class Shrinking(Protocol):
    """A queue that can give back what its events took."""

    def shrink(self, pages_max: int = 1 << 62) -> bool:
        """Give back about `pages_max` pages. Return whether nothing is left to give back."""
