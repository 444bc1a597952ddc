"""Disks that are full, read-only or not ours: a clear error in time, and a backlog that can still be drained."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import Child, Site, label, wait_until

from durable_tracker import Emitter, StorageError
from durable_tracker.collector import Collector

OWN_MOUNTS = ("unshare", "-m", "--propagation", "private")

SMALL_DISK = """
import subprocess
from durable_tracker.errors import QueueError, QueueFullError, StorageError

def mount(*options):
    subprocess.run(["mount", *options], check=True)

os.makedirs(QUEUE_DIR, exist_ok=True)
mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", QUEUE_DIR)
os.chmod(QUEUE_DIR, 0o700)
REST = QUEUE_DIR + "/rest"

def fill_the_rest():
    block = 1 << 16
    with open(REST, "ab", buffering=0) as file:
        while block:
            try:
                file.write(b"x" * block)
            except OSError:
                block //= 2

def fill(t, name, count=100_000):
    # Until it is full; returns how many were stored.
    for n in range(count):
        started_at = time.monotonic()
        try:
            track(t, f"{name}-{n}-" + "x" * 300)
        except QueueFullError:
            assert time.monotonic() - started_at < 5
            return n
    raise AssertionError("never full")

def be_ready(what):
    note(what)

def wait_for(name):
    wait_until(lambda: os.path.exists(JOURNAL + "." + name), 30)
"""


@functools.cache
def why_no_mounts() -> str | None:
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return "there is no unshare or mount command"
    command = [*OWN_MOUNTS, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
    if subprocess.run(command, capture_output=True, timeout=20, check=False).returncode:
        return "this user may not mount in a namespace of its own"
    return None


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A queue dir that will be a small disk in the child's mount namespace; the journal is outside."""
    return Site(tmp_path)


@pytest.fixture
def disk(site: Site) -> Site:
    """As `site`, on a machine that can play full disks."""
    reason = why_no_mounts()
    if reason is not None:
        pytest.skip(reason)
    return site


def received(collector: Collector) -> Counter[str]:
    return Counter(label(event) for event in collector.events)


def assert_arrived(site: Site, collector: Collector) -> None:
    """Everything that was acknowledged, and nothing that was not tried, each once."""
    got, acknowledged, tried = received(collector), set(site.noted("ack")), set(site.noted("try"))
    assert set() == acknowledged - set(got)
    assert set() == set(got) - tried
    assert sum(got.values()) == len(got)
    assert len(acknowledged) > 100
    assert not site.says("timed out")


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_a_disk_that_fills_up_while_tracking_drains_by_itself(disk: Site, durability: str) -> None:
    """With somebody else's file taking the rest: track() raises in time, deletes work, and then it goes on."""
    source = f"""
t = make(durability="{durability}", max_retry_delay_seconds=0.1)
fill(t, "first")
fill_the_rest()
for n in range(3):
    try:
        track(t, f"while-full-{{n}}-" + "x" * 300)
    except QueueFullError:
        pass
open(JOURNAL + ".full", "w").close()
wait_until(lambda: not t.emitters[0].stats().ledger.pending, 30)
os.unlink(REST)
track_some(t, "after", 20)
assert t.flush(timeout=10)
ledger = t.emitters[0].stats().ledger
assert ledger.accepted == ledger.delivered, ledger
wait_until(lambda: os.stat(QUEUE_DIR + "/test/0.sqlite3").st_size < 400_000)
assert t.close()
"""
    with Collector() as collector:
        disk.endpoint = collector.url
        collector.down()
        with Child(disk, SMALL_DISK + source, prefix=OWN_MOUNTS) as child:
            wait_until(lambda: disk.journal.with_name("journal.full").exists() or child.process.poll() is not None)
            collector.up()
            code, errors = child.end(40)
        assert 0 == code, errors
        assert_arrived(disk, collector)


def test_a_killed_process_is_succeeded_on_the_still_full_disk(disk: Site) -> None:
    """The next one opens, drains, and tracks again once there is room."""
    source = """
pid = os.fork()
if pid == 0:
    t = make(drain=False)
    fill(t, "killed")
    fill_the_rest()
    os.kill(os.getpid(), signal.SIGKILL)
assert reap(pid) == -signal.SIGKILL
t = make(max_retry_delay_seconds=0.1)
try:
    track(t, "on-the-full-disk-" + "x" * 300)
except QueueFullError:
    pass
t.flush(timeout=20)
wait_until(lambda: not t.emitters[0].stats().ledger.pending, 20)
os.unlink(REST)
track_some(t, "after", 20)
assert t.close()
"""
    with Collector() as collector:
        disk.endpoint = collector.url
        disk.run(SMALL_DISK + source, prefix=OWN_MOUNTS)
        assert_arrived(disk, collector)


