"""The schema files that ship with the package are sound, and say what the protocol says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastjsonschema
import jsonschema
import pytest

import durable_tracker

FILES = sorted((Path(durable_tracker.__file__).parent / "protocol" / "schemas").glob("*.json"))
SNOWPLOW = "com.snowplowanalytics.snowplow"
MOBILE = "com.snowplowanalytics.mobile"
EVENT = {"e": "pv", "p": "pc", "tv": "x-1"}
ID = "9f0a1f9e-0000-4000-8000-00805f9b34fb"


def schema(name: str) -> Any:
    path = next(file for file in FILES if file.name == f"{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_schema_that_the_tracker_writes_is_shipped() -> None:
    """The envelopes, the built-in events and the entities are there under their flattened names."""
    expected = {
        *(
            f"{SNOWPLOW}.{name}"
            for name in (
                "payload_data.1-0-4",
                "unstruct_event.1-0-0",
                "contexts.1-0-0",
                "contexts.1-0-1",
                "link_click.1-0-1",
                "add_to_cart.1-0-0",
                "remove_from_cart.1-0-0",
                "change_form.1-0-0",
                "submit_form.1-0-0",
                "site_search.1-0-0",
                "screen_view.1-0-0",
                "client_session.1-0-2",
                "geolocation_context.1-0-0",
                "geolocation_context.1-1-0",
                "web_page.1-0-0",
            )
        ),
        f"{MOBILE}.screen_view.1-0-0",
    }
    assert {file.name.removesuffix(".json") for file in FILES} == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_schema_describes_itself_and_compiles_in_both_libraries(file: Path) -> None:
    """The self block agrees with the file's name, and the schema is valid draft 4."""
    document = json.loads(file.read_text(encoding="utf-8"))
    block = document["self"]
    assert file.name == f"{block['vendor']}.{block['name']}.{block['version']}.json"
    assert block["format"] == "jsonschema"
    assert jsonschema.validators.validator_for(document) is jsonschema.Draft4Validator
    jsonschema.Draft4Validator.check_schema(document)
    fastjsonschema.compile(document)


def test_payload_data_has_the_eighty_keys_all_strings() -> None:
    """The allow-list has 80 keys, nothing else may be there, and three are required."""
    item = schema(f"{SNOWPLOW}.payload_data.1-0-4")["items"]
    assert len(item["properties"]) == 80
    assert dict(next(iter(item["properties"].values()))) == {"type": "string"}
    assert {json.dumps({"type": "string"})} == {json.dumps(value) for value in item["properties"].values()}
    assert item["additionalProperties"] is False
    assert set(item["required"]) == {"tv", "p", "e"}
    assert {"stm", "ttm", "tnuid", "ua", "sid", "cx", "ue_px"} <= set(item["properties"])
    assert "cv" not in item["properties"]


