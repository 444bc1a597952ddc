"""The policy loop, on a virtual clock: what becomes of the events after each kind of answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fakes import (
    EPOCH_MS,
    NO_ANSWER,
    OK,
    MemoryQueue,
    NarrowCollector,
    PatientDelivery,
    PoisonedCollector,
    Rig,
    ScriptedCollector,
    VirtualClock,
    eids,
    event,
    events_in,
    refusal,
    rig,
)

from durable_tracker.delivery.policy import Delivery, DeliverySettings, DeliveryState, Result
from durable_tracker.delivery.transport import ENVELOPE_SIZE, Reply
from durable_tracker.errors import ConfigurationError, DeadLettersFullError, QueueClosedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from durable_tracker.engines.queue import Row


def events(count: int, **fields: int) -> list[bytes]:
    return [event(number, **fields) for number in range(1, count + 1)]


def until(number: int, reply: Reply, then: Reply = OK) -> Callable[[int, list[int]], Reply]:
    """Answer the first `number` requests with one reply, all later ones with another."""
    return lambda n, _eids: reply if n < number else then


def check(made: Rig) -> None:
    """Whatever happened, every event is in one place, and what left as delivered was accepted."""
    queue, ledger = made.queue, made.queue.ledger()
    assert ledger.accepted == ledger.delivered + ledger.pending + ledger.dead + ledger.expired
    assert set(queue.delivered) <= set(made.transport.received)


# Batches.


def test_an_empty_queue_is_done_at_once() -> None:
    """No request is made, and the state stays idle."""
    made = rig(MemoryQueue(), ScriptedCollector())
    assert (made.delivery.run(), made.transport.requests, made.delivery.state) == (Result.EMPTY, [], DeliveryState())


def test_events_go_out_oldest_first_in_batches_by_count() -> None:
    """And all that was accepted is acked."""
    made = rig(MemoryQueue(events(10)), ScriptedCollector(), batch_size=4)
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.requests == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert made.queue.ledger().delivered == 10


def body(sent: Sequence[bytes]) -> int:
    return ENVELOPE_SIZE + len(b",".join(sent))


def test_the_byte_limit_bounds_the_whole_body() -> None:
    """Envelope, commas and `stm` included; only a single event may be larger, and goes alone."""
    queue = MemoryQueue([event(n, pad=(n * 37) % 200) for n in range(1, 300)] + [event(300, pad=5000), event(301)])
    made = rig(queue, ScriptedCollector(), byte_limit=2000)
    assert made.delivery.run() is Result.EMPTY
    sizes = {tuple(numbers): body(sent) for numbers, sent in zip(made.transport.requests, made.transport.bodies)}  # noqa: B905
    assert {numbers for numbers, size in sizes.items() if size > 2000} == {(300,)}
    assert sum(size > 1700 for size in sizes.values()) > len(sizes) * 0.8
    assert sorted(made.transport.received) == list(range(1, 302))


def test_what_is_sent_is_the_stored_text_with_stm_spliced_in() -> None:
    """Not a byte else differs, and the time is that of the attempt, in milliseconds."""
    payload = '{"e": "pv", "eid": "1", "page": "\\u00e9 é \\" }"}'.encode()
    clock = VirtualClock()
    made = rig(MemoryQueue([payload]), ScriptedCollector(until(1, NO_ANSWER)), clock=clock)
    made.delivery.run()
    sent = [bodies[0] for bodies in made.transport.bodies]
    assert clock.elapsed_s == 1
    assert sent == [payload[:-1] + b',"stm":"%d"}' % stm for stm in (EPOCH_MS, EPOCH_MS + 1000)]


def test_a_batch_is_acked_before_the_next_one_is_sent() -> None:
    """A crash resends what was in flight, nothing else."""
    pending: list[int] = []
    queue = MemoryQueue(events(6))

    def answer(_n: int, _eids: list[int]) -> Reply:
        pending.append(queue.ledger().pending)
        return OK

    made = rig(queue, ScriptedCollector(answer), batch_size=2)
    made.delivery.run()
    made.delivery.close()
    assert pending == [6, 4, 2]


@pytest.mark.parametrize("senders", [1, 3])
@pytest.mark.parametrize("reply", [NO_ANSWER, refusal(400), refusal(413), refusal(403)])
def test_what_was_read_ahead_is_put_back_when_a_request_is_not_accepted(reply: Reply, senders: int) -> None:
    """So that it goes out in its turn, after what came before it."""
    made = rig(MemoryQueue(events(40)), ScriptedCollector(until(1, reply)), batch_size=4, senders=senders)
    assert made.delivery.run() is Result.EMPTY
    made.delivery.close()
    assert sorted(made.queue.delivered) == list(range(1, 41))
    if senders == 1:
        assert made.transport.received == list(range(1, 41))
    check(made)


def test_what_was_read_ahead_is_not_sent_by_a_delivery_that_is_to_stop() -> None:
    """It stays queued, and the next run begins with it."""
    clock = VirtualClock()
    made = rig(MemoryQueue(events(10)), ScriptedCollector(), clock=clock, batch_size=2)

    def answer(_n: int, _eids: list[int]) -> Reply:
        clock.stop_after_waits = 0
        return OK

    made.transport.answer = answer
    assert made.delivery.run() is Result.STOPPED
    assert made.transport.requests == [[1, 2]]
    clock.stop_after_waits = None
    made.transport.answer = lambda *_: OK
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.received == list(range(1, 11))


def test_one_request_now_and_then_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to do while it is in flight."""
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    made = rig(MemoryQueue(), ScriptedCollector(), batch_size=4, senders=4)
    for number in range(3):
        made.queue.put_many([event(3 * number + n) for n in (1, 2, 3)])
        assert made.delivery.run() is Result.EMPTY
    assert len(made.transport.requests) == 3


def test_progress_is_told_after_every_answer() -> None:
    """With the state as it is then."""
    seen: list[tuple[int, int]] = []
    made = rig(MemoryQueue(events(6)), ScriptedCollector(), batch_size=2)
    made.delivery.run(progress=lambda state: seen.append((state.requests, state.delivered)))
    assert seen == [(1, 2), (2, 4), (3, 6)]


# Outages.


