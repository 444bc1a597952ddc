"""What the pipeline would fail is refused before it is queued, with the field and the rule, and does no harm."""

from __future__ import annotations

import enum
import json
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from durable_tracker import events, subject
from durable_tracker.errors import InvalidEventError
from durable_tracker.payload import Payload
from durable_tracker.protocol import fields
from durable_tracker.protocol.fields import FIELDS
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.testing import RecordingEmitter
from durable_tracker.tracker import Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

# Most calls here are wrong on purpose, which mypy need not say.
Event: Any = events.Event
PagePing: Any = events.PagePing
PageView: Any = events.PageView
ScreenView: Any = events.ScreenView
SelfDescribing: Any = events.SelfDescribing
StructuredEvent: Any = events.StructuredEvent
Subject: Any = subject.Subject

SCHEMA = "iglu:com.acme/save_game/jsonschema/1-0-0"
GOOD_EID = "11111111-2222-4333-8444-555555555555"


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Indexed:
    def __index__(self) -> int:
        return 7


class Colour(enum.StrEnum):
    RED = "red"


def described(data: Any) -> Any:
    return SelfDescribing(SelfDescribingJson(SCHEMA, data))


def with_context(data: Any) -> Any:
    return PageView("https://acme.com", context=[SelfDescribingJson(SCHEMA, data)])


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def raw(**pairs: Any) -> Any:
    return Event({"e": "pv", **pairs})


def envelope(name: str, data: Any, version: str = "1-0-0") -> str:
    return json.dumps({"schema": f"iglu:com.snowplowanalytics.snowplow/{name}/jsonschema/{version}", "data": data})


