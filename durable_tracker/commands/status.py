"""`status`: what is in each queue, whoever owns it. It takes no lock, writes nothing and mends nothing."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.commands.options import add_slot_options, count, option_of, places_to_look_at, seconds
from durable_tracker.commands.output import complain, hand_out, json_line
from durable_tracker.control import client
from durable_tracker.control.address import directory_of, queue_id
from durable_tracker.engines.queue import FATES
from durable_tracker.errors import ConfigurationError, QueueError
from durable_tracker.protocol.endpoint import Endpoint
from durable_tracker.runtime.stats import age_s

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from durable_tracker.engines.engine import Place, View

    Rate = tuple[float | None, float | None]
    """Events that came and went, a second; None where that is not known."""

DESCRIPTION = """What is in each queue, and what its owner is doing: also one that hangs, which then does not answer.

Nothing is written, and nothing is mended: what cannot be read is named, with exit code 4.
"""
EXIT_CODES = "exit codes: 0 done, 2 nothing is there, 4 a queue is unreadable; with --check 0 OK, 2 CRITICAL, 3 UNKNOWN"
JSON_VERSION: Final = 1
_WATCH_S: Final = 2.0
_CRITICAL: Final = 2
_UNKNOWN: Final = 3
_KIB: Final = 1024
_MINUTE_S: Final = 60
_RATE_S: Final = 0.5
"""Between the two looks that tell what comes and goes a second, where there is an owner."""
_TEXT_SIZE_MAX: Final = 60
_HEADS: Final = (
    "QUEUE", "PENDING", "OLDEST", "BYTES", "QUOTA", "IN/S", "OUT/S", "DEAD", "STATE", "OWNER", "COLLECTOR",
    "LAST ERROR",
)  # fmt: skip
_NUMBERS: Final = {"PENDING", "OLDEST", "BYTES", "QUOTA", "DEAD", "IN/S", "OUT/S"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one queue.

    Attributes:
        place: where it is.
        view: what its books say, None if they cannot be read, for the reason in `error`.
        owner: the process that has it open, None if none has.
        error: what is wrong with it.
        told: what its owner says, None if there is none, or it does not answer; see `Opened.told`.
        silence: why the owner does not answer.
    """

    place: Place
    view: View | None
    owner: int | None
    error: str | None = None
    told: Mapping[str, Any] | None = None
    silence: str | None = None

    @property
    def oldest_age_s(self) -> float | None:
        """Seconds since the oldest pending event was tracked, None if none is, or it has no time."""
        return age_s(self.view.oldest) if self.view is not None else None

    @property
    def collector(self) -> str | None:
        """Where its events are to go, None if nothing is on record."""
        address = Endpoint.on_record(self.view.origin) if self.view is not None else None
        return None if address is None else address.identity

    def report(self) -> dict[str, Any]:
        """Return it as it stands in the JSON."""
        view = self.view
        return {
            "queue": self.place.name,
            "error": self.error,
            "owner": None if self.owner is None else {"pid": self.owner, "command": command_of(self.owner)},
            "collector": self.collector,
            "origin": None if view is None else dict(view.origin),
            "ledger": None if view is None else asdict(view.ledger),
            "oldest_age_s": None if self.oldest_age_s is None else round(self.oldest_age_s, 3),
            "used_bytes": None if view is None else view.used_bytes,
            "told": None if self.told is None else dict(self.told),
            "silence": self.silence,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_slot_options(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--json", action="store_true", help=f"one object: version ({JSON_VERSION}), queues, totals; counts of events"
    )
    how.add_argument(
        "--watch", type=seconds, nargs="?", const=_WATCH_S, metavar="S", help="again every S seconds (default: 2)"
    )
    how.add_argument("--check", action="store_true", help="one line and an exit code for a monitor")
    parser.add_argument("--max-age", type=seconds, metavar="S", help="of the oldest pending event, for --check")
    parser.add_argument("--max-pending", type=_number, metavar="N", help="pending events, for --check")
    parser.add_argument("--max-dead", type=_number, metavar="N", help="dead letters, for --check")


def _number(text: str) -> int:
    return 0 if text == "0" else count(text)


def run(args: argparse.Namespace) -> int:
    """Look, and say what was seen."""
    bounds = [name for name in ("max_age", "max_pending", "max_dead") if getattr(args, name) is not None]
    if bounds and not args.check:
        complain(f"status: {option_of(bounds[0])} is a bound for --check, which is missing")
        return Exit.USAGE
    try:
        places = places_to_look_at(args)
    except ConfigurationError as exc:
        return _nothing(str(exc), args)
    if args.check:
        return _check(look_at(places, asks=False), args)
    if args.watch is not None:
        return _watch(places, max(args.watch, 0.1))
    seen, rates = _looked_at_twice(places)
    if args.json:
        queues = [
            one.report() | {"in_per_s": came, "out_per_s": went} for one, (came, went) in zip(seen, rates, strict=True)
        ]
        hand_out(json_line({"version": JSON_VERSION, "queues": queues, "totals": totals(seen)}))
    else:
        hand_out(table(seen, rates))
    for one in seen:
        if one.error is not None:
            complain(f"{one.place.name}: {one.error}")
    return Exit.UNREADABLE if any(one.error is not None for one in seen) else Exit.EMPTY


def _nothing(reason: str, args: argparse.Namespace) -> int:
    if args.check:
        hand_out(f"DURABLE_TRACKER UNKNOWN - {reason}")
        return _UNKNOWN
    complain(reason)
    return Exit.USAGE


def look_at(places: Sequence[Place], *, asks: bool = True) -> list[Seen]:
    """Look into queues, one after another, and ask their owners, if that is wanted: one that hangs takes its time."""
    seen = []
    for place in places:
        try:
            with place.look() as onlooker:
                view, error = onlooker.books(), None
                if view.waiting:
                    error = f"events wait in {', '.join(view.waiting)}: to open the queue brings them back"
        except QueueError as exc:
            view, error = None, str(exc)
        seen.append(Seen(place, view, place.owner(), error))
    return _with_owners(seen) if asks else seen


def _with_owners(seen: Sequence[Seen]) -> list[Seen]:
    """Ask the owners, each once, whatever the number of its queues."""
    answers = {
        directory: client.stats_in(directory)
        for directory in {directory_of(one.place.path) for one in seen if one.owner is not None and one.place.path}
    }
    asked = []
    for one in seen:
        if one.owner is None or one.place.path is None:
            asked.append(one)
            continue
        told, silences = answers[directory_of(one.place.path)]
        own = told.get(queue_id(one.place.path))
        silence = None if own is not None else silences.get(one.owner, "it has no control socket")
        asked.append(replace(one, told=own, silence=silence))
    return asked


def _looked_at_twice(places: Sequence[Place]) -> tuple[list[Seen], list[Rate]]:
    """Look, and look again a moment later where there are owners, for what comes and goes."""
    before, at_s = look_at(places, asks=False), time.monotonic()
    if all(one.owner is None for one in before):
        return before, [(None, None)] * len(before)
    time.sleep(_RATE_S)
    seen, now_s = look_at(places, asks=False), time.monotonic()
    rates = [_rates(old, new, now_s - at_s) for old, new in zip(before, seen, strict=True)]
    return _with_owners(seen), rates


def totals(seen: Sequence[Seen]) -> dict[str, Any]:
    """Return the sums over what could be read, and the age of the oldest event of all."""
    views = [one.view for one in seen if one.view is not None]
    ledgers = [asdict(view.ledger) for view in views]
    sums: dict[str, Any] = {name: sum(ledger[name] for ledger in ledgers) for name in (ledgers[0] if ledgers else ())}
    ages = [age for one in seen if (age := one.oldest_age_s) is not None]
    return {
        "queues": len(seen),
        "unreadable": len(seen) - len(views),
        "ledger": sums,
        "oldest_age_s": round(max(ages), 3) if ages else None,
        "used_bytes": sum(view.used_bytes for view in views),
    }


def table(seen: Sequence[Seen], rates: Sequence[Rate]) -> str:
    """Return what was seen as aligned lines, and a line of sums."""
    heads = list(_HEADS)
    rows = [_row(one, rate) for one, rate in zip(seen, rates, strict=True)]
    sums = totals(seen)
    ledger = sums["ledger"]
    total = [
        f"{len(seen)} queues" if len(seen) != 1 else "1 queue",
        f"{ledger.get('pending', 0):,}",
        duration(sums["oldest_age_s"]),
        _size(sums["used_bytes"]),
        "",
        *(_rate(_sum(rate[at] for rate in rates)) for at in (0, 1)),
        f"{ledger.get('dead', 0):,}",
        *[""] * 4,
    ]
    lines = [heads, *rows, total]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if head in _NUMBERS else text.ljust(width)
            for text, width, head in zip(line, widths, heads, strict=True)
        ).rstrip()
        for line in lines
    )


