"""What was set out to be reached, and whether it is. Verdicts are computed, never written by hand."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.stores import DISKCACHE, EMITTER, LITEQUEUE, QUEUE, RAW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.results import Results

Figure = tuple[str, str, str, str]
"""Benchmark, setting, contender, metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on a figure, or on its ratio to another figure of the same run.

    Attributes:
        what: the figure, in words.
        required: the bound, in words.
        of: the figure.
        to: what it is measured against: the best of these, None for the figure itself.
        at_most: the bound, if it is an upper one.
        at_least: the bound, if it is a lower one.
        unit: of a figure without `to`.
    """

    what: str
    required: str
    of: Figure
    to: tuple[Figure, ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    def values(self, found: Mapping[str, Results]) -> list[float]:
        """Return the figure or ratio, round by round."""
        results = found.get(self.of[0])
        if results is None:
            return []
        if not self.to:
            return results.rounds(*self.of[1:])
        all_ratios = [results.ratios(self.of[1:], to[1:]) for to in self.to]
        measured = [ratios for ratios in all_ratios if ratios]
        # The hardest of several to measure up to.
        choose = max if self.at_most is not None else min
        return choose(measured, key=statistics.median) if measured else []

    def reached(self, found: Mapping[str, Results]) -> str:
        """Return the median, in words."""
        values = self.values(found)
        if not values:
            return "not measured"
        median = statistics.median(values)
        text = f"{median:,.0f}" if median >= 1000 else f"{median:.3g}"
        return f"{text} ×" if self.to else f"{text} {self.unit}".rstrip()

    def verdict(self, found: Mapping[str, Results]) -> str:
        """Return whether the median keeps the bound."""
        values = self.values(found)
        if not values:
            return ""
        median = statistics.median(values)
        kept = (self.at_most is None or median <= self.at_most) and (self.at_least is None or median >= self.at_least)
        return "reached" if kept else "**missed**"


TARGETS: Final = (
    Target(
        what="put, `interval`, p50",
        required="≤ 1.3 × raw sqlite3",
        of=("put", "interval, one thread", QUEUE, "p50 µs"),
        to=(("put", "interval, one thread", RAW, "p50 µs"),),
        at_most=1.3,
    ),
    Target(
        what="fastest durable peer, `interval`, p50",
        required="≥ 2.5 × ours",
        of=("put", "interval, one thread", LITEQUEUE, "p50 µs"),
        to=(("put", "interval, one thread", QUEUE, "p50 µs"),),
        at_least=2.5,
    ),
    Target(
        what="put, `always`, p50, one thread",
        required="≤ 1.2 × raw sqlite3",
        of=("put", "always, one thread", QUEUE, "p50 µs"),
        to=(("put", "always, one thread", RAW, "p50 µs"),),
        at_most=1.2,
    ),
    Target(
        what="put, `always`, 16 threads",
        required="≥ 4 × one thread",
        of=("put", "always, threads", QUEUE, "16: events/s"),
        to=(("put", "always, threads", QUEUE, "1: events/s"),),
        at_least=4,
    ),
    Target(
        what="put, `always`, 4 processes",
        required="≥ 2 × one process",
        of=("put", "always, processes", EMITTER, "4: events/s"),
        to=(("put", "always, processes", EMITTER, "1: events/s"),),
        at_least=2,
    ),
)
_ = DISKCACHE