REFUSED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "a key outside the allow-list": (lambda t: t.track(raw(cv="1")), "cv", "not a field"),
    "a key that is not text": (lambda t: t.track(Event({"e": "pv", 1: "x"})), "1", "not a field"),
    "an event that always fails": (lambda t: t.track(Event({"e": "ad"})), "e", "one of ev, pp"),
    "no kind of event": (lambda t: t.track(Event({"url": "x"})), "e", "required"),
    "an empty kind of event": (lambda t: t.track(Event({"e": ""})), "e", "required"),
    "an unknown kind of event": (lambda t: t.track(Event({"e": "xx"})), "e", "one of ev, pp"),
    "an unhashable kind of event": (lambda t: t.track(Event({"e": ["pv"]})), "e", "one of"),
    "an unknown platform": (lambda t: t.track(raw(p="toaster")), "p", "one of app, cnsl, headset"),
    "a payload without a tracker version": (lambda t: t.track(Payload({"e": "pv", "p": "pc"})), "tv", "required"),
    "a self-describing event without content": (lambda t: t.track(Event({"e": "ue"})), "ue_pr", "required"),
    "an event that is none": (lambda t: t.track("page view"), "event", "must be an Event"),
    "an event id that is no UUID": (lambda t: t.track(raw(eid="1")), "eid", "UUID"),
    "a boolean as an integer": (lambda t: t.track(PagePing("u", min_x=True)), "pp_mix", "integer"),
    "a fraction as an integer": (lambda t: t.track(PagePing("u", max_x=1.5)), "pp_max", "integer"),
    "a fraction in text as an integer": (lambda t: t.track(raw(vid="1.0")), "vid", "integer"),
    "digits of another script": (lambda t: t.track(raw(vid="\u0661")), "vid", "integer"),
    "an integer beyond 32 bits": (lambda t: t.track(PagePing("u", min_y=2**31)), "pp_miy", "2147483647"),
    "a quantity with a fraction": (
        lambda t: t.track_ecommerce_transaction_item("o", "s", 1.0, "1.0"),
        "ti_qu",
        "integer",
    ),
    "a currency of more than 3 letters": (
        lambda t: t.track_ecommerce_transaction("o", 1, currency="euros"),
        "tr_cu",
        "3 letters",
    ),
    "NaN as a decimal": (lambda t: t.track(StructuredEvent("c", "a", value=float("nan"))), "se_va", "finite"),
    "infinity as a decimal": (lambda t: t.track(StructuredEvent("c", "a", value=float("inf"))), "se_va", "finite"),
    "a NaN of Decimal": (lambda t: t.track(raw(se_va=Decimal("nan"))), "se_va", "finite"),
    "a boolean as a decimal": (lambda t: t.track(StructuredEvent("c", "a", value=True)), "se_va", "decimal"),
    "a word as a decimal": (lambda t: t.track(raw(se_va="many")), "se_va", "decimal"),
    "a decimal beyond a double": (lambda t: t.track(raw(se_va="1e999")), "se_va", "finite"),
    "an integer beyond a double": (lambda t: t.track(raw(se_va=10**400)), "se_va", "finite"),
    "an integer of thousands of digits as text": (lambda t: t.track(raw(uid=10**5000)), "uid", "text"),
    "an integer of thousands of digits as an integer": (lambda t: t.track(raw(vid=10**5000)), "vid", "integer"),
    "an integer of thousands of digits as a decimal": (lambda t: t.track(raw(se_va=10**5000)), "se_va", "finite"),
    "an integer of thousands of digits as a time": (
        lambda t: t.track(PageView("u", true_timestamp=10**5000)),
        "ttm",
        "integer",
    ),
    "an object that cannot be shown": (lambda t: t.track(raw(uid=Unshowable())), "uid", "a Unshowable of type"),
    "a size without a height": (lambda t: t.track(raw(res="1920")), "res", "WIDTHxHEIGHT"),
    "a size beyond 32 bits": (lambda t: t.track(raw(ds="1x2147483648")), "ds", "WIDTHxHEIGHT"),
    "a flag that is a word": (lambda t: t.track(raw(cookie="yes")), "cookie", "0 or 1"),
    "an empty address": (lambda t: t.track_page_view(""), "url", "not empty"),
    "no address": (lambda t: t.track(PageView(None)), "url", "not empty"),
    "an empty category": (lambda t: t.track_struct_event("", "a"), "se_ca", "not empty"),
    "an empty action": (lambda t: t.track_struct_event("c", ""), "se_ac", "not empty"),
    "a lone surrogate in a field": (lambda t: t.track(PageView("u", page_title="a\ud800b")), "page", "surrogate"),
    "a timestamp in words": (lambda t: t.track(PageView("u", true_timestamp="abc")), "ttm", "milliseconds"),
    "a timestamp in text": (lambda t: t.track(PageView("u", true_timestamp="5")), "ttm", "milliseconds"),
    "a boolean as a timestamp": (lambda t: t.track(PageView("u", true_timestamp=True)), "ttm", "milliseconds"),
    "NaN as a timestamp": (lambda t: t.track(PageView("u", true_timestamp=float("nan"))), "ttm", "milliseconds"),
    "a timestamp after the year 9999": (lambda t: t.track(PageView("u", true_timestamp=10**15)), "ttm", "integer"),
    "NaN in JSON": (lambda t: t.track(described({"a": [1, float("nan")]})), "data.a[1]", "finite"),
    "infinity in a context": (lambda t: t.track(with_context(float("-inf"))), "context[0]", "finite"),
    "a surrogate in JSON": (lambda t: t.track(described({"a": "\udc00"})), "data.a", "surrogate"),
    "a surrogate in a key": (lambda t: t.track(described({"\udc00": 1})), "data", "surrogate"),
    "a tuple as a key": (lambda t: t.track(described({"a": {(1,): 2}})), "data.a", "text or a number as keys"),
    "two keys that become one": (lambda t: t.track(described({1: 2, "1": 3})), "data", "two keys"),
    "NaN as a key": (lambda t: t.track(described({float("nan"): 2})), "data", "finite"),
    "a schema of version 0": (lambda _: SelfDescribingJson("iglu:a/b/jsonschema/0-1-0", {}), "schema", "iglu:"),
    "a schema with a leading zero": (lambda _: SelfDescribingJson("iglu:a/b/jsonschema/01-0-0", {}), "schema", "iglu:"),
    "a schema ending in zeros": (lambda _: SelfDescribingJson("iglu:a/b/jsonschema/1-0-00", {}), "schema", "iglu:"),
    "a schema beyond 32 bits": (
        lambda _: SelfDescribingJson("iglu:a/b/jsonschema/1-0-2147483648", {}),
        "schema",
        "iglu:",
    ),
    "an event nested too deeply": (lambda t: t.track(described(nested(48))), "nested", "50 levels"),
    "a context nested too deeply": (lambda t: t.track(with_context(nested(47))), "nested", "50 levels"),
    "data that contains itself": (lambda t: t.track(described(circular())), "nested", "50 levels"),
    "an integer of thousands of digits": (lambda t: t.track(described({"n": 10**5000})), "data.n", "bits"),
    "a set in JSON": (lambda t: t.track(described({"a": {1}})), "data.a", "json_encoder"),
    "bytes in JSON": (lambda t: t.track(described(b"x")), "data", "json_encoder"),
    "a context that is no list": (
        lambda t: t.track(PageView("u", context=SelfDescribingJson(SCHEMA, {}))),
        "context",
        "list of SelfDescribingJson",
    ),
    "a context of dicts": (
        lambda t: t.track(PageView("u", context=[{"schema": SCHEMA, "data": {}}])),
        "context[0]",
        "SelfDescribingJson",
    ),
    "content that is a dict": (lambda t: t.track(SelfDescribing({})), "event_json", "SelfDescribingJson"),
    "a schema that is a word": (lambda t: t.track(SelfDescribing(SelfDescribingJson("x", {}))), "schema", "iglu:"),
    "a schema without a version": (lambda _: SelfDescribingJson("iglu:a/b/jsonschema", {}), "schema", "iglu:"),
    "a schema with a line feed": (lambda _: SelfDescribingJson(SCHEMA + "\n", {}), "schema", "iglu:"),
    "JSON text that is none": (lambda t: t.track(Event({"e": "ue", "ue_pr": "{"})), "ue_pr", "JSON"),
    "JSON text with NaN": (lambda t: t.track(raw(co='{"a": NaN}')), "co", "NaN"),
    "base64 that is none": (lambda t: t.track(raw(cx="!")), "cx", "base64"),
    "JSON text of another envelope": (
        lambda t: t.track(Event({"e": "ue", "ue_pr": envelope("contexts", [])})),
        "ue_pr",
        "unstruct_event",
    ),
    "JSON text of a wrong inner schema": (
        lambda t: t.track(Event({"e": "ue", "ue_pr": envelope("unstruct_event", {"schema": "x", "data": 1})})),
        "ue_pr",
        "iglu:",
    ),
    "JSON text with more than schema and data": (
        lambda t: t.track(raw(co=envelope("contexts", [{"schema": SCHEMA, "data": 1, "more": 1}], "1-0-1"))),
        "co",
        "exactly",
    ),
    "JSON text nested too deeply": (
        lambda t: t.track(raw(co=envelope("contexts", [{"schema": SCHEMA, "data": nested(47)}], "1-0-1"))),
        "co",
        "50 levels",
    ),
    "an event that is too large": (lambda t: t.track(described("x" * 980_000)), "event", "980000"),
    "an element without an id": (
        lambda t: t.track_form_change("f", None, "INPUT", "v"),
        "elementId",
        "requires it",
    ),
    "an unknown kind of node": (lambda t: t.track_form_change("f", "e", "DIV", "v"), "nodeName", "INPUT"),
    "an unknown type of input": (lambda t: t.track_form_change("f", "e", "INPUT", "v", "x"), "type", "checkbox"),
    "a value that is a number": (lambda t: t.track_form_change("f", "e", "INPUT", 5), "value", "text"),
    "a value that is too long": (
        lambda t: t.track_form_change("f", "e", "INPUT", "x" * 65_536),
        "value",
        "65535",
    ),
    "a form's id that is too long": (lambda t: t.track_form_submit("x" * 4097), "formId", "4096"),
    "an element without a value": (
        lambda t: t.track_form_submit("f", elements=[{"name": "n", "nodeName": "INPUT"}]),
        "elements[0].value",
        "required",
    ),
    "an element with a stranger": (
        lambda t: t.track_form_submit("f", elements=[{"name": "n", "value": "v", "nodeName": "INPUT", "id": 1}]),
        "elements[0].id",
        "none of",
    ),
    "elements that are a dict": (lambda t: t.track_form_submit("f", elements={}), "elements", "list"),
    "classes that are one text": (lambda t: t.track_link_click("u", element_classes="big"), "elementClasses", "list"),
    "a class that is no text": (lambda t: t.track_link_click("u", element_classes=[1]), "elementClasses[0]", "text"),
    "a click without an address": (lambda t: t.track_link_click(""), "targetUrl", "not empty"),
    "a quantity that is text": (lambda t: t.track_add_to_cart("s", "2"), "quantity", "number"),
    "a price that is not finite": (
        lambda t: t.track_remove_from_cart("s", 1, unit_price=float("inf")),
        "unitPrice",
        "finite",
    ),
    "a search without terms": (lambda t: t.track_site_search([]), "terms", "at least one"),
    "a search for one text": (lambda t: t.track_site_search("words"), "terms", "list"),
    "a filter that is a number": (lambda t: t.track_site_search(["w"], {"size": 5}), "filters.size", "boolean"),
    "a negative count": (lambda t: t.track_site_search(["w"], total_results=-1), "totalResults", "from 0"),
    "a screen without name and id": (lambda t: t.track_screen_view(), "name", "one of them"),
    "a screen's id that is no UUID": (lambda t: t.track(ScreenView("home", "Home")), "id", "UUID"),
    "a previous screen's id that is no UUID": (
        lambda t: t.track_mobile_screen_view("Home", previous_id="1"),
        "previousId",
        "UUID",
    ),
    "an item that lacks its price": (
        lambda t: t.track_ecommerce_transaction("o", 1, items=[{"sku": "s", "quantity": 1}]),
        "items[0].price",
        "required",
    ),
    "an item with a stranger": (
        lambda t: t.track_ecommerce_transaction("o", 1, items=[{"sku": "s", "price": 1, "quantity": 1, "x": 1}]),
        "items[0].x",
        "none of",
    ),
    "items that are no list": (
        lambda t: t.track_ecommerce_transaction("o", 1, items={"sku": "s", "price": 1, "quantity": 1}),
        "items",
        "must be a list",
    ),
    "elements that are no list": (lambda t: t.track_form_submit("f", elements=5), "elements", "must be a list"),
    "a subject that is none": (
        lambda t: t.track(PageView("u", event_subject={"uid": "a"})),
        "event_subject",
        "Subject",
    ),
    "the last of several items": (
        lambda t: t.track_ecommerce_transaction(
            "o", 1, items=[{"sku": "s", "price": 1, "quantity": 1}, {"sku": "s", "price": 1, "quantity": 0.5}]
        ),
        "ti_qu",
        "integer",
    ),
    "a transaction without a total": (lambda t: t.track_ecommerce_transaction("o", None), "tr_tt", "decimal"),
    "a session that is no UUID": (lambda _: Subject().set_domain_session_id("1"), "sid", "UUID"),
    "a session's number in words": (lambda _: Subject().set_domain_session_index("one"), "vid", "integer"),
    "a screen without width": (lambda _: Subject().set_screen_resolution(0, 5), "res", "above 0"),
    "a viewport of fractions": (lambda _: Subject().set_viewport(1.5, 5), "vp", "whole pixels"),
    "a platform that is none": (lambda _: Subject().set_platform("phone"), "p", "one of"),
}


