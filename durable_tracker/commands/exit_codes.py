"""With what the commands exit."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes of the commands. Of several that apply, the highest is given."""

    EMPTY = 0
    """Done; nothing is left."""
    BACKLOG = 1
    """Events remain in a queue."""
    USAGE = 2
    """The command line, or the input, is wrong."""
    BUSY = 3
    """A slot is in use by a live process."""
    UNREADABLE = 4
    """A slot cannot be read: it is damaged, of a newer version, or not permitted."""
    OUTPUT = 5
    """What was asked for could not be printed."""


EXIT_CODES = "exit codes: 0 empty, 1 backlog remains, 2 usage, 3 a slot is busy, 4 a slot is unreadable"
