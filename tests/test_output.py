"""Where the commands print: readers that have enough, streams that are closed, terminals."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest
from processes import wait_until

from durable_tracker._version import __version__
from durable_tracker.collector import Collector
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLEAR = "\x1b[2J\x1b[H"
PRINTING = (
    "status", "status --json", "status --check", "status --watch 0.1", "peek --limit 5000", "dead-letters",
    "dead-letters --by reason", "export --dead-letters", "verify", "completion bash", "completion zsh", "--help",
    "--version", "status --help", "collector --port 0",
)  # fmt: skip
"""Commands that are asked for what they print."""
DRAIN = "drain --timeout 20"


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Path]:
    """A queue dir with more events than a pipe holds, and dead letters; the collector is there."""
    make_private_directory(tmp_path / "shop")
    with Collector() as collector, SqliteQueue.take(Slot(tmp_path / "shop", 0)) as queue:
        queue.set_origin({"url": collector.url, "method": "post"})
        queue.put_many([b'{"e":"pv","n":"%d"}' % number for number in range(5000)])
        queue.reject([1, 2, 3], 422, "no")
        queue.close()
        yield tmp_path


def start(queues: Path, line: str, **settings: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "durable_tracker", *line.split()]
    environment = {**os.environ, "DURABLE_TRACKER_DIR": str(queues), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment.pop("PYTHONUNBUFFERED", None)  # with it argparse takes a help that nobody reads for success
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, **settings)


def closing(*descriptors: int) -> Callable[[], None]:
    """Return what closes descriptors in the child: `>&-` and `2>&-`."""

    def close() -> None:
        for one in descriptors:
            os.close(one)

    return close


def test_the_version_is_printed(queues: Path) -> None:
    """As the installed package has it."""
    shown = start(queues, "--version", stdout=subprocess.PIPE).communicate(timeout=60)[0]
    assert shown == f"durable-tracker {__version__}\n".encode()


@pytest.mark.parametrize("line", PRINTING)
def test_a_reader_that_has_enough_ends_a_command_quietly(queues: Path, line: str) -> None:
    """`... | head -1` at its worst: the reader has gone before the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    running = start(queues, line, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("line", ["peek --limit 5000", "export", "completion bash", "status --watch 0.1"])
def test_the_first_line_can_be_had_alone(queues: Path, line: str) -> None:
    """`| head -1` as it is used."""
    running = start(queues, line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = subprocess.run(["head", "-1"], stdin=running.stdout, capture_output=True, timeout=60, check=True)
    assert running.stdout is not None
    running.stdout.close()
    assert running.wait(60) == 128 + signal.SIGPIPE or line == "completion bash"  # which a pipe may hold
    assert head.stdout.count(b"\n") == 1
    assert running.stderr is not None
    assert running.stderr.read() == b""
    running.stderr.close()


@pytest.mark.parametrize(
    "line", ["requeue --stdin", "import --endpoint 127.0.0.1", "track --endpoint 127.0.0.1 --no-drain"]
)
def test_an_interrupted_command_says_so_in_one_line(queues: Path, line: str) -> None:
    """Ctrl-C while it waits for more of its input: no traceback."""
    reading, writing = os.pipe()
    os.write(writing, b"{")
    environment = {**os.environ, "DURABLE_TRACKER_DIR": str(queues)}
    command = [sys.executable, "-m", "durable_tracker", *line.split()]
    try:
        running = subprocess.Popen(
            command, env=environment, stdin=reading, stderr=subprocess.PIPE, start_new_session=True
        )
        wait_until(lambda: not select.select([reading], [], [], 0)[0])  # it has taken what was there
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        os.close(reading)
        os.close(writing)
    assert (running.returncode, err.decode()) == (128 + signal.SIGINT, f"{line.split(maxsplit=1)[0]}: interrupted\n")


@pytest.mark.parametrize("line", PRINTING)
def test_a_closed_stdout_is_an_error_of_the_commands_that_print(queues: Path, line: str) -> None:
    """`>&-`: told in one line, and no file that is opened gets its descriptor."""
    running = start(queues, line, stderr=subprocess.PIPE, preexec_fn=closing(1))
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err.count(b"\n")) == (Exit.OUTPUT, 1), err
    assert b"Bad file descriptor" in err


@pytest.mark.parametrize("line", [*PRINTING[:3], *PRINTING[4:-1]])
def test_a_closed_stderr_takes_nothing_from_stdout(queues: Path, line: str) -> None:
    """`2>&-`: nor is what was meant for it printed there."""
    printed = []
    for settings in ({"stderr": subprocess.DEVNULL}, {"preexec_fn": closing(2)}):
        running = start(queues, line, stdout=subprocess.PIPE, **settings)
        out, _ = running.communicate(timeout=60)
        assert running.returncode == Exit.EMPTY
        printed.append(re.sub(rb"oldest=\d+|\d+ s\b", b"", out))
    assert printed[0] == printed[1] != b""


@pytest.mark.parametrize("closed", [(), (1,), (2,), (0, 1, 2)])
def test_a_drain_goes_on_whatever_becomes_of_its_output(queues: Path, closed: tuple[int, ...]) -> None:
    """Its exit code says what it did; without `closed` both are pipes that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    running = start(queues, DRAIN, stdout=writing, stderr=writing, preexec_fn=closing(*closed))
    os.close(writing)
    assert running.wait(60) == Exit.EMPTY
    with SqliteQueue.take(Slot(queues / "shop", 0)) as queue:
        assert (queue.ledger().pending, queue.ledger().delivered) == (0, 4997)


def on_a_terminal(queues: Path, line: str) -> str:
    """Return what a command prints to a terminal; one that watches is interrupted."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    running = start(queues, line, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, is_endless = b"", "--watch" in line or "collector" in line
    with contextlib.suppress(OSError):  # EIO: it has ended
        while more := os.read(ours, 1 << 16):
            shown += more
            if is_endless and (shown.count(b"queue ") > 3 or b"listening" in shown):
                running.send_signal(signal.SIGINT)
                is_endless = False
    os.close(ours)
    assert running.wait(60) == Exit.EMPTY
    return shown.decode()


@pytest.mark.parametrize("line", [*PRINTING, DRAIN])
def test_nothing_is_coloured_on_a_terminal_either(queues: Path, line: str) -> None:
    """So that NO_COLOR has nothing to switch off. To watch clears the screen; no other sequence is printed."""
    shown = on_a_terminal(queues, line)
    assert shown
    assert "\x1b" not in shown.replace(CLEAR, "")
    assert (CLEAR in shown) == ("--watch" in line)
    assert ("100%" in shown) == (line == DRAIN)
