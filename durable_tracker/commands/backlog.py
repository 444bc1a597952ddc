"""Commands that look into the queues, or move events between them: status, peek, dead-letters, requeue."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from durable_tracker.commands.options import Exit, add_slot_options, chosen_places, count, described_engine
from durable_tracker.commands.output import complain, hand_out, json_line, say
from durable_tracker.errors import ConfigurationError, InvalidEventError, QueueError, SlotBusyError
from durable_tracker.protocol.encoder import fields_of, finished
from durable_tracker.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from durable_tracker.engines.queue import DeadLetter, Queue

_EXIT_CODES = "exit codes: 0 done, 2 usage, 3 a slot is busy, 4 a slot is unreadable"


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    for name, text, act in (
        ("status", "what is in each queue: the ledger, the size, the collector", _status),
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


def _for_each_slot(act: Callable[[Queue, argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        code = Exit.EMPTY
        try:
            places = chosen_places(args)
        except ConfigurationError as exc:
            complain(exc)
            return Exit.USAGE
        if not places:
            complain(f"no queue is in {described_engine(args)}")
        for place in places:
            try:
                with place.take() as queue:
                    act(queue, args)
            except SlotBusyError as exc:
                complain(exc)
                code = max(code, Exit.BUSY)
            except QueueError as exc:
                complain(exc)
                code = max(code, Exit.UNREADABLE)
        return code

    return run


def _status(queue: Queue, _args: argparse.Namespace) -> None:
    address = Endpoint.on_record(queue.origin)
    report = {
        "slot": queue.name,
        "origin": queue.origin,
        "address": address.identity if address else None,
        "settings": queue.settings,
        "ledger": asdict(queue.ledger()),
        "used_bytes": queue.used_bytes(),
    }
    hand_out(json_line(report))


def _peek(queue: Queue, args: argparse.Namespace) -> None:
    for row in queue.peek(0, args.limit, 1 << 24):
        try:
            report = {"key": row.key, "event": json.loads(row.payload)}
        except ValueError:  # put there by somebody else
            report = {"key": row.key, "payload": row.payload.decode("utf-8", "backslashreplace")}
        hand_out(json_line(report))


def _dead_letters(queue: Queue, args: argparse.Namespace) -> None:
    for letter in queue.dead_letters(args.limit, after=-(1 << 62)):
        report = asdict(letter)
        report["payload"] = letter.payload.decode("utf-8", "backslashreplace")
        hand_out(json_line(report))


def _requeue(queue: Queue, args: argparse.Namespace) -> None:
    moved = after = 0
    while letters := queue.dead_letters(500, after):
        after = letters[-1].key
        chosen = [letter for letter in letters if not args.key or letter.key in args.key]
        moved += queue.requeue([letter.key for letter in chosen if _passes_the_door(letter, queue.name)])
    say(f"{queue.name}: requeued {moved}")


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