@pytest.mark.parametrize("reply", [NO_ANSWER, *(refusal(status) for status in (408, 429, 500, 502, 503, 504, 599))])
def test_an_outage_loses_nothing_and_passes(reply: Reply) -> None:
    """Each retry waits longer, and everything is delivered at the end, once and in order."""
    made = rig(MemoryQueue(events(10)), ScriptedCollector(until(8, reply)), batch_size=4)
    assert made.delivery.run() is Result.EMPTY
    assert made.clock.waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert made.transport.received == list(range(1, 11))
    assert made.delivery.state.last_error == reply.error
    assert made.delivery.state.trouble_count == 8
    check(made)


def test_progress_resets_the_backoff() -> None:
    """A collector that fails now and then is asked again soon."""
    flapping = ScriptedCollector(lambda n, _eids: NO_ANSWER if n % 2 else OK)
    made = rig(MemoryQueue(events(6)), flapping, batch_size=1)
    made.delivery.run()
    assert made.clock.waits == [1] * 5


@pytest.mark.parametrize(
    ("retry_after_s", "waited_s"), [(None, 1), (0, 1), (0.5, 1), (7, 7), (300, 300), (1e9, 3600), (-7, 1)]
)
def test_retry_after_is_honoured_and_capped(retry_after_s: float | None, waited_s: float) -> None:
    """No attempt is made before it is over."""
    at: list[float] = []
    clock = VirtualClock()

    def answer(n: int, _eids: list[int]) -> Reply:
        at.append(clock.elapsed_s)
        return OK if n else refusal(503, retry_after_s)

    rig(MemoryQueue(events(1)), ScriptedCollector(answer), clock=clock).delivery.run()
    assert at == [0, waited_s]


def test_stopping_ends_the_wait_at_once_and_leaves_everything_queued() -> None:
    """Whatever the backoff has grown to."""
    made = rig(MemoryQueue(events(10)), ScriptedCollector(lambda *_: NO_ANSWER))
    made.clock.stop_after_waits = 3
    assert made.delivery.run() is Result.STOPPED
    assert (len(made.clock.waits), made.queue.ledger().pending) == (3, 10)
    assert made.delivery.state.state == "backing_off"


def test_stopping_between_requests_is_seen() -> None:
    """A backlog does not have to be finished."""
    clock = VirtualClock()
    made = rig(MemoryQueue(events(10)), ScriptedCollector(), clock=clock, batch_size=1)

    def answer(n: int, _eids: list[int]) -> Reply:
        clock.stop_after_waits = 0 if n == 2 else None
        return OK

    made.transport.answer = answer
    assert made.delivery.run() is Result.STOPPED
    assert made.queue.ledger().delivered == 3
    assert made.delivery.state.state == "idle"


def test_giving_up_on_trouble_makes_one_attempt_and_never_waits() -> None:
    """As at exit. A Retry-After in force forbids even that."""
    made = rig(MemoryQueue(events(10)), ScriptedCollector(lambda *_: refusal(503, 100)), batch_size=5)
    assert [made.delivery.run(give_up_on_trouble=True) for _ in range(3)] == [Result.TROUBLE] * 3
    assert (len(made.transport.requests), made.clock.waits) == (1, [])
    made.clock.advance(100)
    made.delivery.run(give_up_on_trouble=True)
    assert len(made.transport.requests) == 2


def test_a_later_run_waits_for_a_retry_after_in_force() -> None:
    """Also when the run that was told has ended."""
    made = rig(MemoryQueue(events(1)), ScriptedCollector(until(1, refusal(503, 100))))
    made.delivery.run(give_up_on_trouble=True)
    made.clock.advance(30)
    assert made.delivery.run() is Result.EMPTY
    assert made.clock.waits == [70]


def test_a_poke_brings_the_next_attempt_forward() -> None:
    """Attempts are at least a second apart, so that a program which flushes in a loop hammers nobody."""
    at: list[float] = []
    clock = VirtualClock()
    clock.on_wait = lambda seconds: 0.1 if seconds > 1 else None

    def answer(_n: int, _eids: list[int]) -> Reply:
        at.append(round(clock.elapsed_s, 6))
        return OK if len(at) == 4 else NO_ANSWER

    rig(MemoryQueue(events(1)), ScriptedCollector(answer), clock=clock).delivery.run()
    assert at == [0, 1, 2, 3]


def test_a_poke_does_not_cut_a_retry_after_short() -> None:
    """The collector's word stands above the user's."""
    at: list[float] = []
    clock = VirtualClock()
    clock.on_wait = lambda _seconds: 0.25

    def answer(n: int, _eids: list[int]) -> Reply:
        at.append(clock.elapsed_s)
        return OK if n else refusal(429, 20)

    rig(MemoryQueue(events(1)), ScriptedCollector(answer), clock=clock).delivery.run()
    assert at == [0, 20]


def test_events_that_came_back_go_out_before_newer_ones_and_with_them() -> None:
    """After an outage the batch is filled up with what was put meanwhile."""
    queue = MemoryQueue(events(2))
    made = rig(queue, ScriptedCollector(until(1, NO_ANSWER)), batch_size=4)
    made.clock.on_wait = lambda _: queue.put_many([event(3), event(4), event(5)])
    made.delivery.run()
    assert made.transport.requests == [[1, 2], [1, 2, 3, 4], [5]]


def test_events_that_were_evicted_while_waiting_are_not_sent() -> None:
    """They are read from the queue again after an outage."""
    queue = MemoryQueue(events(4))
    made = rig(queue, ScriptedCollector(until(1, NO_ANSWER)))

    def evict(_seconds: float) -> None:
        queue.lose(2)

    made.clock.on_wait = evict
    made.delivery.run()
    assert made.transport.requests == [[1, 2, 3, 4], [1, 3, 4]]
    assert queue.releases == 2


def test_an_answer_that_was_lost_means_a_resend_with_the_same_bytes_but_stm() -> None:
    """The collector stored the batch; it gets it again, and can tell by the eid."""
    made = rig(MemoryQueue(events(3)), ScriptedCollector(until(1, NO_ANSWER)))
    made.delivery.run()
    first, second = ([json.loads(one) for one in sent] for sent in made.transport.bodies)
    assert [one.pop("stm") for one in first] != [one.pop("stm") for one in second]
    assert first == second


