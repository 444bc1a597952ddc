"""The ledger: one equation, one table of columns, on each engine."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durable_tracker.engines import queue as seam
from durable_tracker.engines.memory import MemoryEngine
from durable_tracker.engines.queue import FATES, INVALID_MAX, WITHIN, Ledger
from durable_tracker.engines.sqlite import dead_letters
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durable_tracker.engines.queue import Queue

    Reopen = Callable[[], Queue]


@pytest.fixture(params=["sqlite", "memory"])
def reopen(request: pytest.FixtureRequest, slot_dir: Path, tmp_path: Path) -> Iterator[Reopen]:
    """Returns the queue as another process finds it; what was open before is closed."""
    engine = MemoryEngine(tmp_path.name)
    with contextlib.ExitStack() as stack:

        def opened() -> Queue:
            stack.close()
            queue: Queue = engine.queue("shop")
            if request.param == "sqlite":
                queue = SqliteQueue.take(Slot(slot_dir, 0))
            return stack.enter_context(queue)

        yield opened


def payload(number: int) -> bytes:
    return b'{"e":"pv","n":"%d"}' % number


def test_each_event_is_in_one_column(reopen: Reopen) -> None:
    """Whatever becomes of it, the columns add up to what was accepted, and are the same for who comes next."""
    queue = reopen()
    expected = Ledger()

    def counted(**more: int) -> None:
        nonlocal expected
        expected = replace(expected, **{name: getattr(expected, name) + n for name, n in more.items()})
        assert queue.ledger() == expected
        assert queue.ledger().adds_up

    counted()
    queue.put(payload(1))
    queue.put_many([payload(n) for n in range(2, 21)])
    counted(accepted=20, pending=20)
    rows = queue.peek(0, 12, 1 << 20)
    assert list(queue.hold([row.key for row in rows])) == [row.key for row in rows]
    queue.ack([row.key for row in rows[:5]])
    queue.ack([row.key for row in rows[:5]])
    counted(pending=-5, delivered=5)
    queue.reject([rows[5].key, rows[6].key], 400, "no")
    counted(pending=-2, dead=2)
    queue.expire([rows[7].key])
    counted(pending=-1, expired=1)
    queue.settle()
    queue.release(0)
    queue.put_invalid(payload(99), "n: is no number")
    counted(accepted=1, dead=1, invalid=1)
    assert isinstance(queue, seam.Evicting)
    evicted = queue.evict(1)
    counted(pending=-evicted, evicted=evicted)
    assert evicted >= 1
    keys = {letter.kind: letter.key for letter in queue.dead_letters()}
    assert queue.requeue([keys["refused"]]) == 1
    counted(dead=-1, pending=1)
    assert queue.requeue([keys["invalid"]]) == 1
    counted(dead=-1, invalid=-1, pending=1)
    queue = reopen()
    assert queue.ledger() == expected


def test_a_dead_letter_says_what_it_is_and_how_often_it_came_back(reopen: Reopen) -> None:
    """Also to the next process, and whoever refused it."""
    queue = reopen()
    queue.put(payload(1))
    queue.put_invalid(payload(2), "n: is no number")
    for replays in range(3):
        (row,) = queue.peek(0, 10, 1 << 20)
        queue.reject([row.key], 400 + replays, "no")
        queue = reopen()
        invalid, letter = sorted(queue.dead_letters(), key=lambda letter: letter.kind)
        assert (letter.kind, letter.status, letter.replays, letter.payload) == (
            "refused",
            400 + replays,
            replays,
            payload(1),
        )
        assert (invalid.kind, invalid.status, invalid.reason) == ("invalid", None, "n: is no number")
        assert queue.requeue([letter.key]) == 1
        queue = reopen()


def test_what_the_tracker_refuses_never_displaces_what_the_collector_refused(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of its own make room, counted; dead letters of both kinds have bounds of their own."""
    monkeypatch.setattr(seam, "INVALID_MAX", 300)
    monkeypatch.setattr(dead_letters, "INVALID_MAX", 300)
    monkeypatch.setattr("durable_tracker.engines.memory.INVALID_MAX", 300)
    queue = reopen()
    queue.put(payload(1))
    queue.reject([row.key for row in queue.peek(0, 1, 1)], 400, "no")
    for number in range(2, 1002):
        queue.put_invalid(payload(number), "no")
    ledger = queue.ledger()
    assert ledger.adds_up
    assert (ledger.accepted, ledger.dead - ledger.invalid, ledger.discarded) == (1001, 1, 1000 - ledger.invalid)
    assert 200 <= ledger.invalid <= 300
    letters = queue.dead_letters(1000)
    assert [letter.payload for letter in letters] == [
        payload(1),
        *(payload(n) for n in range(1002 - ledger.invalid, 1002)),
    ]


