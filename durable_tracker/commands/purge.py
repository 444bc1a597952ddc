"""`purge`: pending events or dead letters are removed for good, if need be after they were written to a file."""

from __future__ import annotations

import contextlib
import os
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from durable_tracker.commands import export
from durable_tracker.commands.acting import acting, chunks
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.filters import Choice, add_filters, add_letter_filters
from durable_tracker.commands.options import add_slot_options, for_each_place
from durable_tracker.commands.output import complain, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from durable_tracker.commands.acting import Actor
    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.queue import DeadLetter, Row

_TEXT: Final = "remove pending events or dead letters for good: all, or those that are asked for"
_EXIT_CODES: Final = (
    "exit codes: 0 done, 1 one that was named is not there, or the answer was no, 2 usage, or no queue is there,"
    " 3 a slot is busy, 4 a slot is unreadable, 5 the export cannot be written, and what it lacks was not removed"
)


def add_command(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("purge", help=_TEXT, description=_TEXT, epilog=_EXIT_CODES)
    add_slot_options(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pending", action="store_true", help="events that wait to be delivered")
    what.add_argument("--dead-letters", action="store_true", help="events that were set aside")
    parser.add_argument("--all", action="store_true", help="whatever it is; else say which by one of the options below")
    parser.add_argument("--export", metavar="FILE", help="write them there first, as `export` does; never over a file")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only say how many it would be")
    add_letter_filters(parser)
    add_filters(parser, with_stdin=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove events. Return the exit code."""
    choice = Choice(args)
    if (wrong := _wrong(args, choice)) is not None:
        complain(f"purge: {wrong}")
        return Exit.USAGE
    is_declined = False
    try:
        with _opened(None if args.dry_run else args.export) as file:

            def act(place: Place) -> None:
                nonlocal is_declined
                is_declined = not _at(place, args, choice, file) or is_declined

            code = for_each_place(args, act, has_keys=choice.has_keys)
    except FileExistsError:
        complain(f"--export {args.export}: is there already")
        return Exit.USAGE
    if code != Exit.EMPTY:
        return code  # what was not found may be where nobody could look
    is_missing = choice.say_missing("dead letter" if args.dead_letters else "pending event")
    return Exit.BACKLOG if is_missing or is_declined else code


def _wrong(args: argparse.Namespace, choice: Choice) -> str | None:
    """Return what is wrong with the command line, None if nothing is."""
    if args.all and not choice.is_open:
        return "--all leaves nothing to choose: give it or say which, not both"
    if not args.all and choice.is_open:
        return "say which: by --eid, --since, --schema, ..., or --all"
    if args.pending and choice.is_about_letters:
        return "--key, --reason, --status and --kind are about dead letters; name pending events by --eid"
    if not args.yes and not args.dry_run and (args.stdin or not sys.stdin.isatty()):
        return "nobody can be asked here whether to: --yes says so, and --dry-run how many it would be"
    return None


def _at(place: Place, args: argparse.Namespace, choice: Choice, file: BinaryIO | None) -> bool:
    """Remove one queue's events. Return False if the answer was no."""
    with acting(place) as actor:
        keys = array("q", (event.key for event in _chosen(actor, args, choice)))
        if args.dry_run or not keys:
            say(f"{place.name}: {'would purge' if args.dry_run else 'purged'} {len(keys)}")
            return True
        what = f"{len(keys)} {'dead letters' if args.dead_letters else 'pending events'} of {place.label}"
        if args.yes:
            complain(f"purging {what}")
        elif not _is_yes(f"purge {what}? [y/N] "):
            say(f"{place.name}: purged 0")
            return False
        if file is not None:
            keys = _exported(place, _chosen(actor, args, choice), set(keys), file)
        act = actor.purge_dead_letters if args.dead_letters else actor.purge
        gone = sum(act(chunk) for chunk in chunks(keys))
    left = f"; {len(keys) - gone} are on their way to the collector, or gone" if gone < len(keys) else ""
    say(f"{place.name}: purged {gone}{left}")
    return True


def _chosen(actor: Actor, args: argparse.Namespace, choice: Choice) -> Iterator[Row | DeadLetter]:
    return (event for event in (actor.letters() if args.dead_letters else actor.rows()) if choice.takes(event))


def _is_yes(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _exported(place: Place, events: Iterator[Row | DeadLetter], keys: set[int], file: BinaryIO) -> array[int]:
    """Write events to the file, and the file to the disk. Return the keys of those that were written."""
    written = array("q")
    for event in events:
        if event.key in keys:
            file.write(export.line_of(place, event))
            written.append(event.key)
    file.flush()
    os.fsync(file.fileno())
    return written


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[BinaryIO | None]:
    """Make the file of an export, which is gone again if nothing was written."""
    if path is None:
        yield None
        return
    with export.opened(path, is_forced=False) as file:
        directory = os.open(Path(path).absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # else the file's name may be lost with the power, when the events are
        finally:
            os.close(directory)
        yield file
        is_empty = file.tell() == 0
    if is_empty:
        Path(path).unlink()
