"""The emitter: its settings, its life, and what a put does on a full queue."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import events_in
from processes import wait_until

from durable_tracker import AsyncEmitter, Emitter, Ledger
from durable_tracker.collector import Collector, Fault
from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.transport import Reply
from durable_tracker.engines.sqlite.books import headroom_size
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import existing_slots
from durable_tracker.errors import (
    ConfigurationError,
    InvalidEventError,
    QueueClosedError,
    QueueFullError,
    SlotBusyError,
    StorageError,
)
from durable_tracker.runtime import worker as worker_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Make = Callable[..., Emitter]

SMALL = 128 << 10  # the smallest quota
NOBODY = "http://127.0.0.1:9"


def event(number: int, size: int = 0) -> bytes:
    return json.dumps(
        {"e": "se", "p": "srv", "tv": "t", "se_ca": "c", "se_ac": "x" * size, "eid": eid(number)}
    ).encode()


def eid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


@pytest.fixture
def make(engine: dict[str, Any]) -> Iterator[Make]:
    """Make emitters, each on a queue of its own, that are closed at the end."""
    made: list[Emitter] = []

    def make_(endpoint: str = NOBODY, **settings: Any) -> Emitter:
        settings = {**engine, "name": f"n{len(made)}", "shutdown_timeout": 0.1, **settings}
        made.append(Emitter(endpoint, **settings))
        return made[-1]

    yield make_
    for one in made:
        one.close(0)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": 5, "buffer_size": 5}, "buffer_size"),
        ({"on_success": 5}, "on_success"),
        ({"on_failure": "log"}, "on_failure"),
        ({"byte_limit": -1}, "byte_limit"),
        ({"request_timeout": 0}, "request_timeout"),
        ({"request_timeout": "10"}, "request_timeout"),
        ({"max_retry_delay_seconds": -1}, "max_retry_delay_seconds"),
        ({"max_retry_delay_seconds": float("nan")}, "max_retry_delay_seconds"),
        ({"max_retry_delay_seconds": None}, "max_retry_delay_seconds"),
        ({"buffer_capacity": 0}, "buffer_capacity"),
        ({"custom_retry_codes": [500]}, "custom_retry_codes"),
        ({"custom_retry_codes": {"500": True}}, "custom_retry_codes"),
        ({"custom_retry_codes": {500: "yes"}}, "custom_retry_codes"),
        ({"custom_retry_codes": {200: True}}, "custom_retry_codes"),
        ({"event_store": object()}, "queue_dir"),
        ({"session": object()}, "session: must be a requests.Session"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"durability": "sometimes"}, "durability"),
        ({"linger": float("inf")}, "linger"),
        ({"linger": True}, "linger"),
        ({"linger": None}, "linger"),
        ({"senders": 0}, "senders"),
        ({"report_retries": 1}, "report_retries"),
        ({"senders": None}, "senders"),
        ({"max_queue_bytes": None}, "max_queue_bytes"),
        ({"queue_dir": 5}, "queue_dir"),
        ({"queue_dir": b"/tmp"}, "queue_dir"),
        ({"transport": 5}, "transport"),
        ({"transport": HttpTransport}, "transport"),
        ({"max_queue_bytes": 1000}, "max_queue_bytes"),
        ({"on_full": "explode"}, "on_full"),
        ({"on_full": "block", "drain": False}, "on_full"),
        ({"max_age": -5}, "max_age"),
        ({"headers": "Authorization: x"}, "headers"),
        ({"headers": {"A": "b\r\nc"}}, "headers"),
        ({"drain": 1}, "drain"),
        ({"shutdown_timeout": -1}, "shutdown_timeout"),
        ({"shutdown_timeout": None}, "shutdown_timeout"),
    ],
)
def test_a_setting_that_is_not_usable_is_refused_by_name(make: Make, settings: dict[str, Any], named: str) -> None:
    """At construction, before anything was written."""
    with pytest.raises(ConfigurationError, match=named):
        make(**settings)


def test_the_official_order_of_arguments_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint, protocol, port, method, batch_size, on_success, on_failure, byte_limit, request_timeout."""
    monkeypatch.setenv("DURABLE_TRACKER_DIR", str(tmp_path))
    emitter = Emitter("c.example", "http", 8080, "post", 7, None, None, 9000, 5, 30, 100, {500: False})
    assert emitter.endpoint == "http://c.example:8080/com.snowplowanalytics.snowplow/tp2"
    assert (
        emitter.batch_size,
        emitter.byte_limit,
        emitter.request_timeout,
        emitter.max_retry_delay_seconds,
        emitter.buffer_capacity,
    ) == (7, 9000, 5, 30, 100)
    other = AsyncEmitter("c.example", thread_count=4)
    assert other.endpoint.startswith("http://")
    assert other._settings.senders == 4
    with pytest.raises(ConfigurationError, match="thread_count"):
        AsyncEmitter("c.example", thread_count=0)


