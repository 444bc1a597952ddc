"""The real queue under any program of puts, deliveries, faults, crashes and damage, against a model of what is where.

The collector and the clock are fakes; the disk, SQLite and the files are real. A failing program is printed by
Hypothesis as a list of calls, and kept among its examples.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import pytest
from damage import copy_slot
from fakes import NO_ANSWER, OK, VirtualClock, eids, event, refusal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from durable_tracker.delivery.policy import Delivery, DeliverySettings, Result
from durable_tracker.delivery.retry import Backoff
from durable_tracker.engines.sqlite import interval_sync, sweep
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.row_codec import dead_letter_of, event_of
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.errors import QueueError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from durable_tracker.delivery.transport import Reply

QUOTA: Final = 384 << 10
ROOMY: Final = 64 << 20
DEADLINE_S: Final = 60.0
POISON: Final = 13
"""Events whose number is a multiple of it are refused by a picky collector."""

FAULTS: Final = {
    "io error": (sqlite3.SQLITE_IOERR, "disk I/O error"),
    "disk full": (sqlite3.SQLITE_FULL, "database or disk is full"),
}


class Plan:
    """Which of the next statements fail, and how. One at a time for the whole process."""

    def __init__(self) -> None:
        self.kind = ""
        self.skip = 0
        self.left = 0
        self.is_late = False
        self.is_paused = False

    def clear(self) -> None:
        self.left = 0

    def before(self) -> None:
        """Fail the statement that is about to run, if it is its turn, or remember to fail it when it has run."""
        if self.is_due() and not self.is_late:
            self._fail()

    def after(self) -> None:
        if self.is_due() and self.is_late:
            self._fail()
        elif self.left and not self.is_paused:
            self.skip = max(self.skip - 1, 0)

    def is_due(self) -> bool:
        return bool(self.left) and not self.skip and not self.is_paused

    def _fail(self) -> None:
        self.left -= 1
        code, text = FAULTS[self.kind]
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        raise error


PLAN = Plan()


class FaultyCursor(sqlite3.Cursor):
    def execute(self, *args: Any) -> Any:
        PLAN.before()
        result = super().execute(*args)
        PLAN.after()
        return result


class FaultyConnection(sqlite3.Connection):
    """Fails as planned: before the statement ran, or after it did, when nobody can know that it did."""

    def execute(self, *args: Any) -> Any:
        PLAN.before()
        result = super().execute(*args)
        PLAN.after()
        return result

    def executescript(self, script: Any) -> Any:
        PLAN.before()
        result = super().executescript(script)
        PLAN.after()
        return result

    def cursor(self, factory: Any = FaultyCursor) -> Any:
        return super().cursor(factory)


class Collector:
    """A transport that keeps what it says it has, and sometimes what it does not say."""

    def __init__(self, received: set[int]) -> None:
        self.received = received
        self.mode = "ok"
        self.left = 0

    def send(self, events: Sequence[bytes]) -> Reply:
        numbers = eids(events)
        mode = self.mode if self.left else "ok"
        self.left = max(self.left - 1, 0)
        if mode == "picky" and any(number % POISON == 0 for number in numbers):
            return refusal(400)
        if mode in ("ok", "picky", "answer lost"):
            self.received.update(numbers)
        return {
            "ok": OK,
            "picky": OK,
            "refuses all": refusal(400),
            "outage": refusal(503),
            "blocked": refusal(403),
            "no answer": NO_ANSWER,
            "answer lost": NO_ANSWER,
            "too large": refusal(413),
        }[mode]

    def close(self) -> None:
        pass


class QueueMachine(RuleBasedStateMachine):
    """The model: numbers of events by what is known of them."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
        self.patches = contextlib.ExitStack()
        # Nothing happens by the clock on the wall: a program that is run again takes the same course.
        self.patches.enter_context(mock.patch.object(interval_sync, "_run", return_value=None))
        self.patches.enter_context(mock.patch.object(interval_sync, "_pid", 0))
        real = sqlite3.connect
        self.patches.enter_context(
            mock.patch.object(sqlite3, "connect", lambda *a, **k: real(*a, **k, factory=FaultyConnection))
        )
        PLAN.clear()
        self.clock = VirtualClock()
        self.number = 0
        self.generation = 0
        self.acknowledged: set[int] = set()
        self.unknown: set[int] = set()
        self.received: set[int] = set()
        self.gone: set[int] = set()  # evicted, expired or purged, as was asked for
        self.altered: set[int] = set()
        self.disk_is_full = False
        self.directory = self.folder / "0"
        make_private_directory(self.directory)
        self.queue: SqliteQueue | None = None

    # ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def in_time(self) -> Iterator[None]:
        """Every call returns within a deadline, whatever fails."""
        started_at = time.monotonic()
        yield
        assert time.monotonic() - started_at < DEADLINE_S

    def event(self, pad: int = 0) -> bytes:
        self.number += 1
        return event(self.number, dtm=self.clock.wall_ms(), pad=pad)

    def rows(self) -> tuple[set[int], set[int], int, int, int]:
        """Count rows independently: pending and dead numbers, and how many rows there are of each kind."""
        assert self.queue is not None
        PLAN.is_paused = True
        try:
            select = self.queue._connection.select
            events = select("SELECT key, value FROM events WHERE key > (SELECT value FROM meta WHERE key = 'acked')")
            letters = select("SELECT key, value FROM dead_letters")
        finally:
            PLAN.is_paused = False
        intact = [event.payload for row in events if (event := event_of(*row)) is not None]
        dead = [letter.payload for row in letters if row[0] > 0 and (letter := dead_letter_of(*row)) is not None]
        set_aside = sum(key < 0 for key, _ in letters)
        return set(eids(intact)), set(eids(dead)), len(events), len(letters) - set_aside, set_aside

    def open(self, quota: int = QUOTA) -> None:
        PLAN.clear()
        self.queue = SqliteQueue.take(Slot(self.directory, 0), durability=self.durability, max_queue_bytes=quota)

    def close(self) -> None:
        if self.queue is not None:
            self.queue.close()
            self.queue = None

    # ── rules ────────────────────────────────────────────────────────────────────────────────────────────────────

    @initialize(
        durability=st.sampled_from(["always", "interval"]),
        mark_min=st.sampled_from([1, sweep.MARK_MIN]),
        at_once=st.sampled_from([0, sweep.AT_ONCE]),
    )
    def begin(self, durability: Any, mark_min: int, at_once: int) -> None:
        """Few rows and small batches do all that a long backlog does."""
        self.durability = durability
        for name, value in (
            ("MARK_MIN", mark_min),
            ("AT_ONCE", at_once),
            ("SOME", 5 if mark_min == 1 else sweep.SOME),
        ):
            self.patches.enter_context(mock.patch.object(sweep, name, value))
        self.open()

    @rule(pad=st.sampled_from([0, 0, 0, 700, 5000, 40_000]))
    def put(self, pad: int) -> None:
        assert self.queue is not None
        payload, number = self.event(pad), self.number
        with self.in_time():
            try:
                self.queue.put(payload)
            except QueueFullError:
                pass
            except QueueError:
                self.unknown.add(number)
            else:
                self.acknowledged.add(number)

    @rule(count=st.integers(1, 300))
    def put_many(self, count: int) -> None:
        assert self.queue is not None
        first = self.number + 1
        payloads = [self.event() for _ in range(count)]
        with self.in_time():
            try:
                self.queue.put_many(payloads)
            except QueueFullError as exc:
                self.acknowledged.update(range(first, first + exc.stored))
                # With a fault planned, what was full may have been SQLite's answer to a statement that it ran.
                self.unknown.update(range(first + exc.stored, first + count))
            except QueueError:
                self.unknown.update(range(first, first + count))
            else:
                self.acknowledged.update(range(first, first + count))

    @rule()
    def fill(self) -> None:
        """Until the quota says no."""
        for _ in range(12):
            self.put(40_000)

    @rule(
        mode=st.sampled_from(
            ["ok", "ok", "picky", "refuses all", "outage", "blocked", "no answer", "answer lost", "too large"]
        ),
        requests=st.integers(1, 6),
        batch=st.sampled_from([1, 7, 100]),
        senders=st.sampled_from([1, 1, 3]),
    )
    def deliver(self, mode: str, requests: int, batch: int, senders: int) -> None:
        assert self.queue is not None
        collector = Collector(self.received)
        collector.mode, collector.left = mode, requests
        with self.in_time():
            self.deliver_by(collector, batch_size=batch, senders=senders)

    def deliver_by(self, collector: Collector, **how: Any) -> Result:
        assert self.queue is not None
        checked = DeliverySettings(max_retry_delay_seconds=60, **how)
        delivery = Delivery(
            self.queue,
            collector,
            settings=checked,
            wait=self.clock.wait,
            stopping=self.clock.stopping,
            wall_ms=self.clock.wall_ms,
            monotonic=self.clock.monotonic,
            backoff=Backoff(max_retry_delay_seconds=60, uniform=lambda _low, high: high),
        )
        try:
            return delivery.run(give_up_on_trouble=True)
        finally:
            delivery.close()

    @rule(seconds=st.sampled_from([1, 3600, 10 * 365 * 86400]), jump_ms=st.sampled_from([0, -(10**12), 10**12]))
    def time_passes(self, seconds: int, jump_ms: int) -> None:
        """The monotonic clock goes on; the wall clock may jump by decades."""
        self.clock.advance(seconds)
        self.clock.wall_offset_ms += jump_ms
        if self.durability == "interval" and self.queue is not None:
            self.queue._file.sync()

    @precondition(lambda self: not PLAN.left and not self.disk_is_full)
    @rule(size=st.integers(1, 100_000))
    def evict(self, size: int) -> None:
        assert self.queue is not None
        before = self.rows()[0]
        with self.in_time():
            self.queue.evict(size)
        self.gone |= before - self.rows()[0]

    @rule(
        kind=st.sampled_from(sorted(FAULTS)),
        skip=st.integers(0, 6),
        count=st.integers(1, 4),
        is_late=st.booleans(),
    )
    def plan_a_fault(self, kind: str, skip: int, count: int, is_late: bool) -> None:
        """One of the next statements of SQLite fails: before it ran, or, for an I/O error, after."""
        PLAN.kind, PLAN.skip, PLAN.left = kind, skip, count
        PLAN.is_late = is_late and kind == "io error"

    @rule()
    def faults_pass(self) -> None:
        PLAN.clear()

    @precondition(lambda self: not self.disk_is_full)
    @rule()
    def disk_becomes_full(self) -> None:
        """There is no room for the ballast, which is gone."""
        assert self.queue is not None

        def no_room(*_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.disk_is_full = True
        self.full_disk = mock.patch("durable_tracker.engines.sqlite.ballast.os.posix_fallocate", no_room)
        self.full_disk.start()
        self.queue._books.headroom.give_up()

    @precondition(lambda self: self.disk_is_full)
    @rule()
    def disk_has_room_again(self) -> None:
        self.disk_is_full = False
        self.full_disk.stop()

    @precondition(lambda self: self.durability == "interval")
    @rule()
    def sync_fails(self) -> None:
        """The second's sync: nothing is lost by it, since the file is written again."""
        assert self.queue is not None

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with mock.patch("durable_tracker.engines.sqlite.slot_file.os.fdatasync", fail), self.in_time():
            self.queue._file.sync()

    @rule()
    def reopen(self) -> None:
        with self.in_time():
            self.close()
            self.open()

    @rule()
    def crash(self) -> None:
        """The files as they are at this moment are all that is left."""
        assert self.queue is not None
        self.generation += 1
        self.directory = self.folder / str(self.generation)
        copy_slot(self.queue.slot, self.directory)
        with self.in_time():
            self.close()
            self.open()

    @precondition(lambda self: bool(self.acknowledged))
    @rule(choice=st.integers(0, 1 << 16), bit=st.integers(0, 7), place=st.integers(12, 40))
    def a_bit_flips(self, choice: int, bit: int, place: int) -> None:
        """In the middle of one event's bytes, while the file is closed."""
        number = sorted(self.acknowledged)[choice % len(self.acknowledged)]
        self.close()
        path = self.directory / "0.sqlite3"
        content = path.read_bytes()
        found = content.find(b'"eid":"%d"' % number)
        if found > 0:
            position = found + place
            with path.open("r+b") as file:
                file.seek(position)
                file.write(bytes([content[position] ^ 1 << bit]))
            self.altered.add(number)
        with self.in_time():
            self.open()

    @precondition(lambda _: not PLAN.left)
    @rule(limit=st.integers(1, 5))
    def requeue(self, limit: int) -> None:
        assert self.queue is not None
        with self.in_time(), contextlib.suppress(QueueError):
            self.queue.requeue([letter.key for letter in self.queue.dead_letters(limit)])

    @rule(limit=st.integers(1, 5), is_dead=st.booleans())
    def purge(self, limit: int, is_dead: bool) -> None:
        """An operator removes some; with a fault planned, all of them or none of a transaction."""
        assert self.queue is not None
        with self.in_time(), contextlib.suppress(QueueError):
            if is_dead:
                letters = self.queue.dead_letters(limit)
                chosen = set(eids([letter.payload for letter in letters]))
                keys, act = [letter.key for letter in letters], self.queue.purge_dead_letters
            else:
                rows = self.queue.peek(0, limit, 1 << 20)
                chosen = set(eids([row.payload for row in rows]))
                keys, act = [row.key for row in rows], self.queue.purge
            try:
                act(keys)
            finally:
                pending, dead, *_ = self.rows()
                self.gone |= chosen - pending - dead

    @rule()
    def shrink(self) -> None:
        assert self.queue is not None
        with self.in_time(), contextlib.suppress(QueueError):
            self.queue.shrink(64)

    # ── what always holds ────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        if self.queue is None:
            return
        pending, dead, *_ = self.rows()
        known = self.acknowledged | self.unknown
        assert self.acknowledged - (pending | self.received | dead | self.altered | self.gone) == set()
        assert self.received - known == set()
        assert (pending | dead) - known == set()

    @invariant()
    def the_ledger_adds_up(self) -> None:
        if self.queue is None:
            return
        *_, pending, dead, _ = self.rows()
        PLAN.is_paused = True
        try:
            ledger = self.queue.ledger()
        finally:
            PLAN.is_paused = False
        assert (ledger.pending, ledger.dead) == (pending, dead)
        assert ledger.adds_up, ledger

    def teardown(self) -> None:
        """Everything heals; then everything is delivered, and the queue is empty."""
        try:
            if self.queue is not None:
                self.heal_and_drain()
        finally:
            PLAN.clear()
            if self.disk_is_full:
                self.full_disk.stop()
            self.close()
            self.patches.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def heal_and_drain(self) -> None:
        PLAN.clear()
        if self.disk_is_full:
            self.disk_has_room_again()
        self.close()
        self.open(ROOMY)
        assert self.queue is not None
        with self.in_time():
            assert self.deliver_by(Collector(self.received)) is Result.EMPTY
        self.nothing_is_lost_or_invented()
        self.the_ledger_adds_up()
        assert self.queue.oldest_key() is None
        assert self.queue.ledger().pending == 0
        assert len(self.queue.events) == 0
        self.queue.put(self.event())
        assert self.queue.ledger().pending == 1


PROFILE: Final[dict[str, Any]] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        QueueMachine, settings=settings(max_examples=examples, stateful_step_count=steps, **PROFILE)
    )


def test_no_program_loses_an_event() -> None:
    """Acknowledged events are pending, received, dead, or damaged on purpose; the ledger agrees with the rows."""
    run(60, 30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_long_program_loses_an_event() -> None:
    """As above, with more and longer programs."""
    run(500, 60)
