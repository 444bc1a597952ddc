"""A project that uses the official tracker, of either generation, changes its import and nothing else."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import snowplow_tracker
from fakes import events_in

import durable_tracker
from durable_tracker import (
    AsyncEmitter,
    ConfigurationError,
    Emitter,
    EmitterConfiguration,
    InvalidEventError,
    PagePing,
    PageView,
    ScreenView,
    SelfDescribing,
    SelfDescribingJson,
    Snowplow,
    StructuredEvent,
    Subject,
    Tracker,
    TrackerConfiguration,
)
from durable_tracker.collector import Collector
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Iterator

official: Any = snowplow_tracker
ONE = "11111111-2222-4333-8444-555555555555"
SAVE_GAME = "iglu:com.acme/save_game/jsonschema/1-0-0"
USER = "iglu:com.acme/user/jsonschema/1-0-0"
SNOWPLOW = "iglu:com.snowplowanalytics.snowplow"
ITEMS: list[dict[str, Any]] = [
    {"sku": "pbz0026", "price": 20, "quantity": 1, "name": "socks", "category": "clothes"},
    {"sku": "pbz0038", "price": 15.5, "quantity": 2, "context": [SelfDescribingJson(USER, {"gift": True})]},
]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_trackers() -> Iterator[None]:
    yield
    Snowplow.reset()


def address(collector: Collector) -> tuple[str, int]:
    host, port = collector.url.removeprefix("http://").split(":")
    return host, int(port)


def micro(collector: Collector, what: str) -> Any:
    with urllib.request.urlopen(f"{collector.url}/micro/{what}", timeout=5) as answer:
        return json.load(answer)


def good(collector: Collector, count: int) -> list[dict[str, str]]:
    """Return the fields of the good events, oldest first, once there are `count`; none may be bad."""
    deadline = time.monotonic() + 10
    while micro(collector, "all")["total"] < count and time.monotonic() < deadline:
        time.sleep(0.01)
    assert micro(collector, "all") == {"total": count, "good": count, "bad": 0}, micro(collector, "bad")
    return [entry["rawEvent"]["parameters"] for entry in reversed(micro(collector, "good"))]


def test_the_older_generations_way_of_working_arrives(collector: Collector) -> None:
    """Emitters first, a namespace by keyword, one method per event, all chained, everything flushed at the end."""
    host, port = address(collector)
    emitter = Emitter(host, protocol="http", port=port, method="get", buffer_size=3)
    subject = Subject().set_platform("srv").set_user_id("alice").set_lang("en")
    tracker = Tracker(emitter, subject, namespace="cf", app_id="shop", encode_base64=False)
    visitor = [SelfDescribingJson(USER, {"plan": "pro"})]
    result = (
        tracker.track_page_view("https://acme.com", "Home", "https://example.com", visitor, 1_600_000_000_000)
        .track_page_ping("https://acme.com", min_x=0, max_x=100, min_y=0, max_y=500)
        .track_struct_event("shop", "add-to-basket", None, "pcs", 2)
        .track_self_describing_event(SelfDescribingJson(SAVE_GAME, {"level": 23}))
        .track_unstruct_event(SelfDescribingJson(SAVE_GAME, {"level": 24}))
        .track_screen_view("HUD > Save Game", "screen23")
        .track_link_click("https://acme.com/pricing", "menu", ["nav", "top"], "_blank", "Prices")
        .track_add_to_cart("123", 2, "Shorts", "clothing", 7.5, "GBP")
        .track_remove_from_cart("123", 1)
        .track_form_change("signup", "email", "INPUT", "a@acme.com", "email", ["wide"])
        .track_form_submit("signup", ["wide"], [{"name": "email", "value": "a@acme.com", "nodeName": "INPUT"}])
        .track_site_search(["pulp", "fiction"], {"nswf": True}, 215, 22)
        .track_ecommerce_transaction("6a8078be", 51, city="London", currency="GBP", items=ITEMS)
        .set_subject(Subject().set_platform("mob"))
        .track_page_view("https://acme.com/2", event_subject=Subject().set_user_id("bob"))
        .flush()
    )
    assert result is tracker
    events = good(collector, 16)
    kinds = ["pv", "pp", "se", *["ue"] * 9, "tr", "ti", "ti", "pv"]
    assert [event["e"] for event in events] == kinds
    assert [(event["p"], event["uid"], event["tna"], event["aid"]) for event in events[:15]] == [
        ("srv", "alice", "cf", "shop")
    ] * 15
    assert (events[15]["p"], events[15]["uid"]) == ("mob", "bob")
    assert json.loads(events[3]["ue_pr"])["data"] == {"schema": SAVE_GAME, "data": {"level": 23}}
    tracker.close()


def test_the_newer_generations_way_of_working_arrives(collector: Collector) -> None:
    """A namespace first, objects for settings and events, ids from `track`."""
    host, port = address(collector)
    delivered: list[dict[str, Any]] = []
    tracker = Snowplow.create_tracker(
        namespace="ns",
        endpoint=f"http://{host}",
        app_id="shop",
        subject=Subject().set_user_id("alice"),
        tracker_config=TrackerConfiguration(encode_base64=True),
        emitter_config=EmitterConfiguration(batch_size=5, on_success=delivered.extend, port=port),
    )
    assert Snowplow.get_tracker("ns") is tracker
    events = [
        PageView("https://acme.com", "Home", context=[SelfDescribingJson(USER, {"plan": "pro"})]),
        PagePing("https://acme.com", max_y=7),
        StructuredEvent("shop", "add", value=2.5, true_timestamp=1_600_000_000_000),
        SelfDescribing(SelfDescribingJson(SAVE_GAME, {"level": 23}), event_subject=Subject().set_lang("en")),
        ScreenView(ONE, "Home", previous_name="Start"),
    ]
    eids = [tracker.track(event) for event in events]
    assert tracker.flush(timeout=10) is True
    arrived = good(collector, 5)
    assert [event["eid"] for event in arrived] == eids
    assert [(event["tna"], event["uid"], event["p"]) for event in arrived] == [("ns", "alice", "pc")] * 5
    tracker.close()
    assert [event["eid"] for event in delivered] == eids


def test_several_emitters_have_the_same_event(collector: Collector) -> None:
    """A synchronous and an asynchronous one, by POST and by GET."""
    host, port = address(collector)
    first = Emitter(host, protocol="http", port=port, name="first")
    second = AsyncEmitter(host, protocol="http", port=port, method="get", thread_count=2, name="second")
    tracker = Tracker([first, second], namespace="cf")
    eid = tracker.track(PageView("https://acme.com"))
    tracker.flush()
    assert [event["eid"] for event in good(collector, 2)] == [eid, eid]
    tracker.close()


def test_every_public_name_of_the_official_tracker_can_be_imported() -> None:
    """Those without a meaning here say what to use instead when they are used."""
    older = {"CeleryEmitter", "RedisEmitter", "RedisWorker", "disable_contracts", "enable_contracts"}
    modules = {name for name in dir(official) if inspect.ismodule(getattr(official, name))}
    newer = {name for name in dir(official) if not name.startswith("_")} - modules
    assert {name for name in older | newer if not hasattr(durable_tracker, name)} == set()


def parameters(function: Any) -> list[tuple[str, Any]]:
    signature = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.default) for parameter in signature if parameter.kind != parameter.VAR_KEYWORD]


@pytest.mark.parametrize("name", [name for name in dir(official.Tracker) if name.startswith("track_")])
def test_the_track_methods_have_the_official_parameters(name: str) -> None:
    """In the same order, with the same defaults."""
    assert parameters(getattr(official.Tracker, name)) == parameters(getattr(Tracker, name))


@pytest.mark.parametrize(
    "name",
    ["PageView", "PagePing", "StructuredEvent", "SelfDescribing", "ScreenView", "Event", "SelfDescribingJson"],
)
def test_the_event_classes_have_the_official_parameters_and_properties(name: str) -> None:
    """In the same order, with the same defaults; whatever can be set there can be set here."""
    theirs, ours = getattr(official, name), getattr(durable_tracker, name)
    assert parameters(theirs.__init__) == parameters(ours.__init__)
    sample: dict[str, Any] = {"id_": ONE, "event_json": SelfDescribingJson(SAVE_GAME, {})}
    sample |= {"schema": SAVE_GAME} if name == "SelfDescribingJson" else {}
    arguments = {key: sample.get(key, "x") for key, default in parameters(ours)[0:] if default is inspect._empty}
    made = ours(**arguments)
    missing = {key for key in vars(theirs) if not key.startswith("_") and not hasattr(made, key)}
    assert missing == set()


@pytest.mark.parametrize("name", ["Subject", "TrackerConfiguration", "Snowplow", "Tracker", "EmitterConfiguration"])
def test_the_other_classes_have_the_official_methods(name: str) -> None:
    """With the same names of parameters, apart from mutable defaults."""
    theirs, ours = getattr(official, name), getattr(durable_tracker, name)
    for key, member in vars(theirs).items():
        if not key.startswith("_"):
            assert hasattr(ours, key), key
            if callable(member):
                names = [parameter for parameter, _ in parameters(member)]
                assert [parameter for parameter, _ in parameters(getattr(ours, key))][: len(names)] == names


def test_a_transaction_and_its_items_are_tracked_together_and_the_items_left_as_they_are() -> None:
    """Each item has its own context, if it has one, and a true timestamp only if the transaction has one."""
    emitter = RecordingEmitter()
    before = copy.deepcopy(ITEMS)
    context = [SelfDescribingJson(USER, {"plan": "pro"})]
    tracker = Tracker("ns", emitter)
    tracker.track_ecommerce_transaction("o", 51, currency="EUR", items=ITEMS, context=context)
    tracker.track_ecommerce_transaction("p", 51, items=ITEMS, tstamp=5, event_subject=Subject().set_lang("en"))
    assert before == ITEMS
    first, second = emitter.events[:3], emitter.events[3:]
    assert ["tr", "ti", "ti"] == [event.code for event in first] == [event.code for event in second]
    assert [context, context, ITEMS[1]["context"]] == [event.contexts for event in first]
    assert [(event.wire["ti_id"], event.wire["ti_cu"], event.wire.get("ttm")) for event in first[1:]] == [
        ("o", "EUR", None)
    ] * 2
    assert [(event.wire["ttm"], event.wire["lang"]) for event in second] == [("5", "en")] * 3


def test_an_item_that_the_official_tracker_wrote_into_is_taken() -> None:
    """What it wrote there is the transaction's, and what counts is what the transaction says now."""
    emitter = RecordingEmitter()
    item = {"sku": "s", "price": 1, "quantity": 1, "order_id": "old", "tstamp": 5, "event_subject": None}
    Tracker("ns", emitter).track_ecommerce_transaction("new", 1, items=[item])
    transaction, tracked = emitter.events
    assert (transaction.wire["tr_id"], tracked.wire["ti_id"], tracked.wire.get("ttm")) == ("new", "new", None)


