"""The settings of an emitter as an object, for `Snowplow.create_tracker`."""

from __future__ import annotations

from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any

from durable_tracker.emitters import Emitter
from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger
from durable_tracker.runtime.checked import Setting
from durable_tracker.runtime.elsewhere import names_from_elsewhere
from durable_tracker.settings import checks
from durable_tracker.settings.table import ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_tracker.delivery.http_transport import Session
    from durable_tracker.settings.checks import Check
    from durable_tracker.typing import FailureCallback, SuccessCallback


_OPTIONS = frozenset(signature(Emitter).parameters) - {"endpoint"}


def _of(name: str) -> tuple[Check, str]:
    """Return the check and the meaning of an argument of `Emitter`."""
    argument = ARGUMENTS[name]
    assert argument.check is not None  # noqa: S101 (of those below)
    return argument.check, argument.help


class EmitterConfiguration:
    """Settings of an emitter. All have the meaning and the default that they have there.

    Args:
        batch_size: and the others that are named: as `Emitter` has them.
        options: any other argument of `Emitter` by its name, such as `queue_dir`, `durability`, `port`.

    Raises:
        ConfigurationError: a setting is not usable; also when it is set later.
    """

    batch_size = Setting["int | None"](*_of("batch_size"))
    on_success = Setting["SuccessCallback | None"](*_of("on_success"))
    on_failure = Setting["FailureCallback | None"](*_of("on_failure"))
    byte_limit = Setting["int | None"](*_of("byte_limit"))
    request_timeout = Setting["float | tuple[float, float] | None"](*_of("request_timeout"))
    buffer_capacity = Setting["int | None"](*_of("buffer_capacity"))
    custom_retry_codes = Setting["Mapping[int, bool]"](*_of("custom_retry_codes"))
    event_store = Setting[None](*_of("event_store"))
    session = Setting["Session | None"](*_of("session"))

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


if not TYPE_CHECKING:
    __getattr__ = names_from_elsewhere(__name__)
