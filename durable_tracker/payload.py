"""The fields of an event as they are collected, before the encoder makes its bytes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_tracker.protocol.encoder import json_text, to_base64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from durable_tracker.protocol.encoder import JsonEncoder


class Payload:
    """The fields of an event by their names in the protocol, as they are collected.

    Nothing is checked but JSON until the tracker is given the event. Not safe for several threads to change at once.

    Attributes:
        nv_pairs: the fields; also returned by `get`.
    """

    def __init__(self, dict_: Mapping[str, Any] | None = None) -> None:
        self.nv_pairs: dict[str, Any] = {} if dict_ is None else dict(dict_)

    @classmethod
    def over(cls, pairs: dict[str, Any]) -> Payload:
        """Return a payload that shares `pairs` rather than copying it."""
        payload = cls.__new__(cls)
        payload.nv_pairs = pairs
        return payload

    def add(self, name: str, value: Any) -> None:
        """Set a field, unless `value` is None or empty text."""
        if not (value is None or (isinstance(value, str) and not value)):
            self.nv_pairs[name] = value

    def add_dict(self, dict_: Mapping[str, Any], base64: bool = False) -> None:
        """Set each field of `dict_` as `add` does. `base64` has no effect; the official signature has it."""
        del base64
        for name, value in dict_.items():
            self.add(name, value)

    def add_json(
        self,
        dict_: Mapping[str, Any] | None,
        encode_base64: bool,
        type_when_encoded: str,
        type_when_not_encoded: str,
        json_encoder: JsonEncoder | None = None,
    ) -> None:
        """Set a field to JSON text, unless `dict_` is None or empty.

        Args:
            dict_: the JSON.
            encode_base64: whether the text goes into `type_when_encoded`, in base64, or plain into the other field.
            type_when_encoded: the name of the field for base64.
            type_when_not_encoded: the name of the field for plain text.
            json_encoder: called with each value that JSON has no form for.

        Raises:
            InvalidEventError: `dict_` is not strict JSON.
        """
        if dict_:
            name = type_when_encoded if encode_base64 else type_when_not_encoded
            text = json_text(dict_, name, json_encoder)
            self.add(name, to_base64(text) if encode_base64 else text)

    def get(self) -> dict[str, Any]:
        """Return the fields themselves, not a copy."""
        return self.nv_pairs

    def __repr__(self) -> str:
        return f"Payload({self.nv_pairs!r})"
