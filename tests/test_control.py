"""The control socket: a live owner is asked and acts, whoever asks is harmless, and nothing of it stops an event."""

from __future__ import annotations

import _thread
import contextlib
import functools
import gc
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from processes import NOBODY, Child, Program, Site, wait_until

from durable_tracker import Emitter
from durable_tracker.collector import Collector, Fault
from durable_tracker.control import address, client, server, wire
from durable_tracker.engines.sqlite.engine import SqliteSource
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot
from durable_tracker.runtime import worker as workers

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT = b'{"e":"pv","p":"srv","tv":"x","eid":"11111111-1111-4111-8111-111111111111","dtm":"1700000000000"}'


def command(*arguments: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "durable_tracker", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **settings,
    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that is up."""
    with Collector() as one:
        yield one


def slot_of(emitter: Emitter) -> Path:
    slot = emitter.stats().slot
    assert slot is not None
    return slot


def has_tracked(site: Site, count: int) -> bool:
    return len(site.noted("ack")) > count


def sockets(directory: Path) -> list[Path]:
    return sorted(directory.glob("control-*.sock"))


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(path))
    return connection


def answer_to(path: Path, request: bytes) -> dict[str, Any]:
    with connected(path) as connection:
        connection.sendall(request)
        return wire.receive(connection, wire.ANSWER_SIZE_MAX, time.monotonic() + 10)


def request(**fields: Any) -> bytes:
    return json.dumps({"version": wire.VERSION, "queue": "shop/0.sqlite3", **fields}).encode() + b"\n"


# ── what it is for ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_why_tells_what_the_collector_answered_and_when_it_is_asked_again(tmp_path: Path) -> None:
    """Beside the owner, and from the file alone once that is gone."""
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, shutdown_timeout=0) as emitter:
        emitter.put(EVENT)
        wait_until(lambda: emitter.stats().requests >= 2)
        done = command("why", "--queue-dir", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "shop/0: 1 events are pending, the oldest for" in done.stdout
        assert f"owner         process {os.getpid()}" in done.stdout
        assert "state         backing off" in done.stdout
        assert "next attempt  in" in done.stdout
        assert "last error    the connection failed: Connection refused" in done.stdout
        assert "times since" in done.stdout
        (seen,) = json.loads(command("status", "--json", "--queue-dir", tmp_path).stdout)["queues"]
        assert seen["told"]["state"] == "backing_off"
        assert seen["told"]["answers"][-1]["text"] == "the connection failed: Connection refused"
        (line,) = [line for line in command("status", "--queue-dir", tmp_path).stdout.splitlines() if "shop/0" in line]
        assert "backing off" in line
        assert "Connection refused" in line
    done = command("why", "--queue-dir", tmp_path)
    assert done.returncode == 0
    assert "owner         none: `durable-tracker drain` sends what is there" in done.stdout


def test_a_paused_owner_takes_events_and_delivers_none(tmp_path: Path, collector: Collector) -> None:
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, linger=0) as emitter:
        emitter.put(EVENT)
        assert emitter.flush(10)
        assert command("pause", "--name", "shop", "--queue-dir", tmp_path).stdout == "shop/0: paused\n"
        asked = collector.requests
        emitter.put(EVENT)
        assert emitter.flush(1) is False
        assert (emitter.stats().state, collector.requests) == ("paused", asked)
        done = command("flush", "--name", "shop", "--timeout", "1", "--queue-dir", tmp_path)
        assert (done.returncode, done.stdout) == (1, "shop/0: 1 events wait: paused\n")
        assert "state         paused" in command("why", "--queue-dir", tmp_path).stdout
        assert command("resume", "--name", "shop", "--queue-dir", tmp_path).returncode == 0
        wait_until(lambda: emitter.stats().ledger.pending == 0)
        assert collector.requests == asked + 1


def test_a_pause_amid_an_outage_ends_the_waiting_and_resume_asks_again(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, shutdown_timeout=0) as emitter:
        emitter.put(EVENT)
        wait_until(lambda: emitter.stats().state == "backing_off")
        client.ask(slot_of(emitter), "pause")
        time.sleep(0.3)  # the attempt that may be under way
        asked = emitter.stats().requests
        time.sleep(1)
        assert (emitter.stats().state, emitter.stats().requests) == ("paused", asked)
        client.ask(slot_of(emitter), "resume")
        wait_until(lambda: emitter.stats().requests > asked)


def test_pauses_and_resumes_as_fast_as_can_be_lose_nothing_and_leave_the_worker_alive(
    tmp_path: Path, collector: Collector
) -> None:
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, linger=0) as emitter:
        for _ in range(200):
            emitter.put(EVENT)
            client.ask(slot_of(emitter), "pause")
            client.ask(slot_of(emitter), "resume")
        assert emitter.flush(20)
        assert emitter.stats().ledger.delivered == 200


def test_to_pause_what_nobody_has_open_is_said_and_exits_with_1(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
    for name in ("pause", "resume", "flush"):
        done = command(name, "--name", "shop", "--queue-dir", tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no process has a queue of these open" in done.stderr


def test_flush_delivers_without_the_rest_of_a_backoff(tmp_path: Path, collector: Collector) -> None:
    collector.outage = Fault(status=503)
    with Emitter(collector.url, name="shop", queue_dir=tmp_path) as emitter:
        emitter.put(EVENT)
        wait_until(lambda: emitter.stats().state == "backing_off")
        done = command("flush", "--name", "shop", "--queue-dir", tmp_path)
        assert done.returncode == 1
        assert "1 events wait: " in done.stdout
        assert "503" in done.stdout
        collector.outage = None
        done = command("flush", "--name", "shop", "--queue-dir", tmp_path)
        assert (done.returncode, done.stdout) == (0, "shop/0: all that was there is delivered\n")


def test_probe_sends_one_request_and_takes_nothing_out(tmp_path: Path, collector: Collector) -> None:
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        done = command("probe", "--queue-dir", tmp_path)
        assert done.returncode == 0
        assert f"sending the oldest event ({len(EVENT)} bytes) to {collector.url}" in done.stdout
        assert "HTTP 200" in done.stdout
        assert len(collector.eids()) == 1
        assert "a request without events" in command("probe", "--empty", "--queue-dir", tmp_path).stdout
        assert collector.requests == 2
        collector.outage = Fault(status=401)
        done = command("probe", "--queue-dir", tmp_path)
        assert done.returncode == 1
        assert done.stdout.count("HTTP 401") == 1
        assert "the credentials" in done.stdout
        assert emitter.stats().ledger.pending == 1


def test_an_owner_that_hangs_is_said_to_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Then the file is what there is."""
    site = Site(tmp_path)
    with Child(site, Program("track_until_told", drains=False, pause_s=0.01)) as child:
        wait_until(lambda: len(site.noted("ack")) > 3 and bool(sockets(site.queue_dir)))
        child.process.send_signal(signal.SIGSTOP)
        try:
            began_at = time.monotonic()
            done = command("status", "--json", "--queue-dir", site.queue_dir)
            assert time.monotonic() - began_at < 15
            (seen,) = json.loads(done.stdout)["queues"]
            assert seen["told"] is None
            assert seen["silence"] == f"process {child.process.pid} does not answer"
            assert seen["ledger"]["accepted"] > 3
            done = command("why", "--queue-dir", site.queue_dir)
            assert done.returncode == 3
            assert "does not answer" in done.stdout
            assert command("pause", "--queue-dir", site.queue_dir).returncode == 3
        finally:
            child.process.send_signal(signal.SIGCONT)


def test_a_queue_is_handed_over_while_events_are_put(tmp_path: Path, collector: Collector) -> None:
    """Again and again, with a drain behind it: each event is stored once, and reaches the collector."""
    count = 3000
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, drain=False, durability="interval") as emitter:
        errors: list[BaseException] = []

        def put(start: int) -> None:
            try:
                for number in range(start, count, 3):
                    emitter.put(EVENT.replace(b"11111111-1111", b"%08d-1111" % number))
                    time.sleep(0.001)
            except BaseException as exc:
                errors.append(exc)
                raise

        threads = [threading.Thread(target=put, args=(start,)) for start in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: bool(sockets(tmp_path)))
        handed = 0
        while any(thread.is_alive() for thread in threads):
            handed += client.ask(slot_of(emitter), "hand_over", answer_s=10)
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        assert errors == []
        assert handed > 3
        emitter.put(EVENT)
        done = command("hand-over", "--queue-dir", tmp_path)
        assert (done.returncode, "handed over" in done.stdout) == (0, True)
        assert command("drain", "--queue-dir", tmp_path).returncode in (0, 3)
        # It goes on in the lowest that is free, so that there are few: that one had events, for which nobody had come.
        assert client.ask(slot_of(emitter), "hand_over") is True
        assert command("drain", "--queue-dir", tmp_path).returncode in (0, 3)
        (path,) = sockets(tmp_path)
        assert client.ask(slot_of(emitter), "hand_over") is False  # nothing is in it
        assert len(list((tmp_path / "shop").glob("*.sqlite3"))) <= 3
    assert len(collector.eids()) == count + 1
    assert sum(collector.eids().values()) == count + 1
    assert not path.exists()


