"""Hypothesis strategies for events, subjects and JSON, as both trackers take them.

A generated event is a `Case`: plain data, from which each tracker's own objects are made. What is known to differ
stands in `differences`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from durable_tracker.protocol.fields import INT32_MAX, INT32_MIN, PLATFORMS
from durable_tracker.protocol.schema_rules import FORM_NODE_NAMES, FORM_TYPES

characters = st.characters(codec="utf-8")
unicode_text = st.text(characters, max_size=30)
some_text = st.text(characters, min_size=1, max_size=30)
maybe_text = st.none() | unicode_text
numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
int32 = st.integers(INT32_MIN, INT32_MAX)
uuids = st.uuids().map(str)
timestamps = st.none() | st.integers(0, 10**13) | st.floats(0, 1e13)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,10}", fullmatch=True)
schemas = st.builds(
    "iglu:{}/{}/jsonschema/{}-{}-{}".format, names, names, st.integers(1, 99), *[st.integers(0, 99)] * 2
)
maybe_texts = st.none() | st.lists(unicode_text, max_size=3)


class Exotic:
    """Something that JSON has no form for."""

    def __repr__(self) -> str:
        return "Exotic()"


def encode_exotic(value: object) -> Any:
    """Be a custom encoder."""
    if isinstance(value, Exotic):
        return {"exotic": [1, "é"]}
    raise TypeError("unknown")


def json_values(*, exotic: bool) -> st.SearchStrategy[Any]:
    """Return JSON of all kinds, nested a little; with things in it that need a custom encoder, if `exotic`."""
    scalars = st.none() | st.booleans() | st.integers() | numbers | unicode_text
    leaves = scalars | st.builds(Exotic) if exotic else scalars
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(unicode_text, inner, max_size=4),
        max_leaves=12,
    )


@dataclass
class Case:
    """One call of a `track_*` method, the tracker that it is made on, and its subjects."""

    method: str
    arguments: dict[str, Any]
    namespace: str
    app_id: str | None
    encode_base64: bool
    subject: dict[str, tuple[Any, ...]]
    event_subject: dict[str, tuple[Any, ...]] | None
    context: list[tuple[str, Any]] | None
    event_json: tuple[str, Any]
    tstamp: float | None
    exotic: bool


_sides = st.integers(1, INT32_MAX)
_SETTERS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "set_platform": st.tuples(st.sampled_from(sorted(PLATFORMS - {"headset"}))),
    "set_user_id": st.tuples(unicode_text),
    "set_screen_resolution": st.tuples(_sides, _sides),
    "set_viewport": st.tuples(_sides, _sides),
    "set_color_depth": st.tuples(st.integers(0, 64)),
    "set_timezone": st.tuples(unicode_text),
    "set_lang": st.tuples(unicode_text),
    "set_domain_user_id": st.tuples(unicode_text),
    "set_domain_session_id": st.tuples(uuids),
    "set_domain_session_index": st.tuples(int32),
    "set_ip_address": st.tuples(st.ip_addresses().map(str)),
    "set_useragent": st.tuples(unicode_text),
    "set_network_user_id": st.tuples(unicode_text),
}
tracker_subjects: st.SearchStrategy[dict[str, tuple[Any, ...]]] = st.fixed_dictionaries({}, optional=_SETTERS)
event_subjects = tracker_subjects

_page = {"page_url": some_text, "page_title": maybe_text, "referrer": maybe_text}
_cart = {
    "sku": some_text,
    "quantity": int32,
    "name": maybe_text,
    "category": maybe_text,
    "unit_price": st.none() | numbers,
    "currency": maybe_text,
}
_currency = st.none() | st.text(characters, max_size=3)
_item = st.fixed_dictionaries(
    {"sku": some_text, "price": numbers, "quantity": int32},
    optional={"name": maybe_text, "category": maybe_text, "currency": _currency},
)
_element = st.fixed_dictionaries(
    {"name": unicode_text, "value": maybe_text, "nodeName": st.sampled_from(sorted(FORM_NODE_NAMES))},
    optional={"type": st.sampled_from(sorted(FORM_TYPES))},
)
_count = st.none() | st.integers(0, INT32_MAX)
METHODS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "track_page_view": _page,
    "track_page_ping": _page | dict.fromkeys(("min_x", "max_x", "min_y", "max_y"), st.none() | int32),
    "track_struct_event": {
        "category": some_text,
        "action": some_text,
        "label": maybe_text,
        "property_": maybe_text,
        "value": st.none() | numbers,
    },
    "track_self_describing_event": {},
    "track_unstruct_event": {},
    "track_link_click": {
        "target_url": some_text,
        "element_id": maybe_text,
        "element_classes": maybe_texts,
        "element_target": maybe_text,
        "element_content": maybe_text,
    },
    "track_add_to_cart": _cart,
    "track_remove_from_cart": _cart,
    "track_form_change": {
        "form_id": some_text,
        "element_id": unicode_text,
        "node_name": st.sampled_from(sorted(FORM_NODE_NAMES)),
        "value": maybe_text,
        "type_": st.none() | st.sampled_from(sorted(FORM_TYPES)) | st.sampled_from(["EMAIL", "Text"]),
        "element_classes": maybe_texts,
    },
    "track_form_submit": {
        "form_id": some_text,
        "form_classes": maybe_texts,
        "elements": st.none() | st.lists(_element, max_size=3),
    },
    "track_site_search": {
        "terms": st.lists(unicode_text, min_size=1, max_size=3),
        "filters": st.none() | st.dictionaries(unicode_text, unicode_text | st.booleans(), max_size=3),
        "total_results": _count,
        "page_results": _count,
    },
    "track_screen_view": {"name": unicode_text, "id_": maybe_text},
    "track_mobile_screen_view": {
        "name": some_text,
        "id_": uuids,
        "type": maybe_text,
        "previous_name": maybe_text,
        "previous_id": st.none() | uuids,
        "previous_type": maybe_text,
        "transition_type": maybe_text,
    },
    "track_ecommerce_transaction": {
        "order_id": some_text,
        "total_value": numbers,
        "affiliation": maybe_text,
        "tax_value": st.none() | numbers,
        "shipping": st.none() | numbers,
        "city": maybe_text,
        "state": maybe_text,
        "country": maybe_text,
        "currency": _currency,
        "items": st.none() | st.lists(_item, max_size=3),
    },
    "track_ecommerce_transaction_item": {
        "order_id": some_text,
        "sku": some_text,
        "price": numbers,
        "quantity": int32,
        "name": maybe_text,
        "category": maybe_text,
        "currency": _currency,
    },
}


raw_payloads: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"e": st.sampled_from(["pv", "pp"]), "p": st.sampled_from(["pc", "srv"]), "tv": some_text, "eid": uuids},
    optional={
        "dtm": st.integers(0, 10**13),
        "ttm": st.integers(0, 10**13),
        "aid": some_text,
        "uid": some_text | st.integers() | st.booleans(),
        "url": some_text,
        "page": some_text | st.decimals(allow_nan=False, allow_infinity=False),
        "nuid": uuids,
        "vid": int32,
        "se_va": numbers,
        "pp_mix": int32,
        "res": st.just("800x600"),
        "stm": st.integers(0, 10**13),
    },
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw one call of any method, with everything round it."""
    method = draw(st.sampled_from(sorted(METHODS)))
    exotic = draw(st.booleans())
    entities = st.tuples(schemas, json_values(exotic=exotic))
    return Case(
        method=method,
        arguments=draw(st.fixed_dictionaries(METHODS[method])),
        namespace=draw(unicode_text),
        app_id=draw(maybe_text),
        encode_base64=draw(st.booleans()),
        subject=draw(tracker_subjects),
        event_subject=draw(st.none() | event_subjects),
        context=draw(st.none() | st.lists(entities, max_size=3)),
        event_json=draw(entities),
        tstamp=draw(timestamps),
        exotic=exotic,
    )
