"""`status`, `peek` and `dead-letters` beside owners that go on: what is there is seen, and nothing is disturbed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from processes import PROGRAMS, wait_until

from durable_tracker import Emitter
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def command(*arguments: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "durable_tracker", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **settings,
    )


def event(number: int, age_s: float = 0.0) -> bytes:
    return b'{"e":"pv","n":"%d","dtm":"%d"}' % (number, (time.time() - age_s) * 1000)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that owns shop/0, and is stopped in the midst of its work."""
    make_private_directory(tmp_path / "queues")
    output = tmp_path / "output"
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "busy_owner.py"), str(tmp_path / "queues" / "shop"), "50", "3"],
            stdout=stdout,
        )
    try:
        wait_until(lambda: output.read_bytes().count(b"\n") > 30)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_queue_is_seen_beside_its_owner_though_that_hangs(tmp_path: Path, busy: subprocess.Popen[bytes]) -> None:
    """With who it is; the events and the dead letters can be read as well, and no file changes."""
    queues = tmp_path / "queues"
    before = {path: path.read_bytes() for path in (queues / "shop").iterdir()}
    done = command("status", "--json", "--queue-dir", queues)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    (seen,) = report["queues"]
    assert report["version"] == 1
    assert seen["owner"]["pid"] == busy.pid
    assert "busy_owner.py" in seen["owner"]["command"]
    ledger = seen["ledger"]
    assert ledger == report["totals"]["ledger"]
    shown = command("peek", "--limit", "100000", "--queue-dir", queues)
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) == ledger["pending"]
    letters = command("dead-letters", "--limit", "100000", "--queue-dir", queues)
    assert len(letters.stdout.splitlines()) == ledger["dead"]
    assert command("requeue", "--queue-dir", queues).returncode == 3
    assert {path: path.read_bytes() for path in (queues / "shop").iterdir()} == before
    busy.kill()
    busy.wait()
    with SqliteQueue.take(Slot(queues / "shop", 0)) as queue:
        there = queue.ledger()
    # What was being put when the owner was stopped, and was not committed, may be taken in.
    assert there.accepted - ledger["accepted"] == there.pending - ledger["pending"] >= 0
    assert (there.delivered, there.dead) == (ledger["delivered"], ledger["dead"])


