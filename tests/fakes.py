"""Fakes named for what they play: a queue in memory, a clock that jumps, collectors that misbehave on cue."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from durable_tracker.delivery.batches import device_time_ms
from durable_tracker.delivery.poison import GAP_S
from durable_tracker.delivery.policy import Delivery, DeliverySettings, Result
from durable_tracker.delivery.retry import Backoff
from durable_tracker.delivery.transport import ENVELOPE_SIZE, Reply
from durable_tracker.engines import memory
from durable_tracker.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    import pytest

    from durable_tracker.delivery.throttle import Throttle
    from durable_tracker.engines.queue import Row

EPOCH_MS = 1_700_000_000_000

OK = Reply(status=200)
NO_ANSWER = Reply(status=None, error="no complete answer in time")


def refusal(status: int, retry_after_s: float | None = None) -> Reply:
    """An answer that is no success."""
    return Reply(status=status, retry_after_s=retry_after_s, error=f"HTTP {status}")


def event(number: int, *, dtm: int = EPOCH_MS, pad: int = 0) -> bytes:
    """One encoded event whose eid is its number."""
    body = {"e": "se", "p": "srv", "tv": "t", "eid": str(number), "dtm": str(dtm), "se_la": "x" * pad}
    return json.dumps(body, separators=(",", ":")).encode()


class VirtualClock:
    """Time that passes only when somebody waits; the wall can be set apart from the monotonic clock."""

    def __init__(self, wall_ms: int = EPOCH_MS) -> None:
        self.elapsed_s = 0.0
        self.wall_offset_ms = wall_ms
        self.waits: list[float] = []
        self.stop_after_waits: int | None = None
        self.on_wait: Callable[[float], float | None] = lambda _: None

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed_s

    def wall_ms(self) -> int:
        return int(self.wall_offset_ms + self.elapsed_s * 1000)

    def advance(self, seconds: float) -> None:
        self.elapsed_s += seconds

    def wait(self, seconds: float) -> bool:
        """Pass the time; `on_wait` may return after how many seconds the wait is cut short."""
        self.waits.append(seconds)
        cut = self.on_wait(seconds)
        self.advance(seconds if cut is None else cut)
        return self.stopping()

    def stopping(self) -> bool:
        return self.stop_after_waits is not None and len(self.waits) >= self.stop_after_waits


class MemoryQueue(memory.MemoryQueue):
    """A queue in memory that keeps a record by the order of puts. `failing` names methods that raise StorageError."""

    def __init__(self, payloads: Iterable[bytes] = ()) -> None:
        super().__init__()
        self.delivered: list[int] = []
        self.dead: dict[int, tuple[int | None, str]] = {}
        self.expired: list[int] = []
        self.payloads: dict[int, bytes] = {}
        self.failing: Counter[str] = Counter()
        self.failing_after: Counter[str] = Counter()
        self.clock: VirtualClock | None = None
        self.put_at_s: dict[int, float] = {}
        self.peeks = 0
        self.failing_at = 0
        self.known: bytes | None = None
        self.releases = 0
        self.put_many(list(payloads))

    @property
    def rows(self) -> dict[int, bytes]:
        return {number: event.payload for number, event in self._store.events.items()}

    def lose(self, number: int) -> None:
        self._store.events.pop(number)
        self._store.count(pending=-1, evicted=1)

    def put(self, payload: bytes) -> None:
        super().put(payload)
        self.put_at_s[self.puts] = self._age_at_put(payload)
        self.payloads[self.puts] = payload

    def _age_at_put(self, payload: bytes) -> float:
        """Return when an event was put: what is there from the start as long before as its `dtm` says."""
        if self.clock is not None:
            return self.clock.elapsed_s
        tracked_ms = device_time_ms(payload)
        return 0.0 if tracked_ms is None else (tracked_ms - EPOCH_MS) / 1000

    def older(self, rows: Sequence[Row], age_s: float) -> list[Row]:
        now_s = self.clock.elapsed_s if self.clock else 0.0
        return [row for row in rows if now_s - self.put_at_s[self._numbers[row.key]] > age_s]

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        assert count_max >= 1
        assert size_max >= 1
        self.peeks += 1
        if self.peeks == self.failing_at:
            raise StorageError("this peek failed")
        self._fail("peek")
        return super().peek(after, count_max, size_max)

    def remember(self, suspects: bytes) -> None:
        self.known = suspects

    def remembered(self) -> bytes | None:
        return self.known

    def hold(self, keys: Sequence[int]) -> Sequence[int]:
        self._fail("hold")
        return super().hold(keys)

    def release(self, after: int, keep: Collection[int] = ()) -> None:
        self.releases += 1
        super().release(after, keep)

    def ack(self, keys: Sequence[int]) -> None:
        self._fail("ack")
        assert set(keys) <= self._numbers.keys(), "a key that is not there is a defect of the caller"
        self.delivered += self._gone(keys, lambda: super(MemoryQueue, self).ack(keys))
        self._fail_late("ack")

    def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
        self._fail("reject")
        gone = self._gone(keys, lambda: super(MemoryQueue, self).reject(keys, status, reason))
        self.dead |= dict.fromkeys(gone, (status, reason))

    def expire(self, keys: Sequence[int]) -> None:
        self._fail("expire")
        self.expired += self._gone(keys, lambda: super(MemoryQueue, self).expire(keys))

    def _gone(self, keys: Sequence[int], act: Callable[[], None]) -> list[int]:
        numbers = [self._numbers[key] for key in keys if self._numbers.get(key) in self._store.events]
        act()
        return numbers

    def _fail(self, method: str) -> None:
        if self.failing[method] > 0:
            self.failing[method] -= 1
            raise StorageError(f"{method} failed")

    def _fail_late(self, method: str) -> None:
        if self.failing_after[method] > 0:
            self.failing_after[method] -= 1
            raise StorageError(f"{method} failed, having done it")


def events_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names of what was logged."""
    return [vars(record)["event"] for record in caplog.records]


