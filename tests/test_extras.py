"""What is installed only by an extra is missed only by what needs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from durable_tracker.collector import Collector

TESTS = Path(__file__).parent
ADVICE = "pip install 'durable-tracker[collector]'"
TIMEOUT_S = 60.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in which the packages of extras cannot be imported."""
    command = [sys.executable, "-W", "error", str(TESTS / "programs" / "without_the_extras.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_events_are_tracked_delivered_and_drained_without_the_extra(tmp_path: Path) -> None:
    """By a process that has nothing to judge events with."""
    queues = str(tmp_path)
    with Collector() as collector:
        for kind in ("track", "deliver"):
            done = run(kind, collector.url, queues, "3")
            assert (done.returncode, done.stderr) == (0, "")
        done = run("drain", "--queue-dir", queues, "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(event["se_la"] for event in collector.events) == [f"event-{n}" for n in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize("command", ["collector", "demo"])
def test_a_command_that_judges_events_says_which_extra_it_needs(command: str) -> None:
    """At once, as a mistake of usage, with the command that installs it."""
    done = run(command, *(["--port", "0"] if command == "collector" else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert ADVICE in done.stderr
    assert done.stderr.startswith(f"{command}: ")
    assert "Traceback" not in done.stderr


def test_to_complete_needs_an_extra_which_is_named() -> None:
    """And nothing is printed that a shell would take for a script."""
    done = run("completion", "bash")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "completion: needs shtab: pip install 'durable-tracker[completion]'\n"


def test_the_selftest_judges_nothing_and_needs_no_extra(tmp_path: Path) -> None:
    """It is a command for production."""
    done = run("selftest", "--queue-dir", str(tmp_path), "--kills", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize(("extra", "package"), [("collector", "fastjsonschema"), ("completion", "shtab")])
def test_an_extra_is_declared_and_part_of_what_developers_install(extra: str, package: str) -> None:
    """What it brings is nobody's dependency but its own."""
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [one for one in project["dependencies"] if one.startswith(package)]
    assert [one.split(">")[0] for one in project["optional-dependencies"][extra]] == [package]
    assert "durable-tracker[collector,completion]" in project["optional-dependencies"]["dev"]
