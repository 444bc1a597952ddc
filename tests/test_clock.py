"""The wall clock jumps by days and decades: nothing stalls, nothing is dropped early, nothing is lost."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from damage import healthy, judge, observe
from fakes import EPOCH_MS, NO_ANSWER, OK, ScriptedCollector, VirtualClock, event, refusal
from faults.tools import preload_environment
from processes import Child, Program, Site, label, wait_until

from durable_tracker.collector import Collector
from durable_tracker.delivery.policy import Delivery, DeliverySettings, Result
from durable_tracker.engines.sqlite import clocks, salvage, slot_file
from durable_tracker.engines.sqlite.clocks import Ages, Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from durable_tracker.engines.sqlite.queue import SqliteQueue

    OpenQueue = Callable[..., SqliteQueue]

DAYS = (1, -1, 400, -400, 3650, -3650, 20_000, -20_000, 0)
"""Offsets from the true time; the last but one lies before 1970."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A place whose children have a wall clock that can be moved."""
    offset = tmp_path / "offset"
    offset.write_bytes(struct.pack("<q", 0))
    environment = {"LD_PRELOAD": preload_environment("clock")["LD_PRELOAD"], "FAULTS_CLOCK": str(offset)}
    return Site(tmp_path, environment=environment)


@pytest.mark.parametrize("settings", [{"max_age": 3600}, {"durability": "interval"}], ids=["max_age", "interval"])
def test_events_are_delivered_while_the_clock_jumps(site: Site, settings: dict[str, Any]) -> None:
    """None is too old, since none waited for an hour; each has the clock's time of its moment."""
    program = Program("track_while_the_clock_jumps", days=DAYS, settings=settings, flushes=True)
    with Collector(validate=False) as collector:
        site.endpoint = collector.url
        took_s = site.run(program)
        received = {label(one): one for one in collector.events}
    assert set(received) == {f"at-{days}" for days in DAYS}
    assert took_s < 20
    now_ms = time.time() * 1000
    for days in DAYS:
        for field in ("dtm", "stm"):
            assert abs(int(received[f"at-{days}"][field]) - now_ms - days * 86_400_000) < 60_000


def test_an_outage_during_which_the_clock_jumps_ends_in_time(site: Site) -> None:
    """The backoff counts by the monotonic clock: a day back does not add a day."""
    program = Program(
        "track_while_the_clock_jumps",
        days=DAYS,
        settings={"max_retry_delay_seconds": 0.2, "max_age": 3600},
        flushes=False,
    )
    with Collector(validate=False, up=False) as collector:
        site.endpoint = collector.url
        with Child(site, program) as child:
            wait_until(lambda: site.says("waiting"))
            collector.up()
            code, errors = child.end()
        assert code == 0, errors
        assert {label(one) for one in collector.events} == {f"at-{days}" for days in DAYS}


def test_the_interval_sync_goes_on_when_the_clock_goes_back(site: Site) -> None:
    """A second is a second of the monotonic clock."""
    site.run(Program("sync_while_the_clock_goes_back"))
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


def test_events_whose_own_time_is_anything_are_sent(open_queue: OpenQueue) -> None:
    """Of 1970, of the last century's end, of ten years from now: their age is the time they spent in the queue."""
    queue = open_queue()
    for number, dtm in enumerate((0, EPOCH_MS - 7_200_000, EPOCH_MS + 10 * 365 * 86_400_000), 1):
        queue.put(event(number, dtm=dtm))
    collector = ScriptedCollector()
    assert deliver(queue, collector, VirtualClock(), max_age=3600) is Result.EMPTY
    assert collector.received == [1, 2, 3]


