"""A JSON value together with the schema that describes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from durable_tracker.protocol.fields import check_schema
from durable_tracker.runtime.elsewhere import names_from_elsewhere


class SelfDescribingJson:
    """The content of a self-describing event, or one entity (context) of an event.

    Args:
        schema: an Iglu URI, such as "iglu:com.acme/save_game/jsonschema/1-0-0".
        data: what the schema describes, any JSON. It is kept by reference and read when an event is tracked.

    Raises:
        InvalidEventError: `schema` is not an Iglu URI. The pattern is that of the envelope schemas unstruct_event
            1-0-0 and contexts 1-0-1 (iglu:com.snowplowanalytics.snowplow).
    """

    def __init__(self, schema: str, data: Any) -> None:
        self._schema = check_schema(schema)
        self.data = data

    @property
    def schema(self) -> str:
        """The Iglu URI. Setting another one checks it."""
        return self._schema

    @schema.setter
    def schema(self, value: str) -> None:
        self._schema = check_schema(value)

    def to_json(self) -> dict[str, Any]:
        """Return schema and data as a new dict, which shares the data."""
        return {"schema": self._schema, "data": self.data}

    def to_string(self) -> str:
        """Return schema and data as JSON text.

        Raises:
            TypeError: the data holds what JSON has no form for.
        """
        return json.dumps(self.to_json())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SelfDescribingJson):
            return NotImplemented
        return self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self._schema)  # the data need not be hashable, and may change

    def __repr__(self) -> str:
        return f"SelfDescribingJson({self._schema!r}, {self.data!r})"


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
