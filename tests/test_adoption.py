"""Orphaned slots: who takes them over, when, and who must not."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fakes import events_in
from processes import Child, Program, Site, open_slots, wait_until

from durable_tracker import Emitter, Ledger
from durable_tracker.collector import Collector, Fault
from durable_tracker.delivery.transport import Reply
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.runtime import worker as worker_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Make = Callable[..., Emitter]


def event(number: int) -> bytes:
    fields = {"e": "se", "p": "srv", "tv": "t", "se_ca": "c", "se_ac": "a", "se_la": str(number), "eid": eid(number)}
    return json.dumps(fields).encode()


def eid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make emitters of one name that are closed at the end."""
    made: list[Emitter] = []

    def make_(endpoint: str, **settings: Any) -> Emitter:
        made.append(Emitter(endpoint, **{"queue_dir": tmp_path / "queues", "name": "test", "linger": 0.01, **settings}))
        return made[-1]

    yield make_
    for one in made:
        one.close(0)


def leave_orphans(tmp_path: Path, *slots: tuple[int, int, int]) -> None:
    """Make free slots that hold events: (slot, first event, how many)."""
    make_private_directory(tmp_path / "queues" / "test")
    for index, first, count in slots:
        with SqliteQueue.take(Slot(tmp_path / "queues" / "test", index)) as queue:
            queue.put_many([event(number) for number in range(first, first + count)])


def slot_of(emitter: Emitter) -> str:
    path = emitter.stats().slot
    assert path is not None
    return path.name


def test_the_next_emitter_takes_over_the_lowest_slot_and_its_backlog(make: Make, tmp_path: Path) -> None:
    """The usual restart."""
    leave_orphans(tmp_path, (0, 0, 10))
    with Collector() as collector:
        emitter = make(collector.url)
        assert emitter.flush(10)
        assert slot_of(emitter) == "0.sqlite3"
        assert len(collector.eids()) == 10


def test_a_worker_delivers_what_others_of_its_name_left(make: Make, tmp_path: Path) -> None:
    """Four processes became one: slots 1 to 3 are found at the start."""
    leave_orphans(tmp_path, (0, 0, 5), (1, 5, 5), (2, 10, 0), (3, 15, 5))
    with Collector() as collector:
        emitter = make(collector.url)
        emitter.put(event(100))
        assert collector.wait(distinct=16)
        assert collector.anomalies == []
        emitter.close()
        assert [queue.ledger() for queue in open_slots(tmp_path / "queues")] == [
            Ledger(accepted=n, delivered=n) for n in (6, 5, 0, 5)
        ]


def test_a_slot_of_another_name_is_left_alone(make: Make, tmp_path: Path) -> None:
    """It may belong to another collector."""
    leave_orphans(tmp_path, (0, 0, 5))
    with Collector() as collector:
        emitter = make(collector.url, name="other")
        emitter.put(event(100))
        assert emitter.flush(10)
        assert list(collector.eids()) == [eid(100)]


