"""The checks of settings, in one dialect: what the user named, a colon, and what is wrong with it.

Each takes the argument's name and its value, returns the value to use, and raises ConfigurationError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from durable_tracker.errors import ConfigurationError
from durable_tracker.protocol.fields import shown

Check = Callable[[str, Any], Any]

_STATUS_MIN, _STATUS_MAX, _REDIRECTION = 100, 599, 300
_SUCCESS: Final = range(200, _REDIRECTION)


def refused(name: str, value: object, rule: str) -> ConfigurationError:
    """Return the error for a value that breaks a rule."""
    return ConfigurationError(f"{name}: {shown(value)} is not {rule}")


def count(name: str, value: Any) -> int:
    """Return an integer from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise refused(name, value, "a positive integer")
    return value


def at_least(least: int) -> Check:
    """Return the check that a value is an integer from `least` on."""

    def check(name: str, value: Any) -> int:
        if count(name, value) < least:
            raise ConfigurationError(f"{name}: {value} is less than {least}")
        return int(value)

    return check


def seconds(name: str, value: Any) -> float:
    """Return a finite number of seconds from 0 on."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise refused(name, value, "a number of seconds")
    return float(value) if isinstance(value, float) else value


def seconds_above_0(name: str, value: Any) -> float:
    """Return a finite number of seconds above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise refused(name, value, "a number of seconds above 0")
    return float(value) if isinstance(value, float) else value


def timeout(name: str, value: Any) -> Any:
    """Return seconds above 0, a pair of them for connecting and reading, or None for the default."""
    for part in value if isinstance(value, tuple) and len(value) in (1, 2) else (value,):
        if part is not None and not (_is_number(part) and 0 < part < math.inf):
            raise refused(name, value, "a number of seconds above 0, a pair of them, or None")
    return value


def boolean(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise refused(name, value, "True or False")
    return value


def function(name: str, value: Any) -> Any:
    """Return what can be called."""
    if not callable(value):
        raise refused(name, value, "a function")
    return value


def session(name: str, value: Any) -> Any:
    """Return a session of requests, which is not imported for that."""
    if not callable(getattr(value, "get_adapter", None)):
        raise ConfigurationError(f"{name}: must be a requests.Session, but is of type {type(value).__name__}")
    return value


def transport(name: str, value: Any) -> Any:
    """Return an object with a method `send`."""
    if isinstance(value, type) or not callable(getattr(value, "send", None)):
        raise ConfigurationError(f"{name}: {shown(value)} has no method send; see the protocol Transport")
    return value


def text(name: str, value: Any) -> str:
    """Return text that is not empty."""
    if not isinstance(value, str) or not value:
        raise refused(name, value, "a non-empty string")
    return value


def mapping(name: str, value: Any) -> dict[Any, Any]:
    """Return a copy of a dict: the caller's own may change."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name}: must be a dict, but is of type {type(value).__name__}")
    return dict(value)


def retry_codes(name: str, value: Any) -> dict[int, bool]:
    """Return a copy of the rules that say which HTTP statuses other than 2xx are tried again."""
    rules = mapping(name, value)
    for status, retry in rules.items():
        if not is_retry_rule(status, retry):
            raise ConfigurationError(
                f"{name}: {shown(status)}: {shown(retry)} does not map an HTTP status other than 2xx to True or False"
            )
    return rules


def is_retry_rule(status: object, retry: object) -> bool:
    """Tell whether something maps a status other than 2xx to whether it is tried again."""
    is_status = isinstance(status, int) and not isinstance(status, bool) and _STATUS_MIN <= status <= _STATUS_MAX
    return is_status and status not in _SUCCESS and isinstance(retry, bool)


def one_of(*allowed: str) -> Check:
    """Return the check that a value is one of a few."""

    def check(name: str, value: Any) -> Any:
        if value not in allowed:
            raise ConfigurationError(f"{name}: {shown(value)} is none of {', '.join(map(repr, allowed))}")
        return value

    return check


def optional(check: Check) -> Check:
    """Return the check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def nothing(instead: str) -> Check:
    """Return the check of an argument that has no place here; `instead` says what to use."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            raise ConfigurationError(f"{name}: {instead}")

    return check


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
