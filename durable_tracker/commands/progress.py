"""How far a long command has come: a bar on a terminal, plain lines elsewhere. The only importer of tqdm."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Final, Self

from tqdm import tqdm

from durable_tracker.commands.output import complain

_LINE_INTERVAL_S: Final = 5.0


class Progress:
    """Counts up to a total that may grow, on stderr."""

    def __init__(self, total: int, label: str, *, is_quiet: bool) -> None:
        """Show nothing at all if `is_quiet`."""
        self._label = label
        self._is_quiet = is_quiet
        self._total = total
        self._done = 0
        self._next_line = time.monotonic() + _LINE_INTERVAL_S
        self._bar = None
        if not is_quiet and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit="event", unit_scale=True, dynamic_ncols=True)

    def update(self, done: int) -> None:
        """Say that `done` of the total are done now."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):  # the terminal is gone: no reason to stop
                self._bar.update(done - self._done)
        elif not self._is_quiet and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_INTERVAL_S
            complain(f"{self._label}: {done} of {self._total} events")
        self._done = done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
