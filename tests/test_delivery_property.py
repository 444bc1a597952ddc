"""The policy against scripts that nobody thought of, and broken policies against the same scripts."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from fakes import EPOCH_MS, NO_ANSWER, OK, MemoryQueue, ScriptedCollector, VirtualClock, event, refusal, rig
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from durable_tracker.delivery.policy import Result
from durable_tracker.delivery.reader import Reader
from durable_tracker.delivery.retry import Outcome

if TYPE_CHECKING:
    from fakes import Rig

    from durable_tracker.delivery.transport import Reply

STEPS = ("ok", "no answer", "answer lost", "503", "429", "403", "302", "storage")


@dataclass
class Script:
    """A run: what is in the queue, and how collector and storage behave, request by request."""

    count: int
    poison: frozenset[int]
    large: frozenset[int]
    old: frozenset[int]
    steps: list[str] = field(default_factory=list)
    refusing: tuple[int, int] | None = None  # from which request on, and for how many, everything is refused
    arrivals: list[int] = field(default_factory=list)  # after which requests another event is put
    batch_size: int = 8
    byte_limit: int = 10_000
    senders: int = 1

    @property
    def bad(self) -> frozenset[int]:
        return self.poison | self.large


SIZE_MAX = 4000


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    count = draw(st.integers(0, 40))
    some = st.frozensets(st.integers(1, max(count, 1) + 5), max_size=6)
    return Script(
        count=count,
        poison=draw(some),
        large=frozenset(n for n in draw(some) if n <= count),
        old=draw(some),
        steps=draw(st.lists(st.sampled_from(STEPS), max_size=25)),
        refusing=draw(st.none() | st.tuples(st.integers(0, 30), st.integers(1, 60))),
        arrivals=draw(st.lists(st.integers(0, 40), max_size=10)),
        batch_size=draw(st.integers(1, 50)),
        byte_limit=draw(st.integers(100, 20_000)),
        senders=draw(st.sampled_from([1, 1, 1, 3])),
    )


@dataclass
class Played:
    """What came of a script."""

    script: Script
    made: Rig
    last: Result
    shared: set[int]  # events that were in a request which was refused with reason


class Collector(ScriptedCollector):
    """Plays a script; afterwards it is sound, but for the events that are bad in themselves."""

    def __init__(self, script: Script, queue: MemoryQueue) -> None:
        super().__init__(self._play)
        self.script = script
        self.queue = queue
        self.stored: list[int] = []
        self.shared: set[int] = set()

    def _play(self, n: int, numbers: list[int]) -> Reply:
        script = self.script
        if n in script.arrivals:
            self.queue.put(event(self.queue.puts + 1))
        step = script.steps[n] if n < len(script.steps) else "ok"
        refusing = script.refusing and script.refusing[0] <= n < sum(script.refusing)
        if step == "no answer":
            return NO_ANSWER
        if step in ("503", "429", "403", "302"):
            return refusal(int(step), 5 if step == "429" else None)
        if sum(len(one) for one in self.bodies[-1]) > SIZE_MAX:
            self.shared |= set(numbers)
            return refusal(413)
        if refusing or script.poison & set(numbers):
            if script.bad & set(numbers):
                self.shared |= set(numbers)
            return refusal(400)
        self.stored += numbers
        if step == "answer lost":
            return NO_ANSWER
        if step == "storage":
            self.queue.failing["ack"] += 1
        return OK


def play(script: Script) -> Played:
    queue = MemoryQueue(
        event(n, dtm=EPOCH_MS - 10**9 if n in script.old else EPOCH_MS, pad=5000 if n in script.large else n % 7)
        for n in range(1, script.count + 1)
    )
    collector = Collector(script, queue)
    clock = VirtualClock()
    clock.stop_after_waits = 400
    made = rig(
        queue,
        collector,
        clock=clock,
        max_age=500_000,
        batch_size=script.batch_size,
        byte_limit=script.byte_limit,
        senders=script.senders,
    )
    last = made.delivery.run()
    for _ in range(200):  # as a worker does: again from time to time while something is left
        if last is Result.EMPTY:
            break
        clock.advance(61)
        last = made.delivery.run()
    made.delivery.close()
    return Played(script, made, last, collector.shared)


def judge(played: Played) -> None:
    """What has to hold after any script."""
    script, queue, collector = played.script, played.made.queue, played.made.transport
    assert isinstance(collector, Collector)
    every = set(range(1, queue.puts + 1))
    pending, dead = set(queue.rows), set(queue.dead)
    expired, delivered = set(queue.expired), set(queue.delivered)
    assert len(queue.delivered) + len(pending) + len(dead) + len(expired) == len(every), "one place each"
    assert delivered | pending | dead | expired == every, "none is lost"
    assert delivered <= set(collector.stored) <= every, "it leaves as delivered only when it was stored"
    assert not expired - script.old
    assert not delivered & script.bad
    assert dead <= script.bad, "a dead letter is bad, whatever else was refused at the time"
    assert pending <= script.bad, "once the collector is sound, whatever is good is delivered"
    state = played.made.delivery.state
    assert (state.delivered, state.dead, state.expired) == (len(delivered), len(dead), len(expired))
    assert (state.suspects, played.last) == (len(pending), Result.SUSPECTS if pending else Result.EMPTY)
    reported = [int(one["eid"]) for batch in played.made.succeeded for one in batch]
    assert sorted(reported) == sorted(delivered), "on_success tells each delivered event once"
    assert sorted(int(one["eid"]) for _, gone in played.made.failed for one in gone) == sorted(dead | expired)
    assert sum(count for count, _ in played.made.failed) <= len(delivered)


FAST = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@FAST
@given(scripts())
def test_no_script_loses_buries_or_invents_an_event(script: Script) -> None:
    """Every event is delivered, dead, expired or pending; only what is bad stays behind."""
    judge(play(script))


def ack_before_sending(patch: pytest.MonkeyPatch) -> None:
    """As queues do that pop before they send."""
    peek = MemoryQueue.peek

    def popping(queue: MemoryQueue, after: int, count_max: int, size_max: int) -> list[Any]:
        rows = peek(queue, after, count_max, size_max)
        for row in rows:
            queue.lose(queue._numbers[row.key])
        return rows

    patch.setattr(MemoryQueue, "peek", popping)
    patch.setattr(MemoryQueue, "ack", lambda queue, keys: queue.delivered.extend(keys))


def every_answer_is_a_success(patch: pytest.MonkeyPatch) -> None:
    """As trackers do that take 3xx, or silence, for a success."""
    patch.setattr("durable_tracker.delivery.policy.classify", lambda *_: Outcome.DELIVERED)


def bury_at_the_first_refusal(patch: pytest.MonkeyPatch) -> None:
    """As trackers do that drop what was answered with 400."""
    refused = Reader.refused

    def hasty(claims: Reader, batch: Any, **answer: Any) -> bool:
        if len(batch.rows) == 1:
            return True
        return refused(claims, batch, **answer)

    patch.setattr(Reader, "refused", hasty)


def forget_what_came_back(patch: pytest.MonkeyPatch) -> None:
    """As a cursor does that only ever moves on."""
    patch.setattr(Reader, "give_back", lambda *_, **__: None)


@pytest.mark.parametrize(
    "breakage", [ack_before_sending, every_answer_is_a_success, bury_at_the_first_refusal, forget_what_came_back]
)
def test_a_broken_policy_is_found_out(breakage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scripts and the same judge tell it from a sound one."""
    breakage(monkeypatch)

    def is_condemned(script: Script) -> bool:
        try:
            judge(play(script))
        except (AssertionError, KeyError):
            return True
        return False

    quick = settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate])
    try:
        find(scripts(), is_condemned, settings=quick)
    except NoSuchExample:
        pytest.fail("no script condemns it")