def eids(events: Iterable[bytes]) -> list[int]:
    """Return the numbers of events as they went out."""
    return [int(json.loads(one)["eid"]) for one in events]


class ScriptedCollector:
    """A transport that answers by a function of the request's number (from 0) and its events' numbers."""

    def __init__(self, answer: Callable[[int, list[int]], Reply] = lambda _n, _eids: OK) -> None:
        self.answer = answer
        self.requests: list[list[int]] = []
        self.bodies: list[list[bytes]] = []
        self.replies: list[Reply] = []
        self.received: list[int] = []
        self.closed = False
        self._lock = threading.Lock()

    def send(self, events: Sequence[bytes]) -> Reply:
        numbers = eids(events)
        with self._lock:
            self.requests.append(numbers)
            self.bodies.append(list(events))
            reply = self.answer(len(self.requests) - 1, numbers)
            self.replies.append(reply)
            if reply.status == 200:
                self.received += numbers
        return reply

    def send_and(self, events: Sequence[bytes], meanwhile: Callable[[], object]) -> Reply:
        reply = self.send(events)
        meanwhile()
        return reply

    def close(self) -> None:
        self.closed = True


class PoisonedCollector(ScriptedCollector):
    """Refuses every request that holds one of the poison events."""

    def __init__(self, poison: Iterable[int], status: int = 400) -> None:
        self.poison = set(poison)
        super().__init__(lambda _, numbers: refusal(status) if self.poison & set(numbers) else OK)


class NarrowCollector(ScriptedCollector):
    """Answers 413 to bodies above a limit."""

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.sizes: list[int] = []
        super().__init__()

    def send(self, events: Sequence[bytes]) -> Reply:
        size = ENVELOPE_SIZE + sum(len(one) + 1 for one in events) - 1
        self.sizes.append(size)
        self.answer = lambda _n, _eids: refusal(413) if size > self.size_max else OK
        return super().send(events)


@dataclass
class Rig:
    """A delivery with everything round it under control."""

    queue: MemoryQueue
    transport: Any
    clock: VirtualClock
    delivery: Delivery
    succeeded: list[list[dict[str, Any]]] = field(default_factory=list)
    failed: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)


class PatientDelivery(Delivery):
    """One whose `run` goes on, as a worker does, while suspects are due before long."""

    def __init__(self, clock: VirtualClock, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock

    def run(self, **kwargs: Any) -> Result:
        while True:
            result = super().run(**kwargs)
            due_at = self.state.next_attempt_at
            if result is not Result.SUSPECTS or due_at is None or due_at - self._clock.monotonic() > GAP_S:
                return result
            self._clock.advance(max(due_at - self._clock.monotonic(), 0.0))


def rig(
    queue: MemoryQueue,
    transport: Any,
    *,
    clock: VirtualClock | None = None,
    uniform: Callable[[float, float], float] = lambda _low, high: high,
    throttle: Throttle | None = None,
    **settings: Any,
) -> Rig:
    """Put a delivery together. The jitter is fixed at its upper bound."""
    clock = clock or VirtualClock()
    queue.clock = clock
    checked = DeliverySettings(**settings)
    made = Rig(queue, transport, clock, None)  # type: ignore[arg-type]
    made.delivery = PatientDelivery(
        clock,
        queue,
        transport,
        settings=checked,
        wait=clock.wait,
        stopping=clock.stopping,
        on_success=made.succeeded.append,
        on_failure=lambda delivered, events: made.failed.append((delivered, events)),
        wall_ms=clock.wall_ms,
        monotonic=clock.monotonic,
        backoff=Backoff(max_retry_delay_seconds=checked.max_retry_delay_seconds, uniform=uniform),
        throttle=throttle,
    )
    return made
