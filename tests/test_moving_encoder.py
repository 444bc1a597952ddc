"""Values that JSON has no form for, in every `track_*` method: a `json_encoder` gives them one; then they are checked.

Each call is made on both trackers, and what their emitters get is compared.
"""

from __future__ import annotations

import decimal
import uuid
import warnings
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import snowplow_tracker

import durable_tracker
from durable_tracker import InvalidEventError
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Callable

official: Any = snowplow_tracker
ours: Any = durable_tracker
SCHEMA = "iglu:com.acme/thing/jsonschema/1-0-0"
ONE = "11111111-2222-4333-8444-555555555555"
BY_NATURE = {"eid", "dtm", "tv"}


class Model:
    """An object of the caller's own, which knows what it is as JSON."""

    def __init__(self, json: object) -> None:
        self.json = json


def encode(value: Any) -> Any:
    """Be a json_encoder, as users write them."""
    if isinstance(value, Model):
        return value.json
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form")


class Entity:
    """Something that is self-describing in its own way."""

    def __init__(self, schema: object, data: object) -> None:
        self.schema = schema
        self.data = data

    def to_json(self) -> dict[str, Any]:
        return {"schema": self.schema, "data": self.data}


class Wrapped(Entity):
    def to_json(self) -> Any:
        return Model(super().to_json())


def entity(lib: Any) -> list[Any]:
    data = {"id": uuid.UUID(ONE), "tags": {"a", "b"}, "price": decimal.Decimal("1.5")}
    return [lib.SelfDescribingJson(SCHEMA, data), Entity(SCHEMA, Model(data))]


def described(lib: Any) -> Any:
    return lib.SelfDescribingJson(SCHEMA, Model({"deep": [Model({"er": {3, 1}})]}))


ITEM = {"sku": "s", "price": 1, "quantity": 2}
FIELD = {"name": "n", "value": Model("v"), "nodeName": "INPUT", "type": "text"}

CALLS: dict[str, Callable[[Any, Any], object]] = {
    "track_page_view": lambda lib, t: t.track_page_view("u", context=entity(lib)),
    "track_page_ping": lambda lib, t: t.track_page_ping("u", context=entity(lib)),
    "track_struct_event": lambda lib, t: t.track_struct_event("c", "a", context=entity(lib)),
    "track_self_describing_event": lambda lib, t: t.track_self_describing_event(described(lib), entity(lib)),
    "track_unstruct_event": lambda lib, t: t.track_unstruct_event(described(lib), entity(lib)),
    "track_unstruct_event, of one's own": lambda lib, t: t.track_unstruct_event(Entity(SCHEMA, Model({})), entity(lib)),
    "track_unstruct_event, wrapped": lambda _, t: t.track_unstruct_event(Wrapped(Model(SCHEMA), Model({"a": 1}))),
    "track_link_click": lambda lib, t: t.track_link_click(
        "u", Model("id"), {"b", "a"}, Model("target"), Model("content"), entity(lib)
    ),
    "track_link_click, a model in a list": lambda _, t: t.track_link_click("u", None, [Model("a"), "b"]),
    "track_add_to_cart": lambda lib, t: t.track_add_to_cart(
        "s", decimal.Decimal(2), Model("n"), Model("c"), decimal.Decimal("1.25"), Model("EUR"), entity(lib)
    ),
    "track_remove_from_cart": lambda lib, t: t.track_remove_from_cart(
        "s", Model(2), Model("n"), Model("c"), Model(1.25), Model("EUR"), entity(lib)
    ),
    "track_form_change": lambda lib, t: t.track_form_change(
        "f", Model("e"), "INPUT", Model("v"), "text", frozenset({"a"}), entity(lib)
    ),
    "track_form_submit": lambda lib, t: t.track_form_submit("f", {"a"}, [FIELD], entity(lib)),
    "track_site_search": lambda lib, t: t.track_site_search(
        {"a", "b"}, MappingProxyType({"k": Model(True)}), Model(3), Model(4), entity(lib)
    ),
    "track_screen_view": lambda lib, t: t.track_screen_view(Model("n"), uuid.UUID(ONE), entity(lib)),
    "track_mobile_screen_view": lambda lib, t: t.track_mobile_screen_view(
        "n", ONE, Model("type"), Model("before"), uuid.UUID(ONE), Model("x"), Model("y"), context=entity(lib)
    ),
    "track_ecommerce_transaction": lambda lib, t: t.track_ecommerce_transaction(
        "o", decimal.Decimal("9.90"), items=[dict(ITEM)], context=entity(lib), tstamp=5
    ),
    "track_ecommerce_transaction_item": lambda lib, t: t.track_ecommerce_transaction_item(
        "o", "s", decimal.Decimal("9.90"), 1, context=entity(lib)
    ),
}