@pytest.mark.parametrize("encode_base64", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_a_rule_is_refused_and_the_next_event_goes_through(case: str, encode_base64: bool) -> None:
    """The error names field and rule and is a ValueError; nothing was queued; the tracker is none the worse."""
    act, field, rule = REFUSED[case]
    emitter = RecordingEmitter()
    tracker = Tracker("shop", emitter, encode_base64=encode_base64)
    with pytest.raises(InvalidEventError) as caught:
        act(tracker)
    assert isinstance(caught.value, ValueError)
    # Deep nesting is reported where it goes too deep, which is a long way down.
    assert caught.value.field == field or (field == "nested" and "[0][0]" in caught.value.field)
    assert rule in caught.value.rule
    assert len(str(caught.value)) < 500
    assert emitter.payloads == []
    eid = tracker.track(PageView("https://acme.com"))
    assert [event.eid for event in emitter.events] == [eid]


@pytest.mark.parametrize("build", [lambda: described(nested(47)), lambda: with_context(nested(46))])
def test_nesting_of_50_levels_with_envelope_and_scalar_is_let_through(build: Callable[[], Any]) -> None:
    """The limit is that of the pipeline, which counts the envelope."""
    emitter = RecordingEmitter()
    Tracker("shop", emitter, encode_base64=False).track(build())
    wire = emitter.events[0].wire
    text = wire.get("ue_pr", wire.get("co", ""))
    assert max(text.count("[", 0, i) + text.count("{", 0, i) for i in range(len(text))) == 49


ACCEPTED: dict[str, tuple[Any, str, str]] = {
    "digits as an integer": (raw(vid="-12"), "vid", "-12"),
    "a number as text": (raw(uid=12), "uid", "12"),
    "a UUID object as text": (raw(uid=UUID(GOOD_EID)), "uid", GOOD_EID),
    "a UUID object as a session": (raw(sid=UUID(GOOD_EID)), "sid", GOOD_EID),
    "a UUID in upper case": (
        raw(sid="ABCDEFAB-2222-4333-8444-555555555555"),
        "sid",
        "ABCDEFAB-2222-4333-8444-555555555555",
    ),
    "an integer of another type, such as numpy's": (raw(vid=Indexed()), "vid", "7"),
    "a subclass of text": (StructuredEvent(Colour.RED, "a"), "se_ca", "red"),
    "an exponent": (StructuredEvent("c", "a", value=1e16), "se_va", "1e+16"),
    "a Decimal": (raw(se_va=Decimal("1.10")), "se_va", "1.10"),
    "zero": (StructuredEvent("c", "a", value=0), "se_va", "0"),
    "a decimal in text": (raw(se_va="-.5"), "se_va", "-.5"),
    "a flag": (raw(cookie=1), "cookie", "1"),
    "a fraction of a millisecond": (PageView("u", true_timestamp=1.9), "ttm", "1"),
    "a time before 1970": (PageView("u", true_timestamp=-5), "ttm", "-5"),
    "the platform headset": (raw(p="headset"), "p", "headset"),
    "control characters": (PageView("u", page_title='a\x00\n"\\'), "page", 'a\x00\n"\\'),
    "all of Unicode": (PageView("u", page_title="é\u2028😀"), "page", "é\u2028😀"),
    "the largest integer": (PagePing("u", max_y=2**31 - 1), "pp_may", "2147483647"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_keeps_the_rules_is_sent_as_text(case: str) -> None:
    """Numbers, UUIDs and the limits themselves go through in the form that the pipeline parses."""
    event, field, expected = ACCEPTED[case]
    emitter = RecordingEmitter()
    Tracker("shop", emitter).track(event)
    assert emitter.events[0].wire[field] == expected


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_is_unset_is_left_out(nothing: str | None) -> None:
    """Neither None nor empty text is harmless downstream."""
    emitter = RecordingEmitter()
    Tracker("shop", emitter, app_id=nothing).track(PageView("u", page_title=nothing, referrer=nothing))
    assert set(emitter.events[0].wire) == {"e", "url", "p", "tv", "tna", "eid", "dtm"}


def test_a_part_of_an_address_that_is_too_long_for_its_column_is_logged_likewise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole may be shorter than its own column."""
    monkeypatch.setattr(fields, "_logged_lengths", set())
    emitter = RecordingEmitter()
    tracker = Tracker("shop", emitter)
    url, referrer = "https://acme.com/" + "p" * 3000, "https://" + "h" * 256 + ".com/?" + "q" * 6001
    for _ in range(2):
        tracker.track(PageView(url, referrer=referrer))
    tracker.track(PageView("https://acme.com/" + "p" * 2999 + "?" + "q" * 6000))
    assert len(emitter.events) == 3
    logged = [(vars(record)["field"], vars(record)["size"]) for record in caplog.records]
    assert logged == [("url (path)", 3001), ("refr (host)", 260), ("refr (query)", 6001)]


def test_text_that_is_too_long_for_its_column_is_sent_and_logged_once_per_field(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may fail that event alone, so it is not refused; nor does it flood the log."""
    monkeypatch.setattr(fields, "_logged_lengths", set())
    emitter = RecordingEmitter()
    tracker = Tracker("shop", emitter)
    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        for _ in range(3):
            tracker.track(StructuredEvent("c" * 1001, "a", label="l" * 4097))
    assert [event.wire["se_ca"] for event in emitter.events] == ["c" * 1001] * 3
    logged = [(vars(record)["event"], vars(record)["field"], vars(record)["size_max"]) for record in caplog.records]
    assert logged == [("event.field_too_long", "se_ca", 1000), ("event.field_too_long", "se_la", 4096)]
    assert "ccc" not in caplog.text


def test_an_event_that_is_too_long_for_a_get_is_refused_before_any_emitter_gets_it() -> None:
    """The request line has a limit; the other emitters must not have what this one could never send."""

    class GetEmitter(RecordingEmitter):
        method = "get"

    post, get = RecordingEmitter(), GetEmitter()
    tracker = Tracker("shop", [post, get])
    with pytest.raises(InvalidEventError, match="20000, so use method='post'"):
        tracker.track(described("x" * 20_000))
    assert (post.payloads, get.payloads) == ([], [])
    tracker.track(described("x" * 10_000))
    assert (len(post.payloads), len(get.payloads)) == (1, 1)


def test_the_allow_list_is_that_of_the_schema() -> None:
    """Not a field more or less than `payload_data` has."""
    path = "durable_tracker/protocol/schemas/com.snowplowanalytics.snowplow.payload_data.1-0-4.json"
    with open(path, encoding="utf-8") as file:
        assert set(json.load(file)["items"]["properties"]) == FIELDS
