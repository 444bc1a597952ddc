"""Reading a slot that a kill has left, at each file operation: nothing is written, and what is said is what is there.

Two differences are allowed, where a torn write looks like damage to whoever opens the slot. Of a transaction that was
never committed an opening takes in what is intact: nobody was told that those events are stored. And a file that it
sets aside is taken over into a new one, in which the same events have other keys.
"""

from __future__ import annotations

import json
import os
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from looking import READING, age, files, lines, said, said_by_processes

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

from .campaign import KILLABLE, STEADY, Fault, Server, bench
from .judge import history_of
from .log import Mode

if TYPE_CHECKING:
    from pathlib import Path

    from .program import Command

_SPARSE = 1 if os.environ.get("CAMPAIGN") == "whole" else 8
"""Of so many kills one is tried."""

PROGRAM: list[Command] = [
    *STEADY, ["put_many", 30], ["deliver", 20], ["put", 8], ["reject", 3], ["requeue", 2], ["put", 3],
    ["deliver", 12], ["shrink"], ["put", 2],
]  # fmt: skip
"""Puts, acks, refuses, requeues, checkpoints, vacuums."""
MODES = (Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.KILL_TORN)
EVERY = 29  # of so many looks, one is by processes as well


def problems(queue_dir: Path, promised: set[int], *, by_processes: bool) -> list[str]:
    """Return what is wrong with what the commands say of slot 0, compared with what an opening finds in it.

    Args:
        queue_dir: where the slot is.
        promised: the numbers of the events that were acknowledged.
        by_processes: whether to run the commands in processes as well.
    """
    age(queue_dir)
    before = files(queue_dir)
    answers = said(queue_dir)
    if by_processes and said_by_processes(queue_dir) != answers:
        return [f"processes say something else than {answers}"]
    if files(queue_dir) != before:
        return ["a file was changed"]
    slot = Slot(queue_dir / "emitter", 0)
    if not slot.database.exists():
        return [f"nothing is there, but it is said: {one}" for one in answers if one[0] != Exit.USAGE]
    failed = [f"{line[0]}: {code} {err}" for line, (code, _, err) in zip(READING, answers, strict=True) if code]
    if failed:
        return failed
    known = set(slot.directory.glob("*aged-*"))
    status, oldest, newest, letters, exported = (lines(out) for _, out, _ in answers)
    with SqliteQueue.take(slot) as queue:
        is_rebuilt = set(slot.directory.glob("*aged-*")) != known  # damaged, salvaged
        rows = [(row.key, json.loads(row.payload)) for row in queue.peek(0, 1 << 30, 1 << 40)]
        dead = [(one.key, json.loads(one.payload)) for one in queue.dead_letters(1 << 30, -(1 << 62))]
        there = queue.ledger()

    def comparable(them: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        return sorted(((0, event) for _, event in them), key=lambda one: one[1]["i"]) if is_rebuilt else them

    rows, dead = comparable(rows), comparable(dead)
    listed = comparable([(one["key"], one["event"]) for one in oldest])
    taken_in = [row for row in rows if row not in listed and row[1]["i"] not in promised]
    rows = [row for row in rows if row not in taken_in]
    said_of_it = Ledger(**status[0]["totals"]["ledger"])
    found = [f"{said_of_it} does not add up"] * (not said_of_it.adds_up)
    expected = replace(there, accepted=there.accepted - len(taken_in), pending=there.pending - len(taken_in))
    if said_of_it != expected:
        found.append(f"status says {said_of_it}, and there is {expected}")
    for name, one, expected_rows in (
        ("peek", oldest, rows),
        ("peek --newest", newest, rows),
        ("dead-letters", letters, dead),
        ("export", exported, comparable(rows + dead)),
    ):
        if comparable([(line["key"], line["event"]) for line in one]) != expected_rows:
            found.append(f"{name} lists {len(one)}, and there are {len(expected_rows)}, or others")
    return found


def look_after_kills(server: Server, name: str, mode: Mode, *, stride: int, start: int = 1) -> tuple[int, list[str]]:
    """Kill a process at every `stride`th file operation, look, kill its successor at some operation, and look again."""
    rng = random.Random(f"{name} {mode}")
    looks = 0
    wrong: list[str] = []
    for nth in range(start, 100_000, stride):
        with bench(server, name) as target:
            again = rng.randint(1, 60)
            for fault in (Fault(KILLABLE, nth, mode=mode), Fault(KILLABLE, again, mode=mode)):
                status = target.run(PROGRAM, fault)
                if status != -signal.SIGKILL:
                    assert status == 0, target.stderr()
                    return looks, wrong
                looks += 1
                promised = set(history_of(target.operations()).stored)
                found = problems(target.root / "queue", promised, by_processes=looks % EVERY == 0)
                wrong += [f"{mode.name} at operation {nth}, then {again}: {one}" for one in found]
    raise AssertionError("it is never over")


@pytest.mark.parametrize("mode", MODES)
def test_what_some_kills_have_left_is_read_as_it_is(server: Server, mode: Mode) -> None:
    """A few of those of the slow tier."""
    looks, wrong = look_after_kills(server, "queue:small_wal", mode, stride=41, start=11)
    assert wrong == []
    assert looks > 6


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "stride"), [("queue:small_wal", _SPARSE), ("queue", 5 * _SPARSE), ("queue:interval", 5 * _SPARSE)]
)
def test_what_a_kill_has_left_at_any_file_operation_is_read_as_it_is(
    server: Server, name: str, stride: int, mode: Mode
) -> None:
    """Before it, after it, and in the midst of it."""
    looks, wrong = look_after_kills(server, name, mode, stride=stride)
    assert wrong == []
    print(f"{looks} looks")
    assert looks * stride > 200
