"""The engine in memory: several consumers of one queue, whose claims run out, are taken over, and come back late."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from fakes import ScriptedCollector, VirtualClock, event, refusal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.policy import Delivery, DeliverySettings, Result
from durable_tracker.delivery.transport import Reply
from durable_tracker.drain import main as drain
from durable_tracker.engines.memory import MemoryEngine, MemoryQueue
from durable_tracker.errors import ConfigurationError, QueueClosedError

LEASE_S = 10.0


def numbers(queue: MemoryQueue, after: int = 0, count: int = 1000) -> list[int]:
    return [row.key for row in queue.peek(after, count, 1 << 30)]


class Consumers(RuleBasedStateMachine):
    """The model: which event is whose, until when, by a clock that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.engine = MemoryEngine(lease_s=LEASE_S, monotonic=self.clock.monotonic)
        self.consumers = [self.engine.queue("n") for _ in range(3)]
        self.put_count = 0
        self.gone: dict[int, str] = {}
        self.claims: list[dict[int, tuple[bytes, float]]] = [{}, {}, {}]  # by consumer and key
        self.keys = [0, 0, 0]

    @rule(consumer=st.integers(0, 2), count=st.integers(1, 5))
    def put(self, consumer: int, count: int) -> None:
        self.consumers[consumer].put_many([event(self.put_count + n) for n in range(1, count + 1)])
        self.put_count += count

    @rule(consumer=st.integers(0, 2), count=st.integers(1, 6), is_fresh=st.booleans())
    def peek(self, consumer: int, count: int, is_fresh: bool) -> None:
        """Nobody else holds what is handed out, and what is new has a key above all others."""
        after = self.keys[consumer] if is_fresh else 0
        rows = self.consumers[consumer].peek(after, count, 1 << 30)
        assert len(rows) <= count
        assert [row.key for row in rows] == sorted({row.key for row in rows})
        for row in rows:
            assert row.key > after
            for other, claims in enumerate(self.claims):
                held = [until for payload, until in claims.values() if payload == row.payload]
                assert other == consumer or all(until <= self.clock.monotonic() for until in held)
            if row.key in self.claims[consumer]:
                assert self.claims[consumer][row.key][0] == row.payload
            self.claims[consumer][row.key] = (row.payload, self.clock.monotonic() + LEASE_S)
            self.keys[consumer] = max(self.keys[consumer], row.key)

    @rule(consumer=st.integers(0, 2))
    def hold(self, consumer: int) -> None:
        """Says which are still its own: those whose time is not over, if they are there."""
        now = self.clock.monotonic()
        mine = {key: claim for key, claim in self.claims[consumer].items() if claim[1] > now}
        held = self.consumers[consumer].hold(sorted(self.claims[consumer]))
        assert set(held) == {key for key, (payload, _) in mine.items() if payload not in self.gone_payloads()}
        for key in held:
            self.claims[consumer][key] = (mine[key][0], now + LEASE_S)

    @rule(consumer=st.integers(0, 2), action=st.sampled_from(["ack", "reject", "expire"]), share=st.integers(1, 4))
    def remove(self, consumer: int, action: str, share: int) -> None:
        """Late or not, twice or not: an event goes once."""
        queue = self.consumers[consumer]
        keys = sorted(self.claims[consumer])[::share]
        if action == "ack":
            queue.ack(keys)
        elif action == "expire":
            queue.expire(keys)
        else:
            queue.reject(keys, 400, "no")
        for key in keys:
            payload, until = self.claims[consumer].pop(key)
            del until
            self.note_gone(payload, action)

    def note_gone(self, payload: bytes, action: str) -> None:
        number = next(n for n in range(1, self.put_count + 1) if event(n) == payload)
        self.gone.setdefault(number, action)

    def gone_payloads(self) -> set[bytes]:
        return {event(number) for number in self.gone}

    @rule(consumer=st.integers(0, 2), is_all=st.booleans())
    def release(self, consumer: int, is_all: bool) -> None:
        after = 0 if is_all else self.keys[consumer] // 2
        self.consumers[consumer].release(after)
        self.claims[consumer] = {key: claim for key, claim in self.claims[consumer].items() if key <= after}

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S * 2]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: bool(self.put_count))
    @rule(consumer=st.integers(0, 2))
    def a_consumer_dies(self, consumer: int) -> None:
        """Another one begins in its place."""
        self.consumers[consumer].close()
        self.consumers[consumer] = self.engine.queue("n")
        self.claims[consumer], self.keys[consumer] = {}, 0

    @invariant()
    def the_ledger_adds_up(self) -> None:
        ledger = self.consumers[0].ledger()
        fates = list(self.gone.values())
        assert (ledger.accepted, ledger.pending) == (self.put_count, self.put_count - len(fates))
        assert (ledger.delivered, ledger.dead, ledger.expired) == tuple(map(fates.count, ("ack", "reject", "expire")))

    def teardown(self) -> None:
        """Whatever happened, what is pending is delivered once by whoever drains."""
        self.clock.advance(2 * LEASE_S)
        collector = ScriptedCollector()
        delivery = deliver(self.consumers[0], collector, self.clock)
        assert delivery.run() is Result.EMPTY
        assert sorted(collector.received) == sorted(set(range(1, self.put_count + 1)) - set(self.gone))


