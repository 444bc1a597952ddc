"""What an answer means for the events in the request, and how long to wait before the next attempt.

The only importer of tenacity. Three kinds of failure are never merged: *refused* (the events' fault, final for an
event that is refused alone), *blocked* (the collector refuses this client: a matter for an operator) and *outage*
(passes by itself).
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_result

from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

RETRY_AFTER_MAX_S = 3600.0
"""A Retry-After is believed up to this, or up to `max_retry_delay_seconds` if that is more."""

FIRST_DELAY_S = 1.0
"""The backoff before the first retry is between nothing and this."""


class Outcome(enum.Enum):
    """What an answer says about the events that were sent."""

    DELIVERED = "delivered"
    """The collector has taken them."""
    REFUSED = "refused"
    """Something in the request is not acceptable, and would not be tomorrow."""
    TOO_LARGE = "too large"
    """The request is larger than the collector, or a proxy before it, takes."""
    BLOCKED = "blocked"
    """The collector refuses this client or this address, whatever it sends."""
    OUTAGE = "outage"
    """No answer, or one that says: not now."""


# The statuses are those of RFC 9110, RFC 6585 and RFC 8470. A 3xx is never followed: 301-303 turn the POST into an
# empty GET, which the collector answers with 200 and throws away.
_BY_STATUS = {
    400: Outcome.REFUSED,
    422: Outcome.REFUSED,
    413: Outcome.TOO_LARGE,
    414: Outcome.TOO_LARGE,  # the GET form: the event is in the request line
    408: Outcome.OUTAGE,
    425: Outcome.OUTAGE,
    429: Outcome.OUTAGE,
}
_CLIENT_STATUSES = range(300, 500)
_SUCCESS_STATUSES = range(200, 300)


def classify(status: int | None, custom_retry_codes: Mapping[int, bool]) -> Outcome:
    """Return what an answer means.

    An unknown 4xx is BLOCKED: it keeps every event and says so, which is the one mistake that costs nothing.

    Args:
        status: the HTTP status, None if there was no complete answer.
        custom_retry_codes: the user's word on a status outside 2xx: True for "try again" (an outage), False for
            "never again" (refused). It wins over the table.
    """
    if status is None:
        return Outcome.OUTAGE
    if status in _SUCCESS_STATUSES:
        return Outcome.DELIVERED
    retried = custom_retry_codes.get(status)
    if retried is not None:
        return Outcome.OUTAGE if retried else Outcome.REFUSED
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    return Outcome.BLOCKED if status in _CLIENT_STATUSES else Outcome.OUTAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why an attempt ended before the queue was empty.

    Attributes:
        outcome: BLOCKED or OUTAGE.
        consecutive: how many troubles there were since the last progress, this one included; from 1.
        retry_after_s: the collector's own word on when to come back, in seconds, or None.
    """

    outcome: Outcome
    consecutive: int
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after a trouble: exponential with full jitter, capped. Immutable.

    Full jitter (a uniform draw between nothing and the exponential bound) keeps a fleet that was cut off together
    from coming back together: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Attributes:
        max_retry_delay_seconds: the cap, in seconds.
        uniform: draws a number between its two arguments.
    """

    max_retry_delay_seconds: float
    uniform: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        if not 0 < self.max_retry_delay_seconds < float("inf"):
            raise ConfigurationError(
                f"max_retry_delay_seconds: {self.max_retry_delay_seconds!r} is not a positive number of seconds"
            )

    def minimum_s(self, trouble: Trouble) -> float:
        """Return the part of the delay that nobody may shorten: Retry-After, capped."""
        if trouble.retry_after_s is None:
            return 0.0
        return min(max(trouble.retry_after_s, 0.0), max(self.max_retry_delay_seconds, RETRY_AFTER_MAX_S))

    def delay_s(self, trouble: Trouble) -> float:
        """Return the seconds to wait after `trouble`; never less than `minimum_s`.

        Being blocked waits the longest delay at once: asking again soon changes nothing, and nobody who has to be
        called out of bed is helped by a log that fills up.
        """
        if trouble.outcome is Outcome.BLOCKED:
            drawn = self.max_retry_delay_seconds
        else:
            exponent = min(trouble.consecutive - 1, 30)  # 2.0**1024 overflows; after days of outage it gets there
            drawn = self.uniform(0.0, min(self.max_retry_delay_seconds, FIRST_DELAY_S * 2.0**exponent))
        return max(drawn, self.minimum_s(trouble))


def retry_while_troubled(
    attempt: Callable[[], T | Trouble],
    *,
    delay_s: Callable[[Trouble], float],
    sleep: Callable[[float], None],
    give_up: Callable[[], bool],
) -> T | Trouble:
    """Call `attempt` until it returns something other than a Trouble, or `give_up` says so.

    There is no limit of time or tries. What `attempt` raises is raised at once.

    Args:
        attempt: one go at the whole job.
        delay_s: seconds to wait after a trouble; asked once for each.
        sleep: waits that long, or returns early if it is interrupted.
        give_up: asked before each wait and after it; True ends the retrying with the last Trouble.

    Returns:
        What the last attempt returned.
    """

    def last(state: RetryCallState) -> T | Trouble:
        assert state.outcome is not None  # noqa: S101 - tenacity calls only after an attempt
        result: T | Trouble = state.outcome.result()
        return result

    def wait(state: RetryCallState) -> float:
        trouble = last(state)
        assert isinstance(trouble, Trouble)  # noqa: S101 - tenacity waits only for what `retry` accepted
        return delay_s(trouble)

    retrying = Retrying(
        sleep=sleep,
        stop=lambda _: give_up(),
        wait=wait,
        retry=retry_if_result(lambda result: isinstance(result, Trouble)),
        retry_error_callback=last,
    )
    return retrying(attempt)
