"""What all kinds of events have in common, and an event made of bare fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from durable_tracker.payload import Payload
from durable_tracker.protocol.encoder import context_list, encoded_fields
from durable_tracker.protocol.fields import require_text
from durable_tracker.runtime.elsewhere import names_from_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from durable_tracker.protocol.encoder import JsonEncoder
    from durable_tracker.self_describing_json import SelfDescribingJson
    from durable_tracker.subject import Subject

T = TypeVar("T")


class Field(Generic[T]):
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
    """An event of any kind, made of fields of the protocol. Its subclasses are easier to use.

    Args:
        dict_: fields by their names in the protocol, such as {"e": "pv", "url": "https://acme.com"}.
        event_subject: laid over the tracker's subject for this event.
        context: entities that describe the event's circumstances.
        true_timestamp: when it truly happened, in milliseconds since 1970 UTC; a fraction is cut off. The event's
            own time (`dtm`) is always that of tracking.

    Attributes:
        pairs: the fields that are set, by their names in the protocol.
        event_subject: as given.
        context: as given, if it can be read twice, else as a list; an empty list if none was.
        true_timestamp: as given.
    """

    def __init__(
        self,
        dict_: Mapping[str, Any] | None = None,
        event_subject: Subject | None = None,
        context: Iterable[SelfDescribingJson] | None = None,
        true_timestamp: float | None = None,
    ) -> None:
        self.pairs: dict[str, Any] = dict(dict_) if dict_ else {}
        self.event_subject = event_subject
        self.context: Sequence[SelfDescribingJson] = context_list(context)
        self.true_timestamp = true_timestamp

    @property
    def payload(self) -> Payload:
        """The event's own fields. Adding to it changes the event."""
        return Payload.over(self.pairs)

    @payload.setter
    def payload(self, value: Payload) -> None:
        self.pairs = value.nv_pairs

    def __repr__(self) -> str:
        content = self.describe()
        return f"<{type(self).__name__} {self.pairs if content is None else content!r}>"

    def describe(self) -> SelfDescribingJson | None:
        """Return the content of a self-describing event, None for the other kinds."""
        return None

    def content(self, json_encoder: JsonEncoder | None) -> SelfDescribingJson | None:
        """Return what `describe` does, checked by the rules of its schema after `json_encoder` gave it a form.

        Raises:
            InvalidEventError: a property is not what the schema wants.
        """
        del json_encoder
        return self.describe()

    def build_payload(
        self, encode_base64: bool, json_encoder: JsonEncoder | None, subject: Subject | None = None
    ) -> Payload:
        """Return the fields of the event and of its subjects, as a new payload.

        A subclass may override this to add to them; the tracker then uses what it returns.

        Raises:
            InvalidEventError: content, context or timestamp cannot be encoded.
        """
        encoded = encoded_fields(
            self.content(json_encoder), self.context, self.true_timestamp, encode_base64, json_encoder
        )
        payload = Payload({**self.pairs, **encoded})
        if self.event_subject is not None:
            payload.add_dict(self.event_subject.combine_subject(subject))
        elif subject is not None:
            payload.add_dict(subject.standard_nv_pairs)
        return payload


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