# ── collectors that refuse at random ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Erring:
    """A collector that refuses good events, for some time; afterwards it is sound, but for what is poison."""

    seed: int

    def play(self) -> None:
        rng = random.Random(self.seed)
        count, poison_share = rng.randint(1, 400), rng.choice((0, 0, 0.02, 0.3))
        poison = {number for number in range(1, count + 1) if rng.random() < poison_share}
        backends, chance = rng.randint(2, 4), rng.choice((0.02, 0.2, 0.5, 0.8))
        kind = rng.choice(("at random", "in turn", "by connection"))
        sound_after, last_for = rng.randint(10, 3000), rng.randint(1, 12)
        clock = VirtualClock()

        def answer(request: int, numbers: list[int]) -> Reply:
            clock.advance(rng.random() / 50)
            if poison & set(numbers):
                return refusal(400)
            if request < sound_after and (
                (kind == "at random" and rng.random() < chance)
                or (kind == "in turn" and request % backends == 0)
                or (kind == "by connection" and request // last_for % backends == 0)
            ):
                return refusal(400)
            return OK

        queue = MemoryQueue(event(number) for number in range(1, count + 1))
        batch_size = rng.choice((1, 1, 8, 500))
        made = rig(queue, ScriptedCollector(answer), clock=clock, batch_size=batch_size)
        for _ in range(3000):
            if made.delivery.run() is Result.EMPTY:
                break
            assert set(queue.dead) <= poison, f"seed {self.seed}"
            clock.advance(1)
            if len(made.transport.requests) < sound_after or rng.random() < 0.5:
                queue.put(event(queue.puts + 1))
        made.delivery.close()
        assert set(queue.dead) <= poison, f"seed {self.seed}"
        assert set(queue.rows) == set(), f"seed {self.seed}"
        assert set(queue.delivered) == set(range(1, queue.puts + 1)) - poison, f"seed {self.seed}"


MANY_SEEDS = range(60, 2100 if os.environ.get("CAMPAIGN") == "whole" else 260)
"""`make campaign` runs all of them, `make crash` the first tenth."""


@pytest.mark.parametrize("seeds", [range(60), pytest.param(MANY_SEEDS, marks=pytest.mark.slow)], ids=("few", "many"))
def test_no_good_event_is_a_dead_letter_whatever_a_collector_refuses(seeds: range) -> None:
    """Half of a balancer is broken, or refusals come at random: all is delivered in the end, but what is poison.

    A good event may become a dead letter with a chance of one in a thousand million, so these seeds always pass.
    """
    for seed in seeds:
        Erring(seed).play()
