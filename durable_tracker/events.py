"""The kinds of events.

An event object may be changed and tracked any number of times: each time it is read as it then is, and becomes an
event of its own, with its own id. Tracking never changes it.

Required text is checked when it is given, everything else when the event is tracked. All raise `InvalidEventError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from durable_tracker.errors import InvalidEventError
from durable_tracker.payload import Payload, contexts_text, event_text, to_base64
from durable_tracker.protocol import shown, timestamp_value, uuid_value
from durable_tracker.self_describing_json import SelfDescribingJson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from durable_tracker.payload import JsonEncoder
    from durable_tracker.subject import Subject

T = TypeVar("T")

_MOBILE_SCREEN_VIEW_SCHEMA = "iglu:com.snowplowanalytics.mobile/screen_view/jsonschema/1-0-0"


def require_text(field: str, value: object) -> None:
    """Refuse what is not text, or is empty.

    Raises:
        InvalidEventError: naming `field`.
    """
    if not isinstance(value, str) or not value:
        raise InvalidEventError(field, f"must be text that is not empty, but is {shown(value)}")


class _Field(Generic[T]):
    """A property of an event that lives in one field of its payload. Setting None clears it."""

    def __init__(self, field: str, doc: str, *, required: bool = False) -> None:
        self.field = field
        self.required = required
        self.__doc__ = doc

    @overload
    def __get__(self, event: None, owner: type[Event]) -> Self: ...
    @overload
    def __get__(self, event: Event, owner: type[Event]) -> T: ...
    def __get__(self, event: Event | None, owner: type[Event]) -> Any:
        return self if event is None else self._pairs(event).get(self.field)

    def __set__(self, event: Event, value: T) -> None:
        if self.required:
            require_text(self.field, value)
        if value is None:
            self._pairs(event).pop(self.field, None)
        else:
            self._pairs(event)[self.field] = value

    @staticmethod
    def _pairs(event: Event) -> dict[str, Any]:
        return event.pairs


class Event:
    """An event of any kind, made of fields of the protocol. The classes below are easier to use.

    Args:
        dict_: fields by their names in the protocol, such as {"e": "pv", "url": "https://acme.com"}.
        event_subject: laid over the tracker's subject for this event.
        context: entities that describe the event's circumstances.
        true_timestamp: when it truly happened, in milliseconds since 1970 UTC; a fraction is cut off. The event's
            own time (`dtm`) is always that of tracking.

    Attributes:
        pairs: the fields that are set, by their names in the protocol.
        event_subject: as given.
        context: as given; an empty list if none was.
        true_timestamp: as given.
    """

    def __init__(
        self,
        dict_: Mapping[str, Any] | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        self.pairs: dict[str, Any] = dict(dict_) if dict_ else {}
        self.event_subject = event_subject
        self.context: Sequence[SelfDescribingJson] = [] if context is None else context
        self.true_timestamp = true_timestamp

    @property
    def payload(self) -> Payload:
        """The event's own fields. Adding to it changes the event."""
        return Payload.over(self.pairs)

    @payload.setter
    def payload(self, value: Payload) -> None:
        self.pairs = value.nv_pairs

    def describe(self) -> SelfDescribingJson | None:
        """Return the content of a self-describing event, None for the other kinds."""
        return None

    def encoded(self, encode_base64: bool, json_encoder: JsonEncoder | None) -> dict[str, str]:
        """Return the fields that take encoding: content, context and timestamp, as far as there are any.

        Raises:
            InvalidEventError: one of them cannot be encoded.
        """
        wire: dict[str, str] = {}
        event_json = self.describe()
        if event_json is not None:
            text = event_text(event_json, json_encoder)
            if encode_base64:
                wire["ue_px"] = to_base64(text)
            else:
                wire["ue_pr"] = text
        if self.context:
            text = contexts_text(self.context, json_encoder)
            if encode_base64:
                wire["cx"] = to_base64(text)
            else:
                wire["co"] = text
        if self.true_timestamp is not None:
            wire["ttm"] = timestamp_value("ttm", self.true_timestamp)
        return wire

    def build_payload(
        self, encode_base64: bool, json_encoder: JsonEncoder | None, subject: Subject | None = None
    ) -> Payload:
        """Return the fields of the event and of its subjects, as a new payload.

        A subclass may override this to add to them; the tracker then uses what it returns.

        Raises:
            InvalidEventError: content, context or timestamp cannot be encoded.
        """
        payload = Payload({**self.pairs, **self.encoded(encode_base64, json_encoder)})
        if self.event_subject is not None:
            payload.add_dict(self.event_subject.combine_subject(subject))
        elif subject is not None:
            payload.add_dict(subject.standard_nv_pairs)
        return payload


