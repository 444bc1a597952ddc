"""A slot of format 1 becomes one of format 2: killed at each file operation, and with the power cut at any moment."""

from __future__ import annotations

import contextlib
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from durable_tracker.engines.sqlite.connection import FORMAT

from . import older_release
from .campaign import KILLABLE, Bench, Fault, Server, bench, crash_everywhere
from .judge import history_of
from .log import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .program import Command

TAKING_OVER: list[Command] = [["put", 2], ["deliver", 5], ["reject", 2], ["requeue", 1], ["put_many", 6], ["put", 1]]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release that wrote format 1."""
    return older_release.unpack(tmp_path_factory.mktemp("format-1"))


def format_on_disk(target: Bench) -> int:
    return int.from_bytes((target.root / "queue" / "emitter" / "0.sqlite3").read_bytes()[60:64], "big")


@contextlib.contextmanager
def with_a_backlog_of_format_1(server: Server, older: Path) -> Iterator[Bench]:
    with bench(server, "queue") as target:
        assert target.run([["put", 4], ["put_many", 40], ["deliver", 9], ["reject", 2], ["crash"]], release=older) == 0
        yield target


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN])
def test_killed_at_each_file_operation_a_takeover_loses_nothing(server: Server, older: Path, mode: Mode) -> None:
    """Whoever comes next, the older release or this one: it finds every event, or refuses without a touch."""
    with with_a_backlog_of_format_1(server, older) as target:
        kept = target.folder / "kept"
        shutil.copytree(target.root, kept / "root")
        shutil.copy2(target.log, kept / "log")
        kills = refusals = openings = 0
        for nth in range(1, 10_000):
            shutil.rmtree(target.root)
            shutil.copytree(kept / "root", target.root)
            shutil.copy2(kept / "log", target.log)
            if target.run(TAKING_OVER, Fault(KILLABLE, nth, mode=mode)) != -signal.SIGKILL:
                break
            kills += 1
            if nth % 4 == 0:
                before = format_on_disk(target)
                assert target.run([["put", 1], ["deliver", 2], ["crash"]], release=older) == 0
                was_refused = "UnknownFormatError" in " ".join(history_of(target.operations()).errors)
                assert was_refused == (before == FORMAT)
                refusals += was_refused
                openings += not was_refused
            history = history_of(target.operations())
            wrong = target.problems_in_place()
            assert wrong + [text for text in history.unprovoked if "UnknownFormatError" not in text] == [], nth
        assert kills > 40
        assert refusals > 3
        assert openings > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_power_loss_at_any_moment_of_a_takeover_loses_nothing(server: Server, older: Path) -> None:
    """Also with the pieces of the header and the WAL on disk in any order."""
    with with_a_backlog_of_format_1(server, older) as target:
        start = len(target.operations())
        target.run_to_the_end([*TAKING_OVER, ["crash"]])
        verdict = crash_everywhere(target, "a takeover", 1, per_cut=2, cut_from=start)
        assert verdict.failures == []
        assert verdict.opened > 50
