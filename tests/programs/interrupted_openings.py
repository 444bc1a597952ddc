"""Raise at each line of the opening of a slot in turn, as a signal handler may, and put again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prelude import QUEUE_DIR, make, track

from durable_tracker.engines.sqlite import books, restore, slot_file

if TYPE_CHECKING:
    from types import FrameType

FILES = {module.__file__ for module in (books, restore, slot_file)}


class Interruption(BaseException):
    """Nobody may take it for anything else."""


class AtLine:
    """Raises when that many lines of these modules have begun."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.place = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> AtLine | None:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise Interruption
        return self


number = 0
while True:
    number += 1
    tracker, at_line = make(drain=False), AtLine(number)
    sys.settrace(at_line)
    try:
        track(tracker, f"first-{number}")
    except Interruption:
        pass
    finally:
        sys.settrace(None)
    if not at_line.place:  # the opening has fewer lines
        break
    track(tracker, f"second-{number}")
    tracker.close()
    slots = [path.name for path in Path(QUEUE_DIR, "test").glob("*.sqlite3")]
    assert slots == ["0.sqlite3"], (at_line.place, slots)
tracker.close()
assert number > 100, number
