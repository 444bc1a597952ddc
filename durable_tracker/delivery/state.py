"""What a delivery is told, and what it tells: its settings, its state and its result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How to deliver: those arguments of an emitter that a delivery keeps to. Immutable, and checked when it is made.

    The fields are documented in `durable_tracker.settings.table`. Of `batch_size` only the number of events in a
    request matters here. A GET carries one event; a single event larger than `byte_limit` is sent alone.

    Raises:
        ConfigurationError: a field is not usable; the message names it.
    """

    batch_size: int = 500
    byte_limit: int = 150_000
    max_retry_delay_seconds: float = 60
    custom_retry_codes: Mapping[int, bool] = field(default_factory=dict)
    max_age: float | None = None
    senders: int = 1
    report_retries: bool = False

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, ARGUMENTS[one.name].value(getattr(self, one.name)))


class Result(Enum):
    """Why `Delivery.run` returned."""

    EMPTY = "empty"
    """Nothing is left to send."""
    SUSPECTS = "suspects"
    """Only events are left that were refused without proof that the collector accepts others. They are kept."""
    PASSED = "passed"
    """What was in the queue at the beginning was sent; more has been put since, and something else is due."""
    STOPPED = "stopped"
    """It was asked to stop, or the queue was closed."""
    TROUBLE = "trouble"
    """The collector or the storage is in trouble, and waiting for it was not wanted."""


class Phase(StrEnum):
    """What a delivery is doing."""

    IDLE = "idle"
    SENDING = "sending"
    BACKING_OFF = "backing_off"
    """Waiting after a trouble, before the next attempt."""
    BLOCKED = "blocked"
    """The collector refuses everything, or all that is left: somebody has to look."""

    @property
    def is_trouble(self) -> bool:
        """Whether events wait for something to pass."""
        return self in (Phase.BACKING_OFF, Phase.BLOCKED)


@dataclass(slots=True)
class Answer:
    """What a collector answered, or what came instead of an answer, several times in a row.

    Attributes:
        text: what it was: a status and its reason, or why there was no answer.
        count: how often.
        first_at: when it came first, in seconds since 1970 UTC.
        last_at: when it came last.
    """

    text: str
    count: int
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryState:
    """A snapshot of what the delivery is doing and has done since it was made.

    Attributes:
        state: what it is doing; as text "idle", "sending", "backing_off" or "blocked".
        last_error: what went wrong last, None if nothing did. No payload, no credential.
        requests: requests that were answered, or not, so far.
        batches: requests that were accepted.
        bytes: bytes of the bodies that were accepted.
        delivered: events that were accepted.
        dead: events moved to the dead letters.
        expired: events dropped for their age.
        suspects: events that were refused alone and are kept until that is proven to be their own fault.
        parked: suspects that are poison, and for which the dead letters have no room.
        consecutive_troubles: troubles since the last progress.
        trouble_count: troubles so far; also rises when a run ends with suspects. It never falls, so whoever waits
            for the queue to become empty can see that the collector was found unable since.
        next_attempt_at: when the next attempt is due, by the monotonic clock, None if none is waited for.
        since: since when it has been in trouble, or out of it, by the monotonic clock.
    """

    state: Phase = Phase.IDLE
    last_error: str | None = None
    requests: int = 0
    batches: int = 0
    bytes: int = 0
    delivered: int = 0
    dead: int = 0
    expired: int = 0
    suspects: int = 0
    parked: int = 0
    consecutive_troubles: int = 0
    trouble_count: int = 0
    next_attempt_at: float | None = None
    since: float = field(default_factory=time.monotonic, compare=False)