def deliver(queue: MemoryQueue, collector: Any, clock: VirtualClock) -> Delivery:
    return Delivery(
        queue,
        collector,
        settings=DeliverySettings(batch_size=5),
        wait=clock.wait,
        stopping=clock.stopping,
        wall_ms=clock.wall_ms,
        monotonic=clock.monotonic,
    )


def test_consumers_of_one_queue_lose_nothing_and_hold_nothing_twice() -> None:
    """Whatever they claim, hold, release and remove, in time or late."""
    run_state_machine_as_test(
        Consumers, settings=settings(max_examples=150, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    )


def test_a_late_ack_counts_once() -> None:
    """A consumer that was stopped for longer than its claim comes back after another one has delivered."""
    clock = VirtualClock()
    engine = MemoryEngine(lease_s=LEASE_S, monotonic=clock.monotonic)
    slow, other = engine.queue("n"), engine.queue("n")
    slow.put_many([event(1), event(2)])
    keys = numbers(slow)
    assert numbers(other) == []
    clock.advance(LEASE_S)
    theirs = numbers(other)
    assert (list(slow.hold(keys)), len(theirs)) == ([], 2)
    other.ack(theirs)
    slow.ack(keys)
    assert (slow.ledger().delivered, slow.ledger().pending) == (2, 0)


def test_drainers_of_one_queue_deliver_each_event_once_and_find_the_poison() -> None:
    """In turns, and one of them is refused by its collector: it gives back what it had."""
    clock = VirtualClock()
    engine = MemoryEngine(lease_s=600.0, monotonic=clock.monotonic)
    first, second = engine.queue("n"), engine.queue("n")
    first.put_many([event(number) for number in range(200)])
    down = deliver(first, ScriptedCollector(lambda *_: Reply(status=None, error="down")), clock)
    assert down.run(give_up_on_trouble=True) is Result.TROUBLE
    collector = ScriptedCollector(lambda _, eids: refusal(400) if 7 in eids else Reply(status=200))
    healthy = deliver(second, collector, clock)
    while second.pending():
        result = healthy.run()
        assert result in (Result.SUSPECTS, Result.EMPTY)
        clock.advance(max((healthy.state.next_attempt_at or 0) - clock.monotonic(), 0.0))
        second.put(event(1000 + len(collector.requests))) if result is Result.SUSPECTS else None
    assert second.ledger().dead == 1
    assert [letter.payload for letter in second.dead_letters()] == [event(7)]
    assert len(set(collector.received)) == len(collector.received)


def test_an_address_names_an_engine_of_this_process_alone() -> None:
    """Events in memory would be lost with whoever asked for it by mistake."""
    engine = MemoryEngine("mine")
    assert MemoryEngine.at("memory:mine") is engine
    with pytest.raises(ConfigurationError, match="memory:other"):
        MemoryEngine.at("memory:other")
    assert drain(["memory:other"]) == 2


def test_a_claim_that_a_request_may_outlast_is_refused() -> None:
    """Others would send the same events meanwhile."""
    transport = HttpTransport("http://127.0.0.1:9/", deadline_s=30.0)
    with pytest.raises(ConfigurationError, match="lease: 60 s"):
        deliver(MemoryQueue(lease_s=60.0), transport, VirtualClock())
    deliver(MemoryQueue(lease_s=90.0), transport, VirtualClock()).close()
    transport.close()


def test_a_closed_queue_takes_nothing() -> None:
    queue = MemoryQueue()
    queue.close()
    queue.close()
    with pytest.raises(QueueClosedError):
        queue.put(b"{}")


def test_a_put_in_a_signal_handler_is_taken_in_by_the_call_that_it_interrupted() -> None:
    """Whatever that is."""
    queue = MemoryQueue()
    count = 0

    def handler(_number: int, _frame: object) -> None:
        nonlocal count
        count += 1
        queue.put(b"from the handler")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            queue.put(b"put")
            count += 1
            queue.peek(0, 1, 100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (queue.ledger().accepted, queue.pending()) == (count, count)
    queue.ack(numbers(queue, count=10**9))
    assert queue.is_empty()


def test_a_child_has_queues_of_its_own() -> None:
    """Else it would send its parent's events too."""
    engine = MemoryEngine()
    mine = engine.queue("n")
    mine.put(b"the parent's")
    with mine._store.lock:
        pid = os.fork()
        if pid == 0:
            theirs = engine.queue("n")
            theirs.put(b"the child's")
            os._exit(0 if theirs.pending() == 1 and len(engine.places()) == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert mine.pending() == 1


def test_a_suspect_is_asked_about_before_its_claim_runs_out() -> None:
    """Else it would come back as an event that nobody knows."""
    clock = VirtualClock()
    queue = MemoryQueue(lease_s=5.0, monotonic=clock.monotonic)
    queue.put(event(7))
    delivery = deliver(queue, ScriptedCollector(lambda *_: refusal(400)), clock)
    assert delivery.run() is Result.SUSPECTS
    assert 0 < (delivery.state.next_attempt_at or 0) - clock.monotonic() <= 2.5


def test_dead_letters_are_listed_by_their_keys() -> None:
    """Whichever was refused first, so that no page leaves one out."""
    queue = MemoryQueue()
    queue.put_many([event(1), event(2), event(3)])
    first, second, third = numbers(queue)
    queue.reject([third, first, second], 400, "no")
    after, found = 0, 0
    while letters := queue.dead_letters(1, after):
        after = letters[-1].key
        found += 1
    assert found == 3
