"""The public surface as its users write it, for mypy to read; nobody runs this.

A call that is wrong carries an ignore, which mypy's strictness turns into an error should the call ever pass.
"""

from __future__ import annotations

from typing import Any, assert_type

from durable_tracker import (
    AsyncEmitter,
    Emitter,
    EmitterConfiguration,
    Event,
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
from durable_tracker.payload import Payload
from durable_tracker.testing import RecordedEvent, RecordingEmitter


class Custom:
    """An emitter as the official documentation asks for."""

    def input(self, payload: dict[str, Any]) -> None:
        print(payload)


def encode(value: object) -> str:
    return str(value)


emitter = Emitter("collector.acme.com")
subject = Subject().set_platform("srv").set_user_id("alice")

# The order of 1.x.
tracker = Tracker("shop", emitter)
Tracker("shop", [emitter, AsyncEmitter("collector.acme.com")], subject, "app", False, encode)
Tracker("shop", (RecordingEmitter(), Custom()), json_encoder=encode)
Tracker(namespace="shop", emitters=Custom())

# The order of 0.9.
Tracker(emitter)
Tracker([emitter], subject, "shop", "app", False, encode)
Tracker(emitter, namespace="shop", app_id="app")
Tracker(emitters=emitter)

Tracker()  # type: ignore[call-overload]
Tracker("shop")  # type: ignore[arg-type]
Tracker("shop", "collector.acme.com")  # type: ignore[arg-type]
Tracker(emitter, "shop")  # type: ignore[call-overload]
Tracker("shop", emitter, app_id=5)  # type: ignore[call-overload]
Tracker("shop", emitter, encode_base64="yes")  # type: ignore[call-overload]
Tracker(object())  # type: ignore[call-overload]

# Events and what tracking them gives.
entity = SelfDescribingJson("iglu:com.acme/user/jsonschema/1-0-0", {"plan": "pro"})
page_view = PageView("https://acme.com", "Home", event_subject=subject, context=[entity], true_timestamp=1.5)
assert_type(tracker.track(page_view), str)
assert_type(tracker.track(Payload({"e": "pv"})), Tracker)
assert_type(tracker.track_many([page_view, SelfDescribing(entity)]), list[str])
assert_type(tracker.track_many(Event({"e": "pv"}) for _ in range(3)), list[str])
assert_type(tracker.complete_payload(page_view), Payload)
assert_type(tracker.complete_payload(Payload(), [entity]), Tracker)
assert_type(tracker.track_page_view("https://acme.com").track_struct_event("c", "a", value=1), Tracker)
tracker.track("page view")  # type: ignore[call-overload]
tracker.track_page_view()  # type: ignore[call-arg]
tracker.track_struct_event("c", "a", value="1")  # type: ignore[arg-type]
tracker.track_form_change("f", None, "INPUT", "v")  # type: ignore[arg-type]
tracker.track_many(page_view)  # type: ignore[arg-type]
PageView(5)  # type: ignore[arg-type]
StructuredEvent("c")  # type: ignore[call-arg]
SelfDescribing({"schema": "x", "data": {}})  # type: ignore[arg-type]

# Properties.
assert_type(page_view.page_url, str)
assert_type(page_view.page_title, str | None)
page_view.page_title = None
page_view.page_url = None  # type: ignore[assignment]
assert_type(PagePing("https://acme.com").min_x, int | None)
assert_type(ScreenView("11111111-2222-4333-8444-555555555555", "Home").previous_id, str | None)

# Flush, close and the like.
assert_type(tracker.flush(), Tracker)
assert_type(tracker.flush(True), Tracker)
assert_type(tracker.flush(is_async=True), Tracker)
assert_type(tracker.flush(timeout=5), bool)
assert_type(tracker.close(timeout=5.0), bool)
with Tracker("shop", emitter) as opened:
    assert_type(opened, Tracker)
tracker.flush(timeout="5")  # type: ignore[call-overload]
assert_type(tracker.set_subject(None).add_emitter(emitter), Tracker)
assert_type(subject.set_lang("en"), Subject)
subject.set_viewport("1", 2)  # type: ignore[arg-type]

# Configuration.
configuration = EmitterConfiguration(batch_size=5, request_timeout=(1, 2), queue_dir="/var/lib/acme")
configuration.batch_size = None
configuration.batch_size = "5"  # type: ignore[assignment]
EmitterConfiguration(event_store=object())  # type: ignore[arg-type]
assert_type(configuration.set_retry_code(403, retry=True), bool)
made = Snowplow.create_tracker(
    "shop", "collector.acme.com", "post", "app", subject, TrackerConfiguration(), configuration
)
assert_type(made, Tracker)
assert_type(Snowplow.get_tracker("shop"), Tracker | None)
assert_type(RecordingEmitter().events, list[RecordedEvent])