def test_the_drain_command_works_on_a_full_disk(disk: Site) -> None:
    """And the status command, before and after."""
    source = """
t = make(drain=False)
fill(t, "killed")
fill_the_rest()
t.close()
def command(*arguments):
    return subprocess.run([sys.executable, "-m", "durable_tracker", *arguments, "--queue-dir", QUEUE_DIR], timeout=30)
assert command("status").returncode == 0
assert command("drain").returncode == 0
assert command("status").returncode == 0
os.unlink(REST)
t = make()
track_some(t, "after", 20)
assert t.close()
"""
    with Collector() as collector:
        disk.endpoint = collector.url
        disk.run(SMALL_DISK + source, prefix=OWN_MOUNTS)
        assert_arrived(disk, collector)


@pytest.mark.parametrize("room_kib", [300, 600, pytest.param(1200, marks=pytest.mark.slow)])
def test_a_damaged_file_is_taken_over_on_a_nearly_full_disk(disk: Site, room_kib: int) -> None:
    """In steps, as far as there is room; not with the ballast, without which the slot could not be opened any more."""
    source = """
t = make(drain=False)
for n in range(2000):
    track(t, f"before-{n}", 300)
t.close()
path = QUEUE_DIR + "/test/0.sqlite3"
with open(path, "r+b") as file:
    file.write(bytes(100))
fill_the_rest()
os.truncate(REST, os.path.getsize(REST) - ROOM)
ballast = QUEUE_DIR + "/test/0.ballast"
assert os.path.exists(ballast)
t = make(drain=False)
track(t, "meanwhile", 300)
assert os.path.exists(ballast)
t.close()
command = [sys.executable, "-m", "durable_tracker", "drain", "--queue-dir", QUEUE_DIR, "--batch-size", "100"]
for n in range(5):
    code = subprocess.run(command, timeout=60).returncode
    if code == 0:
        break
assert code == 0, code
os.unlink(REST)
t = make()
track_some(t, "after", 20)
assert t.close()
"""
    with Collector() as collector:
        disk.endpoint = collector.url
        disk.run(SMALL_DISK + source.replace("ROOM", str(room_kib << 10)), prefix=OWN_MOUNTS)
        assert_arrived(disk, collector)


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
def test_dropping_on_a_full_disk_is_counted(disk: Site, on_full: str) -> None:
    """A put returns in time, and every event is stored, or counted as evicted or dropped."""
    source = f"""
t = make(drain=False, on_full="{on_full}")
count = 4500
for n in range(count):
    started_at = time.monotonic()
    t.track(StructuredEvent("test", "tracked", f"{{n}}-" + "x" * 600))
    assert time.monotonic() - started_at < 5
stats = t.emitters[0].stats()
ledger = stats.ledger
assert ledger.accepted + stats.dropped == count, stats
assert ledger.accepted == ledger.pending + ledger.evicted, stats
assert 0 < ledger.pending < count, stats
assert stats.dropped > 0 if "{on_full}" == "drop_newest" else ledger.evicted > 0
queue = t.emitters[0]._opened.queue
assert len(queue.events) == ledger.pending
"""
    disk.run(SMALL_DISK + source, prefix=OWN_MOUNTS, timeout_s=60)


@pytest.mark.parametrize("on_full", ["raise", "drop_newest", "drop_oldest", "block"])
def test_a_disk_without_room_for_an_empty_queue_is_full_as_any_other(disk: Site, on_full: str) -> None:
    """The first put does as `on_full` says; with nothing to evict, dropping the oldest has to raise."""
    source = f"""
fill_the_rest()
t = make(drain="{on_full}" == "block", on_full="{on_full}")
outcomes = []
def work():
    try:
        track(t, "first")
        outcomes.append("returned")
    except QueueFullError:
        outcomes.append("raised")
thread = threading.Thread(target=work, daemon=True)
thread.start()
thread.join(1)
expected = {{"drop_newest": ["returned"], "block": []}}.get("{on_full}", ["raised"])
assert outcomes == expected, outcomes
assert t.emitters[0].stats().dropped == ("{on_full}" == "drop_newest")
os.unlink(REST)
thread.join(10)
assert not thread.is_alive()
"""
    disk.run(SMALL_DISK + source, prefix=OWN_MOUNTS, timeout_s=60)


def test_blocking_on_a_full_disk_waits_for_room(disk: Site) -> None:
    """Made by the collector, or by whoever filled the disk."""
    source = """
t = make(on_full="block", max_retry_delay_seconds=0.1)
done = threading.Event()
def work():
    for n in range(6000):
        track(t, f"blocked-{n}-" + "x" * 600)
    done.set()
threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
open(JOURNAL + ".full", "w").close()
assert done.wait(40)
assert t.flush(timeout=20)
"""
    with Collector() as collector:
        disk.endpoint = collector.url
        collector.down()
        with Child(disk, SMALL_DISK + source, prefix=OWN_MOUNTS) as child:
            wait_until(lambda: len(disk.noted("ack")) > 1000 and _is_stuck(disk))
            collector.up()
            code, errors = child.end(60)
        assert 0 == code, errors
        assert 6000 == len(disk.noted("ack"))
        assert_arrived(disk, collector)


