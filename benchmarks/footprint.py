"""What an application pays for having the tracker: import, memory, wake-ups, and the latency that a drain adds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import add_latencies, latencies_ns
from benchmarks.payloads import payload, structured, subject_of
from benchmarks.put import LEVELS
from benchmarks.sink import Sink
from benchmarks.stores import make_emitter
from durable_tracker import Subject, Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.options import Options
    from benchmarks.results import Results
    from benchmarks.stores import Level

IMPORT: Final = "import"
IDLE: Final = "idle emitter"
PACKAGE: Final = "durable_tracker"
WITH_DRAIN: Final = "during a drain"
WITHOUT_DRAIN: Final = "without a drain"
_IMPORTS: Final = {
    PACKAGE: "from durable_tracker import Emitter, StructuredEvent, Tracker",  # the package alone imports nothing
    "requests": "import requests",
    "snowplow_tracker": "from snowplow_tracker import Emitter, StructuredEvent, Tracker",
}
_IMPORTS_A_ROUND: Final = 5
_CALLS: Final = 1500
_SLICE: Final = 50
_GAP_S: Final = 0.001
_BACKLOG: Final = 20_000  # twice what can be delivered during a slice: the queue is never empty


def run(results: Results, options: Options) -> None:
    """Measure all four."""
    _imports(results, options)
    _idle(results, options)
    for level in LEVELS:
        _drain(results, options, level)


def _imports(results: Results, options: Options) -> None:
    code = "from time import perf_counter as c; s = c(); {}; print(c() - s)"
    with options.scratch() as directory:
        # All from compiled files, also where the environment says that none are written.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(directory)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for round_ in range(options.rounds * _IMPORTS_A_ROUND + 1):
            for module, statement in _IMPORTS.items():
                command = [sys.executable, "-c", code.format(statement)]
                done = subprocess.run(command, capture_output=True, check=True, env=environment)
                if round_:  # the first one compiles
                    results.add(IMPORT, module, "ms", float(done.stdout) * 1000)
    results.note(IMPORT, "In fresh processes, from compiled files, up to `Emitter` and `Tracker`.")


def _idle(results: Results, options: Options) -> None:
    with options.scratch() as directory, Sink() as sink:
        jobs = [(level, state) for level in LEVELS for state in ("idle", "outage")]
        running = [_start(directory / f"{level}-{state}", sink.port, level, state) for level, state in jobs]
        for (level, state), process in zip(jobs, running, strict=True):
            out, _ = process.communicate(timeout=120)
            found = json.loads(out)
            name = f"{level}, {'idle' if state == 'idle' else 'in an outage'}"
            results.add(IDLE, name, "wake-ups a second", found["wakeups_per_s"])
            results.add(IDLE, name, "memory KiB", found["memory_kib"])
    results.note(
        IDLE,
        "Wake-ups: voluntary context switches of all threads but the one that measures, over 20 s. Memory: what each "
        "of 20 emitters adds to the private memory of a process once it has delivered an event, or failed to.",
    )


def _start(directory: Path, port: int, level: str, state: str) -> subprocess.Popen[str]:
    port = port if state == "idle" else 9
    command = [sys.executable, "-m", "benchmarks.idle", str(directory), str(port), level]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def paced_setting(level: str) -> str:
    """Name the setting of the latency during a drain."""
    return f"track() at a steady pace, {level}"


def _drain(results: Results, options: Options, level: Level) -> None:
    """Track at a steady pace, as a server would, while a backlog is drained and while there is none."""
    setting = paced_setting(level)
    with Sink() as sink:
        for _ in range(options.rounds):
            for name in (WITHOUT_DRAIN, WITH_DRAIN):
                with options.scratch() as directory:
                    took = _paced(directory, level, sink, drains=name == WITH_DRAIN)
                    add_latencies(results, setting, name, took)
    results.note(
        setting,
        "A call every millisecond. The backlog outlasts the calls; the collector takes the other core.",
    )


def _paced(directory: Path, level: Level, sink: Sink, *, drains: bool) -> list[int]:
    backlog = [payload()] * _BACKLOG
    with make_emitter(directory, level, port=sink.port, drain=drains) as emitter:
        tracker = Tracker("bench", emitter, subject_of(Subject), app_id="shop")
        tracker.track(structured())
        took: list[int] = []
        while len(took) < _CALLS:
            if drains and emitter.stats().ledger.pending < _BACKLOG:
                emitter.put_many(backlog)
            took += latencies_ns(tracker.track, slowly(_SLICE))
        return took


def slowly(count: int) -> Iterator[Any]:
    """Yield so many events, at a steady pace."""
    due = perf_counter()
    for _ in range(count):
        due += _GAP_S
        sleep(max(due - perf_counter(), 0))
        yield structured()
