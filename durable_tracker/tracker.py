"""The tracker: turns events into finished payloads and hands each to every emitter."""

from __future__ import annotations

import contextlib
import inspect
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, overload

from durable_tracker.errors import ConfigurationError, InvalidEventError
from durable_tracker.events import Event
from durable_tracker.payload import Payload
from durable_tracker.protocol.encoder import Shared, encode, encoded_fields, fields_of, finished, new_uuid
from durable_tracker.protocol.fields import (
    GET_QUERY_SIZE_MAX,
    TRACKER_VERSION,
    check_query,
    milliseconds_value,
    shown,
    timestamp_value,
    uuid_value,
)
from durable_tracker.protocol.rendering import rendering, type_name
from durable_tracker.runtime.elsewhere import names_from_elsewhere
from durable_tracker.runtime.fan_out import close, each_within, emitter_list, flush, flush_async, hand_out, set_aside
from durable_tracker.runtime.track_methods import TrackMethods
from durable_tracker.self_describing_json import SelfDescribingJson
from durable_tracker.settings import checks
from durable_tracker.subject import Subject
from durable_tracker.tracker_configuration import ON_INVALID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from durable_tracker.protocol.encoder import JsonEncoder
    from durable_tracker.runtime.fan_out import AnyEmitter
    from durable_tracker.tracker_configuration import OnInvalid

VERSION = TRACKER_VERSION
_CHUNK_COUNT_MAX = 1000
_CHUNK_SIZE_MAX = 1 << 20
_QUERY_SURE = GET_QUERY_SIZE_MAX // 3  # bytes that fit for sure: percent-encoding makes three bytes of one
_UNSET: Any = object()
_NOTHING: dict[str, str] = {}
_DEFAULT_SUBJECT = Subject()
_ORDER_1 = ("namespace", "emitters", "subject", "app_id", "encode_base64", "json_encoder")
_ORDER_0 = ("emitters", "subject", "namespace", "app_id", "encode_base64", "json_encoder")
_DEFAULTS = {
    "subject": None,
    "namespace": None,
    "app_id": None,
    "encode_base64": True,
    "json_encoder": None,
    "on_invalid": "raise",
}


