"""A kill at a bad moment and damage at a bad place: only what was hit is lost, and nothing because of SQLite's trust.

The states are made as a kill leaves them: a checkpoint that was finished, or half done, before the WAL began anew;
an ack of which the last frame was not written. `tests/faults` has the campaign that makes them at every file operation.
"""

from __future__ import annotations

import errno
import os
import random
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from damage import LAST_WORDS, PAGE_SIZE, Files, Lines, copy_slot, drained, healthy, judge, observe, payload

from durable_tracker.commands.exit_codes import Exit
from durable_tracker.drain import main as drain
from durable_tracker.engines.sqlite import slot_file, sweep
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.restore import TakingOver
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.engines.sqlite.wal import FRAME_SIZE, read_wal
from durable_tracker.errors import QueueFullError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from durable_tracker.engines.engine import Durability
    from durable_tracker.engines.queue import Row

SEED = 20261124
WAL_HEADER = 32


def files_of(slot: Slot, gone: set[int], count: int) -> Files:
    wal = slot.wal.read_bytes() if slot.wal.exists() else b""
    pending = frozenset(payload(number) for number in range(1, count + 1) if number not in gone)
    return Files(
        slot.database.read_bytes(), wal, pending, frozenset(), frozenset(payload(number) for number in sorted(gone))
    )


def tracked(slot: Slot, durability: Durability) -> tuple[SqliteQueue, set[int]]:
    """Put, deliver and put: many small transactions, of which each page has many versions in the WAL."""
    queue = SqliteQueue.take(slot, durability=durability)
    for number in range(1, 241):
        queue.put(payload(number))
    for first in (1, 61):
        queue.ack(range(first, first + 20))
        for number in range(first + 240, first + 270):
            queue.put(payload(number if first == 1 else number - 30))
    return queue, {*range(1, 21), *range(61, 81)}


@pytest.fixture(scope="module", params=["always", "interval"])
def around_a_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """The files before a checkpoint, in the middle of it, and after it, before the WAL is started anew."""
    folder = tmp_path_factory.mktemp("made")
    make_private_directory(folder / "slot")
    queue, gone = tracked(Slot(folder / "slot", 0), request.param)
    count = queue.puts
    before = files_of(copy_slot(queue.slot, folder / "before"), gone, count)
    queue._connection.checkpoint()
    after = files_of(copy_slot(queue.slot, folder / "after"), gone, count)
    queue.close()
    half = len(after.database) // PAGE_SIZE // 2 * PAGE_SIZE
    return {
        "before": before,
        "amid": replace(before, database=after.database[:half] + before.database[half:]),
        "after": after,
    }


