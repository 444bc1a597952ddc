"""The view of a screen in an app (event code ue)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from durable_tracker.errors import InvalidEventError
from durable_tracker.events.event import Event, Field
from durable_tracker.protocol.encoder import encoded_values
from durable_tracker.protocol.fields import shown, uuid_value
from durable_tracker.runtime.elsewhere import names_from_elsewhere
from durable_tracker.self_describing_json import SelfDescribingJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.protocol.encoder import JsonEncoder
    from durable_tracker.subject import Subject


T = TypeVar("T")

_MOBILE_SCREEN_VIEW_SCHEMA = "iglu:com.snowplowanalytics.mobile/screen_view/jsonschema/1-0-0"


class _Property(Field[T]):
    """A property of a screen view, which lives in its content."""

    @staticmethod
    def _pairs(event: Event) -> dict[str, Any]:
        return cast("ScreenView", event).screen_view_properties


class ScreenView(Event):
    """The view of a screen in an app (iglu:com.snowplowanalytics.mobile/screen_view 1-0-0).

    The ids of screens are UUIDs.
    """

    id_ = _Property[str]("id", "The id of this view, a UUID.", required=True)
    name = _Property[str]("name", "The name of the screen. Not empty.", required=True)
    type = _Property["str | None"]("type", "The kind of screen.")
    previous_name = _Property["str | None"]("previousName", "The name of the screen before.")
    previous_id = _Property["str | None"]("previousId", "The id of the view before, a UUID.")
    previous_type = _Property["str | None"]("previousType", "The kind of the screen before.")
    transition_type = _Property["str | None"]("transitionType", "How the one led to the other.")

    def __init__(
        self,
        id_: str,
        name: str,
        type: str | None = None,  # noqa: A002 - the official signature
        previous_name: str | None = None,
        previous_id: str | None = None,
        previous_type: str | None = None,
        transition_type: str | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "ue"}, event_subject, context, true_timestamp)
        self.screen_view_properties: dict[str, Any] = {}
        self.id_ = id_
        self.name = name
        self.type = type
        self.previous_name = previous_name
        self.previous_id = previous_id
        self.previous_type = previous_type
        self.transition_type = transition_type

    def describe(self) -> SelfDescribingJson:
        """Return the content; it is checked when the event is tracked."""
        return SelfDescribingJson(_MOBILE_SCREEN_VIEW_SCHEMA, self.screen_view_properties)

    def content(self, json_encoder: JsonEncoder | None) -> SelfDescribingJson:
        """Return the content as it will stand in the JSON.

        Raises:
            InvalidEventError: a property is not what the schema wants.
        """
        properties = encoded_values(self.screen_view_properties, json_encoder)
        for field, value in properties.items():
            if field in ("id", "previousId"):
                uuid_value(field, value)
            elif not isinstance(value, str):
                raise InvalidEventError(field, f"must be text, but is {shown(value)}")
        return SelfDescribingJson(_MOBILE_SCREEN_VIEW_SCHEMA, properties)


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
