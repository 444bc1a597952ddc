"""The command line but for the drain: track, status, peek, dead-letters, requeue, purge; and its exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from processes import TIMEOUT_S, wait_until

from durable_tracker.__main__ import main
from durable_tracker.collector import Collector
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.emitters import Emitter
from durable_tracker.engines.memory import MemoryEngine
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.errors import ConfigurationError
from durable_tracker.testing import RecordedEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

SCHEMA = "iglu:com.acme/save_game/jsonschema/1-0-0"
TRACK = ("track", "--endpoint", "http://127.0.0.1:9", "--name", "shell", "--no-drain")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A queue dir, which the environment names."""
    monkeypatch.setenv("DURABLE_TRACKER_DIR", str(tmp_path / "queues"))
    return tmp_path / "queues"


@pytest.fixture
def run(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: exit code, what it printed, what it complained."""

    def run_(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_


def tracked(root: Path, name: str = "shell") -> list[RecordedEvent]:
    with SqliteQueue.take(Slot(root / name, 0)) as queue:
        return [RecordedEvent.decode(row.payload) for row in queue.peek(0, 10_000, 1 << 30)]


def line(**members: Any) -> bytes:
    return json.dumps({"schema": SCHEMA, "data": {"level": 1}, **members}).encode() + b"\n"


# ── track ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_event_from_arguments_is_on_disk_when_the_exit_code_is_0(run: Run, root: Path) -> None:
    """Its id is printed."""
    entity = json.dumps({"schema": SCHEMA, "data": {"as": "context"}})
    more = ("--namespace", "ns", "--app-id", "shop", "--platform", "iot", "--user-id", "u1", "--context", entity)
    code, out, err = run(*TRACK, "--schema", SCHEMA, "--data", '{"level": 3}', *more)
    assert (code, err) == (Exit.EMPTY, "")
    (event,) = tracked(root)
    assert event.eid == out.strip()
    assert (event.schema, event.data) == (SCHEMA, {"level": 3})
    assert [one.data for one in event.contexts] == [{"as": "context"}]
    assert tuple(event.wire[name] for name in ("tna", "aid", "p", "uid")) == ("ns", "shop", "iot", "u1")


def test_lines_of_standard_input_are_events(run: Run, root: Path) -> None:
    """Empty lines are skipped, the last one needs no end; contexts and true timestamps are taken."""
    context = [{"schema": SCHEMA, "data": {"as": "context"}}]
    text = line() + b"\n  \n" + line(context=context, true_timestamp=1_700_000_000_000) + line().rstrip()
    code, out, err = run(*TRACK, "--no-base64", stdin=text)
    assert (code, out, err) == (Exit.EMPTY, "", "stored 3, refused 0\n")
    events = tracked(root)
    assert len({one.eid for one in events}) == 3
    assert events[1].wire["ttm"] == "1700000000000"
    assert "ue_pr" in events[0].wire
    assert len(events[1].contexts) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"not json\n",
        b"[]\n",
        b"null\n",
        b'"text"\n',
        b'{"schema": "' + SCHEMA.encode() + b'"}\n',
        b'{"data": {}}\n',
        b'{"schema": "no iglu", "data": {}}\n',
        b'{"schema": 5, "data": {}}\n',
        b'{"schema": "' + SCHEMA.encode() + b'", "data": NaN}\n',
        b'{"schema": "' + SCHEMA.encode() + b'", "data": {"a": "\\ud800"}}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        line(context={"not": "a list"}),
        line(context=[5]),
        line(context=[{"schema": SCHEMA}]),
        line(true_timestamp="yesterday"),
        line(unknown=1),
    ],
)
def test_a_bad_line_is_refused_by_number_and_the_others_are_stored(run: Run, root: Path, bad: bytes) -> None:
    """The exit code says that something was refused."""
    code, _, err = run(*TRACK, stdin=line() + bad + line())
    assert code == Exit.USAGE
    assert "line 2: " in err
    assert "stored 2, refused 1" in err
    assert "Traceback" not in err
    assert len(tracked(root)) == 2


def test_a_slow_producers_events_are_stored_when_they_come(root: Path) -> None:
    """Not when it ends: tail -f can be tracked."""
    command = [sys.executable, "-m", "durable_tracker", *TRACK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(line() + line()[:10])
            process.stdin.flush()
            path = root / "shell" / "0.sqlite3-wal"
            wait_until(lambda: path.exists() and b'"e": "ue"' in path.read_bytes())
        finally:
            process.kill()
    assert len(tracked(root)) == 1


def test_an_event_is_delivered_before_the_command_ends_if_the_collector_is_there(run: Run, root: Path) -> None:
    """And if it is not, the command does not wait: the exit code is 0 all the same, since the event is on disk."""
    with Collector() as collector:
        arguments = ("track", "--endpoint", collector.url, "--name", "shell", "--schema", SCHEMA)
        assert run(*arguments)[0] == Exit.EMPTY
        assert len(collector.eids()) == 1
        collector.down()
        assert run(*arguments, "--timeout", "0.5")[0] == Exit.EMPTY
        assert len(tracked(root)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("track",),
        ("track", "--endpoint", ""),
        ("track", "--endpoint", "ftp://c.example"),
        ("track", "--endpoint", "c.example", "--platform", "mainframe"),
        ("track", "--endpoint", "c.example", "--schema", "no iglu"),
        ("track", "--endpoint", "c.example", "--schema", SCHEMA, "--data", "{"),
        ("track", "--endpoint", "c.example", "--schema", SCHEMA, "--context", "5"),
        ("track", "--endpoint", "c.example", "--data", "{}"),
        ("track", "--endpoint", "c.example", "--context", "{}"),
        ("track", "--endpoint", "c.example", "--schema", SCHEMA, "--queue-dir", ""),
        ("track", "--endpoint", "c.example", "--header", "X: a\nb"),
        ("track", "--endpoint", "c.example", "--timeout", "soon"),
        (),
        ("no-such-command",),
        ("status", "/nowhere/at/all"),
        ("status", "--queue-dir", ""),
        ("peek", "--limit", "0"),
        ("peek", "--limit", "many"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said_with_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    """And no traceback."""
    code, out, err = run(*arguments)
    assert code == Exit.USAGE
    assert out == ""
    assert err
    assert "Traceback" not in err


def test_a_queue_that_cannot_be_written_is_exit_code_4(run: Run, tmp_path: Path) -> None:
    """An event that was not stored is never a success."""
    (tmp_path / "file").write_text("in the way")
    code, _, err = run(*TRACK, "--queue-dir", tmp_path / "file" / "queues", "--schema", SCHEMA)
    assert code == Exit.UNREADABLE
    assert "track: " in err
    assert "Traceback" not in err


# ── looking into queues ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def filled(root: Path) -> Path:
    """A slot with seven pending events and three dead letters."""
    make_private_directory(root / "a")
    with SqliteQueue.take(Slot(root / "a", 0)) as queue:
        queue.put_many([b'{"e":"pv","n":"%d"}' % number for number in range(10)])
        queue.reject([1, 2, 3], 400, "refused")
        queue.set_origin({"url": "https://c.example/i", "method": "get"})
    return root / "a" / "0.sqlite3"


def status(run: Run, *arguments: Any) -> dict[str, Any]:
    """Return what `status --json` says."""
    code, out, err = run("status", "--json", *arguments)
    assert (code, err) == (Exit.EMPTY, "")
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize("command", ["status", "peek", "dead-letters", "requeue", "purge --pending --all --yes"])
def test_a_queue_dir_without_queues_is_named(run: Run, tmp_path: Path, command: str) -> None:
    """Nothing to show may be a mistyped directory."""
    typo = tmp_path / "typo"
    reason = f"--queue-dir {typo}: there is no such directory\n"
    assert run(*command.split(), "--queue-dir", typo) == (Exit.USAGE, "", reason)
    typo.mkdir()
    assert run(*command.split(), "--queue-dir", typo) == (Exit.USAGE, "", f"no queue is in {typo}\n")


def test_without_a_home_directory_the_error_says_what_to_give(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in the password file."""

    def homeless(*_: object) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DURABLE_TRACKER_DIR")
    monkeypatch.setattr("platformdirs.user_state_dir", homeless)
    code, _, err = run("status")
    assert code == Exit.USAGE
    assert "DURABLE_TRACKER_DIR" in err
    with pytest.raises(ConfigurationError, match="DURABLE_TRACKER_DIR"):
        Emitter("c.example")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_peek_lets_nothing_reach_a_terminal_but_what_can_be_seen(root: Path, encoding: str) -> None:
    """Control characters, also those above 127, and what turns the direction of text; in any encoding of stdout."""
    text = "caf\u00e9 \u65e5 \x7f \x85 \x9b \u202e \u2028 \ufeff \U000e0001 \x1b[31m"
    make_private_directory(root / "a")
    with SqliteQueue.take(Slot(root / "a", 0)) as queue:
        queue.put(json.dumps({"e": "pv", "page": text}, ensure_ascii=False).encode())
    command = [sys.executable, "-m", "durable_tracker", "peek"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode(encoding)
    assert json.loads(out)["event"]["page"] == text
    assert all(character.isprintable() for character in out.strip("\n"))
    assert ("caf\u00e9" in out) == (encoding != "ascii")


def test_what_cannot_be_printed_is_an_error_of_the_commands_that_print(root: Path, filled: Path) -> None:
    """Else a backlog that was to be saved is not, and the exit code says that it was."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "durable_tracker", "peek", str(filled)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == Exit.OUTPUT
    assert done.stderr == "peek: cannot write to stdout: No space left on device\n"


def test_peek_prints_the_oldest_events(run: Run, filled: Path) -> None:
    """Without taking them."""
    code, out, _ = run("peek", "--limit", "2", filled)
    assert code == Exit.EMPTY
    assert [(one["key"], one["event"]["n"]) for one in map(json.loads, out.splitlines())] == [(4, "3"), (5, "4")]
    assert status(run)["totals"]["ledger"]["pending"] == 7


def test_what_is_no_event_is_shown_as_it_is(run: Run, filled: Path) -> None:
    """If everything is asked for: somebody else has put it there."""
    with SqliteQueue.take(Slot(filled.parent, 0)) as queue:
        queue.put_many([b"no json", b"[1]"])
        queue.reject([12], 400, "refused")
    shown = [json.loads(one) for one in run("peek", filled)[1].splitlines()]
    assert shown[-1]["payload"] == "no json"
    assert "no json" not in run("peek", "--event", "pv", filled)[1]
    assert json.loads(run("dead-letters", "--key", "12", filled)[1])["payload"] == "[1]"
    assert run("purge", "--dead-letters", "--key", "12", "--yes", filled)[0] == Exit.EMPTY


def test_dead_letters_tell_why_and_can_be_queued_again(run: Run, filled: Path) -> None:
    """One by its key, then all."""
    out = run("dead-letters", "--name", "a")[1]
    letters = [json.loads(one) for one in out.splitlines()]
    assert [letter["key"] for letter in letters] == [1, 2, 3]
    assert [(letter["status"], letter["reason"]) for letter in letters] == [(400, "refused")] * 3
    assert letters[0]["event"] == {"e": "pv", "n": "0"}
    assert run("requeue", "--key", "99")[::2] == (Exit.BACKLOG, "--key 99: no dead letter has it\n")
    assert "would requeue 1" in run("requeue", "--key", "2", "--dry-run")[1]
    assert "requeued 1" in run("requeue", "--key", "2", "--key", "99")[1]
    assert "requeued 2" in run("requeue")[1]
    assert "requeued 0" in run("requeue")[1]
    ledger = status(run)["totals"]["ledger"]
    assert tuple(ledger[name] for name in ("accepted", "pending", "dead")) == (10, 10, 0)


def test_the_commands_know_no_engine(run: Run) -> None:
    """A queue in memory, by its address, is looked into as one in a file is."""
    engine = MemoryEngine("shown")
    with engine.queue("a") as queue:
        queue.put_many([b'{"e":"pv","n":"%d"}' % number for number in range(10)])
        queue.reject([row.key for row in queue.peek(0, 3, 1 << 20)], 400, "refused")
    report = status(run, "memory:shown")["queues"][0]
    assert tuple(report["ledger"][name] for name in ("accepted", "pending", "dead")) == (10, 7, 3)
    shown = [json.loads(one)["event"]["n"] for one in run("peek", "--limit", "2", "memory:shown")[1].splitlines()]
    assert shown == ["3", "4"]
    letters = [json.loads(one) for one in run("dead-letters", "memory:shown")[1].splitlines()]
    assert [(letter["status"], letter["reason"]) for letter in letters] == [(400, "refused")] * 3
    assert "requeued 3" in run("requeue", "memory:shown", "--name", "a")[1]
    assert run("status", "memory:shown", "--name", "b")[0] == Exit.USAGE
    assert run("verify", "memory:shown")[0] == Exit.USAGE


def test_a_busy_slot_is_exit_code_3_and_names_its_owner(run: Run, filled: Path) -> None:
    """To put letters back needs the owner; in the other slots it is done."""
    with SqliteQueue.take(Slot(filled.parent, 1)) as queue:
        queue.put(b"{}")
        code, out, err = run("requeue")
    assert code == Exit.BUSY
    assert str(os.getpid()) in err
    assert "requeued 3" in out


@pytest.mark.parametrize("command", ["status", "peek", "dead-letters", "requeue", "purge --pending --all --yes"])
def test_an_unreadable_slot_is_exit_code_4(run: Run, filled: Path, command: str) -> None:
    """A file of a newer version is left untouched."""
    import sqlite3

    raw = sqlite3.connect(filled)
    raw.execute("PRAGMA user_version=98")
    raw.close()
    code, out, err = run(*command.split())
    assert code == Exit.UNREADABLE
    assert ("unreadable" in out) == (command == "status")
    assert "newer" in err or "98" in err


def test_the_help_lists_the_commands_and_the_exit_codes(run: Run) -> None:
    """For every command."""
    code, out, _ = run("--help")
    assert code == 0
    for command in ("track", "drain", "status", "peek", "dead-letters", "requeue", "purge", "demo", "collector"):
        assert command in out
    for command in ("track", "drain", "status", "peek", "dead-letters", "requeue", "purge"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "exit codes" in out


@pytest.mark.parametrize(
    "command", ["track", "status", "peek", "dead-letters", "requeue", "purge", "verify", "salvage"]
)
def test_the_help_states_the_commands_own_exit_codes_once(run: Run, command: str) -> None:
    """A backlog is an exit code of the drain alone."""
    _, out, _ = run(command, "--help")
    assert (out.count("exit codes:"), "1 backlog remains" in out) == (1, False)


def test_a_closed_pipe_is_no_traceback(filled: Path) -> None:
    """`peek | head -1` is common."""
    with SqliteQueue.take(Slot(filled.parent, 0)) as queue:
        queue.put_many([b'{"n":"%d"}' % number for number in range(20_000)])
    command = f"{sys.executable} -m durable_tracker peek --limit 20000 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S602
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_path_needs_no_engine_of_the_environment(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named is looked into."""
    monkeypatch.setenv("DURABLE_TRACKER_QUEUE", "memory:nowhere")
    assert status(run, filled)["totals"]["ledger"]["pending"] == 7
    assert run("status")[0] == Exit.USAGE
