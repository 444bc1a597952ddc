"""Settings that are checked whenever they are set, as the configuration objects have them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from durable_tracker.errors import ConfigurationError
from durable_tracker.protocol.fields import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

T = TypeVar("T")
_STATUS_MIN, _SUCCESS_MIN, _SUCCESS_MAX, _STATUS_MAX = 100, 200, 299, 599


class Setting(Generic[T]):
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


def check_boolean(name: str, value: object) -> bool:
    """Return what is True or False."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} must be True or False, but is {shown(value)}")


def check_callable(name: str, value: Any) -> Any:
    """Return a function or None."""
    if value is None or callable(value):
        return value
    raise ConfigurationError(f"{name} must be a function or None, but is {shown(value)}")


def check_positive(name: str, value: object) -> int | None:
    """Return an integer above 0, or None."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigurationError(f"{name} must be an integer above 0 or None, but is {shown(value)}")


def check_timeout(name: str, value: Any) -> Any:
    """Return seconds above 0, a pair of them, or None."""
    seconds = value if isinstance(value, tuple) and len(value) in (1, 2) else (value,)
    for part in seconds:
        number = isinstance(part, (int, float)) and not isinstance(part, bool) and math.isfinite(part)
        if part is not None and not (number and part > 0):
            raise ConfigurationError(f"{name} must be seconds above 0, a pair of them, or None, but is {shown(value)}")
    return value


def is_retry_rule(status: object, retry: object) -> bool:
    """Tell whether something maps a status other than 2xx to whether it is retried."""
    return (
        isinstance(status, int)
        and not isinstance(status, bool)
        and _STATUS_MIN <= status <= _STATUS_MAX
        and not _SUCCESS_MIN <= status <= _SUCCESS_MAX
        and isinstance(retry, bool)
    )


def check_retry_codes(name: str, value: Any) -> dict[int, bool]:
    """Return a copy of the rules for retries."""
    codes = {} if value is None else value
    if not isinstance(codes, dict) or not all(is_retry_rule(*rule) for rule in codes.items()):
        raise ConfigurationError(
            f"{name} must map HTTP statuses other than 2xx to True or False, but is {shown(value)}"
        )
    return dict(codes)


def refuse_event_store(name: str, value: object) -> None:
    """Refuse an event store."""
    if value is not None:
        raise ConfigurationError(f"{name} has no place here: events are stored on disk. Say where with queue_dir")


def check_session(name: str, value: Any) -> Any:
    """Return a session of requests, which is not imported here, or None."""
    if value is not None and not callable(getattr(value, "get_adapter", None)):
        raise ConfigurationError(f"{name} must be a requests.Session or None, but is {shown(value)}")
    return value
