"""`python -m durable_tracker.drain`: what it delivers, what it leaves, how it stops, and its exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from processes import PROGRAMS, Child, Program, Site, wait_until

from durable_tracker import drain
from durable_tracker.collector import Collector, Fault
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.memory import MemoryPlace
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.engine import SlotPlace
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.memory import MemoryEngine

    Run = Callable[..., tuple[int, str, str]]


def eid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def event(number: int, **fields: str) -> bytes:
    return json.dumps(
        {"e": "se", "p": "srv", "tv": "t", "se_ca": "c", "se_ac": "a", "eid": eid(number), **fields}
    ).encode()


def leave(root: Path, name: str, index: int, first: int, count: int, **origin: str) -> Path:
    """Make a free slot that holds events; return its file."""
    make_private_directory(root / name)
    with SqliteQueue.take(Slot(root / name, index)) as queue:
        queue.put_many([event(number) for number in range(first, first + count)])
        if origin:
            queue.set_origin(dict(origin))
    return root / name / f"{index}.sqlite3"


def ledger(path: Path) -> Ledger:
    with SqliteQueue.take(Slot(path.parent, int(path.name.split(".")[0]))) as queue:
        return queue.ledger()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A queue dir."""
    return tmp_path / "queues"


class Queues:
    """The queues of a test, in files or in memory."""

    def __init__(self, root: Path, engine: dict[str, Any]) -> None:
        self.root = root
        self.engine: MemoryEngine | None = engine.get("queue")

    @property
    def options(self) -> list[str]:
        return ["--queue-dir", str(self.root)] if self.engine is None else [str(self.engine)]

    def leave(self, name: str, index: int, first: int, count: int, **origin: str) -> Place:
        """Make a free queue that holds events."""
        if self.engine is None:
            leave(self.root, name, index, first, count, **origin)
            return SlotPlace(Slot(self.root / name, index))
        place = MemoryPlace(self.engine, name, str(index))
        with place.take() as queue:
            queue.put_many([event(number) for number in range(first, first + count)])
            queue.set_origin(dict(origin))
        return place


def ledger_at(place: Place) -> Ledger:
    with place.take() as queue:
        return queue.ledger()


@pytest.fixture
def queues(tmp_path: Path, engine: dict[str, Any]) -> Queues:
    return Queues(tmp_path / "queues", engine)


