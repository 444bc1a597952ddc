"""Damaged files: altered bytes never leave, intact rows go on, nothing is deleted, and the count is right."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from damage import LAST_WORDS, PAGE_SIZE, Files, Lines, copy_slot, drained, healthy, judge, observe, payload
from processes import source_at

from durable_tracker.__main__ import main
from durable_tracker.collector import Collector
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.drain import main as drain
from durable_tracker.engines.queue import Ledger
from durable_tracker.engines.sqlite import restore, salvage, sweep
from durable_tracker.engines.sqlite.books import Books
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.row_codec import record
from durable_tracker.engines.sqlite.slots import Slot, existing_slots
from durable_tracker.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from damage import Observed

SEED = 20231123
"""Chosen once. The slow tier draws another for each run, and prints it."""


@pytest.fixture(scope="module")
def closed() -> Files:
    """A slot that was closed."""
    return healthy(crashed=False)


@pytest.fixture(scope="module")
def crashed() -> Files:
    """A slot whose process was killed: half of it stands in the WAL."""
    return healthy(crashed=True)


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Files:
    """A slot that was closed with rows in it that are delivered and not swept. Delivering the rest marks, too."""
    monkeypatch.setattr(sweep, "MARK_MIN", 1)
    files = healthy(crashed=False)
    assert all(payload(number) in files.database for number in (1, 2, 3, 6, 7))
    return files


def flip_each(files: Files, positions: Iterable[int], folder: Path, rng: random.Random) -> list[str]:
    """Flip one bit at each position, each time in new files; return what went wrong."""
    found: list[str] = []
    for number, position in enumerate(positions):
        bit = rng.randrange(8)
        slot = files.flipped(position, bit).write(folder / f"slot-{number}")
        try:
            problems = judge(files, observe(slot), are_counts_sound=not files.is_of_counts(position))
        except Exception as exc:
            problems = [f"{type(exc).__name__}: {exc}"]
        found += [f"position {position} bit {bit}: {problem}" for problem in problems]
        shutil.rmtree(slot.directory)
    return found


def opened(files: Files, folder: Path) -> tuple[Slot, Observed]:
    slot = files.write(folder / "slot")
    return slot, observe(slot)


def kept(slot: Slot) -> list[Path]:
    """Return the files that were set aside, databases first."""
    return sorted(path for path in slot.directory.iterdir() if "salvaged" in path.name or "damaged" in path.name)


# ── flipped bits ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_without_damage_lose_nothing_and_are_not_touched(
    closed: Files, crashed: Files, marked: Files, tmp_path: Path
) -> None:
    """The check of the check: no loss, no line in the log, nothing set aside."""
    for name, files in (("closed", closed), ("crashed", crashed), ("marked", marked)):
        slot, seen = opened(files, tmp_path / name)
        assert judge(files, seen, lost_max=0) == []
        assert set(seen.out) & files.gone == set()
        assert seen.lines == []
        assert kept(slot) == []


@pytest.mark.parametrize("state", ["closed", "crashed", "marked"])
def test_a_flipped_bit_costs_one_event_at_most(state: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Anywhere in the database or the WAL."""
    files: Files = request.getfixturevalue(state)
    rng = random.Random(SEED)
    assert flip_each(files, [rng.randrange(files.size) for _ in range(80)], tmp_path, rng) == []


