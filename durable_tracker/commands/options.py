"""What the commands share: exit codes, options, and which slots they are about."""

from __future__ import annotations

import argparse
import enum
import math
from pathlib import Path
from typing import TYPE_CHECKING

from durable_tracker.engines.sqlite.slots import Slot, existing_slots, queue_root, safe_name
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def add_slot_options(parser: argparse.ArgumentParser) -> None:
    """Let the user say which slots a command is about."""
    parser.add_argument(
        "path", nargs="*", type=Path, help="a slot's .sqlite3 file, an emitter's directory, or a queue dir"
    )
    parser.add_argument("--name", action="append", default=[], help="an emitter's name; repeatable")
    add_queue_dir_option(parser)


def add_queue_dir_option(parser: argparse.ArgumentParser) -> None:
    """Let the user say where the queues are."""
    parser.add_argument(
        "--queue-dir",
        type=_directory,
        help="the queue dir (default: $DURABLE_TRACKER_DIR, else the user's state directory)",
    )


def _directory(text: str) -> Path:
    if not text:  # which would be the working directory
        raise argparse.ArgumentTypeError("is empty")
    return Path(text)


def chosen_slots(args: argparse.Namespace) -> list[Slot]:
    """Return the slots that the user chose: those named, or all of the queue dir.

    Raises:
        ConfigurationError: something that was named does not exist.
    """
    root = queue_root(args.queue_dir)
    if args.queue_dir is not None and not root.is_dir():
        raise ConfigurationError(f"--queue-dir {args.queue_dir}: there is no such directory")
    slots: list[Slot] = []
    for path in args.path:
        found = list(_slots_at(path.absolute()))
        if not found:
            raise ConfigurationError(f"{path}: no queue is there")
        slots += found
    for name in args.name:
        found = [*_slots_in(root / name), *_slots_in(root / safe_name(name))]
        if not found:
            raise ConfigurationError(f"--name {name}: no queue of that name is in {root}")
        slots += found
    if not args.path and not args.name:
        slots = list(_slots_at(root))
    unique = {slot.database.resolve(): slot for slot in slots}
    return list(unique.values())


def _slots_at(path: Path) -> Iterator[Slot]:
    try:
        is_file = path.is_file()
        directories = sorted(path.iterdir()) if path.is_dir() else []
    except PermissionError:
        is_file, directories = False, []
    if is_file:
        yield from (slot for slot in _slots_in(path.parent) if slot.database == path)
        return
    yield from _slots_in(path)
    for directory in directories:
        if directory.is_dir() and not directory.is_symlink():
            yield from _slots_in(directory)


def _slots_in(directory: Path) -> Iterator[Slot]:
    """Yield a directory's slots; of one that may not be read the first, so that it is reported as unreadable."""
    try:
        slots = list(existing_slots(directory))
    except NotADirectoryError:
        slots = []
    except PermissionError:
        slots = [Slot(directory, 0)]
    yield from slots


def seconds(text: str) -> float:
    """For argparse: a finite number of seconds from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def count(text: str) -> int:
    """For argparse: a positive integer."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def header(text: str) -> tuple[str, str]:
    """For argparse: `Name: value`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("not of the form 'Name: value'")  # the value may be a secret
    return name.strip(), value.strip()
