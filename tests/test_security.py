"""What others must not read, plant, redirect or run."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from processes import Program, Site, wait_until

from durable_tracker import Emitter, Ledger, PageView, StorageError, Tracker
from durable_tracker.__main__ import main
from durable_tracker.collector import Collector, Fault
from durable_tracker.engines.sqlite.queue import SqliteQueue
from durable_tracker.engines.sqlite.slots import Slot, make_private_directory
from durable_tracker.errors import ConfigurationError, QueueFullError
from durable_tracker.protocol.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRETS = ("hunter2", "bearer-token-7", "proxy-password-9")
PAYLOAD = "private-page-title"


def eid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def event(number: int) -> bytes:
    return json.dumps({"e": "pv", "p": "web", "tv": "t", "url": "https://x.example", "eid": eid(number)}).encode()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_file_and_directory_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """Also the parents that had to be made, and also after a delivery, a rejection and a close."""
    old = os.umask(0)
    try:
        with (
            Collector(script=[None, Fault(status=503)]) as collector,
            Emitter(
                collector.url, queue_dir=tmp_path / "a" / "b", name="n", durability="interval", linger=0.0
            ) as emitter,
        ):
            for number in range(10):
                emitter.put(event(number))
            assert collector.wait(distinct=10)
            modes = _modes(tmp_path)
            assert len(modes) >= 6
    finally:
        os.umask(old)
    for path, mode in {**modes, **_modes(tmp_path)}.items():
        assert mode == (0o700 if path.is_dir() else 0o600), path


def _modes(folder: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


def test_a_planted_directory_is_refused(tmp_path: Path) -> None:
    """A symbolic link in the place of an emitter's directory, or one that others may write to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    for name in ("link", "shared"):
        with pytest.raises(StorageError, match=name):
            Emitter("c.example", queue_dir=tmp_path, name=name)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["0.sqlite3", "0.sqlite3-wal", "0.lock", "0.ballast"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", pytest.param("directory", marks=pytest.mark.slow)])
def test_a_planted_file_is_refused_and_its_target_untouched(tmp_path: Path, name: str, kind: str) -> None:
    """By the emitter, by the drain, and without hanging at a pipe."""
    directory = tmp_path / "queues" / "n"
    make_private_directory(directory)
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    if kind == "symlink":
        (directory / name).symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(directory / name)
    else:
        (directory / name).mkdir()
    site = Site(tmp_path)
    source = """
from durable_tracker.errors import QueueError
emitter = Emitter(ENDPOINT, queue_dir=QUEUE_DIR, name="n")
emitter.put(b"{}")
note(str(emitter.stats().slot))
"""
    site.run(source, timeout_s=15)
    assert site.says(str(directory / "1.sqlite3"))
    assert target.read_bytes() == b"untouched"


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "..", ".", "a/../../b", "nul\0", "ü" * 300, "a\nb"])
def test_a_name_cannot_leave_the_queue_dir(tmp_path: Path, name: str) -> None:
    """It becomes one directory in it."""
    emitter = Emitter("c.example", queue_dir=tmp_path / "queues", name=name, drain=False)
    emitter.put(b"{}")
    assert Path(str(emitter.directory)).parent == tmp_path / "queues"
    assert [path for path in (tmp_path / "queues").iterdir() if not path.is_socket()] == [emitter.directory]
    emitter.close()


# ── tampered files ───────────────────────────────────────────────────────────────────────────────────────────────────


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> Any:
        return open, (self._path, "w")


def filled_slot(tmp_path: Path, url: str) -> Path:
    make_private_directory(tmp_path / "queues" / "n")
    with SqliteQueue.take(Slot(tmp_path / "queues" / "n", 0)) as queue:
        queue.put_many([event(number) for number in range(1, 11)])
        queue.set_origin({"url": url, "method": "post"})
    return tmp_path / "queues" / "n" / "0.sqlite3"


