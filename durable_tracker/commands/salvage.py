"""Commands about damaged queues: verify looks at every page and row, salvage takes the intact rows into a new file."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.options import add_slot_options, places_to_look_at
from durable_tracker.commands.output import complain, hand_out, json_line, say
from durable_tracker.engines.sqlite import salvage
from durable_tracker.engines.sqlite.engine import SlotPlace
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.verification import verify
from durable_tracker.errors import ConfigurationError, QueueError, QueueFullError, SlotBusyError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.sqlite.slots import Slot

VERIFY = """\
Check the pages of each queue, the checksum of every row, and the counts against the rows. Nothing is mended."""

SALVAGE = """\
Set a damaged queue's file aside, and take every intact row over into a new one: by hand what an emitter does by
itself when it opens the queue. Nothing is deleted. A sound queue is refused without --force."""

_EXIT_CODES = {
    "verify": "exit codes: 0 sound, 2 usage, 3 a slot is busy, 4 a slot is damaged or unreadable",
    "salvage": "exit codes: 0 done, 2 usage, or a slot is sound, 3 a slot is busy, 4 a slot cannot be salvaged",
}


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    for name, text, description, act in (
        ("verify", "look for damage in each queue", VERIFY, _verify),
        ("salvage", "take the intact events out of a damaged queue", SALVAGE, _salvage),
    ):
        parser = commands.add_parser(name, help=text, description=description, epilog=_EXIT_CODES[name])
        add_slot_options(parser)
        if name == "verify":
            parser.add_argument("--json", action="store_true", help="print one JSON object for each queue")
        else:
            parser.add_argument("--force", action="store_true", help="also a queue that is sound, or of another format")
        parser.set_defaults(run=_for_each_slot(name, act))


def _slot(place: Place) -> Slot:
    if not isinstance(place, SlotPlace):
        raise ConfigurationError(f"{place.name}: is in no file of SQLite")
    return place.slot


def _for_each_slot(
    command: str, act: Callable[[Slot, argparse.Namespace], Exit]
) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        code = Exit.EMPTY
        if command == "salvage" and not args.path and not args.name:
            complain("salvage: name the queue, by a path or by --name")
            return Exit.USAGE
        try:
            slots = [_slot(place) for place in places_to_look_at(args)]
        except ConfigurationError as exc:
            complain(f"{command}: {exc}")
            return Exit.USAGE
        for slot in slots:
            try:
                if not slot.acquire():
                    raise slot.busy_error()
                try:
                    code = max(code, act(slot, args))
                finally:
                    slot.release()
            except SlotBusyError as exc:
                complain(f"{command}: {exc}")
                code = max(code, Exit.BUSY)
            except BrokenPipeError:
                raise
            except (QueueError, OSError) as exc:
                complain(f"{command}: {slot.database}: {exc}")
                code = max(code, Exit.UNREADABLE)
        return code

    return run


def _verify(slot: Slot, args: argparse.Namespace) -> Exit:
    verdict = verify(slot)
    if args.json:
        hand_out(json_line({**asdict(verdict), "is_sound": verdict.is_sound}))
    else:
        state = "sound" if verdict.is_sound else "not readable by this version" if verdict.is_foreign else "DAMAGED"
        counts = f"pending {verdict.pending}, dead letters {verdict.dead}, set aside {verdict.set_aside}"
        hand_out(f"{verdict.slot}: {state}; {counts}")
        for problem in verdict.problems:
            hand_out(f"  {problem}")
    return Exit.EMPTY if verdict.is_sound else Exit.UNREADABLE


def _salvage(slot: Slot, args: argparse.Namespace) -> Exit:
    verdict = verify(slot)
    if not args.force and (verdict.is_sound or verdict.is_foreign):
        state = "of a newer version, or of something else" if verdict.is_foreign else "sound"
        complain(f"salvage: {slot.database} is {state}: it was left as it is (--force salvages it)")
        return Exit.UNREADABLE if verdict.is_foreign else Exit.USAGE
    for problem in verdict.problems:
        say(f"{slot.database}: {problem}")
    before = set(salvage.pending(slot))
    if not verdict.waiting or len(verdict.problems) > 1 or args.force:
        salvage.set_aside(slot)
    names = sorted(path.name for path in {*before, *salvage.pending(slot)})
    with SqliteQueue(slot) as queue:
        with contextlib.suppress(QueueFullError):
            queue.take_over_all()
        ledger = queue.ledger()
        waiting = salvage.pending(slot)
    say(f"{slot.database}: {json.dumps(asdict(ledger))}")
    for name in names:
        path = slot.directory / name
        say(f"  kept: {path if path.exists() else salvage.done_name(path)}")
    if waiting:
        complain(f"salvage: {slot.database}: not all was taken over; the disk may be full")
        return Exit.UNREADABLE
    return Exit.EMPTY
