"""Memory that is short: a backlog much larger than it drains, and a `track` that fails loses nothing acknowledged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from processes import Site

from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space")

LIMIT = """
import resource
def allow(more_mib):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (more_mib << 20), resource.RLIM_INFINITY))
"""

DRAINER = """
from pathlib import Path
from durable_tracker.delivery.policy import Delivery
from durable_tracker.delivery.state import DeliverySettings
from durable_tracker.delivery.transport import Reply
from durable_tracker.engines.sqlite.slots import Slot
from durable_tracker.engines.sqlite.queue import SqliteQueue

class Counting:
    count = 0
    def send(self, events):
        self.count += len(events)
        return Reply(status=200)
    def close(self):
        pass

queue = SqliteQueue.take(Slot(Path(QUEUE_DIR) / "test", 0))
allow({limit_mib})
transport = Counting()
settings = DeliverySettings(batch_size=500, byte_limit=150_000)
delivery = Delivery(queue, transport, settings=settings, wait=lambda _: True, stopping=lambda: False)
result = delivery.run()
note(f"sent {{transport.count}} {{result.value}} {{queue.ledger().pending}}")
queue.shrink()
queue.close()
"""

STARVED = """
from durable_tracker.errors import QueueError
tracker = make(drain=False, durability="{durability}")
track(tracker, "first")
allow(16)
hoard, failed, size = [], 0, 1 << 20
for count in range(2000):
    try:
        # Leave less and less, so that it fails now here, now there.
        hoard.append(bytearray(size))
    except MemoryError:
        size = max(size // 2, 64)
    try:
        track(tracker, f"short-{{count}}-" + "x" * (100 * (count % 50)))
    except (MemoryError, QueueError):
        failed += 1
    if failed and failed % 20 == 0:
        hoard.clear()
        size = 1 << 20
hoard.clear()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for n in range(5):
    track(tracker, f"after-{{n}}")
note(f"failed {{failed}}")
tracker.close()
"""


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
    site.run(LIMIT + DRAINER.format(limit_mib=limit_mib), timeout_s=100)
    assert site.says(f"sent {count} empty 0")


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_track_without_memory_raises_and_loses_nothing(site: Site, durability: str) -> None:
    """What returned is stored, also what came before and after; the ledger agrees with the rows."""
    site.run(LIMIT + STARVED.format(durability=durability), timeout_s=100)
    (failed,) = site.noted("failed")
    assert int(failed) > 0
    assert {"first", "after-0", "after-4"} <= set(site.noted("ack"))
    site.assert_kept()
    assert site.ledger().pending >= len(site.noted("ack"))