# Being blocked.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407, 410, 418])
def test_a_collector_that_refuses_us_keeps_everything(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """The longest backoff, the state says so, and the log does, once."""
    states = []
    made = rig(MemoryQueue(events(10)), ScriptedCollector(until(5, refusal(status))))
    made.clock.on_wait = lambda _: states.append(made.delivery.state.state)
    with caplog.at_level(logging.INFO, "durable_tracker"):
        assert made.delivery.run() is Result.EMPTY
    assert (made.clock.waits, states) == ([60] * 5, ["blocked"] * 5)
    assert events_in(caplog) == ["delivery.collector_blocked", "delivery.recovered"]
    assert (made.queue.ledger().delivered, made.queue.ledger().dead) == (10, 0)


def test_every_change_of_state_is_logged_once_without_a_payload(caplog: pytest.LogCaptureFixture) -> None:
    """An outage that turns into a refusal is two changes, however many attempts each takes."""
    answers = [NO_ANSWER] * 3 + [refusal(403)] * 3 + [NO_ANSWER] * 2
    made = rig(MemoryQueue(events(3)), ScriptedCollector(lambda n, _eids: answers[n] if n < 8 else OK))
    with caplog.at_level(logging.DEBUG, "durable_tracker"):
        made.delivery.run()
    names = ["delivery.interrupted", "delivery.collector_blocked", "delivery.interrupted", "delivery.recovered"]
    assert events_in(caplog) == names
    assert "se_la" not in "".join(str(vars(record)) for record in caplog.records)


def test_custom_retry_codes_override_the_table() -> None:
    """True keeps trying, False gives up on the event if others are accepted."""
    codes = {403: True, 503: False}
    made = rig(MemoryQueue(events(1)), ScriptedCollector(until(2, refusal(403))), custom_retry_codes=codes)
    made.delivery.run()
    assert made.clock.waits == [1, 2]
    made = rig(MemoryQueue(events(8)), PoisonedCollector([3], status=503), custom_retry_codes=codes)
    made.delivery.run()
    assert made.queue.dead == {3: (503, "HTTP 503")}


# Refusals.


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("poison", [1, 2, 250, 499, 500])
def test_one_poison_event_is_isolated_and_the_rest_delivered(status: int, poison: int) -> None:
    """Within some twenty requests, and without waiting. The verdict takes some more questions, a second apart."""
    made = rig(MemoryQueue(events(500)), PoisonedCollector([poison], status))
    assert made.delivery.run() is Result.EMPTY
    assert made.queue.dead == {poison: (status, f"HTTP {status}")}
    assert sorted(made.transport.received) == [n for n in range(1, 501) if n != poison]
    again = made.transport.requests.count([poison]) - 1
    assert 3 <= again <= 16
    assert len(made.transport.requests) - again <= 23
    assert made.clock.elapsed_s >= 3
    assert made.clock.waits == []
    check(made)


@pytest.mark.parametrize(
    "poison", [[1, 500], [1, 2, 3], [498, 499, 500], [7, 77, 250, 251, 499], list(range(100, 500, 20))], ids=str
)
def test_any_poison_among_many_is_isolated_in_k_log_n_requests(poison: list[int]) -> None:
    """Several offenders, also side by side and at either end."""
    made = rig(MemoryQueue(events(500)), PoisonedCollector(poison))
    assert made.delivery.run() is Result.EMPTY
    assert sorted(made.queue.dead) == poison
    again = sum(max(made.transport.requests.count([one]) - 1, 0) for one in poison)
    assert again <= 20 * len(poison)
    assert len(made.transport.requests) - again <= len(poison) * 2 * math.log2(500) + 10
    assert made.clock.waits == []
    check(made)


def test_fifty_poison_events_at_the_head_do_not_stop_the_rest() -> None:
    """Controls from elsewhere are accepted, so nothing waits."""
    made = rig(MemoryQueue(events(2000)), PoisonedCollector(range(1, 51)))
    assert made.delivery.run() is Result.EMPTY
    assert sorted(made.queue.dead) == list(range(1, 51))
    assert made.clock.waits == []


def test_a_collector_that_refuses_everything_gets_nothing_into_the_dead_letters() -> None:
    """It is not hammered either: sixteen refusals, then one request per longest backoff; then it recovers."""
    at: list[float] = []
    clock = VirtualClock()

    def answer(_n: int, _eids: list[int]) -> Reply:
        at.append(clock.elapsed_s)
        return refusal(400) if clock.elapsed_s < 3600 else OK

    made = rig(MemoryQueue(events(5000)), ScriptedCollector(answer), clock=clock)
    made.delivery.run()
    assert (at.count(0), len([t for t in at if 0 < t < 3600])) == (16, 59)
    assert (made.queue.dead, made.queue.ledger().delivered) == ({}, 5000)
    assert sorted(made.transport.received) == list(range(1, 5001))
    check(made)


def test_a_collector_that_turns_to_refuse_everything_gets_nothing_into_the_dead_letters() -> None:
    """Not even in the middle of isolating a real offender."""
    for turn in range(60):
        clock = VirtualClock()
        collector = PoisonedCollector([77, 333])

        def answer(
            n: int,
            numbers: list[int],
            turn: int = turn,
            clock: VirtualClock = clock,
            poison: set[int] = collector.poison,
        ) -> Reply:
            everything = n >= turn and clock.elapsed_s < 3600
            return refusal(400) if everything or poison & set(numbers) else OK

        collector.answer = answer
        made = rig(MemoryQueue(events(2000)), collector, clock=clock, batch_size=100)
        while made.delivery.run() is Result.SUSPECTS:
            clock.advance(61)
            made.queue.put(event(made.queue.puts + 1))
        assert set(made.queue.dead) == {77, 333}, turn
        assert made.queue.ledger().delivered == made.queue.puts - 2


def test_a_poison_event_alone_in_the_queue_stays_until_another_is_accepted() -> None:
    """Nobody can tell whose fault it is before. Newer events do not wait for it."""
    made = rig(MemoryQueue(events(1)), PoisonedCollector([1]))
    assert made.delivery.run() is Result.SUSPECTS
    assert (made.queue.ledger().pending, made.delivery.state.suspects) == (1, 1)
    made.queue.put(event(2))
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.requests[:2] == [[1], [2]]
    assert made.transport.requests[2:] == [[1]] * len(made.transport.requests[2:])
    assert (set(made.queue.dead), made.queue.delivered) == ({1}, [2])
    assert made.delivery.state.suspects == 0
    assert made.clock.waits == []


def test_suspects_are_set_aside_when_an_operator_asks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    """Those alone, with the last answer of each; later events are judged as ever."""
    made = rig(MemoryQueue(events(40)), PoisonedCollector([38, 40], status=422))
    assert made.delivery.set_aside() == 0
    assert Delivery.run(made.delivery) is Result.SUSPECTS
    left = len(made.queue.rows)
    assert made.delivery.state.suspects == left > 0
    assert made.delivery.set_aside() == left
    assert made.queue.dead.keys() == {38, 40}
    status, reason = made.queue.dead[40]
    assert (status, reason.startswith("HTTP 422 (set aside on request")) == (422, True)
    assert (made.delivery.state.suspects, made.delivery.state.dead) == (0, len(made.queue.dead))
    assert events_in(caplog).count("delivery.suspects_set_aside") == 1
    made.queue.put_many([event(n) for n in range(41, 60)])
    assert made.delivery.run() is Result.EMPTY
    assert made.queue.ledger().delivered == 57
    check(made)


def test_what_another_process_suspected_is_set_aside_as_well() -> None:
    """It was asked about once more, so that the reason is known; and it is no suspect on record any more."""
    queue = MemoryQueue(events(2))
    first = rig(queue, PoisonedCollector([1, 2]))
    assert Delivery.run(first.delivery) is Result.SUSPECTS
    first.delivery.close()
    second = rig(queue, PoisonedCollector([1, 2]))
    assert Delivery.run(second.delivery) is Result.SUSPECTS
    assert second.delivery.set_aside() == 2
    assert queue.known == b"[]"
    assert [status for status, _ in queue.dead.values()] == [400, 400]


def test_suspects_for_which_the_dead_letters_have_no_room_are_not_set_aside() -> None:
    """Nothing is discarded, also on request."""

    class FullQueue(MemoryQueue):
        def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
            if self.dead:
                raise DeadLettersFullError("full")
            super().reject(keys, status, reason)

    made = rig(FullQueue(events(3)), PoisonedCollector([1, 2, 3]))
    assert made.delivery.run() is Result.SUSPECTS
    assert made.delivery.set_aside() == 1
    assert (made.delivery.state.suspects, made.delivery.state.parked) == (2, 2)
    assert made.queue.ledger().pending == 2


def test_a_queue_that_fails_amid_setting_aside_keeps_the_rest() -> None:
    """Whoever asks again gets them."""
    made = rig(MemoryQueue(events(3)), PoisonedCollector([1, 2, 3]))
    assert made.delivery.run() is Result.SUSPECTS
    made.queue.failing["reject"] = 1
    with pytest.raises(StorageError):
        made.delivery.set_aside()
    assert (made.delivery.state.suspects, made.queue.dead) == (3, {})
    assert made.delivery.set_aside() == 3


def test_suspects_alone_are_asked_about_once_per_longest_backoff() -> None:
    """However often the loop is run; and each run is counted as trouble, so that a flush does not wait."""
    made = rig(MemoryQueue(events(2)), PoisonedCollector([1, 2]))
    troubles = []
    for _ in range(100):
        made.delivery.run()
        troubles.append(made.delivery.state.trouble_count)
        made.clock.advance(10)
    assert len(made.transport.requests) == 3 + 16
    assert made.clock.waits == []
    assert troubles == sorted(set(troubles))
    assert made.delivery.state.next_attempt_at is not None
    assert made.queue.ledger().pending == 2
    made.clock.advance(61)
    made.transport.answer = lambda *_: OK
    assert made.delivery.run() is Result.EMPTY
    assert made.delivery.state.next_attempt_at is None


def test_a_tail_of_poison_ends_the_run_and_newer_events_decide() -> None:
    """Refusals in a row prove nothing by themselves, so it takes questions; newer events go out meanwhile."""
    poison = range(480, 501)
    made = rig(MemoryQueue(events(500)), PoisonedCollector(poison))
    assert Delivery.run(made.delivery) is Result.SUSPECTS
    assert (made.queue.ledger().delivered, made.queue.ledger().pending, made.queue.dead) == (479, 21, {})
    made.queue.put_many([event(n) for n in range(501, 521)])
    assert made.delivery.run() is Result.EMPTY
    assert sorted(made.queue.dead) == list(poison)
    check(made)


def test_suspects_are_delivered_when_the_collector_comes_to_its_senses() -> None:
    """Without a newer event having to come by."""
    collector = ScriptedCollector(lambda *_: refusal(400))
    made = rig(MemoryQueue(events(10)), collector)
    made.clock.stop_after_waits = 5
    made.delivery.run()
    collector.answer = lambda *_: OK
    made.clock.stop_after_waits = None
    made.clock.advance(61)
    assert made.delivery.run() is Result.EMPTY
    assert (made.queue.ledger().delivered, made.queue.dead) == (10, {})


def test_an_outage_while_isolating_forgets_nothing() -> None:
    """Halves that were not tried yet are tried after it."""
    collector = PoisonedCollector([33])
    inner = collector.answer
    collector.answer = lambda n, numbers: NO_ANSWER if n % 3 == 1 else inner(n, numbers)
    made = rig(MemoryQueue(events(100)), collector)
    assert made.delivery.run() is Result.EMPTY
    assert (set(made.queue.dead), made.queue.ledger().delivered) == ({33}, 99)
    check(made)


# Too large.


def test_a_413_halves_and_the_size_that_passes_is_remembered() -> None:
    """After the first few refusals hardly any body is too large."""
    collector = NarrowCollector(20_000)
    made = rig(MemoryQueue(events(5000, pad=100)), collector)
    assert made.delivery.run() is Result.EMPTY
    statuses = [reply.status for reply in collector.replies]
    assert statuses[:3] == [413, 413, 413]
    assert statuses.count(413) <= 12
    assert (made.queue.dead, made.queue.ledger().delivered, made.clock.waits) == ({}, 5000, [])


def test_after_a_413_batches_grow_again() -> None:
    """A limit that was raised is found out, slowly."""
    collector = NarrowCollector(20_000)
    made = rig(MemoryQueue(events(25_000, pad=100)), collector, byte_limit=40_000)
    made.delivery.run(progress=lambda state: setattr(collector, "size_max", 10**9 if state.requests > 20 else 20_000))
    assert max(collector.sizes[:20]) > 39_000
    assert max(collector.sizes[20:30]) < 30_000
    assert max(collector.sizes[30:]) > 39_000


def test_a_single_event_that_is_too_large_is_a_dead_letter() -> None:
    """If smaller ones are accepted."""
    queue = MemoryQueue([event(1), event(2, pad=50_000), event(3)])
    made = rig(queue, NarrowCollector(20_000))
    assert made.delivery.run() is Result.EMPTY
    assert (queue.dead, sorted(queue.delivered)) == ({2: (413, "HTTP 413")}, [1, 3])


def test_a_413_to_everything_gets_nothing_into_the_dead_letters() -> None:
    """A proxy with a limit of nothing is a fault of the proxy."""
    collector = NarrowCollector(10)
    made = rig(MemoryQueue(events(100)), collector)
    made.clock.stop_after_waits = 10
    assert made.delivery.run() is Result.STOPPED
    assert (made.queue.dead, made.queue.ledger().pending) == ({}, 100)
    assert made.delivery.state.state == "blocked"


def test_a_large_event_alone_is_a_dead_letter_if_anything_smaller_was_ever_accepted() -> None:
    """There is no doubt whose fault it is then."""
    made = rig(MemoryQueue(events(1)), NarrowCollector(20_000))
    made.delivery.run()
    made.queue.put(event(2, pad=50_000))
    assert made.delivery.run() is Result.EMPTY
    assert set(made.queue.dead) == {2}


# Several senders.


class GatedCollector(ScriptedCollector):
    """Answers nothing until as many requests are in flight as it expects."""

    def __init__(self, parties: int, answer: Callable[[int, list[int]], Reply] = lambda *_: OK) -> None:
        super().__init__(answer)
        self.barrier = threading.Barrier(parties)

    def send(self, events: Sequence[bytes]) -> Reply:
        self.barrier.wait(5)
        return super().send(events)


def test_several_requests_are_in_flight_at_once() -> None:
    """As many as there are senders; each event once."""
    made = rig(MemoryQueue(events(80)), GatedCollector(4), batch_size=5, senders=4)
    assert made.delivery.run() is Result.EMPTY
    made.delivery.close()
    assert sorted(made.transport.received) == list(range(1, 81))
    assert sorted(made.queue.delivered) == list(range(1, 81))


def test_with_several_senders_an_outage_is_probed_by_one_request() -> None:
    """All replies are in before anything waits, and what failed is sent again before newer events."""
    in_flight = 0
    most: list[int] = []
    lock = threading.Lock()
    down = True

    class Collector(ScriptedCollector):
        def send(self, events: Sequence[bytes]) -> Reply:
            nonlocal in_flight
            with lock:
                in_flight += 1
                most.append(in_flight)
            reply = super().send(events)
            with lock:
                in_flight -= 1
            return reply

    collector = Collector(lambda n, _eids: NO_ANSWER if down and n >= 4 else OK)
    made = rig(MemoryQueue(events(100)), collector, batch_size=5, senders=4)
    during: list[int] = []

    def wait(_seconds: float) -> None:
        nonlocal down
        during.append(in_flight)
        down = len(during) < 4
        del most[:]

    made.clock.on_wait = wait
    assert made.delivery.run() is Result.EMPTY
    made.delivery.close()
    assert during == [0] * 4
    assert len([requests for requests in collector.requests if requests[0] < 30]) >= 8
    assert sorted(made.queue.delivered) == list(range(1, 101))
    check(made)


def test_without_threads_the_callers_thread_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at interpreter shutdown, when none can be started."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made = rig(MemoryQueue(events(20)), ScriptedCollector(), batch_size=5, senders=4)
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.received == list(range(1, 21))


def test_a_transport_that_raises_is_an_outage() -> None:
    """A transport of the user's own may break its promise; its text is not logged, it may hold a payload."""

    def answer(n: int, _eids: list[int]) -> Reply:
        if n == 0:
            raise OSError("secret payload")
        return OK

    made = rig(MemoryQueue(events(3)), ScriptedCollector(answer))
    assert made.delivery.run() is Result.EMPTY
    assert made.delivery.state.last_error == "the transport raised OSError"


@pytest.mark.parametrize("batch_size", [3, 1])
def test_an_interrupt_in_a_request_loses_nothing(batch_size: int) -> None:
    """The events are pending, and the next run sends them; whichever thread was interrupted."""

    def answer(n: int, _eids: list[int]) -> Reply:
        if n == 0:
            raise KeyboardInterrupt
        return OK

    made = rig(MemoryQueue(events(3)), ScriptedCollector(answer), batch_size=batch_size)
    with pytest.raises(KeyboardInterrupt):
        made.delivery.run()
    assert made.delivery.run() is Result.EMPTY
    made.delivery.close()
    assert made.queue.delivered == [1, 2, 3]


@pytest.mark.parametrize("error", [StorageError("unreadable"), MemoryError()])
def test_an_error_in_reading_ahead_does_not_decide_about_the_request(error: Exception) -> None:
    """What was accepted is acked; then the error is dealt with as at any other time."""
    queue = MemoryQueue(events(9))
    real = queue.peek

    def peek(after: int, count_max: int, size_max: int) -> list[Row]:
        if after == 3 and len(made.transport.requests) == 1:
            queue.peek = real  # type: ignore[method-assign]
            raise error
        return real(after, count_max, size_max)

    queue.peek = peek  # type: ignore[method-assign]
    made = rig(queue, ScriptedCollector(), batch_size=3)
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            made.delivery.run()
        assert queue.delivered == [1, 2, 3]
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.received == list(range(1, 10))
    assert made.delivery.state.trouble_count == isinstance(error, StorageError)


def test_a_storage_that_fails_is_one_trouble() -> None:
    """Also when both the reading ahead and the ack find it out."""
    queue = MemoryQueue(events(9))
    real = queue.peek

    def peek(after: int, count_max: int, size_max: int) -> list[Row]:
        if after == 3:
            queue.peek = real  # type: ignore[method-assign]
            queue.failing["ack"] = 1
            raise StorageError("unreadable")
        return real(after, count_max, size_max)

    queue.peek = peek  # type: ignore[method-assign]
    made = rig(queue, ScriptedCollector(), batch_size=3)
    assert made.delivery.run() is Result.EMPTY
    assert made.delivery.state.trouble_count == 1
    assert queue.delivered == list(range(1, 10))


def test_an_interrupt_in_reading_ahead_loses_nothing() -> None:
    """The batch that was in flight goes out once more, and nothing else does."""
    queue = MemoryQueue(events(9))
    real = queue.peek

    def peek(after: int, count_max: int, size_max: int) -> list[Row]:
        if after == 3:
            queue.peek = real  # type: ignore[method-assign]
            raise KeyboardInterrupt
        return real(after, count_max, size_max)

    queue.peek = peek  # type: ignore[method-assign]
    made = rig(queue, ScriptedCollector(), batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        made.delivery.run()
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.requests == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert queue.delivered == list(range(1, 10))


def test_a_transport_that_cannot_tell_when_a_request_is_out_will_do() -> None:
    """Then nothing is read ahead."""

    class Plain:
        def __init__(self) -> None:
            self.sent: list[int] = []

        def send(self, events: Sequence[bytes]) -> Reply:
            self.sent += eids(events)
            return OK

        def close(self) -> None:
            pass

    made = rig(MemoryQueue(events(10)), Plain(), batch_size=3)
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.sent == list(range(1, 11)) == made.queue.delivered


# Age.

DAY_S = 86_400


def test_events_that_are_too_old_are_expired_and_the_others_sent() -> None:
    """By what the queue knows of their age."""
    payloads = [
        event(1, dtm=EPOCH_MS - 11_000),
        json.dumps({"e": "pv", "eid": "2", "dtm": str(EPOCH_MS - 11_000)}).encode(),
        json.dumps({"e": "pv", "eid": "3", "ue_pr": json.dumps({"dtm": "5"})}).encode(),
        event(4, dtm=EPOCH_MS - 9_000),
        b'{"e":"pv","eid":"5","dtm":"-7"}',
    ]
    made = rig(MemoryQueue(payloads), ScriptedCollector(), max_age=10)
    assert made.delivery.run() is Result.EMPTY
    assert (made.queue.expired, made.transport.received) == ([1, 2], [3, 4, 5])
    assert [[one["eid"] for one in gone] for _, gone in made.failed] == [["1", "2"]]


def test_events_grow_old_while_the_collector_is_down() -> None:
    """Time passes by the monotonic clock; it is looked at before each attempt."""
    made = rig(MemoryQueue(events(3)), ScriptedCollector(until(5, NO_ANSWER)), max_age=20)
    assert made.delivery.run() is Result.EMPTY
    assert (made.queue.expired, made.transport.requests) == ([1, 2, 3], [[1, 2, 3]] * 5)
    assert made.delivery.state.expired == 3


@pytest.mark.parametrize("jump_s", [-20 * 365 * DAY_S, -DAY_S, DAY_S, 20 * 365 * DAY_S])
def test_a_jump_of_the_wall_clock_neither_drops_nor_stalls(jump_s: int) -> None:
    """Of old and new events alike; waiting goes by the other clock."""
    queue = MemoryQueue(events(3))
    made = rig(queue, ScriptedCollector(until(3, NO_ANSWER)), max_age=3600)

    def jump(_seconds: float) -> None:
        made.clock.wall_offset_ms = EPOCH_MS + jump_s * 1000
        queue.put(event(4, dtm=made.clock.wall_ms()))

    made.clock.on_wait = jump
    assert made.delivery.run() is Result.EMPTY
    assert (queue.expired, made.clock.waits) == ([], [1, 2, 4])


def test_what_an_event_says_of_its_own_time_makes_it_no_older() -> None:
    """A device whose clock stands at 1970 until the network is up loses nothing."""
    queue = MemoryQueue()
    made = rig(queue, ScriptedCollector(until(1, NO_ANSWER)), clock=VirtualClock(wall_ms=EPOCH_MS), max_age=3600)
    queue.put(event(1, dtm=0))
    assert made.delivery.run() is Result.EMPTY
    assert queue.delivered == [1]


# Callbacks.


def test_callbacks_get_the_decoded_events_once_after_the_commit() -> None:
    """on_success per accepted batch as it was sent, on_failure for what is not tried again."""
    queue = MemoryQueue([event(1, dtm=1), *(event(n) for n in range(2, 8))])
    made = rig(queue, PoisonedCollector([4]), batch_size=3, max_age=60)
    made.delivery.run()
    delivered = [[int(one["eid"]) for one in batch] for batch in made.succeeded]
    assert sorted(number for batch in delivered for number in batch) == [2, 3, 5, 6, 7]
    assert {one["stm"] for batch in made.succeeded for one in batch} == {str(EPOCH_MS)}
    assert [(count, [int(one["eid"]) for one in gone]) for count, gone in made.failed] == [(0, [1]), (5, [4])]


@pytest.mark.parametrize("status", [503, None, 404])
def test_events_that_stay_queued_are_reported_on_request(status: int | None) -> None:
    """When an outage begins, then once a minute; the next outage is another one. They stay queued."""
    queue = MemoryQueue(events(4))
    failed_at: list[float] = []

    def reply(request: int, _eids: list[int]) -> Reply:
        is_down = clock.elapsed_s < 150 or request == recovered_at + 1
        return Reply(status=status, error="down") if is_down else Reply(status=200)

    recovered_at = 1 << 30
    made = rig(queue, ScriptedCollector(reply), batch_size=2, report_retries=True, max_retry_delay_seconds=10)
    clock = made.clock
    report = made.failed.append

    def failed(delivered: int, gone: list[dict[str, str]]) -> None:
        failed_at.append(clock.elapsed_s)
        assert len(gone) == 2
        report((delivered, gone))

    made.delivery._report._on_failure = failed
    made.delivery.run()
    assert len(failed_at) == 3
    assert failed_at[0] == 0
    assert all(60 <= after - before < 75 for before, after in itertools.pairwise(failed_at))
    assert (sorted(queue.delivered), queue.dead) == ([1, 2, 3, 4], {})
    queue.put_many([event(5), event(6)])
    recovered_at = len(made.transport.requests) - 1
    made.delivery.run()
    assert len(failed_at) == 4
    assert (made.failed[-1][0], [int(one["eid"]) for one in made.failed[-1][1]]) == (4, [5, 6])
    assert len(queue.delivered) == 6


def test_events_that_stay_queued_are_not_reported_otherwise() -> None:
    """Nor counted as failed."""
    queue = MemoryQueue(events(2))
    made = rig(queue, ScriptedCollector(lambda request, _: Reply(status=503 if request < 5 else 200)))
    made.delivery.run()
    assert (made.failed, sorted(queue.delivered)) == ([], [1, 2])


def test_callbacks_run_after_the_commit() -> None:
    """What they see is on disk."""
    queue = MemoryQueue(events(4))
    seen: list[int] = []
    made = Delivery(
        queue,
        ScriptedCollector(),
        settings=DeliverySettings(batch_size=2),
        wait=lambda _: False,
        stopping=lambda: False,
        on_success=lambda _events: seen.append(queue.ledger().pending),
    )
    made.run()
    assert seen == [2, 0]


class Interruption(BaseException):
    """As the Timeout of gevent and eventlet, which is no Exception."""


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError, Interruption])
def test_what_a_callback_raises_is_logged_and_goes_no_further(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Where it was raised is told, its text is not; an exit would end the worker's thread without a word."""

    def fail(*_: object) -> None:
        raise error("payload")

    queue = MemoryQueue(events(4))
    clock = VirtualClock()
    made = PatientDelivery(
        clock,
        queue,
        PoisonedCollector([2]),
        settings=DeliverySettings(),
        wait=lambda _: False,
        stopping=lambda: False,
        monotonic=clock.monotonic,
        on_success=fail,
        on_failure=fail,
    )
    assert made.run() is Result.EMPTY
    failures = [vars(record) for record in caplog.records if vars(record)["event"] == "delivery.callback_failed"]
    assert len(failures) >= 3
    assert {failure["error"] for failure in failures} == {error.__name__}
    assert "test_delivery.py:" in failures[0]["at"]
    assert "'payload'" not in str(failures)


# The storage.


@pytest.mark.parametrize("method", ["peek", "ack", "reject", "expire"])
def test_a_failing_storage_is_waited_for(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing ends the loop, and nothing is lost."""
    queue = MemoryQueue([event(1, dtm=1), *(event(n) for n in range(2, 21))])
    queue.failing[method] = 3
    made = rig(queue, PoisonedCollector([7]), max_age=60, batch_size=8)
    assert made.delivery.run() is Result.EMPTY
    assert (queue.expired, set(queue.dead), len(queue.delivered)) == ([1], {7}, 18)
    assert len(made.clock.waits) == 3
    reasons = [vars(record)["reason"] for record in caplog.records if vars(record)["event"] == "delivery.interrupted"]
    assert reasons[0] == f"StorageError: {method} failed"
    check(made)


@pytest.mark.parametrize("done", [False, True])
def test_a_failed_ack_is_made_good_before_anything_else_is_sent(done: bool) -> None:
    """Whether or not the failed call did it: what the collector accepted is not sent again while we know better."""
    queue = MemoryQueue(events(6))
    (queue.failing_after if done else queue.failing)["ack"] = 1
    made = rig(queue, ScriptedCollector(), batch_size=2)
    assert made.delivery.run() is Result.EMPTY
    assert made.transport.requests == [[1, 2], [3, 4], [5, 6]]
    assert made.clock.waits == [1]
    assert len(made.succeeded) == 3


def test_a_crash_after_a_failed_ack_sends_the_events_again() -> None:
    """At least once: they are still in the queue."""
    queue = MemoryQueue(events(2))
    queue.failing["ack"] = 100
    rig(queue, ScriptedCollector()).delivery.run(give_up_on_trouble=True)
    queue.failing.clear()
    again = rig(queue, ScriptedCollector())
    assert again.delivery.run() is Result.EMPTY
    assert again.transport.requests == [[1, 2]]


def test_a_closed_queue_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner has closed it under the loop."""
    queue = MemoryQueue(events(4))
    made = rig(queue, ScriptedCollector(), batch_size=2)

    def closed(*_: object) -> Any:
        raise QueueClosedError("closed")

    monkeypatch.setattr(queue, "ack", closed)
    assert made.delivery.run() is Result.STOPPED
    monkeypatch.setattr(queue, "peek", closed)
    assert made.delivery.run() is Result.STOPPED


# Settings.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("byte_limit", 0),
        ("senders", 0),
        ("max_retry_delay_seconds", 0),
        ("max_retry_delay_seconds", math.inf),
        ("max_age", -1),
        ("max_age", math.nan),
        ("custom_retry_codes", {200: True}),
        ("custom_retry_codes", {42: False}),
    ],
)
def test_settings_are_checked_at_birth(name: str, value: object) -> None:
    """The message names the field."""
    with pytest.raises(ConfigurationError, match=name):
        DeliverySettings(**{name: value})  # type: ignore[arg-type]


