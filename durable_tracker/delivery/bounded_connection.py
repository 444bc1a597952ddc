"""One HTTP exchange with a total deadline: connections that know it, under the pools of urllib3.

A timeout of requests bounds one read of the socket ("the timeout is not a time limit on the entire response
download", says its documentation), so a peer that drips a byte now and then holds a thread for ever, and the
status line and the headers are read before `stream=True` returns control. Here every receive and send on the
socket gets what is left of the exchange's time, through TLS and proxies alike, without a watchdog thread.

The time counts from the last progress of the request's body, which a slow link may take minutes to carry, though not
for ever, and is the limit for the whole answer.

Not covered: resolving the host's name, which nothing in a process can interrupt, and a host with several
addresses, each of which is given the connect timeout.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import socket
import ssl
import struct
import sys
import termios
import time
from contextvars import ContextVar
from http import HTTPStatus
from http.client import BadStatusLine, HTTPResponse, IncompleteRead
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

PROGRESS_MAX = 20
"""How many times the deadline a body may take that makes progress."""

_LOOK_S = 1.0
"""How often it is looked whether the body still goes out, while an answer is waited for."""

TLS_PIECE = 16_384
"""Bytes sent at once over TLS, one record: `SSLSocket.sendall` starts its timeout anew for every record."""


class ReplyTooLargeError(OSError):
    """The peer sent more than an answer may have."""


class Exchange:
    """What one request may still spend, and what is known about its connection. Used by one thread at a time.

    `abort` alone may be called from another thread.

    Attributes:
        meanwhile: called once, when the request is out and before its answer is read.
        connected: whether a connection was made for it.
        query: appended to the request's target below the pool, which logs the target at DEBUG: the GET form
            carries the event there.
        reused: whether the request went out on a connection that had carried another one before.
        received: bytes received so far.
        is_unsent: whether, when last looked at, a part of the request was still here.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        read_timeout_s: float,
        reply_size_max: int,
        query: str = "",
        meanwhile: Callable[[], object] | None = None,
    ) -> None:
        self.query = query
        self.meanwhile = meanwhile
        self.connected = False
        self.reused = False
        self.received = 0
        self.is_unsent = False
        self._left_here = 0
        self._deadline_s = deadline_s
        self._deadline = time.monotonic() + deadline_s
        self._last_deadline = self._deadline + (PROGRESS_MAX - 1) * deadline_s
        self._read_timeout_s = read_timeout_s
        self._reply_size_max = reply_size_max
        self._socket: Any = None
        self._aborted = False

    def arm(self, sock: Any) -> None:
        """Give the next operation on `sock` what is left of the time.

        Raises:
            TimeoutError: nothing is left.
        """
        self._socket = sock
        left = self._deadline - time.monotonic()
        if left <= 0 or self._aborted:
            raise TimeoutError("deadline")
        sock.settimeout(min(left, self._read_timeout_s))

    def count(self, size: int) -> None:
        """Book received bytes.

        Raises:
            ReplyTooLargeError: there were more than an answer may have.
        """
        self.received += size
        if self.received > self._reply_size_max:
            raise ReplyTooLargeError("reply too large")

    def extend(self, seconds: float) -> None:
        """Move the deadline: the time was not the peer's."""
        self._deadline += seconds

    def send(self, sock: Any, data: Any) -> None:
        """Send a part of the request; the deadline counts anew from each piece that leaves.

        Raises:
            TimeoutError: nothing left for too long.
        """
        self.is_unsent = True
        view = memoryview(data)
        while view:
            self.arm(sock)
            try:
                if isinstance(sock, ssl.SSLSocket):
                    piece = view[:TLS_PIECE]
                    sock.sendall(piece)  # one record: all of it, or none
                    view = view[len(piece) :]
                else:
                    view = view[sock.send(view) :]
            except TimeoutError:
                if not self._has_progressed(sock):  # in what was taken before
                    raise
            else:
                self._left_here = _unsent(sock)
                self._progressed()
        self.is_unsent = False

    def receive(self, sock: Any, buffer: WriteableBuffer) -> int:
        """Receive a part of the answer, waiting for as long as the request still goes out.

        Raises:
            TimeoutError: nothing came for too long, or all of it took too long.
            ReplyTooLargeError: there was more than an answer may have.
        """
        last = time.monotonic()
        while True:
            self.arm(sock)
            left_s = min(self._deadline, last + self._read_timeout_s) - time.monotonic()
            sock.settimeout(max(left_s if self.received else min(left_s, _LOOK_S, self._deadline_s / 4), 0.001))
            try:
                size: int = sock.recv_into(buffer)
            except TimeoutError:
                if self._has_progressed(sock):
                    last = time.monotonic()
                elif time.monotonic() >= last + self._read_timeout_s:
                    raise
            else:
                self.count(size)
                return size

    def _has_progressed(self, sock: Any) -> bool:
        """Look how much of the request has not arrived at the peer. Return whether it has become less."""
        before, self._left_here = self._left_here, _unsent(sock) if not self.received else 0
        self.is_unsent = self._left_here > 0
        if self._left_here >= before:
            return False
        self._progressed()
        return True

    def _progressed(self) -> None:
        self._deadline = max(self._deadline, min(time.monotonic() + self._deadline_s, self._last_deadline))

    def left_s(self) -> float:
        """Return the seconds until the deadline, at least a moment, so that it can be a timeout."""
        return max(self._deadline - time.monotonic(), 0.001)

    def abort(self) -> None:
        """End the exchange now: whoever reads from its socket sees the end of the stream."""
        self._aborted = True
        sock = self._socket
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: it forgets the TLS state first, and the reader would see ciphertext.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _unsent(sock: Any) -> int:
    """Return the bytes that were sent and that the peer has not acknowledged; 0 where that cannot be told."""
    if sys.platform != "linux":
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


