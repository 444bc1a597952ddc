"""Reading commands on damaged files: what is left out is said by exit code 4, nothing altered is shown or written."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from damage import PAGE_SIZE, Files, healthy
from looking import READING, age, files, lines, said, said_by_processes

from durable_tracker.commands.exit_codes import Exit

if TYPE_CHECKING:
    from pathlib import Path

SEED = 20261125
WAL_HEADER, FRAME = 32, 24 + PAGE_SIZE


@pytest.fixture(scope="module", params=[False, True], ids=["closed", "crashed"])
def sound(request: pytest.FixtureRequest) -> Files:
    """The files of a slot with pending, delivered and refused events, before they are damaged."""
    return healthy(crashed=request.param)


def problems(damaged: Files, folder: Path, *, is_wal_sound: bool, by_processes: bool = False) -> list[str]:
    """Return what is wrong with what the commands say of damaged files.

    Args:
        damaged: with what was pending and dead before.
        folder: for the files.
        is_wal_sound: else the WAL ends where it is damaged, for whoever reads: what follows may be being written.
        by_processes: whether to run the commands in processes as well.
    """
    damaged.write(folder / "shop")
    age(folder)
    before = files(folder)
    answers = said(folder)
    found = []
    if files(folder) != before:
        found.append("a file was changed")
    if by_processes and said_by_processes(folder) != answers:
        found.append("processes say something else")
    known: list[Any] = [json.loads(one) for one in damaged.pending | damaged.dead | damaged.gone]
    pending, dead = ([json.loads(one) for one in them] for them in (damaged.pending, damaged.dead))
    whole = (None, pending, pending, dead, pending + dead)
    for (name, *_), (code, out, err), expected in zip(READING, answers, whole, strict=True):
        if code not in (Exit.EMPTY, Exit.UNREADABLE) or (code == Exit.UNREADABLE) != ("0.sqlite3" in err):
            found.append(f"{name} ends with {code}: {err}")
        if expected is None:
            continue
        shown = [one["event"] for one in lines(out)]
        if any(one not in known for one in shown):
            found.append(f"{name} shows what was altered")
        if is_wal_sound and code == Exit.EMPTY and any(one not in shown for one in expected):
            found.append(f"{name} left something out, and did not say so")
    return found


def wrecked(sound: Files, page: int, filling: bytes) -> Files:
    start = page * PAGE_SIZE
    content = sound.database[:start] + filling * PAGE_SIZE + sound.database[start + PAGE_SIZE :]
    return replace(sound, database=content)


@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"\x0d"])
def test_a_page_that_is_gone_is_exit_code_4_or_held_nothing(sound: Files, tmp_path: Path, filling: bytes) -> None:
    """Each page of the database in turn: it is said wherever something is left out."""
    found, codes = [], set()
    for page in range(len(sound.database) // PAGE_SIZE):
        folder = tmp_path / str(page)
        damaged = wrecked(sound, page, filling)
        found += [f"page {page}: {one}" for one in problems(damaged, folder, is_wal_sound=True, by_processes=page == 2)]
        codes |= {code for code, *_ in said(folder)}
    assert found == []
    assert Exit.UNREADABLE in codes


@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_flipped_bit_is_never_shown_and_never_mended(sound: Files, tmp_path: Path, flips: int) -> None:
    """Anywhere in the database or the WAL."""
    rng = random.Random(SEED)
    found: list[str] = []
    for number in range(flips):
        position = rng.randrange(sound.size)
        damaged = sound.flipped(position, rng.randrange(8))
        if sound.is_of_counts(position):
            continue  # the counts have no checksum, and the mark among them says from where on events are pending
        is_wal_sound = position < len(sound.database)
        found += [
            f"bit at {position}: {one}" for one in problems(damaged, tmp_path / str(number), is_wal_sound=is_wal_sound)
        ]
    # Open: a page says itself how many rows it has and where, without a checksum, so that a few are passed by unsaid.
    unsaid = [one for one in found if one.endswith("left something out, and did not say so")]
    assert [one for one in found if one not in unsaid] == []
    assert len(unsaid) <= flips // 100, unsaid


@pytest.mark.parametrize("cuts", [25, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_files_that_are_cut_short_are_read_as_far_as_they_go(sound: Files, tmp_path: Path, cuts: int) -> None:
    """The database, but in its first bytes, without which nobody can tell that it was ever used; or the WAL."""
    rng = random.Random(SEED)
    found = []
    for number in range(cuts):
        cut = rng.randrange(32, sound.size)
        of_wal = max(cut - len(sound.database), 0)
        damaged = replace(sound, wal=sound.wal[:of_wal]) if of_wal else replace(sound, database=sound.database[:cut])
        found += [f"cut at {cut}: {one}" for one in problems(damaged, tmp_path / str(number), is_wal_sound=not of_wal)]
    assert found == []
