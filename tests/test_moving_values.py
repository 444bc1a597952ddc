"""Odd but real values, as callers of the official tracker pass them, arrive as they arrive from it.

Each call is made on both trackers, sent over loopback and compared on the wire. The development collector judges what
this tracker sends: nothing that passes the door fails a batch.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
import ipaddress
import json
import logging
import pathlib
import uuid
import warnings
import zoneinfo
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import snowplow_tracker
from fakes import events_in
from hypothesis import HealthCheck, given, settings
from hypothesis import event as note_outcome
from hypothesis import strategies as st
from strategies import json_values, numbers, some_text

import durable_tracker
from durable_tracker import contracts, emitters, tracker
from durable_tracker.collector import Collector
from durable_tracker.collector.registry import Registry
from durable_tracker.collector.validation import Request, classify
from durable_tracker.errors import ConfigurationError, InvalidEventError, NamespaceTakenError
from durable_tracker.protocol import fields
from durable_tracker.protocol.fields import FIELDS, PAYLOAD_DATA_SCHEMA
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[Any, Any], object]

official: Any = snowplow_tracker
ours: Any = durable_tracker
SCHEMA = "iglu:com.acme/thing/jsonschema/1-0-0"
BY_NATURE = {"eid", "dtm", "stm", "tv"}


class Lazy:
    """A lazy translation, or a user-agent object: its text is made when asked for."""

    def __str__(self) -> str:
        return "lazy é"


class Plain(enum.Enum):
    RED = "red"


class Mixed(str, enum.Enum):  # noqa: UP042 - what real code has, and renders otherwise than StrEnum
    RED = "red"


class Str(enum.StrEnum):
    RED = "red"


class Int(enum.IntEnum):
    SEVEN = 7


class Text(str):
    __slots__ = ()


class Indexed:
    def __index__(self) -> int:
        return 7

    def __str__(self) -> str:
        return "7"


TEXTS: dict[str, Any] = {
    "an IPv4 address": ipaddress.ip_address("192.0.2.1"),
    "an IPv6 address": ipaddress.ip_address("2001:db8::1"),
    "a time zone": zoneinfo.ZoneInfo("UTC"),
    "a lazy text": Lazy(),
    "an enum": Plain.RED,
    "an enum that is text": Mixed.RED,
    "a StrEnum": Str.RED,
    "an IntEnum": Int.SEVEN,
    "True": True,
    "False": False,
    "an integer": 42,
    "a float": 1.5,
    "a Decimal": decimal.Decimal("1.10"),
    "a Fraction": Fraction(1, 3),
    "a date": dt.date(2024, 2, 29),
    "a time": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
    "a duration": dt.timedelta(seconds=90),
    "a path": pathlib.PurePosixPath("/srv/a b"),
    "a UUID": uuid.UUID(int=5),
    "a subclass of text": Text("text"),
    "a list": ["a", 1],
    "a dict": {"a": 1},
    "bytes": b"raw",
    "an error": ValueError("no"),
}
PLACES: dict[str, Callable[[Any], Call]] = {
    "label": lambda v: lambda _, t: t.track_struct_event("c", "a", v),
    "property": lambda v: lambda _, t: t.track_struct_event("c", "a", None, v),
    "title": lambda v: lambda _, t: t.track_page_view("https://acme.com", v),
    "user id": lambda v: lambda lib, t: t.set_subject(lib.Subject().set_user_id(v)).track_page_view("u"),
    "ip": lambda v: lambda lib, t: t.set_subject(lib.Subject().set_ip_address(v)).track_page_view("u"),
    "user agent": lambda v: lambda lib, t: t.set_subject(lib.Subject().set_useragent(v)).track_page_view("u"),
}
JSONS: dict[str, Any] = {
    "integers as keys": {1: "a", 2: "b"},
    "floats as keys": {1.5: "a"},
    "booleans as keys": {True: 1, False: 0},
    "None as a key": {None: 1},
    "an enum as a value": {"colour": Mixed.RED},
    "an IntEnum as a key": {Int.SEVEN: 1},
    "a tuple": {"a": (1, 2)},
    "deep nesting": {"a": [[[[[[[[[[1]]]]]]]]]]},
    "nothing": {},
    "text of all kinds": {"é\u2028": '"\\\n\x00'},
}
NUMBERS: dict[str, Any] = {
    "an integer": 3,
    "a float": 1.5,
    "an exponent": 1e16,
    "a Decimal": decimal.Decimal("19.990"),
    "a Decimal of many digits": decimal.Decimal("1234567890.12345678901234567890"),
    "an IntEnum": Int.SEVEN,
    "text": "2.50",
    "an object with __index__": Indexed(),
}
JSON_PLACES: dict[str, Callable[[Any], Call]] = {
    "JSON": lambda v: lambda lib, t: t.track_self_describing_event(lib.SelfDescribingJson(SCHEMA, v)),
    "context": lambda v: lambda lib, t: t.track_page_view("u", context={1: lib.SelfDescribingJson(SCHEMA, v)}.values()),
}
NUMBER_PLACES: dict[str, Callable[[Any], Call]] = {
    "value": lambda v: lambda _, t: t.track_struct_event("c", "a", value=v),
    "price": lambda v: lambda _, t: t.track_ecommerce_transaction_item("o", "s", v, 1),
}
CALLS: dict[str, Call] = {
    **{f"{place}: {name}": make(value) for place, make in PLACES.items() for name, value in TEXTS.items()},
    **{f"{place}: {name}": make(value) for place, make in JSON_PLACES.items() for name, value in JSONS.items()},
    **{f"{place}: {name}": make(value) for place, make in NUMBER_PLACES.items() for name, value in NUMBERS.items()},
    "items from a generator": lambda _, t: t.track_ecommerce_transaction(
        "o", 1, items=({"sku": sku, "price": 1, "quantity": 1} for sku in ("a", "b")), tstamp=5
    ),
    "a subject's viewport": lambda lib, t: t.set_subject(lib.Subject().set_viewport(800, 600)).track_page_view("u"),
}


def sent(library: Any, collector: Collector) -> dict[str, list[dict[str, Any]]]:
    """Make every call on a library's tracker, and return what arrived by the name of the call."""
    emitter = library.Emitter("127.0.0.1", protocol="http", port=collector.port, batch_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, call in CALLS.items():
            call(library, library.Tracker(name, emitter))
    emitter.flush()
    if library is ours:
        emitter.close(30)
    arrived: dict[str, list[dict[str, Any]]] = {}
    for event in collector.events:
        comparable = {field: text for field, text in event.items() if field not in BY_NATURE}
        arrived.setdefault(event["tna"], []).append(comparable)
    return arrived


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, int]]:
    with pytest.MonkeyPatch.context() as patch, Collector() as theirs, Collector() as mine:
        patch.setenv("DURABLE_TRACKER_DIR", str(tmp_path_factory.mktemp("queues")))
        return sent(official, theirs), sent(ours, mine), mine.counts()