def test_an_item_keeps_its_own_currency_if_the_transaction_has_none() -> None:
    """Otherwise that of the transaction counts."""
    emitter = RecordingEmitter()
    item = {"sku": "s", "price": 1, "quantity": 1, "currency": "USD"}
    tracker = Tracker("ns", emitter).track_ecommerce_transaction("o", 1, items=[item])
    tracker.track_ecommerce_transaction("o", 1, items=[item], currency="EUR")
    assert [event.wire["ti_cu"] for event in emitter.events if event.code == "ti"] == ["USD", "EUR"]


def test_a_transaction_is_not_tracked_without_an_item_that_is_refused() -> None:
    """All or nothing."""
    emitter = RecordingEmitter()
    with pytest.raises(InvalidEventError, match=r"items\[1\]\.sku"):
        Tracker("ns", emitter).track_ecommerce_transaction(
            "o", 1, items=[{"sku": "s", "price": 1, "quantity": 1}, {"sku": "", "price": 1, "quantity": 1}]
        )
    assert emitter.payloads == []


def test_the_type_of_a_forms_element_is_sent_in_lower_case() -> None:
    """The only one that the schema takes."""
    emitter = RecordingEmitter()
    element = {"name": "n", "value": None, "nodeName": "INPUT", "type": "TEXT"}
    Tracker("ns", emitter).track_form_change("f", "e", "INPUT", "v", "EMAIL").track_form_submit("f", None, [element])
    change, submit = emitter.events
    assert (change.data["type"], submit.data["elements"][0]["type"]) == ("email", "text")
    assert element["type"] == "TEXT"


