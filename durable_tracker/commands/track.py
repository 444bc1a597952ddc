"""`python -m durable_tracker track`: events from the shell, durable before the exit code is 0."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.options import add_queue_dir_option, header, seconds
from durable_tracker.commands.output import complain, say
from durable_tracker.emitters import Emitter
from durable_tracker.errors import ConfigurationError, InvalidEventError, QueueError
from durable_tracker.events import SelfDescribing
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.subject import Subject
from durable_tracker.tracker import Tracker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import BinaryIO

DESCRIPTION = """\
Track one self-describing event, given by --schema and --data, or one for each line of standard input:
{"schema": "iglu:...", "data": {...}, "context": [{"schema": ..., "data": ...}], "true_timestamp": 1700000000000}
When the exit code is 0, every event is on disk, whether or not it was delivered in time."""

EXIT_CODES = "exit codes: 0 stored, 2 usage, or an event was refused, 4 not stored"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--endpoint", required=True, help="the collector's host, with scheme and port if need be")
    parser.add_argument("--schema", help="iglu: URI of one event; without it, events are read from standard input")
    parser.add_argument("--data", help="the event's data, as JSON (default: {})")
    parser.add_argument("--context", action="append", default=[], help='{"schema": ..., "data": ...}; repeatable')
    parser.add_argument("--namespace", help="the tracker's name (tna)")
    parser.add_argument("--app-id", help="the application (aid)")
    parser.add_argument("--platform", default="srv", help="the platform (default: srv)")
    parser.add_argument("--user-id", help="the user (uid)")
    parser.add_argument("--no-base64", action="store_true", help="send JSON as it is")
    parser.add_argument("--name", help="the queue's name (default: from the endpoint)")
    add_queue_dir_option(parser)
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="send it too; repeatable"
    )
    parser.add_argument("--no-drain", action="store_true", help="leave sending to a later drain")
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait for delivery (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Track what `args` and standard input say. Return the exit code."""
    if args.schema is None and (args.data is not None or args.context):
        complain(
            "track: --data and --context need --schema; without it, events are read from standard input",
        )
        return Exit.USAGE
    try:
        emitter = Emitter(
            args.endpoint,
            name=args.name,
            queue_dir=args.queue_dir,
            headers=dict(args.header),
            drain=not args.no_drain,
            shutdown_timeout=args.timeout,
        )
        subject = Subject().set_platform(args.platform)
        if args.user_id is not None:
            subject.set_user_id(args.user_id)
        tracker = Tracker(
            emitter,
            subject=subject,
            namespace=args.namespace,
            app_id=args.app_id,
            encode_base64=not args.no_base64,
        )
    except (ConfigurationError, InvalidEventError, QueueError) as exc:
        complain(f"track: {exc}")
        return Exit.USAGE if isinstance(exc, ValueError) else Exit.UNREADABLE
    with tracker:
        try:
            if args.schema is not None:
                context = [_entity(_json(text, "--context"), "--context") for text in args.context]
                data = {} if args.data is None else _json(args.data, "--data")
                say(tracker.track(SelfDescribing(SelfDescribingJson(args.schema, data), context=context or None)))
                return Exit.EMPTY
            return _track_lines(tracker, sys.stdin.buffer)
        except InvalidEventError as exc:
            complain(f"track: {exc}")
            return Exit.USAGE
        except QueueError as exc:
            complain(f"track: not stored: {exc}")
            return Exit.UNREADABLE


def _track_lines(tracker: Tracker, source: BinaryIO) -> int:
    stored = refused = number = 0
    for lines in _available_lines(source):
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                tracker.track(_event(line))
                stored += 1
            except InvalidEventError as exc:
                refused += 1
                complain(f"track: line {number}: {exc}")
    complain(f"stored {stored}, refused {refused}")
    return Exit.USAGE if refused else Exit.EMPTY


def _available_lines(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield what has come so far, so that a slow producer's events are stored when they come."""
    rest = b""
    while chunk := source.read1(1 << 20):  # type: ignore[attr-defined]
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


def _event(line: bytes) -> SelfDescribing:
    value = _json(line, "line")
    if not isinstance(value, dict):
        raise InvalidEventError("line", "must be a JSON object with 'schema' and 'data'")
    unknown = value.keys() - {"schema", "data", "context", "true_timestamp"}
    if unknown:
        raise InvalidEventError(min(unknown), "is not one of schema, data, context, true_timestamp")
    context = value.get("context") or []
    if not isinstance(context, list):
        raise InvalidEventError("context", "must be a list")
    return SelfDescribing(
        _entity(value, "line"),
        context=[_entity(entity, "context") for entity in context] or None,
        true_timestamp=value.get("true_timestamp"),
    )


def _entity(value: Any, field: str) -> SelfDescribingJson:
    if not isinstance(value, dict) or "schema" not in value or "data" not in value:
        raise InvalidEventError(field, "must be a JSON object with 'schema' and 'data'")
    return SelfDescribingJson(value["schema"], value["data"])


def _json(text: str | bytes, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidEventError(field, f"must be JSON ({exc})") from None
