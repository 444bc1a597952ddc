"""Sectors that cannot be read, met by processes: a drain, the command salvage, and a tracker with the file open."""

from __future__ import annotations

import struct
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from durable_tracker.collector import Collector
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

from .tools import PROGRAMS, ROOT, preload_environment

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
EVENTS = 600
A_PAGE = 40
"""More events than one page, or two neighbours in the WAL, can hold."""


def event(number: int) -> bytes:
    """Return a page view."""
    eid = uuid.UUID(int=number << 64 | 4 << 76 | 2 << 62)
    return b'{"e":"pv","p":"srv","tv":"test","eid":"%s","dtm":"1700000000000","url":"http://h/"}' % str(eid).encode()


PLACES = {
    "the header": ("", 0),
    "the pointer map": ("", PAGE),
    "the root of the events": ("", 2 * PAGE),
    "the counts": ("", 4 * PAGE),
    "a leaf": ("", 9 * PAGE),
    "the header of the WAL": ("-wal", 0),
    "a frame": ("-wal", 32 + 9 * (PAGE + 24)),
}


@pytest.fixture(params=sorted(PLACES))
def unreadable(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Slot, dict[str, str]]:
    """A slot of which one sector cannot be read, as a kill or a close left it, and the environment that knows it."""
    suffix, first = PLACES[request.param]
    made = tmp_path / "made"
    make_private_directory(made)
    folder = tmp_path / "slot"
    make_private_directory(folder)
    slot = Slot(made, 0)
    with SqliteQueue.take(slot) as queue:
        for start in range(0, EVENTS, 20):
            queue.put_many([event(number) for number in range(start, start + 20)])
        if suffix == "-wal":
            copy_to(folder, slot)
    if not suffix:
        copy_to(folder, slot)
    copy = Slot(folder, 0)
    control = tmp_path / "piece"
    path = copy.wal if suffix else copy.database
    control.write_bytes(struct.pack("<3q", path.stat().st_ino, first, first + 511))
    return copy, {**preload_environment("eio"), "FAULTS_EIO": str(control)}


def copy_to(folder: Path, slot: Slot) -> None:
    for path in (slot.database, slot.wal):
        if path.exists():
            (folder / path.name).write_bytes(path.read_bytes())


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_a_drain_delivers_the_rest(unreadable: tuple[Slot, dict[str, str]]) -> None:
    """It exits 0, and what is left is kept beside the queue."""
    slot, environment = unreadable
    with Collector() as collector:
        done = run(environment, "-m", "durable_tracker.drain", str(slot.directory), "--to", collector.url, "--quiet")
        out = collector.eids()
    assert done.returncode == Exit.EMPTY, done.stderr
    assert EVENTS - A_PAGE <= len(out) <= EVENTS
    assert [path for path in slot.directory.iterdir() if ".salvaged-" in path.name]


@pytest.mark.slow
def test_the_command_salvage_takes_the_rest_out(unreadable: tuple[Slot, dict[str, str]]) -> None:
    """Whether verify finds it damaged or not."""
    slot, environment = unreadable
    done = run(environment, "-m", "durable_tracker", "salvage", "--force", str(slot.directory))
    assert done.returncode == Exit.EMPTY, done.stderr
    with SqliteQueue.take(Slot(slot.directory, 0)) as queue:
        assert EVENTS - A_PAGE <= queue.pending() <= EVENTS


@pytest.mark.slow
@pytest.mark.parametrize("place", sorted(PLACES))
def test_a_sector_that_fails_under_a_live_connection_costs_what_is_on_it(place: str, tmp_path: Path) -> None:
    """Puts and deliveries go on in a new file, into which the rest comes."""
    suffix, first = PLACES[place]
    control = tmp_path / "piece"
    control.write_bytes(bytes(24))
    environment = {**preload_environment("eio"), "FAULTS_EIO": str(control)}
    program = PROGRAMS / "meet_an_unreadable_sector.py"
    done = run(environment, str(program), str(tmp_path / "slot"), str(control), suffix, str(first))
    assert done.returncode == 0, done.stderr
    out, pending = map(int, done.stdout.split())
    assert out >= EVENTS - A_PAGE
    assert pending == 0
