"""`python -m durable_tracker.drain`: deliver what is in the queues, and exit.

Without arguments it drains every free slot of the queue dir, each to the collector that its emitter used. A slot that
a live process owns is that process's to drain: it is reported, with the pid, and not waited for.

exit codes: 0 everything is delivered, 1 events remain (the collector was unreachable, or it was stopped), 2 usage,
3 a slot is in use by a live process, 4 a slot is unreadable. Of several that apply, the highest is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue as queues
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.options import (
    EXIT_CODES,
    Exit,
    add_slot_options,
    chosen_slots,
    count,
    header,
    seconds,
)
from durable_tracker.commands.output import complain, say
from durable_tracker.commands.progress import Progress
from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.policy import Delivery, Result
from durable_tracker.delivery.state import DeliverySettings
from durable_tracker.endpoint import PATHS, Endpoint
from durable_tracker.errors import ConfigurationError, QueueError, SlotBusyError
from durable_tracker.store.sqlite_queue import SqliteQueue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from durable_tracker.delivery.state import DeliveryState
    from durable_tracker.store.slots import Slot

PATIENCE_S: Final = 60.0
"""Without `--timeout`, give up on a collector after this long without a delivery."""

GRACE_S: Final = 1.0
"""How long the request in flight may still take when it is time to stop."""

_WATCH_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one slot."""

    slot: str
    exit_code: Exit
    delivered: int = 0
    dead: int = 0
    expired: int = 0
    remaining: int | None = None
    error: str | None = None

    def line(self) -> str:
        """Return the outcome as a line for people."""
        if self.remaining is None:
            return f"{self.slot}: {self.error}"
        text = f"{self.slot}: delivered {self.delivered}, remaining {self.remaining}"
        if self.dead:
            text += f", dead letters {self.dead}"
        if self.expired:
            text += f", expired {self.expired}"
        return f"{text} ({self.error})" if self.error and self.remaining else text


class Stop:
    """Says when to stop: on a signal, at a deadline, or when there was no progress for long."""

    def __init__(self, timeout_s: float | None) -> None:
        """Begin the time that `timeout_s` counts; None means as long as there is progress."""
        self._signals: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._progress_at = time.monotonic()
        self.is_interrupted = False

    def install(self) -> None:
        """Stop on SIGINT and SIGTERM. The handler only sets a flag and wakes whoever waits."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.is_interrupted = True
        self._signals.put(None)

    def begin_slot(self) -> None:
        """Start the patience anew."""
        self._progress_at = time.monotonic()

    progressed = begin_slot

    def left_s(self) -> float:
        """Return the seconds that are left."""
        end = self._deadline if self._deadline is not None else self._progress_at + PATIENCE_S
        return end - time.monotonic()

    def is_due(self) -> bool:
        """Return whether to stop now."""
        return self.is_interrupted or self.left_s() <= 0

    def wait(self, wait_s: float) -> bool:
        """Wait that long, but no longer than there is time. Return whether to stop."""
        until = time.monotonic() + wait_s
        while not self.is_due():
            left = min(until - time.monotonic(), self.left_s())
            if left <= 0:
                break
            try:
                self._signals.get(timeout=left)
            except queues.Empty:
                continue
        return self.is_due()


@contextlib.contextmanager
def breaking_off(stop: Stop, transport: HttpTransport) -> Iterator[None]:
    """Break off a request that goes on when it is time to stop: a collector that hangs would hold the command up.

    In a thread, since closing the transport takes a lock that a signal handler must not wait for.
    """
    over: queues.SimpleQueue[None] = queues.SimpleQueue()

    def watch() -> None:
        due_s = 0.0
        while due_s < GRACE_S:
            try:
                over.get(timeout=_WATCH_S)
            except queues.Empty:
                due_s += _WATCH_S if stop.is_due() else 0.0
            else:
                return
        transport.close()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.put(None)
        watcher.join()


def drain_slot(slot: Slot, args: argparse.Namespace, stop: Stop) -> Outcome:
    """Deliver one slot's events."""
    name = str(slot.database)
    try:
        with SqliteQueue.take(slot) as queue:
            return _drain_queue(queue, name, args, stop)
    except SlotBusyError as exc:
        return Outcome(slot=name, exit_code=Exit.BUSY, error=f"in use by process {exc.pid}: left to it")
    except (QueueError, ConfigurationError) as exc:
        code = Exit.USAGE if isinstance(exc, ConfigurationError) else Exit.UNREADABLE
        return Outcome(slot=name, exit_code=code, error=str(exc))