def test_eids_of_what_went_out_are_read_by_the_fakes() -> None:
    """The fakes' own reading of a request is sound."""
    assert eids(events(2)) == [1, 2]


def test_a_collector_that_refuses_the_little_that_there_is_blocks_the_queue() -> None:
    """Whoever looks at the state sees that events wait for an operator, or for another event."""
    made = rig(MemoryQueue(events(2)), ScriptedCollector(lambda *_: refusal(400)))
    assert made.delivery.run() is Result.SUSPECTS
    assert made.delivery.state.state == "blocked"
    made.transport.answer = lambda *_: OK
    made.queue.put(event(3))
    while made.delivery.run() is Result.SUSPECTS:
        made.clock.advance(3600)
    assert made.delivery.state.state == "idle"


def test_a_long_run_of_poison_at_the_head_does_not_hold_up_what_is_behind_it() -> None:
    """The newest events are tried as controls, so the good ones need not wait for a backoff."""
    poison = set(range(1, 601))
    clock = VirtualClock()
    started_at = clock.monotonic()
    good_at: list[float] = []

    def answer(_n: int, eids: list[int]) -> Reply:
        if poison.intersection(eids):
            return refusal(400)
        good_at.extend(clock.monotonic() - started_at for _ in eids)
        return OK

    made = rig(MemoryQueue(events(700)), ScriptedCollector(answer), clock=clock, batch_size=50)
    made.delivery.run()
    assert len(good_at) == 100
    assert max(good_at) < 60
    check(made)


