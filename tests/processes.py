"""Child processes that track and cannot outlive their test, and what was kept of what they tracked.

A child is given an endpoint, a queue dir and a journal. It notes in the journal which event it is about to track and,
once `track` returned, that it was acknowledged; events are told apart by their label.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from durable_tracker.engines.engine import QueueSettings
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.engine import SqliteSource
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import existing_slots
from durable_tracker.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT_S = 30.0
POLL_S = 0.005
NOBODY = "http://127.0.0.1:9"
"""Refuses connections: nothing listens on the discard port."""

PRELUDE = """
import atexit, ctypes, os, signal, sys, threading, time
from durable_tracker import Emitter, StructuredEvent, Tracker

ENDPOINT, QUEUE_DIR, JOURNAL = sys.argv[1:4]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell, which the tests may run in
    signal.signal(signal.SIGINT, signal.default_int_handler)

def make(**settings):
    return Tracker(Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name="test", **settings))

def note(text):
    os.write(journal, (text + "\\n").encode())

def track(tracker, label, size=0):
    note(f"try {label}")
    tracker.track(StructuredEvent("test", "tracked", label, "x" * size or None))
    note(f"ack {label}")

def track_some(tracker, name, count):
    for n in range(count):
        track(tracker, f"{name}-{n}")

def wait_until(predicate, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            note("timed out")
            os._exit(99)
        time.sleep(0.002)

def reap(pid, timeout_s=20.0):
    # The exit status of a child, which is killed if it hangs.
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

journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
"""


@dataclass
class Site:
    """A place where children track: an endpoint, a queue dir, a journal."""

    folder: Path
    endpoint: str = NOBODY
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def queue_dir(self) -> Path:
        return self.folder / "queues"

    @property
    def slots(self) -> Path:
        return self.queue_dir / "test"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def command(self, source: str, *, first: str = "") -> list[str]:
        """Return the command line of a child that runs `source`, and `first` before it imports the package."""
        arguments = [self.endpoint, str(self.queue_dir), str(self.journal)]
        # That a fork beside threads is dangerous is what Python 3.12 warns of, and what some tests are about.
        options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        # From 3.13 on a connection that is dropped says so; a broken variant of a test drops one on purpose.
        options += ["-W", "ignore:unclosed database:ResourceWarning"]
        return [sys.executable, *options, "-c", first + PRELUDE + source, *arguments]

    def run(
        self, source: str, *, timeout_s: float = TIMEOUT_S, expected: int | None = 0, prefix: tuple[str, ...] = ()
    ) -> float:
        """Run a child to its end and return how many seconds it took. It must be silent and end as expected."""
        started_at = time.monotonic()
        with Child(self, source, prefix=prefix) as child:
            code, errors = child.end(timeout_s)
        took_s = time.monotonic() - started_at
        if expected is not None:
            assert expected == code, errors
            assert "Traceback" not in errors, errors
            assert "Fatal" not in errors, errors
        return took_s

    def noted(self, kind: str) -> list[str]:
        """Return what the children noted of one kind: "try" or "ack"."""
        with contextlib.suppress(FileNotFoundError):
            lines = self.journal.read_text(encoding="ascii").splitlines()
            return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]
        return []

    def says(self, text: str) -> bool:
        """Return whether a child noted exactly that."""
        with contextlib.suppress(FileNotFoundError):
            return text in self.journal.read_text(encoding="ascii").splitlines()
        return False

    def stored(self) -> Counter[str]:
        """Return the labels of what is pending in all slots, and how often. Every slot has to be free."""
        return stored(self.queue_dir)

    def ledger(self) -> Ledger:
        """Return the sum of the ledgers of all slots, each compared with a count of its rows."""
        return ledger(self.queue_dir)

    def assert_kept(self, received: Counter[str] | None = None, *, doubled_max: int = 0) -> None:
        """Compare what was acknowledged, what is stored and what was received: nothing lost, little doubled."""
        kept = self.stored() + (received or Counter())
        acknowledged, tried = set(self.noted("ack")), set(self.noted("try"))
        assert set() == acknowledged - set(kept)
        assert set() == set(kept) - tried
        assert doubled_max >= sum(kept.values()) - len(kept), {k: n for k, n in kept.items() if n > 1}
        assert not self.says("hung")
        assert not self.says("timed out")


class Child:
    """A child process that ends with the `with` block, at the latest."""

    def __init__(self, site: Site, source: str, *, prefix: tuple[str, ...] = (), **settings: Any) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **site.environment}
        # A file, not a pipe: what the child forked may outlive it, and would keep a pipe open.
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*prefix, *site.command(source, **settings)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def end(self, timeout_s: float = TIMEOUT_S) -> tuple[int, str]:
        """Wait for its end; return the exit code and all it said."""
        code = self.process.wait(timeout_s)
        self.output.seek(0)
        return code, self.output.read().decode(errors="replace")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.close()


def wait_until(predicate: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Poll until `predicate` holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(POLL_S)


def open_slots(queue_dir: Path) -> Iterator[SqliteQueue]:
    """Open every slot under a queue dir, one at a time. Each has to be free."""
    for directory in sorted(queue_dir.iterdir()) if queue_dir.exists() else ():
        for slot in existing_slots(directory):
            if slot.database.stat().st_size == 0:
                continue  # its owner was killed before it made the tables
            with SqliteQueue.take(slot) as queue:
                yield queue


def stored(queue_dir: Path) -> Counter[str]:
    """Return the labels of what is pending, and how often."""
    found: Counter[str] = Counter()
    for queue in open_slots(queue_dir):
        found.update(label(json.loads(row.payload)) for row in queue.peek(0, 1 << 30, 1 << 40))
    return found


def ledger(queue_dir: Path) -> Ledger:
    """Return the sum of the ledgers, each compared with a count of its rows."""
    total: Counter[str] = Counter()
    for queue in open_slots(queue_dir):
        one = queue.ledger()
        assert one.pending == len(queue.events)
        assert one.dead == len(queue.dead_letters(1 << 30))
        assert one.accepted == sum(_counts(one).values()) - one.accepted
        total.update(_counts(one))
    return Ledger(**total)


def label(event: dict[str, Any]) -> str:
    """Return what tells the events of these tests apart."""
    return str(event["se_la"])


def _counts(one: Ledger) -> dict[str, int]:
    return {name: getattr(one, name) for name in Ledger.__dataclass_fields__}


def source_at(directory: Path) -> SqliteSource:
    """Return the slots of a directory, as those of an emitter."""
    return SqliteSource(directory.parent, directory, Endpoint.parse("c.example"), (), QueueSettings())
