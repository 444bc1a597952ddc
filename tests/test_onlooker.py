"""Reading a slot while its owner writes: never a crash, never a write, nothing altered, the books add up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from processes import PROGRAMS, wait_until

from durable_tracker.engines.engine import View
from durable_tracker.engines.queue import Ledger, Row
from durable_tracker.engines.sqlite import onlooker, wal
from durable_tracker.engines.sqlite.engine import SlotPlace
from durable_tracker.engines.sqlite.onlooker import OwnerOnlooker, SlotOnlooker
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.row_codec import event_of
from durable_tracker.engines.sqlite.slots import Slot
from durable_tracker.errors import DamagedQueueError, StorageError, UnknownFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAYING = 400


def payload(number: int) -> bytes:
    """As busy_owner.py makes it."""
    return b'{"n":%d,"x":"%s"}' % (number, b"x" * (number % 37 * 40 if number % 50 else 6000))


class Owner:
    """A process that owns the slot, and works on it as fast as it can."""

    def __init__(self, directory: Path, seed: int) -> None:
        command = [sys.executable, str(PROGRAMS / "busy_owner.py"), str(directory), str(STAYING), str(seed)]
        self.output = directory.with_name(f"output-{seed}")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        wait_until(lambda: b"ready" in self.output.read_bytes() or self.process.poll() is not None)

    def steps(self) -> int:
        return self.output.read_bytes().count(b"\n") - 1


@contextlib.contextmanager
def owner(directory: Path, seed: int = 1) -> Iterator[Owner]:
    started = Owner(directory, seed)
    try:
        yield started
        assert started.process.poll() is None, started.output.read_text()
    finally:
        started.process.kill()
        started.process.wait()


def look_for(directory: Path, seconds: float, *, looks: int = 0, until_wrong: bool = False) -> Counter[str]:
    """Look again and again, and return what was wrong, by its kind.

    Args:
        directory: the slot's.
        seconds: for how long.
        looks: how often at least, whatever the time.
        until_wrong: only until something is wrong.
    """
    wrong: Counter[str] = Counter()
    until = time.monotonic() + seconds
    before = Ledger()
    while (time.monotonic() < until or wrong["looks"] < looks) and not (
        until_wrong and sum((+wrong).values()) > wrong["looks"]
    ):
        with SlotPlace(Slot(directory, 0)).look() as looker:
            try:
                view = looker.books()
                rows = list(looker.rows())
                letters = list(looker.letters())
            except StorageError as exc:
                wrong[type(exc).__name__] += 1
                continue
        wrong["looks"] += 1
        wrong["books"] += not view.ledger.adds_up
        wrong["went back"] += view.ledger.accepted < before.accepted or view.ledger.delivered < before.delivered
        before = view.ledger
        numbers = [json.loads(row.payload)["n"] for row in rows]
        wrong["altered"] += any(
            number and payload(number) != row.payload for number, row in zip(numbers, rows, strict=True)
        )
        wrong["altered"] += getattr(looker, "damaged", 0)
        seen = Counter(number for number in numbers if 0 < number <= 3 * STAYING and (number + 4 * STAYING) % 3 == 0)
        wrong["doubled"] += seen.total() - len(seen)  # others may be refused and put back meanwhile
        wrong["lost"] += STAYING - len(seen)
        wrong["altered"] += sum(
            letter.payload != payload(number) for letter in letters if (number := json.loads(letter.payload)["n"])
        )
    return wrong


# ── beside a live owner ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_event_that_stays_is_seen_once_beside_an_owner_that_writes_all_the_time(tmp_path: Path) -> None:
    """While it puts, acks, refuses, checkpoints, restarts its WAL and vacuums."""
    with owner(tmp_path / "slot") as busy:
        found = look_for(tmp_path / "slot", 3, looks=3)
        assert busy.steps() > 10
    del found["looks"]
    assert +found == Counter()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 5))
def test_every_event_that_stays_is_seen_once_whatever_the_owner_does(tmp_path: Path, seed: int) -> None:
    """Longer, and in other orders."""
    with owner(tmp_path / "slot", seed) as busy:
        found = look_for(tmp_path / "slot", 12, looks=10)
        assert busy.steps() > 10
    del found["looks"]
    assert +found == Counter()


def test_looking_changes_no_byte(tmp_path: Path) -> None:
    """Neither of the files nor of the directory, beside a stopped owner; a kill of the owner changes nothing either."""
    directory = tmp_path / "slot"
    with owner(directory) as busy:
        busy.process.send_signal(signal.SIGSTOP)

        def files() -> dict[str, tuple[bytes, int]]:
            return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}

        before = files()
        with SlotPlace(Slot(directory, 0)).look() as looker:
            rows, view = list(looker.rows()), looker.books()
        assert files() == before
        busy.process.send_signal(signal.SIGCONT)
    assert view.ledger.pending == len(rows)


def test_looking_in_goes_on_when_the_owner_is_killed_and_another_takes_over(tmp_path: Path) -> None:
    """What a killed owner leaves is read as its successor finds it."""
    directory = tmp_path / "slot"
    with owner(directory):
        time.sleep(0.3)
    with SlotPlace(Slot(directory, 0)).look() as looker:
        view, rows = looker.books(), list(looker.rows())
        letters = list(looker.letters())
    with SqliteQueue.take(Slot(directory, 0)) as queue:
        assert queue.ledger() == view.ledger
        assert queue.peek(0, 1 << 30, 1 << 40) == rows
        assert queue.dead_letters(1 << 30, -(1 << 62)) == letters
        assert view.oldest == rows[0]


# ── without an owner, and in its own process ─────────────────────────────────────────────────────────────────────────


def filled(directory: Path) -> SqliteQueue:
    queue = SqliteQueue.take(Slot(directory, 0))
    queue.set_origin({"url": "https://c.example", "method": "post"})
    queue.put_many([payload(number) for number in range(1, 1500)])
    queue.ack([row.key for row in queue.peek(0, 300, 1 << 30)])
    queue.reject([400, 401], 400, "no")
    return queue


def test_it_sees_what_the_queue_says(slot_dir: Path) -> None:
    """From within the owner's process, where the queue is asked, and from outside."""
    with filled(slot_dir) as queue:
        place = SlotPlace(queue.slot)
        with place.look() as looker:
            assert isinstance(looker, OwnerOnlooker)
            within = (looker.books(), list(looker.rows()), list(looker.letters()))
        assert within[0].ledger == queue.ledger()
        assert within[1] == queue.peek(0, 1 << 30, 1 << 40)
    with place.look() as looker:
        assert isinstance(looker, SlotOnlooker)
        outside = (looker.books(), list(looker.rows()), list(looker.letters()))
    assert outside[1:] == within[1:]
    assert outside[0].ledger == within[0].ledger
    assert outside[0].oldest == within[0].oldest
    assert outside[0].origin == within[0].origin


