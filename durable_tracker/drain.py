"""`python -m durable_tracker.drain`: deliver what is in the queues, and exit.

Without arguments it drains every free slot of the queue dir, each to the collector that its emitter used. A slot that
a live process owns is that process's to drain: it is reported, with the pid, and not waited for. Each queue is
delivered as its emitter was told to, which it has on record; an option that is given wins. What an emitter was to send
in a way of its own is left, unless --as-http says otherwise.

exit codes: 0 everything is delivered, 1 events remain (the collector was unreachable, it was stopped, or they are to be
sent in a way of their emitter's own), 2 usage,
3 a slot is in use by a live process, 4 a slot is unreadable. Of several that apply, the highest is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import queue as queues
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.examples import end_with_examples
from durable_tracker.commands.exit_codes import EXIT_CODES, Exit
from durable_tracker.commands.options import (
    add_setting_options,
    add_slot_options,
    chosen_places,
    endpoint_of,
    header,
    option_of,
    seconds,
)
from durable_tracker.commands.output import complain, printed, say
from durable_tracker.commands.progress import Progress
from durable_tracker.delivery.hold import hold_of
from durable_tracker.delivery.http_transport import HttpTransport
from durable_tracker.delivery.policy import Delivery, Result
from durable_tracker.delivery.state import DeliverySettings, DeliveryState
from durable_tracker.engines.queue import Ledger, Shrinking
from durable_tracker.errors import ConfigurationError, QueueError, SlotBusyError
from durable_tracker.settings.record import on_record, sender_of
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from types import FrameType

    from durable_tracker.engines.engine import Place
    from durable_tracker.engines.queue import Queue
    from durable_tracker.protocol.endpoint import Endpoint

PATIENCE_S: Final = 60.0
"""Without `--timeout`, give up on a collector after this long without a delivery."""

GRACE_S: Final = 1.0
"""How long the request in flight may still take when it is time to stop."""

MIRRORED: Final = (
    "batch_size", "byte_limit", "senders", "max_age", "custom_retry_codes", "max_retry_delay_seconds",
)  # fmt: skip
"""Arguments of an emitter that are options here, under the same names."""

_WATCH_S: Final = 0.1  # between two looks whether to stop
_PROBE_EVENTS: Final = 10  # in the request that shows whether a collector answers
_PROBE_S: Final = 5.0  # for its answer
_PROBE_S_MIN: Final = 0.5
_TURN_S: Final = 5.0  # for the queues of one collector, while others wait
_LATE_S: Final = 60.0  # that a request may go on after its turn
_PAUSE_S: Final = 0.2
_VERDICT_S: Final = 30.0  # for the rule to decide about refused events, before --set-aside does


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one slot."""

    slot: str
    exit_code: Exit
    delivered: int = 0
    dead: int = 0
    expired: int = 0
    set_aside: int = 0
    """Of `dead`, those that --set-aside moved."""
    remaining: int | None = None
    error: str | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those that are not the default, with their value and where it comes from."""

    def line(self) -> str:
        """Return the outcome as a line for people."""
        if self.remaining is None:
            return f"{self.slot}: {self.error}"
        text = f"{self.slot}: delivered {self.delivered}, remaining {self.remaining}"
        if self.dead:
            text += f", dead letters {self.dead}"
        if self.set_aside:
            text += f" ({self.set_aside} set aside on request, not proven to be at fault)"
        if self.expired:
            text += f", expired {self.expired}"
        for name, one in self.settings.items():
            text += f", {name} {ARGUMENTS[name].in_words(one['value'])} ({one['from']})"
        return f"{text} ({self.error})" if self.error and self.remaining else text


class Stop:
    """Says when to stop: on a signal, at a deadline, or when there was no progress for long."""

    def __init__(self, timeout_s: float | None) -> None:
        """Begin the time that `timeout_s` counts; None means as long as there is progress."""
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._progress_at = time.monotonic()
        self.is_interrupted = False

    def install(self) -> None:
        """Stop on SIGINT and SIGTERM. The handler only sets a flag, which is looked at often enough."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.is_interrupted = True

    def progressed(self) -> None:
        """Start the patience anew."""
        self._progress_at = time.monotonic()

    def left_s(self) -> float:
        """Return the seconds that are left."""
        end = self._deadline if self._deadline is not None else self._progress_at + PATIENCE_S
        return end - time.monotonic()

    def is_due(self) -> bool:
        """Return whether to stop now."""
        return self.is_interrupted or self.left_s() <= 0