class OfficialRecorder:
    def __init__(self) -> None:
        self.wires: list[dict[str, str]] = []

    def input(self, payload: dict[str, Any]) -> None:
        self.wires.append({field: str(value) for field, value in payload.items()})


def test_every_method_has_a_call() -> None:
    """One that comes is missed here."""
    assert {name.split(",")[0] for name in CALLS} == {
        name for name in dir(official.Tracker) if name.startswith("track_")
    }


@pytest.mark.parametrize("generation", ["0.9", "1.x"])
@pytest.mark.parametrize("encode_base64", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_what_an_encoder_can_encode_is_sent_as_from_the_official_tracker(
    name: str, encode_base64: bool, generation: str
) -> None:
    """Whatever the method's own rule says of the value as it was before."""
    theirs, mine = OfficialRecorder(), RecordingEmitter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        CALLS[name](official, official.Tracker("ns", theirs, None, "app", encode_base64, encode))
    if generation == "1.x":
        tracker = ours.Tracker("ns", mine, None, "app", encode_base64, encode)
    else:
        tracker = ours.Tracker(mine, None, "ns", "app", encode_base64, encode)
    CALLS[name](ours, tracker)
    expected, actual = (
        [{field: text for field, text in wire.items() if field not in BY_NATURE} for wire in wires]
        for wires in (theirs.wires, [event.wire for event in mine.events])
    )
    assert actual == expected


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda t: t.track_link_click("u", Model(5)), "elementId: must be text"),
        (lambda t: t.track_link_click(Model("")), "targetUrl: must be text that is not empty"),
        (lambda t: t.track_add_to_cart("s", Model("many")), "quantity: must be a finite number"),
        (lambda t: t.track_add_to_cart("s", Model(None)), "quantity: must be a finite number"),
        (lambda t: t.track_form_change("f", "e", Model("BUTTON"), "v"), "nodeName: must be one of"),
        (lambda t: t.track_form_submit("f", None, [Model({"name": "n"})]), r"elements\[0\].value: is required"),
        (lambda t: t.track_site_search(Model([])), "terms: must be a list of at least one"),
        (lambda t: t.track_site_search(["a"], None, Model(-1)), "totalResults: must be an integer from 0"),
        (lambda t: t.track_screen_view(Model(5)), "name: must be text"),
        (lambda t: t.track_screen_view(Model(None)), "name: must be given, or id"),
        (lambda t: t.track_mobile_screen_view("n", ONE, Model(5)), "type: must be text"),
        (lambda t: t.track_mobile_screen_view("n", ONE, previous_id=Model("no")), "previousId: must be a UUID"),
        (lambda t: t.track_self_describing_event(Entity(Model("no"), {})), "event_json: must be of the form iglu:"),
        (lambda t: t.track_link_click("u", object()), "elementId: must be JSON, and the json_encoder refused it"),
    ],
)
def test_what_the_encoder_made_of_it_is_checked(call: Callable[[Any], object], rule: str) -> None:
    """It fails downstream no less than if the caller had passed it."""
    emitter = RecordingEmitter()
    with pytest.raises(InvalidEventError, match=rule):
        call(ours.Tracker("ns", emitter, json_encoder=encode))
    assert emitter.payloads == []


def test_an_events_own_payload_takes_an_encoder_too() -> None:
    """Whoever builds it by hand names the encoder there."""
    payload = ours.ScreenView(ONE, "n", Model("t"), previous_id=uuid.UUID(ONE)).build_payload(False, encode)
    theirs = official.ScreenView(ONE, "n", Model("t"), previous_id=uuid.UUID(ONE)).build_payload(False, encode)
    assert theirs.get()["ue_pr"] == payload.get()["ue_pr"]