def test_who_delivers_hands_nothing_over(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, shutdown_timeout=0) as emitter:
        emitter.put(EVENT)
        slot = slot_of(emitter)
        assert client.ask(slot, "hand_over") is False
        assert slot_of(emitter) == slot


def test_who_leaves_delivery_to_a_drain_delivers_nothing_when_asked(tmp_path: Path, collector: Collector) -> None:
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        assert client.ask(slot_of(emitter), "flush", timeout_s=5, answer_s=10) is False
        client.ask(slot_of(emitter), "pause")
        client.ask(slot_of(emitter), "resume")
        time.sleep(0.5)
        assert (collector.requests, emitter.stats().ledger.pending) == (0, 1)


def test_a_queue_that_was_handed_over_is_kept_by_nobody(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        assert emitter._opened is not None
        worker = weakref.ref(emitter._opened.worker)
        assert client.ask(slot_of(emitter), "hand_over", answer_s=10) is True
        wait_until(lambda: not gc.collect() or worker() is None)
        assert worker() is None


def test_an_emitter_that_is_closed_while_it_hands_over_keeps_no_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        opens = SqliteSource.open

        def opens_late(source: SqliteSource) -> SqliteQueue:
            queue = opens(source)
            emitter.close()
            return queue

        monkeypatch.setattr(SqliteSource, "open", opens_late)
        emitter._hand_over()
        assert emitter._opened is None
        for number in (0, 1):
            with SqliteQueue.take(Slot(tmp_path / "shop", number)):
                pass
        assert sockets(tmp_path) == []


def test_a_pause_that_only_begins_leaves_the_worker_alive(tmp_path: Path, collector: Collector) -> None:
    """The first half of `Worker.pause`, as another thread sees it."""
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, linger=0) as emitter:
        emitter.put(EVENT)
        assert emitter.flush(10)
        assert emitter._opened is not None
        worker = emitter._opened.worker
        collector.outage = Fault(status=503)
        emitter.put(EVENT)
        wait_until(lambda: emitter.stats().state == "backing_off")
        worker.is_paused = True
        worker._signals.put(None)
        time.sleep(0.2)
        collector.outage = None
        worker.resume()
        wait_until(lambda: emitter.stats().ledger.pending == 0)