def _is_stuck(site: Site) -> bool:
    """Return whether no event was acknowledged for a moment."""
    before, until = len(site.noted("ack")), time.monotonic() + 0.5
    while time.monotonic() < until:
        if len(site.noted("ack")) > before:
            return False
    return True


def test_a_file_size_limit_is_a_full_queue(site: Site) -> None:
    """RLIMIT_FSIZE: puts are refused, the collector drains, and puts are accepted again."""
    source = """
import resource
from durable_tracker.errors import QueueFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
t = make(max_retry_delay_seconds=0.1, durability="interval")
n = 0
try:
    while True:
        track(t, str(n), 600)
        n += 1
        assert n < 20_000
except QueueFullError:
    note("full")
wait_until(lambda: t.flush(timeout=10), 30)
track_some(t, "after", 20)
assert t.close()
"""
    with Collector() as collector:
        site.endpoint = collector.url
        collector.down()
        with Child(site, source) as child:
            wait_until(lambda: site.says("full") or child.process.poll() is not None)
            collector.up()
            code, errors = child.end(40)
        assert 0 == code, errors
        assert_arrived(site, collector)


def test_a_file_size_limit_below_the_headroom_is_said_at_the_first_put(site: Site) -> None:
    """Not at the thousandth."""
    source = """
import resource
from durable_tracker.errors import QueueFullError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
t = make()
try:
    track(t, "first")
except QueueFullError as error:
    assert "ballast" in str(error), error
else:
    raise AssertionError("accepted")
"""
    site.run(source)
    assert {} == dict(site.stored())


def test_a_read_only_file_system_is_a_clear_error_at_once(disk: Site) -> None:
    """At the constructor, with the directory's name and the reason."""
    source = """
from pathlib import Path
mount("-o", "remount,ro", QUEUE_DIR)
try:
    make()
except StorageError as error:
    assert QUEUE_DIR in str(error) and "ead-only" in str(error), error
else:
    raise AssertionError("constructed")
mount("-o", "remount,rw", QUEUE_DIR)
t = make()
mount("-o", "remount,ro", QUEUE_DIR)
try:
    track(t, "refused")
except StorageError as error:
    assert QUEUE_DIR in str(error), error
else:
    raise AssertionError("tracked")
mount("-o", "remount,rw", QUEUE_DIR)
track(t, "accepted")
t.close()
"""
    disk.run(SMALL_DISK + source, prefix=OWN_MOUNTS)
    assert ["accepted"] == disk.noted("ack")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_elses_directory_is_a_clear_error_at_once() -> None:
    """Whether it may not be entered, not be written, or only belongs to another."""
    source = """
import durable_tracker.delivery.http_transport  # another user may not read where it is
from durable_tracker.errors import StorageError
os.setgroups([])
os.setresuid(65534, 65534, 65534)
for name in ("closed", "readable", "writable"):
    try:
        Emitter(ENDPOINT, queue_dir=os.path.join(os.path.dirname(QUEUE_DIR), name), name="test")
    except StorageError as error:
        assert name in str(error), error
    else:
        raise AssertionError(name)
note("refused")
"""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is root's alone
        os.chmod(folder, 0o755)  # noqa: S103 (that is the point)
        site = Site(Path(folder))
        for name, mode in (("closed", 0o700), ("readable", 0o755), ("writable", 0o777)):
            (site.folder / name / "test").mkdir(parents=True)
            (site.folder / name / "test").chmod(mode)
            (site.folder / name).chmod(mode)
        site.run(source)
        assert site.says("refused")


def test_a_file_in_the_place_of_a_directory_is_a_clear_error(tmp_path: Path) -> None:
    """Wherever it is on the way."""
    (tmp_path / "file").write_text("in the way")
    for queue_dir, name in ((tmp_path / "file", "a"), (tmp_path / "file" / "deeper", "a"), (tmp_path, "file")):
        with pytest.raises(StorageError, match="file"):
            Emitter("c.example", queue_dir=queue_dir, name=name)


def test_a_directory_that_was_deleted_is_an_error_not_a_silence(tmp_path: Path) -> None:
    """Between the constructor and the first put."""
    emitter = Emitter("c.example", queue_dir=tmp_path / "queues", name="a", drain=False)
    shutil.rmtree(tmp_path / "queues")
    with pytest.raises(StorageError, match="queues"):
        emitter.put(b"{}")