def _drain_queue(queue: SqliteQueue, name: str, args: argparse.Namespace, stop: Stop) -> Outcome:
    before = queue.ledger()
    if queue.oldest_key() is None:
        return Outcome(slot=name, exit_code=Exit.EMPTY, remaining=0)
    endpoint = _endpoint(queue, name, args)
    transport = HttpTransport(endpoint.url, method=endpoint.method, headers=dict(args.header), connections=args.senders)
    settings = DeliverySettings(
        batch_size=1 if endpoint.method == "get" else args.batch_size, senders=args.senders, byte_limit=args.byte_limit
    )
    delivery = Delivery(queue, transport, settings=settings, wait=stop.wait, stopping=stop.is_due)
    stop.begin_slot()
    delivered = 0
    try:
        label = f"{queue.slot.directory.name}/{queue.slot.index}"  # a whole path would leave no room for the bar
        with Progress(before.pending, label, is_quiet=args.quiet or args.json) as progress:

            def show(state: DeliveryState) -> None:
                nonlocal delivered
                if state.delivered > delivered:
                    delivered = state.delivered
                    stop.progressed()
                progress.update(state.delivered + state.dead + state.expired)

            with breaking_off(stop, transport):
                result = delivery.run(progress=show)
                while result is Result.SUSPECTS and _is_worth_waiting_for(delivery.state, stop):
                    result = delivery.run(progress=show)
        queue.shrink()
    finally:
        delivery.close()
        transport.close()
    after = queue.ledger()
    return Outcome(
        slot=name,
        exit_code=Exit.BACKLOG if after.pending else Exit.EMPTY,
        delivered=after.delivered - before.delivered,
        dead=after.dead + after.discarded - before.dead - before.discarded,
        expired=after.expired - before.expired,
        remaining=after.pending,
        error=_why(result, delivery.state, stop) if after.pending else None,
    )


def _is_worth_waiting_for(state: DeliveryState, stop: Stop) -> bool:
    """Wait until the next suspect is due. Return whether there was time for that."""
    left_s = (state.next_attempt_at or 0.0) - time.monotonic()
    return left_s < stop.left_s() and not stop.wait(left_s)


def _why(result: Result, state: DeliveryState, stop: Stop) -> str:
    if stop.is_interrupted:
        return "stopped by a signal"
    if result is Result.SUSPECTS:
        parked = f"{state.parked} of them are parked, since the dead letters are full; " if state.parked else ""
        return f"{parked}the collector refused them, which is not proven to be their own fault: {state.last_error}"
    return f"gave up for now: {state.last_error or 'out of time'}"


def _endpoint(queue: SqliteQueue, name: str, args: argparse.Namespace) -> Endpoint:
    recorded = Endpoint.on_record(queue.origin)
    method = args.method or (recorded.method if recorded else "post")
    if args.to is not None:
        return Endpoint.parse(args.to, method=method)
    if recorded is None:
        raise ConfigurationError(f"{name} has no collector on record: name one with --to")
    # A user is on record, a password is not: half of the credentials would be refused, so --header has to bring them.
    return Endpoint.parse(recorded.public_url.removesuffix(PATHS[recorded.method]), method=method)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_slot_options(parser)
    parser.add_argument(
        "--to", "--url", metavar="URL", help="send to this collector instead of the one that each slot has on record"
    )
    parser.add_argument("--method", choices=("post", "get"), help="instead of the one that each slot has on record")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help=f"stop after S seconds in all (default: {PATIENCE_S:g} without a delivery)",
    )
    parser.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'", help="send it too; repeatable"
    )
    parser.add_argument("--batch-size", type=count, default=500, metavar="N", help="events in a request (default: 500)")
    parser.add_argument(
        "--byte-limit", type=count, default=150_000, metavar="N", help="bytes in a request (default: 150000)"
    )
    parser.add_argument("--senders", type=count, default=1, metavar="N", help="requests in flight (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Drain what `args` names. Return the exit code."""
    try:
        slots = chosen_slots(args)
    except ConfigurationError as exc:
        complain(f"drain: {exc}")
        return Exit.USAGE
    stop = Stop(args.timeout)
    stop.install()
    outcomes: list[Outcome] = []
    for slot in slots:
        outcome = drain_slot(slot, args, stop)
        outcomes.append(outcome)
        if not args.json:
            say(outcome.line(), sys.stderr if outcome.remaining is None else sys.stdout)
    code = max((outcome.exit_code for outcome in outcomes), default=Exit.EMPTY)
    total = {
        "slots": len(outcomes),
        "delivered": sum(outcome.delivered for outcome in outcomes),
        "dead": sum(outcome.dead for outcome in outcomes),
        "remaining": sum(outcome.remaining or 0 for outcome in outcomes),
    }
    if args.json:
        report: dict[str, Any] = {**total, "exit_code": int(code), "details": [asdict(outcome) for outcome in outcomes]}
        say(json.dumps(report, indent=2))
    elif len(outcomes) != 1:
        say(f"{total['slots']} slots: delivered {total['delivered']}, remaining {total['remaining']}")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m durable_tracker.drain",
        description="Deliver what is in the queues, and exit.",
        epilog=EXIT_CODES,
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
