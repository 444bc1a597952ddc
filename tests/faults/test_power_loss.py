"""Power loss: what was acknowledged is there, whatever the disk kept of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from . import namespace
from .campaign import Fault, Server, Verdict, bench, crash_campaign, crash_everywhere
from .judge import history_of
from .log import Kind
from .test_harness import fsyncgate_across_restart, power_loss_in_recovery, run_interrupted

if TYPE_CHECKING:
    from .program import Command

IMAGES_MIN = 5_000


def show(verdict: Verdict) -> None:
    """Print a campaign's figures, and fail with the seeds of its failures."""
    print(verdict)
    assert not verdict.failures, str(verdict)


def test_a_few_hundred_images_lose_nothing(server: Server) -> None:
    """The smoke test of this file: one random program, both naming models, both tear sizes."""
    show(crash_campaign(server, "queue:small_wal", [1], length=5, cut_share=0.3))


def test_a_failed_sync_before_a_restart_loses_nothing(server: Server) -> None:
    """A hole that one process left in the log takes nothing with it that the next one acknowledges."""
    show(fsyncgate_across_restart(server, "queue", 17))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_images_lose_nothing(server: Server) -> None:
    """Random programs of several processes, crashed everywhere, in all models."""
    verdict = crash_campaign(server, "queue:small_wal", range(100, 110), cut_share=0.3)
    verdict.add(crash_campaign(server, "queue", range(200, 205), cut_share=0.3))

    show(verdict)
    assert verdict.opened >= IMAGES_MIN


@pytest.mark.slow
def test_concurrent_puts_lose_nothing(server: Server) -> None:
    """Several threads share commits while the power goes."""
    total = Verdict()
    for seed in range(3):
        with bench(server, "queue") as target:
            target.run_to_the_end([["threads", 6, 8], ["deliver", 20], ["threads", 3, 6], ["crash"]])
            total.add(crash_everywhere(target, "six threads on queue", seed, cut_share=0.2))
    show(total)


@pytest.mark.slow
def test_a_power_loss_while_recovering_from_one_loses_nothing(server: Server) -> None:
    """Opening the file after a kill writes too, and may be cut short as well."""
    total = Verdict()
    for seed, puts in enumerate((1, 9, 40)):
        with bench(server, "queue:small_wal") as target:
            target.run_to_the_end([["put", puts], ["put_many", 30], ["deliver", 5], ["crash"]])
            for _ in range(2):
                target.run_to_the_end([["open"], ["crash"]])
            total.add(crash_everywhere(target, f"{puts} puts, then reopening", seed, per_cut=2, cut_share=0.4))
    show(total)


@pytest.mark.slow
def test_a_failed_sync_and_a_power_loss_in_the_recovery_lose_nothing(server: Server) -> None:
    """What an earlier process failed to sync is made durable before it is checkpointed."""
    show(power_loss_in_recovery(server, "queue", (9, 21, 37, 53)))


@pytest.mark.slow
def test_the_interval_loses_at_most_what_was_acknowledged_within_it(server: Server) -> None:
    """At durability "interval" nothing older than the interval is missing, and nothing is altered."""
    total = Verdict()
    for seed in range(2):
        with bench(server, "queue:interval") as target:
            commands: list[Command] = [["paced", 80, 1.8], ["deliver", 20], ["paced", 40, 0.8], ["crash"]]
            target.run_to_the_end(commands)
            assert len(history_of(target.operations()).stored) == 120
            total.add(crash_everywhere(target, "interval", seed, cut_share=0.2))
    show(total)


@pytest.mark.slow
def test_the_interval_goes_on_after_a_failed_sync(server: Server) -> None:
    """The connection is opened anew after an error, and its new log is synced every interval too."""
    total = Verdict()
    for nth in (12, 15, 19):
        with bench(server, "queue:interval") as target:
            fault = Fault((Kind.SYNC_BEGIN,), nth)
            target.run_to_the_end([["paced", 40, 0.6], ["paced", 80, 1.8], ["crash"]], fault)
            total.add(crash_everywhere(target, f"interval, sync {nth} fails", nth, cut_share=0.15))
    show(total)


@pytest.mark.slow
def test_a_real_file_system_that_loses_its_power_loses_nothing() -> None:
    """ext4 on a loop device, shut down without flushing its journal."""
    namespace.need_ext4()
    result = namespace.run("tests.faults.ext4:rounds", {"subject": "queue", "count": 60, "seed": 1})
    broken = namespace.run("tests.faults.ext4:rounds", {"subject": "standin:SYNCHRONOUS_NORMAL", "count": 6, "seed": 1})

    print(result)
    assert result["failures"] == []
    assert result["acknowledged"] > 1000
    assert broken["failures"], "the harness does not see a store that does not sync"


@pytest.mark.parametrize("way", ["put", "raise"])
@pytest.mark.parametrize("deliver", [True, False])
def test_a_put_may_be_interrupted_at_any_byte_code(server: Server, way: str, deliver: bool) -> None:
    """A signal handler that puts an event, or raises, loses nothing and leaves no key to be given out again."""
    assert run_interrupted(server, "queue", [["interrupted", way, deliver]]) == []


def test_a_storm_of_signals_loses_nothing(server: Server) -> None:
    """Handlers of a fast timer put events between, and inside, the puts of the main thread."""
    assert run_interrupted(server, "queue", [["signals", 3000, 200], ["deliver", 100]]) == []


@pytest.mark.parametrize("hook", [True, False])
def test_a_forked_child_that_exits_takes_nothing_along(server: Server, hook: bool) -> None:
    """The parent's next events are on the disk, whether or not Python knew of the fork."""
    commands: list[Command] = [["put", 3], ["fork", hook, "exit"], ["put", 3], ["fork", hook, "at once"], ["put", 1]]

    assert run_interrupted(server, "queue", commands) == []


def test_a_full_disk_can_be_drained() -> None:
    """A queue that is opened on a full disk gives everything back, and takes events again once there is room."""
    namespace.need_tmpfs()
    result = namespace.run("tests.faults.small_disk:fill_and_drain", {"name": "queue", "size": "6m"})

    assert result["stored"] > 100
    assert result["missing"] == []
    assert result["invented"] == []
    assert result["error"] is not None
    assert (result["pending"], result["delivered"]) == (1, result["stored"])