@pytest.mark.sqlite
def test_nothing_is_opened_before_the_first_use(make: Make, tmp_path: Path) -> None:
    """An emitter at a module's top level costs a directory: no file, no thread."""
    before = threading.active_count()
    emitter = make()
    assert list((tmp_path / "n0").iterdir()) == []
    assert threading.active_count() == before
    assert emitter.stats().slot is None
    assert emitter.stats().ledger == Ledger()
    assert emitter.close()


def test_a_transport_of_ones_own_is_used_as_it_is(make: Make) -> None:
    """The constructor does not close it."""
    with Collector() as collector:
        transport = HttpTransport(f"{collector.url}/com.snowplowanalytics.snowplow/tp2")
        emitter = make(collector.url, transport=transport)
        emitter.put(event(1))
        assert emitter.flush(10)
        assert collector.wait(distinct=1)


def test_input_takes_what_the_official_tracker_hands_over(make: Make) -> None:
    """A dict of the protocol's fields, checked at the door."""
    emitter = make(drain=False)
    emitter.input({"e": "pv", "p": "web", "tv": "t", "url": "https://x.example", "eid": eid(1), "page": None})
    assert emitter.stats().ledger.pending == 1
    for wrong in ({}, {"e": None}, {"e": "pv", "no_such_field": "1"}):
        with pytest.raises(InvalidEventError):
            emitter.input(wrong)
    assert emitter.stats().ledger.accepted == 1


# ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flush_says_whether_the_queue_is_empty(make: Make) -> None:
    """True with a collector, False at once without one, True again when it is back."""
    with Collector() as collector:
        emitter = make(collector.url, linger=60)
        assert emitter.flush()
        emitter.put(event(1))
        assert emitter.flush()
        collector.down()
        emitter.put(event(2))
        started_at = time.monotonic()
        assert not emitter.flush()
        assert time.monotonic() - started_at < 10
        assert emitter.stats().state == "backing_off"
        assert emitter.stats().last_error
        assert not emitter.sync_flush()
        collector.up()
        assert emitter.flush(10)
        assert emitter.stats().ledger == Ledger(accepted=2, delivered=2)


def test_an_emitter_is_idle_after_a_flush(make: Make) -> None:
    """Its thread takes no time: a flush that found nothing to do must not leave it running in circles."""
    with Collector() as collector:
        emitter = make(collector.url)
        emitter.put(event(1))
        assert emitter.flush(10)
        emitter.async_flush()
        spent = time.process_time()
        over_at = time.monotonic() + 0.5
        wait_until(lambda: time.monotonic() > over_at)
        assert time.process_time() - spent < 0.3


def test_after_close_a_put_is_refused_and_flush_tells_what_was_left(make: Make) -> None:
    """The events that remain are delivered by the next owner of the slot."""
    with Collector() as collector:
        emitter = make(name="same")
        emitter.put(event(1))
        assert not emitter.close()
        assert not emitter.close()
        assert not emitter.flush()
        with pytest.raises(QueueClosedError):
            emitter.put(event(2))
        with pytest.raises(QueueClosedError):
            emitter.put_many([event(2)])
        emitter.async_flush()
        with make(collector.url, name="same", replaces=emitter.endpoint) as successor:
            successor.put(event(3))
            assert successor.flush(10)
            assert collector.wait(distinct=2)
        assert set(collector.eids()) == {eid(1), eid(3)}


