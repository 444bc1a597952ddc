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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from durable_tracker.engines.engine import QueueSettings
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.engine import SqliteSource
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import existing_slots
from durable_tracker.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 30.0
POLL_S = 0.005
NOBODY = "http://127.0.0.1:9"
"""Refuses connections: nothing listens on the discard port."""

PROGRAMS = Path(__file__).parent / "programs"
PRELUDE = (PROGRAMS / "prelude.py").read_text(encoding="utf-8")
"""What a program of a few lines, given as text, starts with: a longer one is a file in tests/programs/."""


class Program:
    """A file in tests/programs/, and what the test has to say to it: the file finds it in `GIVEN`."""

    def __init__(self, name: str, **given: object) -> None:
        self.path = PROGRAMS / f"{name}.py"
        self.given = given


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

    def command(self, source: str | Program) -> list[str]:
        """Return the command line of a child that runs a program."""
        arguments = [self.endpoint, str(self.queue_dir), str(self.journal)]
        # That a fork beside threads is dangerous is what Python 3.12 warns of, and what some tests are about.
        options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        # From 3.13 on a connection that is dropped says so; a broken variant of a test drops one on purpose.
        options += ["-W", "ignore:unclosed database:ResourceWarning"]
        if isinstance(source, Program):
            return [sys.executable, *options, str(source.path), *arguments]
        return [sys.executable, *options, "-c", PRELUDE + source, *arguments]

    def run(
        self,
        source: str | Program,
        *,
        timeout_s: float = TIMEOUT_S,
        expected: int | None = 0,
        prefix: tuple[str, ...] = (),
    ) -> float:
        """Run a child to its end and return how many seconds it took. It must be silent and end as expected."""
        started_at = time.monotonic()
        with Child(self, source, prefix=prefix) as child:
            code, errors = child.end(timeout_s)
        took_s = time.monotonic() - started_at
        if expected is not None:
            assert code == expected, errors
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
        assert acknowledged - set(kept) == set()
        assert set(kept) - tried == set()
        assert doubled_max >= sum(kept.values()) - len(kept), {k: n for k, n in kept.items() if n > 1}
        assert not self.says("hung")
        assert not self.says("timed out")


class Child:
    """A child process that ends with the `with` block, at the latest."""

    def __init__(self, site: Site, source: str | Program, *, prefix: tuple[str, ...] = ()) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **site.environment}
        if isinstance(source, Program):
            environment["GIVEN"] = json.dumps(source.given)
        # A file, not a pipe: what the child forked may outlive it, and would keep a pipe open.
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*prefix, *site.command(source)],
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
    for directory in sorted(path for path in queue_dir.glob("*") if path.is_dir()):
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
