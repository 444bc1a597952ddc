"""Memory that is short: a backlog much larger than it drains, and a `track` that fails loses nothing acknowledged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from processes import Program, Site

from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A place whose children reserve no memory for threads that they may have one day."""
    return Site(tmp_path, environment={"MALLOC_ARENA_MAX": "1"})


@pytest.mark.parametrize(
    ("count", "limit_mib"), [(120, 24), pytest.param(1200, 32, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_a_backlog_larger_than_the_memory_drains(site: Site, count: int, limit_mib: int) -> None:
    """Half a megabyte each: what is read at once is bounded by bytes, not by rows."""
    make_private_directory(site.slots)
    payload = b'{"e":"ue","ue_pr":"' + b"x" * 500_000 + b'"}'
    with SqliteQueue.take(Slot(site.slots, 0), durability="interval") as queue:
        queue.put_many([payload] * count)
    site.run(Program("drains_in_little_memory", limit_mib=limit_mib), timeout_s=100)
    assert site.says(f"sent {count} empty 0")


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_track_without_memory_raises_and_loses_nothing(site: Site, durability: str) -> None:
    """What returned is stored, also what came before and after; the ledger agrees with the rows."""
    site.run(Program("starved", durability=durability), timeout_s=100)
    (failed,) = site.noted("failed")
    assert int(failed) > 0
    assert {"first", "after-0", "after-4"} <= set(site.noted("ack"))
    site.assert_kept()
    assert site.ledger().pending >= len(site.noted("ack"))
