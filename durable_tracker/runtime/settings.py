"""The settings of an emitter, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, Literal, get_args

from durable_tracker.delivery import checks
from durable_tracker.engines.engine import BYTE_LIMIT, MAX_QUEUE_BYTES, MAX_QUEUE_BYTES_MIN, Durability
from durable_tracker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_tracker.delivery.checks import Check

OnFull = Literal["raise", "drop_newest", "drop_oldest", "block"]

REQUEST_COUNT_MAX: Final = 500
"""Events in one request, unless `batch_size` says otherwise."""

GATHER: Final = 10
"""Waiting events that are sent without lingering, unless `batch_size` says otherwise."""

_NO_EVENT_STORE: Final = "events are stored on disk; choose where with queue_dir=, how much with max_queue_bytes="

CHECKS: Final[dict[str, Check]] = {
    "batch_size": checks.optional(checks.count),
    "on_success": checks.optional(checks.function),
    "on_failure": checks.optional(checks.function),
    "byte_limit": checks.count,
    "request_timeout": checks.timeout,
    "max_retry_delay_seconds": checks.seconds_above_0,
    "buffer_capacity": checks.optional(checks.count),
    "custom_retry_codes": checks.retry_codes,
    "event_store": checks.nothing(_NO_EVENT_STORE),
    "name": checks.optional(checks.text),
    "durability": checks.one_of(*get_args(Durability)),
    "linger": checks.seconds,
    "senders": checks.count,
    "max_queue_bytes": checks.count,
    "on_full": checks.one_of(*get_args(OnFull)),
    "max_age": checks.optional(checks.seconds_above_0),
    "headers": checks.mapping,
    "drain": checks.boolean,
    "shutdown_timeout": checks.seconds,
    "report_retries": checks.boolean,
}
"""The check of each setting of an emitter, wherever it is given or assigned to."""


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
        for field_ in fields(self):
            if field_.name in CHECKS:
                object.__setattr__(self, field_.name, CHECKS[field_.name](field_.name, getattr(self, field_.name)))
        if self.max_queue_bytes < MAX_QUEUE_BYTES_MIN:
            raise ConfigurationError(f"max_queue_bytes: {self.max_queue_bytes} is less than {MAX_QUEUE_BYTES_MIN}")
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
