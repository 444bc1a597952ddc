"""How old a row is, by more than the wall clock: that one may stand at 1970, or jump.

A slot keeps a short list of moments: the highest key by then, the boot of the machine, the time since that boot, and
the wall clock. A row is at least as old as the time that is known to have passed since the first moment that has its
key below or at the highest one:

    within one boot     what both clocks agree on: the lesser of what each says has passed; the clock of the boot goes
                        on while the machine is suspended
    from boot to boot   what the wall clock says, if the kernel called it synchronised at both ends; else nothing

What cannot be known does not count, so an event may expire late, and never early. No row has a byte for it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENTS_MAX: Final = 48
NOTE_INTERVAL_S: Final = 60.0

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TIME_ERROR: Final = 5  # of adjtimex(2): the clock is not synchronised
_TIMEX_SIZE: Final = 512  # more than struct timex has


class Reading(NamedTuple):
    """What the clocks say.

    Attributes:
        boot: the boot of the machine; where that cannot be told, this process.
        since_boot_s: seconds since the boot.
        wall_s: seconds since 1970 UTC.
        is_synchronised: whether the kernel vouches for the wall clock.
    """

    boot: str
    since_boot_s: float
    wall_s: float
    is_synchronised: bool


class Moment(NamedTuple):
    """What the clocks said when `high` was the highest key."""

    high: int
    reading: Reading


@functools.cache
def _boot(pid: int) -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return f"process {pid} {uuid.uuid4()}"


def _is_synchronised() -> bool:
    try:
        import ctypes  # noqa: PLC0415 (which a subinterpreter of Python 3.12 cannot load)

        return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE)) not in (-1, _TIME_ERROR))
    except (ImportError, AttributeError, OSError):
        return False


def read_clocks() -> Reading:
    """Read the clocks of this machine."""
    boot = _boot(os.getpid())
    clock = time.CLOCK_BOOTTIME if hasattr(time, "CLOCK_BOOTTIME") else time.CLOCK_MONOTONIC
    return Reading(boot, time.clock_gettime(clock), time.time(), _is_synchronised())


class Ages:
    """The moments of one slot, oldest first. Not thread-safe: its owner serialises the calls."""

    def __init__(self, recorded: bytes | None, read: Callable[[], Reading] = read_clocks) -> None:
        """Take up what is on record; what is altered is as if it was not there."""
        self._read = read
        self._moments: list[Moment] = []
        with contextlib.suppress(ValueError, TypeError, LookupError):
            boots, moments = json.loads(recorded or b"[[], []]")
            self._moments = [
                Moment(int(high), Reading(str(boots[boot]), since / 1000, wall / 1000, bool(is_synchronised)))
                for high, boot, since, wall, is_synchronised in moments
            ]

    def note(self, high: int, at_least_s: float = 0.0) -> bool:
        """Note the present moment, unless the last one is more recent than that. Return whether it was noted."""
        now = self._read()
        if self._moments and 0.0 <= _passed_s(self._moments[-1].reading, now) < at_least_s:
            return False
        self._moments.append(Moment(high, now))
        if len(self._moments) > MOMENTS_MAX:
            self._thin_out()
        return True

    def older_than(self, age_s: float) -> int:
        """Return the highest key whose row is known to be older than `age_s` seconds, 0 if none is."""
        later, passed_s = self._read(), 0.0
        for moment in reversed(self._moments):
            passed_s += max(_passed_s(moment.reading, later), 0.0)
            later = moment.reading
            if passed_s > age_s:
                return moment.high
        return 0

    def record(self) -> bytes:
        """Return what goes on record, in less than a page: times in milliseconds, each boot named once."""
        boots = list(dict.fromkeys(moment.reading.boot for moment in self._moments))
        moments = [
            (high, boots.index(boot), round(since * 1000), round(wall * 1000), int(is_synchronised))
            for high, (boot, since, wall, is_synchronised) in self._moments
        ]
        return json.dumps([boots, moments], separators=(",", ":")).encode()

    def _thin_out(self) -> None:
        """Leave out one moment: of those within a boot, the one whose neighbours are closest for their age."""
        inner = [
            index
            for index in range(1, len(self._moments) - 1)
            if len({moment.reading.boot for moment in self._moments[index - 1 : index + 2]}) == 1
        ]
        newest = self._moments[-1].reading.since_boot_s

        def closeness(index: int) -> float:
            before, after = self._moments[index - 1].reading, self._moments[index + 1].reading
            is_of_now = after.boot == self._moments[-1].reading.boot
            age_s = newest - before.since_boot_s if is_of_now else float("inf")
            return (after.since_boot_s - before.since_boot_s) / max(age_s, 1e-9)

        del self._moments[min(inner, key=closeness) if inner else 0]


def _passed_s(earlier: Reading, later: Reading) -> float:
    """Return the seconds that are known to have passed; below 0 if a clock went back."""
    wall_s = later.wall_s - earlier.wall_s
    if earlier.boot == later.boot:
        return min(later.since_boot_s - earlier.since_boot_s, wall_s)
    return wall_s if earlier.is_synchronised and later.is_synchronised else 0.0