@pytest.mark.parametrize("state", ["before", "amid", "after"])
@pytest.mark.parametrize("flips", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_a_wal_costs_one_event_at_most_whatever_was_checkpointed(
    around_a_checkpoint: dict[str, Files], state: str, flips: int, tmp_path: Path
) -> None:
    """SQLite would stop there, and write older versions of pages over the newer ones that the database has."""
    files = around_a_checkpoint[state]
    rng = random.Random(SEED)
    found: list[str] = []
    for number in range(flips):
        position = len(files.database) + rng.randrange(len(files.wal))
        slot = files.flipped(position, rng.randrange(8)).write(tmp_path / str(number))
        found += [f"{position}: {problem}" for problem in judge(files, observe(slot), are_counts_sound=False)]
    assert found == []


def test_a_checkpoint_starts_the_wal_anew_at_once(tmp_path: Path) -> None:
    """Only a kill between two writes leaves a WAL that was checkpointed and still holds its frames."""
    make_private_directory(tmp_path / "slot")
    queue, _ = tracked(Slot(tmp_path / "slot", 0), "always")
    with queue:
        assert len(read_wal(queue.slot.wal).frames) > 100
        queue._books.checkpoint()
        wal = read_wal(queue.slot.wal)
        assert len(wal.frames) == 1
        assert wal.recovered == 1


def test_frames_that_no_commit_follows_take_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed inside an ack, and the header is damaged: the rows that the ack was about to remove are pending."""
    monkeypatch.setattr(sweep, "MARK_MIN", 64)
    make_private_directory(tmp_path / "slot")
    slot = Slot(tmp_path / "slot", 0)
    with SqliteQueue.take(slot) as queue:
        for number in range(1, 60):
            queue.put(payload(number))
        whole = read_wal(slot.wal).frames
        queue.ack(range(1, 15))
        cut = WAL_HEADER + (len(read_wal(slot.wal).frames) - 1) * FRAME_SIZE
        assert cut > WAL_HEADER + len(whole) * FRAME_SIZE
        copy = copy_slot(slot, tmp_path / "copy")
    content = copy.database.read_bytes()
    copy.database.write_bytes(b"\0" + content[1:])
    os.truncate(copy.wal, cut)
    seen = observe(copy)
    assert {payload(number) for number in range(1, 60)} | {LAST_WORDS} == set(seen.out)
    assert "queue.file_salvaged" in seen.lines


# ── pages that SQLite trusts ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def with_free_pages(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A slot in the middle of which pages became free."""
    folder = tmp_path_factory.mktemp("free")
    make_private_directory(folder / "slot")
    slot = Slot(folder / "slot", 0)
    with SqliteQueue.take(slot) as queue:
        queue.put_many([payload(number) for number in range(1, 301)])
        queue.ack([number for number in range(1, 301) if number % 3])
        queue.ack(range(1, 200))
    gone = {number for number in range(1, 301) if number % 3 or number < 200}
    return files_of(slot, gone, 300)


def test_a_flipped_bit_in_the_list_of_free_pages_costs_nothing(with_free_pages: Files, tmp_path: Path) -> None:
    """SQLite would write new rows over a page that is in use."""
    database = with_free_pages.database
    trunk, count = struct.unpack_from(">II", database, 32)
    (entries,) = struct.unpack_from(">I", database, (trunk - 1) * PAGE_SIZE + 4)
    assert count > 5
    places = [32, 36, *((trunk - 1) * PAGE_SIZE + 4 * n for n in range(2 + min(entries, 6)))]
    found = []
    for place in places:
        for bit in range(5):
            slot = with_free_pages.flipped(place + 3, bit).write(tmp_path / f"{place}-{bit}")
            with SqliteQueue.take(slot) as queue:
                queue.put_many([payload(number) for number in range(1001, 1101)])
            found += [
                problem
                for problem in judge(with_free_pages, observe(slot), lost_max=0)
                if not problem.startswith("altered bytes left")  # those that were put here
            ]
    assert found == []


@pytest.mark.parametrize("is_large", [False, True])
def test_rows_that_a_page_does_not_count_are_found_in_a_file_of_any_size(
    is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaf's number of cells is too low: the page seems to be empty before its rows were delivered."""
    files = healthy(crashed=False)
    page = files.database.index(payload(40)) // PAGE_SIZE * PAGE_SIZE
    (cells,) = struct.unpack_from(">H", files.database, page + 3)
    content = files.database[: page + 3] + struct.pack(">H", cells - 4) + files.database[page + 5 :]
    if is_large:
        monkeypatch.setattr(slot_file, "_GAP_CHECK_PAGES", 0)
    slot = replace(files, database=content).write(tmp_path / "slot")
    with SqliteQueue.take(slot) as queue:
        out = set(drained(queue, 5))
        assert queue.ledger().pending == 0
    assert files.pending == out


@pytest.fixture(scope="module")
def without_gaps(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A slot from which nothing was removed: no gap between keys has SQLite look at it."""
    folder = tmp_path_factory.mktemp("whole")
    make_private_directory(folder / "slot")
    slot = Slot(folder / "slot", 0)
    with SqliteQueue.take(slot) as queue:
        queue.put_many([payload(number) for number in range(1, 201)])
    return files_of(slot, set(), 200)


def rows_of(queue: SqliteQueue) -> list[Row]:
    """Return all rows, of a second look: what is found at the first one is mended, and rows come in behind."""
    for _ in range(2):
        rows: list[Row] = []
        while found := queue.peek(rows[-1].key if rows else 0, 100, 1 << 20):
            rows += found
    return rows


def test_a_damaged_index_of_the_counts_does_not_have_events_sent_for_ever(
    without_gaps: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that finds one half of the mark moves that half only, and then the mark says nothing."""
    monkeypatch.setattr(sweep, "MARK_MIN", 1)
    index = 5 * PAGE_SIZE
    for at in range(3, 8 + 2 * 14):
        slot = without_gaps.flipped(index + at, at % 3).write(tmp_path / str(at))
        with SqliteQueue.take(slot) as queue:
            rows = rows_of(queue)
            queue.ack([row.key for row in rows[:5]])
        with SqliteQueue.take(Slot(slot.directory, 0)) as queue:
            assert len(rows) - 5 == len(rows_of(queue)), at


@pytest.mark.parametrize("is_first", [False, True])
def test_a_cell_pointer_that_leads_astray_leaves_no_count_behind(
    without_gaps: Files, is_first: bool, tmp_path: Path
) -> None:
    """What is read there has a key by which nothing is found, and the true row is found nowhere."""
    page = without_gaps.database.index(payload(1 if is_first else 100)) // PAGE_SIZE * PAGE_SIZE
    (cells,) = struct.unpack_from(">H", without_gaps.database, page + 3)
    for at in range(page + 8, page + 8 + 2 * cells):
        slot = without_gaps.flipped(at, at % 4).write(tmp_path / str(at))
        with SqliteQueue.take(slot) as queue:
            rows = rows_of(queue)
            assert len(rows) == queue.ledger().pending, at
        assert len(rows) >= 199, at


def test_the_first_sector_of_a_wal_that_was_begun_anew_twice_costs_nothing(tmp_path: Path) -> None:
    """Of the newest generation one frame is left, of the one before none, and then come those of an older one."""
    make_private_directory(tmp_path / "made")
    with SqliteQueue.take(Slot(tmp_path / "made", 0)) as queue:
        queue.put_many([payload(number) for number in range(1, 61)])
        queue._books.checkpoint()
        queue._books.checkpoint()
        queue.put(LAST_WORDS)
        slot = copy_slot(queue.slot, tmp_path / "left")
    wal = slot.wal.read_bytes()
    salts = [wal[at + 8 : at + 12] for at in range(WAL_HEADER, len(wal), FRAME_SIZE)]
    assert salts[0] == salts[1] != salts[2]
    assert int.from_bytes(salts[1], "big") == int.from_bytes(salts[2], "big") + 2
    slot.wal.write_bytes(bytes(512) + wal[512:])
    with SqliteQueue.take(slot) as queue:
        assert LAST_WORDS in [row.payload for row in rows_of(queue)]


# ── pieces that cannot be read ───────────────────────────────────────────────────────────────────────────────────────


def unreadable(monkeypatch: pytest.MonkeyPatch, path: Path, first: int, last: int) -> None:
    """Let reading of the bytes from `first` to `last` of a file fail, whatever it is renamed to."""
    pread, inode = os.pread, path.stat().st_ino

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == inode and offset <= last and offset + size > first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, offset)

    monkeypatch.setattr("durable_tracker.engines.sqlite.raw.os.pread", failing)


@pytest.mark.parametrize(
    ("state", "suffix", "first"),
    [
        pytest.param("closed", ".sqlite3", 0, id="the header"),
        pytest.param("closed", ".sqlite3", 8 * PAGE_SIZE, id="a page"),
        pytest.param("crashed", "-wal", 0, id="the header of the WAL"),
        pytest.param("crashed", "-wal", WAL_HEADER + 40 * FRAME_SIZE + 512, id="a frame"),
        pytest.param("crashed", ".sqlite3", 2 * PAGE_SIZE, id="the root of the events"),
    ],
)
def test_a_sector_that_cannot_be_read_is_damage_of_that_sector(
    state: str, suffix: str, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is taken over, the file is kept, and tracking goes on in a new one."""
    files = healthy(crashed=state == "crashed")
    slot = files.write(tmp_path / "slot")
    if first == 8 * PAGE_SIZE:  # SQLite itself does not read through `os.pread`: the header leads there, too
        slot.database.write_bytes(b"\0" + files.database[1:])
    unreadable(monkeypatch, slot.wal if suffix == "-wal" else slot.database, first, first + 511)
    seen = observe(slot)
    assert judge(files, seen, lost_max=10, are_counts_sound=False) == []
    assert {name for name in seen.files if "salvaged" in name}


def test_a_large_event_is_taken_from_a_log_whose_last_commit_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages stand in the same tail: they are read together."""
    make_private_directory(tmp_path / "slot")
    slot = Slot(tmp_path / "slot", 0)
    large = b'{"n":"' + b"x" * 10_000 + b'"}'
    with SqliteQueue.take(slot) as queue:
        queue.put(payload(1))
        queue._books.checkpoint()
        queue.put_many([payload(number) for number in range(2, 60)])
        queue.put_many([large, *(payload(number) for number in range(60, 120))])
        copy = copy_slot(slot, tmp_path / "copy")
    last = len(read_wal(copy.wal).frames) - 1
    first = WAL_HEADER + last * FRAME_SIZE
    assert large[-99:] not in copy.wal.read_bytes()[first:]
    unreadable(monkeypatch, copy.wal, first, first + 511)
    assert large in observe(copy).out


def test_want_of_descriptors_is_no_empty_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of the package's own, and nothing is touched."""
    files = healthy(crashed=True)
    slot = files.write(tmp_path / "slot")
    real = os.open

    def failing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("-wal"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("durable_tracker.engines.sqlite.raw.os.open", failing)
        with pytest.raises(StorageError, match="Too many open files"):
            SqliteQueue.take(slot)
    assert files.wal == slot.wal.read_bytes()
    assert judge(files, observe(Slot(slot.directory, 0)), lost_max=0) == []


# ── taking over in steps ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Files, Slot]:
    """A slot whose header is zeroed."""
    files = healthy(crashed=False)
    return files, replace(files, database=bytes(100) + files.database[100:]).write(tmp_path / "slot")


def test_producers_go_on_at_once_and_what_waits_counts_as_pending(damaged: tuple[Files, Slot]) -> None:
    """Rows come in when the queue is read, behind what was put meanwhile."""
    files, slot = damaged
    with SqliteQueue.take(slot) as queue:
        queue.put(LAST_WORDS)
        assert len(queue.events) == 1
        assert len(files.pending) + 1 == queue.ledger().pending
        assert len(files.dead) == queue.ledger().dead
        out = list(drained(queue))
        assert sorted([*files.pending, LAST_WORDS]) == sorted(out)
        assert (queue.ledger().pending, queue.ledger().damaged) == (0, 0)


def test_what_was_taken_over_and_delivered_does_not_come_back_after_a_crash(
    damaged: tuple[Files, Slot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far it has got is recorded with the rows."""
    files, slot = damaged
    monkeypatch.setattr("durable_tracker.engines.sqlite.restore._ROWS", 1)
    queue = SqliteQueue.take(slot)
    out = []
    for copies in range(300):
        rows = queue.peek(0, 1, 1 << 20)
        if not rows:
            break
        out.append(rows[0].payload)
        queue.ack([rows[0].key])
        copy = copy_slot(slot, tmp_path / f"copy-{copies}")
        queue.close()
        slot, queue = copy, SqliteQueue.take(copy)
    assert sorted(files.pending) == sorted(out)
    assert (queue.ledger().pending, queue.ledger().damaged) == (0, 0)
    queue.close()


def test_a_queue_is_not_called_empty_while_rows_cannot_be_taken_over(
    damaged: tuple[Files, Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by `oldest_key`, which tells `flush`, nor by the drain's exit code."""
    files, slot = damaged

    def full(*_args: object, **_kwargs: object) -> None:
        raise QueueFullError("the disk is full")

    with monkeypatch.context() as patch, SqliteQueue.take(slot) as queue:
        patch.setattr("durable_tracker.engines.sqlite.restore.TakingOver._store", full)
        assert queue.oldest_key() == 0
        assert len(files.pending) == queue.ledger().pending
        with pytest.raises(QueueFullError):
            queue.peek(0, 10, 1 << 20)
    with monkeypatch.context() as patch:
        patch.setattr("durable_tracker.engines.sqlite.restore.TakingOver._store", full)
        assert drain([str(slot.directory), "--timeout", "0.2", "--quiet"]) == Exit.BACKLOG
    with SqliteQueue.take(Slot(slot.directory, 0)) as queue, Lines() as lines:
        assert files.pending == set(drained(queue))
    assert lines.lines == ["queue.file_salvaged"]


@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_fails_now_and_then_loses_nothing_that_is_taken_over(
    damaged: tuple[Files, Slot], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Before it is committed, for want of room, or after, when nobody can know; nothing comes twice either."""
    files, slot = damaged
    rng = random.Random(seed)
    sound = TakingOver._store

    def store(self: TakingOver, *args: Any) -> None:
        chance = rng.random()
        if chance < 0.4:
            raise QueueFullError("the disk is full")
        sound(self, *args)
        if chance > 0.7:
            raise StorageError("the sync failed")

    monkeypatch.setattr("durable_tracker.engines.sqlite.restore._ROWS", 5)
    monkeypatch.setattr(TakingOver, "_store", store)
    out = []
    with SqliteQueue.take(slot) as queue:
        for _ in range(1000):
            if queue.oldest_key() is None:
                break
            try:
                rows = queue.peek(0, 10, 1 << 20)
            except (QueueFullError, StorageError):
                continue
            out += [row.payload for row in rows]
            queue.ack([row.key for row in rows])
        assert (queue.ledger().pending, queue.ledger().damaged) == (0, 0)
    assert sorted(files.pending) == sorted(out)
