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
from processes import Child, Program, Site, label, wait_until

from durable_tracker import Emitter, StorageError
from durable_tracker.collector import Collector

OWN_MOUNTS = ("unshare", "-m", "--propagation", "private")


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
    assert acknowledged - set(got) == set()
    assert set(got) - tried == set()
    assert sum(got.values()) == len(got)
    assert len(acknowledged) > 100
    assert not site.says("timed out")


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_a_disk_that_fills_up_while_tracking_drains_by_itself(disk: Site, durability: str) -> None:
    """With somebody else's file taking the rest: track() raises in time, deletes work, and then it goes on."""
    program = Program("full_disk_fills_up", durability=durability)
    with Collector() as collector:
        disk.endpoint = collector.url
        collector.down()
        with Child(disk, program, prefix=OWN_MOUNTS) as child:
            wait_until(lambda: disk.journal.with_name("journal.full").exists() or child.process.poll() is not None)
            collector.up()
            code, errors = child.end(40)
        assert code == 0, errors
        assert_arrived(disk, collector)


def test_a_killed_process_is_succeeded_on_the_still_full_disk(disk: Site) -> None:
    """The next one opens, drains, and tracks again once there is room."""
    program = Program("full_disk_successor")
    with Collector() as collector:
        disk.endpoint = collector.url
        disk.run(program, prefix=OWN_MOUNTS)
        assert_arrived(disk, collector)


def test_the_drain_command_works_on_a_full_disk(disk: Site) -> None:
    """And the status command, before and after."""
    program = Program("full_disk_drain_command")
    with Collector() as collector:
        disk.endpoint = collector.url
        disk.run(program, prefix=OWN_MOUNTS)
        assert_arrived(disk, collector)


def test_the_reading_commands_work_on_a_full_disk(disk: Site) -> None:
    """And write nothing, beside the owner and without one; an export onto the same disk says that there is no room."""
    disk.run(Program("full_disk_look"), prefix=OWN_MOUNTS)
    assert len(disk.noted("ack")) > 100
    assert disk.says(f"looked at {len(disk.noted('ack'))}")


@pytest.mark.parametrize("room_kib", [300, 600, pytest.param(1200, marks=pytest.mark.slow)])
def test_a_damaged_file_is_taken_over_on_a_nearly_full_disk(disk: Site, room_kib: int) -> None:
    """In steps, as far as there is room; not with the ballast, without which the slot could not be opened any more."""
    program = Program("full_disk_damage", room=room_kib << 10)
    with Collector() as collector:
        disk.endpoint = collector.url
        disk.run(program, prefix=OWN_MOUNTS)
        assert_arrived(disk, collector)


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
def test_dropping_on_a_full_disk_is_counted(disk: Site, on_full: str) -> None:
    """A put returns in time, and every event is stored, or counted as evicted or dropped."""
    program = Program("full_disk_dropping", on_full=on_full)
    disk.run(program, prefix=OWN_MOUNTS, timeout_s=60)


@pytest.mark.parametrize("on_full", ["raise", "drop_newest", "drop_oldest", "block"])
def test_a_disk_without_room_for_an_empty_queue_is_full_as_any_other(disk: Site, on_full: str) -> None:
    """The first put does as `on_full` says; with nothing to evict, dropping the oldest has to raise."""
    program = Program("full_disk_first_put", on_full=on_full)
    disk.run(program, prefix=OWN_MOUNTS, timeout_s=60)


def test_blocking_on_a_full_disk_waits_for_room(disk: Site) -> None:
    """Made by the collector, or by whoever filled the disk."""
    program = Program("full_disk_blocking")
    with Collector() as collector:
        disk.endpoint = collector.url
        collector.down()
        with Child(disk, program, prefix=OWN_MOUNTS) as child:
            wait_until(lambda: len(disk.noted("ack")) > 1000 and _is_stuck(disk))
            collector.up()
            code, errors = child.end(60)
        assert code == 0, errors
        assert len(disk.noted("ack")) == 6000
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
    program = Program("file_size_limit")
    with Collector() as collector:
        site.endpoint = collector.url
        collector.down()
        with Child(site, program) as child:
            wait_until(lambda: site.says("full") or child.process.poll() is not None)
            collector.up()
            code, errors = child.end(40)
        assert code == 0, errors
        assert_arrived(site, collector)


def test_a_file_size_limit_below_the_headroom_is_said_at_the_first_put(site: Site) -> None:
    """Not at the thousandth."""
    program = Program("file_size_limit_below_the_ballast")
    site.run(program)
    assert dict(site.stored()) == {}


def test_a_read_only_file_system_is_a_clear_error_at_once(disk: Site) -> None:
    """At the constructor, with the directory's name and the reason."""
    program = Program("read_only_disk")
    disk.run(program, prefix=OWN_MOUNTS)
    assert disk.noted("ack") == ["accepted"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_elses_directory_is_a_clear_error_at_once() -> None:
    """Whether it may not be entered, not be written, or only belongs to another."""
    program = Program("somebody_elses_directory")
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is root's alone
        os.chmod(folder, 0o755)  # noqa: S103 (that is the point)
        site = Site(Path(folder))
        for name, mode in (("closed", 0o700), ("readable", 0o755), ("writable", 0o777)):
            (site.folder / name / "test").mkdir(parents=True)
            (site.folder / name / "test").chmod(mode)
            (site.folder / name).chmod(mode)
        site.run(program)
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
