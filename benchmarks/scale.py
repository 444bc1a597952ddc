"""Whether a backlog's size costs anything: puts, opening, peeking, memory, disk; and what the drain gives back."""

# ruff: noqa: RUF001 (the sign of multiplication is meant)

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Final

from benchmarks.measure import in_turn, percentile
from benchmarks.payloads import payload
from benchmarks.sink import Sink
from benchmarks.stores import QUEUE_SIZE_MAX, make_emitter
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.options import Options
    from benchmarks.results import Results

BACKLOGS: Final = (0, 10_000, 1_000_000, 10_000_000)
EMPTY: Final = "an empty queue beside it"
BY_BACKLOG: Final = "by backlog"
DRAINED: Final = "after the drain"
PUT_RATIO: Final = "put p50, × an empty queue's"
DISK_RATIO: Final = "disk, × the payload bytes"
_CHUNK: Final = 1000
_SLICES: Final = 10
_CALLS: Final = 100
_REPEATS: Final = 9
_DRAIN_TIMEOUT_S: Final = 3600.0
_GIVING_BACK_S: Final = 120.0


def row(backlog: int) -> str:
    """Name a backlog."""
    return f"{backlog:,} pending"


def run(results: Results, options: Options) -> None:
    """Fill one queue step by step and measure at each; then drain it into a collector."""
    with options.scratch() as directory, ExitStack() as stack:
        queue_directory = directory / "bench"
        make_emitter(directory, "interval").close()
        empty = stack.enter_context(_open(directory / "empty"))
        queue = _open(queue_directory)
        memory = _memory_kib()
        pending = 0
        for backlog in (size for size in BACKLOGS if size <= options.backlog_max):
            _fill(queue, backlog - pending)
            memory_growth_kib = _memory_kib() - memory
            queue.close()
            opened_ms, queue = _opening(queue_directory)
            _measure(results, row(backlog), queue, empty, options)
            pending = queue.pending()
            results.add(BY_BACKLOG, row(backlog), "open ms", opened_ms)
            results.add(BY_BACKLOG, row(backlog), "memory growth MiB", memory_growth_kib / 1024)
            if backlog:
                ratio = _disk_bytes(queue_directory) / (pending * len(payload()))
                results.add(BY_BACKLOG, row(backlog), DISK_RATIO, ratio)
        queue.close()
        _drain(results, directory, queue_directory, pending, options.backlog_max)


def _open(directory: Path) -> SqliteQueue:
    directory.mkdir(exist_ok=True)
    return SqliteQueue.take(Slot(directory, 0), durability="interval", max_queue_bytes=QUEUE_SIZE_MAX)


def _opening(directory: Path) -> tuple[float, SqliteQueue]:
    took = []
    while True:
        start = perf_counter()
        queue = _open(directory)
        took.append(perf_counter() - start)
        if len(took) == _REPEATS:
            return sorted(took)[_REPEATS // 2] * 1000, queue
        queue.close()


def _fill(queue: SqliteQueue, count: int) -> None:
    chunk = [payload()] * _CHUNK
    for _ in range(count // _CHUNK):
        queue.put_many(chunk)


def _measure(results: Results, name: str, queue: SqliteQueue, empty: SqliteQueue, options: Options) -> None:
    event = payload()
    puts: dict[str, Callable[[bytes], object]] = {name: queue.put, EMPTY: empty.put}
    for _ in range(options.rounds):
        timed = {label: (put, lambda calls: itertools.repeat(event, calls)) for label, put in puts.items()}
        took = in_turn(timed, slices=_SLICES, calls=_CALLS)
        p50 = {label: percentile(sorted(values), 50) / 1000 for label, values in took.items()}
        results.add(BY_BACKLOG, name, "put p50 µs", p50[name])
        results.add(BY_BACKLOG, name, PUT_RATIO, p50[name] / p50[EMPTY])
        _forget(empty)
        start = perf_counter()
        queue.peek(0, 500, 150_000)
        results.add(BY_BACKLOG, name, "peek ms", (perf_counter() - start) * 1000)
        queue.settle()


def _forget(queue: SqliteQueue) -> None:
    rows = queue.peek(0, 1 << 20, 1 << 30)
    queue.ack([found.key for found in rows])
    queue.settle()


def _memory_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def _disk_bytes(directory: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory) if "sqlite3" in entry.name)


def _drain(results: Results, root: Path, directory: Path, pending: int, backlog: int) -> None:
    full, memory = _disk_bytes(directory), _memory_kib()
    name = row(backlog)  # there are some more, which were put to measure
    with Sink() as sink, make_emitter(root, "interval", port=sink.port, drain=True) as emitter:
        start = perf_counter()
        assert emitter.flush(_DRAIN_TIMEOUT_S)
        took = perf_counter() - start
        results.add(DRAINED, name, "events/s", pending / took)
        results.add(DRAINED, name, "memory growth MiB", (_memory_kib() - memory) / 1024)
        assert sink.count() == pending
        while _disk_bytes(directory) > full // 100 and perf_counter() - start < took + _GIVING_BACK_S:
            sleep(0.1)  # the worker gives pages back when it has nothing else to do
        results.add(DRAINED, name, "given back within s", perf_counter() - start - took)
    results.add(DRAINED, name, "bytes given back %", 100 * (1 - _disk_bytes(directory) / full))
    results.note(DRAINED, "Over loopback, into a counting collector in another process, at the default batch size.")
