"""The members of the official emitter by which its subclasses change it, and its attributes that are assigned to."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload

from durable_tracker.delivery.overridden import OverriddenTransport, note_handed_on, send_plainly
from durable_tracker.delivery.transport import PAYLOAD_DATA_HEAD, PAYLOAD_DATA_TAIL, qualified_name
from durable_tracker.errors import ConfigurationError
from durable_tracker.settings.table import ARGUMENTS, Durability, OnFull

if TYPE_CHECKING:
    from durable_tracker.delivery.transport import Transport
    from durable_tracker.protocol.endpoint import Endpoint
    from durable_tracker.runtime.settings import EmitterSettings

T = TypeVar("T")

_UNUSED: Final = {
    "is_good_status_code": "custom_retry_codes= says what is tried again",
    "attach_sent_timestamp": "stm is stamped at each attempt",
    "reached_limit": "batch_size= and linger= say when events are sent",
}
"""Methods of the official emitter that nothing here calls, and what stands in their place.

The official emitter calls `is_good_status_code` and `attach_sent_timestamp` by the name of its own class, so that to
override them has no effect there either. `reached_limit` says there when the buffer in memory is sent. Here a thread
sends what is on disk, which may have been queued by another process; holding it back until a method says True would let
the queue fill up.
"""


_OF_SUBCLASSES: Final = frozenset({"name", "port", "protocol", "queue", "session", "transport"})
"""Arguments that no attribute of the official emitter is named after: a subclass may have attributes of these names."""


class Assignable(Generic[T]):
    """A setting that can be assigned to until the emitter opens its queue in this process, and is checked then.

    Args:
        setting: the setting's name, if it is not the attribute's.
    """

    def __init__(self, setting: str = "") -> None:
        self._setting = setting

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._setting = self._setting or name

    @overload
    def __get__(self, emitter: None, owner: type) -> Self: ...

    @overload
    def __get__(self, emitter: OfficialEmitter, owner: type) -> T: ...

    def __get__(self, emitter: OfficialEmitter | None, owner: type) -> Self | T:
        return self if emitter is None else cast("T", self._read(emitter))

    def __set__(self, emitter: OfficialEmitter, value: T) -> None:
        if emitter._is_closed:  # noqa: SLF001
            raise ConfigurationError(f"{self._name}: the emitter is closed; make another one")
        if emitter._is_open():  # noqa: SLF001
            raise ConfigurationError(f"{self._name}: is in use; assign before the first event, or give it at the start")
        self._write(emitter, value)

    def _read(self, emitter: OfficialEmitter) -> Any:
        settings = emitter._settings  # noqa: SLF001
        value = settings.gather if self._setting == "batch_size" else getattr(settings, self._setting)
        # A change of the dict itself would have no effect once it is in use.
        return MappingProxyType(value) if isinstance(value, dict) else value

    def _write(self, emitter: OfficialEmitter, value: Any) -> None:
        ARGUMENTS[self._setting].value(value, self._name)
        before = vars(emitter).get("_settings")
        if before is None and ARGUMENTS[self._setting].is_official:
            return  # by a subclass, before the constructor, which sets it again
        if before is None:
            raise ConfigurationError(f"{self._name}: give it to the constructor of Emitter, or assign it after that")
        emitter._settings = replace(before, **{self._setting: value})  # noqa: SLF001
        try:
            emitter._check()  # noqa: SLF001
        except ConfigurationError:
            emitter._settings = before  # noqa: SLF001
            raise


class _Callback(Assignable[T]):
    """The same for a function."""

    def _read(self, emitter: OfficialEmitter) -> Any:
        return emitter.__dict__.get(self._name)

    def _write(self, emitter: OfficialEmitter, value: Any) -> None:
        ARGUMENTS[self._name].value(value)
        emitter.__dict__[self._name] = value


class _Fixed(Generic[T]):
    """An attribute that cannot be assigned to, which is a ConfigurationError that says what to do.

    A subclass written for the official tracker may have an attribute of the same name (see `_OF_SUBCLASSES`): that is
    its own then.

    Args:
        remedy: what to do.
    """

    def __init__(self, remedy: str = "is an argument of the constructor") -> None:
        self._remedy = remedy

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, emitter: None, owner: type) -> Self: ...

    @overload
    def __get__(self, emitter: OfficialEmitter, owner: type) -> T: ...

    def __get__(self, emitter: OfficialEmitter | None, owner: type) -> Self | T:
        if emitter is None:
            return self
        own = vars(emitter)
        return cast("T", own[self._name] if self._name in own else emitter._given[self._name])  # noqa: SLF001

    def __set__(self, emitter: OfficialEmitter, value: T) -> None:
        is_ours = type(emitter).__module__.startswith(f"{__package__.partition('.')[0]}.")
        if is_ours or self._name not in _OF_SUBCLASSES:
            raise ConfigurationError(f"{self._name}: {self._remedy}, and cannot be assigned")
        vars(emitter)[self._name] = value


class OfficialEmitter:
    """What the official emitter's subclasses override, call by `super()`, and assign to. Base of `Emitter`."""

    _address: Endpoint
    _settings: EmitterSettings
    _capacity: int | None
    _opened: Any = None
    _is_closed = False
    _pid: int
    _given: Mapping[str, Any]
    _given_transport: Transport | None
    _adapter_name: str | None

    batch_size = Assignable["int | None"]()
    buffer_size = Assignable["int | None"]("batch_size")
    request_timeout = Assignable["float | tuple[float, float] | None"]()
    max_retry_delay_seconds = Assignable[float]()
    custom_retry_codes = Assignable[Mapping[int, bool]]()
    linger = Assignable[float]()
    senders = Assignable[int]()
    on_full = Assignable[OnFull]()
    max_age = Assignable["float | None"]()
    headers = Assignable[Mapping[str, str]]()
    drain = Assignable[bool]()
    shutdown_timeout = Assignable[float]()
    report_retries = Assignable[bool]()
    on_success = _Callback[Callable[[list[dict[str, Any]]], object] | None]()
    on_failure = _Callback[Callable[[int, list[dict[str, Any]]], object] | None]()

    name = _Fixed[str]("is the queue's, an argument of the constructor")
    protocol = _Fixed[str]("belongs to the address; make another Emitter")
    port = _Fixed["int | None"]("belongs to the address; make another Emitter")
    replaces = _Fixed[str | Sequence[str]]()
    queue = _Fixed[Any]()
    queue_dir = _Fixed[Any]()
    control = _Fixed[bool]()
    durability = _Fixed[Durability]()
    max_queue_bytes = _Fixed[int]()
    event_store = _Fixed[None]("has no use: events are stored on disk; see queue_dir")
    session = _Fixed[Any]()
    transport = _Fixed["Transport | None"]()
    directory = _Fixed[Path | None]("follows from queue_dir and name")
    """Where the emitter's slots are, None if its engine has no files."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Warn if the subclass overrides a method of the official emitter that nothing here calls."""
        super().__init_subclass__(**options)
        for name, instead in _UNUSED.items():
            if name in vars(cls):
                warnings.warn(f"{cls.__name__}.{name} is never called: {instead}", UserWarning, stacklevel=2)

    @property
    def endpoint(self) -> str:
        """The address that requests go to, without credentials. Assigning to it is a ConfigurationError."""
        return self._address.public_url

    @endpoint.setter
    def endpoint(self, _value: str) -> None:
        remedy = "make another Emitter, with replaces= if it is to send what this one has queued"
        raise ConfigurationError(f"endpoint: a queue belongs to the address that it was made for; {remedy}")

    @property
    def method(self) -> str:
        """Either "post" or "get". Assigning to it is a ConfigurationError."""
        return self._address.method

    @method.setter
    def method(self, _value: str) -> None:
        raise ConfigurationError("method: a queue belongs to it, as to an address; make another Emitter")

    @property
    def byte_limit(self) -> int:
        """Bytes of a request's body at most. May be lowered until the first event; None: as it was made."""
        return self._settings.byte_limit

    @byte_limit.setter
    def byte_limit(self, value: int | None) -> None:
        if "_settings" not in vars(self):
            return  # by a subclass, before the constructor, which sets it again
        if self._is_closed:
            raise ConfigurationError("byte_limit: the emitter is closed; make another one")
        if self._is_open():
            raise ConfigurationError("byte_limit: is in use; assign before the first event, or give it at the start")
        reserved = vars(self).setdefault("_byte_limit_reserved", self.byte_limit)
        changed = replace(self._settings, byte_limit=reserved if value is None else value)
        if changed.byte_limit > reserved:
            why = f"room on disk was set aside for {reserved} bytes"
            raise ConfigurationError(f"byte_limit: {why}; give more to the constructor")
        self._settings = changed

    @property
    def request_method(self) -> None:
        """None. Assigning to it is a ConfigurationError."""

    @request_method.setter
    def request_method(self, _value: object) -> None:
        raise ConfigurationError("request_method: is never called; give session=, or override http_post or http_get")

    @property
    def buffer_capacity(self) -> int | None:
        """Pending events at most, None for no bound but `max_queue_bytes`. May be assigned to until it is closed."""
        return self._settings.buffer_capacity

    @buffer_capacity.setter
    def buffer_capacity(self, value: int | None) -> None:
        if self._is_closed:
            raise ConfigurationError("buffer_capacity: the emitter is closed; make another one")
        if "_settings" in vars(self):  # else by a subclass, before the constructor, which sets it again
            self._settings = replace(self._settings, buffer_capacity=value)
            self._capacity = value

    @staticmethod
    def is_good_status_code(status_code: int) -> bool:
        """Return whether a status means that the collector took the events."""
        return 200 <= status_code < 300  # noqa: PLR2004

    def http_post(self, data: str) -> int:
        """Send a request with this body now, beside the queue, and return the status; -1 if there was no answer.

        A subclass may override it: see `Emitter`. Makes one try, within `request_timeout`. Safe to use from any thread.

        Raises:
            ConfigurationError: this emitter sends by GET, or through `transport=`.
        """
        self._check_sends("post")
        return send_plainly(self, self._make_plain, lambda plain: plain.send_body(data.encode()))

    def http_get(self, payload: Mapping[str, Any]) -> int:
        """As `http_post`, by GET: send one event, a dict of the protocol's fields.

        Raises:
            ConfigurationError: this emitter sends by POST, or through `transport=`.
        """
        self._check_sends("get")
        return send_plainly(self, self._make_plain, lambda plain: plain.send([json.dumps(dict(payload)).encode()]))

    def send_events(self, evts: Sequence[Mapping[str, Any]]) -> int | None:
        """Send events now, beside the queue: dicts of the protocol's fields. Makes one try, as `http_post` does.

        A subclass may override it; then it is the way to send: see `Emitter`. It calls `http_post`, or `http_get` for
        each event, also where these are overridden.

        Returns:
            The status, -1 if there was no answer; None without events. The official one returns nothing.

        Raises:
            ConfigurationError: this emitter sends through `transport=`.
        """
        events = [{field: str(value) for field, value in event.items()} for event in evts]
        if not events:
            return None
        self.attach_sent_timestamp(events)
        answers: list[Any] = []
        if self.method == "get":
            for event in events:
                answers.append(self.http_get(event))
                note_handed_on(self, 1, answers[-1])
        else:
            texts = [json.dumps(event, ensure_ascii=False) for event in events]
            body = f"{PAYLOAD_DATA_HEAD.decode()}{','.join(texts)}{PAYLOAD_DATA_TAIL.decode()}"
            answers.append(self.http_post(body))
            note_handed_on(self, len(events), answers[0])
        worst: int | None = next((answer for answer in answers if not self._is_good(answer)), answers[-1])
        return worst

    def _is_good(self, answer: object) -> bool:
        return isinstance(answer, int) and (answer is True or OfficialEmitter.is_good_status_code(answer))

    @staticmethod
    def attach_sent_timestamp(events: Sequence[dict[str, Any]]) -> None:
        """Put the present time into each of `events`, as `stm` in milliseconds. Nothing here needs it to be called."""
        for event in events:
            event["stm"] = str(time.time_ns() // 1_000_000)

    def reached_limit(self) -> bool:
        """Return whether as many events wait as are sent without lingering."""
        return self._is_open() and self._opened.queue.pending() >= self._settings.gather

    def _check_sends(self, method: str) -> None:
        if self.method != method or self._given_transport is not None:
            raise ConfigurationError(f"http_{method}: this emitter does not send by {method.upper()}")

    def _check_override(self) -> None:
        """Refuse arguments that an override has no use for."""
        name = self._overridden()
        if name is None:
            return
        if self._given_transport is not None:
            raise ConfigurationError(f"transport: {name} is overridden, and sends; give one of them")
        if self._settings.senders > 1:
            what = f"{name} is overridden, and is called one at a time"
            raise ConfigurationError(f"senders (or thread_count): {what}; give 1")

    def _overridden(self) -> str | None:
        """Return the method by which a subclass, or whoever patched the class or the object, brings the way to send."""
        for name in ("send_events", f"http_{self.method}"):
            if getattr(getattr(self, name), "__func__", None) is not _PLAIN[name]:
                return name
        return None

    def _with_override(self, plain: Transport) -> Transport:
        name = self._overridden()
        return plain if name is None else OverriddenTransport(self, name, getattr(self, name), plain)

    def _sender(self) -> str | None:
        """Return the qualified name of what sends in a way of the user's own, None for HTTP by this package."""
        given = self._given_transport
        if given is not None:
            name = qualified_name(type(given))
            return getattr(given, "adapter_name", None) if name == _HTTP else name
        method = self._overridden()
        if method is None:
            return self._adapter_name
        return qualified_name(next(base for base in (type(self), *type(self).__mro__) if method in vars(base)))

    def _is_open(self) -> bool:
        return self._opened is not None and self._pid == os.getpid()

    def _make_plain(self) -> Transport:
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError


_HTTP: Final = "durable_tracker.delivery.http_transport.HttpTransport"  # which is expensive to import
_PLAIN: Final = {name: vars(OfficialEmitter)[name] for name in ("http_post", "http_get", "send_events")}
