"""`selftest`, and what is known of the file system that a queue is on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durable_tracker import Emitter
from durable_tracker.__main__ import main
from durable_tracker.commands import selftest
from durable_tracker.commands.exit_codes import Exit
from durable_tracker.engines.sqlite import filesystem
from durable_tracker.engines.sqlite.filesystem import FileSystem, file_system_of

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /run rw,nosuid - tmpfs tmpfs rw,size=100k
24 22 0:22 / /mnt/share rw - nfs4 host:/share rw
25 22 0:23 / /mnt/with\040space rw shared:5 master:1 - fuse.sshfs host: rw
26 24 254:1 / /mnt/share/local rw - xfs /dev/vdb rw
27 22 0:24 / /mnt/over rw - ext4 /dev/vdc rw
28 22 0:25 / /mnt/over rw - cifs //host/share rw
""".lstrip()


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the machine have other mounts."""

    def set_mounts(text: str) -> None:
        (tmp_path / "mountinfo").write_text(text)
        monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "mountinfo")

    return set_mounts


@pytest.mark.parametrize(
    ("path", "kind", "is_weak"),
    [
        ("/", "ext4", False),
        ("/home/me", "ext4", False),
        ("/run", "tmpfs", True),
        ("/running", "ext4", False),
        ("/mnt/share/queues", "nfs4", True),
        ("/mnt/share/local/queues", "xfs", False),
        ("/mnt/with space/queues", "fuse.sshfs", True),
        ("/mnt/over/x", "cifs", True),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(
    mounts: Callable[[str], None], path: str, kind: str, is_weak: bool
) -> None:
    """Also with spaces in its name, and where one is mounted over another."""
    mounts(MOUNTS)
    found = file_system_of(Path(path))
    assert found is not None
    assert found.kind == kind
    assert (found.weakness is not None) == is_weak


@pytest.mark.parametrize("kind", ["nfs", "cifs", "smb3", "fuse.s3fs", "9p", "ceph", "glusterfs", "lustre", "ramfs"])
def test_file_systems_of_the_network_and_of_memory_are_weak(kind: str) -> None:
    """Each has a reason to give."""
    assert FileSystem(kind, "/").weakness is not None


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "overlay", "fuseblk", "apfs"])
def test_local_file_systems_are_not_warned_of(kind: str) -> None:
    """Nothing is known against them."""
    assert FileSystem(kind, "/").weakness is None


def test_an_emitter_warns_once_of_a_directory_that_forgets(
    mounts: Callable[[str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each directory, with the reason and what to do; none on a local disk."""
    mounts("22 1 0:21 / / rw - tmpfs tmpfs rw\n")
    caplog.set_level(logging.WARNING, "durable_tracker")
    for name in ("one", "one", "two"):
        Emitter("http://127.0.0.1:9", queue_dir=tmp_path, name=name, drain=False).close()
    records = [record for record in caplog.records if vars(record)["event"] == "emitter.volatile_directory"]
    assert [str(tmp_path / "one"), str(tmp_path / "two")] == [vars(record)["directory"] for record in records]
    assert (vars(records[0])["file_system"], vars(records[0])["mount_point"]) == ("tmpfs", "/")
    assert "memory" in vars(records[0])["reason"]
    caplog.clear()
    mounts("22 1 254:0 / / rw - ext4 /dev/vda rw\n")
    Emitter("http://127.0.0.1:9", queue_dir=tmp_path, name="three", drain=False).close()
    assert caplog.records == []


def test_where_mounts_cannot_be_read_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Outside Linux, and in sandboxes."""
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "missing")
    assert file_system_of(tmp_path) is None
    Emitter("http://127.0.0.1:9", queue_dir=tmp_path, name="quiet", drain=False).close()
    assert caplog.records == []


def test_selftest_says_what_is_promised_and_that_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict and exit code 0, and nothing is left behind."""
    root = tmp_path / "queues"
    assert main(["selftest", "--queue-dir", str(root), "--kills", "2", "--json", "--seed", "1"]) == Exit.EMPTY
    report = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert set(states) == {
        "platform",
        "file system",
        "sync latency",
        "SQLite",
        "lock",
        "room",
        "kills",
        "events",
        "ledger",
    }
    assert report["failed"] == []
    assert not root.exists()


def test_selftest_leaves_what_it_did_not_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real queues beside it are untouched; a failed check gives exit code 1, and is named."""
    root = tmp_path / "queues"
    with Emitter("http://127.0.0.1:9", queue_dir=root, name="real", drain=False) as emitter:
        emitter.put(b"{}")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(selftest, "_SETTINGS", {"journal_mode": "delete"})
    monkeypatch.setattr(selftest, "_kills", lambda *_: iter(()))
    assert main(["selftest", "--queue-dir", str(root)]) == Exit.BACKLOG
    out = capsys.readouterr().out
    assert "FAILED   SQLite:" in out
    assert "FAILED: SQLite" in out.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_selftest_in_a_directory_that_cannot_be_used_is_an_error_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line."""
    (tmp_path / "file").write_text("")
    assert main(["selftest", "--queue-dir", str(tmp_path / "file")]) == Exit.USAGE
    assert "selftest: " in capsys.readouterr().err
