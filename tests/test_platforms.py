"""Where the promise was not tested: the strongest sync there is, and one warning; Windows is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import label

from durable_tracker.collector import Collector
from durable_tracker.engines.sqlite import connection, syncing
from durable_tracker.errors import StorageError

PROGRAMS = Path(__file__).parent / "programs"
WARNING = "emitter.untested_platform"


class Calls:
    """The system's calls for syncing, noted and not made."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.error: int | None = None

    def fsync(self, _descriptor: int) -> None:
        self.made.append("fsync")

    def fdatasync(self, _descriptor: int) -> None:
        self.made.append("fdatasync")

    def fcntl(self, _descriptor: int, command: int) -> int:
        assert command == 51
        self.made.append("F_FULLFSYNC")
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Note the calls of a system that has the three."""
    noted = Calls()
    monkeypatch.setattr(os, "fsync", noted.fsync)
    monkeypatch.setattr(os, "fdatasync", noted.fdatasync)
    monkeypatch.setattr(fcntl, "fcntl", noted.fcntl)
    return noted


def sync_both() -> None:
    syncing.sync_file(0)
    syncing.sync_data(0)


def test_linux_syncs_by_fsync_and_fdatasync(calls: Calls) -> None:
    """And leaves SQLite's own syncs as they are."""
    sync_both()
    assert calls.made == ["fsync", "fdatasync"]
    assert syncing.sqlite_pragmas() == ()


def test_where_there_is_no_fdatasync_fsync_does_it(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does more, never less."""
    monkeypatch.delattr(os, "fdatasync")
    sync_both()
    assert calls.made == ["fsync", "fsync"]


def test_macos_has_the_drive_empty_its_cache(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fsync does not, and SQLite has to be told as well."""
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    sync_both()
    assert calls.made == ["F_FULLFSYNC", "F_FULLFSYNC"]
    assert syncing.sqlite_pragmas() == ("fullfsync", "checkpoint_fullfsync")


def test_a_full_sync_that_a_file_system_does_not_know_is_made_the_ordinary_way(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that failed is an error: a second call could succeed without writing anything."""
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    calls.error = errno.ENOTSUP
    sync_both()
    assert calls.made == ["F_FULLFSYNC", "fsync", "F_FULLFSYNC", "fdatasync"]
    calls.error = errno.EIO
    for sync in (syncing.sync_file, syncing.sync_data):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            sync(0)
    assert calls.made[4:] == ["F_FULLFSYNC", "F_FULLFSYNC"]


@pytest.mark.parametrize(
    ("platform", "is_free_threaded", "said"),
    [
        ("linux", False, []),
        ("darwin", False, ["darwin"]),
        ("linux", True, ["interpreter lock"]),
        ("freebsd14", True, ["freebsd14", "interpreter lock"]),
    ],
)
def test_each_reason_for_doubt_is_logged_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    platform: str,
    is_free_threaded: bool,
    said: list[str],
) -> None:
    """Another system, or a build without the interpreter's lock."""
    monkeypatch.setattr(syncing, "_warned", set())
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "abiflags", "t" if is_free_threaded else "")
    with caplog.at_level(logging.WARNING):
        syncing.warn_if_untested()
        syncing.warn_if_untested()
    reasons = [str(vars(record)["reason"]) for record in caplog.records if vars(record)["event"] == WARNING]
    assert len(reasons) == len(said)
    assert all(word in reason for word, reason in zip(said, reasons, strict=True))


def test_everything_works_with_what_macos_has(tmp_path: Path) -> None:
    """No fdatasync, no fallocate, no /proc: stored, drained, delivered, synced in full, and said once."""
    with Collector() as collector:
        command = [sys.executable, "-W", "error", str(PROGRAMS / "as_on_macos.py"), collector.url, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(map(label, collector.events)) == ["first-left", "second-left", "sent"]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0
    assert found["synced"] == ["directory", "file"]
    assert found["pragmas"] == {"fullfsync": 1, "checkpoint_fullfsync": 1}
    assert found["log"].count(WARNING) == 1


def test_windows_is_refused_at_import_with_the_reason() -> None:
    """By whichever module comes first."""
    for module in ("durable_tracker", "durable_tracker.errors"):
        program = f"import sys; sys.platform = 'win32'; import {module}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert "ImportError: durable_tracker does not run on Windows, which has no fork-safe locks" in done.stderr


def test_an_error_without_a_code_of_sqlite_is_one_of_the_store() -> None:
    """It is no success and no taken key, and says that the code is missing."""
    for kind in (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.OperationalError):
        error = connection._mapped(kind("UNIQUE constraint failed"), Path("q"))
        assert type(error) is StorageError
        assert str(error) == f"q: UNIQUE constraint failed ({kind.__name__}, without an error code of SQLite)"


def test_the_errors_of_sqlite_have_codes() -> None:
    """As the module sqlite3 of the interpreter that the tests run on gives them."""
    raw = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.Error) as caught:
        raw.execute("no statement")
    raw.close()
    assert connection._code(caught.value) == sqlite3.SQLITE_ERROR
