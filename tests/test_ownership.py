"""What a queue has open can be taken away: closed by a daemonizer, removed by a cleaner of directories."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from damage import copy_slot, drained, healthy, payload
from processes import PROGRAMS, Child, Program, Site, label, wait_until

from durable_tracker import Emitter
from durable_tracker.collector import Collector
from durable_tracker.engines.sqlite import slot_file
from durable_tracker.engines.sqlite.descriptors import Held
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.engines.sqlite.verification import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durable_tracker.engines.engine import Durability


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A queue dir, and a collector that is down."""
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("OWN_FILES", str(tmp_path / "own"))
    return Site(tmp_path)


@pytest.mark.parametrize("durability", ["always", "interval"])
@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("is_killed", [False, True])
def test_descriptors_that_are_closed_under_us_cost_no_event_and_touch_no_file_of_others(
    site: Site, durability: str, drain: bool, is_killed: bool
) -> None:
    """Every event is stored, in the old place or in a new one, and files that got the numbers stay as they are."""
    program = Program("daemonize", drain=drain, durability=durability, is_killed=is_killed)
    site.run(program, expected=-signal.SIGKILL if is_killed else 0)
    site.assert_kept()


def test_a_removed_lock_file_lets_nobody_in(site: Site) -> None:
    """A cleaner removed it: whoever locks a new one finds SQLite's own lock before touching the log, and goes on."""
    with Child(site, "t = make(drain=False)\ntrack_some(t, 'owner', 10)\ntime.sleep(60)") as owner:
        wait_until(lambda: len(site.noted("ack")) == 10)
        (site.slots / "0.lock").unlink()
        before = (site.slots / "0.sqlite3-wal").read_bytes()
        for number in range(3):
            site.run(f"t = make(drain=False)\ntrack_some(t, 'other{number}', 5)\nt.close()")
        assert (site.slots / "0.sqlite3-wal").read_bytes() == before
        owner.kill()
    site.assert_kept()


def test_a_removed_lock_file_is_made_and_locked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a minute the owner looks."""
    monkeypatch.setattr(slot_file, "_LOCK_LOOK_S", 0.0)
    make_private_directory(tmp_path / "slot")
    with SqliteQueue.take(Slot(tmp_path / "slot", 0)) as queue:
        queue.slot.lock.unlink()
        assert Slot(tmp_path / "slot", 0).lock.exists() is False
        queue.put(payload(1))
        queue.ack([row.key for row in queue.peek(0, 1, 1 << 20)])
        assert not Slot(tmp_path / "slot", 0).acquire()
        assert os.getpid() == queue.slot.owner()


def test_a_lock_file_that_is_removed_while_it_is_locked_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking it: the one at the path is taken instead."""
    make_private_directory(tmp_path / "slot")
    slot = Slot(tmp_path / "slot", 0)
    real, removals = Slot._lock, iter([True, True])

    def removed_meanwhile(self: Slot) -> object:
        held = real(self)
        if next(removals, False):
            self.lock.unlink()
        return held

    monkeypatch.setattr(Slot, "_lock", removed_meanwhile)
    assert slot.acquire()
    assert not Slot(tmp_path / "slot", 0).acquire()
    slot.release()


def test_a_database_that_is_removed_is_given_up_and_tracking_goes_on(site: Site) -> None:
    """What is tracked later is not put into a file without a name; what the log still has is taken out of it."""
    site.run(Program("remove_the_database"))
    site.assert_kept()


# ── SQLite's own lock ────────────────────────────────────────────────────────────────────────────────────────────────


