"""What the package ships for its users' tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from processes import PROGRAMS

from durable_tracker import testing
from durable_tracker.collector import Collector
from durable_tracker.emitters import Emitter
from durable_tracker.errors import ConfigurationError, QueueFullError
from durable_tracker.events import PageView, SelfDescribing
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.testing import RecordedEvent, RecordingEmitter, TrackedEvents
from durable_tracker.tracker import Tracker

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "iglu:com.acme/save_game/jsonschema/1-0-0"


@pytest.mark.parametrize("encode_base64", [True, False])
def test_recorded_events_are_decoded(encode_base64: bool) -> None:
    """Schema, data and contexts are plain values, whatever they look like on the wire."""
    emitter = RecordingEmitter()
    tracker = Tracker("shop", emitter, encode_base64=encode_base64)
    context = [SelfDescribingJson(SCHEMA, {"c": "é"})]
    eid = tracker.track(SelfDescribing(SelfDescribingJson(SCHEMA, {"level": 3}), context=context))
    tracker.track(PageView("https://acme.com"))
    described, viewed = emitter.events
    assert (described.eid, described.code, described.schema, described.data, described.contexts) == (
        eid,
        "ue",
        SCHEMA,
        {"level": 3},
        context,
    )
    assert (viewed.code, viewed.schema, viewed.data, viewed.contexts) == ("pv", None, None, [])
    assert viewed.wire["url"] == "https://acme.com"


def test_a_recording_emitter_can_fail_on_demand_and_forget() -> None:
    """So that the code under test can be shown a full disk."""
    emitter = RecordingEmitter(QueueFullError("the disk is full"))
    tracker = Tracker("shop", emitter)
    with pytest.raises(QueueFullError, match="the disk is full"):
        tracker.track(PageView("u"))
    emitter.error = None
    tracker.track(PageView("u"))
    assert tracker.flush(timeout=1) is True
    assert tracker.close() is True
    assert (len(emitter.events), emitter.is_closed) == (1, True)
    emitter.clear()
    assert emitter.events == []


def test_all_trackers_record_to_the_fixture(tracked_events: TrackedEvents, recording_emitter: RecordingEmitter) -> None:
    """And their own emitters get nothing, by `track` and by `track_many`."""
    tracker = Tracker("shop", recording_emitter)
    eids = [tracker.track(PageView("a")), *tracker.track_many([PageView("b"), PageView("c")])]
    assert [event.eid for event in tracked_events] == eids
    assert (len(tracked_events), tracked_events[-1].wire["url"]) == (3, "c")
    assert isinstance(tracked_events[0], RecordedEvent)
    assert [event.wire["url"] for event in tracked_events[1:]] == ["b", "c"]
    assert recording_emitter.events == []
    tracked_events.clear()
    assert list(tracked_events) == []


def test_pytest_finds_the_fixtures_by_itself(tmp_path: Path) -> None:
    """Also for a tracker that the code under test made at import."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py"]
    shutil.copyfile(PROGRAMS / "their_tests.py", tmp_path / "test_theirs.py")
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in run.stdout, run.stdout + run.stderr


def test_the_emitter_can_be_used_without_pytest() -> None:
    """In a script, or under another test runner."""
    program = "import sys; sys.modules['pytest'] = None; import durable_tracker.testing as t; t.RecordingEmitter()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_emitter_can_keep_its_queue_in_memory() -> None:
    """Through the same delivery as a queue on disk."""
    engine = testing.MemoryEngine("shop")
    with Collector() as collector, Emitter(collector.url, queue=engine) as emitter:
        emitter.put(b'{"e":"pv","p":"srv","tv":"t"}')
        assert emitter.flush(10)
        assert emitter.stats().slot is None
        assert collector.counts()["total"] == 1
    with pytest.raises(ConfigurationError, match="queue_dir"):
        Emitter("c.example", queue=engine, queue_dir="/nowhere")
    with pytest.raises(ConfigurationError, match="queue: there is no engine"):
        Emitter("c.example", queue="carrier-pigeon:loft")
    with pytest.raises(ConfigurationError, match="queue: object has no methods"):
        Emitter("c.example", queue=object())  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        testing.Nothing  # noqa: B018
