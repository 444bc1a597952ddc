"""What an export in another process costs the owner that tracks meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from time import sleep
from typing import TYPE_CHECKING, Final

from benchmarks.footprint import slowly
from benchmarks.measure import add_latencies, latencies_ns
from benchmarks.payloads import payload, subject_of
from benchmarks.put import LEVELS
from benchmarks.stores import make_emitter
from durable_tracker import Subject, Tracker

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.options import Options
    from benchmarks.results import Results
    from benchmarks.stores import Level

DURING: Final = "during an export"
WITHOUT: Final = "without an export"
BACKLOG: Final = 200_000
_CALLS: Final = 3000
_SLICE: Final = 50


def setting(level: str) -> str:
    """Name the setting."""
    return f"track() beside an export of {BACKLOG:,} events, {level}"


def run(results: Results, options: Options) -> None:
    """Track at a steady pace while the backlog is exported, and while it is not, in pairs."""
    for level in LEVELS:
        with options.scratch() as directory:
            _measure(results, options, directory, level)
        results.note(
            setting(level),
            "A call every millisecond. The export writes to a file on the same disk, and begins anew whenever it ends.",
        )


def _measure(results: Results, options: Options, directory: Path, level: Level) -> None:
    with make_emitter(directory, level) as emitter:
        emitter.put_many([payload()] * BACKLOG)
        tracker = Tracker("bench", emitter, subject_of(Subject), app_id="shop")
        for _ in range(options.rounds):
            for name in (WITHOUT, DURING):
                took: list[int] = []
                with contextlib.ExitStack() as exports:
                    export = _Export(directory, exports) if name == DURING else None
                    while len(took) < _CALLS:
                        if export is not None:
                            export.go_on()
                        took += latencies_ns(tracker.track, slowly(_SLICE))
                add_latencies(results, setting(level), name, took)


class _Export:
    """A process that exports, and another one when it has ended; the last one ends with the stack."""

    def __init__(self, directory: Path, ends: contextlib.ExitStack) -> None:
        self._output = directory / "backlog.ndjson"
        self._command = [sys.executable, "-m", "durable_tracker", "export", "--queue-dir", str(directory)]
        self._command += ["--output", str(self._output)]
        self._running: subprocess.Popen[bytes] | None = None
        ends.callback(self._end)

    def go_on(self) -> None:
        """See that one is writing."""
        if self._running is not None and self._running.poll() is None:
            return
        assert self._running is None or self._running.returncode == 0
        self._output.unlink(missing_ok=True)
        self._running = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        while not self._output.exists() or not self._output.stat().st_size:
            assert self._running.poll() is None
            sleep(0.01)

    def _end(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.wait()
        self._output.unlink(missing_ok=True)
