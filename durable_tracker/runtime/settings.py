"""The settings of an emitter, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from durable_tracker.errors import ConfigurationError
from durable_tracker.settings.table import ARGUMENTS, REQUEST_COUNT_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_tracker.settings.table import Durability, OnFull

GATHER: Final = 10
"""Waiting events that are sent without lingering, unless `batch_size` says otherwise."""

_TELLS_BY_NONE: Final = "batch_size"
"""Whether it was given matters: see `request_count_max`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterSettings:
    """What `Emitter` takes as arguments, but for the address, the callbacks and what it has of others. Immutable.

    The fields are documented at `Emitter`, and have the defaults that it has.

    Raises:
        ConfigurationError: a field is not usable; the message names it.
    """

    method: str
    batch_size: int | None
    byte_limit: int
    request_timeout: float | tuple[float, float] | None
    max_retry_delay_seconds: float
    buffer_capacity: int | None
    custom_retry_codes: Mapping[int, bool]
    name: str | None
    durability: Durability
    linger: float
    senders: int
    max_queue_bytes: int
    on_full: OnFull
    max_age: float | None
    headers: Mapping[str, str] = field(repr=False)
    drain: bool
    shutdown_timeout: float
    report_retries: bool
    control: bool

    def __post_init__(self) -> None:
        for one in fields(self):
            given = getattr(self, one.name)
            value = ARGUMENTS[one.name].value(given)
            object.__setattr__(self, one.name, given if given is None and one.name == _TELLS_BY_NONE else value)
        if self.on_full == "block" and not self.drain:
            raise ConfigurationError("on_full: 'block' with drain=False would wait for ever: nobody makes room")

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