def test_a_flipped_bit_in_a_header_costs_one_event_at_most(closed: Files, crashed: Files, tmp_path: Path) -> None:
    """Of the file, of a page, of the WAL, of a frame: where a bit decides about more than itself."""
    rng = random.Random(SEED)
    pages = [page * PAGE_SIZE + offset for page in range(len(closed.database) // PAGE_SIZE) for offset in range(16)]
    assert flip_each(closed, [*range(0, 100, 3), *rng.sample(pages, 40)], tmp_path, rng) == []
    wal = len(crashed.database)
    frames = [wal + 32 + n * (PAGE_SIZE + 24) + byte for n in range(30) for byte in range(24)]
    assert flip_each(crashed, [*range(wal, wal + 32, 3), *rng.sample(frames, 30)], tmp_path, rng) == []


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_where_a_pages_rows_begin_costs_nothing(closed: Files, tmp_path: Path, bit: int) -> None:
    """On the last page of the events SQLite would write the next one over others."""
    last = closed.database.index(payload(119)) // PAGE_SIZE * PAGE_SIZE
    for position in (last + 5, last + 6):
        slot = closed.flipped(position, bit).write(tmp_path / f"slot-{position}")
        assert judge(closed, observe(slot), lost_max=0) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("state", ["closed", "crashed", "marked"])
def test_thousands_of_flipped_bits_cost_one_event_each_at_most(
    state: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As above, from a seed that is printed."""
    files: Files = request.getfixturevalue(state)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    headers = [page * PAGE_SIZE + offset for page in range(len(files.database) // PAGE_SIZE) for offset in range(16)]
    positions = [*range(100), *headers, *(rng.randrange(files.size) for _ in range(2500))]
    assert flip_each(files, positions, tmp_path, rng) == [], f"seed {seed}"


def test_a_row_is_lost_alone_and_its_bytes_are_kept(closed: Files, tmp_path: Path) -> None:
    """The flipped bit is in the middle of an event: it is set aside with the reason, under a negative key."""
    position = closed.database.index(payload(40)) + 30
    files = closed.flipped(position, 3)
    slot = files.write(tmp_path / "slot")
    seen = observe(slot)
    assert judge(closed, seen) == []
    assert closed.pending - set(seen.out) == {payload(40)}
    assert seen.quarantined == 1
    assert kept(slot) == []
    assert seen.after is not None
    assert seen.after.damaged == 1
    with SqliteQueue.take(Slot(slot.directory, 0)) as queue:
        letters = [letter for letter in queue.dead_letters(after=-1000) if letter.key < 0]
        assert [files.database[position - 30 : position - 30 + len(payload(40))]] == [
            letter.payload for letter in letters
        ]
        assert "checksum" in letters[0].reason
        assert queue.requeue([letters[0].key]) == 0


def test_a_dead_letter_that_was_altered_is_counted_as_damaged(closed: Files, tmp_path: Path) -> None:
    """It is not silently missing from the list."""
    position = closed.database.index(payload(5)) + 20
    slot = closed.flipped(position, 0).write(tmp_path / "slot")
    seen = observe(slot)
    assert judge(closed, seen) == []
    assert seen.after is not None
    assert (seen.after.dead, seen.after.damaged) == (3, 1)
    assert "queue.rows_damaged" in seen.lines


def test_damage_that_is_found_while_tracking_does_not_stop_it(tmp_path: Path) -> None:
    """A page goes bad under an open queue: the same object goes on with a new file, and takes its rows along."""
    slot = Slot(healthy(crashed=False).write(tmp_path / "slot").directory, 0)
    queue = SqliteQueue.take(slot)
    with queue, Lines() as lines:
        queue.put_many([payload(n) for n in range(200, 400)])
        queue._books.checkpoint("TRUNCATE")
        pages = slot.database.stat().st_size // PAGE_SIZE
        queue._connection.drop()
        with slot.database.open("r+b") as file:
            file.seek((pages // 2) * PAGE_SIZE)
            file.write(b"\xff" * 8)
        out = list(drained(queue))
        queue.put(LAST_WORDS)
        out += drained(queue)
        assert {payload(n) for n in range(200, 400)} - set(out) == set()
        assert LAST_WORDS in out
        assert queue.ledger().pending == 0
    assert [line for line in lines.lines if "file" in line] == ["queue.file_damaged", "queue.file_salvaged"]


# ── whole pages, whole files ─────────────────────────────────────────────────────────────────────────────────────────


def assert_only_what_is_gone_is_lost(whole: Files, left: Files, seen: Observed) -> None:
    """An event may be missing only if its bytes, or a page of its overflow, are not in what is left of the files."""
    lost = (whole.pending | whole.dead) - set(seen.out) - set(seen.dead)
    rest = left.database + left.wal
    assert [event[:40] for event in lost if len(event) < PAGE_SIZE // 2 and event in rest] == []
    assert judge(whole, seen, lost_max=len(lost), is_seen_by_sqlite=bool(rest)) == []


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_database_that_is_cut_short_keeps_what_is_left_of_it(closed: Files, tmp_path: Path, stride: int) -> None:
    """At every page, and in the middle of one."""
    for pages in range(0, len(closed.database) // PAGE_SIZE, stride):
        for extra in (0, 1000):
            left = replace(closed, database=closed.database[: pages * PAGE_SIZE + extra])
            _, seen = opened(left, tmp_path / f"{pages}-{extra}")
            assert_only_what_is_gone_is_lost(closed, left, seen)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_wal_that_is_cut_short_keeps_what_is_left_of_it(crashed: Files, tmp_path: Path, stride: int) -> None:
    """At every frame, and in the middle of one: what stands before is there, as after any crash."""
    for size in range(0, len(crashed.wal), (PAGE_SIZE + 24) * stride):
        left = replace(crashed, wal=crashed.wal[: size + 500])
        _, seen = opened(left, tmp_path / str(size))
        known = crashed.pending | crashed.dead | crashed.gone | {LAST_WORDS}
        assert set(seen.out) - known == set()
        assert {payload(n) for n in range(9, 29) if n != 20} <= set(seen.out)
        assert LAST_WORDS in seen.out


def test_without_its_wal_a_database_is_what_it_was_at_the_last_checkpoint(crashed: Files, tmp_path: Path) -> None:
    """Nothing else can be known; the ledger agrees with the rows, and tracking goes on."""
    _, seen = opened(replace(crashed, wal=b""), tmp_path)
    lost = (crashed.pending | crashed.dead) - set(seen.out) - set(seen.dead)
    assert {payload(n) for n in range(60, 120)} - crashed.gone == lost
    assert judge(crashed, seen, lost_max=len(lost), is_seen_by_sqlite=False) == []


def test_a_wal_of_another_file_lets_no_altered_bytes_out(crashed: Files, tmp_path: Path) -> None:
    """SQLite cannot tell whose a WAL is. What comes out was put somewhere, byte for byte, and tracking goes on."""
    other = healthy(crashed=True, count=90)
    files = replace(crashed, wal=other.wal)
    _, seen = opened(files, tmp_path)
    known = crashed.pending | crashed.dead | crashed.gone | other.pending | other.dead | other.gone | {LAST_WORDS}
    assert set(seen.out) - known == set()
    assert LAST_WORDS in seen.out
    assert seen.after is not None
    assert seen.after.pending == 0


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: bytes(100) + content[100:], id="a zeroed header"),
        pytest.param(lambda content: bytes(PAGE_SIZE) + content[PAGE_SIZE:], id="a zeroed first page"),
        pytest.param(lambda content: b"not a database at all" + content[21:], id="another header"),
        pytest.param(lambda content: content[:PAGE_SIZE] + bytes(PAGE_SIZE) + content[2 * PAGE_SIZE :], id="no map"),
        pytest.param(
            lambda content: content[: 2 * PAGE_SIZE] + bytes(PAGE_SIZE) + content[3 * PAGE_SIZE :], id="no root"
        ),
        pytest.param(
            lambda content: content[: 4 * PAGE_SIZE] + bytes(PAGE_SIZE) + content[5 * PAGE_SIZE :], id="no counts"
        ),
    ],
)
@pytest.mark.parametrize("state", ["closed", "crashed", "marked"])
def test_a_page_of_sqlites_own_may_be_lost(
    damage: Callable[[bytes], bytes], state: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every event is taken over, and the damaged file is kept beside the new one."""
    files: Files = request.getfixturevalue(state)
    left = replace(files, database=damage(files.database))
    slot, seen = opened(left, tmp_path)
    lost = files.pending - set(seen.out)
    assert lost == set()
    assert judge(files, seen, lost_max=len(files.dead)) == []
    if state == "closed":  # else the WAL has another copy of the page, perhaps
        (aside,) = kept(slot)
        assert len(left.database) == aside.stat().st_size
        assert {"queue.file_damaged", "queue.file_salvaged"} <= set(seen.lines)


def test_a_file_of_a_future_format_is_left_alone_and_tracking_goes_on_beside_it(closed: Files, tmp_path: Path) -> None:
    """A newer version was used before: its slot stays as it is, and the next one is taken."""
    future = closed.database[:63] + b"\x04" + closed.database[64:]
    slot = replace(closed, database=future).write(tmp_path / "slot")
    with Lines() as lines, source_at(slot.directory).open() as queue:
        assert queue.slot.index == 1
        queue.put(LAST_WORDS)
    assert slot.database.read_bytes() == future
    assert lines.lines == ["queue.slot_of_newer_format"]


def test_an_empty_database_beside_a_full_wal_loses_nothing(tmp_path: Path) -> None:
    """What the WAL has is taken over, though there is no database that it belongs to."""
    slot = Slot(tmp_path / "first", 0)
    slot.directory.mkdir(mode=0o700)
    with SqliteQueue.take(slot) as queue:
        queue.put_many([payload(n) for n in range(1, 60)])
        copy = copy_slot(slot, tmp_path / "copy")
    copy.database.write_bytes(b"")
    seen = observe(copy)
    assert {payload(n) for n in range(1, 60)} | {LAST_WORDS} == set(seen.out)
    assert seen.after is not None
    assert seen.after.pending == 0
    assert "queue.file_salvaged" in seen.lines


# ── crashes while mending ────────────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """Plays the end of the process."""


def die_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, nth: int) -> None:
    """Let the nth call of a method, and all later ones, be the end of the process."""
    real = getattr(owner, name)
    calls = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


def test_a_crash_between_the_renames_of_setting_aside_loses_nothing(crashed: Files, tmp_path: Path) -> None:
    """The database was moved, and its WAL was not: the next opening brings them together."""
    files = replace(crashed, database=bytes(100) + crashed.database[100:])
    slot = files.write(tmp_path / "slot")
    stamp = "20200101T000000-000000000"
    slot.database.rename(slot.directory / f"0.damaged-{stamp}.sqlite3")
    seen = observe(slot)
    assert judge(crashed, seen, lost_max=0) == []
    assert {f"0.salvaged-{stamp}.sqlite3", f"0.salvaged-{stamp}.sqlite3-wal"} <= seen.files


@pytest.mark.parametrize(
    ("owner", "name", "steps"),
    [(Books, "transaction", 8), (salvage, "sync_directory", 3), (salvage, "mark_done", 1)],
)
def test_a_crash_in_the_middle_of_taking_over_loses_nothing(
    crashed: Files, tmp_path: Path, owner: Any, name: str, steps: int
) -> None:
    """Killed before each step in turn: the next opening finishes it, and the count is right."""
    files = replace(crashed, database=bytes(100) + crashed.database[100:])
    for nth in range(1, steps + 1):
        slot = files.write(tmp_path / f"slot-{nth}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("durable_tracker.engines.sqlite.restore._ROWS", 40)
            die_at(patch, owner, name, nth)
            try:
                with SqliteQueue.take(slot) as queue:
                    queue.take_over_all()
            except Killed:
                slot.release()
        left = copy_slot(slot, tmp_path / f"copy-{nth}")
        assert judge(crashed, observe(left), lost_max=0, is_seen_by_sqlite=False) == []


def test_a_second_damage_while_the_first_is_being_mended_loses_nothing(closed: Files, tmp_path: Path) -> None:
    """The disk was full when the first was taken over, and then the new file was damaged too."""
    slot = replace(closed, database=bytes(100) + closed.database[100:]).write(tmp_path / "slot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("durable_tracker.engines.sqlite.restore._ROWS", 30)
        die_at(patch, restore.TakingOver, "_store", 3)
        with SqliteQueue.take(slot) as queue, pytest.raises(Killed):
            queue.take_over_all()
    content = slot.database.read_bytes()
    slot.database.write_bytes(bytes(100) + content[100:])
    seen = observe(slot)
    assert judge(closed, seen, lost_max=0) == []
    assert len([name for name in seen.files if name.startswith("0.salvaged") and name.endswith("sqlite3")]) == 2


def test_a_damaged_file_that_cannot_be_moved_is_an_error_that_says_so(closed: Files, tmp_path: Path) -> None:
    """Rather than going on without its events."""
    slot = replace(closed, database=bytes(100) + closed.database[100:]).write(tmp_path / "slot")

    def refuse(_slot: Slot) -> None:
        raise QueueError("cannot move it aside")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(salvage, "set_aside", refuse)
        with pytest.raises(QueueError, match="aside"):
            SqliteQueue.take(slot)
    assert closed.database[100:] == slot.database.read_bytes()[100:]
    assert Slot(slot.directory, 0).acquire()


@pytest.mark.parametrize("is_wal_moved", [True, False], ids=["", "between the two renames"])
def test_a_slot_of_which_only_the_file_set_aside_is_left_is_seen_by_everybody(
    crashed: Files, tmp_path: Path, is_wal_moved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between setting a damaged file aside and making a new one."""
    folder = tmp_path / "queues" / "shop"
    slot = crashed.write(folder)
    salvage.set_aside(slot)
    (aside,) = salvage.pending(slot)
    if not is_wal_moved:
        aside.with_name(aside.name + "-wal").rename(slot.wal)
    assert [slot.index for slot in existing_slots(folder)] == [0]
    assert main(["verify", str(folder)]) == Exit.UNREADABLE
    assert main(["status", "--queue-dir", str(tmp_path / "queues")]) == Exit.UNREADABLE
    assert f"its events wait in {aside.name}" in capsys.readouterr().err
    with Collector() as collector:
        assert drain(["--queue-dir", str(tmp_path / "queues"), "--to", collector.url, "--quiet"]) == Exit.EMPTY
    assert f"delivered {len(crashed.pending)}, remaining 0" in capsys.readouterr().out


def test_a_letter_that_was_edited_is_not_back_beside_its_torn_row(slot_dir: Path) -> None:
    """The transaction that put it back was not whole: of the same id, the letter alone is there."""

    def event(eid: str, **more: str) -> bytes:
        return json.dumps({"eid": eid, **more}).encode()

    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        queue.put_many([event("a"), event("b")])
        queue.reject([1], 400, "no")
        found = [event("a", edited="1"), event("c", edited="1"), event("a", edited="2")]
        rows = [(key, record(key, found[key - 3], replays=key < 5)) for key in (3, 4, 5)]
        restore.insert_beyond(queue._books, rows)
        assert [row.payload for row in queue.peek(0, 9, 1 << 20)] == [event("b"), found[1], found[2]]
        assert queue.ledger() == Ledger(accepted=4, pending=3, dead=1)