def test_altered_rows_are_never_sent(tmp_path: Path) -> None:
    """They are set aside and counted; their neighbours arrive."""
    with Collector() as collector:
        path = filled_slot(tmp_path, collector.url)
        raw = sqlite3.connect(path)
        raw.execute("UPDATE events SET value = replace(value, 'x.example', 'y.example') WHERE key = 3")
        raw.execute("UPDATE events SET value = (SELECT value FROM events WHERE key = 1) WHERE key = 4")
        raw.execute("UPDATE events SET value = x'' WHERE key = 5")
        raw.execute("UPDATE events SET value = 'text' WHERE key = 6")
        raw.commit()
        raw.close()
        with Emitter(collector.url, queue_dir=tmp_path / "queues", name="n") as emitter:
            emitter.put(event(11))
            wait_until(lambda: not emitter.stats().ledger.pending)
            assert emitter.stats().ledger == Ledger(accepted=11, delivered=7, damaged=4)
        assert set(collector.eids()) == {eid(n) for n in (1, 2, 7, 8, 9, 10, 11)}
        assert set(collector.eids().values()) == {1}


@pytest.fixture
def _own_handlers() -> Iterator[None]:
    """The drain sets signal handlers."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_handlers")
def test_nothing_in_a_file_is_ever_unpickled(tmp_path: Path) -> None:
    """Rows with a right checksum, dead letters, the counts and the address: all data, never code."""
    trap = tmp_path / "sprung"
    code = pickle.dumps(Trap(trap))
    with Collector() as collector:
        for column in ("events", "dead_letters", "origin", "delivered"):
            path = filled_slot(tmp_path / column, collector.url)
            raw = sqlite3.connect(path)
            if column == "events":
                value = crc32(code, 3).to_bytes(4, "big") + code
                raw.execute("UPDATE events SET value = ? WHERE key = 3", (value,))
            elif column == "dead_letters":
                raw.execute("INSERT INTO dead_letters (key, value) VALUES (99, ?)", (code,))
            else:
                raw.execute("UPDATE meta SET value = ? WHERE key = ?", (code, column))
            raw.commit()
            raw.close()
            for command in ("status", "peek", "dead-letters", "requeue", "drain"):
                arguments = [command, "--queue-dir", str(tmp_path / column / "queues")]
                main([*arguments, "--timeout", "3"] if command == "drain" else arguments)  # raises nothing
    assert not trap.exists()
    pickle.loads(code).close()  # noqa: S301 (the trap works)
    assert trap.exists()


def test_the_codec_of_every_table_is_json(tmp_path: Path) -> None:
    """Sqlitedict's default is pickle, in both directions."""
    with Collector() as collector:
        site = Site(tmp_path, endpoint=collector.url)
        site.run(Program("refuse_to_pickle"))
        assert collector.wait(distinct=10)


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "c.example\r\nX: y"},
        {"endpoint": "c.example/a b"},
        {"endpoint": "c.example/\x00"},
        {"headers": {"X": "a\r\nInjected: b"}},
        {"headers": {"X\r\nInjected": "b"}},
        {"headers": {"X": "a\nb"}},
        {"headers": {"X": "ü\u2028"}},
        {"headers": {"Content-Length": "5"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
    ],
)
def test_an_address_or_header_that_could_smuggle_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """At the constructor, and the message does not repeat a header's value."""
    endpoint = settings.pop("endpoint", "c.example")
    with pytest.raises(ConfigurationError) as caught:
        Emitter(endpoint, queue_dir=tmp_path, **settings)
    assert "Injected: b" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(tmp_path: Path, status: int) -> None:
    """Neither with the events nor with the credentials; the events are kept, and the state says "blocked"."""
    with Collector() as thief, Collector() as collector:
        fault = Fault(status=status, redirect=f"{thief.url}/com.snowplowanalytics.snowplow/tp2")
        collector.script = lambda _: fault
        emitter = Emitter(collector.url, queue_dir=tmp_path, headers={"Authorization": "Bearer x"}, linger=0.0)
        emitter.put(event(1))
        wait_until(lambda: emitter.stats().state == "blocked")
        emitter.close()
        assert thief.requests == 0
        assert len(collector.eids()) == 0
        assert _ledger(Path(str(emitter.directory))) == Ledger(accepted=1, pending=1)