def test_of_many_paused_emitters_that_were_dropped_not_all_are_kept(tmp_path: Path, collector: Collector) -> None:
    """Each has a thread and open files; its events are on disk."""
    for number in range(20):
        emitter = Emitter(collector.url, name=f"shop{number}", queue_dir=tmp_path, linger=0)
        emitter.put(EVENT)
        assert emitter.flush(10)
        client.ask(slot_of(emitter), "pause")
        emitter.put(EVENT)
        del emitter
    gc.collect()
    try:
        wait_until(lambda: len(client.stats_in(tmp_path)[0]) <= 16)
        assert len(client.stats_in(tmp_path)[0]) > 1
    finally:
        for worker in list(workers._retired.values()):
            worker.stop()
            worker.join(5)
            worker._close_retired()
    assert sockets(tmp_path) == []


def test_in_another_queue_dir_a_queue_may_be_called_the_same(tmp_path: Path) -> None:
    """What is asked at one socket is about the queues of its dir alone: a purge would remove events of the other."""
    with ExitStack() as stack:
        one, other = [
            stack.enter_context(Emitter(NOBODY, name="shop", queue_dir=tmp_path / name, drain=False)) for name in "ab"
        ]
        one.put(EVENT)
        other.put_many([EVENT, EVENT])
        assert client.ask(slot_of(other), "purge", keys=[1, 2]) == 2
        assert [emitter.stats().ledger.pending for emitter in (one, other)] == [1, 0]
        for emitter in (one, other):
            told, _ = client.stats_in(slot_of(emitter).parent.parent)
            assert told["shop/0.sqlite3"]["ledger"]["pending"] == emitter.stats().ledger.pending


