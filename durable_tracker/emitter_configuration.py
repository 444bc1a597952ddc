"""The settings of an emitter as an object, for `Snowplow.create_tracker`."""

from __future__ import annotations

from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any

from durable_tracker.delivery import checks
from durable_tracker.emitters import Emitter
from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger
from durable_tracker.runtime.checked import Setting
from durable_tracker.runtime.settings import CHECKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_tracker.delivery.http_transport import Session
    from durable_tracker.typing import FailureCallback, SuccessCallback


_OPTIONS = frozenset(signature(Emitter).parameters) - {"endpoint"}


def _session(name: str, value: Any) -> Any:
    """Return a session of requests, which is not imported here, or None."""
    if value is not None and not callable(getattr(value, "get_adapter", None)):
        raise checks.refused(name, value, "a requests.Session")
    return value


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
        session: a `requests.Session`, whose settings are used.
        options: any other argument of `Emitter` by its name, such as `queue_dir`, `durability`, `port`.

    Raises:
        ConfigurationError: a setting is not usable; also when it is set later.
    """

    batch_size = Setting["int | None"](CHECKS["batch_size"], "The most events in a request.")
    on_success = Setting["SuccessCallback | None"](CHECKS["on_success"], "Called with the delivered events.")
    on_failure = Setting["FailureCallback | None"](CHECKS["on_failure"], "Called when a request failed.")
    byte_limit = Setting["int | None"](checks.optional(CHECKS["byte_limit"]), "The most bytes in a request.")
    request_timeout = Setting["float | tuple[float, float] | None"](CHECKS["request_timeout"], "Seconds.")
    buffer_capacity = Setting["int | None"](CHECKS["buffer_capacity"], "The most pending events.")
    custom_retry_codes = Setting["Mapping[int, bool]"](CHECKS["custom_retry_codes"], "Which HTTP statuses are retried.")
    event_store = Setting[None](CHECKS["event_store"], "Always None.")
    session = Setting["Session | None"](_session, "A session of requests.")

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
        session: Session | None = None,
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
        unknown = sorted(options.keys() - _OPTIONS)
        if unknown:
            near = get_close_matches(unknown[0], _OPTIONS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigurationError(f"{unknown[0]}: is no argument of Emitter{hint}")
        self.options = options

    def set_retry_code(self, status_code: int, retry: bool = True) -> bool:
        """Say whether events that got an HTTP status are sent again, and return whether that was possible.

        It is not for a 2xx, which means that they were delivered; then the reason is logged.
        """
        if not checks.is_retry_rule(status_code, retry):
            extra = {"status_code": status_code, "retry": retry, "outcome": "nothing changed"}
            logger.warning("configuration.retry_code_refused", extra=extra)
            return False
        self.custom_retry_codes = {**self.custom_retry_codes, status_code: retry}
        return True

    def arguments(self) -> dict[str, Any]:
        """Return what is set, as arguments of `Emitter`."""
        names = (
            "batch_size",
            "on_success",
            "on_failure",
            "byte_limit",
            "request_timeout",
            "buffer_capacity",
            "session",
        )
        settings = {name: getattr(self, name) for name in names}
        settings["custom_retry_codes"] = dict(self.custom_retry_codes) or None
        return {name: value for name, value in settings.items() if value is not None} | self.options
