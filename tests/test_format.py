"""Format 2, and what a release does with the files of an older or a newer one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from faults import older_release
from hypothesis import given
from hypothesis import strategies as st
from processes import NOBODY, PROGRAMS, TIMEOUT_S, wait_until

from durable_tracker import Emitter, drain
from durable_tracker.__main__ import main
from durable_tracker.collector.server import Collector
from durable_tracker.engines.queue import DeadLetter, Ledger, Row
from durable_tracker.engines.sqlite.connection import FORMAT
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.row_codec import (
    NOTED,
    Event,
    dead_letter_of,
    dead_letter_record,
    event_of,
    intact,
    is_intact,
    moved,
    record,
)
from durable_tracker.engines.sqlite.slots import Slot, existing_slots

if TYPE_CHECKING:
    from pathlib import Path


PROGRAM = PROGRAMS / "one_of_two_releases.py"
LOCKED = 0x20
"""A flag of a later release."""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release that wrote format 1."""
    return older_release.unpack(tmp_path_factory.mktemp("format-1"))


def of_format_1(key: int, payload: bytes) -> bytes:
    return crc32(payload, key).to_bytes(4, "big") + payload


def flagged(key: int, flags: int, rest: bytes) -> bytes:
    body = bytes([flags]) + rest
    return crc32(body, key).to_bytes(4, "big") + body