def test_a_flush_beside_a_close_does_not_say_that_the_queue_is_empty(make: Make) -> None:
    """Neither one that began before nor one that begins while the other thread waits for the collector."""
    gate, entered = threading.Event(), threading.Event()

    class Slow:
        def send(self, _events: Sequence[bytes]) -> Reply:
            entered.set()
            gate.wait(20)
            return Reply(status=503)

        def close(self) -> None:
            """Hold nothing."""

    emitter = make(transport=Slow())
    emitter.put(event(1))
    assert entered.wait(10)
    answers: list[bool] = []
    early = threading.Thread(target=lambda: answers.append(emitter.flush(10)))
    closer = threading.Thread(target=lambda: answers.append(emitter.close(1)))
    early.start()
    wait_until(lambda: bool(emitter._opened and emitter._opened.worker._listeners))
    closer.start()
    wait_until(lambda: emitter._is_closed)
    answers.append(emitter.flush(1))
    for thread in (early, closer):
        thread.join(15)
    gate.set()
    assert answers == [False] * 3


def test_close_does_not_wait_for_an_outage(make: Make) -> None:
    """Nor for a backoff, nor for longer than it was told while a request hangs."""
    with Collector(script=lambda _: Fault(hang=True)) as collector:
        emitter = make(collector.url, linger=0.0)
        emitter.put(event(1))
        assert collector.wait(requests=1)
        started_at = time.monotonic()
        assert not emitter.close(0.2)
        assert time.monotonic() - started_at < 2
    down = make(shutdown_timeout=60.0)
    down.put(event(1))
    wait_until(lambda: down.stats().state == "backing_off")
    started_at = time.monotonic()
    assert not down.close()
    assert time.monotonic() - started_at < 2


