"""The queue on disk: what it stores, counts, refuses and gives back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import events_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable_tracker.engines.queue import ForkedError, Ledger
from durable_tracker.engines.sqlite import books, dead_letters, restore, salvage, sweep
from durable_tracker.engines.sqlite import connection as connection_module
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.errors import (
    DamagedQueueError,
    DeadLettersFullError,
    QueueClosedError,
    QueueFullError,
    SlotBusyError,
    StorageError,
    UnknownFormatError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    OpenQueue = Callable[..., SqliteQueue]

EVENT = b'{"e":"pv","n":"%06d"}'


def events(first: int, count: int) -> list[bytes]:
    return [EVENT % n for n in range(first, first + count)]


def payloads(queue: SqliteQueue) -> list[bytes]:
    return [row.payload for row in queue.peek(0, 1_000_000, 1 << 30)]


def keys(queue: SqliteQueue) -> list[int]:
    return [row.key for row in queue.peek(0, 1_000_000, 1 << 30)]


def assert_ledger_matches_rows(queue: SqliteQueue) -> None:
    """Compare the counts with an independent count of the rows."""
    ledger = queue.ledger()
    assert ledger.pending == sum(key > queue._books.acked for key in queue.events)
    assert ledger.dead == len(queue.dead_letters(1_000_000))
    assert ledger.adds_up, ledger


# ── put and peek ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_events_come_back_in_the_order_they_were_put(open_queue: OpenQueue) -> None:
    """Single and bulk puts share one order, and the bytes are what was put."""
    queue = open_queue()
    for event in events(0, 3):
        queue.put(event)
    queue.put_many(events(3, 700))
    assert payloads(queue) == events(0, 703)
    assert keys(queue) == list(range(1, 704))


def test_events_survive_closing_and_opening(open_queue: OpenQueue) -> None:
    """What was put is there for the slot's next owner, with the counts."""
    queue = open_queue()
    queue.put_many(events(0, 10))
    queue.ack([1, 2, 3])
    queue.close()
    again = open_queue()
    assert payloads(again) == events(3, 7)
    assert again.ledger() == Ledger(accepted=10, delivered=3, pending=7)


def test_peek_is_bounded_by_count_and_by_bytes(open_queue: OpenQueue) -> None:
    """The bound on bytes is never exceeded, except by a first row that is larger than it."""
    queue = open_queue()
    queue.put_many([b"a" * 100, b"b" * 100, b"c" * 100])
    assert [row.payload for row in queue.peek(0, 2, 10_000)] == [b"a" * 100, b"b" * 100]
    assert [row.payload for row in queue.peek(0, 10, 299)] == [b"a" * 100, b"b" * 100]
    assert [row.payload for row in queue.peek(1, 10, 1)] == [b"b" * 100]
    assert queue.peek(3, 10, 10_000) == []


def test_a_large_backlog_of_large_rows_is_not_read_into_memory(open_queue: OpenQueue) -> None:
    """Peek stops reading where its bound on bytes is reached."""
    queue = open_queue()
    queue.put_many([b"x" * 900_000] * 20)
    read: list[int] = []
    real = connection_module._fetch_up_to

    def counting(cursor: Any, *bounds: int) -> Any:
        def rows() -> Iterator[Any]:
            for row in cursor:
                read.append(row[0])
                yield row

        return real(rows(), *bounds)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection_module, "_fetch_up_to", counting)
        assert [row.key for row in queue.peek(0, 500, 1_000_000)] == [1]
    assert read == [1, 2]


def test_keys_are_never_given_out_twice(open_queue: OpenQueue) -> None:
    """Also not after the queue was emptied and opened again: a late ack must never hit a newer event."""
    queue = open_queue()
    queue.put_many(events(0, 5))
    queue.ack(keys(queue))
    queue.close()
    again = open_queue()
    again.put(b"{}")
    assert keys(again) == [6]


def test_a_put_overtaken_by_another_takes_the_next_key(open_queue: OpenQueue) -> None:
    """A key counter that is behind is an error of the INSERT, not an overwritten row."""
    queue = open_queue()
    queue.put_many(events(0, 3))
    queue._books.high = 0  # as if a signal handler had put three events between reading and using the counter
    queue.put(b'{"late":"1"}')
    queue._books.high = 1
    queue.put_many([b'{"late":"2"}', b'{"late":"3"}'])
    assert payloads(queue) == [*events(0, 3), b'{"late":"1"}', b'{"late":"2"}', b'{"late":"3"}']
    assert_ledger_matches_rows(queue)


