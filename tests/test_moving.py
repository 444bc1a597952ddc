"""Projects that move here: the shapes in which three well-known ones use the official tracker."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import requests
import responses
from processes import PROGRAMS

from durable_tracker import AsyncEmitter, Emitter, SelfDescribingJson, StructuredEvent, Subject, Tracker
from durable_tracker.collector.server import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = "iglu:com.example/event/jsonschema/1-0-0"
TIMEOUT_S = 5.0


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


# ── as a command-line tool does: a subclass that sends by requests itself, and never fails the command ───────────────


class QuietEmitter(Emitter):
    """Sends by a call of its own, with a timeout, and returns what it got: the reply, not its status."""

    def __init__(self, address: str, **ours: Any) -> None:
        super().__init__(address, on_failure=self.failed, method="post", byte_limit=None, batch_size=30, **ours)
        self.failures: list[int] = []
        self.notes: list[str] = []

    def failed(self, _delivered: int, events: list[dict[str, Any]]) -> None:
        self.failures.append(len(events))

    def http_post(self, data: str) -> Any:
        self.notes.append(f"to {self.endpoint}")
        reply = requests.post(
            self.endpoint,
            data=data,
            headers={"content-type": "application/json; charset=utf-8"},
            timeout=TIMEOUT_S,
        )
        self.notes.append("good" if self.is_good_status_code(reply.status_code) else "bad")
        return reply

    def http_get(self, payload: Any) -> Any:
        return requests.get(self.endpoint, params=payload, timeout=TIMEOUT_S)


def command(emitter: QuietEmitter) -> Tracker:
    """Track what a run of a command tracks, and flush at its end."""
    subject = Subject()
    subject.set_user_id(str(uuid.uuid4()))
    tracker = Tracker(emitter, subject=subject, namespace="cli", app_id="tool")
    entities = [SelfDescribingJson(SCHEMA, {"invocation": str(uuid.uuid4())})]
    for label in ("start", "end"):
        tracker.track_struct_event(category="tool", action="invocation", label=label, context=entities)
    tracker.flush()
    tracker.set_subject(None)  # no tracking from now on
    return tracker


def test_a_command_line_tools_emitter(collector: Collector, tmp_path: Path) -> None:
    """It is called in the background; the command ends with everything delivered."""
    emitter = QuietEmitter(collector.url, queue_dir=tmp_path)
    command(emitter).close()
    assert sorted(event["event"]["se_label"] for event in collector.good()) == ["end", "start"]
    assert {f"to {collector.url}/com.snowplowanalytics.snowplow/tp2", "good"} == set(emitter.notes)


def test_a_command_line_tool_without_a_network(tmp_path: Path) -> None:
    """The command ends at once, without an error; the events wait for the next one."""
    emitter = QuietEmitter(
        "http://127.0.0.1:9", queue_dir=tmp_path, name="tool", max_retry_delay_seconds=0.1, report_retries=True
    )
    command(emitter).close()
    assert "good" not in emitter.notes
    assert emitter.failures
    with QuietEmitter("http://127.0.0.1:9", queue_dir=tmp_path, name="tool", drain=False) as successor:
        successor.put(b'{"e":"pv"}')
        assert successor.stats().ledger.pending == 3


def test_a_command_line_tools_own_tests(tmp_path: Path) -> None:
    """They answer what its emitter sends."""
    with responses.RequestsMock() as mocked:
        mocked.add(responses.POST, "http://c.invalid/com.snowplowanalytics.snowplow/tp2", body="ok")
        command(QuietEmitter("http://c.invalid", queue_dir=tmp_path)).close()
        sent = [event for call in mocked.calls for event in json.loads(call.request.body or "")["data"]]
    assert [event["se_la"] for event in sent] == ["start", "end"]


# ── as a service does: a subclass that only looks on, and callbacks that count ───────────────────────────────────────


class LoggingEmitter(AsyncEmitter):
    """Leaves sending to `super()`, and logs what it came to."""

    log = logging.getLogger("a.service")

    def http_post(self, data: str) -> int:
        return self.logged(super().http_post(data))

    def http_get(self, payload: Any) -> int:
        return self.logged(super().http_get(payload))

    def logged(self, status: int) -> int:
        if not self.is_good_status_code(status):
            self.log.warning("not delivered: %s", status)
        return status


@pytest.mark.parametrize("method", ["post", "get"])
def test_a_services_emitter(
    method: str, collector: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is seen by the override, and ends with everything delivered."""
    emitter = LoggingEmitter(
        endpoint=collector.url, method=method, batch_size=1, thread_count=1,
        queue_dir=tmp_path, max_retry_delay_seconds=0.05,
    )  # fmt: skip
    tracker = Tracker("service", emitters=[emitter], app_id="gateway")
    collector.down()
    event = StructuredEvent(category="model", action="request", label=str(uuid.uuid4()), value=1)
    tracker.track(event)
    tracker.flush(timeout=5)
    assert "not delivered: -1" in caplog.text
    collector.up()
    tracker.flush(timeout=10)
    assert collector.wait(distinct=1)
    assert tracker.flush(timeout=10)
    tracker.close()


# ── as a plugin runner does: a session with a timeout and a name of its own ──────────────────────────────────────────


class ImpatientSession(requests.Session):
    """With a timeout for each request, as a subclass has to add it."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", 2)
        return super().request(*args, **options)


def test_a_runners_session(collector: Collector, tmp_path: Path) -> None:
    """Its headers are sent; its cookies are not, and none come in."""
    with ImpatientSession() as session:
        session.headers["User-Agent"] = "runner/3"
        session.cookies.set("sp", str(uuid.uuid4()))
        emitter = Emitter(
            collector.url, request_timeout=2, session=session, queue_dir=tmp_path, on_failure=lambda *_: None
        )
        tracker = Tracker("cli", emitters=[emitter])
        tracker.subject.set_platform("pc")
        tracker.track(StructuredEvent("runner", "run", label="tap"))
        tracker.track_unstruct_event(SelfDescribingJson(SCHEMA, {"a": 1}))
        assert tracker.flush(timeout=10)
        tracker.close()
        assert len(session.cookies) == 1
    raw = collector.good()[0]["rawEvent"]["context"]
    assert raw["useragent"] == "runner/3"
    assert not any(header.lower().startswith("cookie:") for header in raw["headers"])


# ── as a library that imports the official name does ─────────────────────────────────────────────────────────────────


def test_a_library_that_is_not_ones_own(collector: Collector, tmp_path: Path) -> None:
    """Unchanged, in a process that has put this package in the official one's place."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "run_their_library.py"), collector.url],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [event["event"]["se_action"] for event in collector.good()] == ["a"]
