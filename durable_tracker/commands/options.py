"""What the commands share: options, and which slots they are about."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.output import complain
from durable_tracker.engines.addresses import engine_of, is_address
from durable_tracker.engines.sqlite.engine import places_at
from durable_tracker.errors import ConfigurationError, QueueError, SlotBusyError
from durable_tracker.protocol.endpoint import PATHS, Endpoint
from durable_tracker.settings import checks
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from durable_tracker.engines.engine import Place
    from durable_tracker.settings.checks import Check
    from durable_tracker.settings.table import Argument


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


def places_to_look_at(args: argparse.Namespace) -> list[Place]:
    """Return `chosen_places`, of which there must be one, since a typo would look like an empty queue."""
    places = chosen_places(args)
    if not places:
        raise ConfigurationError(f"no queue is in {engine_of(None, args.queue_dir)}")
    return places


def for_each_place(args: argparse.Namespace, act: Callable[[Place], None], *, has_keys: bool = False) -> int:
    """Do something with each queue that the user chose. Return the exit code: what failed is said.

    Args:
        args: what the user chose.
        act: is given each place.
        has_keys: whether it is about keys, each of which another queue also has, so that there must be one queue.
    """
    code = Exit.EMPTY
    try:
        places = places_to_look_at(args)
        if has_keys and len(places) > 1:
            several = f"a key is its own queue's, and {len(places)} queues are meant here"
            raise ConfigurationError(f"--key: {several}: name one by a path, or the events by --eid")  # noqa: TRY301
    except ConfigurationError as exc:
        complain(exc)
        return Exit.USAGE
    for place in places:
        try:
            act(place)
        except SlotBusyError as exc:
            complain(exc)
            code = max(code, Exit.BUSY)
        except QueueError as exc:
            complain(exc)
            code = max(code, Exit.UNREADABLE)
    return code


def endpoint_of(origin: Mapping[str, str], where: str, to: str | None, method: str | None = None) -> Endpoint:
    """Return where a queue's events go: to the collector that was named, else to the one on record.

    Args:
        origin: what the queue has on record.
        where: the queue, for the message.
        to: the address that was named.
        method: the method that was named.

    Raises:
        ConfigurationError: none was named, and none is on record.
    """
    recorded = Endpoint.on_record(origin)
    method = method or (recorded.method if recorded else "post")
    if to is not None:
        return Endpoint.parse(to, method=method)
    if recorded is None:
        raise ConfigurationError(f"{where} has no collector on record: name one with --to")
    # A user is on record, a password is not: half of the credentials would be refused, so --header has to bring them.
    return Endpoint.parse(recorded.public_url.removesuffix(PATHS[recorded.method]), method=method)


def add_setting_options(parser: argparse.ArgumentParser, names: Sequence[str], on_record: str) -> None:
    """Let the user give arguments of an emitter, by their names; those that are not given are no attributes.

    Args:
        parser: what gets the options.
        names: of the arguments.
        on_record: where the default of one that belongs to a backlog comes from.
    """
    for name in names:
        one = ARGUMENTS[name]
        usual = one.in_words(one.usual)
        parser.add_argument(
            option_of(name),
            type=functools.partial(_read, one),
            default=argparse.SUPPRESS,
            metavar=_METAVARS[_kind(one)],
            help=f"{one.help} (default: {f'{on_record}, else ' if one.is_backlogs else ''}{usual})",
        )


def option_of(name: str) -> str:
    """Return how an argument of an emitter is written on the command line."""
    return f"--{name.replace('_', '-')}"


_METAVARS: Final = {"int": "N", "float": "S", "Mapping[int, bool]": "STATUS=true|false,..."}


def _kind(one: Argument) -> str:
    return one.type.removesuffix(" | None")


def _read(one: Argument, text: str) -> Any:
    """For argparse: an argument's value. What cannot be read is refused by the argument's own check."""
    if text == "none" and one.type.endswith(" | None") and one.stands_for is None:
        return None
    value = _codes(text) if _kind(one) == "Mapping[int, bool]" else _number_or_text(text)
    return _checked(lambda name, value: one.value(value, name), value, option_of(one.name))


def _codes(text: str) -> dict[Any, Any]:
    pairs = [part.partition("=") for part in text.split(",")]
    words = {"true": True, "false": False}
    return {_number_or_text(status): words.get(retry, retry) for status, _, retry in pairs}


def _number(text: str) -> float:
    return int(text) if text.isascii() and text.isdigit() else float(text)


def _checked(check: Check, value: Any, name: str = "") -> Any:
    try:
        return check(name, value)
    except ConfigurationError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix(f"{name}: ")) from None  # argparse names the option


def seconds(text: str) -> float:
    """For argparse: a finite number of seconds from 0 on."""
    return float(_checked(checks.seconds, _number_or_text(text)))


def count(text: str) -> int:
    """For argparse: a positive integer."""
    return int(_checked(checks.count, _number_or_text(text)))


def _number_or_text(text: str) -> Any:
    """Return a number, or what is none as it is, for a check to refuse."""
    try:
        return _number(text)
    except ValueError:
        return text


def header(text: str) -> tuple[str, str]:
    """For argparse: `Name: value`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("not of the form 'Name: value'")  # the value may be a secret
    return name.strip(), value.strip()
