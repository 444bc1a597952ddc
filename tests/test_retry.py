"""What an answer means, and how long to wait after it."""

from __future__ import annotations

import math
import random

import pytest

from durable_tracker.delivery.retry import Backoff, Outcome, Trouble, classify, retry_while_troubled
from durable_tracker.errors import ConfigurationError


@pytest.mark.parametrize(
    ("outcome", "statuses"),
    [
        (Outcome.DELIVERED, [200, 201, 202, 204, 206, 299]),
        (Outcome.REFUSED, [400, 422]),
        (Outcome.TOO_LARGE, [413, 414]),
        (
            Outcome.BLOCKED,
            [300, 301, 302, 303, 304, 307, 308, 401, 402, 403, 404, 405, 407, 409, 410, 415, 418, 431, 451],
        ),
        (Outcome.OUTAGE, [None, 100, 101, 408, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599, 600, 0, -1]),
    ],
)
def test_each_status_has_its_meaning(outcome: Outcome, statuses: list[int | None]) -> None:
    """The table of answers, the unknown ones included."""
    assert dict.fromkeys(statuses, outcome) == {status: classify(status, {}) for status in statuses}


def test_only_a_success_or_a_refusal_can_end_an_events_life() -> None:
    """Whatever is not in the table keeps every event."""
    final = {Outcome.DELIVERED, Outcome.REFUSED, Outcome.TOO_LARGE}
    ending = {status for status in range(-1, 1000) if classify(status, {}) in final}
    assert ending == {*range(200, 300), 400, 413, 414, 422}


@pytest.mark.parametrize(
    ("status", "retried", "outcome"),
    [
        (400, True, Outcome.OUTAGE),
        (404, True, Outcome.OUTAGE),
        (503, False, Outcome.REFUSED),
        (401, False, Outcome.REFUSED),
        (200, False, Outcome.DELIVERED),
        (None, False, Outcome.OUTAGE),
    ],
)
def test_custom_retry_codes_override_the_table_outside_2xx(status: int, retried: bool, outcome: Outcome) -> None:
    """The user's word wins, but cannot turn a success into a failure, nor silence into a refusal."""
    codes = {} if status is None else {status: retried}
    assert classify(status, codes) == outcome


def trouble(consecutive: int = 1, *, outcome: Outcome = Outcome.OUTAGE, retry_after_s: float | None = None) -> Trouble:
    return Trouble(outcome=outcome, consecutive=consecutive, retry_after_s=retry_after_s)


def test_the_backoff_doubles_up_to_its_cap() -> None:
    """The upper bound of the draw is 1, 2, 4 ... seconds, and never more than the cap, after any number of tries."""
    backoff = Backoff(max_retry_delay_seconds=10, uniform=lambda _low, high: high)
    assert [backoff.delay_s(trouble(n)) for n in (1, 2, 3, 4, 5, 6, 1_000_000)] == [1, 2, 4, 8, 10, 10, 10]


def test_the_jitter_is_full() -> None:
    """Draws fill the whole range from nothing to the bound."""
    backoff = Backoff(max_retry_delay_seconds=60, uniform=random.Random(1).uniform)
    draws = [backoff.delay_s(trouble(4)) for _ in range(1000)]
    assert 0 <= min(draws) < 0.1
    assert 7.9 < max(draws) <= 8
    assert 3.5 < sum(draws) / len(draws) < 4.5


def test_being_blocked_waits_the_longest_delay_at_once() -> None:
    """Nobody mends an address within a second."""
    backoff = Backoff(max_retry_delay_seconds=60, uniform=lambda low, _high: low)
    assert backoff.delay_s(trouble(outcome=Outcome.BLOCKED)) == 60


@pytest.mark.parametrize(
    ("retry_after_s", "cap", "delay_s"),
    [
        (None, 60, 0),
        (0, 60, 0),
        (-5, 60, 0),
        (7, 60, 7),
        (300, 60, 300),
        (1e9, 60, 3600),
        (1e9, 7200, 7200),
        (math.inf, 60, 3600),
    ],
)
def test_retry_after_is_a_minimum_with_a_cap(retry_after_s: float | None, cap: float, delay_s: float) -> None:
    """It may exceed the longest backoff, but an absurd one is cut to an hour, or to a longer backoff."""
    backoff = Backoff(max_retry_delay_seconds=cap, uniform=lambda low, _high: low)
    assert backoff.delay_s(trouble(retry_after_s=retry_after_s)) == delay_s


def test_the_longer_of_backoff_and_retry_after_counts() -> None:
    """A short Retry-After does not undercut the backoff that several failures have earned."""
    backoff = Backoff(max_retry_delay_seconds=60, uniform=lambda _low, high: high)
    assert backoff.delay_s(trouble(6, retry_after_s=2)) == 32


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_cap_that_is_no_time_is_refused(seconds: float) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigurationError, match="max_retry_delay_seconds"):
        Backoff(max_retry_delay_seconds=seconds)


def test_retrying_goes_on_until_there_is_no_trouble() -> None:
    """Each trouble is waited for once; the first other result is returned."""
    results = [trouble(1), trouble(2), trouble(3), "done"]
    slept: list[float] = []
    result = retry_while_troubled(
        lambda: results.pop(0), delay_s=lambda t: t.consecutive * 10.0, sleep=slept.append, give_up=lambda: False
    )
    assert (result, slept) == ("done", [10, 20, 30])


def test_giving_up_returns_the_trouble_without_waiting() -> None:
    """Stopping does not wait for the backoff to pass."""
    slept: list[float] = []
    result = retry_while_troubled(trouble, delay_s=lambda _: 5, sleep=slept.append, give_up=lambda: True)
    assert (trouble(), []) == (result, slept)


def test_what_an_attempt_raises_is_raised_at_once() -> None:
    """A defect is not an outage."""
    with pytest.raises(ZeroDivisionError):
        retry_while_troubled(lambda: 1 / 0, delay_s=lambda _: 0, sleep=lambda _: None, give_up=lambda: False)
