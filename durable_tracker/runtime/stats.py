"""What an emitter tells about itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_tracker.delivery.batches import device_time_ms

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from durable_tracker.engines.queue import Ledger, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterStats:
    """A snapshot of an emitter.

    Attributes:
        name: the emitter's name.
        slot: the database file, None before the first use in this process.
        ledger: where every event is that the slot ever accepted.
        dropped: events that `on_full="drop_newest"` threw away in this process; they were never accepted.
        state: "idle", "sending", "backing_off", "blocked", "closed", "paused" by `durable-tracker pause`, or "stopped"
            if no thread delivers that should; the next put starts one.
        last_error: what went wrong last with the collector, or why no thread delivers; None if nothing did.
        next_attempt_s: in how many seconds the collector is asked again, None if nothing is waited for.
        requests: requests to the collector that were answered, or given up, in this process.
        suspects: events that were refused, which is not proven to be their own fault; they are pending.
        parked: those of them for which the dead letters have no room.
        oldest_age_s: seconds since the oldest pending event was tracked, None if none is pending.
        elsewhere: events that were found in this emitter's directories and wait for another collector, by address.
        used_bytes: bytes of the slot's database in use.
        max_queue_bytes: their bound.
    """

    name: str
    slot: Path | None
    ledger: Ledger
    dropped: int
    state: str
    last_error: str | None
    next_attempt_s: float | None
    requests: int
    suspects: int
    parked: int
    oldest_age_s: float | None
    elsewhere: Mapping[str, int]
    used_bytes: int
    max_queue_bytes: int


def left_s(at: float | None) -> float | None:
    """Return the seconds until a time of the monotonic clock, None for None."""
    return None if at is None else max(at - time.monotonic(), 0.0)


def age_s(row: Row | None) -> float | None:
    """Return the seconds since an event was tracked, None if there is none, or it has no time."""
    tracked_ms = None if row is None else device_time_ms(row.payload)
    return None if tracked_ms is None else max(time.time() - tracked_ms / 1000, 0.0)
