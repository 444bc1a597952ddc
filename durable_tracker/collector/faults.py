"""What can go wrong between a tracker and its collector, on purpose.

A `Fault` says what happens to one request; `Faults` draws one for each request from probabilities.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from durable_tracker.collector.validation import Request

REDIRECT_TO: Final = "/com.snowplowanalytics.snowplow/tp2"
"""A client that turns the redirected POST into a GET is answered 200 there, and nothing is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one request instead of a plain answer.

    The request is stored if its answer, whether it arrives or not, is a 2xx; `store` overrides that.

    Attributes:
        status: the answer's status; without it 200, or 301 for a redirect.
        headers: further headers of the answer, such as Retry-After.
        body: the answer's body, if not the usual one.
        redirect: the answer's Location.
        delay_s: seconds to wait between reading the request and answering.
        reset_before: reset the connection before the body is read; nothing is stored.
        reset_after_read: reset it after the body is read; nothing is stored.
        reset_after_store: store the request, then reset the connection: the answer is lost.
        hang: read the request and never answer, until the client or the collector closes; nothing is stored.
        drip_s: seconds between the single bytes of the answer.
        truncate: announce the whole answer's length, send all but its last byte, and close.
        store: whether the request is stored, whatever the answer says.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    redirect: str | None = None
    delay_s: float = 0.0
    reset_before: bool = False
    reset_after_read: bool = False
    reset_after_store: bool = False
    hang: bool = False
    drip_s: float = 0.0
    truncate: bool = False
    store: bool | None = None

    def __post_init__(self) -> None:
        if self.status is not None and not 200 <= self.status <= 599:  # noqa: PLR2004
            raise ConfigurationError(f"status: {self.status} is not a final HTTP status (200 to 599)")
        for name in ("delay_s", "drip_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name}: {getattr(self, name)} is negative")

    @property
    def answer_status(self) -> int:
        """The status that is answered, if anything is."""
        return self.status or (301 if self.redirect is not None else 200)

    @property
    def stores(self) -> bool:
        """Whether the request counts as received."""
        if self.store is not None:
            return self.store and not self.reset_before
        if self.reset_after_store:
            return True
        lost = self.reset_before or self.reset_after_read or self.hang
        return not lost and 200 <= self.answer_status < 300  # noqa: PLR2004


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Draws a fault for each request. Thread-safe; a seed repeats the draws, not the order of the threads.

    At most one of `fail`, `lose_answer`, `reset`, `hang` and `redirect` befalls a request, so their
    probabilities, each from 0 to 1, may add up to 1 at most. Latency comes on top, with or without one.

    Attributes:
        fail: statuses with their probabilities.
        retry_after: the Retry-After header on a failed answer: seconds or a date, sent as it is.
        lose_answer: the probability that the request is stored and the connection then reset.
        reset: the probability of a reset before the body is read.
        hang: the probability that no answer ever comes.
        redirect: the probability of a redirect to `redirect_to`.
        redirect_to: the Location, answered with status 301.
        latency_s: seconds each answer waits: at least the first, at most the second.
        seed: of the random numbers; None takes one from the system.

    Raises:
        ConfigurationError: a probability or a status is not one, or a latency is negative.
    """

    fail: Sequence[tuple[int, float]] = ()
    retry_after: str | None = None
    lose_answer: float = 0.0
    reset: float = 0.0
    hang: float = 0.0
    redirect: float = 0.0
    redirect_to: str = REDIRECT_TO
    latency_s: tuple[float, float] = (0.0, 0.0)
    seed: int | None = None
    _choices: list[tuple[float, Fault]] = field(init=False, repr=False, compare=False)
    _random: random.Random = field(init=False, repr=False, compare=False)
    _lock: threading.Lock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        choices = [
            *((probability, Fault(status=status, headers=headers)) for status, probability in self.fail),
            (self.lose_answer, Fault(reset_after_store=True)),
            (self.reset, Fault(reset_before=True)),
            (self.hang, Fault(hang=True)),
            (self.redirect, Fault(redirect=self.redirect_to)),
        ]
        total = sum(probability for probability, _ in choices)
        if any(not 0 <= probability <= 1 for probability, _ in choices) or total > 1 + 1e-9:
            raise ConfigurationError("faults: probabilities are from 0 to 1, and at most 1 together")
        if not 0 <= self.latency_s[0] <= self.latency_s[1]:
            raise ConfigurationError(f"latency: {self.latency_s} is not a range of seconds")
        # The dataclass is frozen for its users; what it derives is set once, here.
        object.__setattr__(self, "_choices", [(p, fault) for p, fault in choices if p > 0])
        object.__setattr__(self, "_random", random.Random(self.seed))  # noqa: S311
        object.__setattr__(self, "_lock", threading.Lock())

    def __call__(self, _request: Request) -> Fault | None:
        """Return what befalls this request, or None."""
        with self._lock:
            # Always two draws, so that a seed gives the same faults with and without latency.
            draw, share = self._random.random(), self._random.random()
        low, high = self.latency_s
        delay_s = low + (high - low) * share
        for probability, fault in self._choices:
            if draw < probability:
                return replace(fault, delay_s=delay_s)
            draw -= probability
        return Fault(delay_s=delay_s) if delay_s > 0 else None
