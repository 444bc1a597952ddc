"""Subclasses of the tracker, and trackers that are patched, as tests of the official one do it."""

from __future__ import annotations

import inspect
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import pytest
from test_moving_encoder import CALLS, encode

import durable_tracker
from durable_tracker import Event, InvalidEventError, PageView, Payload, SelfDescribingJson, Subject, Tracker
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Callable

ONE = "11111111-2222-4333-8444-555555555555"
ITEMS = [{"sku": sku, "price": 1, "quantity": 1} for sku in ("a", "b")]
METHODS: dict[str, Callable[[Any], object]] = {
    **{name: partial(call, durable_tracker) for name, call in CALLS.items() if "," not in name},
    "track_ecommerce_transaction": lambda t: t.track_ecommerce_transaction("o", 2, items=ITEMS),
    "track_many": lambda t: t.track_many(PageView(url) for url in "ab"),
}
COUNTS = {"track_ecommerce_transaction": 3, "track_many": 2}


class Seeing(Tracker):
    """Sees every event, and lets it pass."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[Any] = []

    def track(self, event: Any) -> Any:
        self.seen.append(event)
        return super().track(event)


class SeeingOlder(Tracker):
    """The same in the form of 0.9."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[Any] = []

    def track(self, pb: Any) -> Any:
        self.seen.append(pb)
        pb.add("lang", "xx")
        return super().track(pb)


class Completing(Tracker):
    def complete_payload(self, event: Any) -> Any:  # type: ignore[override]
        payload = super().complete_payload(event)
        payload.add("lang", "xx")
        return payload


class CompletingOlder(Tracker):
    def complete_payload(self, pb: Any, context: Any, tstamp: Any, event_subject: Any) -> Any:  # type: ignore[override]
        pb.add("lang", "xx")
        return super().complete_payload(pb, context, tstamp, event_subject)


def made(kind: type[Tracker] = Tracker) -> tuple[Any, RecordingEmitter]:
    emitter = RecordingEmitter()
    return kind("ns", emitter, Subject().set_user_id("u"), "app", True, encode), emitter


def test_every_method_is_tried() -> None:
    """One that comes is missed here."""
    assert set(METHODS) == {name for name, _ in inspect.getmembers(Tracker, callable) if name.startswith("track_")}


@pytest.mark.parametrize("name", METHODS)
def test_whoever_overrides_track_sees_every_event(name: str) -> None:
    """As an event, once each; what it passes on is what is sent without it."""
    tracker, emitter = made(Seeing)
    METHODS[name](tracker)
    assert len(tracker.seen) == COUNTS.get(name, 1) == len(emitter.events)
    assert all(isinstance(event, Event) for event in tracker.seen)
    plain, beside = made()
    METHODS[name](plain)
    changing = {"eid", "dtm"}
    assert [{k: v for k, v in event.wire.items() if k not in changing} for event in emitter.events] == [
        {k: v for k, v in event.wire.items() if k not in changing} for event in beside.events
    ]


@pytest.mark.parametrize("how", ["class", "object"])
@pytest.mark.parametrize("name", METHODS)
def test_whoever_patches_track_sees_every_event(name: str, how: str) -> None:
    """By the keyword of the official tracker's call, and nothing is sent."""
    tracker, emitter = made()
    with mock.patch.object(Tracker if how == "class" else tracker, "track") as track:
        METHODS[name](tracker)
    assert [(call.args, set(call.kwargs)) for call in track.call_args_list] == [((), {"event"})] * COUNTS.get(name, 1)
    assert emitter.payloads == []


@pytest.mark.parametrize("kind", [SeeingOlder, Completing, CompletingOlder])
@pytest.mark.parametrize("name", METHODS)
def test_what_an_override_adds_is_sent(name: str, kind: type[Tracker]) -> None:
    """To every event, in the form of either generation."""
    tracker, emitter = made(kind)
    plain, beside = made()
    for one in (tracker, plain):
        METHODS[name](one)
    changing = {"eid", "dtm"}
    assert [{k: v for k, v in event.wire.items() if k not in changing} for event in emitter.events] == [
        {**{k: v for k, v in event.wire.items() if k not in changing}, "lang": "xx"} for event in beside.events
    ]
    if kind is SeeingOlder:
        assert [pb.get()["eid"] for pb in tracker.seen] == [event.eid for event in emitter.events]