def test_the_table_is_as_long_as_it_should_be() -> None:
    """A call that is lost in an edit would not be missed otherwise."""
    assert len(CALLS) >= 150


@pytest.mark.parametrize("name", CALLS)
def test_a_call_arrives_as_from_the_official_tracker(name: str, both: tuple[Any, Any, Any]) -> None:
    """The same text in every field."""
    theirs, mine, _ = both
    assert theirs[name] == mine[name]


def test_none_of_it_spoils_a_batch(both: tuple[Any, Any, dict[str, int]]) -> None:
    """The collector takes every event of the table for good."""
    _, mine, counts = both
    total = sum(len(events) for events in mine.values())
    assert counts == {"total": total, "good": total, "bad": 0}


odd_values = (
    st.sampled_from([*TEXTS.values(), *NUMBERS.values(), *JSONS.values(), float("nan"), object(), len])
    | st.text()
    | st.integers()
    | st.floats()
    | st.decimals()
)


ENCODERS = st.sampled_from([None, str, lambda _: {"a": float("inf")}, lambda value: [value.__class__.__name__]])


def json_or_none(value: Any) -> str | None:
    """Return the text of any JSON in an envelope, as a raw payload may have it."""
    with suppress(TypeError, ValueError):
        entity = {"schema": SCHEMA, "data": value}
        return json.dumps({"schema": fields.UNSTRUCT_EVENT_SCHEMA, "data": entity})
    return None


