"""Giving an event to every emitter, whichever kind it is of and whatever the others do.

Two kinds are known: durable ones, which store finished payloads, and those written for the official tracker, which take
a dict and may know neither timeouts nor closing.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from durable_tracker.errors import ConfigurationError
from durable_tracker.log import logger
from durable_tracker.protocol.encoder import fields_of
from durable_tracker.protocol.fields import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Protocol

    from durable_tracker.errors import InvalidEventError

    class DurableEmitter(Protocol):
        """An emitter that stores finished payloads."""

        def put(self, payload: bytes) -> None:
            """Store one event: a JSON object of text, as UTF-8, without `stm`."""

        def put_many(self, payloads: Sequence[bytes]) -> None:
            """Store events, in order."""

    class CustomEmitter(Protocol):
        """An emitter as the official tracker knows them."""

        def input(self, payload: dict[str, Any]) -> None:
            """Take one event's fields, as a dict of text that is the emitter's own."""

    AnyEmitter = DurableEmitter | CustomEmitter


_WAYS_MAX = 64
_ways: dict[type, tuple[object, bool]] = {}
"""By type of emitter, its method `input`, and whether it takes bytes as long as that is its method."""


def _find_way(emitter_type: type) -> tuple[object, bool]:
    """Find out whether emitters of a type take finished payloads, by `put`, or dicts, by the official `input`.

    What is defined furthest down in the hierarchy decides: whoever derives from a durable emitter and overrides
    `input` wants to see the dicts. So does whoever patched `input` of a class that stores bytes.

    Returns:
        The method `input`, None if it has none, and whether they take bytes.
    """
    method = getattr(emitter_type, "input", None)
    if method is not getattr(emitter_type, "plain_input", method):
        return method, False  # a patch, which may go: not kept
    first = next((base for base in emitter_type.__mro__ if "put" in vars(base) or "input" in vars(base)), object)
    if len(_ways) >= _WAYS_MAX:
        _ways.clear()
    _ways[emitter_type] = way = (method, "put" in vars(first))
    return way


def emitter_list(emitters: object) -> list[AnyEmitter]:
    """Return one emitter, or several, as a new list.

    Raises:
        ConfigurationError: there is none, or one of them is no emitter.
    """
    found: list[Any] = list(emitters) if isinstance(emitters, (list, tuple)) else [emitters]
    if not found:
        raise ConfigurationError("emitters must hold at least one emitter, but is empty")
    for emitter in found:
        usable = callable(getattr(emitter, "put", None)) or callable(getattr(emitter, "input", None))
        if isinstance(emitter, type) or not usable:
            raise ConfigurationError(
                f"emitters must be an emitter or a list of them, with a method put or input, but has {shown(emitter)}"
            )
    return found


def hand_out(emitters: Iterable[AnyEmitter], payloads: Sequence[bytes]) -> None:
    """Give finished payloads to every emitter, also if one of them fails.

    Raises:
        Exception: what the first emitter raised that failed, with a note on each of the others.
    """
    if not payloads:
        return
    failures: list[Exception] = []
    for emitter in emitters:
        try:
            kind = type(emitter)
            known = _ways.get(kind)
            if known is None or known[0] is not getattr(kind, "input", None):
                known = _find_way(kind)
            if not known[1] or "input" in getattr(emitter, "__dict__", ()):
                for payload in payloads:
                    emitter.input(fields_of(payload))  # type: ignore[union-attr]
            elif len(payloads) == 1:
                emitter.put(payloads[0])  # type: ignore[union-attr]
            else:
                emitter.put_many(payloads)  # type: ignore[union-attr]
        except Exception as error:  # noqa: BLE001 - one emitter's failure must not keep the event from the others
            failures.append(error)
    if failures:
        _raise_first(failures)


_REASON_SIZE_MAX = 1000
_SAID_MAX = 1000
_said: set[tuple[str, str]] = set()


def set_aside(emitters: Iterable[AnyEmitter], payload: bytes, reason: str, error: InvalidEventError) -> None:
    """Keep an event that was refused among the dead letters of every emitter that has them, and say so once per rule.

    Args:
        emitters: where.
        payload: the event, as `rendering` has it.
        reason: why it was refused.
        error: what refused it.

    Raises:
        Exception: as `hand_out`.
    """
    failures: list[Exception] = []
    kept = 0
    for emitter in emitters:
        put_invalid = getattr(emitter, "put_invalid", None)
        try:
            if put_invalid is not None:
                put_invalid(payload, reason[:_REASON_SIZE_MAX])
                kept += 1
        except Exception as failure:  # noqa: BLE001 - one emitter's failure must not keep the event from the others
            failures.append(failure)
    _say(error, is_kept=bool(kept))
    _raise_first(failures)


def _say(error: InvalidEventError, *, is_kept: bool) -> None:
    """Log once per field and rule that events are refused: never a value, nor the way to one in the caller's data."""
    field = re.split(r"[.\[]", str(error.field), maxsplit=1)[0][:80]
    rule = re.split(r", but |; |: | that are ", re.sub(r"\d+", "#", str(error.rule)), maxsplit=1)[0][:160]
    if (field, rule) in _said or len(_said) >= _SAID_MAX:
        return
    _said.add((field, rule))
    fate = "kept among the dead letters" if is_kept else "dropped: no emitter has dead letters"
    extra = {"reason": f"{field} {rule}", "fate": f"{fate}; said once per field and rule"}
    logger.warning("event.invalid", extra=extra)


def each_within(
    emitters: Iterable[AnyEmitter], timeout: float | None, act: Callable[[Any, float | None], bool]
) -> bool:
    """Let every emitter act within one deadline in seconds, and return whether all succeeded.

    Raises:
        Exception: as `hand_out`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    failures: list[Exception] = []
    done = True
    for emitter in emitters:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            done = act(emitter, left) and done
        except Exception as error:  # noqa: BLE001 - one emitter's failure must not keep the others from acting
            failures.append(error)
    _raise_first(failures)
    return done


def _raise_first(failures: list[Exception]) -> None:
    if failures:
        first, *others = failures
        for other in others:
            first.add_note(f"another emitter failed too: {type(other).__name__}: {other}")
        raise first


def _is_durable(emitter: Any) -> bool:
    return hasattr(type(emitter), "put")


def flush(emitter: Any, timeout: float | None) -> bool:
    """Send what an emitter has queued, and return whether nothing is left. The official ones know no timeout."""
    if _is_durable(emitter):
        return bool(emitter.flush(timeout))
    send = getattr(emitter, "sync_flush", None) or getattr(emitter, "flush", None)
    return send is None or send() is not False


def flush_async(emitter: Any, timeout: float | None) -> bool:
    """Let an emitter send what it has queued, without waiting for it."""
    del timeout
    if _is_durable(emitter):
        return bool(emitter.flush(0.0))
    send = getattr(emitter, "flush", None)
    return send is None or send() is not False


def close(emitter: Any, timeout: float | None) -> bool:
    """Close an emitter, and return whether nothing is left. One that cannot be closed is flushed."""
    end = getattr(emitter, "close", None)
    if end is None:
        return flush(emitter, timeout)
    return (end(timeout) if _is_durable(emitter) else end()) is not False