def test_poison_for_which_the_dead_letters_have_no_room_is_parked() -> None:
    """It stays in the queue, is passed by, and is named; the others go on, and nothing is discarded."""

    class FullQueue(MemoryQueue):
        room = 1

        def reject(self, keys: Sequence[int], status: int | None, reason: str) -> None:
            if len(self.dead) >= self.room:
                raise DeadLettersFullError("full")
            super().reject(keys, status, reason)

    queue = FullQueue(events(50))
    made = rig(queue, PoisonedCollector([7, 8, 9]))
    assert made.delivery.run() is Result.SUSPECTS
    assert len(queue.dead) == 1
    assert (made.delivery.state.suspects, made.delivery.state.parked) == (2, 2)
    queue.put_many([event(n) for n in range(51, 60)])
    made.delivery.run()
    assert set(queue.delivered) == set(range(1, 60)) - {7, 8, 9}
    queue.room = 9
    made.clock.advance(61)
    made.delivery.run()
    made.clock.advance(61)
    assert made.delivery.run() is Result.EMPTY
    assert set(queue.dead) == {7, 8, 9}
    assert made.delivery.state.parked == 0


@pytest.mark.parametrize("status", [500, 200])
def test_a_release_that_fails_ends_nothing(status: int) -> None:
    """An engine is not to raise there; one that does so all the same costs nothing."""

    class Failing(MemoryQueue):
        def release(self, after: int, keep: Collection[int] = ()) -> None:
            raise StorageError("the disk is gone")

    queue = Failing(events(3))
    made = Delivery(
        queue,
        ScriptedCollector(lambda *_: Reply(status=status)),
        settings=DeliverySettings(),
        wait=lambda _: False,
        stopping=lambda: False,
    )
    assert (Result.EMPTY if status == 200 else Result.TROUBLE) is made.run(give_up_on_trouble=True)


