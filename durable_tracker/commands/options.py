"""What the commands share: exit codes, options, and which slots they are about."""

from __future__ import annotations

import argparse
import enum
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from durable_tracker.engines.addresses import engine_of, is_address
from durable_tracker.engines.sqlite.engine import places_at
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from durable_tracker.engines.engine import Place


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
        "path", nargs="*", help="a slot's .sqlite3 file, an emitter's directory, a queue dir, or an engine's address"
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


def chosen_places(args: argparse.Namespace) -> list[Place]:
    """Return where the queues are that the user chose: those named, or all of the engine.

    Raises:
        ConfigurationError: something that was named does not exist.
    """
    addresses = [path for path in args.path if is_address(path)]
    if addresses and args.queue_dir is not None:
        raise ConfigurationError(f"--queue-dir: {addresses[0]} is not in a directory; give one of them")
    if args.queue_dir is not None and not args.queue_dir.is_dir():
        raise ConfigurationError(f"--queue-dir {args.queue_dir}: there is no such directory")
    places: list[Place] = []
    for path in args.path:
        found = engine_of(path).places(args.name) if is_address(path) else places_at(Path(path).absolute())
        if not found:
            raise ConfigurationError(f"{path}: no queue is there")
        places += found
    if args.name and not addresses:
        places += engine_of(None, args.queue_dir).places(args.name)
    if not args.path and not args.name:
        places += engine_of(None, args.queue_dir).places()
    return list({os.path.realpath(place.name): place for place in places}.values())


def described_engine(args: argparse.Namespace) -> str:
    """Return where the queues are, for messages."""
    return str(engine_of(None, args.queue_dir))


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
