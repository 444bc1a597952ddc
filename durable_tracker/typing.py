"""The types of the official tracker's signatures, by its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from durable_tracker.protocol.fields import PLATFORMS
from durable_tracker.protocol.schema_rules import FORM_NODE_NAMES, FORM_TYPES

PayloadDict = dict[str, Any]
PayloadDictList = list[PayloadDict]
JsonEncoderFunction = Callable[[Any], Any]
"""Called with a value that JSON has no form for. Returns one that it has, or raises TypeError."""

FormNodeName = Literal["INPUT", "TEXTAREA", "SELECT"]
FormClasses = list[str] | tuple[str, ...]
ElementClasses = list[str] | tuple[str, ...]

HttpProtocol = Literal["http", "https"]
Method = Literal["get", "post"]
SuccessCallback = Callable[[PayloadDictList], object]
"""Called with the events that were delivered."""
FailureCallback = Callable[[int, PayloadDictList], object]
"""Called with the number of events of a request that were delivered, and the events that were not."""

SUPPORTED_PLATFORMS = PLATFORMS
SupportedPlatform = Literal["pc", "tv", "mob", "cnsl", "iot", "web", "srv", "app", "headset"]


class EmitterProtocol(Protocol):
    """What the official tracker asks of an emitter."""

    def input(self, payload: Mapping[str, Any]) -> object:
        """Take one event's fields."""

    def flush(self) -> object:
        """Send what is waiting, and wait for it."""

    def async_flush(self) -> object:
        """Send what is waiting."""

    def sync_flush(self) -> object:
        """Send what is waiting, and wait for it."""


__all__ = [
    "FORM_NODE_NAMES",
    "FORM_TYPES",
    "SUPPORTED_PLATFORMS",
    "ElementClasses",
    "EmitterProtocol",
    "FailureCallback",
    "FormClasses",
    "FormNodeName",
    "HttpProtocol",
    "JsonEncoderFunction",
    "Method",
    "PayloadDict",
    "PayloadDictList",
    "SuccessCallback",
    "SupportedPlatform",
]