@pytest.mark.parametrize("error", [asyncio.CancelledError, Interruption])
def test_what_is_raised_out_of_a_transport_is_an_outage(error: type[BaseException]) -> None:
    """Also if it is no Exception."""

    class Raising:
        def send(self, _events: Sequence[bytes]) -> Reply:
            raise error

        def close(self) -> None:
            pass

    queue = MemoryQueue(events(3))
    made = Delivery(queue, Raising(), settings=DeliverySettings(), wait=lambda _: False, stopping=lambda: False)
    assert made.run(give_up_on_trouble=True) is Result.TROUBLE
    assert queue.ledger().pending == 3


def test_a_run_ends_when_it_has_passed_what_it_had_seen_and_something_else_is_due() -> None:
    """Where more is put during each request the queue is never empty."""
    queue = MemoryQueue(events(10))

    def answer(request: int, _eids: list[int]) -> Reply:
        queue.put(event(100 + request))
        return Reply(status=200)

    made = Delivery(
        queue,
        ScriptedCollector(answer),
        settings=DeliverySettings(batch_size=4),
        wait=lambda _: False,
        stopping=lambda: False,
    )
    assert made.run(may_yield=lambda: True) is Result.PASSED
    assert queue.ledger().delivered >= 10
    assert queue.ledger().pending > 0
    assert made.run(may_yield=lambda: True) is Result.PASSED


