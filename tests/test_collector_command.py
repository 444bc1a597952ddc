"""`python -m durable_tracker.collector` does what its options say, and ends as it should."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
import requests

from durable_tracker.collector import Collector
from durable_tracker.collector.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT_S = 10.0
EVENT = "/i?e=pv&p=pc&tv=x&stm=5&eid=9f0a1f9e-0000-4000-8000-00805f9b34fb"


class Running(NamedTuple):
    process: subprocess.Popen[str]
    url: str

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=TIMEOUT_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
        self.process.send_signal(number)
        return self.process.communicate(timeout=TIMEOUT_S)


@contextlib.contextmanager
def command(*options: str) -> Iterator[Running]:
    arguments = [sys.executable, "-W", "error", "-m", "durable_tracker.collector", "--port", "0", *options]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            first = process.stderr if "-" in options else process.stdout
            assert first is not None
            word, _, url = first.readline().strip().partition(" ")
            assert word == "listening"
            yield Running(process, url)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_tells_its_address_first_and_its_counts_last(number: signal.Signals) -> None:
    """The first line names the address, either signal ends it with status 0, and the last line sums up."""
    with command("--seed", "1") as running:
        assert running.get(EVENT).ok
        assert running.get(EVENT.replace("p=pc", "p=xx")).ok
        out, err = running.stop(number)
        assert (out, running.process.returncode) == ("", 0)
        assert "request 2 schema_violations: p:" in err
        assert err.splitlines()[-1] == "received requests=2 good=1 bad=1 distinct=1 repeated=0 anomalies=0"


def test_events_go_to_a_file_line_by_line(tmp_path: Path) -> None:
    """Each good event is in the file when its request is answered, and a later run appends."""
    file = tmp_path / "events.ndjson"
    for expected in (1, 2):
        with command("--out", str(file), "--quiet", "--count-only") as running:
            running.get(EVENT)
            lines = file.read_text().splitlines()
            assert (len(lines), json.loads(lines[-1])["e"]) == (expected, "pv")
            assert running.get("/micro/good").json() == []
            assert len(running.stop()[1].splitlines()) == 1


def test_events_can_have_stdout_to_themselves() -> None:
    """With `--out -` stdout holds nothing but events."""
    with command("--out", "-") as running:
        running.get(EVENT)
        out, _ = running.stop()
        assert [json.loads(line)["e"] for line in out.splitlines()] == ["pv"]


def test_faults_are_drawn_as_the_options_say() -> None:
    """A status that always comes, with its header, stores nothing."""
    with command("--fail", "503:1", "--retry-after", "9", "--latency", "0.01:0.02") as running:
        answer = running.get(EVENT)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "9")
        assert running.get("/micro/all").json() == {"total": 0, "good": 0, "bad": 0}


def test_a_lost_answer_is_stored() -> None:
    """`--lose-answer` stores the request and resets the connection."""
    with command("--lose-answer", "1") as running:
        with pytest.raises(requests.ConnectionError):
            running.get(EVENT)
        assert running.get("/micro/all").json()["good"] == 1


@pytest.mark.parametrize("kind", ["refuse", "reset", "502"])
def test_an_outage_begins_and_ends_in_time(kind: str) -> None:
    """The collector is down from the moment it tells its address, and up after the given time."""
    with command("--down-first", "0.5", "--outage", kind) as running:
        outcomes = set()
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                status = running.get(EVENT).status_code
            except requests.ConnectionError:
                status = 0
            outcomes.add(status)
            if status == 200:
                break
        assert outcomes == {200, 502 if kind == "502" else 0}


def test_flapping_goes_up_and_down_in_turn() -> None:
    """Both states are seen again and again."""
    with command("--flap", "0.05:0.05", "--quiet") as running:
        changes, last = 0, None
        deadline = time.monotonic() + TIMEOUT_S
        while changes < 4 and time.monotonic() < deadline:
            try:
                up = running.get("/health").ok
            except requests.ConnectionError:
                up = False
            changes += last is not None and up != last
            last = up
        assert changes == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "192.0.2.1"], "not a loopback address"),
        (["--fail", "503:2"], "is not from 0 to 1"),
        (["--fail", "503:0.6", "--reset", "0.6"], "at most 1 together"),
        (["--fail", "abc"], "argument --fail: abc is not a final HTTP status"),
        (["--outage", "sometimes"], "argument --outage"),
        (["--latency", "2:1"], "the smaller one"),
        (["--port", "70000"], "argument --port"),
        (["--schemas", "/nonexistent"], "is not a directory"),
        (["--out", "/nonexistent/x"], "No such file"),
        (["--cert", "/nonexistent"], "No such file"),
    ],
)
def test_unusable_options_are_refused_by_name(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be used is said on stderr, with status 2."""
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(["--port", "0", *options]))
    assert (stop.value.code, message in capsys.readouterr().err) == (2, True)


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The default port is often another collector's."""
    with Collector() as other:
        assert main(["--port", str(other.port)]) == 2
    assert f"127.0.0.1:{other.port}: " in capsys.readouterr().err