def assert_locked(path: Path) -> None:
    """See that another process finds the database locked."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "open_database.py"), str(path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    """A queue that was killed before, with half of its events in the log."""
    slot = healthy(crashed=True).write(tmp_path / "slot")
    with SqliteQueue.take(slot) as queue_:
        yield queue_


def test_nothing_that_a_queue_does_drops_sqlites_lock(queue: SqliteQueue, tmp_path: Path) -> None:
    """POSIX locks fall when any descriptor of the file is closed, whoever opened it."""
    database = queue.slot.database
    assert_locked(database)
    queue.put(payload(500))
    queue.ledger()
    queue.used_bytes()
    queue.dead_letters()
    queue.shrink()
    assert_locked(database)
    assert not Slot(database.parent, 0).acquire()
    copy = copy_slot(Slot(healthy(crashed=False).write(tmp_path / "other").directory, 0), tmp_path / "copy")
    assert verify(copy).is_sound
    assert_locked(database)
    pid = os.fork()
    if pid == 0:
        queue.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert_locked(database)
    list(drained(queue))
    assert_locked(database)


def test_neither_does_mending_it(queue: SqliteQueue) -> None:
    """Rows come in from the damaged file while the new one is open."""
    database = queue.slot.database
    queue._connection.drop()
    content = database.read_bytes()
    database.write_bytes(b"\0" + content[1:])
    queue.put(payload(500))
    assert_locked(database)
    assert list(drained(queue))
    assert list(database.parent.glob("*damaged*")) == []
    assert_locked(database)


def test_a_file_that_stands_behind_a_damaged_frame_is_opened_once(tmp_path: Path) -> None:
    """What SQLite leaves behind is read before SQLite opens the file."""
    files = healthy(crashed=True)
    slot = files.flipped(len(files.database) + len(files.wal) - 2000, 3).write(tmp_path / "slot")
    with SqliteQueue.take(slot):
        assert_locked(slot.database)


def test_a_lock_of_sqlites_is_seen_before_the_file_is_touched(tmp_path: Path) -> None:
    """Somebody has it open who knows nothing of the slot's lock."""
    slot = healthy(crashed=False).write(tmp_path / "slot")
    with subprocess.Popen(
        [sys.executable, str(PROGRAMS / "lock_a_database.py"), str(slot.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(Exception, match=f"in use by process {other.pid}"):
            SqliteQueue.take(slot)
        other.communicate()


def test_events_of_a_slot_that_was_closed_under_us_are_delivered_by_the_next_process(site: Site) -> None:
    """Each once."""
    site.run(Program("daemonize", drain=False, durability="always", is_killed=False))
    with Collector() as collector:
        site.endpoint = collector.url
        with Child(site, "t = make(replaces='http://127.0.0.1:9')\nt.flush()\ntime.sleep(60)") as child:
            assert collector.wait(distinct=25)
            child.kill()
        assert set(collector.eids().values()) == {1}
        assert {label(event).split("-")[0] for event in collector.events} == {"before", "after"}


# ── descriptors that are known by their offset ───────────────────────────────────────────────────────────────────────


def test_a_number_that_another_file_got_is_not_ours_though_that_is_marked_as_well(tmp_path: Path) -> None:
    """Nor one that a pipe got, nor one that nobody has."""
    paths = [tmp_path / "one", tmp_path / "two"]
    helds = [Held(os.open(path, os.O_RDWR | os.O_CREAT), marks=True) for path in paths]
    assert [held.is_ours() for held in helds] == [True, True]
    os.dup2(helds[1].number, helds[0].number)
    assert [held.is_ours() for held in helds] == [False, True]
    reading, writing = os.pipe()
    os.dup2(reading, helds[0].number)
    assert helds[0].is_ours() is False
    for number in (reading, writing, helds[0].number):
        os.close(number)
    assert helds[0].is_ours() is False
    helds[1].close()
    assert helds[1].is_ours() is False


def test_a_file_whose_offset_somebody_moves_stays_ours(tmp_path: Path) -> None:
    """As where SQLite is built to seek; and what has no offset is known by its inode from the beginning."""
    held = Held(os.open(tmp_path / "one", os.O_RDWR | os.O_CREAT), marks=True)
    os.write(held.number, b"moved")
    assert held.is_ours()
    os.lseek(held.number, 0, os.SEEK_SET)
    assert held.is_ours()
    held.close()
    reading, writing = os.pipe()
    piped = Held(reading, marks=True)
    assert piped.is_ours()
    os.close(writing)
    piped.close()


def test_what_has_one_file_by_two_numbers_or_by_one_number_twice_agrees(tmp_path: Path) -> None:
    number = os.open(tmp_path / "one", os.O_RDWR | os.O_CREAT)
    one, again, other = Held(number, marks=True), Held(number, marks=True), Held(os.dup(number), marks=True)
    assert [held.is_ours() for held in (one, again, other)] == [True, True, True]
    other.close()
    assert [held.is_ours() for held in (one, again)] == [True, True]
    one.close()


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_a_put_asks_for_no_times_of_its_file(
    tmp_path: Path, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would make the sync of the next one write them, and half as slow again."""
    with Emitter("http://127.0.0.1:9", name="shop", queue_dir=tmp_path, durability=durability, drain=False) as emitter:
        emitter.put(b"{}")
        asked: list[int] = []
        plain = os.fstat

        def fstat(number: int) -> os.stat_result:
            asked.append(number)
            return plain(number)

        monkeypatch.setattr(os, "fstat", fstat)
        for _ in range(20):
            emitter.put(b"{}")
        slow = [number for number in asked if "-wal" in os.readlink(f"/proc/self/fd/{number}")]
        assert slow == []
