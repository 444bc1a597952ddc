"""Forks: the child takes a slot of its own, and neither uses, closes nor unlocks what is its parent's."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from processes import Child, Program, Site, label, wait_until

from durable_tracker.collector import Collector

if TYPE_CHECKING:
    from pathlib import Path

ENDS = ("returns", "is cut short", "tracks")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A queue dir, and a collector that is down."""
    return Site(tmp_path)


def received(collector: Collector) -> Counter[str]:
    return Counter(label(event) for event in collector.events)


# ── one fork ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("drain", [pytest.param(True, marks=pytest.mark.slow), False])
@pytest.mark.parametrize("fork", ["os.fork", "hookless_fork"])
@pytest.mark.parametrize("child", ENDS)
def test_a_childs_end_does_not_touch_what_the_parent_goes_on_to_track(
    site: Site, child: str, fork: str, drain: bool
) -> None:
    """Whether it returns, is cut short or tracks, and with or without Python's hook."""
    site.run(Program("fork_and_go_on", fork=fork, child=child, drain=drain), expected=-signal.SIGKILL)
    site.assert_kept()
    assert site.ledger().accepted == 20 + 5 * (child == "tracks")
    assert len(list(site.slots.glob("*.sqlite3"))) == 1 + (child == "tracks")


@pytest.mark.parametrize("fork", ["os.fork", "hookless_fork"])
def test_without_the_extra_reference_the_same_program_loses_events(site: Site, fork: str) -> None:
    """The test above can fail: a child that finalises the inherited connection unlinks the parent's WAL."""
    program = Program("fork_and_go_on", fork=fork, child="finalises the connection", drain=False)
    site.run(program, expected=-signal.SIGKILL)
    with pytest.raises(AssertionError):
        site.assert_kept()


def test_a_child_that_closes_the_inherited_connection_would_lose_events(site: Site) -> None:
    """The other broken variant: an explicit close, as a pool without a pid check does."""
    program = Program("fork_and_go_on", fork="os.fork", child="closes the connection", drain=False)
    site.run(program, expected=-signal.SIGKILL)
    with pytest.raises(AssertionError):
        site.assert_kept()


def test_close_in_a_child_leaves_the_parents_queue_open(site: Site) -> None:
    """Closing the inherited tracker in the child is the child's affair."""
    site.run(Program("fork_and_go_on", fork="os.fork", child="closes", drain=True), expected=-signal.SIGKILL)
    site.assert_kept()
    assert site.ledger().accepted == 20


@pytest.mark.parametrize("fork", ["os.fork", "hookless_fork"])
def test_parent_and_child_deliver_their_own_events(site: Site, fork: str) -> None:
    """With a collector that is up, each event arrives once, and both flushes succeed."""
    with Collector() as collector:
        site.endpoint = collector.url
        site.run(Program("fork_and_deliver", fork=fork))
        site.assert_kept(received(collector))
        assert len(collector.events) == 35
        assert collector.anomalies == []


@pytest.mark.parametrize("fork", ["os.fork", "hookless_fork"])
def test_a_child_outlives_a_killed_parent(site: Site, fork: str) -> None:
    """It goes on in its own slot, and what the parent left is delivered by whoever is next, at the latest."""
    site.run(Program("fork_and_be_killed", fork=fork), expected=-signal.SIGKILL)
    wait_until(lambda: site.says("child done"))
    wait_until(lambda: _is_free(site, 0) and _is_free(site, 1))
    site.assert_kept()
    assert site.ledger().accepted == 20


def test_what_a_killed_parent_left_is_delivered_while_its_child_lives(site: Site) -> None:
    """The child holds nothing of the parent's slot, so that a drain, or the next process, takes it at once.

    The child itself cannot: the SQLite that it inherited takes its parent's file to be open in this process.
    """
    with Collector() as collector:
        collector.down()
        site.endpoint = collector.url
        try:
            site.run(Program("fork_and_leave_a_backlog"), expected=-signal.SIGKILL)
            wait_until(lambda: "child-0" in site.noted("ack"))
            collector.up()
            assert collector.wait(distinct=1)
            wait_until(lambda: site.says("worker.orphan_unusable"))
            command = [sys.executable, "-m", "durable_tracker.drain", str(site.slots / "0.sqlite3")]
            assert subprocess.run(command, timeout=20, capture_output=True, check=False).returncode == 0
            assert len(collector.events) == 11
        finally:
            site.journal.with_name("journal.over").touch()
        wait_until(lambda: site.says("child done"))
        wait_until(lambda: _is_free(site, 1))
        site.assert_kept(received(collector))


