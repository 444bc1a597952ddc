"""The harness is shown to be right, and to be able to fail, before anything else is believed."""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .campaign import (
    MODELS,
    SYNCS,
    Fault,
    Server,
    Verdict,
    bench,
    check_recorder,
    crash_campaign,
    crash_everywhere,
    fault_campaign,
    kill_campaign,
)
from .disk import Choice, Disk, File, Naming
from .judge import history_of
from .log import Kind, Mode, Operation
from .standin import Flaw
from .tools import PROGRAMS, preload_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .program import Command

SEEDS = (1, 2)


def assert_sees(verdict: Verdict, *words: str) -> None:
    """A campaign on a broken store has failed, and for the right reason."""
    assert any(any(word in failure for word in words) for failure in verdict.failures), str(verdict)


# ---- the parts


def test_what_was_written_but_not_synced_is_not_on_the_disk() -> None:
    """A file keeps what a sync covered, and may or may not have the rest, piece by piece."""
    file = File(512)
    file.write(0, b"a" * 1024)
    file.synced(file.moment)
    file.write(512, b"b" * 512)

    pieces, sizes = file.possible(0)

    assert file.durable[0] == b"a" * 512
    assert pieces == {1: [b"a" * 512, b"b" * 512]}
    assert sizes == [1024]


def test_a_sync_does_not_cover_what_is_written_while_it_runs() -> None:
    """A write between the beginning and the end of a sync is not durable."""
    file = File(512)
    file.write(0, b"a" * 512)
    begun = file.moment
    file.write(0, b"b" * 512)

    file.synced(begun)

    assert file.durable[0] == b"a" * 512
    assert file.piece(0) == b"b" * 512


def test_a_failed_sync_leaves_pages_that_no_later_sync_writes() -> None:
    """Only writing the page again gets it to the disk."""
    file = File(512)
    file.write(0, b"a" * 512)
    file.sync_failed(file.moment)
    file.synced(file.moment)
    assert 0 not in file.durable

    file.write(4000, b"b")  # the same page of 4 KiB
    file.synced(file.moment)

    assert file.durable[0] == b"a" * 512


def test_a_truncation_happens_wholly_or_not_at_all() -> None:
    """No image has a shorter file with the old tail, or a part of the tail zeroed."""
    file = File(512)
    file.write(0, b"a" * 2048)
    file.synced(file.moment)
    file.truncate(0)
    file.write(0, b"b" * 512)

    before, sizes_before = file.possible(0)
    after, sizes_after = file.possible(1)

    assert all(states == [b"a" * 512] for states in before.values())
    assert sizes_before == [2048]
    assert after[0] == [bytes(512), b"b" * 512]
    assert after[3] == [bytes(512)]
    assert sizes_after == [0, 512]


def _operation(kind: Kind, inode: int, path: str, a: int = 0, b: int = 0) -> Operation:
    return Operation(kind, 1, 0, inode, a, b, 0, path.encode(), b"")


@pytest.mark.parametrize(("naming", "is_there"), [(Naming.DIRECTORY, False), (Naming.FILE, True)])
def test_the_naming_models_differ_in_what_a_sync_of_the_file_does(naming: Naming, is_there: bool) -> None:
    """In model B an fsync of a file makes its name, and its directory's, durable; in model A it does not."""
    disk = Disk(Path("/r"), naming, 512)
    disk.apply(_operation(Kind.OPEN, 1, "/r", b=2))
    disk.apply(_operation(Kind.MKDIR, 2, "/r/new"))
    disk.apply(_operation(Kind.OPEN, 3, "/r/new/file", b=1))
    disk.apply(_operation(Kind.SYNC_BEGIN, 3, "/r/new/file", a=7))
    disk.apply(_operation(Kind.SYNC_END, 3, "", a=7))

    image = disk.image(Choice.NONE, random.Random(1))

    assert ("new/file" in image.entries) is is_there


def test_the_recorder_sees_every_way_of_changing_a_file(server: Server, tmp_path: Path) -> None:
    """Replaying the log of a program that uses them all gives the real files."""
    with bench(server, "standin") as target:
        target.root.mkdir()
        environment = preload_environment("recorder")
        environment |= {"FAULTS_ROOT": str(target.root), "FAULTS_LOG": str(target.log)}
        program = PROGRAMS / "change_files_in_every_way.py"
        subprocess.run([sys.executable, str(program), str(target.root)], env=environment, check=True)

        operations = target.operations()

        assert check_recorder(target, operations) == []
        assert len(operations) > 40