def test_a_mobile_screen_view_without_an_id_gets_one() -> None:
    """A new one each time."""
    emitter = RecordingEmitter()
    Tracker("ns", emitter).track_mobile_screen_view("Home").track_mobile_screen_view("Home")
    first, second = emitter.events
    assert (first.schema, first.data["name"]) == (
        "iglu:com.snowplowanalytics.mobile/screen_view/jsonschema/1-0-0",
        "Home",
    )
    assert first.data["id"] != second.data["id"]


def test_no_deprecation_is_announced() -> None:
    """The methods of both generations are here to stay; warnings are errors in these tests."""
    emitter = RecordingEmitter()
    Tracker(emitter).track_page_view("u")
    assert len(emitter.payloads) == 1


# Configuration


def test_a_setting_of_one_configuration_does_not_appear_in_another() -> None:
    """Nor does the emitter share it."""
    codes = {500: False}
    first, second = EmitterConfiguration(custom_retry_codes=codes), EmitterConfiguration()
    assert first.set_retry_code(403) is True
    assert (first.custom_retry_codes, second.custom_retry_codes, codes) == ({500: False, 403: True}, {}, {500: False})


@pytest.mark.parametrize(("status", "retry"), [(200, True), (299, False), ("500", True), (500, "yes"), (True, True)])
def test_a_retry_code_that_makes_no_sense_is_logged_and_changes_nothing(
    status: Any, retry: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """It returns False, as the official one does, and prints nothing."""
    configuration = EmitterConfiguration()
    with caplog.at_level(logging.WARNING, logger="durable_tracker"):
        assert configuration.set_retry_code(status, retry) is False
    assert configuration.custom_retry_codes == {}
    assert events_in(caplog) == ["configuration.retry_code_refused"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("batch_size", 0),
        ("batch_size", True),
        ("byte_limit", -1),
        ("buffer_capacity", 1.5),
        ("on_success", 5),
        ("on_failure", "log"),
        ("request_timeout", 0),
        ("request_timeout", (1, "x")),
        ("request_timeout", True),
        ("custom_retry_codes", {200: True}),
        ("custom_retry_codes", [500]),
        ("event_store", object()),
        ("session", object()),
    ],
)
def test_a_setting_that_is_not_usable_is_refused_when_it_is_given(setting: str, wrong: object) -> None:
    """By the constructor and by the property, with its name."""
    with pytest.raises(ConfigurationError, match=setting):
        EmitterConfiguration(**{setting: wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="durabilty: is no argument of Emitter; did you mean durability"):
        EmitterConfiguration(durabilty="interval")
    configuration = EmitterConfiguration()
    with pytest.raises(ConfigurationError, match=setting):
        setattr(configuration, setting, wrong)


def test_a_trackers_settings_are_checked_likewise() -> None:
    """And can be read back."""
    with pytest.raises(ConfigurationError, match="encode_base64: 'yes' is not True or False"):
        TrackerConfiguration(encode_base64="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="json_encoder: 5 is not a function"):
        TrackerConfiguration(json_encoder=5)  # type: ignore[arg-type]
    configuration = TrackerConfiguration(False, str)
    assert (configuration.encode_base64, configuration.json_encoder) == (False, str)


def test_all_settings_reach_the_emitter() -> None:
    """Those that the official configuration has, and the rest by name."""
    tracker = Snowplow.create_tracker(
        "ns",
        "collector.acme.com",
        emitter_config=EmitterConfiguration(
            7, None, None, 5000, 3.0, 100, {403: True}, max_retry_delay_seconds=9, port=8080, name="mine"
        ),
    )
    (emitter,) = tracker.emitters
    assert isinstance(emitter, Emitter)
    assert (
        emitter.batch_size,
        emitter.byte_limit,
        emitter.request_timeout,
        emitter.buffer_capacity,
        emitter.custom_retry_codes,
        emitter.max_retry_delay_seconds,
        emitter.name,
    ) == (7, 5000, 3.0, 100, {403: True}, 9, "mine")
    assert "8080" in emitter.endpoint
    tracker.close()


# The registry


def test_a_namespace_has_one_tracker() -> None:
    """A second one is refused, before an emitter is made for it."""
    first = Snowplow.add_tracker(Tracker("ns", RecordingEmitter()))
    with pytest.raises(ConfigurationError, match="namespace 'ns' has a tracker already"):
        Snowplow.create_tracker("ns", "collector.acme.com")
    with pytest.raises(ConfigurationError, match="namespace 'ns' has a tracker already"):
        Snowplow.add_tracker(Tracker("ns", RecordingEmitter()))
    assert Snowplow.get_tracker("ns") is first


def test_a_tracker_that_was_removed_is_forgotten_but_not_closed() -> None:
    """What it queued is delivered; the namespace is free."""
    emitter = RecordingEmitter()
    tracker = Snowplow.add_tracker(Tracker("ns", emitter))
    Snowplow.remove_tracker(Tracker("ns", RecordingEmitter()))
    assert Snowplow.get_tracker("ns") is tracker
    Snowplow.remove_tracker(tracker)
    Snowplow.remove_tracker_by_namespace("ns")
    assert Snowplow.get_tracker("ns") is None
    Snowplow.add_tracker(tracker)
    Snowplow.reset()
    assert Snowplow.get_tracker("ns") is None
    tracker.track(PageView("u"))
    assert (len(emitter.payloads), emitter.is_closed) == (1, False)


@pytest.mark.parametrize("namespace", ["", None, 5])
def test_the_registry_needs_a_namespace_and_a_tracker(namespace: Any) -> None:
    """It says so."""
    with pytest.raises(ConfigurationError, match="namespace must be text"):
        Snowplow.create_tracker(namespace, "collector.acme.com")
    with pytest.raises(ConfigurationError, match="tracker must be a Tracker"):
        Snowplow.add_tracker(namespace)
    with pytest.raises(ConfigurationError):
        Snowplow.create_tracker("ns", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{}, {"batch_size": 5}, True])
@pytest.mark.parametrize("name", ["tracker_config", "emitter_config"])
def test_the_registry_takes_settings_as_configurations_alone(name: str, wrong: Any) -> None:
    """An empty dict is not taken for none at all, either."""
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        Snowplow.create_tracker("ns", "collector.acme.com", **{name: wrong})
