"""The official tracker's switch for its checks, which are always on here."""

from __future__ import annotations

from durable_tracker.log import logger

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


__all__ = ["contracts_enabled", "disable_contracts", "enable_contracts"]
