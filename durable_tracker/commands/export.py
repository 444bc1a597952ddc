"""`export` and `import`: a backlog as lines of JSON, in a file or a pipe, and back into a queue."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.filters import Filter, add_filters, check_all_was_read, fields_in
from durable_tracker.commands.options import add_queue_dir_option, add_slot_options, places_to_look_at
from durable_tracker.commands.output import OutputError, complain
from durable_tracker.emitters import Emitter
from durable_tracker.engines.addresses import engine_of
from durable_tracker.engines.queue import DeadLetter
from durable_tracker.errors import ConfigurationError, InvalidEventError, QueueError
from durable_tracker.protocol.encoder import finished
from durable_tracker.protocol.rendering import REFUSED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from durable_tracker.engines.engine import Onlooker, Place
    from durable_tracker.engines.queue import Row

EXIT_CODES: Final = "exit codes: 0 done, 2 usage, or a line was refused, 4 not all was read, or stored, 5 not written"
_AT_ONCE: Final = 500
_WORD: Final = "event"

EXPORT: Final = """Write what is pending as lines of JSON: {"queue", "key", "eid", "event": {the event's fields}}.
There "queue" is the file of the slot, or its engine's address, and "key" the event's place in it.

It reads beside a live owner, and takes nothing out of the queue. Every event that is pending from the beginning to the
end is written once. A file is made with mode 0600; its suffix .gz compresses it.
"""
IMPORT: Final = """Put events into a queue: of an export, also of another host, or the fields of one event in each
line, or JSON lists of such, as handlers of the official tracker's failed events write them. Ids stay as they are.

Beside a live process that has a queue of that name they go into a further slot, as a second process's would: within a
minute that process delivers them too, or, where it leaves delivery to a drain, the next drain does.
"""


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    add_slot_options(parser)
    parser.add_argument("--output", metavar="FILE", help="where to (default: stdout)")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    parser.add_argument("--dead-letters", action="store_true", help="with what was refused, and why")
    add_filters(parser)


def run_export(args: argparse.Namespace) -> int:
    """Write the events. Return the exit code."""
    try:
        places = places_to_look_at(args)
    except ConfigurationError as exc:
        complain(exc)
        return Exit.USAGE
    code, written = Exit.EMPTY, 0
    try:
        with opened(args.output, is_forced=args.force) as output:
            for place in places:
                try:
                    with place.look() as onlooker:
                        for line in _lines(place, onlooker, args):
                            output.write(line)
                            written += 1
                        check_all_was_read(place, onlooker)
                except QueueError as exc:
                    complain(exc)
                    code = Exit.UNREADABLE
            output.flush()
    except FileExistsError:
        complain(f"--output {args.output}: is there already; --force replaces it")
        return Exit.USAGE
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(f"cannot write {args.output or 'to stdout'}: {exc.strerror or exc}") from None
    complain(f"{written} events written")
    return code


def _lines(place: Place, onlooker: Onlooker, args: argparse.Namespace) -> Iterator[bytes]:
    chosen = Filter.of(args)
    for row in onlooker.rows():
        if chosen.passes(row.payload):
            yield line_of(place, row)
    for letter in onlooker.letters() if args.dead_letters else ():
        if letter.kind != "damaged" and chosen.passes(letter.payload):
            yield line_of(place, letter)


def line_of(place: Place, one: Row | DeadLetter) -> bytes:
    """Return an event as a line of an export; of a dead letter with the reason."""
    fields = fields_in(one.payload)
    text = {"payload": one.payload.decode("utf-8", "backslashreplace")} if fields is None else {_WORD: fields}
    eid = None if fields is None else fields.get("eid")
    report: dict[str, Any] = {"queue": place.name, "key": one.key, "eid": eid, **text}
    if isinstance(one, DeadLetter):
        why = {"kind": one.kind, "status": one.status, "reason": one.reason, "time_ms": one.time_ms}
        report["dead_letter"] = why
    return json.dumps(report, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


@contextlib.contextmanager
def opened(path: str | None, *, is_forced: bool) -> Iterator[BinaryIO]:
    """Return where an export is written to: a file of mode 0600, which is on the disk in the end; None: stdout.

    Raises:
        FileExistsError: the file is there, and is not to be replaced.
    """
    if path is None:
        yield sys.stdout.buffer
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if is_forced else os.O_EXCL)
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)  # else it is a pipe or /dev/null, and somebody else's
        if is_regular:
            os.fchmod(descriptor, 0o600)
        if path.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb") as packed:
                yield packed  # type: ignore[misc]  # a BinaryIO in all but name
        else:
            yield file
        file.flush()
        if is_regular:
            os.fsync(descriptor)


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `import`."""
    parser.add_argument("file", nargs="*", help="files, .gz also (default: stdin)")
    parser.add_argument("--endpoint", required=True, help="the collector that the events are for")
    parser.add_argument("--name", help="the queue's name (default: from the endpoint)")
    add_queue_dir_option(parser)
    parser.add_argument("--strict", action="store_true", help="store nothing of a file in which a line is refused")
    parser.add_argument(
        "--skip-known",
        action="store_true",
        help="leave out ids that are in this engine's queues or dead letters now; what was delivered is not known",
    )


def run_import(args: argparse.Namespace) -> int:
    """Store the events. Return the exit code."""
    code, stored, refused, skipped = Exit.EMPTY, 0, 0, 0
    try:
        known, code = _known(args.queue_dir) if args.skip_known else (None, code)
        with Emitter(args.endpoint, name=args.name, queue_dir=args.queue_dir, drain=False) as emitter:
            for name in args.file or [None]:
                payloads: list[bytes] = []
                bad = 0
                for number, fields in _events(name):
                    try:
                        payload = _payload(fields)
                    except InvalidEventError as exc:
                        complain(f"import: {name or 'stdin'}, line {number}: {exc}")
                        bad += 1
                        continue
                    if known is not None and _is_known(payload, known):
                        skipped += 1
                        continue
                    payloads.append(payload)
                    if len(payloads) >= _AT_ONCE and not args.strict:
                        emitter.put_many(payloads)
                        stored += len(payloads)
                        payloads = []
                if not (args.strict and bad):
                    emitter.put_many(payloads)
                    stored += len(payloads)
                elif known is not None:
                    known.difference_update(map(_eid, payloads))
                refused += bad
    except (ConfigurationError, OSError) as exc:
        complain(f"import: {exc}")
        code = max(code, Exit.USAGE)
    except QueueError as exc:
        complain(f"import: not stored: {exc}")
        code = Exit.UNREADABLE
    complain(f"stored {stored}, refused {refused}, known {skipped}")
    return max(code, Exit.USAGE) if refused else code


def _payload(fields: dict[str, Any] | None) -> bytes:
    """Return an event as it is stored.

    Raises:
        InvalidEventError: it is none.
    """
    if fields is None:
        raise InvalidEventError("line", "must be a JSON object: a line of an export, or an event")
    if REFUSED in fields:
        raise InvalidEventError(REFUSED, f"mend the event, and remove this member: {fields[REFUSED]}")
    return finished(fields)


def _is_known(payload: bytes, known: set[str]) -> bool:
    """Return whether an event's id is among those that are known, to which it then belongs."""
    count = len(known)
    known.add(_eid(payload))
    return len(known) == count


def _eid(payload: bytes) -> str:
    return str(json.loads(payload)["eid"])


def _known(queue_dir: Path | None) -> tuple[set[str], Exit]:
    """Return the ids that are in the queues, and the exit code: which queue could not be read is said."""
    found: set[str] = set()
    code = Exit.EMPTY
    for place in engine_of(None, queue_dir).places():
        try:
            with place.look() as onlooker:
                for source in (onlooker.rows(), onlooker.letters()):
                    for one in source:
                        fields = fields_in(one.payload)
                        if fields is not None and isinstance(fields.get("eid"), str):
                            found.add(fields["eid"])
                check_all_was_read(place, onlooker)
        except QueueError as exc:
            complain(f"import: --skip-known: {exc}; ids that are only there are not left out")
            code = Exit.UNREADABLE
    return found, code


def _events(name: str | None) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the fields of each event with the number of its line; None for what is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with _source(name) as source:
            for number, line in enumerate(source, 1):
                if line.strip().startswith(b"["):
                    found = _list(line)  # as whoever appends one for each failure has it
                    if found is None:
                        found = _list(line + source.read()) or [None]
                    yield from ((number, _fields(one)) for one in found)
                elif line.strip():
                    yield number, _fields(fields_in(line))
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise OSError(f"{name}: {exc}") from None


@contextlib.contextmanager
def _source(name: str | None) -> Iterator[Any]:
    if name is None:
        yield sys.stdin.buffer
    elif name.endswith(".gz"):
        with gzip.open(name, "rb") as packed:
            yield packed
    else:
        with Path(name).open("rb") as file:
            yield file


def _list(content: bytes) -> list[Any] | None:
    """Return what a JSON list has in it, None if the content is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _fields(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    event = value.get(_WORD, value)
    return {name: field for name, field in event.items() if name != "stm"} if isinstance(event, dict) else None
