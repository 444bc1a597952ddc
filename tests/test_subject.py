"""Who events are about, and how an event's own subject is laid over the tracker's."""

from __future__ import annotations

from typing import Any

import pytest

from durable_tracker.errors import ConfigurationError
from durable_tracker.events import Event, PageView
from durable_tracker.subject import Subject
from durable_tracker.testing import RecordingEmitter
from durable_tracker.tracker import Tracker

SID = "11111111-2222-4333-8444-555555555555"


def wire_of(tracker_subject: Subject | None, event_subject: Subject | None) -> dict[str, str]:
    emitter = RecordingEmitter()
    Tracker("shop", emitter, tracker_subject).track(PageView("u", event_subject=event_subject))
    return emitter.events[0].wire


def test_every_setter_sets_its_field_and_returns_the_subject() -> None:
    """All of them, in one chain."""
    subject = (
        Subject()
        .set_platform("mob")
        .set_user_id("alice")
        .set_screen_resolution(1920, 1080)
        .set_viewport(640, 480)
        .set_color_depth(24)
        .set_timezone("Europe/London")
        .set_lang("en")
        .set_domain_user_id("duid")
        .set_domain_session_id(SID)
        .set_domain_session_index(5)
        .set_ip_address("127.0.0.1")
        .set_useragent("Firefox")
        .set_network_user_id("nuid")
    )
    expected = {
        "p": "mob",
        "uid": "alice",
        "res": "1920x1080",
        "vp": "640x480",
        "cd": 24,
        "tz": "Europe/London",
        "lang": "en",
        "duid": "duid",
        "sid": SID,
        "vid": 5,
        "ip": "127.0.0.1",
        "ua": "Firefox",
        "tnuid": "nuid",
    }
    assert subject.standard_nv_pairs == expected
    wire = wire_of(subject, None)
    assert {field: str(value) for field, value in expected.items()} == {field: wire[field] for field in expected}


def test_the_platform_is_pc_if_nobody_set_it() -> None:
    """With or without subjects."""
    assert Subject().standard_nv_pairs == {"p": "pc"}
    assert wire_of(None, None)["p"] == "pc"
    assert wire_of(None, Subject().set_user_id("u"))["p"] == "pc"


def test_an_event_subject_overrides_only_what_was_set_on_it() -> None:
    """In particular not the platform; and it adds to the rest rather than replacing it."""
    tracker_subject = Subject().set_platform("srv").set_user_id("alice").set_lang("en")
    wire = wire_of(tracker_subject, Subject().set_user_id("bob").set_timezone("UTC"))
    assert (wire["p"], wire["uid"], wire["lang"], wire["tz"]) == ("srv", "bob", "en", "UTC")


def test_a_platform_that_was_set_to_the_default_overrides() -> None:
    """Setting pc is not the same as setting nothing."""
    assert wire_of(Subject().set_platform("srv"), Subject().set_platform("pc"))["p"] == "pc"
    written = Subject()
    written.standard_nv_pairs["p"] = "tv"
    assert wire_of(Subject().set_platform("srv"), written)["p"] == "tv"


@pytest.mark.parametrize(
    ("tracker_subject", "expected"), [(None, "srv"), (Subject(), "srv"), (Subject().set_platform("tv"), "tv")]
)
def test_a_platform_among_an_events_own_fields_yields_only_to_one_that_was_set(
    tracker_subject: Subject | None, expected: str
) -> None:
    """The default is for when nobody said anything."""
    emitter = RecordingEmitter()
    Tracker("shop", emitter, tracker_subject).track(Event({"e": "pv", "p": "srv"}))
    assert emitter.events[0].wire["p"] == expected


def test_a_field_is_cleared_by_none() -> None:
    """So that a user can log out."""
    subject = Subject().set_user_id("alice")
    assert "uid" not in subject.set_user_id(None).standard_nv_pairs


def test_combining_gives_a_new_dict_in_which_the_first_wins() -> None:
    """Neither subject is changed."""
    first, second = Subject().set_user_id("a"), Subject().set_platform("srv").set_user_id("b").set_lang("en")
    assert first.combine_subject(second) == {"p": "srv", "uid": "a", "lang": "en"}
    alone = first.combine_subject(None)
    alone["uid"] = "z"
    assert first.standard_nv_pairs == {"p": "pc", "uid": "a"}


def test_the_next_event_follows_what_is_changed_on_the_trackers_subject() -> None:
    """By a setter, by writing the dict, by another subject, and by none."""
    emitter = RecordingEmitter()
    subject = Subject().set_user_id("alice")
    tracker = Tracker("shop", emitter, subject)
    event = PageView("u")
    tracker.track(event)
    subject.set_user_id("bob")
    tracker.track(event)
    subject.standard_nv_pairs["uid"] = "carol"
    tracker.track(event)
    tracker.set_subject(Subject().set_user_id("dave")).track(event)
    tracker.set_subject(None).track(event)
    assert [e.wire.get("uid") for e in emitter.events] == ["alice", "bob", "carol", "dave", None]
    assert [e.wire["p"] for e in emitter.events] == ["pc"] * 5


@pytest.mark.parametrize("subject", ["alice", 5, {"uid": "alice"}])
def test_what_is_no_subject_is_refused_when_it_is_given(subject: Any) -> None:
    """Rather than at the first event."""
    with pytest.raises(ConfigurationError, match="subject must be a Subject or None"):
        Tracker("shop", RecordingEmitter(), subject)
