"""The worker's thread: when it sleeps, wakes, gathers, stops, and what it outlives."""

from __future__ import annotations

import _thread
import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fakes import events_in
from processes import wait_until

from durable_tracker.collector import Collector, Fault
from durable_tracker.delivery.policy import Delivery, DeliverySettings
from durable_tracker.delivery.transport import Reply
from durable_tracker.emitters import Emitter
from durable_tracker.engines.addresses import engine_of
from durable_tracker.engines.engine import QueueSettings
from durable_tracker.errors import QueueFullError, StorageError
from durable_tracker.protocol.endpoint import Endpoint
from durable_tracker.runtime import worker as worker_module
from durable_tracker.runtime.worker import NEVER, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from durable_tracker.engines.engine import Source
    from durable_tracker.engines.queue import Queue


EVENT = b'{"e":"pv","n":"%d"}'


class GatedTransport:
    """Records what it is given; answers when the gate is open, with `status`."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []

    def send(self, events: Sequence[bytes]) -> Reply:
        self.batches.append([json.loads(event)["n"] for event in events])
        self.entered.set()
        assert self.gate.wait(20)
        return Reply(status=self.status, error=None if self.status == 200 else "no")

    def close(self) -> None:
        pass


class Rig:
    """A worker on a real queue with a transport that does as it is told."""

    def __init__(
        self, queue: Queue, source: Source, *, linger_s: float = 0.0, gather: int = 10, **settings: Any
    ) -> None:
        self.queue = queue
        self.transport = GatedTransport()
        self.worker = Worker(
            queue,
            lambda queue, **hooks: Delivery(queue, self.transport, settings=DeliverySettings(**settings), **hooks),
            linger_s=linger_s,
            gather=gather,
            source=source,
        )

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.queue.put(EVENT % number)
            if self.queue.puts >= self.worker.wake_at:
                self.worker.wake()

    def is_empty(self) -> bool:
        return self.queue.is_empty()

    def wait_until_asleep(self) -> None:
        wait_until(lambda: self.worker.wake_at == self.queue.puts + 1)


@pytest.fixture
def rig(engine: dict[str, Any]) -> Iterator[Callable[..., Rig]]:
    """Make workers that are stopped at the end."""
    made: list[Rig] = []
    keeper = engine_of(**engine)

    def make(**settings: Any) -> Rig:
        source = keeper.source("n", Endpoint.parse("c.example"), replaces=(), settings=QueueSettings())
        made.append(Rig(source.open(), source, **settings))
        return made[-1]

    yield make
    for one in made:
        one.transport.gate.set()
        one.worker.stop()
        assert one.worker.join(10)
        one.queue.close()


def test_an_event_that_was_put_is_delivered(rig: Callable[..., Rig]) -> None:
    """A sleeping worker is woken by the put that it waits for."""
    one = rig()
    one.worker.start()
    for number in range(5):
        one.wait_until_asleep()
        one.put(number)
        wait_until(one.is_empty)
    assert one.transport.batches == [["0"], ["1"], ["2"], ["3"], ["4"]]


def test_a_backlog_is_delivered_at_the_start(rig: Callable[..., Rig]) -> None:
    """What an earlier owner left goes out without a put."""
    one = rig()
    one.put(1, 2, 3)
    one.worker.start()
    wait_until(one.is_empty)
    assert one.transport.batches == [["1", "2", "3"]]


def test_events_gather_while_the_first_one_lingers(rig: Callable[..., Rig]) -> None:
    """A full batch goes at once; until then the worker waits, up to the linger."""
    one = rig(linger_s=60, gather=3)
    one.worker.start()
    one.wait_until_asleep()
    one.put(1)
    wait_until(lambda: one.worker.wake_at == 3)
    one.put(2)
    assert one.transport.batches == []
    one.put(3)
    wait_until(one.is_empty)
    assert one.transport.batches == [["1", "2", "3"]]


def test_a_linger_ends_by_itself(rig: Callable[..., Rig]) -> None:
    """A lonely event does not wait for others for ever."""
    one = rig(linger_s=0.05, gather=100)
    one.worker.start()
    one.wait_until_asleep()
    one.put(1)
    wait_until(one.is_empty)


def test_a_flush_ends_the_linger_and_says_that_the_queue_is_empty(rig: Callable[..., Rig]) -> None:
    """Whoever flushes does not wait for more events."""
    one = rig(linger_s=60, gather=100)
    one.worker.start()
    one.wait_until_asleep()
    one.put(1)
    started_at = time.monotonic()
    assert one.worker.flush(10)
    assert time.monotonic() - started_at < 5


def test_the_worker_sleeps_after_a_flush(rig: Callable[..., Rig]) -> None:
    """Also when the poke found nothing to do: it must not run in circles."""
    one = rig()
    one.worker.start()
    peeks = 0
    real = one.queue.peek

    def peek(*args: int) -> Any:
        nonlocal peeks
        peeks += 1
        return real(*args)

    one.queue.peek = peek  # type: ignore[assignment, method-assign]
    for _ in range(3):
        one.worker.poke()
    one.wait_until_asleep()
    one.put(1)
    assert one.worker.flush(10)
    one.worker.poke()
    settled = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > settled)
    assert peeks < 20


def test_a_put_wakes_the_worker_though_an_earlier_put_says_so_late(rig: Callable[..., Rig]) -> None:
    """A wake that comes after its event was delivered must not take the next put's mark away."""
    one = rig()
    one.worker.start()
    one.wait_until_asleep()
    one.worker.wake()  # of a put whose event is long gone
    one.wait_until_asleep()
    one.put(1)
    wait_until(one.is_empty, 5)


