"""Settings of trackers and emitters as objects, for `Snowplow.create_tracker`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger
from durable_tracker.protocol import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from durable_tracker.payload import JsonEncoder

    SuccessCallback = Callable[[list[dict[str, str]]], object]
    """Called with the events that were delivered."""
    FailureCallback = Callable[[int, list[dict[str, str]]], object]
    """Called with the number of events of a request that were delivered, and the events that were not."""

T = TypeVar("T")
_STATUS_MIN, _SUCCESS_MIN, _SUCCESS_MAX, _STATUS_MAX = 100, 200, 299, 599


class _Setting(Generic[T]):
    """A property that is checked whenever it is set."""

    def __init__(self, check: Callable[[str, Any], T], doc: str) -> None:
        self.check = check
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, settings: None, owner: type) -> Self: ...
    @overload
    def __get__(self, settings: object, owner: type) -> T: ...
    def __get__(self, settings: object | None, owner: type) -> Any:
        return self if settings is None else vars(settings)[self.name]

    def __set__(self, settings: object, value: T) -> None:
        vars(settings)[self.name] = self.check(self.name, value)


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} must be True or False, but is {shown(value)}")


def _function(name: str, value: Any) -> Any:
    if value is None or callable(value):
        return value
    raise ConfigurationError(f"{name} must be a function or None, but is {shown(value)}")


def _positive(name: str, value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name} must be an integer above 0 or None, but is {shown(value)}")


def _timeout(name: str, value: Any) -> Any:
    seconds = value if isinstance(value, tuple) and len(value) in (1, 2) else (value,)
    for part in seconds:
        number = isinstance(part, (int, float)) and not isinstance(part, bool) and math.isfinite(part)
        if part is not None and not (number and part > 0):
            raise ConfigurationError(f"{name} must be seconds above 0, a pair of them, or None, but is {shown(value)}")
    return value


def _is_retry_rule(status: object, retry: object) -> bool:
    return (
        isinstance(status, int)
        and not isinstance(status, bool)
        and _STATUS_MIN <= status <= _STATUS_MAX
        and not _SUCCESS_MIN <= status <= _SUCCESS_MAX
        and isinstance(retry, bool)
    )


def _retry_codes(name: str, value: Any) -> dict[int, bool]:
    codes = {} if value is None else value
    if not isinstance(codes, dict) or not all(_is_retry_rule(*rule) for rule in codes.items()):
        raise ConfigurationError(
            f"{name} must map HTTP statuses other than 2xx to True or False, but is {shown(value)}"
        )
    return dict(codes)


def _no_event_store(name: str, value: object) -> None:
    if value is not None:
        raise ConfigurationError(f"{name} has no place here: events are stored on disk. Say where with queue_dir")


def _no_session(name: str, value: object) -> None:
    if value is not None:
        raise ConfigurationError(f"{name} has no place here: connections are kept anyway. See headers and transport")


class TrackerConfiguration:
    """Settings of a tracker.

    Args:
        encode_base64: whether self-describing JSON is sent in base64.
        json_encoder: called with each value that JSON has no form for.

    Raises:
        ConfigurationError: one of them is of another type; also when it is set later.
    """

    encode_base64 = _Setting[bool](_boolean, "Whether self-describing JSON is sent in base64.")
    json_encoder = _Setting["JsonEncoder | None"](_function, "Called with each value that JSON has no form for.")

    def __init__(self, encode_base64: bool = True, json_encoder: JsonEncoder | None = None) -> None:
        self.encode_base64 = encode_base64
        self.json_encoder = json_encoder


class EmitterConfiguration:
    """Settings of an emitter. All have the meaning and the default that they have there.

    Args:
        batch_size: the most events in a request.
        on_success: called with the events of a request that were delivered.
        on_failure: called with the number of delivered events and the list of those that were not.
        byte_limit: the most bytes in a request.
        request_timeout: seconds, or a pair for connecting and reading.
        buffer_capacity: the most pending events.
        custom_retry_codes: HTTP statuses, and whether an event that got one is sent again.
        event_store: refused: every event is stored on disk.
        session: refused: connections are kept anyway. See `headers` and `transport`.
        options: any other argument of `Emitter` by its name, such as `queue_dir`, `durability`, `port`.

    Raises:
        ConfigurationError: a setting is not usable; also when it is set later.
    """

    batch_size = _Setting["int | None"](_positive, "The most events in a request.")
    on_success = _Setting["SuccessCallback | None"](_function, "Called with the delivered events.")
    on_failure = _Setting["FailureCallback | None"](_function, "Called when a request failed.")
    byte_limit = _Setting["int | None"](_positive, "The most bytes in a request.")
    request_timeout = _Setting["float | tuple[float, float] | None"](_timeout, "Seconds.")
    buffer_capacity = _Setting["int | None"](_positive, "The most pending events.")
    custom_retry_codes = _Setting["Mapping[int, bool]"](_retry_codes, "Which HTTP statuses are retried.")
    event_store = _Setting[None](_no_event_store, "Always None.")
    session = _Setting[None](_no_session, "Always None.")

    def __init__(
        self,
        batch_size: int | None = None,
        on_success: SuccessCallback | None = None,
        on_failure: FailureCallback | None = None,
        byte_limit: int | None = None,
        request_timeout: float | tuple[float, float] | None = None,
        buffer_capacity: int | None = None,
        custom_retry_codes: Mapping[int, bool] | None = None,
        event_store: None = None,
        session: None = None,
        **options: Any,
    ) -> None:
        self.batch_size = batch_size
        self.on_success = on_success
        self.on_failure = on_failure
        self.byte_limit = byte_limit
        self.request_timeout = request_timeout
        self.buffer_capacity = buffer_capacity
        self.custom_retry_codes = {} if custom_retry_codes is None else custom_retry_codes
        self.event_store = event_store
        self.session = session
        self.options = options

    def set_retry_code(self, status_code: int, retry: bool = True) -> bool:
        """Say whether events that got an HTTP status are sent again, and return whether that was possible.

        It is not for a 2xx, which means that they were delivered; then the reason is logged.
        """
        if not _is_retry_rule(status_code, retry):
            extra = {"status_code": status_code, "retry": retry, "outcome": "nothing changed"}
            logger.warning("configuration.retry_code_refused", extra=extra)
            return False
        self.custom_retry_codes = {**self.custom_retry_codes, status_code: retry}
        return True

    def arguments(self) -> dict[str, Any]:
        """Return what is set, as arguments of `Emitter`."""
        names = ("batch_size", "on_success", "on_failure", "byte_limit", "request_timeout", "buffer_capacity")
        settings = {name: getattr(self, name) for name in names}
        settings["custom_retry_codes"] = dict(self.custom_retry_codes) or None
        return {name: value for name, value in settings.items() if value is not None} | self.options