def test_a_recorder_that_missed_something_is_noticed(server: Server) -> None:
    """A campaign on a log with a hole says so, and judges nothing."""
    with bench(server, "standin") as target:
        target.run_to_the_end([["put", 3], ["crash"]])
        (target.root / "queue" / "0.sqlite3-wal").write_bytes(b"unseen")

        verdict = crash_everywhere(target, "unseen", 1)

    assert_sees(verdict, "the recorder is not to be trusted")


def test_the_clock_library_moves_the_wall_clock_only(tmp_path: Path) -> None:
    """Running processes see the jump at once; sleeps and the monotonic clock do not."""
    offset = tmp_path / "offset"
    offset.write_bytes(struct.pack("<q", 0))
    environment = preload_environment("clock") | {"FAULTS_CLOCK": str(offset)}
    subprocess.run([sys.executable, str(PROGRAMS / "jump_and_sleep.py")], env=environment, check=True)


# ---- a correct store passes


def test_the_stand_in_passes_power_loss(server: Server) -> None:
    """Hundreds of images of a correct store hold everything that was acknowledged."""
    verdict = crash_campaign(server, "standin", SEEDS)

    assert not verdict.failures, str(verdict)
    assert verdict.opened > 300


@pytest.mark.slow
def test_the_stand_in_passes_a_failed_sync_and_a_kill(server: Server) -> None:
    """A correct store passes a few faults and kills of each kind."""
    verdict = fault_campaign(server, "standin", Fault(SYNCS, 2), stride=7)
    verdict.add(fault_campaign(server, "standin", Fault((Kind.WRITE,), 3, errno.ENOSPC, 2, mode=Mode.SHORT), stride=17))
    verdict.add(kill_campaign(server, "standin", Mode.KILL_TORN, seed=1, stride=17))

    assert not verdict.failures, str(verdict)


# ---- each broken one does not


@pytest.mark.slow
@pytest.mark.parametrize(
    "flaw", [Flaw.SYNCHRONOUS_OFF, Flaw.SYNCHRONOUS_NORMAL, Flaw.JOURNAL_DELETE, Flaw.RETURN_BEFORE_COMMIT]
)
def test_the_harness_sees_a_put_that_was_not_durable(server: Server, flaw: Flaw) -> None:
    """Without a sync at the right moment, acknowledged events are gone after a power loss."""
    verdict = crash_campaign(server, f"standin:{flaw.name}", SEEDS[:1])

    assert_sees(verdict, "lost:", "malformed")


@pytest.mark.slow
def test_the_harness_sees_rows_that_are_removed_before_the_answer(server: Server) -> None:
    """An event that the collector has not taken yet must still be in the queue."""
    verdict = crash_campaign(server, f"standin:{Flaw.ACK_BEFORE_ANSWER.name}", SEEDS)

    assert_sees(verdict, "lost:")


@pytest.mark.slow
def test_the_harness_sees_a_new_directory_that_is_not_synced(server: Server) -> None:
    """In naming model A the whole queue vanishes with its directory's name."""
    verdict = crash_campaign(server, f"standin:{Flaw.NO_DIRECTORY_SYNC.name}", SEEDS[:1])

    assert_sees(verdict, "naming A")
    assert not any("naming B" in failure for failure in verdict.failures), str(verdict)


FAILED_SYNC_THEN_DEATH: list[Command] = [["put", 2], ["deliver", 1], ["put", 6], ["crash"]]


def fsyncgate_across_restart(server: Server, name: str, stride: int) -> Verdict:
    """Let every sync from the nth on fail, kill the process, and let another one take over, without faults."""
    total = Verdict()
    for nth in range(4, 1000, stride):
        with bench(server, name) as target:
            target.run_to_the_end(FAILED_SYNC_THEN_DEATH, Fault(SYNCS, nth, times=1 << 30))
            target.run_to_the_end([["put", 3], ["deliver", 2], ["put", 3], ["crash"]])
            if not history_of(target.operations()).injected:
                return total
            label = f"all syncs from {nth} on fail, then a restart of {name}"
            total.add(crash_everywhere(target, label, nth, cut_share=0.4, from_first_fault=True))
    return total


