"""Rests of a drain beside an application that tracks."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import OK, MemoryQueue, ScriptedCollector, event, rig

from durable_tracker.delivery import throttle as throttle_module
from durable_tracker.delivery.policy import Result
from durable_tracker.delivery.throttle import PIECE, Throttle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.delivery.transport import Reply
    from durable_tracker.engines.queue import Row


class Site:
    """A throttle on a clock of its own, and an application that tracks when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpu_s = self.now_s = self.rested_s = 0.0
        self.high = 1000
        self.is_hurried = False
        clock = SimpleNamespace(thread_time=lambda: self.cpu_s, monotonic=lambda: self.now_s, sleep=self.sleep)
        monkeypatch.setattr(throttle_module, "time", clock)
        self.throttle = Throttle(lambda: self.high, lambda: self.is_hurried)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.rested_s += seconds
        self.now_s += seconds

    def work(self, seconds: float, *, waiting: float = 0.0) -> float:
        """Work, wait for the collector, and rest; return for how long."""
        self.cpu_s += seconds
        self.now_s += seconds + waiting
        before = self.rested_s
        self.throttle.rest()
        return self.rested_s - before

    def batch(self, *, came: int, count: int = 300) -> None:
        self.high += came
        self.throttle.delivered(count)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


def test_a_drain_that_disturbs_nobody_does_not_rest(site: Site) -> None:
    """No event comes in."""
    for _ in range(100):
        site.batch(came=0)
        assert site.work(0.001) == 0
    assert not site.throttle.is_gentle


def test_beside_an_application_a_drain_takes_a_twentieth_of_a_core(site: Site) -> None:
    """Whatever the size of the pieces."""
    site.batch(came=1)
    assert site.throttle.is_gentle
    site.work(0.05)
    start_s, worked_s = site.now_s, site.cpu_s
    for piece_s in [0.0002, 0.001, 0.0001, 0.0015] * 50:
        site.batch(came=1)
        site.work(piece_s)
    assert (site.cpu_s - worked_s) / (site.now_s - start_s) == pytest.approx(0.05, rel=0.15)


def test_the_collectors_time_counts_as_rest(site: Site) -> None:
    """What is left is long enough for a thread that waits to have its turn."""
    site.batch(came=1)
    for _ in range(5):
        site.batch(came=1)
        assert 0 < site.work(0.001, waiting=0.05) < 0.001


def test_one_long_request_does_not_pay_for_all_that_follow(site: Site) -> None:
    """Nor does one long piece of work: what is on account is bounded."""
    site.batch(came=1)
    site.work(0.0001, waiting=100.0)
    site.batch(came=1)
    assert sum(site.work(0.001) for _ in range(20)) > 0.2
    site.batch(came=1)
    site.cpu_s += 100.0
    assert 0 < site.work(0.0) < 0.1


def test_the_application_is_remembered_for_a_moment(site: Site) -> None:
    """Not every batch meets an event that comes in."""
    site.batch(came=1)
    site.now_s += 0.2
    site.batch(came=0)
    assert site.work(0.001) > 0
    site.now_s += 0.1
    assert site.work(0.001) == 0


def test_no_rest_while_somebody_waits(site: Site) -> None:
    """`flush` and `close` do."""
    site.batch(came=1)
    site.is_hurried = True
    assert site.work(0.01) == 0


def test_no_rest_where_the_queue_would_grow(site: Site) -> None:
    """Events come in more than half as fast as they are delivered."""
    site.batch(came=150, count=300)
    assert site.work(0.001) > 0
    site.batch(came=151, count=300)
    assert site.work(0.001) == 0


class Gentle(Throttle):
    """Always gentle, and never asleep."""

    def __init__(self) -> None:
        super().__init__(lambda: 0, lambda: False)
        self.rests = 0

    @property
    def is_gentle(self) -> bool:
        return True

    def rest(self) -> None:
        self.rests += 1


class PeekedQueue(MemoryQueue):
    peeked: list[int]

    def peek(self, after: int, count_max: int, size_max: int) -> list[Row]:
        found = super().peek(after, count_max, size_max)
        self.peeked.append(len(found))
        return found


class Threads(ScriptedCollector):
    seen: set[str]

    def send(self, events: Sequence[bytes]) -> Reply:
        self.seen.add(threading.current_thread().name)
        return super().send(events)


def drain(throttle: Throttle | None, **settings: Any) -> tuple[list[list[int]], list[int], set[str]]:
    queue = PeekedQueue([event(number, pad=(number * 37) % 90) for number in range(1, 1001)])
    queue.peeked = []
    transport = Threads(lambda _n, _eids: OK)
    transport.seen = set()
    made = rig(queue, transport, throttle=throttle, **settings)
    assert made.delivery.run() is Result.EMPTY
    made.delivery.close()
    return transport.requests, queue.peeked, transport.seen


@pytest.mark.parametrize(
    "settings", [{"batch_size": 100}, {"batch_size": 500, "byte_limit": 20_000}, {"batch_size": 7}, {"batch_size": 1}]
)
def test_batches_are_the_same_when_read_in_pieces(settings: dict[str, int]) -> None:
    """Pieces are small, there is a rest after each, and the reading thread sends."""
    throttle = Gentle()
    gentle, peeked, threads = drain(throttle, **settings)
    hurried, *_ = drain(None, **settings)
    assert [number for batch in gentle for number in batch] == list(range(1, 1001))
    assert len(gentle) == len(hurried)
    assert max(peeked) <= PIECE
    assert throttle.rests >= len(gentle)
    assert threads == {threading.current_thread().name}


def test_several_senders_send_from_threads_of_their_own_all_the_same() -> None:
    """One that waits for a distant collector must not hold up the others."""
    *_, threads = drain(Gentle(), batch_size=50, senders=4)
    assert threads - {threading.current_thread().name}
