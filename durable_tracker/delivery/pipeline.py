"""Requests in flight, in threads of their own, so that the policy loop can use the time that they take.

The policy loop submits and collects; it is the only user and has one thread. Replies come in any order.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from durable_tracker.delivery.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable_tracker.delivery.transport import Transport


class Parcel(Protocol):
    """What can be sent: it can be asked for its events, with the time of sending in them, when it is its turn."""

    def events(self) -> Sequence[bytes]:
        """Return the events as they go out now."""


P = TypeVar("P", bound=Parcel)


class Pipeline(Generic[P]):
    """Sends parcels through a transport, at most `senders` at a time.

    Args:
        transport: carries the parcels.
        senders: how many requests are in flight at most. Daemon threads are made when they are first needed; if one
            cannot be made (the interpreter is shutting down, or the process has too many), sending falls back to the
            caller's thread.
    """

    def __init__(self, transport: Transport, senders: int) -> None:
        self._transport = transport
        self._senders = senders
        self._threads = 0
        self._waiting: queue.SimpleQueue[P | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[P, Reply | BaseException]] = queue.SimpleQueue()
        self.in_flight = 0

    def submit(self, parcel: P, *, alone: bool) -> None:
        """Send a parcel, now or as soon as a sender is free.

        Args:
            parcel: what to send.
            alone: whether the caller has nothing to do meanwhile; then it may as well send the parcel itself.
        """
        needs_thread = self.in_flight or not alone
        if needs_thread and self._threads < min(self._senders, self.in_flight + 1):
            self._start_sender()
        if needs_thread and self._threads:
            self._waiting.put(parcel)
        else:
            self._done.put((parcel, self._send(parcel)))
        self.in_flight += 1  # last: what interrupted the sending above has nothing in flight

    def collect(self) -> tuple[P, Reply]:
        """Wait for a reply to any of the parcels in flight. There has to be one.

        What interrupted a sending (`KeyboardInterrupt`, `SystemExit`) is raised here.
        """
        parcel, reply = self._done.get()
        self.in_flight -= 1
        if isinstance(reply, BaseException):
            raise reply
        return parcel, reply

    def close(self) -> None:
        """Let the threads end once they have sent what they have. May be called twice."""
        for _ in range(self._threads):
            self._waiting.put(None)
        self._threads = 0

    def _start_sender(self) -> None:
        thread = threading.Thread(target=self._run, name=f"durable-tracker-sender-{self._threads}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._threads += 1

    def _run(self) -> None:
        while (parcel := self._waiting.get()) is not None:
            reply: Reply | BaseException
            try:
                reply = self._send(parcel)
            except BaseException as exc:  # noqa: BLE001 - `collect` raises it, where it ends the run
                reply = exc
            self._done.put((parcel, reply))

    def _send(self, parcel: P) -> Reply:
        try:
            return self._transport.send(parcel.events())
        except Exception as exc:  # noqa: BLE001 - a transport of the user's own may do anything; its text too
            return Reply(status=None, error=f"the transport raised {type(exc).__name__}")
