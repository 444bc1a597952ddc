"""The settings of a tracker as an object, for `Snowplow.create_tracker`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from durable_tracker.runtime.checked import Setting
from durable_tracker.settings import checks

if TYPE_CHECKING:
    from durable_tracker.protocol.encoder import JsonEncoder


OnInvalid = Literal["raise", "dead_letter"]
ON_INVALID: Final = get_args(OnInvalid)


class TrackerConfiguration:
    """Settings of a tracker.

    Args:
        encode_base64: whether self-describing JSON is sent in base64.
        json_encoder: called with each value that JSON has no form for.
        on_invalid: what becomes of an event that breaks a rule; see `Tracker`.

    Raises:
        ConfigurationError: one of them is of another type; also when it is set later.
    """

    encode_base64 = Setting[bool](checks.boolean, "Whether self-describing JSON is sent in base64.")
    json_encoder = Setting["JsonEncoder | None"](
        checks.optional(checks.function), "Called with each value that JSON has no form for."
    )

    on_invalid = Setting[OnInvalid](
        checks.one_of(*ON_INVALID), "What becomes of an event that breaks a rule; see `Tracker`."
    )

    def __init__(
        self,
        encode_base64: bool = True,
        json_encoder: JsonEncoder | None = None,
        *,
        on_invalid: OnInvalid = "raise",
    ) -> None:
        self.encode_base64 = encode_base64
        self.json_encoder = json_encoder
        self.on_invalid = on_invalid
