"""Commands that look into the queues, or move events between them: peek, dead-letters, requeue."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from durable_tracker.commands.options import Exit, add_slot_options, chosen_places, count, described_engine
from durable_tracker.commands.output import complain, hand_out, json_line, say
from durable_tracker.errors import ConfigurationError, InvalidEventError, QueueError, SlotBusyError
from durable_tracker.protocol.encoder import fields_of, finished

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.queue import DeadLetter

_EXIT_CODES = "exit codes: 0 done, 2 usage, or no queue is there, 3 a slot is busy, 4 a slot is unreadable"


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    for name, text, act in (
        ("peek", "print the oldest pending events as JSON lines", _peek),
        ("dead-letters", "print the events that were set aside, with the reason, as JSON lines", _dead_letters),
        ("requeue", "put dead letters back into their queue, all or those of --key", _requeue),
    ):
        parser = commands.add_parser(name, help=text, description=text, epilog=_EXIT_CODES)
        add_slot_options(parser)
        if name in ("peek", "dead-letters"):
            parser.add_argument("--limit", type=count, default=100, metavar="N", help="events per slot (default: 100)")
        if name == "requeue":
            parser.add_argument("--key", type=int, action="append", default=[], help="a dead letter's key; repeatable")
        parser.set_defaults(run=_for_each_slot(act))


def _for_each_slot(act: Callable[[Place, argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        code = Exit.EMPTY
        try:
            places = chosen_places(args)
        except ConfigurationError as exc:
            complain(exc)
            return Exit.USAGE
        if not places:
            complain(f"no queue is in {described_engine(args)}")
            return Exit.USAGE
        for place in places:
            try:
                act(place, args)
            except SlotBusyError as exc:
                complain(exc)
                code = max(code, Exit.BUSY)
            except QueueError as exc:
                complain(exc)
                code = max(code, Exit.UNREADABLE)
        return code

    return run


def _peek(place: Place, args: argparse.Namespace) -> None:
    with place.look() as onlooker:
        for row in itertools.islice(onlooker.rows(), args.limit):
            try:
                report = {"queue": place.name, "key": row.key, "event": json.loads(row.payload)}
            except ValueError:  # put there by somebody else
                payload = row.payload.decode("utf-8", "backslashreplace")
                report = {"queue": place.name, "key": row.key, "payload": payload}
            hand_out(json_line(report))


def _dead_letters(place: Place, args: argparse.Namespace) -> None:
    with place.look() as onlooker:
        for letter in itertools.islice(onlooker.letters(), args.limit):
            report = {"queue": place.name, **asdict(letter)}
            report["payload"] = letter.payload.decode("utf-8", "backslashreplace")
            hand_out(json_line(report))


def _requeue(place: Place, args: argparse.Namespace) -> None:
    moved = after = 0
    with place.take() as queue:
        while letters := queue.dead_letters(500, after):
            after = letters[-1].key
            chosen = [letter for letter in letters if not args.key or letter.key in args.key]
            moved += queue.requeue([letter.key for letter in chosen if _passes_the_door(letter, queue.name)])
    say(f"{place.name}: requeued {moved}")


def _passes_the_door(letter: DeadLetter, queue: str) -> bool:
    """Return whether a letter may be put back: what the tracker refused must pass its checks now."""
    if letter.kind != "invalid":
        return True
    try:
        finished(fields_of(letter.payload))
    except (InvalidEventError, ValueError, TypeError, AttributeError) as exc:
        complain(f"{queue}: dead letter {letter.key} stays: {exc}")
        return False
    return True
