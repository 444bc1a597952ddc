"""Timing: slices of several contenders in turn, and what a round of them comes to."""

from __future__ import annotations

import random
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.results import Results


def latencies_ns(function: Callable[[Any], object], arguments: Iterable[Any]) -> list[int]:
    """Call `function` with each argument, and return how long each call took, in nanoseconds."""
    clock = perf_counter_ns
    took = []
    for argument in arguments:
        start = clock()
        function(argument)
        took.append(clock() - start)
    return took


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the ordered values lie (nearest rank)."""
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def in_turn(
    contenders: Mapping[str, tuple[Callable[[Any], object], Callable[[int], Iterable[Any]]]],
    *,
    slices: int,
    calls: int,
) -> dict[str, list[int]]:
    """Time all contenders alternately, a slice of each at a time, so that a disturbance meets all of them.

    Args:
        contenders: by name, the function to time and a function that makes its arguments, untimed.
        slices: how many slices each gets.
        calls: calls in a slice.

    Returns:
        By name, the nanoseconds of each call.
    """
    took: dict[str, list[int]] = {name: [] for name in contenders}
    names = list(contenders)
    for _ in range(slices):
        random.shuffle(names)  # nobody always follows the same neighbour
        for name in names:
            function, make = contenders[name]
            arguments = list(make(calls))
            took[name] += latencies_ns(function, arguments)
    return took


def add_latencies(results: Results, setting: str, contender: str, took_ns: Sequence[int]) -> None:
    """Add a round's percentiles (µs) and throughput (events/s) to the results."""
    ordered = sorted(took_ns)
    for percent in (50, 99, 99.9):
        results.add(setting, contender, f"p{percent:g} µs", percentile(ordered, percent) / 1000)
    results.add(setting, contender, "events/s", len(ordered) / (sum(ordered) / 1e9))
