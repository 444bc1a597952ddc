"""Rests, so that draining a backlog does not slow down the application that goes on tracking.

CPython runs one thread at a time, and over loopback a drain hardly ever waits for anything: a call of `track()` beside
it would wait for its turn several times over, and for the queue's lock. So while events come in, whoever delivers works
in pieces of a fraction of a millisecond, and rests after each until its share of a core is small again. A distant
collector makes it wait anyhow, which counts as rest.

There is no rest when somebody waits for the queue to be empty, or when events come in half as fast as they are
delivered.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE: Final = 48
"""Rows that are read between two rests."""

_SHARE: Final = 0.05
_ACTIVE_S: Final = 0.25
_REST_MIN_S: Final = 0.0002  # enough for a thread that waits to have its turn
_BALANCE_MAX_S: Final = 0.04


class Throttle:
    """Says when to rest, and rests. Not thread-safe: it belongs to the thread that delivers.

    Args:
        puts: returns how many events were put, counted from anywhere, by which it is seen that they come in.
        is_hurried: whether somebody waits for the queue to be empty.
    """

    def __init__(self, puts: Callable[[], int], is_hurried: Callable[[], bool]) -> None:
        self._count = puts
        self._is_hurried = is_hurried
        self._puts = puts()
        self._active_until = -math.inf
        self._falls_behind = False
        self._balance_s = 0.0  # time that passed, less what the work done may take as long as
        self._cpu_s = time.thread_time()
        self._now_s = time.monotonic()

    @property
    def is_gentle(self) -> bool:
        """Whether to work in pieces."""
        return not self._falls_behind and time.monotonic() < self._active_until and not self._is_hurried()

    def delivered(self, count: int) -> None:
        """Take note that `count` events were delivered since the last call."""
        puts = self._count()
        came, self._puts = puts - self._puts, puts
        if came:
            self._active_until = time.monotonic() + _ACTIVE_S
        self._falls_behind = 2 * came > count

    def rest(self) -> None:
        """Rest for as long as the work since the last call demands, if it is to be gentle."""
        cpu_s, now_s = time.thread_time(), time.monotonic()
        balance_s = self._balance_s + (now_s - self._now_s) - (cpu_s - self._cpu_s) / _SHARE
        self._balance_s = max(-_BALANCE_MAX_S, min(balance_s, _BALANCE_MAX_S))
        self._cpu_s, self._now_s = cpu_s, now_s
        if self.is_gentle:
            time.sleep(max(-self._balance_s, _REST_MIN_S))
