"""One HTTP exchange with a total deadline: connections that know it, under the pools of urllib3.

A timeout of requests bounds one read of the socket ("the timeout is not a time limit on the entire response
download", says its documentation), so a peer that drips a byte now and then holds a thread for ever, and the
status line and the headers are read before `stream=True` returns control. Here every receive and send on the
socket gets what is left of the exchange's time, so the bound holds from the first byte sent to the last byte
read, through TLS and proxies alike, without a watchdog thread.

Not covered: resolving the host's name, which nothing in a process can interrupt, and a host with several
addresses, each of which is given the connect timeout.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
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

TLS_PIECE = 16_384
"""Bytes sent at once over TLS, one record: `SSLSocket.sendall` starts its timeout anew for every record."""


class ReplyTooLargeError(OSError):
    """The peer sent more than an answer may have."""


class Exchange:
    """What one request may still spend, and what is known about its connection. Used by one thread at a time.

    `abort` alone may be called from another thread.

    Attributes:
        meanwhile: called once, when the request is out and before its answer is read.
        query: appended to the request's target below the pool, which logs the target at DEBUG: the GET form
            carries the event there.
        reused: whether the request went out on a connection that had carried another one before.
        received: bytes received so far.
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
        self.reused = True
        self.received = 0
        self._deadline = time.monotonic() + deadline_s
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


# A context variable belongs to one thread, and under gevent to one greenlet, whenever it was created.
current: ContextVar[Exchange] = ContextVar("current")


class _Stream(io.RawIOBase):
    """The receiving side of a socket, bounded in time and bytes by the exchange that is going on."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._file: io.RawIOBase = sock.makefile("rb", buffering=0)
        self._exchange = current.get()
        self.received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._exchange.arm(self._sock)
        size = self._file.readinto(buffer)
        self.received += size or 0
        self._exchange.count(size or 0)
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
        current.get().reused = False
        super().connect()  # type: ignore[misc]

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, url + current.get().query, *args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        exchange = current.get()
        if isinstance(self.sock, ssl.SSLSocket) and isinstance(data, bytes):
            pieces = [data[at : at + TLS_PIECE] for at in range(0, len(data), TLS_PIECE)]
        else:
            pieces = [data]  # sendall on a plain socket has one timeout for all of it
        for piece in pieces:
            exchange.arm(self.sock)
            super().send(piece)  # type: ignore[misc]

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
