"""Spans of keys that were claimed from the queue and are waiting to be sent again, and in which order.

A span names its events by their keys and is read from the queue again when its turn comes, so that any number of
refused events costs next to no memory and a row that was evicted meanwhile is simply not there any more.

How a refused event is told from a collector that refuses everything: the request is halved until the offender is
alone, oldest half first. An event that is refused alone is a *suspect*, kept and passed by. It is a dead letter once
it is refused alone again and some other event was accepted in between, in a request made after its first refusal.
After some refusals in a row single events from elsewhere are tried as controls, since one acceptance is what is
missing. When suspects are all that is left, those that had their chance are asked about at once: others were
accepted since they were first refused, as part of a larger request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of pending events: no other pending key lies between its first and its last.

    Times are the delivery's own counter of requests made and requests refused, never a clock.

    Attributes:
        first: lowest key.
        last: highest key.
        count: about how many events there are; how many are read at once.
        refused_first: when the events were first refused, as part of any request; 0 if they never were.
        refused_last: when they were last refused.
        alone: whether it is a single event that was refused alone: a suspect.
        too_large: the suspect's size in bytes if it was refused for that, else 0.
    """

    first: int
    last: int
    count: int
    refused_first: int = 0
    refused_last: int = 0
    alone: bool = False
    too_large: int = 0


class Spans:
    """The spans of one queue. Not thread-safe: it belongs to the policy loop."""

    def __init__(self) -> None:
        self._by_first: dict[int, Span] = {}

    def __len__(self) -> int:
        return len(self._by_first)

    @property
    def refused(self) -> bool:
        """Whether any of them was ever refused."""
        return any(span.refused_first for span in self._by_first.values())

    @property
    def suspects(self) -> int:
        """How many events are suspects."""
        return sum(span.alone for span in self._by_first.values())

    def add(self, span: Span) -> None:
        """Keep a span until it is picked."""
        self._by_first[span.first] = span

    def oldest(self, accepted_last: int) -> Span | None:
        """Take the oldest span that may be sent now.

        Args:
            accepted_last: when the newest request that was accepted was made.
        """
        return self._take(min, (span for span in self._by_first.values() if _may_go(span, accepted_last)))

    def control(self, accepted_last: int) -> Span | None:
        """Take one event that is most likely innocent: the newest of the largest span that was not tried as such.

        Only if there is no such span, take a suspect that may be sent now.
        """
        untried = [span for span in self._by_first.values() if not span.alone]
        if not untried:
            return self.oldest(accepted_last)
        span = max(untried, key=lambda one: (one.last - one.first, one.first))
        del self._by_first[span.first]
        if span.first == span.last:
            return span
        self.add(replace(span, last=span.last - 1, count=min(span.count, span.last - span.first)))
        return replace(span, first=span.last, count=1)

    def last_resort(self, accepted_last: int, size_accepted_min: int) -> Span | None:
        """Take a suspect on whose word alone it may become a dead letter, because nothing else is left to ask.

        Those are the suspects that had their chance: others were accepted since they were first refused, or,
        for one that is too large, a smaller request was accepted at any time.
        """
        return self._take(
            min,
            (
                span
                for span in self._by_first.values()
                if span.alone and (accepted_last > span.refused_first or 0 < size_accepted_min < span.too_large)
            ),
        )

    def probe(self) -> Span | None:
        """Take the suspect that was not asked about for longest."""
        suspects = [span for span in self._by_first.values() if span.alone]
        if not suspects:
            return None
        return self._by_first.pop(min(suspects, key=lambda span: span.refused_last).first)

    def rewind(self, cursor: int) -> int:
        """Return where to go on reading the queue, having forgotten the spans that lie just before.

        Events that came back from an outage are read afresh, together with what was put meanwhile.

        Args:
            cursor: the highest key that was claimed.
        """
        while self._by_first:
            top = self._by_first[max(self._by_first)]
            if top.refused_first:
                break
            del self._by_first[top.first]
            cursor = top.first - 1
        return cursor

    def _take(self, which: Callable[..., Span], spans: Iterable[Span]) -> Span | None:
        span = which(spans, key=lambda one: one.first, default=None)
        return self._by_first.pop(span.first) if span else None


def _may_go(span: Span, accepted_last: int) -> bool:
    return not span.alone or accepted_last > span.refused_last
