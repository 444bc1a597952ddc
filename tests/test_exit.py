"""The interpreter's exit, by every way and with every kind of collector: in time, and nothing acknowledged is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import Child, Program, Site, label, wait_until

from durable_tracker.collector import Collector, Fault

START_UP_S = 4.0  # of the interpreter, on a machine that is busy
SHUTDOWN_S = 1.0

WAYS = (
    "return",
    "sys.exit",
    "exception",
    "sys.exit in a thread",
    "a thread that is still tracking",
    "a daemon that never stops tracking",
    "an atexit handler before the package's",
    "a late __del__",
    "no with block, no close, no reference",
    "a first event in an atexit handler",
    "a close by the program",
    "os._exit",
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A queue dir, and an address where nobody is."""
    return Site(tmp_path)


def received(collector: Collector) -> Counter[str]:
    return Counter(label(event) for event in collector.events)


OFTEN = ("return", "a late __del__", "a daemon that never stops tracking")


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        pytest.param(way, kind, marks=[] if kind == "up" or (kind == "hanging" and way in OFTEN) else pytest.mark.slow)
        for way in WAYS
        for kind in ("up", "down", "hanging")
    ],
)
def test_exit_is_in_time_and_keeps_what_was_acknowledged(site: Site, way: str, kind: str) -> None:
    """With the collector up everything is delivered, with any other it stays in the slot."""
    with Collector(script=(lambda _: Fault(hang=True)) if kind == "hanging" else None) as collector:
        site.endpoint = collector.url
        if kind == "down":
            collector.down()
        expected = 1 if way == "exception" else 0
        took_s = site.run(Program("exit_by_many_ways", way=way), expected=None if way == "exception" else expected)
        assert took_s < START_UP_S + (SHUTDOWN_S if kind == "hanging" else 0.0)
        site.assert_kept(received(collector), doubled_max=100 if way == "os._exit" else 0)
        assert set(site.noted("ack")) == set(site.noted("try")) or "daemon" in way
        if sys.version_info >= (3, 12) and "atexit" in way:
            return  # no thread can be started any more: stored is all that it can be
        if kind == "up" and not any(word in way for word in ("daemon", "late", "os._exit")):
            assert dict(site.stored()) == {}


@pytest.mark.parametrize("then", ["flush", "close", "nothing"])
@pytest.mark.parametrize("kind", ["up", "down"])
def test_events_of_exit_handlers_that_run_after_the_packages_are_stored(site: Site, kind: str, then: str) -> None:
    """They open the slot again. What nobody waits for is left to the next process: a request would be cut off."""
    with Collector() as collector:
        site.endpoint = collector.url
        if kind == "down":
            collector.down()
        with Child(site, Program("track_after_the_packages_exit_handler", then=then)) as child:
            code, errors = child.end(START_UP_S + SHUTDOWN_S + 1)
        assert (code, errors) == (0, "")
        assert len(site.noted("ack")) == 25
        site.assert_kept(received(collector))
        if kind == "up" and sys.version_info < (3, 12):  # from then on no thread can be started any more
            assert sum(site.stored().values()) == (5 if then == "nothing" else 0)


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_no_thread_can_be_started_at_shutdown(site: Site, durability: str) -> None:
    """As from Python 3.12 on: a first event in a late exit handler is stored all the same."""
    site.run(Program("track_at_exit_without_threads", durability=durability))
    assert sum(site.stored().values()) == 5
    site.assert_kept()


def test_many_emitters_share_one_deadline(site: Site) -> None:
    """Eight emitters of a collector that hangs hold the exit up no longer than one does."""
    with Collector(script=lambda _: Fault(hang=True)) as collector:
        site.endpoint = collector.url
        assert site.run(Program("exit_with_many_emitters")) < START_UP_S + SHUTDOWN_S
    site.assert_kept()


def test_a_backoff_is_not_waited_for(site: Site) -> None:
    """An outage that is known needs no attempt at exit."""
    source = """
t = make(shutdown_timeout=30.0, max_retry_delay_seconds=3600)
track_some(t, "main", 5)
wait_until(lambda: t.emitters[0].stats().state == "backing_off")
"""
    assert site.run(source) < START_UP_S
    site.assert_kept()


def test_a_child_killed_by_the_default_sigterm_keeps_everything(site: Site) -> None:
    """Without a handler there is no exit to speak of."""
    with Child(site, Program("exit_by_many_ways", way="the default SIGTERM")) as child:
        wait_until(lambda: "last" in site.noted("ack"))
        child.process.terminate()
        assert child.process.wait(10) == -signal.SIGTERM
    site.assert_kept()


@pytest.mark.parametrize("prefix", [(), ("sh", "-c", 'trap "" INT; exec "$@"', "sh")], ids=["", "ignored-at-start"])
def test_keyboard_interrupt_during_close_leaves_a_sound_slot(site: Site, prefix: tuple[str, ...]) -> None:
    """Ctrl-C while the exit waits for a slow collector: the exit goes on, and the events stay.

    Also where the tests run in the background of a shell, which has its children ignore the signal.
    """
    with Collector(script=lambda _: Fault(hang=True)) as collector:
        site.endpoint = collector.url
        source = "t = make(shutdown_timeout=60.0)\ntrack_some(t, 'main', 5)\nnote('closing')\nt.close()\n"
        with Child(site, source, prefix=prefix) as child:
            wait_until(lambda: site.says("closing"))
            assert collector.wait(requests=1)
            started_at = time.monotonic()
            child.process.send_signal(signal.SIGINT)
            # The interpreter's own exit makes the bounded attempt again, for which a second Ctrl-C would be needed.
            wait_until(lambda: child.process.poll() is not None or time.monotonic() - started_at > 1)
            child.process.send_signal(signal.SIGINT)
            child.end(10)
    site.assert_kept()


def test_a_late_put_into_a_full_queue_does_not_wait_for_ever(tmp_path: Path) -> None:
    """After the exit handler nobody delivers, and so nobody makes room."""
    command = [sys.executable, str(Path(__file__).parent / "programs" / "block_at_exit.py"), str(tmp_path / "q")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "QueueClosedError\n"), done.stderr