def test_a_grandchild_takes_a_slot_of_its_own(site: Site) -> None:
    """Three generations, three slots."""
    site.run(Program("fork_twice"))
    site.assert_kept()
    assert {path.name for path in site.slots.glob("*.sqlite3")} == {"0.sqlite3", "1.sqlite3", "2.sqlite3"}


# ── forks beside other threads ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("durability", ["always", pytest.param("interval", marks=pytest.mark.slow)])
def test_forks_while_other_threads_put(site: Site, durability: str) -> None:
    """In the middle of their writes; the children track, and exit in both ways."""
    site.run(Program("fork_beside_producers", durability=durability))
    site.assert_kept()


@pytest.mark.parametrize("child", ENDS)
def test_a_fork_without_the_hook_during_another_threads_put(site: Site, child: str) -> None:
    """The lock that the thread holds is held for ever in the child, which does not wait for it."""
    site.run(Program("fork_during_a_put", child=child))
    site.assert_kept()


def test_a_child_of_a_fork_without_the_hook_forks_again(site: Site) -> None:
    """Its hook must not wait for the locks that its parent's threads held."""
    site.run(Program("fork_during_a_put", child="forks"))
    site.assert_kept()


def test_several_threads_fork_at_once(site: Site) -> None:
    """Each gives back the locks that it took, and no others."""
    site.run(Program("fork_in_several_threads"))
    site.assert_kept()


def test_a_fork_while_another_thread_opens_the_first_slot(site: Site) -> None:
    """The child finds a lock held by a thread that it does not have."""
    site.run(Program("fork_while_opening"))
    site.assert_kept()


@pytest.mark.parametrize("fork", ["os.fork", pytest.param("hookless_fork", marks=pytest.mark.slow)])
def test_many_threads_of_a_child_find_out_at_once(site: Site, fork: str) -> None:
    """They share one slot, which stays locked."""
    site.run(Program("fork_and_find_out_in_threads", fork=fork))
    site.assert_kept()
    assert site.says("slots [False, False]")


def test_a_fork_in_a_signal_handler_that_interrupted_a_put(site: Site) -> None:
    """The handler's thread holds the lock already; both sides go on."""
    site.run(Program("fork_in_a_handler"))
    site.assert_kept()


def test_a_broken_hook_is_seen_as_a_hang_or_a_loss(site: Site) -> None:
    """The tests above can fail: without the pid check a child puts into its parent's queue."""
    site.run(Program("fork_without_a_pid_check"), expected=-signal.SIGKILL)
    with pytest.raises(AssertionError):
        site.assert_kept()


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("patch", ["before", "after"])
def test_greenlets_fork_and_track(site: Site, patch: str) -> None:
    """Under gevent's patches, made before or after the import of this package.

    A fork copies all greenlets, the worker's as well: what was in flight may be sent by both.
    """
    with Collector() as collector:
        site.endpoint = collector.url
        with Child(site, Program("fork_among_greenlets", patch=patch)) as child:
            code, errors = child.end()
        assert code == 0, errors
        assert "Traceback" not in errors, errors
        site.assert_kept(received(collector), doubled_max=20)
        assert dict(site.stored()) == {}


def _is_free(site: Site, index: int) -> bool:
    from durable_tracker.engines.sqlite.slots import Slot

    slot = Slot(site.slots, index)
    is_free = slot.acquire()
    slot.release()
    return is_free


# ── a bound on pending events ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fork", ["os.fork", "hookless_fork"])
@pytest.mark.parametrize("on_full", ["raise", "drop_newest", "drop_oldest", "block"])
def test_a_child_has_a_bound_of_its_own(site: Site, on_full: str, fork: str) -> None:
    """The parent's pending events are not the child's, whose queue is empty."""
    site.run(Program("fork_with_a_full_queue", on_full=on_full, fork=fork))
    assert set(site.stored()) == {f"{who}-{number}" for who in ("before", "child") for number in range(5)}
