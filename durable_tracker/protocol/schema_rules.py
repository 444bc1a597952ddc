"""What the schemas of the official tracker's own events demand, so that an event that would fail is refused at once.

The schemas are public on Iglu Central, under iglu:com.snowplowanalytics.snowplow: add_to_cart 1-0-0, change_form 1-0-0,
link_click 1-0-1, remove_from_cart 1-0-0, screen_view 1-0-0, site_search 1-0-0, submit_form 1-0-0. All functions raise
`InvalidEventError`, which names the property and the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from durable_tracker.errors import InvalidEventError
from durable_tracker.protocol.fields import INT32_MAX, integer_value, one_of, require_text, shown

Rule = Callable[[str, object], Any]
"""Called with the name of a property and its value; returns what is sent, None to leave it out."""

FORM_NODE_NAMES = frozenset({"INPUT", "TEXTAREA", "SELECT"})
FORM_TYPES = frozenset(
    {
        "button",
        "checkbox",
        "color",
        "date",
        "datetime",
        "datetime-local",
        "email",
        "file",
        "hidden",
        "image",
        "month",
        "number",
        "password",
        "radio",
        "range",
        "reset",
        "search",
        "submit",
        "tel",
        "text",
        "time",
        "url",
        "week",
    }
)
NAME_SIZE_MAX = 4096
VALUE_SIZE_MAX = 65_535
_ELEMENT_KEYS = frozenset({"name", "value", "nodeName", "type"})
_ITEM_KEYS = frozenset({"sku", "price", "quantity", "name", "category", "currency", "context"})
_ITEM_KEYS_OF_THE_TRANSACTION = frozenset({"order_id", "tstamp", "event_subject"})


def optional_text(field: str, value: object, size_max: int | None = None) -> str | None:
    """Return text of at most `size_max` characters, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEventError(field, f"must be text, but is {shown(value)}")
    if size_max is not None and len(value) > size_max:
        raise InvalidEventError(field, f"must have at most {size_max} characters, but has {len(value)}")
    return value


def optional_texts(field: str, values: object, size_max: int | None = None) -> list[str] | None:
    """Return a list of text, each of at most `size_max` characters, or None."""
    if values is None:
        return None
    if not isinstance(values, (list, tuple)):
        raise InvalidEventError(field, f"must be a list of text, but is {shown(values)}")
    for index, value in enumerate(values):
        if value is None or optional_text(f"{field}[{index}]", value, size_max) is None:
            raise InvalidEventError(f"{field}[{index}]", "must be text, but is None")
    return list(values)


def required_texts(field: str, values: object) -> list[str]:
    """Return a list of at least one text."""
    texts = optional_texts(field, values)
    if not texts:
        raise InvalidEventError(field, "must be a list of at least one search term")
    return texts


def required_text(field: str, value: object, size_max: int | None = None) -> str | None:
    """Return text that is not empty, of at most `size_max` characters."""
    require_text(field, value)
    return optional_text(field, value, size_max)


def optional_list(field: str, values: object) -> Sequence[Any]:
    """Return a list or a tuple as it is, an empty one for None."""
    if values is not None and not isinstance(values, (list, tuple)):
        raise InvalidEventError(field, f"must be a list, but is {shown(values)}")
    return values or ()


def iterable_or_none(field: str, values: object) -> Iterable[Any]:
    """Return a list, a tuple or an iterator as it is, an empty one for None."""
    return values if isinstance(values, Iterator) else optional_list(field, values)


def optional_number(field: str, value: object) -> object:
    """Return a finite number, or None."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    raise InvalidEventError(field, f"must be a finite number, but is {shown(value)}")


def optional_count(field: str, value: object) -> object:
    """Return an integer from 0 to 2147483647, or None."""
    return None if value is None else int(integer_value(field, value, 0, INT32_MAX))


def form_type(field: str, value: object) -> str | None:
    """Return the type of a form's element in lower case, the only one that the schemas take, or None."""
    if value is None:
        return None
    return one_of(field, value.lower() if isinstance(value, str) else value, FORM_TYPES)


def form_elements(field: str, elements: object) -> list[dict[str, Any]] | None:
    """Return the elements of a submitted form as new dicts, or None if there are none."""
    return [form_element(f"{field}[{i}]", one) for i, one in enumerate(optional_list(field, elements))] or None


def form_element(place: str, element: object) -> dict[str, Any]:
    """Return one element of a submitted form as a new dict."""
    if not isinstance(element, Mapping):
        raise InvalidEventError(place, f"must be a dict, but is {shown(element)}")
    for key in ("name", "value", "nodeName"):
        if key not in element:
            raise InvalidEventError(f"{place}.{key}", "is required")
    for key in element:
        if key not in _ELEMENT_KEYS:
            raise InvalidEventError(f"{place}.{key}", f"is none of {', '.join(sorted(_ELEMENT_KEYS))}")
    if element["name"] is None:
        raise InvalidEventError(f"{place}.name", "must be text, but is None")
    optional_text(f"{place}.name", element["name"], VALUE_SIZE_MAX)
    optional_text(f"{place}.value", element["value"], VALUE_SIZE_MAX)
    one_of(f"{place}.nodeName", element["nodeName"], FORM_NODE_NAMES)
    kind = form_type(f"{place}.type", element.get("type"))
    checked = {key: kind if key == "type" else value for key, value in element.items()}
    return {key: value for key, value in checked.items() if key != "type" or value is not None}