@pytest.mark.slow
def test_the_harness_sees_that_nothing_is_checkpointed_at_open(server: Server) -> None:
    """An earlier process's failed sync has left a hole in the log, and what follows it is lost."""
    broken = fsyncgate_across_restart(server, f"standin:{Flaw.NO_CHECKPOINT_AT_OPEN.name}", 3)
    whole = fsyncgate_across_restart(server, "standin", 3)

    assert_sees(broken, "lost:")
    assert not whole.failures, str(whole)


def power_loss_in_recovery(server: Server, name: str, acked: Sequence[int]) -> Verdict:
    """Let the sync of an ack and all later ones fail, kill the process, and cut the power while the next one opens.

    The ack moves rows between pages, so that a mixture of old and new pages loses some.
    """
    total = Verdict()
    for count in acked:
        program: list[Command] = [["put_many", 60], ["reopen"], ["put", 1], ["deliver", count], ["crash"]]
        with bench(server, name) as target:
            target.run_to_the_end(program)
            operations = target.operations()
        sent = next(at for at, done in enumerate(operations) if done.first.startswith(b"sent"))
        syncs = sum(done.kind is Kind.SYNC_BEGIN for done in operations[:sent])
        with bench(server, name) as target:
            target.run_to_the_end(program, Fault(SYNCS, syncs + 1, times=1 << 30))
            begun = len(target.operations())
            target.run_to_the_end([["put", 1], ["crash"]])
            label = f"the ack of {count} and all later syncs fail, power loss while {name} opens"
            total.add(crash_everywhere(target, label, count, per_cut=8, cut_from=begun, models=MODELS[2:]))
    return total


@pytest.mark.slow
def test_the_harness_sees_a_checkpoint_that_trusts_a_failed_sync(server: Server) -> None:
    """A power loss in the middle of that checkpoint leaves pages of a transaction that is not in the log."""
    broken = power_loss_in_recovery(server, f"standin:{Flaw.LOG_NOT_REWRITTEN.name}", (9, 21))
    whole = power_loss_in_recovery(server, "standin", (9, 21, 45))

    assert_sees(broken, "lost:", "malformed")
    assert not whole.failures, str(whole)


def run_interrupted(server: Server, name: str, commands: list[Command]) -> list[str]:
    """Run a program with interruptions, and return what was wrong with it."""
    with bench(server, name) as target:
        target.run_to_the_end([*commands, ["crash"]])
        return target.problems_in_place() + history_of(target.operations()).unprovoked


def test_the_harness_sees_a_key_that_is_taken_twice(server: Server) -> None:
    """With REPLACE, a signal handler's put and the one it interrupted overwrite each other without an error."""
    commands: list[Command] = [["interrupted", "put", False]]

    assert any("lost:" in problem for problem in run_interrupted(server, f"standin:{Flaw.REPLACE.name}", commands))
    assert run_interrupted(server, "standin", commands) == []


@pytest.mark.parametrize("way", ["put", "raise"])
def test_the_harness_sees_a_key_counter_that_moves_after_the_insert(server: Server, way: str) -> None:
    """An innocent put is refused, or a key is given out again."""
    commands: list[Command] = [["interrupted", way, True]]

    assert run_interrupted(server, f"standin:{Flaw.COUNTER_AFTER_INSERT.name}", commands)
    assert run_interrupted(server, "standin", commands) == []


@pytest.mark.parametrize("hook", [True, False])
def test_the_harness_sees_a_forked_child_close_the_connection(server: Server, hook: bool) -> None:
    """With a list as the only reference, a child's ordinary exit unlinks the parent's log."""
    commands: list[Command] = [["put", 3], ["fork", hook, "exit"], ["put", 3]]

    broken = run_interrupted(server, f"standin:{Flaw.LIST_REFERENCE.name}", commands)

    assert any("lost:" in problem for problem in broken)
    assert run_interrupted(server, "standin", commands) == []


def test_a_program_that_hangs_is_ended_and_says_where(server: Server) -> None:
    """A hang is a result with a traceback, not a test that never ends."""
    with bench(server, "standin") as target:
        status = target.run([["sleep", 600]], deadline_s=0.2)

        assert status == -signal.SIGABRT
        assert "do_sleep" in target.stderr()


def test_the_fault_libraries_are_for_child_processes_only() -> None:
    """The tests' own process is not recorded."""
    assert "FAULTS_ROOT" not in os.environ
