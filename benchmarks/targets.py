"""What was set out to be reached, and whether it is. Verdicts are computed, never written by hand."""

# ruff: noqa: RUF001 (the sign of multiplication is meant)

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import drain, export, footprint, many, put, scale, stores, track

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
        unit: of a figure without `to`. No figure is printed without one.
    """

    what: str
    required: str
    of: Figure
    to: tuple[Figure, ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        """See that the figure has a unit."""
        if not self.to and not self.unit:
            raise ValueError(f"{self.what}: a figure without a unit")

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
        return f"{text} {'×' if self.to else self.unit}"

    def verdict(self, found: Mapping[str, Results]) -> str:
        """Return whether the median keeps the bound."""
        values = self.values(found)
        if not values or (self.at_most is None and self.at_least is None):
            return ""
        median = statistics.median(values)
        kept = (self.at_most is None or median <= self.at_most) and (self.at_least is None or median >= self.at_least)
        return "reached" if kept else "**missed**"


def _ratio(what: str, required: str, of: Figure, *to: Figure, at_most: float = 0, at_least: float = 0) -> Target:
    return Target(what=what, required=required, of=of, to=to, at_most=at_most or None, at_least=at_least or None)


def _put(level: str, contender: str) -> Figure:
    return ("put", f"{level}, one thread", contender, "p50 µs")


def _scaled(level: str, what: str, contender: str, number: int) -> Figure:
    return ("put", f"{level}, {what}", contender, f"{number}: events/s")


def _p50(kind: str, contender: str) -> Figure:
    return ("track", kind, contender, "p50 µs")


def _drain(contender: str) -> Figure:
    return ("drain", drain.LOOPBACK, contender, "events/s")


def _senders(number: int) -> Figure:
    return ("drain", drain.FAR, f"senders={number}", "events/s")


def _p99(level: str, name: str) -> Figure:
    return ("footprint", footprint.paced_setting(level), name, "p99 µs")


def _beside(level: str, name: str) -> Figure:
    return ("export", export.setting(level), name, "p99 µs")


def _scale(setting: str, metric: str, backlog: int) -> Figure:
    return ("scale", setting, scale.row(backlog), metric)


def _by_scale(backlog: int) -> tuple[Target, ...]:
    def one(metric: str, what: str, required: str, unit: str, *, at_most: float) -> Target:
        of = _scale(scale.BY_BACKLOG, metric, backlog)
        return Target(what=f"{what}, {backlog:,} pending", required=required, of=of, unit=unit, at_most=at_most)

    given_back = ("scale", scale.DRAINED, scale.row(backlog), "bytes given back %")
    return (
        one(scale.PUT_RATIO, "put p50", "≤ 1.2 × an empty queue's", "×", at_most=1.2),
        one("open ms", "open", "≤ 100 ms", "ms", at_most=100),
        one("memory growth MiB", "memory growth", "≤ 28.6 MiB (30 MB)", "MiB", at_most=30 / 1.048576),
        one(scale.DISK_RATIO, "disk", "≤ 1.25 × the payload bytes", "×", at_most=1.25),
        Target(
            what=f"given back after {backlog:,}",
            required="≥ 95 % of the bytes",
            of=given_back,
            at_least=95,
            unit="%",
        ),
    )


TARGETS: Final = (
    _ratio(
        "`track()`, `interval`, structured, p50",
        "≤ 2.2 × the official into memory",
        _p50("structured", track.ours("interval")),
        _p50("structured", track.OFFICIAL),
        at_most=2.2,
    ),
    _ratio(
        "`track()`, `interval`, self-describing with a context, p50",
        "≤ 1.6 × the official into memory",
        _p50("self-describing with a context", track.ours("interval")),
        _p50("self-describing with a context", track.OFFICIAL),
        at_most=1.6,
    ),
    _ratio(
        "put, `interval`, p50",
        "≤ 1.3 × raw sqlite3",
        _put("interval", stores.QUEUE),
        _put("interval", stores.RAW),
        at_most=1.3,
    ),
    *(
        _ratio(
            f"{peer} put, `interval`, p50",
            "≥ 2.5 × ours",
            _put("interval", peer),
            _put("interval", stores.QUEUE),
            at_least=2.5,
        )
        for peer in (stores.LITEQUEUE, stores.DISKCACHE)
    ),
    _ratio(
        "put, `always`, p50",
        "≤ 1.2 × raw sqlite3",
        _put("always", stores.QUEUE),
        _put("always", stores.RAW),
        at_most=1.2,
    ),
    _ratio(
        "put, `always`, 16 threads",
        "≥ 4 × one thread",
        _scaled("always", "threads", stores.QUEUE, 16),
        _scaled("always", "threads", stores.QUEUE, 1),
        at_least=4,
    ),
    _ratio(
        "put, `always`, 4 processes",
        "≥ 2 × one process",
        _scaled("always", "processes", stores.EMITTER, 4),
        _scaled("always", "processes", stores.EMITTER, 1),
        at_least=2,
    ),
    _ratio(
        "the limit of that: 4 files written and synced by 4 processes",
        "(no target)",
        _scaled("always", "processes", stores.FLOOR, 4),
        _scaled("always", "processes", stores.FLOOR, 1),
    ),
    _ratio(
        "`track_many`, `always`",
        "≥ 80,000/s where raw `executemany` does 300,000: ≥ 0.27 ×",
        ("many", "always", many.TRACK_MANY, "events/s"),
        ("many", "always", many.RAW, "events/s"),
        at_least=80 / 300,
    ),
    Target(
        what="`track_many`, `always`, here",
        required="≥ 80,000 events/s",
        of=("many", "always", many.TRACK_MANY, "events/s"),
        at_least=80_000,
        unit="events/s",
    ),
    _ratio(
        "drain, one connection",
        "≥ 0.4 × posting prebuilt bodies",
        _drain(drain.OURS),
        _drain(drain.PREBUILT),
        at_least=0.4,
    ),
    _ratio(
        "drain, one connection",
        "≥ 2 × the official from memory",
        _drain(drain.OURS),
        _drain(drain.OFFICIAL),
        at_least=2,
    ),
    _ratio(
        "drain, one connection, `interval`",
        "≥ 2 × the official from memory",
        _drain(drain.OURS_INTERVAL),
        _drain(drain.OFFICIAL),
        at_least=2,
    ),
    _ratio(
        "the limit of that: prebuilt bodies, posted and forgotten",
        "(no target)",
        _drain(drain.PREBUILT),
        _drain(drain.OFFICIAL),
    ),
    _ratio(
        "drain, one connection, to the official's tracking and sending",
        "(no target)",
        _drain(drain.OURS),
        _drain(drain.OFFICIAL_WHOLE),
    ),
    _ratio(
        "drain at 100 ms round trip, `senders=8`",
        "≥ 6 × one sender",
        _senders(8),
        _senders(1),
        at_least=6,
    ),
    *_by_scale(1_000_000),
    *_by_scale(10_000_000),
    *(
        _ratio(
            f"p99 of `track()` during a drain, `{level}`",
            "≤ 3 × without one",
            _p99(level, footprint.WITH_DRAIN),
            _p99(level, footprint.WITHOUT_DRAIN),
            at_most=3,
        )
        for level in put.LEVELS
    ),
    *(
        _ratio(
            f"p99 of `track()` beside an export of {export.BACKLOG:,} events, `{level}`",
            "≤ 1.5 × without one",
            _beside(level, export.DURING),
            _beside(level, export.WITHOUT),
            at_most=1.5,
        )
        for level in put.LEVELS
    ),
    _ratio(
        "import",
        "≤ 1.25 × `import requests`",
        ("footprint", footprint.IMPORT, footprint.PACKAGE, "ms"),
        ("footprint", footprint.IMPORT, "requests", "ms"),
        at_most=1.25,
    ),
    *(
        Target(
            what=f"idle emitter, `{level}`, {what}",
            required=required,
            of=("footprint", footprint.IDLE, f"{level}, idle", metric),
            at_most=bound,
            unit=unit,
        )
        for level in put.LEVELS
        for what, required, metric, bound, unit in (
            ("wake-ups", "≤ 1 a second", "wake-ups a second", 1.0, "a second"),
            ("memory", "≤ 977 KiB (1 MB)", "memory KiB", 1e6 / 1024, "KiB"),
        )
    ),
)