class Tracker(TrackMethods):
    """Turns events into finished payloads and hands each to every emitter.

    When `track` returns, every emitter has taken the event; a durable emitter has then stored it. All methods may be
    called from any thread, and `track` also from a signal handler.

    A subclass may override `track`, `complete_payload`, `get_uuid` and `get_timestamp`, and whoever patches them on a
    class or an object does the same. Every `track_*` method, `track_many` too, calls `track(event=...)` once for each
    event, and `track` calls `complete_payload(event=...)`, which calls the other two. What `complete_payload` returns
    is checked once more. An override in the form of 0.9 works as well: `track(pb)` is given a finished `Payload`, and
    `complete_payload(pb, context, tstamp, event_subject)` one of the event's own fields.

    The official tracker's two generations order the arguments differently. Both work:

        Tracker("namespace", emitters, subject=None, app_id=None, encode_base64=True, json_encoder=None)
        Tracker(emitters, subject=None, namespace=None, app_id=None, encode_base64=True, json_encoder=None)

    Args:
        namespace: the name of this tracker, up to 128 characters (`tna`).
        emitters: one emitter, or a list of at least one.
        subject: who or what the events are about; without one, just the platform "pc".
        app_id: the application, up to 255 characters (`aid`).
        encode_base64: whether self-describing JSON is sent in base64.
        json_encoder: called with each value that JSON has no form for; returns one that it has, or raises TypeError.
        on_invalid: what becomes of an event that breaks a rule of the protocol: "raise" an InvalidEventError, or
            "dead_letter": nothing is raised, the event is kept among the dead letters of every emitter, as text of at
            most 64 KiB with the reason, and a line is logged once per rule. What a constructor of an event refuses is
            raised all the same, as is what is no event at all.

    Raises:
        ConfigurationError: an argument is not usable.

    Attributes:
        emitters: the tracker's own list of them.
        subject: who or what the events are about.
        encode_base64: as given.
        json_encoder: as given.
        on_invalid: as given; may be changed.
        standard_nv_pairs: the fields that the tracker adds to every event: `tv`, `tna`, `aid`.
    """

    @overload
    def __init__(
        self,
        namespace: str,
        emitters: AnyEmitter | Sequence[AnyEmitter],
        subject: Subject | None = None,
        app_id: str | None = None,
        encode_base64: bool = True,
        json_encoder: JsonEncoder | None = None,
        *,
        on_invalid: OnInvalid = "raise",
    ) -> None: ...
    @overload
    def __init__(
        self,
        emitters: AnyEmitter | Sequence[AnyEmitter],
        subject: Subject | None = None,
        namespace: str | None = None,
        app_id: str | None = None,
        encode_base64: bool = True,
        json_encoder: JsonEncoder | None = None,
        *,
        on_invalid: OnInvalid = "raise",
    ) -> None: ...
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        arguments = _bind(args, kwargs)
        self.emitters: list[AnyEmitter] = emitter_list(arguments["emitters"])
        self.subject: Subject = _checked_subject(arguments["subject"])
        self.encode_base64: bool = arguments["encode_base64"]
        self.json_encoder: JsonEncoder | None = arguments["json_encoder"]
        self.standard_nv_pairs: dict[str, Any] = {
            "tv": TRACKER_VERSION,
            "tna": arguments["namespace"],
            "aid": arguments["app_id"],
        }
        self.on_invalid: OnInvalid = arguments["on_invalid"]
        self.timer = None
        self._shared = Shared({}, {})
        checks.boolean("encode_base64", self.encode_base64)
        checks.optional(checks.function)("json_encoder", self.json_encoder)
        checks.one_of(*ON_INVALID)("on_invalid", self.on_invalid)

    if not TYPE_CHECKING:

        def _official(  # noqa: ANN202
            self, namespace, emitters, subject=None, app_id=None, encode_base64=True, json_encoder=None,  # noqa: ANN001
            *, on_invalid="raise",  # noqa: ANN001
        ):  # fmt: skip
            """Show its parameters in `help` and `inspect.signature`."""

        __init__.__wrapped__ = _official
        del _official

    def __repr__(self) -> str:
        app = self.standard_nv_pairs["aid"]
        return f"<{type(self).__name__} {self.get_namespace()!r}{f' of {app!r}' if app else ''} to {self.emitters!r}>"

    @staticmethod
    def get_uuid() -> str:
        """Return a new random UUID as text."""
        return new_uuid()

    @staticmethod
    def get_timestamp(tstamp: float | None = None) -> int:
        """Return `tstamp` in whole milliseconds since 1970 UTC; the present without one.

        Raises:
            InvalidEventError: it is no finite number, or out of the range of timestamps.
        """
        if tstamp is None:
            return time.time_ns() // 1_000_000
        return int(timestamp_value("tstamp", tstamp))

    @overload
    def track(self, event: Event) -> str: ...
    @overload
    def track(self, event: Payload) -> Self: ...
    def track(self, event: Event | Payload) -> str | Self:
        """Give an event to every emitter, and return its id (`eid`).

        If one emitter fails, the others get the event all the same. Then the first error is raised, with a note on
        each of the others.

        A `Payload` is the 0.9 way: it is given to the emitters as it is, with an id and a time if it has none, and the
        tracker is returned.

        Raises:
            InvalidEventError: the event broke a rule of the protocol. No emitter got it.
            QueueError: an emitter did not take the event; see its subclasses.
        """
        if isinstance(event, Payload):
            try:
                payload = finished(event.nv_pairs, *self._stamps())
                self._check_for_get(payload)
            except InvalidEventError as error:
                self._refuse(event.nv_pairs, error)
            else:
                hand_out(self.emitters, [payload])
            return self
        try:
            # By hand, and without a look into `__dict__`, which makes every attribute slower from then on.
            own: Any = self.complete_payload
            is_plain = getattr(own, "__func__", None) is _PLAIN_COMPLETE and own.__self__ is self
            eid, payload = self._encode(event) if is_plain else self._finish(event)
        except InvalidEventError as error:
            return self._refuse(event, error)
        hand_out(self.emitters, [payload])
        return eid

    def track_many(self, events: Iterable[Event]) -> list[str]:
        """Give events to every emitter, in order and in few commits, and return their ids.

        At most 1,000 events or about 1 MiB are held at a time, so the iterable may be a generator of millions.

        Raises:
            InvalidEventError: an event broke a rule. All events before it were stored, it and those after it were not;
                a note on the error says how many were.
            QueueError: an emitter did not take a chunk. The chunks before it were stored; a note says how many events.
        """
        if self._gives_one_by_one() and not _is_giving.get():
            return self._give_many(events)
        eids: list[str] = []
        chunk: list[bytes] = []
        chunk_size = 0
        source = iter(events)
        while True:
            failure: Exception | None = None
            try:
                event = next(source, None)
                if event is not None:
                    try:
                        eid, payload = self._finish(event)
                    except InvalidEventError as error:
                        eids.append(self._refuse(event, error))
                        continue
                    eids.append(eid)
                    chunk.append(payload)
                    chunk_size += len(payload)
            except Exception as error:  # noqa: BLE001 - raised below, once the events before it are stored
                event, failure = None, error
            if event is None or len(chunk) >= _CHUNK_COUNT_MAX or chunk_size >= _CHUNK_SIZE_MAX:
                try:
                    hand_out(self.emitters, chunk)
                except Exception as error:
                    error.add_note(f"track_many: the first {len(eids) - len(chunk)} events were stored by all emitters")
                    raise
                chunk, chunk_size = [], 0
            if failure is not None:
                failure.add_note(f"track_many: the {len(eids)} events before this one were stored")
                raise failure
            if event is None:
                return eids

    @overload
    def complete_payload(self, event: Event) -> Payload: ...
    @overload
    def complete_payload(
        self,
        event: Payload,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Self: ...
    def complete_payload(
        self,
        event: Event | Payload,
        context: Sequence[SelfDescribingJson] | None = None,
        tstamp: float | None = None,
        event_subject: Subject | None = None,
    ) -> Payload | Self:
        """Return an event's finished fields, with an id and a time, without giving it to the emitters.

        Given a `Payload`, the 0.9 way, complete it with the other arguments, track it, and return the tracker.

        Raises:
            InvalidEventError: the event broke a rule of the protocol.
        """
        if not isinstance(event, Payload):
            return Payload.over(fields_of(self._encode(event)[1]))
        completed = fields_of(self._encode(Event(event.nv_pairs, event_subject, context, tstamp))[1])
        if "eid" in event.nv_pairs:
            completed["eid"] = uuid_value("eid", event.nv_pairs["eid"])
        self.track(Payload.over(completed))
        return self

    @overload
    def flush(self, is_async: bool = False) -> Self: ...
    @overload
    def flush(self, is_async: bool = False, *, timeout: float | None) -> bool: ...
    def flush(self, is_async: bool = False, *, timeout: float | None = _UNSET) -> Self | bool:
        """Send what is queued now rather than later.

        Nothing is lost without it: what is queued is on disk. It waits until the queues are empty, or a collector is
        found to be unreachable.

        Args:
            is_async: do not wait.
            timeout: the most seconds to wait, for all emitters together; None waits without a limit.

        Returns:
            The tracker, as the official one does; with `timeout`, whether all queues are empty.

        Raises:
            ConfigurationError: `is_async` is neither True nor False.
            QueueError: an emitter failed. The others were flushed all the same.
        """
        if not isinstance(is_async, bool):
            raise ConfigurationError(f"is_async must be True or False, but is {is_async!r:.80}; seconds go to timeout=")
        if timeout is _UNSET:
            each_within(self.emitters, None, flush_async if is_async else flush)
            return self
        return each_within(self.emitters, 0.0 if is_async else timeout, flush)

    def close(self, timeout: float | None = None) -> bool:
        """Close every emitter, and return whether all queues are empty. What is left is sent later, by a successor.

        Args:
            timeout: the most seconds to wait, for all emitters together; None leaves it to each emitter.

        Raises:
            QueueError: an emitter failed. The others were closed all the same.
        """
        return each_within(self.emitters, timeout, close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set_subject(self, subject: Subject | None) -> Self:
        """Set who or what the events from now on are about; None means just the platform "pc"."""
        self.subject = _checked_subject(subject)
        return self

    def add_emitter(self, emitter: AnyEmitter) -> Self:
        """Give the events from now on to one more emitter.

        Raises:
            ConfigurationError: it is no emitter.
        """
        self.emitters = [*self.emitters, *emitter_list(emitter)]
        return self

    def get_namespace(self) -> str:
        """Return the name of this tracker; empty if it has none."""
        return self.standard_nv_pairs["tna"] or ""

    def _give(self, event: Event) -> str:
        """Give an event to `track`, in the form that whoever overrides it knows."""
        if not (self._has_own_track() or self._has_own_completion()):
            return self.track(event=event)
        if self._completes_in_older_form():
            encoded = encoded_fields(event.content(self.json_encoder), (), None, self.encode_base64, self.json_encoder)
            eid = self.get_uuid()
            payload = Payload({**event.pairs, **encoded, "eid": eid})
            self.complete_payload(payload, event.context, event.true_timestamp, event.event_subject)
            return eid
        if self._has_own_track() and not _takes_event(self.track):
            eid, finished_payload = self._finish(event)
            self.track(Payload.over(fields_of(finished_payload)))
            return eid
        return self.track(event=event)

    def _give_together(self, events: Sequence[Event]) -> None:
        try:  # all or none: the last may break a rule
            payloads = [self._encode(event) if self._gives_one_by_one() else self._finish(event) for event in events]
        except InvalidEventError as error:
            for event in events:
                self._refuse(event, error)
            return
        if self._gives_one_by_one():
            for event in events:
                self._give(event)
        else:
            hand_out(self.emitters, [payload for _, payload in payloads])

    def _refuse(self, event: object, error: InvalidEventError) -> str:
        """Deal with what broke a rule, as `on_invalid` says. Return the id under which it is kept.

        Args:
            event: an event, the fields of one by their names, or the arguments of a `track_*` method.
            error: which rule. It is being handled.

        Raises:
            InvalidEventError: `on_invalid` is "raise", or it is no event at all.
            QueueError: it could not be kept.
        """
        if self.on_invalid != "dead_letter" or not isinstance(event, (Event, dict)):
            raise error
        eid = new_uuid()
        fields: dict[str, Any] = {"eid": eid, "dtm": time.time_ns() // 1_000_000}
        fields |= {name: value for name, value in self.standard_nv_pairs.items() if value is not None}
        if isinstance(event, Event):
            for subject in (self.subject, event.event_subject):
                fields |= subject.standard_nv_pairs if isinstance(subject, Subject) else {}
            fields |= event.pairs
            content = None
            with contextlib.suppress(Exception):  # of a class of the caller's own
                content = event.describe()
            if content is not None:
                fields |= {"e": "ue", "ue_pr": _told(content)}
            if event.context:
                is_listed = isinstance(event.context, (list, tuple))
                fields["co"] = [_told(one) for one in event.context] if is_listed else event.context
        else:
            fields |= event
        value = fields.get(error.field)
        kind = "" if value is None else f" (of type {type_name(value)})"
        try:
            eid = fields["eid"] = uuid_value("eid", fields["eid"])  # its own, if it has one
        except InvalidEventError:
            fields["eid"] = eid
        set_aside(self.emitters, rendering(fields, f"{error}{kind}"), f"{error}{kind}", error)
        return eid

    def _has_own_track(self) -> bool:
        """Tell whether a subclass, or whoever patched the class or the object, brings it."""
        return type(self).track is not _PLAIN_TRACK or "track" in self.__dict__

    def _has_own_completion(self) -> bool:
        return type(self).complete_payload is not _PLAIN_COMPLETE or "complete_payload" in self.__dict__

    def _gives_one_by_one(self) -> bool:
        return self._has_own_track() or self._completes_in_older_form()

    def _completes_in_older_form(self) -> bool:
        return self._has_own_completion() and not _takes_event(self.complete_payload)

    def _give_many(self, events: Iterable[Event]) -> list[str]:
        eids: list[str] = []
        token = _is_giving.set(True)
        try:
            for event in events:
                eids.append(self._give(event))  # noqa: PERF401 - those before one that is refused are counted
        except Exception as error:
            error.add_note(f"track_many: the {len(eids)} events before this one were tracked")
            raise
        finally:
            _is_giving.reset(token)
        return eids

    def _finish(self, event: Event) -> tuple[str, bytes]:
        """Return an event's id and its finished payload, completed by whoever overrides `complete_payload`.

        Raises:
            InvalidEventError: the event broke a rule of the protocol.
        """
        if not self._has_own_completion() or not _takes_event(self.complete_payload):
            return self._encode(event)
        completed: object = self.complete_payload(event=event)
        pairs = getattr(completed, "nv_pairs", None)
        if not isinstance(pairs, dict):
            raise InvalidEventError("complete_payload", f"must return a Payload, but returned {shown(completed)}")
        payload = finished(pairs, *self._stamps())
        self._check_for_get(payload)
        return fields_of(payload)["eid"], payload

    def _encode(self, event: Event) -> tuple[str, bytes]:
        """Return an event's id and its finished payload.

        Raises:
            InvalidEventError: the event broke a rule of the protocol.
        """
        if not isinstance(event, Event):
            raise InvalidEventError("event", f"must be an Event, but is of type {type(event).__name__}")
        shared = self._shared_fields(event.event_subject)
        if type(event).build_payload is Event.build_payload:
            pairs, encoded = event.pairs, _NOTHING
            # By hand what `content` does of itself: it takes two calls for it.
            has_rules = type(event).content is not _PLAIN_CONTENT
            content = event.content(self.json_encoder) if has_rules else event.describe()
            if content is not None or event.context or event.true_timestamp is not None:
                encoded = encoded_fields(
                    content, event.context, event.true_timestamp, self.encode_base64, self.json_encoder
                )
        else:
            pairs = event.build_payload(self.encode_base64, self.json_encoder).nv_pairs
            encoded = _NOTHING
        keeps_platform = "p" in pairs and not any(
            subject and subject.has_platform for subject in (self.subject, event.event_subject)
        )
        if self.get_uuid is _PLAIN_UUID and self.get_timestamp is _PLAIN_TIMESTAMP:
            eid, payload = encode(pairs, encoded, shared, keeps_platform)
        else:
            eid, payload = encode(pairs, encoded, shared, keeps_platform, *self._stamps())
        if len(payload) > _QUERY_SURE or "nuid" in pairs:
            self._check_for_get(payload)
        return eid, payload

    def _stamps(self) -> tuple[str | None, str | None]:
        """Return the id and the time of a new event, as far as whoever overrides their methods brings them."""
        get_uuid, get_timestamp = self.get_uuid, self.get_timestamp
        return (
            None if get_uuid is _PLAIN_UUID else uuid_value("eid", get_uuid()),
            None if get_timestamp is _PLAIN_TIMESTAMP else milliseconds_value("dtm", get_timestamp()),
        )

    def _check_for_get(self, payload: bytes) -> None:
        """Refuse an event that one of the emitters, by GET, cannot send."""
        if any(getattr(emitter, "method", None) == "get" for emitter in self.emitters):
            check_query(fields_of(payload))

    def _shared_fields(self, event_subject: Subject | None) -> Shared:
        """Return the finished fields of the subjects and of the tracker itself.

        Those of the tracker and of its own subject are kept until one of the two changes.
        """
        subject = self.subject or _DEFAULT_SUBJECT
        own = self.standard_nv_pairs
        if event_subject is not None:
            if not isinstance(event_subject, Subject):
                raise InvalidEventError("event_subject", f"must be a Subject or None, but is {shown(event_subject)}")
            return Shared(event_subject.combine_subject(subject), own)
        shared = self._shared
        if subject.standard_nv_pairs != shared.subject_pairs or own != shared.own_pairs:
            shared = self._shared = Shared(dict(subject.standard_nv_pairs), dict(own))
        return shared


def _told(entity: object) -> object:
    """Return an entity's schema and data, as far as it is one."""
    if not isinstance(entity, SelfDescribingJson):
        return entity
    return {"schema": entity.schema, "data": entity.data}


_PLAIN_CONTENT: Final = Event.content
_PLAIN_TRACK: Final = vars(Tracker)["track"]
_PLAIN_COMPLETE: Final = vars(Tracker)["complete_payload"]
_PLAIN_UUID: Final = Tracker.get_uuid
_PLAIN_TIMESTAMP: Final = Tracker.get_timestamp
_is_giving: ContextVar[bool] = ContextVar("_is_giving", default=False)
"""Whether `track_many` is calling an override of `track`, which may call `track_many`."""


def _takes_event(method: Any) -> bool:
    """Tell whether a method takes `event=`, as those of 1.x do, and not the payload of 0.9."""
    try:
        inspect.signature(method).bind(event=None)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def _bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments by name, in whichever of the two orders they came."""
    named = isinstance(args[0] if args else None, str)
    order = _ORDER_1 if named else _ORDER_0
    if len(args) > len(order):
        raise TypeError(f"Tracker takes at most {len(order)} arguments, but got {len(args)}")
    arguments = dict(zip(order, args, strict=False))
    for name, value in kwargs.items():
        if name not in (*order, "on_invalid"):
            raise TypeError(f"Tracker got an unexpected argument {name!r}")
        if name in arguments:
            raise TypeError(f"Tracker got two values for the argument {name!r}")
        arguments[name] = value
    if "emitters" not in arguments:
        raise TypeError("Tracker needs emitters: Tracker(emitter) or Tracker('namespace', emitter)")
    return {**_DEFAULTS, **arguments}


def _checked_subject(subject: object) -> Subject:
    if subject is None:
        return Subject()
    if not isinstance(subject, Subject):
        raise ConfigurationError(f"subject must be a Subject or None, but is {shown(subject)}")
    return subject


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
