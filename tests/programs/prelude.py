"""What the programs that tests start have in common: where they track, and how they note what was acknowledged.

A program is started with an endpoint, a queue dir and a journal. What else the test has to say is in `GIVEN`, from the
environment; see `Site` and `Program` in tests/processes.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from durable_tracker import Emitter, StructuredEvent, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

GIVEN: Final[dict[str, Any]] = json.loads(os.environ.get("GIVEN", "{}"))
# A server has the command line to itself: a program that it imports is given its place like the rest.
ENDPOINT, QUEUE_DIR, JOURNAL = GIVEN.get("place") or sys.argv[1:4]
journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell, which the tests may run in
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make(**settings: Any) -> Tracker:
    return Tracker(Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name="test", **settings))


def emitter_of(tracker: Tracker) -> Emitter:
    (emitter,) = tracker.emitters
    assert isinstance(emitter, Emitter)
    return emitter


def note(text: str) -> None:
    os.write(journal, (text + "\n").encode())


def track(tracker: Tracker, label: str, size: int = 0) -> None:
    note(f"try {label}")
    tracker.track(StructuredEvent("test", "tracked", label, "x" * size or None))
    note(f"ack {label}")


def track_some(tracker: Tracker, name: str, count: int) -> None:
    for n in range(count):
        track(tracker, f"{name}-{n}")


def wait_until(predicate: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            note("timed out")
            os._exit(99)
        time.sleep(0.002)


def reap(pid: int, timeout_s: float = 20.0) -> int:
    """Return the exit status of a child, which is killed if it hangs."""
    deadline = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            note("hung")
            return -signal.SIGKILL
        time.sleep(0.002)
