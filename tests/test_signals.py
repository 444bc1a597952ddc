"""Signal handlers that track, and that raise, while everything else goes on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from processes import Program, Site, label

from durable_tracker.collector import Collector

if TYPE_CHECKING:
    from pathlib import Path

HANDLED = 20_000


def storm(durability: str, *, raises: bool, count: int, drain: bool = False, replaces_rows: bool = False) -> Program:
    return Program(
        "signal_storm", durability=durability, raises=raises, count=count, drain=drain, replaces_rows=replaces_rows
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A queue dir, and a collector that is down."""
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("durability", "drain", "count", "raises"),
    [
        ("interval", True, HANDLED, True),
        ("always", False, 1_000, False),
        pytest.param("interval", True, HANDLED, False, marks=pytest.mark.slow),
        pytest.param("always", False, 1_000, True, marks=pytest.mark.slow),
        pytest.param("always", False, HANDLED, True, marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
def test_tracking_from_a_handler_with_background_producers(
    site: Site, durability: str, drain: bool, count: int, raises: bool
) -> None:
    """20,000 times: no deadlock, and every acknowledged event is there once, whatever the handler raises."""
    site.run(storm(durability, raises=raises, count=count, drain=drain), timeout_s=30 if count < HANDLED else 240)
    site.assert_kept()
    assert count <= len([one for one in site.noted("ack") if one.startswith("handler")])
    ledger = site.ledger()
    assert len(site.noted("ack")) <= ledger.accepted <= len(site.noted("try"))
    assert site.says("interrupted 0") is not raises


def test_a_store_that_replaces_rows_is_seen_to_lose_events(site: Site) -> None:
    """The test above can fail: a handler overtakes the key counter, and REPLACE overwrites what was acknowledged."""
    site.run(storm("interval", raises=False, count=5_000, replaces_rows=True))
    with pytest.raises(AssertionError):
        site.assert_kept()


def test_handlers_during_flush_close_and_the_first_put(site: Site) -> None:
    """Whatever the main thread is in, a handler's event is delivered or stored."""
    program = Program("handlers_that_track")
    with Collector() as collector:
        site.endpoint = collector.url
        site.run(program)
        site.assert_kept(Counter(label(event) for event in collector.events))


def test_an_opening_that_is_interrupted_at_any_line_gives_its_slot_back(site: Site) -> None:
    """The test below meets some of these lines, by chance; what comes out is the handler's own exception."""
    site.run(Program("interrupted_openings"))
    site.assert_kept()


def test_an_exception_out_of_a_handler_during_the_first_put(site: Site) -> None:
    """An opening that was interrupted anywhere gives its slot back, and the next put opens it."""
    program = Program("handlers_that_raise")
    site.run(program)
    site.assert_kept()
    assert len(list(site.slots.glob("*.sqlite3"))) <= 5
