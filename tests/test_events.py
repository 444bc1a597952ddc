"""Event objects: their properties, and that tracking reads them and never changes them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from durable_tracker.errors import InvalidEventError
from durable_tracker.events import Event, PagePing, PageView, ScreenView, SelfDescribing, StructuredEvent
from durable_tracker.payload import Payload
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.subject import Subject
from durable_tracker.testing import RecordingEmitter
from durable_tracker.tracker import Tracker

SCHEMA = "iglu:com.acme/save_game/jsonschema/1-0-0"
ONE, TWO = "11111111-2222-4333-8444-555555555555", "22222222-2222-4333-8444-555555555555"
PROPERTIES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (PageView, {"page_url": "u"}, {"page_title": "t", "referrer": "r"}),
    (
        PagePing,
        {"page_url": "u"},
        {"page_title": "t", "referrer": "r", "min_x": 0, "max_x": 1, "min_y": 2, "max_y": 3},
    ),
    (StructuredEvent, {"category": "c", "action": "a"}, {"label": "l", "property_": "p", "value": 1.5}),
    (
        ScreenView,
        {"id_": ONE, "name": "n"},
        {"type": "t", "previous_name": "pn", "previous_id": TWO, "previous_type": "pt", "transition_type": "tt"},
    ),
]


@pytest.mark.parametrize(("kind", "required", "optional"), PROPERTIES)
def test_every_argument_is_a_property_that_can_be_read_set_and_cleared(
    kind: Any, required: dict[str, Any], optional: dict[str, Any]
) -> None:
    """What was given by the constructor and what was set later are the same event."""
    whole = kind(**required, **optional)
    bare = kind(**required)
    assert {name: getattr(whole, name) for name in (*required, *optional)} == {**required, **optional}
    assert dict.fromkeys(optional) == {name: getattr(bare, name) for name in optional}
    for name, value in optional.items():
        setattr(bare, name, value)
    assert wire_of(whole) == wire_of(bare)
    for name in optional:
        setattr(bare, name, None)
    assert wire_of(kind(**required)) == wire_of(bare)


@pytest.mark.parametrize(("kind", "required", "optional"), PROPERTIES)
@pytest.mark.parametrize("wrong", ["", None, 5])
def test_what_is_required_is_checked_when_it_is_given(
    kind: Any, required: dict[str, Any], optional: dict[str, Any], wrong: object
) -> None:
    """By the constructor and by the setter alike."""
    for name, right in required.items():
        with pytest.raises(InvalidEventError, match="not empty"):
            kind(**{**required, name: wrong})
        event = kind(**required)
        with pytest.raises(InvalidEventError, match="not empty"):
            setattr(event, name, wrong)
        assert getattr(event, name) == right


def wire_of(event: Event) -> dict[str, str]:
    emitter = RecordingEmitter()
    Tracker("shop", emitter, encode_base64=False).track(event)
    return {field: text for field, text in emitter.events[0].wire.items() if field not in ("eid", "dtm")}


def test_the_kinds_of_events_have_their_codes() -> None:
    """pv, pp, se, and ue for what a schema describes."""
    described = SelfDescribing(SelfDescribingJson(SCHEMA, {}))
    events = [PageView("u"), PagePing("u"), StructuredEvent("c", "a"), described, ScreenView(ONE, "n")]
    assert [wire_of(event)["e"] for event in events] == ["pv", "pp", "se", "ue", "ue"]


def test_an_event_can_be_tracked_twice_and_follows_its_changes() -> None:
    """Each time it is read afresh, and nothing of the time before is left in it."""
    emitter = RecordingEmitter()
    subject = Subject().set_user_id("alice")
    tracker = Tracker("shop", emitter, subject, encode_base64=False)
    data = {"level": 1}
    event = SelfDescribing(SelfDescribingJson(SCHEMA, data), None, [SelfDescribingJson(SCHEMA, {"c": 1})], 5)
    tracker.track(event)
    tracker.set_subject(Subject())
    event.context = []
    event.true_timestamp = None
    data["level"] = 2
    tracker.track(event)
    first, second = emitter.events
    assert (first.wire["uid"], first.wire["ttm"], len(first.contexts)) == ("alice", "5", 1)
    assert first.data == {"level": 1}
    assert second.data == {"level": 2}
    assert {"uid", "ttm", "co"}.isdisjoint(second.wire)
    assert first.eid != second.eid


def test_tracking_changes_nothing_of_what_the_caller_gave() -> None:
    """Neither the event nor its context, its data, its subjects."""
    data = {"a": [1, {"b": (2, 3)}]}
    context = [SelfDescribingJson(SCHEMA, {"c": [4]})]
    subject, event_subject = Subject().set_user_id("a"), Subject().set_lang("en")
    event = SelfDescribing(SelfDescribingJson(SCHEMA, data), event_subject, context, 5)
    before = copy.deepcopy((event.pairs, data, context, subject.standard_nv_pairs, event_subject.standard_nv_pairs))
    Tracker("shop", RecordingEmitter(), subject).track(event)
    event.build_payload(True, None, subject).add("e", "spoilt")
    assert (event.pairs, data, context, subject.standard_nv_pairs, event_subject.standard_nv_pairs) == before


def test_an_event_does_not_share_the_dict_that_it_is_made_from() -> None:
    """The caller may go on using it."""
    pairs = {"e": "pv"}
    Event(pairs).payload.add("url", "u")
    assert pairs == {"e": "pv"}


def test_fields_can_be_added_to_an_events_payload() -> None:
    """The official way to track a kind of event that has no class."""
    event = Event()
    event.payload.add("e", "ti")
    event.payload.add_dict({"ti_id": "o", "ti_qu": 2})
    assert tuple(wire_of(event)[field] for field in ("e", "ti_id", "ti_qu")) == ("ti", "o", "2")
    event.payload = Payload({"e": "pv"})
    assert wire_of(event)["e"] == "pv"


def test_a_kind_of_event_may_build_its_payload_itself() -> None:
    """By overriding `build_payload`, as on the official tracker."""

    class TransactionView(PageView):
        def build_payload(self, encode_base64: bool, json_encoder: Any, subject: Subject | None = None) -> Payload:
            payload = super().build_payload(encode_base64, json_encoder, subject)
            payload.add("tid", 7)
            return payload

    wire = wire_of(TransactionView("u", event_subject=Subject().set_lang("en"), true_timestamp=5))
    assert tuple(wire[field] for field in ("tid", "lang", "ttm", "p")) == ("7", "en", "5", "pc")


def test_the_fields_of_subject_and_tracker_win_over_an_events_own() -> None:
    """As on the official tracker; the id and the time are always new."""
    emitter = RecordingEmitter()
    tracker = Tracker("shop", emitter, Subject().set_user_id("alice"))
    eid = tracker.track(Event({"e": "pv", "uid": "bob", "tna": "x", "eid": ONE, "dtm": 5, "lang": "en"}))
    wire = emitter.events[0].wire
    assert tuple(wire[field] for field in ("uid", "tna", "eid", "lang")) == ("alice", "shop", eid, "en")
    assert eid != ONE
    assert wire["dtm"] != "5"


@pytest.mark.parametrize("context", [None, [], ()])
def test_an_empty_context_is_left_out(context: Any) -> None:
    """However it is empty."""
    assert {"cx", "co"}.isdisjoint(wire_of(PageView("u", context=context)))


def test_a_foreign_self_describing_json_is_taken_if_it_is_sound() -> None:
    """Such as the official one, in a project that moves bit by bit."""

    class Foreign:
        def __init__(self, schema: str) -> None:
            self.schema = schema

        def to_json(self) -> dict[str, Any]:
            return {"schema": self.schema, "data": {"a": 1}}

    foreign: Any = Foreign(SCHEMA)
    assert wire_of(SelfDescribing(SelfDescribingJson(SCHEMA, {"a": 1}))) == wire_of(SelfDescribing(foreign))
    with pytest.raises(InvalidEventError, match="iglu:"):
        wire_of(SelfDescribing(Foreign("nonsense")))  # type: ignore[arg-type]


def test_self_describing_json_gives_itself_as_a_dict_and_as_text() -> None:
    """The dict is new, the data is not; equality is that of the content."""
    data = {"é": 1}
    described = SelfDescribingJson(SCHEMA, data)
    assert described.to_json() == {"schema": SCHEMA, "data": data}
    assert described.to_json()["data"] is data
    assert described.to_string() == f'{{"schema": "{SCHEMA}", "data": {{"\\u00e9": 1}}}}'
    assert described == SelfDescribingJson(SCHEMA, {"é": 1})
    assert described != SelfDescribingJson(SCHEMA, {})
    assert described != SCHEMA
    assert SCHEMA in repr(described)


def test_the_schema_of_self_describing_json_can_be_changed_to_a_sound_one() -> None:
    """Only."""
    described = SelfDescribingJson(SCHEMA, {})
    described.schema = SCHEMA.replace("1-0-0", "1-0-1")
    with pytest.raises(InvalidEventError, match="schema"):
        described.schema = "save_game"
    assert described.schema.endswith("1-0-1")