def number_of(payload: bytes | str) -> int:
    text = json.loads(payload)["eid"] if isinstance(payload, bytes) else payload
    return int(text.rpartition("-")[2])


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 1 << 62), st.binary(), st.integers(0, 1000), st.data())
def test_a_row_holds_the_payload_and_shows_each_flipped_bit(
    key: int, payload: bytes, replays: int, data: st.DataObject
) -> None:
    """The flags and the note are covered by the checksum as well; under another key the row is another one."""
    row = record(key, payload, replays)
    assert event_of(key, row) == Event(payload, replays)
    assert intact([(key, row)]) == [Row(key, payload)]
    at = data.draw(st.integers(0, 8 * len(row) - 1))
    altered = bytearray(row)
    altered[at // 8] ^= 1 << at % 8
    assert event_of(key, bytes(altered)) is None
    assert intact([(key, bytes(altered))]) == []
    assert event_of(7, moved(7, row)) == Event(payload, replays)


@given(st.integers(1, 1 << 31), st.dictionaries(st.text(), st.text()))
def test_a_row_of_format_1_is_read_as_it_is(key: int, fields: dict[str, str]) -> None:
    """The brace of its payload stands where the flags would."""
    payload = json.dumps(fields).encode()
    assert event_of(key, of_format_1(key, payload)) == Event(payload)
    rows = [
        (key, of_format_1(key, payload)),
        (key + 1, record(key + 1, payload)),
        (key + 2, record(key + 2, payload, 3)),
    ]
    assert intact(rows) == [Row(key, payload), Row(key + 1, payload), Row(key + 2, payload)]


@pytest.mark.parametrize("flags", [flags for flags in range(256) if flags not in (0, NOTED, ord("{"))])
def test_a_flag_of_a_later_release_is_neither_read_nor_taken_for_damage(flags: int) -> None:
    """The row is intact, and what stands in it is not known."""
    row = flagged(5, flags, b"sealed")
    assert is_intact(5, row)
    assert event_of(5, row) is None
    assert intact([(4, record(4, b"{}")), (5, row)]) == [Row(4, b"{}")]


@pytest.mark.parametrize(
    ("note", "event"),
    [
        (b'{"mood":"good"}', Event(b"{}", 0)),
        (b'{"replays":2,"mood":"good"}', Event(b"{}", 2)),
        (b"[1]", None),
        (b"{", None),
        (b"\xff", None),
    ],
)
def test_names_in_a_note_are_passed_by_and_a_note_that_is_none_is_not_read(note: bytes, event: Event | None) -> None:
    """The second is what a later release may have made of it: the row is intact, and stays."""
    row = flagged(5, NOTED, len(note).to_bytes(2, "big") + note + b"{}")
    assert is_intact(5, row)
    assert event_of(5, row) == event


def test_a_dead_letter_of_format_1_has_the_kind_that_it_must_have_had() -> None:
    """Their notes have neither a kind nor replays."""
    note = json.dumps({"status": 400, "reason": "no", "time_ms": 1}).encode()
    body = len(note).to_bytes(4, "big") + note + b"{}"
    for key, kind in ((9, "refused"), (-9, "damaged")):
        row = crc32(body, key ^ 0xDEAD).to_bytes(4, "big") + body
        assert dead_letter_of(key, row) == DeadLetter(key, 400, "no", 1, b"{}", kind, 0)
    letter = DeadLetter(3, None, "no", 1, b"{}", "invalid", 2)
    assert dead_letter_of(3, dead_letter_record(letter)) == letter


def test_rows_of_a_later_release_stay_and_hold_up_nobody(slot_dir: Path) -> None:
    """They are pending, and counted as locked; everything else is delivered, refused and swept around them."""
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        queue.put_many([b'{"n":%d}' % n for n in range(1, 301)])
        for key in (1, 150, 300):
            row = flagged(key, LOCKED, b"sealed")
            queue._connection.execute("UPDATE events SET value = ? WHERE key = ?", (row, key))
        rows = queue.peek(0, 1000, 1 << 20)
        assert [row.key for row in rows] == [key for key in range(1, 301) if key not in (1, 150, 300)]
        queue.reject([rows[0].key], 400, "no")
        queue.ack([row.key for row in rows[1:]])
        assert queue.peek(0, 1000, 1 << 20) == []
        assert queue.ledger() == Ledger(accepted=300, pending=3, delivered=296, dead=1, locked=3)
        assert queue.ledger().adds_up
        queue.shrink()
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        assert queue.peek(0, 1000, 1 << 20) == []
        assert queue.ledger() == Ledger(accepted=300, pending=3, delivered=296, dead=1, locked=3)


# ── a slot of format 1 ───────────────────────────────────────────────────────────────────────────────────────────────


def run_release(release: Path | None, queue_dir: Path, first: int, count: int) -> subprocess.CompletedProcess[str]:
    """Have a release track some events that nobody takes."""
    expected = "1" if release else str(FORMAT)
    arguments = [str(PROGRAM), NOBODY, str(queue_dir), str(first), str(count), expected]
    return subprocess.run(
        [sys.executable, *arguments],
        env=older_release.environment(release),
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )


def format_on_disk(slot: Slot) -> int:
    return int.from_bytes(slot.database.read_bytes()[60:64], "big")


def test_a_slot_of_format_1_is_taken_over_where_it_is(older: Path, tmp_path: Path) -> None:
    """Its rows stay as they are, its counts go on, and the older release refuses it from then on, untouched."""
    run_release(older, tmp_path, 1, 40)
    (slot,) = existing_slots(tmp_path / "shop")
    assert format_on_disk(slot) == 1
    assert main(["verify", str(slot.database)]) == 0
    assert format_on_disk(slot) == 1, "to look at it raises nothing"
    with SqliteQueue.take(slot) as queue:
        rows = [row.payload for row in queue.peek(0, 100, 1 << 20)]
        assert [number_of(payload) for payload in rows] == list(range(1, 41))
        assert queue.events[1] == of_format_1(1, rows[0])
        assert format_on_disk_of_open(queue) == FORMAT
        queue.reject([1], 400, "no")
        queue.put(rows[0])
        assert queue.ledger() == Ledger(accepted=41, pending=40, dead=1)
        assert queue.requeue([1]) == 1
        queue.reject([42], 400, "again")
        assert [(letter.payload, letter.replays) for letter in queue.dead_letters()] == [(rows[0], 1)]
    before = slot.database.read_bytes()
    run_release(older, tmp_path, 100, 3)
    assert slot.database.read_bytes() == before
    assert [(slot.index, format_on_disk(slot)) for slot in existing_slots(tmp_path / "shop")] == [(0, FORMAT), (1, 1)]


def format_on_disk_of_open(queue: SqliteQueue) -> int:
    return int(queue._connection.pragma("user_version"))


# ── both releases beside each other ──────────────────────────────────────────────────────────────────────────────────


class Tracking:
    """A process of one of the releases that tracks until it is killed."""

    def __init__(self, release: Path | None, url: str, queue_dir: Path, first: int) -> None:
        arguments = [str(PROGRAM), url, str(queue_dir), str(first), "0", "1" if release else str(FORMAT)]
        self.output = queue_dir.with_name(f"from-{first}")
        self.first = first
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=older_release.environment(release), stdout=output, stderr=output
            )

    def lines(self) -> list[str]:
        return self.output.read_text(encoding="utf-8").splitlines(keepends=True)

    def kill(self) -> list[int]:
        """Kill it, and return the events that it was told are on disk."""
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        return [int(line) for line in self.lines() if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rolling_deploy_loses_nothing_and_no_slot_has_two_owners(older: Path, tmp_path: Path) -> None:
    """Processes of both releases are started, killed and replaced on one directory, forwards and back again."""
    rng = random.Random(7)
    queue_dir = tmp_path / "queues"
    queue_dir.mkdir(mode=0o700)
    acknowledged: list[int] = []
    with Collector() as collector:
        running: list[Tracking] = []
        for step in range(24):
            # The newer release comes in, is rolled back, and comes in for good.
            newer_share = (0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 1.0)[step // 3]
            release = None if rng.random() < newer_share else older
            running.append(Tracking(release, collector.url, queue_dir, 1_000_000 * (step + 1)))
            wait_until(lambda: len(running[-1].lines()) > 20)
            if len(running) == 4:
                acknowledged += running.pop(rng.randrange(3)).kill()
        for one in running:
            acknowledged += one.kill()
        assert drain.main(["--queue-dir", str(queue_dir), "--name", "shop"]) == 0
        received = [number_of(eid) for eid in collector.eids()]
    assert len(acknowledged) > 24 * 20
    assert set(acknowledged) - set(received) == set()
    # One request in flight for each process that was killed, of which the removal was not committed.
    assert len(received) - len(set(received)) <= 24 * 500
    slots = existing_slots(queue_dir / "shop")
    assert {format_on_disk(slot) for slot in slots} == {FORMAT}
    for slot in slots:
        with SqliteQueue.take(slot) as queue:
            assert queue.ledger().adds_up, queue.ledger()
            assert queue.ledger().pending == 0


def test_a_flush_does_not_wait_for_rows_of_a_later_release(tmp_path: Path) -> None:
    """Nobody will ever send them here: it says so at once."""
    with Collector() as collector:
        emitter = Emitter(collector.url, queue_dir=tmp_path, drain=False)
        emitter.put_many([b'{"e":"pv","p":"srv","tv":"test","n":"%d"}' % n for n in range(3)])
        slot = emitter.stats().slot
        emitter.close()
        assert slot is not None
        with SqliteQueue.take(Slot(slot.parent, 0)) as queue:
            queue._connection.execute("UPDATE events SET value = ? WHERE key = 2", (flagged(2, LOCKED, b"sealed"),))
        emitter = Emitter(collector.url, queue_dir=tmp_path)
        started_at = time.monotonic()
        assert not emitter.flush()
        assert not emitter.flush(timeout=20)
        assert time.monotonic() - started_at < 10
        emitter.close()
        assert emitter.stats().ledger.adds_up
        assert (emitter.stats().ledger.delivered, emitter.stats().ledger.locked) == (2, 1)
        assert drain.main(["--queue-dir", str(tmp_path)]) != 0


def test_what_a_later_release_adds_is_passed_by(slot_dir: Path) -> None:
    """New keys of `meta`, new names in a note; a letter with a flag that is not known is shown, and not put back."""
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        queue.put_many([b'{"n":1}', b'{"n":2}'])
        queue.reject([1], 400, "no")
        queue._connection.execute("INSERT INTO meta (key, value) VALUES ('of_later', 5)")
        queue._connection.execute("INSERT INTO meta (key, value) VALUES ('also_later', x'7b7d')")
        for key, more in ((1, {"mood": "good"}), (7, {"flags": LOCKED})):
            fields = {"status": 400, "reason": "no", "time_ms": 1, "kind": "refused", "replays": 3, **more}
            note = json.dumps(fields).encode()
            body = len(note).to_bytes(4, "big") + note + b'{"n":1}'
            row = crc32(body, key ^ 0xDEAD).to_bytes(4, "big") + body
            queue._connection.execute("INSERT OR REPLACE INTO dead_letters (key, value) VALUES (?, ?)", (key, row))
    with SqliteQueue.take(Slot(slot_dir, 0)) as queue:
        assert [(letter.key, letter.replays) for letter in queue.dead_letters(10)] == [(1, 3), (7, 3)]
        assert queue.requeue([7]) == 0
        assert queue.requeue([1]) == 1
        assert [row.payload for row in queue.peek(0, 10, 1 << 20)] == [b'{"n":2}', b'{"n":1}']
        assert queue._books.meta.get("of_later") == 5
