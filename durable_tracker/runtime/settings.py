"""The settings of an emitter, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from durable_tracker.engines.engine import BYTE_LIMIT, MAX_QUEUE_BYTES, MAX_QUEUE_BYTES_MIN, Durability
from durable_tracker.errors import ConfigurationError

OnFull = Literal["raise", "drop_newest", "drop_oldest", "block"]

REQUEST_COUNT_MAX: Final = 500
"""Events in one request, unless `batch_size` says otherwise."""

GATHER: Final = 10
"""Waiting events that are sent without lingering, unless `batch_size` says otherwise."""

_OPTIONAL: Final = frozenset({"batch_size", "buffer_capacity", "max_age"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterSettings:
    """What `Emitter` takes as arguments, but for the address and the callbacks. Immutable.

    The fields are documented at `Emitter`.

    Raises:
        ConfigurationError: a field is not usable; the message names it.
    """

    method: str = "post"
    batch_size: int | None = None
    byte_limit: int = BYTE_LIMIT
    request_timeout: float | tuple[float, float] | None = None
    max_retry_delay_seconds: float = 60.0
    buffer_capacity: int | None = None
    custom_retry_codes: Mapping[int, bool] = field(default_factory=dict)
    name: str | None = None
    durability: Durability = "always"
    linger: float = 0.1
    senders: int = 1
    max_queue_bytes: int = MAX_QUEUE_BYTES
    on_full: OnFull = "raise"
    max_age: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    drain: bool = True
    shutdown_timeout: float = 5.0
    report_retries: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "byte_limit", "buffer_capacity", "senders", "max_queue_bytes"):
            self._check(check_count, name)
        for name in ("linger", "shutdown_timeout", "max_retry_delay_seconds", "max_age"):
            self._check(check_seconds, name)
        if self.max_queue_bytes < MAX_QUEUE_BYTES_MIN:
            raise ConfigurationError(f"max_queue_bytes: {self.max_queue_bytes} is less than {MAX_QUEUE_BYTES_MIN}")
        _check_choice("durability", self.durability, get_args(Durability))
        _check_choice("on_full", self.on_full, get_args(OnFull))
        for name in ("drain", "report_retries"):
            if type(getattr(self, name)) is not bool:
                raise ConfigurationError(f"{name}: {getattr(self, name)!r} is neither True nor False")
        if self.on_full == "block" and not self.drain:
            raise ConfigurationError("on_full: 'block' with drain=False would wait for ever: nobody makes room")
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise ConfigurationError(f"name: {self.name!r} is not a non-empty string")
        for name in ("custom_retry_codes", "headers"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{name}: must be a dict, but is of type {type(value).__name__}")
            object.__setattr__(self, name, dict(value))  # the caller's own may change

    def _check(self, check: Callable[[str, Any], None], name: str) -> None:
        value = getattr(self, name)
        if value is not None or name not in _OPTIONAL:
            check(name, value)

    @property
    def request_count_max(self) -> int:
        """Events in one request at most."""
        if self.method == "get":
            return 1
        return REQUEST_COUNT_MAX if self.batch_size is None else self.gather

    @property
    def gather(self) -> int:
        """Waiting events that end the linger."""
        if self.method == "get":
            return 1
        size = GATHER if self.batch_size is None else self.batch_size
        return size if self.buffer_capacity is None else min(size, self.buffer_capacity)


def check_count(name: str, value: Any) -> None:
    """Refuse what is not a positive integer.

    Raises:
        ConfigurationError: names `name`.
    """
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name}: {value!r} is not a positive integer")


def check_seconds(name: str, value: Any) -> None:
    """Refuse what is not a finite number of seconds from 0 on.

    Raises:
        ConfigurationError: names `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{name}: {value!r} is not a number of seconds")


def check_function(name: str, value: Any) -> None:
    """Refuse what is neither None nor can be called.

    Raises:
        ConfigurationError: names `name`.
    """
    if not (value is None or callable(value)):
        raise ConfigurationError(f"{name}: {value!r} is not a function")


def _check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name}: {value!r} is none of {', '.join(map(repr, allowed))}")