def _row(one: Seen, rate: Rate) -> list[str]:
    owner = "-" if one.owner is None else f"{one.owner} {command_of(one.owner)}".strip()[:40]
    told = one.told or {}
    state = "-" if one.owner is None else "does not answer"
    if told:
        state = f"{told['state'].replace('_', ' ')}, {duration(told['since_s'])}"
    problem = str(one.silence or (told.get("last_error") if told.get("consecutive_troubles") else None) or "-")
    last = [state, owner, one.collector or "-", problem[:_TEXT_SIZE_MAX]]
    if one.view is None:
        return [one.place.label, *"?" * 7, state, owner, "unreadable", problem[:_TEXT_SIZE_MAX]]
    ledger = one.view.ledger
    quota = told.get("max_queue_bytes")
    return [
        one.place.label,
        f"{ledger.pending:,}",
        duration(one.oldest_age_s),
        _size(one.view.used_bytes),
        f"{one.view.used_bytes / quota:.0%}" if quota else "-",
        _rate(rate[0]),
        _rate(rate[1]),
        f"{ledger.dead:,}",
        *last,
    ]


def _sum(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _rate(events_per_s: float | None) -> str:
    return "-" if events_per_s is None else f"{events_per_s:,.1f}"


def _watch(places: Sequence[Place], every_s: float) -> int:
    """Show it again and again, with what came and went in between, until interrupted."""
    clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
    try:
        before, at_s = look_at(places), time.monotonic()
        hand_out(clear + table(before, [(None, None)] * len(before)))
        while True:
            time.sleep(every_s)
            seen, now_s = look_at(places), time.monotonic()
            rates = [_rates(old, new, now_s - at_s) for old, new in zip(before, seen, strict=True)]
            hand_out(clear + table(seen, rates))
            before, at_s = seen, now_s
    except KeyboardInterrupt:
        return Exit.EMPTY


def _rates(old: Seen, new: Seen, seconds_between: float) -> Rate:
    """Return how many events came and went a second."""
    if old.view is None or new.view is None:
        return None, None
    before, after = asdict(old.view.ledger), asdict(new.view.ledger)
    came = after["accepted"] - before["accepted"]
    went = sum(after[fate] - before[fate] for fate in FATES)
    return round(came / seconds_between, 1), round(went / seconds_between, 1)


def _check(seen: Sequence[Seen], args: argparse.Namespace) -> int:
    """Say whether all is within its bounds, in the form of monitoring plugins (https://nagios-plugins.org/doc/)."""
    sums = totals(seen)
    pending, dead = sums["ledger"].get("pending", 0), sums["ledger"].get("dead", 0)
    age_s = sums["oldest_age_s"] or 0.0
    problems = [f"{one.place.name} is unreadable: {one.error}" for one in seen if one.error is not None]
    code, word = (_UNKNOWN, "UNKNOWN") if problems else (0, "OK")
    for name, value, most in (
        ("oldest is {} s old", round(age_s), args.max_age),
        ("{} are pending", pending, args.max_pending),
        ("{} are dead", dead, args.max_dead),
    ):
        if most is not None and value > most:
            problems.append(f"{name.format(f'{value:,}')}, more than {most:,g}")
            code, word = _CRITICAL, "CRITICAL"
    said = "; ".join(problems) or f"{pending:,} pending, oldest {duration(sums['oldest_age_s'])}, {dead:,} dead"
    bounds = [json.dumps(most) if most is not None else "" for most in (args.max_pending, args.max_age, args.max_dead)]
    figures = f"pending={pending};;{bounds[0]} oldest={age_s:.0f}s;;{bounds[1]} dead={dead};;{bounds[2]}"
    hand_out(f"DURABLE_TRACKER {word} - {' '.join(said.split()).replace('|', '/')} | {figures}")
    return code


def command_of(pid: int) -> str:
    """Return the command line of a process, empty if it is not known."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return " ".join(content.decode("utf-8", "backslashreplace").split("\0")).strip()[:200]


def duration(seconds_: float | None) -> str:
    """Return a number of seconds for people, "-" for None."""
    if seconds_ is None:
        return "-"
    for size, unit in ((24 * 60 * _MINUTE_S, "d"), (60 * _MINUTE_S, "h"), (_MINUTE_S, "min")):
        if seconds_ >= 2 * size:
            return f"{seconds_ / size:.0f} {unit}"
    return f"{seconds_:.0f} s"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _KIB or unit == "GiB":
            break
        size /= _KIB
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
