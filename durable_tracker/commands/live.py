"""Commands that ask a queue's owner: why, pause, resume, flush, hand-over. And probe, which asks the collector."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.options import add_slot_options, endpoint_of, header, places_to_look_at, seconds
from durable_tracker.commands.output import complain, hand_out, json_line, say
from durable_tracker.commands.status import command_of, duration, look_at
from durable_tracker.control import client
from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.retry import Outcome, classify
from durable_tracker.errors import ConfigurationError, QueueError
from durable_tracker.protocol.fields import PAYLOAD_DATA_SCHEMA

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from durable_tracker.commands.status import Seen

_EXIT_CODES: Final = "exit codes: 0 done, 1 not done, 2 usage, or no queue is there, 3 nobody answers, 4 unreadable"
_PROBE_S: Final = 10.0
_HAND_OVER_S: Final = 30.0
_COMMANDS: Final = {
    "why": "why events wait: what the owner of each queue is doing, and what its collector answered last",
    "pause": "let live owners deliver nothing, until `resume` or their end; events are taken as ever",
    "resume": "let live owners that were paused deliver again",
    "flush": "let live owners deliver now, without the rest of a backoff, and wait for it",
    "hand-over": "let live owners that deliver nothing (`drain=False`) leave a queue to a drain, and go on in another",
    "probe": "send one request to the collector of each queue, and print what it answers; nothing leaves a queue",
}
_OWNERS_ONLY: Final = {"pause", "resume", "flush", "hand-over"}


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    for name, text in _COMMANDS.items():
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EXIT_CODES)
        add_slot_options(parser)
        if name == "why":
            parser.add_argument("--json", action="store_true", help="one JSON object a queue, in a line")
        if name == "flush":
            parser.add_argument("--timeout", type=seconds, default=10.0, metavar="S", help="default: 10 s a queue")
        if name == "probe":
            parser.add_argument("--empty", action="store_true", help="a request without events, not the oldest event")
            parser.add_argument("--to", metavar="URL", help="ask this collector, not the one on record")
            parser.add_argument(
                "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="repeatable"
            )
            parser.add_argument("--timeout", type=seconds, default=_PROBE_S, metavar="S", help="default: 10 s")
        parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        seen = look_at(places_to_look_at(args), asks=args.command == "why")
    except ConfigurationError as exc:
        complain(exc)
        return Exit.USAGE
    code = Exit.EMPTY
    if args.command in _OWNERS_ONLY:
        seen = [one for one in seen if one.owner is not None]
        if not seen:
            complain("no process has a queue of these open; `durable-tracker drain` sends what is there")
            return Exit.BACKLOG
    for one in seen:
        try:
            code = max(code, _ACTS[args.command](one, args))
        except client.NoAnswerError as exc:
            complain(exc)
            code = max(code, Exit.BUSY)
        except client.RefusedError as exc:
            complain(exc)
            code = max(code, Exit.BACKLOG)
        except ConfigurationError as exc:
            complain(exc)
            code = max(code, Exit.USAGE)
        except QueueError as exc:
            complain(exc)
            code = max(code, Exit.UNREADABLE)
    return code


# ── why ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _why(one: Seen, args: argparse.Namespace) -> Exit:
    hand_out(json_line(one.report()) if args.json else "\n".join(_story(one)))
    if one.error is not None:
        complain(f"{one.place.name}: {one.error}")
        return Exit.UNREADABLE
    return Exit.BUSY if one.silence is not None else Exit.EMPTY


def _story(one: Seen) -> list[str]:
    told = one.told
    ledger = one.view.ledger if one.view is not None else None
    pending = "it cannot be read" if ledger is None else f"{ledger.pending:,} events are pending"
    if one.oldest_age_s is not None:
        pending += f", the oldest for {duration(one.oldest_age_s)}"
    lines = [f"{one.place.label}: {pending}"]
    lines.append(f"  collector     {one.collector or 'none is on record'}")
    if one.owner is None:
        lines.append("  owner         none: `durable-tracker drain` sends what is there")
        return lines
    lines.append(f"  owner         process {one.owner} {command_of(one.owner)}".rstrip())
    if told is None:
        lines.append(f"  state         not known: {one.silence}")
        return lines
    state = f"{told['state'].replace('_', ' ')}, {_TROUBLED[told['state'] in ('backing_off', 'blocked')]}"
    lines.append(f"  state         {state.format(duration(told['since_s']))}")
    if told["consecutive_troubles"]:
        lines[-1] += f", {told['consecutive_troubles']:,} attempts"
    if told["next_attempt_s"] is not None:
        lines.append(f"  next attempt  in {duration(told['next_attempt_s'])}, or at once by `durable-tracker flush`")
    if told["last_error"]:
        lines.append(f"  last error    {told['last_error']}")
    for answer in reversed(told["answers"]):
        times = f", {answer['count']:,} times since {_clock(answer['first_at'])}" if answer["count"] > 1 else ""
        lines.append(f"  {_clock(answer['last_at'])}      {answer['text']}{times}")
    if told["suspects"]:
        lines.append(
            f"  suspects      {told['suspects']:,} events were refused alone, perhaps not through their own fault:"
        )
        lines.append(
            "                they are asked about again, and set aside once the collector accepts others beside them"
        )
    if told["parked"]:
        lines.append(f"  parked        {told['parked']:,} of them wait for room among the dead letters")
    return lines


_TROUBLED: Final = {True: "for {} without a delivery", False: "for {} without trouble"}


def _clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%SZ}"


# ── pause, resume, flush ─────────────────────────────────────────────────────────────────────────────────────────────


def _ask(one: Seen, command: str, **arguments: Any) -> Any:
    assert one.place.path is not None  # noqa: S101 (it has an owner, so it is a file)
    return client.ask(one.place.path, command, owner=one.owner, **arguments)


def _pause(one: Seen, args: argparse.Namespace) -> Exit:
    _ask(one, args.command)
    say(f"{one.place.label}: {'paused' if args.command == 'pause' else 'resumed'}")
    return Exit.EMPTY


def _flush(one: Seen, args: argparse.Namespace) -> Exit:
    is_empty = _ask(one, "flush", timeout_s=args.timeout, answer_s=args.timeout + client.ANSWER_S)
    if is_empty:
        say(f"{one.place.label}: all that was there is delivered")
        return Exit.EMPTY
    told = _ask(one, "stats")
    say(f"{one.place.label}: {told['ledger']['pending']:,} events wait: {told['last_error'] or told['state']}")
    return Exit.BACKLOG


def _hand_over(one: Seen, args: argparse.Namespace) -> Exit:
    del args
    if _ask(one, "hand_over", answer_s=_HAND_OVER_S):
        say(f"{one.place.label}: handed over; `durable-tracker drain` sends what is there")
        return Exit.EMPTY
    say(f"{one.place.label}: not handed over: it is empty, or its owner delivers it")
    return Exit.BACKLOG


# ── probe ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _probe(one: Seen, args: argparse.Namespace) -> Exit:
    if one.view is None:
        complain(f"{one.place.name}: {one.error}")
        return Exit.UNREADABLE
    endpoint = endpoint_of(one.view.origin, one.place.label, args.to)
    oldest = None if args.empty else one.view.oldest
    what = "a request without events" if oldest is None else f"the oldest event ({len(oldest.payload):,} bytes)"
    if oldest is None and endpoint.method == "get":
        raise ConfigurationError(f"{one.place.label}: it sends by GET, and there is no event to send")
    say(f"{one.place.label}: sending {what} to {endpoint.identity}; it stays in the queue")
    transport = HttpTransport(
        endpoint.url, method=endpoint.method, headers=dict(args.header), deadline_s=max(args.timeout, 0.1)
    )
    began_at = time.monotonic()
    try:
        if oldest is None:
            reply = transport.send_body(json.dumps({"schema": PAYLOAD_DATA_SCHEMA, "data": []}).encode())
        else:
            reply = transport.send([oldest.payload[:-1] + b',"stm":"%d"}' % (time.time_ns() // 1_000_000)])
    finally:
        transport.close()
    outcome = classify(reply.status, {})
    answer = "no answer" if reply.status is None else f"HTTP {reply.status}"
    after = f" after {(time.monotonic() - began_at) * 1000:.0f} ms"
    reason = f": {reply.error}" if reply.error not in (None, "", answer) and outcome is not Outcome.DELIVERED else ""
    again = "" if reply.retry_after_s is None else f"; it asks to be left alone for {reply.retry_after_s:.0f} s"
    say(f"{one.place.label}: {answer}{after}{reason}: {_MEANINGS[outcome]}{again}")
    return Exit.EMPTY if outcome is Outcome.DELIVERED else Exit.BACKLOG


_MEANINGS: Final = {
    Outcome.DELIVERED: "it takes events",
    Outcome.REFUSED: "it refuses what is in this request",
    Outcome.TOO_LARGE: "the request is larger than it, or a proxy before it, takes",
    Outcome.BLOCKED: "it refuses this client or this address: look at the address, the credentials and the proxies",
    Outcome.OUTAGE: "events wait, and are tried again",
}


_ACTS: Final[dict[str, Callable[[Seen, argparse.Namespace], Exit]]] = {
    "why": _why,
    "pause": _pause,
    "resume": _pause,
    "flush": _flush,
    "hand-over": _hand_over,
    "probe": _probe,
}
