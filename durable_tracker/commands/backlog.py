"""Commands that look into the queues, or move events between them: peek, dead-letters, requeue."""

from __future__ import annotations

import collections
import itertools
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.filters import Filter, add_filters, check_all_was_read, fields_in, readable, schema_of
from durable_tracker.commands.options import Exit, add_slot_options, count, places_to_look_at
from durable_tracker.commands.output import complain, hand_out, json_line, say
from durable_tracker.errors import ConfigurationError, InvalidEventError, QueueError, SlotBusyError
from durable_tracker.protocol.encoder import fields_of, finished
from durable_tracker.protocol.rendering import REFUSED

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
        ("requeue", "put dead letters back into their queue: all, or those that are asked for", _requeue),
    ):
        parser = commands.add_parser(name, help=text, description=text, epilog=_EXIT_CODES)
        add_slot_options(parser)
        if name in ("peek", "dead-letters"):
            parser.add_argument("--limit", type=count, default=100, metavar="N", help="events per slot (default: 100)")
            parser.add_argument("--raw", action="store_true", help="as stored, without decoding base64 and JSON")
        if name == "peek":
            parser.add_argument("--newest", action="store_true", help="the newest events, not the oldest")
        if name in ("dead-letters", "requeue"):
            parser.add_argument("--key", type=int, action="append", default=[], help="a dead letter's key; repeatable")
            parser.add_argument("--reason", metavar="TEXT", help="with this text in the reason")
            parser.add_argument("--status", type=int, help="refused with this HTTP status")
            parser.add_argument("--kind", choices=("refused", "invalid", "damaged"), help="set aside for that")
        if name == "dead-letters":
            parser.add_argument("--by", choices=tuple(_BY), help="count them by this instead")
        if name == "requeue":
            parser.add_argument("--dry-run", action="store_true", help="only say how many it would be")
        add_filters(parser)
        parser.set_defaults(run=_for_each_slot(act))


def _for_each_slot(act: Callable[[Place, argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        code, found = Exit.EMPTY, 0
        try:
            places = places_to_look_at(args)
        except ConfigurationError as exc:
            complain(exc)
            return Exit.USAGE
        for place in places:
            try:
                found += act(place, args) or 0
            except SlotBusyError as exc:
                complain(exc)
                code = max(code, Exit.BUSY)
            except QueueError as exc:
                complain(exc)
                code = max(code, Exit.UNREADABLE)
        if args.command == "requeue" and args.key and not found:
            complain(f"--key {' '.join(map(str, args.key))}: no dead letter has it")
            return max(code, Exit.BACKLOG)
        return code

    return run


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
        letters = filter(_asked_for(args), onlooker.letters())
        if args.by is not None:
            counts = collections.Counter(_BY[args.by](letter) for letter in letters)
            for value, number in counts.most_common():
                hand_out(json_line({"queue": place.name, args.by: value, "count": number}))
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


def _asked_for(args: argparse.Namespace) -> Callable[[DeadLetter], bool]:
    """Return what tells whether a dead letter is asked for."""
    chosen = Filter.of(args)
    return lambda letter: (
        (not args.key or letter.key in args.key)
        and (args.reason is None or args.reason in letter.reason)
        and (args.status is None or args.status == letter.status)
        and (args.kind is None or args.kind == letter.kind)
        and chosen.passes(letter.payload)
    )


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


def _requeue(place: Place, args: argparse.Namespace) -> int:
    moved = after = found = 0
    is_asked_for = _asked_for(args)
    with place.take() as queue:
        while letters := queue.dead_letters(500, after):
            after = letters[-1].key
            chosen = [letter for letter in letters if is_asked_for(letter)]
            found += len(chosen)
            keys = [letter.key for letter in chosen if _passes_the_door(letter, queue.name)]
            moved += len(keys) if args.dry_run else queue.requeue(keys)
    say(f"{place.name}: {'would requeue' if args.dry_run else 'requeued'} {moved}")
    return found


def _passes_the_door(letter: DeadLetter, queue: str) -> bool:
    """Return whether a letter may be put back: what the tracker refused must pass its checks now."""
    if letter.kind != "invalid":
        return True
    try:
        fields = fields_of(letter.payload)
        if REFUSED in fields:
            raise InvalidEventError(str(fields[REFUSED]), "export it, mend it, remove this member, and import it")  # noqa: TRY301
        finished(fields)
    except (InvalidEventError, ValueError, TypeError, AttributeError) as exc:
        complain(f"{queue}: dead letter {letter.key} stays: {exc}")
        return False
    return True
