"""Deliver a backlog that is larger than the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from address_space import allow
from prelude import GIVEN, QUEUE_DIR, note

from durable_tracker.delivery.policy import Delivery
from durable_tracker.delivery.state import DeliverySettings
from durable_tracker.delivery.transport import Reply
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot


class Counting:
    count = 0

    def send(self, events: Any) -> Any:
        self.count += len(events)
        return Reply(status=200)

    def close(self) -> None:
        pass


queue = SqliteQueue.take(Slot(Path(QUEUE_DIR) / "test", 0))
allow(GIVEN["limit_mib"])
transport = Counting()
settings = DeliverySettings(batch_size=500, byte_limit=150_000)
delivery = Delivery(queue, transport, settings=settings, wait=lambda _: True, stopping=lambda: False)
result = delivery.run()
note(f"sent {transport.count} {result.value} {queue.ledger().pending}")
queue.shrink()
queue.close()