def test_a_flush_gives_up_when_the_collector_is_found_down(rig: Callable[..., Rig]) -> None:
    """It makes one attempt, also while backing off, and waits neither for the backoff nor for its own timeout."""
    one = rig(max_retry_delay_seconds=3600)
    one.transport.status = None
    one.put(1)
    one.worker.start()
    wait_until(lambda: one.worker.state.state == "backing_off")
    attempts = len(one.transport.batches)
    started_at = time.monotonic()
    assert not one.worker.flush(None)
    assert time.monotonic() - started_at < 5
    assert attempts < len(one.transport.batches)
    one.transport.status = 200
    assert one.worker.flush(10)


def test_a_flush_keeps_to_its_timeout(rig: Callable[..., Rig]) -> None:
    """A request that takes long is not waited for."""
    one = rig()
    one.transport.gate.clear()
    one.put(1)
    one.worker.start()
    assert one.transport.entered.wait(10)
    started_at = time.monotonic()
    assert not one.worker.flush(0.1)
    assert time.monotonic() - started_at < 2


def test_a_flush_does_not_wait_for_what_comes_later(rig: Callable[..., Rig]) -> None:
    """With a producer that never rests, flush returns all the same."""
    one = rig()
    one.worker.start()
    is_over = threading.Event()

    def produce() -> None:
        number = 0
        while not is_over.is_set():
            one.put(number)
            number += 1

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        assert one.worker.flush(10)
    finally:
        is_over.set()
        producer.join()


def test_stop_signals_and_join_waits_and_both_can_be_called_twice(rig: Callable[..., Rig]) -> None:
    """A backoff of an hour ends at once; what is pending stays."""
    one = rig(max_retry_delay_seconds=3600)
    one.transport.status = None
    one.put(1)
    one.worker.start()
    wait_until(lambda: one.worker.state.state == "backing_off")
    one.worker.stop()
    one.worker.stop()
    assert one.worker.join(5)
    assert one.worker.join(0)
    assert not one.is_empty()
    assert not one.worker.flush(5)


