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
newest event is poison does not stay for ever. Whoever cannot wait for that has what is left of suspects moved to the
dead letters on request (`Delivery.set_aside`).

Questions come at random, now a second apart and now twice in a row: asked in turn with other requests, they could all
go to the same half of a balancer.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable_tracker.delivery.spans import Span

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

_KNOWN_SIZE: Final = 8  # numbers that are kept of a suspect


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An event that was refused alone.

    Attributes:
        after: the key of an event that was handed out before it.
        key: its own.
        refusals: the numbers of the refused requests that it was in, but for questions about it.
        accepted_before: requests that had been accepted at the first of them.
        too_large: its size in bytes if it was refused for that, else 0.
        epoch: the court's, at the last refusal.
        repeats: questions about it that were refused in that epoch.
        repeats_beside: those of them since the one before which something else was accepted.
        accepted_last: requests that had been accepted at its last refusal.
        due_at: when to ask about it again, in seconds of the monotonic clock.
        is_parked: whether it is poison for which the dead letters have no room.
        refused_ms: when it was refused first, by the wall clock, in milliseconds since the epoch.
        refused_carried: refusals that no suspect explains, that earlier processes met since then.
        accepted_first: requests that had been accepted then, in the process in which that was.
        status: the HTTP status of its last refusal, None if this process met none.
        reason: why, in words.
    """

    after: int
    key: int
    refusals: tuple[int, ...]
    accepted_before: int = 0
    too_large: int = 0
    epoch: int = 0
    repeats: int = 0
    repeats_beside: int = 0
    accepted_last: int = 0
    due_at: float = 0.0
    is_parked: bool = False
    refused_ms: int = 0
    refused_carried: int = 0
    accepted_first: int = 0
    status: int | None = None
    reason: str = "refused, as an earlier process has seen"


class Court:
    """The suspects of one delivery, and the evidence about them. Not thread-safe: it belongs to the policy loop.

    Args:
        gap_max_s: the longest time between two questions, in seconds.
        wall_ms: the wall clock, in milliseconds since the epoch.
        monotonic: the clock for waiting, in seconds.
    """

    def __init__(self, gap_max_s: float, wall_ms: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._gap_max_s = gap_max_s
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._random = random.Random(0)  # noqa: S311 (no secret)
        self._suspects: dict[int, Suspect] = {}  # by key
        self._questioned: set[int] = set()  # the keys of those that were taken
        self._remembered: dict[int, list[int]] = {}  # what an earlier process knew of events not read yet, by key
        self._accepted = 0  # requests, but for questions about suspects
        self._size_accepted_min = 0
        self._epoch = 0  # how many suspects were accepted after all
        self._number = 0  # of the last request that was refused
        self._unexplained: deque[int] = deque(maxlen=_UNEXPLAINED_MAX)  # those that no suspect was in
        self._is_undecidable = False  # whether a suspect waits for long, since nothing else is accepted
        self._question_at = -math.inf  # meanwhile one question at a time is enough, by the monotonic clock

    def __len__(self) -> int:
        """Return how many suspects there are."""
        return len(self._suspects)

    @property
    def parked(self) -> int:
        """How many of them are poison for which the dead letters have no room."""
        return sum(suspect.is_parked for suspect in self._suspects.values())

    @property
    def suspects(self) -> list[Suspect]:
        """Those that were not taken, oldest first."""
        return sorted(self._suspects.values(), key=_key)

    @property
    def keys(self) -> set[int]:
        """Their keys, also of those that are asked about now."""
        return {*self._suspects, *self._questioned}

    def is_suspect(self, key: int) -> bool:
        """Return whether an event is known as a suspect, also if it is asked about now."""
        return key in self._suspects or key in self._questioned

    # ── what requests meet ───────────────────────────────────────────────────────────────────────────────────────

    def accepted(self, size: int) -> None:
        """Take note that a request of `size` bytes was accepted that was no question."""
        self._accepted += 1
        self._size_accepted_min = min(self._size_accepted_min or size, size)
        if self._is_undecidable:  # one acceptance is what was missing
            self._is_undecidable = False
            self._hasten(self._monotonic() + GAP_S)

    def refused(self, span: Span) -> Span:
        """Take note that a request was refused that was no question. Return its span with that on its account."""
        self._number += 1
        self._unexplained.append(self._number)
        if not span.refusals:
            span = replace(span, accepted_before=self._accepted)
        return replace(span, refusals=(*span.refusals, self._number))

    def suspect(self, span: Span, key: int, too_large: int, status: int | None, reason: str) -> None:
        """Take an event as a suspect that was refused alone: the refusals of its span may be its fault.

        Args:
            span: where it is, with its refusals, the last included.
            key: the event's.
            too_large: its size in bytes if it was refused for that, else 0.
            status: the HTTP status of the refusal.
            reason: why, in words.
        """
        for number in span.refusals:
            with contextlib.suppress(ValueError):  # another one was in the same request
                self._unexplained.remove(number)
        suspect = Suspect(
            after=span.after,
            key=key,
            refusals=span.refusals,
            accepted_before=span.accepted_before,
            too_large=too_large,
            epoch=self._epoch,
            accepted_last=self._accepted,
            refused_ms=self._wall_ms(),
            accepted_first=self._accepted,
            status=status,
            reason=reason,
        )
        self._wait_for(suspect)

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def due_at(self) -> float:
        """When the next suspect is to be asked about, in seconds of the monotonic clock."""
        first = min((suspect.due_at for suspect in self._suspects.values()), default=math.inf)
        return max(first, self._question_at if self._is_undecidable else -math.inf)

    def due(self) -> Suspect | None:
        """Take the suspect that has been due for longest, None if none is."""
        if not self._suspects or self.due_at > self._monotonic():
            return None
        suspect = self._suspects.pop(min(self._suspects.values(), key=_due_at).key)
        self._questioned.add(suspect.key)
        return suspect

    def asked(self) -> None:
        """Take note that a question goes out."""
        self._question_at = self._monotonic() + self._gap_max_s

    def keep(self, suspect: Suspect) -> None:
        """Keep a suspect that was taken, and that no answer came about."""
        self._questioned.discard(suspect.key)
        self._suspects[suspect.key] = suspect

    def drop(self, suspect: Suspect) -> None:
        """Forget a suspect: its event is gone."""
        self._questioned.discard(suspect.key)
        self._suspects.pop(suspect.key, None)

    def acquit(self, suspect: Suspect) -> None:
        """Take note that a suspect was accepted: refusals mean nothing just now, and the others may be as innocent."""
        self.drop(suspect)
        self._epoch += 1
        self._unexplained.extend(suspect.refusals)
        self._is_undecidable = False
        self._hasten(self._monotonic())

    def judge(self, suspect: Suspect, status: int | None, reason: str) -> bool:
        """Take note that a question was refused. Return whether that is the suspect's fault; else it is kept.

        Args:
            suspect: the one that it was about.
            status: the HTTP status of the refusal.
            reason: why, in words.
        """
        if suspect.epoch != self._epoch:  # what was refused before proves nothing any more
            suspect = replace(suspect, epoch=self._epoch, repeats=0, repeats_beside=0)
        suspect = replace(
            suspect,
            repeats=suspect.repeats + 1,
            repeats_beside=suspect.repeats_beside + (self._accepted > suspect.accepted_last),
            accepted_last=self._accepted,
            status=status,
            reason=reason,
        )
        if self._is_proven(suspect):
            self.drop(suspect)
            return True
        self._wait_for(suspect)
        return False

    def park(self, suspect: Suspect) -> None:
        """Keep poison for which the dead letters have no room."""
        self._wait_for(replace(suspect, is_parked=True))

    def forget(self) -> None:
        """Forget the suspects, but not what requests met."""
        self._suspects.clear()
        self._questioned.clear()

    # ── beyond the process ───────────────────────────────────────────────────────────────────────────────────────

    def recall(self, known: bytes | None) -> None:
        """Begin with what an earlier process knew; see `known`. Called before anything is claimed."""
        self._remembered = _remembered(known)

    def recognise(self, key: int, after: int) -> bool:
        """Return whether an event that was just read is a suspect, perhaps by what an earlier process knew."""
        known = self._remembered.pop(key, None)
        if known is not None:
            # It is asked about at once: whoever looks after the queue now may have mended the collector.
            self._suspects[key] = replace(self._suspect_of(known, after), due_at=self._monotonic())
        return self.is_suspect(key)

    @property
    def is_empty(self) -> bool:
        """Whether no event can be recognised."""
        return not (self._remembered or self._suspects or self._questioned)

    def known(self, read_up_to: int) -> bytes:
        """Return what a later process should know of suspects, as JSON; b"[]" if there are none.

        Args:
            read_up_to: the key of the last event that was read; those above may still be recognised.
        """
        suspects = self.suspects[:KNOWN_MAX]
        unread = [known for key, known in self._remembered.items() if key > read_up_to]
        return json.dumps([self._numbers_of(suspect) for suspect in suspects] + unread).encode()

    def _numbers_of(self, suspect: Suspect) -> list[int]:
        return [
            suspect.key,
            suspect.repeats,
            suspect.repeats_beside,
            self._accepted - suspect.accepted_before,
            suspect.refused_ms,
            suspect.accepted_first,
            suspect.too_large,
            self._refused_since(suspect),
        ]

    def _suspect_of(self, known: list[int], after: int) -> Suspect:
        key, repeats, repeats_beside, accepted, refused_ms, accepted_first, too_large, refused = known
        return Suspect(
            after=after,
            key=key,
            refusals=(self._number + 1,),
            accepted_before=self._accepted - accepted,
            too_large=too_large,
            epoch=self._epoch,
            repeats=repeats,
            repeats_beside=repeats_beside,
            accepted_last=self._accepted,
            refused_ms=refused_ms,
            refused_carried=refused,
            accepted_first=accepted_first,
        )

    # ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────

    def _is_proven(self, suspect: Suspect) -> bool:
        """Return whether a suspect's refusals, the last one included, are its own fault."""
        accepted = self._accepted_since(suspect)
        is_old = self._wall_ms() >= suspect.refused_ms + ALONE_MS
        if not accepted and suspect.repeats >= REPEATS_ALONE_MIN and is_old:
            accepted = suspect.accepted_first
        if not accepted:
            return False
        refused = self._refused_since(suspect)
        chance = (refused + 2) / (refused + accepted + 3)
        is_sure = suspect.repeats * -math.log(chance) >= -math.log(DOUBT_MAX)
        return is_sure and (suspect.repeats_beside >= REPEATS_MIN or suspect.repeats >= REPEATS_ALONE_MIN)

    def _accepted_since(self, suspect: Suspect) -> int:
        """Return the acceptances that speak against a suspect.

        For what is too large, a smaller request that was accepted at any time speaks as well.
        """
        return max(self._accepted - suspect.accepted_before, int(0 < self._size_accepted_min < suspect.too_large))

    def _refused_since(self, suspect: Suspect) -> int:
        """Return the refusals since a suspect's first one that nothing explains."""
        return suspect.refused_carried + sum(number >= suspect.refusals[0] for number in self._unexplained)

    def _wait_for(self, suspect: Suspect) -> None:
        """Keep a suspect until it is due again."""
        gap_s = self._gap_s(suspect)
        self.keep(replace(suspect, due_at=self._monotonic() + gap_s))
        self._is_undecidable = self._is_undecidable or (gap_s > GAP_S and not suspect.is_parked)

    def _gap_s(self, suspect: Suspect) -> float:
        if suspect.is_parked or not self._accepted_since(suspect):
            return self._gap_max_s  # no answer would decide anything
        if suspect.repeats < QUICK_REPEATS and self._random.random() < AT_ONCE:
            return 0.0
        return min(GAP_S * 2.0 ** max(suspect.repeats - QUICK_REPEATS, 0), self._gap_max_s)

    def _hasten(self, at: float) -> None:
        """Let no suspect that is not parked wait for longer than until `at`."""
        for suspect in [suspect for suspect in self._suspects.values() if not suspect.is_parked]:
            self._suspects[suspect.key] = replace(suspect, due_at=min(suspect.due_at, at))


def _due_at(suspect: Suspect) -> float:
    return suspect.due_at


def _key(suspect: Suspect) -> int:
    return suspect.key


def _remembered(content: bytes | None) -> dict[int, list[int]]:
    """Return what an earlier process knew of suspects, nothing if it is altered."""
    try:
        found = json.loads(content or b"[]")
        return {int(one[0]): [int(number) for number in one] for one in found if len(one) == _KNOWN_SIZE}
    except (ValueError, TypeError):
        return {}