def test_it_is_a_table_for_people(tmp_path: Path) -> None:
    """One line a queue, one of sums, and no control characters in a pipe."""
    with Emitter("http://127.0.0.1:9", queue_dir=tmp_path, name="shop", drain=False) as emitter:
        emitter.put_many([event(number, 7300) for number in range(1234)])
        done = command("status", "--queue-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    head, line, total = done.stdout.splitlines()
    assert head.split() == [
        "QUEUE", "PENDING", "OLDEST", "BYTES", "QUOTA", "IN/S", "OUT/S", "DEAD", "STATE", "OWNER", "COLLECTOR",
        "LAST", "ERROR",
    ]  # fmt: skip
    shown = rf"shop/0 +1,234 +2 h +[0-9.]+ KiB +0% +0.0 +0.0 +0  idle, \d s  {os.getpid()} .*  http://127.0.0.1:9  -$"
    assert re.match(shown, line), line
    assert re.match(r"1 queue +1,234 +2 h ", total), total
    assert "\x1b" not in done.stdout


def test_watching_shows_what_comes_and_goes(tmp_path: Path) -> None:
    """Until it is interrupted, which is no error."""
    with Emitter("http://127.0.0.1:9", queue_dir=tmp_path, name="shop", drain=False) as emitter:
        emitter.put(event(1))
        watching = subprocess.Popen(
            [sys.executable, "-m", "durable_tracker", "status", "--watch", "0.2", "--queue-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        first = [watching.stdout.readline() for _ in range(3)]
        emitter.put_many([event(number) for number in range(500)])
        seen: list[str] = []
        while not any("501" in line for line in seen):
            seen.append(watching.stdout.readline())
            assert len(seen) < 300
        watching.send_signal(signal.SIGINT)
        rest, _ = watching.communicate(timeout=30)
    assert watching.returncode == 0, rest
    assert first[0].split()[5:7] == ["IN/S", "OUT/S"]
    found = re.search(r"501 .*KiB +0% +([0-9.,]+) +0[.]0 +0 ", next(line for line in seen if "501" in line))
    assert found is not None, seen
    assert float(found[1].replace(",", "")) > 10


def test_a_monitor_gets_one_line_and_an_exit_code(tmp_path: Path) -> None:
    """OK, CRITICAL where a bound is passed, UNKNOWN where nothing is there or can be read."""
    nothing = command("status", "--check", "--queue-dir", tmp_path)
    assert (nothing.returncode, nothing.stdout.count("\n")) == (3, 1)
    assert nothing.stdout.startswith("DURABLE_TRACKER UNKNOWN - no queue is in")
    make_private_directory(tmp_path / "shop")
    with SqliteQueue.take(Slot(tmp_path / "shop", 0)) as queue:
        queue.put_many([event(number, 7300) for number in range(20)])
        queue.reject([1, 2], 400, "no")
    for bounds, code, word in (
        ((), 0, "OK - 18 pending, oldest 2 h, 2 dead"),
        (("--max-age", 50_000, "--max-pending", 18, "--max-dead", 2), 0, "OK"),
        (("--max-age", 50), 2, "CRITICAL - oldest is "),
        (("--max-pending", 17), 2, "CRITICAL - 18 are pending, more than 17"),
        (("--max-dead", 0), 2, "CRITICAL - 2 are dead, more than 0"),
    ):
        done = command("status", "--check", *bounds, "--queue-dir", tmp_path)
        assert (done.returncode, done.stderr) == (code, ""), bounds
        assert done.stdout.startswith(f"DURABLE_TRACKER {word}"), done.stdout
        if bounds:  # which nothing would come of
            done_without = command("status", *bounds, "--queue-dir", tmp_path)
            assert (done_without.returncode, "is a bound for --check" in done_without.stderr) == (2, True)
        assert re.search(r" \| pending=18;;\d* oldest=7\d\d\ds;;[\d.]* dead=2;;\d*$", done.stdout)
    (tmp_path / "shop" / "0.sqlite3").write_bytes(b"SQLite format 3\0" + bytes(4096 * 8))
    time.sleep(0.03)
    done = command("status", "--check", "--queue-dir", tmp_path)
    assert (done.returncode, done.stdout.startswith("DURABLE_TRACKER UNKNOWN - ")) == (3, True)


def test_damage_is_said_and_not_mended(tmp_path: Path) -> None:
    """Exit code 4; the other queues are shown, and the damaged file stays as it is."""
    for name in ("a", "b"):
        make_private_directory(tmp_path / name)
        with SqliteQueue.take(Slot(tmp_path / name, 0)) as queue:
            queue.put_many([event(number) for number in range(2000)])
    damaged = tmp_path / "a" / "0.sqlite3"
    content = damaged.read_bytes()
    damaged.write_bytes(content[: 4096 * 2] + b"\xff" * 4096 + content[4096 * 3 :])
    time.sleep(0.03)
    before = damaged.read_bytes()
    done = command("status", "--queue-dir", tmp_path)
    assert done.returncode == 4
    assert str(damaged) in done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[:2] == ["a/0", "?"]
    assert lines[2].split()[:2] == ["b/0", "2,000"]
    assert damaged.read_bytes() == before
    assert sorted(path.name for path in damaged.parent.iterdir() if "damaged" in path.name) == []


def test_what_waits_in_a_file_that_was_set_aside_is_said(tmp_path: Path) -> None:
    """Its owner was killed in the midst of mending it: beside a new file, and before there was one."""
    make_private_directory(tmp_path / "a")
    with SqliteQueue.take(Slot(tmp_path / "a", 0)) as queue:
        queue.put_many([event(number) for number in range(9)])
    database = tmp_path / "a" / "0.sqlite3"
    aside = database.with_name("0.damaged-20260101T000000-000000001.sqlite3")
    database.rename(aside)
    done = command("status", "--queue-dir", tmp_path)
    assert done.returncode == 4
    assert f"is missing, and its events wait in {aside.name}" in done.stderr
    database.write_bytes(b"")
    time.sleep(0.03)
    done = command("status", "--queue-dir", tmp_path)
    assert done.returncode == 4
    assert f"events wait in {aside.name}" in done.stderr
    with SqliteQueue.take(Slot(tmp_path / "a", 0)) as queue:
        queue.take_over_all()
    assert command("status", "--queue-dir", tmp_path).stdout.splitlines()[1].split()[:2] == ["a/0", "9"]