def test_join_keeps_to_its_timeout(rig: Callable[..., Rig]) -> None:
    """A request in flight holds it up no longer than that."""
    one = rig()
    one.transport.gate.clear()
    one.put(1)
    one.worker.start()
    assert one.transport.entered.wait(10)
    one.worker.stop()
    started_at = time.monotonic()
    assert not one.worker.join(0.1)
    assert not one.worker.join(-5)
    assert time.monotonic() - started_at < 2


def test_a_worker_that_was_never_started_has_nothing_to_wait_for(rig: Callable[..., Rig]) -> None:
    """Join and flush return at once."""
    one = rig()
    one.put(1)
    assert one.worker.join(0)
    assert not one.worker.flush(None)


def test_no_thread_at_shutdown_is_no_error(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that the interpreter refuses does nothing, and can be made again."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    one = rig()
    one.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        one.worker.start()
        assert not one.worker.has_started
        assert not one.worker.flush(None)
    one.worker.start()
    wait_until(one.is_empty)


@pytest.mark.parametrize("place", ["peek", "ack", "send"])
def test_the_thread_outlives_what_nobody_foresaw(
    rig: Callable[..., Rig], place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory can be short for a moment: the flush is told, the events are delivered later, each once."""
    monkeypatch.setattr(worker_module, "_STORAGE_RETRY_S", 0.2)
    one = rig()
    one.worker.start()
    one.wait_until_asleep()
    is_short = True
    owner: Any = Delivery if place == "send" else one.queue
    name = "_submit" if place == "send" else place
    real = getattr(owner, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if is_short:
            raise MemoryError("payload")
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, fail)
    one.put(1, 2)
    assert not one.worker.flush(20)
    is_short = False
    assert one.worker.flush(20) or one.worker.flush(20)
    assert sorted(number for batch in one.transport.batches for number in batch) == ["1", "2"]
    failures = [vars(record) for record in caplog.records if vars(record)["event"] == "worker.failed"]
    assert "MemoryError at " in failures[0]["error"]
    assert "payload" not in str(failures[0]["error"])


@pytest.mark.parametrize("error", [QueueFullError("the disk is full"), StorageError("broken"), OSError(24, "too many")])
def test_the_thread_outlives_an_error_of_the_storage(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """It goes on when the storage works again."""
    monkeypatch.setattr(worker_module, "_STORAGE_RETRY_S", 0.01)
    one = rig()
    failures = iter([error] * 3)
    real = one.queue.pending

    def pending() -> int:
        for failure in failures:
            raise failure
        return real()

    one.queue.pending = pending  # type: ignore[method-assign]
    one.worker.start()
    one.wait_until_asleep()
    one.put(1)
    wait_until(one.is_empty)
    assert events_in(caplog).count("worker.storage_failed") == 1


def test_a_closed_queue_ends_the_thread_quietly(rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    """An emitter that could not wait for a request closes the queue under the worker."""
    one = rig()
    one.transport.gate.clear()
    one.put(1)
    one.worker.start()
    assert one.transport.entered.wait(10)
    one.queue.close()
    one.transport.gate.set()
    assert one.worker.join(10)
    assert events_in(caplog) == []
    assert not one.worker._alive.locked()


def test_suspects_are_asked_about_when_their_time_has_come(rig: Callable[..., Rig]) -> None:
    """Not only with the next put, nor at the next look for orphans; and not more often."""
    one = rig(max_retry_delay_seconds=0.2)
    one.transport.status = 400
    one.put(1)
    one.worker.start()
    start = time.monotonic()
    wait_until(lambda: len(one.transport.batches) >= 4)
    assert len(one.transport.batches) <= 3 + (time.monotonic() - start) / 0.2
    one.transport.status = 200
    wait_until(one.is_empty)
    one.wait_until_asleep()
    assert one.worker.state.next_attempt_at is None


def test_a_full_speed_producer_wakes_the_worker_no_more_than_it_needs(rig: Callable[..., Rig]) -> None:
    """While the worker is busy a put costs it a comparison, not a signal."""
    one = rig(linger_s=60, gather=1 << 40)
    one.transport.gate.clear()
    one.put(0)
    one.worker.start()
    assert one.transport.entered.wait(10)
    assert one.worker.wake_at == NEVER
    one.put(*range(1, 200))
    assert one.worker._signals.qsize() == 0


# ── threads that do not start, or die ────────────────────────────────────────────────────────────────────────────────


def test_a_thread_that_cannot_be_started_is_tried_again_by_the_next_put(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised, it is said once, and the state is true."""
    one = rig()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        one.worker.start()
        one.put(1, 2)
        assert one.worker.why_stopped == "no thread could be started: can't start new thread"
        assert not one.worker.flush(5)
    assert events_in(caplog).count("worker.not_started") == 1
    one.put(3)
    wait_until(one.is_empty)
    assert not one.worker.why_stopped
    assert one.worker.flush(5)


def test_a_thread_that_has_died_is_started_by_the_next_put(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is thrown into it from outside may end it. It comes back after a pause, and says so once."""
    one = rig()

    class GreenletExit(BaseException):
        pass

    def killed(*_: object) -> None:
        raise GreenletExit

    monkeypatch.setattr(worker_module, "_RESTART_S_MAX", 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(one.worker, "_round", killed)
        one.worker.start()
        for number in range(1, 4):
            wait_until(lambda: one.worker.why_stopped is not None and one.worker.wake_at == 0)
            time.sleep(0.03)
            one.put(number)
        wait_until(lambda: one.worker.why_stopped is not None and one.worker.wake_at == 0)
    assert one.worker.why_stopped == "the thread has died: GreenletExit"
    time.sleep(0.03)
    one.put(4)
    wait_until(one.is_empty)
    assert not one.worker.why_stopped
    assert events_in(caplog).count("worker.died") == 1


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_a_round_that_raises_what_is_no_exception_does_not_end_the_thread(
    error: type[BaseException], rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a failed round, as any other."""
    one = rig()
    monkeypatch.setattr(worker_module, "_STORAGE_RETRY_S", 0.01)
    sound, raised = one.worker._round, threading.Event()

    def once() -> None:
        if raised.is_set():
            sound()
        else:
            raised.set()
            raise error

    monkeypatch.setattr(one.worker, "_round", once)
    one.worker.start()
    one.put(1)
    wait_until(one.is_empty)


def test_a_flush_by_a_callback_does_not_wait_for_itself(tmp_path: Path) -> None:
    """Nor does a close: the worker's thread would wait for its own end."""
    answers: list[object] = []

    def on_success(_events: object) -> None:
        start = time.monotonic()
        answers.extend([emitter.flush(), emitter.close(), time.monotonic() - start < 4])

    emitter = Emitter("localhost", queue_dir=tmp_path, transport=GatedTransport(), batch_size=1, on_success=on_success)
    emitter.put_many([EVENT % number for number in range(3)])
    wait_until(lambda: len(answers) == 3)
    assert answers == [False, False, True]


def test_a_flush_does_not_wait_until_a_collector_wants_to_be_asked_again(tmp_path: Path) -> None:
    """Also if it was another emitter of this process that was told."""
    with Collector(script=lambda _: Fault(status=503, headers={"Retry-After": "60"})) as collector:
        one = Emitter(collector.url, queue_dir=tmp_path, name="a")
        two = Emitter(collector.url, queue_dir=tmp_path, name="b", shutdown_timeout=20)
        one.put(EVENT % 1)
        assert not one.flush()
        two.put(EVENT % 2)
        start = time.monotonic()
        assert not two.flush()
        assert two.stats().state == "backing_off"
        two.close()
        one.close()
        assert time.monotonic() - start < 10
        assert collector.requests == 1
