"""SIGKILL at any moment: two processes with three producers each, and a collector that fails and loses answers."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from processes import Child, Program, Site, label, open_slots, wait_until

from durable_tracker.collector import Collector, Fault, Faults

if TYPE_CHECKING:
    from pathlib import Path

    from durable_tracker.collector import Request

REQUEST_COUNT = 20


def campaign(site: Site, *, kills: int, seed: int) -> tuple[int, int]:
    """Kill so many processes. Returns how many events were acknowledged, and how many arrived more than once."""
    print(f"seed {seed}")
    dice = random.Random(seed)
    faults = Faults(fail=((503, 0.15),), lose_answer=0.15, reset=0.05, latency_s=(0.0, 0.004), seed=seed)
    producers = Program("producers", batch_size=REQUEST_COUNT)
    lost: list[Fault] = []

    def draw(request: Request) -> Fault | None:
        fault = faults(request)
        if fault is not None and fault.reset_after_store:
            lost.append(fault)
        return fault

    with Collector(faults=draw) as collector:
        site.endpoint = collector.url
        killed = 0
        while killed < kills:
            before = len(site.noted("ack"))
            with Child(site, producers) as one, Child(site, producers) as two:
                # Some are killed while they start, and take over what the last ones left.
                wait_for_progress(site, before + dice.choice((0, 0, 1, 30, 100)), dice.random() * 0.4)
                one.kill()
                two.kill()
            killed += 2
            for queue in open_slots(site.queue_dir):
                ledger = queue.ledger()
                assert ledger.pending == len(queue.events), (seed, killed)
                assert ledger.dead == ledger.expired == ledger.damaged == ledger.evicted == 0, (seed, killed)
        collector.script = lambda _: None
        drain(site)
        received = Counter(label(event) for event in collector.events)
        acknowledged, tried = set(site.noted("ack")), set(site.noted("try"))
        assert acknowledged - set(received) == set(), seed
        assert set(received) - tried == set(), seed
        assert collector.anomalies == [], seed
        doubled = sum(received.values()) - len(received)
        assert doubled <= REQUEST_COUNT * (kills + len(lost)), seed
        ledger = site.ledger()
        assert (ledger.pending, ledger.dead) == (0, 0)
        assert len(acknowledged) <= ledger.accepted == ledger.delivered == len(received)
        return len(acknowledged), doubled


def wait_for_progress(site: Site, wanted: int, pause_s: float) -> None:
    """Wait for so many acknowledged events in all, or, if there are as many already, for some part of a start."""
    over_at = time.monotonic() + pause_s
    if len(site.noted("ack")) >= wanted:
        wait_until(lambda: time.monotonic() > over_at)
    wait_until(lambda: len(site.noted("ack")) >= wanted)


def drain(site: Site) -> None:
    """Let the command deliver what the killed ones left."""
    command = [sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(site.queue_dir)]
    drained = subprocess.run(command, timeout=60, capture_output=True, check=False)
    assert drained.returncode == 0, drained


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A queue dir for the campaign."""
    return Site(tmp_path)


@pytest.mark.timeout(100)
def test_a_short_campaign_of_kills_loses_nothing(site: Site) -> None:
    """Acknowledged is a subset of received, received of attempted; the ledgers are exact after each restart."""
    acknowledged, _ = campaign(site, kills=12, seed=1)
    assert acknowledged > 30


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [101, 102, 103])
def test_a_campaign_of_kills_loses_nothing(site: Site, seed: int) -> None:
    """As the short one, 104 kills for each seed."""
    acknowledged, _ = campaign(site, kills=104, seed=seed)
    assert acknowledged > 1000


def test_an_ack_before_the_answer_is_seen_to_lose_events(site: Site) -> None:
    """The campaign can fail: with rows that are removed before they are sent."""
    broken = Program("producers_that_remove_first", batch_size=20)
    with Collector(script=lambda _: Fault(reset_before=True)) as collector:
        site.endpoint = collector.url
        with Child(site, broken) as child:
            assert collector.wait(requests=2)
            child.kill()
        collector.script = lambda _: None
        drain(site)
        received = Counter(label(event) for event in collector.events)
        assert set() != set(site.noted("ack")) - set(received) - set(site.stored())
