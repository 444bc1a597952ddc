"""`requeue`: dead letters go back into their queue, as they are or edited by a program."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.acting import AT_ONCE, acting
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.filters import Choice, add_filters, add_letter_filters, fields_in
from durable_tracker.commands.options import add_slot_options, count, for_each_place
from durable_tracker.commands.output import complain, say
from durable_tracker.errors import InvalidEventError
from durable_tracker.protocol.encoder import finished
from durable_tracker.protocol.rendering import REFUSED

if TYPE_CHECKING:
    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.queue import DeadLetter

REPLAYS_MAX: Final = 5
"""How often an event is put back, if nobody says otherwise: what was refused that often will be again."""

_TEXT: Final = "put dead letters back into their queue: all, or those that are asked for"
_EXIT_CODES: Final = (
    "exit codes: 0 done, 1 one that was named is not there, or could not be edited, 2 usage, or no queue is there,"
    " 3 a slot is busy, 4 a slot is unreadable"
)


def add_command(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("requeue", help=_TEXT, description=_TEXT, epilog=_EXIT_CODES)
    add_slot_options(parser)
    add_letter_filters(parser)
    parser.add_argument(
        "--max-replays",
        type=_limit,
        default=REPLAYS_MAX,
        metavar="N",
        help=f"leave those that were put back N times already; `none` leaves none (default: {REPLAYS_MAX})",
    )
    parser.add_argument(
        "--edit",
        type=_program,
        metavar="COMMAND",
        help="what goes back is what this program (no shell) makes of each event: JSON in, JSON out. An event that it"
        " fails on, or that then breaks a rule, stays",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many it would be")
    add_filters(parser, with_stdin=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Put letters back. Return the exit code."""
    choice = Choice(args)
    unedited = 0

    def act(place: Place) -> None:
        nonlocal unedited
        unedited += _at(place, args, choice)

    code = for_each_place(args, act, has_keys=choice.has_keys)
    if code != Exit.EMPTY:
        return code  # what was not found may be where nobody could look
    return Exit.BACKLOG if choice.say_missing("dead letter") or unedited else code


def _limit(text: str) -> int | None:
    """For argparse: a positive integer, or None."""
    return None if text == "none" else count(text)


def _program(text: str) -> list[str]:
    """For argparse: a program with its arguments."""
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text}: {exc}") from None
    if not words or shutil.which(words[0]) is None:
        raise argparse.ArgumentTypeError(f"{words[0] if words else 'it'} is no program that can be run")
    return words


def _at(place: Place, args: argparse.Namespace, choice: Choice) -> int:
    """Put one queue's letters back. Return how many could not be edited."""
    found = moved = too_often = unedited = 0
    ready: dict[int, bytes] = {}
    with acting(place) as actor:

        def put_back() -> int:
            edited = ready if args.edit is not None else {}
            number = actor.requeue(list(ready), edited)
            ready.clear()
            return number

        for letter in actor.letters():
            if letter.key <= 0 or not choice.takes(letter):  # altered bytes are never sent
                continue
            if args.max_replays is not None and letter.replays >= args.max_replays:
                too_often += 1
                continue
            if args.dry_run and args.edit is not None:
                found += 1
                continue
            payload = _mended(letter, args.edit, place.name)
            if payload is None:
                unedited += args.edit is not None
                continue
            found += 1
            if not args.dry_run:
                ready[letter.key] = payload
                moved += put_back() if len(ready) == AT_ONCE else 0
        moved += put_back() if ready else 0
    say(f"{place.name}: would requeue {found}" if args.dry_run else f"{place.name}: requeued {moved}")
    if too_often:
        complain(
            f"{place.name}: {too_often} dead letters stay, which were put back {args.max_replays} times or more;"
            " see --max-replays"
        )
    return unedited


def _mended(letter: DeadLetter, program: list[str] | None, queue: str) -> bytes | None:
    """Return what goes back, None if the letter stays, which is said.

    What was edited, or was refused by the tracker, has to pass the door.
    """
    if program is None and letter.kind != "invalid":
        return letter.payload
    try:
        fields = fields_in(letter.payload if program is None else _edited(letter.payload, program))
        if fields is None:
            raise InvalidEventError("event", "must be a JSON object")  # noqa: TRY301
        if REFUSED in fields:
            raise InvalidEventError(str(fields[REFUSED]), "export it, mend it, remove this member, and import it")  # noqa: TRY301
        before = fields_in(letter.payload) or {}
        payload = finished(fields, before.get("eid"), before.get("dtm"))
    except (InvalidEventError, OSError, ValueError, TypeError, AttributeError) as exc:
        complain(f"{queue}: dead letter {letter.key} stays: {exc}")
        return None
    return letter.payload if program is None else payload


def _edited(payload: bytes, program: list[str]) -> bytes:
    """Return what a program prints when it is given a payload.

    Raises:
        OSError: it cannot be run, or failed.
    """
    done = subprocess.run(program, input=payload, stdout=subprocess.PIPE, check=False)  # noqa: S603 (the user's own)
    if done.returncode != 0:
        raise OSError(f"{program[0]} failed with exit code {done.returncode}")
    return done.stdout
