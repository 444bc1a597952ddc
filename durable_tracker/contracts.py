"""The official tracker's switch for its checks, which are always on here."""

from durable_tracker.runtime.refused import disable_contracts, enable_contracts


def contracts_enabled() -> bool:
    """Return True: an event that is not checked could fail every other event of its request."""
    return True


__all__ = ["contracts_enabled", "disable_contracts", "enable_contracts"]
