"""A way to send that a subclass of the emitter brings: the official `http_post`, `http_get`, `send_events`, overridden.

The transport calls the method as the official emitter does, and takes what it returns for the collector's answer.
"""

from __future__ import annotations

import json
import threading
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from durable_tracker.delivery.transport import PAYLOAD_DATA_HEAD, PAYLOAD_DATA_TAIL, Reply
from durable_tracker.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable_tracker.delivery.transport import Transport

_STATUS_MIN, _STATUS_MAX = 100, 599


class _Call:
    """One call of the method, and what it handed on to the base class.

    Attributes:
        reply: the answer to the latest request that went through `plain`.
        handed_on: events that the method gave to the base class's `send_events`.
        worst: the answer to these; the first that is not good, if there are several.
    """

    def __init__(self, transport: OverriddenTransport, owner: object, plain: Transport) -> None:
        self.transport = transport
        self.owner = owner
        self.plain = plain
        self.reply: Reply | None = None
        self.handed_on = 0
        self.worst: Reply | None = None


_call: ContextVar[_Call | None] = ContextVar("_call", default=None)


class OverriddenTransport:
    """Sends through a method that takes what the official emitter's takes. Keeps the contract of `Transport`.

    The method is called by one thread at a time, which waits for it: how long one request may take is the method's own
    business. Nobody who flushes, closes or exits with a deadline waits longer than that.

    Its answer:

    - True, or an int from 200 to 299: delivered. A bool is looked at before an int.
    - another int from 100 to 599: an HTTP status, which means what it means from a collector.
    - an object with such an int as its `status_code`, which older official emitters took: that status.
    - None from `send_events`, which the official one returns: the answer that the base class got, if the method handed
      all events on to it.
    - anything else, such as False, -1 and None, and an exception: no answer. The events are sent again. Such an answer
      accuses no event, and none is ever dead-lettered for it: an event that is at fault holds the queue until an
      operator decides. This is logged once.

    Args:
        owner: the emitter whose method it is.
        name: the method's: "http_post", "http_get" or "send_events".
        send: the method. It is called with the body of a request as text, with an event as a dict, or with a list of
            such dicts.
        plain: sends what the method hands on to the base class by `super()`. Closed with this one.
    """

    def __init__(self, owner: object, name: str, send: Callable[[Any], object], plain: Transport) -> None:
        self._owner = owner
        self._name = name
        self._override = send
        self._plain = plain
        self._one_at_a_time = threading.Lock()
        self._has_said = False

    def send(self, events: Sequence[bytes]) -> Reply:
        """Send events; see `Transport.send`."""
        argument: Any
        if self._name == "send_events":
            argument = [json.loads(event) for event in events]
        elif self._name == "http_get":
            argument = json.loads(events[0])
        else:
            argument = (PAYLOAD_DATA_HEAD + b",".join(events) + PAYLOAD_DATA_TAIL).decode()
        call = _Call(self, self._owner, self._plain)
        with self._one_at_a_time:
            token = _call.set(call)
            try:
                answer = self._override(argument)
            except Exception as exc:  # noqa: BLE001 - the user's code; its text may hold a payload
                return self._no_answer(call, f"raised {type(exc).__name__}")
            finally:
                _call.reset(token)
        if answer is None and call.worst is not None and call.handed_on >= len(events):
            return call.worst
        return self.reply_to(call, answer)

    def close(self) -> None:
        """See `Transport.close`. A call that is under way is not broken off; what it handed on is."""
        self._plain.close()

    def forget(self) -> None:
        """Give idle connections up, where that is possible."""
        forget = getattr(self._plain, "forget", None)
        if forget is not None:
            forget()

    def reply_to(self, call: _Call, answer: object) -> Reply:
        """Return what a method's answer means."""
        if answer is True:
            return Reply(status=HTTPStatus.OK.value)
        if answer is False or answer is None:
            return self._no_answer(call, f"returned {answer}")
        status_code = answer if isinstance(answer, int) else getattr(answer, "status_code", None)
        if not isinstance(status_code, int) or isinstance(status_code, bool):
            return self._no_answer(call, f"returned a {type(answer).__name__}, which is no status")
        status = int(status_code)
        if not _STATUS_MIN <= status <= _STATUS_MAX:
            return self._no_answer(call, f"returned {status}")
        if call.reply is not None and call.reply.status == status:
            return call.reply  # with its Retry-After
        reply = Reply(status=status)
        return reply if is_good(reply) else Reply(status=status, error=f"HTTP {status}")

    def _no_answer(self, call: _Call, what: str) -> Reply:
        if call.reply is not None and call.reply.status is None:
            return call.reply  # the network's failure, passed on
        if not self._has_said:
            self._has_said = True
            fate = "sent again until the answer is True or a status; no event is dead-lettered for it"
            extra = {"method": self._name, "reason": what, "fate": fate}
            logger.warning("delivery.override_gave_no_status", extra=extra)
        return Reply(status=None, error=f"{self._name} {what}")


def is_good(reply: Reply) -> bool:
    """Return whether an answer says that the events were taken."""
    return reply.status is not None and HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES


def note_handed_on(owner: object, count: int, answer: object) -> None:
    """Note what came of events that an override of `send_events` handed on to the base class.

    Args:
        owner: the emitter that sent them. Outside a call of its own override there is nothing to note.
        count: how many events.
        answer: what `http_post` or `http_get` returned.
    """
    call = _call.get()
    if call is None or call.owner is not owner:
        return
    reply = call.transport.reply_to(call, answer)
    call.handed_on += count
    if call.worst is None or is_good(call.worst):
        call.worst = reply


def send_plainly(owner: object, make: Callable[[], Transport], send: Callable[[Any], Reply]) -> int:
    """Send without the override, and return the status, -1 if there was no answer.

    Args:
        owner: the emitter that is asked to. Within a call of its own override, the call's transport is used.
        make: makes a transport, which is closed afterwards.
        send: called with the transport.
    """
    call = _call.get()
    if call is not None and call.owner is owner:
        reply = call.reply = send(call.plain)
    else:
        plain = make()
        try:
            reply = send(plain)
        finally:
            plain.close()
    return -1 if reply.status is None else reply.status
