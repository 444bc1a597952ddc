"""Everything that is tracked is valid by the schemas of the pipeline, judged by a JSON Schema library."""

from __future__ import annotations

import base64
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases
from test_differential import Ours, perform

from durable_tracker import protocol
from durable_tracker.testing import RecordingEmitter

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_DIR = Path(next(iter(protocol.__path__))) / "schemas"
URI = re.compile(r"iglu:([^/]+)/([^/]+)/jsonschema/([0-9-]+)")


@lru_cache
def validator(uri: str) -> Any | None:
    match = URI.fullmatch(uri)
    assert match, uri
    path = SCHEMA_DIR / f"{'.'.join(match.groups())}.json"
    if not path.exists():
        return None
    schema = {key: value for key, value in json.loads(path.read_text()).items() if key != "self"}
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())


def self_describing_parts(wire: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield every self-describing JSON in an event, from the outside in."""
    for field in ("ue_px", "cx"):
        if field in wire:
            yield from with_inner(json.loads(base64.urlsafe_b64decode(wire[field])))
    for field in ("ue_pr", "co"):
        if field in wire:
            yield from with_inner(json.loads(wire[field]))


def with_inner(envelope: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield envelope
    yield from envelope["data"] if isinstance(envelope["data"], list) else [envelope["data"]]


def check_valid(case: Case) -> None:
    emitter = RecordingEmitter()
    perform(case, Ours, emitter)
    wires = [event.wire for event in emitter.events]
    payload_data = validator("iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4")
    assert payload_data is not None
    payload_data.validate(wires)
    known = 0
    for wire in wires:
        for part in self_describing_parts(wire):
            judge = validator(part["schema"])
            if judge is not None:
                judge.validate(part["data"])
                known += 1
    assert known or not any("ue_px" in wire or "ue_pr" in wire for wire in wires)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_every_event_and_every_part_of_it_is_valid_by_its_schema(case: Case) -> None:
    """The fields by payload_data, the envelopes and the built-in events by theirs."""
    check_valid(case)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_many_events_and_every_part_of_them_are_valid_by_their_schemas(case: Case) -> None:
    """As above, for long."""
    check_valid(case)