@pytest.fixture
def run(queues: Queues, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run the command in this process: exit code, what it printed, what it complained."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run_(*arguments: object, queue_dir: bool = True) -> tuple[int, str, str]:
        code = drain.main([*(queues.options if queue_dir else ()), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run_
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_every_free_slot_of_the_queue_dir_is_drained_to_its_own_collector(run: Run, queues: Queues) -> None:
    """The address comes from the slot; the exit code is 0, and another run finds nothing to do."""
    with Collector() as one, Collector() as two:
        queues.leave("one", 0, 0, 700, url=one.url, method="post")
        queues.leave("one", 1, 700, 5, url=one.url, method="post")
        queues.leave("two", 0, 800, 5, url=two.url, method="get")
        code, out, err = run()
        assert code == Exit.EMPTY
        assert "3 slots: delivered 710, remaining 0" in out
        assert err == ""
        assert (len(one.eids()), len(two.eids())) == (705, 5)
        assert one.anomalies + two.anomalies == []
        requests = one.requests
        assert run()[0] == Exit.EMPTY
        assert one.requests == requests


def test_an_empty_queue_dir_is_nothing_to_do_and_a_missing_one_is_an_error(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was named may be mistyped; where nothing has been tracked yet the default one is missing."""
    code, _, err = run()
    assert code == Exit.USAGE
    assert "there is no such directory" in err
    assert not root.exists()
    monkeypatch.setenv("DURABLE_TRACKER_DIR", str(root))
    assert run(queue_dir=False)[0] == Exit.EMPTY
    root.mkdir()
    assert run()[0] == Exit.EMPTY


def test_the_output_never_decides_what_is_delivered(root: Path) -> None:
    """On a full disk, into a pipe that nobody reads, or with a path that the terminal's encoding does not have."""
    with Collector() as collector:
        for number, where in enumerate(("full", "unread", "ascii")):
            for name in ("a", "b\u00fc", "c\udcff"):
                leave(root, f"{where}-{name}", number, 0, 20, url=collector.url, method="post")
            command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(root)]
            environment = {**os.environ, "PYTHONIOENCODING": "ascii" if where == "ascii" else "utf-8"}
            reader, writer = os.pipe()
            os.close(reader)
            with open("/dev/full", "w") as full:
                out = full.fileno() if where == "full" else writer if where == "unread" else subprocess.PIPE
                done = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.PIPE, check=False)
            os.close(writer)
            assert done.returncode == Exit.EMPTY, done.stderr
            assert b"Traceback" not in done.stderr
            assert b"Exception ignored" not in done.stderr
            assert collector.counts()["total"] == 60 * (number + 1)


def test_a_directory_that_may_not_be_read_does_not_keep_the_others_from_being_drained(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, by its own exit code."""

    def forbidding(function: Callable[..., Any]) -> Callable[..., Any]:
        def forbid(path: Any, *arguments: Any) -> Any:
            if "theirs" in str(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *arguments)

        return forbid

    with Collector() as collector:
        leave(root, "theirs", 0, 0, 5, url=collector.url, method="post")
        leave(root, "zz", 0, 5, 5, url=collector.url, method="post")
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", forbidding(os.listdir))
            patch.setattr(os, "open", forbidding(os.open))
            code, out, err = run()
        assert (code, len(collector.eids())) == (Exit.UNREADABLE, 5)
        assert "delivered 5, remaining 0" in out
        assert "theirs" in err
        assert "Permission denied" in err


def test_a_name_that_is_a_files_is_no_queue(run: Run, root: Path) -> None:
    """It is a usage error, as any name without a queue."""
    root.mkdir()
    (root / "notes").touch()
    code, _, err = run("--name", "notes")
    assert (code, "no queue of that name" in err) == (Exit.USAGE, True)


def test_slots_are_chosen_by_name_by_file_and_by_directory(run: Run, root: Path) -> None:
    """What is not chosen is not touched; what does not exist is a usage error."""
    with Collector() as collector:
        origin = {"url": collector.url, "method": "post"}
        leave(root, "a b", 0, 0, 1, **origin)
        from durable_tracker.engines.sqlite.slots import safe_name

        (root / "a b").rename(root / safe_name("a b"))
        leave(root, "dir", 0, 10, 1, **origin)
        leave(root, "dir", 1, 11, 1, **origin)
        file = leave(root, "file", 0, 20, 1, **origin)
        left = leave(root, "file", 1, 21, 1, **origin)
        assert run("--name", "a b")[0] == Exit.EMPTY
        assert run(root / "dir", queue_dir=False)[0] == Exit.EMPTY
        assert run(file, queue_dir=False)[0] == Exit.EMPTY
        assert set(collector.eids()) == {eid(0), eid(10), eid(11), eid(20)}
        assert ledger(left).pending == 1
        for wrong in (("--name", "nobody"), (root / "nowhere",), (root / "dir" / "9.sqlite3",)):
            code, _, err = run(*wrong)
            assert code == Exit.USAGE
            assert str(wrong[-1]).rsplit("/", 1)[-1] in err


@pytest.mark.parametrize(
    "wrong",
    [("--timeout", "-1"), ("--timeout", "nan"), ("--batch-size", "0"), ("--senders", "x"), ("--header", "no colon")],
)
def test_a_wrong_option_is_a_usage_error(run: Run, wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Said by argparse, with its exit code; a header is not repeated, since it may hold a secret."""
    with pytest.raises(SystemExit) as caught:
        run(*wrong)
    assert caught.value.code == Exit.USAGE
    assert "no colon" not in capsys.readouterr().err


def test_without_an_address_on_record_one_has_to_be_named(run: Run, queues: Queues) -> None:
    """And one that is named wins over the record."""
    file = queues.leave("a", 0, 0, 1)
    code, _, err = run()
    assert code == Exit.USAGE
    assert "--to" in err
    with Collector() as collector:
        assert run("--url", collector.url)[0] == Exit.EMPTY
        queues.leave("b", 0, 5, 1, url="http://127.0.0.1:9", method="post")
        assert run("--url", collector.url, "--method", "get", "--name", "b")[0] == Exit.EMPTY
        assert set(collector.eids()) == {eid(0), eid(5)}
    assert ledger_at(file).pending == 0


def test_an_unreachable_collector_leaves_a_backlog(run: Run, queues: Queues) -> None:
    """Exit code 1 within the timeout, and every event is kept."""
    file = queues.leave("a", 0, 0, 10, url="http://127.0.0.1:9", method="post")
    started_at = time.monotonic()
    code, out, _ = run("--timeout", "0.3")
    assert code == Exit.BACKLOG
    assert time.monotonic() - started_at < 3
    assert "remaining 10" in out
    assert "Connection refused" in out
    assert ledger_at(file) == Ledger(accepted=10, pending=10)


def test_a_collector_that_hangs_does_not_outlive_the_timeout(run: Run, queues: Queues) -> None:
    """The request is broken off."""
    with Collector(script=lambda _: Fault(hang=True)) as collector:
        file = queues.leave("a", 0, 0, 10, url=collector.url, method="post")
        started_at = time.monotonic()
        assert run("--timeout", "0.2")[0] == Exit.BACKLOG
        assert time.monotonic() - started_at < 4
    assert ledger_at(file).pending == 10


def test_refused_events_are_set_aside_and_said_to_be(run: Run, queues: Queues) -> None:
    """The rest is delivered, and the exit code is 0: nothing is left to send."""

    def poison(request: Any) -> Fault | None:
        return Fault(status=400) if any(one.get("eid") == eid(3) for one in request.events) else None

    with Collector(script=poison) as collector:
        file = queues.leave("a", 0, 0, 10, url=collector.url, method="post")
        code, out, _ = run()
        assert code == Exit.EMPTY
        assert "dead letters 1" in out
        assert ledger_at(file) == Ledger(accepted=10, delivered=9, dead=1)


def test_events_that_nothing_proves_to_be_at_fault_are_set_aside_on_request(run: Run, queues: Queues) -> None:
    """With what the collector said and that it was asked for; the exit code is then that of an empty queue."""
    with Collector(script=lambda _: Fault(status=422)) as collector:
        place = queues.leave("a", 0, 0, 3, url=collector.url, method="post")
        assert run("--timeout", "2")[0] == Exit.BACKLOG
        assert ledger_at(place) == Ledger(accepted=3, pending=3)
        code, out, err = run("--set-aside", "--timeout", "20")
        assert (code, err) == (Exit.EMPTY, "")
        asked = "dead letters 3 (3 set aside on request, not proven to be at fault)"
        assert out == f"{place.name}: delivered 0, remaining 0, {asked}\n"
        assert ledger_at(place) == Ledger(accepted=3, dead=3)
        with place.take() as queue:
            letters = queue.dead_letters()
        assert [json.loads(letter.payload)["eid"] for letter in letters] == [eid(0), eid(1), eid(2)]
        said = "(set aside on request, without proof that it is the event's own fault)"
        assert all(letter.reason.endswith(said) for letter in letters)
        assert letters[0].status == 422
        assert "422" in letters[0].reason
        report = json.loads(run("--set-aside", "--json")[1])
        assert (report["details"][0]["set_aside"], report["remaining"]) == (0, 0)


def test_a_backlog_of_nothing_but_refused_events_comes_to_an_end(
    run: Run, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of more than are refused in a row by a collector that is all right: each is asked about by itself."""
    monkeypatch.setattr(drain, "_VERDICT_S", 0.2)
    with Collector(script=lambda _: Fault(status=400)) as collector:
        place = queues.leave("a", 0, 0, 40, url=collector.url, method="post")
        assert run("--set-aside", "--timeout", "1")[0] == Exit.BACKLOG
        assert ledger_at(place).dead == 0
        assert run("--set-aside", "--max-retry-delay-seconds", "0.05", "--timeout", "30")[0] == Exit.EMPTY
        assert ledger_at(place) == Ledger(accepted=40, dead=40)


def test_a_collector_that_is_not_there_gets_no_event_set_aside(run: Run, queues: Queues) -> None:
    """Nor one that refuses the sender: nothing is known of the events, and --set-aside changes nothing."""
    for status in (403, 503):
        with Collector(script=lambda _, status=status: Fault(status=status)) as collector:  # type: ignore[misc]
            place = queues.leave(f"of {status}", 0, 0, 3, url=collector.url, method="post")
            assert run("--set-aside", "--timeout", "1")[0] == Exit.BACKLOG
            assert ledger_at(place) == Ledger(accepted=3, pending=3)


def test_a_collector_that_refuses_everything_gets_no_event_set_aside(run: Run, queues: Queues) -> None:
    """Exit code 1: the events are kept."""
    with Collector(script=lambda _: Fault(status=400)) as collector:
        file = queues.leave("a", 0, 0, 10, url=collector.url, method="post")
        assert run("--timeout", "1.5")[0] == Exit.BACKLOG
        assert ledger_at(file) == Ledger(accepted=10, pending=10)


def test_a_slot_of_a_live_process_is_reported_with_its_pid_and_not_waited_for(run: Run, root: Path) -> None:
    """The other slots are drained; of several exit codes the highest is given."""
    with Collector() as collector:
        leave(root, "free", 0, 0, 3, url=collector.url, method="post")
        leave(root, "unreachable", 0, 10, 3, url="http://127.0.0.1:9", method="post")
        path = leave(root, "busy", 0, 20, 3, url=collector.url, method="post")
        with SqliteQueue.take(Slot(path.parent, 0)):
            code, out, err = run("--timeout", "2")
        assert code == Exit.BUSY
        assert str(os.getpid()) in err
        assert "delivered 3, remaining 3" in out


def test_a_slot_of_a_newer_format_is_unreadable_and_untouched(run: Run, root: Path) -> None:
    """Exit code 4, and the others are drained."""
    with Collector() as collector:
        path = leave(root, "newer", 0, 0, 3, url=collector.url, method="post")
        raw = sqlite3.connect(path)
        raw.execute("PRAGMA user_version=98")
        raw.close()
        before = path.read_bytes()
        leave(root, "a", 0, 10, 3, url=collector.url, method="post")
        code, _, err = run()
        assert code == Exit.UNREADABLE
        assert "98" in err
        assert path.read_bytes() == before
        assert len(collector.eids()) == 3


def test_an_empty_file_of_a_process_that_was_killed_early_is_an_empty_slot(run: Run, root: Path) -> None:
    """Nothing was ever acknowledged in it."""
    make_private_directory(root / "a")
    (root / "a" / "0.sqlite3").touch(mode=0o600)
    assert run()[0] == Exit.EMPTY


def test_headers_senders_and_batch_size_are_used(run: Run, queues: Queues) -> None:
    """The credentials that the emitter had were never on disk."""
    seen: list[tuple[str | None, int]] = []

    def note(request: Any) -> None:
        seen.append((request.headers.get("x-key"), len(request.events)))

    with Collector(script=note) as collector:
        queues.leave("a", 0, 0, 40, url=collector.url, method="post")
        assert run("--header", "X-Key: secret", "--senders", "3", "--batch-size", "4")[0] == Exit.EMPTY
        assert seen == [("secret", 4)] * 10
        assert len(collector.eids()) == 40


def test_json_tells_everything_in_one_object(run: Run, queues: Queues) -> None:
    """For scripts."""
    with Collector() as collector:
        first = queues.leave("a", 0, 0, 4, url=collector.url, method="post")
        second = queues.leave("b", 0, 10, 4, url="http://127.0.0.1:9", method="post")
        code, out, err = run("--json", "--timeout", "2")
        report = json.loads(out)
        assert tuple(report[name] for name in ("delivered", "remaining", "slots", "exit_code")) == (4, 4, 2, 1)
        assert code == Exit.BACKLOG
        assert [err, report["details"][0]["error"]] == ["", None]
        assert [first.name, second.name] == [one["slot"] for one in report["details"]]


def test_disk_space_is_given_back(run: Run, root: Path) -> None:
    """A drained slot is small again."""
    with Collector(record=False, validate=False) as collector:
        path = leave(root, "a", 0, 0, 20_000, url=collector.url, method="post")
        before = path.stat().st_size
        assert run()[0] == Exit.EMPTY
        assert path.stat().st_size < before / 5


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
@pytest.mark.parametrize("kind", ["slow", "hanging", "down"])
def test_a_signal_stops_it_cleanly(root: Path, number: signal.Signals, kind: str) -> None:
    """In time, with exit code 1 and what was delivered on record; the slot is free."""
    fault = Fault(hang=True) if kind == "hanging" else Fault(delay_s=0.05)
    with Collector(script=lambda _: fault) as collector:
        if kind == "down":
            collector.down()
        path = leave(root, "a", 0, 0, 3000, url=collector.url, method="post")
        command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(root), "--batch-size", "10"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                if kind == "down":
                    # Not by trying the lock, which for that moment would be busy for the drain.
                    wait_until(lambda: Slot(path.parent, 0).owner() == process.pid)
                else:
                    assert collector.wait(requests=3 if kind == "slow" else 1)
                process.send_signal(number)
                out, _ = process.communicate(timeout=10)
            finally:
                process.kill()
        assert process.returncode == Exit.BACKLOG, out
        assert b"stopped by a signal" in out
        assert b"Traceback" not in out
        after = ledger(path)
        assert after.delivered + after.pending == 3000
        assert after.delivered == len(collector.eids())


def test_a_drain_that_was_killed_is_taken_up_by_the_next(tmp_path: Path) -> None:
    """What was in flight may arrive twice, everything arrives once."""
    with Collector(script=lambda _: Fault(delay_s=0.02)) as collector:
        root = tmp_path / "queues"
        path = leave(root, "a", 0, 0, 500, url=collector.url, method="post")
        command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(root), "--batch-size", "10"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            assert collector.wait(requests=5)
            process.kill()
        collector.script = None
        assert subprocess.run(command, timeout=20, stdout=subprocess.DEVNULL, check=False).returncode == 0
        assert len(collector.eids()) == 500
        assert sum(collector.eids().values()) <= 510
        assert ledger(path) == Ledger(accepted=500, delivered=500)


def test_progress_is_a_bar_on_a_terminal_and_lines_otherwise(
    root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing at all if it was told to be quiet."""
    import pty
    import termios

    from durable_tracker.commands import progress

    monkeypatch.setattr(progress, "_LINE_INTERVAL_S", 0.0)
    with Collector() as collector:
        leave(root, "a", 0, 0, 50, url=collector.url, method="post")
        assert "30 of 50 events" in run("--batch-size", "20")[2]  # after the ten that see whether it answers
        leave(root, "b", 0, 50, 50, url=collector.url, method="post")
        assert run("--quiet")[2] == ""
        leave(root, "c", 0, 100, 50, url=collector.url, method="post")
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(root)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=20, check=False)
        os.close(theirs)
        shown = ""
        with contextlib.suppress(OSError):  # the other end was closed
            while piece := os.read(ours, 100_000):
                shown += piece.decode()
        os.close(ours)
        assert done.returncode == 0
        assert "100%" in shown


def test_a_tracking_process_and_a_drain_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Drains beside a live emitter of the same name: the emitter's slot is left to it."""
    with Collector() as collector:
        site = Site(tmp_path, endpoint=collector.url)
        leave(site.queue_dir, "test", 3, 0, 20, url=collector.url, method="post")
        with Child(site, Program("track_until_told", drains=True, pause_s=0.001)) as child:
            wait_until(lambda: len(site.noted("ack")) > 10)
            command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(site.queue_dir)]
            for _ in range(3):
                done = subprocess.run(command, timeout=20, capture_output=True, check=False)
                assert done.returncode == Exit.BUSY
                assert str(child.process.pid).encode() in done.stderr
            site.journal.with_name("journal.over").touch()
            code, errors = child.end()
        assert code == 0, errors
        assert 20 + len(site.noted("ack")) == len(collector.eids()) == sum(collector.eids().values())


# ── several collectors, and too little time for all ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(status=503), None], ids=["hangs", "503", "refuses"])
def test_a_dead_collector_does_not_use_up_the_time_of_a_healthy_one(
    run: Run, queues: Queues, fault: Fault | None
) -> None:
    """It is asked once; what answers is drained first; then the time that is left is shared."""
    with Collector(script=lambda _: fault) as dead, Collector() as healthy:
        if fault is None:
            dead.down()
        a = queues.leave("a", 0, 0, 20, url=dead.url, method="post")
        b = queues.leave("b", 0, 100, 20, url=healthy.url, method="post")
        start = time.monotonic()
        code, out, _ = run("--timeout", "3")
        assert code == Exit.BACKLOG
        assert len(healthy.eids()) == 20
        assert f"{a.name}: delivered 0, remaining 20" in out
        assert f"{b.name}: delivered 20, remaining 0" in out
        assert 2 < time.monotonic() - start < 8


@pytest.mark.slow
def test_what_comes_back_is_drained_in_the_time_that_is_left(run: Run, queues: Queues) -> None:
    """Two collectors in turns, of which one needs some seconds."""
    with Collector(script=lambda _: Fault(status=503)) as slow, Collector() as dead:
        dead.down()
        queues.leave("a", 0, 0, 20, url=dead.url, method="post")
        queues.leave("b", 0, 100, 20, url=slow.url, method="post")
        queues.leave("b", 1, 200, 20, url=slow.url, method="post")
        healing = threading.Timer(1.0, lambda: setattr(slow, "script", None))
        healing.start()
        assert run("--timeout", "12")[0] == Exit.BACKLOG
        healing.join()
        assert len(slow.eids()) == 40


def test_the_patience_is_for_a_collector_and_not_for_each_of_its_slots(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty slots of a dead one take no longer than one."""
    monkeypatch.setattr(drain, "PATIENCE_S", 1.5)
    with Collector(script=lambda _: Fault(status=503)) as dead:
        for index in range(20):
            leave(root, "a", index, 10 * index, 5, url=dead.url, method="post")
        start = time.monotonic()
        assert run()[0] == Exit.BACKLOG
        assert time.monotonic() - start < 8
        assert dead.requests < 20


RESOLVING = PROGRAMS / "drain_with_a_resolver_that_hangs.py"


@pytest.mark.parametrize("is_signalled", [False, True])
def test_a_resolver_that_hangs_holds_up_neither_the_others_nor_the_end(root: Path, is_signalled: bool) -> None:
    """Nothing in a process can interrupt it, so it is left behind."""
    with Collector() as healthy:
        leave(root, "a", 0, 0, 20, url="http://hung.invalid/com.snowplowanalytics.snowplow/tp2", method="post")
        leave(root, "b", 0, 100, 20, url=healthy.url, method="post")
        command = [sys.executable, str(RESOLVING), "--queue-dir", str(root)]
        command += [] if is_signalled else ["--timeout", "4"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert healthy.wait(events=20, timeout_s=20)
                if is_signalled:
                    process.send_signal(signal.SIGTERM)
                out, _ = process.communicate(timeout=15)
            finally:
                process.kill()
        assert process.returncode == Exit.BACKLOG, out
        assert "a/0.sqlite3: delivered 0, remaining 20" in out
        assert "Traceback" not in out


@pytest.mark.slow
def test_a_collector_that_takes_long_to_answer_is_waited_for(run: Run, queues: Queues) -> None:
    """Longer than the first question, and longer than a turn: a request in flight is broken off at the end only."""
    with Collector(script=lambda _: Fault(delay_s=7.0)) as slow:
        queues.leave("a", 0, 0, 3, url=slow.url, method="post")
        assert run("--timeout", "40")[0] == Exit.EMPTY
        assert len(slow.eids()) == 3
        assert slow.requests <= 3


def test_a_refused_event_is_not_asked_about_without_a_pause(run: Run, queues: Queues) -> None:
    """Each visit begins where the one before it ended; where nothing can be done in time the drain ends."""
    with Collector(script=lambda _: Fault(status=400)) as refusing:
        queues.leave("a", 0, 0, 1, url=refusing.url, method="post")
        for _ in range(3):
            assert run("--timeout", "5")[0] == Exit.BACKLOG
        assert refusing.requests <= 12


@pytest.mark.slow
def test_a_visit_that_was_left_behind_is_not_asked_for_again_and_again(root: Path) -> None:
    """The drain sleeps meanwhile."""
    leave(root, "a", 0, 0, 20, url="http://hung.invalid/com.snowplowanalytics.snowplow/tp2", method="post")
    command = [sys.executable, str(RESOLVING), "--queue-dir", str(root), "--timeout", "8"]
    before = os.times()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=30, check=False).returncode == Exit.BACKLOG
    after = os.times()
    assert after.children_user - before.children_user < 4