def test_a_letter_that_is_put_amid_a_put_takes_no_key_from_it(slot_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal handler does, between the choice of a key and its use; of events and of letters."""
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        insert, transaction = queue._connection.insert_one, queue._books.transaction
        amid: list[bytes] = []

        def interrupted_insert(key: int, value: bytes) -> None:
            if not amid:
                amid.append(value)
                queue.put_invalid(payload(7), "no")
                amid.clear()
            insert(key, value)

        def interrupted_transaction(statements: str, *args: int, **more: int) -> None:
            if "dead_letters" in statements and not amid:
                amid.append(b"")  # once for each
                queue.put_invalid(payload(8), "no")
                queue.put(payload(9))
            transaction(statements, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(queue._connection, "insert_one", interrupted_insert)
        for number in range(5):
            queue.put(payload(number))
        assert queue.ledger() == Ledger(accepted=10, pending=5, dead=5, invalid=5)
        monkeypatch.setattr(queue._books, "transaction", interrupted_transaction)
        for _ in range(5):
            amid.clear()
            queue.put_invalid(payload(7), "no")
        expected = Ledger(accepted=25, pending=10, dead=15, invalid=15)
        assert queue.ledger() == expected
        assert expected.adds_up
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        assert queue.ledger() == expected
        assert len(queue.peek(0, 100, 1 << 20)) == 10
        assert len(queue.dead_letters(100)) == 15
        assert queue.requeue([letter.key for letter in queue.dead_letters(100)]) == 15
        assert queue.ledger() == Ledger(accepted=25, pending=25)


def test_letters_of_the_trackers_own_are_bounded_in_bytes(slot_dir: Path) -> None:
    """A small queue keeps fewer, and goes on taking events."""
    with SqliteQueue.take(Slot(slot_dir, 0), max_queue_bytes=4 << 20) as queue:
        for number in range(200):
            queue.put_invalid(b'{"n":"%d","x":"%s"}' % (number, b"x" * 60_000), "no")
            queue.put(payload(number))
        ledger = queue.ledger()
        assert (ledger.pending, ledger.invalid + ledger.discarded) == (200, 200)
        assert 2 <= ledger.invalid <= 8
        assert ledger.adds_up


def test_the_counts_of_the_trackers_own_letters_survive_a_damaged_file(slot_dir: Path) -> None:
    """They are counted anew from the letters that are intact."""
    slot = Slot(slot_dir, 0)
    with SqliteQueue.take(slot) as queue:
        for number in range(50):
            queue.put_invalid(payload(number), "no")
            queue.put(payload(number))
        queue.reject([queue.peek(0, 1, 1)[0].key], 400, "no")
    content = bytearray(slot.database.read_bytes())
    content[4096 * 4 : 4096 * 4 + 8] = bytes(8)  # the root of `meta`, where the counts are
    slot.database.write_bytes(bytes(content))
    with SqliteQueue.take(slot) as queue:
        queue.take_over_all()
        ledger = queue.ledger()
        assert (ledger.dead, ledger.invalid, ledger.pending) == (51, 50, 49)
        assert ledger.adds_up


def test_the_columns_are_one_table() -> None:
    """Every column is what was accepted, what waits, a fate, or says more of one of these; each is explained."""
    names = {field.name for field in fields(Ledger)}
    assert names == {"accepted", "pending", *FATES, *WITHIN}
    assert set(WITHIN.values()) <= names
    assert all(f"\n    {name}: " in inspect.cleandoc(Ledger.__doc__ or "") for name in names)
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    equation = "accepted = " + " + ".join(["delivered", "pending", *(fate for fate in FATES if fate != "delivered")])
    assert equation in " ".join(readme.split())
    assert INVALID_MAX == 10_000
    assert not Ledger(accepted=1).adds_up
    assert not Ledger(accepted=1, pending=1, held=1, parked=1).adds_up
    assert Ledger(**asdict(Ledger(accepted=2, missing=1, pending=1, held=1))).adds_up