def test_a_closed_queue_refuses_events(open_queue: OpenQueue) -> None:
    """A put after close is an error, and close may be called twice."""
    queue = open_queue()
    queue.close()
    queue.close()
    with pytest.raises(QueueClosedError):
        queue.put(b"{}")


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_way_out_is_counted_in_the_ledger(open_queue: OpenQueue) -> None:
    """Delivered, dead, expired, evicted and requeued rows add up, and so they do for the next owner."""
    queue = open_queue()
    queue.put_many(events(0, 100))
    queue.ack([1, 2, 3, 50])
    queue.ack([1])  # a second time: counts nothing
    queue.reject([4, 5], 400, "refused")
    queue.expire([6, 7, 8])
    assert queue.evict(400) == 2
    assert queue.requeue([4, 999]) == 1
    expected = Ledger(accepted=100, delivered=4, pending=90, dead=1, expired=3, evicted=2)
    assert queue.ledger() == expected
    assert_ledger_matches_rows(queue)
    queue.close()
    again = open_queue()
    assert again.ledger() == expected
    assert_ledger_matches_rows(again)


STEPS = (
    *("put", "put_many", "ack", "reject", "expire", "evict", "purge"),
    *("requeue", "purge_dead_letters", "reopen", "shrink"),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(STEPS),
            st.integers(0, 30),
        ),
        max_size=25,
    )
)
def test_the_ledger_adds_up_after_any_program(tmp_path_factory: pytest.TempPathFactory, program: Any) -> None:
    """Whatever the order of operations, the counts equal the rows."""
    directory = tmp_path_factory.mktemp("slot") / "q"
    make_private_directory(directory)
    queue = SqliteQueue.take(Slot(directory, 0))
    put = 0
    for step, n in program:
        if step == "put":
            queue.put(EVENT % put)
            put += 1
        elif step == "put_many":
            queue.put_many(events(put, n))
            put += n
        elif step == "reopen":
            queue.close()
            queue = SqliteQueue.take(Slot(directory, 0))
        elif step == "evict":
            queue.evict(n * 10)
        elif step == "requeue":
            queue.requeue([letter.key for letter in queue.dead_letters(n)])
        elif step == "purge_dead_letters":
            queue.purge_dead_letters([letter.key for letter in queue.dead_letters(n)])
        elif step == "shrink":
            queue.shrink()
        else:
            chosen = [row.key for row in queue.peek(0, n + 1, 1 << 20)][n // 2 :]
            queue.settle()
            if step == "reject":
                queue.reject(chosen, 400, "no")
            else:
                getattr(queue, step)(chosen)
        assert queue.ledger().accepted == put
        assert_ledger_matches_rows(queue)
    queue.close()


def test_a_file_that_is_mended_amid_a_bulk_put_holds_each_event_once(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored before the damage was found is not stored again."""
    queue = open_queue()
    real, calls = queue.insert_all, iter(range(100))

    def insert_all(payloads: Sequence[bytes], keys: list[int]) -> None:
        if next(calls) == 2:
            raise DamagedQueueError("found")
        real(payloads, keys)

    monkeypatch.setattr(queue, "insert_all", insert_all)
    payloads = [b"%d" % number for number in range(1000)]
    queue.put_many(payloads)
    queue.take_over_all()
    assert sorted(payloads) == sorted(row.payload for row in queue.peek(0, 2000, 1 << 30))


def test_dead_letters_tell_why_and_keep_the_bytes(open_queue: OpenQueue) -> None:
    """Status, reason, time and payload of a refused event can be read, and the event can be sent again."""
    queue = open_queue()
    queue.put_many(events(0, 2))
    queue.reject([1], 422, "alone refused")
    (letter,) = queue.dead_letters()
    assert (1, 422, "alone refused", events(0, 1)[0]) == (letter.key, letter.status, letter.reason, letter.payload)
    assert letter.time_ms > 1_600_000_000_000
    queue.requeue([1])
    assert payloads(queue) == [events(1, 1)[0], events(0, 1)[0]]


def test_dead_letters_are_bounded_and_nothing_is_ever_discarded(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the bound a refused row stays where it is, until an operator makes room."""
    monkeypatch.setattr(dead_letters, "COUNT_MAX", 3)
    queue = open_queue()
    queue.put_many(events(0, 5))
    with pytest.raises(DeadLettersFullError, match="3 dead letters"):
        queue.reject([1, 2, 3, 4, 5], 400, "no")
    assert [letter.key for letter in queue.dead_letters()] == [1, 2, 3]
    assert queue.ledger() == Ledger(accepted=5, dead=3, pending=2)
    assert queue.requeue([2]) == 1
    queue.reject([4], 400, "no")
    assert queue.ledger() == Ledger(accepted=5, dead=3, pending=2)


def test_eviction_skips_rows_in_flight(open_queue: OpenQueue) -> None:
    """The oldest rows go first, but not those that are being sent."""
    queue = open_queue()
    queue.put_many(events(0, 10))
    queue.peek(0, 6, 1 << 20)
    assert queue.hold([1, 2, 3]) == [1, 2, 3]
    queue.evict(1)
    assert keys(queue)[:4] == [1, 2, 3, 5]
    assert queue.hold([4, 5, 6]) == [5, 6]
    queue.evict(1)
    assert keys(queue)[:6] == [1, 2, 3, 5, 6, 8]
    queue.settle([1, 2, 3])
    queue.evict(1)
    assert keys(queue)[:3] == [2, 3, 5]
    queue.settle()
    queue.evict(10_000)
    assert keys(queue) == []


def test_opening_reads_no_more_of_a_long_backlog_than_of_a_short_one(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening, counting and the ends of the queue take the same number of SQLite's steps for any backlog."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    real = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        raw: sqlite3.Connection = real(*args, **kwargs)
        raw.set_progress_handler(count, 1)
        return raw

    def steps_to_open() -> int:
        nonlocal steps
        steps = 0
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", connect)
            queue = open_queue()
            queue.ledger(), queue.oldest_key(), queue.mark(), queue.used_bytes()
            queue.close()
        return steps

    queue = open_queue()
    queue.put_many(events(0, 10))
    queue.close()
    few = steps_to_open()
    queue = open_queue()
    queue.put_many(events(10, 20_000))
    queue.close()
    assert 0 < steps_to_open() <= few + 20


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_whose_bytes_were_altered_is_set_aside_and_never_returned(
    open_queue: OpenQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Its neighbours go on, and the row is kept with the reason."""
    queue = open_queue()
    queue.put_many(events(0, 5))
    queue.close()
    with sqlite3.connect(queue.slot.database) as raw:
        raw.execute("UPDATE events SET value = replace(value, '3\"', '4\"') WHERE key = 4")
        raw.execute("UPDATE events SET key = 77 WHERE key = 2")
    raw.close()
    again = open_queue()
    assert payloads(again) == [events(0, 1)[0], *events(2, 1), *events(4, 1)]
    assert again.ledger() == Ledger(accepted=5, pending=3, damaged=2)
    assert "queue.rows_damaged" in events_in(caplog)
    assert [letter.key for letter in again.dead_letters(after=-1000)] == [-77, -4]
    assert again.requeue([-4]) == 0


def test_a_database_of_a_newer_version_is_refused_untouched(open_queue: OpenQueue, slot_dir: Path) -> None:
    """Somebody went back to an older version of this package: nothing is lost by it."""
    queue = open_queue()
    queue.put(b"{}")
    queue.close()
    raw = sqlite3.connect(queue.slot.database)
    raw.execute(f"PRAGMA user_version={2 * connection_module.FORMAT}")
    raw.close()
    before = queue.slot.database.read_bytes()
    with pytest.raises(UnknownFormatError, match="left untouched"):
        open_queue()
    assert queue.slot.database.read_bytes() == before
    assert Slot(slot_dir, 0).acquire()


def test_a_database_of_something_else_is_refused_untouched(open_queue: OpenQueue, slot_dir: Path) -> None:
    """A file that was put there by another program keeps its tables."""
    raw = sqlite3.connect(slot_dir / "0.sqlite3")
    raw.execute("CREATE TABLE theirs (a)")
    raw.close()
    with pytest.raises(UnknownFormatError):
        open_queue()


# ── settings of SQLite, and SqliteDict ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("durability", "synchronous"), [("always", 2), ("interval", 1)])
def test_sqlite_is_set_as_the_promise_needs(open_queue: OpenQueue, durability: str, synchronous: int) -> None:
    """Each setting is read back from the live connection."""
    queue = open_queue(durability=durability)
    pragma = queue._connection.pragma
    assert pragma("journal_mode") == b"wal"
    assert pragma("locking_mode") == b"exclusive"
    assert pragma("synchronous") == synchronous
    assert pragma("auto_vacuum") == 2
    assert pragma("wal_autocheckpoint") == 0
    assert pragma("trusted_schema") == 0
    assert not queue.slot.database.with_name("0.sqlite3-shm").exists()


def test_the_tables_are_sqlitedicts_that_cannot_overwrite_events(open_queue: OpenQueue) -> None:
    """They can be read as mappings; whatever would rewrite or remove an event is refused."""
    queue = open_queue()
    queue.put(b'{"a":"1"}')
    assert len(queue.events) == 1
    assert queue.events[1][4:] == b'\0{"a":"1"}'
    assert list(queue.events) == [1]
    with pytest.raises(TypeError):
        queue.events[1] = b"other"
    for name in ("update", "clear", "pop", "popitem", "setdefault", "terminate"):
        with pytest.raises(TypeError):
            getattr(queue.events, name)()
    with pytest.raises(TypeError):
        del queue.events[1]
    queue.events.close()
    queue.events.__del__()
    queue.put(b'{"a":"2"}')
    assert queue.ledger().pending == 2


def test_files_are_private_whatever_the_umask(open_queue: OpenQueue) -> None:
    """Directories 0700 and files 0600, also under umask 0."""
    old = os.umask(0)
    try:
        queue = open_queue()
        queue.put(b"{}")
        directory = queue.slot.directory
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        names = ("0.sqlite3", "0.sqlite3-wal", "0.lock", "0.ballast")
        assert dict.fromkeys(names, 0o600) == modes
    finally:
        os.umask(old)


def test_a_second_owner_is_told_who_the_first_is(open_queue: OpenQueue) -> None:
    """Within one process, too, a slot has one owner."""
    open_queue()
    with pytest.raises(SlotBusyError, match=str(os.getpid())) as caught:
        open_queue()
    assert os.getpid() == caught.value.pid


def test_a_database_that_somebody_else_has_open_is_a_slot_that_is_taken(open_queue: OpenQueue, slot_dir: Path) -> None:
    """Without the lock file's lock, SQLite's own tells."""
    queue = open_queue()
    queue.close()
    raw = sqlite3.connect(slot_dir / "0.sqlite3", isolation_level=None)
    raw.execute("PRAGMA locking_mode=EXCLUSIVE")
    raw.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(SlotBusyError):
            open_queue()
    finally:
        raw.close()


@pytest.mark.parametrize("name", ["0.sqlite3", "0.lock", "0.sqlite3-wal", "0.ballast"])
def test_a_planted_symbolic_link_is_refused(open_queue: OpenQueue, slot_dir: Path, tmp_path: Path, name: str) -> None:
    """Events are never written where somebody else wants them."""
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    (slot_dir / name).symlink_to(target)
    with pytest.raises(StorageError):
        open_queue()
    assert target.read_bytes() == b"untouched"


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_quota_refuses_events_until_others_are_gone(open_queue: OpenQueue) -> None:
    """The message names the setting; the file stays within it; an ack makes room."""
    quota = 256 << 10
    queue = open_queue(max_queue_bytes=quota)
    with pytest.raises(QueueFullError, match="max_queue_bytes=262144"):  # noqa: PT012 (one of many puts raises)
        for _ in range(10_000):
            queue.put(b"x" * 500)
    assert queue.slot.database.stat().st_size <= quota
    assert queue._connection.is_at_limit()
    stored = queue.ledger().pending
    assert 300 < stored == len(queue.events)
    queue.reject(keys(queue)[:1], 400, "a full queue can still set aside")
    queue.ack(keys(queue)[:100])
    queue.put(b"x" * 500)
    assert_ledger_matches_rows(queue)


def test_only_rows_that_were_named_are_acked(open_queue: OpenQueue) -> None:
    """In any order, with gaps, and however often a key is named."""
    queue = open_queue()
    queue.put_many(events(1, 300))
    queue.ack([1, 1, 3])
    queue.ack([300, *range(299, 1, -2)[1:], 5, 300])
    assert keys(queue) == [*range(2, 299, 2), 299]
    assert queue.ledger().delivered == 150
    assert_ledger_matches_rows(queue)


def marked(open_queue: OpenQueue, *, pending: int = 200, **settings: Any) -> SqliteQueue:
    """Return a queue of which 300 rows are delivered and still in the table, and the next ones are pending."""
    queue = open_queue(**settings)
    queue.put_many([b"x" * 500] * (300 + pending))
    for _ in range(3):
        queue.ack(keys(queue)[:100])
    assert queue._books.acked == 300
    assert len(queue.events) == 300 + pending
    return queue


def test_rows_that_were_acked_are_gone_for_all_who_ask(open_queue: OpenQueue) -> None:
    """Though they are still in the table; also for a second ack, for whoever opens the queue next, and for `evict`."""
    queue = marked(open_queue)
    for _ in range(2):
        assert (queue.ledger().delivered, queue.ledger().pending) == (300, 200)
        assert 301 == queue.oldest_key() == keys(queue)[0]
        assert (row := queue.oldest()) is not None
        assert row.key == 301
        queue.ack(range(101, 201))
        queue.expire([7, 8])
        queue.reject([9], 400, "refused")
        assert_ledger_matches_rows(queue)
        queue.close()
        queue = open_queue()
    queue.evict(1)
    assert queue.oldest_key() == 302
    queue.put(b"after")
    assert payloads(queue)[-1] == b"after"
    assert_ledger_matches_rows(queue)


def test_rows_that_were_acked_leave_the_table_when_nothing_is_pending(open_queue: OpenQueue) -> None:
    """At once, with a few pages of log."""
    queue = marked(open_queue, pending=100)
    queue.ack(keys(queue))
    assert queue.peek(0, 10, 1000) == []
    assert len(queue.events) == 0
    assert queue.ledger().delivered == 400
    queue.put(b"next")
    assert keys(queue) == [401]


def test_rows_that_were_acked_leave_the_table_when_the_queue_is_closed(open_queue: OpenQueue) -> None:
    """However many there are, since no put can wait for it."""
    queue = open_queue()
    queue.put_many([b"x" * 4000] * 6000)
    while rows := queue.peek(0, 500, 1 << 30):
        queue.ack([row.key for row in rows])
    assert len(queue.events) > 5000
    queue.close()
    queue = open_queue()
    assert len(queue.events) == 0
    assert (queue.ledger().delivered, queue.ledger().pending) == (6000, 0)


def test_a_put_that_comes_in_between_is_not_swept(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler can put after it was seen that nothing is pending, and before the table is emptied."""
    queue = marked(open_queue, pending=100)
    queue.ack(keys(queue))
    real = connection_module.Connection.script

    def script(connection: Any, statements: str) -> None:
        if "DELETE FROM events;" in statements:
            monkeypatch.undo()
            queue.put(b"in between")
        real(connection, statements)

    monkeypatch.setattr(connection_module.Connection, "script", script)
    assert queue.peek(400, 10, 1000) == []
    assert payloads(queue) == [b"in between"]
    assert_ledger_matches_rows(queue)


def test_what_is_acked_out_of_turn_is_deleted(open_queue: OpenQueue) -> None:
    """A mark says that all before it is delivered."""
    queue = open_queue()
    queue.put_many(events(1, 1000))
    queue.ack(range(101, 201))
    assert queue._books.acked == 0
    assert len(queue.events) == 900
    queue.ack(range(1, 101))
    assert queue._books.acked == 100
    queue.ack(range(201, 301))
    assert queue._books.acked == 300
    assert len(queue.events) == 900
    assert_ledger_matches_rows(queue)


def test_a_full_queue_makes_room_of_what_was_acked(open_queue: OpenQueue) -> None:
    """Before it refuses or evicts anything."""
    queue = open_queue(max_queue_bytes=512 << 10)
    with pytest.raises(QueueFullError):
        queue.put_many([b"x" * 500] * 5000)
    queue.ack(keys(queue)[:300])
    assert queue._books.acked == 300
    for _ in range(250):
        queue.put(b"x" * 500)
    assert_ledger_matches_rows(queue)


def test_shrinking_sweeps_first(open_queue: OpenQueue) -> None:
    """Also while others are pending: some rows at a time."""
    queue = marked(open_queue)
    assert queue.shrink()
    assert len(queue.events) == 200
    assert keys(queue) == list(range(301, 501))


@pytest.mark.parametrize("name", ["acked", "acked_check"])
@pytest.mark.parametrize("bit", [0, 7, 20, 60])
def test_an_altered_mark_hides_nothing(open_queue: OpenQueue, name: str, bit: int) -> None:
    """What was delivered is delivered again, and the ledger agrees with the rows."""
    queue = marked(open_queue)
    connection = queue._connection
    (value,) = connection.select_one("SELECT value FROM meta WHERE key = ?", (name,)) or (0,)
    connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value ^ (1 << bit), name))
    queue.close()
    queue = open_queue()
    assert keys(queue) == list(range(1, 501))
    assert (queue.ledger().delivered, queue.ledger().pending) == (0, 500)
    assert_ledger_matches_rows(queue)


def test_the_mark_does_not_pass_rows_that_are_counted_and_cannot_be_seen(open_queue: OpenQueue) -> None:
    """A damaged page hides them, and whoever salvages it goes by the mark."""
    queue = open_queue()
    queue.put_many(events(1, 1000))
    queue._connection.execute("DELETE FROM events WHERE key <= 100")  # as if they were hidden
    queue.ack(range(101, 301))
    assert queue._books.acked == 0
    assert queue.ledger().delivered == 200


def test_no_key_below_the_mark_is_given_out(open_queue: OpenQueue) -> None:
    """Though a flipped bit made the recorded highest key a lower one, and nothing else tells of it."""
    queue = marked(open_queue, pending=100)
    queue.ack(keys(queue))
    queue._connection.execute("DELETE FROM events WHERE key > 300")
    queue._connection.execute("UPDATE meta SET value = 9 WHERE key = 'high'")
    queue.close()
    queue = open_queue()
    for event in events(1, 10):
        queue.put(event)
    queue.shrink()
    assert payloads(queue) == events(1, 10)


@pytest.mark.parametrize("bit", [0, 5, 12])
def test_the_mark_outlives_a_correction_of_the_counts(open_queue: OpenQueue, bit: int) -> None:
    """What was delivered does not come back."""
    queue = marked(open_queue)
    (value,) = queue._connection.select_one("SELECT value FROM meta WHERE key = 'delivered'") or (0,)
    queue._connection.execute("UPDATE meta SET value = ? WHERE key = 'delivered'", (value ^ (1 << bit),))
    queue.close()
    queue = open_queue()
    delivered = []
    while rows := queue.peek(0, 100, 1 << 20):
        delivered += [row.key for row in rows]
        queue.ack([row.key for row in rows])
    assert delivered == list(range(301, 501))
    assert queue.oldest_key() is None
    assert queue.ledger().pending == 0
    assert_ledger_matches_rows(queue)


def test_a_damaged_row_that_was_delivered_is_not_counted_again(open_queue: OpenQueue) -> None:
    """It is the last one in the table, where the highest key is looked up."""
    queue = marked(open_queue, pending=100)
    queue.ack(keys(queue))
    assert 300 == queue._books.acked == len(queue.events)
    queue._connection.execute("UPDATE events SET value = x'00' WHERE key = 300")
    copy = Slot(queue.slot.directory.with_name("copy"), 0)
    shutil.copytree(queue.slot.directory, copy.directory)
    with SqliteQueue.take(copy) as again:
        ledger = again.ledger()
        assert (ledger.delivered, ledger.damaged, ledger.pending) == (400, 0, 0)


def test_a_file_of_a_version_without_a_mark_is_taken_as_it_is(open_queue: OpenQueue) -> None:
    """Nothing is set aside."""
    queue = open_queue()
    queue.put_many(events(1, 10))
    queue._connection.execute("DELETE FROM meta WHERE key IN ('acked', 'acked_check')")
    queue.close()
    queue = open_queue()
    assert payloads(queue) == events(1, 10)
    assert not [path for path in queue.slot.directory.iterdir() if "salvaged" in path.name]


def test_a_mark_hides_nothing_that_is_salvaged_into_its_file(open_queue: OpenQueue) -> None:
    """A full disk can interrupt taking rows over; what is put meanwhile is delivered, and the mark moves past them."""
    old = marked(open_queue)
    slot = old.slot
    old.close()
    salvage.set_aside(slot)
    (aside,) = salvage.pending(slot)
    hidden = aside.with_name("elsewhere")
    aside.rename(hidden)
    new = open_queue()
    new.put_many(events(1, 1000))
    for first in range(1, 901, 100):
        new.ack(range(first, first + 100))
    assert new._books.acked == 900
    new.close()
    hidden.rename(aside)
    queue = open_queue()
    rows = payloads(queue)
    assert events(1, 1000)[900:] == rows[:100]
    assert len(rows[100:]) == 200
    assert_ledger_matches_rows(queue)


def test_after_an_ack_the_next_puts_need_no_checkpoint(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever drains waits for the disk, not the caller of a put."""
    queue = open_queue()
    checkpoints: list[str] = []
    real = connection_module.Connection.checkpoint
    payers = threading.local()

    def checkpoint(connection: Any, *arguments: Any) -> None:
        checkpoints.append(payers.name)
        real(connection, *arguments)

    monkeypatch.setattr(connection_module.Connection, "checkpoint", checkpoint)
    payers.name = "put_many"
    queue.put_many([b"x" * 450] * 10_000)
    checkpoints.clear()
    for _ in range(20):
        payers.name = "ack"
        queue.ack([row.key for row in queue.peek(0, 500, 1 << 20)])
        payers.name = "put"
        for _ in range(20):
            queue.put(b"x" * 450)
    assert set(checkpoints) == {"ack"}


def test_the_wal_is_bounded(open_queue: OpenQueue) -> None:
    """However much is put and acknowledged, the WAL stays near its bound."""
    queue = open_queue(durability="interval")
    for _ in range(20):
        for event in events(0, 200):
            queue.put(event)
        queue.put_many([b"y" * 700] * 1500)
        queue.ack(keys(queue)[:1000])
        assert queue.slot.wal.stat().st_size <= 2.5 * books.WAL_SIZE_MAX


def test_disk_space_is_given_back(open_queue: OpenQueue) -> None:
    """After a drain the file is as small as an empty one, or nearly."""
    queue = open_queue(durability="interval")
    queue.put_many([b"z" * 500] * 20_000)
    queue.ack(keys(queue))
    before = queue.slot.database.stat().st_size
    assert queue.shrink()
    assert queue.slot.database.stat().st_size < before * 0.05
    assert queue.slot.wal.stat().st_size == 0


def test_without_headroom_nothing_is_accepted(open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with no room for the ballast is full; once there is room, puts work again by themselves."""

    def no_space(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        queue = open_queue()
        with pytest.raises(QueueFullError, match="No space left"):
            queue.put(b"{}")
        assert not queue.slot.ballast.exists()
    queue.put(b"{}")
    assert queue.ledger().pending == 1


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("durability", ["always", "interval"])
def test_concurrent_puts_are_all_stored_once(open_queue: OpenQueue, durability: str) -> None:
    """Sixteen threads share commits; no event is lost or doubled."""
    queue = open_queue(durability=durability)

    def work(first: int) -> None:
        for event in events(first, 200):
            queue.put(event)

    threads = [threading.Thread(target=work, args=(n * 200,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(payloads(queue)) == events(0, 3200)
    assert_ledger_matches_rows(queue)


def test_an_error_reaches_the_caller_whose_event_it_was(open_queue: OpenQueue) -> None:
    """Eight threads, one event in ten too large for the quota: each failure in its own call, all others stored."""
    queue = open_queue(max_queue_bytes=2 << 20)
    failed: list[int] = []
    stored: list[int] = []

    def work(first: int) -> None:
        for n in range(first, first + 50):
            try:
                queue.put(b"%06d" % n + b"x" * (3 << 20 if n % 10 == 0 else 10))
            except QueueFullError:
                failed.append(n)
            else:
                stored.append(n)

    threads = [threading.Thread(target=work, args=(n * 50,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(failed) == list(range(0, 400, 10))
    assert sorted(stored) == sorted(int(payload[:6]) for payload in payloads(queue))
    assert len(stored) == 360


def test_the_file_stops_growing_where_events_are_tracked_all_the_time(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is never empty then, so what was marked has to go in steps."""
    monkeypatch.setattr(sweep, "AT_ONCE", 200)
    sizes = []
    with open_queue() as queue:
        queue.put_many([b"x" * 400] * 100)
        for _ in range(60):
            queue.put_many([b"x" * 400] * 100)
            rows = queue.peek(0, 100, 1 << 20)
            queue.ack([row.key for row in rows])
            queue.settle()
            sizes.append(queue.used_bytes())
        assert (queue.ledger().delivered, queue.ledger().pending) == (6000, 100)
        assert max(sizes) < 400 * 4096
        assert max(sizes[30:]) <= max(sizes[:30])
        assert len(queue.peek(0, 1000, 1 << 20)) == 100


def test_a_backlog_that_is_drained_is_not_swept_in_steps(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is put meanwhile: the whole table goes at the end, which costs next to nothing."""
    monkeypatch.setattr(sweep, "AT_ONCE", 10)
    with open_queue() as queue:
        queue.put_many([b"x" * 400] * 1000)
        for _ in range(9):
            queue.ack([row.key for row in queue.peek(0, 100, 1 << 20)])
        assert queue._connection.select_one("SELECT count(*) FROM events") == (1000,)


def test_an_empty_slot_keeps_no_room_on_the_disk(open_queue: OpenQueue, slot_dir: Path) -> None:
    """One with events does: it has to be drained on the day when the disk is full."""
    queue = open_queue()
    queue.put(b"{}")
    queue.close()
    assert (slot_dir / "0.ballast").exists()
    with open_queue() as again:
        again.ack([1])
        assert (slot_dir / "0.ballast").exists()
    assert not (slot_dir / "0.ballast").exists()


GATELESS = {"check_pid", "close", "forget", "is_inherited", "leave", "release", "settle", "take"}
"""What a child may call: it touches no connection, or compares the process by itself."""

HOT = {"lease_s", "lock", "max_queue_bytes", "name", "path", "poll_s", "puts", "slot"}
"""Attributes that are in memory."""


def test_every_use_of_a_queue_passes_the_gate(open_queue: OpenQueue) -> None:
    """In a child nothing reads, writes or waits for a lock of the parent's, also where a fork skipped the hooks."""
    queue = open_queue()
    queue.put(b"{}")
    arguments: dict[str, tuple[Any, ...]] = {
        "peek": (0, 1, 100), "put": (b"{}",), "put_many": ([b"{}"],), "hold": ([1],), "ack": ([1],), "expire": ([1],),
        "reject": ([1], 400, "no"), "older": ([], 1.0), "evict": (1,), "could_hold": (1,), "remember": (b"[]",),
        "set_settings": ({},), "set_origin": ({},), "requeue": ([1],), "is_past": (1,), "insert_one": (b"{}",),
        "purge": ([1],), "purge_dead_letters": ([1],),
        "insert_all": ([b"{}"], []), "holds": (1, b"{}"), "rows_above": ("events", 0, 1),
    }  # fmt: skip
    names = {name for name in dir(queue) if not name.startswith("_")} - GATELESS - HOT
    queue._pid = -1
    with queue._books.lock:
        passed = []
        for name in sorted(names - {"insert_one", "insert_all", "holds", "is_held_by_this_thread"}):
            try:
                member = getattr(queue, name)
                if callable(member):
                    member(*arguments.get(name, ()))
            except ForkedError:
                continue
            passed.append(name)
    queue._pid = os.getpid()
    assert passed == []
    assert queue.pending() == 1


def test_the_format_is_written_down(open_queue: OpenQueue) -> None:
    """Each key of `meta` and each file has its place in FORMAT.md."""
    queue = open_queue()
    queue.put_many([b"{}"] * 3)
    queue.set_origin({"url": "https://c.example"})
    queue.set_settings({"max_age": 60})
    queue.remember(b"[[1]]")
    queue.reject([1], 400, "no")
    queue.ack([2])
    queue._books.checkpoint()
    text = (Path(books.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    for key in [*queue._file.books.meta.keys(), restore._PROGRESS]:
        name = key.decode() if isinstance(key, bytes) else key
        assert f"`{name}`" in text, name
    for path in queue.slot.directory.iterdir():
        assert f"`{path.name.replace('0', 'N', 1)}`" in text, path


def test_a_row_that_was_delivered_is_not_held(open_queue: OpenQueue) -> None:
    """Though it still stands below the mark: it is asked about after an ack of which the outcome is unknown."""
    queue = open_queue()
    queue.put_many([b"{}"] * 400)
    rows = [row.key for row in queue.peek(0, 100, 1 << 20)]
    assert queue.hold(rows) == rows
    queue.ack(rows)
    assert queue._books.acked == 100
    assert list(queue.hold(rows)) == []
    assert queue.hold([100, 101]) == [101]


def test_an_error_amid_a_bulk_put_says_how_many_were_stored(
    open_queue: OpenQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever puts the rest again puts all of them."""
    queue = open_queue()
    real, calls = queue.insert_all, []

    def closed(payloads: Any, keys: list[int]) -> None:
        calls.append(len(payloads))
        if len(calls) == 3:
            raise QueueClosedError("closed")
        real(payloads, keys)

    monkeypatch.setattr(queue, "insert_all", closed)
    with pytest.raises(QueueClosedError) as caught:
        queue.put_many([b"{}"] * 1000)
    assert caught.value.stored == 512 == queue.pending()
