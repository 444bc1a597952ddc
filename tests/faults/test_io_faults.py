"""Failing and killed system calls: nothing acknowledged is lost, and each error reaches the call that met it."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .campaign import (
    KILLABLE,
    STEADY,
    SYNCS,
    Fault,
    Server,
    Verdict,
    bench,
    fault_campaign,
    kill_campaign,
)
from .judge import History, history_of, observe, problems
from .log import Kind, Mode
from .subjects import subject
from .test_power_loss import show
from .tools import PROGRAMS, child_environment, scratch_root

EVER = 1 << 30
QUEUE = "queue:small_wal"
METADATA = (Kind.OPEN, Kind.TRUNCATE, Kind.UNLINK, Kind.ALLOCATE, Kind.MKDIR, Kind.RENAME)

if TYPE_CHECKING:
    from .log import Operation
    from .program import Command

pytestmark = pytest.mark.timeout(600)


def test_a_few_faults_lose_nothing(server: Server) -> None:
    """The smoke test of this file."""
    show(fault_campaign(server, QUEUE, Fault(SYNCS, 11), stride=23, cut_share=0.1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "stride"),
    [
        pytest.param(Fault(SYNCS, 1), 1, id="one failing sync"),
        pytest.param(Fault(SYNCS, 1, times=3), 2, id="three failing syncs"),
        pytest.param(Fault(SYNCS, 1, times=EVER), 2, id="all syncs fail"),
        pytest.param(Fault((Kind.WRITE,), 1), 3, id="one failing write"),
        pytest.param(Fault((Kind.WRITE,), 1, times=EVER), 7, id="all writes fail"),
        pytest.param(Fault((Kind.WRITE,), 2, errno.ENOSPC, 2, mode=Mode.SHORT), 5, id="a short write, then ENOSPC"),
        pytest.param(Fault((Kind.WRITE, Kind.ALLOCATE), 1, errno.ENOSPC, EVER), 7, id="the disk is full for ever"),
        pytest.param(Fault(METADATA, 1), 1, id="failing metadata"),
    ],
)
def test_a_fault_and_then_a_power_loss_lose_nothing(server: Server, fault: Fault, stride: int) -> None:
    """The nth call fails, for every n; no acknowledged event is lost, no innocent call raises."""
    verdict = fault_campaign(server, QUEUE, fault, stride=stride, cut_share=0.05)

    assert verdict.programs > 3
    show(verdict)


def test_a_kill_at_some_calls_loses_nothing(server: Server) -> None:
    """The smoke test of kills."""
    show(kill_campaign(server, QUEUE, Mode.KILL_AFTER, seed=1, stride=13))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN])
def test_a_kill_at_every_call_loses_nothing(server: Server, mode: Mode) -> None:
    """Killed before, after or in the middle of every call that changes the disk, and again while it recovers."""
    verdict = Verdict()
    for seed in (1, 2):
        verdict.add(kill_campaign(server, QUEUE, mode, seed=seed))

    assert verdict.programs > 100
    show(verdict)


@pytest.mark.slow
def test_a_kill_at_any_system_call_at_all_loses_nothing() -> None:
    """As above, but by strace: reads, locks and memory calls too, and without the recorder in the process."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    calls = "openat,close,read,pread64,pwrite64,write,fdatasync,fsync,ftruncate,fallocate,fcntl,flock,unlink,lseek"
    chosen = subject("queue")
    for nth in range(1, 30):
        for call in ("pwrite64,ftruncate,fallocate", "fdatasync,fsync", "fcntl,flock,pread64"):
            folder = scratch_root() / f"faults-strace-{nth}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            log = folder / "log"
            try:
                done = subprocess.run(
                    [
                        "strace",
                        "-f",
                        "-o",
                        "/dev/null",
                        "-e",
                        f"trace={calls}",
                        "-P",
                        f"{folder}/root/queue/emitter/0.lock",
                    ]
                    + [
                        part
                        for name in ("0.sqlite3", "0.sqlite3-wal", "0.ballast")
                        for part in ("-P", f"{folder}/root/queue/emitter/{name}")
                    ]
                    + ["-e", f"inject={call}:signal=SIGKILL:when={nth}", sys.executable]
                    + [str(PROGRAMS / "put_and_log.py"), str(folder / "root"), str(log)],
                    env=child_environment(),
                    check=False,
                    capture_output=True,
                    text=True,
                )
                assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
                promised = [int(line) for line in log.read_text().split()] if log.exists() else []
                history = History(tried=set(range(1, 6)), stored=dict.fromkeys(promised, 0))
                assert problems(history, observe(chosen, folder / "root"), 0.0, 1) == [], (nth, call)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


PURGING: list[Command] = [
    *(["put", 3], ["put_many", 30], ["reject", 4], ["requeue", 1]),
    *(["purge", 12], ["purge_dead_letters", 2], ["deliver", 3], ["purge", 30], ["purge_dead_letters", 9]),
]
"""A program of which half are purges: of a run of keys, of some between others, of all that is left."""


@pytest.mark.parametrize("mode", [Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN])
def test_a_purge_that_is_killed_at_any_call_is_done_or_not(server: Server, mode: Mode) -> None:
    """Killed at every call that changes the disk, from the first purge on: what is gone is counted, by transaction."""
    nth = len(ops_before_the_first_purge(server))
    assert nth > 10
    killed = 0
    while True:
        nth += 1
        with bench(server, QUEUE) as target:
            status = target.run(PURGING, Fault(KILLABLE, nth, mode=mode))
            history = history_of(target.operations())
            assert target.problems_in_place() + history.unprovoked == [], nth
            if status != -signal.SIGKILL:
                break
            killed += 1
    assert killed > 15


def ops_before_the_first_purge(server: Server) -> list[Operation]:
    """Return the calls at which a kill would come before anything is purged."""
    with bench(server, QUEUE) as target:
        target.run_to_the_end(PURGING)
        operations = target.operations()
    first = next(at for at, one in enumerate(operations) if one.kind is Kind.MARK and one.first.startswith(b"purging"))
    return [one for one in operations[:first] if one.kind in KILLABLE]


def test_the_steady_program_does_a_little_of_everything(server: Server) -> None:
    """What the kills and faults are aimed at is there: puts, deliveries, rejections."""
    with bench(server, QUEUE) as target:
        target.run_to_the_end(STEADY)
        assert target.problems_in_place() == []