def required_number(field: str, value: object) -> object:
    """Return a finite number."""
    if value is None:
        raise InvalidEventError(field, "must be a finite number, but is None")
    return optional_number(field, value)


def filters_data(field: str, filters: object) -> dict[str, str | bool] | None:
    """Return the filters of a search as a new dict, or None."""
    if filters is None:
        return None
    if not isinstance(filters, Mapping):
        raise InvalidEventError(field, f"must be a dict, but is {shown(filters)}")
    for name, choice in filters.items():
        if not isinstance(choice, (str, bool)):
            raise InvalidEventError(f"{field}.{name}", f"must be text or a boolean, but is {shown(choice)}")
    return dict(filters)


def _named(field: str, value: object) -> str:
    if value is None:
        raise InvalidEventError(field, "must be text; the schema change_form requires it")
    return str(optional_text(field, value, NAME_SIZE_MAX))


def _at_most(check: Callable[[str, object, int | None], Any], size_max: int) -> Rule:
    return lambda field, value: check(field, value, size_max)


class Rules:
    """The properties that a schema has, each with the function that checks it and returns what is sent.

    Args:
        properties: the functions, by the names of the properties, in the order in which they are sent.
        nullable: a property that is sent though it is None; the others are left out.
        one_required: refused if nothing is left, in these words.
    """

    def __init__(self, properties: Mapping[str, Rule], nullable: str = "", one_required: str = "") -> None:
        self.properties = properties
        self.nullable = nullable
        self.one_required = one_required

    def apply(self, given: Mapping[str, object]) -> dict[str, Any]:
        """Return the data that the schema describes."""
        data = {name: rule(name, given[name]) for name, rule in self.properties.items()}
        data = {name: value for name, value in data.items() if value is not None or name == self.nullable}
        if self.one_required and not data:
            raise InvalidEventError(next(iter(self.properties)), self.one_required)
        return data


LINK_CLICK: Final = Rules(
    {
        "targetUrl": required_text,
        "elementId": optional_text,
        "elementClasses": optional_texts,
        "elementTarget": optional_text,
        "elementContent": optional_text,
    }
)
CART: Final = Rules(
    {
        "sku": required_text,
        "quantity": required_number,
        "name": optional_text,
        "category": optional_text,
        "unitPrice": optional_number,
        "currency": optional_text,
    }
)
FORM_CHANGE: Final = Rules(
    {
        "formId": _at_most(required_text, NAME_SIZE_MAX),
        "elementId": _named,
        "nodeName": lambda field, value: one_of(field, value, FORM_NODE_NAMES),
        "value": _at_most(optional_text, VALUE_SIZE_MAX),
        "type": form_type,
        "elementClasses": _at_most(optional_texts, NAME_SIZE_MAX),
    },
    nullable="value",
)
FORM_SUBMIT: Final = Rules(
    {
        "formId": _at_most(required_text, NAME_SIZE_MAX),
        "formClasses": _at_most(optional_texts, NAME_SIZE_MAX),
        "elements": form_elements,
    }
)
SITE_SEARCH: Final = Rules(
    {
        "terms": required_texts,
        "filters": filters_data,
        "totalResults": optional_count,
        "pageResults": optional_count,
    }
)
SCREEN_VIEW: Final = Rules(
    {"name": optional_text, "id": optional_text},
    one_required="must be given, or id_: the schema screen_view requires one of them",
)


def item_fields(place: str, order_id: str, currency: str | None, item: object) -> dict[str, Any]:
    """Return the fields of one item of a transaction. The currency of the transaction wins, if it has one.

    What an item has in common with its transaction may be in it, and is the transaction's: the official tracker writes
    it there, into the caller's own dict.
    """
    if not isinstance(item, Mapping):
        raise InvalidEventError(place, f"must be a dict, but is {shown(item)}")
    require_text("ti_id", order_id)
    for key in item:
        if key not in _ITEM_KEYS | _ITEM_KEYS_OF_THE_TRANSACTION:
            raise InvalidEventError(f"{place}.{key}", f"is none of {', '.join(sorted(_ITEM_KEYS))}")
    require_text(f"{place}.sku", item.get("sku"))
    for key in ("price", "quantity"):
        if item.get(key) is None:
            raise InvalidEventError(f"{place}.{key}", "is required")
    return {
        "e": "ti",
        "ti_id": order_id,
        "ti_sk": item["sku"],
        "ti_nm": item.get("name"),
        "ti_ca": item.get("category"),
        "ti_pr": item["price"],
        "ti_qu": item["quantity"],
        "ti_cu": item.get("currency") if currency is None else currency,
    }