CASES: list[tuple[str, Any, bool]] = [
    ("payload_data.1-0-4", [EVENT], True),
    ("payload_data.1-0-4", [], False),
    ("payload_data.1-0-4", [{**EVENT, "dtm": 1}], False),
    ("payload_data.1-0-4", [{**EVENT, "zz": "1"}], False),
    ("payload_data.1-0-4", [{**EVENT, "uid": None}], False),
    ("payload_data.1-0-4", [{"e": "pv", "p": "pc"}], False),
    ("unstruct_event.1-0-0", {"schema": "iglu:a.b/c_d/jsonschema/1-0-0", "data": {}}, True),
    ("unstruct_event.1-0-0", {"schema": "iglu:a.b/c_d/jsonschema/1-0-0", "data": 5}, True),
    ("unstruct_event.1-0-0", {"schema": "iglu:a.b/c_d/jsonschema/1.0.0", "data": {}}, False),
    ("unstruct_event.1-0-0", {"schema": "iglu:a.b/c_d/jsonschema/1-0-0"}, False),
    ("unstruct_event.1-0-0", {"schema": "iglu:a.b/c_d/jsonschema/1-0-0", "data": {}, "more": 1}, False),
    ("contexts.1-0-0", [], False),
    ("contexts.1-0-1", [], True),
    ("contexts.1-0-1", [{"schema": "nonsense", "data": {}}], False),
    ("link_click.1-0-1", {"targetUrl": "http://a", "elementClasses": ["b"]}, True),
    ("link_click.1-0-1", {"targetUrl": ""}, False),
    ("link_click.1-0-1", {"targetUrl": "a", "more": "b"}, False),
    ("add_to_cart.1-0-0", {"sku": "1", "quantity": 2, "unitPrice": 0.5}, True),
    ("add_to_cart.1-0-0", {"sku": "1"}, False),
    ("remove_from_cart.1-0-0", {"sku": "1", "quantity": "2"}, False),
    ("change_form.1-0-0", {"formId": "f", "elementId": "e", "nodeName": "INPUT", "value": None}, True),
    ("change_form.1-0-0", {"formId": "f", "elementId": None, "nodeName": "INPUT", "value": ""}, False),
    ("change_form.1-0-0", {"formId": "f", "elementId": "e", "nodeName": "input", "value": ""}, False),
    (
        "change_form.1-0-0",
        {"formId": "f", "elementId": "e", "nodeName": "INPUT", "value": "", "type": "Text"},
        False,
    ),
    ("change_form.1-0-0", {"formId": "f" * 4097, "elementId": "e", "nodeName": "INPUT", "value": ""}, False),
    (
        "submit_form.1-0-0",
        {"formId": "f", "elements": [{"name": "n", "value": "v", "nodeName": "SELECT"}]},
        True,
    ),
    (
        "submit_form.1-0-0",
        {"formId": "f", "elements": {"name": "n", "value": "v", "nodeName": "SELECT"}},
        False,
    ),
    ("site_search.1-0-0", {"terms": ["a"], "filters": {"b": True, "c": "d"}, "totalResults": 3}, True),
    ("site_search.1-0-0", {"terms": []}, False),
    ("site_search.1-0-0", {"terms": ["a"], "totalResults": 2147483648}, False),
    ("site_search.1-0-0", {"terms": ["a"], "totalResults": -1}, False),
    ("screen_view.1-0-0", {"name": "a"}, True),
    ("screen_view.1-0-0", {}, False),
    ("mobile.screen_view", {"name": "a", "id": ID}, True),
    ("mobile.screen_view", {"name": "a", "id": "1"}, False),
    ("mobile.screen_view", {"id": ID}, False),
    (
        "client_session.1-0-2",
        {"userId": "0123456789abcdef", "sessionId": ID, "sessionIndex": 1, "storageMechanism": "SQLITE"},
        True,
    ),
    (
        "client_session.1-0-2",
        {"userId": ID, "sessionId": "1", "sessionIndex": 1, "storageMechanism": "SQLITE"},
        False,
    ),
    ("geolocation_context.1-0-0", {"latitude": -23.2, "longitude": 43.0}, True),
    ("geolocation_context.1-1-0", {"latitude": -23.2, "longitude": 43.0, "speed": None}, True),
    ("geolocation_context.1-1-0", {"latitude": -93.2, "longitude": 43.0}, False),
    ("web_page.1-0-0", {"id": ID}, True),
    ("web_page.1-0-0", {"id": "1"}, False),
]


@pytest.mark.parametrize(("name", "instance", "valid"), CASES)
def test_both_libraries_agree_about_an_instance(name: str, instance: Any, valid: bool) -> None:
    """What is accepted and what is refused does not depend on the JSON Schema library."""
    full = "com.snowplowanalytics.mobile.screen_view.1-0-0" if name == "mobile.screen_view" else f"{SNOWPLOW}.{name}"
    document = schema(full)
    assert jsonschema.Draft4Validator(document).is_valid(instance) == valid
    check = fastjsonschema.compile(document)
    if valid:
        check(instance)
    else:
        with pytest.raises(fastjsonschema.JsonSchemaValueException):
            check(instance)
