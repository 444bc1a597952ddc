"""All ways from an event to its bytes are one: the tracker's, a payload's, an emitter's `input`."""

from __future__ import annotations

from typing import Any

import pytest

from durable_tracker.events import Event, PageView, SelfDescribing, StructuredEvent
from durable_tracker.payload import Payload
from durable_tracker.protocol.encoder import fields_of, finished
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.subject import Subject
from durable_tracker.testing import RecordingEmitter
from durable_tracker.tracker import Tracker

ENTITY = SelfDescribingJson("iglu:com.acme/place/jsonschema/1-0-0", {"text": 'é"\\\n'})
EVENTS: dict[str, Event] = {
    "a page view": PageView("https://acme.com", 'a\x00"title"', true_timestamp=5),
    "a structured event": StructuredEvent("c", "a", "l", "p", 1.5, context=[ENTITY]),
    "a self-describing event": SelfDescribing(ENTITY, Subject().set_user_id("é")),
    "an event of bare fields": Event({"e": "pp", "url": "u", "pp_mix": 3}),
    "an event with fields of others": Event({"e": "pv", "p": "web", "tv": "mine", "uid": "other", "ttm": 7}),
}


class CustomEmitter:
    """An emitter as the official tracker knows them."""

    def __init__(self) -> None:
        self.wires: list[dict[str, Any]] = []

    def input(self, payload: dict[str, Any]) -> None:
        self.wires.append(payload)


@pytest.mark.parametrize("encode_base64", [True, False])
@pytest.mark.parametrize("name", EVENTS)
def test_every_way_gives_the_same_bytes(name: str, encode_base64: bool) -> None:
    """What was finished stays byte for byte the same, whichever way it is given again."""
    recorder, custom = RecordingEmitter(), CustomEmitter()
    subject = Subject().set_user_id("u").set_lang("en")
    tracker = Tracker("shop", [recorder, custom], subject, "app", encode_base64)
    tracker.track(EVENTS[name])
    (wire,) = custom.wires
    tracker.track(Payload(wire))
    first, second = recorder.payloads
    assert first == second == finished(wire) == finished(fields_of(first))


class Overriding(StructuredEvent):
    """Builds its payload itself, and adds nothing."""

    def build_payload(self, encode_base64: bool, json_encoder: Any, subject: Subject | None = None) -> Payload:
        return super().build_payload(encode_base64, json_encoder, subject)


@pytest.mark.parametrize("encode_base64", [True, False])
def test_an_event_that_builds_its_payload_is_encoded_as_any_other(encode_base64: bool) -> None:
    """The fields are the same but for the id and the time."""
    recorder = RecordingEmitter()
    tracker = Tracker("shop", recorder, Subject().set_user_id("u"), "app", encode_base64)
    for kind in (StructuredEvent, Overriding):
        tracker.track(kind("c", "a", "l", context=[ENTITY], true_timestamp=9))
    expected, actual = ({**event.wire, "eid": "", "dtm": ""} for event in recorder.events)
    assert actual == expected
