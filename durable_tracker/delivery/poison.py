"""When a refused event is poison, and when it is the collector that errs: the evidence, and the verdict.

A request that is refused is halved until the offender is alone. An event that is refused alone is a *suspect*: it is
kept and passed by, and asked about again and again. The verdict, which makes it a dead letter, needs refusals that
chance does not explain:

    p    how likely a request is refused whatever is in it, by what others met since the suspect's first refusal:
         (refused + 2) / (refused + accepted + 3), which is on the safe side of what was seen; a refusal that is
         explained by a suspect, as it was in that request, does not count
    n    how many questions about it were refused, without exception
    p ** n <= 1e-9, and nothing is decided while nothing else is accepted

One suspect that is accepted after all proves that refusals mean nothing just now (half of a balancer is broken, a
schema registry flaps): what it explained counts, and n begins anew for every suspect. So a collector that refuses at
random has nothing dead-lettered, however long it lasts, while one event among many good ones is found out within
seconds.

What is known of suspects survives the process (`known`). Of one that is left alone, so that nothing else can be
accepted, the verdict needs an hour besides, and that the collector had accepted others just before it: a slot whose
newest event is poison does not stay for ever.

Questions come at random, now a second apart and now twice in a row: asked in turn with other requests, they could all
go to the same half of a balancer.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from durable_tracker.delivery.spans import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DOUBT_MAX: Final = 1e-9
"""The chance at which a good event may become a dead letter."""

REPEATS_MIN: Final = 2
"""Questions about the suspect itself that must have been refused while others were accepted in between."""

REPEATS_ALONE_MIN: Final = 16
"""As many, where nothing else is left to be accepted."""

ALONE_MS: Final = 3_600_000
"""For how long a suspect that is left alone must have been refused."""

KNOWN_MAX: Final = 1000
"""Suspects of which anything is kept beyond the process."""

GAP_S: Final = 1.0
"""Between two questions about a suspect, for the first of them."""

AT_ONCE: Final = 0.5
"""The share of questions that follow the one before at once."""

_UNEXPLAINED_MAX: Final = 1000

QUICK_REPEATS: Final = 48
"""Questions after which the gap doubles, up to the longest backoff."""


class Evidence:
    """What the requests of one delivery met. Not thread-safe: it belongs to the policy loop.

    Attributes:
        accepted: requests that were accepted, but for questions about suspects.
        epoch: how many suspects were accepted after all.
    """

    def __init__(self, gap_max_s: float) -> None:
        """Begin with none. `gap_max_s` is the longest time between two questions, in seconds."""
        self.accepted = 0
        self.epoch = 0
        self._number = 0  # of the last request that was refused
        self._unexplained: deque[int] = deque(maxlen=_UNEXPLAINED_MAX)  # those that no suspect was in
        self._gap_max_s = gap_max_s
        self._random = random.Random(0)  # noqa: S311 (no secret)

    def refused(self, span: Span) -> Span:
        """Take note that a request was refused that was no question. Return the span with that on its account."""
        self._number += 1
        self._unexplained.append(self._number)
        if not span.refusals:
            span = replace(span, accepted_before=self.accepted)
        return replace(span, refusals=(*span.refusals, self._number))

    def explain(self, suspect: Span) -> None:
        """Take note that an event is suspect: the refusals of the requests that it was in may be its fault."""
        for number in suspect.refusals:
            with contextlib.suppress(ValueError):  # another one was in the same request
                self._unexplained.remove(number)

    def exonerate(self, suspect: Span) -> None:
        """Take note that a suspect was accepted."""
        self.epoch += 1
        self._unexplained.extend(suspect.refusals)

    def is_proof(self, suspect: Span, *, accepted_min: int = 0, now_ms: int = 0) -> bool:
        """Return whether a suspect's refusals are its own fault.

        Args:
            suspect: its last refusal included.
            accepted_min: acceptances that speak against it though they were before its first refusal.
            now_ms: the wall clock, in milliseconds since the epoch.
        """
        accepted = max(self.accepted - suspect.accepted_before, accepted_min)
        if not accepted and suspect.repeats >= REPEATS_ALONE_MIN and now_ms >= suspect.refused_ms + ALONE_MS:
            accepted = suspect.accepted_first
        if not accepted:
            return False
        refused = self._refused_since(suspect)
        chance = (refused + 2) / (refused + accepted + 3)
        is_sure = suspect.repeats * -math.log(chance) >= -math.log(DOUBT_MAX)
        return is_sure and (suspect.repeats_beside >= REPEATS_MIN or suspect.repeats >= REPEATS_ALONE_MIN)

    def _refused_since(self, suspect: Span) -> int:
        """Return the refusals since a suspect's first one that nothing explains."""
        return suspect.refused_carried + sum(number >= suspect.refusals[0] for number in self._unexplained)

    def gap_s(self, suspect: Span, *, accepted_min: int = 0) -> float:
        """Return the seconds until the next question about a suspect; see `is_proof`."""
        if suspect.is_parked or not (accepted_min or self.accepted > suspect.accepted_before):
            return self._gap_max_s  # no answer would decide anything
        if suspect.repeats < QUICK_REPEATS and self._random.random() < AT_ONCE:
            return 0.0
        return min(GAP_S * 2.0 ** max(suspect.repeats - QUICK_REPEATS, 0), self._gap_max_s)

    def known(self, suspects: Iterable[Span]) -> list[list[int]]:
        """Return what is known of suspects, as numbers that a later process can begin with."""
        return [
            [
                span.last,
                span.repeats,
                span.repeats_beside,
                self.accepted - span.accepted_before,
                span.refused_ms,
                span.accepted_first,
                span.too_large,
                self._refused_since(span),
            ]
            for span in sorted(suspects, key=lambda span: span.last)[:KNOWN_MAX]
        ]

    def suspect_of(self, known: Sequence[int], after: int) -> Span:
        """Return a suspect, handed out behind `after`, of which an earlier process knew something; see `known`."""
        key, repeats, repeats_beside, accepted, refused_ms, accepted_first, too_large, refused = known
        return Span(
            after=after,
            last=key,
            count=1,
            refusals=(self._number + 1,),
            refused_carried=refused,
            alone=True,
            accepted_before=self.accepted - accepted,
            accepted_last=self.accepted,
            epoch=self.epoch,
            repeats=repeats,
            repeats_beside=repeats_beside,
            refused_ms=refused_ms,
            accepted_first=accepted_first,
            too_large=too_large,
        )
