"""Names that a module of the official tracker has because it imports them, for code that imports them from there.

They are looked up in their own module when they are asked for: the modules that carry them need them no more than that,
and their imports would point in circles.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_HOMES: Final = {
    "constants": ("BASE_SCHEMA_PATH", "CONTEXT_SCHEMA", "DEFAULT_ENCODE_BASE64", "MOBILE_SCHEMA_PATH", "SCHEMA_TAG"),
    "contracts": ("form_element", "greater_than", "non_empty", "non_empty_string", "one_of"),
    "event_store": ("EventStore", "InMemoryEventStore"),
    "events": ("PagePing", "PageView", "ScreenView", "SelfDescribing", "StructuredEvent"),
    "protocol.fields": ("UNSTRUCT_EVENT_SCHEMA",),
    "runtime.refused": ("CeleryEmitter", "RedisEmitter", "RedisWorker"),
    "self_describing_json": ("SelfDescribingJson",),
    "subject": ("Subject",),
    "typing": ("FORM_NODE_NAMES", "FORM_TYPES", "SUPPORTED_PLATFORMS", "EmitterProtocol"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


_CARRIED: Final = {
    "emitter_configuration": ("EventStore",),
    "emitters": (
        "CeleryEmitter",
        "EmitterProtocol",
        "EventStore",
        "InMemoryEventStore",
        "RedisEmitter",
        "RedisWorker",
        "SelfDescribingJson",
        "one_of",
    ),
    "events.event": ("CONTEXT_SCHEMA", "SelfDescribingJson", "Subject"),
    "events.page_ping": ("SelfDescribingJson", "Subject", "non_empty_string"),
    "events.page_view": ("SelfDescribingJson", "Subject", "non_empty_string"),
    "events.screen_view": ("MOBILE_SCHEMA_PATH", "SCHEMA_TAG", "SelfDescribing", "Subject", "non_empty_string"),
    "events.self_describing": ("SelfDescribingJson", "Subject", "UNSTRUCT_EVENT_SCHEMA", "non_empty"),
    "events.structured_event": ("SelfDescribingJson", "Subject", "non_empty_string"),
    "self_describing_json": ("non_empty_string",),
    "subject": ("SUPPORTED_PLATFORMS", "greater_than", "one_of"),
    "tracker": (
        "BASE_SCHEMA_PATH",
        "DEFAULT_ENCODE_BASE64",
        "EmitterProtocol",
        "FORM_NODE_NAMES",
        "FORM_TYPES",
        "PagePing",
        "PageView",
        "SCHEMA_TAG",
        "ScreenView",
        "SelfDescribing",
        "SelfDescribingJson",
        "StructuredEvent",
        "form_element",
        "non_empty",
        "non_empty_string",
        "one_of",
    ),
}
"""The names that each module carries."""


def names_from_elsewhere(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that carries names of others."""
    carried = _CARRIED[module.removeprefix("durable_tracker.")]

    def get(name: str) -> Any:
        if name not in carried:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"durable_tracker.{_HOME_OF[name]}"), name)

    return get