FIELDS_AND_OTHERS = st.sampled_from(sorted(FIELDS)) | st.text(max_size=3)
keys = st.text(max_size=4) | st.integers() | st.floats() | st.booleans() | st.none()
odd_json = st.recursive(
    odd_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
odd_schemas = st.sampled_from(
    [SCHEMA, "iglu:a/b/jsonschema/0-1-0", "iglu:a/b/jsonschema/1-0-2147483648", "iglu:a/b/c/1-0-00", "x", 5]
) | st.from_regex(r"iglu:[a-z.]{1,3}/[a-z]{1,3}/[a-z]{1,3}/[0-9]{1,3}-[0-9]{1,3}-[0-9]{1,11}", fullmatch=True)
odd_pairs = st.dictionaries(FIELDS_AND_OTHERS, odd_values | odd_json.map(json_or_none), max_size=2)
CODES = st.sampled_from(["pv", "pp", "se", "ue", "tr", "ti", "ev", "ad", "", "xx"])
SETTERS = sorted(name for name in vars(ours.Subject) if name.startswith("set_"))


def judged(wires: list[dict[str, str]], method: str) -> list[Any]:
    """Return the bad rows of whole requests, by the judgement of the development collector.

    Args:
        wires: the events, as they would be sent.
        method: "post" puts them into one request, "get" sends one by one.
    """
    queries = [""] if method == "post" else [urlencode(wire) for wire in wires]
    body = json.dumps({"schema": PAYLOAD_DATA_SCHEMA, "data": wires}).encode() if method == "post" else b""
    found: list[Any] = []
    judgements = 0
    for query in queries:
        request = Request(
            number=1,
            method=method.upper(),
            path="/com.snowplowanalytics.snowplow/tp2" if method == "post" else "/i",
            query=query,
            headers={"content-type": "application/json; charset=utf-8"} if method == "post" else {},
            header_lines=(),
            peer="127.0.0.1",
            received_ms=0,
            network_user_id="",
            read_body=lambda: body,
        )
        verdict = classify(request, Registry())
        found += [row for row in verdict.bad if row.parameters is None]
        judgements += len(verdict.good) + len(verdict.bad)
    assert found or judgements == len(wires)
    return found


class ByGet(RecordingEmitter):
    method = "get"


@pytest.mark.parametrize("method", ["post", "get"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.just("pv") | CODES,
    odd_pairs,
    st.just(SCHEMA) | odd_schemas,
    json_values(exotic=False) | numbers | some_text | odd_json,
    st.dictionaries(st.sampled_from(SETTERS), some_text | odd_values, max_size=1),
    st.data(),
)
def test_nothing_that_passes_the_door_fails_a_batch(
    method: str,
    code: str,
    pairs: dict[Any, Any],
    schema: Any,
    content: Any,
    setters: dict[str, Any],
    data: st.DataObject,
) -> None:
    """Whatever it is, and whichever way it comes: it is refused by name, or it leaves its request sound."""
    emitter = ByGet() if method == "get" else RecordingEmitter()
    made = ours.Tracker("shop", emitter, encode_base64=data.draw(st.booleans()), json_encoder=data.draw(ENCODERS))
    with suppress(InvalidEventError):
        subject = ours.Subject()
        for setter, value in setters.items():
            sides = (value, value) if setter in ("set_viewport", "set_screen_resolution") else (value,)
            with suppress(InvalidEventError):
                getattr(subject, setter)(*sides)
        entity = ours.SelfDescribingJson(schema, content)
        entities = data.draw(st.sampled_from([None, [entity], [entity, entity]]))
        way = data.draw(st.sampled_from(["event", "payload", "described", "struct", "page", "sale", "search"]))
        if way == "event":
            made.track(ours.Event({"e": code, **pairs}, subject, entities, data.draw(st.none() | odd_values)))
        elif way == "payload":
            made.track(ours.Payload({"e": code, "p": "pc", "tv": "x", **pairs}))
        elif way == "described":
            made.track_self_describing_event(entity, entities, None, subject)
        elif way == "struct":
            made.track_struct_event("c", "a", content, content, content, entities, None, subject)
        elif way == "page":
            made.track_page_ping("u", content, content, content, context=entities, event_subject=subject)
        elif way == "sale":
            made.track_ecommerce_transaction("o", content, content, content, currency=content, items=[content])
        else:
            made.track_site_search(["a"], content, content, context=entities)
    note_outcome("passed" if emitter.payloads else "refused")
    made.track_page_view("u")
    assert judged([one.wire for one in emitter.events], method) == []


def test_the_judge_finds_what_fails_a_batch() -> None:
    """Else the test above would show nothing."""
    good = {"e": "pv", "p": "pc", "tv": "x"}
    assert judged([good, good], "post") == judged([good, good], "get") == []
    assert len(judged([good, {**good, "no": "x"}], "post")) == 1
    assert len(judged([good, {**good, "nuid": "x"}], "get")) == 1


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text today")


def test_a_text_that_cannot_be_made_is_refused_by_the_fields_name() -> None:
    """What `__str__` raises does not reach the caller as it is."""
    with pytest.raises(InvalidEventError, match=r"page: .*no text today") as caught:
        ours.Tracker("shop", RecordingEmitter()).track_page_view("u", Broken())
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_what_has_no_text_of_its_own_is_logged_once_per_field_and_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent as it always was; somebody should know."""
    monkeypatch.setattr(fields, "_logged_textless", set())
    made = ours.Tracker("shop", RecordingEmitter())
    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        for value in (object(), object(), b"x", len):
            made.track_page_view("u", value)
    said = [(vars(record)["event"], vars(record)["field"], vars(record)["type"]) for record in caplog.records]
    expected = [
        ("event.field_without_text", "page", kind) for kind in ("object", "bytes", "builtin_function_or_method")
    ]
    assert said == expected


RAW = {"e": "pv", "p": "pc", "tv": "x"}


def test_a_raw_payload_may_have_what_the_pipeline_takes() -> None:
    """A time of sending, which is stamped afresh; base64 without padding; any network user id by POST."""
    emitter = RecordingEmitter()
    text = json.dumps({"schema": fields.CONTEXTS_SCHEMA, "data": []})
    cx = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    ours.Tracker("shop", emitter).track(ours.Payload({**RAW, "stm": 5, "nuid": "any", "cx": cx}))
    (event,) = emitter.events
    assert (event.wire["nuid"], event.wire["cx"], "stm" in event.wire) == ("any", cx, False)


def test_a_network_user_id_must_be_a_uuid_by_get() -> None:
    """A collector takes it from a querystring as its own."""

    class GetEmitter(RecordingEmitter):
        method = "get"

    with pytest.raises(InvalidEventError, match="nuid: must be a UUID"):
        ours.Tracker("shop", GetEmitter()).track(ours.Payload({**RAW, "nuid": "any"}))


def test_integral_numbers_of_any_type_are_counts() -> None:
    """The official tracker's text for them, such as 1.0, would fail in the pipeline."""
    emitter = RecordingEmitter()
    for number in (7.0, decimal.Decimal("7.0"), Fraction(7), Int.SEVEN, Indexed(), "7"):
        ours.Tracker("shop", emitter, app_id=42).track_page_ping("u", min_x=number, tstamp=None)
    assert [(event.wire["pp_mix"], event.wire["aid"]) for event in emitter.events] == [("7", "42")] * 6


def test_the_contracts_change_nothing_and_say_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that switches them goes on working."""
    monkeypatch.setattr(contracts, "_said", [])
    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        contracts.disable_contracts()
        contracts.enable_contracts()
    assert (events_in(caplog), contracts.contracts_enabled()) == (["contracts.always_on"], True)


def test_a_store_in_memory_can_be_made_and_not_used() -> None:
    """The error says what to use instead."""
    store = ours.InMemoryEventStore(logging.getLogger("x"), 5)
    for use in (store.size, store.get_events_batch, lambda: store.add_event({}), lambda: store.cleanup([], True)):
        with pytest.raises(ConfigurationError, match="queue_dir="):
            use()


def test_official_constants_and_kinds_of_error_are_there() -> None:
    """By their names; a taken namespace is a TypeError, as on the official tracker."""
    assert (fields.TRACKER_VERSION, 10) == (tracker.VERSION, emitters.DEFAULT_MAX_LENGTH)
    assert PAYLOAD_DATA_SCHEMA == emitters.PAYLOAD_DATA_SCHEMA
    assert issubclass(NamespaceTakenError, TypeError)
    one, same = (ours.SelfDescribingJson(SCHEMA, {"a": []}) for _ in range(2))
    assert len({one, same}) == 1
