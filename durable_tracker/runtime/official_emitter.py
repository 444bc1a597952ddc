"""The members of the official emitter by which its subclasses change it, and its attributes that are assigned to."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload

from durable_tracker.delivery.overridden import OverriddenTransport, send_plainly
from durable_tracker.delivery.transport import qualified_name
from durable_tracker.errors import ConfigurationError
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from durable_tracker.delivery.transport import Transport
    from durable_tracker.protocol.endpoint import Endpoint
    from durable_tracker.runtime.settings import EmitterSettings

T = TypeVar("T")

_UNUSED: Final = {
    "send_events": "override http_post or http_get to send",
    "is_good_status_code": "custom_retry_codes= says what is tried again",
    "attach_sent_timestamp": "stm is stamped at each attempt",
    "reached_limit": "batch_size= and linger= say when events are sent",
}
"""Methods of the official emitter that nothing here calls, and what stands in their place."""


class _Assignable(Generic[T]):
    """A setting that can be assigned to until the emitter opens its queue in this process, and is checked then."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, emitter: None, owner: type) -> Self: ...

    @overload
    def __get__(self, emitter: OfficialEmitter, owner: type) -> T: ...

    def __get__(self, emitter: OfficialEmitter | None, owner: type) -> Self | T:
        return self if emitter is None else cast("T", self._read(emitter))

    def __set__(self, emitter: OfficialEmitter, value: T) -> None:
        if emitter._is_open():  # noqa: SLF001
            raise ConfigurationError(f"{self._name}: is in use; assign before the first event, or give it at the start")
        self._write(emitter, value)

    def _read(self, emitter: OfficialEmitter) -> Any:
        settings = emitter._settings  # noqa: SLF001
        return settings.gather if self._name == "batch_size" else getattr(settings, self._name)

    def _write(self, emitter: OfficialEmitter, value: Any) -> None:
        before = vars(emitter).get("_settings")
        if before is None:
            return  # by a subclass, before the constructor, which sets it again
        emitter._settings = replace(before, **{self._name: value})  # noqa: SLF001
        try:
            emitter._check()  # noqa: SLF001
        except ConfigurationError:
            emitter._settings = before  # noqa: SLF001
            raise


class _Callback(_Assignable[T]):
    """The same for a function."""

    def _read(self, emitter: OfficialEmitter) -> Any:
        return emitter.__dict__.get(self._name)

    def _write(self, emitter: OfficialEmitter, value: Any) -> None:
        ARGUMENTS[self._name].value(value)
        emitter.__dict__[self._name] = value


class OfficialEmitter:
    """What the official emitter's subclasses override, call by `super()`, and assign to. Base of `Emitter`."""

    _address: Endpoint
    _settings: EmitterSettings
    _capacity: int | None
    _opened: Any = None
    _pid: int
    _given_transport: Transport | None
    _adapter_name: str | None

    batch_size = _Assignable["int | None"]()
    request_timeout = _Assignable["float | tuple[float, float] | None"]()
    max_retry_delay_seconds = _Assignable[float]()
    custom_retry_codes = _Assignable[Mapping[int, bool]]()
    on_success = _Callback[Callable[[list[dict[str, Any]]], object] | None]()
    on_failure = _Callback[Callable[[int, list[dict[str, Any]]], object] | None]()

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
        """Bytes of a request's body at most. Assigning to it is a ConfigurationError."""
        return self._settings.byte_limit

    @byte_limit.setter
    def byte_limit(self, _value: int | None) -> None:
        raise ConfigurationError("byte_limit: room on disk is set aside for it at once; give it to the constructor")

    @property
    def buffer_capacity(self) -> int | None:
        """Pending events at most, None for no bound but `max_queue_bytes`. May be assigned to at any time."""
        return self._settings.buffer_capacity

    @buffer_capacity.setter
    def buffer_capacity(self, value: int | None) -> None:
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

    def _check_sends(self, method: str) -> None:
        if self.method != method or self._given_transport is not None:
            raise ConfigurationError(f"http_{method}: this emitter does not send by {method.upper()}")

    def _check_override(self) -> None:
        """Refuse arguments that an override has no use for."""
        if self._given_transport is not None:
            raise ConfigurationError(f"transport: http_{self.method} is overridden, and sends; give one of them")
        if self._settings.senders > 1:
            what = f"http_{self.method} is overridden, and is called one at a time"
            raise ConfigurationError(f"senders (or thread_count): {what}; give 1")

    def _is_overridden(self) -> bool:
        """Return whether a subclass, or whoever patched the class or the object, brings the way to send."""
        name = f"http_{self.method}"
        return getattr(getattr(self, name), "__func__", None) is not _PLAIN[name]

    def _with_override(self, plain: Transport) -> Transport:
        if not self._is_overridden():
            return plain
        return OverriddenTransport(self, self.method, getattr(self, f"http_{self.method}"), plain)

    def _sender(self) -> str | None:
        """Return the qualified name of what sends in a way of the user's own, None for HTTP by this package."""
        given = self._given_transport
        if given is not None:
            name = qualified_name(type(given))
            return getattr(given, "adapter_name", None) if name == _HTTP else name
        if not self._is_overridden():
            return self._adapter_name
        method = f"http_{self.method}"
        return qualified_name(next(base for base in (type(self), *type(self).__mro__) if method in vars(base)))

    def _is_open(self) -> bool:
        return self._opened is not None and self._pid == os.getpid()

    def _make_plain(self) -> Transport:
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError


_HTTP: Final = "durable_tracker.delivery.http_transport.HttpTransport"  # which is expensive to import
_PLAIN: Final = {name: vars(OfficialEmitter)[name] for name in ("http_post", "http_get")}