def test_orphans_are_looked_for_from_time_to_time(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies later is taken over by one that lives on."""
    monkeypatch.setattr(worker_module, "ADOPTION_INTERVAL_S", 0.05)
    with Collector() as collector:
        site = Site(tmp_path, environment={})
        emitter = make(collector.url, replaces=site.endpoint)
        emitter.put(event(100))
        assert emitter.flush(10)
        with Child(site, "t = make(drain=False)\ntrack_some(t, 'killed', 7)\ntime.sleep(60)") as child:
            wait_until(lambda: len(site.noted("ack")) == 7)
            assert len(collector.eids()) == 1
            child.kill()
            assert collector.wait(distinct=8)


def test_a_slot_in_use_is_never_adopted(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is looked at, its events stay its owner's, and arrive once."""
    monkeypatch.setattr(worker_module, "ADOPTION_INTERVAL_S", 0.01)
    with Collector() as collector:
        owner = make("http://127.0.0.1:9", drain=False)
        owner.put(event(1))
        other = make(collector.url, replaces=owner.endpoint)
        other.put(event(2))
        assert other.flush(10)
        assert (slot_of(owner), slot_of(other)) == ("0.sqlite3", "1.sqlite3")
        for number in range(3, 30):
            other.put(event(number))
            assert other.flush(10)
        assert collector.eids()[eid(1)] == 0
        owner.close()
        assert collector.wait(distinct=29)
        assert collector.eids()[eid(1)] == 1


def test_ones_own_events_do_not_wait_behind_a_long_orphan(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker takes turns."""
    monkeypatch.setattr(worker_module, "ADOPTION_SLICE_S", 0.05)
    leave_orphans(tmp_path, (0, 0, 0), (1, 1000, 400))
    with Collector(script=lambda _: Fault(delay_s=0.02)) as collector:
        emitter = make(collector.url, batch_size=4)
        emitter.put(event(1))
        assert emitter.flush(10)
        assert collector.wait(distinct=10)
        emitter.put(event(2))
        assert emitter.flush(10)
        assert len(collector.eids()) < 350
        assert collector.wait(distinct=402, timeout_s=20)
        assert sum(collector.eids().values()) == 402


def test_a_stop_interrupts_the_adoption(make: Make, tmp_path: Path) -> None:
    """The orphan is free again, with what is left of it."""
    leave_orphans(tmp_path, (0, 0, 0), (1, 1000, 400))
    with Collector(script=lambda _: Fault(delay_s=0.02)) as collector:
        emitter = make(collector.url, batch_size=4)
        emitter.put(event(1))
        assert collector.wait(distinct=10)
        emitter.close(5)
        left = sum(queue.ledger().pending for queue in open_slots(tmp_path / "queues"))
        assert left + len(collector.eids()) == 401
        assert left > 100


def test_an_orphan_that_cannot_be_read_holds_up_nothing(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the next one is taken."""
    leave_orphans(tmp_path, (0, 0, 0), (2, 5, 5))
    import sqlite3

    raw = sqlite3.connect(tmp_path / "queues" / "test" / "1.sqlite3")
    raw.execute("PRAGMA user_version=99")
    raw.execute("CREATE TABLE a (a)")
    raw.close()
    with Collector() as collector:
        emitter = make(collector.url)
        emitter.put(event(1))
        assert collector.wait(distinct=6)
        wait_until(lambda: "worker.orphan_unusable" in events_in(caplog))


def test_several_workers_share_the_orphans_and_none_is_sent_twice(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slot has one owner at a time."""
    monkeypatch.setattr(worker_module, "ADOPTION_INTERVAL_S", 0.01)
    leave_orphans(tmp_path, *((index, index * 100, 50) for index in range(8)))
    with Collector() as collector:
        emitters = [make(collector.url, batch_size=5) for _ in range(4)]
        threads = [threading.Thread(target=emitter.put, args=(event(9000 + n),)) for n, emitter in enumerate(emitters)]
        for thread in threads:
            thread.start()
        assert collector.wait(distinct=404, timeout_s=20)
        for thread in threads:
            thread.join()
        assert sum(collector.eids().values()) == 404


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_writers_and_three_drainers_that_get_killed(tmp_path: Path, seed: int) -> None:
    """Each event at least once, no slot owned twice, none forgotten."""
    import random
    import subprocess
    import sys

    dice = random.Random(seed)
    writer = Program("track_until_told", drains=False, pause_s=0.002)
    with Collector() as collector:
        site = Site(tmp_path, endpoint=collector.url)
        command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(site.queue_dir), "--quiet"]
        children: list[Child] = []
        drainers: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(25):
                while len(children) < 4:
                    children.append(Child(site, writer))
                while len(drainers) < 3:
                    drainers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                before = len(site.noted("ack"))
                wait_until(lambda before=before: len(site.noted("ack")) > before + 50)  # type: ignore[misc]
                victim = children.pop(dice.randrange(4))
                victim.kill()
                victim.__exit__()
                drainer = drainers.pop(dice.randrange(3))
                drainer.send_signal(signal.SIGKILL)
                drainer.wait(10)
                drainers = [one for one in drainers if one.poll() is None]
        finally:
            site.journal.with_name("journal.over").touch()
            for child in children:
                child.end()
                child.__exit__()
            for one in drainers:
                one.kill()
                one.wait(10)
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (seed, done)
        received = {one["se_la"] for one in collector.events}
        assert set(site.noted("ack")) - received == set(), seed
        assert received - set(site.noted("try")) == set(), seed
        assert site.ledger().pending == 0


class SlowTransport:
    """As a collector that is a hundred milliseconds away."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def send(self, events: Sequence[bytes]) -> Reply:
        time.sleep(0.1)
        self.labels += [json.loads(event)["se_la"] for event in events]
        return Reply(status=200)

    def close(self) -> None:
        pass


def test_an_orphan_is_adopted_by_one_that_tracks_all_the_time(make: Make, tmp_path: Path) -> None:
    """Its own queue is never empty, since more is put during each request."""
    transport = SlowTransport()
    leave_orphans(tmp_path, (1, 1000, 20))
    one = make("localhost", transport=transport)
    one.put(event(0))
    over = threading.Event()

    def track() -> None:
        number = 1
        while not over.wait(1 / 30):
            one.put(event(number))
            number += 1

    tracking = threading.Thread(target=track)
    tracking.start()
    try:
        wait_until(lambda: "1019" in transport.labels)
    finally:
        over.set()
        tracking.join()


def test_what_a_collector_said_holds_for_all_slots(make: Make, tmp_path: Path) -> None:
    """Sixty orphans do not ask it sixty times; nor does a second emitter in the process."""
    leave_orphans(tmp_path, *((index, 1000 * index, 1) for index in range(1, 61)))
    with Collector() as collector:
        collector.outage = Fault(status=429, headers={"Retry-After": "3600"})
        one, two = make(collector.url), make(collector.url, name="two")
        one.put(event(1))
        wait_until(lambda: collector.requests >= 1)
        time.sleep(0.5)
        two.put(event(2))
        two.flush(1)
        assert collector.requests == 1
        assert one.stats().state == "backing_off"
