"""Tests as a user of the package writes them, of a tracker that is made at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable_tracker import Emitter, PageView, Tracker

if TYPE_CHECKING:
    from durable_tracker.testing import RecordingEmitter, TrackedEvents

tracker = Tracker("shop", Emitter("127.0.0.1", port=9))


def test_what_is_tracked(tracked_events: TrackedEvents) -> None:
    eid = tracker.track(PageView("https://acme.com"))
    assert [event.eid for event in tracked_events] == [eid]


def test_another_starts_afresh(tracked_events: TrackedEvents, recording_emitter: RecordingEmitter) -> None:
    assert len(tracked_events) == 0
    assert recording_emitter.events == []