class Machine:
    """A machine whose clocks are told what to do, in place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = Reading("first", 1000.0, EPOCH_MS / 1000, is_synchronised=True)
        monkeypatch.setattr(clocks, "read_clocks", lambda: self.now)
        monkeypatch.setattr(slot_file, "Ages", lambda recorded: Ages(recorded, lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now = self.now._replace(since_boot_s=self.now.since_boot_s + seconds, wall_s=self.now.wall_s + seconds)

    def reboots(self, name: str, wall_s: float, *, is_synchronised: bool) -> None:
        self.now = Reading(name, 5.0, wall_s, is_synchronised)


YEAR_S = 365 * 86_400.0


@pytest.mark.parametrize(
    ("wall_before_s", "wall_after_s", "synchronised", "expired"),
    [
        pytest.param(EPOCH_MS / 1000, 1.0, (True, True), [1, 2], id="right, and a week later right"),
        pytest.param(0.0, 56 * YEAR_S, (False, True), [], id="1970, then right"),
        pytest.param(EPOCH_MS / 1000 - YEAR_S, YEAR_S, (False, True), [], id="a year behind, then right"),
        pytest.param(EPOCH_MS / 1000, 75 * YEAR_S, (True, False), [], id="right, then 2099"),
        pytest.param(EPOCH_MS / 1000 + 75 * YEAR_S, -75 * YEAR_S, (False, True), [], id="2099, then right"),
    ],
)
def test_an_age_counts_over_a_restart_only_if_both_clocks_are_vouched_for(
    wall_before_s: float,
    wall_after_s: float,
    synchronised: tuple[bool, bool],
    expired: list[int],
    open_queue: OpenQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is off for a week, the others for a second."""
    machine = Machine(monkeypatch)
    machine.now = Reading("first", 10.0, wall_before_s, synchronised[0])
    queue = open_queue()
    queue.put_many([event(1), event(2)])
    queue.close()
    off_s = 7 * 86_400.0 if expired else wall_after_s
    machine.reboots("second", wall_before_s + off_s, is_synchronised=synchronised[1])
    queue = open_queue()
    queue.put(event(3))
    collector = ScriptedCollector()
    assert deliver(queue, collector, VirtualClock(), max_age=3600) is Result.EMPTY
    assert sorted({1, 2, 3} - set(expired)) == collector.received
    assert len(expired) == queue.ledger().expired


def test_an_event_that_a_running_process_put_expires(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """During an outage, or while the machine was suspended: no restart is needed, and what came later stays."""
    machine = Machine(monkeypatch)
    queue = open_queue()
    queue.put(event(1))
    clock = VirtualClock()

    def waits(_seconds: float) -> None:
        machine.passes(100.0)
        if len(clock.waits) == 2:
            machine.passes(7 * 86_400.0)
            queue.put(event(2))

    clock.on_wait = waits
    collector = ScriptedCollector(lambda request, _: NO_ANSWER if request < 3 else OK)
    assert deliver(queue, collector, clock, max_age=3600) is Result.EMPTY
    assert (collector.received, queue.ledger().expired) == ([2], 1)


def test_a_retry_after_is_waited_for_once_though_the_clock_jumps(open_queue: OpenQueue) -> None:
    """Thirty seconds are thirty seconds."""
    queue = open_queue()
    queue.put(event(1))
    clock = VirtualClock()

    def jump(_seconds: float) -> None:
        clock.wall_offset_ms -= 10**12

    clock.on_wait = jump
    collector = ScriptedCollector(lambda request, _: refusal(503, retry_after_s=30) if request == 0 else OK)
    assert deliver(queue, collector, clock, max_retry_delay_seconds=60) is Result.EMPTY
    assert 30 <= clock.elapsed_s < 100
    assert collector.received == [1]


def test_files_that_are_set_aside_never_replace_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names hold the time, and the clock may stand still or go back."""
    files = healthy(crashed=False)
    monkeypatch.setattr(salvage.time, "time_ns", lambda: 1_000_000_000 * 10**9)  # type: ignore[attr-defined]
    monkeypatch.setattr(salvage.time, "gmtime", lambda: time.struct_time((2001, 9, 9, 1, 46, 40, 6, 252, 0)))  # type: ignore[attr-defined]
    slot = replace(files, database=bytes(100) + files.database[100:]).write(tmp_path / "slot")
    assert judge(files, observe(slot), lost_max=0) == []
    content = slot.database.read_bytes()
    slot.database.write_bytes(bytes(100) + content[100:])
    observe(slot)
    assert len(list(slot.directory.glob("0.salvaged-*.sqlite3"))) == 2