# ── what survives the process ────────────────────────────────────────────────────────────────────────────────────────


def visits(queue: MemoryQueue, transport: Any, clock: VirtualClock, count: int) -> list[Result]:
    """Let a process after another look after a queue, five minutes apart, each until it would have to wait."""
    results = []
    for _ in range(count):
        made = rig(queue, transport, clock=clock, batch_size=1)
        results.append(made.delivery.run())
        clock.advance(300)
    return results


def test_the_newest_event_of_a_slot_that_is_refused_is_a_dead_letter_in_the_end() -> None:
    """Nothing comes behind it that could be accepted; each process asks once, and knows what those before it met."""
    queue, clock = MemoryQueue(events(20)), VirtualClock()
    collector = PoisonedCollector([20])
    results = visits(queue, collector, clock, 12)
    assert set(results) == {Result.SUSPECTS}
    assert queue.ledger().delivered == 19
    assert Result.EMPTY in visits(queue, collector, clock, 30)
    assert list(queue.dead) == [20]
    assert queue.known == b"[]"


def test_a_slot_of_which_nothing_was_ever_accepted_keeps_its_events() -> None:
    """It may be the collector that errs, for days."""
    queue, clock = MemoryQueue(events(1)), VirtualClock()
    assert set(visits(queue, PoisonedCollector([1]), clock, 300)) == {Result.SUSPECTS}
    assert queue.ledger().pending == 1