# A context variable belongs to one thread, and under gevent to one greenlet, whenever it was created.
current: ContextVar[Exchange] = ContextVar("current")


class _Stream(io.RawIOBase):
    """The receiving side of a socket, bounded in time and bytes by the exchange that is going on."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._file: io.RawIOBase = sock.makefile("rb", buffering=0)  # keeps the socket open, and is not read from
        self._exchange = current.get()
        self.received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        size = self._exchange.receive(self._sock, buffer)
        self.received += size
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Answer(io.BufferedReader):
    """What one answer is read from.

    A line that the peer never ended is no line: http.client would take the end of the stream for the end of the
    headers, and an answer that was cut short for a whole one. What is left over when the answer was read to its end
    belongs to no request, so the connection is shut down, and found dead before anything else is sent over it.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._stream = _Stream(sock)
        self._taken = 0
        super().__init__(self._stream)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(-1 if size is None else size)
        is_cut = not line.endswith(b"\n") and len(line) != size
        if is_cut and (line or self._taken):  # without a single byte: the peer closed an idle connection
            raise IncompleteRead(line)
        self._taken += len(line)
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        return self._counted(super().read(size))

    def read1(self, size: int = -1, /) -> bytes:
        return self._counted(super().read1(size))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        size = super().readinto(buffer)
        self._taken += size
        return size

    def close(self) -> None:
        if not self.closed and self._has_more():
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        super().close()

    def _counted(self, data: bytes) -> bytes:
        self._taken += len(data)
        return data

    def _has_more(self) -> bool:
        if self._stream.received > self._taken:
            return True
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0


class _AnswerMaker:
    """Stands in for the socket where http.client asks it for a file."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def makefile(self, _mode: str) -> _Answer:
        return _Answer(self._sock)


class _BoundedResponse(HTTPResponse):
    """http.client's response, read from an `_Answer`; also used for a proxy's answer to CONNECT."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(_AnswerMaker(sock), *args, **kwargs)  # type: ignore[arg-type]

    def _read_status(self) -> tuple[str, int, str]:
        """Have every interim answer skipped, as http.client skips a 100: RFC 9110, section 15.2."""
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise BadStatusLine("101, which nobody asked for")  # what follows is no HTTP
        return version, HTTPStatus.CONTINUE if HTTPStatus.CONTINUE <= status < HTTPStatus.OK else status, reason


class _Bounded:
    """What plain and TLS connections have in common; goes before urllib3's class."""

    response_class: type[Any] = _BoundedResponse
    sock: Any

    def connect(self) -> None:
        exchange = current.get()
        exchange.connected, exchange.reused = True, False
        super().connect()  # type: ignore[misc]

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        exchange = current.get()
        exchange.reused = not exchange.connected
        super().putrequest(method, url + exchange.query, *args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if isinstance(data, bytes):  # as head and body are
            current.get().send(self.sock, data)
        else:
            current.get().arm(self.sock)
            super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        exchange = current.get()
        meanwhile, exchange.meanwhile = exchange.meanwhile, None
        if meanwhile is not None:
            started_at = time.monotonic()
            meanwhile()
            exchange.extend(time.monotonic() - started_at)
        return super().getresponse()  # type: ignore[misc]


class _BoundedHTTPConnection(_Bounded, HTTPConnection):
    pass


class _BoundedHTTPSConnection(_Bounded, HTTPSConnection):
    pass


class BoundedHTTPPool(HTTPConnectionPool):
    """A pool of plain connections that keep to the current exchange's bounds."""

    ConnectionCls = _BoundedHTTPConnection


class BoundedHTTPSPool(HTTPSConnectionPool):
    """A pool of TLS connections that keep to the current exchange's bounds."""

    ConnectionCls = _BoundedHTTPSConnection


POOL_CLASSES = {"http": BoundedHTTPPool, "https": BoundedHTTPSPool}