# ── where it is, and when it goes ────────────────────────────────────────────────────────────────────────────────────


def test_the_socket_is_its_owners_alone_and_goes_with_the_last_emitter(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="a", queue_dir=tmp_path, drain=False) as one:
        assert sockets(tmp_path) == []  # nothing is open before the first event
        one.put(EVENT)
        with Emitter(NOBODY, name="b", queue_dir=tmp_path, drain=False) as other:
            other.put(EVENT)
            (path,) = sockets(tmp_path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            told, silences = client.stats_in(tmp_path)
            assert (set(told), silences) == ({"a/0.sqlite3", "b/0.sqlite3"}, {})
        assert sockets(tmp_path) == [path]
    assert sockets(tmp_path) == []


def test_control_false_makes_none(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False, control=False) as emitter:
        emitter.put(EVENT)
        assert sockets(tmp_path) == []
        done = command("why", "--queue-dir", tmp_path)
        assert done.returncode == 3
        assert "has no control socket" in done.stdout


def test_a_path_that_is_too_long_for_an_address_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    with Emitter(NOBODY, name="shop", queue_dir=directory, drain=False) as emitter:
        emitter.put(EVENT)
        assert len(os.fsencode(sockets(directory)[0])) > 107
        assert "owner         process" in command("why", "--queue-dir", directory).stdout
        assert client.ask(slot_of(emitter), "stats")["emitter"] == "shop"


def test_a_socket_of_a_process_that_was_killed_is_removed_by_the_next_owner(tmp_path: Path) -> None:
    """Not by whoever looks, nor while somebody listens there, whatever its name says."""
    site = Site(tmp_path)
    with Child(site, Program("track_until_told", drains=False, pause_s=0.01)) as child:
        wait_until(lambda: bool(site.noted("ack")) and bool(sockets(site.queue_dir)))
        child.process.kill()
        child.process.wait()
    (stale,) = sockets(site.queue_dir)
    assert command("status", "--queue-dir", site.queue_dir).returncode == 0
    assert sockets(site.queue_dir) == [stale]
    heard = site.queue_dir / "control-1-1.sock"  # of a process that this one cannot see, as in another container
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening, address.short(heard) as name:
        listening.bind(name)
        listening.listen()
        with Emitter(NOBODY, name="shop", queue_dir=site.queue_dir, drain=False) as emitter:
            emitter.put(EVENT)
            assert stale not in sockets(site.queue_dir)
            assert heard in sockets(site.queue_dir)


def test_a_queue_dir_that_is_known_by_two_names_has_a_socket_until_the_last_emitter_goes(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with Emitter(NOBODY, name="a", queue_dir=tmp_path / "real", drain=False) as one:
        one.put(EVENT)
        with Emitter(NOBODY, name="b", queue_dir=tmp_path / "link", drain=False) as other:
            other.put(EVENT)
            assert client.ask(slot_of(other), "stats")["emitter"] == "b"
        assert client.ask(slot_of(one), "stats")["emitter"] == "a"
    assert sockets(tmp_path / "real") == []


def test_an_emitter_that_opens_while_the_last_one_goes_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another thread, or in a signal handler."""
    closes = server._Listener.close
    with ExitStack() as stack:
        one, other = [stack.enter_context(Emitter(NOBODY, name=name, queue_dir=tmp_path, drain=False)) for name in "ab"]
        one.put(EVENT)

        def closes_late(listener: server._Listener) -> None:
            if not other.stats().ledger.accepted:
                other.put(EVENT)
            closes(listener)

        monkeypatch.setattr(server._Listener, "close", closes_late)
        one.close()
        assert client.ask(slot_of(other), "stats")["emitter"] == "b"
    assert sockets(tmp_path) == []


def test_a_timeout_that_the_application_gave_all_its_sockets_ends_nothing(tmp_path: Path) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.05)
    try:
        with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
            emitter.put(EVENT)
            time.sleep(0.2)
            assert client.ask(slot_of(emitter), "stats")["emitter"] == "shop"
    finally:
        socket.setdefaulttimeout(before)


def test_a_socket_whose_number_was_given_out_again_closes_nothing_of_the_application(tmp_path: Path) -> None:
    """A daemonizer closed it, somebody asked, and an emitter opened anew."""
    site = Site(tmp_path)
    with Child(site, Program("lose_the_sockets_number")) as child:
        assert child.process.wait(30) == 0


def test_a_signal_handler_that_raises_as_a_socket_is_made_leaves_the_next_one_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Making(dict[str, object]):
        interrupts = True

        def setdefault(self, *arguments: Any) -> Any:
            done = super().setdefault(*arguments)
            if self.interrupts:
                raise KeyboardInterrupt
            return done

    making = Making()
    monkeypatch.setattr(server, "_making", making)
    with ExitStack() as stack:
        one, other = [stack.enter_context(Emitter(NOBODY, name=name, queue_dir=tmp_path, drain=False)) for name in "ab"]
        with pytest.raises(KeyboardInterrupt):
            one.put(EVENT)
        making.interrupts = False
        other.put(EVENT)
        assert [client.ask(slot_of(emitter), "stats")["emitter"] for emitter in (one, other)] == ["a", "b"]
    assert sockets(tmp_path) == []


def test_a_put_after_the_exit_handler_leaves_no_socket(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with Child(site, Program("put_after_the_exit_handler")) as child:
        assert child.process.wait(30) == 0
    assert site.ledger().pending == 2
    assert sockets(site.queue_dir) == []


def test_who_only_reads_leaves_a_stale_socket_where_it_is(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False, control=False) as emitter:
        emitter.put(EVENT)
        stale = tmp_path / "control-4194305-5.sock"  # above the highest number that Linux gives out
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one, address.short(stale) as name:
            one.bind(name)
        assert command("why", "--queue-dir", tmp_path).returncode == 3
        assert sockets(tmp_path) == [stale]
        assert command("pause", "--queue-dir", tmp_path).returncode == 3
        assert sockets(tmp_path) == []


def test_where_there_is_no_proc_a_stale_socket_is_known_by_its_number(tmp_path: Path) -> None:
    gone, there = tmp_path / "control-4194305-0.sock", tmp_path / f"control-{os.getpid()}-0.sock"
    for path in (gone, there):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one, address.short(path) as name:
            one.bind(name)
        address.remove_if_stale(path)
    assert sockets(tmp_path) == [there]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_without_a_thread_or_memory_for_it_events_are_taken_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(server, "_said", [])
    monkeypatch.setattr(_thread, "start_new_thread", fail)
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        assert emitter.stats().ledger.pending == 1
        assert sockets(tmp_path) == []
    assert not server._owners


def test_where_no_socket_can_be_made_events_are_taken_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, whatever the number of emitters."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(server, "_said", [])
    monkeypatch.setattr(socket, "socket", type("Refusing", (socket.socket,), {"bind": refuse}))
    with caplog.at_level(logging.WARNING), ExitStack() as stack:
        for name in ("a", "b"):
            emitter = stack.enter_context(Emitter(NOBODY, name=name, queue_dir=tmp_path, drain=False))
            emitter.put(EVENT)
            assert emitter.stats().ledger.pending == 1
    (said,) = [record for record in caplog.records if getattr(record, "event", "") == "control.no_socket"]
    assert "Operation not permitted" in said.getMessage()
    assert sockets(tmp_path) == []


def test_the_thread_that_waits_does_not_wake(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        before = set(os.listdir("/proc/self/task"))
        emitter.put(EVENT)
        wait_until(lambda: bool(sockets(tmp_path)))
        threads = [f"/proc/self/task/{one}/status" for one in set(os.listdir("/proc/self/task")) - before]
        assert threads
        time.sleep(0.3)

        def switches() -> list[str]:
            return [
                line
                for one in threads
                for line in Path(one).read_text(encoding="ascii").splitlines()
                if "_ctxt_" in line
            ]

        seen = switches()
        time.sleep(1)
        assert switches() == seen


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_fork_each_process_answers_for_its_own_queues(tmp_path: Path) -> None:
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        go, done = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert not server._listeners
                emitter.put(EVENT)
                os.write(done[1], b"x")
                os.read(go[0], 1)
                code = 0
            finally:
                os._exit(code)
        os.read(done[0], 1)
        told, silences = client.stats_in(tmp_path)
        assert {name: one["pid"] for name, one in told.items()} == {
            "shop/0.sqlite3": os.getpid(),
            "shop/1.sqlite3": pid,
        }
        assert silences == {}
        os.write(go[1], b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.ask(slot_of(emitter), "stats")["pid"] == os.getpid()


def test_a_child_that_kept_the_socket_without_knowing_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A fork without hooks, whose parent was killed: somebody listens, and never answers."""
    site = Site(tmp_path)
    with Child(site, Program("keep_the_socket_without_hooks")) as child:
        wait_until(lambda: site.says("forked"))
        child.process.kill()
        child.process.wait()
        began_at = time.monotonic()
        told, silences = client.stats_in(site.queue_dir)
        assert told == {}
        assert silences == {child.process.pid: f"process {child.process.pid} does not answer"}
        assert client.ANSWER_S <= time.monotonic() - began_at < 4 * client.ANSWER_S
        assert command("status", "--queue-dir", site.queue_dir).returncode == 0
        os.kill(int((tmp_path / "child").read_text(encoding="ascii")), signal.SIGKILL)


def test_a_child_of_a_fork_without_hooks_answers_for_its_own_queues(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with Child(site, Program("put_after_a_fork_without_hooks")) as child:
        wait_until(lambda: site.says("put"))
        told, silences = client.stats_in(site.queue_dir)
        pids = {name: one["pid"] for name, one in told.items()}
        os.kill(pids["test/1.sqlite3"], signal.SIGKILL)
        assert (silences, pids["test/0.sqlite3"]) == ({}, child.process.pid)


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The socket of an emitter of this process."""
    with Emitter(NOBODY, name="shop", queue_dir=tmp_path, drain=False) as emitter:
        emitter.put(EVENT)
        yield sockets(tmp_path)[0]


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"\n", "it is no JSON"),
        (b"[" * 100_000 + b"\n", "it is no JSON"),
        (b"[]\n", "it is not of version 1"),
        (b'{"version": 2, "command": "stats"}\n', "it is not of version 1"),
        (request(command="delete"), "command: 'delete' is not known; known are stats"),
        (request(command=["stats"]), "command: ['stats'] is not known"),
        (request(command="flush"), "timeout_s: must be a number of seconds"),
        (request(command="flush", timeout_s=True), "timeout_s: must be"),
        (request(command="flush", timeout_s=float("nan")), "timeout_s: must be"),
        (request(command="requeue", keys="1"), "keys: must be a list"),
        (request(command="requeue", keys=[True]), "keys: must be a list"),
        (request(command="requeue", keys=[1 << 63]), "keys: must be a list"),
        (request(command="requeue", keys=list(range(501))), "keys: must be a list of at most 500"),
        (request(command="stats", queue="../../etc/passwd"), wire.NOT_HERE),
        (request(command="stats", queue=None), wire.NOT_HERE),
    ],
)
def test_a_request_that_is_wrong_is_told_why(path: Path, sent: bytes, error: str) -> None:
    assert error in answer_to(path, sent)["error"]
    assert answer_to(path, request(command="stats"))["result"]["ledger"]["pending"] == 1


def test_a_request_without_an_end_is_ended(path: Path) -> None:
    with connected(path) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.sendall(b"x" * 4 * wire.REQUEST_SIZE_MAX)
    assert "result" in answer_to(path, request(command="stats"))


def test_clients_that_send_nothing_hold_up_nobody(path: Path) -> None:
    """Nor those that take no answer; and after their time they are gone."""
    with ExitStack() as stack:
        for number in range(20):
            one = stack.enter_context(connected(path))
            if number % 2:
                one.sendall(request(command="stats"))
        began_at = time.monotonic()
        assert "result" in answer_to(path, request(command="stats"))
        assert time.monotonic() - began_at < server.REQUEST_S


def test_another_user_is_refused_on_both_sides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, too: it may write to the socket, but acts on files as somebody else; the message says as whom to ask."""
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert answer_to(path, request(command="stats"))["error"].startswith("refused: this process belongs to user")
    told, silences = client.stats_in(path.parent)
    assert told == {}
    assert "sudo -u" in silences[os.getpid()]


def test_what_is_asked_makes_the_owner_open_no_file(path: Path) -> None:
    """A queue is compared with those that are open, whatever it is called."""
    opened: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watched:
            opened.append(str(arguments[0]))

    watched = True
    sys.addaudithook(note)
    for queue in ("/etc/passwd", "shop/../shop/0.sqlite3", str(path)):
        for name in ("stats", "flush", "pause", "requeue", "purge"):
            assert "error" in answer_to(path, request(command=name, queue=queue, keys=[1], timeout_s=0, path=queue))
    watched = False
    assert [one for one in opened if "passwd" in one or "sqlite3" in one] == []


def test_a_live_owner_puts_letters_back_and_purges(tmp_path: Path, collector: Collector) -> None:
    """By command: edited ones as well. The owner goes on, and its ledger adds up."""
    letter = EVENT.replace(b"pv", b"pp")
    with Emitter(collector.url, name="shop", queue_dir=tmp_path, linger=0) as emitter:
        for number in range(5):
            emitter.put_invalid(letter.replace(b"1-1111-4111", b"1-1111-411%d" % number), f"reason {number}")
        for options, said in (
            (("requeue", "--reason", "reason 1", "--dry-run"), "would requeue 1"),
            (("requeue", "--reason", "reason 1"), "requeued 1"),
            (("requeue", "--reason", "reason 2", "--edit", "sed s/pp/pv/"), "requeued 1"),
            (("purge", "--dead-letters", "--reason", "reason 3", "--yes"), "purged 1"),
        ):
            done = command(*options, "--queue-dir", tmp_path)
            assert (done.returncode, said in done.stdout) == (0, True), (options, done)
        assert emitter.flush(10)
        ledger = emitter.stats().ledger
        assert (ledger.delivered, ledger.dead, ledger.purged, ledger.adds_up) == (2, 2, 1, True)
        assert sorted(event["e"] for event in collector.events) == ["pp", "pv"]
        assert command("pause", "--queue-dir", tmp_path).returncode == 0
        for number in range(600):
            emitter.put(EVENT.replace(b"pv", b"pv" if number % 2 else b"pp"))
        done = command("purge", "--pending", "--event", "pp", "--yes", "--queue-dir", tmp_path)
        assert (done.returncode, "purged 300" in done.stdout) == (0, True), done
        ledger = emitter.stats().ledger
        assert (ledger.pending, ledger.purged, ledger.adds_up) == (300, 301, True)
        done = command("requeue", "--key", "12345", "--queue-dir", tmp_path)
        assert done.returncode == 1


def test_an_owner_that_is_killed_while_it_acts_has_done_each_request_or_not(tmp_path: Path) -> None:
    """What was answered is done; of what was not, all or nothing of each request; the books add up."""
    for number in range(6):
        site = Site(tmp_path / str(number))
        site.folder.mkdir()
        with Child(site, Program("track_until_told", drains=False, pause_s=0.0)) as child:
            wait_until(functools.partial(has_tracked, site, 1500))
            slot = site.slots / "0.sqlite3"
            answered = 0
            keys = 0
            killing = threading.Timer(0.002 * number, child.process.kill)
            killing.start()
            with contextlib.suppress(client.NoAnswerError):
                for keys in range(0, 1500, 100):
                    answered += client.ask(slot, "purge", keys=list(range(keys + 1, keys + 101)), answer_s=10)
            killing.join()
            child.process.wait()
        ledger = site.ledger()
        assert ledger.adds_up
        assert ledger.purged - answered in (0, 100), (keys, answered, ledger)
        lost = set(site.noted("ack")) - set(site.stored())
        assert ledger.purged >= len(lost)