def test_a_slot_that_was_just_made_is_empty(slot_dir: Path) -> None:
    """Also one whose process was killed before it had tables."""
    slot = Slot(slot_dir, 0)
    slot.database.touch(0o600)
    time.sleep(0.03)
    with SlotOnlooker(slot) as looker:
        assert looker.books() == View(ledger=Ledger(), origin={}, used_bytes=0, oldest=None)
        assert list(looker.rows()) == []


def test_what_cannot_be_read_is_named(slot_dir: Path) -> None:
    """A newer release's file, a damaged one, none at all."""
    filled(slot_dir).close()
    slot = Slot(slot_dir, 0)
    whole = slot.database.read_bytes()
    slot.database.write_bytes(whole[:60] + (64).to_bytes(4, "big") + whole[64:])
    time.sleep(0.03)
    with SlotOnlooker(slot) as looker, pytest.raises(UnknownFormatError):
        looker.books()
    slot.database.write_bytes(whole[: 4096 * 2] + b"\xff" * 4096 + whole[4096 * 3 :])
    time.sleep(0.03)
    with SlotOnlooker(slot) as looker, pytest.raises(DamagedQueueError):
        list(looker.rows())
    slot.database.unlink()
    with pytest.raises(StorageError, match="missing"):
        SlotOnlooker(slot)


def test_altered_rows_are_counted_and_not_shown(slot_dir: Path) -> None:
    """The others are."""
    filled(slot_dir).close()
    slot = Slot(slot_dir, 0)
    content = slot.database.read_bytes()
    at = content.index(b'{"n":1000,')
    slot.database.write_bytes(content[:at] + b"[" + content[at + 1 :])
    time.sleep(0.03)
    with SlotOnlooker(slot) as looker:
        numbers = [json.loads(row.payload)["n"] for row in looker.rows()]
        assert looker.damaged == 1
        assert looker.books().ledger.pending == len(numbers) + 1
    assert 1000 not in numbers


# ── broken variants ──────────────────────────────────────────────────────────────────────────────────────────────────


def is_found_out(tmp_path: Path) -> bool:
    """Return whether something is wrong that a variant sees, beside one of several owners."""
    for seed in range(20):
        directory = tmp_path / str(seed)
        with owner(directory, seed):
            found = look_for(directory, 4, until_wrong=True)
        del found["looks"]
        if +found:
            return True
    return False


class SaltsAlone(wal.Log):
    """Believes the header, and does not look at the frames again."""

    def look(self) -> None:
        if not self.header or os.path.getsize(self._path) == 0 or self.header != self._path.read_bytes()[:32]:
            super().look()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reader_that_looks_at_the_salts_alone_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint writes pages of newer frames into the database without a restart."""
    monkeypatch.setattr(onlooker, "Log", SaltsAlone)
    assert is_found_out(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reader_that_skips_the_checksums_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes frames of a transaction that is being written, or was given up."""

    class Unchecked(wal.Log):
        def _read_on(self, descriptor: int) -> None:
            content = os.pread(descriptor, 1 << 26, 32 + len(self.order) * wal.FRAME_SIZE)
            for start in range(0, len(content) - wal.FRAME_SIZE + 1, wal.FRAME_SIZE):
                frame = content[start : start + wal.FRAME_SIZE]
                number, count = int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:8], "big")
                self.overlay[number] = frame[24:]
                self.order.append(number)
                self.page_count = count or self.page_count

    monkeypatch.setattr(onlooker, "Log", Unchecked)
    assert is_found_out(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reader_in_the_order_of_pages_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vacuum moves pages, and rows with them, to where it has been already, or will be again."""

    def in_page_order(looker: SlotOnlooker, after: int = 0) -> Iterator[Any]:
        number = 0
        while True:
            number += 1
            rows = looker._read(lambda pages, at=number: list(pages.records(at)) if at <= pages.count else None)  # type: ignore[misc]
            if rows is None:
                return
            for rowid, columns in rows:
                event = event_of(rowid, columns[-1]) if columns else None
                if event is not None:
                    yield Row(rowid, event.payload)

    monkeypatch.setattr(SlotOnlooker, "rows", in_page_order)
    assert is_found_out(tmp_path)