def test_close_beside_threads_that_put_loses_nothing(make: Make, tmp_path: Path) -> None:
    """Each put either returned, and its event is there, or said that the emitter is closed."""
    emitter = make(name="closing", drain=False)
    emitter.put(event(0))
    accepted: list[int] = [0]

    def work(first: int) -> None:
        for number in range(first, first + 1000):
            try:
                emitter.put(event(number))
            except QueueClosedError:
                return
            accepted.append(number)

    threads = [threading.Thread(target=work, args=(n * 1000 + 1,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 100)
    emitter.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    with make(name="closing", drain=False) as again:
        again.put(event(5001))
        pair = again._opened
        assert pair is not None
        kept = [json.loads(row.payload)["eid"] for row in pair.queue.peek(0, 1 << 30, 1 << 40)]
    assert sorted([*map(eid, accepted), eid(5001)]) == sorted(kept)


def test_many_emitters_leave_no_thread_and_no_descriptor(make: Make, tmp_path: Path) -> None:
    """Opened, used and closed, one after the other."""

    def count() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    with Collector() as collector:
        Emitter(collector.url, queue_dir=tmp_path, name="many").close()
        before: tuple[int, int] | None = None
        for number in range(40):
            with Emitter(collector.url, queue_dir=tmp_path, name="many", durability="interval") as emitter:
                emitter.put(event(number))
            if number == 5:
                before = count()
        assert before is not None
        wait_until(lambda: all(now <= then + 2 for now, then in zip(count(), before, strict=True)), 10)
        assert [path.name for path in (tmp_path / "many").glob("*.sqlite3")] == ["0.sqlite3"]


def test_the_flush_timer_sends_now_and_then(make: Make) -> None:
    """As the official emitter's; a second call replaces the first."""
    with Collector() as collector:
        emitter = make(collector.url, linger=60)
        emitter.set_flush_timer(0.05, flush_now=True)
        emitter.set_flush_timer(0.05)
        emitter.put(event(1))
        assert collector.wait(distinct=1)
        emitter.cancel_flush_timer()
        emitter.cancel_flush_timer()
        with pytest.raises(ConfigurationError, match="timeout"):
            emitter.set_flush_timer(-1)


@pytest.mark.parametrize("timeout", [0, -1, None, "5"])
def test_a_flush_timer_without_a_pause_is_refused(make: Make, timeout: Any) -> None:
    """It would flush, and start threads, as fast as it can."""
    with pytest.raises(ConfigurationError, match="timeout"):
        make().set_flush_timer(timeout)


def test_callbacks_get_the_official_arguments_after_the_commit(make: Make) -> None:
    """on_success gets the list of events; what it raises is logged and goes no further."""
    succeeded: list[list[dict[str, Any]]] = []
    pending: list[int] = []

    def on_success(events: list[dict[str, Any]]) -> None:
        pending.append(emitter.stats().ledger.pending)
        succeeded.append(events)  # last: it is what the test waits for
        raise LookupError("of the callback's own")

    with Collector() as collector:
        emitter = make(collector.url, on_success=on_success)
        emitter.put_many([event(1), event(2)])
        assert emitter.flush(10)
        wait_until(lambda: sum(map(len, succeeded)) == 2)
        assert [one["eid"] for batch in succeeded for one in batch] == [eid(1), eid(2)]
        assert pending[-1] == 0


def test_a_callback_may_track_flush_and_ask(make: Make) -> None:
    """It runs outside of all locks, on the worker's own thread."""
    seen = threading.Event()

    def on_success(events: list[dict[str, Any]]) -> None:
        if events[0]["eid"] == eid(1):
            emitter.put(event(2))
            emitter.stats()
            seen.set()

    with Collector() as collector:
        emitter = make(collector.url, on_success=on_success)
        emitter.put(event(1))
        assert seen.wait(10)
        assert collector.wait(distinct=2)


def test_the_answer_is_lost_after_the_collector_stored_the_batch(make: Make) -> None:
    """It is sent again with the same ids and the same bytes but `stm`: the collector's own comparison finds nothing."""
    with Collector(script=[Fault(reset_after_store=True)]) as collector:
        emitter = make(collector.url, max_retry_delay_seconds=0.01)
        emitter.put_many([event(number) for number in range(20)])
        wait_until(lambda: not emitter.stats().ledger.pending)
        assert dict.fromkeys(map(eid, range(20)), 2) == dict(collector.eids())
        assert collector.anomalies == []
        assert emitter.stats().ledger == Ledger(accepted=20, delivered=20)


# ── a full queue ─────────────────────────────────────────────────────────────────────────────────────────────────────


def fill(emitter: Emitter) -> int:
    """Put until the queue is full; return how many events are in it."""
    for number in range(10_000):
        try:
            emitter.put(event(number, 1000))
        except QueueFullError:
            break
    return emitter.stats().ledger.pending


def test_raise_tells_the_caller_and_accepts_again_when_there_is_room(make: Make) -> None:
    """The message names the setting, and nothing that was stored is touched."""
    with Collector() as collector:
        collector.down()
        emitter = make(collector.url, max_queue_bytes=SMALL)
        stored = fill(emitter)
        with pytest.raises(QueueFullError, match=f"max_queue_bytes={SMALL}"):
            emitter.put(event(10_001, 1000))
        collector.up()
        assert emitter.flush(10)
        emitter.put(event(10_002, 1000))
        assert emitter.flush(10)
        assert len(collector.eids()) == stored + 1


def test_drop_newest_counts_and_logs_what_it_drops(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A put returns, the event is gone, the statistics say so; the log has a line now and then."""
    caplog.set_level(logging.WARNING)
    emitter = make(max_queue_bytes=SMALL, on_full="drop_newest", drain=False)
    for number in range(300):
        emitter.put(event(number, 1000))
    emitter.put_many([event(number, 1000) for number in range(300, 400)])
    stats = emitter.stats()
    assert stats.ledger.accepted + stats.dropped == 400
    assert stats.ledger.accepted == stats.ledger.pending
    assert stats.dropped > 100
    assert 5 <= events_in(caplog).count("emitter.dropped_newest") <= 9


def test_drop_oldest_makes_room_and_counts_what_it_evicted(make: Make) -> None:
    """The newest events are there, in order."""
    emitter = make(max_queue_bytes=SMALL, on_full="drop_oldest", drain=False)
    for number in range(300):
        emitter.put(event(number, 1000))
    emitter.put_many([event(number, 1000) for number in range(300, 400)])
    ledger = emitter.stats().ledger
    assert 400 == ledger.accepted == ledger.pending + ledger.evicted
    pair = emitter._opened
    assert pair is not None
    kept = [json.loads(row.payload)["eid"] for row in pair.queue.peek(0, 1 << 30, 1 << 40)]
    assert [eid(number) for number in range(400 - ledger.pending, 400)] == kept


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
def test_bulk_puts_on_a_full_queue_skip_nothing_that_others_displaced(make: Make, on_full: str) -> None:
    """With several bulk producers, every event is in the ledger or counted as dropped."""
    emitter = make(max_queue_bytes=SMALL, on_full=on_full, drain=False, durability="interval")

    def work(first: int) -> None:
        for start in range(first, first + 500, 50):
            emitter.put_many([event(number, 1000) for number in range(start, start + 50)])

    threads = [threading.Thread(target=work, args=(n * 500,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    stats = emitter.stats()
    assert stats.ledger.accepted + stats.dropped == 2000
    assert stats.ledger.accepted == stats.ledger.pending + stats.ledger.evicted


def test_block_waits_for_the_collector(make: Make) -> None:
    """A put on a full queue returns when there is room, and its event is delivered as all others."""
    with Collector() as collector:
        collector.down()
        emitter = make(collector.url, max_queue_bytes=SMALL, on_full="block", max_retry_delay_seconds=0.05)
        done = threading.Event()

        def work() -> None:
            for number in range(200):
                emitter.put(event(number, 1000))
            done.set()

        threading.Thread(target=work, daemon=True).start()
        wait_until(lambda: emitter.stats().used_bytes > 0.9 * SMALL)
        assert not done.wait(0.3)
        collector.up()
        assert done.wait(20)
        assert emitter.flush(10)
        assert collector.wait(distinct=200)


@pytest.mark.parametrize("on_full", ["drop_oldest", "block"])
def test_an_event_beyond_the_quota_displaces_nothing_and_waits_for_nothing(make: Make, on_full: str) -> None:
    """No room would ever be enough for it, so the put raises, and what was stored stays."""
    emitter = make(max_queue_bytes=SMALL, on_full=on_full)
    for number in range(50):
        emitter.put(event(number, 1000))
    with pytest.raises(QueueFullError, match=f"max_queue_bytes={SMALL}"):
        emitter.put(event(51, SMALL))
    assert emitter.stats().ledger == Ledger(accepted=50, pending=50)


def test_an_event_that_fills_the_quota_displaces_all_others(make: Make) -> None:
    """What can fit is let in."""
    emitter = make(max_queue_bytes=SMALL, on_full="drop_oldest", drain=False)
    for number in range(50):
        emitter.put(event(number, 1000))
    emitter.put(event(51, SMALL - (40 << 10)))
    assert emitter.stats().ledger == Ledger(accepted=51, pending=1, evicted=50)


def test_bulk_puts_beyond_the_quota_do_not_wait_for_the_next_round(make: Make) -> None:
    """A collector that is up gets the part that was stored at once, which makes room for the rest."""
    with Collector() as collector:
        emitter = make(collector.url, max_queue_bytes=SMALL, on_full="block", linger=0)
        emitter.put(event(0))
        assert emitter.flush(10)
        wait_until(lambda: emitter._opened.worker.wake_at == 2)  # type: ignore[union-attr]
        started_at = time.monotonic()
        emitter.put_many([event(number, 1000) for number in range(1, 400)])
        assert collector.wait(distinct=400)
        assert time.monotonic() - started_at < 20


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
def test_bulk_puts_beyond_the_quota_fill_an_empty_queue(make: Make, on_full: str) -> None:
    """Nothing is dropped or refused before there is no room for it."""
    emitter = make(max_queue_bytes=SMALL, on_full=on_full, drain=False)
    emitter.put_many([event(number, 1000) for number in range(200)])
    stats = emitter.stats()
    assert stats.ledger.pending + stats.ledger.evicted + stats.dropped == 200
    assert stats.ledger.pending > 50


def test_an_event_that_waited_for_room_is_sent_at_once(make: Make) -> None:
    """Nobody else has to put another one first."""
    with Collector() as collector:
        collector.down()
        emitter = make(collector.url, buffer_capacity=1, on_full="block", max_retry_delay_seconds=0.05)
        emitter.put(event(1))
        thread = threading.Thread(target=emitter.put, args=(event(2),))
        thread.start()
        wait_until(lambda: emitter.stats().state == "backing_off")
        collector.up()
        thread.join(10)
        assert collector.wait(distinct=2)


def test_dead_letters_leave_room_for_events(make: Make) -> None:
    """They take a quarter of a small quota; what is refused beyond it stays pending, and new events go out."""

    class Picky:
        def send(self, events: Sequence[bytes]) -> Reply:
            return Reply(status=400 if any(b'"bad"' in one for one in events) else 200)

        def close(self) -> None:
            """Hold nothing."""

    emitter = make(max_queue_bytes=SMALL, transport=Picky())
    bad = event(0, 3000).replace(b'"c"', b'"bad"')
    for number in range(12):
        emitter.put_many([bad, bad, event(1)])
        emitter.flush(10)  # what is refused waits for its verdict
        wait_until(lambda: number + 1 == emitter.stats().ledger.delivered)  # noqa: B023 (waited for at once)
    ledger = emitter.stats().ledger
    assert (ledger.accepted, ledger.delivered, ledger.discarded) == (36, 12, 0)
    assert ledger.dead + ledger.pending == 24
    assert 24 >= emitter.stats().suspects > 0


def test_a_blocked_put_is_told_of_the_close(make: Make) -> None:
    """It does not wait for ever."""
    emitter = make(buffer_capacity=1, on_full="block")
    emitter.put(event(1))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            emitter.put(event(2))
        except QueueClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert thread.is_alive()
    emitter.close()
    thread.join(10)
    assert len(errors) == 1


@pytest.mark.sqlite
def test_a_blocking_put_in_a_signal_handler_inside_a_put_raises(make: Make) -> None:
    """Whoever makes room would wait for the put that the handler interrupted."""
    emitter = make(buffer_capacity=1, on_full="block")
    emitter.put(event(1))
    pair = emitter._opened
    assert pair is not None
    assert isinstance(pair.queue, SqliteQueue)
    with pair.queue._books.lock, pytest.raises(QueueFullError):
        emitter.put(event(2))


def test_dropping_the_oldest_in_a_signal_handler_inside_a_statement_raises(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be removed before the interrupted statement is done, so the handler is told that there is no room."""
    emitter = make(buffer_capacity=1, on_full="drop_oldest", drain=False)
    emitter.put(event(1))
    pair = emitter._opened
    assert pair is not None

    def evict(_size: int) -> int:
        raise SlotBusyError("SQL statements in progress")

    with monkeypatch.context() as patch:
        patch.setattr(pair.queue, "evict", evict)
        with pytest.raises(QueueFullError):
            emitter.put(event(2))
    emitter.put(event(3))
    assert emitter.stats().ledger == Ledger(accepted=2, pending=1, evicted=1)


def test_buffer_capacity_bounds_the_number_of_pending_events(make: Make) -> None:
    """As the official setting, with each on_full."""
    emitter = make(buffer_capacity=10, drain=False)
    emitter.put_many([event(number) for number in range(10)])
    with pytest.raises(QueueFullError, match="buffer_capacity=10"):
        emitter.put(event(11))
    with pytest.raises(QueueFullError):
        emitter.put_many([event(11), event(12)])
    oldest = make(buffer_capacity=10, on_full="drop_oldest", drain=False)
    for number in range(15):
        oldest.put(event(number))
    assert (oldest.stats().ledger.pending, oldest.stats().ledger.accepted) == (10, 15)


def test_stats_tell_what_became_of_the_events_after_a_close(make: Make) -> None:
    """Whoever closes at the end of a job wants to know then."""
    with Collector() as collector:
        emitter = make(collector.url, shutdown_timeout=10)
        emitter.put_many([event(1), event(2)])
        assert emitter.close()
        stats = emitter.stats()
    assert (stats.state, stats.ledger.delivered, stats.ledger.pending) == ("closed", 2, 0)
    assert stats.last_error is None
    assert stats.requests >= 1


def test_stats_tell_when_the_collector_is_asked_again(make: Make) -> None:
    """As long as something is waited for."""
    emitter = make("http://127.0.0.1:9")
    assert (emitter.stats().next_attempt_s, emitter.stats().requests) == (None, 0)
    emitter.put(event(1))
    wait_until(lambda: emitter.stats().requests == 1 and emitter.stats().next_attempt_s is not None)
    assert 0 <= (emitter.stats().next_attempt_s or 0) <= 60


def test_one_setting_by_two_names_is_refused() -> None:
    """Else one of them would win in silence."""
    with pytest.raises(ConfigurationError, match="senders: is called thread_count here"):
        AsyncEmitter("c.example", thread_count=4, senders=1)


def test_stats_are_a_snapshot_with_the_age_of_the_oldest_event(make: Make) -> None:
    """Frozen, and cheap."""
    emitter = make(drain=False)
    dtm = str(int((time.time() - 100) * 1000))
    emitter.put(json.dumps({"e": "pv", "dtm": dtm}).encode())
    stats = emitter.stats()
    assert stats.oldest_age_s is not None
    assert 99 < stats.oldest_age_s < 130
    assert 0 < stats.used_bytes < stats.max_queue_bytes
    with pytest.raises(AttributeError):
        stats.dropped = 5  # type: ignore[misc]


# ── a disk that fails ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.sqlite
def test_stats_and_flush_raise_nothing_while_the_disk_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just then a health endpoint asks for them: a file system that turned read-only, a disk that was pulled."""
    one = make(drain=False)
    one.put(event(1))

    def fail(*_: object, **__: object) -> None:
        raise StorageError("attempt to write a readonly database (SQLITE_READONLY)")

    with monkeypatch.context() as patch:
        for method in ("oldest", "oldest_key", "used_bytes"):
            patch.setattr(SqliteQueue, method, fail)
        stats = one.stats()
        assert "SQLITE_READONLY" in str(stats.last_error)
        assert (stats.ledger.pending, stats.oldest_age_s) == (1, None)
        assert not one.flush(1)
    assert one.stats().last_error is None


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["0.lock", "0.sqlite3"])
def test_an_unusable_slot_does_not_stop_tracking(make: Make, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The next one is taken, and it is said."""
    one = make(drain=False)
    (Path(str(one.directory)) / name).mkdir()
    one.put(event(1))
    assert Path(str(one.directory)) / "1.sqlite3" == one.stats().slot
    assert "queue.slot_unusable" in events_in(caplog)


@pytest.mark.sqlite
@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_a_file_system_that_cannot_set_room_aside_has_it_written(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    """NFS has no fallocate, and macOS has no such function."""
    one = make(drain=False)
    if error is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:

        def refuse(*_: object) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
    one.put(event(1))
    status = (Path(str(one.directory)) / "0.ballast").stat()
    assert status.st_size == headroom_size()
    assert status.st_blocks * 512 >= status.st_size


def test_drop_oldest_takes_what_was_read_ahead_and_is_not_on_the_wire(make: Make) -> None:
    """While the collector is slow, what was claimed fills a small bound; no put is refused."""
    with Collector(script=lambda _: Fault(delay_s=1.0)) as collector:
        one = make(collector.url, on_full="drop_oldest", buffer_capacity=40, batch_size=20)
        one.put_many([event(number) for number in range(40)])
        assert collector.wait(requests=1)
        for number in range(40, 100):
            one.put(event(number))
        collector.script = None
        assert one.flush(20)
        ledger = one.stats().ledger
        assert 100 == ledger.accepted == ledger.delivered + ledger.evicted
        assert ledger.delivered == len(collector.eids()) == collector.counts()["total"]
        assert {eid(number) for number in (*range(20), 99)} <= set(collector.eids())


# ── emitters that are dropped without being closed ───────────────────────────────────────────────────────────────────


@pytest.fixture
def _nothing_retired() -> None:
    """What other tests have dropped is given back first."""
    gc.collect()
    worker_module.close_retired()
    assert not worker_module._retired


def held() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("_nothing_retired")
@pytest.mark.parametrize("drain", [True, False])
def test_what_a_dropped_emitter_holds_comes_back(tmp_path: Path, drain: bool) -> None:
    """The official API has no close. Its events are delivered first; without a thread they stay on disk."""
    with Collector() as collector:

        def track(number: int) -> None:
            emitter = Emitter(collector.url, queue_dir=tmp_path, name="n", drain=drain, batch_size=1)
            emitter.put(event(number))

        track(0)
        wait_until(lambda: not worker_module._retired, 10)
        before = held()
        for number in range(1, 101):
            track(number)
        wait_until(lambda: all(now <= then + 3 for now, then in zip(held(), before, strict=True)), 20)
        if drain:
            assert collector.wait(distinct=101)
            wait_until(lambda: not worker_module._retired)
            assert 101 == len(collector.eids()) == collector.counts()["total"]
            assert len([*existing_slots(tmp_path / "n")]) < 100
        else:
            with Emitter(collector.url, queue_dir=tmp_path, name="n") as emitter:
                emitter.put(event(101))
                assert collector.wait(distinct=102)


@pytest.mark.usefixtures("_nothing_retired")
@pytest.mark.parametrize("is_down", [True, False], ids=["down", "asked to be left alone"])
def test_dropped_emitters_do_not_pile_up_in_an_outage(tmp_path: Path, is_down: bool) -> None:
    """Some go on trying; the others leave their events on disk, for the next owner of the name."""
    with Collector(script=lambda _: Fault(status=503, headers={"Retry-After": "3600"})) as collector:
        for number in range(60):
            Emitter(NOBODY if is_down else collector.url, queue_dir=tmp_path, name="n", linger=0).put(event(number))
        drop_all(tmp_path)


def drop_all(tmp_path: Path) -> None:
    wait_until(lambda: len(worker_module._retired) <= worker_module._RETIRED_MAX, 20)
    assert len(worker_module._retired) > 0
    worker_module.close_retired()
    assert not worker_module._retired
    ledgers = []
    for slot in existing_slots(tmp_path / "n"):
        with SqliteQueue.take(slot) as queue:
            ledgers.append(queue.ledger().pending)
    assert sum(ledgers) == 60


def test_an_event_that_waits_longer_than_max_age_is_dropped_by_the_process_that_put_it(make: Make) -> None:
    """Not only one that an earlier process left; it is counted, and `on_failure` is told."""
    failed: list[dict[str, Any]] = []
    with Collector() as collector:
        collector.down()
        one = make(
            collector.url,
            max_age=2,
            max_retry_delay_seconds=0.2,
            linger=0,
            on_failure=lambda _, events: failed.extend(events),
        )
        one.put(event(1))
        time.sleep(2.5)
        one.put(event(2))
        collector.up()
        wait_until(lambda: one.stats().ledger.pending == 0, 10)
        wait_until(lambda: bool(failed), 10)  # the callback comes after the commit
        assert (one.stats().ledger.expired, one.stats().ledger.delivered) == (1, 1)
        assert [one["eid"] for one in failed] == [eid(1)]
        assert list(collector.eids()) == [eid(2)]


@pytest.mark.usefixtures("_nothing_retired")
def test_a_dropped_emitter_outlives_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No put comes that would start its thread again."""
    monkeypatch.setattr(worker_module, "_STORAGE_RETRY_S", 0.1)

    def fail(*_: object, **__: object) -> None:
        raise StorageError("the disk is away")

    with Collector() as collector:
        collector.down()
        Emitter(collector.url, queue_dir=tmp_path, name="n", max_retry_delay_seconds=0.2).put(event(1))
        assert worker_module._retired
        with monkeypatch.context() as patch:
            for method in ("peek", "oldest_key", "ack"):
                patch.setattr(SqliteQueue, method, fail)
            time.sleep(1)
        collector.up()
        assert collector.wait(events=1, timeout_s=20)
        wait_until(lambda: not worker_module._retired, 10)


@pytest.mark.parametrize("on_full", ["raise", "drop_newest", "drop_oldest", "block"])
def test_no_event_is_put_into_a_full_queue(make: Make, on_full: str) -> None:
    """An empty list needs no room."""
    emitter = make(buffer_capacity=1, on_full=on_full)
    emitter.put(event(1))
    emitter.put_many([])
    assert emitter.stats().ledger.pending == 1


def test_what_a_subclass_assigns_before_the_constructor_is_set_by_it(make: Make, engine: dict[str, Any]) -> None:
    """As it always was."""

    class Early(Emitter):
        def __init__(self, *args: Any, **settings: Any) -> None:
            self.batch_size = 3
            self.buffer_capacity = 4
            super().__init__(*args, **settings)

    with Early(NOBODY, **engine) as emitter:
        assert (emitter.batch_size, emitter.buffer_capacity) == (10, None)


def test_an_assignment_is_checked(make: Make) -> None:
    """Also beside a transport of one's own."""
    emitter = make(transport=RecordingTransport())
    with pytest.raises(ConfigurationError, match="request_timeout"):
        emitter.request_timeout = -1
    with pytest.raises(ConfigurationError, match="buffer_capacity"):
        emitter.buffer_capacity = "x"  # type: ignore[assignment]
    emitter.buffer_capacity = 1
    emitter.put(event(1))
    with pytest.raises(QueueFullError):
        emitter.put_many([event(2), event(3)])


class RecordingTransport:
    def send(self, events: Sequence[bytes]) -> Reply:
        return Reply(status=503, error="down")

    def close(self) -> None:
        pass