def _ledger(directory: Path) -> Ledger:
    with SqliteQueue.take(Slot(directory, 0)) as queue:
        return queue.ledger()


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


FAULTS: dict[str, Any] = {
    "delivered": None,
    "busy": Fault(status=503, headers={"Retry-After": "0"}),
    "refused": Fault(status=400),
    "blocked": Fault(status=401),
    "redirected": Fault(redirect="https://other.example/"),
    "reset": Fault(reset_after_read=True),
    "cut": Fault(truncate=True),
    "lost": Fault(reset_after_store=True),
}


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize("kind", [*FAULTS, "no proxy", "no TLS", "nobody"])
def test_no_secret_and_no_payload_is_logged_shown_or_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, method: str
) -> None:
    """At DEBUG, of all loggers: in no message, no extra, no exception's text, no repr, no statistic, no file."""
    caplog.set_level(logging.DEBUG)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if kind == "no proxy":
        monkeypatch.setenv("http_proxy", f"http://user:{SECRETS[2]}@127.0.0.1:9")
    shown: list[str] = []
    fault = FAULTS.get(kind)
    with Collector(script=lambda _: fault) as collector:
        address = collector.url.partition("://")[2]
        if kind == "nobody":
            collector.down()
        emitter = Emitter(
            f"{'https' if kind == 'no TLS' else 'http'}://user:{SECRETS[0]}@{address}",
            method=method,
            queue_dir=tmp_path,
            headers={"X-Key": SECRETS[1]},
            linger=0.0,
            max_retry_delay_seconds=0.05,
            buffer_capacity=3,
            on_success=_raise_with_payload,
        )
        tracker = Tracker(emitter)
        for _ in range(2):
            tracker.track(PageView("https://x.example/", PAYLOAD))
        with pytest.raises(ValueError, match="url"):
            tracker.track(PageView("", PAYLOAD))
        is_delivered = kind == "delivered"
        wait_until(lambda: bool(emitter.stats().last_error) or (is_delivered and not emitter.stats().ledger.pending))
        try:
            for _ in range(3):
                tracker.track(PageView("https://x.example/", PAYLOAD))
        except QueueFullError as error:
            shown.append(str(error))
        tracker.flush(timeout=1)
        stats = emitter.stats()
        shown += [repr(stats), str(stats.last_error), repr(emitter), str(emitter), emitter.name, emitter.endpoint]
        shown += [repr(emitter._settings), repr(emitter._address), repr(tracker)]
        pair = emitter._opened
        assert pair is not None
        shown += [repr(pair.queue), repr(pair.worker), repr(pair.worker.state), repr(pair.queue.origin)]
        shown += [repr(pair), repr(pair.transport)]
        shown += [letter.reason for letter in pair.queue.dead_letters()]
        tracker.close()
    shown += [caplog.text, *(f"{vars(record)}" for record in caplog.records)]
    if kind != "delivered":
        assert caplog.records
    for text in shown:
        for secret in (*SECRETS, PAYLOAD):
            assert secret not in text
    for path in tmp_path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in SECRETS:
            assert secret.encode() not in content, path
            assert secret not in str(path)


def _raise_with_payload(events: list[dict[str, Any]]) -> None:
    raise ValueError(f"{events}")


def test_the_repr_of_an_address_holds_no_password() -> None:
    """It ends up in tracebacks that show local variables."""
    assert "hunter2" not in repr(Endpoint.parse("https://user:hunter2@c.example"))


def test_the_drain_commands_output_holds_no_secret(tmp_path: Path) -> None:
    """Whatever was given as a header or within --url."""
    with Collector(script=lambda _: Fault(status=401)) as collector:
        filled_slot(tmp_path, collector.url)
        address = collector.url.partition("://")[2]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "durable_tracker.drain", "--queue-dir", str(tmp_path / "queues")),
                *("--timeout", "0.3", "--json", "--header", f"X-Key: {SECRETS[1]}"),
                *("--url", f"http://user:{SECRETS[0]}@{address}"),
            ],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == 1
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
