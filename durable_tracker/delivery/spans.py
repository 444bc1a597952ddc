"""Spans of keys that were claimed from the queue and are waiting to be sent again, and in which order.

A span names its events by their keys and is read from the queue again when its turn comes, so that any number of
refused events costs next to no memory and a row that was evicted meanwhile is simply not there any more.

A request that is refused is halved until the offender is alone, oldest half first. What becomes of an event that was
refused alone is the business of `poison`. After some refusals in a row single events from elsewhere are tried as
controls, since one acceptance is what is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of pending events: those that the queue handed out between two others.

    Attributes:
        after: the key of an event that was handed out before them; what lies in between is theirs, gone, or a suspect.
        last: the key of the last of them.
        count: about how many events there are; how many are read at once.
        refusals: the numbers of the refused requests that these events were in, but for questions about a suspect.
        accepted_before: requests that had been accepted at the first refusal.
        alone: whether it is a single event that was refused alone: a suspect.
        too_large: the suspect's size in bytes if it was refused for that, else 0.
        epoch: the delivery's, at the last refusal; see `poison`.
        repeats: questions about it that were refused in that epoch.
        repeats_beside: those of them since the one before which something else was accepted.
        accepted_last: requests that had been accepted at its last refusal.
        due_at: when to ask about it again, in seconds of the monotonic clock.
        is_parked: whether it is poison for which the dead letters have no room.
        refused_ms: when it was refused first, by the wall clock, in milliseconds since the epoch.
        refused_carried: refusals that no suspect explains, that earlier processes met since then.
        accepted_first: requests that had been accepted then, in the process in which that was.
    """

    after: int
    last: int
    count: int
    refusals: tuple[int, ...] = ()
    accepted_before: int = 0
    alone: bool = False
    too_large: int = 0
    epoch: int = 0
    repeats: int = 0
    repeats_beside: int = 0
    accepted_last: int = 0
    due_at: float = 0.0
    is_parked: bool = False
    refused_ms: int = 0
    refused_carried: int = 0
    accepted_first: int = 0


class Spans:
    """The spans of one queue. Not thread-safe: it belongs to the policy loop."""

    def __init__(self) -> None:
        self._by_last: dict[int, Span] = {}

    def __len__(self) -> int:
        return len(self._by_last)

    def is_suspect(self, key: int) -> bool:
        """Return whether an event is known as a suspect."""
        span = self._by_last.get(key)
        return span is not None and span.alone

    @property
    def refused(self) -> bool:
        """Whether any of them was refused and may still hold good events."""
        return any(bool(span.refusals) and not span.alone for span in self._by_last.values())

    @property
    def suspects(self) -> int:
        """How many events are suspects."""
        return sum(span.alone for span in self._by_last.values())

    @property
    def parked(self) -> int:
        """How many of them are parked."""
        return sum(span.is_parked for span in self._by_last.values())

    @property
    def due_at(self) -> float:
        """When the next suspect is to be asked about, in seconds of the monotonic clock."""
        return min((span.due_at for span in self._by_last.values() if span.alone), default=math.inf)

    def alone(self) -> list[Span]:
        """Return the suspects."""
        return [span for span in self._by_last.values() if span.alone]

    def add(self, span: Span) -> None:
        """Keep a span until it is picked."""
        self._by_last[span.last] = span

    def oldest(self) -> Span | None:
        """Take the oldest span that is no suspect."""
        span = min((span for span in self._by_last.values() if not span.alone), key=_last, default=None)
        return self._by_last.pop(span.last) if span else None

    def largest(self) -> Span | None:
        """Take the largest span that is no suspect: its newest event is most likely innocent."""
        span = max(
            (span for span in self._by_last.values() if not span.alone),
            key=lambda one: (one.count, one.last),
            default=None,
        )
        return self._by_last.pop(span.last) if span else None

    def newest_untried(self) -> Span | None:
        """Take the newest span that was in no refused request."""
        span = max((span for span in self._by_last.values() if not span.refusals), key=_last, default=None)
        return self._by_last.pop(span.last) if span else None

    def hasten(self, at: float) -> None:
        """Let no suspect that is not parked wait for longer than until `at`."""
        for span in [span for span in self._by_last.values() if span.alone and not span.is_parked]:
            self._by_last[span.last] = replace(span, due_at=min(span.due_at, at))

    def due(self, now: float) -> Span | None:
        """Take the suspect that has been due for longest, None if none is."""
        if self.due_at > now:
            return None
        span = min((span for span in self._by_last.values() if span.alone), key=lambda one: one.due_at)
        return self._by_last.pop(span.last)

    def rewind(self, cursor: int) -> int:
        """Return where to go on reading the queue, having forgotten the spans that lie just before.

        Events that came back from an outage are read afresh, together with what was put meanwhile.

        Args:
            cursor: the highest key that was claimed.
        """
        while self._by_last:
            top = self._by_last[max(self._by_last)]
            if top.refusals:
                break
            del self._by_last[top.last]
            cursor = top.after
        return cursor


def _last(span: Span) -> int:
    return span.last