class PageView(Event):
    """The view of a web page."""

    page_url = _Field[str]("url", "The address of the page. Not empty.", required=True)
    page_title = _Field["str | None"]("page", "The title of the page.")
    referrer = _Field["str | None"]("refr", "The address of the page that led here.")

    def __init__(
        self,
        page_url: str,
        page_title: str | None = None,
        referrer: str | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "pv"}, event_subject, context, true_timestamp)
        self.page_url = page_url
        self.page_title = page_title
        self.referrer = referrer


class PagePing(Event):
    """A sign that the user is still reading a web page. The offsets are in pixels since the last ping."""

    page_url = _Field[str]("url", "The address of the page. Not empty.", required=True)
    page_title = _Field["str | None"]("page", "The title of the page.")
    referrer = _Field["str | None"]("refr", "The address of the page that led here.")
    min_x = _Field["int | None"]("pp_mix", "The smallest horizontal offset.")
    max_x = _Field["int | None"]("pp_max", "The greatest horizontal offset.")
    min_y = _Field["int | None"]("pp_miy", "The smallest vertical offset.")
    max_y = _Field["int | None"]("pp_may", "The greatest vertical offset.")

    def __init__(
        self,
        page_url: str,
        page_title: str | None = None,
        referrer: str | None = None,
        min_x: int | None = None,
        max_x: int | None = None,
        min_y: int | None = None,
        max_y: int | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "pp"}, event_subject, context, true_timestamp)
        self.page_url = page_url
        self.page_title = page_title
        self.referrer = referrer
        self.min_x = min_x
        self.max_x = max_x
        self.min_y = min_y
        self.max_y = max_y


class StructuredEvent(Event):
    """An event of a category, an action and up to three details."""

    category = _Field[str]("se_ca", "The group that the event belongs to. Not empty.", required=True)
    action = _Field[str]("se_ac", "What happened. Not empty.", required=True)
    label = _Field["str | None"]("se_la", "What it happened to.")
    property_ = _Field["str | None"]("se_pr", "A detail of the action or of the object.")
    value = _Field["float | None"]("se_va", "A number; finite.")

    def __init__(
        self,
        category: str,
        action: str,
        label: str | None = None,
        property_: str | None = None,
        value: float | None = None,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__(None, event_subject, context, true_timestamp)
        require_text("se_ca", category)
        require_text("se_ac", action)
        # By hand rather than through the properties: this event is the one that is made in loops.
        pairs = self.pairs = {"e": "se", "se_ca": category, "se_ac": action}
        if label is not None:
            pairs["se_la"] = label
        if property_ is not None:
            pairs["se_pr"] = property_
        if value is not None:
            pairs["se_va"] = value


class SelfDescribing(Event):
    """An event that a schema describes."""

    def __init__(
        self,
        event_json: SelfDescribingJson,
        event_subject: Subject | None = None,
        context: Sequence[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        super().__init__({"e": "ue"}, event_subject, context, true_timestamp)
        self.event_json = event_json

    def describe(self) -> SelfDescribingJson:
        """Return the content."""
        return self.event_json


class _Property(_Field[T]):
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
        """Return the content.

        Raises:
            InvalidEventError: a property is not what the schema wants.
        """
        for field, value in self.screen_view_properties.items():
            if field in ("id", "previousId"):
                uuid_value(field, value)
            elif not isinstance(value, str):
                raise InvalidEventError(field, f"must be text, but is {shown(value)}")
        return SelfDescribingJson(_MOBILE_SCREEN_VIEW_SCHEMA, self.screen_view_properties)
