"""The events that are measured: about 450 bytes each when finished."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from durable_tracker import SelfDescribing, SelfDescribingJson, StructuredEvent, Subject, Tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA: Final = "iglu:com.acme/checkout_step/jsonschema/1-0-0"
CONTEXT_SCHEMA: Final = "iglu:com.acme/product/jsonschema/1-2-0"

STRUCTURED: Final[dict[str, Any]] = {
    "category": "checkout",
    "action": "add-to-basket",
    "label": "Autumn sale: woollen pullover, size L, dark green, delivered to the door by Thursday",
    "property_": "pcs",
    "value": 2,
}
DATA: Final[dict[str, Any]] = {"step": 3, "name": "payment", "method": "card", "total": 128.5, "is_guest": False}
CONTEXT: Final[dict[str, Any]] = {"sku": "W-1041-L", "price": 64.25, "quantity": 2, "tags": ["wool", "autumn"]}


def subject_of(kind: Any) -> Any:
    """Return the same subject in this package's or the official tracker's class."""
    subject = kind()
    subject.set_platform("srv").set_user_id("user-81421").set_lang("en-GB").set_timezone("Europe/London")
    subject.set_useragent("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0")
    return subject


class KeepLast:
    """An emitter that keeps nothing but the last payload: what is left of `track()` is the encoding."""

    def __init__(self) -> None:
        self.last = b""

    def put(self, payload: bytes) -> None:
        """Take one payload."""
        self.last = payload

    def put_many(self, payloads: Sequence[bytes]) -> None:
        """Take several."""
        self.last = payloads[-1]


def structured() -> StructuredEvent:
    """Return a structured event of this package."""
    return StructuredEvent(**STRUCTURED)


def self_describing() -> SelfDescribing:
    """Return a self-describing event of this package, with one context."""
    return SelfDescribing(SelfDescribingJson(SCHEMA, DATA), context=[SelfDescribingJson(CONTEXT_SCHEMA, CONTEXT)])


def payload() -> bytes:
    """Return one finished structured event, as an emitter stores it: about 450 bytes."""
    emitter = KeepLast()
    Tracker("bench", emitter, subject_of(Subject), app_id="shop").track(structured())
    return emitter.last


def fields() -> dict[str, str]:
    """Return one finished structured event as the official tracker's emitter takes it."""
    found: dict[str, str] = json.loads(payload())
    return found
