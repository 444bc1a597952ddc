"""The official tracker's checks of arguments, and their switch; here they are always on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_tracker.errors import InvalidEventError
from durable_tracker.log import logger
from durable_tracker.protocol.fields import shown
from durable_tracker.protocol.schema_rules import FORM_NODE_NAMES, FORM_TYPES
from durable_tracker.protocol.schema_rules import form_element as _form_element

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sized

_said: list[str] = []


def _say(call: str) -> None:
    if not _said:
        _said.append(call)
        logger.warning("contracts.always_on", extra={"call": call, "outcome": "nothing changed; said once"})


def disable_contracts() -> None:
    """Do nothing, and log so once: what is checked keeps one event from spoiling its whole batch downstream."""
    _say("disable_contracts")


def enable_contracts() -> None:
    """Do nothing, and log so once: the checks are always on."""
    _say("enable_contracts")


def contracts_enabled() -> bool:
    """Return True: an event that is not checked could fail every other event of its request."""
    return True


def greater_than(value: float, compared_to: float) -> None:
    """Raise an InvalidEventError, a ValueError, unless `value` is greater than `compared_to`."""
    if value <= compared_to:
        raise InvalidEventError("value", f"must be greater than {compared_to}, but is {shown(value)}")


def non_empty(seq: Sized) -> None:
    """Raise an InvalidEventError if there is nothing in `seq`."""
    if len(seq) == 0:
        raise InvalidEventError("value", f"must not be empty, but is {shown(seq)}")


def non_empty_string(s: str) -> None:
    """Raise an InvalidEventError unless `s` is text, and not empty. Subclasses of `str` are text."""
    if not isinstance(s, str) or not s:
        raise InvalidEventError("value", f"must be text that is not empty, but is {shown(s)}")


def one_of(value: Any, supported: Container[Any]) -> None:
    """Raise an InvalidEventError unless `value` is in `supported`."""
    if value not in supported:
        raise InvalidEventError("value", f"is not supported: {shown(value)}")


def satisfies(value: Any, check: Callable[[Any], bool]) -> None:
    """Raise an InvalidEventError unless `check(value)` is true."""
    if not check(value):
        raise InvalidEventError("value", f"is not allowed: {shown(value)}")


def form_element(element: dict[str, Any]) -> None:
    """Raise an InvalidEventError unless `element` is one that the schema of a submitted form takes."""
    _form_element("element", element)


__all__ = [
    "FORM_NODE_NAMES",
    "FORM_TYPES",
    "contracts_enabled",
    "disable_contracts",
    "enable_contracts",
    "form_element",
    "greater_than",
    "non_empty",
    "non_empty_string",
    "one_of",
    "satisfies",
]
