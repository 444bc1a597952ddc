"""When a collector wants to be asked again: shared by everything in this process that delivers to it."""

from __future__ import annotations

import math


class Hold:
    """What a collector said last about when to come back.

    Thread-safe: it is one number.

    Attributes:
        until: the moment before which nothing is sent, in seconds of the monotonic clock.
    """

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = -math.inf


_holds: dict[str, Hold] = {}


def hold_of(address: str) -> Hold:
    """Return the hold of a collector's address, the same for the same address."""
    return _holds.setdefault(address, Hold())