def test_what_an_earlier_process_knew_speaks_once_others_are_accepted() -> None:
    """And what is accepted after all is delivered."""
    queue, clock = MemoryQueue(events(5)), VirtualClock()
    collector = PoisonedCollector([5])
    visits(queue, collector, clock, 10)
    known = json.loads(queue.known or b"")
    assert [one[0] for one in known] == [5]
    assert known[0][1] >= 5
    collector.poison.clear()
    assert visits(queue, collector, clock, 1) == [Result.EMPTY]
    assert queue.ledger().delivered == 5


@pytest.mark.parametrize("known", [b"", b"{", b"[1]", b"[[1,2]]", b'[["x",1,1,1,1,1,1,1]]', b"null", b"5"])
def test_what_an_earlier_process_knew_may_be_altered(known: bytes) -> None:
    """Then nothing is known."""
    queue = MemoryQueue(events(3))
    queue.known = known
    assert rig(queue, ScriptedCollector()).delivery.run() is Result.EMPTY


def test_a_slow_link_halves_the_requests_down_to_what_any_carries() -> None:
    """And not to single events."""
    queue = MemoryQueue(events(3000))
    answers = iter([Reply(status=None, error="slow", is_unsent=True)] * 30)
    collector = ScriptedCollector(lambda *_: next(answers, Reply(status=200)))
    made = rig(queue, collector, batch_size=3000)
    assert made.delivery.run() is Result.EMPTY
    sizes = [len(one) for one in collector.requests]
    assert sizes[0] > sizes[1] > sizes[2]
    assert min(sizes[:30]) > 20


def test_what_is_known_of_a_suspect_outlasts_an_outage() -> None:
    """The span that comes back from it covers the suspect's key."""
    queue, clock = MemoryQueue(events(8)), VirtualClock()
    collector = PoisonedCollector([3])
    rig(queue, collector, clock=clock, batch_size=2).delivery.run()
    queue = MemoryQueue(events(8))
    now = clock.wall_ms()
    queue.known = json.dumps([[3, 6, 2, 4, now, 4, 0, 0]]).encode()
    answers = iter([Reply(status=503)])
    collector = PoisonedCollector([3])
    sound = collector.answer
    collector.answer = lambda number, eids: next(answers, None) or sound(number, eids)
    made = rig(queue, collector, clock=clock, batch_size=8)
    made.delivery.run()
    assert all(one == [3] for one in collector.requests if 3 in one)
    assert list(queue.dead) == [3]


@pytest.mark.parametrize("at", range(1, 120, 2))
def test_a_read_that_fails_while_a_long_run_of_poison_is_left_behind_loses_nothing(at: int) -> None:
    """What was claimed before it is read again."""
    queue = MemoryQueue(events(300))
    queue.failing_at = at
    made = rig(queue, PoisonedCollector(range(1, 201)), batch_size=10)
    for number in range(301, 400):
        if made.delivery.run() is Result.EMPTY:
            break
        queue.put(event(number))
        made.clock.advance(60)
    assert queue.pending() == len(queue.rows) == made.delivery.state.suspects
