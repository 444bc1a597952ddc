"""The wall clock jumps by days and decades: nothing stalls, nothing is dropped early, nothing is lost."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from damage import healthy, judge, observe
from fakes import EPOCH_MS, NO_ANSWER, OK, ScriptedCollector, VirtualClock, event, refusal
from faults.tools import preload_environment
from processes import Child, Site, label, wait_until

from durable_tracker.collector import Collector
from durable_tracker.delivery.policy import Delivery, DeliverySettings, Result
from durable_tracker.store import salvage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from durable_tracker.delivery.transport import Reply
    from durable_tracker.store.sqlite_queue import SqliteQueue

    OpenQueue = Callable[..., SqliteQueue]

DAYS = (1, -1, 400, -400, 3650, -3650, 20_000, -20_000, 0)
"""Offsets from the true time; the last but one lies before 1970."""

JUMPER = """
import struct
DAYS = {days}
def jump(days):
    with open(os.environ["FAULTS_CLOCK"], "r+b") as file:
        file.write(struct.pack("<q", days * 86400 * 10**9))
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A place whose children have a wall clock that can be moved."""
    offset = tmp_path / "offset"
    offset.write_bytes(struct.pack("<q", 0))
    environment = {"LD_PRELOAD": preload_environment("clock")["LD_PRELOAD"], "FAULTS_CLOCK": str(offset)}
    return Site(tmp_path, environment=environment)


@pytest.mark.parametrize("settings", ["max_age=3600", 'durability="interval"'])
def test_events_are_delivered_while_the_clock_jumps(site: Site, settings: str) -> None:
    """None is too old, since none waited for an hour; each has the clock's time of its moment."""
    source = JUMPER.format(days=DAYS) + (
        f"tracker = make(linger=0.01, {settings})\n"
        "for days in DAYS:\n"
        "    jump(days)\n"
        "    track(tracker, f'at-{days}')\n"
        "    assert tracker.flush(timeout=15), days\n"
        "tracker.close()\n"
    )
    with Collector(validate=False) as collector:
        site.endpoint = collector.url
        took_s = site.run(source)
        received = {label(one): one for one in collector.events}
    assert {f"at-{days}" for days in DAYS} == set(received)
    assert took_s < 20
    now_ms = time.time() * 1000
    for days in DAYS:
        for field in ("dtm", "stm"):
            assert abs(int(received[f"at-{days}"][field]) - now_ms - days * 86_400_000) < 60_000


def test_an_outage_during_which_the_clock_jumps_ends_in_time(site: Site) -> None:
    """The backoff counts by the monotonic clock: a day back does not add a day."""
    source = JUMPER.format(days=DAYS) + (
        "tracker = make(linger=0.01, max_retry_delay_seconds=0.2, max_age=3600)\n"
        "for days in DAYS:\n"
        "    jump(days)\n"
        "    track(tracker, f'at-{days}')\n"
        "    time.sleep(0.05)\n"
        "note('waiting')\n"
        "wait_until(lambda: tracker.emitters[0].stats().ledger.pending == 0)\n"
        "tracker.close()\n"
    )
    with Collector(validate=False, up=False) as collector:
        site.endpoint = collector.url
        with Child(site, source) as child:
            wait_until(lambda: site.says("waiting"))
            collector.up()
            code, errors = child.end()
        assert 0 == code, errors
        assert {f"at-{days}" for days in DAYS} == {label(one) for one in collector.events}


def test_the_interval_sync_goes_on_when_the_clock_goes_back(site: Site) -> None:
    """A second is a second of the monotonic clock."""
    source = JUMPER.format(days=DAYS) + (
        "tracker = make(durability='interval', drain=False)\n"
        "track(tracker, 'first')\n"
        "jump(-3650)\n"
        "track(tracker, 'second')\n"
        "file = tracker.emitters[0]._pair[0]._file\n"
        "assert file.is_dirty\n"
        "wait_until(lambda: not file.is_dirty, 5)\n"
        "tracker.close()\n"
    )
    site.run(source)
    site.assert_kept()


