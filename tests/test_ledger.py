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


def test_what_is_purged_is_counted_and_gone(reopen: Reopen) -> None:
    """Pending events and dead letters of either kind; what is not there is passed by, and nothing counts twice."""
    queue = reopen()
    queue.put_many([payload(n) for n in range(1, 21)])
    rows = queue.peek(0, 20, 1 << 20)
    queue.reject([rows[0].key, rows[1].key, rows[2].key], 400, "no")
    queue.put_invalid(payload(98), "n: is no number")
    queue.put_invalid(payload(99), "n: is no number")
    refused = [letter.key for letter in queue.dead_letters() if letter.kind == "refused"]
    invalid = [letter.key for letter in queue.dead_letters() if letter.kind == "invalid"]
    expected = Ledger(accepted=22, pending=17, dead=5, invalid=2)
    assert queue.ledger() == expected
    assert queue.purge([rows[5].key, rows[3].key, rows[3].key, 10**9]) == 2
    expected = replace(expected, pending=15, purged=2)
    assert queue.ledger() == expected
    assert queue.purge([rows[3].key, rows[0].key]) == 0
    assert queue.purge([]) == queue.purge_dead_letters([]) == 0
    assert queue.purge_dead_letters([refused[0], invalid[1], refused[0], 10**9]) == 2
    expected = replace(expected, dead=3, invalid=1, purged=4)
    assert queue.ledger() == expected
    assert queue.purge_dead_letters([refused[0]]) == 0
    assert queue.requeue([refused[0]]) == 0
    assert queue.requeue([refused[1]]) == 1
    expected = replace(expected, dead=2, pending=16)
    assert queue.ledger() == expected
    assert expected.adds_up
    queue = reopen()
    assert queue.ledger() == expected
    left = [payload(n) for n in (5, *range(7, 21), 2)]
    assert [row.payload for row in queue.peek(0, 100, 1 << 20)] == left
    letters = sorted(letter.payload for letter in queue.dead_letters())
    assert letters == [payload(3), payload(98)]


def test_what_is_on_the_wire_is_not_purged(reopen: Reopen) -> None:
    """The collector may have it by now: it is purged once that is known not to be."""
    queue = reopen()
    queue.put_many([payload(n) for n in range(6)])
    keys = [row.key for row in queue.peek(0, 6, 1 << 20)]
    assert list(queue.hold(keys[:3])) == keys[:3]
    assert queue.purge(keys[2:4]) == 1
    assert list(queue.hold(keys[3:5])) == keys[4:5]
    queue.ack(keys[:1])
    queue.settle()
    assert queue.purge(keys) == 4
    assert queue.ledger() == Ledger(accepted=6, delivered=1, purged=5)
    assert queue.is_empty()


def test_what_another_consumer_holds_is_not_purged() -> None:
    """Nor what it was given after this one's lease ended."""
    now_s = 0.0
    engine = MemoryEngine("held", lease_s=10, monotonic=lambda: now_s)
    with engine.queue("shop") as queue, engine.queue("shop") as other:
        queue.put_many([payload(n) for n in range(4)])
        theirs = other.peek(0, 2, 1 << 20)
        ours = queue.peek(0, 4, 1 << 20)
        assert queue.purge([row.key for row in [*theirs, *ours][2:3]]) == 1
        now_s = 11.0
        assert len(other.peek(theirs[-1].key, 4, 1 << 20)) == 3
        assert queue.purge([row.key for row in ours]) == 0
        assert queue.ledger() == Ledger(accepted=4, pending=3, purged=1, held=3)


def test_an_edited_letter_goes_back_as_it_was_edited(reopen: Reopen) -> None:
    """The others as they were; each counts as one that came back."""
    queue = reopen()
    queue.put_many([payload(n) for n in range(3)])
    queue.reject([row.key for row in queue.peek(0, 3, 1 << 20)], 400, "no")
    keys = [letter.key for letter in queue.dead_letters()]
    assert queue.requeue(keys, {keys[1]: payload(77), 10**9: payload(5)}) == 3
    queue = reopen()
    rows = queue.peek(0, 3, 1 << 20)
    assert [row.payload for row in rows] == [payload(0), payload(77), payload(2)]
    assert queue.ledger() == Ledger(accepted=3, pending=3)
    queue.reject([rows[1].key], 400, "no")
    (letter,) = queue.dead_letters()
    assert (letter.replays, letter.payload) == (1, payload(77))


def test_rows_that_were_delivered_are_not_purged(slot_dir: Path) -> None:
    """Though they still stand below the mark."""
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        queue.put_many([payload(n) for n in range(400)])
        keys = [row.key for row in queue.peek(0, 400, 1 << 20)]
        queue.ack(keys[:100])
        assert queue._books.acked == 100
        assert queue.purge(keys[50:150]) == 50
        assert queue.ledger() == Ledger(accepted=400, pending=250, delivered=100, purged=50)
        queue.put(payload(400))
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        assert [row.key for row in queue.peek(0, 400, 1 << 20)] == [*range(151, 402)]
        assert queue.purge(range(1, 500)) == 251
        assert queue.ledger() == Ledger(accepted=401, delivered=100, purged=301)
        assert queue.peek(0, 1, 1) == []
        queue.put(payload(401))
        assert [row.key for row in queue.peek(0, 1, 1)] == [402]


def test_a_damaged_row_is_purged_from_among_the_dead_letters(slot_dir: Path) -> None:
    """By its negative key; it is then no more counted as damaged, nor are its bytes."""
    slot = Slot(slot_dir, 0)
    with SqliteQueue.take(slot) as queue:
        queue.put_many([payload(n) for n in range(40)])
    content = slot.database.read_bytes()
    slot.database.write_bytes(content.replace(payload(7), payload(8)))
    with SqliteQueue.take(slot) as queue:
        assert len(queue.peek(0, 100, 1 << 20)) == 39
        assert queue.ledger() == Ledger(accepted=40, pending=39, damaged=1)
        (letter,) = queue.dead_letters(after=-100)
        assert queue.requeue([letter.key]) == 0
        assert queue.purge_dead_letters([letter.key, -1000]) == 1
        assert queue.ledger() == Ledger(accepted=40, pending=39, purged=1)
        assert queue.dead_letters(after=-100) == []
        assert queue._books.counts["dead_size"] == 0


def test_a_letter_that_comes_amid_a_purge_of_letters_changes_no_count(
    slot_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler puts one, which makes room by discarding the oldest: those that were to be purged."""
    monkeypatch.setattr(dead_letters, "INVALID_MAX", 10)
    monkeypatch.setattr(dead_letters, "_DISCARDED_AT_ONCE", 5)
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        for number in range(10):
            queue.put_invalid(payload(number), "no")
        transaction, amid = queue._books.transaction, [0]

        def interrupted(statements: str, *args: int, **more: int) -> None:
            if amid:
                amid.clear()
                queue.put_invalid(payload(11), "no")
                queue.put(payload(12))
            transaction(statements, *args, **more)  # type: ignore[arg-type]

        keys = [letter.key for letter in queue.dead_letters()]
        monkeypatch.setattr(queue._books, "transaction", interrupted)
        assert queue.purge_dead_letters(keys[:8]) == 3
        assert queue.ledger() == Ledger(accepted=12, pending=1, dead=3, invalid=3, discarded=5, purged=3)
        assert len(queue.dead_letters()) == 3
        sizes = sum(len(row[1]) for row in queue.rows_above("dead_letters", 0, 100))
        assert queue._books.counts["invalid_size"] == queue._books.counts["dead_size"] == sizes


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
