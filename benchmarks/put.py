"""One event per commit: latency, threads, processes."""

from __future__ import annotations

import functools
import itertools
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Final

from benchmarks.measure import add_latencies, in_turn
from benchmarks.payloads import payload
from benchmarks.stores import CONTENDERS, EMITTER, FLOOR, QUEUE, RAW, SQLITEDICT, contenders
from benchmarks.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.options import Options
    from benchmarks.results import Results
    from benchmarks.stores import Level

LEVELS: Final[tuple[Level, ...]] = ("interval", "always")
_SLICES: Final = 20
_CALLS: Final[dict[Level, int]] = {"interval": 150, "always": 50}
_THREADS_S: Final = 0.4
_PROCESS_CALLS: Final[dict[Level, int]] = {"interval": 10_000, "always": 2_000}


def run(results: Results, options: Options) -> None:
    """Measure all three."""
    for level in LEVELS:
        with options.scratch() as directory:
            _latency(results, options, level, directory)
    for level in LEVELS:
        with options.scratch() as directory:
            _threads(results, options, level, directory)
    with Workers(4) as workers, options.scratch() as directory:
        _processes(results, options, directory, workers)


def setting(level: Level) -> str:
    """Name the setting of one thread."""
    return f"{level}, one thread"


def _latency(results: Results, options: Options, level: Level, directory: Path) -> None:
    event = payload()
    stores = {found.name: found.open(directory / str(index)) for index, found in enumerate(contenders(level))}
    timed = {name: (store.put, lambda calls: itertools.repeat(event, calls)) for name, store in stores.items()}
    in_turn(timed, slices=2, calls=_CALLS[level])  # files grow, caches fill
    for _ in range(options.rounds):
        for name, took in in_turn(timed, slices=_SLICES, calls=_CALLS[level]).items():
            add_latencies(results, setting(level), name, took)
    for store in stores.values():
        store.close()
    durabilities = "; ".join(f"{found.name}: {found.durability}" for found in contenders(level))
    results.note(setting(level), durabilities)


def together(call: Callable[[], object], threads: int, seconds: float = _THREADS_S) -> float:
    """Let threads repeat a call for some time. Return calls per second, of all together."""
    barrier = threading.Barrier(threads + 1)
    counts: list[int] = []

    def work() -> None:
        barrier.wait()
        end = perf_counter() + seconds
        count = 0
        while perf_counter() < end:
            call()
            count += 1
        counts.append(count)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = perf_counter()
    for worker in workers:
        worker.join()
    return sum(counts) / (perf_counter() - start)


def _threads(results: Results, options: Options, level: Level, directory: Path) -> None:
    event = payload()
    stores = {found.name: found.open(directory / str(index)) for index, found in enumerate(contenders(level))}
    for _ in range(options.rounds):
        for threads in (1, 4, 16):
            for name, store in stores.items():
                rate = together(functools.partial(store.put, event), threads)
                results.add(f"{level}, threads", name, f"{threads}: events/s", rate)
    for store in stores.values():
        store.close()


def _processes(results: Results, options: Options, directory: Path, workers: Workers) -> None:
    event = payload()
    number = itertools.count()
    for _ in range(options.rounds):
        for found in CONTENDERS:
            if found.name in (QUEUE, SQLITEDICT):
                continue  # the first is in Emitter.put, the second is not made for several processes
            for processes in (1, 2, 4):
                workers.open(found.name, found.level, directory / str(next(number)), processes)
                rate, failed = workers.put(event, _PROCESS_CALLS[found.level], processes)
                workers.close(processes)
                results.add(f"{found.level}, processes", found.name, f"{processes}: events/s", rate)
                if failed:
                    results.add(f"{found.level}, processes", found.name, "puts failed", failed)
    own_files = f"{EMITTER} takes a slot of its own in each process; {RAW} and {FLOOR} write a file of their own each"
    for level in LEVELS:
        results.note(f"{level}, processes", f"{own_files}; the others share one file, as they are meant to")
