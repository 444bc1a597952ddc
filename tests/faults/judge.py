"""Says whether a store kept its promises.

`History` knows from the marks what was promised up to some moment; `observe` opens what a crash has left with the real
code and notes what is there; `problems` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from durable_tracker.engines.queue import FATES

from .log import Kind, Mode, Operation
from .program import number_of, payload

if TYPE_CHECKING:
    from pathlib import Path

    from durable_tracker.engines.queue import Ledger

    from .subjects import Store, Subject

SLACK_S = 0.4
"""What the interval sync may be late by on a loaded machine."""


@dataclass(slots=True)
class History:
    """What a program was promised, and when (in nanoseconds of the monotonic clock)."""

    tried: set[int] = field(default_factory=set)
    stored: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    acked: dict[int, int] = field(default_factory=dict)
    rejecting: set[int] = field(default_factory=set)
    rejected: dict[int, int] = field(default_factory=dict)
    requeuing: set[int] = field(default_factory=set)
    requeued: dict[int, int] = field(default_factory=dict)
    purging: set[int] = field(default_factory=set)
    purged: dict[int, int] = field(default_factory=dict)
    high_key: int = 0
    keys: dict[int, int] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unprovoked: list[str] = field(default_factory=list)
    is_opening: bool = False
    ended: bool = False
    version: int = 0
    _injected_since_try: bool = False
    _injected: int = 0

    def apply(self, operation: Operation) -> None:
        """Take note of a mark; ignores other operations, but for injected faults."""
        if operation.kind is Kind.INJECTED and operation.b in (Mode.FAIL, Mode.SHORT):
            self._injected_since_try = True
            self._injected += 1
        if operation.kind is not Kind.MARK:
            return
        self.version += 1
        what, _, rest = operation.first.decode().partition(" ")
        now = operation.time_ns
        if what == "try":
            self._injected_since_try = False
            self.tried.update(map(int, rest.split()))
        elif what == "ok":
            self.stored.update(dict.fromkeys(map(int, rest.split()), now))
        elif what == "sent":
            for pair in rest.split():
                key, number = map(int, pair.split(":"))
                self.sent[number] = now
                self.high_key = max(self.high_key, key)
                if self.keys.setdefault(key, number) != number:
                    self.reused.append(f"key {key} was given to event {self.keys[key]} and to event {number}")
        elif what == "acked":
            self.acked.update(dict.fromkeys(map(int, rest.split()), now))
        elif what == "rejecting":
            numbers = set(map(int, rest.split()))
            self.rejecting |= numbers
            self.requeuing -= numbers
            for number in numbers:
                self.rejected.pop(number, None)
                self.requeued.pop(number, None)
        elif what == "rejected":
            self.rejected.update(dict.fromkeys(map(int, rest.split()), now))
        elif what == "requeuing":
            self.requeuing.update(map(int, rest.split()))
        elif what == "requeued":
            self.requeued.update(dict.fromkeys(map(int, rest.split()), now))
        elif what == "purging":
            self.purging.update(map(int, rest.split()))
        elif what == "purged":
            self.purged.update(dict.fromkeys(map(int, rest.split()), now))
        elif what in ("err", "fail"):
            self.errors.append(rest)
            if not self._injected_since_try:
                self.unprovoked.append(f"{what} {rest}")
        elif what == "escaped":
            self.unprovoked.append(f"{what} {rest}")
        elif what == "open":
            self.is_opening = True
            self._injected_since_try = False
        elif what == "opened":
            self.is_opening = False
        elif what == "end":
            self.ended = True
        if what in ("ok", "acked", "rejected", "requeued", "purged"):
            self._injected_since_try = False

    @property
    def injected(self) -> int:
        """How many calls were made to fail."""
        return self._injected


def history_of(operations: list[Operation]) -> History:
    """Return the history at the end of a log."""
    history = History()
    for operation in operations:
        history.apply(operation)
    return history


@dataclass(frozen=True, slots=True)
class Observation:
    """What is in a store after a crash."""

    error: str | None = None
    numbers: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    altered: tuple[str, ...] = ()
    dead: bytes = b""
    ledger: Ledger | None = None
    high_key: int = 0


def _rows(store: Store) -> tuple[list[int], list[int], list[str]]:
    numbers, keys, altered = [], [], []
    after = 0
    while rows := store.peek(after, 500, 1 << 24):
        for row in rows:
            keys.append(row.key)
            try:
                numbers.append(number_of(row.payload))
            except ValueError as exc:
                altered.append(str(exc))
        after = rows[-1].key
    return numbers, keys, altered


def observe(subject: Subject, folder: Path, *, twice: bool = False) -> Observation:
    """Open a store with the real code, read everything, and close it.

    `twice`: do it again, and put an event meanwhile, so that what was recovered is seen to work and to stay.
    """
    try:
        store = subject.open(folder)
        try:
            numbers, keys, altered = _rows(store)
            ledger, high = store.ledger(), store.mark()
            if twice:
                store.put(payload(0))
        finally:
            store.close()
        if twice:
            store = subject.open(folder)
            try:
                again, keys_again, _ = _rows(store)
                if again != [*numbers, 0]:
                    altered.append("a second opening and a put gave other events")
                elif keys_again[-1] <= high:
                    altered.append(f"the key {keys_again[-1]} was given out again")
                store.ack(keys_again[-1:])
            finally:
                store.close()
        return Observation(
            numbers=tuple(numbers),
            keys=tuple(keys),
            altered=tuple(altered),
            dead=b"\n".join(subject.dead_values(folder)),
            ledger=ledger,
            high_key=high,
        )
    except Exception as exc:  # whatever it is: the store did not open
        return Observation(error=f"{type(exc).__name__}: {exc}")


def problems(history: History, seen: Observation, interval_s: float, cut_ns: int) -> list[str]:  # one per promise
    """Return every broken promise.

    Args:
        history: what was promised up to the crash.
        seen: what is there after it.
        interval_s: how far back a power loss may reach; 0 for not at all.
        cut_ns: the moment of the crash.
    """
    if seen.error is not None:
        if history.injected and not history.stored:
            return []  # its very creation failed; nothing was promised, and nothing is lost
        return [f"the store cannot be opened: {seen.error}"]
    found = list(seen.altered)
    present = set(seen.numbers)
    reach_ns = int((interval_s + SLACK_S) * 1e9) if interval_s else -1
    limit_ns = cut_ns - reach_ns

    def settled(moments: dict[int, int]) -> set[int]:
        return {number for number, moment in moments.items() if moment < limit_ns}

    found += history.reused if not interval_s else []
    required = settled(history.stored) - set(history.sent) - history.rejecting - history.purging
    lost = required - present
    if lost:
        found.append(f"lost: {_some(lost)}")
    buried = {number for number in history.rejecting if payload(number) in seen.dead}
    found += [
        f"rejected event {number} is {'twice' if number in present else 'nowhere'}"
        for number in settled(history.stored) & history.rejecting - set(history.sent) - history.purging
        if (number in buried) == (number in present)
    ]
    found += [
        f"rejected event {number} is not among the dead letters"
        for number in settled(history.rejected) - buried - history.requeuing - history.purging
    ]
    found += [
        f"requeued event {number} is not pending"
        for number in settled(history.requeued) - present - set(history.sent) - history.purging
    ]
    buried |= {number for number in history.purging if payload(number) in seen.dead}
    gone = history.purging - present - buried
    back = settled(history.purged) & (present | buried)
    if back:
        found.append(f"back after a purge returned: {_some(back)}")
    if len(present) != len(seen.numbers):
        found.append("an event is stored twice")
    invented = present - history.tried
    if invented:
        found.append(f"never put: {_some(invented)}")
    undone = settled(history.acked) & present
    if undone:
        found.append(f"back after ack() returned: {_some(undone)}")
    if list(seen.keys) != sorted(set(seen.keys)):
        found.append("the keys do not rise")
    if not interval_s and seen.high_key < history.high_key:
        found.append(f"the highest key went back from {history.high_key} to {seen.high_key}")
    if seen.ledger is not None:
        found += _ledger_problems(
            history,
            seen,
            seen.ledger,
            accepted_min=len(settled(history.stored)),
            delivered_min=len(settled(history.acked)),
            # One whose purge failed, or was cut short, may have been delivered since.
            purged_min=len((settled(history.purged) if interval_s else gone) - set(history.sent)),
            purged_max=len(gone),
        )
    return found


def _ledger_problems(
    history: History,
    seen: Observation,
    ledger: Ledger,
    *,
    accepted_min: int,
    delivered_min: int,
    purged_min: int,
    purged_max: int,
) -> list[str]:
    found = []
    if not ledger.adds_up:
        found.append(f"the ledger does not add up: {ledger}")
    if ledger.pending != len(seen.numbers):
        found.append(f"the ledger says {ledger.pending} pending, there are {len(seen.numbers)}")
    if not accepted_min <= ledger.accepted <= len(history.tried):
        found.append(f"accepted {ledger.accepted}, but {accepted_min} to {len(history.tried)} were put")
    if not delivered_min <= ledger.delivered <= len(history.sent):
        found.append(f"delivered {ledger.delivered}, but {delivered_min} to {len(history.sent)} were")
    if not purged_min <= ledger.purged <= purged_max:
        found.append(f"purged {ledger.purged}, but {purged_min} to {purged_max} were")
    if any(getattr(ledger, fate) for fate in FATES if fate not in ("delivered", "dead", "purged")):
        found.append(f"events went where none was sent: {ledger}")
    return found


def _some(numbers: set[int]) -> str:
    listed = sorted(numbers)
    return f"{len(listed)} events ({', '.join(map(str, listed[:5]))}{', …' if len(listed) > 5 else ''})"