# ── on a virtual clock, with the real queue ──────────────────────────────────────────────────────────────────────────


def deliver(queue: SqliteQueue, collector: ScriptedCollector, clock: VirtualClock, **settings: float) -> Result:
    delivery = Delivery(
        queue,
        collector,
        settings=DeliverySettings(**settings),  # type: ignore[arg-type]
        wait=clock.wait,
        stopping=clock.stopping,
        wall_ms=clock.wall_ms,
        monotonic=clock.monotonic,
    )
    try:
        return delivery.run()
    finally:
        delivery.close()


@pytest.mark.parametrize("jump_s", [86400, -86400, 50 * 365 * 86400, -50 * 365 * 86400])
def test_max_age_is_not_reached_by_a_jump(open_queue: OpenQueue, jump_s: int) -> None:
    """A backlog of a minute's age stays a minute old, whatever the wall says during an outage."""
    queue = open_queue()
    queue.put_many([event(number, dtm=EPOCH_MS - 60_000) for number in range(1, 6)])
    clock = VirtualClock()

    def jump(_seconds: float) -> None:
        clock.wall_offset_ms += jump_s * 1000

    clock.on_wait = jump

    def answer(request: int, _numbers: list[int]) -> Reply:
        return NO_ANSWER if request < 3 else OK

    collector = ScriptedCollector(answer)
    assert Result.EMPTY is deliver(queue, collector, clock, max_age=3600)
    assert [1, 2, 3, 4, 5] == collector.received
    assert 0 == queue.ledger().expired


def test_events_of_a_clock_that_was_ahead_are_not_too_old(open_queue: OpenQueue) -> None:
    """Their time lies in the future: they are sent as they are."""
    queue = open_queue()
    queue.put(event(1, dtm=EPOCH_MS + 10 * 365 * 86_400_000))
    collector = ScriptedCollector()
    assert Result.EMPTY is deliver(queue, collector, VirtualClock(), max_age=60)
    assert [1] == collector.received


def test_a_backlog_that_is_too_old_is_dropped_and_counted_in_spite_of_jumps(open_queue: OpenQueue) -> None:
    """The limit still works: by the wall as it was when delivery began, and the time that went by since."""
    queue = open_queue()
    queue.put(event(1, dtm=EPOCH_MS - 7_200_000))
    queue.put(event(2, dtm=EPOCH_MS - 1_000))
    collector = ScriptedCollector()
    assert Result.EMPTY is deliver(queue, collector, VirtualClock(), max_age=3600)
    assert ([2], 1) == (collector.received, queue.ledger().expired)


def test_a_retry_after_is_waited_for_once_though_the_clock_jumps(open_queue: OpenQueue) -> None:
    """Thirty seconds are thirty seconds."""
    queue = open_queue()
    queue.put(event(1))
    clock = VirtualClock()

    def jump(_seconds: float) -> None:
        clock.wall_offset_ms -= 10**12

    clock.on_wait = jump
    collector = ScriptedCollector(lambda request, _: refusal(503, retry_after_s=30) if request == 0 else OK)
    assert Result.EMPTY is deliver(queue, collector, clock, max_retry_delay_seconds=60)
    assert 30 <= clock.elapsed_s < 100
    assert [1] == collector.received


def test_files_that_are_set_aside_never_replace_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names hold the time, and the clock may stand still or go back."""
    files = healthy(crashed=False)
    monkeypatch.setattr(salvage.time, "time_ns", lambda: 1_000_000_000 * 10**9)  # type: ignore[attr-defined]
    monkeypatch.setattr(salvage.time, "gmtime", lambda: time.struct_time((2001, 9, 9, 1, 46, 40, 6, 252, 0)))  # type: ignore[attr-defined]
    slot = replace(files, database=bytes(100) + files.database[100:]).write(tmp_path / "slot")
    assert [] == judge(files, observe(slot), lost_max=0)
    content = slot.database.read_bytes()
    slot.database.write_bytes(bytes(100) + content[100:])
    observe(slot)
    assert 2 == len(list(slot.directory.glob("0.salvaged-*.sqlite3")))
