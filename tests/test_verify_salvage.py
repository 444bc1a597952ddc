"""`verify` and `salvage`: what the emitter does by itself, done by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from damage import PAGE_SIZE, Files, healthy, judge, observe, payload

from durable_tracker.__main__ import main
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def closed() -> Files:
    """A slot that was closed."""
    return healthy(crashed=False)


@pytest.fixture(scope="module")
def crashed() -> Files:
    """A slot whose process was killed."""
    return healthy(crashed=True)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".lock"}


def hide_rows(content: bytes) -> bytes:
    """Count fewer cells on a page of events: SQLite reads on, and does not see them."""
    page = content.index(payload(40)) // PAGE_SIZE * PAGE_SIZE
    return content[: page + 3] + b"\0\1" + content[page + 5 :]


def alter_row(content: bytes) -> bytes:
    return content.replace(payload(40), payload(40).replace(b'"pv"', b'"PV"'))


def test_a_sound_queue_is_said_to_be_sound_and_left_as_it_is(
    closed: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0; the bytes of a closed queue do not change."""
    slot = closed.write(tmp_path / "slot")
    before = contents(slot.directory)
    assert main(["verify", str(slot.database)]) == Exit.EMPTY
    assert f"sound; pending {len(closed.pending)}, dead letters {len(closed.dead)}" in capsys.readouterr().out
    assert contents(slot.directory) == before


def test_where_no_queue_is_none_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else a wrong directory would look like a sound queue."""
    assert main(["verify", "--queue-dir", str(tmp_path)]) == Exit.USAGE
    assert capsys.readouterr().err == f"verify: no queue is in {tmp_path}\n"


def test_a_queue_that_was_killed_is_sound(crashed: Files, tmp_path: Path) -> None:
    """Its WAL is merged, as by any opening, and all events are there afterwards."""
    slot = crashed.write(tmp_path / "slot")
    assert main(["verify", str(slot.directory)]) == Exit.EMPTY
    assert judge(crashed, observe(slot), lost_max=0) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda content: bytes(100) + content[100:], "no SQLite header", id="header"),
        pytest.param(hide_rows, "are counted, and", id="hidden rows"),
        pytest.param(alter_row, "1 rows of events fail their checksum", id="altered row"),
        pytest.param(lambda content: content[: 9 * PAGE_SIZE], "the last page of table", id="cut short"),
        pytest.param(lambda content: content[:68] + b"\xff\xff" + content[70:], "left untouched", id="not ours"),
    ],
)
def test_damage_is_named_and_nothing_is_touched(
    damage: Callable[[bytes], bytes],
    said: str,
    closed: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 4, one line for each problem, and the same bytes as before."""
    slot = replace(closed, database=damage(closed.database)).write(tmp_path / "slot")
    before = contents(slot.directory)
    assert main(["verify", "--json", str(slot.database)]) == Exit.UNREADABLE
    report = json.loads(capsys.readouterr().out)
    assert not report["is_sound"]
    assert [problem for problem in report["problems"] if said in problem], report
    assert before["0.sqlite3"][100:] == contents(slot.directory)["0.sqlite3"][100:]


def test_a_wal_that_sqlite_would_give_up_is_named_and_kept(
    crashed: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening it would throw away what stands beyond: verify does not, and salvage takes it over."""
    slot = crashed.flipped(len(crashed.database) + 32 + 5 * (PAGE_SIZE + 24) + 1000, 2).write(tmp_path / "slot")
    before = contents(slot.directory)
    assert main(["verify", str(slot.database)]) == Exit.UNREADABLE
    assert "frame 6 of the WAL is damaged" in capsys.readouterr().out
    assert contents(slot.directory) == before
    assert main(["salvage", str(slot.database)]) == Exit.EMPTY
    seen = observe(slot)
    assert judge(crashed, seen, is_seen_by_sqlite=False) == []
    assert [before["0.sqlite3-wal"]] == [path.read_bytes() for path in slot.directory.glob("0.salvaged-*-wal")]


def test_salvage_takes_intact_rows_over_and_keeps_the_damaged_file(
    closed: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand what the emitter does by itself; a second verify finds nothing."""
    damaged = replace(closed, database=alter_row(closed.database))
    slot = damaged.write(tmp_path / "slot")
    assert main(["salvage", str(slot.database)]) == Exit.EMPTY
    out = capsys.readouterr().out
    assert "fail their checksum" in out
    assert "kept: " in out
    assert [damaged.database] == [path.read_bytes() for path in slot.directory.glob("0.salvaged-*.sqlite3")]
    assert main(["verify", str(slot.database)]) == Exit.EMPTY
    seen = observe(slot)
    assert judge(closed, seen, is_seen_by_sqlite=False) == []
    assert closed.pending - set(seen.out) == {payload(40)}


def test_salvage_refuses_a_sound_queue_unless_forced(
    closed: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and nothing was touched; with --force every event is taken over."""
    slot = closed.write(tmp_path / "slot")
    before = contents(slot.directory)
    assert main(["salvage", str(slot.database)]) == Exit.USAGE
    assert "is sound" in capsys.readouterr().err
    assert contents(slot.directory) == before
    assert main(["salvage", "--force", str(slot.database)]) == Exit.EMPTY
    assert judge(closed, observe(slot), lost_max=0, is_seen_by_sqlite=False) == []


def test_salvage_refuses_a_queue_of_another_format(closed: Files, tmp_path: Path) -> None:
    """A newer version's queue is no damage."""
    future = closed.database[:63] + b"\x04" + closed.database[64:]
    slot = replace(closed, database=future).write(tmp_path / "slot")
    assert main(["salvage", str(slot.database)]) == Exit.UNREADABLE
    assert slot.database.read_bytes() == future


@pytest.mark.parametrize("command", ["verify", "salvage"])
def test_a_queue_in_use_is_left_alone(
    command: str, closed: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, with the owner's pid."""
    slot = closed.write(tmp_path / "slot")
    with SqliteQueue.take(Slot(slot.directory, 0)):
        assert main([command, str(slot.database)]) == Exit.BUSY
    assert "in use by process" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["verify", "nowhere"], ["salvage", "nowhere"], ["salvage"]])
def test_a_queue_that_does_not_exist_is_an_error_of_usage(arguments: list[str]) -> None:
    """Exit code 2; salvage never guesses what it is about."""
    assert main(arguments) == Exit.USAGE
