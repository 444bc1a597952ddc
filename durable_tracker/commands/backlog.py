"""Commands that look into the queues: peek, dead-letters."""

from __future__ import annotations

import collections
import itertools
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.filters import (
    Choice,
    Filter,
    add_filters,
    add_letter_filters,
    check_all_was_read,
    fields_in,
    readable,
    schema_of,
)
from durable_tracker.commands.options import add_slot_options, count, for_each_place
from durable_tracker.commands.output import complain, hand_out, json_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.queue import DeadLetter

_EXIT_CODES = "exit codes: 0 done, 2 usage, or no queue is there, 3 a slot is busy, 4 a slot is unreadable"


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    for name, text, act in (
        ("peek", "print pending events as JSON lines: the oldest, or the newest", _peek),
        ("dead-letters", "print the events that were set aside, with the reason, as JSON lines", _dead_letters),
    ):
        parser = commands.add_parser(name, help=text, description=text, epilog=_EXIT_CODES)
        add_slot_options(parser)
        parser.add_argument("--limit", type=count, default=100, metavar="N", help="events per slot (default: 100)")
        parser.add_argument("--raw", action="store_true", help="as stored, without decoding base64 and JSON")
        if name == "peek":
            parser.add_argument("--newest", action="store_true", help="the newest events, not the oldest")
        if name == "dead-letters":
            add_letter_filters(parser)
            parser.add_argument("--by", choices=tuple(_BY), help="count them by this instead")
        add_filters(parser)
        parser.set_defaults(run=_for_each(act))


def _for_each(act: Callable[[Place, argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    return lambda args: for_each_place(args, lambda place: act(place, args))


def _peek(place: Place, args: argparse.Namespace) -> None:
    chosen = Filter.of(args)
    with place.look() as onlooker:
        rows = (row for row in onlooker.rows() if chosen.passes(row.payload))
        found = collections.deque(rows, args.limit) if args.newest else list(itertools.islice(rows, args.limit))
        for row in found:
            hand_out(json_line({"queue": place.name, "key": row.key, **_event(row.payload, is_raw=args.raw)}))
        if not args.newest and next(rows, None) is not None:
            complain(f"{place.name}: more events were left out; see --limit")
        check_all_was_read(place, onlooker)


def _dead_letters(place: Place, args: argparse.Namespace) -> None:
    with place.look() as onlooker:
        letters = filter(Choice(args).takes, onlooker.letters())
        if args.by is not None:
            counts = collections.Counter(_BY[args.by](letter) for letter in letters)
            for value, number in counts.most_common():
                hand_out(json_line({"queue": place.name, args.by: value, "count": number}))
            check_all_was_read(place, onlooker)
            return
        for letter in itertools.islice(letters, args.limit):
            report = {"queue": place.name, **asdict(letter)}
            del report["payload"]
            hand_out(json_line(report | _event(letter.payload, is_raw=args.raw)))
        if next(letters, None) is not None:
            complain(f"{place.name}: more dead letters were left out; see --limit")
        check_all_was_read(place, onlooker)


def _event(payload: bytes, *, is_raw: bool) -> dict[str, Any]:
    """Return an event as it is shown."""
    fields = fields_in(payload)
    if fields is None:  # put there by somebody else
        return {"payload": payload.decode("utf-8", "backslashreplace")}
    return {"event": fields if is_raw else readable(fields)}


def _schema(letter: DeadLetter) -> str | None:
    return schema_of(readable(fields_in(letter.payload) or {}))


def _day(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.time_ms / 1000, UTC).date().isoformat()


_BY: Final[dict[str, Callable[[DeadLetter], object]]] = {
    "reason": lambda letter: letter.reason,
    "schema": _schema,
    "status": lambda letter: letter.status,
    "day": _day,
    "kind": lambda letter: letter.kind,
}