@pytest.mark.parametrize("kind", [Seeing, SeeingOlder, Completing, CompletingOlder])
def test_ids_are_those_that_are_sent(kind: type[Tracker]) -> None:
    """Also where an override stands between."""
    tracker, emitter = made(kind)
    eids = tracker.track_many([PageView("a"), PageView("b")])
    assert eids == [event.eid for event in emitter.events]
    if kind is not SeeingOlder:
        assert tracker.track(PageView("c")) == emitter.events[-1].eid


@pytest.mark.parametrize("how", ["subclass", "class", "object"])
@pytest.mark.parametrize("name", METHODS)
def test_ids_and_times_of_ones_own_are_used(name: str, how: str) -> None:
    """In every event; the official tracker looks at the class alone."""
    ids = [str(uuid.uuid4()) for _ in range(3)]

    class Stamping(Tracker):
        left: ClassVar[list[str]] = list(ids)

        def get_uuid(self) -> str:  # type: ignore[override]
            return self.left.pop(0)

        def get_timestamp(self, tstamp: float | None = None) -> int:  # type: ignore[override]
            return 1_700_000_000_000

    tracker, emitter = made(Stamping if how == "subclass" else Tracker)
    with pytest.MonkeyPatch.context() as patch:
        target = {"class": Tracker, "object": tracker}.get(how)
        if target is not None:
            patch.setattr(target, "get_uuid", mock.Mock(side_effect=ids))
            patch.setattr(target, "get_timestamp", mock.Mock(return_value=1_700_000_000_000))
        METHODS[name](tracker)
    assert [(event.eid, event.wire["dtm"]) for event in emitter.events] == [
        (eid, "1700000000000") for eid in ids[: COUNTS.get(name, 1)]
    ]


def test_a_raw_payload_is_stamped_with_them_too() -> None:
    """Unless it has its own."""
    tracker, emitter = made()
    with mock.patch.object(Tracker, "get_uuid", return_value=ONE):
        tracker.track(Payload({"e": "pv", "p": "pc", "tv": "x"}))
    assert emitter.events[0].eid == ONE


@pytest.mark.parametrize(
    ("name", "answer", "rule"),
    [
        ("get_uuid", "no", "eid: must be a UUID"),
        ("get_timestamp", "soon", "dtm: must be a number of milliseconds"),
        ("complete_payload", None, "complete_payload: must return a Payload, but returned None"),
        ("complete_payload", Payload({"e": "pv", "p": "pc", "tv": "x", "no": "1"}), "no: is not a field"),
        ("complete_payload", Payload({"p": "pc", "tv": "x"}), "e: is required"),
    ],
)
def test_what_an_override_returns_is_checked(name: str, answer: object, rule: str) -> None:
    """It could fail a whole batch as well as any other event."""
    tracker, emitter = made()
    with mock.patch.object(Tracker, name, return_value=answer), pytest.raises(InvalidEventError, match=rule):
        tracker.track_page_view("u")
    assert emitter.payloads == []


@pytest.mark.parametrize("kind", [Seeing, SeeingOlder, CompletingOlder])
def test_a_transaction_is_tracked_whole_or_not_at_all(kind: type[Tracker]) -> None:
    """An override is not called for one of which an item is refused."""
    tracker, emitter = made(kind)
    with pytest.raises(InvalidEventError, match="ti_pr"):
        tracker.track_ecommerce_transaction("o", 1, items=[*ITEMS, {"sku": "c", "price": "x", "quantity": 1}])
    assert (getattr(tracker, "seen", []), emitter.payloads) == ([], [])


def test_an_override_may_hand_on_to_track_many() -> None:
    """It is not called again for what it hands on."""

    class Collecting(Tracker):
        calls = 0

        def track(self, event: Any) -> Any:
            self.calls += 1
            return self.track_many([event])[0]

    tracker, emitter = made(Collecting)
    assert tracker.track_many([PageView("a"), PageView("b")]) == [event.eid for event in emitter.events]
    assert tracker.calls == 2


def test_an_error_tells_how_many_were_tracked() -> None:
    """Also where `track` is overridden."""
    tracker, emitter = made(Seeing)
    with pytest.raises(InvalidEventError, match="must be an Event") as caught:
        tracker.track_many([PageView("a"), SelfDescribingJson("iglu:a/b/jsonschema/1-0-0", {})])
    assert caught.value.__notes__ == ["track_many: the 1 events before this one were tracked"]
    assert len(emitter.events) == 1