class Turn:
    """The time that one visit of a slot has: until it is over, or until everything is to stop."""

    def __init__(self, stop: Stop, seconds: float = math.inf, share_s: float = math.inf) -> None:
        """Begin it.

        Args:
            stop: when everything is to stop.
            seconds: how long it is.
            share_s: how much of that may go to waiting until the fate of refused events is clear.
        """
        self.share_s = share_s
        self._stop = stop
        self._end = time.monotonic() + seconds
        self.is_abandoned = False

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return min(self._end - time.monotonic(), self._stop.left_s())

    def is_due(self) -> bool:
        """Return whether it is over."""
        return self.is_abandoned or self._stop.is_interrupted or self.left_s() <= 0

    def wait(self, wait_s: float) -> bool:
        """Wait that long, but no longer than there is time. Return whether it is over."""
        until = time.monotonic() + wait_s
        while not self.is_due():
            left = min(until - time.monotonic(), self.left_s())
            if left <= 0:
                break
            time.sleep(min(left, _WATCH_S))
        return self.is_due()


class SlotDrain:
    """One slot's story: it is visited until it is empty, or until there is no time left.

    Attributes:
        place: where the queue is.
        address: the collector that its events are for, None before the first visit.
        has_answered: whether that collector took anything.
        is_over: whether another visit would change nothing.
        due_at: before when another visit would change nothing, in seconds of the monotonic clock.
        why: what kept it from becoming empty, None if nothing did so far.
    """

    def __init__(self, place: Place, args: argparse.Namespace) -> None:
        """Know of a queue, and visit it later."""
        self.place = place
        self.address: str | None = None
        self.has_answered = False
        self.is_over = False
        self.due_at = -math.inf
        self._args = args
        self._name = place.name
        self._before: Ledger | None = None
        self._after = Ledger()
        self._failure: Outcome | None = None
        self._told: dict[str, dict[str, Any]] = {}
        self.why: str | None = None
        self._set_aside = 0
        self._transport: HttpTransport | None = None
        self._thread: threading.Thread | None = None
        self._probed_until = math.inf

    def visit(self, turn: Turn, stop: Stop, troubled: Container[str], probe_s: float | None) -> None:
        """Deliver events for as long as the turn has time.

        In a thread of its own, which is left behind if it hangs in a call that nothing can interrupt, such as the
        resolving of a name.

        Args:
            turn: the time that there is.
            stop: told of progress.
            troubled: addresses that are not to be asked.
            probe_s: first see within so many seconds whether the collector answers, and leave at the first trouble.
        """
        over: queues.SimpleQueue[None] = queues.SimpleQueue()

        def act() -> None:
            try:
                self._visit(turn, stop, troubled, probe_s)
            finally:
                over.put(None)

        self._thread = threading.Thread(target=act, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can be started: then it is done here, and may hang
            self._thread = None
            act()
            return
        due_s = late_s = 0.0
        while due_s < 2 * GRACE_S and late_s < _LATE_S:
            with contextlib.suppress(queues.Empty):
                over.get(timeout=_WATCH_S)
                return
            # A turn that is over lets the request in flight end: the collector may be slow.
            due_s += _WATCH_S if stop.is_due() or time.monotonic() > self._probed_until else 0.0
            late_s += _WATCH_S if turn.is_due() else 0.0
            if due_s >= GRACE_S and self._transport is not None:
                self._transport.close()  # breaks off a request that goes on
        turn.is_abandoned = True
        self.why = "gave up: a request goes on that cannot be broken off, as in resolving the collector's name"

    def is_hung(self) -> bool:
        """Return whether a visit goes on that was left behind."""
        return self._thread is not None and self._thread.is_alive()

    def _visit(self, turn: Turn, stop: Stop, troubled: Container[str], probe_s: float | None) -> None:
        try:
            with self.place.take() as queue:
                self._drain(queue, turn, stop, troubled, probe_s)
        except SlotBusyError as exc:
            self._failed(Exit.BUSY, f"in use by process {exc.pid}: left to it")
        except ConfigurationError as exc:
            self._failed(Exit.USAGE, str(exc))
        except (QueueError, OSError) as exc:
            self._failed(Exit.UNREADABLE, str(exc))
        except Exception as exc:  # noqa: BLE001 - a defect: the other slots are not to suffer from it
            self._failed(Exit.UNREADABLE, f"{type(exc).__name__}: {exc}")

    def _failed(self, code: Exit, error: str) -> None:
        self.is_over = True
        self._failure = Outcome(slot=self._name, exit_code=code, error=error)

    def _drain(self, queue: Queue, turn: Turn, stop: Stop, troubled: Container[str], probe_s: float | None) -> None:
        self._after = queue.ledger()
        self._before = self._before or self._after
        if queue.is_empty():
            self.is_over = True
            return
        sender = sender_of(queue.settings)
        if sender is not None and not self._args.as_http:
            self.is_over = True
            self.why = f"to be sent by {sender}: left to an emitter that sends by it, or to --as-http"
            return
        endpoint = endpoint_of(queue.origin, self._name, self._args.to, self._args.method)
        self.address = endpoint.identity
        if self.address in troubled:
            return
        args = self._args
        settings = self._settings(queue, endpoint)
        if probe_s is not None and not self._answers(queue, endpoint, Turn(stop, probe_s), settings):
            return
        self._transport = _transport(endpoint, args, settings)
        delivery = _delivery(queue, self._transport, settings, endpoint, turn, stopping=turn.is_due)
        try:
            with Progress(self._before.pending, self.place.label, is_quiet=args.quiet or args.json) as progress:
                result = self._run(delivery, turn, stop, progress, give_up=probe_s is not None)
            if isinstance(queue, Shrinking):
                queue.shrink()
        finally:
            delivery.close()
            self._transport.close()
            self._transport = None
        self._after = queue.ledger()
        self.is_over = self._after.pending == self._after.locked
        self.due_at = (delivery.state.next_attempt_at or -math.inf) if result is Result.SUSPECTS else -math.inf
        self.why = "only a newer release can read them" if self.is_over else _why(result, delivery.state, stop)

    def _settings(self, queue: Queue, endpoint: Endpoint) -> DeliverySettings:
        """Return how to deliver: as the user says, else as the queue has it on record, else by default."""
        recorded = on_record(queue.settings, self._name)
        given = {name: getattr(self._args, name) for name in MIRRORED if hasattr(self._args, name)}
        settings = DeliverySettings(**{**recorded, **given})
        self._told = {
            name: {"value": value, "from": option_of(name) if name in given else "on record"}
            for name, value in (recorded | given).items()
            if value != ARGUMENTS[name].usual
        }
        return replace(settings, batch_size=1) if endpoint.method == "get" else settings

    def _answers(self, queue: Queue, endpoint: Endpoint, turn: Turn, settings: DeliverySettings) -> bool:
        """Return whether the collector takes or refuses a few events now."""
        probe_s = max(turn.left_s(), _PROBE_S_MIN)
        self._transport = _transport(endpoint, self._args, settings, probe_s)
        self._probed_until = time.monotonic() + probe_s
        few = replace(settings, batch_size=min(settings.batch_size, _PROBE_EVENTS), senders=1)
        state = DeliveryState()

        def note(news: DeliveryState) -> None:
            nonlocal state
            state = news

        delivery = _delivery(
            queue, self._transport, few, endpoint, turn, stopping=lambda: state.requests > 0 or turn.is_due()
        )
        try:
            delivery.run(give_up_on_trouble=True, progress=note)
        finally:
            self._probed_until = math.inf
            delivery.close()
            self._transport.close()
        self.why = f"gave up for now: {delivery.state.last_error or 'out of time'}"
        self.has_answered = delivery.state.requests > 0 and not delivery.state.consecutive_troubles
        self._after = queue.ledger()
        return self.has_answered

    def _run(self, delivery: Delivery, turn: Turn, stop: Stop, progress: Progress, *, give_up: bool) -> Result:
        delivered, earlier = 0, self._gone

        def show(state: DeliveryState) -> None:
            nonlocal delivered
            if state.delivered > delivered:
                delivered = state.delivered
                self.has_answered = True
                stop.progressed()
            progress.update(earlier + state.delivered + state.dead + state.expired)

        result = delivery.run(progress=show, give_up_on_trouble=give_up)
        # What tells whose fault a refusal is would be forgotten between two visits.
        patience_s = min(turn.share_s, turn.left_s())
        patience = Turn(stop, min(patience_s / 2, _VERDICT_S) if self._args.set_aside else patience_s)
        while result is Result.SUSPECTS and _is_worth_waiting_for(delivery.state, patience):
            result = delivery.run(progress=show, give_up_on_trouble=give_up)
        if result is Result.SUSPECTS and self._args.set_aside:
            self._set_aside += delivery.set_aside()
        self.has_answered = self.has_answered and result is not Result.TROUBLE
        return result

    @property
    def _gone(self) -> int:
        """How many events have left the queue so far."""
        before, after = self._before or self._after, self._after
        return before.pending - after.pending

    def outcome(self) -> Outcome:
        """Return what became of the slot."""
        if self._failure is not None:
            return self._failure
        before, after = self._before or self._after, self._after
        return Outcome(
            slot=self._name,
            exit_code=Exit.BACKLOG if after.pending or not self.is_over else Exit.EMPTY,
            delivered=after.delivered - before.delivered,
            dead=after.dead + after.discarded - before.dead - before.discarded,
            expired=after.expired - before.expired,
            set_aside=self._set_aside,
            remaining=after.pending,
            error=self.why if after.pending else None,
            settings=self._told,
        )


def drain_all(drains: Sequence[SlotDrain], stop: Stop, tell: Callable[[SlotDrain], object]) -> None:
    """Visit slots until they are empty: first whatever a collector takes, then the others, which share the time.

    A collector that does not answer is asked once, whatever the number of its slots, until all others are drained.

    Args:
        drains: the slots.
        stop: when to stop.
        tell: called with each slot that is over.
    """
    troubled: set[str] = set()
    for number, drain in enumerate(drains):
        share_s = stop.left_s() / (len(drains) - number + 1)
        drain.visit(Turn(stop, share_s=share_s), stop, troubled, min(_PROBE_S, max(share_s, _PROBE_S_MIN)))
        if drain.is_over:
            tell(drain)
        elif drain.address is not None and not drain.has_answered:
            troubled.add(drain.address)
    stop.progressed()
    left = [drain for drain in drains if not drain.is_over]
    while left and not stop.is_due():
        ready = [drain for drain in left if not drain.is_hung() and drain.due_at <= time.monotonic()]
        addresses = list(dict.fromkeys(drain.address for drain in ready))
        for number, address in enumerate(addresses):
            own = [drain for drain in ready if drain.address == address]
            share_s = stop.left_s() / (len(addresses) - number)
            _take_turns(own, stop, share_s if len(addresses) == 1 else min(share_s, _TURN_S), tell)
        left = [drain for drain in left if not drain.is_over]
        if not ready and not _is_worth_waiting(left, stop):
            break
    for drain in left:
        if stop.is_interrupted:
            drain.why = "stopped by a signal"
        tell(drain)


def _is_worth_waiting(left: Sequence[SlotDrain], stop: Stop) -> bool:
    """Wait a moment, until a slot can be visited. Return whether one can be in the time that is left."""
    due_at = min((-math.inf if drain.is_hung() else drain.due_at for drain in left), default=math.inf)
    if due_at - time.monotonic() >= stop.left_s():
        return False
    Turn(stop).wait(min(max(due_at - time.monotonic(), _PAUSE_S), _TURN_S))
    return True


def _take_turns(own: Sequence[SlotDrain], stop: Stop, seconds: float, tell: Callable[[SlotDrain], object]) -> None:
    """Visit the slots of one collector, as long as there is time."""
    end = time.monotonic() + seconds
    for drain in own:
        drain.visit(Turn(stop, end - time.monotonic()), stop, (), None)
        if drain.is_over:
            tell(drain)
        if time.monotonic() >= end or stop.is_due():
            break


def _is_worth_waiting_for(state: DeliveryState, turn: Turn) -> bool:
    """Wait until the next suspect is due. Return whether there was time for that."""
    left_s = (state.next_attempt_at or 0.0) - time.monotonic()
    return left_s < turn.left_s() and not turn.wait(left_s)


def _why(result: Result, state: DeliveryState, stop: Stop) -> str:
    if stop.is_interrupted:
        return "stopped by a signal"
    if result is Result.SUSPECTS:
        parked = f"{state.parked} of them are parked, since the dead letters are full; " if state.parked else ""
        last = f": {state.last_error}" if state.last_error else ""
        return f"{parked}the collector refused them, which is not proven to be their own fault{last}"
    return f"gave up for now: {state.last_error or 'out of time'}"


def _transport(
    endpoint: Endpoint, args: argparse.Namespace, settings: DeliverySettings, limit_s: float | None = None
) -> HttpTransport:
    return HttpTransport(
        endpoint.url,
        method=endpoint.method,
        headers=dict(args.header),
        connections=settings.senders,
        request_timeout=limit_s,
        deadline_s=limit_s,
    )


def _delivery(
    queue: Queue,
    transport: HttpTransport,
    settings: DeliverySettings,
    endpoint: Endpoint,
    turn: Turn,
    *,
    stopping: Callable[[], bool],
) -> Delivery:
    return Delivery(
        queue,
        transport,
        settings=settings,
        wait=turn.wait,
        stopping=stopping,
        hold=hold_of(endpoint.identity),
        about={"collector": endpoint.identity},
    )


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
    add_setting_options(parser, MIRRORED, "what each queue has on record")
    parser.add_argument(
        "--as-http",
        action="store_true",
        help="send over HTTP also what an emitter was to send in a way of its own; without it, that is left",
    )
    parser.add_argument(
        "--set-aside",
        action="store_true",
        help="if in the end only events are left that the collector refused one by one, move them to the dead letters,"
        " though it took no other one to prove that they are at fault. One that refuses many in a row is taken to be in"
        " trouble, and asked again after pauses: --max-retry-delay-seconds 1 makes them short",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Drain what `args` names. Return the exit code."""
    try:
        places = chosen_places(args)
    except ConfigurationError as exc:
        complain(f"drain: {exc}")
        return Exit.USAGE
    stop = Stop(args.timeout)
    stop.install()
    drains = [SlotDrain(place, args) for place in places]

    def tell(drain: SlotDrain) -> None:
        outcome = drain.outcome()
        if not args.json:
            say(outcome.line(), sys.stderr if outcome.remaining is None else sys.stdout)

    drain_all(drains, stop, tell)
    outcomes = [drain.outcome() for drain in drains]
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
    end_with_examples(parser, "drain")
    return printed("drain", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
