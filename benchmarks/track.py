"""`track()` whole, beside the official tracker's into memory; ours reaches the disk."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from benchmarks import official, payloads
from benchmarks.measure import add_latencies, in_turn
from benchmarks.put import LEVELS, together
from benchmarks.stores import make_emitter
from durable_tracker import Subject, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.options import Options
    from benchmarks.results import Results

OFFICIAL: Final = "official tracker into memory"
ENCODING: Final = "ours, encoding only"
KINDS: Final[dict[str, tuple[Callable[[], Any], Callable[[], Any]]]] = {
    "structured": (payloads.structured, official.structured),
    "self-describing with a context": (payloads.self_describing, official.self_describing),
}
_SLICES: Final = 20
_CALLS: Final = 100


def ours(level: str) -> str:
    """Name this package at a level of durability."""
    return f"ours, {level}"


def run(results: Results, options: Options) -> None:
    """Measure both kinds of events, then threads."""
    for kind in KINDS:
        _track(results, options, kind)
    _threads(results, options)


def _track(results: Results, options: Options, kind: str) -> None:
    make_ours, make_official = KINDS[kind]
    official_emitter = official.make_emitter()
    official_tracker = official.make_tracker(official_emitter)
    with options.scratch() as directory:
        emitters = {ours(level): make_emitter(directory / level, level) for level in LEVELS}
        trackers = {name: _tracker(emitter) for name, emitter in emitters.items()}
        trackers[ENCODING] = _tracker(payloads.KeepLast())

        def official_events(count: int) -> Iterable[Any]:
            official.forget(official_emitter)
            return [make_official() for _ in range(count)]

        def our_events(count: int) -> Iterable[Any]:
            return [make_ours() for _ in range(count)]

        timed: dict[str, Any] = {name: (tracker.track, our_events) for name, tracker in trackers.items()}
        timed[OFFICIAL] = (official_tracker.track, official_events)
        built: dict[str, Any] = {
            name: (lambda _, track=tracker.track: track(make_ours()), range)
            for name, tracker in trackers.items()
            if name != ours("always")
        }
        built[OFFICIAL] = (lambda _: official_tracker.track(make_official()), range)
        in_turn(timed, slices=2, calls=_CALLS)
        for _ in range(options.rounds):
            for name, took in in_turn(timed, slices=_SLICES, calls=_CALLS).items():
                add_latencies(results, kind, name, took)
            official.forget(official_emitter)
            for name, took in in_turn(built, slices=_SLICES, calls=_CALLS).items():
                add_latencies(results, f"{kind}, constructed and tracked", name, took)
        for emitter in emitters.values():
            emitter.close()


def _tracker(emitter: Any) -> Tracker:
    return Tracker("bench", emitter, payloads.subject_of(Subject), app_id="shop")


def _threads(results: Results, options: Options) -> None:
    official_emitter = official.make_emitter()
    official_tracker = official.make_tracker(official_emitter)
    with options.scratch() as directory:
        emitters = {ours(level): make_emitter(directory / level, level) for level in LEVELS}
        trackers: dict[str, Any] = {name: _tracker(emitter) for name, emitter in emitters.items()}
        for _ in range(options.rounds):
            for threads in (1, 4, 16):
                for name, tracker in trackers.items():
                    rate = together(functools.partial(_track_one, tracker, payloads.structured), threads)
                    results.add("structured, threads", name, f"{threads}: events/s", rate)
                rate = together(functools.partial(_track_one, official_tracker, official.structured), threads)
                results.add("structured, threads", OFFICIAL, f"{threads}: events/s", rate)
                official.forget(official_emitter)
        for emitter in emitters.values():
            emitter.close()


def _track_one(tracker: Any, make: Callable[[], Any]) -> None:
    tracker.track(make())
