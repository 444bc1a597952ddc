"""The same call gives the same fields as on the official tracker 1.1.0.

Compared are the fields that an emitter gets, as text, down to the bytes of the JSON in them. Left out are `eid`, `dtm`
and `tv`, which differ by nature, and `stm`, which is stamped on delivery. The deliberate differences, none of which the
strategies generate, each have a test of their own:

- an event subject overrides only what was set on it, so that it does not reset the platform (test_subject);
- the items of a transaction keep their own context, and have a true timestamp only if the transaction has one;
  the latter is compared here by leaving the official one's invention out (test_compat);
- the type of a form's element is sent in lower case, as its schema demands (test_compat);
- True as a timestamp, NaN, lone surrogates, keys that are not text, and what else the pipeline would fail, is refused
  (test_door).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import snowplow_tracker as official
import strategies
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases

from durable_tracker import events, self_describing_json, subject, tracker
from durable_tracker.testing import RecordingEmitter

DIFFERENT_BY_NATURE = {"eid", "dtm", "stm", "tv"}


class OfficialRecorder:
    """Takes what the official tracker hands to an emitter, and makes text of it as its POST does."""

    def __init__(self) -> None:
        self.wires: list[dict[str, str]] = []

    def input(self, payload: dict[str, Any]) -> None:
        self.wires.append({field: str(value) for field, value in payload.items()})


def perform(case: Case, library: Any, emitter: Any) -> None:
    """Make the call on the tracker of a library."""

    def make_subject(setters: dict[str, tuple[Any, ...]]) -> Any:
        made = library.Subject()
        for setter, arguments in setters.items():
            getattr(made, setter)(*arguments)
        return made

    arguments = copy.deepcopy(case.arguments)
    if case.method in ("track_self_describing_event", "track_unstruct_event"):
        arguments["event_json"] = library.SelfDescribingJson(*case.event_json)
    if case.context is not None:
        arguments["context"] = [library.SelfDescribingJson(*entity) for entity in case.context]
    if case.event_subject is not None:
        arguments["event_subject"] = make_subject(case.event_subject)
    made = library.Tracker(
        case.namespace,
        emitter,
        make_subject(case.subject),
        case.app_id,
        case.encode_base64,
        strategies.encode_exotic if case.exotic else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        result = getattr(made, case.method)(**arguments, tstamp=case.tstamp)
    assert result is made


class Ours:
    Subject = subject.Subject
    SelfDescribingJson = self_describing_json.SelfDescribingJson
    Tracker = tracker.Tracker
    Event = events.Event


def comparable(wire: dict[str, str], case: Case) -> dict[str, str]:
    fields = {field: text for field, text in wire.items() if field not in DIFFERENT_BY_NATURE}
    if case.method == "track_ecommerce_transaction" and case.tstamp is None:
        fields.pop("ttm", None)
    return fields


def check_same(case: Case) -> None:
    theirs = OfficialRecorder()
    perform(case, official, theirs)
    recorder = RecordingEmitter()
    perform(case, Ours, recorder)
    expected = [comparable(wire, case) for wire in theirs.wires]
    actual = [comparable(event.wire, case) for event in recorder.events]
    assert actual == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_a_call_gives_the_same_fields_as_on_the_official_tracker(case: Case) -> None:
    """Whatever the event, the subjects, the contexts, the encoding: the same text in every field."""
    check_same(case)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_many_calls_give_the_same_fields_as_on_the_official_tracker(case: Case) -> None:
    """As above, for long."""
    check_same(case)
