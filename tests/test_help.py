"""The help of each command ends with examples, and these run as they stand there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from durable_tracker import Emitter, PageView, SelfDescribing, SelfDescribingJson, Tracker
from durable_tracker.__main__ import parser_of
from durable_tracker.collector import Collector
from durable_tracker.commands.completion import commands_of
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = tuple(commands_of(parser_of(())))
SLOW = {"demo", "selftest"}
ENDLESS = re.compile(r"durable-tracker (status --watch|collector --port)")
"""Examples that go on until they are interrupted."""
PROMPT = re.compile(r"  ((?:source <\()?durable-tracker .*)")
TIMEOUT_S = 100


def prepared(folder: Path, url: str) -> dict[str, str]:
    """Lay out what the examples speak of, and return the environment for them.

    Args:
        folder: gets a queue dir with a backlog and dead letters, the input files, and is the home directory as well.
        url: the collector on loopback that the backlog is for.
    """
    with Emitter(url, name="shop", queue_dir=folder / "queues", drain=False) as emitter:
        tracker = Tracker(emitter, namespace="n", app_id="web")
        for number in range(20):
            tracker.track(PageView(f"https://acme.example/{number}"))
            tracker.track(SelfDescribing(SelfDescribingJson("iglu:com.acme/sale/jsonschema/1-0-0", {"n": number})))
    with SqliteQueue.take(Slot(folder / "queues" / "shop", 0)) as queue:
        queue.reject([1, 2, 3], 422, "schema not found")
        queue.reject([4], 400, "no")
    events = ['{"schema": "iglu:com.acme/sale/jsonschema/1-0-0", "data": {}}\n'] * 3
    (folder / "events.ndjson").write_text("".join(events))
    for place in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions", "bin"):
        (folder / place).mkdir(parents=True)
    program = folder / "bin" / "durable-tracker"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m durable_tracker "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), "DURABLE_TRACKER_DIR": str(folder / "queues")}


def shell(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str, str]:
    """Run a line of bash; one that is endless until it has printed something. Return exit code, stdout and stderr."""
    running = subprocess.Popen(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        first = ""
        if ENDLESS.search(line):
            assert running.stdout is not None
            first = running.stdout.readline()
            os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=TIMEOUT_S)
        return running.returncode, first + out, err
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in COMMANDS])
def test_the_examples_of_each_commands_help_run(tmp_path: Path, name: str) -> None:
    """In bash, with the collector's address and a port that is free put in the places of those that they name."""
    with Collector() as collector, ExitStack() as stack:
        environment = prepared(tmp_path, collector.url)
        if name in ("why", "pause", "resume", "flush", "hand-over"):
            live = Emitter(collector.url, name="shop", queue_dir=tmp_path / "queues", drain=name != "hand-over")
            stack.enter_context(live)
            live.flush(10)
        if name == "salvage":
            database = tmp_path / "queues" / "shop" / "0.sqlite3"
            content = database.read_bytes()
            database.write_bytes(content[: 4096 * 2] + b"\xff" * 4096 + content[4096 * 3 :])
        if name == "import":
            for output in ("backlog.ndjson", "backlog.ndjson.gz"):
                assert shell(f"durable-tracker export --output {output}", tmp_path, environment)[0] == 0
            (tmp_path / "queues").rename(tmp_path / "those of another host")
        code, shown, _ = shell(f"durable-tracker {name} --help", tmp_path, environment)
        _, _, examples = shown.partition("\nexamples:\n")
        lines = examples.splitlines()
        assert (code, 1 <= len(lines) <= 4) == (0, True), shown
        for line in lines:
            found = PROMPT.fullmatch(line)
            assert found is not None, line
            example = found[1].replace("https://collector.example.com", collector.url).replace("9090", "0")
            code, out, err = shell(example, tmp_path, environment)
            assert code == 0, (line, err)
            assert out or err or re.search("[<>]", line), line
            assert not re.search("Traceback|usage|error", err), (line, err)
        if name == "drain":
            assert len(collector.eids()) == 36


def test_the_drain_has_the_same_help_by_its_own_name() -> None:
    """`python -m durable_tracker.drain` is what the README names."""
    shown = subprocess.run(
        [sys.executable, "-m", "durable_tracker.drain", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "\nexamples:\n  durable-tracker drain " in shown
