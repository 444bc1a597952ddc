"""Spans of events that were claimed from the queue and are waiting to be sent again, and in which order.

A span names its events by their keys and is read from the queue again when its turn comes, so that any number of
refused events costs next to no memory and a row that was evicted meanwhile is simply not there any more.

A request that is refused is halved until the offender is alone, oldest half first. What becomes of an event that was
refused alone is the business of `poison`. After some refusals in a row single events from elsewhere are tried as
controls, since one acceptance is what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of pending events: those that the queue handed out between two others.

    Attributes:
        after: the key of an event that was handed out before them; what lies in between is theirs, gone, or a suspect.
        last: the key of the last of them.
        count: about how many events there are; how many are read at once.
        refusals: the numbers of the refused requests that these events were in.
        accepted_before: requests that had been accepted at the first refusal.
    """

    after: int
    last: int
    count: int
    refusals: tuple[int, ...] = ()
    accepted_before: int = 0


class Spans:
    """The spans of one queue. Not thread-safe: it belongs to the policy loop."""

    def __init__(self) -> None:
        self._by_last: dict[int, Span] = {}

    def __len__(self) -> int:
        return len(self._by_last)

    @property
    def refused(self) -> bool:
        """Whether any of them was refused, and may still hold good events."""
        return any(bool(span.refusals) for span in self._by_last.values())

    def add(self, span: Span) -> None:
        """Keep a span until it is picked."""
        self._by_last[span.last] = span

    def oldest(self) -> Span | None:
        """Take the oldest span."""
        return self._take(min(self._by_last, default=None))

    def largest(self) -> Span | None:
        """Take the largest span: its newest event is most likely innocent."""
        span = max(self._by_last.values(), key=_size, default=None)
        return self._take(span.last if span else None)

    def newest_untried(self) -> Span | None:
        """Take the newest span that was in no refused request."""
        return self._take(max((span.last for span in self._by_last.values() if not span.refusals), default=None))

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

    def _take(self, last: int | None) -> Span | None:
        return None if last is None else self._by_last.pop(last)


def _size(span: Span) -> tuple[int, int]:
    return span.count, span.last
